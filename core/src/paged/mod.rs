//! The paged column format: one column of a segment, in pages that decode alone.
//!
//! [`encode`] makes a byte string of a [`Column`](crate::Column): an *index*, which
//! [`ColumnIndex::parse`] reads, and the *pages* of [`PAGE_ROWS`] rows each (the last one of the
//! rest), which [`ColumnIndex::decode`] reads one at a time. The index is small and is kept in
//! memory; it tells count, NULLs, bounds and sum of every page, and holds what the pages share.
//!
//! # Layout, version 2
//!
//! All numbers are little-endian. A *varint* is seven bits a byte, lowest first, with bit 7 set in
//! all bytes but the last; a *zigzag* is a varint of `(n << 1) ^ (n >> 63)`. Every length is checked
//! before anything is allocated for it.
//!
//! ## Index
//!
//! | field | bytes | |
//! |---|---|---|
//! | magic | 2 | `vC` |
//! | version | 1 | 2 |
//! | flags | 1 | 1 zstd, 2 NULLs, 4 pco, 8 dictionary, 16 decimal zones |
//! | length | varint | only with flag 1: bytes of the body, at most 32 MiB |
//! | body | rest | as it is, or with flag 1 one zstd frame |
//! | sum | 8 | xxh3-64 (seed 0) of every byte before it |
//!
//! The body:
//!
//! | field | bytes | |
//! |---|---|---|
//! | kind | 1 | 0 I8, 1 I16, 2 I32, 3 I64, 4 F32, 5 F64, 6 Fixed, 7 Bytes |
//! | width | varint | bytes a value of kind Fixed (1 to 32,767), else 0 |
//! | codec | 1 | for information: 0 raw, 1 constant, 2 runs, 3 pco, 4 zstd, 5 dictionary, 6 decimal, 7 frame, 8 delta |
//! | rows | varint | at most 65,536; rows times width at most 1 GiB |
//! | mapping | n | how numbers stand for values, see below |
//! | pco | varint + n | only with flag 4: length, then header and chunk metadata of a wrapped pco file of i64 |
//! | NULLs | varint each | only with flag 2: of each page |
//! | lengths | varint each | bytes of each page |
//! | sums | 4 each | of each page that has bytes: the lower half of their xxh3-64 (seed 0) |
//! | zones | n | of each page with a value other than NULL, see below |
//!
//! The mapping is
//! - of integers: unit (zigzag, at least 1), base (zigzag, from 0 to below the unit). A value is
//!   `base + unit * number`;
//! - of floats: scale (1; 0 to 14, or 255 for none), unit and base as above. With a scale, a decimal
//!   is `(base + unit * number) / 10^scale`, divided as doubles (and rounded to single precision for
//!   F32). Without one, `base + unit * number` are ordered bits (see below);
//! - of Bytes and Fixed with flag 8, a *dictionary* of the distinct values in the order of `memcmp`:
//!   count (varint), bytes of all together (varint, at most 4 MiB); how many bytes each shares with
//!   the one before (varint each); how many follow (varint each); those that follow. A number is the
//!   place of a value, from 0;
//! - of Bytes and Fixed without: nothing, pages hold bytes instead of numbers.
//!
//! A zone is
//! - of integers: min less the min of the zone before (or 0; zigzag), max less min (varint), sum less
//!   min times count of values (varint); all of the *numbers*, so in counts of the unit;
//! - of floats: min (8), max (8), sum (8), all doubles; but with flag 16 as of integers: then all
//!   values are decimals, and min, max and sum those of the numbers;
//! - of dictionary codes: min (varint), max less min (varint);
//! - of other Bytes and Fixed: flags (1; 1 min is exact, 2 max is exact), length (1, at most 32) and
//!   bytes of min, then of max.
//!
//! ## Page
//!
//! A page whose rows are all NULL has no bytes. Where some are:
//!
//! | field | bytes | |
//! |---|---|---|
//! | validity | varint + n | length, bitmap of the page's rows (forms: see [`crate::bitmap`]) |
//!
//! Then follow the values that are not NULL. Of numbers, nothing follows when all are equal to the
//! min of the page's zone. Otherwise
//! - integers and codes: a page of numbers;
//! - floats: form (1: 0 bits, 1 decimals, 2 decimals with exceptions); with form 2 the count of
//!   exceptions (varint), their positions (2 each) among the values, and the floats there (8 each, 4
//!   of F32); a page of numbers. *Ordered bits* are those of the float (of F32: as a signed number
//!   of 32 bits), all but the sign inverted where that is set; only where the column has a scale
//!   does form 0 mean them without the unit;
//! - Bytes: a page of numbers (without pco), the length of each value; method (1: 0 raw, 1 zstd); the
//!   values one after the other, or their zstd frame. Fixed: the same without lengths.
//!
//! A page of numbers is with flag 4 a pco page. Otherwise a tag (1) and, by its low four bits,
//! - 0 *frame*: width (1, below 64), reference (zigzag), patches, block. A number is the reference
//!   plus the packed one;
//! - 1 *delta*: width (1), first number (zigzag), reference (zigzag), patches, block. A number is
//!   the one before, plus the reference, plus the packed one; what is packed for the first is not
//!   looked at;
//! - 2 *runs*: count of runs (varint), width of the values (1), width of the lengths (1), reference
//!   (zigzag), stream of the values less the reference, stream of the lengths less one;
//! - 3 *raw*: 8 bytes a number.
//!
//! All additions wrap around at 64 bits. Patches are there when bit 4 of the tag is set: count
//! (varint), bytes of each (1; from 1 to 8), positions (2 each), and for each a signed number that,
//! shifted left by the width, is to be added to the number (or step) there. A *stream* of numbers of
//! `width` bits is one after the other from the lowest bit of the first byte, the last byte padded
//! with zeros. A *block* is a stream, but of exactly 1,024 numbers `16 * width` words of 8 bytes in
//! the FastLanes order: bit `b` of number `i` is bit `(row * width + b) % 64` of word
//! `16 * ((row * width + b) / 64) + i % 16`, where `row = 8 * o[i / 16 % 8] + i / 128` and
//! `o = [0, 4, 2, 6, 1, 5, 3, 7]`.
//!
//! What a page or an index has left over at its end is corruption.

mod bits;
mod codec;
mod decode;
mod dictionary;
mod encode;
mod floats;
mod general;
mod index;
mod ints;
mod kernels;
mod layout;
mod numbers;
mod packed;
mod page;
mod plan;
mod simd;
mod texts;
mod unit;
mod varint;
mod whole;
mod zone;
mod zones;

pub use codec::codec_name;
pub use dictionary::Dictionary;
pub use encode::{EncodedColumn, encode};
pub use index::ColumnIndex;
pub use page::{Page, PageValues};
pub use whole::decode_all;
pub use zone::{BOUND_BYTES, Bounds, Sum, Zone};

/// Rows of every page but the last of a column.
pub const PAGE_ROWS: usize = 1024;

/// Longest value of a column of fixed length: PostgreSQL's limit for a type's fixed length.
const MAX_FIXED_LEN: usize = 32_767;

/// What encoding aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effort {
    /// To be decoded fast.
    Fast,
    /// To be small.
    Small,
}
