//! `numeric` as it lies on disk.

use varve_core::change::cell::Decimal;

// The header's bits, of `utils/adt/numeric.c`.
const SIGN: u16 = 0xC000;
const NEGATIVE: u16 = 0x4000;
const SHORT: u16 = 0x8000;
const SPECIAL: u16 = 0xC000;
const SHORT_NEGATIVE: u16 = 0x2000;
const SHORT_WEIGHT_BELOW: u16 = 0x0040;
const SHORT_WEIGHT: u16 = 0x003F;
const WHICH_SPECIAL: u16 = 0xF000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// Takes a value apart, which is given without its length; `None` where it is damaged.
pub fn parse(bytes: &[u8]) -> Option<Decimal<'_>> {
    let (header, rest) = bytes.split_first_chunk::<2>()?;
    let header = u16::from_ne_bytes(*header);
    let (negative, weight, digits) = match header & SIGN {
        SPECIAL => {
            return Some(match header & WHICH_SPECIAL {
                INFINITY => Decimal::Infinity,
                MINUS_INFINITY => Decimal::MinusInfinity,
                _ => Decimal::NotANumber,
            });
        }
        SHORT => {
            let weight = i32::from(header & SHORT_WEIGHT);
            let below = i32::from(header & SHORT_WEIGHT_BELOW);
            (header & SHORT_NEGATIVE != 0, weight - below, rest)
        }
        sign => {
            let (weight, digits) = rest.split_first_chunk::<2>()?;
            (sign == NEGATIVE, i16::from_ne_bytes(*weight).into(), digits)
        }
    };
    digits.len().is_multiple_of(2).then_some(Decimal::Finite {
        negative,
        weight,
        digits,
    })
}
