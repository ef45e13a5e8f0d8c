//! `jsonb` as it lies on disk (`utils/jsonb.h`), into cells.
//!
//! After the class: 0 for null, 1 for false, 2 for true, 3 and a number as in a cell of class `Numeric`, 4 and a text with its
//! length, 5 and an array (number of elements, elements), 6 and an object (number of keys; each key with its length, and its
//! value), the keys in the order of their bytes in UTF-8.

use super::encoding::Encoding;
use super::numeric;
use crate::pg::tuple::varlena_size;
use pgrx::pg_sys;
use std::borrow::Cow;
use varve_core::change::cell::{Class, put_number, put_sized};
use varve_core::change::hash::CellHash;

// The header of a container.
const COUNT: u32 = 0x0FFF_FFFF;
const IS_SCALAR: u32 = 0x1000_0000;
const IS_OBJECT: u32 = 0x2000_0000;
const IS_ARRAY: u32 = 0x4000_0000;
// An entry of it.
const LENGTH: u32 = 0x0FFF_FFFF;
const TYPE: u32 = 0x7000_0000;
const IS_OFFSET: u32 = 0x8000_0000;
const STRING: u32 = 0x0000_0000;
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;

/// Puts the cell of a value, which is given without its length; `None` where it is damaged.
#[must_use]
pub fn put(bytes: &[u8], encoding: Encoding, to: &mut CellHash) -> Option<()> {
    to.put(&[Class::Jsonb.tag()]);
    let root = Container::of(bytes)?;
    if root.header & IS_SCALAR == 0 {
        return root.put(encoding, to);
    }
    match root.walk().next() {
        Some(entry) => root.put_entry(entry?, encoding, to),
        None => None,
    }
}

/// An array or an object.
struct Container<'a> {
    header: u32,
    entries: &'a [[u8; 4]],
    /// What the entries' places are counted from.
    data: &'a [u8],
}

/// The type of an entry, and where it lies.
type Entry = (u32, usize, usize);

impl<'a> Container<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<4>()?;
        let header = u32::from_ne_bytes(*header);
        let count = (header & COUNT) as usize;
        let count = match header & (IS_OBJECT | IS_ARRAY) {
            IS_OBJECT => 2 * count,
            IS_ARRAY => count,
            _ => return None,
        };
        let (entries, data) = rest.split_at_checked(4 * count)?;
        Some(Container {
            header,
            entries: entries.as_chunks().0,
            data,
        })
    }

    /// The entries; `None` for one that is nowhere.
    fn walk(&self) -> impl Iterator<Item = Option<Entry>> + use<'a> {
        let mut end = 0;
        let data = self.data;
        self.entries.iter().map(move |entry| {
            let entry = u32::from_ne_bytes(*entry);
            let start = end;
            let length = (entry & LENGTH) as usize;
            end = match entry & IS_OFFSET {
                0 => start + length,
                _ => length,
            };
            (start <= end && end <= data.len()).then_some((entry & TYPE, start, end))
        })
    }

    fn put(&self, encoding: Encoding, to: &mut CellHash) -> Option<()> {
        // SAFETY: raises an error where containers lie too deep within each other.
        unsafe { pg_sys::check_stack_depth() };
        let count = (self.header & COUNT).to_le_bytes();
        if self.header & IS_OBJECT == 0 {
            to.put(&[5]);
            to.put(&count);
            for entry in self.walk() {
                self.put_entry(entry?, encoding, to)?;
            }
            return Some(());
        }
        let mut keys = Vec::with_capacity(self.entries.len() / 2);
        let mut values = Vec::with_capacity(self.entries.len() / 2);
        for entry in self.walk() {
            let (kind, start, end) = entry?;
            if 2 * keys.len() == self.entries.len() {
                values.push((kind, start, end));
                continue;
            }
            if kind != STRING {
                return None;
            }
            let key = self.data.get(start..end)?;
            keys.push(match encoding.as_is() {
                true => Cow::Borrowed(key),
                false => Cow::Owned(encoding.utf8(key, <[u8]>::to_vec)),
            });
        }
        let mut pairs: Vec<_> = keys.iter().zip(values).collect();
        pairs.sort_unstable_by(|a, b| a.0.cmp(b.0));
        to.put(&[6]);
        to.put(&count);
        for (key, value) in pairs {
            put_sized(to, key);
            self.put_entry(value, encoding, to)?;
        }
        Some(())
    }

    fn put_entry(
        &self,
        (kind, start, end): Entry,
        encoding: Encoding,
        to: &mut CellHash,
    ) -> Option<()> {
        // Numbers and containers begin at multiples of four.
        let aligned = || self.data.get(start.next_multiple_of(4)..end);
        match kind {
            NULL => to.put(&[0]),
            FALSE => to.put(&[1]),
            TRUE => to.put(&[2]),
            NUMERIC => {
                to.put(&[3]);
                let number = aligned()?;
                let (header, size) = varlena_size(number)?;
                let number = numeric::parse(number.get(header..size)?)?;
                return put_number(to, number).then_some(());
            }
            STRING => {
                let text = self.data.get(start..end)?;
                to.put(&[4]);
                encoding.utf8(text, |text| put_sized(to, text));
            }
            CONTAINER => return Container::of(aligned()?)?.put(encoding, to),
            _ => return None,
        }
        Some(())
    }
}
