//! One column of a segment in memory.

use crate::bitmap::Bitmap;
use crate::error::CoreError;

/// A column: a value for every row, and which rows hold one.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// One bit a row, set where the row is not NULL; `None` when no row is NULL.
    pub validity: Option<Bitmap>,
    /// One value a row. What stands at a NULL is ignored by encoding; decoding puts zero or empty.
    pub values: Values,
}

/// The values of a column, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 8-bit integers (also booleans and `"char"`).
    I8(Vec<i8>),
    /// 16-bit integers.
    I16(Vec<i16>),
    /// 32-bit integers (also dates).
    I32(Vec<i32>),
    /// 64-bit integers (also timestamps).
    I64(Vec<i64>),
    /// Single-precision floats, kept bit for bit.
    F32(Vec<f32>),
    /// Double-precision floats, kept bit for bit.
    F64(Vec<f64>),
    /// Values of one fixed length, one after the other.
    Fixed {
        /// Bytes a value, at least 1 and at most 32,767.
        len: usize,
        /// `rows * len` bytes.
        data: Vec<u8>,
    },
    /// Values of any length; value `i` is `data[offsets[i]..offsets[i + 1]]`.
    Bytes {
        /// `rows + 1` ascending positions in `data`.
        offsets: Vec<u32>,
        /// The values' bytes.
        data: Vec<u8>,
    },
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// See [`Values::I8`].
    I8,
    /// See [`Values::I16`].
    I16,
    /// See [`Values::I32`].
    I32,
    /// See [`Values::I64`].
    I64,
    /// See [`Values::F32`].
    F32,
    /// See [`Values::F64`].
    F64,
    /// See [`Values::Fixed`].
    Fixed {
        /// Bytes a value.
        len: usize,
    },
    /// See [`Values::Bytes`].
    Bytes,
}

/// The most bytes of values that one column may hold when decoded (1 GiB).
pub const MAX_DECODED_BYTES: usize = 1 << 30;

/// Longest value of [`Kind::Fixed`]: PostgreSQL's limit for a type's fixed length.
const MAX_FIXED_LEN: usize = 32_767;

impl Kind {
    /// The stored number of a kind, and its value length where it has one.
    pub(crate) fn to_ids(self) -> (u8, u16) {
        match self {
            Kind::I8 => (0, 0),
            Kind::I16 => (1, 0),
            Kind::I32 => (2, 0),
            Kind::I64 => (3, 0),
            Kind::F32 => (4, 0),
            Kind::F64 => (5, 0),
            Kind::Fixed { len } => (6, len.min(MAX_FIXED_LEN) as u16),
            Kind::Bytes => (7, 0),
        }
    }

    /// The reverse of [`Kind::to_ids`].
    pub(crate) fn from_ids(id: u8, width: u16) -> Result<Self, CoreError> {
        let len = usize::from(width);
        Ok(match (id, len) {
            (0, 0) => Kind::I8,
            (1, 0) => Kind::I16,
            (2, 0) => Kind::I32,
            (3, 0) => Kind::I64,
            (4, 0) => Kind::F32,
            (5, 0) => Kind::F64,
            (6, 1..=MAX_FIXED_LEN) => Kind::Fixed { len },
            (7, 0) => Kind::Bytes,
            _ => {
                return Err(CoreError::corrupt(format!(
                    "kind {id} of value length {len}"
                )));
            }
        })
    }
}

impl Column {
    /// How many rows the column has.
    pub fn rows(&self) -> usize {
        match &self.values {
            Values::I8(values) => values.len(),
            Values::I16(values) => values.len(),
            Values::I32(values) => values.len(),
            Values::I64(values) => values.len(),
            Values::F32(values) => values.len(),
            Values::F64(values) => values.len(),
            Values::Fixed { len, data } => data.len().checked_div(*len).unwrap_or(0),
            Values::Bytes { offsets, .. } => offsets.len().saturating_sub(1),
        }
    }

    /// Whether row `i` is NULL; false when out of range.
    pub fn is_null(&self, i: usize) -> bool {
        self.validity
            .as_ref()
            .is_some_and(|validity| i < validity.len() && !validity.get(i))
    }

    /// How many rows are NULL.
    pub fn null_count(&self) -> usize {
        self.validity
            .as_ref()
            .map_or(0, |validity| validity.len() - validity.count_ones())
    }

    /// What the column holds.
    pub fn kind(&self) -> Kind {
        match &self.values {
            Values::I8(_) => Kind::I8,
            Values::I16(_) => Kind::I16,
            Values::I32(_) => Kind::I32,
            Values::I64(_) => Kind::I64,
            Values::F32(_) => Kind::F32,
            Values::F64(_) => Kind::F64,
            Values::Fixed { len, .. } => Kind::Fixed { len: *len },
            Values::Bytes { .. } => Kind::Bytes,
        }
    }

    /// Row `i` of a [`Values::Bytes`] or [`Values::Fixed`] column; `None` for a NULL, another kind,
    /// or a row out of range.
    pub fn bytes_at(&self, i: usize) -> Option<&[u8]> {
        if self.is_null(i) {
            return None;
        }
        match &self.values {
            Values::Fixed { len, data } => data.get(i.checked_mul(*len)?..)?.get(..*len),
            Values::Bytes { offsets, data } => {
                let start = *offsets.get(i)? as usize;
                let end = *offsets.get(i.checked_add(1)?)? as usize;
                data.get(start..end)
            }
            _ => None,
        }
    }
}
