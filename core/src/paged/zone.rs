//! What is known of the rows of a page, or of a column, without decoding them.
//!
//! Stored form: rows (4), NULLs (4), tags (1: bounds in the low four bits, sum in the high), then
//! the bounds and the sum, little-endian:
//! - bounds `0` none; `1` integers: min (8), max (8); `2` floats: min (8), max (8); `3` bytes: flags
//!   (1; bit 0 the min is exact, bit 1 the max is), length (1) and bytes of the min, then of the max;
//! - sum `0` none; `1` integer (16); `2` float (8).

use std::cmp::Ordering;

use crate::error::CoreError;
use crate::wire::Reader;

/// How many bytes of a string stand in a zone.
pub const BOUND_BYTES: usize = 32;

/// Whether it is -0. As a bound it says that zeros have signs, but not which of them.
#[inline]
pub fn is_negative_zero(value: f64) -> bool {
    value.to_bits() == (-0.0f64).to_bits()
}

/// Counts, bounds and sum of some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// How many rows there are.
    pub rows: u32,
    /// How many of them are NULL.
    pub nulls: u32,
    /// Between what the others lie.
    pub bounds: Bounds,
    /// What the others add up to.
    pub sum: Sum,
}

/// Smallest and largest value of some rows, NULLs apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Bounds {
    /// Every row is NULL, or there is none.
    None,
    /// Of an integer column.
    Int {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// Of a float column, in PostgreSQL's order: NaN above all, -0 equal to 0. A bound that is zero is -0 where any of the
    /// values is, and so is a sum of nothing else.
    Float {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// Of a column of bytes, in the order of `memcmp`, cut to [`BOUND_BYTES`].
    Bytes {
        /// The smallest, or when cut, less than it.
        min: Box<[u8]>,
        /// The largest; when cut, it stands for every string that begins with it.
        max: Box<[u8]>,
        /// Whether the smallest is given in full.
        min_exact: bool,
        /// Whether the largest is given in full.
        max_exact: bool,
    },
}

/// Sum of some rows, NULLs apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sum {
    /// No number to add up.
    None,
    /// Of integers, exact.
    Int(i128),
    /// Of floats, single-precision ones added as doubles; NaN or infinite where a value is, or
    /// where the sum overflows.
    Float(f64),
}

impl Zone {
    /// The zone of no rows.
    pub fn empty() -> Self {
        Self {
            rows: 0,
            nulls: 0,
            bounds: Bounds::None,
            sum: Sum::None,
        }
    }

    /// Takes in the rows of another zone of the same column.
    pub fn merge(&mut self, other: &Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.nulls = self.nulls.saturating_add(other.nulls);
        self.bounds.merge(&other.bounds);
        self.sum = match (self.sum, other.sum) {
            (Sum::None, sum) | (sum, Sum::None) => sum,
            (Sum::Int(a), Sum::Int(b)) => Sum::Int(a.saturating_add(b)),
            (Sum::Float(a), Sum::Float(b)) => Sum::Float(a + b),
            _ => Sum::None,
        };
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads the stored form, of which `bytes` must hold exactly one.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CoreError> {
        let mut reader = Reader::new(bytes);
        let zone = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(zone)
    }

    /// Appends the stored form.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.nulls.to_le_bytes());
        let bounds = match self.bounds {
            Bounds::None => 0,
            Bounds::Int { .. } => 1,
            Bounds::Float { .. } => 2,
            Bounds::Bytes { .. } => 3,
        };
        let sum = match self.sum {
            Sum::None => 0,
            Sum::Int(_) => 1,
            Sum::Float(_) => 2,
        };
        out.push(bounds | sum << 4);
        match &self.bounds {
            Bounds::None => {}
            Bounds::Int { min, max } => {
                out.extend_from_slice(&min.to_le_bytes());
                out.extend_from_slice(&max.to_le_bytes());
            }
            Bounds::Float { min, max } => {
                out.extend_from_slice(&min.to_le_bytes());
                out.extend_from_slice(&max.to_le_bytes());
            }
            Bounds::Bytes {
                min,
                max,
                min_exact,
                max_exact,
            } => {
                out.push(u8::from(*min_exact) | u8::from(*max_exact) << 1);
                for bound in [min, max] {
                    let bound = cut(bound).0;
                    out.push(bound.len() as u8);
                    out.extend_from_slice(bound);
                }
            }
        }
        match self.sum {
            Sum::None => {}
            Sum::Int(sum) => out.extend_from_slice(&sum.to_le_bytes()),
            Sum::Float(sum) => out.extend_from_slice(&sum.to_le_bytes()),
        }
    }

    /// Reads the stored form.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CoreError> {
        let rows = reader.u32()?;
        let nulls = reader.u32()?;
        if nulls > rows {
            return Err(CoreError::corrupt(format!(
                "{nulls} NULLs among {rows} rows"
            )));
        }
        let tags = reader.u8()?;
        let bounds = match tags & 0x0f {
            0 => Bounds::None,
            1 => Bounds::Int {
                min: i64::from_le_bytes(reader.array()?),
                max: i64::from_le_bytes(reader.array()?),
            },
            2 => Bounds::Float {
                min: f64::from_le_bytes(reader.array()?),
                max: f64::from_le_bytes(reader.array()?),
            },
            3 => {
                let flags = reader.u8()?;
                let mut bound = || {
                    let len = usize::from(reader.u8()?);
                    if len > BOUND_BYTES || flags > 3 {
                        return Err(CoreError::corrupt("a zone's bounds are malformed"));
                    }
                    reader.take(len).map(Box::from)
                };
                Bounds::Bytes {
                    min: bound()?,
                    max: bound()?,
                    min_exact: flags & 1 != 0,
                    max_exact: flags & 2 != 0,
                }
            }
            tag => return Err(CoreError::corrupt(format!("unknown bounds {tag}"))),
        };
        let sum = match tags >> 4 {
            0 => Sum::None,
            1 => Sum::Int(i128::from_le_bytes(reader.array()?)),
            2 => Sum::Float(f64::from_le_bytes(reader.array()?)),
            tag => return Err(CoreError::corrupt(format!("unknown sum {tag}"))),
        };
        Ok(Self {
            rows,
            nulls,
            bounds,
            sum,
        })
    }
}

impl Bounds {
    /// The bounds of strings whose smallest and largest are given in full.
    pub(crate) fn of_bytes(min: &[u8], max: &[u8]) -> Self {
        let (min, min_exact) = cut(min);
        let (max, max_exact) = cut(max);
        Self::Bytes {
            min: min.into(),
            max: max.into(),
            min_exact,
            max_exact,
        }
    }

    fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::None) => {}
            (Self::None, other) => *self = other.clone(),
            (Self::Int { min, max }, Self::Int { min: a, max: b }) => {
                *min = (*min).min(*a);
                *max = (*max).max(*b);
            }
            (Self::Float { min, max }, Self::Float { min: a, max: b }) => {
                // Of zeros the negative one stays.
                if compare_floats(*a, *min).is_lt() || *min == 0.0 && is_negative_zero(*a) {
                    *min = *a;
                }
                if compare_floats(*b, *max).is_gt() || *max == 0.0 && is_negative_zero(*b) {
                    *max = *b;
                }
            }
            (
                Self::Bytes {
                    min,
                    max,
                    min_exact,
                    max_exact,
                },
                Self::Bytes {
                    min: a,
                    max: b,
                    min_exact: a_exact,
                    max_exact: b_exact,
                },
            ) => {
                // Of equal lower bounds a cut one belongs to a longer string, so an exact one is the smaller.
                match a.cmp(min) {
                    Ordering::Less => {
                        min.clone_from(a);
                        *min_exact = *a_exact;
                    }
                    Ordering::Equal => *min_exact |= *a_exact,
                    Ordering::Greater => {}
                }
                match b.cmp(max) {
                    Ordering::Greater => {
                        max.clone_from(b);
                        *max_exact = *b_exact;
                    }
                    Ordering::Equal => *max_exact &= *b_exact,
                    Ordering::Less => {}
                }
            }
            // Bounds of different kinds cannot meet in one column; nothing is known of such rows.
            _ => *self = Self::None,
        }
    }
}

/// The first bytes of a string that a zone keeps, and whether they are all of it.
pub(crate) fn cut(value: &[u8]) -> (&[u8], bool) {
    match value.split_at_checked(BOUND_BYTES) {
        Some((head, rest)) => (head, rest.is_empty()),
        None => (value, true),
    }
}

/// PostgreSQL's order of floats.
pub(crate) fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(bounds: Bounds, sum: Sum) -> Zone {
        Zone {
            rows: 10,
            nulls: 2,
            bounds,
            sum,
        }
    }

    fn zones() -> Vec<Zone> {
        vec![
            zone(Bounds::None, Sum::None),
            zone(
                Bounds::Int {
                    min: i64::MIN,
                    max: 7,
                },
                Sum::Int(-1 << 100),
            ),
            zone(
                Bounds::Float {
                    min: f64::NEG_INFINITY,
                    max: 1.5,
                },
                Sum::Float(f64::NEG_INFINITY),
            ),
            zone(Bounds::of_bytes(b"", &[b'x'; 40]), Sum::None),
        ]
    }

    #[test]
    fn stored_forms_come_back() {
        for zone in zones() {
            let bytes = zone.to_bytes();
            assert_eq!(Zone::from_bytes(&bytes), Ok(zone));
            for end in 0..bytes.len() {
                assert!(Zone::from_bytes(&bytes[..end]).is_err());
            }
            assert!(Zone::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn cut_bounds_say_so() {
        let Bounds::Bytes {
            min_exact,
            max_exact,
            max,
            ..
        } = Bounds::of_bytes(&[b'a'; 32], &[b'x'; 33])
        else {
            panic!("not bytes");
        };
        assert!(min_exact && !max_exact);
        assert_eq!(max.len(), 32);
    }

    #[test]
    fn merging_takes_the_outer_bounds() {
        let mut all = Zone::empty();
        for (min, max) in [(3, 9), (-4, 2)] {
            all.merge(&zone(Bounds::Int { min, max }, Sum::Int(5)));
        }
        assert_eq!(all.bounds, Bounds::Int { min: -4, max: 9 });
        assert_eq!((all.rows, all.nulls, all.sum), (20, 4, Sum::Int(10)));

        let mut all = Zone::empty();
        for (min, max) in [(f64::NAN, f64::NAN), (0.0, f64::INFINITY)] {
            all.merge(&zone(Bounds::Float { min, max }, Sum::None));
        }
        assert!(matches!(all.bounds, Bounds::Float { min: 0.0, max } if max.is_nan()));

        let long = [b'm'; 40];
        let mut all = zone(Bounds::of_bytes(&long, &long), Sum::None);
        all.merge(&zone(Bounds::of_bytes(&long[..32], &long[..32]), Sum::None));
        assert_eq!(
            all.bounds,
            Bounds::Bytes {
                min: long[..32].into(),
                max: long[..32].into(),
                min_exact: true,
                max_exact: false,
            }
        );
    }
}
