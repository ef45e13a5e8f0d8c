//! Encoding a column.

use super::dictionary::{self, Dictionary};
use super::floats::{self, Real};
use super::general::Compressor;
use super::index::{self, ColumnIndex, Mapping, Packing, Parts};
use super::layout::Layout;
use super::numbers::{Numbers, encode_codes, encode_floats, encode_ints};
use super::texts::TextWriter;
use super::varint::write_usize;
use super::zones::Zones;
use super::{Bounds, Effort, MAX_FIXED_LEN, PAGE_ROWS, Sum, Zone};
use crate::error::CoreError;
use crate::wire::len_u32;
use crate::{Column, Kind, MAX_DECODED_BYTES, MAX_ROWS, Values};

/// An encoded column, and what its segment's header keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedColumn {
    /// The index and the pages, one after the other.
    pub bytes: Vec<u8>,
    /// How many of the bytes are the index.
    pub index_len: u32,
    /// How many rows are NULL.
    pub nulls: u32,
    /// The number of the main encoding, see [`codec_name`](super::codec_name).
    pub codec: u8,
    /// What is known of all rows.
    pub summary: Zone,
}

/// Encodes a column.
///
/// # Errors
/// [`CoreError::Invalid`] for more than [`MAX_ROWS`] rows, more than [`MAX_DECODED_BYTES`] of
/// values, or a column whose parts disagree in length.
pub fn encode(column: &Column, effort: Effort) -> Result<EncodedColumn, CoreError> {
    let layout = Layout::new(check(column)?, column.validity.as_ref());
    let (numbers, zones) = match &column.values {
        Values::I8(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::I16(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::I32(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::I64(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::F32(values) => reals(&layout.keep(values), &layout, effort)?,
        Values::F64(values) => reals(&layout.keep(values), &layout, effort)?,
        Values::Fixed { .. } | Values::Bytes { .. } => strings(column, &layout, effort)?,
    };
    finish(column.kind(), &layout, numbers, &zones)
}

fn finish(
    kind: Kind,
    layout: &Layout,
    numbers: Numbers,
    zones: &Zones,
) -> Result<EncodedColumn, CoreError> {
    let mut pages = Vec::with_capacity(layout.pages.len());
    for (rows, payload) in layout.pages.iter().zip(numbers.pages) {
        pages.push(match rows.stored_validity() {
            None => payload,
            Some(validity) => {
                let mut page = Vec::with_capacity(2 + validity.len() + payload.len());
                write_usize(&mut page, validity.len());
                page.extend(validity);
                page.extend(payload);
                page
            }
        });
    }
    let nulls: Vec<usize> = layout.pages.iter().map(|page| page.nulls).collect();
    let codec = numbers.tally.most();
    let mut bytes = index::write(&Parts {
        kind,
        rows: layout.rows,
        codec,
        nulls: &nulls,
        pages: &pages,
        zones,
        mapping: &numbers.mapping,
        packing: &numbers.packing,
    })?;
    let index_len = len_u32(bytes.len())?;
    let summary = ColumnIndex::parse(&bytes)?.summary().clone();
    for page in pages {
        bytes.extend(page);
    }
    len_u32(bytes.len())?;
    Ok(EncodedColumn {
        bytes,
        index_len,
        nulls: layout.nulls() as u32,
        codec,
        summary,
    })
}

/// Encodes the integers of a column that are not NULL.
fn integers<T: Copy + Into<i64>>(
    values: &[T],
    layout: &Layout,
    effort: Effort,
) -> Result<(Numbers, Zones), CoreError> {
    let values: Vec<i64> = values.iter().map(|value| (*value).into()).collect();
    let zones: Vec<_> = layout
        .pages
        .iter()
        .map(|page| summarise(values.get(page.dense.clone()).unwrap_or_default()))
        .collect();
    let constant: Vec<_> = zones.iter().map(|(min, max, _)| min == max).collect();
    let numbers = encode_ints(values, layout, &constant, effort)?;
    Ok((numbers, Zones::Ints(zones)))
}

/// Min, max and sum.
fn summarise(values: &[i64]) -> (i64, i64, i128) {
    if values.is_empty() {
        return (0, 0, 0);
    }
    let mut min = i64::MAX;
    let mut max = i64::MIN;
    // Of up to 1,024 values the halves add up to less than 2^42 each.
    let (mut low, mut high) = (0u64, 0i64);
    for value in values {
        min = min.min(*value);
        max = max.max(*value);
        low += value.cast_unsigned() & 0xffff_ffff;
        high += value >> 32;
    }
    (min, max, (i128::from(high) << 32) + i128::from(low))
}

/// Encodes the floats of a column that are not NULL.
fn reals<T: Real>(
    values: &[T],
    layout: &Layout,
    effort: Effort,
) -> Result<(Numbers, Zones), CoreError> {
    let mut zones = Vec::with_capacity(layout.pages.len());
    let mut constant = Vec::with_capacity(layout.pages.len());
    for page in &layout.pages {
        let values = values.get(page.dense.clone()).unwrap_or_default();
        let (bounds, sum) = floats::summarise(values);
        let zone = match (bounds, sum) {
            (Bounds::Float { min, max }, Sum::Float(sum)) => (min, max, sum),
            _ => (0.0, 0.0, 0.0),
        };
        let least = T::nearest(zone.0);
        constant.push(!zone.0.is_nan() && values.iter().all(|value| value.same(least)));
        zones.push(zone);
    }
    let numbers = encode_floats(values, layout, &constant, effort)?;
    Ok((numbers, Zones::Floats(zones)))
}

/// Encodes values of bytes.
fn strings(
    column: &Column,
    layout: &Layout,
    effort: Effort,
) -> Result<(Numbers, Zones), CoreError> {
    let values: Vec<&[u8]> = (0..layout.rows)
        .filter_map(|i| column.bytes_at(i))
        .collect();
    if let Some((dictionary, codes)) = dictionary::build(values.iter().copied())?
        && worthwhile(&dictionary, &values)?
    {
        return coded(dictionary, &codes, layout, effort);
    }
    let mut writer = TextWriter::new(effort)?;
    let mut pages = Vec::with_capacity(layout.pages.len());
    let mut zones = Vec::with_capacity(layout.pages.len());
    for page in &layout.pages {
        let values = values.get(page.dense.clone()).unwrap_or_default();
        let with_lengths = column.kind() == Kind::Bytes;
        pages.push(writer.write(values.iter().copied(), with_lengths)?);
        zones.push(match (values.iter().min(), values.iter().max()) {
            (Some(min), Some(max)) => Bounds::of_bytes(min, max),
            _ => Bounds::None,
        });
    }
    let numbers = Numbers {
        pages,
        mapping: Mapping::Plain,
        packing: Packing::Bits,
        tally: writer.tally(),
    };
    Ok((numbers, Zones::Bytes(zones)))
}

/// Encodes codes of a dictionary.
fn coded(
    dictionary: Dictionary,
    codes: &[i64],
    layout: &Layout,
    effort: Effort,
) -> Result<(Numbers, Zones), CoreError> {
    let zones: Vec<(u32, u32)> = layout
        .pages
        .iter()
        .map(|page| {
            let (min, max, _) = summarise(codes.get(page.dense.clone()).unwrap_or_default());
            (min as u32, max as u32)
        })
        .collect();
    let constant: Vec<_> = zones.iter().map(|(min, max)| min == max).collect();
    let mapping = Mapping::Codes(dictionary);
    let numbers = encode_codes(codes, layout, &constant, effort, mapping)?;
    Ok((numbers, Zones::Codes(zones)))
}

/// Whether a dictionary and codes take less than the values one after the other.
fn worthwhile(dictionary: &Dictionary, values: &[&[u8]]) -> Result<bool, CoreError> {
    const SAMPLE: usize = 1 << 15;
    if dictionary.len() <= 1 {
        return Ok(true);
    }
    let total: usize = values.iter().map(|value| value.len() + 1).sum();
    let mut sample = Vec::with_capacity(SAMPLE);
    for value in values.iter().skip(values.len() / 3) {
        if sample.len() > SAMPLE {
            break;
        }
        sample.extend_from_slice(value);
    }
    let packed = Compressor::new(1)?.compress(&sample)?.len();
    let plain = if packed < sample.len() {
        total * packed / sample.len()
    } else {
        total
    };
    let width = usize::BITS - (dictionary.len() - 1).leading_zeros();
    let coded = dictionary.memory() + values.len() * width as usize / 8;
    let few = if dictionary.len() <= PAGE_ROWS {
        plain / 4
    } else {
        0
    };
    Ok(coded < plain + few)
}

/// Verifies that the parts of a column fit together, and returns how many rows there are.
fn check(column: &Column) -> Result<usize, CoreError> {
    let rows = column.rows();
    if rows > MAX_ROWS as usize {
        return Err(CoreError::invalid(format!("{rows} rows in one column")));
    }
    if let Some(validity) = &column.validity
        && validity.len() != rows
    {
        return Err(CoreError::invalid(format!(
            "validity of {} rows for {rows} values",
            validity.len()
        )));
    }
    let bytes = match &column.values {
        Values::Fixed { len, data } => {
            if *len == 0 || *len > MAX_FIXED_LEN || data.len() != rows * len {
                return Err(CoreError::invalid(format!(
                    "{} bytes are not {rows} values of {len}",
                    data.len()
                )));
            }
            data.len()
        }
        Values::Bytes { offsets, data } => {
            let end = offsets.last().map(|end| *end as usize);
            match end.filter(|end| offsets.is_sorted() && *end <= data.len()) {
                Some(end) => end,
                None => return Err(CoreError::invalid("offsets descend or point past the data")),
            }
        }
        _ => 0,
    };
    if bytes > MAX_DECODED_BYTES {
        return Err(CoreError::invalid(format!(
            "{bytes} bytes of values exceed the limit of {MAX_DECODED_BYTES} for one column"
        )));
    }
    Ok(rows)
}
