//! Values of Parquet's columns back into rows. What comes may be anything: it is checked as input of the types is.

use super::kept::{self, Shape};
use crate::am::error::raise;
use crate::pg::tuple::new_bytea;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CString;
use std::io::{Read, Seek};
use varve_core::backup::snapshot::Kept;
use varve_core::parquet::{Entry, ParquetError, Reader};

/// A column's values on their way in.
pub struct Income {
    name: String,
    shape: Shape,
    input: pg_sys::FmgrInfo,
    parameter: pg_sys::Oid,
    element: (i16, bool, std::ffi::c_char),
}

impl Income {
    /// Prepares it; what it needs lives in the current memory context.
    pub fn new(name: &str, shape: Shape) -> Self {
        let mut input = pg_sys::FmgrInfo::default();
        let mut element = (0, false, 0);
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        // SAFETY: catalogue look-ups of a type that there is.
        unsafe {
            pg_sys::getTypeInputInfo(shape.typ, &mut function, &mut parameter);
            pg_sys::fmgr_info(function, &mut input);
            pg_sys::get_typlenbyvalalign(shape.typ, &mut element.0, &mut element.1, &mut element.2);
        }
        Income {
            name: name.to_string(),
            shape,
            input,
            parameter,
            element,
        }
    }

    /// How many columns of Parquet it reads.
    pub fn width(&self) -> usize {
        1 + usize::from(self.shape.array)
    }

    /// Its value in the row at hand, from the columns of Parquet that begin at `first`; in the current memory context.
    pub fn take<R: Read + Seek>(
        &mut self,
        from: &mut Reader<R>,
        first: usize,
    ) -> Result<Option<pg_sys::Datum>, ParquetError> {
        if !self.shape.array {
            return Ok(match from.next(first)? {
                Entry::Value(value) => Some(self.scalar(value)),
                _ => None,
            });
        }
        let (mut values, mut nulls) = (Vec::new(), Vec::new());
        let mut entry = from.next(first)?;
        let null = entry == Entry::Null;
        loop {
            match entry {
                Entry::Value(value) => {
                    values.push(self.scalar(value));
                    nulls.push(false);
                }
                Entry::Absent => {
                    values.push(pg_sys::Datum::from(0usize));
                    nulls.push(true);
                }
                Entry::Null | Entry::Empty => {}
            }
            if !from.goes_on(first) {
                break;
            }
            pgrx::check_for_interrupts!();
            entry = from.next(first)?;
        }
        let bounds = match from.next(first + 1)? {
            Entry::Value(text) => self.bounds(text),
            _ => vec![(values.len(), 1)],
        };
        if null {
            return Ok(None);
        }
        Ok(Some(self.array(&mut values, &mut nulls, &bounds)))
    }

    fn wrong(&self, what: &str) -> ! {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("column \"{}\" of the snapshot has a value that is none: {what}", self.name),
            None,
            Some("Its SHA-256 is that of the snapshot's record: somebody has made both. Another snapshot may be whole.".into()),
        )
    }

    /// Sizes and lower bounds of an array's dimensions: `[0:1][1:3]`.
    fn bounds(&self, text: &[u8]) -> Vec<(usize, i32)> {
        let parse = || {
            let text = std::str::from_utf8(text).ok()?;
            let inner = text.strip_prefix('[')?.strip_suffix(']')?;
            let each = inner.split("][").map(|one| {
                let (low, high) = one.split_once(':')?;
                let (low, high): (i32, i64) = (low.parse().ok()?, high.parse().ok()?);
                let size = usize::try_from(high - i64::from(low) + 1).ok()?;
                Some((size, low))
            });
            each.collect::<Option<Vec<_>>>()
        };
        parse().unwrap_or_else(|| self.wrong("dimensions of an array"))
    }

    fn array(
        &self,
        values: &mut [pg_sys::Datum],
        nulls: &mut [bool],
        bounds: &[(usize, i32)],
    ) -> pg_sys::Datum {
        let (length, by_value, align) = self.element;
        let count = bounds
            .iter()
            .try_fold(1usize, |n, (size, _)| n.checked_mul(*size));
        if count != Some(values.len()) || bounds.len() > pg_sys::MAXDIM as usize {
            self.wrong("an array of other dimensions");
        }
        // SAFETY: as many values and NULL flags as the dimensions say.
        unsafe {
            if values.is_empty() {
                return pg_sys::Datum::from(pg_sys::construct_empty_array(self.shape.typ));
            }
            let mut sizes: Vec<i32> = bounds.iter().map(|(size, _)| *size as i32).collect();
            let mut lows: Vec<i32> = bounds.iter().map(|(_, low)| *low).collect();
            pg_sys::ArrayCheckBounds(bounds.len() as i32, sizes.as_ptr(), lows.as_ptr());
            pg_sys::Datum::from(pg_sys::construct_md_array(
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                bounds.len() as i32,
                sizes.as_mut_ptr(),
                lows.as_mut_ptr(),
                self.shape.typ,
                length.into(),
                by_value,
                align,
            ))
        }
    }

    fn scalar(&mut self, value: &[u8]) -> pg_sys::Datum {
        let four = || value.first_chunk::<4>().copied().unwrap_or_default();
        let eight = || value.first_chunk::<8>().copied().unwrap_or_default();
        match self.shape.kept {
            Kept::Boolean => pg_sys::Datum::from(value.first() == Some(&1)),
            Kept::Int16 => match i16::try_from(i32::from_le_bytes(four())) {
                Ok(number) => pg_sys::Datum::from(number),
                Err(_) => self.wrong("smallint out of range"),
            },
            Kept::Int32 => pg_sys::Datum::from(i32::from_le_bytes(four())),
            Kept::Float => pg_sys::Datum::from(u32::from_le_bytes(four())),
            Kept::Int64 => pg_sys::Datum::from(i64::from_le_bytes(eight())),
            Kept::Double => pg_sys::Datum::from(u64::from_le_bytes(eight())),
            Kept::Date => match kept::date_in(i32::from_le_bytes(four())) {
                Some(date) => pg_sys::Datum::from(date),
                None => self.wrong("date out of range"),
            },
            Kept::Timestamp | Kept::Timestamptz => {
                match kept::timestamp_in(i64::from_le_bytes(eight())) {
                    Some(at) => pg_sys::Datum::from(at),
                    None => self.wrong("timestamp out of range"),
                }
            }
            Kept::Time => match i64::from_le_bytes(eight()) {
                time @ 0..=kept::LAST_TIME => pg_sys::Datum::from(time),
                _ => self.wrong("time out of range"),
            },
            Kept::Bytes => new_bytea(value),
            Kept::Uuid => {
                // SAFETY: sixteen bytes, as the type has, which the file's schema promises.
                unsafe {
                    let uuid = pg_sys::palloc0(16).cast::<u8>();
                    std::ptr::copy_nonoverlapping(value.as_ptr(), uuid, value.len().min(16));
                    pg_sys::Datum::from(uuid)
                }
            }
            Kept::Decimal { scale, .. } => {
                let number = value.first_chunk::<16>().copied().unwrap_or_default();
                let text = kept::decimal_in(i128::from_be_bytes(number), scale);
                self.parse(text.as_bytes())
            }
            Kept::Text if self.shape.typ == pg_sys::TEXTOID || self.shape.typmod < 0 => {
                let text = self.server(value);
                // SAFETY: so many bytes; varchar and char are laid out as text is.
                unsafe {
                    let bytes = text.as_ptr().cast();
                    pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(bytes, text.len() as i32))
                }
            }
            Kept::Text | Kept::Json | Kept::Output => {
                let text = self.server(value);
                self.parse(&text)
            }
        }
    }

    /// A text in the server's encoding, which is checked.
    fn server(&self, text: &[u8]) -> Vec<u8> {
        if text.is_empty() {
            return Vec::new();
        }
        let Ok(length) = i32::try_from(text.len()) else {
            self.wrong("a text that is too long");
        };
        let from = text.as_ptr().cast::<std::ffi::c_char>();
        // SAFETY: the function reads so many bytes; what it makes anew ends with a NUL.
        unsafe {
            let made = pg_sys::pg_any_to_server(from, length, pg_sys::pg_enc::PG_UTF8 as i32);
            match std::ptr::eq(made, from) {
                true => text.to_vec(),
                false => std::ffi::CStr::from_ptr(made).to_bytes().to_vec(),
            }
        }
    }

    /// What the input function makes of a text.
    fn parse(&mut self, text: &[u8]) -> pg_sys::Datum {
        let Ok(text) = CString::new(text) else {
            self.wrong("a text with a NUL");
        };
        // SAFETY: the type's own input function, prepared before.
        unsafe {
            pg_sys::InputFunctionCall(
                &mut self.input,
                text.as_ptr().cast_mut(),
                self.parameter,
                self.shape.typmod,
            )
        }
    }
}
