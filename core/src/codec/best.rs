//! An encoded payload, the choice of the smallest, and its form inside another payload.

use super::id::Codec;
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

/// A payload and how to read it.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) codec: Codec,
    pub(crate) payload: Vec<u8>,
}

impl Encoded {
    pub(crate) fn new(codec: Codec, payload: Vec<u8>) -> Self {
        Self { codec, payload }
    }

    /// Takes the candidate's place if the candidate is smaller.
    pub(crate) fn offer(&mut self, codec: Codec, payload: Vec<u8>) {
        if payload.len() < self.payload.len() {
            *self = Self { codec, payload };
        }
    }
}

/// Appends codec, length and payload.
pub(crate) fn write_block(out: &mut Vec<u8>, block: &Encoded) -> Result<(), CoreError> {
    out.push(block.codec as u8);
    out.extend_from_slice(&len_u32(block.payload.len())?.to_le_bytes());
    out.extend_from_slice(&block.payload);
    Ok(())
}

/// Reads what [`write_block`] wrote.
pub(crate) fn read_block<'a>(reader: &mut Reader<'a>) -> Result<(Codec, &'a [u8]), CoreError> {
    let codec = Codec::from_id(reader.u8()?)?;
    Ok((codec, reader.sized()?))
}
