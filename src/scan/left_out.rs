//! Tables that a query of varve's own is planned without, since whoever runs it knows that their rows do not matter: equal chunks, for
//! `varve.diff`.
//!
//! A condition on their ranges would do the same for hypertables only, in as many clauses as there are ranges, each to be proven false for
//! each chunk.

use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashSet;

thread_local! {
    static LEFT_OUT: RefCell<HashSet<pg_sys::Oid>> = RefCell::default();
}

/// Takes the tables back on every way out.
struct Before(HashSet<pg_sys::Oid>);

impl Drop for Before {
    fn drop(&mut self) {
        LEFT_OUT.set(std::mem::take(&mut self.0));
    }
}

/// Runs `plan`, in which a query is planned that reads none of these tables (chunks, partitions, or the table itself), whatever it says.
pub fn without<T>(tables: &[pg_sys::Oid], plan: impl FnOnce() -> T) -> T {
    let _before = Before(LEFT_OUT.replace(tables.iter().copied().collect()));
    plan()
}

/// Whether a table is left out of the query that is being planned.
pub fn is_left_out(table: pg_sys::Oid) -> bool {
    LEFT_OUT.with_borrow(|tables| tables.contains(&table))
}
