//! What a checkpoint remembers of a chunk beside its rows that lay in no segment: which segments there were and which of
//! their rows were dead, what its columns were, and how many rows it had.
//!
//! Stored form, numbers little-endian: a version byte; the chunk's storage (two numbers of 32 bits); rows (64 bits); a byte, and
//! where that is 1 the sum of their checksums (128 bits); rows in no segment (64 bits); the generations of their entries, each with
//! its number (32 bits) and how many entries it has (64 bits); the segments, each with its number, who has written it, how many
//! rows it has (32 bits each) and the bitmap of those that were dead; the columns; XXH3-64 of all that.

use crate::bitmap::Bitmap;
use crate::error::CoreError;
use crate::header::MAX_ROWS;
use crate::wire::{Reader, len_u32, seal, unseal};

const VERSION: u8 = 1;

/// Generations that a chunk may have: each has at least as many entries as all after it.
pub const MOST_GENERATIONS: usize = 32;

/// Entries that are added to a chunk before they are compared with the rows that there are.
const SMALL_LOG: u64 = 1000;

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
    /// The transaction that has written it. Numbers of segments come again where their table was reset by a crash.
    pub writer: u32,
    /// How many rows it has.
    pub rows: u32,
    /// The stored form of the bitmap, which is small where few rows are dead.
    gone: Box<[u8]>,
}

impl Segment {
    /// A segment, and which of its rows have a tombstone: a bit for each row.
    pub fn new(number: i32, writer: u32, gone: &Bitmap) -> Self {
        Segment {
            number,
            writer,
            rows: gone.len() as u32,
            gone: gone.to_bytes().into(),
        }
    }

    /// Which of its rows had a tombstone.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] where that is no bitmap of so many bits.
    pub fn gone(&self) -> Result<Bitmap, CoreError> {
        Bitmap::from_bytes(&self.gone, self.rows as usize)
    }

    /// Whether it is a segment that was there, whatever became of its rows.
    pub fn is(&self, other: &Self) -> bool {
        (self.number, self.writer, self.rows) == (other.number, other.writer, other.rows)
    }
}

/// Entries that were written at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Its number; later ones have greater ones.
    pub number: u32,
    /// How many entries it has.
    pub entries: u64,
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
    /// The generations of their entries. The first one has all rows that there were, those after it what became of places.
    pub generations: Vec<Generation>,
    /// In the order of their numbers.
    pub segments: Vec<Segment>,
    /// In the order of their numbers, dropped ones included.
    pub attributes: Vec<Attribute>,
}

impl Chunk {
    /// The place of the first generation that is written anew when entries are added: the newest ones, up to one that is larger than
    /// all after it together, so that each entry is written anew but few times. 0 where what was added has come to be much of all.
    pub fn merged_from(&self, added: u64) -> usize {
        let later = self.generations.iter().skip(1);
        let logged = later.fold(added, |sum, g| sum.saturating_add(g.entries));
        if logged > self.loose / 4 + SMALL_LOG {
            return 0;
        }
        let mut from = self.generations.len();
        let mut sum = added;
        for (place, generation) in self.generations.iter().enumerate().skip(1).rev() {
            if generation.entries > sum && from < MOST_GENERATIONS {
                break;
            }
            from = place;
            sum = sum.saturating_add(generation.entries);
        }
        from
    }

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
        to.extend_from_slice(&len_u32(self.generations.len())?.to_le_bytes());
        for generation in &self.generations {
            to.extend_from_slice(&generation.number.to_le_bytes());
            to.extend_from_slice(&generation.entries.to_le_bytes());
        }
        to.extend_from_slice(&len_u32(self.segments.len())?.to_le_bytes());
        for segment in &self.segments {
            to.extend_from_slice(&segment.number.to_le_bytes());
            to.extend_from_slice(&segment.writer.to_le_bytes());
            to.extend_from_slice(&segment.rows.to_le_bytes());
            put_sized(&segment.gone, &mut to)?;
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
        let loose = from.u64()?;
        let count = from.u32()? as usize;
        if count > MOST_GENERATIONS {
            return Err(CoreError::corrupt(format!("{count} generations")));
        }
        let mut generations: Vec<Generation> = Vec::new();
        for _ in 0..count {
            let (number, entries) = (from.u32()?, from.u64()?);
            if generations.last().is_some_and(|last| last.number >= number) {
                return Err(CoreError::corrupt("generations that do not ascend"));
            }
            generations.push(Generation { number, entries });
        }
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..from.u32()? {
            let number = i32::from_le_bytes(from.array()?);
            if segments.last().is_some_and(|last| last.number >= number) {
                return Err(CoreError::corrupt("segments that do not ascend"));
            }
            let (writer, rows) = (from.u32()?, from.u32()?);
            if rows > MAX_ROWS {
                return Err(CoreError::corrupt(format!("a segment of {rows} rows")));
            }
            let gone = Bitmap::from_bytes(from.sized()?, rows as usize)?;
            segments.push(Segment::new(number, writer, &gone));
        }
        let attributes = take_attributes(&mut from)?;
        from.finish()?;
        Ok(Chunk {
            storage,
            rows,
            sum,
            loose,
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

    fn generations(entries: &[u64]) -> Vec<Generation> {
        let of = |(i, entries): (usize, &u64)| Generation {
            number: i as u32 * 3,
            entries: *entries,
        };
        entries.iter().enumerate().map(of).collect()
    }

    fn chunk() -> Chunk {
        let mut gone = Bitmap::new(5000);
        (100..200).for_each(|row| gone.set(row, true));
        Chunk {
            storage: (0, 16_400),
            rows: 1 << 40,
            sum: Some(u128::MAX - 5),
            loose: 77,
            generations: generations(&[77, 3]),
            segments: vec![
                Segment::new(0, 700, &Bitmap::new(65_536)),
                Segment::new(7, 800, &gone),
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
    fn what_is_written_anew() {
        let chunk = |loose: u64, entries: &[u64]| Chunk {
            loose,
            generations: generations(entries),
            ..Chunk::default()
        };
        for (loose, entries, added, from) in [
            (100, &[][..], 5, 0),
            (100, &[100], 5, 1),
            (100, &[100, 5], 5, 1),
            (10_000, &[10_000, 40, 20, 9], 10, 3),
            (10_000, &[10_000, 40, 20, 9], 11, 1),
            (10_000, &[10_000, 40, 20, 9], 8, 4),
            (10_000, &[10_000, 400, 20, 10], 10, 2),
            (10_000, &[10_000, 3_000], 500, 2),
            (10_000, &[10_000, 3_000], 501, 0),
            (10_000, &[10_000, u64::MAX], u64::MAX, 0),
            (u64::MAX, &[0, u64::MAX / 8], 1, 2),
        ] {
            let chunk = chunk(loose, entries);
            assert_eq!(chunk.merged_from(added), from, "{entries:?}, {added}");
        }
        // However often and by however much: few generations, and little is written for what is added.
        for (loose, add) in [(0, 1u64), (1_000_000, 10), (1 << 40, 1_000), (1 << 40, 0)] {
            let mut chunk = chunk(loose, &[loose]);
            let (mut written, mut added, mut seed) = (0, 0, 7u64);
            for _ in 0..20_000 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let count = add + (seed >> 33) % (add + 2);
                let from = chunk.merged_from(count);
                let merged: u64 = chunk.generations.drain(from..).map(|g| g.entries).sum();
                let entries = match from {
                    0 => loose,
                    _ => merged + count,
                };
                let number = chunk.generations.last().map_or(0, |last| last.number + 1);
                chunk.generations.push(Generation { number, entries });
                assert!(chunk.generations.len() <= MOST_GENERATIONS);
                written += entries;
                added += count;
            }
            assert!(
                written <= added * 20,
                "{loose}, {add}: {written} for {added}"
            );
        }
        // There are never more of them.
        let entries: Vec<u64> = (0..MOST_GENERATIONS).map(|i| 1 << (40 - i)).collect();
        let many = chunk(u64::MAX, &entries);
        assert_eq!(many.merged_from(0), MOST_GENERATIONS - 1);
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
