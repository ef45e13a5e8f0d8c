//! Rows of a shape, on either side.

use super::error::damaged;
use super::value::{self, Layout};
use crate::change::row_hash::{Hashes, RowHash};
use crate::pg::relation;
use pgrx::pg_sys;
use varve_core::change::{Seen, Wanted};

/// Rows of a shape, and how they become hashes.
pub struct Shape {
    /// The shape.
    pub desc: pg_sys::TupleDesc,
    /// Where the columns of the key are, in its order.
    pub key: Vec<usize>,
    hash: RowHash,
}

impl Shape {
    /// Rows that have a key of these columns.
    pub fn of(desc: pg_sys::TupleDesc, key: &[String]) -> Self {
        let place = |name: &String| {
            (0..relation::natts(desc)).find(|place| {
                let attr = relation::attribute(desc, *place);
                !attr.attisdropped && relation::attribute_name(attr) == *name
            })
        };
        let lacking = |name: &String| -> ! { damaged(&format!("there is no column \"{name}\"")) };
        Shape {
            desc,
            key: key
                .iter()
                .map(|name| place(name).unwrap_or_else(|| lacking(name)))
                .collect(),
            hash: RowHash::of(desc, key),
        }
    }

    /// The shape of keys alone.
    pub fn of_keys(desc: pg_sys::TupleDesc, key: &[String]) -> Self {
        let whole = Shape::of(desc, key);
        let attributes: Vec<_> = whole
            .key
            .iter()
            .map(|place| *relation::attribute(desc, *place))
            .collect();
        Shape::of(relation::row_shape(&attributes, 0), key)
    }

    /// The hashes of a row.
    ///
    /// # Safety
    /// Values of the shape.
    pub unsafe fn hashes(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> Hashes {
        // SAFETY: by contract.
        unsafe { self.hash.row(values, nulls) }
    }

    /// The hash of a row's key.
    ///
    /// # Safety
    /// Values of the shape, those of the key at least.
    pub unsafe fn key_hash(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> u128 {
        // SAFETY: by contract.
        unsafe { self.hash.key(values, nulls) }
    }

    /// Whether a row's key is among those that are looked for.
    ///
    /// # Safety
    /// Values of the shape, those of the key at least.
    pub unsafe fn is_wanted(
        &mut self,
        wanted: Option<&Wanted>,
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) -> bool {
        // SAFETY: by contract.
        wanted.is_none_or(|wanted| unsafe {
            wanted.has(Seen::key_part(self.key_hash(values, nulls)))
        })
    }

    /// The key of a row, as a checkpoint keeps it.
    ///
    /// # Safety
    /// Values of the shape.
    pub unsafe fn keep_key(&self, values: &[pg_sys::Datum], nulls: &[bool], to: &mut Vec<u8>) {
        to.clear();
        for place in &self.key {
            let layout = Layout::of(relation::attribute(self.desc, *place));
            let null = nulls.get(*place).is_none_or(|null| *null);
            let value = values.get(*place).filter(|_| !null).copied();
            // SAFETY: by contract.
            unsafe { value::put(layout, value, to) };
        }
    }
}

/// A row on one of the sides; of those that a checkpoint remembers one by one, its key.
pub struct Row<'a> {
    /// What it is known by.
    pub hashes: Hashes,
    /// Its values.
    pub values: &'a [pg_sys::Datum],
    /// Which of them are NULL.
    pub nulls: &'a [bool],
    /// Their shape.
    pub shape: &'a Shape,
}
