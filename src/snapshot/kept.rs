//! How types are kept in Parquet.

use pgrx::pg_sys;
use varve_core::backup::snapshot::Kept;

/// A column's type, as far as its values are concerned.
#[derive(Clone, Copy)]
pub struct Shape {
    /// How values are kept, or the elements of arrays.
    pub kept: Kept,
    /// The type of the values, or of the elements of arrays.
    pub typ: pg_sys::Oid,
    /// Its modifier.
    pub typmod: i32,
    /// Whether the column has arrays of it.
    pub array: bool,
}

impl Shape {
    /// That of a column.
    pub fn of(typ: pg_sys::Oid, typmod: i32) -> Self {
        let vector = typ == pg_sys::INT2VECTOROID || typ == pg_sys::OIDVECTOROID;
        // SAFETY: a catalogue look-up.
        let element = unsafe { pg_sys::get_element_type(typ) };
        let array = element != pg_sys::InvalidOid && !vector;
        let typ = if array { element } else { typ };
        Shape {
            kept: kept(typ, typmod),
            typ,
            typmod,
            array,
        }
    }
}

/// Precision and scale of `numeric`'s modifier (`numeric_typmod_precision` and `numeric_typmod_scale` of `utils/adt/numeric.c`).
fn decimal(typmod: i32) -> Option<(u8, u8)> {
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = u8::try_from((packed >> 16) & 0xFFFF).ok()?;
    let scale = u8::try_from(((packed & 0x7FF) ^ 1024) - 1024).ok()?;
    ((1..=38).contains(&precision) && scale <= precision).then_some((precision, scale))
}

fn kept(typ: pg_sys::Oid, typmod: i32) -> Kept {
    match typ {
        pg_sys::BOOLOID => Kept::Boolean,
        pg_sys::INT2OID => Kept::Int16,
        pg_sys::INT4OID => Kept::Int32,
        pg_sys::INT8OID => Kept::Int64,
        pg_sys::FLOAT4OID => Kept::Float,
        pg_sys::FLOAT8OID => Kept::Double,
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Kept::Text,
        pg_sys::BYTEAOID => Kept::Bytes,
        pg_sys::DATEOID => Kept::Date,
        pg_sys::TIMESTAMPOID => Kept::Timestamp,
        pg_sys::TIMESTAMPTZOID => Kept::Timestamptz,
        pg_sys::TIMEOID => Kept::Time,
        pg_sys::UUIDOID => Kept::Uuid,
        pg_sys::JSONOID | pg_sys::JSONBOID => Kept::Json,
        pg_sys::NUMERICOID => match decimal(typmod) {
            Some((precision, scale)) => Kept::Decimal { precision, scale },
            None => Kept::Output,
        },
        _ => Kept::Output,
    }
}

/// Days and microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Bounds of dates and times that PostgreSQL takes, the second one left out (`datatype/timestamp.h`).
const DATES: std::ops::Range<i32> = -2_451_545..2_145_031_949;
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A date as days since 1970; its infinities are the outermost numbers in both.
pub fn date_out(date: i32) -> i32 {
    match date {
        i32::MIN | i32::MAX => date,
        // The last date that there is lies well below.
        _ => date.wrapping_add(EPOCH_DAYS),
    }
}

/// The reverse of [`date_out`]; `None` where there is no such date.
pub fn date_in(days: i32) -> Option<i32> {
    match days {
        i32::MIN | i32::MAX => Some(days),
        _ => days.checked_sub(EPOCH_DAYS).filter(|d| DATES.contains(d)),
    }
}

/// A timestamp as microseconds since 1970; its infinities are the outermost numbers in both. From 294247-01-10 on they do not
/// fit, and go on from the smallest number but one, far below 4713 BC.
pub fn timestamp_out(at: i64) -> i64 {
    match at {
        i64::MIN | i64::MAX => at,
        _ => match at.checked_add(EPOCH_MICROS) {
            Some(micros) if micros != i64::MAX => micros,
            _ => at.wrapping_add(EPOCH_MICROS).wrapping_add(2),
        },
    }
}

/// The reverse of [`timestamp_out`]; `None` where there is no such timestamp.
pub fn timestamp_in(micros: i64) -> Option<i64> {
    let at = match micros {
        i64::MIN | i64::MAX => return Some(micros),
        _ => match micros.checked_sub(EPOCH_MICROS) {
            Some(at) => at,
            None => micros.wrapping_sub(2).wrapping_sub(EPOCH_MICROS),
        },
    };
    TIMESTAMPS.contains(&at).then_some(at)
}

/// The largest time of a day, 24:00:00, in microseconds.
pub const LAST_TIME: i64 = 86_400_000_000;

/// `NaN` among decimals.
pub const NAN: i128 = i128::MIN;

/// A decimal from the text that `numeric` gives; `None` where it is none of that scale.
pub fn decimal_out(text: &str, scale: u8) -> Option<i128> {
    if text == "NaN" {
        return Some(NAN);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let missing = usize::from(scale).checked_sub(fraction.len())?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    digits.parse().ok()
}

/// The reverse of [`decimal_out`].
pub fn decimal_in(value: i128, scale: u8) -> String {
    if value == NAN {
        return "NaN".into();
    }
    let sign = if value < 0 { "-" } else { "" };
    let scale = usize::from(scale);
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    match fraction {
        "" => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_come_back() {
        for at in [
            i64::MIN,
            i64::MAX,
            TIMESTAMPS.start,
            TIMESTAMPS.end - 1,
            0,
            -1,
            i64::MAX - EPOCH_MICROS,
            i64::MAX - EPOCH_MICROS - 1,
            i64::MAX - EPOCH_MICROS + 1,
            i64::MAX - EPOCH_MICROS + 2,
        ] {
            assert_eq!(timestamp_in(timestamp_out(at)), Some(at), "{at}");
        }
        assert_eq!(timestamp_in(i64::MIN + 1_000_000_000_000_000), None);
        assert_eq!(timestamp_in(TIMESTAMPS.start), None);
        for date in [i32::MIN, i32::MAX, DATES.start, DATES.end - 1, 0] {
            assert_eq!(date_in(date_out(date)), Some(date));
        }
        assert_eq!(date_in(i32::MIN + 1), None);
        for (text, scale) in [
            ("NaN", 2),
            ("0.00", 2),
            ("-0.05", 2),
            ("12", 0),
            ("-99999999999999999999999999999999999999", 0),
            ("0.99999999999999999999999999999999999999", 38),
        ] {
            let value = decimal_out(text, scale);
            assert_eq!(value.map(|v| decimal_in(v, scale)), Some(text.to_string()));
        }
        assert_eq!(decimal_out("1.234", 2), None);
    }
}
