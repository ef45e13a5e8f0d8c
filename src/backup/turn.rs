//! One after the other: backups of the policy, and what changes stores.

use pgrx::pg_sys;

/// What is done by one session at a time. Locks are on the foreign data wrapper, so they hold in this database.
#[derive(Clone, Copy)]
pub enum Turn {
    /// A backup that the policy takes.
    Backup = 1,
    /// Backups are copied, or removed.
    Stores = 2,
    /// A policy is made.
    Policy = 3,
}

/// Waits for the turn, and keeps it to the end of the transaction.
pub fn wait_for(turn: Turn) {
    // SAFETY: a lock on the extension's own wrapper that serves nothing else.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::ForeignDataWrapperRelationId,
            wrapper(),
            turn as u16,
            MODE,
        );
    }
}

/// Takes the turn, if nobody has it, and keeps it to the end of the transaction.
pub fn try_for(turn: Turn) -> bool {
    // SAFETY: as above.
    unsafe {
        pg_sys::ConditionalLockDatabaseObject(
            pg_sys::ForeignDataWrapperRelationId,
            wrapper(),
            turn as u16,
            MODE,
        )
    }
}

const MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

fn wrapper() -> pg_sys::Oid {
    // SAFETY: a look-up in a catalogue.
    unsafe { pg_sys::get_foreign_data_wrapper_oid(c"varve_store".as_ptr(), false) }
}
