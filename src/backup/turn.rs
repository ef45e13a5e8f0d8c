//! One after the other: backups of the policy, and what changes stores.

use pgrx::pg_sys;

/// What is done by one session at a time. Locks are on the foreign data wrapper, so they hold in this database.
#[derive(Clone, Copy)]
pub enum Turn {
    /// A backup that the policy takes.
    Backup = 1,
    /// Backups are copied, or removed.
    Stores = 2,
}

/// Waits for the turn, and keeps it to the end of the transaction.
pub fn wait_for(turn: Turn) {
    // SAFETY: a look-up of the extension's own wrapper, and a lock on it that serves nothing else.
    unsafe {
        let wrapper = pg_sys::get_foreign_data_wrapper_oid(c"varve_store".as_ptr(), false);
        pg_sys::LockDatabaseObject(
            pg_sys::ForeignDataWrapperRelationId,
            wrapper,
            turn as u16,
            pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
        );
    }
}
