//! The frame around a column's payload, and the four functions that make up the codec's API.

use super::bytes::Strings;
use super::id::Codec;
use super::number::Number;
use super::{Encoded, bytes, decode_numbers, encode_numbers, fixed};
use crate::bitmap::Bitmap;
use crate::column::{Column, Kind, Values};
use crate::error::CoreError;
use crate::segment::MAX_ROWS;
use crate::wire::{Reader, len_u32, seal, unseal};

/// First two bytes of every encoded column.
const MAGIC: [u8; 2] = *b"vC";
/// Version of the column format.
const VERSION: u8 = 1;
/// Longest value of [`Values::Fixed`]: PostgreSQL's limit for a type's fixed length.
const MAX_FIXED_LEN: usize = 32_767;
/// The most bytes of values that one column may hold when decoded (1 GiB).
pub const MAX_DECODED_BYTES: usize = 1 << 30;

/// What an encoded column says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// What the column holds.
    pub kind: Kind,
    /// The name of the outermost codec.
    pub codec: &'static str,
    /// The stored number of that codec, see [`codec_name`](crate::codec_name).
    pub codec_id: u8,
    /// How many rows the column has.
    pub rows: u32,
    /// How many of them are NULL.
    pub nulls: u32,
    /// Version of the column format.
    pub version: u8,
}

/// Encodes a column, trying candidates and keeping the smallest.
///
/// # Errors
/// [`CoreError::Invalid`] for more than [`MAX_ROWS`] rows, more than [`MAX_DECODED_BYTES`] of
/// values, or a column whose parts disagree in length.
pub fn encode_column(column: &Column) -> Result<Vec<u8>, CoreError> {
    let rows = check(column)?;
    let dense = match &column.validity {
        Some(validity) if validity.count_ones() < rows => Some(validity),
        _ => None,
    };
    let encoded = match &column.values {
        Values::I8(values) => {
            let data: Vec<u8> = present(values, dense)
                .iter()
                .map(|value| value.cast_unsigned())
                .collect();
            fixed::encode(&data, 1)?
        }
        Values::I16(values) => encode_numbers(&present(values, dense), 0)?,
        Values::I32(values) => encode_numbers(&present(values, dense), 0)?,
        Values::I64(values) => encode_numbers(&present(values, dense), 0)?,
        Values::F32(values) => encode_numbers(&present(values, dense), 0)?,
        Values::F64(values) => encode_numbers(&present(values, dense), 0)?,
        Values::Fixed { len, data } => match dense {
            None => fixed::encode(data, *len)?,
            Some(validity) => {
                let mut kept = Vec::with_capacity(validity.count_ones() * len);
                for (i, value) in data.chunks_exact(*len).enumerate() {
                    if validity.get(i) {
                        kept.extend_from_slice(value);
                    }
                }
                fixed::encode(&kept, *len)?
            }
        },
        Values::Bytes { .. } => {
            let mut kept = Strings::new();
            for value in (0..rows).filter_map(|i| column.bytes_at(i)) {
                kept.push(value)?;
            }
            bytes::encode(&kept)?
        }
    };
    frame(column.kind(), rows, dense, &encoded)
}

/// Like [`try_encode_constant`], for callers that have checked their input: where that fails, the
/// result is empty, which [`decode_column`] refuses.
pub fn encode_constant(rows: u32, value: &Column) -> Vec<u8> {
    try_encode_constant(rows, value).unwrap_or_default()
}

/// Encodes a column of `rows` rows that all equal the one row of `value` (all NULL if it is NULL).
///
/// # Errors
/// [`CoreError::Invalid`] when `value` is not of one row, `rows` exceeds [`MAX_ROWS`], or the
/// repeated value exceeds [`MAX_DECODED_BYTES`].
pub fn try_encode_constant(rows: u32, value: &Column) -> Result<Vec<u8>, CoreError> {
    let given = check(value)?;
    if given != 1 {
        return Err(CoreError::invalid(format!(
            "a constant needs one row, not {given}"
        )));
    }
    if rows > MAX_ROWS {
        return Err(too_many_rows(rows as usize));
    }
    let rows = rows as usize;
    let mut payload = Vec::new();
    let null = value.is_null(0);
    if !null && rows > 0 {
        match &value.values {
            Values::I8(one) => payload.extend(one.iter().map(|value| value.cast_unsigned())),
            Values::I16(one) => payload.extend(one.iter().flat_map(|value| value.to_le_bytes())),
            Values::I32(one) => payload.extend(one.iter().flat_map(|value| value.to_le_bytes())),
            Values::I64(one) => payload.extend(one.iter().flat_map(|value| value.to_le_bytes())),
            Values::F32(one) => payload.extend(one.iter().flat_map(|value| value.to_le_bytes())),
            Values::F64(one) => payload.extend(one.iter().flat_map(|value| value.to_le_bytes())),
            Values::Fixed { .. } | Values::Bytes { .. } => {
                payload.extend_from_slice(value.bytes_at(0).unwrap_or_default());
            }
        }
    }
    if payload.len().saturating_mul(rows) > MAX_DECODED_BYTES {
        return Err(CoreError::invalid(format!(
            "{rows} times {} bytes exceed the limit of {MAX_DECODED_BYTES} for one column",
            payload.len()
        )));
    }
    let nobody = Bitmap::new(rows);
    let validity = (null && rows > 0).then_some(&nobody);
    frame(
        value.kind(),
        rows,
        validity,
        &Encoded::new(Codec::Constant, payload),
    )
}

/// Decodes a column; a column without NULLs has no validity.
///
/// # Errors
/// [`CoreError::Corrupt`] when the bytes are not what [`encode_column`] wrote,
/// [`CoreError::Unsupported`] when a newer version wrote them.
pub fn decode_column(bytes: &[u8]) -> Result<Column, CoreError> {
    let frame = Frame::read(bytes)?;
    let count = frame.present;
    let (codec, payload) = (frame.codec, frame.payload);
    let validity = frame.validity.as_ref();
    let values = match frame.kind {
        Kind::I8 => {
            let dense = fixed::decode(codec, payload, count, 1)?
                .into_iter()
                .map(u8::cast_signed)
                .collect();
            Values::I8(spread(dense, validity))
        }
        Kind::I16 => Values::I16(numbers(codec, payload, count, validity)?),
        Kind::I32 => Values::I32(numbers(codec, payload, count, validity)?),
        Kind::I64 => Values::I64(numbers(codec, payload, count, validity)?),
        Kind::F32 => Values::F32(numbers(codec, payload, count, validity)?),
        Kind::F64 => Values::F64(numbers(codec, payload, count, validity)?),
        Kind::Fixed { len } => {
            let dense = fixed::decode(codec, payload, count, len)?;
            let data = match validity {
                None => dense,
                Some(validity) => spread_fixed(&dense, len, validity),
            };
            Values::Fixed { len, data }
        }
        Kind::Bytes => {
            let dense = bytes::decode(codec, payload, count)?;
            let offsets = match validity {
                None => dense.offsets,
                Some(validity) => spread_offsets(&dense.offsets, validity),
            };
            Values::Bytes {
                offsets,
                data: dense.data,
            }
        }
    };
    Ok(Column {
        validity: frame.validity,
        values,
    })
}

/// What an encoded column says of itself; the checksum is verified, the payload is not decoded.
///
/// # Errors
/// As [`decode_column`], as far as the frame shows.
pub fn describe(bytes: &[u8]) -> Result<ColumnInfo, CoreError> {
    let frame = Frame::read(bytes)?;
    Ok(ColumnInfo {
        kind: frame.kind,
        codec: frame.codec.name(),
        codec_id: frame.codec as u8,
        rows: len_u32(frame.rows)?,
        nulls: len_u32(frame.rows - frame.present)?,
        version: VERSION,
    })
}

/// An encoded column, taken apart and checked but for its payload.
struct Frame<'a> {
    kind: Kind,
    codec: Codec,
    rows: usize,
    /// How many rows are not NULL.
    present: usize,
    validity: Option<Bitmap>,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, CoreError> {
        let body = unseal(bytes)?;
        let mut reader = Reader::new(body);
        if reader.array()? != MAGIC {
            return Err(CoreError::corrupt("not an encoded column"));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(CoreError::unsupported(format!("column version {version}")));
        }
        let kind_id = reader.u8()?;
        let codec = Codec::from_id(reader.u8()?)?;
        let rows = reader.u32()?;
        let width = reader.u32()? as usize;
        let kind = kind_from(kind_id, width)?;
        if rows > MAX_ROWS {
            return Err(CoreError::corrupt(format!("{rows} rows in one column")));
        }
        let rows = rows as usize;
        if rows.saturating_mul(width) > MAX_DECODED_BYTES {
            return Err(CoreError::corrupt(format!(
                "{rows} values of {width} bytes"
            )));
        }
        let stored_validity = reader.sized()?;
        let validity = if stored_validity.is_empty() {
            None
        } else {
            Some(Bitmap::from_bytes(stored_validity, rows)?)
        };
        let present = validity.as_ref().map_or(rows, Bitmap::count_ones);
        if validity.is_some() && present == rows {
            return Err(CoreError::corrupt("validity of a column without NULLs"));
        }
        let payload = reader.sized()?;
        reader.finish()?;
        Ok(Self {
            kind,
            codec,
            rows,
            present,
            validity,
            payload,
        })
    }
}

fn frame(
    kind: Kind,
    rows: usize,
    validity: Option<&Bitmap>,
    encoded: &Encoded,
) -> Result<Vec<u8>, CoreError> {
    let (kind_id, width) = kind_id(kind);
    let validity = validity.map(Bitmap::to_bytes).unwrap_or_default();
    let mut out = Vec::with_capacity(encoded.payload.len() + validity.len() + 32);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind_id, encoded.codec as u8]);
    out.extend_from_slice(&len_u32(rows)?.to_le_bytes());
    out.extend_from_slice(&len_u32(width)?.to_le_bytes());
    out.extend_from_slice(&len_u32(validity.len())?.to_le_bytes());
    out.extend_from_slice(&validity);
    out.extend_from_slice(&len_u32(encoded.payload.len())?.to_le_bytes());
    out.extend_from_slice(&encoded.payload);
    Ok(seal(out))
}

/// The stored number of a kind, and its value length where it has one.
fn kind_id(kind: Kind) -> (u8, usize) {
    match kind {
        Kind::I8 => (0, 0),
        Kind::I16 => (1, 0),
        Kind::I32 => (2, 0),
        Kind::I64 => (3, 0),
        Kind::F32 => (4, 0),
        Kind::F64 => (5, 0),
        Kind::Fixed { len } => (6, len),
        Kind::Bytes => (7, 0),
    }
}

fn kind_from(id: u8, width: usize) -> Result<Kind, CoreError> {
    Ok(match (id, width) {
        (0, 0) => Kind::I8,
        (1, 0) => Kind::I16,
        (2, 0) => Kind::I32,
        (3, 0) => Kind::I64,
        (4, 0) => Kind::F32,
        (5, 0) => Kind::F64,
        (6, 1..=MAX_FIXED_LEN) => Kind::Fixed { len: width },
        (7, 0) => Kind::Bytes,
        _ => {
            return Err(CoreError::corrupt(format!(
                "kind {id} of value length {width}"
            )));
        }
    })
}

/// Checks that the column's parts agree, and returns its rows.
fn check(column: &Column) -> Result<usize, CoreError> {
    let rows = column.rows();
    if rows > MAX_ROWS as usize {
        return Err(too_many_rows(rows));
    }
    if let Some(validity) = &column.validity
        && validity.len() != rows
    {
        return Err(CoreError::invalid(format!(
            "validity of {} bits for {rows} rows",
            validity.len()
        )));
    }
    match &column.values {
        Values::Fixed { len, data } => {
            if !(1..=MAX_FIXED_LEN).contains(len) || data.len() != rows * len {
                return Err(CoreError::invalid(format!(
                    "{} bytes for values of {len}",
                    data.len()
                )));
            }
            if data.len() > MAX_DECODED_BYTES {
                return Err(CoreError::invalid(format!(
                    "{} bytes exceed the limit of {MAX_DECODED_BYTES} for one column",
                    data.len()
                )));
            }
        }
        Values::Bytes { offsets, data } => {
            let end = offsets
                .last()
                .ok_or_else(|| CoreError::invalid("no offsets"))?;
            if !offsets.is_sorted() || *end as usize > data.len() {
                return Err(CoreError::invalid("offsets descend or point past the data"));
            }
        }
        _ => {}
    }
    Ok(rows)
}

fn too_many_rows(rows: usize) -> CoreError {
    CoreError::invalid(format!("{rows} rows exceed the limit of {MAX_ROWS}"))
}

/// The values that are not NULL.
fn present<'a, T: Copy>(values: &'a [T], validity: Option<&Bitmap>) -> std::borrow::Cow<'a, [T]> {
    match validity {
        None => values.into(),
        Some(validity) => validity
            .iter_ones()
            .filter_map(|i| values.get(i).copied())
            .collect::<Vec<T>>()
            .into(),
    }
}

fn numbers<T: Number>(
    codec: Codec,
    payload: &[u8],
    count: usize,
    validity: Option<&Bitmap>,
) -> Result<Vec<T>, CoreError> {
    Ok(spread(decode_numbers(codec, payload, count, 0)?, validity))
}

/// Puts values where rows are not NULL, and zero elsewhere.
fn spread<T: Copy + Default>(dense: Vec<T>, validity: Option<&Bitmap>) -> Vec<T> {
    let Some(validity) = validity else {
        return dense;
    };
    let mut values = vec![T::default(); validity.len()];
    for (i, value) in validity.iter_ones().zip(dense) {
        if let Some(slot) = values.get_mut(i) {
            *slot = value;
        }
    }
    values
}

fn spread_fixed(dense: &[u8], len: usize, validity: &Bitmap) -> Vec<u8> {
    let mut data = vec![0; validity.len() * len];
    for (i, value) in validity.iter_ones().zip(dense.chunks_exact(len)) {
        if let Some(slot) = data.get_mut(i * len..(i + 1) * len) {
            slot.copy_from_slice(value);
        }
    }
    data
}

/// Offsets with an empty value at each NULL.
fn spread_offsets(dense: &[u32], validity: &Bitmap) -> Vec<u32> {
    let mut ends = dense.iter().skip(1);
    let mut end = 0;
    let mut offsets = Vec::with_capacity(validity.len() + 1);
    offsets.push(end);
    for i in 0..validity.len() {
        if validity.get(i) {
            end = ends.next().copied().unwrap_or(end);
        }
        offsets.push(end);
    }
    offsets
}
