//! Rows into hashes: their checksums as `varve.row_checksum` has them, and that of the row that their key is.
//!
//! Checksums by columns' names, and not hashes of lists of columns as `varve.diff` makes them: a column that is added later and NULL
//! leaves them as they were, segments keep their sums, and what is stored means the same for all times.

use super::canonical;
use super::plan::{Column, Plans, Unsendable};
use crate::pg::memory::Context;
use crate::pg::relation;
use pgrx::pg_sys;
use varve_core::change::hash::{CellHash, finish};

/// Rows after which memory is given back that values needed.
const AT_A_TIME: u32 = 1024;

/// What a row is known by.
#[derive(Clone, Copy)]
pub struct Hashes {
    /// The hash of its key.
    pub key: u128,
    /// Its checksum.
    pub row: u128,
}

/// Hashes rows of a shape.
pub struct RowHash {
    /// In the order of their names; those of the key, and whether they are.
    columns: Vec<(Column, bool)>,
    plans: Plans,
    cell: CellHash,
    memory: Context,
    rows: u32,
    _lasting: Context,
}

impl RowHash {
    /// For rows of a shape that have a key of these columns, or none.
    pub fn of(desc: pg_sys::TupleDesc, key: &[String]) -> Self {
        let lasting = Context::new();
        // SAFETY: the context goes after the plans do.
        let plans = lasting
            .within(|| unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Refuse) });
        let of_key = |column: &Column| {
            let name = relation::attribute_name(relation::attribute(desc, column.place));
            key.contains(&name)
        };
        let columns = plans.columns(desc).into_iter().map(|column| {
            let of_key = of_key(&column);
            (column, of_key)
        });
        RowHash {
            columns: columns.collect(),
            plans,
            cell: CellHash::default(),
            memory: Context::new(),
            rows: 0,
            _lasting: lasting,
        }
    }

    /// The hashes of a row.
    ///
    /// # Safety
    /// Values of the row shape.
    pub unsafe fn row(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> Hashes {
        // SAFETY: by contract.
        let (key, row) = unsafe { self.sums(values, nulls, true) };
        Hashes {
            key: finish(key),
            row: finish(row),
        }
    }

    /// The checksum of a row.
    ///
    /// # Safety
    /// Values of the row shape.
    pub unsafe fn checksum(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> u128 {
        // SAFETY: by contract.
        finish(unsafe { self.sums(values, nulls, true) }.1)
    }

    /// The hash of a row's key.
    ///
    /// # Safety
    /// Values of the row shape, those of the key at least.
    pub unsafe fn key(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> u128 {
        // SAFETY: by contract.
        finish(unsafe { self.sums(values, nulls, false) }.0)
    }

    unsafe fn sums(&mut self, values: &[pg_sys::Datum], nulls: &[bool], all: bool) -> (u128, u128) {
        self.rows += 1;
        if self.rows == AT_A_TIME {
            pgrx::check_for_interrupts!();
            self.memory.reset();
            self.rows = 0;
        }
        let RowHash {
            columns,
            plans,
            cell,
            memory,
            ..
        } = self;
        memory.within(|| {
            let (mut of_key, mut of_row) = (0u128, 0u128);
            for (column, is_key) in columns.iter().filter(|(_, is_key)| all || *is_key) {
                let place = column.place;
                let (Some(value), Some(false)) = (values.get(place), nulls.get(place)) else {
                    continue;
                };
                cell.begin_xxh3(column.seed);
                // SAFETY: by contract.
                unsafe { canonical::put(&column.form, *value, plans, cell) };
                let hash = cell.end_xxh3();
                of_row = of_row.wrapping_add(hash);
                if *is_key {
                    of_key = of_key.wrapping_add(hash);
                }
            }
            (of_key, of_row)
        })
    }
}
