//! Thawing one row: taken out of its segment by a tombstone, and inserted into the delta with its index entries.
//!
//! Whoever wants to lock, update or delete a frozen row, or insert a key that it holds, thaws it first and then does
//! to the thawed row what heap does. Heap's own rules (waiting, TM_Updated, following the chain of versions, EvalPlanQual,
//! serialisation failures) then hold by themselves.

use super::companion::Companion;
use super::tid::{self, Place};
use super::{cache, command, tombstone};
use crate::pg::heap;
use crate::pg::memory::for_this_call;
use crate::pg::relation;
use crate::pg::tuple;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// How a thaw ended.
pub enum Thawed {
    /// The row is in the delta, at this place.
    At(pg_sys::ItemPointerData, tombstone::Tombstone),
    /// It has a new version, which is frozen too.
    Replaced(tombstone::Tombstone),
    /// Somebody else has it and the caller did not want to wait.
    WouldBlock,
}

/// Whether and how to wait for another transaction.
pub type Policy = pg_sys::LockWaitPolicy::Type;

/// How strong a lock a row is to get, where it is to get one.
pub type Strength = Option<pg_sys::LockTupleMode::Type>;

/// What the row is wanted for, as a wait for another transaction tells.
pub type Purpose = pg_sys::XLTW_Oper::Type;

/// The lock under which a row is thawed: it excludes others who thaw, and not those who share (see `share`).
const THAW: u32 = pg_sys::ShareRowExclusiveLock;

/// Waits forever.
pub const BLOCK: Policy = pg_sys::LockWaitPolicy::LockWaitBlock;

fn wait_for(
    rel: pg_sys::Relation,
    place: Place,
    xid: pg_sys::TransactionId,
    policy: Policy,
    purpose: Purpose,
) -> bool {
    let mut at = tid::encode(place);
    // SAFETY: lock manager calls with an open relation.
    unsafe {
        match policy {
            pg_sys::LockWaitPolicy::LockWaitBlock => {
                pg_sys::XactLockTableWait(xid, rel, &mut at, purpose);
                true
            }
            pg_sys::LockWaitPolicy::LockWaitSkip => pg_sys::ConditionalXactLockTableWait(xid),
            _ => pg_sys::ConditionalXactLockTableWait(xid) || not_available(rel),
        }
    }
}

fn not_available(rel: pg_sys::Relation) -> bool {
    super::error::raise(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        format!(
            "could not obtain lock on row in relation \"{}\"",
            relation::name(rel)
        ),
        None,
        None,
    )
}

/// Locks the place of a frozen row in the lock manager.
pub fn lock_place(rel: pg_sys::Relation, place: Place, policy: Policy, mode: u32) -> bool {
    let mut at = tid::encode(place);
    let mode = mode as pg_sys::LOCKMODE;
    // SAFETY: lock manager calls with an open relation.
    unsafe {
        match policy {
            pg_sys::LockWaitPolicy::LockWaitBlock => {
                pg_sys::LockTuple(rel, &mut at, mode);
                true
            }
            pg_sys::LockWaitPolicy::LockWaitSkip => {
                pg_sys::ConditionalLockTuple(rel, &mut at, mode)
            }
            _ => pg_sys::ConditionalLockTuple(rel, &mut at, mode) || not_available(rel),
        }
    }
}

/// Releases what [`lock_place`] locked.
pub fn unlock_place(rel: pg_sys::Relation, place: Place, mode: u32) {
    let mut at = tid::encode(place);
    // SAFETY: locked by us.
    unsafe { pg_sys::UnlockTuple(rel, &mut at, mode as pg_sys::LOCKMODE) }
}

/// Waits for those who share a row and whom heap would wait for, before anything of a thaw can be seen: who gives up, or
/// waits, must not be in the way of others meanwhile. `false` where the caller did not want to wait.
fn wait_for_sharers(
    rel: pg_sys::Relation,
    place: Place,
    strength: Strength,
    policy: Policy,
    purpose: Purpose,
) -> bool {
    let meets = match strength {
        // SHARE, not KEY SHARE.
        Some(pg_sys::LockTupleMode::LockTupleNoKeyExclusive) => pg_sys::ExclusiveLock,
        // Both.
        Some(pg_sys::LockTupleMode::LockTupleExclusive) => pg_sys::AccessExclusiveLock,
        _ => return true,
    };
    loop {
        // One's own locks are not among them. Those taken in a savepoint end with it, not with the transaction: they
        // conflict with the lock that a thaw takes, which waits for them.
        let nested = super::share::holders(rel, place, THAW);
        let others = super::share::holders(rel, place, meets);
        match others.iter().find(|xid| !nested.contains(xid)) {
            None => return true,
            Some(xid) if wait_for(rel, place, *xid, policy, purpose) => {}
            Some(_) => return false,
        }
    }
}

/// Brings a frozen row into the delta, or finds where somebody brought it. `cid` is the running command's; `strength` is
/// that of the lock which the row is to get.
pub fn thaw(
    rel: pg_sys::Relation,
    companion: &Companion,
    place: Place,
    cid: pg_sys::CommandId,
    strength: Strength,
    policy: Policy,
    purpose: Purpose,
) -> Thawed {
    loop {
        if let Some(t) = tombstone::find(companion, place) {
            match t.running {
                None if t.is_replaced() => return Thawed::Replaced(t),
                None => return Thawed::At(t.to, t),
                Some(xid) => {
                    if !wait_for(rel, place, xid, policy, purpose) {
                        return Thawed::WouldBlock;
                    }
                    continue;
                }
            }
        }
        if !wait_for_sharers(rel, place, strength, policy, purpose)
            || !lock_place(rel, place, policy, THAW)
        {
            return Thawed::WouldBlock;
        }
        // Whoever held the lock before us has written his tombstone by now.
        if tombstone::find(companion, place).is_none() {
            for_this_call(|| {
                let to = move_row(rel, companion, place, command::thaw_cid(cid));
                super::share::hand_over(rel, place, &to);
            });
        }
        unlock_place(rel, place, THAW);
    }
}

fn move_row(
    rel: pg_sys::Relation,
    companion: &Companion,
    place: Place,
    cid: pg_sys::CommandId,
) -> pg_sys::ItemPointerData {
    let directory = cache::directory(rel, companion);
    let Some(segment) = directory.iter().find(|s| s.number == place.segment) else {
        super::error::corrupt(rel, place.segment, "there is no such segment");
    };
    if place.row >= segment.header.rows {
        super::error::corrupt(rel, place.segment, &format!("it has no row {}", place.row));
    }
    let decoded = cache::decoded(rel, segment, place.row);
    let desc = relation::tupdesc(rel);
    let natts = relation::natts(desc);
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    decoded.row(place.row, &mut values, &mut nulls);
    // SAFETY: the values are those of the relation's row shape; heap_insert copies what it keeps.
    unsafe {
        let row = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
        pg_sys::heap_insert(
            rel,
            row,
            cid,
            pg_sys::HEAP_INSERT_NO_LOGICAL as i32,
            std::ptr::null_mut(),
        );
        super::toast::date_back(rel, (*row).t_self, cid);
        tombstone::insert(companion, place, (*row).t_self, cid);
        (*row).t_tableOid = (*rel).rd_id;
        insert_index_entries(rel, row);
        let to = (*row).t_self;
        pg_sys::heap_freetuple(row);
        to
    }
}

/// Makes the index entries of a row that lies in the delta.
///
/// # Safety
/// `row` was inserted into `rel`; its `t_self` says where.
pub unsafe fn insert_index_entries(rel: pg_sys::Relation, row: pg_sys::HeapTuple) {
    // SAFETY: an executor state of our own around ExecInsertIndexTuples, as in CopyFrom.
    unsafe {
        if !(*(*rel).rd_rel).relhasindex {
            return;
        }
        let estate = pg_sys::CreateExecutorState();
        let info: *mut pg_sys::ResultRelInfo =
            pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        pg_sys::InitResultRelInfo(info, rel, 1, std::ptr::null_mut(), 0);
        pg_sys::ExecOpenIndices(info, false);
        if (*info).ri_NumIndices > 0 {
            let slot = pg_sys::MakeSingleTupleTableSlot(
                relation::tupdesc(rel),
                &raw const pg_sys::TTSOpsHeapTuple,
            );
            pg_sys::ExecStoreHeapTuple(row, slot, false);
            (*slot).tts_tid = (*row).t_self;
            (*slot).tts_tableOid = (*rel).rd_id;
            pg_sys::ExecInsertIndexTuples(
                info,
                slot,
                estate,
                false,
                false,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                false,
            );
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        pg_sys::ExecCloseIndices(info);
        pg_sys::pfree(info.cast());
        pg_sys::FreeExecutorState(estate);
    }
}

/// Called after our transaction changed the row at the end of a tombstone: hides the frozen row from a transaction
/// snapshot that is older than the tombstone.
pub fn claim(
    companion: &Companion,
    place: Place,
    found: &tombstone::Tombstone,
    snapshot: pg_sys::Snapshot,
    cid: pg_sys::CommandId,
) {
    if hides(found.xmin, snapshot) {
        tombstone::insert(companion, place, found.to, cid);
    }
}

/// Whether a transaction snapshot is older than what transaction `xmin` of others wrote.
fn hides(xmin: pg_sys::TransactionId, snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: reads the transaction's isolation level and a valid snapshot.
    unsafe {
        pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32
            && crate::pg::snapshot::is_mvcc(snapshot)
            && !pg_sys::TransactionIdIsCurrentTransactionId(xmin)
            && pg_sys::XidInMVCCSnapshot(xmin, snapshot)
    }
}

/// As [`claim`], for a row that was reached by its place in the delta (INSERT … ON CONFLICT finds it in the index).
pub fn claim_by_tid(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
    cid: pg_sys::CommandId,
) {
    // SAFETY: reads the transaction's isolation level.
    if unsafe { pg_sys::XactIsoLevel } < pg_sys::XACT_REPEATABLE_READ as i32 {
        return;
    }
    let Some(companion) = super::companion::of(rel) else {
        return;
    };
    let Some(xmin) = writer_of(rel, tid) else {
        return;
    };
    if hides(xmin, snapshot)
        && let Some(place) = tombstone::origin(&companion, tid, xmin)
    {
        tombstone::insert(&companion, place, *tid, cid);
    }
}

/// Who wrote the version of a row that lies at a place in the delta.
pub fn writer_of(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
) -> Option<pg_sys::TransactionId> {
    // SAFETY: the header is read while its page is pinned.
    heap::with_any_version(rel, tid, |row, _| unsafe { tuple::raw_xmin(&*row.t_data) })
}

/// Whether a snapshot sees a segment at all.
pub fn segment_visible(
    companion: &Companion,
    segment: &super::directory::SegmentRef,
    snapshot: pg_sys::Snapshot,
) -> bool {
    if !crate::pg::snapshot::is_mvcc(snapshot) || segment.precedes(snapshot) {
        return true;
    }
    let table = relation::OpenRel::table(companion.segments, pg_sys::AccessShareLock);
    heap::with_version(table.as_ptr(), &segment.header_tid, snapshot, |_, _| ()).is_some()
}
