//! Gathering datums into columns, to be encoded.

use crate::pg::{relation, tuple};
use pgrx::pg_sys;
use varve_core::bitmap::Bitmap;
use varve_core::column::{Column, Values};

/// Gathers the values of one attribute for a segment.
pub struct ColumnBuilder {
    rows: usize,
    /// Rows that are NULL, ascending.
    nulls: Vec<u32>,
    values: Values,
}

impl ColumnBuilder {
    /// A builder for an attribute, with room for `capacity` rows. Types that no table can hold are an error.
    pub fn new(attr: &pg_sys::FormData_pg_attribute, capacity: usize) -> Result<Self, String> {
        let base = relation::base_type(attr.atttypid);
        let values = match (attr.attbyval, attr.attlen) {
            (true, 1) => Values::I8(Vec::with_capacity(capacity)),
            (true, 2) => Values::I16(Vec::with_capacity(capacity)),
            (true, 4) if base == pg_sys::FLOAT4OID => Values::F32(Vec::with_capacity(capacity)),
            (true, 4) => Values::I32(Vec::with_capacity(capacity)),
            (true, 8) if base == pg_sys::FLOAT8OID => Values::F64(Vec::with_capacity(capacity)),
            (true, 8) => Values::I64(Vec::with_capacity(capacity)),
            (false, len) if len > 0 => Values::Fixed {
                len: len as usize,
                data: Vec::with_capacity(capacity * len as usize),
            },
            (false, -1) => Values::Bytes {
                offsets: vec![0],
                data: Vec::new(),
            },
            (byval, len) => return Err(format!("values of length {len} (by value: {byval})")),
        };
        Ok(ColumnBuilder {
            rows: 0,
            nulls: Vec::new(),
            values,
        })
    }

    /// Adds a NULL.
    pub fn push_null(&mut self) {
        self.nulls.push(self.rows as u32);
        self.rows += 1;
        match &mut self.values {
            Values::I8(v) => v.push(0),
            Values::I16(v) => v.push(0),
            Values::I32(v) => v.push(0),
            Values::I64(v) => v.push(0),
            Values::F32(v) => v.push(0.0),
            Values::F64(v) => v.push(0.0),
            Values::Fixed { len, data } => data.resize(data.len() + *len, 0),
            Values::Bytes { offsets, data } => offsets.push(data.len() as u32),
        }
    }

    /// Adds a value.
    ///
    /// # Safety
    /// `datum` is a valid datum of the attribute's type; varlenas may be toasted.
    pub unsafe fn push(&mut self, datum: pg_sys::Datum) {
        self.rows += 1;
        match &mut self.values {
            Values::I8(v) => v.push(datum.value() as i8),
            Values::I16(v) => v.push(datum.value() as i16),
            Values::I32(v) => v.push(datum.value() as i32),
            Values::I64(v) => v.push(datum.value() as i64),
            Values::F32(v) => v.push(f32::from_bits(datum.value() as u32)),
            Values::F64(v) => v.push(f64::from_bits(datum.value() as u64)),
            Values::Fixed { len, data } => {
                // SAFETY: a fixed-length datum points to `len` bytes.
                let bytes = unsafe { std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), *len) };
                data.extend_from_slice(bytes);
            }
            Values::Bytes { offsets, data } => {
                // SAFETY: a varlena, by contract.
                unsafe { tuple::with_payload(datum, |bytes| data.extend_from_slice(bytes)) };
                offsets.push(data.len() as u32);
            }
        }
    }

    /// The values gathered so far.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Bytes that are taken, room for more included.
    pub fn memory(&self) -> usize {
        let values = match &self.values {
            Values::I8(v) => v.capacity(),
            Values::I16(v) => v.capacity() * 2,
            Values::I32(v) => v.capacity() * 4,
            Values::F32(v) => v.capacity() * 4,
            Values::I64(v) => v.capacity() * 8,
            Values::F64(v) => v.capacity() * 8,
            Values::Fixed { data, .. } => data.capacity(),
            Values::Bytes { offsets, data } => offsets.capacity() * 4 + data.capacity(),
        };
        values + self.nulls.capacity() * 4
    }

    /// Bytes gathered so far, about.
    pub fn bytes(&self) -> usize {
        match &self.values {
            Values::I8(v) => v.len(),
            Values::I16(v) => v.len() * 2,
            Values::I32(v) => v.len() * 4,
            Values::F32(v) => v.len() * 4,
            Values::I64(v) => v.len() * 8,
            Values::F64(v) => v.len() * 8,
            Values::Fixed { data, .. } => data.len(),
            Values::Bytes { data, .. } => data.len(),
        }
    }

    /// The finished column.
    pub fn finish(self) -> Column {
        let validity = (!self.nulls.is_empty()).then(|| {
            let mut validity = Bitmap::full(self.rows);
            for row in &self.nulls {
                validity.set(*row as usize, false);
            }
            validity
        });
        Column {
            validity,
            values: self.values,
        }
    }
}

/// Builders for all attributes of a row shape, `None` for dropped ones.
pub fn builders(
    desc: pg_sys::TupleDesc,
    capacity: usize,
) -> Result<Vec<Option<ColumnBuilder>>, String> {
    (0..relation::natts(desc))
        .map(|i| {
            let attr = relation::attribute(desc, i);
            if attr.attisdropped {
                Ok(None)
            } else {
                ColumnBuilder::new(attr, capacity).map(Some)
            }
        })
        .collect()
}
