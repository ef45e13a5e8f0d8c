//! zstd over bytes, decoded into a length known beforehand.

use crate::error::CoreError;

/// For text, where zstd does all the work; reading is as fast at any level.
pub(crate) const TEXT_LEVEL: i32 = 6;
/// For numbers, where zstd seldom beats pco and need not take longer than it.
pub(crate) const NUMBER_LEVEL: i32 = 3;

/// The most that a zstd block of at least four stored bytes can expand to.
const BLOCK_MAX: u64 = 128 * 1024;

pub(crate) fn compress(bytes: &[u8], level: i32) -> Result<Vec<u8>, CoreError> {
    zstd::bulk::compress(bytes, level)
        .map_err(|error| CoreError::invalid(format!("zstd could not compress: {error}")))
}

/// Decompresses into exactly `len` bytes. No more than that is allocated, and nothing at all when
/// so few stored bytes cannot hold that much.
pub(crate) fn decompress(stored: &[u8], len: usize) -> Result<Vec<u8>, CoreError> {
    if len as u64 > (stored.len() as u64 / 4 + 1) * BLOCK_MAX {
        return Err(CoreError::corrupt(format!(
            "{} bytes of zstd cannot hold {len}",
            stored.len()
        )));
    }
    let bytes = zstd::bulk::decompress(stored, len)
        .map_err(|error| CoreError::corrupt(format!("zstd: {error}")))?;
    if bytes.len() != len {
        return Err(CoreError::corrupt(format!(
            "zstd gave {} bytes instead of {len}",
            bytes.len()
        )));
    }
    Ok(bytes)
}
