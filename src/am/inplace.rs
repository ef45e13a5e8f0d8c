//! `varve.debug_freeze = commit`: every row that a transaction wrote to a varve table is frozen as part of its commit.
//!
//! A setting for tests. The rows are deleted from the delta and written to segments by the writing transaction itself,
//! as ordinary MVCC rows, so that whoever sees the transaction sees the segments. The deleted versions are marked as
//! moved, and the segment keeps where each row lay, so that concurrent sessions follow (see `chain`).

use super::append::Appender;
use super::companion;
use super::directory;
use super::tombstone;
use super::unique;
use super::writer::{Layout, SegmentBuilder};
use crate::heap_call;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{snapshot, tuple};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::BTreeSet;
use varve_core::paged::Effort;

thread_local! {
    /// Tables written by the running transaction.
    static WRITTEN: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

/// Notes that the transaction writes to a varve table.
pub fn remember(rel: pg_sys::Relation) {
    let form = relation::form(rel);
    let oid = if form.relrewrite == pg_sys::InvalidOid {
        relation::oid(rel)
    } else {
        form.relrewrite
    };
    WRITTEN.with_borrow_mut(|w| w.insert(oid.to_u32()));
}

/// Forgets the tables of a transaction that is over.
pub fn forget() {
    WRITTEN.with_borrow_mut(BTreeSet::clear);
}

/// Freezes what the transaction wrote; called before it commits.
pub fn freeze_written() {
    let tables = WRITTEN.with_borrow_mut(std::mem::take);
    for oid in tables {
        freeze_table(pg_sys::Oid::from_u32(oid));
    }
}

fn has_exclusion(rel: pg_sys::Relation) -> bool {
    unique::index_oids(rel).into_iter().any(|oid| {
        let index = OpenRel::index(oid, pg_sys::AccessShareLock);
        // SAFETY: an open index has its pg_index row.
        unsafe { (*(*index.as_ptr()).rd_index).indisexclusion }
    })
}

fn freeze_table(oid: pg_sys::Oid) {
    let Some(table) = OpenRel::try_open(oid, pg_sys::RowExclusiveLock) else {
        return;
    };
    let rel = table.as_ptr();
    if Some(relation::form(rel).relam) != relation::varve_am() || has_exclusion(rel) {
        return;
    }
    // SAFETY: as between two statements; the snapshot is popped below.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::UpdateActiveSnapshotCommandId();
    }
    let gathered = gather(rel);
    if !gathered.is_empty() {
        store(rel, gathered);
    }
    // SAFETY: pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
}

type Gathered = Vec<(SegmentBuilder, Vec<pg_sys::ItemPointerData>)>;

/// The rows of the delta that this transaction wrote and that nobody else has locked. A row that it has thawed and left as
/// it was (to lock it, say) is none that it wrote.
fn gather(rel: pg_sys::Relation) -> Gathered {
    let thawed = companion::of(rel)
        .map(|c| tombstone::own_targets(&c))
        .unwrap_or_default();
    let desc = relation::tupdesc(rel);
    let layout = Layout::of(rel, &[], effort(rel));
    let mut done: Gathered = Vec::new();
    // SAFETY: heap's own scan under the active snapshot; the slot is dropped after it.
    unsafe {
        let snap = pg_sys::GetActiveSnapshot();
        let slot = pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsBufferHeapTuple);
        let none = std::ptr::null_mut();
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let scan = heap_call!(scan_begin(rel, snap, 0, none, none.cast(), flags));
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        while heap_call!(scan_getnextslot(scan, forward, slot)) {
            let mut free = false;
            let row = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut free);
            let head = &*(*row).t_data;
            if !pg_sys::TransactionIdIsCurrentTransactionId(tuple::raw_xmin(head))
                || locked(head)
                || thawed.contains(&tuple::tid_key(&(*slot).tts_tid))
            {
                continue;
            }
            if done.last().is_none_or(|(b, _)| b.full()) {
                done.push((SegmentBuilder::new(desc, layout.clone(), true), Vec::new()));
            }
            pg_sys::slot_getsomeattrs_int(slot, (*desc).natts);
            let natts = relation::natts(desc);
            if let Some((builder, tids)) = done.last_mut() {
                builder.push(
                    std::slice::from_raw_parts((*slot).tts_values, natts),
                    std::slice::from_raw_parts((*slot).tts_isnull, natts),
                    tuple::tid_key(&(*slot).tts_tid),
                );
                tids.push((*slot).tts_tid);
            }
        }
        heap_call!(scan_end(scan));
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
    done
}

/// What new segments are encoded for: a cold chunk stays cold. Damage is for those to find who read the rows.
fn effort(rel: pg_sys::Relation) -> Effort {
    let latest = snapshot::Registered::latest();
    companion::of(rel)
        .and_then(|c| directory::try_load(&c, latest.get()).ok())
        .and_then(|segments| directory::effort(&segments))
        .unwrap_or(Effort::Fast)
}

/// Whether somebody else may hold a lock on the row.
fn locked(head: &pg_sys::HeapTupleHeaderData) -> bool {
    let mask = u32::from(head.t_infomask);
    if mask & pg_sys::HEAP_XMAX_INVALID != 0 {
        return false;
    }
    // SAFETY: heap fields of a heap tuple.
    let xmax = unsafe { head.t_choice.t_heap.t_xmax };
    mask & pg_sys::HEAP_XMAX_IS_MULTI != 0
        || (xmax != pg_sys::InvalidTransactionId
            // SAFETY: transaction status look-up.
            && !unsafe { pg_sys::TransactionIdIsCurrentTransactionId(xmax) })
}

fn store(rel: pg_sys::Relation, gathered: Gathered) {
    let mut appender = Appender::begin(rel);
    for (mut builder, tids) in gathered {
        appender.add(builder.finish());
        for tid in &tids {
            delete(rel, tid);
        }
    }
    appender.end();
}

fn delete(rel: pg_sys::Relation, tid: &pg_sys::ItemPointerData) {
    let mut at = *tid;
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: our own row; nobody else can see it.
    let result = unsafe {
        pg_sys::heap_delete(
            rel,
            &mut at,
            pg_sys::GetCurrentCommandId(true),
            std::ptr::null_mut(),
            true,
            &mut failure,
            true,
        )
    };
    if result != pg_sys::TM_Result::TM_Ok {
        pgrx::error!("varve.debug_freeze could not take a row out of the delta");
    }
}
