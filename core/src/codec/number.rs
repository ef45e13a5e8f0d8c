//! Numbers: constant, run lengths, pco, scaled decimals, zstd, or raw.

use super::best::Encoded;
use super::id::Codec;
use super::{decimal, general, pcodec, runs};
use crate::error::CoreError;
use crate::wire::Reader;

/// How deep payloads may hold payloads: runs of decimals, and no deeper.
pub(crate) const MAX_DEPTH: u8 = 2;

/// A numeric type that can be stored bit for bit.
pub(crate) trait Number: pco::data_types::Number {
    /// Bytes a value.
    const WIDTH: usize;
    /// Whether scaling to integers can pay.
    const FLOAT: bool;
    /// The value's bits, zero-extended; equal only for identical values.
    fn pattern(self) -> u64;
    /// The value with these bits.
    fn from_pattern(bits: u64) -> Self;
    /// The nearest double.
    fn widen(self) -> f64;
    /// The nearest value to a double.
    fn narrow(value: f64) -> Self;
}

macro_rules! integer {
    ($type:ty, $unsigned:ty) => {
        impl Number for $type {
            const WIDTH: usize = size_of::<$type>();
            const FLOAT: bool = false;
            fn pattern(self) -> u64 {
                u64::from(self as $unsigned)
            }
            fn from_pattern(bits: u64) -> Self {
                bits as $type
            }
            fn widen(self) -> f64 {
                self as f64
            }
            fn narrow(value: f64) -> Self {
                value as $type
            }
        }
    };
}

macro_rules! float {
    ($type:ty, $bits:ty) => {
        impl Number for $type {
            const WIDTH: usize = size_of::<$type>();
            const FLOAT: bool = true;
            fn pattern(self) -> u64 {
                u64::from(self.to_bits())
            }
            fn from_pattern(bits: u64) -> Self {
                <$type>::from_bits(bits as $bits)
            }
            fn widen(self) -> f64 {
                f64::from(self)
            }
            fn narrow(value: f64) -> Self {
                value as $type
            }
        }
    };
}

integer!(i16, u16);
integer!(i32, u32);
integer!(i64, u64);
integer!(u32, u32);
integer!(u64, u64);
float!(f32, u32);
float!(f64, u64);

/// Appends the values' little-endian bytes.
pub(crate) fn write_raw<T: Number>(out: &mut Vec<u8>, values: &[T]) {
    for value in values {
        out.extend(value.pattern().to_le_bytes().into_iter().take(T::WIDTH));
    }
}

/// Reads little-endian values; `raw` must hold exactly `count`.
pub(crate) fn read_raw<T: Number>(raw: &[u8], count: usize) -> Result<Vec<T>, CoreError> {
    if count.checked_mul(T::WIDTH) != Some(raw.len()) {
        return Err(CoreError::corrupt(format!(
            "{} bytes for {count} values of {}",
            raw.len(),
            T::WIDTH
        )));
    }
    Ok(raw
        .chunks_exact(T::WIDTH)
        .map(|chunk| {
            T::from_pattern(
                chunk
                    .iter()
                    .rev()
                    .fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
            )
        })
        .collect())
}

/// The smallest payload for `values`; `depth` is 0 at the top and grows inside runs and decimals.
pub(crate) fn encode<T: Number>(values: &[T], depth: u8) -> Result<Encoded, CoreError> {
    let Some(first) = values.first() else {
        return Ok(Encoded::new(Codec::Constant, Vec::new()));
    };
    let mut raw = Vec::new();
    if values
        .iter()
        .all(|value| value.pattern() == first.pattern())
    {
        write_raw(&mut raw, &[*first]);
        return Ok(Encoded::new(Codec::Constant, raw));
    }
    write_raw(&mut raw, values);
    let zstd = general::compress(&raw, general::NUMBER_LEVEL)?;
    let mut best = Encoded::new(Codec::Raw, raw);

    let pco = pcodec::compress(values)?;
    if !T::FLOAT || same(&pcodec::decompress::<T>(&pco, values.len())?, values) {
        best.offer(Codec::Pco, pco);
    }
    if T::FLOAT
        && depth < MAX_DEPTH
        && let Some(decimal) = decimal::encode(values, depth + 1)?
    {
        best.offer(Codec::Decimal, decimal);
    }
    if depth < MAX_DEPTH
        && let Some(runs) = runs::encode(values, depth + 1)?
    {
        best.offer(Codec::Runs, runs);
    }
    best.offer(Codec::Zstd, zstd);
    Ok(best)
}

/// Reads exactly `count` values; the caller has checked `count` against the row limit.
pub(crate) fn decode<T: Number>(
    codec: Codec,
    payload: &[u8],
    count: usize,
    depth: u8,
) -> Result<Vec<T>, CoreError> {
    match codec {
        Codec::Constant if count == 0 => {
            Reader::new(payload).finish()?;
            Ok(Vec::new())
        }
        Codec::Constant => {
            let one = read_raw::<T>(payload, 1)?;
            Ok(one.repeat(count))
        }
        Codec::Raw => read_raw(payload, count),
        Codec::Pco => pcodec::decompress(payload, count),
        Codec::Zstd => read_raw(&general::decompress(payload, count * T::WIDTH)?, count),
        Codec::Runs if depth < MAX_DEPTH => runs::decode(payload, count, depth + 1),
        Codec::Decimal if depth < MAX_DEPTH && T::FLOAT => {
            decimal::decode(payload, count, depth + 1)
        }
        _ => Err(CoreError::corrupt(format!(
            "codec {} cannot hold these numbers",
            codec.name()
        ))),
    }
}

fn same<T: Number>(a: &[T], b: &[T]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.pattern() == b.pattern())
}
