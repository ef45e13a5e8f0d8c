//! Taking an exclusive lock without making others queue behind us for long.

use crate::pg::{guard, relation};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Longest wait in the lock queue, during which statements that come later wait behind us.
const QUEUE_MS: i32 = 40;

/// Locks a table with `ACCESS EXCLUSIVE` until the transaction ends, trying again and again with short waits, so that
/// no statement of others waits long behind us. Gives up after `varve.lock_timeout`.
pub fn exclusively(oid: pg_sys::Oid) {
    let name = relation::qualified_name(oid);
    // SAFETY: the clock of the server.
    let begin = unsafe { pg_sys::GetCurrentTimestamp() };
    let limit = i64::from(crate::settings::lock_timeout_ms()) * 1000;
    loop {
        if try_lock(oid) {
            // SAFETY: a syscache look-up.
            if unsafe { pg_sys::get_rel_relkind(oid) } == 0 {
                crate::am::error::gone(&name);
            }
            return;
        }
        pgrx::check_for_interrupts!();
        // SAFETY: as above.
        if limit > 0 && unsafe { pg_sys::GetCurrentTimestamp() } - begin > limit {
            crate::am::error::raise(
                PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
                format!("could not lock {name} within varve.lock_timeout"),
                Some("Other transactions keep using it.".into()),
                Some("Raise varve.lock_timeout, or try when it is less busy.".into()),
            );
        }
        // SAFETY: a short nap that a signal ends; others get their turn before we queue again.
        unsafe {
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
                20,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        // The latch may have told of a cancel, which would pass for a lock timeout if it was seen during the next try.
        pgrx::check_for_interrupts!();
    }
}

/// Queues for the lock for a moment; `false` when it was not granted in time.
fn try_lock(oid: pg_sys::Oid) -> bool {
    let mode = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: a lock manager call.
    if unsafe { pg_sys::ConditionalLockRelationOid(oid, mode) } {
        return true;
    }
    struct Restore(i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: puts the session's lock_timeout back.
            unsafe { pg_sys::LockTimeout = self.0 }
        }
    }
    // SAFETY: the wait ends with lock_not_available after LockTimeout.
    unsafe {
        let _restore = Restore(pg_sys::LockTimeout);
        pg_sys::LockTimeout = QUEUE_MS;
        let late = |code| code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE;
        guard::attempt(|| pg_sys::LockRelationOid(oid, mode), late).is_ok()
    }
}
