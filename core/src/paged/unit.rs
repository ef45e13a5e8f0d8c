//! The unit that all integers of a column are counted in: timestamps of whole minutes, volumes in
//! hundreds, prices in steps of five cents.

use super::kernels::Block;
use super::simd;

/// A number is `base + unit * count`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit {
    /// At least 1.
    pub(crate) unit: i64,
    /// At least 0 and below the unit.
    pub(crate) base: i64,
}

impl Unit {
    /// Counts as they are.
    pub(crate) const ONE: Self = Self { unit: 1, base: 0 };

    /// The largest unit that fits all of the values.
    pub(crate) fn of(values: &[i64]) -> Self {
        let Some(first) = values.first() else {
            return Self::ONE;
        };
        let mut unit = 0;
        let mut exact = Divisor::of(1);
        for value in values {
            let distance = value.abs_diff(*first);
            if unit == 0 || exact.divide(distance).is_none() {
                unit = gcd(unit, distance);
                match unit {
                    0 => {}
                    1 => return Self::ONE,
                    _ => exact = Divisor::of(unit),
                }
            }
        }
        match i64::try_from(unit) {
            Ok(unit @ 2..) => Self {
                unit,
                base: first.rem_euclid(unit),
            },
            _ => Self::ONE,
        }
    }

    /// Values that the unit fits to their counts.
    pub(crate) fn count(self, values: &mut [i64]) {
        let Some(first) = values.first().copied().filter(|_| self != Self::ONE) else {
            return;
        };
        let start = first.div_euclid(self.unit);
        let exact = Divisor::of(self.unit.unsigned_abs());
        for value in values {
            let steps = exact.quotient(value.abs_diff(first)).cast_signed();
            *value = if *value < first {
                start.wrapping_sub(steps)
            } else {
                start.wrapping_add(steps)
            };
        }
    }

    /// The value of a count.
    pub(crate) fn value(self, count: i64) -> i64 {
        count.wrapping_mul(self.unit).wrapping_add(self.base)
    }

    /// The sum of as many values as `values` whose counts add up to `counts`.
    pub(crate) fn sum(self, counts: i128, values: usize) -> i128 {
        let bases = i128::from(self.base) * values as i128;
        counts
            .wrapping_mul(i128::from(self.unit))
            .wrapping_add(bases)
    }

    /// Counts to values.
    pub(crate) fn restore(self, counts: &mut Block) {
        if self == Self::ONE {
            return;
        }
        simd::restore_unit(self, counts);
    }
}

/// Division without remainder by a fixed number, as a multiplication.
struct Divisor {
    inverse: u64,
    shift: u32,
    limit: u64,
}

impl Divisor {
    fn of(divisor: u64) -> Self {
        let shift = divisor.trailing_zeros();
        let odd = divisor >> shift;
        // Newton's iteration; each step doubles the bits that are right, of which there are three at first.
        let mut inverse = odd;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        }
        Self {
            inverse,
            shift,
            limit: u64::MAX / divisor,
        }
    }

    /// The quotient, where there is no remainder.
    fn divide(&self, value: u64) -> Option<u64> {
        Some(self.quotient(value)).filter(|quotient| *quotient <= self.limit)
    }

    /// The quotient of a multiple.
    fn quotient(&self, value: u64) -> u64 {
        value.wrapping_mul(self.inverse).rotate_right(self.shift)
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::super::PAGE_ROWS;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_found() {
        let minutes: Vec<_> = (0..9).map(|i| 30 + i * i * 60_000_000).collect();
        assert_eq!(
            Unit::of(&minutes),
            Unit {
                unit: 60_000_000,
                base: 30
            }
        );
        assert_eq!(Unit::of(&[i64::MIN, i64::MAX]), Unit::ONE);
        assert_eq!(Unit::of(&[7, 7, 7]), Unit::ONE);
        assert_eq!(Unit::of(&[]), Unit::ONE);
        assert_eq!(Unit::of(&[-5, 5]), Unit { unit: 10, base: 5 });
    }

    proptest! {
        #[test]
        fn counts_restore_the_values(
            counts in prop::collection::vec(any::<i32>(), 1..50),
            unit in prop_oneof![1i64..300, Just(1 << 20), Just(i64::MAX)],
            start in any::<i64>(),
        ) {
            let values: Vec<_> = counts
                .iter()
                .map(|count| start.saturating_add(i64::from(*count).saturating_mul(unit)))
                .collect();
            let found = Unit::of(&values);
            let mut counted = values.clone();
            found.count(&mut counted);
            let mut block = [0; PAGE_ROWS];
            block[..counted.len()].copy_from_slice(&counted);
            found.restore(&mut block);
            prop_assert_eq!(&block[..counted.len()], &values[..]);
        }
    }
}
