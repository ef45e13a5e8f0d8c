//! Columns between PostgreSQL's datums and `varve_core`'s vectors.

use crate::pg::{relation, tuple};
use pgrx::pg_sys;
use varve_core::bitmap::Bitmap;
use varve_core::codec;
use varve_core::column::{Column, Values};

/// A decoded column whose rows are datums.
pub struct DatumColumn {
    validity: Option<Bitmap>,
    store: Store,
}

enum Store {
    /// Values that a datum holds itself.
    ByValue(Vec<usize>),
    /// Values of one length; each starts on a multiple of eight bytes.
    Fixed { words: Vec<u64>, stride: usize },
    /// Varlenas with their four-byte header; offsets in words.
    Varlena { words: Vec<u64>, starts: Vec<usize> },
    /// The same value for every row (a column that was added after the freeze).
    Constant(Option<pg_sys::Datum>),
}

impl DatumColumn {
    /// Decodes the bytes of a column and checks that they have the attribute's physical form and the segment's rows.
    pub fn decode(
        attr: &pg_sys::FormData_pg_attribute,
        rows: usize,
        bytes: &[u8],
    ) -> Result<Self, String> {
        let column = codec::decode_column(bytes).map_err(|e| e.to_string())?;
        Self::from_column(attr, rows, column)
    }

    /// Turns a column into datums of an attribute.
    pub fn from_column(
        attr: &pg_sys::FormData_pg_attribute,
        rows: usize,
        column: Column,
    ) -> Result<Self, String> {
        if column.rows() != rows {
            return Err(format!(
                "{} rows where the segment has {rows}",
                column.rows()
            ));
        }
        let len = attr.attlen;
        let store = match column.values {
            Values::I8(v) if attr.attbyval && len == 1 => {
                Store::ByValue(v.iter().map(|x| *x as isize as usize).collect())
            }
            Values::I16(v) if attr.attbyval && len == 2 => {
                Store::ByValue(v.iter().map(|x| *x as isize as usize).collect())
            }
            Values::I32(v) if attr.attbyval && len == 4 => {
                Store::ByValue(v.iter().map(|x| *x as isize as usize).collect())
            }
            Values::F32(v) if attr.attbyval && len == 4 => Store::ByValue(
                v.iter()
                    .map(|x| x.to_bits() as i32 as isize as usize)
                    .collect(),
            ),
            Values::I64(v) if attr.attbyval && len == 8 => {
                Store::ByValue(v.iter().map(|x| *x as usize).collect())
            }
            Values::F64(v) if attr.attbyval && len == 8 => {
                Store::ByValue(v.iter().map(|x| x.to_bits() as usize).collect())
            }
            Values::Fixed { len: stored, data }
                if !attr.attbyval && len > 0 && stored == len as usize =>
            {
                fixed_store(&data, stored)
            }
            Values::Bytes { offsets, data } if len == -1 => varlena_store(&offsets, &data)?,
            other => {
                return Err(format!(
                    "stored as {} where the column has length {len}",
                    kind_name(&other)
                ));
            }
        };
        Ok(DatumColumn {
            validity: column.validity,
            store,
        })
    }

    /// The value that rows from before `ADD COLUMN` have.
    pub fn missing(desc: pg_sys::TupleDesc, index: usize) -> Self {
        let mut null = true;
        // SAFETY: `index` is below natts; the datum lives as long as the tuple descriptor.
        let datum = unsafe { pg_sys::getmissingattr(desc, index as i32 + 1, &mut null) };
        DatumColumn {
            validity: None,
            store: Store::Constant((!null).then_some(datum)),
        }
    }

    /// The datum of a row, `None` for NULL. References point into this column.
    pub fn get(&self, row: usize) -> Option<pg_sys::Datum> {
        if let Some(validity) = &self.validity
            && !validity.get(row)
        {
            return None;
        }
        match &self.store {
            Store::ByValue(values) => values.get(row).map(|v| pg_sys::Datum::from(*v)),
            Store::Fixed { words, stride } => words
                .get(row * stride)
                .map(|w| pg_sys::Datum::from(std::ptr::from_ref(w))),
            Store::Varlena { words, starts } => starts
                .get(row)
                .and_then(|s| words.get(*s))
                .map(|w| pg_sys::Datum::from(std::ptr::from_ref(w))),
            Store::Constant(datum) => *datum,
        }
    }
}

fn kind_name(values: &Values) -> &'static str {
    match values {
        Values::I8(_) => "int1",
        Values::I16(_) => "int2",
        Values::I32(_) => "int4",
        Values::I64(_) => "int8",
        Values::F32(_) => "float4",
        Values::F64(_) => "float8",
        Values::Fixed { .. } => "fixed bytes",
        Values::Bytes { .. } => "bytes",
    }
}

fn fixed_store(data: &[u8], len: usize) -> Store {
    let stride = len.div_ceil(8);
    let rows = data.len() / len;
    let mut words = vec![0u64; stride * rows];
    for (value, target) in data.chunks_exact(len).zip(words.chunks_exact_mut(stride)) {
        // SAFETY: `target` holds stride * 8 >= len bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(value.as_ptr(), target.as_mut_ptr().cast(), len);
        }
    }
    Store::Fixed { words, stride }
}

fn varlena_store(offsets: &[u32], data: &[u8]) -> Result<Store, String> {
    let rows = offsets.len().saturating_sub(1);
    let mut starts = Vec::with_capacity(rows);
    let mut words: Vec<u64> = Vec::with_capacity(data.len() / 8 + rows + 1);
    for pair in offsets.windows(2) {
        let &[from, to] = pair else { continue };
        let value = data
            .get(from as usize..to as usize)
            .ok_or("offsets out of order")?;
        let size = value.len() + 4;
        if size >= 1 << 30 {
            return Err("a value of more than 1 GiB".into());
        }
        starts.push(words.len());
        let start = words.len();
        words.resize(start + size.div_ceil(8), 0);
        // SAFETY: the words just added hold `size` bytes.
        unsafe {
            let target = words.as_mut_ptr().add(start).cast::<u8>();
            pgrx::set_varsize_4b(target.cast(), size as i32);
            std::ptr::copy_nonoverlapping(value.as_ptr(), target.add(4), value.len());
        }
    }
    Ok(Store::Varlena { words, starts })
}

/// Gathers the values of one attribute for a segment.
pub struct ColumnBuilder {
    validity: Bitmap,
    rows: usize,
    nulls: usize,
    values: Values,
}

impl ColumnBuilder {
    /// A builder for an attribute, for at most `capacity` rows. Types that no table can hold are an error.
    pub fn new(attr: &pg_sys::FormData_pg_attribute, capacity: usize) -> Result<Self, String> {
        // SAFETY: syscache look-up; a domain counts as its base type.
        let base = unsafe { pg_sys::getBaseType(attr.atttypid) };
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
            validity: Bitmap::full(capacity),
            rows: 0,
            nulls: 0,
            values,
        })
    }

    /// Adds a NULL.
    pub fn push_null(&mut self) {
        self.validity.set(self.rows, false);
        self.nulls += 1;
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
        let validity = (self.nulls > 0).then(|| {
            let mut exact = Bitmap::new(self.rows);
            for i in 0..self.rows {
                exact.set(i, self.validity.get(i));
            }
            exact
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
