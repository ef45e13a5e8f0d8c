//! zstd over bytes, decoded into a length known beforehand.

use crate::error::CoreError;

/// The most that a zstd block of at least four stored bytes can expand to.
const BLOCK_MAX: u64 = 128 * 1024;

/// Compresses piece after piece at one level.
pub(crate) struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    pub(crate) fn new(level: i32) -> Result<Self, CoreError> {
        zstd::bulk::Compressor::new(level)
            .map(Self)
            .map_err(|error| CoreError::invalid(format!("zstd: {error}")))
    }

    pub(crate) fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>, CoreError> {
        self.0
            .compress(bytes)
            .map_err(|error| CoreError::invalid(format!("zstd could not compress: {error}")))
    }
}

/// Decompresses piece after piece.
#[derive(Default)]
pub(crate) struct Decompressor(Option<zstd::bulk::Decompressor<'static>>);

impl Decompressor {
    /// Decompresses into exactly `len` bytes. No more than that is allocated, and nothing at all
    /// when so few stored bytes cannot hold that much.
    pub(crate) fn decompress(
        &mut self,
        stored: &[u8],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CoreError> {
        let corrupt = |error| CoreError::corrupt(format!("zstd: {error}"));
        if len as u64 > (stored.len() as u64 / 4 + 1) * BLOCK_MAX {
            return Err(CoreError::corrupt(format!(
                "{} bytes of zstd cannot hold {len}",
                stored.len()
            )));
        }
        let context = match &mut self.0 {
            Some(context) => context,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(corrupt)?),
        };
        out.clear();
        out.reserve(len);
        context.decompress_to_buffer(stored, out).map_err(corrupt)?;
        if out.len() != len {
            return Err(CoreError::corrupt(format!(
                "zstd gave {} bytes instead of {len}",
                out.len()
            )));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}
