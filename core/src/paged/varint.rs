//! Numbers of few bytes: LEB128, seven bits a byte, lowest first; signed ones zigzag-coded before.

use crate::error::CoreError;
use crate::wire::Reader;

pub(crate) fn write_u128(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn write_u64(out: &mut Vec<u8>, value: u64) {
    write_u128(out, u128::from(value));
}

pub(crate) fn write_usize(out: &mut Vec<u8>, value: usize) {
    write_u128(out, value as u128);
}

pub(crate) fn write_i64(out: &mut Vec<u8>, value: i64) {
    write_u64(out, zigzag(value));
}

pub(crate) fn read_u128(reader: &mut Reader<'_>) -> Result<u128, CoreError> {
    let mut value = 0u128;
    for shift in (0..128).step_by(7) {
        let byte = reader.u8()?;
        let bits = u128::from(byte & 0x7f);
        if shift == 126 && bits > 3 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CoreError::corrupt("a number of more than 128 bits"))
}

pub(crate) fn read_u64(reader: &mut Reader<'_>) -> Result<u64, CoreError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = reader.u8()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CoreError::corrupt("a number of more than 64 bits"))
}

pub(crate) fn read_i64(reader: &mut Reader<'_>) -> Result<i64, CoreError> {
    read_u64(reader).map(unzigzag)
}

/// A length or count of at most `limit`.
pub(crate) fn read_usize(reader: &mut Reader<'_>, limit: usize) -> Result<usize, CoreError> {
    let value = read_u64(reader)?;
    usize::try_from(value)
        .ok()
        .filter(|value| *value <= limit)
        .ok_or_else(|| CoreError::corrupt(format!("{value} where at most {limit} may stand")))
}

/// Small numbers of either sign to small numbers.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(a in any::<u128>(), b in any::<i64>(), shift in 0u32..128) {
            let mut out = Vec::new();
            write_u128(&mut out, a >> shift);
            write_i64(&mut out, b);
            write_i64(&mut out, b >> (shift / 2));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(read_u128(&mut reader), Ok(a >> shift));
            prop_assert_eq!(read_i64(&mut reader), Ok(b));
            prop_assert_eq!(read_i64(&mut reader), Ok(b >> (shift / 2)));
            prop_assert!(reader.finish().is_ok());
            let mut out = Vec::new();
            write_u64(&mut out, (a as u64) >> (shift / 2));
            prop_assert_eq!(read_u64(&mut Reader::new(&out)), Ok((a as u64) >> (shift / 2)));
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = read_u128(&mut Reader::new(&bytes));
            let _ = read_u64(&mut Reader::new(&bytes));
        }
    }

    #[test]
    fn limits_hold() {
        let mut out = Vec::new();
        write_u128(&mut out, u128::MAX);
        assert_eq!(read_u128(&mut Reader::new(&out)), Ok(u128::MAX));
        assert!(read_u64(&mut Reader::new(&out)).is_err());
        let mut out = Vec::new();
        write_u128(&mut out, 1 << 64);
        assert!(read_u64(&mut Reader::new(&out)).is_err());
        out.clear();
        write_u64(&mut out, u64::MAX);
        assert_eq!(read_u64(&mut Reader::new(&out)), Ok(u64::MAX));
        assert!(read_usize(&mut Reader::new(&[9]), 8).is_err());
        assert_eq!(read_usize(&mut Reader::new(&[8]), 8), Ok(8));
    }
}
