//! Rows into hashes.

use super::tables::{Place, Table, Tables};
use crate::change::canonical;
use crate::change::plan::Plans;
use pgrx::pg_sys;
use varve_core::change::CellHash;
use varve_core::change::cell::NULL;

/// What keys are hashed with.
const KEY: u64 = 0;
/// What the other columns are hashed with, so that a value of the key is not one of theirs.
const REST: u64 = 1;

/// Hashes rows. Rows of both relations have the same hash if their columns of the same names have the same cells, in columns that
/// one of them lacks NULL.
pub struct Rows<'a> {
    plans: &'a mut Plans,
    cell: CellHash,
}

impl<'a> Rows<'a> {
    /// With the plans by which the tables were resolved.
    pub fn new(plans: &'a mut Plans) -> Self {
        Rows {
            plans,
            cell: CellHash::default(),
        }
    }

    /// The hash of a row's key.
    ///
    /// # Safety
    /// The values of a row of the table's query, those of the key at least.
    #[inline]
    pub unsafe fn key(
        &mut self,
        tables: &Tables,
        table: &Table,
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) -> u128 {
        let places = table.places.get(..tables.key).unwrap_or_default();
        // SAFETY: by contract.
        unsafe { self.hash(KEY, places, values, nulls) }
    }

    /// The hash of a row, of which that of its key is part.
    ///
    /// # Safety
    /// The values of a row of the table's query.
    #[inline]
    pub unsafe fn row(
        &mut self,
        tables: &Tables,
        table: &Table,
        key: u128,
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) -> u128 {
        let places = table.places.get(tables.key..).unwrap_or_default();
        // SAFETY: by contract.
        key.wrapping_add(unsafe { self.hash(REST, places, values, nulls) })
    }

    /// The hash of a value in one of the columns.
    ///
    /// # Safety
    /// The values of a row of the query that the place is of.
    pub unsafe fn value(
        &mut self,
        place: &Option<Place>,
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) -> u128 {
        // SAFETY: by contract.
        unsafe { self.hash(KEY, std::slice::from_ref(place), values, nulls) }
    }

    #[inline]
    unsafe fn hash(
        &mut self,
        seed: u64,
        places: &[Option<Place>],
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) -> u128 {
        self.cell.begin_xxh3(seed);
        for place in places {
            let value = place.as_ref().and_then(|place| {
                let value = values.get(place.at)?;
                (!nulls.get(place.at)?).then_some((place, *value))
            });
            match value {
                // SAFETY: by contract, a value of the column.
                Some((place, value)) => unsafe {
                    canonical::put(&place.form, value, self.plans, &mut self.cell);
                },
                None => self.cell.put(&[NULL]),
            }
        }
        self.cell.end_xxh3()
    }
}
