//! The zones of all pages of a column, as its index stores them.
//!
//! For each page in order that has a value other than NULL:
//! - integers, in counts of the unit: min less the min before (zigzag), max less min, sum less count
//!   times min (varints);
//! - floats: min (8), max (8), sum (8); or if all of a
//!   column of doubles are decimals, as those of integers;
//! - codes: min, max less min (varints);
//! - bytes: flags (1; bit 0 the min is exact, bit 1 the max is), length (1) and bytes of the min,
//!   then of the max.

use std::cmp::Ordering;

use super::dictionary::Dictionary;
use super::floats::to_float;
use super::layout::Layout;
use super::unit::Unit;
use super::varint::{read_i64, read_u64, read_u128, read_usize, write_i64, write_u64, write_u128};
use super::zone::{BOUND_BYTES, compare_floats};
use super::{Bounds, Sum};
use crate::error::CoreError;
use crate::wire::Reader;

/// Min, max and sum.
pub(crate) type IntZone = (i64, i64, i128);

/// Bounds and sums, one of each a page; those of a page without values are blank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Zones {
    Ints(Vec<IntZone>),
    Floats(Vec<(f64, f64, f64)>),
    Codes(Vec<(u32, u32)>),
    Bytes(Vec<Bounds>),
}

impl Zones {
    /// Bytes that they occupy.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Ints(zones) => size_of_val(zones.as_slice()),
            Self::Floats(zones) => size_of_val(zones.as_slice()),
            Self::Codes(zones) => size_of_val(zones.as_slice()),
            Self::Bytes(zones) => {
                let bytes = zones.iter().map(|bounds| match bounds {
                    Bounds::Bytes { min, max, .. } => min.len() + max.len(),
                    _ => 0,
                });
                size_of_val(zones.as_slice()) + bytes.sum::<usize>()
            }
        }
    }

    /// Whether the bounds of several pages with values overlap nowhere but at their ends: any value is then
    /// on the pages that have it and within the bounds of one other at most.
    pub(crate) fn tell_pages_apart(&self, layout: &Layout) -> bool {
        fn apart<T>(
            bounds: impl Iterator<Item = (T, T)>,
            order: impl Fn(&T, &T) -> Ordering,
            touch: impl Fn(&T, &T) -> bool,
        ) -> bool {
            let mut bounds: Vec<(T, T)> = bounds.collect();
            bounds.sort_by(|(a, to_a), (b, to_b)| order(a, b).then_with(|| order(to_a, to_b)));
            let mut pairs = bounds.iter().zip(bounds.iter().skip(1));
            bounds.len() > 1
                && pairs.all(|((_, end), (start, _))| match order(end, start) {
                    Ordering::Less => true,
                    Ordering::Equal => touch(end, start),
                    Ordering::Greater => false,
                })
        }
        let filled = |page: usize| layout.pages.get(page).is_some_and(|p| p.nulls < p.rows);
        match self {
            Self::Ints(zones) => {
                let bounds = zones.iter().map(|(min, max, _)| (*min, *max));
                let bounds = bounds.enumerate().filter(|(page, _)| filled(*page));
                apart(bounds.map(|(_, bounds)| bounds), i64::cmp, |_, _| true)
            }
            Self::Codes(zones) => {
                let bounds = zones.iter().copied().enumerate();
                let bounds = bounds.filter(|(page, _)| filled(*page));
                apart(bounds.map(|(_, bounds)| bounds), u32::cmp, |_, _| true)
            }
            Self::Floats(zones) => {
                let bounds = zones.iter().map(|(min, max, _)| (*min, *max));
                let bounds = bounds.enumerate().filter(|(page, _)| filled(*page));
                let order = |a: &f64, b: &f64| compare_floats(*a, *b);
                apart(bounds.map(|(_, bounds)| bounds), order, |_, _| true)
            }
            Self::Bytes(zones) => {
                let bounds = zones.iter().filter_map(|bounds| match bounds {
                    Bounds::Bytes {
                        min,
                        max,
                        min_exact,
                        max_exact,
                    } => Some(((min, *min_exact), (max, *max_exact))),
                    _ => None,
                });
                // Bounds that were cut may be equal where values are not.
                apart(bounds, |a, b| a.0.cmp(b.0), |end, start| end.1 && start.1)
            }
        }
    }

    /// Bounds and sum of a page that has values.
    pub(crate) fn get(&self, page: usize, dictionary: Option<&Dictionary>) -> (Bounds, Sum) {
        match self {
            Self::Ints(zones) => zones.get(page).map(|(min, max, sum)| {
                let bounds = Bounds::Int {
                    min: *min,
                    max: *max,
                };
                (bounds, Sum::Int(*sum))
            }),
            Self::Floats(zones) => zones.get(page).map(|(min, max, sum)| {
                let bounds = Bounds::Float {
                    min: *min,
                    max: *max,
                };
                (bounds, Sum::Float(*sum))
            }),
            Self::Codes(zones) => zones.get(page).zip(dictionary).map(|(zone, dictionary)| {
                let bounds = Bounds::of_bytes(dictionary.get(zone.0), dictionary.get(zone.1));
                (bounds, Sum::None)
            }),
            Self::Bytes(zones) => zones.get(page).map(|bounds| (bounds.clone(), Sum::None)),
        }
        .unwrap_or((Bounds::None, Sum::None))
    }

    /// Appends the zones of pages with so many values each; those of integers in counts of a unit.
    pub(crate) fn write(&self, unit: Unit, present: &[usize], out: &mut Vec<u8>) {
        match self {
            Self::Ints(zones) => write_ints(zones, unit, present, out),
            Self::Floats(zones) => {
                for ((min, max, sum), _) in with_values(zones, present) {
                    for value in [min, max, sum] {
                        out.extend_from_slice(&value.to_le_bytes());
                    }
                }
            }
            Self::Codes(zones) => {
                for ((min, max), _) in with_values(zones, present) {
                    write_u64(out, u64::from(*min));
                    write_u64(out, u64::from(max.saturating_sub(*min)));
                }
            }
            Self::Bytes(zones) => {
                for (bounds, _) in with_values(zones, present) {
                    if let Bounds::Bytes {
                        min,
                        max,
                        min_exact,
                        max_exact,
                    } = bounds
                    {
                        out.push(u8::from(*min_exact) | u8::from(*max_exact) << 1);
                        for bound in [min, max] {
                            out.push(bound.len() as u8);
                            out.extend_from_slice(bound);
                        }
                    }
                }
            }
        }
    }

    /// Integers that are counts of a unit.
    pub(crate) fn of_counts(mut zones: Vec<IntZone>, present: &[usize], unit: Unit) -> Self {
        for ((min, max, sum), count) in zones.iter_mut().zip(present) {
            *min = unit.value(*min);
            *max = unit.value(*max);
            *sum = unit.sum(*sum, *count);
        }
        Self::Ints(zones)
    }

    /// Doubles that are counts of a unit, divided by a power of ten.
    pub(crate) fn of_decimals(
        zones: &[IntZone],
        present: &[usize],
        unit: Unit,
        power: f64,
    ) -> Self {
        let value = |count: i64| to_float(unit.value(count)) / power;
        let zones = zones.iter().zip(present).map(|((min, max, sum), count)| {
            let sum = unit.sum(*sum, *count) as f64 / power;
            (value(*min), value(*max), sum)
        });
        Self::Floats(zones.collect())
    }

    pub(crate) fn read_floats(
        reader: &mut Reader<'_>,
        present: &[usize],
    ) -> Result<Self, CoreError> {
        let mut float = || reader.array().map(f64::from_le_bytes);
        read_each(present, (0.0, 0.0, 0.0), |_| {
            Ok((float()?, float()?, float()?))
        })
        .map(Self::Floats)
    }

    /// Codes of a dictionary of `len` values.
    pub(crate) fn read_codes(
        reader: &mut Reader<'_>,
        present: &[usize],
        len: usize,
    ) -> Result<Self, CoreError> {
        read_each(present, (0, 0), |_| {
            let last = len
                .checked_sub(1)
                .ok_or_else(|| CoreError::corrupt("codes of an empty dictionary"))?;
            let min = read_usize(reader, last)?;
            let max = min + read_usize(reader, last - min)?;
            Ok((min as u32, max as u32))
        })
        .map(Self::Codes)
    }

    pub(crate) fn read_bytes(
        reader: &mut Reader<'_>,
        present: &[usize],
    ) -> Result<Self, CoreError> {
        read_each(present, Bounds::None, |_| {
            let flags = reader.u8()?;
            if flags > 3 {
                return Err(CoreError::corrupt("a zone's bounds are malformed"));
            }
            let mut bound = || {
                let len = usize::from(reader.u8()?);
                if len > BOUND_BYTES {
                    return Err(CoreError::corrupt("a zone's bounds are malformed"));
                }
                reader.take(len).map(Box::from)
            };
            Ok(Bounds::Bytes {
                min: bound()?,
                max: bound()?,
                min_exact: flags & 1 != 0,
                max_exact: flags & 2 != 0,
            })
        })
        .map(Self::Bytes)
    }
}

/// Appends the zones of integers in counts of a unit that fits them.
pub(crate) fn write_ints(zones: &[IntZone], unit: Unit, present: &[usize], out: &mut Vec<u8>) {
    let mut before = 0i64;
    for ((min, max, sum), count) in with_values(zones, present) {
        let least = i128::from(*min) * count as i128;
        let span = max.wrapping_sub(*min).cast_unsigned() / unit.unit.unsigned_abs();
        let min = min.div_euclid(unit.unit);
        write_i64(out, min.wrapping_sub(before));
        write_u64(out, span);
        write_u128(out, ((sum - least) / i128::from(unit.unit)).cast_unsigned());
        before = min;
    }
}

/// Reads what [`write_ints`] wrote.
pub(crate) fn read_ints(
    reader: &mut Reader<'_>,
    present: &[usize],
) -> Result<Vec<IntZone>, CoreError> {
    let mut before = 0i64;
    read_each(present, (0, 0, 0), |count| {
        let min = before.wrapping_add(read_i64(reader)?);
        let max = min.wrapping_add(read_u64(reader)?.cast_signed());
        let least = i128::from(min) * count as i128;
        let sum = least.wrapping_add(read_u128(reader)?.cast_signed());
        before = min;
        Ok((min, max, sum))
    })
}

/// Min, max and sum of some integers.
pub(crate) fn summarise(values: &[i64]) -> IntZone {
    if values.is_empty() {
        return (0, 0, 0);
    }
    let mut min = i64::MAX;
    let mut max = i64::MIN;
    // Of up to 1,024 values the halves add up to less than 2^42 each.
    let (mut low, mut high) = (0u64, 0i64);
    for value in values {
        min = min.min(*value);
        max = max.max(*value);
        low += value.cast_unsigned() & 0xffff_ffff;
        high += value >> 32;
    }
    (min, max, (i128::from(high) << 32) + i128::from(low))
}

/// The zones of pages that have values, and how many.
fn with_values<'a, T>(
    zones: &'a [T],
    present: &'a [usize],
) -> impl Iterator<Item = (&'a T, usize)> {
    zones
        .iter()
        .zip(present.iter().copied())
        .filter(|(_, count)| *count > 0)
}

fn read_each<T: Clone>(
    present: &[usize],
    blank: T,
    mut read: impl FnMut(usize) -> Result<T, CoreError>,
) -> Result<Vec<T>, CoreError> {
    present
        .iter()
        .map(|count| match count {
            0 => Ok(blank.clone()),
            count => read(*count),
        })
        .collect()
}
