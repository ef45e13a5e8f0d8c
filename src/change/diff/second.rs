//! The second reading: rows whose keys remained are read again, put next to each other by their keys, and compared column by column.

use super::first::{BATCH, Open};
use super::output::{Output, Row};
use super::rows::Rows;
use super::tables::Tables;
use crate::pg::memory::Context;
use crate::pg::relation;
use crate::pg::sort::{RowSort, SortColumn};
use crate::pg::spi::Connection;
use crate::pg::tuple::slot_values;
use pgrx::pg_sys;
use std::collections::HashSet;
use varve_core::change::{Seen, Side};

/// Reads both relations, and hands what differs to the output.
pub fn compare(
    connection: &Connection,
    tables: &Tables,
    open: &Open,
    rows: &mut Rows,
    output: &mut Output,
) {
    let mut sort = by_key();
    let [old, new] = match &open.rows {
        Some([old, new]) => [Some(old), Some(new)],
        None => [None, None],
    };
    let cursors = tables.read_again(connection, open.rows.as_ref());
    for ((side, of_side), mut cursor) in [(Side::Old, old), (Side::New, new)]
        .into_iter()
        .zip(cursors)
    {
        let table = tables.table(side);
        // Of another row that is read by chance, with the item pointer of one of these and a key that the set takes for one of theirs, the
        // pair in the other relation is not read.
        let only: Option<HashSet<_>> = of_side.map(|rows| rows.iter().map(Seen::values).collect());
        let desc = output.begin(side, cursor.desc());
        while !cursor.ended() {
            cursor.fetch(BATCH, table.key_width, &mut |slot| {
                // SAFETY: a row of the table's query, whose key is there; a row that is made is copied by the sort, with whatever
                // is stored elsewhere.
                unsafe {
                    let (values, nulls) = slot_values(slot, table.key_width);
                    let key = rows.key(tables, table, values, nulls);
                    if open.keys.has(Seen::key_part(key)) {
                        let (values, nulls) = slot_values(slot, table.width);
                        if let Some(only) = &only {
                            let row = rows.row(tables, table, key, values, nulls);
                            if !only.contains(&Seen::new(side, key, row, 0).values()) {
                                return;
                            }
                        }
                        let row = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
                        let row = pg_sys::HeapTupleHeaderGetDatum((*row).t_data);
                        let [high, low] = [(key >> 64) as usize, key as usize];
                        let values = [high.into(), low.into(), row];
                        sort.put(&values, &[false; 3], u64::from(side == Side::New));
                    }
                }
            });
        }
    }
    let mut group = Group::default();
    let memory = Context::new();
    sort.drain(|values, _, side| {
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
