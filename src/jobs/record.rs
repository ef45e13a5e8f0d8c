//! The record of a run that succeeded, written in the command's own last transaction.
//!
//! It goes past SQL: the command may have made its transaction read only, and its role may have no rights on the table.

use crate::pg::catalog::{self, First};
use crate::pg::clock;
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Marks a run as succeeded.
pub fn succeeded(run: i64, rows: i64, bytes: Option<i64>) {
    // SAFETY: a syscache look-up.
    let schema = unsafe { pg_sys::get_namespace_oid(c"varve".as_ptr(), true) };
    let open = || {
        let table = relation::lookup("job_run", schema)?;
        let table = OpenRel::try_open(table, pg_sys::RowExclusiveLock)?;
        let index = relation::lookup("job_run_pkey", schema)?;
        Some((table, index))
    };
    // The command may have dropped the extension.
    let Some((table, index)) = open() else {
        return;
    };
    let rel = table.as_ptr();
    let mut changes: Vec<(&str, pg_sys::Datum)> = vec![
        (
            "state",
            "succeeded".into_datum().unwrap_or(pg_sys::Datum::null()),
        ),
        ("ended_at", pg_sys::Datum::from(clock::now())),
        ("rows", pg_sys::Datum::from(rows)),
    ];
    if let Some(bytes) = bytes {
        changes.push(("bytes", pg_sys::Datum::from(bytes)));
    }
    let desc = relation::tupdesc(rel);
    let natts = relation::natts(desc);
    let mut values = vec![pg_sys::Datum::null(); natts];
    let mut nulls = vec![true; natts];
    let mut replace = vec![false; natts];
    for column in 0..natts {
        let name = relation::attribute_name(relation::attribute(desc, column));
        let change = changes.iter().find(|c| c.0 == name);
        if let (Some((_, value)), Some(v), Some(n), Some(r)) = (
            change,
            values.get_mut(column),
            nulls.get_mut(column),
            replace.get_mut(column),
        ) {
            (*v, *n, *r) = (*value, false, true);
        }
    }
    catalog::each_with(&table, index, First::Number(run), |row| {
        // SAFETY: the run's row, which nobody but this process changes; arrays have an entry for each column.
        unsafe {
            let new = pg_sys::heap_modify_tuple(
                row,
                desc,
                values.as_ptr(),
                nulls.as_ptr(),
                replace.as_ptr(),
            );
            pg_sys::CatalogTupleUpdate(rel, &mut (*row).t_self, new);
        }
    });
}
