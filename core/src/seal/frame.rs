//! Frames of zstd: where they lie, and where one ends.
//!
//! The layout is that of RFC 8878, "Zstandard Compression and the 'application/zstd' Media Type", section 3.1.

use std::io::{self, Read};
use std::ops::Range;

use super::error::SealError;
use crate::wait::Tick;

/// Largest frame that is written or read, in bytes before compression.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;

/// What a block can hold at most.
const MAX_BLOCK_BYTES: u64 = 128 << 10;

/// Where a frame lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which bytes of the plain stream it holds.
    pub plain: Range<u64>,
    /// Which bytes of the compressed stream it is.
    pub stored: Range<u64>,
}

/// The frames of a stream, in order. With it a reader finds a place without reading what is before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameTable {
    frames: Vec<Frame>,
}

/// What must be read to have a range of the plain stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covering {
    /// Bytes of the compressed stream: whole frames.
    pub stored: Range<u64>,
    /// How many plain bytes come before the range.
    pub skip: u64,
}

impl FrameTable {
    /// The frames.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Size of the plain stream, in bytes.
    pub fn plain_bytes(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.plain.end)
    }

    /// Size of the compressed stream, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.stored.end)
    }

    /// The frames that hold a range of the plain stream; none if the range is empty or goes beyond the end.
    pub fn covering(&self, plain: &Range<u64>) -> Option<Covering> {
        if plain.is_empty() || plain.end > self.plain_bytes() {
            return None;
        }
        let first = self
            .frames
            .partition_point(|frame| frame.plain.end <= plain.start);
        let last = self
            .frames
            .partition_point(|frame| frame.plain.end < plain.end);
        let (first, last) = (self.frames.get(first)?, self.frames.get(last)?);
        Some(Covering {
            stored: first.stored.start..last.stored.end,
            skip: plain.start - first.plain.start,
        })
    }

    pub(super) fn push(&mut self, plain: usize, stored: usize) {
        let (plain_end, stored_end) = (self.plain_bytes(), self.stored_bytes());
        self.frames.push(Frame {
            plain: plain_end..plain_end + plain as u64,
            stored: stored_end..stored_end + stored as u64,
        });
    }
}

/// A frame as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    /// Its size when it is decompressed, by its header: no more than it may be, and no more than its blocks can hold.
    pub(super) plain: usize,
}

/// Cuts a stream into frames, by the headers of frames and blocks.
pub(super) struct Scanner<R> {
    inner: R,
    max_frame: usize,
}

impl<R: Read> Scanner<R> {
    pub(super) fn new(inner: R, max_frame: usize) -> Self {
        Self { inner, max_frame }
    }

    /// The next frame; none at the end. Memory is had for what has come, up to what a frame may hold.
    pub(super) fn next(&mut self, tick: Tick<'_>) -> Result<Option<Stored>, SealError> {
        loop {
            let mut bytes = Vec::new();
            if !self.magic(&mut bytes)? {
                return Ok(None);
            }
            let magic = little(&bytes);
            if magic == u64::from(MAGIC) {
                return self.frame(bytes, tick).map(Some);
            }
            if magic & !0xF != u64::from(SKIPPABLE_MAGIC) {
                return Err(SealError::corrupt("this is not a frame of zstd"));
            }
            let begin = bytes.len();
            let len = self.number(&mut bytes, 4)?;
            debug_assert!(bytes.len() == begin + 4);
            self.skip(len, tick)?;
        }
    }

    /// Reads the first four bytes, or nothing at the end.
    fn magic(&mut self, bytes: &mut Vec<u8>) -> Result<bool, SealError> {
        let mut first = [0];
        loop {
            match self.inner.read(&mut first) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SealError::from_io(error)),
            }
        }
        bytes.extend_from_slice(&first);
        self.take(bytes, 3)?;
        Ok(true)
    }

    fn frame(&mut self, mut bytes: Vec<u8>, tick: Tick<'_>) -> Result<Stored, SealError> {
        let (plain, checksum) = self.header(&mut bytes)?;
        // More than that is no more than a waste of the reader's memory.
        let limit = plain as usize + plain as usize / 64 + (64 << 10);
        let mut holds = 0;
        loop {
            tick()?;
            let header = self.number(&mut bytes, 3)?;
            let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
            let stored = match kind {
                0 | 2 => size,
                1 => 1,
                _ => return Err(SealError::corrupt("a block of zstd is of no known kind")),
            };
            if size > MAX_BLOCK_BYTES || bytes.len() as u64 + stored > limit as u64 {
                return Err(SealError::corrupt(
                    "a frame of zstd is longer than it can be",
                ));
            }
            self.take(&mut bytes, stored)?;
            holds += match kind {
                2 => MAX_BLOCK_BYTES,
                _ => size,
            };
            if last {
                break;
            }
        }
        if checksum {
            self.take(&mut bytes, 4)?;
        }
        if holds < plain {
            return Err(SealError::corrupt(format!(
                "a frame of zstd says that it holds {plain} bytes, which its blocks cannot"
            )));
        }
        Ok(Stored {
            bytes,
            plain: plain as usize,
        })
    }

    /// The size of the content, and whether a checksum follows.
    fn header(&mut self, bytes: &mut Vec<u8>) -> Result<(u64, bool), SealError> {
        let descriptor = self.number(bytes, 1)?;
        let single = descriptor >> 5 & 1 == 1;
        if descriptor >> 3 & 1 == 1 {
            return Err(SealError::unsupported(
                "a frame of zstd has an unknown flag",
            ));
        }
        if descriptor & 3 != 0 {
            return Err(SealError::unsupported("a frame of zstd needs a dictionary"));
        }
        if !single {
            self.number(bytes, 1)?;
        }
        let plain = match (descriptor >> 6, single) {
            (0, false) => {
                let detail = "a frame of zstd does not say how long it is: it was not made by varve, and the program zstd reads it";
                return Err(SealError::unsupported(detail));
            }
            (0, true) => self.number(bytes, 1)?,
            (1, _) => self.number(bytes, 2)? + 256,
            (2, _) => self.number(bytes, 4)?,
            _ => self.number(bytes, 8)?,
        };
        if plain > self.max_frame as u64 {
            return Err(SealError::unsupported(format!(
                "a frame of zstd says that it holds {plain} bytes, and at most {} are taken",
                self.max_frame
            )));
        }
        Ok((plain, descriptor >> 2 & 1 == 1))
    }

    fn number(&mut self, bytes: &mut Vec<u8>, len: usize) -> Result<u64, SealError> {
        let begin = bytes.len();
        self.take(bytes, len as u64)?;
        Ok(little(bytes.get(begin..).unwrap_or_default()))
    }

    /// Reads exactly so many bytes.
    fn take(&mut self, bytes: &mut Vec<u8>, len: u64) -> Result<(), SealError> {
        let got = (&mut self.inner)
            .take(len)
            .read_to_end(bytes)
            .map_err(SealError::from_io)?;
        match got as u64 == len {
            true => Ok(()),
            false => Err(SealError::corrupt("the stream ends within a frame of zstd")),
        }
    }

    fn skip(&mut self, mut len: u64, tick: Tick<'_>) -> Result<(), SealError> {
        let mut ignored = Vec::new();
        while len > 0 {
            tick()?;
            let now = len.min(1 << 16);
            ignored.clear();
            self.take(&mut ignored, now)?;
            len -= now;
        }
        Ok(())
    }
}

/// A little-endian number of up to eight bytes.
fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found() {
        let mut table = FrameTable::default();
        assert_eq!(table.covering(&(0..1)), None);
        for (plain, stored) in [(10, 3), (10, 4), (5, 2)] {
            table.push(plain, stored);
        }
        let covering = |range: Range<u64>| table.covering(&range).map(|c| (c.stored, c.skip));
        assert_eq!(covering(0..1), Some((0..3, 0)));
        assert_eq!(covering(0..10), Some((0..3, 0)));
        assert_eq!(covering(9..11), Some((0..7, 9)));
        assert_eq!(covering(10..20), Some((3..7, 0)));
        assert_eq!(covering(12..25), Some((3..9, 2)));
        assert_eq!(covering(24..26), None);
        assert_eq!(covering(3..3), None);
        assert_eq!((table.plain_bytes(), table.stored_bytes()), (25, 9));
    }
}
