//! Floats as integers: decimals as their digits, others by the order of their bits.
//!
//! A page of floats, where pco does not pack the floats themselves:
//!
//! | field | bytes | |
//! |---|---|---|
//! | form | 1 | 0 bits, 1 decimals, 2 decimals with exceptions |
//!
//! then with form 2 the number of exceptions (varint), their positions (2 each) and bits (8 each,
//! 4 of single-precision floats), and a page of integers (or pco of them). With decimals a value is
//! its integer (times the column's unit, plus its base) divided by `10^scale` as a double; with bits
//! its integer is the float's bits, all but the sign inverted where that is set, so that integers
//! are in the order of the floats.

use super::kernels::Block;
use super::layout::Validity;
use super::simd;
use super::zone::{compare_floats, is_negative_zero};
use super::{Bounds, PAGE_ROWS, Sum};
use crate::error::CoreError;
use crate::wire::Reader;

/// The most decimal places that are looked for.
pub(crate) const MAX_SCALE: u8 = 14;

pub(crate) const BITS: u8 = 0;
pub(crate) const DECIMALS: u8 = 1;
pub(crate) const EXCEPTIONS: u8 = 2;

/// Adding this to an integer of less than 51 bits puts it into the mantissa of a double.
const MAGIC: f64 = 6_755_399_441_055_744.0;

const POWERS: [f64; MAX_SCALE as usize + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
];

/// `10^scale`.
pub(crate) fn power(scale: u8) -> f64 {
    POWERS.get(usize::from(scale)).copied().unwrap_or(1.0)
}

/// A float of either precision.
pub(crate) trait Real: Copy + Default + Into<f64> {
    /// Bytes that one takes.
    const BYTES: usize;
    /// The nearest one.
    fn nearest(value: f64) -> Self;
    /// Its bits as an integer that is ordered as the floats are.
    fn to_ordered(self) -> i64;
    /// The float of such an integer.
    fn from_ordered(ordered: i64) -> Self;
    /// Divides whole numbers by a power of ten.
    fn decimals(whole: &Block, power: f64, out: &mut [Self; PAGE_ROWS]);
    /// Floats of ordered integers.
    fn bits(ordered: &Block, out: &mut [Self; PAGE_ROWS]);
    /// Moves the values at the beginning to where the bits are.
    fn spread(values: &mut [Self; PAGE_ROWS], validity: &Validity);
    fn write(self, out: &mut Vec<u8>);
    /// Reads what [`write`](Self::write) wrote.
    fn read(reader: &mut Reader<'_>) -> Result<Self, CoreError>;

    /// Whether all bits are the same.
    fn same(self, other: Self) -> bool {
        self.to_ordered() == other.to_ordered()
    }
}

impl Real for f64 {
    const BYTES: usize = 8;

    #[inline(always)]
    fn nearest(value: f64) -> Self {
        value
    }

    fn to_ordered(self) -> i64 {
        let bits = self.to_bits().cast_signed();
        bits ^ (bits >> 63 & i64::MAX)
    }

    #[inline(always)]
    fn from_ordered(ordered: i64) -> Self {
        Self::from_bits((ordered ^ (ordered >> 63 & i64::MAX)).cast_unsigned())
    }

    fn decimals(whole: &Block, power: f64, out: &mut [Self; PAGE_ROWS]) {
        simd::decimals_to_f64(whole, power, out);
    }

    fn bits(ordered: &Block, out: &mut [Self; PAGE_ROWS]) {
        simd::bits_to_f64(ordered, out);
    }

    fn spread(values: &mut [Self; PAGE_ROWS], validity: &Validity) {
        simd::spread_f64(values, validity);
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CoreError> {
        reader.array().map(Self::from_le_bytes)
    }
}

impl Real for f32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn nearest(value: f64) -> Self {
        value as Self
    }

    fn to_ordered(self) -> i64 {
        let bits = self.to_bits().cast_signed();
        i64::from(bits ^ (bits >> 31 & i32::MAX))
    }

    #[inline(always)]
    fn from_ordered(ordered: i64) -> Self {
        let ordered = ordered as i32;
        Self::from_bits((ordered ^ (ordered >> 31 & i32::MAX)).cast_unsigned())
    }

    fn decimals(whole: &Block, power: f64, out: &mut [Self; PAGE_ROWS]) {
        simd::decimals_to_f32(whole, power, out);
    }

    fn bits(ordered: &Block, out: &mut [Self; PAGE_ROWS]) {
        simd::bits_to_f32(ordered, out);
    }

    fn spread(values: &mut [Self; PAGE_ROWS], validity: &Validity) {
        simd::spread_f32(values, validity);
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CoreError> {
        reader.array().map(Self::from_le_bytes)
    }
}

/// The fewest decimal places that make nearly all values whole numbers.
pub(crate) fn find_scale<T: Real>(values: &[T]) -> Option<u8> {
    const SAMPLES: usize = 256;
    let step = values.len().div_ceil(SAMPLES).max(1);
    let sample: Vec<T> = values.iter().step_by(step).copied().collect();
    let hits = |scale: u8| {
        let power = power(scale);
        sample
            .iter()
            .filter(|value| to_decimal(**value, power).1)
            .count()
    };
    let best = (0..=MAX_SCALE).map(hits).max()?;
    if best * 4 < sample.len() * 3 || best == 0 {
        return None;
    }
    (0..=MAX_SCALE).find(|scale| hits(*scale) * 50 >= best * 49)
}

/// The whole number of a value and whether it gives the value back.
pub(crate) fn to_decimal<T: Real>(value: T, power: f64) -> (i64, bool) {
    let wide: f64 = value.into();
    let shifted = wide * power + MAGIC;
    let whole = shifted
        .to_bits()
        .cast_signed()
        .wrapping_sub(MAGIC.to_bits().cast_signed());
    let small = (-(1 << 51)..1 << 51).contains(&whole);
    (
        whole,
        small && T::nearest((shifted - MAGIC) / power).same(value),
    )
}

/// The float of a whole number of less than 51 bits.
#[inline]
pub(crate) fn to_float(whole: i64) -> f64 {
    f64::from_bits(
        whole
            .wrapping_add(MAGIC.to_bits().cast_signed())
            .cast_unsigned(),
    ) - MAGIC
}

/// Bounds and sum of some floats.
pub(crate) fn summarise<T: Real>(values: &[T]) -> (Bounds, Sum) {
    if values.is_empty() {
        return (Bounds::None, Sum::None);
    }
    let mut min = f64::INFINITY;
    let mut max = f64::NEG_INFINITY;
    // Zeros all negative add up to a negative one.
    let mut sums = [-0.0; 8];
    let mut nans = 0;
    let mut negative_zeros = 0;
    let (groups, rest) = values.as_chunks::<8>();
    let mut add = |value: f64, sum: &mut f64| {
        // With a NaN these comparisons are false.
        min = if value < min { value } else { min };
        max = if value > max { value } else { max };
        nans += usize::from(value.is_nan());
        negative_zeros += usize::from(is_negative_zero(value));
        *sum += value;
    };
    for group in groups {
        for (value, sum) in group.iter().zip(&mut sums) {
            add((*value).into(), sum);
        }
    }
    for (value, sum) in rest.iter().zip(&mut sums) {
        add((*value).into(), sum);
    }
    if nans == values.len() {
        min = f64::NAN;
    }
    if nans > 0 {
        max = f64::NAN;
    }
    debug_assert!(compare_floats(min, max).is_le());
    let zero = if negative_zeros > 0 { -0.0 } else { 0.0 };
    let bound = |value: f64| if value == 0.0 { zero } else { value };
    (
        Bounds::Float {
            min: bound(min),
            max: bound(max),
        },
        Sum::Float(sums.iter().sum()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scales_are_found() {
        let cents: Vec<_> = (0..900).map(|i| f64::from(i * 7 % 500) / 100.0).collect();
        assert_eq!(find_scale(&cents), Some(2));
        let singles: Vec<_> = cents.iter().map(|value| *value as f32).collect();
        assert_eq!(find_scale(&singles), Some(2));
        let whole: Vec<_> = (0..900).map(f64::from).collect();
        assert_eq!(find_scale(&whole), Some(0));
        let roots: Vec<_> = (2..900).map(|i| f64::from(i).sqrt()).collect();
        assert_eq!(find_scale(&roots), None);
        assert_eq!(find_scale::<f64>(&[]), None);
        assert_eq!(find_scale(&[f64::NAN; 9]), None);
    }

    #[test]
    fn what_is_no_decimal_is_told() {
        for value in [
            f64::NAN,
            f64::INFINITY,
            -f64::INFINITY,
            -0.0,
            1e300,
            0.1 + 0.2,
            f64::MAX,
        ] {
            assert!(!to_decimal(value, 100.0).1, "{value}");
        }
        for value in [0.0, 45.07, -45.07, 1e10] {
            assert!(to_decimal(value, 100.0).1, "{value}");
        }
    }

    proptest! {
        #[test]
        fn decimals_come_back(bits in any::<u64>(), cents in any::<i64>(), scale in 0..=MAX_SCALE) {
            let power = power(scale);
            for value in [f64::from_bits(bits), (cents >> 14) as f64 / power] {
                let (whole, exact) = to_decimal(value, power);
                if exact {
                    prop_assert!((to_float(whole) / power).same(value));
                }
            }
            prop_assert!(to_decimal((cents >> 14) as f64 / power, power).1);
        }

        #[test]
        fn bits_keep_their_order(a in any::<u64>(), b in any::<u64>()) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            prop_assert!(f64::from_ordered(a.to_ordered()).same(a));
            if !a.is_nan() && !b.is_nan() && a != b {
                prop_assert_eq!(a < b, a.to_ordered() < b.to_ordered());
            }
            let (a, b) = (a as f32, b as f32);
            prop_assert!(f32::from_ordered(a.to_ordered()).same(a));
            if !a.is_nan() && !b.is_nan() && a != b {
                prop_assert_eq!(a < b, a.to_ordered() < b.to_ordered());
            }
        }
    }
}
