//! Offering the columnar scan to the planner.
//!
//! A relation with frozen rows gets a custom path in place of its sequential scan. Index paths it has none (see
//! `hooks::relation_info`); TID paths stay, since WHERE CURRENT OF has no other.

use super::eval::{self, Resolved};
use super::filter::{Compiled, Scope};
use super::node::{Methods, SCAN_METHODS};
use super::order::{self, Offer, Order};
use super::values;
use crate::am::cache;
use crate::am::directory::Directory;
use crate::am::zone::Verdict;
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
        let estimate = Estimate::new(rel, &directory, relation::blocks(table.as_ptr()));
        let path = make_path(root, rel, &estimate, 0, None);
        pg_sys::add_path(rel, path.cast());
        if rel.lateral_relids.is_null() && !reads_ctid(rel) {
            let desc = relation::tupdesc(table.as_ptr());
            for offer in order::useful(root, rel, desc, &directory) {
                let path = make_path(root, rel, &estimate, 0, Some(&offer));
                pg_sys::add_path(rel, path.cast());
            }
        }
        if rel.consider_parallel && rel.lateral_relids.is_null() {
            let pages = estimate.pages.max(1.0);
            let workers = pg_sys::compute_parallel_worker(
                rel,
                pages * estimate.columns,
                -1.0,
                pg_sys::max_parallel_workers_per_gather,
            );
            if workers > 0 {
                let path = make_path(root, rel, &estimate, workers, None);
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

/// Whether the query reads where rows lie, which rows of the delta forget when they are sorted.
///
/// # Safety
/// A base relation of the planner's.
unsafe fn reads_ctid(rel: &pg_sys::RelOptInfo) -> bool {
    // SAFETY: by contract.
    unsafe { reads(rel, pg_sys::SelfItemPointerAttributeNumber as i16) }
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

/// What a scan is expected to do.
pub struct Estimate {
    /// Pages of segments to read.
    pub pages: f64,
    /// Columns to decode of each.
    pub columns: f64,
    /// Blocks of the delta.
    delta_blocks: f64,
}

impl Estimate {
    /// For a relation with frozen rows.
    ///
    /// # Safety
    /// A base relation of the planner's.
    pub unsafe fn new(rel: &pg_sys::RelOptInfo, directory: &Directory, delta_blocks: u32) -> Self {
        let scope = Scope {
            varno: rel.relid as i32,
            outer: false,
        };
        // SAFETY: clauses of the planner's.
        let filters: Vec<(Compiled, Vec<Option<Resolved>>)> = unsafe {
            list::nodes::<pg_sys::RestrictInfo>(rel.baserestrictinfo)
                .filter_map(|clause| Compiled::new((*clause).clause, &scope))
                .map(|compiled| {
                    let values = compiled
                        .values
                        .iter()
                        .map(|v| values::constant(v))
                        .collect();
                    (compiled, values)
                })
                .collect()
        };
        let known: Vec<(Compiled, Vec<Resolved>)> = filters
            .into_iter()
            .filter_map(|(c, v)| Some((c, v.into_iter().collect::<Option<Vec<_>>>()?)))
            .collect();
        let pages: usize = directory
            .iter()
            .filter(|segment| {
                known.iter().all(|(compiled, values)| {
                    let mut zone = |attnum: i16| {
                        segment
                            .column(i32::from(attnum))
                            .map(|(entry, _)| entry.summary.clone())
                    };
                    eval::verdict(&compiled.filter, values, &mut zone) != Verdict::Never
                })
            })
            .map(|segment| segment.pages())
            .sum();
        let all: f64 = directory.iter().map(|s| s.pages()).sum::<usize>() as f64;
        // Rows that satisfy the conditions lie together as a rule, since segments are sorted.
        let share = if rel.tuples > 0.0 {
            (rel.rows / rel.tuples).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let pages = if known.is_empty() {
            pages as f64
        } else {
            (pages as f64).min((all * share * 2.0).max(1.0)).max(0.0)
        };
        // SAFETY: the relation's target list.
        let columns = unsafe { list::cells((*rel.reltarget).exprs).len() };
        Estimate {
            pages,
            columns: (columns as f64).max(1.0),
            delta_blocks: f64::from(delta_blocks),
        }
    }
}

/// # Safety
/// The planner's own nodes.
unsafe fn make_path(
    root: *mut pg_sys::PlannerInfo,
    rel: &mut pg_sys::RelOptInfo,
    estimate: &Estimate,
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
        (*path).path.param_info = pg_sys::get_baserel_parampathinfo(root, rel, rel.lateral_relids);
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
            + estimate.pages * 16.0 * pg_sys::cpu_operator_cost;
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
