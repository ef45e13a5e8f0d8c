//! Databases that are dropped: workers leave them, and none begins in them meanwhile.

use super::shared;
use crate::pg::{background, clock};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

/// How long DROP DATABASE waits for workers that were told to end, in microseconds.
const LIMIT: i64 = 5_000_000;

thread_local! {
    static BARRED: Cell<bool> = const { Cell::new(false) };
}

/// Called before a utility statement.
pub fn before_utility(statement: *mut pg_sys::Node) {
    if changes_stores(statement) {
        super::launcher::on_commit();
        return;
    }
    // SAFETY: a valid parse tree.
    let name = unsafe {
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_DropdbStmt {
            return;
        }
        let drop = statement.cast::<pg_sys::DropdbStmt>();
        CStr::from_ptr((*drop).dbname)
    };
    // SAFETY: catalogue look-ups. The statement itself says what is wrong with a name or a privilege.
    let database = unsafe {
        let database = pg_sys::get_database_oid(name.as_ptr(), true);
        if database == pg_sys::InvalidOid
            || database == pg_sys::MyDatabaseId
            || !pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, pg_sys::GetUserId())
        {
            return;
        }
        database
    };
    BARRED.set(true);
    shared::bar(database).into_iter().for_each(terminate);
    let event = background::wait_event(c"VarveDropDatabase");
    let limit = clock::now() + LIMIT;
    while shared::is_inside(database) && clock::now() < limit {
        pgrx::check_for_interrupts!();
        background::wait(10, event);
        // Those that were on their way.
        shared::bar(database).into_iter().for_each(terminate);
    }
}

/// Whether a statement changes foreign servers or their user mappings: the archiver must know of it.
fn changes_stores(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag as Tag;
    if statement.is_null() {
        return false;
    }
    // SAFETY: a valid parse tree.
    let tag = unsafe { (*statement).type_ };
    matches!(
        tag,
        Tag::T_CreateForeignServerStmt
            | Tag::T_AlterForeignServerStmt
            | Tag::T_CreateUserMappingStmt
            | Tag::T_AlterUserMappingStmt
            | Tag::T_DropUserMappingStmt
    ) || tag == Tag::T_DropStmt
        // SAFETY: as its tag says.
        && unsafe { (*statement.cast::<pg_sys::DropStmt>()).removeType }
            == pg_sys::ObjectType::OBJECT_FOREIGN_SERVER
}

fn terminate(pid: i32) {
    // SAFETY: a process of the server, or none any more.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// Called when a transaction ends.
pub fn forget() {
    if BARRED.replace(false) {
        shared::unbar();
    }
}
