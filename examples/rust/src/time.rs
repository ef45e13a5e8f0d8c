//! Points in time, as files write them. A program that has `chrono` or `jiff` uses those; the `postgres` crate knows them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Microseconds since 1970-01-01 00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(i64);

impl Timestamp {
    /// So many microseconds after 1970-01-01 00:00Z.
    pub fn micros(micros: i64) -> Self {
        Timestamp(micros)
    }
}

/// Takes a number of `digits` digits from the front.
fn number(text: &mut &str, digits: usize) -> Option<i64> {
    let (front, rest) = text.split_at_checked(digits)?;
    *text = rest;
    front
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| front.parse().ok())?
}

/// Takes a character from the front, if it is there.
fn skip(text: &mut &str, c: char) -> bool {
    let rest = text.strip_prefix(c);
    *text = rest.unwrap_or(text);
    rest.is_some()
}

/// Takes a number behind a separator, if it is there; 0 else.
fn next(text: &mut &str, separator: char) -> Option<i64> {
    if skip(text, separator) {
        number(text, 2)
    } else {
        Some(0)
    }
}

/// Days from 1970-01-01 to a date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The other way round: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn parse(text: &mut &str) -> Option<i64> {
    let year = number(text, 4)?;
    let month = skip(text, '-').then(|| number(text, 2))??;
    let day = skip(text, '-').then(|| number(text, 2))??;
    let days = days_from_civil(year, month, day);
    if !(1..=12).contains(&month) || civil_from_days(days) != (year, month, day) {
        return None;
    }
    let mut micros = days * DAY;
    if !skip(text, 'T') && !skip(text, ' ') {
        return Some(micros);
    }
    let hour = number(text, 2)?;
    let minute = skip(text, ':').then(|| number(text, 2))??;
    let second = next(text, ':')?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    micros += (hour * 3600 + minute * 60 + second) * SECOND;
    if skip(text, '.') {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=6).contains(&digits) {
            return None;
        }
        micros += number(text, digits)? * 10_i64.pow(6 - digits as u32);
    }
    if skip(text, 'Z') {
        return Some(micros);
    }
    let east = skip(text, '+');
    if !east && !skip(text, '-') {
        // No zone: UTC.
        return Some(micros);
    }
    let offset = number(text, 2)? * 3600 + next(text, ':')? * 60;
    Some(micros - if east { offset } else { -offset } * SECOND)
}

impl FromStr for Timestamp {
    type Err = &'static str;

    /// Reads ISO 8601: a date, or date and time, up to microseconds; UTC where no zone is named.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        match parse(&mut rest) {
            Some(micros) if rest.is_empty() => Ok(Timestamp(micros)),
            _ => Err("no point in time as ISO 8601 writes it"),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY));
        let micros = self.0.rem_euclid(DAY);
        let (seconds, micros) = (micros / SECOND, micros % SECOND);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        let distance = Duration::from_micros(at.0.unsigned_abs());
        if at.0 < 0 {
            UNIX_EPOCH - distance
        } else {
            UNIX_EPOCH + distance
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX);
        Timestamp(match at.duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Timestamp;
    use std::time::SystemTime;

    #[test]
    fn reads_and_writes_points_in_time() {
        for (text, written) in [
            ("2018-02-07", "2018-02-07T00:00:00.000000Z"),
            ("2024-02-29 23:59", "2024-02-29T23:59:00.000000Z"),
            ("2024-02-29T23:59:58.5Z", "2024-02-29T23:59:58.500000Z"),
            ("2025-01-01T00:30:00+01:00", "2024-12-31T23:30:00.000000Z"),
            (
                "2024-12-31 19:00:00.000001-05",
                "2025-01-01T00:00:00.000001Z",
            ),
            ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
            ("0001-01-01", "0001-01-01T00:00:00.000000Z"),
            ("1900-03-01", "1900-03-01T00:00:00.000000Z"),
        ] {
            let at: Timestamp = text.parse().unwrap();
            assert_eq!(at.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(at));
            assert_eq!(Timestamp::from(SystemTime::from(at)), at);
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "2024",
            "2024-13-01",
            "2023-02-29",
            "1900-02-29",
            "2024-00-10",
            "2024-01-00",
            "2024-01-01T",
            "2024-01-01 24:00",
            "2024-01-01 10:60",
            "2024-01-01 10:00:00.",
            "2024-01-01 10:00:00.1234567",
            "2024-01-01 10:00 ",
            "2024-01-01x",
            "2024-01-01T10:00+",
            "+024-01-01",
            "２024-01-01",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
    }
}
