//! Which columns the running statements give for sinks. A trigger sees a row with NULLs for the others; but a column that
//! was not given keeps its stored value, or takes its default.

use crate::pg::list;
use crate::pg::relation;
use pgrx::pg_sys;
use std::cell::RefCell;

/// What one statement gives for one view.
struct Given {
    /// The statement: its query descriptor, or its parse tree.
    statement: usize,
    view: pg_sys::Oid,
    /// Attribute numbers; `None` for all.
    columns: Option<Vec<i16>>,
    /// The level of nested transactions at which it runs.
    level: i32,
}

thread_local! {
    static GIVEN: RefCell<Vec<Given>> = const { RefCell::new(Vec::new()) };
}

fn level() -> i32 {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Called before a statement starts: notes the columns of each view that it inserts into.
///
/// # Safety
/// A live plan.
pub unsafe fn before_query(query: &pg_sys::QueryDesc) {
    let statement = std::ptr::from_ref(query) as usize;
    // SAFETY: by contract; result relations are numbers of the plan's range table, which starts at 1.
    unsafe {
        let Some(plan) = query.plannedstmt.as_ref() else {
            return;
        };
        for number in list::integers(plan.resultRelations) {
            let mut entries = list::nodes::<pg_sys::RangeTblEntry>(plan.rtable);
            let Some(entry) = entries.nth(number as usize - 1).and_then(|e| e.as_ref()) else {
                continue;
            };
            if entry.relkind != pg_sys::RELKIND_VIEW as std::ffi::c_char || entry.perminfoindex == 0
            {
                continue;
            }
            let at = entry.perminfoindex as usize - 1;
            let mut infos = list::nodes::<pg_sys::RTEPermissionInfo>(plan.permInfos);
            let Some(info) = infos.nth(at).and_then(|i| i.as_ref()) else {
                continue;
            };
            if info.requiredPerms & u64::from(pg_sys::ACL_INSERT) != 0 {
                note(statement, entry.relid, Some(members(info.insertedCols)));
            }
        }
    }
}

/// Called when a statement has ended.
pub fn after_query(query: &pg_sys::QueryDesc) {
    forget(std::ptr::from_ref(query) as usize);
}

/// Called before a utility command: notes the columns of a COPY into a view. `None` where it is no such command, else what
/// [`after_copy`] wants back.
///
/// # Safety
/// A live parse tree.
pub unsafe fn before_copy(statement: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: by contract; COPY looks the relation up again, and locks it.
    unsafe {
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_CopyStmt {
            return None;
        }
        let copy = &*statement.cast::<pg_sys::CopyStmt>();
        if !copy.is_from || copy.relation.is_null() {
            return None;
        }
        let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
        let view = pg_sys::RangeVarGetRelidExtended(
            copy.relation,
            pg_sys::NoLock as i32,
            missing_ok,
            None,
            std::ptr::null_mut(),
        );
        if view == pg_sys::InvalidOid
            || pg_sys::get_rel_relkind(view) != pg_sys::RELKIND_VIEW as std::ffi::c_char
        {
            return None;
        }
        let columns = (!copy.attlist.is_null()).then(|| {
            list::nodes::<pg_sys::String>(copy.attlist)
                .map(|name| pg_sys::get_attnum(view, (*name).sval))
                .collect()
        });
        note(statement as usize, view, columns);
        Some(statement as usize)
    }
}

/// Called after such a command.
pub fn after_copy(statement: usize) {
    forget(statement);
}

fn note(statement: usize, view: pg_sys::Oid, columns: Option<Vec<i16>>) {
    let level = level();
    GIVEN.with_borrow_mut(|all| {
        all.push(Given {
            statement,
            view,
            columns,
            level,
        });
    });
}

fn forget(statement: usize) {
    GIVEN.with_borrow_mut(|all| all.retain(|g| g.statement != statement));
}

/// Forgets the statements of transactions that are over: those at this level and within.
pub fn forget_from(level: i32) {
    GIVEN.with_borrow_mut(|all| all.retain(|g| g.level < level));
}

/// Attribute numbers of a set as permission checks have it.
unsafe fn members(set: *mut pg_sys::Bitmapset) -> Vec<i16> {
    let mut found = Vec::new();
    let mut member = -1;
    loop {
        // SAFETY: a set of a live plan.
        member = unsafe { pg_sys::bms_next_member(set, member) };
        if member < 0 {
            return found;
        }
        found.push((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16);
    }
}

/// What a statement gives.
pub enum Columns {
    /// All columns of the view.
    All,
    /// These attribute numbers.
    Some(Vec<i16>),
    /// Two parts of the statement give different ones.
    Mixed,
}

/// The columns that the innermost statement which inserts into a view gives.
pub fn for_view(view: pg_sys::Relation) -> Columns {
    let oid = relation::oid(view);
    GIVEN.with_borrow(|all| {
        let Some(last) = all.iter().rev().find(|g| g.view == oid) else {
            return Columns::All;
        };
        let mut same = all
            .iter()
            .filter(|g| g.view == oid && g.statement == last.statement);
        if same.any(|g| g.columns != last.columns) {
            return Columns::Mixed;
        }
        match &last.columns {
            None => Columns::All,
            Some(columns) => Columns::Some(columns.clone()),
        }
    })
}
