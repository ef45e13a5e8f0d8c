//! The first reading: both relations side by side, hashed, what is the same in both forgotten. What remains are the keys of rows that
//! may differ.

use super::rows::Rows;
use super::stored::Stored;
use super::tables::Tables;
use crate::pg::memory;
use crate::pg::spi::Connection;
use crate::pg::temp_file::TempFile;
use crate::pg::tuple::tid_key;
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
    /// Whether some may be among those that queries read.
    pub by_query: bool,
    /// All these rows, in the old and in the new relation, where they are few and it is known where they lie.
    pub rows: Option<[Vec<Seen>; 2]>,
}

/// Where rows lie that no query reads.
pub const NO_PLACE: u64 = 0;

/// Rows that are read by item pointer if, for each of them and each chunk, so many are read otherwise.
const ROWS_FOR_ONE: u64 = 16;

/// Of the memory for hashing, what each of them takes at most: here, in a set, in a query's text and in its plan.
const BYTES_FOR_ONE: u64 = 128;

/// What each of them takes for each chunk, whose plan and scan have an item pointer of it.
const BYTES_FOR_PLACE: u64 = 12;

/// Where rows are known by their bytes, one in so many may differ only in these, and so many at least: with more, it is faster to hash their
/// values than to read them again.
const FOR_ONE_THAT_DIFFERS: u64 = 16;
const MANY_THAT_DIFFER: u64 = 1024;

/// Reads both relations; where rows may be known by their bytes, `stored` knows how.
pub fn open_keys(
    connection: &Connection,
    tables: &Tables,
    rows: &mut Rows,
    stored: Option<Stored>,
) -> Open {
    rows.stored = stored;
    if rows.stored.is_some() {
        if let Some(open) = read(connection, tables, rows) {
            return open;
        }
        rows.stored = None;
    }
    read(connection, tables, rows)
        .unwrap_or_else(|| pgrx::error!("rows were given up whose values were hashed"))
}

/// As [`open_keys`]; `None` where rows are known by their bytes and these differ too often.
fn read(connection: &Connection, tables: &Tables, rows: &mut Rows) -> Option<Open> {
    // SAFETY: the context of the whole call, which outlives the files.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: as above.
    let make = || unsafe { memory::within(context, TempFile::new) };
    let (for_rows, for_keys) = shares();
    let mut matching = Matching::new(for_rows, !tables.unique, &make);
    let [mut old, mut new] = tables.read(connection);
    let (mut rest, mut read) = (0, 0);
    let mut placed = true;
    let by_bytes = rows.stored.is_some();
    let too_many = |differing: u64, read: u64| {
        by_bytes && differing >= MANY_THAT_DIFFER && differing > read / FOR_ONE_THAT_DIFFERS
    };
    if let Some(segments) = tables.by_segments() {
        segments.rest(&mut |side, values, nulls| {
            let table = tables.table(side);
            // SAFETY: a row of that relation.
            let seen = unsafe {
                let key = rows.key(tables, table, values, nulls);
                Seen::new(
                    side,
                    key,
                    rows.row(tables, table, key, values, nulls),
                    NO_PLACE,
                )
            };
            rest += 1;
            matching.put(side, seen);
        });
    }
    let mut batch: Vec<Seen> = Vec::with_capacity(BATCH as usize);
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
        cursor.fetch(BATCH, rows.width(table), &mut |slot| {
            // SAFETY: a row of the table's query, with as many values as are asked for.
            let seen = unsafe {
                let (key, row) = rows.of_slot(tables, table, slot);
                let place = (*slot).tts_tid;
                placed &= place.ip_posid != 0;
                Seen::new(side, key, row, tid_key(&place))
            };
            batch.push(seen);
        });
        read += batch.len() as u64;
        // One after the other, they wait for memory at the same time.
        matching.put_all(side, &batch);
        batch.clear();
        if too_many(matching.differing(), rest + read) {
            return None;
        }
    }
    drop((old, new));
    let by_query = read > 0;
    let read = rest + read;
    let chunks = tables.most_chunks.max(1);
    let few = read / (chunks * ROWS_FOR_ONE);
    let few = few.min(for_rows as u64 / (BYTES_FOR_ONE + BYTES_FOR_PLACE * chunks));
    let mut keys = Wanted::new(matching.rows() as usize, for_keys);
    let mut kept = placed.then(|| [Vec::new(), Vec::new()]);
    let (mut of_old, mut of_new) = (0, 0);
    let all = matching.without_pair(&mut |row| {
        keys.add(row.key());
        match row.side() {
            Some(Side::Old) => of_old += 1,
            _ => of_new += 1,
        }
        match (&mut kept, row.side()) {
            (Some([old, _]), Some(Side::Old)) if of_old + of_new <= few => old.push(*row),
            (Some([_, new]), Some(Side::New)) if of_old + of_new <= few => new.push(*row),
            _ => kept = None,
        }
    });
    // Rows that went to files were not seen to differ.
    if by_query && too_many(of_old.min(of_new), read) {
        return None;
    }
    Some(Open {
        keys,
        by_query,
        rows: kept.filter(|_| all),
    })
}
