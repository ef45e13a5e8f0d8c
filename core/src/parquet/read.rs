//! Rows in.

use std::io::{Read, Seek, SeekFrom};

use super::error::ParquetError;
use super::schema::{self, Field, Physical};
use super::{
    Entry, MAGIC, MAX_ENTRIES, MAX_HELD_BYTES, MAX_META_BYTES, MAX_META_VALUES, MAX_PAGE_BYTES,
    PLAIN, RLE, ZSTD, held, thrift,
};

/// The description of a page is shorter than this.
const HEADER_BYTES: u64 = 256;
const HEADER_VALUES: usize = 64;

/// A part of a column that is read.
struct ColumnReader {
    physical: Physical,
    list: bool,
    depth: u8,
    /// What is left of it in the file.
    at: u64,
    end: u64,
    /// The page at hand: its levels and values, and what of them has been read.
    depths: Vec<u8>,
    repeats: Vec<u8>,
    entry: usize,
    values: Vec<u8>,
    value: usize,
    /// Its bytes.
    held: u64,
}

/// Where the columns of a row group lie.
struct Group {
    rows: u64,
    columns: Vec<(u64, u64)>,
}

/// A file that is read, row by row.
pub struct Reader<R> {
    input: R,
    fields: Vec<Field>,
    rows: u64,
    groups: std::vec::IntoIter<Group>,
    left: u64,
    columns: Vec<ColumnReader>,
    /// Bytes of the pages of all columns.
    held: u64,
}

fn corrupt(detail: impl Into<String>) -> ParquetError {
    ParquetError::corrupt(detail)
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the description of a file.
    ///
    /// # Errors
    /// [`ParquetError::Corrupt`] where it is none that [`Writer`](super::Writer) writes.
    pub fn open(mut input: R) -> Result<Self, ParquetError> {
        let size = input.seek(SeekFrom::End(0))?;
        let tail_at = size.checked_sub(8).filter(|at| *at >= 4);
        let tail_at = tail_at.ok_or_else(|| corrupt("it is too short"))?;
        input.seek(SeekFrom::Start(tail_at))?;
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let mut magic = [0; 4];
        input.read_exact(&mut magic)?;
        let length = u64::from(u32::from_le_bytes(length));
        let at = tail_at.checked_sub(length).filter(|at| *at >= 4);
        let (Some(at), true, true) = (at, magic == *MAGIC, length <= MAX_META_BYTES) else {
            return Err(corrupt("its end is damaged"));
        };
        input.seek(SeekFrom::Start(at))?;
        let mut meta = Vec::new();
        input.by_ref().take(length).read_to_end(&mut meta)?;
        let (meta, _) = thrift::read(&meta, MAX_META_VALUES)?;
        let no_schema = || corrupt("it has no schema");
        let fields = schema::read(&meta.structures(2).ok_or_else(no_schema)?)?;
        let rows = meta.size(3).ok_or_else(|| corrupt("it has no rows"))?;
        let mut groups = Vec::new();
        for group in meta.structures(4).unwrap_or_default() {
            groups.push(Self::group(group, &fields, at)?);
        }
        let sum = groups.iter().try_fold(0u64, |n, g| n.checked_add(g.rows));
        if sum != Some(rows) {
            return Err(corrupt("its row groups do not have its rows"));
        }
        Ok(Self {
            input,
            fields,
            rows,
            groups: groups.into_iter(),
            left: 0,
            columns: Vec::new(),
            held: 0,
        })
    }

    fn group(group: &thrift::Struct, fields: &[Field], end: u64) -> Result<Group, ParquetError> {
        let wrong = || corrupt("a row group is wrong");
        let chunks = group.structures(1).unwrap_or_default();
        if chunks.len() != fields.len() {
            return Err(wrong());
        }
        let mut columns = Vec::new();
        for (chunk, field) in chunks.iter().zip(fields) {
            let meta = chunk.structure(3).ok_or_else(wrong)?;
            let begin = meta.size(9).ok_or_else(wrong)?;
            let bytes = meta.size(7).ok_or_else(wrong)?;
            let stop = begin.checked_add(bytes).filter(|stop| *stop <= end);
            let same = meta.int(1) == Some(field.number()) && meta.int(4) == Some(ZSTD);
            match (stop, same) {
                (Some(stop), true) => columns.push((begin, stop)),
                _ => return Err(wrong()),
            }
        }
        Ok(Group {
            rows: group.size(3).ok_or_else(wrong)?,
            columns,
        })
    }

    /// The columns; what their values mean is not told.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Goes on to the next row; whether there is one. Of every column all entries of the row before must have been read.
    ///
    /// # Errors
    /// [`ParquetError::Corrupt`].
    pub fn next_row(&mut self) -> Result<bool, ParquetError> {
        while self.left == 0 {
            if self.columns.iter().any(|c| !c.at_end()) {
                return Err(corrupt("a row group has more values than rows"));
            }
            let Some(group) = self.groups.next() else {
                return Ok(false);
            };
            self.left = group.rows;
            self.held = 0;
            let columns = group.columns.into_iter().zip(&self.fields);
            self.columns = columns
                .map(|((at, end), field)| ColumnReader::new(field, at, end))
                .collect();
        }
        self.left -= 1;
        Ok(true)
    }

    /// The next entry of a column in the row at hand.
    ///
    /// # Errors
    /// [`ParquetError::Corrupt`], also where a page has no more.
    pub fn next(&mut self, column: usize) -> Result<Entry<'_>, ParquetError> {
        match self.columns.get_mut(column) {
            Some(column) => column.next(&mut self.input, &mut self.held),
            None => Err(corrupt("there is no such column")),
        }
    }

    /// Whether the list at hand goes on.
    pub fn goes_on(&self, column: usize) -> bool {
        let column = self.columns.get(column);
        column.is_some_and(|c| c.repeats.get(c.entry) == Some(&1))
    }
}

/// Reads runs of levels, `count` of them, that are at most `most`; and where what follows them begins.
fn levels(page: &[u8], count: usize, most: u8) -> Option<(Vec<u8>, &[u8])> {
    let (length, rest) = page.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (mut runs, rest) = rest.split_at_checked(length)?;
    let mut levels = Vec::new();
    while let Some((_, _)) = runs.split_first() {
        let (mut header, mut shift) = (0u64, 0);
        loop {
            let (byte, more) = runs.split_first()?;
            runs = more;
            header |= u64::from(byte & 0x7F).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 35 {
                return None;
            }
        }
        let (level, more) = runs.split_first()?;
        runs = more;
        let run = usize::try_from(header >> 1).ok()?;
        if header & 1 == 1 || *level > most || run > count - levels.len() {
            return None;
        }
        levels.resize(levels.len() + run, *level);
    }
    (levels.len() == count).then_some((levels, rest))
}

impl ColumnReader {
    fn new(field: &Field, at: u64, end: u64) -> Self {
        Self {
            physical: field.physical,
            list: field.list,
            depth: field.depth(),
            at,
            end,
            depths: Vec::new(),
            repeats: Vec::new(),
            entry: 0,
            values: Vec::new(),
            value: 0,
            held: 0,
        }
    }

    fn at_end(&self) -> bool {
        self.entry >= self.depths.len() && self.at >= self.end
    }

    /// Reads the next page; `all` are the bytes of the pages of all columns.
    fn load<R: Read + Seek>(&mut self, input: &mut R, all: &mut u64) -> Result<(), ParquetError> {
        let wrong = || corrupt("a page is wrong");
        let left = self.end.saturating_sub(self.at);
        input.seek(SeekFrom::Start(self.at))?;
        let mut header = Vec::new();
        input
            .by_ref()
            .take(left.min(HEADER_BYTES))
            .read_to_end(&mut header)?;
        let (header, taken) = thrift::read(&header, HEADER_VALUES)?;
        let (raw, stored) = (header.size(2), header.size(3));
        let (Some(raw), Some(stored), Some(data)) = (raw, stored, header.structure(5)) else {
            return Err(wrong());
        };
        let body = taken as u64;
        let kinds = [data.int(2), data.int(3), data.int(4)];
        if header.int(1) != Some(0)
            || kinds != [Some(PLAIN), Some(RLE), Some(RLE)]
            || raw > MAX_PAGE_BYTES
            || body + stored > left
        {
            return Err(wrong());
        }
        let count = data.size(1).and_then(|n| usize::try_from(n).ok());
        let count = count.ok_or_else(wrong)?;
        if count == 0 || count > MAX_ENTRIES {
            return Err(wrong());
        }
        // The page before goes, and makes room for this one.
        (self.depths, self.repeats, self.values) = (Vec::new(), Vec::new(), Vec::new());
        *all = all.saturating_sub(std::mem::take(&mut self.held));
        let more = held(raw, count, self.list);
        if all.saturating_add(more) > MAX_HELD_BYTES {
            return Err(corrupt("its pages take too much memory"));
        }
        self.held = more;
        *all += more;
        input.seek(SeekFrom::Start(self.at + body))?;
        let mut compressed = Vec::new();
        input.by_ref().take(stored).read_to_end(&mut compressed)?;
        let mut page = Vec::new();
        let decoded = zstd::stream::read::Decoder::with_buffer(compressed.as_slice())
            .and_then(|plain| plain.take(raw + 1).read_to_end(&mut page));
        if decoded.is_err() || page.len() as u64 != raw {
            return Err(wrong());
        }
        self.at += body + stored;
        let mut rest = page.as_slice();
        if self.list {
            (self.repeats, rest) = levels(rest, count, 1).ok_or_else(wrong)?;
            if self.repeats.first() != Some(&0) {
                return Err(wrong());
            }
        }
        (self.depths, rest) = levels(rest, count, self.depth).ok_or_else(wrong)?;
        let begin = page.len() - rest.len();
        (self.entry, self.value) = (0, 0);
        page.drain(..begin);
        self.values = page;
        Ok(())
    }

    fn next<R: Read + Seek>(
        &mut self,
        input: &mut R,
        all: &mut u64,
    ) -> Result<Entry<'_>, ParquetError> {
        if self.entry >= self.depths.len() {
            if self.at >= self.end {
                return Err(corrupt("a column has too few values"));
            }
            self.load(input, all)?;
        }
        let depth = self.depths.get(self.entry).copied().unwrap_or(0);
        self.entry += 1;
        match depth {
            0 => Ok(Entry::Null),
            depth if depth == self.depth => {
                let value = self.next_value();
                value
                    .map(Entry::Value)
                    .ok_or_else(|| corrupt("a value is missing"))
            }
            1 => Ok(Entry::Empty),
            _ => Ok(Entry::Absent),
        }
    }

    fn next_value(&mut self) -> Option<&[u8]> {
        let begin = self.value;
        match self.physical {
            Physical::Boolean => {
                let byte = self.values.get(begin / 8)?;
                let bit = byte >> (begin % 8) & 1;
                self.value += 1;
                Some(if bit == 1 { &[1] } else { &[0] })
            }
            Physical::Bytes => {
                let length = self.values.get(begin..)?.first_chunk::<4>()?;
                let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                self.value = begin.checked_add(4)?.checked_add(length)?;
                self.values.get(begin + 4..self.value)
            }
            other => {
                self.value = begin.checked_add(other.width()?)?;
                self.values.get(begin..self.value)
            }
        }
    }
}
