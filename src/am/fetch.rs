//! Single rows by item pointer.

use super::chain::{self, Along, End};
use super::companion::{self, Companion};
use super::scan::{ours, store_row};
use super::tid::{self, Place};
use super::{cache, thaw, tombstone};
use crate::heap_call;
use crate::pg::guard;
use crate::pg::{ffi, relation, snapshot as snap, tuple};
use pgrx::pg_sys;

/// Whether an MVCC snapshot sees a frozen row where it is.
pub fn visible(
    rel: pg_sys::Relation,
    companion: &Companion,
    place: Place,
    snapshot: pg_sys::Snapshot,
) -> bool {
    let directory = cache::directory(rel, companion);
    directory
        .iter()
        .filter(|s| s.number == place.segment && place.row < s.header.rows)
        .any(|s| {
            !s.header.dead.get(place.row as usize) && thaw::segment_visible(companion, s, snapshot)
        })
        && tombstone::find_visible(companion, place, snapshot).is_none()
}

/// Fails to serialise where a transaction snapshot is to lock a row of a segment that it does not see: one that another
/// session froze in place meanwhile, found through an index (INSERT … ON CONFLICT).
pub fn must_be_seen(
    rel: pg_sys::Relation,
    companion: &Companion,
    place: Place,
    snapshot: pg_sys::Snapshot,
) {
    // SAFETY: reads the isolation level.
    let level = unsafe { pg_sys::XactIsoLevel };
    if level < pg_sys::XACT_REPEATABLE_READ as i32 || !snap::is_mvcc(snapshot) {
        return;
    }
    let unseen = cache::directory(rel, companion)
        .iter()
        .filter(|s| s.number == place.segment)
        .all(|s| !thaw::segment_visible(companion, s, snapshot));
    if unseen {
        super::error::raise(
            pgrx::PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update".into(),
            None,
            None,
        );
    }
}

/// Whether the row in `slot`, which lies in the delta and which `snapshot` sees there, is one that the transaction itself
/// thawed out of a segment that the snapshot does not see (frozen in place by another session meanwhile).
pub fn thawed_unseen(
    rel: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
) -> bool {
    // SAFETY: reads the isolation level.
    let frozen_snapshot = unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32;
    let Some(c) = companion::of(rel)
        .filter(|c| frozen_snapshot && snap::is_mvcc(snapshot) && chain::any_in_place(rel, c))
    else {
        return false;
    };
    let (at, by) = place_and_writer(slot);
    let Some(place) = tombstone::origin(&c, &at, by) else {
        return false;
    };
    !cache::directory(rel, &c)
        .iter()
        .filter(|s| s.number == place.segment)
        .any(|s| thaw::segment_visible(&c, s, snapshot))
}

/// Where the row in a slot lies, and who wrote it.
fn place_and_writer(
    slot: *mut pg_sys::TupleTableSlot,
) -> (pg_sys::ItemPointerData, pg_sys::TransactionId) {
    let mut free = false;
    // SAFETY: a filled slot of a heap.
    unsafe {
        let row = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut free);
        ((*slot).tts_tid, tuple::raw_xmin(&*(*row).t_data))
    }
}

/// The answer for a frozen row that an index scan gave (see `lookup`). A row with a tombstone is left to the thawed row's
/// own index entry, at which the caller waits for who thawed it.
fn found_frozen(
    rel: pg_sys::Relation,
    place: Place,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    call_again: *mut bool,
    all_dead: *mut bool,
) -> bool {
    // SAFETY: the caller's flags.
    unsafe {
        *call_again = false;
        if !all_dead.is_null() {
            *all_dead = false;
        }
    }
    snap::settle_dirty(snapshot);
    let thawed = companion::of(rel).is_none_or(|c| tombstone::find(&c, place).is_some());
    !thawed && frozen_row(rel, place, snapshot, slot)
}

/// Whether the row in `slot`, which lies in the delta and which `snapshot` does not see there, is a frozen row that the
/// snapshot sees and that somebody has since only thawed (to lock it, say).
pub fn only_thawed(
    rel: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
) -> bool {
    let Some(c) = companion::of(rel).filter(|_| snap::is_mvcc(snapshot)) else {
        return false;
    };
    let (at, by) = place_and_writer(slot);
    tombstone::origin(&c, &at, by).is_some_and(|place| visible(rel, &c, place, snapshot))
}

/// Puts a frozen row into a slot if the snapshot sees it; other than MVCC snapshots see every row of a segment.
pub fn frozen_row(
    rel: pg_sys::Relation,
    place: Place,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    let Some(c) = super::modify::frozen_part(rel) else {
        return false;
    };
    if snap::is_mvcc(snapshot) {
        // As heap locks the tuple; we know of no finer unit than the relation.
        // SAFETY: an open relation and a valid snapshot.
        unsafe { ffi::PredicateLockRelation(rel, snapshot) };
        if !visible(rel, &c, place, snapshot) {
            return false;
        }
    }
    let directory = cache::directory(rel, &c);
    let Some(segment) = directory
        .iter()
        .find(|s| s.number == place.segment && place.row < s.header.rows)
    else {
        return false;
    };
    let decoded = cache::decoded(rel, segment, place.row);
    let natts = relation::natts(relation::tupdesc(rel));
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    let desc = relation::tupdesc(rel);
    store_row(
        rel,
        desc,
        &decoded,
        place.row,
        &mut values,
        &mut nulls,
        slot,
    );
    true
}

pub unsafe extern "C-unwind" fn tuple_tid_valid(
    scan: pg_sys::TableScanDesc,
    tid: pg_sys::ItemPointer,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor and a valid item pointer.
        let (scan, _) = unsafe { ours(scan) };
        let heap = scan.heap;
        // SAFETY: as above.
        let (rel, at) = unsafe { ((*heap).rs_rd, *tid) };
        match tid::decode(&at) {
            Some(place) => companion::of(rel).is_some_and(|c| {
                cache::directory(rel, &c)
                    .iter()
                    .any(|s| s.number == place.segment && place.row < s.header.rows)
            }),
            None => heap_call!(tuple_tid_valid(heap, tid)),
        }
    })
}

pub unsafe extern "C-unwind" fn tuple_get_latest_tid(
    scan: pg_sys::TableScanDesc,
    tid: pg_sys::ItemPointer,
) {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor and a valid item pointer.
        let (scan, _) = unsafe { ours(scan) };
        let heap = scan.heap;
        // SAFETY: as above.
        let (rel, snapshot, at) = unsafe { ((*heap).rs_rd, (*heap).rs_snapshot, *tid) };
        let mut at = at;
        while let Some(place) = tid::decode(&at) {
            let moved = companion::of(rel)
                .filter(|_| snap::is_mvcc(snapshot))
                .and_then(|c| tombstone::find_visible(&c, place, snapshot));
            // SAFETY: the caller's item pointer.
            unsafe { *tid = at };
            match moved {
                Some(to) => at = to,
                None => return,
            }
        }
        // SAFETY: as above.
        unsafe { *tid = at };
        heap_call!(tuple_get_latest_tid(heap, tid));
    })
}

pub unsafe extern "C-unwind" fn index_fetch_tuple(
    scan: *mut pg_sys::IndexFetchTableData,
    tid: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    call_again: *mut bool,
    all_dead: *mut bool,
) -> bool {
    guard::entry(|| {
        // SAFETY: the index machinery passes valid pointers; heap may change the item pointer to the version found.
        let (rel, root) = unsafe { ((*scan).rel, *tid) };
        if let Some(place) = tid::decode(&root) {
            return found_frozen(rel, place, snapshot, slot, call_again, all_dead);
        }
        if heap_call!(index_fetch_tuple(
            scan, tid, snapshot, slot, call_again, all_dead
        )) {
            return true;
        }
        // A uniqueness check must not take a row that was frozen in place for one that is gone.
        // SAFETY: a valid snapshot.
        let dirty = unsafe { (*snapshot).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_DIRTY };
        if dirty
            && chain::may_be_in_place(rel)
            && let End::Frozen(place) = chain::follow(rel, &root, Along::IndexEntry)
            && companion::of(rel).is_some_and(|c| tombstone::find(&c, place).is_none())
        {
            if !all_dead.is_null() {
                // SAFETY: the caller's flag.
                unsafe { *all_dead = false };
            }
            return frozen_row(rel, place, snapshot, slot);
        }
        false
    })
}
