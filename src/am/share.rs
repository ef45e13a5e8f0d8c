//! Shared locks on frozen rows (FOR SHARE, FOR KEY SHARE, and so every foreign-key check) leave the row where it is.
//!
//! They are tuple locks of the lock manager on the row's item pointer, held to the end of the transaction. Whoever
//! thaws the row, be it to change it or to lock it for himself, takes the same lock exclusively, and so waits for all
//! sharers: the thawed row knows nothing of them. The lock manager's table is small; a transaction that shares many
//! rows thaws the others, and heap keeps its locks in the rows.

use super::companion::Companion;
use super::thaw::{self, Policy};
use super::tid::Place;
use super::tombstone;
use pgrx::pg_sys;
use std::cell::Cell;

/// Shared locks that a transaction keeps in the lock manager.
const MOST: u32 = 64;

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
    let shares = mode == pg_sys::LockTupleMode::LockTupleKeyShare
        || mode == pg_sys::LockTupleMode::LockTupleShare;
    if !shares || HELD.get() >= MOST || tombstone::find(companion, place).is_some() {
        return Shared::Thaw;
    }
    if !thaw::lock_place(rel, place, policy, pg_sys::AccessShareLock) {
        return Shared::WouldBlock;
    }
    // Whoever held the lock before us has written his tombstone by now.
    if tombstone::find(companion, place).is_some() {
        thaw::unlock_place(rel, place, pg_sys::AccessShareLock);
        return Shared::Thaw;
    }
    HELD.set(HELD.get() + 1);
    Shared::Locked
}
