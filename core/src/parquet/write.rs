//! Rows out.

use std::io::Write;

use super::error::ParquetError;
use super::schema::{Field, Physical};
use super::thrift::StructWriter;
use super::{
    Entry, MAGIC, MAX_ENTRIES, MAX_HELD_BYTES, MAX_META_BYTES, MAX_META_VALUES, MAX_PAGE_BYTES,
    PLAIN, RLE, ZSTD, held,
};

/// A page ends with the row that makes it as large as this, in bytes of its values, or as many rows.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ROWS: usize = 20_000;

/// A row group ends with the row that makes it as large as this, in bytes in memory, or as many rows.
const GROUP_BYTES: usize = 64 << 20;
const GROUP_ROWS: u64 = 128 << 10;

/// A row group ends, too, with the row that lets its largest pages take so many bytes together, as a reader has them.
const GROUP_HELD_BYTES: u64 = 1 << 30;

/// Values that describe a part of a column in a row group, and bytes but for its names, at most.
const CHUNK_VALUES: usize = 24;
const CHUNK_BYTES: u64 = 128;

/// A run of equal levels is as RLE has it: its length, doubled, and the level.
fn levels(of: &[u8], to: &mut Vec<u8>) {
    let begin = to.len();
    to.extend_from_slice(&[0; 4]);
    for run in of.chunk_by(|a, b| a == b) {
        let mut length = run.len() << 1;
        while length >= 0x80 {
            to.push(length as u8 | 0x80);
            length >>= 7;
        }
        to.push(length as u8);
        to.extend(run.first());
    }
    let length = (to.len() - begin - 4) as u32;
    if let Some(place) = to.get_mut(begin..begin + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// A column of the rows that are being written.
pub struct ColumnWriter {
    field: Field,
    /// Levels of the page that is being filled.
    depths: Vec<u8>,
    repeats: Vec<u8>,
    /// Its values, plain; those of Booleans are counted beside, since they take a bit.
    values: Vec<u8>,
    bits: usize,
    rows: usize,
    /// Finished pages of the row group.
    pages: Vec<u8>,
    /// Values and NULLs in them.
    entries: u64,
    /// Bytes that they would take if they were not compressed.
    raw_bytes: u64,
    /// What the largest of them takes when it is read.
    held: u64,
}

impl ColumnWriter {
    fn new(field: Field) -> Self {
        Self {
            field,
            depths: Vec::new(),
            repeats: Vec::new(),
            values: Vec::new(),
            bits: 0,
            rows: 0,
            pages: Vec::new(),
            entries: 0,
            raw_bytes: 0,
            held: 0,
        }
    }

    /// Adds an entry of the row at hand; `continues` those of a list but the first.
    pub fn push(&mut self, continues: bool, entry: Entry<'_>) {
        self.repeats.push(u8::from(continues));
        self.rows += usize::from(!continues);
        let depth = match entry {
            Entry::Null => 0,
            Entry::Empty => 1,
            Entry::Absent => 2,
            Entry::Value(_) => self.field.depth(),
        };
        self.depths.push(depth);
        let Entry::Value(value) = entry else {
            return;
        };
        match self.field.physical {
            Physical::Boolean => {
                if self.bits.is_multiple_of(8) {
                    self.values.push(0);
                }
                let bit = u8::from(value.first().is_some_and(|b| *b != 0)) << (self.bits % 8);
                if let Some(last) = self.values.last_mut() {
                    *last |= bit;
                }
                self.bits += 1;
            }
            Physical::Bytes => {
                self.values.extend((value.len() as u32).to_le_bytes());
                self.values.extend_from_slice(value);
            }
            _ => self.values.extend_from_slice(value),
        }
    }

    /// Bytes that the column keeps in memory.
    fn bytes(&self) -> usize {
        self.pages.len() + self.values.len() + 2 * self.depths.len()
    }

    fn end_page(&mut self, zstd: &mut zstd::bulk::Compressor<'_>) -> Result<(), ParquetError> {
        if self.depths.is_empty() {
            return Ok(());
        }
        let mut page = Vec::with_capacity(self.values.len() + 64);
        if self.field.list {
            levels(&self.repeats, &mut page);
        }
        levels(&self.depths, &mut page);
        page.extend_from_slice(&self.values);
        let entries = self.depths.len();
        if page.len() as u64 > MAX_PAGE_BYTES || entries > MAX_ENTRIES {
            let (name, bytes) = (&self.field.name, page.len());
            return Err(ParquetError::too_large(format!(
                "a value of column \"{name}\", with which a page has {entries} entries and {bytes} bytes"
            )));
        }
        let more = held(page.len() as u64, entries, self.field.list);
        self.held = self.held.max(more);
        let stored = zstd.compress(&page)?;
        let size = |bytes: usize| {
            i32::try_from(bytes)
                .map_err(|_| ParquetError::too_large(format!("a page of {bytes} bytes")))
        };
        let mut header = StructWriter::new();
        header.i32(1, 0);
        header.i32(2, size(page.len())?);
        header.i32(3, size(stored.len())?);
        let entries = size(entries)?;
        header.structure(5, |data| {
            data.i32(1, entries);
            data.i32(2, PLAIN as i32);
            data.i32(3, RLE as i32);
            data.i32(4, RLE as i32);
        });
        let header = header.finish();
        self.raw_bytes += (header.len() + page.len()) as u64;
        self.pages.extend(header);
        self.pages.extend(stored);
        self.entries += self.depths.len() as u64;
        self.depths.clear();
        self.repeats.clear();
        self.values.clear();
        (self.bits, self.rows) = (0, 0);
        // One large value does not take its memory for ever.
        self.values.shrink_to(2 * PAGE_BYTES);
        Ok(())
    }
}

/// A file that is being written, row by row; a row group is kept in memory until it is full.
pub struct Writer<W: Write> {
    out: W,
    offset: u64,
    columns: Vec<ColumnWriter>,
    zstd: zstd::bulk::Compressor<'static>,
    rows: u64,
    group_rows: u64,
    groups: Vec<StructWriter>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn new(mut out: W, fields: Vec<Field>, level: i32) -> Result<Self, ParquetError> {
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            offset: MAGIC.len() as u64,
            columns: fields.into_iter().map(ColumnWriter::new).collect(),
            zstd: zstd::bulk::Compressor::new(level)?,
            rows: 0,
            group_rows: 0,
            groups: Vec::new(),
        })
    }

    /// The columns. Each gets a NULL, a value, an empty list or the elements of a list before [`end_row`](Self::end_row).
    pub fn columns(&mut self) -> &mut [ColumnWriter] {
        &mut self.columns
    }

    /// Ends a row.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn end_row(&mut self) -> Result<(), ParquetError> {
        self.rows += 1;
        self.group_rows += 1;
        let (mut bytes, mut held) = (0, 0u64);
        for column in &mut self.columns {
            if column.values.len() + column.depths.len() >= PAGE_BYTES || column.rows >= PAGE_ROWS {
                column.end_page(&mut self.zstd)?;
            }
            bytes += column.bytes();
            held = held.saturating_add(column.held);
        }
        if bytes >= GROUP_BYTES || held >= GROUP_HELD_BYTES || self.group_rows >= GROUP_ROWS {
            self.end_group()?;
        }
        Ok(())
    }

    /// Rows until now.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that have been written until now; the row group at hand is not among them.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Whether the description has come so far that the file should end.
    pub fn is_full(&self) -> bool {
        let parts = self.groups.len().saturating_mul(self.columns.len());
        let names = self.columns.iter().map(|c| c.field.name.len() as u64);
        let group = names.fold(0u64, |sum, name| sum + CHUNK_BYTES + name);
        parts.saturating_mul(CHUNK_VALUES) >= MAX_META_VALUES / 2
            || group.saturating_mul(self.groups.len() as u64) >= MAX_META_BYTES / 2
    }

    fn end_group(&mut self) -> Result<(), ParquetError> {
        if self.group_rows == 0 {
            return Ok(());
        }
        for column in &mut self.columns {
            column.end_page(&mut self.zstd)?;
        }
        let held = self.columns.iter_mut();
        let held = held.fold(0u64, |n, c| n.saturating_add(std::mem::take(&mut c.held)));
        if held > MAX_HELD_BYTES {
            return Err(ParquetError::too_large(format!(
                "a row, with which pages have {held} bytes"
            )));
        }
        let (mut chunks, mut raw, mut stored) = (Vec::new(), 0, 0);
        for column in &mut self.columns {
            self.out.write_all(&column.pages)?;
            let mut chunk = StructWriter::new();
            chunk.i64(2, self.offset as i64);
            chunk.structure(3, |meta| {
                meta.i32(1, column.field.number() as i32);
                meta.i32s(2, &[PLAIN as i32, RLE as i32]);
                meta.texts(3, &column.field.path());
                meta.i32(4, ZSTD as i32);
                meta.i64(5, column.entries as i64);
                meta.i64(6, column.raw_bytes as i64);
                meta.i64(7, column.pages.len() as i64);
                meta.i64(9, self.offset as i64);
            });
            chunks.push(chunk);
            raw += column.raw_bytes;
            stored += column.pages.len() as u64;
            self.offset += column.pages.len() as u64;
            column.pages.clear();
            (column.entries, column.raw_bytes) = (0, 0);
        }
        let mut group = StructWriter::new();
        group.structures(1, chunks);
        group.i64(2, raw as i64);
        group.i64(3, self.group_rows as i64);
        group.i64(6, stored as i64);
        self.groups.push(group);
        self.group_rows = 0;
        Ok(())
    }

    /// Ends the file, which gets some pairs of a name and a text to its description.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn finish(mut self, notes: &[(&str, &str)]) -> Result<W, ParquetError> {
        self.end_group()?;
        let mut root = StructWriter::new();
        root.binary(4, b"schema");
        root.i32(5, self.columns.len() as i32);
        let mut schema = vec![root];
        for column in &self.columns {
            column.field.write(&mut schema);
        }
        let notes = notes.iter().map(|(name, text)| {
            let mut note = StructWriter::new();
            note.binary(1, name.as_bytes());
            note.binary(2, text.as_bytes());
            note
        });
        let mut meta = StructWriter::new();
        meta.i32(1, 2);
        meta.structures(2, schema);
        meta.i64(3, self.rows as i64);
        meta.structures(4, std::mem::take(&mut self.groups));
        meta.structures(5, notes.collect());
        let created = concat!("varve version ", env!("CARGO_PKG_VERSION"));
        meta.binary(6, created.as_bytes());
        let meta = meta.finish();
        let length = u32::try_from(meta.len()).ok();
        let length = length.filter(|length| u64::from(*length) <= MAX_META_BYTES);
        let length = length.ok_or_else(|| ParquetError::too_large("its description"))?;
        self.out.write_all(&meta)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        Ok(self.out)
    }
}
