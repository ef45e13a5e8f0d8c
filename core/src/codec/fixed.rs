//! Values of one fixed width: constant, run lengths, zstd, or raw.
//!
//! Runs payload: run count (u32), a block of the lengths (u32 each), codec byte and bytes of the
//! distinct values (zstd or raw).

use super::best::{Encoded, write_block};
use super::general;
use super::id::Codec;
use super::number::{self, MAX_DEPTH};
use super::runs::read_lengths;
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

/// The smallest payload for `data`, which is a whole number of values of `width` bytes.
pub(crate) fn encode(data: &[u8], width: usize) -> Result<Encoded, CoreError> {
    let mut values = data.chunks_exact(width);
    let Some(first) = values.next() else {
        return Ok(Encoded::new(Codec::Constant, Vec::new()));
    };
    if values.all(|value| value == first) {
        return Ok(Encoded::new(Codec::Constant, first.to_vec()));
    }
    let mut best = pack(data)?;
    let (lengths, distinct) = runs(data, width);
    if lengths.len() * 4 <= data.len() / width * 3 {
        let packed = pack(&distinct)?;
        let mut out = len_u32(lengths.len())?.to_le_bytes().to_vec();
        write_block(&mut out, &number::encode(&lengths, MAX_DEPTH)?)?;
        out.push(packed.codec as u8);
        out.extend_from_slice(&packed.payload);
        best.offer(Codec::Runs, out);
    }
    Ok(best)
}

/// Reads exactly `count` values; the caller has checked `count * width` against the limits.
pub(crate) fn decode(
    codec: Codec,
    payload: &[u8],
    count: usize,
    width: usize,
) -> Result<Vec<u8>, CoreError> {
    match codec {
        Codec::Constant if count == 0 => {
            Reader::new(payload).finish()?;
            Ok(Vec::new())
        }
        Codec::Constant if payload.len() == width => Ok(payload.repeat(count)),
        Codec::Runs => {
            let mut reader = Reader::new(payload);
            let (lengths, runs) = read_lengths(&mut reader, count)?;
            let inner = Codec::from_id(reader.u8()?)?;
            let distinct = unpack(inner, reader.rest(), runs * width)?;
            let mut data = Vec::with_capacity(count * width);
            for (value, length) in distinct.chunks_exact(width).zip(lengths) {
                for _ in 0..length {
                    data.extend_from_slice(value);
                }
            }
            Ok(data)
        }
        _ => unpack(codec, payload, count * width),
    }
}

/// zstd or raw, whichever is smaller.
pub(crate) fn pack(data: &[u8]) -> Result<Encoded, CoreError> {
    let zstd = general::compress(data, general::TEXT_LEVEL)?;
    if zstd.len() < data.len() {
        Ok(Encoded::new(Codec::Zstd, zstd))
    } else {
        Ok(Encoded::new(Codec::Raw, data.to_vec()))
    }
}

/// Reads exactly `len` bytes that [`pack`] wrote.
pub(crate) fn unpack(codec: Codec, stored: &[u8], len: usize) -> Result<Vec<u8>, CoreError> {
    match codec {
        Codec::Raw if stored.len() == len => Ok(stored.to_vec()),
        Codec::Zstd => general::decompress(stored, len),
        _ => Err(CoreError::corrupt(format!(
            "{} bytes by codec {} for {len} bytes",
            stored.len(),
            codec.name()
        ))),
    }
}

/// The lengths of runs of equal values, and the value of each run.
fn runs(data: &[u8], width: usize) -> (Vec<u32>, Vec<u8>) {
    let mut lengths: Vec<u32> = Vec::new();
    let mut distinct = Vec::new();
    let mut last: Option<&[u8]> = None;
    for value in data.chunks_exact(width) {
        match lengths.last_mut() {
            Some(length) if last == Some(value) => *length += 1,
            _ => {
                lengths.push(1);
                distinct.extend_from_slice(value);
                last = Some(value);
            }
        }
    }
    (lengths, distinct)
}
