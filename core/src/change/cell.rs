//! The bytes of cells.
//!
//! A cell begins with its class and ends by itself, so that cells can be put behind each other. Numbers are little-endian.

use super::hash::CellHash;

/// What stands in the place of a cell, within arrays and rows, for NULL. No class has this number.
pub const NULL: u8 = 0;

/// What a value is, as its cell's first byte. Values of different classes are never the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// `boolean`: 0 or 1.
    Boolean = 1,
    /// Integers of any width, as 64 bits.
    Integer = 2,
    /// Floats of any width, as 64 bits.
    Float = 3,
    /// `numeric`.
    Numeric = 4,
    /// Text of any type, in UTF-8, with its length in 32 bits before it.
    Text = 5,
    /// `bytea`, with its length in 32 bits before it.
    Bytes = 6,
    /// `date`: days since 2000-01-01 in 32 bits.
    Date = 7,
    /// `timestamp`: microseconds since 2000-01-01 in 64 bits.
    Timestamp = 8,
    /// `timestamptz`: microseconds since 2000-01-01 00:00 UTC in 64 bits.
    Timestamptz = 9,
    /// `time`: microseconds since midnight in 64 bits.
    Time = 10,
    /// `timetz`: as `time`, then seconds west of UTC in 32 bits.
    Timetz = 11,
    /// `interval`: microseconds in 128 bits, with days of 24 hours and months of 30 days.
    Interval = 12,
    /// `uuid`: its 16 bytes.
    Uuid = 13,
    /// `json`: its text, with its length in 32 bits before it.
    Json = 14,
    /// `jsonb`.
    Jsonb = 15,
    /// Arrays: number of dimensions, length and lower bound of each, elements.
    Array = 16,
    /// Ranges: flags, and the bounds that there are.
    Range = 17,
    /// Multiranges: number of ranges, and these without their class.
    Multirange = 18,
    /// Rows within rows: number of fields that are not NULL; these by their name.
    Row = 19,
    /// Enums: as text.
    Enum = 20,
    /// `oid`: 32 bits.
    Oid = 21,
    /// Any other type: its name and what its send function gives, each with its length before it.
    Other = 22,
    /// A type without a send function, where that is allowed: its name and what its output function gives.
    Written = 23,
}

impl Class {
    /// The first byte of its cells.
    pub const fn tag(self) -> u8 {
        self as u8
    }
}

/// `WIDTH` is one more than the value's bytes.
#[inline]
fn tagged<const WIDTH: usize>(class: Class, value: &[u8]) -> [u8; WIDTH] {
    let mut cell = [0; WIDTH];
    if let Some((tag, rest)) = cell.split_first_mut() {
        *tag = class.tag();
        for (to, from) in rest.iter_mut().zip(value) {
            *to = *from;
        }
    }
    cell
}

/// A boolean.
#[inline]
pub fn boolean(value: bool) -> [u8; 2] {
    tagged(Class::Boolean, &[u8::from(value)])
}

/// An integer: a column that becomes wider keeps its cells.
#[inline]
pub fn integer(value: i64) -> [u8; 9] {
    tagged(Class::Integer, &value.to_le_bytes())
}

/// The bits of a float. -0 is 0, and NaN is one value, as PostgreSQL compares them.
#[inline]
pub fn float_bits(value: f64) -> u64 {
    /// The quiet NaN without a payload.
    const NAN: u64 = 0x7ff8_0000_0000_0000;
    if value.is_nan() {
        NAN
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

/// A float.
#[inline]
pub fn float(value: f64) -> [u8; 9] {
    tagged(Class::Float, &float_bits(value).to_le_bytes())
}

/// An object identifier.
#[inline]
pub fn oid(value: u32) -> [u8; 5] {
    tagged(Class::Oid, &value.to_le_bytes())
}

/// A date in days since 2000-01-01; the outermost numbers are the infinities.
#[inline]
pub fn date(days: i32) -> [u8; 5] {
    tagged(Class::Date, &days.to_le_bytes())
}

/// A time or moment in microseconds, of class [`Class::Timestamp`], [`Class::Timestamptz`] or [`Class::Time`].
#[inline]
pub fn micros(class: Class, value: i64) -> [u8; 9] {
    tagged(class, &value.to_le_bytes())
}

/// A time with a zone, in seconds west of UTC. Other zones are other values, whatever moment they mean.
pub fn timetz(micros: i64, zone: i32) -> [u8; 13] {
    let value = u128::from(micros as u64) | u128::from(zone as u32) << 64;
    tagged(Class::Timetz, &value.to_le_bytes())
}

/// An interval as it compares: a month is 30 days, a day 24 hours. Infinities are the outermost numbers in each part.
pub fn interval(months: i32, days: i32, micros: i64) -> [u8; 17] {
    const DAY: i128 = 86_400_000_000;
    let days = i128::from(months) * 30 + i128::from(days);
    tagged(
        Class::Interval,
        &(days * DAY + i128::from(micros)).to_le_bytes(),
    )
}

/// A UUID.
pub fn uuid(value: &[u8; 16]) -> [u8; 17] {
    tagged(Class::Uuid, value)
}

/// Puts a length and that many bytes. No value of PostgreSQL's comes to 4 GiB, in whatever encoding.
#[inline]
pub fn put_sized(to: &mut CellHash, bytes: &[u8]) {
    to.put(&(bytes.len() as u32).to_le_bytes());
    to.put(bytes);
}

/// Puts a cell of class [`Class::Text`], [`Class::Bytes`], [`Class::Json`] or [`Class::Enum`]; text is in UTF-8.
#[inline]
pub fn put_bytes(to: &mut CellHash, class: Class, bytes: &[u8]) {
    to.put_cell(tagged::<5>(class, &(bytes.len() as u32).to_le_bytes()));
    to.put(bytes);
}

/// Puts a cell of class [`Class::Other`] or [`Class::Written`].
pub fn put_named(to: &mut CellHash, class: Class, type_name: &[u8], bytes: &[u8]) {
    to.put(&[class.tag()]);
    put_sized(to, type_name);
    put_sized(to, bytes);
}

/// A decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decimal<'a> {
    /// Digits to the base 10,000, the first one times 10,000 to the power of `weight`; none are 10,000 or more.
    Finite {
        /// Whether it is below zero.
        negative: bool,
        /// The power of the first digit.
        weight: i32,
        /// The digits, each as it lies in memory.
        digits: &'a [u8],
    },
    /// Not a number.
    NotANumber,
    /// Infinity.
    Infinity,
    /// Minus infinity.
    MinusInfinity,
}

/// The decimal digits of numbers below 10,000.
#[allow(clippy::indexing_slicing)] // Evaluated by the compiler, which would complain.
static DIGITS: [[u8; 4]; 10_000] = {
    let mut all = [[0; 4]; 10_000];
    let mut number = 0;
    while number < all.len() {
        all[number] = [
            b'0' + (number / 1000) as u8,
            b'0' + (number / 100 % 10) as u8,
            b'0' + (number / 10 % 10) as u8,
            b'0' + (number % 10) as u8,
        ];
        number += 1;
    }
    all
};

/// How many digits are made into text at a time.
const DIGITS_AT_A_TIME: usize = 64;

/// Puts a cell of class [`Class::Numeric`]; false where a digit is 10,000 or more, and then the cell is not whole.
#[must_use]
pub fn put_decimal(to: &mut CellHash, number: Decimal) -> bool {
    to.put_cell([Class::Numeric.tag()]);
    put_number(to, number)
}

/// Puts what follows the class in a cell of [`Class::Numeric`]: 0 for zero, 1 for positive and 2 for negative numbers, 3 for
/// NaN, 4 and 5 for the infinities. For 1 and 2, the number's digits as a whole number that does not end with 0 follow, in
/// ASCII with their length before them, and before that the power of ten that it is multiplied by. So its scale is left out.
#[must_use]
pub fn put_number(to: &mut CellHash, number: Decimal) -> bool {
    let (negative, weight, digits) = match number {
        Decimal::NotANumber => return put_kind(to, 3),
        Decimal::Infinity => return put_kind(to, 4),
        Decimal::MinusInfinity => return put_kind(to, 5),
        Decimal::Finite {
            negative,
            weight,
            digits,
        } => (negative, weight, digits),
    };
    let (digits, _) = digits.as_chunks::<2>();
    let (mut digits, mut weight) = (digits, weight);
    while let [[0, 0], rest @ ..] = digits {
        (digits, weight) = (rest, weight.wrapping_sub(1));
    }
    while let [rest @ .., [0, 0]] = digits {
        digits = rest;
    }
    let ([first, ..], [.., last]) = (digits, digits) else {
        return put_kind(to, 0);
    };
    let (Some(first), Some(last)) = (decimal(*first), decimal(*last)) else {
        return false;
    };
    let leading = first.iter().take_while(|c| **c == b'0').count();
    let trailing = last.iter().rev().take_while(|c| **c == b'0').count();
    let count = 4 * digits.len() - leading - trailing;
    let lowest = i64::from(weight) - (digits.len() as i64 - 1);
    let exponent = 4 * lowest + trailing as i64;
    let [e0, e1, e2, e3, ..] = exponent.to_le_bytes();
    let [c0, c1, c2, c3] = (count as u32).to_le_bytes();
    to.put_cell([1 + u8::from(negative), e0, e1, e2, e3, c0, c1, c2, c3]);
    let mut skip = leading;
    let mut left = count;
    for digits in digits.chunks(DIGITS_AT_A_TIME) {
        let mut text = [[0; 4]; DIGITS_AT_A_TIME];
        for (to, digit) in text.iter_mut().zip(digits) {
            match decimal(*digit) {
                Some(digit) => *to = digit,
                None => return false,
            }
        }
        let text = text.as_flattened();
        let text = text.get(skip..(4 * digits.len()).min(skip + left));
        let text = text.unwrap_or_default();
        to.put(text);
        left -= text.len();
        skip = 0;
    }
    true
}

fn put_kind(to: &mut CellHash, kind: u8) -> bool {
    to.put_cell([kind]);
    true
}

#[inline]
fn decimal(digit: [u8; 2]) -> Option<[u8; 4]> {
    DIGITS.get(usize::from(u16::from_ne_bytes(digit))).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn number(number: Decimal) -> Option<Vec<u8>> {
        let mut cell = CellHash::default();
        cell.begin_xxh3(0);
        put_decimal(&mut cell, number).then(|| cell.bytes().unwrap().to_vec())
    }

    fn finite(negative: bool, weight: i32, digits: &[u16]) -> Option<Vec<u8>> {
        let bytes: Vec<u8> = digits.iter().flat_map(|d| d.to_ne_bytes()).collect();
        number(Decimal::Finite {
            negative,
            weight,
            digits: &bytes,
        })
    }

    fn expected(kind: u8, exponent: i32, digits: &str) -> Option<Vec<u8>> {
        let mut cell = vec![4, kind];
        cell.extend_from_slice(&exponent.to_le_bytes());
        cell.extend_from_slice(&(digits.len() as u32).to_le_bytes());
        cell.extend_from_slice(digits.as_bytes());
        Some(cell)
    }

    #[test]
    fn classes_have_their_numbers() {
        assert_eq!(boolean(true), [1, 1]);
        assert_eq!(integer(-2), [2, 0xfe, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(float(1.0), [3, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(oid(258), [21, 2, 1, 0, 0]);
        assert_eq!(date(-1), [7, 255, 255, 255, 255]);
        assert_eq!(micros(Class::Time, 1), [10, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            timetz(1, -3600),
            [11, 1, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xf1, 255, 255]
        );
        assert_eq!(interval(0, 0, 1)[..3], [12, 1, 0]);
        assert_eq!(uuid(&[9; 16])[..2], [13, 9]);
        assert_eq!(Class::Written.tag(), 23);
    }

    #[test]
    fn floats_that_compare_equal_are_one() {
        assert_eq!(float(-0.0), float(0.0));
        assert_eq!(
            float(f64::from_bits(0xfff8_0000_0000_0123)),
            float(f64::NAN)
        );
        assert_eq!(float(f64::NAN)[7..], [0xf8, 0x7f]);
        assert_ne!(float(f64::INFINITY), float(f64::NAN));
        assert_ne!(float(f64::MIN_POSITIVE), float(0.0));
    }

    #[test]
    fn intervals_are_spans() {
        assert_eq!(interval(1, 0, 0), interval(0, 30, 0));
        assert_eq!(interval(0, 1, 0), interval(0, 0, 86_400_000_000));
        assert_eq!(interval(-1, 30, 0), interval(0, 0, 0));
        assert_ne!(interval(0, 0, 1), interval(0, 0, -1));
        assert_ne!(
            interval(i32::MAX, i32::MAX, i64::MAX),
            interval(i32::MIN, i32::MIN, i64::MIN)
        );
    }

    #[test]
    fn decimals_are_digits_and_a_power_of_ten() {
        assert_eq!(finite(false, 0, &[]), Some(vec![4, 0]));
        assert_eq!(finite(true, 3, &[0, 0]), Some(vec![4, 0]));
        assert_eq!(finite(false, 0, &[1]), expected(1, 0, "1"));
        assert_eq!(finite(true, 0, &[120]), expected(2, 1, "12"));
        // 1234567.089 lies as 123 4567 0890.
        assert_eq!(
            finite(false, 1, &[123, 4567, 890]),
            expected(1, -3, "1234567089")
        );
        // Zeros on both sides, as no server writes them, change nothing.
        assert_eq!(
            finite(false, 2, &[0, 123, 4567, 890, 0]),
            expected(1, -3, "1234567089")
        );
        assert_eq!(finite(false, -1, &[1000]), expected(1, -1, "1"));
        assert_eq!(finite(false, -2, &[1]), expected(1, -8, "1"));
        assert_eq!(number(Decimal::NotANumber), Some(vec![4, 3]));
        assert_eq!(number(Decimal::Infinity), Some(vec![4, 4]));
        assert_eq!(number(Decimal::MinusInfinity), Some(vec![4, 5]));
    }

    #[test]
    fn decimals_of_many_digits() {
        for count in [1, 2, 63, 64, 65, 127, 128, 129, 5000] {
            let mut digits = vec![10; count];
            digits[0] = 5;
            let text: String = std::iter::once("5".to_string())
                .chain((1..count).map(|_| "0010".to_string()))
                .collect();
            let kept = text.trim_end_matches('0');
            let zeros = (text.len() - kept.len()) as i32;
            assert_eq!(
                finite(false, 0, &digits),
                expected(1, zeros - 4 * (count as i32 - 1), kept),
                "{count}"
            );
        }
    }

    #[test]
    fn digits_that_are_none_are_refused() {
        assert_eq!(finite(false, 0, &[10_000]), None);
        assert_eq!(finite(false, 0, &[1, 65_535, 1]), None);
        assert_eq!(finite(false, 0, &[1, 1, 10_000]), None);
    }
}
