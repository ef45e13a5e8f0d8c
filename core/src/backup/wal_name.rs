//! Names of the files that PostgreSQL archives.

use std::fmt;
use std::str::FromStr;

use super::lsn::Lsn;

/// The name of a file in `pg_wal` that is archived.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// A segment: `000000010000000A000000FF`, or, not filled before its timeline ended, with `.partial`.
    Segment {
        /// Its timeline.
        timeline: u32,
        /// The second eight digits.
        high: u32,
        /// The last eight digits.
        low: u32,
        /// Whether it has `.partial` behind it.
        partial: bool,
    },
    /// Where a timeline came from: `00000002.history`.
    History {
        /// The timeline.
        timeline: u32,
    },
    /// The label of a backup: the segment's name, the offset in it, and `.backup`.
    Label {
        /// Its timeline.
        timeline: u32,
        /// The second eight digits.
        high: u32,
        /// The third eight digits.
        low: u32,
        /// Offset in the segment.
        offset: u32,
    },
}

impl WalName {
    /// The segment that holds a position.
    pub fn of_position(timeline: u32, position: Lsn, segment_bytes: u64) -> Self {
        Self::of_number(timeline, position.0 / segment_bytes.max(1), segment_bytes)
    }

    /// The n-th segment from the beginning of WAL.
    pub fn of_number(timeline: u32, number: u64, segment_bytes: u64) -> Self {
        let per_high = segments_per_high(segment_bytes);
        Self::Segment {
            timeline,
            high: (number / per_high) as u32,
            low: (number % per_high) as u32,
            partial: false,
        }
    }

    /// Which segment from the beginning of WAL it is; none for what is no whole segment.
    pub fn number(&self, segment_bytes: u64) -> Option<u64> {
        match self {
            Self::Segment { partial: false, .. } => self.segment_number(segment_bytes),
            _ => None,
        }
    }

    /// Which segment it is, is a part of, or is the label of a backup that begins in; none for a history.
    pub fn segment_number(&self, segment_bytes: u64) -> Option<u64> {
        let (Self::Segment { high, low, .. } | Self::Label { high, low, .. }) = self else {
            return None;
        };
        let per_high = segments_per_high(segment_bytes);
        (u64::from(*low) < per_high).then(|| u64::from(*high) * per_high + u64::from(*low))
    }

    /// The timeline that it belongs to.
    pub fn timeline(&self) -> u32 {
        match self {
            Self::Segment { timeline, .. }
            | Self::History { timeline }
            | Self::Label { timeline, .. } => *timeline,
        }
    }
}

fn segments_per_high(segment_bytes: u64) -> u64 {
    ((1 << 32) / segment_bytes.max(1)).max(1)
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment {
                timeline,
                high,
                low,
                partial,
            } => {
                let end = if *partial { ".partial" } else { "" };
                write!(f, "{timeline:08X}{high:08X}{low:08X}{end}")
            }
            Self::History { timeline } => write!(f, "{timeline:08X}.history"),
            Self::Label {
                timeline,
                high,
                low,
                offset,
            } => write!(f, "{timeline:08X}{high:08X}{low:08X}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no name of a file that PostgreSQL archives");
        let digits = |range: std::ops::Range<usize>| {
            let digits = text.get(range).ok_or_else(wrong)?;
            let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
            match digits.len() == 8 && digits.bytes().all(hex) {
                true => u32::from_str_radix(digits, 16).map_err(|_| wrong()),
                false => Err(wrong()),
            }
        };
        let timeline = digits(0..8)?;
        if text.get(8..) == Some(".history") {
            return Ok(Self::History { timeline });
        }
        let (high, low) = (digits(8..16)?, digits(16..24)?);
        match text.get(24..).unwrap_or_default() {
            "" => Ok(Self::Segment {
                timeline,
                high,
                low,
                partial: false,
            }),
            ".partial" => Ok(Self::Segment {
                timeline,
                high,
                low,
                partial: true,
            }),
            rest if rest.len() == 16 && rest.starts_with('.') && rest.ends_with(".backup") => {
                Ok(Self::Label {
                    timeline,
                    high,
                    low,
                    offset: digits(25..33)?,
                })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for name in [
            "000000010000000A000000FF",
            "000000010000000A000000FF.partial",
            "0000000A.history",
            "000000010000000000000002.00000028.backup",
        ] {
            assert_eq!(name.parse::<WalName>().unwrap().to_string(), name);
        }
        for wrong in [
            "",
            "00000001",
            "000000010000000a000000ff",
            "000000010000000A000000FF.gz",
            "000000010000000A000000FFF",
            "../../etc/passwd",
            "00000001.historyx",
            "000000010000000000000002.0000002.backup",
            "ä0000010000000A000000FF",
        ] {
            assert!(wrong.parse::<WalName>().is_err(), "{wrong}");
        }
        let segment = 16 << 20;
        let name = WalName::of_position(1, Lsn(0x1_0200_0028), segment);
        assert_eq!(name.to_string(), "000000010000000100000002");
        assert_eq!(name.number(segment), Some(258));
        assert_eq!(WalName::of_number(1, 258, segment), name);
    }
}
