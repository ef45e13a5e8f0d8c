//! Encoding of one column: candidates are tried and the smallest is kept.

mod best;
mod bytes;
mod decimal;
mod fixed;
mod frame;
mod general;
mod id;
mod number;
mod pcodec;
mod runs;

pub use frame::{
    ColumnInfo, MAX_DECODED_BYTES, decode_column, describe, encode_column, encode_constant,
    try_encode_constant,
};
pub use id::codec_name;

pub(crate) use best::{Encoded, read_block, write_block};
pub(crate) use number::{decode as decode_numbers, encode as encode_numbers};
