//! Locks of the lock manager on things that are no whole relations.

use super::relation;
use pgrx::pg_sys;

/// What a lock is on.
#[derive(Clone, Copy)]
pub struct Tag(pg_sys::LOCKTAG);

fn tag(fields: (u32, u32, u32, u16), kind: pg_sys::LockTagType::Type) -> Tag {
    Tag(pg_sys::LOCKTAG {
        locktag_field1: fields.0,
        locktag_field2: fields.1,
        locktag_field3: fields.2,
        locktag_field4: fields.3,
        locktag_type: kind as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    })
}

impl Tag {
    /// Something about a table, which `what` tells from other such things. PostgreSQL's own locks on tables are of another
    /// kind.
    pub fn of_table(table: pg_sys::Oid, what: u16) -> Self {
        // SAFETY: reads a variable of the process.
        let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let class = pg_sys::RelationRelationId.to_u32();
        let kind = pg_sys::LockTagType::LOCKTAG_OBJECT;
        tag((database, class, table.to_u32(), what), kind)
    }

    /// Something of this database that a session holds, whatever becomes of its transactions; `what` tells it from the locks
    /// that users take by `pg_advisory_lock`.
    pub fn of_session(what: u16, id: i64) -> Self {
        // SAFETY: reads a variable of the process.
        let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let kind = pg_sys::LockTagType::LOCKTAG_ADVISORY;
        let mut tag = tag((database, (id >> 32) as u32, id as u32, what), kind);
        tag.0.locktag_lockmethodid = pg_sys::USER_LOCKMETHOD as u8;
        tag
    }

    /// Takes the lock for the session where that needs no wait; tells whether it did.
    pub fn try_acquire_for_session(&self, mode: u32) -> bool {
        // SAFETY: a lock manager call.
        let result = unsafe { pg_sys::LockAcquire(&self.0, mode as pg_sys::LOCKMODE, true, true) };
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }

    /// A transaction, which holds it exclusively to its end.
    pub fn of_transaction(xid: pg_sys::TransactionId) -> Self {
        let kind = pg_sys::LockTagType::LOCKTAG_TRANSACTION;
        tag((xid.into_inner(), 0, 0, 0), kind)
    }

    /// A row of a table, named by block and offset.
    pub fn of_row(rel: pg_sys::Relation, block: u32, offset: u16) -> Self {
        let id = relation::lock_id(rel);
        let kind = pg_sys::LockTagType::LOCKTAG_TUPLE;
        let (database, table) = (id.dbId.to_u32(), id.relId.to_u32());
        tag((database, table, block, offset), kind)
    }

    /// Waits for the lock, and holds it to the end of the transaction.
    pub fn acquire(&self, mode: u32) {
        // SAFETY: a lock manager call inside a transaction.
        unsafe { pg_sys::LockAcquire(&self.0, mode as pg_sys::LOCKMODE, false, false) };
    }

    /// Takes the lock where that needs no wait; tells whether it did.
    pub fn try_acquire(&self, mode: u32) -> bool {
        // SAFETY: a lock manager call inside a transaction.
        let result = unsafe { pg_sys::LockAcquire(&self.0, mode as pg_sys::LOCKMODE, false, true) };
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }

    /// Gives back what was acquired.
    pub fn release(&self, mode: u32) {
        // SAFETY: a lock manager call; a lock that is not held is a warning.
        unsafe { pg_sys::LockRelease(&self.0, mode as pg_sys::LOCKMODE, false) };
    }

    /// Transactions of others that hold a lock which conflicts with `mode`.
    pub fn holders(&self, mode: u32) -> Vec<pg_sys::VirtualTransactionId> {
        let mut count = 0;
        // SAFETY: a lock manager call; the list ends with its count.
        unsafe {
            let found = pg_sys::GetLockConflicts(&self.0, mode as pg_sys::LOCKMODE, &mut count);
            (0..count as usize).map(|i| *found.add(i)).collect()
        }
    }
}

/// Takes in what others have told of the catalogue, as is done whenever a relation is locked.
pub fn accept_messages() {
    // SAFETY: inside a transaction; open relations are rebuilt in place.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}
