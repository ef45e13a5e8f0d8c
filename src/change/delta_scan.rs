//! The rows of a table that lie in no segment, one after the other, past the executor.

use crate::heap_call;
use crate::pg::relation;
use crate::pg::tuple::{self, slot_values};
use pgrx::pg_sys;

/// Goes over a table's rows that lie in no segment, in the order of their places, as a snapshot sees them.
pub struct DeltaScan {
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    natts: usize,
}

/// Such a row.
pub struct DeltaRow<'a> {
    /// Where it lies.
    pub place: u64,
    /// Its header.
    pub header: &'a pg_sys::HeapTupleHeaderData,
    slot: *mut pg_sys::TupleTableSlot,
    natts: usize,
}

impl DeltaRow<'_> {
    /// Its values, which last until the next row.
    pub fn values(&self) -> (&[pg_sys::Datum], &[bool]) {
        // SAFETY: the slot holds the row.
        unsafe { slot_values(self.slot, self.natts) }
    }
}

impl DeltaScan {
    /// Begins.
    pub fn new(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Self {
        let desc = relation::tupdesc(rel);
        // SAFETY: heap's own scan of an open table, from its first page on.
        unsafe {
            let none = std::ptr::null_mut();
            let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
                | pg_sys::ScanOptions::SO_ALLOW_STRAT
                | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
            DeltaScan {
                slot: pg_sys::MakeSingleTupleTableSlot(
                    desc,
                    &raw const pg_sys::TTSOpsBufferHeapTuple,
                ),
                scan: heap_call!(scan_begin(rel, snapshot, 0, none, none.cast(), flags)),
                natts: relation::natts(desc),
            }
        }
    }

    /// The next row.
    pub fn next(&mut self) -> Option<DeltaRow<'_>> {
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        if !heap_call!(scan_getnextslot(self.scan, forward, self.slot)) {
            return None;
        }
        let mut free = false;
        // SAFETY: the slot holds a row as it lies in its buffer.
        unsafe {
            let row = pg_sys::ExecFetchSlotHeapTuple(self.slot, false, &mut free);
            Some(DeltaRow {
                place: tuple::tid_key(&(*self.slot).tts_tid),
                header: &*(*row).t_data,
                slot: self.slot,
                natts: self.natts,
            })
        }
    }
}

impl Drop for DeltaScan {
    fn drop(&mut self) {
        // After an error the resource owner lets go of what the scan holds.
        if !std::thread::panicking() {
            // SAFETY: begun by `new`.
            unsafe {
                heap_call!(scan_end(self.scan));
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            }
        }
    }
}
