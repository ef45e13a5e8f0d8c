//! Values of rows into columns of Parquet.

use super::kept::{self, Shape};
use crate::am::error::raise;
use crate::pg::tuple::with_payload;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use varve_core::backup::snapshot::Kept;
use varve_core::parquet::{ColumnWriter, Entry};

/// A column's values on their way out.
pub struct Outgo {
    shape: Shape,
    /// The type's output function.
    output: pg_sys::FmgrInfo,
    /// Length, passing and alignment of the elements of arrays.
    element: (i16, bool, std::ffi::c_char),
}

impl Outgo {
    /// Prepares it; what it needs lives in the current memory context.
    pub fn new(shape: Shape) -> Self {
        let mut output = pg_sys::FmgrInfo::default();
        let mut element = (0, false, 0);
        let mut function = pg_sys::InvalidOid;
        let mut varlena = false;
        // SAFETY: catalogue look-ups of a type that there is.
        unsafe {
            pg_sys::getTypeOutputInfo(shape.typ, &mut function, &mut varlena);
            pg_sys::fmgr_info(function, &mut output);
            pg_sys::get_typlenbyvalalign(shape.typ, &mut element.0, &mut element.1, &mut element.2);
        }
        Outgo {
            shape,
            output,
            element,
        }
    }

    /// How many columns of Parquet it fills.
    pub fn width(&self) -> usize {
        1 + usize::from(self.shape.array)
    }

    /// Puts a value into its columns.
    ///
    /// # Safety
    /// A value of the type.
    pub unsafe fn put(&mut self, value: Option<pg_sys::Datum>, to: &mut [ColumnWriter]) {
        // SAFETY: by contract.
        unsafe {
            match (to, value) {
                ([values], None) => values.push(false, Entry::Null),
                ([values], Some(value)) => self.scalar(value, false, values),
                ([values, shape], None) => {
                    values.push(false, Entry::Null);
                    shape.push(false, Entry::Null);
                }
                ([values, shape], Some(value)) => self.array(value, values, shape),
                _ => {}
            }
        }
    }

    unsafe fn array(
        &mut self,
        value: pg_sys::Datum,
        values: &mut ColumnWriter,
        shape: &mut ColumnWriter,
    ) {
        // SAFETY: a valid array, which is taken apart into palloc'd arrays; dimensions follow its header.
        unsafe {
            let array = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let mut elements: *mut pg_sys::Datum = std::ptr::null_mut();
            let mut nulls: *mut bool = std::ptr::null_mut();
            let mut count = 0;
            let (length, by_value, align) = self.element;
            pg_sys::deconstruct_array(
                array,
                self.shape.typ,
                length.into(),
                by_value,
                align,
                &mut elements,
                &mut nulls,
                &mut count,
            );
            let dimensions = (*array).ndim.max(0) as usize;
            let sizes = array
                .cast::<u8>()
                .add(size_of::<pg_sys::ArrayType>())
                .cast::<i32>();
            let bounds: Vec<(i32, i32)> = (0..dimensions)
                .map(|d| (*sizes.add(d), *sizes.add(dimensions + d)))
                .collect();
            match bounds.as_slice() {
                [] | [(_, 1)] => shape.push(false, Entry::Null),
                bounds => {
                    let text: String = bounds
                        .iter()
                        .map(|(size, low)| {
                            format!("[{low}:{}]", i64::from(*low) + i64::from(*size) - 1)
                        })
                        .collect();
                    shape.push(false, Entry::Value(text.as_bytes()));
                }
            }
            if count == 0 {
                values.push(false, Entry::Empty);
            }
            for i in 0..count as usize {
                pgrx::check_for_interrupts!();
                match *nulls.add(i) {
                    true => values.push(i > 0, Entry::Absent),
                    false => self.scalar(*elements.add(i), i > 0, values),
                }
            }
        }
    }

    unsafe fn scalar(&mut self, value: pg_sys::Datum, continues: bool, to: &mut ColumnWriter) {
        let mut put = |bytes: &[u8]| to.push(continues, Entry::Value(bytes));
        let raw = value.value() as u64;
        // SAFETY: by contract, a value of the type that the arm is for.
        unsafe {
            match self.shape.kept {
                Kept::Boolean => put(&[u8::from(raw as u8 != 0)]),
                Kept::Int16 => put(&i32::from(raw as i16).to_le_bytes()),
                Kept::Int32 | Kept::Float => put(&(raw as u32).to_le_bytes()),
                Kept::Int64 | Kept::Double | Kept::Time => put(&raw.to_le_bytes()),
                Kept::Date => put(&kept::date_out(raw as i32).to_le_bytes()),
                Kept::Timestamp | Kept::Timestamptz => {
                    put(&kept::timestamp_out(raw as i64).to_le_bytes());
                }
                Kept::Bytes => with_payload(value, put),
                Kept::Text => with_payload(value, |text| utf8(text, put)),
                Kept::Json if self.shape.typ == pg_sys::JSONOID => {
                    with_payload(value, |text| utf8(text, put));
                }
                Kept::Uuid => put(std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16)),
                Kept::Decimal { scale, .. } => {
                    let text = self.text(value);
                    let text = text.to_str().unwrap_or_default();
                    match kept::decimal_out(text, scale) {
                        Some(number) => put(&number.to_be_bytes()),
                        None => raise(
                            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                            format!(
                                "a value of a column has another scale than the column: {text}"
                            ),
                            None,
                            Some("The table is damaged there; update the row.".into()),
                        ),
                    }
                }
                Kept::Json | Kept::Output => utf8(self.text(value).to_bytes(), put),
            }
        }
    }

    /// What the output function gives, in the current memory context.
    unsafe fn text(&mut self, value: pg_sys::Datum) -> &'static CStr {
        // SAFETY: a value of the type that the function was prepared for; the text lives as long as the context, in which the
        // caller uses it.
        unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(&mut self.output, value)) }
    }
}

/// Hands on a text of the server's in UTF-8.
fn utf8(text: &[u8], put: impl FnOnce(&[u8])) {
    // SAFETY: the function reads so many bytes; what it makes of them ends with a NUL.
    unsafe {
        if text.is_empty() || pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 {
            return put(text);
        }
        let from = text.as_ptr().cast::<std::ffi::c_char>();
        let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
        let made = pg_sys::pg_server_to_any(from, text.len() as i32, utf8);
        match std::ptr::eq(made, from) {
            true => put(text),
            false => put(CStr::from_ptr(made).to_bytes()),
        }
    }
}
