//! Decoding pages.

use super::floats::{self, BITS, DECIMALS, EXCEPTIONS, Real};
use super::index::{ColumnIndex, Mapping, Packing, page_checksum};
use super::layout::{self, Validity, spread};
use super::page::{Buffers, Form, Page, PageValues};
use super::unit::Unit;
use super::varint::read_usize;
use super::zones::Zones;
use super::{PAGE_ROWS, ints, texts};
use crate::bitmap::Bitmap;
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};
use crate::{Column, Kind, MAX_DECODED_BYTES, Values};

impl ColumnIndex {
    /// Decodes a page, of which `bytes` must be those at [`page_range`](Self::page_range). After an
    /// error the page has no rows.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are not those of the page.
    pub fn decode(&self, page: usize, bytes: &[u8], out: &mut Page) -> Result<(), CoreError> {
        out.rows = 0;
        out.nulls = 0;
        let (rows, nulls) = self
            .page_rows(page)
            .ok_or_else(|| CoreError::corrupt(format!("there is no page {page}")))?;
        let len = self.page_range(page).map(|range| range.len());
        if len != Some(bytes.len()) {
            return Err(CoreError::corrupt(format!(
                "page {page} has {} bytes instead of {}",
                bytes.len(),
                len.unwrap_or_default()
            )));
        }
        if !bytes.is_empty() && self.page_sum(page) != Some(page_checksum(bytes)) {
            return Err(CoreError::corrupt(format!(
                "checksum does not match the {} bytes of page {page}",
                bytes.len()
            )));
        }
        let mut reader = Reader::new(bytes);
        out.validity = if nulls == 0 {
            layout::full(rows)
        } else if nulls == rows {
            layout::full(0)
        } else {
            let len = read_usize(&mut reader, PAGE_ROWS)?;
            layout::read_validity(reader.take(len)?, rows, nulls)?
        };
        if nulls == rows && reader.remaining() > 0 {
            return Err(CoreError::corrupt("values where all are NULL"));
        }
        let target = Target {
            index: self,
            page,
            present: rows - nulls,
            rows,
            validity: (nulls > 0).then_some(out.validity),
        };
        out.form = target.decode(reader, &mut out.buffers)?;
        out.rows = rows;
        out.nulls = nulls;
        Ok(())
    }
}

/// One page to decode.
struct Target<'a> {
    index: &'a ColumnIndex,
    page: usize,
    rows: usize,
    /// How many rows are not NULL.
    present: usize,
    /// Where there are NULLs.
    validity: Option<Validity>,
}

impl Target<'_> {
    fn decode(&self, reader: Reader<'_>, buffers: &mut Buffers) -> Result<Form, CoreError> {
        match (&self.index.mapping, self.index.kind) {
            (Mapping::Ints(unit), _) => {
                self.integers(reader, *unit, buffers)?;
                Ok(Form::Ints)
            }
            (Mapping::Codes(dictionary), _) => {
                self.codes(reader, dictionary.len(), buffers)?;
                Ok(Form::Codes)
            }
            (Mapping::Floats(scale, unit), Kind::F32) => {
                let mut out = std::mem::take(&mut buffers.f32s);
                let decoded = self.floats(reader, *scale, *unit, buffers, out.get());
                buffers.f32s = out;
                decoded.map(|()| Form::F32)
            }
            (Mapping::Floats(scale, unit), _) => {
                let mut out = std::mem::take(&mut buffers.f64s);
                let decoded = self.floats(reader, *scale, *unit, buffers, out.get());
                buffers.f64s = out;
                decoded.map(|()| Form::F64)
            }
            (Mapping::Plain, Kind::Fixed { len }) => {
                self.fixed(reader, len, buffers)?;
                Ok(Form::Fixed(len))
            }
            (Mapping::Plain, _) => {
                self.bytes(reader, buffers)?;
                Ok(Form::Bytes)
            }
        }
    }

    /// Whether the page holds one value, which its zone tells.
    fn constant(&self, reader: &Reader<'_>) -> bool {
        reader.remaining() == 0
    }

    /// Reads numbers to the beginning of the buffer of integers.
    fn numbers(&self, mut reader: Reader<'_>, buffers: &mut Buffers) -> Result<(), CoreError> {
        let Buffers {
            ints,
            words,
            unpacker,
            ..
        } = buffers;
        match &self.index.packing {
            Packing::Pco(meta) => {
                unpacker.read(self.index.identity, meta, reader.rest(), self.present, ints)
            }
            _ => {
                ints::read(&mut reader, self.present, words, ints)?;
                reader.finish()
            }
        }
    }

    fn integers(
        &self,
        reader: Reader<'_>,
        unit: Unit,
        buffers: &mut Buffers,
    ) -> Result<(), CoreError> {
        if self.constant(&reader) {
            let value = match &self.index.zones {
                Zones::Ints(zones) => zones.get(self.page).map_or(0, |(min, ..)| *min),
                _ => 0,
            };
            buffers.ints.fill(value);
        } else {
            self.numbers(reader, buffers)?;
            unit.restore(&mut buffers.ints);
        }
        let values = buffers.ints.get(..self.present).unwrap_or_default();
        let fits = match self.index.kind {
            Kind::I8 => all_fit(values, |value| i64::from(value as i8)),
            Kind::I16 => all_fit(values, |value| i64::from(value as i16)),
            Kind::I32 => all_fit(values, |value| i64::from(value as i32)),
            _ => true,
        };
        if !fits {
            return Err(CoreError::corrupt(
                "a number that is out of its type's range",
            ));
        }
        if let Some(validity) = &self.validity {
            spread(&mut buffers.ints, validity);
        }
        Ok(())
    }

    fn codes(
        &self,
        reader: Reader<'_>,
        len: usize,
        buffers: &mut Buffers,
    ) -> Result<(), CoreError> {
        if self.constant(&reader) {
            let code = match &self.index.zones {
                Zones::Codes(zones) => zones.get(self.page).map_or(0, |(min, _)| *min),
                _ => 0,
            };
            buffers.codes.get().fill(code);
        } else {
            self.numbers(reader, buffers)?;
            let codes = buffers.codes.get();
            let mut all = 0;
            for (code, number) in codes.iter_mut().zip(buffers.ints.iter().take(self.present)) {
                // Negative ones become large ones.
                all |= number.cast_unsigned() >> 32;
                *code = *number as u32;
            }
            let largest = codes.iter().take(self.present).max();
            if all != 0 || largest.is_some_and(|code| *code as usize >= len) {
                return Err(CoreError::corrupt(format!(
                    "a code that is not among the {len} of the dictionary"
                )));
            }
        }
        if let Some(validity) = &self.validity {
            spread(buffers.codes.get(), validity);
        }
        Ok(())
    }

    fn floats<T: Real>(
        &self,
        mut reader: Reader<'_>,
        scale: Option<u8>,
        unit: Unit,
        buffers: &mut Buffers,
        out: &mut [T; PAGE_ROWS],
    ) -> Result<(), CoreError> {
        if self.constant(&reader) {
            let value = match &self.index.zones {
                Zones::Floats(zones) => zones.get(self.page).map_or(0.0, |(min, ..)| *min),
                _ => 0.0,
            };
            out.fill(T::nearest(value));
        } else {
            let exceptions;
            (reader, exceptions) = match (reader.u8()?, scale) {
                (BITS, _) => {
                    self.numbers(reader, buffers)?;
                    if scale.is_none() {
                        unit.restore(&mut buffers.ints);
                    }
                    floats::restore_bits(&buffers.ints, out);
                    return self.spread_floats(out);
                }
                (DECIMALS, Some(_)) => (reader, None),
                (EXCEPTIONS, Some(_)) => {
                    let count = read_usize(&mut reader, self.present)?;
                    let positions = reader.take(2 * count)?;
                    let values = reader.take(T::BYTES * count)?;
                    (reader, Some((positions, values)))
                }
                (form, _) => return Err(CoreError::corrupt(format!("unknown floats {form}"))),
            };
            self.numbers(reader, buffers)?;
            unit.restore(&mut buffers.ints);
            floats::restore_decimals(&buffers.ints, floats::power(scale.unwrap_or(0)), out);
            if let Some((positions, values)) = exceptions {
                let mut values = Reader::new(values);
                for position in positions.as_chunks::<2>().0 {
                    let position = usize::from(u16::from_le_bytes(*position));
                    let slot = out
                        .get_mut(..self.present)
                        .and_then(|out| out.get_mut(position))
                        .ok_or_else(|| CoreError::corrupt(format!("exception at {position}")))?;
                    *slot = T::read(&mut values)?;
                }
            }
        }
        self.spread_floats(out)
    }

    fn spread_floats<T: Real>(&self, out: &mut [T; PAGE_ROWS]) -> Result<(), CoreError> {
        if let Some(validity) = &self.validity {
            spread(out, validity);
        }
        Ok(())
    }

    fn fixed(
        &self,
        reader: Reader<'_>,
        len: usize,
        buffers: &mut Buffers,
    ) -> Result<(), CoreError> {
        let Buffers {
            data,
            spare,
            decompressor,
            ..
        } = buffers;
        if self.constant(&reader) && self.present == 0 {
            data.clear();
        } else {
            texts::read_data(reader, len * self.present, decompressor, data)?;
        }
        if let Some(validity) = &self.validity {
            spare.clear();
            spare.reserve(len * self.rows);
            let mut values = data.chunks_exact(len);
            for present in layout::bits(validity).take(self.rows) {
                match present.then(|| values.next()).flatten() {
                    Some(value) => spare.extend_from_slice(value),
                    None => spare.resize(spare.len() + len, 0),
                }
            }
            std::mem::swap(data, spare);
        }
        Ok(())
    }

    fn bytes(&self, mut reader: Reader<'_>, buffers: &mut Buffers) -> Result<(), CoreError> {
        let Buffers {
            words,
            ints,
            offsets,
            data,
            decompressor,
            ..
        } = buffers;
        if self.constant(&reader) && self.present == 0 {
            data.clear();
        } else {
            let total = texts::read_lengths(&mut reader, self.present, words, ints)?;
            texts::read_data(reader, total, decompressor, data)?;
        }
        if let Some(validity) = &self.validity {
            spread(ints, validity);
        }
        texts::offsets(ints.get(..self.rows).unwrap_or_default(), offsets)
    }
}

/// Whether a conversion there and back leaves all values as they are.
fn all_fit(values: &[i64], there_and_back: impl Fn(i64) -> i64) -> bool {
    let changed = values
        .iter()
        .fold(0, |all, value| all | (value ^ there_and_back(*value)));
    changed == 0
}

/// Decodes a whole column, of which the first `index_len` bytes are the index.
///
/// # Errors
/// [`CoreError::Corrupt`] when the bytes are not those of an encoded column,
/// [`CoreError::Unsupported`] when a newer version wrote them.
pub fn decode_all(bytes: &[u8], index_len: usize) -> Result<Column, CoreError> {
    let stored = bytes
        .get(..index_len)
        .ok_or_else(|| CoreError::corrupt("the index is longer than the column"))?;
    let index = ColumnIndex::parse(stored)?;
    let end = index.page_range(index.pages().wrapping_sub(1));
    if end.map_or(index_len, |range| range.end) != bytes.len() {
        return Err(CoreError::corrupt(format!(
            "the column has not the {} bytes that its index says",
            bytes.len()
        )));
    }
    let mut builder = Builder::new(&index);
    let mut page = Page::new();
    for i in 0..index.pages() {
        let range = index.page_range(i).unwrap_or_default();
        index.decode(i, bytes.get(range).unwrap_or_default(), &mut page)?;
        builder.add(&page)?;
    }
    Ok(builder.finish())
}

/// A column that is put together from pages.
struct Builder<'a> {
    index: &'a ColumnIndex,
    validity: Bitmap,
    rows: usize,
    values: Values,
}

impl<'a> Builder<'a> {
    fn new(index: &'a ColumnIndex) -> Self {
        let values = match index.kind {
            Kind::I8 => Values::I8(Vec::new()),
            Kind::I16 => Values::I16(Vec::new()),
            Kind::I32 => Values::I32(Vec::new()),
            Kind::I64 => Values::I64(Vec::new()),
            Kind::F32 => Values::F32(Vec::new()),
            Kind::F64 => Values::F64(Vec::new()),
            Kind::Fixed { len } => Values::Fixed {
                len,
                data: Vec::new(),
            },
            Kind::Bytes => Values::Bytes {
                offsets: vec![0],
                data: Vec::new(),
            },
        };
        Self {
            index,
            validity: Bitmap::new(index.rows),
            rows: 0,
            values,
        }
    }

    fn add(&mut self, page: &Page) -> Result<(), CoreError> {
        for row in (0..page.rows()).filter(|row| !page.is_null(*row)) {
            self.validity.set(self.rows + row, true);
        }
        self.rows += page.rows();
        match (&mut self.values, page.values()) {
            (Values::I8(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::I16(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::I32(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::I64(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::F32(all), PageValues::F32(page)) => {
                all.extend_from_slice(page);
                Ok(())
            }
            (Values::F64(all), PageValues::F64(page)) => {
                all.extend_from_slice(page);
                Ok(())
            }
            (Values::Fixed { data, .. }, PageValues::Fixed { data: page, .. }) => {
                data.extend_from_slice(page);
                Ok(())
            }
            (Values::Fixed { len, data }, PageValues::Codes(codes)) => {
                for (row, code) in codes.iter().enumerate() {
                    match self.index.dictionary().filter(|_| !page.is_null(row)) {
                        Some(dictionary) => data.extend_from_slice(dictionary.get(*code)),
                        None => data.resize(data.len() + *len, 0),
                    }
                }
                Ok(())
            }
            (Values::Bytes { offsets, data }, PageValues::Bytes { .. } | PageValues::Codes(_)) => {
                for row in 0..page.rows() {
                    data.extend_from_slice(bytes_of(self.index, page, row));
                    if data.len() > MAX_DECODED_BYTES {
                        return Err(CoreError::corrupt("a column of more bytes than allowed"));
                    }
                    offsets.push(len_u32(data.len())?);
                }
                Ok(())
            }
            _ => Err(CoreError::corrupt("a page of another kind")),
        }
    }

    fn finish(self) -> Column {
        Column {
            validity: (self.index.summary().nulls > 0).then_some(self.validity),
            values: self.values,
        }
    }
}

/// The bytes of a row; none for a NULL.
fn bytes_of<'a>(index: &'a ColumnIndex, page: &'a Page, row: usize) -> &'a [u8] {
    match page.values() {
        _ if page.is_null(row) => &[],
        PageValues::Codes(codes) => match (index.dictionary(), codes.get(row)) {
            (Some(dictionary), Some(code)) => dictionary.get(*code),
            _ => &[],
        },
        PageValues::Bytes { offsets, data } => match (offsets.get(row), offsets.get(row + 1)) {
            (Some(start), Some(end)) => {
                data.get(*start as usize..*end as usize).unwrap_or_default()
            }
            _ => &[],
        },
        _ => &[],
    }
}

fn narrow<T: TryFrom<i64>>(page: &[i64], all: &mut Vec<T>) -> Result<(), CoreError> {
    for value in page {
        let value = T::try_from(*value)
            .map_err(|_| CoreError::corrupt(format!("{value} is out of its type's range")))?;
        all.push(value);
    }
    Ok(())
}
