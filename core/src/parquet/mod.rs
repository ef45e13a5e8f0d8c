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

/// At the beginning and the end of each file.
const MAGIC: &[u8; 4] = b"PAR1";

/// Number of zstd among the codecs.
const ZSTD: i64 = 6;

/// Number of the plain encoding, and of that of levels.
const PLAIN: i64 = 0;
const RLE: i64 = 3;
