//! Values as a checkpoint keeps them: 0 for NULL; else 1 and the bytes that the type has on disk, uncompressed, those of no fixed
//! length with their length (32 bits) before them.

use super::error::damaged;
use crate::pg::tuple::with_payload;
use pgrx::pg_sys;
use std::ffi::CStr;

/// How values of a type lie in memory.
#[derive(Clone, Copy)]
pub struct Layout {
    /// `typlen`.
    pub len: i16,
    /// `typbyval`.
    pub by_value: bool,
}

impl Layout {
    /// That of an attribute.
    pub fn of(attr: &pg_sys::FormData_pg_attribute) -> Self {
        Layout {
            len: attr.attlen,
            by_value: attr.attbyval,
        }
    }
}

/// Appends a value.
///
/// # Safety
/// A value of a type with that layout.
pub unsafe fn put(layout: Layout, value: Option<pg_sys::Datum>, to: &mut Vec<u8>) {
    let Some(value) = value else {
        to.push(0);
        return;
    };
    to.push(1);
    let mut sized = |bytes: &[u8]| {
        to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        to.extend_from_slice(bytes);
    };
    // SAFETY: by contract, as many bytes as the layout says.
    unsafe {
        match layout.len {
            -1 => with_payload(value, sized),
            ..0 => sized(CStr::from_ptr(value.cast_mut_ptr()).to_bytes()),
            len if layout.by_value => {
                let bytes = (value.value() as u64).to_le_bytes();
                to.extend_from_slice(bytes.get(..len as usize).unwrap_or(&bytes));
            }
            len => {
                let from = value.cast_mut_ptr::<u8>();
                to.extend_from_slice(std::slice::from_raw_parts(from, len as usize));
            }
        }
    }
}

/// Takes a value off the beginning of `bytes`, which lies in the current memory context; `None` for NULL. Bytes that are none are an
/// error (`data_corrupted`).
pub fn take(layout: Layout, bytes: &mut &[u8]) -> Option<pg_sys::Datum> {
    let mut next = |len: usize| match bytes.split_at_checked(len) {
        Some((head, rest)) => {
            *bytes = rest;
            head
        }
        None => damaged(&"a value is cut short"),
    };
    match next(1) {
        [0] => return None,
        [1] => {}
        _ => damaged(&"a value is neither there nor NULL"),
    }
    let len = match layout.len {
        ..0 => match next(4).first_chunk() {
            Some(len) => u32::from_le_bytes(*len) as usize,
            None => 0,
        },
        len => len as usize,
    };
    let value = next(len);
    if layout.by_value {
        let mut whole = [0; 8];
        match whole.get_mut(..len) {
            Some(to) => to.copy_from_slice(value),
            None => damaged(&"a value passed by value is too long"),
        }
        return Some(extended(u64::from_le_bytes(whole), layout.len));
    }
    let (head, tail) = match layout.len {
        -1 => (4, 0),
        ..0 => (0, 1),
        _ => (0, 0),
    };
    // SAFETY: room for the value, and for the header of a varlena or the NUL of a string.
    unsafe {
        let to = pg_sys::palloc0(head + len + tail).cast::<u8>();
        if layout.len == -1 {
            match i32::try_from(head + len) {
                Ok(size) if size < 1 << 30 => pgrx::set_varsize_4b(to.cast(), size),
                _ => damaged(&"a value is too long"),
            }
        }
        std::ptr::copy_nonoverlapping(value.as_ptr(), to.add(head), len);
        Some(pg_sys::Datum::from(to))
    }
}

/// A number of so many bytes as a datum has it, with its sign.
fn extended(value: u64, len: i16) -> pg_sys::Datum {
    let value = match len {
        1 => value as i8 as i64,
        2 => value as i16 as i64,
        4 => value as i32 as i64,
        _ => value as i64,
    };
    pg_sys::Datum::from(value)
}
