//! Encoding a column.

use super::dictionary::{self, Dictionary};
use super::filter::Filters;
use super::floats::{self, Real};
use super::index::{self, ColumnIndex, Mapping, Packing, Parts};
use super::layout::Layout;
use super::numbers::{Numbers, encode_codes, encode_floats, encode_ints};
use super::texts::TextWriter;
use super::varint::write_usize;
use super::zones::{Zones, summarise};
use super::{Bounds, Effort, MAX_FIXED_LEN, Options, PAGE_ROWS, Sum, Zone};
use crate::error::CoreError;
use crate::wire::len_u32;
use crate::{Column, Kind, MAX_DECODED_BYTES, MAX_ROWS, Values};

/// An encoded column, and what its segment's header keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedColumn {
    /// The index, the pages and the filters, one after the other.
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

/// Encodes a column: an [`Effort`] alone makes no filters.
///
/// # Errors
/// [`CoreError::Invalid`] for more than [`MAX_ROWS`] rows, more than [`MAX_DECODED_BYTES`] of
/// values, or a column whose parts disagree in length.
pub fn encode(column: &Column, options: impl Into<Options>) -> Result<EncodedColumn, CoreError> {
    encode_pausing(column, options, &mut || {})
}

/// Encodes a column like [`encode`], and calls `pause` every now and then, at least once for each page of bytes: those
/// may be long. It may unwind.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_pausing(
    column: &Column,
    options: impl Into<Options>,
    pause: &mut dyn FnMut(),
) -> Result<EncodedColumn, CoreError> {
    let Options { effort, filters } = options.into();
    let layout = Layout::new(check(column)?, column.validity.as_ref());
    let (numbers, zones) = match &column.values {
        Values::I8(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::I16(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::I32(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::I64(values) => integers(&layout.keep(values), &layout, effort)?,
        Values::F32(values) => reals(&layout.keep(values), &layout, effort)?,
        Values::F64(values) => reals(&layout.keep(values), &layout, effort)?,
        Values::Fixed { .. } | Values::Bytes { .. } => strings(column, &layout, effort, pause)?,
    };
    let filters = if filters && !zones.tell_pages_apart(&layout) {
        pause();
        Filters::of(column, &layout)
    } else {
        None
    };
    finish(column.kind(), &layout, numbers, &zones, filters, effort)
}

fn finish(
    kind: Kind,
    layout: &Layout,
    numbers: Numbers,
    zones: &Zones,
    filters: Option<Filters>,
    effort: Effort,
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
        decimal_zones: numbers.zones.as_deref(),
        filter_blocks: filters.as_ref().map_or(0, |filters| filters.blocks),
        effort,
    })?;
    let index_len = len_u32(bytes.len())?;
    let summary = ColumnIndex::parse(&bytes)?.summary().clone();
    for page in pages {
        bytes.extend(page);
    }
    if let Some(filters) = filters {
        bytes.extend(filters.bytes);
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
    pause: &mut dyn FnMut(),
) -> Result<(Numbers, Zones), CoreError> {
    let values: Vec<&[u8]> = (0..layout.rows)
        .filter_map(|i| column.bytes_at(i))
        .collect();
    let with_lengths = column.kind() == Kind::Bytes;
    if let Some((dictionary, codes)) = dictionary::build(values.iter().copied())? {
        let dictionary_len = dictionary.stored_len()?;
        let coded = coded(dictionary, &codes, layout, effort)?;
        let plain = estimate(&values, with_lengths, effort, pause)?;
        // Codes are worth some bytes: they are faster to decode, and conditions and groups look at
        // them instead of the values.
        let worth = match effort {
            Effort::Fast => plain + plain / 2,
            Effort::Small => plain + plain / 8,
        };
        if dictionary_len + coded.0.size() < worth + PAGE_ROWS {
            return Ok(coded);
        }
    }
    let mut writer = TextWriter::new(effort)?;
    let mut pages = Vec::with_capacity(layout.pages.len());
    let mut zones = Vec::with_capacity(layout.pages.len());
    for page in &layout.pages {
        pause();
        let values = values.get(page.dense.clone()).unwrap_or_default();
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
        zones: None,
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

/// About how many bytes values take without a dictionary, from up to three pages of them.
fn estimate(
    values: &[&[u8]],
    with_lengths: bool,
    effort: Effort,
    pause: &mut dyn FnMut(),
) -> Result<usize, CoreError> {
    let mut writer = TextWriter::new(effort)?;
    let pages = values.chunks(PAGE_ROWS);
    let step = (pages.len() / 3).max(1);
    let mut sampled = 0;
    let mut bytes = 0;
    for page in pages.step_by(step) {
        pause();
        sampled += page.len();
        bytes += writer.write(page.iter().copied(), with_lengths)?.len();
    }
    Ok(bytes * values.len() / sampled.max(1))
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
