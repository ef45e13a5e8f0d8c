//! INSERT … ON CONFLICT where the key is found among frozen rows only.
//!
//! The executor looks at the arbiter index before it inserts, finds nothing there (the row is frozen) and inserts
//! speculatively, which thaws the row. The arbiter then reports the conflict and the executor starts over; but another
//! unique index, which comes first, would raise an error for a row that was never to be inserted. So after a thaw the
//! speculative row looks dead to uniqueness checks, which raise nothing for a dead row (`_bt_check_unique`); when the
//! executor keeps the row after all, its keys are checked then.

use super::unique::{self, KeyEvaluator};
use crate::pg::relation::{self, OpenRel};
use crate::pg::tuple::tid_key;
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// Relation and place of the speculative row that looks dead.
    static ROW: Cell<Option<(u32, u64)>> = const { Cell::new(None) };
}

/// The row in `slot` was inserted speculatively after a thaw.
pub fn begin(rel: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: heap has set the row's place.
    let at = unsafe { (*slot).tts_tid };
    ROW.set(Some((relation::oid(rel).to_u32(), tid_key(&at))));
}

/// Whether an index fetch is a uniqueness check that asks whether the speculative row is still alive.
pub fn looks_dead(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
) -> bool {
    match ROW.get() {
        None => false,
        Some(row) => {
            // SAFETY: a valid snapshot.
            let by_itself =
                unsafe { (*snapshot).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_SELF };
            by_itself && row == (relation::oid(rel).to_u32(), tid_key(tid))
        }
    }
}

/// Called before the executor's insertion is completed; `true` when its keys are still to be checked if it is kept.
pub fn end() -> bool {
    ROW.take().is_some()
}

/// Forgets the row of a transaction that is over.
pub fn forget() {
    ROW.set(None);
}

/// Checks the row's keys in every unique index, as a deferred constraint is checked; raises `unique_violation`.
pub fn check_keys(rel: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot) {
    for oid in unique::index_oids(rel) {
        let index = OpenRel::index(oid, pg_sys::RowExclusiveLock);
        // SAFETY: an open index has its pg_index row.
        let (checked, ready) = unsafe {
            let form = &*(*index.as_ptr()).rd_index;
            (form.indisunique && form.indimmediate, form.indisready)
        };
        if !checked || !ready {
            continue;
        }
        let mut evaluator = KeyEvaluator::new(oid);
        let Some((values, nulls)) = evaluator.evaluate(slot) else {
            continue;
        };
        let (mut values, mut nulls) = (values.to_vec(), nulls.to_vec());
        // SAFETY: the row's own entry is in the index; it is looked for and checked, nothing is inserted.
        unsafe {
            let info = pg_sys::BuildIndexInfo(index.as_ptr());
            let mut at = (*slot).tts_tid;
            pg_sys::index_insert(
                index.as_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &mut at,
                rel,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_EXISTING,
                false,
                info,
            );
        }
    }
}
