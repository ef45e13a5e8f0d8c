//! The first reading: both relations side by side, hashed, what is the same in both forgotten. What remains are the keys of rows that
//! may differ.

use super::rest::Rest;
use super::rows::Rows;
use super::tables::Tables;
use crate::pg::cursor::Cursor;
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

/// The bit of a place that says that the row was known by its bytes; those below are its item pointer.
pub const BY_BYTES: u32 = 63;

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

/// Reads both relations.
pub fn open_keys(connection: &Connection, tables: &Tables, rows: &mut Rows) -> Open {
    rows.bytes = tables.row_bytes();
    read(connection, tables, rows)
        .or_else(|| {
            rows.bytes = None;
            read(connection, tables, rows)
        })
        .unwrap_or_else(|| pgrx::error!("rows were given up whose values were hashed"))
}

/// What a relation is read from: first what is left of chunks that are read by their segments, then a query.
struct Source<'a> {
    side: Side,
    rest: Option<Rest<'a>>,
    cursor: Cursor,
    /// Whether the query gave rows.
    by_query: bool,
    placed: bool,
}

impl<'a> Source<'a> {
    fn new(tables: &'a Tables, side: Side, cursor: Cursor) -> Self {
        Source {
            side,
            rest: tables
                .by_segments()
                .map(|segments| Rest::new(segments, side)),
            cursor,
            by_query: false,
            placed: true,
        }
    }

    fn ended(&self) -> bool {
        self.cursor.ended() && self.rest.as_ref().is_none_or(Rest::ended)
    }

    /// Adds the next rows.
    fn read(&mut self, tables: &Tables, rows: &mut Rows, batch: &mut Vec<Seen>) {
        let (side, table) = (self.side, tables.table(self.side));
        while let Some(rest) = self.rest.as_mut().filter(|rest| !rest.ended()) {
            rest.next(None, &mut |values, nulls| {
                // SAFETY: a row of that relation.
                let (key, row) = unsafe {
                    let key = rows.key(tables, table, values, nulls);
                    (key, rows.row(tables, table, key, values, nulls))
                };
                batch.push(Seen::new(side, key, row, NO_PLACE));
            });
            if batch.len() >= BATCH as usize {
                return;
            }
        }
        let width = rows.width(table);
        self.cursor.fetch(BATCH, width, &mut |slot| {
            // SAFETY: a row of the table's query, with as many values as are asked for.
            let seen = unsafe {
                let known = rows.known_by_bytes;
                let (key, row) = rows.of_slot(tables, table, slot);
                let place = (*slot).tts_tid;
                self.placed &= place.ip_posid != 0;
                let by_bytes = (rows.known_by_bytes - known) << BY_BYTES;
                Seen::new(side, key, row, tid_key(&place) | by_bytes)
            };
            batch.push(seen);
            self.by_query = true;
        });
    }
}

/// As [`open_keys`]; `None` where rows are known by their bytes and these differ too often.
fn read(connection: &Connection, tables: &Tables, rows: &mut Rows) -> Option<Open> {
    // SAFETY: the context of the whole call, which outlives the files.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: as above.
    let make = || unsafe { memory::within(context, TempFile::new) };
    let (for_rows, for_keys) = shares();
    let mut matching = Matching::new(for_rows, !tables.unique, &make);
    let [old, new] = tables.read(connection);
    let mut old = Source::new(tables, Side::Old, old);
    let mut new = Source::new(tables, Side::New, new);
    rows.known_by_bytes = 0;
    // Of rows whose values are hashed, no more is known the second time.
    let too_many = |differing: u64, rows: &Rows| {
        differing >= MANY_THAT_DIFFER && differing > rows.known_by_bytes / FOR_ONE_THAT_DIFFERS
    };
    let mut batch: Vec<Seen> = Vec::with_capacity(BATCH as usize);
    let (mut read, mut differing) = (0, 0);
    loop {
        // Rows that lie in the same order in both find their pair at once, if neither runs ahead: so the one goes on of which fewer
        // rows wait.
        let new_waits = matching.waiting(Side::New) > matching.waiting(Side::Old);
        let source = match (old.ended(), new.ended()) {
            (true, true) => break,
            (false, true) => &mut old,
            (false, false) if new_waits => &mut old,
            _ if matching.waiting(Side::Old) == 0 && !old.ended() => &mut old,
            _ => &mut new,
        };
        let (known, before) = (rows.known_by_bytes, matching.differing());
        source.read(tables, rows, &mut batch);
        read += batch.len() as u64;
        // One after the other, they wait for memory at the same time.
        matching.put_all(source.side, &batch);
        batch.clear();
        if rows.known_by_bytes > known {
            differing += matching.differing() - before;
        }
        if too_many(differing, rows) {
            return None;
        }
    }
    let by_query = old.by_query || new.by_query;
    let placed = old.placed && new.placed;
    drop((old, new));
    let chunks = tables.most_chunks.max(1);
    let few = read / (chunks * ROWS_FOR_ONE);
    let few = few.min(for_rows as u64 / (BYTES_FOR_ONE + BYTES_FOR_PLACE * chunks));
    let mut keys = Wanted::new(matching.rows() as usize, for_keys);
    let mut kept = placed.then(|| [Vec::new(), Vec::new()]);
    let mut count = 0;
    let (mut bytes_of_old, mut bytes_of_new) = (0, 0);
    let all = matching.without_pair(&mut |row| {
        keys.add(row.key());
        count += 1;
        let by_bytes = row.place() >> BY_BYTES;
        match row.side() {
            Some(Side::Old) => bytes_of_old += by_bytes,
            _ => bytes_of_new += by_bytes,
        }
        match (&mut kept, row.side()) {
            (Some([old, _]), Some(Side::Old)) if count <= few => old.push(*row),
            (Some([_, new]), Some(Side::New)) if count <= few => new.push(*row),
            _ => kept = None,
        }
    });
    // Rows that went to files were not seen to differ.
    if too_many(bytes_of_old.min(bytes_of_new), rows) {
        return None;
    }
    Some(Open {
        keys,
        by_query,
        rows: kept.filter(|_| all),
    })
}
