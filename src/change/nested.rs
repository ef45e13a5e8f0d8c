//! Arrays, ranges and multiranges as they lie in memory (`utils/array.h`, `rangetypes.h`, `multirangetypes.h`), into cells.

use super::canonical::{self, Form};
use super::error::damaged;
use super::plan::Plans;
use crate::pg::tuple::{varlena_size, with_whole};
use pgrx::pg_sys;
use varve_core::change::cell::{Class, NULL};
use varve_core::change::hash::CellHash;

/// Where the dimensions of an array begin.
const DIMENSIONS: usize = 16;
/// Where the bounds of a range begin.
const BOUNDS: usize = 8;
/// Where the items of a multirange begin.
const ITEMS: usize = 12;
/// The most dimensions that an array has (`MAXDIM`).
const MAX_DIMENSIONS: usize = 6;
/// Elements after which a cancel is looked for.
const AT_A_TIME: usize = 1024;

// Flags of ranges, as their send function sends them.
const EMPTY: u8 = 0x01;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;
const ALL_FLAGS: u8 = 0x1F;

/// What an array or a range is of.
pub struct Element {
    /// How its values become cells.
    pub form: Form,
    /// How they lie.
    pub layout: Layout,
}

/// How values of a type lie behind each other.
pub struct Layout {
    len: i16,
    by_value: bool,
    align: usize,
}

impl Layout {
    /// That of a type.
    pub fn of(typ: pg_sys::Oid) -> Self {
        let (mut len, mut by_value, mut align) = (0, false, 0);
        // SAFETY: a catalogue look-up of a type that there is.
        unsafe { pg_sys::get_typlenbyvalalign(typ, &mut len, &mut by_value, &mut align) };
        let align = match align as u8 {
            pg_sys::TYPALIGN_CHAR => 1,
            pg_sys::TYPALIGN_SHORT => 2,
            pg_sys::TYPALIGN_INT => 4,
            _ => 8,
        };
        Layout {
            len,
            by_value,
            align,
        }
    }

    /// The value at a place, or after what fills it up, and where it ends; `None` where there is none.
    fn value(&self, bytes: &[u8], at: usize) -> Option<(pg_sys::Datum, usize)> {
        // A varlena with a short header is not aligned, and what fills up is zero.
        let packed = self.len == -1 && *bytes.get(at)? != 0;
        let at = if packed {
            at
        } else {
            at.next_multiple_of(self.align)
        };
        let rest = bytes.get(at..)?;
        let size = match self.len {
            -1 => varlena_size(rest)?.1,
            -2 => rest.iter().position(|byte| *byte == 0)? + 1,
            len => usize::try_from(len).ok()?,
        };
        let value = rest.get(..size)?;
        let datum = match (self.by_value, value) {
            (false, _) => pg_sys::Datum::from(value.as_ptr()),
            (true, [a]) => pg_sys::Datum::from(*a as i8),
            (true, [a, b]) => pg_sys::Datum::from(i16::from_ne_bytes([*a, *b])),
            (true, value) => match (value.try_into(), value.try_into()) {
                (Ok(four), _) => pg_sys::Datum::from(i32::from_ne_bytes(four)),
                (_, Ok(eight)) => pg_sys::Datum::from(i64::from_ne_bytes(eight)),
                _ => return None,
            },
        };
        Some((datum, at + size))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(i32::from_ne_bytes(*number))
}

/// Puts the cell of an array: the number of dimensions, length and lower bound of each, elements.
///
/// # Safety
/// An array of such elements.
pub unsafe fn put_array(
    element: &Element,
    value: pg_sys::Datum,
    plans: &mut Plans,
    to: &mut CellHash,
) {
    // SAFETY: by contract; raises an error where values lie too deep within each other.
    let whole = unsafe {
        pg_sys::check_stack_depth();
        with_whole(value, |bytes| array(element, bytes, plans, to))
    };
    if whole.is_none() {
        damaged("an array");
    }
}

/// # Safety
/// Elements that are there are of the type.
unsafe fn array(
    element: &Element,
    bytes: &[u8],
    plans: &mut Plans,
    to: &mut CellHash,
) -> Option<()> {
    let dimensions = usize::try_from(number(bytes, 4)?).ok()?;
    if dimensions > MAX_DIMENSIONS {
        return None;
    }
    to.put(&[Class::Array.tag()]);
    to.put(&(dimensions as u32).to_le_bytes());
    let mut count = usize::from(dimensions > 0);
    for d in 0..dimensions {
        let length = number(bytes, DIMENSIONS + 4 * d)?;
        let low = number(bytes, DIMENSIONS + 4 * (dimensions + d))?;
        count = count.checked_mul(usize::try_from(length).ok()?)?;
        to.put(&length.to_le_bytes());
        to.put(&low.to_le_bytes());
    }
    let header = DIMENSIONS + 8 * dimensions;
    let (nulls, mut at) = match usize::try_from(number(bytes, 8)?).ok()? {
        0 => (None, header.next_multiple_of(8)),
        data => (Some(bytes.get(header..data)?), data),
    };
    for i in 0..count {
        if i % AT_A_TIME == 0 {
            pgrx::check_for_interrupts!();
        }
        if let Some(there) = nulls
            && there.get(i / 8)? & (1 << (i % 8)) == 0
        {
            to.put(&[NULL]);
            continue;
        }
        let (value, end) = element.layout.value(bytes, at)?;
        // SAFETY: by contract.
        unsafe { canonical::put(&element.form, value, plans, to) };
        at = end;
    }
    Some(())
}

/// Puts the cell of a range: its flags (1 empty, 2 and 4 bounds that are in it, 8 and 16 bounds that are not there), and the bounds.
///
/// # Safety
/// A range of such elements.
pub unsafe fn put_range(
    element: &Element,
    value: pg_sys::Datum,
    plans: &mut Plans,
    to: &mut CellHash,
) {
    to.put(&[Class::Range.tag()]);
    // SAFETY: by contract; raises an error where values lie too deep within each other.
    let whole = unsafe {
        pg_sys::check_stack_depth();
        with_whole(value, |bytes| {
            let (flags, bytes) = bytes.split_last()?;
            bounds(element, *flags, bytes, BOUNDS, plans, to)
        })
    };
    if whole.is_none() {
        damaged("a range");
    }
}

/// The flags and bounds of a range that begins there; returns where it ends.
///
/// # Safety
/// Bounds that are there are of the type.
unsafe fn bounds(
    element: &Element,
    flags: u8,
    bytes: &[u8],
    mut at: usize,
    plans: &mut Plans,
    to: &mut CellHash,
) -> Option<usize> {
    to.put(&[flags & ALL_FLAGS]);
    for infinite in [LOWER_INFINITE, UPPER_INFINITE] {
        if flags & (EMPTY | infinite) == 0 {
            let (value, end) = element.layout.value(bytes, at)?;
            // SAFETY: by contract.
            unsafe { canonical::put(&element.form, value, plans, to) };
            at = end;
        }
    }
    Some(at)
}

/// Puts the cell of a multirange: the number of ranges, and these.
///
/// # Safety
/// A multirange of ranges of such elements.
pub unsafe fn put_multirange(
    element: &Element,
    value: pg_sys::Datum,
    plans: &mut Plans,
    to: &mut CellHash,
) {
    to.put(&[Class::Multirange.tag()]);
    // SAFETY: by contract; raises an error where values lie too deep within each other.
    let whole = unsafe {
        pg_sys::check_stack_depth();
        with_whole(value, |bytes| multirange(element, bytes, plans, to))
    };
    if whole.is_none() {
        damaged("a multirange");
    }
}

/// # Safety
/// Bounds that are there are of the type.
unsafe fn multirange(
    element: &Element,
    bytes: &[u8],
    plans: &mut Plans,
    to: &mut CellHash,
) -> Option<()> {
    let count = usize::try_from(number(bytes, BOUNDS)?).ok()?;
    to.put(&(count as u32).to_le_bytes());
    // The first range has no item.
    let flags = ITEMS + 4 * count.saturating_sub(1);
    let mut at = flags + count;
    for flags in bytes.get(flags..at)? {
        pgrx::check_for_interrupts!();
        at = at.next_multiple_of(element.layout.align);
        // SAFETY: by contract.
        at = unsafe { bounds(element, *flags, bytes, at, plans, to) }?;
    }
    Some(())
}
