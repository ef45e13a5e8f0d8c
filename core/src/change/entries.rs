//! Rows that a checkpoint remembers one by one, because they lay in no segment: blocks of entries in the order of their places.
//!
//! A block is a number of entries and their checksum (XXH3-64). An entry is a place (64 bits), one byte, and where that is 1 the
//! row's checksum (128 bits) and its key, as whoever keeps it writes keys, with its length (32 bits); 0 stands for a place at
//! which there is no row any more. All numbers are little-endian.

use crate::error::CoreError;
use crate::wire::{Reader, len_u32, seal, unseal};
use std::ops::Range;

/// Bytes after which a block is full.
const FULL: usize = 32 << 10;

const GONE: u8 = 0;
const HERE: u8 = 1;

/// What is remembered of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept<'a> {
    /// Its checksum.
    pub row: u128,
    /// Its key.
    pub key: &'a [u8],
}

/// A place and the row that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where.
    pub place: u64,
    /// `None` where the row that was there is gone.
    pub kept: Option<Kept<'a>>,
}

/// Puts entries into blocks.
#[derive(Debug, Default)]
pub struct BlockWriter {
    bytes: Vec<u8>,
}

impl BlockWriter {
    /// Adds an entry, whose place is greater than that of the one before.
    ///
    /// # Errors
    /// [`CoreError::Invalid`] for a key of 4 GiB.
    pub fn push(&mut self, entry: Entry) -> Result<(), CoreError> {
        self.bytes.extend_from_slice(&entry.place.to_le_bytes());
        match entry.kept {
            None => self.bytes.push(GONE),
            Some(Kept { row, key }) => {
                let length = len_u32(key.len())?;
                self.bytes.push(HERE);
                self.bytes.extend_from_slice(&row.to_le_bytes());
                self.bytes.extend_from_slice(&length.to_le_bytes());
                self.bytes.extend_from_slice(key);
            }
        }
        Ok(())
    }

    /// Whether a block has come together that is large enough.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Whether nothing was added since the last block.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Ends a block.
    pub fn take(&mut self) -> Vec<u8> {
        seal(std::mem::take(&mut self.bytes))
    }
}

/// A block that was read, and how far.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    next: Option<Parsed>,
}

/// An entry of a block.
#[derive(Debug, Clone)]
struct Parsed {
    place: u64,
    /// The row's checksum, and where the key is.
    kept: Option<(u128, Range<usize>)>,
    /// Where the entry ends.
    end: usize,
}

impl Block {
    /// Begins to read a block.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] where it is not as it was written.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, CoreError> {
        let length = unseal(&bytes)?.len();
        bytes.truncate(length);
        let next = parse(&bytes, 0, None)?;
        Ok(Block { bytes, next })
    }

    /// The next entry, if there is one.
    #[inline]
    pub fn peek(&self) -> Option<Entry<'_>> {
        let next = self.next.as_ref()?;
        let kept = next.kept.as_ref().map(|(row, key)| Kept {
            row: *row,
            key: self.bytes.get(key.clone()).unwrap_or_default(),
        });
        Some(Entry {
            place: next.place,
            kept,
        })
    }

    /// Goes on behind the next entry.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] for what no writer has written.
    pub fn advance(&mut self) -> Result<(), CoreError> {
        if let Some(Parsed { place, end, .. }) = self.next.take() {
            self.next = parse(&self.bytes, end, Some(place))?;
        }
        Ok(())
    }
}

/// The entry that begins there, behind one of another place.
fn parse(bytes: &[u8], at: usize, last: Option<u64>) -> Result<Option<Parsed>, CoreError> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(rest);
    let place = reader.u64()?;
    if last.is_some_and(|last| last >= place) {
        return Err(CoreError::corrupt("entries that do not ascend"));
    }
    let kept = match reader.u8()? {
        GONE => None,
        HERE => {
            let row = u128::from_le_bytes(reader.array()?);
            let length = reader.sized()?.len();
            Some((row, length))
        }
        kind => return Err(CoreError::corrupt(format!("an entry of kind {kind}"))),
    };
    let end = bytes.len() - reader.remaining();
    let kept = kept.map(|(row, length)| (row, end - length..end));
    Ok(Some(Parsed { place, kept, end }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn written(places: &[u64]) -> Vec<u8> {
        let mut writer = BlockWriter::default();
        assert!(writer.is_empty());
        for place in places {
            let key = vec![b'k'; *place as usize % 40];
            let kept = (place % 3 != 0).then_some(Kept {
                row: u128::from(*place) << 70,
                key: &key,
            });
            let place = *place;
            writer.push(Entry { place, kept }).unwrap();
        }
        assert!(!writer.is_empty());
        let bytes = writer.take();
        assert!(writer.is_empty());
        bytes
    }

    /// A place, and the checksum and the length of the key of what is there.
    type Read = (u64, Option<(u128, usize)>);

    fn read(bytes: Vec<u8>) -> Result<Vec<Read>, CoreError> {
        let mut block = Block::new(bytes)?;
        let mut all = Vec::new();
        while let Some(entry) = block.peek() {
            let kept = entry.kept.map(|kept| (kept.row, kept.key.len()));
            all.push((entry.place, kept));
            block.advance()?;
        }
        Ok(all)
    }

    #[test]
    fn there_and_back() {
        let places = [0, 1, 2, 3, 500, 1 << 47];
        let found = read(written(&places)).unwrap();
        let expected = places.map(|place| {
            let kept = (u128::from(place) << 70, place as usize % 40);
            (place, (place % 3 != 0).then_some(kept))
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn full_after_a_while() {
        let mut writer = BlockWriter::default();
        let mut count = 0;
        while !writer.is_full() {
            let kept = Some(Kept {
                row: 1,
                key: b"key",
            });
            let entry = Entry { place: count, kept };
            writer.push(entry).unwrap();
            count += 1;
        }
        assert_eq!(read(writer.take()).unwrap().len() as u64, count);
        assert!((500..2000).contains(&count));
    }

    #[test]
    fn damage_is_an_error() {
        let whole = written(&[1, 2, 4, 7]);
        for at in 0..whole.len() {
            for bit in [1, 128] {
                let mut bytes = whole.clone();
                bytes[at] ^= bit;
                assert!(read(bytes).is_err(), "byte {at}");
            }
            assert!(read(whole[..at].to_vec()).is_err(), "{at} bytes");
        }
        assert!(read(written(&[2, 2])).is_err());
        assert!(read(written(&[5, 4])).is_err());
        assert!(read(seal(vec![0; 8])).is_err());
        assert!(read(seal(vec![9; 9])).is_err());
        assert!(
            read(seal(
                [&[0; 8][..], &[1], &[7; 16], &[9, 0, 0, 0, 1]].concat()
            ))
            .is_err()
        );
        assert_eq!(read(seal(Vec::new())).unwrap(), []);
    }
}
