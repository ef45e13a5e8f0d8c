//! The segment header. `docs/format.md` describes its layout byte for byte.

use crate::bitmap::Bitmap;
use crate::column::Kind;
use crate::error::CoreError;
use crate::paged::{Effort, Zone};
use crate::wire::{Reader, len_u32, seal, unseal};
use sha2::{Digest, Sha256};

/// The most rows a segment may have.
pub const MAX_ROWS: u32 = 65_536;

const MAGIC: [u8; 2] = *b"vS";
const VERSION: u8 = 2;
const FLAG_ORIGINS: u8 = 1;
const FLAG_SMALL: u8 = 2;
const FLAG_SORT_KEYS: u8 = 4;
const FLAG_CHECKSUM: u8 = 8;

/// What a segment says of itself; its columns follow each other in its body.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentHeader {
    /// How many rows the segment has, dead ones included.
    pub rows: u32,
    /// One entry a stored column, in the order of the body, no attribute number twice.
    pub columns: Vec<ColumnEntry>,
    /// By what the rows ascend, NULLs last; empty where they lie as they came, or by what is not known.
    pub order: Vec<SortKey>,
    /// One bit a row, set where the row is dead.
    pub dead: Bitmap,
    /// Where each row came from, one number a row.
    pub origins: Option<Vec<u64>>,
    /// [`segment_sha256`] of the encoded columns.
    pub sha256: [u8; 32],
    /// Size of the rows before encoding, in bytes, as the writer counts it.
    pub raw_bytes: u64,
    /// A hint where the body begins, whose meaning is the store's.
    pub location: u32,
    /// How many segments were written together with this one, itself included: numbers from 0 on. 0: not known.
    pub siblings: u32,
    /// What its columns were encoded for. Decoding does not look at it.
    pub effort: Effort,
    /// What its rows say, where that is kept.
    pub checksum: Option<RowsChecksum>,
}

/// The checksum of a segment's rows, and of which columns it is: a table's columns can get other names, and other types,
/// while their values stay where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsChecksum {
    /// How many attributes the table had, dropped ones included.
    pub attributes: u16,
    /// [`columns_fingerprint`](crate::change::columns_fingerprint) of those that were not dropped.
    pub fingerprint: u64,
    /// The checksums of all rows, dead ones included, added modulo 2^128.
    pub total: u128,
}

/// A column that rows ascend by, and in which sense: the columns of a table can take another type or collation, and with
/// it another order, while their values stay where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    /// Attribute number of the column.
    pub attnum: u16,
    /// OID of the `<` that they were sorted with.
    pub operator: u32,
    /// OID of the collation that they were sorted with, 0 for none.
    pub collation: u32,
}

/// One column of a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnEntry {
    /// Attribute number of the column.
    pub attnum: u16,
    /// What the column holds.
    pub kind: Kind,
    /// The number of its main encoding, see [`codec_name`](crate::paged::codec_name).
    pub codec: u8,
    /// How the values stand for those of the column's type; 0: they are its values.
    pub form: u8,
    /// Length of the encoded column in bytes.
    pub bytes: u32,
    /// Length of its index, with which it begins.
    pub index_len: u32,
    /// Rows, NULLs, bounds and sum.
    pub summary: Zone,
}

impl SegmentHeader {
    /// Length of the body.
    pub fn body_len(&self) -> usize {
        self.columns.iter().map(|c| c.bytes as usize).sum()
    }

    /// Checks what [`to_bytes`](Self::to_bytes) takes for granted and [`from_bytes`](Self::from_bytes) insists on.
    ///
    /// # Errors
    /// [`CoreError::Invalid`] naming the rule that is broken.
    pub fn validate(&self) -> Result<(), CoreError> {
        let rows = self.rows as usize;
        if self.rows > MAX_ROWS {
            return Err(CoreError::invalid(format!("{rows} rows in one segment")));
        }
        if self.dead.len() != rows {
            return Err(CoreError::invalid(format!(
                "{} dead bits for {rows} rows",
                self.dead.len()
            )));
        }
        if let Some(origins) = &self.origins
            && origins.len() != rows
        {
            return Err(CoreError::invalid(format!(
                "{} origins for {rows} rows",
                origins.len()
            )));
        }
        if self.columns.len() > usize::from(u16::MAX) || self.order.len() > usize::from(u8::MAX) {
            return Err(CoreError::invalid("too many columns"));
        }
        let mut seen = std::collections::HashSet::new();
        for entry in &self.columns {
            let attnum = entry.attnum;
            if !seen.insert(attnum) {
                return Err(CoreError::invalid(format!("column {attnum} twice")));
            }
            if entry.summary.rows != self.rows || entry.summary.nulls > self.rows {
                return Err(CoreError::invalid(format!(
                    "column {attnum} has {} rows and {} NULLs where the segment has {rows} rows",
                    entry.summary.rows, entry.summary.nulls
                )));
            }
            if entry.index_len > entry.bytes {
                return Err(CoreError::invalid(format!(
                    "the index of column {attnum} is longer than the column"
                )));
            }
        }
        Ok(())
    }

    /// The stored form.
    ///
    /// # Errors
    /// [`CoreError::Invalid`] where [`validate`](Self::validate) says so.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CoreError> {
        self.validate()?;
        let mut flags = match self.effort {
            Effort::Fast => 0,
            Effort::Small => FLAG_SMALL,
        };
        if self.origins.is_some() {
            flags |= FLAG_ORIGINS;
        }
        if !self.order.is_empty() {
            flags |= FLAG_SORT_KEYS;
        }
        if self.checksum.is_some() {
            flags |= FLAG_CHECKSUM;
        }
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, flags]);
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.location.to_le_bytes());
        out.extend_from_slice(&self.siblings.to_le_bytes());
        out.extend_from_slice(&self.sha256);
        out.push(self.order.len() as u8);
        for key in &self.order {
            out.extend_from_slice(&key.attnum.to_le_bytes());
            out.extend_from_slice(&key.operator.to_le_bytes());
            out.extend_from_slice(&key.collation.to_le_bytes());
        }
        out.extend_from_slice(&(self.columns.len() as u16).to_le_bytes());
        for entry in &self.columns {
            let (kind, width) = entry.kind.to_ids();
            out.extend_from_slice(&entry.attnum.to_le_bytes());
            out.extend_from_slice(&[kind, entry.codec, entry.form]);
            out.extend_from_slice(&width.to_le_bytes());
            out.extend_from_slice(&entry.bytes.to_le_bytes());
            out.extend_from_slice(&entry.index_len.to_le_bytes());
            entry.summary.write(&mut out);
        }
        let dead = self.dead.to_bytes();
        out.extend_from_slice(&len_u32(dead.len())?.to_le_bytes());
        out.extend_from_slice(&dead);
        for origin in self.origins.iter().flatten() {
            out.extend_from_slice(&origin.to_le_bytes());
        }
        if let Some(checksum) = &self.checksum {
            out.extend_from_slice(&checksum.attributes.to_le_bytes());
            out.extend_from_slice(&checksum.fingerprint.to_le_bytes());
            out.extend_from_slice(&checksum.total.to_le_bytes());
        }
        Ok(seal(out))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are not a header, [`CoreError::Unsupported`] when another version wrote
    /// them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CoreError> {
        let mut reader = Reader::new(unseal(bytes)?);
        if reader.array()? != MAGIC {
            return Err(CoreError::corrupt("not a segment header"));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(CoreError::unsupported(format!("segment version {version}")));
        }
        let flags = reader.u8()?;
        if flags & !(FLAG_ORIGINS | FLAG_SMALL | FLAG_SORT_KEYS | FLAG_CHECKSUM) != 0 {
            return Err(CoreError::unsupported(format!("segment flags {flags:#x}")));
        }
        let rows = reader.u32()?;
        if rows > MAX_ROWS {
            return Err(CoreError::corrupt(format!("{rows} rows in one segment")));
        }
        let raw_bytes = reader.u64()?;
        let location = reader.u32()?;
        let siblings = reader.u32()?;
        let sha256 = reader.array()?;
        let mut order = Vec::new();
        for _ in 0..reader.u8()? {
            let attnum = reader.u16()?;
            if flags & FLAG_SORT_KEYS != 0 {
                order.push(SortKey {
                    attnum,
                    operator: reader.u32()?,
                    collation: reader.u32()?,
                });
            }
        }
        let mut columns = Vec::new();
        for _ in 0..reader.u16()? {
            let attnum = reader.u16()?;
            let [kind, codec, form] = reader.array()?;
            let width = reader.u16()?;
            columns.push(ColumnEntry {
                attnum,
                kind: Kind::from_ids(kind, width)?,
                codec,
                form,
                bytes: reader.u32()?,
                index_len: reader.u32()?,
                summary: Zone::read(&mut reader)?,
            });
        }
        let dead = Bitmap::from_bytes(reader.sized()?, rows as usize)?;
        let origins = if flags & FLAG_ORIGINS == 0 {
            None
        } else {
            let stored = reader.take(rows as usize * 8)?;
            let (words, _) = stored.as_chunks::<8>();
            Some(words.iter().map(|w| u64::from_le_bytes(*w)).collect())
        };
        let checksum = if flags & FLAG_CHECKSUM == 0 {
            None
        } else {
            Some(RowsChecksum {
                attributes: reader.u16()?,
                fingerprint: reader.u64()?,
                total: u128::from_le_bytes(reader.array()?),
            })
        };
        reader.finish()?;
        let header = Self {
            rows,
            columns,
            order,
            dead,
            origins,
            sha256,
            raw_bytes,
            location,
            siblings,
            effort: match flags & FLAG_SMALL {
                0 => Effort::Fast,
                _ => Effort::Small,
            },
            checksum,
        };
        header
            .validate()
            .map_err(|error| CoreError::corrupt(error.to_string()))?;
        Ok(header)
    }
}

/// The SHA-256 of a segment: over every column in the order of the header, attribute number (2 bytes), length (8 bytes),
/// both little-endian, and the encoded bytes.
#[derive(Default)]
pub struct SegmentSum(Sha256);

impl SegmentSum {
    /// Of no column yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a column.
    pub fn add(&mut self, attnum: u16, bytes: &[u8]) {
        self.0.update(attnum.to_le_bytes());
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The sum.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The [`SegmentSum`] of columns.
pub fn segment_sha256<'a>(columns: impl Iterator<Item = (u16, &'a [u8])>) -> [u8; 32] {
    let mut sum = SegmentSum::new();
    for (attnum, bytes) in columns {
        sum.add(attnum, bytes);
    }
    sum.finish()
}

/// One SHA-256 over those of several segments, in their order: what a chunk is known by.
pub fn combine_sha256(sums: impl Iterator<Item = [u8; 32]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    sums.for_each(|sum| hasher.update(sum));
    hasher.finalize().into()
}
