//! Rows by the bytes in which heap has stored them: where both relations have the same columns, the same bytes are the same row, and
//! nothing needs to be taken apart.
//!
//! It is not so the other way round (1.0 and 1.00, a text that one of them has compressed): rows that differ here are read again, and
//! compared by their values. Where these are many, they are hashed by their values from the start ([`first`](super::first)).

use crate::pg::{relation, tuple};
use pgrx::pg_sys;
use std::mem::offset_of;
use varve_core::change::cell_hash;

/// What such hashes are set apart from those of values by, and those of rows with NULLs from others, whose lengths of headers may agree.
const STORED: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834;
const WITH_NULLS: u128 = 0x2545_f491_4f6c_dd1d_6c07_8965_d2b4_21e3;

/// Where a tuple begins to say what is in it: the length of its header, the map of NULLs, and the values.
const BEGIN: usize = offset_of!(pg_sys::HeapTupleHeaderData, t_hoff);

/// A column, as far as it says how values lie in a row and what they are.
#[derive(Clone, PartialEq, Eq)]
struct Column {
    typ: pg_sys::Oid,
    length: i16,
    by_value: bool,
    alignment: std::ffi::c_char,
}

impl Column {
    fn of(attr: &pg_sys::FormData_pg_attribute) -> Self {
        Column {
            typ: attr.atttypid,
            length: attr.attlen,
            by_value: attr.attbyval,
            alignment: attr.attalign,
        }
    }
}

/// Knows rows by their bytes.
pub struct RowBytes {
    columns: Vec<Column>,
    /// The row shape that was looked at last, and whether it is of these columns.
    seen: (pg_sys::TupleDesc, bool),
}

impl RowBytes {
    /// For rows with these columns.
    pub fn new<'a>(columns: impl Iterator<Item = &'a pg_sys::FormData_pg_attribute>) -> Self {
        RowBytes {
            columns: columns.map(Column::of).collect(),
            seen: (std::ptr::null_mut(), false),
        }
    }

    /// Forgets row shapes, before another query brings its own.
    pub fn forget(&mut self) {
        self.seen = (std::ptr::null_mut(), false);
    }

    /// The hash of the bytes of the row in a slot; `None` where they do not say all of it, or heap does not have it.
    ///
    /// # Safety
    /// The slot holds a row.
    #[inline]
    pub unsafe fn hash(&mut self, slot: *mut pg_sys::TupleTableSlot) -> Option<u128> {
        // SAFETY: by contract; a tuple is as long as it says, and no shorter than its header.
        let (header, bytes) = unsafe {
            let stored = tuple::stored(slot)?;
            let header = &*stored.t_data;
            let length = (stored.t_len as usize).checked_sub(BEGIN)?;
            let begin = stored.t_data.cast::<u8>().add(BEGIN);
            (header, std::slice::from_raw_parts(begin, length))
        };
        // SAFETY: by contract.
        let desc = unsafe { (*slot).tts_tupleDescriptor };
        let attributes = usize::from(header.t_infomask2 & pg_sys::HEAP_NATTS_MASK as u16);
        let whole = attributes == self.columns.len()
            && header.t_infomask & pg_sys::HEAP_HASEXTERNAL as u16 == 0;
        if !whole || !self.is_shape(desc) {
            return None;
        }
        let with_nulls = header.t_infomask & pg_sys::HEAP_HASNULL as u16 != 0;
        let apart = if with_nulls { WITH_NULLS } else { STORED };
        Some(cell_hash(0, bytes).wrapping_add(apart))
    }

    #[inline]
    fn is_shape(&mut self, desc: pg_sys::TupleDesc) -> bool {
        if self.seen.0 != desc {
            let natts = relation::natts(desc);
            let attributes = (0..natts).map(|at| relation::attribute(desc, at));
            let same = natts == self.columns.len()
                && attributes
                    .zip(&self.columns)
                    .all(|(attr, column)| !attr.attisdropped && Column::of(attr) == *column);
            self.seen = (desc, same);
        }
        self.seen.1
    }
}
