//! The paged column format: one column of a segment, in pages that decode alone.
//!
//! [`encode`] makes a byte string of a [`Column`](crate::Column): an *index*, which
//! [`ColumnIndex::parse`] reads, and the *pages* of [`PAGE_ROWS`] rows each (the last one of the
//! rest), which [`ColumnIndex::decode`] reads one at a time. The index is small and is kept in
//! memory; it tells count, NULLs, bounds and sum of every page, and holds what the pages share. Behind
//! the pages there may be *filters*, which tell by [`ColumnIndex::filter_mask`] what pages may hold a
//! value.
//!
//! `docs/format.md` has the layout byte for byte.

mod bits;
mod codec;
mod decode;
mod dictionary;
mod encode;
mod filter;
mod floats;
mod general;
mod index;
mod ints;
mod kernels;
mod layout;
mod numbers;
mod packed;
mod page;
mod pick;
mod plan;
mod select;
mod simd;
mod texts;
mod unit;
mod varint;
mod whole;
mod zone;
mod zones;

pub use codec::codec_name;
pub use dictionary::Dictionary;
pub use encode::{EncodedColumn, encode, encode_pausing};
pub use filter::ValueHash;
pub use index::ColumnIndex;
pub use page::{Page, PageValues};
pub use pick::MOST_PICKED;
pub use select::{RowBits, codes_below, floats_below, floats_up_to, ints_below};
pub use whole::decode_all;
pub use zone::{BOUND_BYTES, Bounds, Sum, Zone, is_negative_zero};

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

/// How a column is to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// What encoding aims at.
    pub effort: Effort,
    /// Whether the column gets filters, where they are of use.
    pub filters: bool,
}

impl From<Effort> for Options {
    /// Without filters.
    fn from(effort: Effort) -> Self {
        Self {
            effort,
            filters: false,
        }
    }
}
