//! The numbers and names of the encodings, as views show them. They are stored: a number keeps its
//! meaning for ever.

/// What most pages of a column are encoded as. Informative only; decoding does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Codec {
    Raw = 0,
    Constant = 1,
    Runs = 2,
    Pco = 3,
    Zstd = 4,
    Dictionary = 5,
    Decimal = 6,
    Frame = 7,
    Delta = 8,
}

/// The name of an encoding by its stored number.
pub fn codec_name(codec: u8) -> &'static str {
    match codec {
        0 => "raw",
        1 => "constant",
        2 => "runs",
        3 => "pco",
        4 => "zstd",
        5 => "dictionary",
        6 => "decimal",
        7 => "frame",
        8 => "delta",
        _ => "unknown",
    }
}

/// Counts pages by encoding.
#[derive(Debug, Default)]
pub(crate) struct Tally([u32; 9]);

impl Tally {
    pub(crate) fn add(&mut self, codec: Codec) {
        if let Some(count) = self.0.get_mut(codec as usize) {
            *count += 1;
        }
    }

    /// The encoding of most pages; constant where there are none.
    pub(crate) fn most(&self) -> u8 {
        let most = self.0.iter().enumerate().max_by_key(|(_, count)| **count);
        match most {
            Some((codec, 1..)) => codec as u8,
            _ => Codec::Constant as u8,
        }
    }
}
