//! The aggregating node in parallel plans: one node in each process below Gather, and one above that puts their groups
//! together.

use super::plan::Query;
use super::private::Mode;
use crate::pg::list;
use crate::scan::plan::divisor;
use pgrx::pg_sys;

/// Bytes of a message, about.
const MESSAGE: f64 = 32_768.0;

/// The path that divides the work, where it may be divided and there is enough of it.
///
/// # Safety
/// The planner's own nodes.
pub unsafe fn path(
    root: &mut pg_sys::PlannerInfo,
    input: &mut pg_sys::RelOptInfo,
    query: &Query,
) -> Option<*mut pg_sys::CustomPath> {
    // SAFETY: by contract.
    unsafe {
        if !(*query.output).consider_parallel {
            return None;
        }
        let workers = workers(input, query);
        if workers == 0 {
            return None;
        }
        let divisor = divisor(workers);
        // Each process may have every group.
        let sent = query.groups * divisor;
        let outputs = (query.keys.len() + query.calls.len()) as f64;
        let messages = divisor + sent * outputs * 12.0 / MESSAGE;

        let partial = query.path(Mode::Partial, None);
        let target = pg_sys::create_empty_pathtarget();
        let groups = groups_as_bytes(
            list::of_nodes(query.keys.iter().copied()),
            list::of_nodes(query.calls.iter().copied()),
        );
        pg_sys::add_column_to_pathtarget(target, groups, 0);
        (*target).width = MESSAGE as i32;
        let path = &mut (*partial).path;
        path.pathtarget = target;
        path.parallel_aware = true;
        path.parallel_workers = workers;
        path.rows = pg_sys::clamp_row_est(messages / divisor);
        path.startup_cost = query.work / divisor;
        path.total_cost = path.startup_cost + query.groups * query.each;

        let mut rows = messages;
        let none = std::ptr::null_mut();
        let gather =
            pg_sys::create_gather_path(root, query.output, path, target, none, &raw mut rows);
        let path = query.path(Mode::Final, None);
        (*path).custom_paths = list::of_nodes([gather]);
        let work = (*gather).path.total_cost + sent * (pg_sys::parallel_tuple_cost + query.each);
        query.cost(&mut *path, work, query.groups);
        Some(path)
    }
}

/// How many workers are worth it: as many as PostgreSQL takes to read a heap of so many pages, and no more than there are
/// pieces to take.
///
/// # Safety
/// The planner's own nodes.
unsafe fn workers(input: &mut pg_sys::RelOptInfo, query: &Query) -> i32 {
    let pages: f64 = query.chunks.iter().map(|c| c.pages).sum();
    let pieces: f64 = query.chunks.iter().map(|c| c.pieces).sum();
    // SAFETY: by contract; reads settings.
    unsafe {
        let most = pg_sys::max_parallel_workers_per_gather;
        let workers = pg_sys::compute_parallel_worker(input, pages, -1.0, most);
        let alone = f64::from(u8::from(pg_sys::parallel_leader_participation));
        workers.min((pieces - alone).max(0.0) as i32)
    }
}

/// The groups of a process as one value: what EXPLAIN VERBOSE shows, and how the planner tells the column from others.
///
/// # Safety
/// The planner's own expressions: keys, and aggregate calls.
pub unsafe fn groups_as_bytes(
    keys: *mut pg_sys::List,
    calls: *mut pg_sys::List,
) -> *mut pg_sys::Expr {
    // SAFETY: by contract; nodes in the planner's memory.
    unsafe {
        let calls = list::nodes::<pg_sys::Aggref>(calls).map(|call| {
            let copy = pg_sys::copyObjectImpl(call.cast()).cast::<pg_sys::Aggref>();
            (*copy).aggsplit = pg_sys::AggSplit::AGGSPLIT_INITIAL_SERIAL;
            copy.cast::<pg_sys::Expr>()
        });
        let parts = list::nodes::<pg_sys::Expr>(keys).chain(calls);
        let row: *mut pg_sys::RowExpr = pg_sys::palloc0(size_of::<pg_sys::RowExpr>()).cast();
        (*row).xpr.type_ = pg_sys::NodeTag::T_RowExpr;
        (*row).args = list::of_nodes(parts);
        (*row).row_typeid = pg_sys::RECORDOID;
        (*row).row_format = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        (*row).location = -1;
        pg_sys::makeRelabelType(
            row.cast(),
            pg_sys::BYTEAOID,
            -1,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
        )
        .cast()
    }
}
