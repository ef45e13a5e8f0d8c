//! Privileges of the current user, checked as the executor checks those of a statement.

use super::relation;
use pgrx::pg_sys;

/// Attribute numbers that a write touches.
pub struct Columns<'a> {
    /// Read from stored rows.
    pub read: &'a [i16],
    /// Given for new rows.
    pub inserted: &'a [i16],
    /// Set in stored rows.
    pub updated: &'a [i16],
}

/// Raises `insufficient_privilege` where the current user could not write these columns by INSERT … ON CONFLICT.
pub fn check_write(rel: pg_sys::Relation, columns: &Columns) {
    check(rel, |info| {
        info.requiredPerms = u64::from(pg_sys::ACL_INSERT);
        info.insertedCols = set(columns.inserted);
        if !columns.read.is_empty() {
            info.requiredPerms |= u64::from(pg_sys::ACL_SELECT);
            info.selectedCols = set(columns.read);
        }
        if !columns.updated.is_empty() {
            info.requiredPerms |= u64::from(pg_sys::ACL_UPDATE);
            info.updatedCols = set(columns.updated);
        }
    });
}

/// Raises `insufficient_privilege` where the current user could not delete rows that he finds by these columns.
pub fn check_delete(rel: pg_sys::Relation, read: &[i16]) {
    check(rel, |info| {
        info.requiredPerms = u64::from(pg_sys::ACL_DELETE) | u64::from(pg_sys::ACL_SELECT);
        info.selectedCols = set(read);
    });
}

/// Whether the current user could LOCK a table against all writers.
pub fn may_lock(table: pg_sys::Oid) -> bool {
    let any = pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE | pg_sys::ACL_TRUNCATE;
    // SAFETY: a catalogue look-up.
    unsafe {
        let user = pg_sys::GetUserId();
        let mode = pg_sys::AclMaskHow::ACLMASK_ANY;
        pg_sys::pg_class_aclmask(table, user, any.into(), mode) != 0
    }
}

fn check(rel: pg_sys::Relation, ask: impl FnOnce(&mut pg_sys::RTEPermissionInfo)) {
    // SAFETY: nodes made here, as the parser makes them; the check raises its own error.
    unsafe {
        let entry: *mut pg_sys::RangeTblEntry =
            pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast();
        (*entry).type_ = pg_sys::NodeTag::T_RangeTblEntry;
        (*entry).rtekind = pg_sys::RTEKind::RTE_RELATION;
        (*entry).relid = relation::oid(rel);
        (*entry).relkind = relation::form(rel).relkind;
        (*entry).rellockmode = pg_sys::RowExclusiveLock as i32;
        let mut infos: *mut pg_sys::List = std::ptr::null_mut();
        ask(&mut *pg_sys::addRTEPermissionInfo(&mut infos, entry));
        let table = pg_sys::lappend(std::ptr::null_mut(), entry.cast());
        pg_sys::ExecCheckPermissions(table, infos, true);
    }
}

fn set(attnums: &[i16]) -> *mut pg_sys::Bitmapset {
    attnums.iter().fold(std::ptr::null_mut(), |set, attnum| {
        let member = i32::from(*attnum) - pg_sys::FirstLowInvalidHeapAttributeNumber;
        // SAFETY: a set of our own; the member is positive.
        unsafe { pg_sys::bms_add_member(set, member) }
    })
}
