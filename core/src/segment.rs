//! The segment header, and the byte layouts of the whole format.
//!
//! All numbers are little-endian. `sum` is the xxh3-64 (seed 0) of every byte before it, verified
//! before anything else is read. Every length is checked against the bytes at hand and the limits
//! below before anything is allocated.
//!
//! # Segment header, version 1
//!
//! | field | bytes | |
//! |---|---|---|
//! | magic | 2 | `vS` |
//! | version | 1 | 1 |
//! | flags | 1 | bit 0: origins are present; others zero |
//! | rows | 4 | at most 65,536 |
//! | raw bytes | 8 | size of the rows before encoding, as the writer counts it |
//! | sha256 | 32 | [`segment_sha256`] of the columns |
//! | column count | 2 | |
//! | columns | 11 each | attnum (2), codec (1), nulls (4), bytes (4) |
//! | dead | 4 + n | length, bitmap of `rows` bits (forms: see [`crate::bitmap`]) |
//! | origins | 5 + n | only with flag 0: a block of `rows` u64 |
//! | sum | 8 | |
//!
//! # Column, version 1
//!
//! | field | bytes | |
//! |---|---|---|
//! | magic | 2 | `vC` |
//! | version | 1 | 1 |
//! | kind | 1 | 0 I8, 1 I16, 2 I32, 3 I64, 4 F32, 5 F64, 6 Fixed, 7 Bytes |
//! | codec | 1 | 0 raw, 1 constant, 2 runs, 3 pco, 4 zstd, 5 dictionary, 6 decimal |
//! | rows | 4 | at most 65,536 |
//! | width | 4 | bytes a value of kind Fixed (1 to 32,767), else 0 |
//! | validity | 4 + n | length, bitmap of `rows` bits, one where not NULL; length 0: no NULLs |
//! | payload | 4 + n | length, then by codec; holds the values that are not NULL |
//! | sum | 8 | |
//!
//! A *block* inside a payload is codec (1), length (4), payload of that length; how many values it
//! holds follows from where it stands. Payloads:
//!
//! - *raw*: the values one after the other; *zstd*: the same in one zstd frame;
//! - *constant*: one value, or nothing when every row is NULL or there are no rows;
//! - *pco*: a pco standalone file (I16, I32, I64, F32, F64, and u32/u64 in blocks);
//! - *runs* of numbers: run count (4), block of lengths (u32), block of values; runs of I8 and
//!   Fixed: run count (4), block of lengths (u32), codec (1: raw or zstd), the values;
//! - *decimal* (F32, F64): scale (1), exception count (4), exception positions (4 each), exception
//!   values, block of i64; a value is its integer divided by `10^scale`;
//! - *raw* and *zstd* of kind Bytes: block of lengths (u32), then the bytes, or their zstd frame;
//! - *dictionary* (Bytes): count (4), block of the distinct values (raw or zstd, as above), block
//!   of codes (u32).
//!
//! A column's values take at most 1 GiB when decoded.

use sha2::{Digest, Sha256};

use crate::bitmap::Bitmap;
use crate::codec::{decode_numbers, encode_numbers, read_block, write_block};
use crate::error::CoreError;
use crate::wire::{Reader, seal, unseal};

/// The most rows a segment may have.
pub const MAX_ROWS: u32 = 65_536;

const MAGIC: [u8; 2] = *b"vS";
const VERSION: u8 = 1;
const FLAG_ORIGINS: u8 = 1;
const ENTRY_LEN: usize = 11;

/// What a segment says of itself; its columns are stored beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// How many rows the segment has, dead ones included.
    pub rows: u32,
    /// One entry a stored column, no attribute number twice.
    pub columns: Vec<ColumnEntry>,
    /// One bit a row, set where the row is dead.
    pub dead: Bitmap,
    /// Where each row came from, one number a row.
    pub origins: Option<Vec<u64>>,
    /// [`segment_sha256`] of the encoded columns.
    pub sha256: [u8; 32],
    /// Size of the rows before encoding, in bytes, as the writer counts it.
    pub raw_bytes: u64,
}

/// One column of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnEntry {
    /// Attribute number of the column.
    pub attnum: u16,
    /// Length of the encoded column in bytes.
    pub bytes: u32,
    /// How many rows are NULL.
    pub nulls: u32,
    /// The codec's number, see [`codec_name`](crate::codec_name).
    pub codec: u8,
}

impl SegmentHeader {
    /// Checks what [`to_bytes`](Self::to_bytes) takes for granted and
    /// [`from_bytes`](Self::from_bytes) insists on.
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
        if self.columns.len() > usize::from(u16::MAX) {
            return Err(CoreError::invalid("too many columns"));
        }
        let mut seen = std::collections::HashSet::new();
        for entry in &self.columns {
            if !seen.insert(entry.attnum) {
                return Err(CoreError::invalid(format!("column {} twice", entry.attnum)));
            }
            if entry.nulls > self.rows {
                return Err(CoreError::invalid(format!(
                    "{} NULLs among {rows} rows",
                    entry.nulls
                )));
            }
        }
        Ok(())
    }

    /// The stored form. A header that [`validate`](Self::validate) refuses gives bytes that
    /// [`from_bytes`](Self::from_bytes) refuses.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.try_to_bytes().unwrap_or_default()
    }

    /// The stored form, or why there is none.
    ///
    /// # Errors
    /// [`CoreError::Invalid`] where [`validate`](Self::validate) says so.
    pub fn try_to_bytes(&self) -> Result<Vec<u8>, CoreError> {
        self.validate()?;
        let flags = if self.origins.is_some() {
            FLAG_ORIGINS
        } else {
            0
        };
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, flags]);
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.sha256);
        out.extend_from_slice(&(self.columns.len() as u16).to_le_bytes());
        for entry in &self.columns {
            out.extend_from_slice(&entry.attnum.to_le_bytes());
            out.push(entry.codec);
            out.extend_from_slice(&entry.nulls.to_le_bytes());
            out.extend_from_slice(&entry.bytes.to_le_bytes());
        }
        let dead = self.dead.to_bytes();
        out.extend_from_slice(&(dead.len() as u32).to_le_bytes());
        out.extend_from_slice(&dead);
        if let Some(origins) = &self.origins {
            write_block(&mut out, &encode_numbers(origins, 0)?)?;
        }
        Ok(seal(out))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are not a header, [`CoreError::Unsupported`] when a
    /// newer version wrote them.
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
        if flags & !FLAG_ORIGINS != 0 {
            return Err(CoreError::unsupported(format!("segment flags {flags:#x}")));
        }
        let rows = reader.u32()?;
        if rows > MAX_ROWS {
            return Err(CoreError::corrupt(format!("{rows} rows in one segment")));
        }
        let raw_bytes = reader.u64()?;
        let sha256 = reader.array()?;
        let column_count = usize::from(reader.u16()?);
        let mut entries = Reader::new(reader.take(column_count * ENTRY_LEN)?);
        let mut columns = Vec::with_capacity(column_count);
        for _ in 0..column_count {
            columns.push(ColumnEntry {
                attnum: entries.u16()?,
                codec: entries.u8()?,
                nulls: entries.u32()?,
                bytes: entries.u32()?,
            });
        }
        let dead = Bitmap::from_bytes(reader.sized()?, rows as usize)?;
        let origins = if flags & FLAG_ORIGINS == 0 {
            None
        } else {
            let (codec, block) = read_block(&mut reader)?;
            Some(decode_numbers::<u64>(codec, block, rows as usize, 0)?)
        };
        reader.finish()?;
        let header = Self {
            rows,
            columns,
            dead,
            origins,
            sha256,
            raw_bytes,
        };
        header
            .validate()
            .map_err(|error| CoreError::corrupt(error.to_string()))?;
        Ok(header)
    }
}

/// SHA-256 over every column in the order given: attribute number (2 bytes), length (8 bytes), both
/// little-endian, and the encoded bytes.
pub fn segment_sha256<'a>(columns: impl Iterator<Item = (u16, &'a [u8])>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for (attnum, bytes) in columns {
        hasher.update(attnum.to_le_bytes());
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().into()
}

/// One SHA-256 over those of several segments, in their order: what a chunk is known by.
pub fn combine_sha256(sums: impl Iterator<Item = [u8; 32]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    sums.for_each(|sum| hasher.update(sum));
    hasher.finalize().into()
}
