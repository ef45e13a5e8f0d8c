//! The command id that makes a thawed row invisible to the running statement, yet changeable by it.
//!
//! A statement that may thaw rows gets a command id of its own, one above that of its snapshot (users can see cmin and
//! cmax, so only where the target has frozen rows). Rows that it thaws carry the id in between: the statement's
//! snapshot still sees the frozen row and not the thawed one, while a lock or an update that follows sees the thawed one.

use super::companion;
use crate::pg::relation;
use pgrx::pg_sys;
use std::cell::RefCell;

thread_local! {
    /// Running statements (by the address of their description) that were stepped, and their command ids.
    static STEPPED: RefCell<Vec<(usize, pg_sys::CommandId)>> = const { RefCell::new(Vec::new()) };
}

/// The command id for a row that a command with id `cid` thaws.
///
/// No living snapshot of the transaction may come to see the row by it. The id before the statement's own is right while the
/// statement is the newest command; once others have run within it (or a cursor was opened after it), their snapshots
/// would see that, so the row gets the newest id, which is stepped over.
pub fn thaw_cid(cid: pg_sys::CommandId) -> pg_sys::CommandId {
    if cid == 0 || !STEPPED.with_borrow(|s| s.iter().any(|(_, c)| *c == cid)) {
        return cid;
    }
    // SAFETY: inside a transaction that writes; ids are stepped as between two statements of a function.
    unsafe {
        if pg_sys::GetCurrentCommandId(false) == cid {
            return cid - 1;
        }
        let newest = pg_sys::GetCurrentCommandId(true);
        pg_sys::CommandCounterIncrement();
        // The caller changes the row with the id after that one.
        pg_sys::GetCurrentCommandId(true);
        newest
    }
}

/// A command of ours that may thaw rows and is no statement of the executor's; stepped until it is dropped.
pub struct Stepped {
    name: usize,
    cid: pg_sys::CommandId,
}

impl Stepped {
    /// Steps the command id. The snapshot that the command goes by was taken before.
    pub fn new() -> Self {
        // Addresses of query descriptors are no small numbers.
        let name = STEPPED.with_borrow(Vec::len) + 1;
        let cid = step(name);
        Stepped { name, cid }
    }

    /// Steps anew where other commands have run since, those of a constraint's function, say.
    pub fn keep_up(&mut self) {
        // SAFETY: reads the state of the transaction.
        if unsafe { pg_sys::GetCurrentCommandId(false) } != self.cid {
            *self = Stepped::new();
        }
    }
}

impl Default for Stepped {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        STEPPED.with_borrow_mut(|s| s.retain(|step| *step != (self.name, self.cid)));
    }
}

fn step(name: usize) -> pg_sys::CommandId {
    // SAFETY: inside a transaction that writes; as between two statements of a function.
    unsafe {
        pg_sys::GetCurrentCommandId(true);
        pg_sys::CommandCounterIncrement();
        let cid = pg_sys::GetCurrentCommandId(true);
        STEPPED.with_borrow_mut(|s| s.push((name, cid)));
        cid
    }
}

/// Forgets the stepped commands of a transaction that is over.
pub fn forget() {
    STEPPED.with_borrow_mut(Vec::clear);
}

/// Whether a target may have frozen rows by the time that the statement comes to it.
fn may_have_frozen(relid: pg_sys::Oid, varve_am: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up that is released; the form is copied out before.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(relid),
        );
        if row.is_null() {
            return false;
        }
        let form = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>();
        pg_sys::ReleaseSysCache(row);
        // Chunks and partitions are locked when the first row is routed to them, and may be frozen until then.
        form.relhassubclass
            || form.relkind == pg_sys::RELKIND_PARTITIONED_TABLE as std::ffi::c_char
            || own_frozen(&form, varve_am)
    }
}

fn own_frozen(form: &pg_sys::FormData_pg_class, varve_am: pg_sys::Oid) -> bool {
    form.relam == varve_am
        && (companion::find_for(form).is_some() || crate::settings::debug_freeze_on_commit())
}

fn may_thaw(statement: &pg_sys::PlannedStmt) -> bool {
    if statement.resultRelations.is_null() && statement.rowMarks.is_null() {
        return false;
    }
    let Some(varve_am) = relation::varve_am() else {
        return false;
    };
    let mut targets: Vec<usize> = Vec::new();
    // SAFETY: lists of a finished plan: integers, and PlanRowMark nodes.
    unsafe {
        let results = statement.resultRelations;
        for i in 0..(if results.is_null() {
            0
        } else {
            (*results).length as usize
        }) {
            targets.push((*(*results).elements.add(i)).int_value as usize);
        }
        let marks = statement.rowMarks;
        for i in 0..(if marks.is_null() {
            0
        } else {
            (*marks).length as usize
        }) {
            let mark = (*(*marks).elements.add(i))
                .ptr_value
                .cast::<pg_sys::PlanRowMark>();
            if (*mark).markType < pg_sys::RowMarkType::ROW_MARK_REFERENCE {
                targets.push((*mark).rti as usize);
            }
        }
        let table = statement.rtable;
        targets.into_iter().any(|rti| {
            if rti == 0 || table.is_null() || rti > (*table).length as usize {
                return false;
            }
            let entry = (*(*table).elements.add(rti - 1))
                .ptr_value
                .cast::<pg_sys::RangeTblEntry>();
            (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                && may_have_frozen((*entry).relid, varve_am)
        })
    }
}

/// Called before ExecutorStart: steps the command id where the statement may thaw rows.
pub fn before_executor_start(query: &pg_sys::QueryDesc, eflags: i32) {
    if eflags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 || query.plannedstmt.is_null() {
        return;
    }
    // SAFETY: a live plan.
    unsafe {
        if pg_sys::IsInParallelMode() || !may_thaw(&*query.plannedstmt) {
            return;
        }
    }
    step(std::ptr::from_ref(query) as usize);
}

/// Called before ExecutorEnd of a statement.
pub fn before_executor_end(query: &pg_sys::QueryDesc) {
    let me = std::ptr::from_ref(query) as usize;
    STEPPED.with_borrow_mut(|s| s.retain(|(q, _)| *q != me));
}
