//! The index of a column: all that is known of it before a page is read.

use std::ops::Range;

use super::dictionary::Dictionary;
use super::filter::{self, MAX_BLOCKS};
use super::floats::{self, MAX_SCALE};
use super::general::{Compressor, Decompressor};
use super::unit::Unit;
use super::varint::{read_i64, read_usize, write_i64, write_usize};
use super::zones::{self, IntZone, Zones};
use super::{Bounds, Effort, PAGE_ROWS, Sum, Zone};
use crate::error::CoreError;
use crate::wire::{Reader, seal, unseal};
use crate::{Kind, MAX_DECODED_BYTES, MAX_ROWS};

const MAGIC: [u8; 2] = *b"vC";
const VERSION: u8 = 2;
/// The rest of the index is a zstd frame.
const ZSTD: u8 = 1;
/// Pages have NULLs.
const NULLS: u8 = 2;
/// The numbers of the pages are packed by pco.
const PCO: u8 = 4;
/// The values are named by their place in a dictionary.
const DICTIONARY: u8 = 8;
/// The zones of doubles are in counts of the unit of their decimals.
const DECIMAL_ZONES: u8 = 16;
/// Filters follow the pages.
const FILTERS: u8 = 32;

const NO_SCALE: u8 = u8::MAX;
/// The most bytes of an index.
const MAX_INDEX_BYTES: usize = 1 << 25;

/// The index of a column: kind, pages, zones, and what the pages share.
#[derive(Debug, Clone)]
pub struct ColumnIndex {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    codec: u8,
    /// NULLs of each page; empty when there are none.
    nulls: Vec<u16>,
    /// Where each page begins, and where the last one ends.
    starts: Vec<u32>,
    /// Checksum of each page; 0 for one without bytes.
    sums: Vec<u32>,
    /// Blocks of each page's filter; 0 where there are none.
    pub(crate) filter_blocks: usize,
    pub(crate) zones: Zones,
    pub(crate) mapping: Mapping,
    pub(crate) packing: Packing,
    summary: Zone,
    /// Tells columns apart: the checksum of the index.
    pub(crate) identity: u64,
}

/// How the numbers of the pages stand for values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mapping {
    /// Integers in a unit.
    Ints(Unit),
    /// Floats: digits after the point, if decimals were found, and the unit of their integers or else
    /// of the ordered bits.
    Floats(Option<u8>, Unit),
    /// Places in a dictionary.
    Codes(Dictionary),
    /// Not at all: the pages hold bytes.
    Plain,
}

/// How numbers are packed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Packing {
    Bits,
    /// By pco, with its metadata.
    Pco(Box<[u8]>),
}

/// What an index is written from.
pub(crate) struct Parts<'a> {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) codec: u8,
    pub(crate) nulls: &'a [usize],
    pub(crate) pages: &'a [Vec<u8>],
    pub(crate) zones: &'a Zones,
    pub(crate) mapping: &'a Mapping,
    pub(crate) packing: &'a Packing,
    /// The zones in counts of the unit, where all floats are decimals.
    pub(crate) decimal_zones: Option<&'a [IntZone]>,
    /// Blocks of each page's filter; 0 for no filters.
    pub(crate) filter_blocks: usize,
    pub(crate) effort: Effort,
}

impl ColumnIndex {
    /// Reads an index, of which `bytes` must hold exactly one.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are none, [`CoreError::Unsupported`] when a newer
    /// version wrote them.
    pub fn parse(bytes: &[u8]) -> Result<Self, CoreError> {
        let mut reader = Reader::new(unseal(bytes)?);
        let identity = bytes.last_chunk().map_or(0, |sum| u64::from_le_bytes(*sum));
        if reader.array()? != MAGIC {
            return Err(CoreError::corrupt("not an encoded column"));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(CoreError::unsupported(format!("column version {version}")));
        }
        let flags = reader.u8()?;
        if flags & !(ZSTD | NULLS | PCO | DICTIONARY | DECIMAL_ZONES | FILTERS) != 0 {
            return Err(CoreError::unsupported(format!("column flags {flags:#x}")));
        }
        if flags & ZSTD == 0 {
            return Self::read(reader, flags, bytes.len(), identity);
        }
        let len = read_usize(&mut reader, MAX_INDEX_BYTES)?;
        let mut body = Vec::new();
        Decompressor::default().decompress(reader.rest(), len, &mut body)?;
        Self::read(Reader::new(&body), flags, bytes.len(), identity)
    }

    fn read(
        mut reader: Reader<'_>,
        flags: u8,
        index_len: usize,
        identity: u64,
    ) -> Result<Self, CoreError> {
        let id = reader.u8()?;
        let width = read_usize(&mut reader, usize::from(u16::MAX))?;
        let kind = Kind::from_ids(id, width as u16)?;
        let codec = reader.u8()?;
        let rows = read_usize(&mut reader, MAX_ROWS as usize)?;
        if rows * width > MAX_DECODED_BYTES {
            return Err(CoreError::corrupt(format!(
                "{rows} values of {width} bytes"
            )));
        }
        let pages = rows.div_ceil(PAGE_ROWS);
        let rows_of = |page: usize| PAGE_ROWS.min(rows - page * PAGE_ROWS);
        let mapping = read_mapping(&mut reader, kind, flags)?;
        let packing = if flags & PCO == 0 {
            Packing::Bits
        } else if mapping == Mapping::Plain {
            return Err(CoreError::corrupt("pco of bytes"));
        } else {
            let len = read_usize(&mut reader, MAX_INDEX_BYTES)?;
            Packing::Pco(reader.take(len)?.into())
        };
        let mut nulls = Vec::new();
        if flags & NULLS != 0 {
            for page in 0..pages {
                nulls.push(read_usize(&mut reader, rows_of(page))? as u16);
            }
        }
        let present: Vec<usize> = (0..pages)
            .map(|page| rows_of(page) - nulls.get(page).map_or(0, |nulls| usize::from(*nulls)))
            .collect();
        let mut starts = Vec::with_capacity(pages + 1);
        let mut end = index_len;
        starts.push(end as u32);
        for _ in 0..pages {
            end += read_usize(&mut reader, 2 * MAX_DECODED_BYTES)?;
            let start = u32::try_from(end)
                .map_err(|_| CoreError::corrupt(format!("a column of {end} bytes")))?;
            starts.push(start);
        }
        let mut sums = Vec::with_capacity(pages);
        for (start, end) in starts.iter().zip(starts.iter().skip(1)) {
            sums.push(if start == end { 0 } else { reader.u32()? });
        }
        let zones = match (&mapping, kind) {
            (Mapping::Floats(Some(scale), unit), Kind::F64) if flags & DECIMAL_ZONES != 0 => {
                let zones = zones::read_ints(&mut reader, &present)?;
                Zones::of_decimals(&zones, &present, *unit, floats::power(*scale))
            }
            _ if flags & DECIMAL_ZONES != 0 => {
                return Err(CoreError::corrupt("zones of decimals where there are none"));
            }
            (Mapping::Codes(dictionary), _) => {
                Zones::read_codes(&mut reader, &present, dictionary.len())?
            }
            (_, Kind::F32 | Kind::F64) => Zones::read_floats(&mut reader, &present)?,
            (_, Kind::Fixed { .. } | Kind::Bytes) => Zones::read_bytes(&mut reader, &present)?,
            (Mapping::Ints(unit), _) => {
                Zones::of_counts(zones::read_ints(&mut reader, &present)?, &present, *unit)
            }
            _ => return Err(CoreError::corrupt("a mapping of another kind")),
        };
        let mut filter_blocks = 0;
        if flags & FILTERS != 0 {
            filter_blocks = read_usize(&mut reader, MAX_BLOCKS)?;
            if filter_blocks == 0 || pages == 0 {
                return Err(CoreError::corrupt("filters of nothing"));
            }
            end += filter::filters_len(pages, filter_blocks);
            u32::try_from(end)
                .map_err(|_| CoreError::corrupt(format!("a column of {end} bytes")))?;
        }
        reader.finish()?;
        let mut index = Self {
            kind,
            rows,
            codec,
            nulls,
            starts,
            sums,
            filter_blocks,
            zones,
            mapping,
            packing,
            summary: Zone::empty(),
            identity,
        };
        index.summary =
            (0..pages)
                .filter_map(|page| index.zone(page))
                .fold(Zone::empty(), |mut all, zone| {
                    all.merge(&zone);
                    all
                });
        Ok(index)
    }

    /// What the column holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many rows the column has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many pages the column has.
    pub fn pages(&self) -> usize {
        self.rows.div_ceil(PAGE_ROWS)
    }

    /// The number of its main encoding, see [`codec_name`](super::codec_name).
    pub fn codec(&self) -> u8 {
        self.codec
    }

    /// Bytes that the index occupies.
    pub fn memory(&self) -> usize {
        let shared = match &self.mapping {
            Mapping::Codes(dictionary) => dictionary.memory(),
            _ => 0,
        };
        let packing = match &self.packing {
            Packing::Bits => 0,
            Packing::Pco(meta) => meta.len(),
        };
        size_of::<Self>()
            + 2 * self.nulls.len()
            + 4 * self.starts.len()
            + 4 * self.sums.len()
            + self.zones.memory()
            + shared
            + packing
    }

    /// Where the bytes of a page are, counted from the beginning of the column. A page of one value
    /// needs none.
    pub fn page_range(&self, page: usize) -> Option<Range<usize>> {
        let start = *self.starts.get(page)?;
        let end = *self.starts.get(page + 1)?;
        Some(start as usize..end as usize)
    }

    /// Where the pages end, counted from the beginning of the column.
    pub(crate) fn pages_end(&self) -> usize {
        self.starts.last().map_or(0, |end| *end as usize)
    }

    /// Bytes of the whole column: index, pages and filters.
    pub(crate) fn column_len(&self) -> usize {
        self.pages_end() + filter::filters_len(self.pages(), self.filter_blocks)
    }

    /// What is known of the rows of a page.
    pub fn zone(&self, page: usize) -> Option<Zone> {
        let (rows, nulls) = self.page_rows(page)?;
        let (bounds, sum) = if rows == nulls {
            (Bounds::None, Sum::None)
        } else {
            self.zones.get(page, self.dictionary())
        };
        Some(Zone {
            rows: rows as u32,
            nulls: nulls as u32,
            bounds,
            sum,
        })
    }

    /// What is known of all rows.
    pub fn summary(&self) -> &Zone {
        &self.summary
    }

    /// The dictionary, where the pages hold codes.
    pub fn dictionary(&self) -> Option<&Dictionary> {
        match &self.mapping {
            Mapping::Codes(dictionary) => Some(dictionary),
            _ => None,
        }
    }

    /// Rows and NULLs of a page.
    pub(crate) fn page_rows(&self, page: usize) -> Option<(usize, usize)> {
        let before = page.checked_mul(PAGE_ROWS).filter(|row| *row < self.rows)?;
        let nulls = self.nulls.get(page).map_or(0, |nulls| usize::from(*nulls));
        Some((PAGE_ROWS.min(self.rows - before), nulls))
    }

    /// The checksum of a page.
    pub(crate) fn page_sum(&self, page: usize) -> Option<u32> {
        self.sums.get(page).copied()
    }
}

/// The checksum of a page: the lower half of its xxh3-64.
pub(crate) fn page_checksum(bytes: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(bytes) as u32
}

/// The stored form of an index.
pub(crate) fn write(parts: &Parts<'_>) -> Result<Vec<u8>, CoreError> {
    let mut flags = 0;
    let mut body = Vec::new();
    let (id, width) = parts.kind.to_ids();
    body.push(id);
    write_usize(&mut body, usize::from(width));
    body.push(parts.codec);
    write_usize(&mut body, parts.rows);
    let write_unit = |unit: &Unit, body: &mut Vec<u8>| {
        write_i64(body, unit.unit);
        write_i64(body, unit.base);
    };
    match parts.mapping {
        Mapping::Ints(unit) => write_unit(unit, &mut body),
        Mapping::Floats(scale, unit) => {
            body.push(scale.unwrap_or(NO_SCALE));
            write_unit(unit, &mut body);
        }
        Mapping::Codes(dictionary) => {
            flags |= DICTIONARY;
            dictionary.write(&mut body);
        }
        Mapping::Plain => {}
    }
    match parts.packing {
        Packing::Bits => {}
        Packing::Pco(meta) => {
            flags |= PCO;
            write_usize(&mut body, meta.len());
            body.extend_from_slice(meta);
        }
    }
    if parts.nulls.iter().any(|nulls| *nulls > 0) {
        flags |= NULLS;
        for nulls in parts.nulls {
            write_usize(&mut body, *nulls);
        }
    }
    for page in parts.pages {
        write_usize(&mut body, page.len());
    }
    for page in parts.pages.iter().filter(|page| !page.is_empty()) {
        body.extend_from_slice(&page_checksum(page).to_le_bytes());
    }
    let present: Vec<usize> = parts
        .nulls
        .iter()
        .enumerate()
        .map(|(page, nulls)| PAGE_ROWS.min(parts.rows - page * PAGE_ROWS) - nulls)
        .collect();
    match parts.decimal_zones {
        Some(zones) => {
            flags |= DECIMAL_ZONES;
            zones::write_ints(zones, Unit::ONE, &present, &mut body);
        }
        None => {
            let unit = match parts.mapping {
                Mapping::Ints(unit) => *unit,
                _ => Unit::ONE,
            };
            parts.zones.write(unit, &present, &mut body);
        }
    }
    if parts.filter_blocks > 0 {
        flags |= FILTERS;
        write_usize(&mut body, parts.filter_blocks);
    }

    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    // Decompressing takes longer than reading a short index.
    let (from, worth) = match parts.effort {
        Effort::Fast => (1 << 12, body.len() / 5 * 4),
        Effort::Small => (1 << 8, body.len() / 20 * 19),
    };
    if body.len() >= from {
        let packed = Compressor::new(3)?.compress(&body)?;
        if packed.len() < worth {
            out.push(flags | ZSTD);
            write_usize(&mut out, body.len());
            out.extend(packed);
            return Ok(seal(out));
        }
    }
    out.push(flags);
    out.extend(body);
    Ok(seal(out))
}

fn read_mapping(reader: &mut Reader<'_>, kind: Kind, flags: u8) -> Result<Mapping, CoreError> {
    let width = match kind {
        Kind::Bytes => None,
        Kind::Fixed { len } => Some(len),
        _ if flags & DICTIONARY != 0 => {
            return Err(CoreError::corrupt("a dictionary of numbers"));
        }
        Kind::F32 | Kind::F64 => {
            let scale = reader.u8()?;
            if scale > MAX_SCALE && scale != NO_SCALE {
                return Err(CoreError::corrupt(format!("{scale} decimal places")));
            }
            let scale = (scale != NO_SCALE).then_some(scale);
            return Ok(Mapping::Floats(scale, read_unit(reader)?));
        }
        _ => return Ok(Mapping::Ints(read_unit(reader)?)),
    };
    if flags & DICTIONARY != 0 {
        Dictionary::read(reader, width).map(Mapping::Codes)
    } else {
        Ok(Mapping::Plain)
    }
}

fn read_unit(reader: &mut Reader<'_>) -> Result<Unit, CoreError> {
    let unit = read_i64(reader)?;
    let base = read_i64(reader)?;
    if unit < 1 || !(0..unit).contains(&base) {
        return Err(CoreError::corrupt(format!("unit {unit} with base {base}")));
    }
    Ok(Unit { unit, base })
}
