//! Decoding pages.

use super::floats::{self, BITS, DECIMALS, EXCEPTIONS, Real};
use super::index::{ColumnIndex, Mapping, Packing, page_checksum};
use super::layout::{self, Validity};
use super::page::{Buffers, Form, Page};
use super::pick::Wanted;
use super::unit::Unit;
use super::varint::read_usize;
use super::zones::Zones;
use super::{PAGE_ROWS, ints, simd, texts};
use crate::Kind;
use crate::error::CoreError;
use crate::wire::Reader;

impl ColumnIndex {
    /// Decodes a page, of which `bytes` must be those at [`page_range`](Self::page_range). After an
    /// error the page has no rows.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are not those of the page.
    pub fn decode(&self, page: usize, bytes: &[u8], out: &mut Page) -> Result<(), CoreError> {
        self.decode_for(page, bytes, None, out).map(|_| ())
    }

    /// As [`decode`](Self::decode), where only the values of some rows are looked at: what those of others are is not said.
    /// Tells whether all are right nevertheless. The NULLs are known of all rows.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_rows(
        &self,
        page: usize,
        bytes: &[u8],
        rows: &[u16],
        out: &mut Page,
    ) -> Result<bool, CoreError> {
        self.decode_for(page, bytes, Some(rows), out)
    }

    fn decode_for(
        &self,
        page: usize,
        bytes: &[u8],
        wanted: Option<&[u16]>,
        out: &mut Page,
    ) -> Result<bool, CoreError> {
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
        // As in `wire::unseal`, fuzzers get behind the checksum.
        let is_right = || self.page_sum(page) == Some(page_checksum(bytes));
        if !bytes.is_empty() && !cfg!(fuzzing) && !is_right() {
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
        if let Some(wanted) = wanted {
            let wanted = Wanted {
                rows: wanted,
                validity: (nulls > 0).then_some(&out.validity),
                count: rows,
                present: rows - nulls,
            };
            if let Some(form) = wanted.pick(self, reader.clone(), &mut out.buffers)? {
                (out.form, out.rows, out.nulls) = (form, rows, nulls);
                return Ok(false);
            }
        }
        let target = Target {
            index: self,
            page,
            present: rows - nulls,
            rows,
            validity: (nulls > 0).then_some(out.validity),
        };
        out.form = target.decode(reader, &mut out.buffers)?;
        (out.rows, out.nulls) = (rows, nulls);
        Ok(true)
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

    /// Reads numbers to the beginning of the buffer of integers.
    fn numbers(&self, mut reader: Reader<'_>, buffers: &mut Buffers) -> Result<(), CoreError> {
        let Buffers {
            ints,
            scratch,
            unpacker,
            ..
        } = buffers;
        match &self.index.packing {
            Packing::Pco(meta) => {
                unpacker.read(self.index.identity, meta, reader.rest(), self.present, ints)
            }
            _ => {
                ints::read(&mut reader, self.present, scratch, ints)?;
                reader.finish()
            }
        }?;
        // What stands behind the numbers is left from another page; no check is to meet it.
        if let Some(rest) = ints.get_mut(self.present..) {
            rest.fill(0);
        }
        Ok(())
    }

    fn integers(
        &self,
        reader: Reader<'_>,
        unit: Unit,
        buffers: &mut Buffers,
    ) -> Result<(), CoreError> {
        if is_constant(&reader) {
            let value = match &self.index.zones {
                Zones::Ints(zones) => zones.get(self.page).map_or(0, |(min, ..)| *min),
                _ => 0,
            };
            buffers.ints.fill(value);
        } else {
            self.numbers(reader, buffers)?;
            unit.restore(&mut buffers.ints);
        }
        let fits = match self.index.kind {
            Kind::I8 => simd::fit(8, &buffers.ints),
            Kind::I16 => simd::fit(16, &buffers.ints),
            Kind::I32 => simd::fit(32, &buffers.ints),
            _ => true,
        };
        if !fits {
            return Err(CoreError::corrupt(
                "a number that is out of its type's range",
            ));
        }
        if let Some(validity) = &self.validity {
            simd::spread_i64(&mut buffers.ints, validity);
        }
        Ok(())
    }

    fn codes(
        &self,
        reader: Reader<'_>,
        len: usize,
        buffers: &mut Buffers,
    ) -> Result<(), CoreError> {
        if is_constant(&reader) {
            let code = match &self.index.zones {
                Zones::Codes(zones) => zones.get(self.page).map_or(0, |(min, _)| *min),
                _ => 0,
            };
            buffers.codes.get().fill(code);
        } else {
            self.numbers(reader, buffers)?;
            let (high, largest) = simd::codes(&buffers.ints, buffers.codes.get());
            if high != 0 || largest as usize >= len {
                return Err(CoreError::corrupt(format!(
                    "a code that is not among the {len} of the dictionary"
                )));
            }
        }
        if let Some(validity) = &self.validity {
            simd::spread_u32(buffers.codes.get(), validity);
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
        if is_constant(&reader) {
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
                    T::bits(&buffers.ints, out);
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
            T::decimals(&buffers.ints, floats::power(scale.unwrap_or(0)), out);
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
            T::spread(out, validity);
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
        if self.present == 0 {
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
            scratch,
            ints,
            offsets,
            data,
            decompressor,
            ..
        } = buffers;
        if self.present == 0 {
            data.clear();
        } else {
            let total = texts::read_lengths(&mut reader, self.present, scratch, ints)?;
            texts::read_data(reader, total, decompressor, data)?;
        }
        if let Some(validity) = &self.validity {
            simd::spread_i64(ints, validity);
        }
        texts::offsets(ints.get(..self.rows).unwrap_or_default(), offsets)
    }
}

/// Whether a page holds one value, which its zone tells.
fn is_constant(reader: &Reader<'_>) -> bool {
    reader.remaining() == 0
}
