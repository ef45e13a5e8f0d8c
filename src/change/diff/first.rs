//! The first reading: both relations side by side, hashed, what is the same in both forgotten. What remains are the keys of rows that
//! may differ.

use super::rows::Rows;
use super::tables::Tables;
use crate::pg::cursor::Cursor;
use crate::pg::memory;
use crate::pg::sort::{RowSort, SortColumn};
use crate::pg::spi::Connection;
use crate::pg::tuple::{slot_values, tid_key};
use pgrx::pg_sys;
use varve_core::change::pairs::Put;
use varve_core::change::{Group, Pairs, Seen, Side, Wanted};

/// Rows that are read at a time from one of the relations.
pub const BATCH: u32 = 1024;

/// Memory for hashing, in bytes.
fn hash_memory() -> usize {
    // SAFETY: of the settings.
    unsafe { pg_sys::get_hash_memory_limit() }
}

/// What the first reading leaves to be compared.
pub struct Open {
    /// The keys of rows that are not in both relations as they are, and a few more.
    pub keys: Wanted,
    /// The item pointers of all these rows, in the old and in the new relation, where they are few and all known.
    pub places: Option<[Vec<u64>; 2]>,
}

/// Rows that are read by item pointer if, for each of them and each chunk, so many are read otherwise.
const ROWS_FOR_ONE: u64 = 16;

/// Reads both relations.
pub fn open_keys(connection: &Connection, tables: &Tables, rows: &mut Rows) -> Open {
    let mut pairs = Pairs::new(hash_memory(), !tables.unique);
    let mut spill = Spill::new();
    let mut old = Cursor::open(connection, &tables.table(Side::Old).query);
    let mut new = Cursor::open(connection, &tables.table(Side::New).query);
    let mut read = 0;
    let mut placed = true;
    loop {
        // Rows that lie in the same order in both find their pair at once, if neither runs ahead: so the one goes on of which fewer
        // rows wait.
        let new_waits = pairs.waiting(Side::New) > pairs.waiting(Side::Old);
        let (side, cursor) = match (old.ended(), new.ended()) {
            (true, true) => break,
            (false, true) => (Side::Old, &mut old),
            (false, false) if new_waits => (Side::Old, &mut old),
            _ if pairs.waiting(Side::Old) == 0 && !old.ended() => (Side::Old, &mut old),
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
            read += 1;
            if pairs.put(side, seen) == Put::Full {
                pairs.drain(|row| spill.put(row));
                pairs.put(side, seen);
            }
        });
    }
    drop((old, new));
    if spill.count == 0 {
        let open = pairs.waiting(Side::Old) + pairs.waiting(Side::New);
        let mut keys = Wanted::new(open as usize, hash_memory());
        pairs.without_pair().for_each(|row| keys.add(row.key()));
        let few = open.saturating_mul(tables.most_chunks * ROWS_FOR_ONE) < read;
        // Where a key may have several rows, not all of them are without a pair.
        let places = (few && placed && tables.unique).then(|| {
            [Side::Old, Side::New].map(|side| {
                let of_side = pairs.without_pair().filter(|row| row.side() == Some(side));
                of_side.map(Seen::place).collect()
            })
        });
        return Open { keys, places };
    }
    pairs.drain(|row| spill.put(row));
    drop(pairs);
    let mut wanted = Wanted::new(spill.count, hash_memory());
    spill.groups(|group| {
        if !group.is_settled() {
            wanted.add(group.key());
        }
    });
    Open {
        keys: wanted,
        places: None,
    }
}

/// Rows that did not find a pair in memory, sorted by their keys' hashes.
struct Spill {
    sort: Option<RowSort>,
    context: pg_sys::MemoryContext,
    count: usize,
}

impl Spill {
    fn new() -> Self {
        Spill {
            sort: None,
            // SAFETY: the context of the whole call.
            context: unsafe { pg_sys::CurrentMemoryContext },
            count: 0,
        }
    }

    fn put(&mut self, row: Seen) {
        if self.count.is_multiple_of(1 << 16) {
            pgrx::check_for_interrupts!();
        }
        self.count += 1;
        // SAFETY: the context of the call, which outlives the sort.
        let sort = self
            .sort
            .get_or_insert_with(|| unsafe { memory::within(self.context, hashes) });
        let [tag, low, high] = row.to_parts();
        let values = [tag, low].map(|part| pg_sys::Datum::from(part as usize));
        sort.put(&values, &[false; 2], high);
    }

    fn groups(self, mut f: impl FnMut(Group)) {
        let Some(sort) = self.sort else {
            return;
        };
        let mut group: Option<Group> = None;
        sort.drain(|values, _, high| {
            let [tag, low] = values else { return };
            let row = Seen::from_parts([tag.value() as u64, low.value() as u64, high]);
            if group.as_mut().is_some_and(|group| group.add(row)) {
                return;
            }
            if let Some(whole) = group.replace(Group::begin(row)) {
                f(whole);
            }
        });
        if let Some(last) = group {
            f(last);
        }
    }
}

/// A sort of pairs of numbers by the first one.
fn hashes() -> RowSort {
    // SAFETY: a row shape of our own.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(2);
        for (attnum, name) in [(1, c"key"), (2, c"row")] {
            pg_sys::TupleDescInitEntry(desc, attnum, name.as_ptr(), pg_sys::INT8OID, -1, 0);
        }
        let by = SortColumn::of(crate::pg::relation::attribute(desc, 0), false);
        RowSort::new(desc, by.as_slice(), pg_sys::work_mem)
    }
}
