//! The delta of a relation with frozen rows: an ordinary heap, read by heap's own scan.

use crate::heap_call;
use pgrx::pg_sys;

/// A sequential scan of the delta. Ended by the executor's end of the node, or with the transaction.
pub struct Delta {
    rel: pg_sys::Relation,
    scan: pg_sys::TableScanDesc,
    untouched: bool,
}

impl Delta {
    /// Starts a scan under a snapshot; with `shared`, one that shares the blocks with other processes.
    pub fn begin(
        rel: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        shared: pg_sys::ParallelTableScanDesc,
    ) -> Self {
        let mut flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
            | pg_sys::ScanOptions::SO_ALLOW_STRAT
            | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        if shared.is_null() {
            flags |= pg_sys::ScanOptions::SO_ALLOW_SYNC;
        }
        let none = std::ptr::null_mut();
        let scan = heap_call!(scan_begin(rel, snapshot, 0, none, shared, flags));
        Delta {
            rel,
            scan,
            untouched: true,
        }
    }

    /// Whether nothing was asked of it since it began, or was started over.
    pub fn untouched(&self) -> bool {
        self.untouched
    }

    /// Puts the next row, forward or backward, into a slot of heap's kind; `false` at the end.
    pub fn next(&mut self, slot: *mut pg_sys::TupleTableSlot, forward: bool) -> bool {
        let direction = if forward {
            pg_sys::ScanDirection::ForwardScanDirection
        } else {
            pg_sys::ScanDirection::BackwardScanDirection
        };
        self.untouched = false;
        let scan = self.scan;
        let found = heap_call!(scan_getnextslot(scan, direction, slot));
        if found {
            // SAFETY: a slot that holds a row of the relation.
            unsafe { (*slot).tts_tableOid = (*self.rel).rd_id };
        }
        found
    }

    /// Starts over.
    pub fn rescan(&mut self) {
        self.untouched = true;
        let (scan, none) = (self.scan, std::ptr::null_mut());
        heap_call!(scan_rescan(scan, none, false, false, false, false));
    }

    /// Ends the scan.
    pub fn end(self) {
        let scan = self.scan;
        heap_call!(scan_end(scan));
    }
}

/// Bytes of shared memory that a shared scan takes.
pub fn shared_size(rel: pg_sys::Relation) -> usize {
    heap_call!(parallelscan_estimate(rel)).next_multiple_of(8)
}

/// Lays out the shared memory of a scan.
///
/// # Safety
/// `shared` has room for [`shared_size`] bytes.
pub unsafe fn initialize_shared(
    rel: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    shared: pg_sys::ParallelTableScanDesc,
) {
    let size = heap_call!(parallelscan_initialize(rel, shared));
    // Every process reads under the snapshot that it restores for its executor; none is stored.
    let _ = snapshot;
    // SAFETY: by contract.
    unsafe {
        (*shared).phs_snapshot_off = size;
        (*shared).phs_snapshot_any = false;
    }
}

/// Sets the shared memory of a scan back to its beginning.
pub fn reinitialize_shared(rel: pg_sys::Relation, shared: pg_sys::ParallelTableScanDesc) {
    heap_call!(parallelscan_reinitialize(rel, shared));
}
