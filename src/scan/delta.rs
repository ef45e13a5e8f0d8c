//! The delta of a relation with frozen rows: an ordinary heap, read by heap's own scan.
//!
//! The inner side of a nested loop reads it again for every outer row. From the second time on its rows are kept in memory,
//! sorted by the first column of the segments' order, as far as `work_mem` goes: those that cannot have the value are not
//! looked at. The snapshot stays the same, and so do the rows; and they leave in heap's order, since a cursor that is rewound
//! must meet them as it did before.

use super::eval::{Resolved, probe_order};
use super::narrow::Narrow;
use crate::am::zone::{Probe, ProbeKind, of_attribute};
use crate::heap_call;
use crate::pg::relation;
use pgrx::pg_sys;

/// A sequential scan of the delta. Ended by the executor's end of the node, or with the transaction.
pub struct Delta {
    rel: pg_sys::Relation,
    scan: pg_sys::TableScanDesc,
    shared: bool,
    /// Nothing was asked for since it began, or was started over.
    untouched: bool,
    /// How often it was started over.
    again: u32,
    /// Heap's scan was not started over yet.
    behind: bool,
    keeping: Keeping,
    /// Whether heap's scan has found a row since it began.
    found: bool,
    /// There is no row.
    empty: bool,
}

enum Keeping {
    /// Not yet.
    Not,
    Kept(Kept),
    /// There are too many.
    Never,
}

/// Rows in memory.
struct Kept {
    memory: pg_sys::MemoryContext,
    /// By value; each with its place among heap's rows.
    rows: Vec<(Probe, (u32, pg_sys::HeapTuple))>,
    /// Those to deliver, in heap's order.
    window: Vec<(u32, pg_sys::HeapTuple)>,
    /// The place in the window of the row delivered last; the one beside it before and after all of them.
    at: isize,
    /// Whether this run of the scan reads them.
    in_use: bool,
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
            shared: !shared.is_null(),
            untouched: true,
            again: 0,
            behind: false,
            keeping: Keeping::Not,
            found: false,
            empty: false,
        }
    }

    /// Whether nothing was asked of it since it began, or was started over.
    pub fn untouched(&self) -> bool {
        self.untouched
    }

    /// Before the first row is asked for: the conditions on rows, and their values, as far as they help to leave rows out.
    /// Rows are read through `slot`.
    pub fn expect(
        &mut self,
        narrow: Option<(&Narrow, &[Resolved])>,
        slot: *mut pg_sys::TupleTableSlot,
    ) {
        if let Keeping::Kept(kept) = &mut self.keeping {
            kept.in_use = false;
        }
        let again = self.again > 0 && !self.shared && !self.empty;
        let Some((narrow, values)) = narrow.filter(|_| again) else {
            return;
        };
        if matches!(self.keeping, Keeping::Not) {
            self.keeping = match self.keep(narrow.attnum, slot) {
                Some(kept) => Keeping::Kept(kept),
                None => Keeping::Never,
            };
        }
        if let Keeping::Kept(kept) = &mut self.keeping {
            let found = kept.rows.get(narrow.window(&kept.rows, values));
            kept.window.clear();
            kept.window
                .extend(found.unwrap_or_default().iter().map(|(_, row)| *row));
            kept.window.sort_unstable_by_key(|(place, _)| *place);
            kept.at = -1;
            kept.in_use = true;
        }
    }

    /// Reads all rows into memory; `None` where they are too many.
    fn keep(&mut self, attnum: i16, slot: *mut pg_sys::TupleTableSlot) -> Option<Kept> {
        let attr = relation::attribute(relation::tupdesc(self.rel), attnum as usize - 1);
        let kind: ProbeKind = of_attribute(attr).1?;
        // SAFETY: a context below the slot's, which lives as long as the query.
        let memory = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                (*slot).tts_mcxt,
                c"varve delta".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        let mut rows: Vec<(Probe, (u32, pg_sys::HeapTuple))> = Vec::new();
        let mut fits = true;
        // Probes of bytes lie outside of the context.
        let mut outside = 0;
        self.start_over();
        while fits && self.next_of_heap(slot, true) {
            pgrx::check_for_interrupts!();
            // SAFETY: the slot holds a row of the relation; its value lives until the next one is asked for, and is copied.
            unsafe {
                let mut null = true;
                let value = pg_sys::slot_getattr(slot, i32::from(attnum), &mut null);
                // NULL satisfies no comparison.
                if !null {
                    let before = pg_sys::MemoryContextSwitchTo(memory);
                    let probe = kind.probe(value);
                    if let Probe::Bytes(bytes) = &probe {
                        outside += bytes.len();
                    }
                    let row = (rows.len() as u32, pg_sys::ExecCopySlotHeapTuple(slot));
                    rows.push((probe, row));
                    pg_sys::MemoryContextSwitchTo(before);
                }
                let taken = pg_sys::MemoryContextMemAllocated(memory, true)
                    + rows.capacity() * size_of::<(Probe, (u32, pg_sys::HeapTuple))>()
                    + outside;
                fits = taken <= pg_sys::work_mem as usize * 1024;
            }
        }
        if !fits {
            // SAFETY: made above.
            unsafe { pg_sys::MemoryContextDelete(memory) };
            self.behind = true;
            return None;
        }
        rows.sort_by(|(a, _), (b, _)| probe_order(a, b));
        Some(Kept {
            memory,
            window: Vec::new(),
            at: -1,
            rows,
            in_use: false,
        })
    }

    /// Puts the next row, forward or backward, into a slot of heap's kind; `false` at the end.
    pub fn next(&mut self, slot: *mut pg_sys::TupleTableSlot, forward: bool) -> bool {
        self.untouched = false;
        let found = match &mut self.keeping {
            Keeping::Kept(kept) if kept.in_use => kept.next(slot, forward),
            _ if self.empty => false,
            _ => {
                self.start_over();
                let found = self.next_of_heap(slot, forward);
                self.found |= found;
                // Processes that share a scan see a part of it each.
                self.empty = !self.found && forward && !self.shared;
                found
            }
        };
        if found {
            // SAFETY: a slot that holds a row of the relation.
            unsafe { (*slot).tts_tableOid = (*self.rel).rd_id };
        }
        found
    }

    fn next_of_heap(&mut self, slot: *mut pg_sys::TupleTableSlot, forward: bool) -> bool {
        let direction = if forward {
            pg_sys::ScanDirection::ForwardScanDirection
        } else {
            pg_sys::ScanDirection::BackwardScanDirection
        };
        let scan = self.scan;
        heap_call!(scan_getnextslot(scan, direction, slot))
    }

    /// Starts over.
    pub fn rescan(&mut self) {
        self.untouched = true;
        self.again += 1;
        self.behind = true;
    }

    /// Brings heap's scan to its beginning, where it is to be.
    fn start_over(&mut self) {
        if std::mem::take(&mut self.behind) {
            let (scan, none) = (self.scan, std::ptr::null_mut());
            heap_call!(scan_rescan(scan, none, false, false, false, false));
        }
    }

    /// Ends the scan.
    pub fn end(self) {
        let scan = self.scan;
        heap_call!(scan_end(scan));
        if let Keeping::Kept(kept) = self.keeping {
            // SAFETY: made by `keep`.
            unsafe { pg_sys::MemoryContextDelete(kept.memory) };
        }
    }
}

impl Kept {
    fn next(&mut self, slot: *mut pg_sys::TupleTableSlot, forward: bool) -> bool {
        let step = if forward { 1 } else { -1 };
        self.at = (self.at + step).clamp(-1, self.window.len() as isize);
        let place = usize::try_from(self.at).ok();
        let Some((_, row)) = place.and_then(|place| self.window.get(place)) else {
            return false;
        };
        // SAFETY: our copy of a row of the relation; the slot makes another.
        unsafe {
            pg_sys::ExecForceStoreHeapTuple(*row, slot, false);
            (*slot).tts_tid = (**row).t_self;
        }
        true
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
