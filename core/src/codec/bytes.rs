//! Values of any length: constant, dictionary, zstd, or raw.
//!
//! Raw and zstd payload: a block of the lengths (u32 each), then the values' bytes one after the
//! other, compressed as a whole or not. Dictionary payload: count of distinct values (u32), codec
//! (zstd or raw), length (u32) and payload of the distinct values in order of first appearance, a
//! block of codes (u32 each, one a value). Constant payload: the one value.

use std::collections::HashMap;

use super::best::{Encoded, read_block, write_block};
use super::fixed;
use super::frame::MAX_DECODED_BYTES;
use super::id::Codec;
use super::number;
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

/// Values one after the other; value `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Strings {
    pub(crate) offsets: Vec<u32>,
    pub(crate) data: Vec<u8>,
}

impl Strings {
    pub(crate) fn new() -> Self {
        Self {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Appends a value; fails when the whole would be longer than any column may be.
    pub(crate) fn push(&mut self, value: &[u8]) -> Result<(), CoreError> {
        let end = self.data.len() + value.len();
        if end > MAX_DECODED_BYTES {
            return Err(too_long(end));
        }
        self.data.extend_from_slice(value);
        self.offsets.push(len_u32(end)?);
        Ok(())
    }

    /// The values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.offsets
            .iter()
            .zip(self.offsets.iter().skip(1))
            .map(|(start, end)| {
                self.data
                    .get(*start as usize..*end as usize)
                    .unwrap_or_default()
            })
    }
}

/// The smallest payload for `values`.
pub(crate) fn encode(values: &Strings) -> Result<Encoded, CoreError> {
    let Some(first) = values.iter().next() else {
        return Ok(Encoded::new(Codec::Constant, Vec::new()));
    };
    if values.iter().all(|value| value == first) {
        return Ok(Encoded::new(Codec::Constant, first.to_vec()));
    }
    let mut best = encode_list(values)?;
    if let Some(dictionary) = encode_dictionary(values)? {
        best.offer(Codec::Dictionary, dictionary);
    }
    Ok(best)
}

/// Reads exactly `count` values; the caller has checked `count` against the row limit.
pub(crate) fn decode(codec: Codec, payload: &[u8], count: usize) -> Result<Strings, CoreError> {
    match codec {
        Codec::Constant if count == 0 => {
            Reader::new(payload).finish()?;
            Ok(Strings::new())
        }
        Codec::Constant => {
            let lengths = vec![len_u32(payload.len())?; count];
            let offsets = offsets_of(&lengths)?;
            Ok(Strings {
                offsets,
                data: payload.repeat(count),
            })
        }
        Codec::Dictionary => decode_dictionary(payload, count),
        _ => decode_list(codec, payload, count),
    }
}

fn encode_list(values: &Strings) -> Result<Encoded, CoreError> {
    let lengths: Vec<u32> = values
        .offsets
        .iter()
        .zip(values.offsets.iter().skip(1))
        .map(|(start, end)| end - start)
        .collect();
    let mut out = Vec::new();
    write_block(&mut out, &number::encode(&lengths, 0)?)?;
    let packed = fixed::pack(&values.data)?;
    out.extend_from_slice(&packed.payload);
    Ok(Encoded::new(packed.codec, out))
}

fn decode_list(codec: Codec, payload: &[u8], count: usize) -> Result<Strings, CoreError> {
    let mut reader = Reader::new(payload);
    let (lengths_codec, block) = read_block(&mut reader)?;
    let lengths = number::decode::<u32>(lengths_codec, block, count, 0)?;
    let offsets = offsets_of(&lengths)?;
    let total = offsets.last().copied().unwrap_or(0) as usize;
    let data = fixed::unpack(codec, reader.rest(), total)?;
    Ok(Strings { offsets, data })
}

/// The dictionary payload, or `None` where most values are distinct.
fn encode_dictionary(values: &Strings) -> Result<Option<Vec<u8>>, CoreError> {
    let most = values.count() / 2;
    let mut codes = Vec::with_capacity(values.count());
    let mut seen: HashMap<&[u8], u32> = HashMap::new();
    let mut distinct = Strings::new();
    for value in values.iter() {
        let next = len_u32(seen.len())?;
        let code = *seen.entry(value).or_insert(next);
        if code == next {
            if distinct.count() >= most {
                return Ok(None);
            }
            distinct.push(value)?;
        }
        codes.push(code);
    }
    let mut out = len_u32(distinct.count())?.to_le_bytes().to_vec();
    write_block(&mut out, &encode_list(&distinct)?)?;
    write_block(&mut out, &number::encode(&codes, 0)?)?;
    Ok(Some(out))
}

fn decode_dictionary(payload: &[u8], count: usize) -> Result<Strings, CoreError> {
    let mut reader = Reader::new(payload);
    let size = reader.u32()? as usize;
    if size > count {
        return Err(CoreError::corrupt(format!(
            "dictionary of {size} for {count} values"
        )));
    }
    let (codec, block) = read_block(&mut reader)?;
    let distinct = decode_list(codec, block, size)?;
    let (codec, block) = read_block(&mut reader)?;
    let codes = number::decode::<u32>(codec, block, count, 0)?;
    reader.finish()?;

    let entries: Vec<&[u8]> = distinct.iter().collect();
    let chosen = codes
        .iter()
        .map(|code| {
            entries
                .get(*code as usize)
                .copied()
                .ok_or_else(|| CoreError::corrupt(format!("code {code} in a dictionary of {size}")))
        })
        .collect::<Result<Vec<&[u8]>, CoreError>>()?;
    let lengths = chosen
        .iter()
        .map(|value| len_u32(value.len()))
        .collect::<Result<Vec<u32>, CoreError>>()?;
    let offsets = offsets_of(&lengths)?;
    Ok(Strings {
        offsets,
        data: chosen.concat(),
    })
}

/// Running positions of values of these lengths, which are bounded by the column limit.
fn offsets_of(lengths: &[u32]) -> Result<Vec<u32>, CoreError> {
    let mut offsets = Vec::with_capacity(lengths.len() + 1);
    let mut end = 0u32;
    offsets.push(end);
    for length in lengths {
        end = end
            .checked_add(*length)
            .filter(|end| *end as usize <= MAX_DECODED_BYTES)
            .ok_or_else(|| CoreError::corrupt("values are longer than a column may be"))?;
        offsets.push(end);
    }
    Ok(offsets)
}

fn too_long(len: usize) -> CoreError {
    CoreError::invalid(format!(
        "values of {len} bytes exceed the limit of {MAX_DECODED_BYTES} for one column"
    ))
}
