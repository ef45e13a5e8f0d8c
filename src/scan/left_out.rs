//! Tables that a query of varve's own is planned without, since whoever runs it knows that their rows do not matter: equal chunks, for
//! `varve.diff`.
//!
//! A condition on their ranges would do the same for hypertables only, in as many clauses as there are ranges, each to be proven false for
//! each chunk.
//!
//! The planner may be called again while it plans, for functions that it evaluates; what they read is read whole. So the query is known by its
//! list of parameters, an empty one that no other query has.

use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashSet;

/// What a query is planned without.
struct Without {
    query: pg_sys::ParamListInfo,
    tables: HashSet<pg_sys::Oid>,
    met: HashSet<pg_sys::Oid>,
}

thread_local! {
    static WITHOUT: RefCell<Option<Without>> = const { RefCell::new(None) };
}

/// Puts back what was there, on every way out.
struct Before(Option<Without>);

impl Drop for Before {
    fn drop(&mut self) {
        WITHOUT.set(self.0.take());
    }
}

/// Runs `plan`, which has to plan a query with these parameters, once: that reads none of the tables (chunks, partitions, or the table itself),
/// whatever it says. Tells, too, which of them the planner has met; rows of the others are read.
pub fn without<T>(
    tables: &HashSet<pg_sys::Oid>,
    plan: impl FnOnce(pg_sys::ParamListInfo) -> T,
) -> (T, HashSet<pg_sys::Oid>) {
    // SAFETY: an empty list, in the current memory context.
    let query = unsafe { pg_sys::makeParamList(0) };
    let before = Before(WITHOUT.replace(Some(Without {
        query,
        tables: tables.clone(),
        met: HashSet::new(),
    })));
    let planned = plan(query);
    let met = WITHOUT.take().map(|without| without.met);
    drop(before);
    (planned, met.unwrap_or_default())
}

/// Whether a table is left out of the query that is being planned.
///
/// # Safety
/// The planner's own node.
pub unsafe fn is_left_out(root: *const pg_sys::PlannerInfo, table: pg_sys::Oid) -> bool {
    WITHOUT.with_borrow_mut(|without| {
        let Some(without) = without else { return false };
        // SAFETY: by contract; all levels of a query have its global part.
        let query = unsafe { (*(*root).glob).boundParams };
        let left_out = query == without.query && without.tables.contains(&table);
        if left_out {
            without.met.insert(table);
        }
        left_out
    })
}
