//! Which values of a page are below another: one bit a value, as conditions on whole pages want it.

use super::{PAGE_ROWS, simd};

/// One bit a row of a page.
pub type RowBits = [u64; PAGE_ROWS / 64];

/// The integers below `with`; values past the first [`PAGE_ROWS`] are not looked at.
pub fn ints_below(values: &[i64], with: i64) -> RowBits {
    simd::ints_below(values, with)
}

/// The codes below `with`.
pub fn codes_below(values: &[u32], with: u32) -> RowBits {
    simd::codes_below(values, with)
}

/// The floats below `with`, as the processor compares: NaN is not below, nor is anything below NaN.
pub fn floats_below(values: &[f64], with: f64) -> RowBits {
    simd::floats_below(values, with)
}

/// The floats below `with` or equal to it, as the processor compares.
pub fn floats_up_to(values: &[f64], with: f64) -> RowBits {
    simd::floats_up_to(values, with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected<T: Copy>(values: &[T], test: impl Fn(T) -> bool) -> RowBits {
        let mut bits = [0; PAGE_ROWS / 64];
        for (i, value) in values.iter().enumerate() {
            bits[i / 64] |= u64::from(test(*value)) << (i % 64);
        }
        bits
    }

    #[test]
    fn bits_are_those_of_single_comparisons() {
        for rows in [0, 1, 63, 64, 65, 500, PAGE_ROWS] {
            let ints: Vec<i64> = (0..rows as i64).map(|i| (i * 37) % 101 - 50).collect();
            for with in [i64::MIN, -50, -1, 0, 13, 50, i64::MAX] {
                assert_eq!(ints_below(&ints, with), expected(&ints, |v| v < with));
            }
            let codes: Vec<u32> = ints.iter().map(|v| (v + 50) as u32).collect();
            for with in [0, 1, 50, 100, u32::MAX] {
                assert_eq!(codes_below(&codes, with), expected(&codes, |v| v < with));
            }
            let odd = [f64::NAN, f64::INFINITY, -0.0, 0.0];
            let floats: Vec<f64> = ints
                .iter()
                .enumerate()
                .map(|(i, v)| odd.get(i % 7).copied().unwrap_or(*v as f64 / 2.0))
                .collect();
            for with in [f64::NEG_INFINITY, -0.0, 3.5, f64::INFINITY, f64::NAN] {
                assert_eq!(floats_below(&floats, with), expected(&floats, |v| v < with));
                assert_eq!(
                    floats_up_to(&floats, with),
                    expected(&floats, |v| v <= with)
                );
            }
        }
    }
}
