//! Floats that are decimals of few digits (prices), as integers scaled by a power of ten.
//!
//! Payload: scale (u8), exception count (u32), positions (u32 each, ascending), the exceptions'
//! bits (4 or 8 bytes each), a block of i64. A value is its integer divided by `10^scale`; at an
//! exception the integer is a filler.

use super::best::{read_block, write_block};
use super::number::{self, Number, read_raw, write_raw};
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];
/// Integers up to here are exact in a double.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
/// At most one value in this many may be an exception.
const EXCEPTION_SHARE: usize = 16;
const SAMPLE: usize = 256;

/// The smallest payload, or `None` where the values are no such decimals.
pub(crate) fn encode<T: Number>(values: &[T], depth: u8) -> Result<Option<Vec<u8>>, CoreError> {
    let Some(loose) = loose_scale(values) else {
        return Ok(None);
    };
    let mut best = encode_at(values, loose, depth)?;
    // A few values with more digits are cheaper as integers than as exceptions.
    if let Some(exact) = exact_scale(values, loose)
        && exact != loose
        && let Some(payload) = encode_at(values, exact, depth)?
        && best.as_ref().is_none_or(|best| payload.len() < best.len())
    {
        best = Some(payload);
    }
    Ok(best)
}

/// The payload at one scale, or `None` where it leaves too many exceptions.
fn encode_at<T: Number>(values: &[T], scale: u8, depth: u8) -> Result<Option<Vec<u8>>, CoreError> {
    let Some(power) = POWERS.get(usize::from(scale)).copied() else {
        return Ok(None);
    };
    let allowed = values.len() / EXCEPTION_SHARE;
    let mut positions = Vec::new();
    let mut exceptions = Vec::new();
    let mut integers = Vec::with_capacity(values.len());
    let mut filler = 0;
    for (i, value) in values.iter().enumerate() {
        match scaled(*value, power) {
            Some(integer) => filler = integer,
            None if exceptions.len() < allowed => {
                positions.push(len_u32(i)?);
                exceptions.push(*value);
            }
            None => return Ok(None),
        }
        integers.push(filler);
    }
    let mut out = vec![scale];
    out.extend_from_slice(&len_u32(positions.len())?.to_le_bytes());
    write_raw(&mut out, &positions);
    write_raw(&mut out, &exceptions);
    write_block(&mut out, &number::encode(&integers, depth)?)?;
    Ok(Some(out))
}

/// Reads exactly `count` values.
pub(crate) fn decode<T: Number>(
    payload: &[u8],
    count: usize,
    depth: u8,
) -> Result<Vec<T>, CoreError> {
    let mut reader = Reader::new(payload);
    let scale = reader.u8()?;
    let power = *POWERS
        .get(usize::from(scale))
        .ok_or_else(|| CoreError::corrupt(format!("decimal scale {scale}")))?;
    let exception_count = reader.u32()? as usize;
    if exception_count > count {
        return Err(CoreError::corrupt(format!(
            "{exception_count} exceptions of {count} values"
        )));
    }
    let positions = read_raw::<u32>(reader.take(exception_count * 4)?, exception_count)?;
    let exceptions = read_raw::<T>(reader.take(exception_count * T::WIDTH)?, exception_count)?;
    let (codec, block) = read_block(&mut reader)?;
    let integers = number::decode::<i64>(codec, block, count, depth)?;
    reader.finish()?;

    let mut values: Vec<T> = integers
        .into_iter()
        .map(|integer| T::narrow(integer as f64 / power))
        .collect();
    if !positions.is_sorted_by(|a, b| a < b) {
        return Err(CoreError::corrupt("exceptions out of order"));
    }
    for (position, exception) in positions.into_iter().zip(exceptions) {
        *values
            .get_mut(position as usize)
            .ok_or_else(|| CoreError::corrupt(format!("exception at {position} of {count}")))? =
            exception;
    }
    Ok(values)
}

/// The integer that gives back `value` bit for bit when divided by `power`.
fn scaled<T: Number>(value: T, power: f64) -> Option<i64> {
    let integer = (value.widen() * power).round();
    (integer.abs() <= MAX_EXACT && T::narrow(integer / power).pattern() == value.pattern()
        // -0.0 has no integer of its own.
        && (integer != 0.0 || value.pattern() == 0))
        .then_some(integer as i64)
}

/// The smallest scale that fits nearly all of a sample.
fn loose_scale<T: Number>(values: &[T]) -> Option<u8> {
    let step = values.len().div_ceil(SAMPLE).max(1);
    let sample = values.iter().step_by(step);
    (0u8..)
        .zip(POWERS)
        .find(|(_, power)| {
            let misses = sample
                .clone()
                .filter(|value| scaled(**value, *power).is_none())
                .count();
            misses * EXCEPTION_SHARE <= sample.len()
        })
        .map(|(scale, _)| scale)
}

/// The smallest scale from `from` on that fits every finite value.
fn exact_scale<T: Number>(values: &[T], from: u8) -> Option<u8> {
    (0u8..)
        .zip(POWERS)
        .skip(usize::from(from))
        .find(|(_, power)| {
            values
                .iter()
                .all(|value| !value.widen().is_finite() || scaled(*value, *power).is_some())
        })
        .map(|(scale, _)| scale)
}
