//! Which tables a scan can take values from, as the inner side of a nested loop.
//!
//! A join's condition that compiles to a filter is evaluated on zones and pages with the values of the outer row at hand.
//! As of an index, there is a path for each set of outer tables that give values for columns which segments are sorted by
//! or which have an index. What else the same outer tables have to say goes along with it.

use super::filter::{Compiled, Scope};
use crate::am::directory::Directory;
use crate::pg::{guard, list};
use pgrx::pg_sys;

/// Most paths of a relation: with many joins, the sets of tables would be too many.
const MOST: usize = 16;

/// The sets of outer relations that paths of a relation are to be made for; each has the relation's lateral references.
///
/// # Safety
/// The planner's own nodes.
pub unsafe fn outer_sets(
    root: *mut pg_sys::PlannerInfo,
    rel: &mut pg_sys::RelOptInfo,
    directory: &Directory,
) -> Vec<pg_sys::Relids> {
    let mut sets: Vec<pg_sys::Relids> = Vec::new();
    // SAFETY: by contract.
    unsafe {
        if rel.joininfo.is_null() && !rel.has_eclass_joins {
            return sets;
        }
        let columns = columns(rel, directory);
        for clause in join_clauses(root, rel, &columns) {
            let mut outer = pg_sys::bms_union((*clause).clause_relids, rel.lateral_relids);
            outer = pg_sys::bms_del_member(outer, rel.relid as i32);
            if pg_sys::bms_membership(outer) == pg_sys::BMS_Membership::BMS_EMPTY_SET {
                continue;
            }
            let before = sets.len();
            add(&mut sets, outer);
            for n in 0..before {
                if let Some(other) = sets.get(n) {
                    let both = pg_sys::bms_union(*other, outer);
                    add(&mut sets, both);
                }
            }
        }
    }
    sets
}

/// Adds a set that is not among the others.
///
/// # Safety
/// Sets of the planner's.
unsafe fn add(sets: &mut Vec<pg_sys::Relids>, set: pg_sys::Relids) {
    // SAFETY: by contract.
    let known = sets.iter().any(|s| unsafe { pg_sys::bms_equal(*s, set) });
    if !known && sets.len() < MOST {
        sets.push(set);
    }
}

/// Columns that are worth a path: those that segments are sorted by, and those of indexes, by which other tables' paths
/// (of chunks that are not frozen) are made, too.
///
/// # Safety
/// A relation of the planner's.
unsafe fn columns(rel: &pg_sys::RelOptInfo, directory: &Directory) -> Vec<i16> {
    let mut columns: Vec<i16> = directory
        .first()
        .map(|s| s.header.order.iter().map(|k| k.attnum as i16).collect())
        .unwrap_or_default();
    // SAFETY: by contract.
    columns.extend(unsafe { indexed_columns(rel) });
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The columns of a relation's indexes.
///
/// # Safety
/// A relation of the planner's.
pub unsafe fn indexed_columns(rel: &pg_sys::RelOptInfo) -> Vec<i16> {
    let mut columns = Vec::new();
    // SAFETY: by contract; an index has as many keys as it says.
    unsafe {
        for index in list::nodes::<pg_sys::IndexOptInfo>(rel.indexlist) {
            let keys = std::slice::from_raw_parts(
                (*index).indexkeys,
                (*index).nkeycolumns.max(0) as usize,
            );
            columns.extend(keys.iter().filter(|k| **k > 0).map(|k| *k as i16));
        }
    }
    columns
}

/// The joins' conditions on some columns that the scan can evaluate.
///
/// # Safety
/// The planner's own nodes.
unsafe fn join_clauses(
    root: *mut pg_sys::PlannerInfo,
    rel: &mut pg_sys::RelOptInfo,
    columns: &[i16],
) -> Vec<*mut pg_sys::RestrictInfo> {
    let scope = Scope {
        varno: rel.relid as i32,
        outer: true,
    };
    let mut found: Vec<*mut pg_sys::RestrictInfo> = Vec::new();
    // SAFETY: by contract.
    unsafe {
        for clause in list::nodes::<pg_sys::RestrictInfo>(rel.joininfo) {
            if pg_sys::join_clause_is_movable_to(clause, rel) {
                found.push(clause);
            }
        }
        if rel.has_eclass_joins {
            for attnum in columns {
                let mut attnum = *attnum;
                let implied = pg_sys::generate_implied_equalities_for_column(
                    root,
                    rel,
                    Some(is_column),
                    (&raw mut attnum).cast(),
                    rel.lateral_referencers,
                );
                found.extend(list::nodes::<pg_sys::RestrictInfo>(implied));
            }
        }
        found.retain(|clause| {
            Compiled::new((**clause).clause, &scope)
                .is_some_and(|c| columns.iter().any(|attnum| c.filter.reads(*attnum)))
        });
    }
    found
}

/// Whether a member of an equivalence class is the column that `arg` points to, as the planner asks.
unsafe extern "C-unwind" fn is_column(
    _root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    _class: *mut pg_sys::EquivalenceClass,
    member: *mut pg_sys::EquivalenceMember,
    arg: *mut std::ffi::c_void,
) -> bool {
    guard::entry(|| {
        // SAFETY: the planner's own nodes, and the argument that `join_clauses` gave it.
        unsafe {
            let scope = Scope {
                varno: (*rel).relid as i32,
                outer: true,
            };
            super::filter::column_of((*member).em_expr, &scope) == Some(*arg.cast::<i16>())
        }
    })
}
