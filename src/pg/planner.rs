//! Asking the planner about columns and groups.

use super::{list, relation};
use pgrx::pg_sys;

/// A column of a base relation of the query, as an expression in the planner's memory.
///
/// # Safety
/// `desc` is the relation's row shape and has the attribute.
pub unsafe fn column(
    rel: *const pg_sys::RelOptInfo,
    desc: pg_sys::TupleDesc,
    attnum: i16,
) -> *mut pg_sys::Expr {
    let attr = relation::attribute(desc, attnum as usize - 1);
    // SAFETY: by contract.
    unsafe {
        pg_sys::makeVar(
            (*rel).relid as i32,
            attnum,
            attr.atttypid,
            attr.atttypmod,
            attr.attcollation,
            0,
        )
        .cast()
    }
}

/// How many groups `rows` rows have by some expressions, as the planner estimates it.
///
/// # Safety
/// The planner's own nodes.
pub unsafe fn num_groups(
    root: *mut pg_sys::PlannerInfo,
    exprs: impl IntoIterator<Item = *mut pg_sys::Expr>,
    rows: f64,
) -> f64 {
    let none = std::ptr::null_mut();
    let exprs = list::of_nodes(exprs.into_iter().map(|e| e.cast::<pg_sys::Node>()));
    // SAFETY: by contract.
    unsafe { pg_sys::estimate_num_groups(root, exprs, rows, none, none.cast()) }
}
