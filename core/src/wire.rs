//! Reading and writing little-endian fields, and the checksum that closes every byte string.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::CoreError;

/// Bytes that the closing checksum takes.
pub(crate) const CHECKSUM_LEN: usize = 8;

/// Appends the xxh3-64 of all bytes so far.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Verifies the closing checksum and returns the bytes before it.
pub(crate) fn unseal(bytes: &[u8]) -> Result<&[u8], CoreError> {
    let split = bytes
        .len()
        .checked_sub(CHECKSUM_LEN)
        .ok_or_else(|| CoreError::corrupt("too short to hold a checksum"))?;
    let (body, sum) = bytes.split_at(split);
    let found = xxh3_64(body);
    // A fuzzer does not find checksums; what it is after lies behind them.
    if sum != found.to_le_bytes() && !cfg!(fuzzing) {
        return Err(CoreError::corrupt(format!(
            "checksum does not match {} bytes (computed {found:016x})",
            body.len()
        )));
    }
    Ok(body)
}

/// A length as the four bytes that the format keeps for it.
pub(crate) fn len_u32(len: usize) -> Result<u32, CoreError> {
    u32::try_from(len).map_err(|_| CoreError::invalid(format!("{len} bytes or items are too many")))
}

/// A cursor that never reads past the end.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], CoreError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            CoreError::corrupt(format!("needs {len} bytes, has {}", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CoreError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| {
            CoreError::corrupt(format!("needs {N} bytes, has {}", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CoreError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CoreError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CoreError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CoreError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A `u32` length followed by that many bytes.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], CoreError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// All bytes that are left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading; left-over bytes are corruption.
    pub(crate) fn finish(self) -> Result<(), CoreError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CoreError::corrupt(format!(
                "{} unexpected bytes at the end",
                self.rest.len()
            )))
        }
    }
}
