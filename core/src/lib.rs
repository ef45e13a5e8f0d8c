//! varve's segment format, codecs and checksums. Knows nothing of PostgreSQL.
//!
//! A *segment* is up to [`MAX_ROWS`] rows cut into columns. Each column is one self-describing
//! byte string ([`encode_column`], [`decode_column`]); a [`SegmentHeader`] ties them together.
//! The byte layouts are specified in [`segment`].

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]
#![warn(missing_docs)]

pub mod bitmap;
pub mod codec;
pub mod column;
pub mod error;
pub mod header;
pub mod paged;
pub mod segment;
mod wire;

pub use bitmap::Bitmap;
pub use codec::{
    ColumnInfo, MAX_DECODED_BYTES, codec_name, decode_column, describe, encode_column,
    encode_constant, try_encode_constant,
};
pub use column::{Column, Kind, Values};
pub use error::CoreError;
pub use segment::{ColumnEntry, MAX_ROWS, SegmentHeader, combine_sha256, segment_sha256};
