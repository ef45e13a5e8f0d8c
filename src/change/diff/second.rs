//! The second reading: rows whose keys remained are read again, put next to each other by their keys, and compared column by column.

use super::first::{BATCH, Open};
use super::output::{Output, Row};
use super::rest::Rest;
use super::rows::Rows;
use super::tables::Tables;
use crate::pg::memory::Context;
use crate::pg::relation;
use crate::pg::sort::{RowSort, SortColumn};
use crate::pg::spi::Connection;
use crate::pg::tuple::slot_values;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashSet;
use varve_core::change::{Seen, Side};

/// Rows that may differ, of both relations, by their keys.
pub struct Found {
    sort: RowSort,
    /// Shapes of the rows.
    old: pg_sys::TupleDesc,
    new: pg_sys::TupleDesc,
}

impl Found {
    /// None yet. They live no longer than the current memory context.
    pub fn new(output: &Output) -> Self {
        Found {
            sort: by_key(),
            old: output.row_shape(Side::Old),
            new: output.row_shape(Side::New),
        }
    }

    /// Adds a row with the hash of its key. It is copied, with whatever is stored elsewhere.
    ///
    /// # Safety
    /// Values of a row of that relation.
    pub unsafe fn put(&mut self, side: Side, key: u128, values: &[pg_sys::Datum], nulls: &[bool]) {
        let desc = side.pick(self.old, self.new);
        // SAFETY: by contract.
        let row = unsafe {
            let row = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*row).t_data)
        };
        let [high, low] = [(key >> 64) as usize, key as usize];
        let values = [high.into(), low.into(), row];
        self.sort
            .put(&values, &[false; 3], u64::from(side == Side::New));
    }
}

/// Adds the rows whose keys remained.
pub fn collect(
    connection: &Connection,
    tables: &Tables,
    open: &Open,
    rows: &mut Rows,
    found: &mut Found,
) {
    // Of another row that is read by chance, with the item pointer of one of these and a key that the set takes for one of theirs, the
    // pair in the other relation is not read.
    let values = |rows: &Vec<Seen>| rows.iter().map(Seen::values).collect::<HashSet<_>>();
    let only = open.rows.as_ref().map(|rows| rows.each_ref().map(values));
    let wanted = |side: Side, key: u128, row: &mut dyn FnMut() -> [Option<u128>; 2]| {
        let only = only.as_ref().map(|[old, new]| side.pick(old, new));
        let is = |only: &HashSet<_>, row| only.contains(&Seen::new(side, key, row, 0).values());
        open.keys.has(Seen::key_part(key))
            && only.is_none_or(|only| row().into_iter().flatten().any(|row| is(only, row)))
    };
    let mut count = 0;
    if let Some(segments) = tables.by_segments() {
        for side in [Side::Old, Side::New] {
            let table = tables.table(side);
            let key_places = table.key_places(tables.key);
            let mut rest = Rest::new(segments, side);
            while !rest.ended() {
                let rows = RefCell::new(&mut *rows);
                // SAFETY: rows of that relation, of which the key is there at first.
                let key = |values: &_, nulls: &_| unsafe {
                    rows.borrow_mut().key(tables, table, values, nulls)
                };
                let mut has =
                    |values: &[_], nulls: &[_]| open.keys.has(Seen::key_part(key(values, nulls)));
                rest.next(Some((&key_places, &mut has)), &mut |values, nulls| {
                    let key = key(values, nulls);
                    // SAFETY: as above.
                    unsafe {
                        let by_values = &mut || {
                            let row = rows.borrow_mut().row(tables, table, key, values, nulls);
                            [Some(row), None]
                        };
                        if wanted(side, key, by_values) {
                            found.put(side, key, values, nulls);
                            count += 1;
                        }
                    }
                });
            }
        }
    }
    // Row shapes are other queries'.
    if let Some(bytes) = &mut rows.bytes {
        bytes.forget();
    }
    let cursors = open
        .by_query
        .then(|| tables.read_again(connection, open.rows.as_ref()));
    let cursors = [Side::Old, Side::New]
        .into_iter()
        .zip(cursors.into_iter().flatten());
    for (side, mut cursor) in cursors {
        let table = tables.table(side);
        while !cursor.ended() {
            cursor.fetch(BATCH, table.key_width, &mut |slot| {
                // SAFETY: a row of the table's query, whose key is there.
                unsafe {
                    let (values, nulls) = slot_values(slot, table.key_width);
                    let key = rows.key(tables, table, values, nulls);
                    // It may come in another kind of slot than the first time.
                    let both = &mut || {
                        let by_bytes = rows.by_bytes(key, slot);
                        [by_bytes, Some(rows.by_values(tables, table, key, slot))]
                    };
                    if wanted(side, key, both) {
                        let (values, nulls) = slot_values(slot, table.width);
                        found.put(side, key, values, nulls);
                        count += 1;
                    }
                }
            });
        }
    }
    let expected = only.map(|sets| sets.iter().map(HashSet::len).sum());
    if let Some(expected) = expected.filter(|expected: &usize| *expected != count) {
        pgrx::error!("of {expected} rows {count} have stayed where they were");
    }
}

/// Hands what differs to the output.
pub fn compare(found: Found, tables: &Tables, rows: &mut Rows, output: &mut Output) {
    let mut group = Group::default();
    let memory = Context::new();
    found.sort.drain(|values, _, side| {
        let [high, low, row] = values else { return };
        let key = Some((high.value(), low.value()));
        if group.key != key {
            memory.within(|| group.end(tables, rows, output));
            memory.reset();
            group.key = key;
        }
        let (count, kept) = match side {
            0 => (&mut group.old, &mut group.old_row),
            _ => (&mut group.new, &mut group.new_row),
        };
        *count += 1;
        if *count == 1 {
            // SAFETY: a row, which the sort may keep with a short header and not aligned. It is copied since the sort's memory holds
            // one row at a time.
            *kept = Some(memory.within(|| unsafe {
                pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(row.cast_mut_ptr()))
            }));
        }
    });
    memory.within(|| group.end(tables, rows, output));
    output.end();
}

/// The rows of one key.
#[derive(Default)]
struct Group {
    key: Option<(usize, usize)>,
    old: u64,
    new: u64,
    old_row: Option<pg_sys::Datum>,
    new_row: Option<pg_sys::Datum>,
}

impl Group {
    /// Hands on what there is to tell of it, and forgets it.
    fn end(&mut self, tables: &Tables, rows: &mut Rows, output: &mut Output) {
        let Group {
            old,
            new,
            old_row,
            new_row,
            ..
        } = std::mem::take(self);
        // SAFETY: rows of the shapes that the output knows.
        let (old_row, new_row) = unsafe {
            (
                old_row.map(|row| output.take_apart(Side::Old, row)),
                new_row.map(|row| output.take_apart(Side::New, row)),
            )
        };
        for (side, count, row) in [(Side::Old, old, &old_row), (Side::New, new, &new_row)] {
            if let (2.., Some(row)) = (count, row) {
                output.duplicate(tables, side, row, count);
            }
        }
        if old > 1 || new > 1 {
            return;
        }
        match (old_row, new_row) {
            (None, None) => {}
            (None, Some(new)) => output.inserted(&new),
            (Some(old), None) => output.deleted(&old),
            (Some(old), Some(new)) => {
                let changed = changed(tables, rows, &old, &new);
                if !changed.is_empty() {
                    output.updated(&changed, &old, &new);
                }
            }
        }
    }
}

/// The names of the columns in which two rows differ.
fn changed<'a>(tables: &'a Tables, rows: &mut Rows, old: &Row, new: &Row) -> Vec<&'a str> {
    let places = tables.table(Side::Old).places.iter();
    let places = places.zip(&tables.table(Side::New).places);
    let columns = tables.names.iter().zip(places);
    columns
        .filter(|(_, (of_old, of_new))| {
            // SAFETY: values of rows of the tables' queries.
            unsafe {
                rows.value(of_old, &old.values, &old.nulls)
                    != rows.value(of_new, &new.values, &new.nulls)
            }
        })
        .map(|(name, _)| name.as_str())
        .collect()
}

/// A sort of rows by two numbers.
fn by_key() -> RowSort {
    // SAFETY: a row shape of our own.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(3);
        for (attnum, name, typ) in [
            (1, c"high", pg_sys::INT8OID),
            (2, c"low", pg_sys::INT8OID),
            (3, c"row", pg_sys::RECORDOID),
        ] {
            pg_sys::TupleDescInitEntry(desc, attnum, name.as_ptr(), typ, -1, 0);
        }
        let by: Vec<SortColumn> = (0..2)
            .filter_map(|i| SortColumn::of(relation::attribute(desc, i), false))
            .collect();
        RowSort::new(desc, &by, pg_sys::work_mem)
    }
}
