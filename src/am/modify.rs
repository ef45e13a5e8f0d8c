//! INSERT, UPDATE, DELETE and row locks: frozen rows are thawed, then heap does its work on the thawed row.

use super::chain::{self, Along, End, OwnEnd};
use super::companion::{self, Companion};
use super::share::{self, Shared};
use super::thaw::{self, Thawed};
use super::tid::{self, Place};
use super::{lookup, tombstone, unique};
use crate::heap_call;
use crate::pg::guard;
use crate::pg::snapshot as snap;
use crate::pg::tuple;
use pgrx::pg_sys;
use pgrx::pg_sys::{LockTupleMode, TM_Result, XLTW_Oper};
use std::cell::RefCell;
use std::collections::HashSet;

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

/// As [`multi_insert`], for rows whose keys were looked for among the frozen rows already, by a caller who has locked the
/// table against freezes since.
///
/// # Safety
/// As the executor calls the callback.
pub unsafe extern "C-unwind" fn multi_insert_new(
    rel: pg_sys::Relation,
    slots: *mut *mut pg_sys::TupleTableSlot,
    nslots: i32,
    cid: pg_sys::CommandId,
    options: i32,
    bistate: *mut pg_sys::BulkInsertStateData,
) {
    guard::entry(|| {
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
    /// There is a newer version, which is frozen.
    Replaced(tombstone::Tombstone),
    WouldBlock,
}

/// The answer for a frozen row that has a newer version, as heap gives it for a row that was updated.
fn replaced(
    by: &tombstone::Tombstone,
    cid: pg_sys::CommandId,
    failure: &mut pg_sys::TM_FailureData,
) -> TM_Result::Type {
    // SAFETY: a transaction status look-up.
    let own = unsafe { pg_sys::TransactionIdIsCurrentTransactionId(by.xmin) };
    let meanwhile = own && by.cid >= cid;
    failure.ctid = by.to;
    failure.xmax = by.xmin;
    failure.cmax = if meanwhile {
        by.cid
    } else {
        pg_sys::InvalidCommandId
    };
    failure.traversed = false;
    if meanwhile {
        TM_Result::TM_SelfModified
    } else {
        TM_Result::TM_Updated
    }
}

/// Resolves an item pointer to a row in the delta, thawing it where it is frozen.
fn resolve(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
    cid: pg_sys::CommandId,
    strength: thaw::Strength,
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
    match thaw::thaw(rel, &c, place, cid, strength, policy, purpose) {
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
        Thawed::Replaced(by) => Found::Replaced(by),
        Thawed::WouldBlock => Found::WouldBlock,
    }
}

thread_local! {
    /// Rows (relation, place) that were changed by a command (the third) with a later id than its own, since a command
    /// within it had thawed them.
    static RAISED: RefCell<HashSet<(u32, u64, pg_sys::CommandId)>> = RefCell::new(HashSet::new());
}

/// Forgets the changes of a transaction that is over.
pub fn forget() {
    RAISED.with_borrow_mut(HashSet::clear);
}

impl Target {
    fn raised(
        &self,
        rel: pg_sys::Relation,
        asked: pg_sys::CommandId,
    ) -> (u32, u64, pg_sys::CommandId) {
        let relation = crate::pg::relation::oid(rel).to_u32();
        (relation, tuple::tid_key(&self.tid), asked)
    }

    /// Tells the executor, where a row was changed by the command itself, by that command's id: the row may bear a later
    /// one, which [`resolve`] chose.
    fn own_work(
        &self,
        rel: pg_sys::Relation,
        result: TM_Result::Type,
        asked: pg_sys::CommandId,
        failure: &mut pg_sys::TM_FailureData,
    ) {
        if self.cid == asked {
            return;
        }
        let raised = self.raised(rel, asked);
        if result == TM_Result::TM_Ok {
            RAISED.with_borrow_mut(|r| r.insert(raised));
        } else if result == TM_Result::TM_SelfModified
            && RAISED.with_borrow(|r| r.contains(&raised))
        {
            failure.cmax = asked;
        }
    }

    /// What is left of a crosscheck for heap to do. A foreign-key action asks whether an older snapshot sees the row too; a
    /// row that was thawed since is judged by its frozen place. `Err` where the snapshot does not see it.
    fn crosscheck(
        &self,
        rel: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
    ) -> Result<pg_sys::Snapshot, ()> {
        if snapshot.is_null() {
            return Ok(snapshot);
        }
        let origin = match &self.via {
            Some((c, place, _)) => Some((*c, *place)),
            None => frozen_part(rel).and_then(|c| {
                let by = thaw::writer_of(rel, &self.tid)?;
                Some((c, tombstone::origin(&c, &self.tid, by)?))
            }),
        };
        let Some((c, place)) = origin else {
            return Ok(snapshot);
        };
        let segment_seen = super::cache::directory(rel, &c)
            .iter()
            .any(|s| s.number == place.segment && thaw::segment_visible(&c, s, snapshot));
        // A tombstone that the snapshot sees must lead here: an earlier command of ours thawed the row.
        let leads_here = tombstone::find_visible(&c, place, snapshot)
            .is_none_or(|to| tuple::tid_key(&to) == tuple::tid_key(&self.tid));
        if segment_seen && leads_here {
            Ok(std::ptr::null_mut())
        } else {
            Err(())
        }
    }

    /// The answer for a row that a crosscheck does not see.
    fn unseen(&self, failure: &mut pg_sys::TM_FailureData) -> TM_Result::Type {
        failure.ctid = self.tid;
        failure.xmax = pg_sys::InvalidTransactionId;
        failure.cmax = pg_sys::InvalidCommandId;
        TM_Result::TM_Updated
    }

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
        let at = unsafe { &*tid };
        let strength = Some(LockTupleMode::LockTupleExclusive);
        let purpose = XLTW_Oper::XLTW_Delete;
        let mut target = match resolve(rel, at, cid, strength, thaw::BLOCK, purpose) {
            Found::Row(target) => target,
            // SAFETY: the caller's failure data.
            Found::Replaced(by) => return replaced(&by, cid, unsafe { &mut *tmfd }),
            Found::WouldBlock => return TM_Result::TM_WouldBlock,
        };
        remember(rel);
        // Foreign-key actions run under a newer snapshot than the transaction's own, which is the one to check and to claim for.
        let own = if crosscheck.is_null() {
            snapshot
        } else {
            crosscheck
        };
        let crosscheck = match target.crosscheck(rel, crosscheck) {
            Ok(left) => left,
            // SAFETY: the caller's failure data.
            Err(()) => return unsafe { target.unseen(&mut *tmfd) },
        };
        let asked = cid;
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
        target.changed(rel, result, own, cid);
        // SAFETY: the caller's failure data.
        target.own_work(rel, result, asked, unsafe { &mut *tmfd });
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
        let at = unsafe { &*otid };
        // Where the key changes too, heap waits for KEY SHARE afterwards.
        let strength = Some(LockTupleMode::LockTupleNoKeyExclusive);
        let purpose = XLTW_Oper::XLTW_Update;
        let mut target = match resolve(rel, at, cid, strength, thaw::BLOCK, purpose) {
            Found::Row(target) => target,
            Found::Replaced(by) => {
                // SAFETY: the caller's failure data, and the strength with which it locks the newer version.
                return unsafe {
                    *lockmode = LockTupleMode::LockTupleExclusive;
                    replaced(&by, cid, &mut *tmfd)
                };
            }
            Found::WouldBlock => return TM_Result::TM_WouldBlock,
        };
        // The row's own old key is in the delta now, so only other rows can be found here, and none where it keeps its key.
        if let Some(c) = frozen_part(rel)
            && !unique::keeps_keys(rel, &c, &target.tid, slot)
        {
            unique::thaw_holders(rel, &c, slot, cid, false);
        }
        remember(rel);
        // Foreign-key actions run under a newer snapshot than the transaction's own, which is the one to check and to claim for.
        let own = if crosscheck.is_null() {
            snapshot
        } else {
            crosscheck
        };
        let crosscheck = match target.crosscheck(rel, crosscheck) {
            Ok(left) => left,
            // SAFETY: the caller's failure data.
            Err(()) => return unsafe { target.unseen(&mut *tmfd) },
        };
        let asked = cid;
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
        target.changed(rel, result, own, cid);
        // SAFETY: the caller's failure data.
        target.own_work(rel, result, asked, unsafe { &mut *tmfd });
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
            let purpose = XLTW_Oper::XLTW_Lock;
            let mut target = match resolve(rel, &at, cid, Some(mode), wait_policy, purpose) {
                Found::Row(target) => target,
                Found::Replaced(by) => {
                    // SAFETY: the caller's failure data.
                    let result = replaced(&by, cid, unsafe { &mut *tmfd });
                    if result == TM_Result::TM_Updated && last_version {
                        at = by.to;
                        moved = true;
                        continue;
                    }
                    return result;
                }
                Found::WouldBlock => return TM_Result::TM_WouldBlock,
            };
            if last_version && chain::may_be_in_place(rel) {
                let along = Along::All {
                    wait: wait_policy == thaw::BLOCK,
                };
                if let End::Frozen(place) = chain::follow(rel, &target.tid, along) {
                    at = tid::encode(place);
                    moved = true;
                    continue;
                }
            }
            let asked = cid;
            let mut cid = target.cid;
            if target.via.is_some() && lookup::is_worker() {
                // No executor has stepped the command id; the thawed row becomes that of a past command now.
                // SAFETY: as between two statements.
                unsafe {
                    pg_sys::CommandCounterIncrement();
                    cid = pg_sys::GetCurrentCommandId(false);
                }
            }
            let thawed_to = target.tid;
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
                    // A thawed row keeps its frozen name, by which `resolve` knows which command thawed it.
                    let locked = (*slot).tts_tid;
                    let same = tuple::tid_key(&locked) == tuple::tid_key(&thawed_to);
                    *tid = if same { at } else { locked };
                    (*tmfd).traversed |= moved;
                }
            } else {
                // SAFETY: the caller's failure data.
                let failure = unsafe { &mut *tmfd };
                target.own_work(rel, result, asked, failure);
                if moved && result == TM_Result::TM_SelfModified {
                    // Heap's walk along the versions steps over those that our transaction has replaced, and tells of
                    // the last one.
                    match chain::own_end(rel, &thawed_to) {
                        OwnEnd::Deleted => return TM_Result::TM_Deleted,
                        OwnEnd::Made(by) => failure.cmax = by,
                        OwnEnd::Other => {}
                    }
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
