//! Shared locks on frozen rows (FOR SHARE, FOR KEY SHARE, and so every foreign-key check) leave the row where it is.
//!
//! They are tuple locks of the lock manager on the row's item pointer, held to the end of the transaction. Whoever
//! thaws the row hands the sharers over to the thawed row, in whose header heap keeps its locks: heap's own rules for who
//! waits for whom hold from then on. A transaction that shares many rows thaws the others, for the lock manager's table
//! is small.

use super::companion::Companion;
use super::thaw::{self, Policy};
use super::tid::{self, Place};
use super::tombstone;
use crate::pg::lock::Tag;
use crate::pg::{relation, tuple};
use pgrx::pg_sys;
use std::cell::Cell;

/// Shared locks that a transaction keeps in the lock manager.
const MOST: u32 = 64;

/// What FOR KEY SHARE takes; conflicts with nothing that is taken here, but is found by [`holders`].
const KEY_SHARE: u32 = pg_sys::AccessShareLock;
/// What FOR SHARE takes.
const SHARE: u32 = pg_sys::RowShareLock;

/// What both take in a savepoint. The lock ends with the savepoint, which the header of a thawed row could not know, so
/// it conflicts with the lock under which rows are thawed: who wants to thaw the row waits.
const IN_SAVEPOINT: u32 = pg_sys::RowExclusiveLock;

thread_local! {
    /// Shared locks taken by the running transaction.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// How a try to share a row ended.
pub enum Shared {
    /// The row is locked where it is.
    Locked,
    /// It has to be thawed: it is wanted exclusively, somebody has thawed it, or there are too many locks already.
    Thaw,
    /// Somebody else has it and the caller did not want to wait.
    WouldBlock,
}

/// Forgets the locks of a transaction that is over.
pub fn forget() {
    HELD.set(0);
}

/// Locks a frozen row where it is, if that is possible.
pub fn lock(
    rel: pg_sys::Relation,
    companion: &Companion,
    place: Place,
    mode: pg_sys::LockTupleMode::Type,
    policy: Policy,
) -> Shared {
    let mode = match mode {
        pg_sys::LockTupleMode::LockTupleKeyShare => KEY_SHARE,
        pg_sys::LockTupleMode::LockTupleShare => SHARE,
        _ => return Shared::Thaw,
    };
    // SAFETY: reads the transaction's state.
    let nested = unsafe { pg_sys::GetCurrentTransactionNestLevel() } > 1;
    let mode = if nested { IN_SAVEPOINT } else { mode };
    if HELD.get() >= MOST || tombstone::find(companion, place).is_some() {
        return Shared::Thaw;
    }
    // Whoever thaws the row may write our id into its header, alone or in a multixact.
    // SAFETY: inside a transaction that may write.
    unsafe {
        pg_sys::MultiXactIdSetOldestMember();
        pg_sys::GetTopTransactionId();
    }
    if !thaw::lock_place(rel, place, policy, mode) {
        return Shared::WouldBlock;
    }
    // Who thawed it before we had the lock does not know of us; who does so after this finds our lock.
    if tombstone::find(companion, place).is_some() {
        thaw::unlock_place(rel, place, mode);
        return Shared::Thaw;
    }
    HELD.set(HELD.get() + 1);
    Shared::Locked
}

/// Transactions of others with a lock on a frozen row that conflicts with `mode`.
pub fn holders(rel: pg_sys::Relation, place: Place, mode: u32) -> Vec<pg_sys::TransactionId> {
    let (block, offset) = tuple::tid_parts(&tid::encode(place));
    let holders = Tag::of_row(rel, block, offset).holders(mode);
    holders.into_iter().flat_map(xids_of).collect()
}

/// The transaction ids of a holder: of the process, if it is still in that transaction, and of transactions that it
/// prepared and that keep its virtual id.
fn xids_of(holder: pg_sys::VirtualTransactionId) -> Vec<pg_sys::TransactionId> {
    // A prepared transaction that a restart has brought back has no process; its id stands in the place of the local one.
    if holder.procNumber == pg_sys::INVALID_PROC_NUMBER {
        return vec![pg_sys::TransactionId::from_inner(holder.localTransactionId)];
    }
    let mut xids = Vec::new();
    let mut xid = pg_sys::InvalidTransactionId;
    let mut xmin = pg_sys::InvalidTransactionId;
    let (mut nsubxid, mut overflowed) = (0, false);
    // SAFETY: reads shared memory, whose entries outlive every process; the local id is compared after the transaction id
    // was read, so that the id of a later transaction of the process is not taken for the holder's.
    unsafe {
        let mut more = false;
        let prepared = crate::pg::ffi::TwoPhaseGetXidByVirtualXID(holder, &mut more);
        if prepared != pg_sys::InvalidTransactionId {
            xids.push(prepared);
        }
        pg_sys::ProcNumberGetTransactionIds(
            holder.procNumber,
            &mut xid,
            &mut xmin,
            &mut nsubxid,
            &mut overflowed,
        );
        let process = pg_sys::ProcNumberGetProc(holder.procNumber);
        if xid != pg_sys::InvalidTransactionId
            && !process.is_null()
            && (*process).vxid.lxid == holder.localTransactionId
        {
            xids.push(xid);
        }
    }
    xids
}

/// Writes the sharers of a frozen row into the header of the thawed row, which this transaction has just inserted at
/// `to`. The caller holds the lock that keeps others from thawing the row.
pub fn hand_over(rel: pg_sys::Relation, place: Place, to: &pg_sys::ItemPointerData) {
    let form = relation::form(rel);
    if form.relpersistence == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char {
        return;
    }
    let all = holders(rel, place, pg_sys::AccessExclusiveLock);
    if all.is_empty() {
        return;
    }
    let strong = holders(rel, place, pg_sys::ExclusiveLock);
    let mut members: Vec<pg_sys::MultiXactMember> = all
        .iter()
        .map(|xid| pg_sys::MultiXactMember {
            xid: *xid,
            status: if strong.contains(xid) {
                pg_sys::MultiXactStatus::MultiXactStatusForShare
            } else {
                pg_sys::MultiXactStatus::MultiXactStatusForKeyShare
            },
        })
        .collect();
    let kind = if strong.is_empty() {
        pg_sys::HEAP_XMAX_KEYSHR_LOCK
    } else {
        pg_sys::HEAP_XMAX_EXCL_LOCK | pg_sys::HEAP_XMAX_KEYSHR_LOCK
    };
    let mut bits = kind | pg_sys::HEAP_XMAX_LOCK_ONLY;
    // SAFETY: our members have called MultiXactIdSetOldestMember, and so do we.
    let xmax = unsafe {
        pg_sys::MultiXactIdSetOldestMember();
        match members.as_slice() {
            [one] => one.xid,
            _ => {
                bits |= pg_sys::HEAP_XMAX_IS_MULTI;
                let multi = pg_sys::MultiXactIdCreateFromMembers(
                    members.len() as i32,
                    members.as_mut_ptr(),
                );
                pg_sys::TransactionId::from_inner(multi.into())
            }
        }
    };
    let (block, offset) = tuple::tid_parts(to);
    let logged = form.relpersistence == pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char;
    // SAFETY: the page of a row that we have just inserted, pinned and locked; header and WAL change in one critical
    // section.
    unsafe {
        let buffer = pg_sys::ReadBuffer(rel, block);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        let item = *pg_sys::PageGetItemId(page, offset);
        let head = &mut *page
            .cast::<u8>()
            .add(item.lp_off() as usize)
            .cast::<pg_sys::HeapTupleHeaderData>();
        pg_sys::CritSectionCount += 1;
        head.t_infomask = (head.t_infomask & !(pg_sys::HEAP_XMAX_BITS as u16)) | bits as u16;
        head.t_choice.t_heap.t_xmax = xmax;
        pg_sys::MarkBufferDirty(buffer);
        if logged {
            pg_sys::log_newpage_buffer(buffer, true);
        }
        pg_sys::CritSectionCount -= 1;
        pg_sys::UnlockReleaseBuffer(buffer);
    }
}
