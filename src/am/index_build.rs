//! Building and validating indexes. An index holds delta rows only; a unique one is first checked over all rows.

use super::companion;
use super::directory;
use super::evaluator::{KeyEvaluator, RowSlot};
use super::scan::VarveScan;
use crate::heap_call;
use crate::pg::guard;
use crate::pg::heap::as_heap;
use crate::pg::{relation, snapshot};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;

thread_local! {
    /// Set while an exchange of storage rebuilds indexes, whose keys were checked when they were made.
    static TRUSTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, in which indexes are rebuilt over rows that are known to be unique.
pub fn trusted<T>(f: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            TRUSTED.set(false);
        }
    }
    let _reset = Reset;
    TRUSTED.set(true);
    f()
}

pub unsafe extern "C-unwind" fn index_build_range_scan(
    rel: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    allow_sync: bool,
    any_visible: bool,
    progress: bool,
    start: pg_sys::BlockNumber,
    blocks: pg_sys::BlockNumber,
    callback: pg_sys::IndexBuildCallback,
    state: *mut std::ffi::c_void,
    scan: pg_sys::TableScanDesc,
) -> f64 {
    guard::entry(|| {
        // BRIN summarises single ranges of the delta; whole builds start at block 0 with no end.
        let whole = start == 0 && blocks == pg_sys::InvalidBlockNumber;
        // SAFETY: the index machinery passes a valid IndexInfo; parallel workers leave the check to the leader.
        unsafe {
            if whole && pg_sys::ParallelWorkerNumber < 0 && !TRUSTED.get() {
                check_frozen(rel, index, info);
            }
        }
        // A parallel build hands in a scan that our scan_begin made.
        let heap_scan = if scan.is_null() {
            scan
        } else {
            // SAFETY: see above.
            unsafe { (*scan.cast::<VarveScan>()).heap }
        };
        let rows = as_heap(rel, || {
            heap_call!(index_build_range_scan(
                rel,
                index,
                info,
                allow_sync,
                any_visible,
                progress,
                start,
                blocks,
                callback,
                state,
                heap_scan
            ))
        });
        // The count becomes the table's reltuples.
        // SAFETY: reads a variable of the process.
        let counts_frozen = whole && unsafe { pg_sys::ParallelWorkerNumber } < 0;
        let frozen = super::storage::frozen_size(rel)
            .filter(|_| counts_frozen)
            .map_or(0, |(rows, _)| rows);
        rows + frozen as f64
    })
}

pub unsafe extern "C-unwind" fn index_validate_scan(
    rel: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    snapshot: pg_sys::Snapshot,
    state: *mut pg_sys::ValidateIndexState,
) {
    guard::entry(|| {
        // Rows that came between the build and the moment when writers began to heed the index are checked here.
        // SAFETY: as above.
        unsafe { check_frozen(rel, index, info) };
        as_heap(rel, || {
            heap_call!(index_validate_scan(rel, index, info, snapshot, state))
        });
    })
}

/// Evaluates the index on every visible row, frozen or not, where the relation has frozen rows: expressions may fail
/// on them, and a unique index must not come into being over duplicates.
///
/// # Safety
/// `info` belongs to `index`, an index on `rel`.
unsafe fn check_frozen(
    rel: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) {
    let Some(companion) = companion::of(rel) else {
        return;
    };
    // SAFETY: by contract.
    let (unique, exclusion, complex, same_nulls) = unsafe {
        (
            (*info).ii_Unique,
            !(*info).ii_ExclusionOps.is_null(),
            !(*info).ii_Expressions.is_null() || !(*info).ii_Predicate.is_null(),
            (*info).ii_NullsNotDistinct,
        )
    };
    if exclusion {
        super::error::raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "cannot create an exclusion constraint on \"{}\", which has frozen rows",
                relation::name(rel)
            ),
            None,
            Some("Bring it back to the hot tier first: SELECT varve.set_tier(..., 'hot').".into()),
        );
    }
    if !unique && !complex {
        return;
    }
    let latest = snapshot::Registered::latest();
    let directory = directory::load(rel, &companion, latest.get());
    let tombstones = directory::tombstones(&companion, latest.get());
    let mut evaluator = KeyEvaluator::new(relation::oid(index));
    // SAFETY: a btree sort over the index's own columns; ended below.
    unsafe {
        let sort = unique.then(|| {
            pg_sys::tuplesort_begin_index_btree(
                rel,
                index,
                true,
                same_nulls,
                pg_sys::maintenance_work_mem,
                std::ptr::null_mut(),
                0,
            )
        });
        let mut put = |slot: *mut pg_sys::TupleTableSlot| {
            let mut tid = (*slot).tts_tid;
            if let Some((values, nulls)) = evaluator.evaluate(slot)
                && let Some(sort) = sort
            {
                pg_sys::tuplesort_putindextuplevalues(
                    sort,
                    index,
                    &mut tid,
                    values.as_ptr(),
                    nulls.as_ptr(),
                );
            }
        };
        let slot = RowSlot::new(rel);
        for segment in &directory {
            let hidden = directory::hidden_rows(segment, tombstones.get(&segment.number));
            directory::for_each_page(rel, segment, |page| {
                for row in page.rows.clone() {
                    if !hidden.get(row as usize) {
                        slot.fill(rel, page, row);
                        (*slot.0).tts_tid = super::tid::encode(super::tid::Place {
                            segment: segment.number,
                            row,
                        });
                        put(slot.0);
                    }
                }
            });
        }
        if unique {
            let row = pg_sys::MakeSingleTupleTableSlot(
                relation::tupdesc(rel),
                &raw const pg_sys::TTSOpsBufferHeapTuple,
            );
            let flags =
                pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
            let none = std::ptr::null_mut();
            let snap = latest.get();
            let scan = heap_call!(scan_begin(rel, snap, 0, none, none.cast(), flags));
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            while heap_call!(scan_getnextslot(scan, forward, row)) {
                put(row);
            }
            heap_call!(scan_end(scan));
            pg_sys::ExecDropSingleTupleTableSlot(row);
        }
        if let Some(sort) = sort {
            // Duplicates are reported here, as CREATE INDEX reports them.
            pg_sys::tuplesort_performsort(sort);
            pg_sys::tuplesort_end(sort);
        }
    }
}
