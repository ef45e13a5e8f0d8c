//! A decoded page, whose buffers serve for one page after the other.

use super::PAGE_ROWS;
use super::general::Decompressor;
use super::ints::Scratch;
use super::kernels::Block;
use super::layout::Validity;
use super::packed::Unpacker;

/// One decoded page.
#[derive(Debug)]
pub struct Page {
    pub(crate) rows: usize,
    pub(crate) nulls: usize,
    pub(crate) validity: Validity,
    pub(crate) form: Form,
    pub(crate) buffers: Buffers,
}

/// In which buffer the values of a page are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Form {
    Ints,
    F32,
    F64,
    Codes,
    Bytes,
    Fixed(usize),
}

#[derive(Debug)]
pub(crate) struct Buffers {
    pub(crate) scratch: Scratch,
    pub(crate) ints: Box<Block>,
    pub(crate) f64s: Lazy<f64>,
    pub(crate) f32s: Lazy<f32>,
    pub(crate) codes: Lazy<u32>,
    pub(crate) offsets: Vec<u32>,
    pub(crate) data: Vec<u8>,
    pub(crate) spare: Vec<u8>,
    pub(crate) decompressor: Decompressor,
    pub(crate) unpacker: Unpacker,
}

/// A buffer that is there once it is needed.
#[derive(Debug, Default)]
pub(crate) struct Lazy<T>(Option<Box<[T; PAGE_ROWS]>>);

impl<T: Copy + Default> Lazy<T> {
    pub(crate) fn get(&mut self) -> &mut [T; PAGE_ROWS] {
        self.0
            .get_or_insert_with(|| Box::new([T::default(); PAGE_ROWS]))
    }

    fn first(&self, rows: usize) -> &[T] {
        let all = self.0.as_ref().map_or(&[][..], |values| &values[..]);
        all.get(..rows).unwrap_or_default()
    }
}

/// The values of a page, one for each row; that of a NULL is 0, empty, or code 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PageValues<'a> {
    /// Integers of any width.
    Ints(&'a [i64]),
    /// Single-precision floats.
    F32(&'a [f32]),
    /// Double-precision floats.
    F64(&'a [f64]),
    /// Places in the dictionary of the column's index.
    Codes(&'a [u32]),
    /// Values of any length; value `i` is `data[offsets[i]..offsets[i + 1]]`.
    Bytes {
        /// One more than there are rows.
        offsets: &'a [u32],
        /// The values' bytes.
        data: &'a [u8],
    },
    /// Values of one length, one after the other.
    Fixed {
        /// Bytes a value.
        len: usize,
        /// The values' bytes.
        data: &'a [u8],
    },
}

impl Page {
    /// A page without rows.
    pub fn new() -> Self {
        Self {
            rows: 0,
            nulls: 0,
            validity: [0; PAGE_ROWS / 64],
            form: Form::Ints,
            buffers: Buffers {
                scratch: Scratch::new(),
                ints: Box::new([0; PAGE_ROWS]),
                f64s: Lazy::default(),
                f32s: Lazy::default(),
                codes: Lazy::default(),
                offsets: Vec::new(),
                data: Vec::new(),
                spare: Vec::new(),
                decompressor: Decompressor::default(),
                unpacker: Unpacker::default(),
            },
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that its buffers for values of any length hold.
    pub fn spare_memory(&self) -> usize {
        let Buffers { data, spare, .. } = &self.buffers;
        data.capacity() + spare.capacity()
    }

    /// How many of them are NULL.
    pub fn null_count(&self) -> usize {
        self.nulls
    }

    /// One bit a row, set where the row is not NULL; `None` when no row is NULL. Bits past the rows
    /// are zero.
    pub fn validity(&self) -> Option<&[u64; PAGE_ROWS / 64]> {
        (self.nulls > 0).then_some(&self.validity)
    }

    /// Whether a row is NULL; false when out of range.
    pub fn is_null(&self, row: usize) -> bool {
        row < self.rows
            && self
                .validity
                .get(row / 64)
                .is_some_and(|word| word >> (row % 64) & 1 == 0)
    }

    /// The values.
    pub fn values(&self) -> PageValues<'_> {
        let buffers = &self.buffers;
        match self.form {
            Form::Ints => PageValues::Ints(buffers.ints.get(..self.rows).unwrap_or_default()),
            Form::F32 => PageValues::F32(buffers.f32s.first(self.rows)),
            Form::F64 => PageValues::F64(buffers.f64s.first(self.rows)),
            Form::Codes => PageValues::Codes(buffers.codes.first(self.rows)),
            Form::Bytes => PageValues::Bytes {
                offsets: &buffers.offsets,
                data: &buffers.data,
            },
            Form::Fixed(len) => PageValues::Fixed {
                len,
                data: &buffers.data,
            },
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}
