//! Sequential, sample, TID-range and ANALYZE scans: segments first, in order of their numbers, then the delta.

use super::companion::{self, Companion};
use super::directory::{self, Decoded, Directory, SegmentRef};
use super::tid::{self, Place};
use crate::heap_call;
use crate::pg::guard;
use crate::pg::relation;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;

/// Our scan descriptor: the part that the executor knows, heap's own scan of the delta, and the frozen rows.
#[repr(C)]
pub struct VarveScan {
    base: pg_sys::TableScanDescData,
    /// Heap's scan of the delta.
    pub heap: pg_sys::TableScanDesc,
    frozen: *mut Option<FrozenScan>,
}

impl VarveScan {
    /// `table_scan_update_snapshot` writes to our descriptor; heap's must follow.
    fn pass_snapshot_on(&mut self) {
        // SAFETY: heap's scan lives as long as ours.
        unsafe {
            (*self.heap).rs_snapshot = self.base.rs_snapshot;
            (*self.heap).rs_flags = self.base.rs_flags;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Position {
    /// Before the first frozen row.
    Start,
    /// Within the segments.
    Frozen,
    /// In the delta.
    Delta,
    /// Behind the last row of the delta.
    End,
}

/// The segment that a scan is at.
struct Current {
    /// Index into the directory.
    index: usize,
    segment: Rc<SegmentRef>,
    /// Rows that the snapshot does not see.
    hidden: Bitmap,
    /// The page that a row was asked for last.
    page: Option<Decoded>,
}

/// The frozen part of a scan.
pub struct FrozenScan {
    rel: pg_sys::Relation,
    companion: Companion,
    directory: Directory,
    hidden: Option<HashMap<i32, Vec<u32>>>,
    snapshot: pg_sys::Snapshot,
    position: Position,
    /// Whether the scan was started over.
    rescanned: bool,
    /// Index into the directory; meaningful in `Frozen`.
    segment: usize,
    /// Row after which to go on (forward) or before which (backward).
    row: i64,
    current: Option<Current>,
    claim: *mut pg_sys::pg_atomic_uint32,
    tid_range: Option<(u64, u64)>,
    /// Shape of the rows that the caller wants: that of its slot.
    desc: pg_sys::TupleDesc,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    pub(super) analyze: super::analyze::AnalyzeState,
    pub(super) sample: super::sample::SampleState,
}

/// Extra bytes behind heap's shared scan state: the next segment to hand to a worker.
const CLAIM_BYTES: usize = 8;

impl FrozenScan {
    fn new(
        rel: pg_sys::Relation,
        companion: Companion,
        snapshot: pg_sys::Snapshot,
        pscan: pg_sys::ParallelTableScanDesc,
    ) -> Self {
        let natts = relation::natts(relation::tupdesc(rel));
        let reading = directory::reading_snapshot(snapshot);
        let claim = if pscan.is_null() {
            std::ptr::null_mut()
        } else {
            // SAFETY: parallelscan_estimate reserved these bytes behind heap's state.
            unsafe { claim_of(pscan) }
        };
        FrozenScan {
            rel,
            companion,
            directory: directory::load(rel, &companion, reading.get()),
            hidden: None,
            snapshot,
            position: Position::Start,
            rescanned: false,
            segment: 0,
            row: -1,
            current: None,
            claim,
            tid_range: None,
            desc: relation::tupdesc(rel),
            values: vec![pg_sys::Datum::from(0usize); natts],
            nulls: vec![true; natts],
            analyze: Default::default(),
            sample: Default::default(),
        }
    }

    /// The segments that the scan's snapshot sees.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    fn rewind(&mut self) {
        self.position = Position::Start;
        self.segment = 0;
        self.row = -1;
        self.tid_range = None;
        self.analyze = Default::default();
        self.sample = Default::default();
    }

    /// Goes to a segment unless it is the one at hand; `false` when there is no such segment.
    pub(super) fn enter(&mut self, index: usize) -> bool {
        let Some(segment) = self.directory.get(index) else {
            return false;
        };
        if self.current.as_ref().is_some_and(|c| c.index == index) {
            return true;
        }
        self.current = None;
        let hidden = match &self.hidden {
            Some(h) => h,
            None => {
                let reading = directory::reading_snapshot(self.snapshot);
                self.hidden
                    .insert(directory::tombstones(&self.companion, reading.get()))
            }
        };
        let hidden = directory::hidden_rows(segment, hidden.get(&segment.number));
        self.current = Some(Current {
            index,
            segment: segment.clone(),
            hidden,
            page: None,
        });
        true
    }

    /// Rows of the segment at hand.
    pub(super) fn rows(&self) -> u32 {
        self.current.as_ref().map_or(0, |c| c.segment.header.rows)
    }

    /// Whether the snapshot sees a row of the segment at hand.
    pub(super) fn visible(&self, row: u32) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        if row >= current.segment.header.rows || current.hidden.get(row as usize) {
            return false;
        }
        match self.tid_range {
            None => true,
            Some((from, to)) => {
                let key = crate::pg::tuple::tid_key(&tid::encode(Place {
                    segment: current.segment.number,
                    row,
                }));
                (from..=to).contains(&key)
            }
        }
    }

    /// Puts a row of the segment at hand into a slot.
    pub(super) fn store(&mut self, row: u32, slot: *mut pg_sys::TupleTableSlot) {
        let Some(current) = &mut self.current else {
            return;
        };
        if !current.page.as_ref().is_some_and(|p| p.rows.contains(&row)) {
            current.page = None;
        }
        let (rel, desc) = (self.rel, self.desc);
        let page = current.page.get_or_insert_with(|| {
            let at = directory::page_of(row);
            Decoded::shaped(rel, desc, &current.segment, at, |_| true)
        });
        store_row(
            rel,
            desc,
            page,
            row,
            &mut self.values,
            &mut self.nulls,
            slot,
        );
    }

    /// Takes the shape of the caller's slot.
    pub(super) fn shape(&mut self, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: the caller's slot has a row shape.
        let desc = unsafe { (*slot).tts_tupleDescriptor };
        if desc != self.desc && !desc.is_null() {
            let natts = relation::natts(desc);
            self.desc = desc;
            self.current = None;
            self.values = vec![pg_sys::Datum::from(0usize); natts];
            self.nulls = vec![true; natts];
        }
    }

    fn next_segment_forward(&mut self) -> usize {
        if self.claim.is_null() {
            return self.segment;
        }
        // SAFETY: the claim counter lies in the scan's shared memory.
        unsafe {
            let next = std::sync::atomic::AtomicU32::from_ptr(&raw mut (*self.claim).value);
            next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as usize
        }
    }

    /// Next visible frozen row in a direction; `false` when there is none left that way.
    fn step(&mut self, forward: bool, slot: *mut pg_sys::TupleTableSlot) -> bool {
        loop {
            if self
                .current
                .as_ref()
                .is_none_or(|c| c.index != self.segment)
            {
                let index = self.segment;
                if !self.enter(index) {
                    return false;
                }
                self.row = if forward { -1 } else { i64::from(self.rows()) };
            }
            let rows = i64::from(self.rows());
            let mut row = if forward { self.row + 1 } else { self.row - 1 };
            while row >= 0 && row < rows {
                if self.visible(row as u32) {
                    self.row = row;
                    self.store(row as u32, slot);
                    return true;
                }
                row += if forward { 1 } else { -1 };
            }
            if forward {
                self.segment = if self.claim.is_null() {
                    self.segment + 1
                } else {
                    self.next_segment_forward()
                };
            } else if self.segment == 0 {
                return false;
            } else {
                self.segment -= 1;
            }
            pgrx::check_for_interrupts!();
        }
    }
}

/// Forms a heap tuple from a decoded row and stores it in a slot of whatever kind.
pub fn store_row(
    rel: pg_sys::Relation,
    desc: pg_sys::TupleDesc,
    decoded: &Decoded,
    row: u32,
    values: &mut [pg_sys::Datum],
    nulls: &mut [bool],
    slot: *mut pg_sys::TupleTableSlot,
) {
    decoded.row(row, values, nulls);
    let tid = tid::encode(Place {
        segment: decoded.segment.number,
        row,
    });
    // SAFETY: values and nulls have one entry for each attribute; the slot belongs to this relation. The tuple is
    // formed in the slot's context, and the slot frees it.
    unsafe {
        let slot_is_heap = std::ptr::eq((*slot).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple);
        if let Some(clear) = (*(*slot).tts_ops).clear {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| clear(slot));
        }
        let old = pg_sys::MemoryContextSwitchTo((*slot).tts_mcxt);
        let tuple = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
        pg_sys::MemoryContextSwitchTo(old);
        dress(
            rel,
            tuple,
            tid,
            decoded.segment.xmin,
            decoded.segment.frozen,
        );
        if slot_is_heap {
            let buffer_slot = slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
            (*buffer_slot).base.tuple = tuple;
            (*buffer_slot).base.off = 0;
            (*slot).tts_flags = ((*slot).tts_flags & !(pg_sys::TTS_FLAG_EMPTY as u16))
                | pg_sys::TTS_FLAG_SHOULDFREE as u16;
            (*slot).tts_nvalid = 0;
        } else {
            pg_sys::ExecForceStoreHeapTuple(tuple, slot, true);
        }
        (*slot).tts_tid = tid;
        (*slot).tts_tableOid = (*rel).rd_id;
    }
}

/// Gives a formed tuple the header of a row that nobody has touched since it was frozen.
///
/// # Safety
/// `tuple` was just formed and is ours to write.
pub unsafe fn dress(
    rel: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
    tid: pg_sys::ItemPointerData,
    xmin: pg_sys::TransactionId,
    frozen: bool,
) {
    // SAFETY: by contract.
    unsafe {
        (*tuple).t_self = tid;
        (*tuple).t_tableOid = (*rel).rd_id;
        let head = (*tuple).t_data;
        (*head).t_choice.t_heap.t_xmin = xmin;
        (*head).t_choice.t_heap.t_xmax = pg_sys::InvalidTransactionId;
        (*head).t_choice.t_heap.t_field3.t_cid = 0;
        (*head).t_ctid = tid;
        let bits = if frozen {
            pg_sys::HEAP_XMIN_FROZEN
        } else {
            pg_sys::HEAP_XMIN_COMMITTED
        };
        (*head).t_infomask = ((*head).t_infomask & !(pg_sys::HEAP_XACT_MASK as u16))
            | (bits | pg_sys::HEAP_XMAX_INVALID) as u16;
    }
}

/// Bytes of heap's shared scan state, rounded up.
fn heap_parallel_size(rel: pg_sys::Relation) -> usize {
    heap_call!(parallelscan_estimate(rel)).next_multiple_of(8)
}

/// # Safety
/// `pscan` was laid out by our `parallelscan_estimate`.
unsafe fn claim_of(pscan: pg_sys::ParallelTableScanDesc) -> *mut pg_sys::pg_atomic_uint32 {
    let offset = size_of::<pg_sys::ParallelBlockTableScanDescData>().next_multiple_of(8);
    // SAFETY: by contract.
    unsafe { pscan.cast::<u8>().add(offset).cast() }
}

/// The scan behind a descriptor of ours.
///
/// # Safety
/// `scan` came from [`scan_begin`].
pub unsafe fn ours<'a>(
    scan: pg_sys::TableScanDesc,
) -> (&'a mut VarveScan, Option<&'a mut FrozenScan>) {
    // SAFETY: by contract; `frozen` points to a cell that lives as long as the scan's memory context.
    unsafe {
        let scan = &mut *scan.cast::<VarveScan>();
        let frozen = (*scan.frozen).as_mut();
        (scan, frozen)
    }
}

pub unsafe extern "C-unwind" fn scan_begin(
    rel: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    nkeys: i32,
    key: *mut pg_sys::ScanKeyData,
    pscan: pg_sys::ParallelTableScanDesc,
    flags: u32,
) -> pg_sys::TableScanDesc {
    guard::entry(|| {
        // The caller's temporary snapshot is released by heap's scan_end.
        let heap = heap_call!(scan_begin(rel, snapshot, nkeys, key, pscan, flags));
        // A TID scan looks single rows up and never asks for the next one.
        let frozen = if flags & pg_sys::ScanOptions::SO_TYPE_TIDSCAN != 0 {
            None
        } else {
            companion::of(rel).map(|c| FrozenScan::new(rel, c, snapshot, pscan))
        };
        // SAFETY: the descriptor is allocated like heap's, in the caller's context; the cell is dropped with that context
        // or emptied by scan_end, whichever comes first.
        unsafe {
            let cell = pgrx::PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(frozen);
            let scan: *mut VarveScan = pg_sys::palloc0(size_of::<VarveScan>()).cast();
            (*scan).base = *heap;
            (*scan).heap = heap;
            (*scan).frozen = cell;
            scan.cast()
        }
    })
}

pub unsafe extern "C-unwind" fn scan_end(scan: pg_sys::TableScanDesc) {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back.
        unsafe {
            let (scan, _) = ours(scan);
            scan.pass_snapshot_on();
            *scan.frozen = None;
            let heap = scan.heap;
            heap_call!(scan_end(heap));
            pg_sys::pfree(std::ptr::from_mut(scan).cast());
        }
    })
}

pub unsafe extern "C-unwind" fn scan_rescan(
    scan: pg_sys::TableScanDesc,
    key: *mut pg_sys::ScanKeyData,
    set_params: bool,
    allow_strat: bool,
    allow_sync: bool,
    allow_pagemode: bool,
) {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        heap_call!(scan_rescan(
            heap,
            key,
            set_params,
            allow_strat,
            allow_sync,
            allow_pagemode
        ));
        if let Some(f) = frozen {
            f.rescanned |= f.position != Position::Start;
            f.rewind();
        }
    })
}

pub unsafe extern "C-unwind" fn scan_getnextslot(
    scan: pg_sys::TableScanDesc,
    direction: pg_sys::ScanDirection::Type,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        next(frozen, direction, slot, || {
            heap_call!(scan_getnextslot(heap, direction, slot))
        })
    })
}

fn next(
    frozen: Option<&mut FrozenScan>,
    direction: pg_sys::ScanDirection::Type,
    slot: *mut pg_sys::TupleTableSlot,
    mut delta: impl FnMut() -> bool,
) -> bool {
    let Some(f) = frozen else {
        return delta();
    };
    f.shape(slot);
    let forward = direction >= 0;
    loop {
        match (f.position, forward) {
            (Position::Start, true) => {
                // A worker asks for its first segment here and not in scan_begin or scan_rescan: the leader rescans
                // before the shared counter is set back.
                f.segment = f.next_segment_forward();
                f.position = Position::Frozen;
            }
            (Position::Start, false) => {
                // SAFETY: the slot belongs to the caller.
                unsafe { clear(slot) };
                return false;
            }
            (Position::Frozen, _) => {
                if f.step(forward, slot) {
                    crate::pg::snapshot::settle_dirty(f.snapshot);
                    return true;
                }
                // Nothing stays decoded behind the last segment, since an Append over many chunks would hold one of
                // each; but a scan that is run again and again keeps it.
                if !f.rescanned {
                    f.current = None;
                }
                f.position = if forward {
                    Position::Delta
                } else {
                    Position::Start
                };
                if !forward {
                    f.segment = 0;
                    f.row = -1;
                }
            }
            (Position::Delta | Position::End, _) => {
                if f.position == Position::End && forward {
                    // SAFETY: the slot belongs to the caller.
                    unsafe { clear(slot) };
                    return false;
                }
                if delta() {
                    f.position = Position::Delta;
                    return true;
                }
                if forward {
                    f.position = Position::End;
                    return false;
                }
                f.position = Position::Frozen;
                f.segment = f.directory.len().saturating_sub(1);
                f.current = None;
            }
        }
    }
}

/// # Safety
/// `slot` is a valid slot.
unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: by contract.
    unsafe {
        if let Some(clear) = (*(*slot).tts_ops).clear {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| clear(slot));
        }
    }
}

pub unsafe extern "C-unwind" fn scan_set_tidrange(
    scan: pg_sys::TableScanDesc,
    mintid: pg_sys::ItemPointer,
    maxtid: pg_sys::ItemPointer,
) {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor and valid item pointers.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        if let Some(f) = frozen {
            f.rewind();
            // SAFETY: as above.
            f.tid_range = Some(unsafe {
                (
                    crate::pg::tuple::tid_key(&*mintid),
                    crate::pg::tuple::tid_key(&*maxtid),
                )
            });
        }
        heap_call!(scan_set_tidrange(heap, mintid, maxtid));
    })
}

pub unsafe extern "C-unwind" fn scan_getnextslot_tidrange(
    scan: pg_sys::TableScanDesc,
    direction: pg_sys::ScanDirection::Type,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        next(frozen, direction, slot, || {
            heap_call!(scan_getnextslot_tidrange(heap, direction, slot))
        })
    })
}

pub unsafe extern "C-unwind" fn parallelscan_estimate(rel: pg_sys::Relation) -> pg_sys::Size {
    guard::entry(|| heap_parallel_size(rel) + CLAIM_BYTES)
}

pub unsafe extern "C-unwind" fn parallelscan_initialize(
    rel: pg_sys::Relation,
    pscan: pg_sys::ParallelTableScanDesc,
) -> pg_sys::Size {
    guard::entry(|| {
        heap_call!(parallelscan_initialize(rel, pscan));
        // SAFETY: the bytes were reserved by parallelscan_estimate.
        unsafe { (*claim_of(pscan)).value = 0 };
        heap_parallel_size(rel) + CLAIM_BYTES
    })
}

pub unsafe extern "C-unwind" fn parallelscan_reinitialize(
    rel: pg_sys::Relation,
    pscan: pg_sys::ParallelTableScanDesc,
) {
    guard::entry(|| {
        heap_call!(parallelscan_reinitialize(rel, pscan));
        // SAFETY: as above.
        unsafe { (*claim_of(pscan)).value = 0 };
    })
}

pub unsafe extern "C-unwind" fn scan_bitmap_next_block(
    scan: pg_sys::TableScanDesc,
    tbmres: *mut pg_sys::TBMIterateResult,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back. Only relations without frozen rows get bitmap plans.
        let (scan, _) = unsafe { ours(scan) };
        let heap = scan.heap;
        scan.pass_snapshot_on();
        heap_call!(scan_bitmap_next_block(heap, tbmres))
    })
}

pub unsafe extern "C-unwind" fn scan_bitmap_next_tuple(
    scan: pg_sys::TableScanDesc,
    tbmres: *mut pg_sys::TBMIterateResult,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    guard::entry(|| {
        // SAFETY: as above.
        let (scan, _) = unsafe { ours(scan) };
        let heap = scan.heap;
        heap_call!(scan_bitmap_next_tuple(heap, tbmres, slot))
    })
}
