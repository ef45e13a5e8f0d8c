//! The first reading: both relations side by side, hashed, what is the same in both forgotten. What remains are the keys of rows that
//! may differ.

use super::rows::Rows;
use super::tables::Tables;
use crate::pg::memory;
use crate::pg::spi::Connection;
use crate::pg::temp_file::TempFile;
use crate::pg::tuple::{slot_values, tid_key};
use pgrx::pg_sys;
use varve_core::change::{Matching, Seen, Side, Wanted};

/// Rows that are read at a time from one of the relations.
pub const BATCH: u32 = 1024;

/// Memory for hashing, in bytes: a quarter is for the keys that remain, the rest for rows that wait, and what is known of the rows that
/// remain when these are gone.
fn shares() -> (usize, usize) {
    // SAFETY: of the settings.
    let all = unsafe { pg_sys::get_hash_memory_limit() };
    (all / 4 * 3, all / 4)
}

/// What the first reading leaves to be compared.
pub struct Open {
    /// The keys of rows that are not in both relations as they are, and a few more.
    pub keys: Wanted,
    /// All these rows, in the old and in the new relation, where they are few and it is known where they lie.
    pub rows: Option<[Vec<Seen>; 2]>,
}

/// Rows that are read by item pointer if, for each of them and each chunk, so many are read otherwise.
const ROWS_FOR_ONE: u64 = 16;

/// Of the memory for hashing, what each of them takes at most: here, in a set, in a query's text and in its plan.
const BYTES_FOR_ONE: u64 = 128;

/// What each of them takes for each chunk, whose plan and scan have an item pointer of it.
const BYTES_FOR_PLACE: u64 = 12;

/// Reads both relations.
pub fn open_keys(connection: &Connection, tables: &Tables, rows: &mut Rows) -> Open {
    // SAFETY: the context of the whole call, which outlives the files.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: as above.
    let make = || unsafe { memory::within(context, TempFile::new) };
    let (for_rows, for_keys) = shares();
    let mut matching = Matching::new(for_rows, !tables.unique, &make);
    let [mut old, mut new] = tables.read(connection);
    let mut read = 0;
    let mut placed = true;
    let mut batch: Vec<(Side, Seen)> = Vec::with_capacity(BATCH as usize);
    loop {
        // Rows that lie in the same order in both find their pair at once, if neither runs ahead: so the one goes on of which fewer
        // rows wait.
        let new_waits = matching.waiting(Side::New) > matching.waiting(Side::Old);
        let (side, cursor) = match (old.ended(), new.ended()) {
            (true, true) => break,
            (false, true) => (Side::Old, &mut old),
            (false, false) if new_waits => (Side::Old, &mut old),
            _ if matching.waiting(Side::Old) == 0 && !old.ended() => (Side::Old, &mut old),
            _ => (Side::New, &mut new),
        };
        let table = tables.table(side);
        cursor.fetch(BATCH, table.width, &mut |slot| {
            // SAFETY: a row of the table's query, with all values.
            let seen = unsafe {
                let (values, nulls) = slot_values(slot, table.width);
                let key = rows.key(tables, table, values, nulls);
                let place = (*slot).tts_tid;
                placed &= place.ip_posid != 0;
                let row = rows.row(tables, table, key, values, nulls);
                Seen::new(side, key, row, tid_key(&place))
            };
            batch.push((side, seen));
        });
        read += batch.len() as u64;
        // One after the other, they wait for memory at the same time.
        for (side, seen) in batch.drain(..) {
            matching.put(side, seen);
        }
    }
    drop((old, new));
    let chunks = tables.most_chunks.max(1);
    let few = read / (chunks * ROWS_FOR_ONE);
    let few = few.min(for_rows as u64 / (BYTES_FOR_ONE + BYTES_FOR_PLACE * chunks));
    let mut keys = Wanted::new(matching.rows() as usize, for_keys);
    let mut kept = placed.then(|| [Vec::new(), Vec::new()]);
    let mut count = 0;
    let all = matching.without_pair(&mut |row| {
        keys.add(row.key());
        count += 1;
        match (&mut kept, row.side()) {
            (Some([old, _]), Some(Side::Old)) if count <= few => old.push(*row),
            (Some([_, new]), Some(Side::New)) if count <= few => new.push(*row),
            _ => kept = None,
        }
    });
    Open {
        keys,
        rows: kept.filter(|_| all),
    }
}
