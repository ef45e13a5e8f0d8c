//! Run lengths of numbers.
//!
//! Payload: run count (u32), a block of the lengths (u32 each, at least 1), a block of the values.

use super::best::{read_block, write_block};
use super::number::{self, MAX_DEPTH, Number};
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

/// Runs pay only where they are longer than this on average.
const MIN_MEAN_RUN: usize = 3;

/// The payload, or `None` where runs are too short to pay.
pub(crate) fn encode<T: Number>(values: &[T], depth: u8) -> Result<Option<Vec<u8>>, CoreError> {
    let mut lengths = Vec::new();
    let mut distinct = Vec::new();
    for run in values.chunk_by(|a, b| a.pattern() == b.pattern()) {
        if lengths.len() * MIN_MEAN_RUN >= values.len() {
            return Ok(None);
        }
        lengths.push(len_u32(run.len())?);
        distinct.extend_from_slice(run.get(..1).unwrap_or_default());
    }
    let mut out = len_u32(lengths.len())?.to_le_bytes().to_vec();
    write_block(&mut out, &number::encode(&lengths, MAX_DEPTH)?)?;
    write_block(&mut out, &number::encode(&distinct, depth)?)?;
    Ok(Some(out))
}

/// Reads exactly `count` values.
pub(crate) fn decode<T: Number>(
    payload: &[u8],
    count: usize,
    depth: u8,
) -> Result<Vec<T>, CoreError> {
    let mut reader = Reader::new(payload);
    let (lengths, runs) = read_lengths(&mut reader, count)?;
    let (codec, block) = read_block(&mut reader)?;
    let distinct = number::decode::<T>(codec, block, runs, depth)?;
    reader.finish()?;
    let mut values = Vec::with_capacity(count);
    for (value, length) in distinct.iter().zip(lengths) {
        values.extend(std::iter::repeat_n(*value, length as usize));
    }
    Ok(values)
}

/// Reads run count and lengths, which are all at least 1 and add up to `count`.
pub(crate) fn read_lengths(
    reader: &mut Reader<'_>,
    count: usize,
) -> Result<(Vec<u32>, usize), CoreError> {
    let runs = reader.u32()? as usize;
    if runs > count {
        return Err(CoreError::corrupt(format!("{runs} runs of {count} values")));
    }
    let (codec, block) = read_block(reader)?;
    let lengths = number::decode::<u32>(codec, block, runs, MAX_DEPTH)?;
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    if total != count as u64 || lengths.contains(&0) {
        return Err(CoreError::corrupt(format!(
            "runs cover {total} of {count} values"
        )));
    }
    Ok((lengths, runs))
}
