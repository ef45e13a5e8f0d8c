//! Offering the columnar scan to the planner.
//!
//! A relation with frozen rows gets a custom path in place of its sequential scan. Index paths it has none (see
//! `hooks::relation_info`); TID paths stay, since WHERE CURRENT OF has no other.

use super::estimate::Estimate;
use super::filter::{Compiled, Scope};
use super::inner;
use super::left_out;
use super::node::{Methods, SCAN_METHODS};
use super::order::{self, Offer, Order};
use crate::am::cache;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{guard, list, snapshot};
use pgrx::pg_sys;
use std::ffi::CStr;

/// What the node is called in EXPLAIN.
pub const NAME: &CStr = c"VarveScan";

static PATH_METHODS: Methods<pg_sys::CustomPathMethods> = Methods(pg_sys::CustomPathMethods {
    CustomName: NAME.as_ptr(),
    PlanCustomPath: Some(make_plan),
    ReparameterizeCustomPathByChild: None,
});

static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;

/// Installs the hook and registers the node; called once from `_PG_init`.
pub fn install() {
    // SAFETY: `_PG_init` runs once, before any backend is at work.
    unsafe {
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(relation_paths);
        pg_sys::RegisterCustomScanMethods(&raw const SCAN_METHODS.0);
    }
}

unsafe extern "C-unwind" fn relation_paths(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner passes valid nodes. The hook before ours is called outside the guard: an error in it passes
    // over a frame that holds nothing.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(root, rel, rti, rte);
        }
        guard::entry(|| offer(root, &mut *rel, &*rte));
    }
}

/// # Safety
/// The planner's own nodes.
unsafe fn offer(
    root: *mut pg_sys::PlannerInfo,
    rel: &mut pg_sys::RelOptInfo,
    rte: &pg_sys::RangeTblEntry,
) {
    let plain = rte.rtekind == pg_sys::RTEKind::RTE_RELATION
        && !rte.inh
        && rte.tablesample.is_null()
        && (rel.reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL
            || rel.reloptkind == pg_sys::RelOptKind::RELOPT_OTHER_MEMBER_REL);
    // SAFETY: by contract.
    if plain && unsafe { left_out::is_left_out(root, rte.relid) } {
        // SAFETY: a relation of the planner's, which chooses among its paths afterwards.
        unsafe { pg_sys::mark_dummy_rel(rel) };
        return;
    }
    if !plain || !crate::settings::columnar_scan() {
        return;
    }
    let Some(varve_am) = relation::varve_am() else {
        return;
    };
    // SAFETY: the planner holds a lock on the relation.
    unsafe {
        if pg_sys::is_dummy_rel(rel) {
            return;
        }
        let table = OpenRel::table(rte.relid, pg_sys::NoLock);
        if relation::form(table.as_ptr()).relam != varve_am || reads_headers(rel) {
            return;
        }
        let latest = snapshot::Registered::latest();
        let Some(directory) = cache::directory_for(table.as_ptr(), latest.get()) else {
            return;
        };
        without_sequential(&mut rel.pathlist);
        without_sequential(&mut rel.partial_pathlist);
        let delta_blocks = relation::blocks(table.as_ptr());
        let lateral = pg_sys::get_baserel_parampathinfo(root, rel, rel.lateral_relids);
        let estimate = Estimate::new(root, rel, &directory, delta_blocks, lateral);
        let path = make_path(rel, &estimate, lateral, 0, None);
        pg_sys::add_path(rel, path.cast());
        for outer in inner::outer_sets(root, rel, &directory) {
            let param = pg_sys::get_baserel_parampathinfo(root, rel, outer);
            let estimate = Estimate::new(root, rel, &directory, delta_blocks, param);
            let path = make_path(rel, &estimate, param, 0, None);
            pg_sys::add_path(rel, path.cast());
        }
        // The planner does not look at the order of a path with parameters.
        if lateral.is_null() {
            let desc = relation::tupdesc(table.as_ptr());
            for offer in order::useful(root, rel, desc, &directory) {
                let path = make_path(rel, &estimate, lateral, 0, Some(&offer));
                pg_sys::add_path(rel, path.cast());
            }
        }
        if rel.consider_parallel && lateral.is_null() {
            let pages = estimate.pages.max(1.0);
            let workers = pg_sys::compute_parallel_worker(
                rel,
                pages * estimate.columns,
                -1.0,
                pg_sys::max_parallel_workers_per_gather,
            );
            if workers > 0 {
                let path = make_path(rel, &estimate, lateral, workers, None);
                pg_sys::add_partial_path(rel, path.cast());
            }
        }
    }
}

/// Whether the query reads what only a heap tuple has: xmin and the like.
///
/// # Safety
/// A base relation of the planner's.
unsafe fn reads_headers(rel: &pg_sys::RelOptInfo) -> bool {
    let others = |attno: &i16| {
        i32::from(*attno) != pg_sys::SelfItemPointerAttributeNumber
            && i32::from(*attno) != pg_sys::TableOidAttributeNumber
    };
    // SAFETY: by contract.
    (rel.min_attr..0)
        .filter(others)
        .any(|attno| unsafe { reads(rel, attno) })
}

/// Whether an attribute is read by the query, by conditions on the relation, or by what is to become of its rows: the
/// chunks of a table that is updated are asked for ctid in their target lists alone.
///
/// # Safety
/// A base relation of the planner's, and one of its attributes.
unsafe fn reads(rel: &pg_sys::RelOptInfo, attno: i16) -> bool {
    let member = i32::from(attno) - pg_sys::FirstLowInvalidHeapAttributeNumber;
    // SAFETY: one entry for each attribute from min_attr on; clauses and targets of the planner's.
    unsafe {
        let needed = *rel.attr_needed.add((attno - rel.min_attr) as usize);
        let mut read = std::ptr::null_mut();
        pg_sys::pull_varattnos((*rel.reltarget).exprs.cast(), rel.relid, &mut read);
        for clause in list::nodes::<pg_sys::RestrictInfo>(rel.baserestrictinfo) {
            pg_sys::pull_varattnos((*clause).clause.cast(), rel.relid, &mut read);
        }
        !needed.is_null() || pg_sys::bms_is_member(member, read)
    }
}

/// Takes sequential scans out of a list of paths.
///
/// # Safety
/// A list of paths of the planner's.
unsafe fn without_sequential(paths: &mut *mut pg_sys::List) {
    // SAFETY: by contract.
    unsafe {
        let rest = list::nodes::<pg_sys::Path>(*paths)
            .filter(|path| (**path).pathtype != pg_sys::NodeTag::T_SeqScan);
        *paths = list::of_nodes(rest);
    }
}

/// # Safety
/// The planner's own nodes; `param` is NULL for a path without parameters.
unsafe fn make_path(
    rel: &mut pg_sys::RelOptInfo,
    estimate: &Estimate,
    param: *mut pg_sys::ParamPathInfo,
    workers: i32,
    offer: Option<&Offer>,
) -> *mut pg_sys::CustomPath {
    // SAFETY: a node of ours in the planner's memory.
    unsafe {
        let path: *mut pg_sys::CustomPath = pg_sys::palloc0(size_of::<pg_sys::CustomPath>()).cast();
        (*path).path.type_ = pg_sys::NodeTag::T_CustomPath;
        (*path).path.pathtype = pg_sys::NodeTag::T_CustomScan;
        (*path).path.parent = rel;
        (*path).path.pathtarget = rel.reltarget;
        (*path).path.param_info = param;
        (*path).path.parallel_aware = workers > 0;
        (*path).path.parallel_safe = rel.consider_parallel;
        (*path).path.parallel_workers = workers;
        (*path).path.pathkeys = offer.map_or(std::ptr::null_mut(), |o| o.pathkeys);
        (*path).flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
        if offer.is_none() {
            (*path).flags |= pg_sys::CUSTOMPATH_SUPPORT_BACKWARD_SCAN;
        }
        (*path).methods = &raw const PATH_METHODS.0;
        (*path).custom_private = Order::write(offer.map(|o| &o.order));
        let rows = offer.and_then(|o| o.rows);
        cost(&mut *path, rel, estimate, workers, rows);
        // As a sort in memory costs; conditions leave fewer of these rows too, which is not reckoned with.
        let late = offer.map_or(0.0, |o| o.late);
        let sort = 2.0 * pg_sys::cpu_operator_cost * late * late.max(2.0).log2();
        (*path).path.startup_cost += sort;
        (*path).path.total_cost += sort;
        path
    }
}

/// Processes' worth of work that workers and the leader do, as the planner reckons.
pub fn divisor(workers: i32) -> f64 {
    let mut divisor = f64::from(workers);
    // SAFETY: reads a setting.
    if unsafe { pg_sys::parallel_leader_participation } {
        divisor += (1.0 - 0.3 * f64::from(workers)).max(0.0);
    }
    divisor.max(1.0)
}

/// # Safety
/// The planner's own nodes.
unsafe fn cost(
    path: &mut pg_sys::CustomPath,
    rel: &pg_sys::RelOptInfo,
    estimate: &Estimate,
    workers: i32,
    only: Option<f64>,
) {
    // SAFETY: reads settings and nodes.
    unsafe {
        let rows = match only {
            Some(rows) => rows,
            None if path.path.param_info.is_null() => rel.rows,
            None => (*path.path.param_info).ppi_rows,
        };
        let target = &(*rel.reltarget).cost;
        // Reading and decoding a page of a column takes about as long as reading a page of a heap; what is left of the
        // conditions, and the rows, cost what they cost anywhere.
        let io = (estimate.pages * estimate.columns * 0.5 + estimate.delta_blocks)
            * pg_sys::seq_page_cost;
        let cpu = rows * (pg_sys::cpu_tuple_cost + rel.baserestrictcost.per_tuple)
            + (estimate.pages * 16.0 + estimate.tests) * pg_sys::cpu_operator_cost;
        let divisor = if workers > 0 { divisor(workers) } else { 1.0 };
        path.path.rows = pg_sys::clamp_row_est(rows / divisor);
        path.path.startup_cost = rel.baserestrictcost.startup + target.startup;
        path.path.total_cost =
            path.path.startup_cost + (io + cpu) / divisor + target.per_tuple * path.path.rows;
    }
}

/// What a plan hands to its node: attribute numbers to read, and the order in which rows leave.
fn write_private(needed: &[i16], order: *mut pg_sys::List) -> *mut pg_sys::List {
    list::of_nodes([
        list::of_integers(needed.iter().map(|a| i32::from(*a))),
        order,
    ])
}

/// The reverse of [`write_private`].
///
/// # Safety
/// A list that [`write_private`] made, or a copy of it.
pub unsafe fn read_private(private: *mut pg_sys::List) -> (Vec<i16>, Option<Order>) {
    // SAFETY: by contract.
    unsafe {
        let mut parts = list::nodes::<pg_sys::List>(private);
        let needed = parts.next().unwrap_or(std::ptr::null_mut());
        let order = parts.next().unwrap_or(std::ptr::null_mut());
        (
            list::integers(needed).map(|a| a as i16).collect(),
            Order::read(order),
        )
    }
}

unsafe extern "C-unwind" fn make_plan(
    _root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    best: *mut pg_sys::CustomPath,
    tlist: *mut pg_sys::List,
    clauses: *mut pg_sys::List,
    plans: *mut pg_sys::List,
) -> *mut pg_sys::Plan {
    guard::entry(|| {
        // SAFETY: the planner's own nodes; the plan is made in its memory.
        unsafe {
            let relid = (*rel).relid;
            let scope = Scope {
                varno: relid as i32,
                outer: true,
            };
            let clauses = pg_sys::extract_actual_clauses(clauses, false);
            let (pushed, kept): (Vec<_>, Vec<_>) = list::nodes::<pg_sys::Expr>(clauses)
                .partition(|clause| Compiled::new(*clause, &scope).is_some());
            let kept = list::of_nodes(kept);
            let mut read: *mut pg_sys::Bitmapset = std::ptr::null_mut();
            // The list at hand may be left open, to be replaced by the caller with one that reads what the relation gives.
            pg_sys::pull_varattnos((*(*rel).reltarget).exprs.cast(), relid, &mut read);
            pg_sys::pull_varattnos(tlist.cast(), relid, &mut read);
            pg_sys::pull_varattnos(kept.cast(), relid, &mut read);
            let scan: *mut pg_sys::CustomScan =
                pg_sys::palloc0(size_of::<pg_sys::CustomScan>()).cast();
            (*scan).scan.plan.type_ = pg_sys::NodeTag::T_CustomScan;
            (*scan).scan.plan.targetlist = tlist;
            (*scan).scan.plan.qual = kept;
            (*scan).scan.scanrelid = relid;
            (*scan).flags = (*best).flags;
            (*scan).custom_plans = plans;
            (*scan).custom_exprs = list::of_nodes(pushed);
            (*scan).custom_private = write_private(&attributes(rel, read), (*best).custom_private);
            (*scan).methods = &raw const SCAN_METHODS.0;
            scan.cast()
        }
    })
}

/// The attribute numbers in a set as `pull_varattnos` makes it; all of them where it has the whole row.
///
/// # Safety
/// A relation of the planner's, and a set of its attributes.
unsafe fn attributes(rel: *mut pg_sys::RelOptInfo, set: *mut pg_sys::Bitmapset) -> Vec<i16> {
    let offset = pg_sys::FirstLowInvalidHeapAttributeNumber;
    // SAFETY: by contract.
    unsafe {
        let whole = pg_sys::bms_is_member(-offset, set);
        (1..=(*rel).max_attr)
            .filter(|attno| whole || pg_sys::bms_is_member(i32::from(*attno) - offset, set))
            .collect()
    }
}
