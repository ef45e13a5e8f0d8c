//! varve's segment format, codecs and checksums; with the feature `store` object stores, with the feature `seal` what
//! compresses and encrypts on the way there, with the feature `backup` base backups, WAL and snapshots of tables in them. Knows
//! nothing of PostgreSQL.
//!
//! A *segment* is up to [`MAX_ROWS`] rows cut into columns. Each column is a byte string of pages that decode alone
//! ([`paged`]); a [`SegmentHeader`] ties them together. `docs/format.md` has the layouts.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]
#![warn(missing_docs)]

#[cfg(feature = "backup")]
pub mod backup;
pub mod bitmap;
pub mod change;
pub mod column;
pub mod error;
pub mod header;
pub mod paged;
#[cfg(feature = "parquet")]
pub mod parquet;
#[cfg(feature = "backup")]
pub mod replication;
#[cfg(feature = "seal")]
pub mod seal;
#[cfg(feature = "store")]
pub mod store;
#[cfg(any(feature = "seal", feature = "store"))]
pub mod wait;
mod wire;

pub use bitmap::Bitmap;
pub use column::{Column, Kind, MAX_DECODED_BYTES, Values};
pub use error::CoreError;
pub use header::{
    ColumnEntry, MAX_ROWS, SegmentHeader, SegmentSum, SortKey, combine_sha256, segment_sha256,
};
