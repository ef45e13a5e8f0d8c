//! Moments.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A moment, to the microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(DateTime<Utc>);

/// How it is written behind the date and time.
const ZONES: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];

impl Timestamp {
    /// The present one.
    pub fn now() -> Self {
        let now = Utc::now();
        DateTime::from_timestamp_micros(now.timestamp_micros()).map_or(Self(now), Self)
    }

    /// Seconds from another one to this.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0).as_seconds_f64()
    }

    /// So long before this one; the earliest that there is, if there is none so early.
    pub fn before(self, time: std::time::Duration) -> Self {
        let earlier = chrono::Duration::from_std(time)
            .ok()
            .and_then(|time| self.0.checked_sub_signed(time));
        Self(earlier.unwrap_or(DateTime::<Utc>::MIN_UTC))
    }

    /// As PostgreSQL takes it: `2026-11-29 08:00:00.000000+00`.
    pub fn for_postgresql(self) -> String {
        self.0.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
    }

    /// As the beginning of a backup's id: `20261129T080000123`.
    pub(super) fn for_id(self) -> String {
        let text = self.0.format("%Y%m%dT%H%M%S%.3f").to_string();
        text.replace('.', "")
    }
}

impl fmt::Display for Timestamp {
    /// `2026-11-29T08:00:00.000000Z`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl FromStr for Timestamp {
    type Err = String;

    /// Takes a date, a time and a zone: `2026-11-29 08:00:00+09`, `2026-11-29T08:00:00.5Z`.
    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let zoned = match trimmed.strip_suffix("UTC").or(trimmed.strip_suffix('Z')) {
            Some(bare) => format!("{}+00", bare.trim_end()),
            None => trimmed.to_owned(),
        };
        ZONES
            .iter()
            .find_map(|format| DateTime::parse_from_str(&zoned, format).ok())
            .map(|time| Self(time.to_utc()))
            .ok_or_else(|| {
                format!(
                    "\"{text}\" is no moment: write it as 2026-11-29 08:00:00+00, with its zone"
                )
            })
    }
}

impl TryFrom<String> for Timestamp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_written() {
        for (text, same) in [
            ("2026-11-29T08:00:00Z", "2026-11-29T08:00:00.000000Z"),
            ("2026-11-29 08:00:00+09", "2026-11-28T23:00:00.000000Z"),
            (
                "2026-11-29 08:00:00.25-03:30",
                "2026-11-29T11:30:00.250000Z",
            ),
            ("2026-11-29 08:00:00 UTC", "2026-11-29T08:00:00.000000Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), same);
        }
        for wrong in [
            "",
            "2026-11-29",
            "2026-11-29 08:00:00",
            "2026-13-01 00:00:00Z",
            "now",
        ] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
        let moment: Timestamp = "2026-11-29T08:00:00.123Z".parse().unwrap();
        assert_eq!(moment.for_postgresql(), "2026-11-29 08:00:00.123000+00");
        assert_eq!(moment.for_id(), "20261129T080000123");
    }
}
