//! What a checkpoint remembers of a chunk beside its rows that lay in no segment: which segments there were and which of
//! their rows were dead, what its columns were, and how many rows it had.
//!
//! Stored form, numbers little-endian: a version byte; the chunk's storage (two numbers of 32 bits); rows (64 bits); a byte, and
//! where that is 1 the sum of their checksums (128 bits); rows in no segment, of which so many have entries that were added
//! later (64 bits each), in so many generations (32 bits); the segments; the columns; XXH3-64 of all that.

use crate::bitmap::Bitmap;
use crate::error::CoreError;
use crate::header::MAX_ROWS;
use crate::wire::{Reader, len_u32, seal, unseal};

const VERSION: u8 = 1;

/// Generations that a chunk may have.
pub const MOST_GENERATIONS: u32 = 8;

/// Columns that a table may have.
const MOST_ATTRIBUTES: u32 = 1600;

const BY_VALUE: u8 = 1;
const DROPPED: u8 = 2;
const MISSING: u8 = 4;

/// A column of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, as the database has it.
    pub name: Vec<u8>,
    /// OID of its type; 0 where it is dropped.
    pub typ: u32,
    /// Type modifier.
    pub typmod: i32,
    /// OID of its collation.
    pub collation: u32,
    /// Length of its values, as `pg_type` has it.
    pub len: i16,
    /// Whether they are passed by value.
    pub by_value: bool,
    /// How they are aligned.
    pub align: u8,
    /// How they are stored.
    pub storage: u8,
    /// Whether the column is dropped.
    pub dropped: bool,
    /// The value that it has in rows from before it, if it is not NULL there, as whoever keeps it writes values.
    pub missing: Option<Vec<u8>>,
}

/// A segment that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub number: i32,
    /// Which of its rows had a tombstone; a bit for each row.
    pub gone: Bitmap,
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Tablespace and file number of its rows that lie in no segment; zeros where these were read by a query.
    pub storage: (u32, u32),
    /// How many rows it had.
    pub rows: u64,
    /// The sum of their checksums modulo 2^128, where it is known.
    pub sum: Option<u128>,
    /// How many of them lay in no segment.
    pub loose: u64,
    /// Entries of generations after the first.
    pub logged: u64,
    /// How many generations of entries there are.
    pub generations: u32,
    /// In the order of their numbers.
    pub segments: Vec<Segment>,
    /// In the order of their numbers, dropped ones included.
    pub attributes: Vec<Attribute>,
}

impl Chunk {
    /// The stored form.
    ///
    /// # Errors
    /// [`CoreError::Invalid`] where something has 4 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CoreError> {
        let mut to = vec![VERSION];
        to.extend_from_slice(&self.storage.0.to_le_bytes());
        to.extend_from_slice(&self.storage.1.to_le_bytes());
        to.extend_from_slice(&self.rows.to_le_bytes());
        to.push(self.sum.is_some().into());
        if let Some(sum) = self.sum {
            to.extend_from_slice(&sum.to_le_bytes());
        }
        to.extend_from_slice(&self.loose.to_le_bytes());
        to.extend_from_slice(&self.logged.to_le_bytes());
        to.extend_from_slice(&self.generations.to_le_bytes());
        to.extend_from_slice(&len_u32(self.segments.len())?.to_le_bytes());
        for Segment { number, gone } in &self.segments {
            to.extend_from_slice(&number.to_le_bytes());
            to.extend_from_slice(&len_u32(gone.len())?.to_le_bytes());
            put_sized(&gone.to_bytes(), &mut to)?;
        }
        put_attributes(&self.attributes, &mut to)?;
        Ok(seal(to))
    }

    /// The reverse of [`Chunk::to_bytes`].
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] where the bytes are no such form, [`CoreError::Unsupported`] for one of a later version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CoreError> {
        let mut from = Reader::new(unseal(bytes)?);
        check_version(&mut from)?;
        let storage = (from.u32()?, from.u32()?);
        let rows = from.u64()?;
        let sum = match from.u8()? {
            0 => None,
            1 => Some(u128::from_le_bytes(from.array()?)),
            _ => return Err(CoreError::corrupt("a sum that is neither there nor not")),
        };
        let (loose, logged) = (from.u64()?, from.u64()?);
        let generations = from.u32()?;
        if generations > MOST_GENERATIONS {
            return Err(CoreError::corrupt(format!("{generations} generations")));
        }
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..from.u32()? {
            let number = i32::from_le_bytes(from.array()?);
            if segments.last().is_some_and(|last| last.number >= number) {
                return Err(CoreError::corrupt("segments that do not ascend"));
            }
            let rows = from.u32()?;
            if rows > MAX_ROWS {
                return Err(CoreError::corrupt(format!("a segment of {rows} rows")));
            }
            let gone = Bitmap::from_bytes(from.sized()?, rows as usize)?;
            segments.push(Segment { number, gone });
        }
        let attributes = take_attributes(&mut from)?;
        from.finish()?;
        Ok(Chunk {
            storage,
            rows,
            sum,
            loose,
            logged,
            generations,
            segments,
            attributes,
        })
    }
}

/// The stored form of columns alone.
///
/// # Errors
/// [`CoreError::Invalid`] where something has 4 GiB.
pub fn attributes_to_bytes(attributes: &[Attribute]) -> Result<Vec<u8>, CoreError> {
    let mut to = vec![VERSION];
    put_attributes(attributes, &mut to)?;
    Ok(seal(to))
}

/// The reverse of [`attributes_to_bytes`].
///
/// # Errors
/// As [`Chunk::from_bytes`].
pub fn attributes_from_bytes(bytes: &[u8]) -> Result<Vec<Attribute>, CoreError> {
    let mut from = Reader::new(unseal(bytes)?);
    check_version(&mut from)?;
    let attributes = take_attributes(&mut from)?;
    from.finish()?;
    Ok(attributes)
}

/// The latest transaction of a 32-bit number that is not after the next one: numbers come again after four billions, so one that
/// is taken for it may be older.
pub fn latest_of_number(xid: u32, next: u64) -> u64 {
    let same_epoch = next & !u64::from(u32::MAX) | u64::from(xid);
    match same_epoch > next {
        // Before the first epoch there was none.
        true => same_epoch.checked_sub(1 << 32).unwrap_or(u64::MAX),
        false => same_epoch,
    }
}

fn check_version(from: &mut Reader) -> Result<(), CoreError> {
    match from.u8()? {
        VERSION => Ok(()),
        version => Err(CoreError::unsupported(format!(
            "a checkpoint of version {version}"
        ))),
    }
}

fn put_sized(bytes: &[u8], to: &mut Vec<u8>) -> Result<(), CoreError> {
    to.extend_from_slice(&len_u32(bytes.len())?.to_le_bytes());
    to.extend_from_slice(bytes);
    Ok(())
}

fn put_attributes(attributes: &[Attribute], to: &mut Vec<u8>) -> Result<(), CoreError> {
    to.extend_from_slice(&len_u32(attributes.len())?.to_le_bytes());
    for attribute in attributes {
        put_sized(&attribute.name, to)?;
        to.extend_from_slice(&attribute.typ.to_le_bytes());
        to.extend_from_slice(&attribute.typmod.to_le_bytes());
        to.extend_from_slice(&attribute.collation.to_le_bytes());
        to.extend_from_slice(&attribute.len.to_le_bytes());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        to.extend_from_slice(&[
            attribute.align,
            attribute.storage,
            flag(attribute.by_value, BY_VALUE)
                | flag(attribute.dropped, DROPPED)
                | flag(attribute.missing.is_some(), MISSING),
        ]);
        if let Some(missing) = &attribute.missing {
            put_sized(missing, to)?;
        }
    }
    Ok(())
}

fn take_attributes(from: &mut Reader) -> Result<Vec<Attribute>, CoreError> {
    let mut attributes = Vec::new();
    let count = from.u32()?;
    if count > MOST_ATTRIBUTES {
        return Err(CoreError::corrupt(format!("{count} columns")));
    }
    for _ in 0..count {
        let name = from.sized()?.to_vec();
        let (typ, typmod) = (from.u32()?, i32::from_le_bytes(from.array()?));
        let collation = from.u32()?;
        let len = i16::from_le_bytes(from.array()?);
        let [align, storage, flags] = from.array()?;
        if flags & !(BY_VALUE | DROPPED | MISSING) != 0 {
            return Err(CoreError::corrupt(format!("a column with flags {flags}")));
        }
        let missing = match flags & MISSING {
            0 => None,
            _ => Some(from.sized()?.to_vec()),
        };
        attributes.push(Attribute {
            name,
            typ,
            typmod,
            collation,
            len,
            by_value: flags & BY_VALUE != 0,
            align,
            storage,
            dropped: flags & DROPPED != 0,
            missing,
        });
    }
    Ok(attributes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn attributes() -> Vec<Attribute> {
        let id = Attribute {
            name: b"id".to_vec(),
            typ: 20,
            typmod: -1,
            collation: 0,
            len: 8,
            by_value: true,
            align: b'd',
            storage: b'p',
            dropped: false,
            missing: None,
        };
        let gone = Attribute {
            name: b"........pg.dropped.2........".to_vec(),
            typ: 0,
            dropped: true,
            ..id.clone()
        };
        let note = Attribute {
            name: "größe".as_bytes().to_vec(),
            typ: 25,
            typmod: 7,
            collation: 100,
            len: -1,
            by_value: false,
            missing: Some(b"x".to_vec()),
            ..id.clone()
        };
        vec![id, gone, note]
    }

    fn chunk() -> Chunk {
        let mut gone = Bitmap::new(5000);
        (100..200).for_each(|row| gone.set(row, true));
        Chunk {
            storage: (0, 16_400),
            rows: 1 << 40,
            sum: Some(u128::MAX - 5),
            loose: 77,
            logged: 3,
            generations: 2,
            segments: vec![
                Segment {
                    number: 0,
                    gone: Bitmap::new(65_536),
                },
                Segment { number: 7, gone },
            ],
            attributes: attributes(),
        }
    }

    #[test]
    fn there_and_back() {
        let whole = chunk();
        for chunk in [whole, Chunk::default()] {
            let bytes = chunk.to_bytes().unwrap();
            assert_eq!(Chunk::from_bytes(&bytes).unwrap(), chunk);
        }
        let bytes = attributes_to_bytes(&attributes()).unwrap();
        assert_eq!(attributes_from_bytes(&bytes).unwrap(), attributes());
    }

    #[test]
    fn numbers_that_come_again() {
        let epoch = 1u64 << 32;
        for (xid, next, expected) in [
            (700, 1000, 700),
            (1000, 1000, 1000),
            (1001, 1000, u64::MAX),
            (700, 3 * epoch + 1000, 3 * epoch + 700),
            (1001, 3 * epoch + 1000, 2 * epoch + 1001),
            (u32::MAX, 3 * epoch, 3 * epoch - 1),
            (0, 3 * epoch, 3 * epoch),
        ] {
            assert_eq!(latest_of_number(xid, next), expected, "{xid} at {next}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = chunk().to_bytes().unwrap();
        for at in 0..bytes.len() {
            assert!(Chunk::from_bytes(&bytes[..at]).is_err(), "{at} bytes");
            // The checksum tells, and behind it nothing panics.
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            assert!(Chunk::from_bytes(&damaged).is_err(), "byte {at}");
            let body = damaged[..bytes.len() - 8].to_vec();
            let _ = Chunk::from_bytes(&seal(body));
        }
        let mut other = unseal(&bytes).unwrap().to_vec();
        other[0] = 9;
        assert!(matches!(
            Chunk::from_bytes(&seal(other)),
            Err(CoreError::Unsupported { .. })
        ));
        let mut twice = chunk();
        twice.segments[1].number = 0;
        assert!(Chunk::from_bytes(&twice.to_bytes().unwrap()).is_err());
    }
}
