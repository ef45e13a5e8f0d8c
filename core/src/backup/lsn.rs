//! Positions in WAL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in WAL, in bytes from its beginning.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As PostgreSQL writes it: `1/6B374D48`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let half = |half: &str| match half.len() {
            1..=8 if half.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u64::from_str_radix(half, 16).ok()
            }
            _ => None,
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| format!("\"{text}\" is no position in WAL"))
    }
}

impl TryFrom<String> for Lsn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn written_as_postgresql_does() {
        for text in ["0/0", "0/2000028", "1/6B374D48", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for wrong in ["", "/", "1/", "/1", "+1/1", "1/123456789", "1/g", "12"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }
}
