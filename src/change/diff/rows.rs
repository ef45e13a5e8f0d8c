//! Rows into hashes.
//!
//! What is hashed are the values one behind the other, those of up to 64 bits as numbers, others as their cells, on multiples of eight bytes: a
//! processor that reads what it has just written is fast where it reads the same words. Last come numbers that say which of them are NULL. Columns and
//! their classes are the same on both sides, so different rows have different bytes.

use super::row_bytes::RowBytes;
use super::tables::{Place, Table, Tables};
use crate::change::canonical;
use crate::change::plan::Plans;
use crate::pg::tuple::slot_values;
use pgrx::pg_sys;
use varve_core::change::{CellHash, cell_hash};

/// What keys are hashed with, so that a value of the key is not one of the other columns'.
const KEY: u64 = 1;
/// What the other columns are hashed with: the seed by which long inputs are hashed fastest.
const REST: u64 = 0;

/// Hashes rows. Rows of both relations have the same hash if their columns of the same names have the same cells, in columns that
/// one of them lacks NULL.
pub struct Rows<'a> {
    plans: &'a mut Plans,
    cell: CellHash,
    /// Which values of a row are NULL, 64 at a time.
    masks: Vec<u64>,
    /// Set where rows are known by their bytes, if these say all of them.
    pub bytes: Option<RowBytes>,
    /// How many were.
    pub known_by_bytes: u64,
}

impl<'a> Rows<'a> {
    /// With the plans by which the tables were resolved.
    pub fn new(plans: &'a mut Plans) -> Self {
        Rows {
            plans,
            cell: CellHash::default(),
            masks: Vec::new(),
            bytes: None,
            known_by_bytes: 0,
        }
    }

    /// So many values of rows have to be there before they are hashed.
    pub fn width(&self, table: &Table) -> usize {
        match self.bytes {
            Some(_) => table.key_width,
            None => table.width,
        }
    }

    /// The hashes of the key and of the whole of the row in a slot: by its bytes, or else by its values.
    ///
    /// # Safety
    /// A row of the table's query.
    #[inline]
    pub unsafe fn of_slot(
        &mut self,
        tables: &Tables,
        table: &Table,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> (u128, u128) {
        // SAFETY: by contract.
        unsafe {
            let (values, nulls) = slot_values(slot, table.key_width);
            let key = self.key(tables, table, values, nulls);
            let row = match self.by_bytes(key, slot) {
                Some(row) => {
                    self.known_by_bytes += 1;
                    row
                }
                None => self.by_values(tables, table, key, slot),
            };
            (key, row)
        }
    }

    /// The hash of the row in a slot by its bytes, of which that of its key is part; `None` where rows are not known by them.
    ///
    /// # Safety
    /// A row of the table's query.
    #[inline]
    pub unsafe fn by_bytes(
        &mut self,
        key: u128,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> Option<u128> {
        // SAFETY: by contract.
        let bytes = unsafe { self.bytes.as_mut()?.hash(slot)? };
        Some(key.wrapping_add(bytes))
    }

    /// The same by its values.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn by_values(
        &mut self,
        tables: &Tables,
        table: &Table,
        key: u128,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> u128 {
        // SAFETY: by contract.
        unsafe {
            let (values, nulls) = slot_values(slot, table.width);
            self.row(tables, table, key, values, nulls)
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
        // A single number is the key of most tables.
        if let [Some(place)] = places
            && let (Some(value), Some(false)) = (values.get(place.at), nulls.get(place.at))
            && let Some(word) = canonical::word(&place.form, *value)
        {
            let mut bytes = [0; 16];
            if let Some(first) = bytes.first_chunk_mut() {
                *first = word.to_ne_bytes();
            }
            return cell_hash(seed, &bytes);
        }
        self.cell.begin_xxh3(seed);
        self.masks.clear();
        for places in places.chunks(u64::BITS as usize) {
            let mut nulls_among = 0u64;
            for place in places {
                nulls_among <<= 1;
                let value = place.as_ref().and_then(|place| {
                    let value = values.get(place.at)?;
                    (!nulls.get(place.at)?).then_some((&place.form, *value))
                });
                let Some((form, value)) = value else {
                    nulls_among |= 1;
                    continue;
                };
                match canonical::word(form, value) {
                    Some(word) => self.cell.put_cell(word.to_ne_bytes()),
                    None => {
                        // SAFETY: by contract, a value of the column.
                        unsafe { canonical::put(form, value, self.plans, &mut self.cell) };
                        self.cell.pad();
                    }
                }
            }
            self.masks.push(nulls_among);
        }
        // At the end, from where they tell which columns the rest is of.
        for mask in &self.masks {
            self.cell.put_cell(mask.to_ne_bytes());
        }
        self.cell.end_xxh3()
    }
}
