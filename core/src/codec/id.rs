//! The numbers and names of the codecs.

use crate::error::CoreError;

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    Raw = 0,
    Constant = 1,
    Runs = 2,
    Pco = 3,
    Zstd = 4,
    Dictionary = 5,
    Decimal = 6,
}

impl Codec {
    pub(crate) fn from_id(id: u8) -> Result<Self, CoreError> {
        Ok(match id {
            0 => Self::Raw,
            1 => Self::Constant,
            2 => Self::Runs,
            3 => Self::Pco,
            4 => Self::Zstd,
            5 => Self::Dictionary,
            6 => Self::Decimal,
            _ => return Err(CoreError::unsupported(format!("codec {id}"))),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Constant => "constant",
            Self::Runs => "runs",
            Self::Pco => "pco",
            Self::Zstd => "zstd",
            Self::Dictionary => "dictionary",
            Self::Decimal => "decimal",
        }
    }
}

/// The name of the codec with that number, as [`describe`](crate::describe) gives it; `unknown`
/// when there is none.
pub fn codec_name(id: u8) -> &'static str {
    Codec::from_id(id).map_or("unknown", Codec::name)
}
