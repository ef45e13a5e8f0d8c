//! Apache Parquet files (parquet.apache.org/docs/file-format), as much of them as snapshots of tables need.
//!
//! Columns are nullable values or lists of such; values lie plain in pages of version 1, compressed by zstd. Any reader of
//! Parquet takes what [`Writer`] writes; [`Reader`] takes what [`Writer`] has written, and treats its bytes as hostile.
//! (The crate `parquet` brings a build dependency whose licence is not among ours.)
//!
//! - [`schema`]: what a column is.
//! - [`thrift`]: the compact protocol of Apache Thrift, in which the descriptions are kept.
//! - [`write`], [`read`]: rows out and in, column by column.

mod error;
mod read;
mod schema;
mod thrift;
mod write;

pub use error::ParquetError;
pub use read::Reader;
pub use schema::{Field, Logical, Physical};
pub use write::{ColumnWriter, Writer};

/// What a column has at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Entry<'v> {
    /// NULL: no value, or no list.
    Null,
    /// A list without elements.
    Empty,
    /// A list's element that is NULL.
    Absent,
    /// A value, or an element, as Parquet has it plain: numbers with their least significant byte first, a Boolean as one byte,
    /// texts without their length.
    Value(&'v [u8]),
}

/// Largest description of a file, in bytes.
const MAX_META_BYTES: u64 = 256 << 20;

/// Most numbers, texts, lists and structures in it. Each takes some forty bytes of memory.
const MAX_META_VALUES: usize = 4_000_000;

/// Largest page, in bytes: PostgreSQL's largest value, and what lies before it in its page.
const MAX_PAGE_BYTES: u64 = (1 << 30) + (16 << 20);

/// Most entries of a page: the elements of PostgreSQL's largest array, and rows before it.
const MAX_ENTRIES: usize = (1 << 27) + (1 << 20);

/// Most bytes of the pages of all columns that a reader has at a time, their levels among them.
const MAX_HELD_BYTES: u64 = 3 << 30;

/// Bytes of a page in memory: what it holds, and a byte for each level of its entries.
fn held(page: u64, entries: usize, list: bool) -> u64 {
    page.saturating_add(entries as u64 * (1 + u64::from(list)))
}

/// At the beginning and the end of each file.
const MAGIC: &[u8; 4] = b"PAR1";

/// Number of zstd among the codecs.
const ZSTD: i64 = 6;

/// Number of the plain encoding, and of that of levels.
const PLAIN: i64 = 0;
const RLE: i64 = 3;
