//! INSERT, UPDATE, DELETE and row locks: frozen rows are thawed, then heap does its work on the thawed row.

use super::chain::{self, Along, End};
use super::companion::{self, Companion};
use super::share::{self, Shared};
use super::thaw::{self, Thawed};
use super::tid::{self, Place};
use super::{lookup, tombstone, unique};
use crate::heap_call;
use crate::pg::guard;
use crate::pg::snapshot as snap;
use pgrx::pg_sys;
use pgrx::pg_sys::{TM_Result, XLTW_Oper};

/// The relation's companion, in-place freezes of others included.
pub fn frozen_part(rel: pg_sys::Relation) -> Option<Companion> {
    if crate::settings::debug_freeze_on_commit() {
        // SAFETY: inside a transaction; open relations are rebuilt in place.
        unsafe { pg_sys::AcceptInvalidationMessages() };
    }
    companion::of(rel)
}

fn remember(rel: pg_sys::Relation) {
    if crate::settings::debug_freeze_on_commit() {
        super::inplace::remember(rel);
    }
}

pub unsafe extern "C-unwind" fn tuple_insert(
    rel: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    cid: pg_sys::CommandId,
    options: i32,
    bistate: *mut pg_sys::BulkInsertStateData,
) {
    guard::entry(|| {
        if let Some(c) = frozen_part(rel) {
            unique::thaw_holders(rel, &c, slot, cid, false);
        }
        remember(rel);
        heap_call!(tuple_insert(rel, slot, cid, options, bistate));
    })
}

pub unsafe extern "C-unwind" fn tuple_insert_speculative(
    rel: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    cid: pg_sys::CommandId,
    options: i32,
    bistate: *mut pg_sys::BulkInsertStateData,
    token: u32,
) {
    guard::entry(|| {
        // The executor has looked at the arbiter, frozen rows included (see `lookup`): what is found here is a
        // conflict with another unique index.
        if let Some(c) = frozen_part(rel) {
            unique::thaw_holders(rel, &c, slot, cid, true);
        }
        remember(rel);
        heap_call!(tuple_insert_speculative(
            rel, slot, cid, options, bistate, token
        ));
    })
}

pub unsafe extern "C-unwind" fn multi_insert(
    rel: pg_sys::Relation,
    slots: *mut *mut pg_sys::TupleTableSlot,
    nslots: i32,
    cid: pg_sys::CommandId,
    options: i32,
    bistate: *mut pg_sys::BulkInsertStateData,
) {
    guard::entry(|| {
        if let Some(c) = frozen_part(rel) {
            for i in 0..nslots as usize {
                // SAFETY: the caller passes nslots slots.
                let slot = unsafe { *slots.add(i) };
                unique::thaw_holders(rel, &c, slot, cid, false);
            }
        }
        remember(rel);
        heap_call!(multi_insert(rel, slots, nslots, cid, options, bistate));
    })
}

/// Where a writer's item pointer leads.
struct Target {
    tid: pg_sys::ItemPointerData,
    /// The command id to change the row with. A command that ran within the caller's (in a trigger) may have thawed it;
    /// heap then has to see that row as one of the past, and to say whether it was changed too.
    cid: pg_sys::CommandId,
    via: Option<(Companion, Place, tombstone::Tombstone)>,
}

enum Found {
    Row(Target),
    WouldBlock,
}

/// Resolves an item pointer to a row in the delta, thawing it where it is frozen.
fn resolve(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
    cid: pg_sys::CommandId,
    policy: thaw::Policy,
    purpose: thaw::Purpose,
) -> Found {
    let Some(place) = tid::decode(tid) else {
        return Found::Row(Target {
            tid: *tid,
            cid,
            via: None,
        });
    };
    let Some(c) = frozen_part(rel) else {
        super::error::corrupt(rel, place.segment, "there is no such segment")
    };
    match thaw::thaw(rel, &c, place, cid, policy, purpose) {
        Thawed::At(to, found) => Found::Row(Target {
            tid: to,
            // SAFETY: a transaction status look-up.
            cid: if unsafe { pg_sys::TransactionIdIsCurrentTransactionId(found.xmin) } {
                cid.max(found.cid + 1)
            } else {
                cid
            },
            via: Some((c, place, found)),
        }),
        Thawed::WouldBlock => Found::WouldBlock,
    }
}

impl Target {
    /// Called after heap has changed the row.
    fn changed(
        &self,
        rel: pg_sys::Relation,
        result: TM_Result::Type,
        snapshot: pg_sys::Snapshot,
        cid: pg_sys::CommandId,
    ) {
        if result != TM_Result::TM_Ok {
            return;
        }
        match &self.via {
            Some((c, place, found)) => thaw::claim(c, *place, found, snapshot, cid),
            None => thaw::claim_by_tid(rel, &self.tid, snapshot, cid),
        }
    }
}

pub unsafe extern "C-unwind" fn tuple_delete(
    rel: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    cid: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    tmfd: *mut pg_sys::TM_FailureData,
    changing_part: bool,
) -> TM_Result::Type {
    guard::entry(|| {
        // SAFETY: the executor passes a valid item pointer.
        let Found::Row(mut target) = resolve(
            rel,
            unsafe { &*tid },
            cid,
            thaw::BLOCK,
            XLTW_Oper::XLTW_Delete,
        ) else {
            return TM_Result::TM_WouldBlock;
        };
        remember(rel);
        let (at, cid) = (&raw mut target.tid, target.cid);
        let result = heap_call!(tuple_delete(
            rel,
            at,
            cid,
            snapshot,
            crosscheck,
            wait,
            tmfd,
            changing_part
        ));
        target.changed(rel, result, snapshot, cid);
        result
    })
}

pub unsafe extern "C-unwind" fn tuple_update(
    rel: pg_sys::Relation,
    otid: pg_sys::ItemPointer,
    slot: *mut pg_sys::TupleTableSlot,
    cid: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    tmfd: *mut pg_sys::TM_FailureData,
    lockmode: *mut pg_sys::LockTupleMode::Type,
    update_indexes: *mut pg_sys::TU_UpdateIndexes::Type,
) -> TM_Result::Type {
    guard::entry(|| {
        // SAFETY: the executor passes a valid item pointer.
        let Found::Row(mut target) = resolve(
            rel,
            unsafe { &*otid },
            cid,
            thaw::BLOCK,
            XLTW_Oper::XLTW_Update,
        ) else {
            return TM_Result::TM_WouldBlock;
        };
        // The row's own old key is in the delta now, so only other rows can be found here.
        if let Some(c) = frozen_part(rel) {
            unique::thaw_holders(rel, &c, slot, cid, false);
        }
        remember(rel);
        let (at, cid) = (&raw mut target.tid, target.cid);
        let result = heap_call!(tuple_update(
            rel,
            at,
            slot,
            cid,
            snapshot,
            crosscheck,
            wait,
            tmfd,
            lockmode,
            update_indexes
        ));
        target.changed(rel, result, snapshot, cid);
        result
    })
}

pub unsafe extern "C-unwind" fn tuple_lock(
    rel: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    cid: pg_sys::CommandId,
    mode: pg_sys::LockTupleMode::Type,
    wait_policy: pg_sys::LockWaitPolicy::Type,
    flags: u8,
    tmfd: *mut pg_sys::TM_FailureData,
) -> TM_Result::Type {
    guard::entry(|| {
        // SAFETY: the executor passes a valid item pointer.
        let mut at = unsafe { *tid };
        let mut moved = false;
        let last_version = flags & pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8 != 0;
        loop {
            if let Some(place) = tid::decode(&at)
                && let Some(c) = frozen_part(rel)
            {
                if !moved {
                    super::fetch::must_be_seen(rel, &c, place, snapshot);
                }
                match share::lock(rel, &c, place, mode, wait_policy) {
                    Shared::Locked => {
                        let any = &raw mut pg_sys::SnapshotAnyData;
                        super::fetch::frozen_row(rel, place, any, slot);
                        // SAFETY: the caller's item pointer and failure data.
                        unsafe {
                            *tid = at;
                            (*tmfd).traversed = moved;
                        }
                        return TM_Result::TM_Ok;
                    }
                    Shared::WouldBlock => return TM_Result::TM_WouldBlock,
                    Shared::Thaw => {}
                }
            }
            let Found::Row(mut target) = resolve(rel, &at, cid, wait_policy, XLTW_Oper::XLTW_Lock)
            else {
                return TM_Result::TM_WouldBlock;
            };
            if last_version
                && let Some(c) = frozen_part(rel)
                && chain::any_in_place(rel, &c)
            {
                let along = Along::All {
                    wait: wait_policy == thaw::BLOCK,
                };
                if let End::Frozen(place) = chain::follow(rel, &target.tid, along) {
                    at = tid::encode(place);
                    moved = true;
                    continue;
                }
            }
            let mut cid = target.cid;
            if target.via.is_some() && lookup::is_worker() {
                // No executor has stepped the command id; the thawed row becomes that of a past command now.
                // SAFETY: as between two statements.
                unsafe {
                    pg_sys::CommandCounterIncrement();
                    cid = pg_sys::GetCurrentCommandId(false);
                }
            }
            let to = &raw mut target.tid;
            let result = heap_call!(tuple_lock(
                rel,
                to,
                snapshot,
                slot,
                cid,
                mode,
                wait_policy,
                flags,
                tmfd
            ));
            if result == TM_Result::TM_Ok {
                // SAFETY: the caller's item pointer and failure data; heap writes the place of the version it locked.
                unsafe {
                    *tid = (*slot).tts_tid;
                    (*tmfd).traversed |= moved;
                }
            }
            return result;
        }
    })
}

pub unsafe extern "C-unwind" fn tuple_fetch_row_version(
    rel: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor passes a valid item pointer.
        let at = unsafe { *tid };
        let Some(place) = tid::decode(&at) else {
            return heap_call!(tuple_fetch_row_version(rel, tid, snapshot, slot));
        };
        super::fetch::frozen_row(rel, place, snapshot, slot)
    })
}

pub unsafe extern "C-unwind" fn tuple_satisfies_snapshot(
    rel: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
) -> bool {
    guard::entry(|| {
        // SAFETY: a filled slot.
        let at = unsafe { (*slot).tts_tid };
        match tid::decode(&at) {
            Some(place) => match companion::of(rel) {
                Some(c) => {
                    !snap::is_mvcc(snapshot) || super::fetch::visible(rel, &c, place, snapshot)
                }
                None => false,
            },
            None => {
                if heap_call!(tuple_satisfies_snapshot(rel, slot, snapshot)) {
                    !super::fetch::thawed_unseen(rel, slot, snapshot)
                } else {
                    super::fetch::only_thawed(rel, slot, snapshot)
                }
            }
        }
    })
}
