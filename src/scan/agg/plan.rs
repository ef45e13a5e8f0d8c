//! Offering the aggregating node to the planner.
//!
//! It is offered for grouping queries on one table (with all its chunks) whose keys, aggregates and conditions can be
//! evaluated by columns. Whatever cannot stays PostgreSQL's own aggregate over columnar scans.

use super::estimate::{self, Frozen};
use super::node::SCAN_METHODS;
use super::parallel;
use super::private::{Mode, PATH_METHODS, Top, write_private};
use super::spec::{self, Aggregate, Key};
use super::timescale;
use crate::am::cache;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{guard, list, snapshot};
use crate::scan::estimate::Estimate;
use crate::scan::filter::{Compiled, Scope};
use pgrx::pg_sys;
use std::ffi::c_void;

static mut PREVIOUS: pg_sys::create_upper_paths_hook_type = None;

/// Installs the hook and registers the node; called once from `_PG_init`.
pub fn install() {
    // SAFETY: `_PG_init` runs once, before any backend is at work.
    unsafe {
        PREVIOUS = pg_sys::create_upper_paths_hook;
        pg_sys::create_upper_paths_hook = Some(upper_paths);
        pg_sys::RegisterCustomScanMethods(&raw const SCAN_METHODS.0);
    }
    timescale::install();
}

unsafe extern "C-unwind" fn upper_paths(
    root: *mut pg_sys::PlannerInfo,
    stage: pg_sys::UpperRelationKind::Type,
    input: *mut pg_sys::RelOptInfo,
    output: *mut pg_sys::RelOptInfo,
    extra: *mut c_void,
) {
    // SAFETY: the planner passes valid nodes. The hook before ours is called outside the guard: an error in it passes
    // over a frame that holds nothing.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(root, stage, input, output, extra);
        }
        if stage == pg_sys::UpperRelationKind::UPPERREL_GROUP_AGG {
            guard::entry(|| {
                for path in offer(&mut *root, &mut *input, &mut *output).unwrap_or_default() {
                    pg_sys::add_path(output, path.cast());
                }
            });
        }
    }
}

/// A chunk of the table, for the planner.
pub struct Chunk {
    /// The chunk.
    pub oid: pg_sys::Oid,
    /// Its number in its conditions.
    pub varno: i32,
    /// Its attribute numbers by the parent's.
    pub map: Vec<i32>,
    /// Conditions on its rows.
    pub quals: Vec<*mut pg_sys::Expr>,
    /// Conditions of FILTER.
    pub filters: Vec<*mut pg_sys::Expr>,
    /// Cost of what is read row by row.
    cost: f64,
    /// Cost of decoding frozen rows.
    decoding: f64,
    /// Rows that satisfy the conditions.
    rows: f64,
    /// What is known of the frozen rows, if there are any.
    pub frozen: Option<Frozen>,
    /// Pages of columns to decode and blocks of a heap to read.
    pub pages: f64,
    /// Pages of rows, however many columns are decoded of each.
    row_pages: f64,
    /// Into how much processes can divide it: segments, and some blocks of a heap each.
    pub pieces: f64,
    /// Whether there are frozen rows only and no condition on them.
    whole: bool,
}

/// A query that the node can answer.
pub struct Query {
    /// What the node's rows look like.
    pub target: *mut pg_sys::PathTarget,
    /// The relation of the groups.
    pub output: *mut pg_sys::RelOptInfo,
    /// The table's number in the query.
    pub varno: i32,
    /// The table.
    pub table: pg_sys::Oid,
    /// What rows are grouped by.
    pub keys: Vec<*mut pg_sys::Expr>,
    /// What is computed.
    pub calls: Vec<*mut pg_sys::Aggref>,
    /// What is read.
    pub chunks: Vec<Chunk>,
    /// How many groups are expected.
    pub groups: f64,
    /// Cost of reading everything.
    pub work: f64,
    /// Cost of handing out a group.
    pub each: f64,
}

impl Query {
    /// A path without its costs.
    ///
    /// # Safety
    /// Within planning of the query.
    pub unsafe fn path(&self, mode: Mode, top: Option<&Top>) -> *mut pg_sys::CustomPath {
        // SAFETY: a node of ours in the planner's memory.
        unsafe {
            let path: *mut pg_sys::CustomPath =
                pg_sys::palloc0(size_of::<pg_sys::CustomPath>()).cast();
            (*path).path.type_ = pg_sys::NodeTag::T_CustomPath;
            (*path).path.pathtype = pg_sys::NodeTag::T_CustomScan;
            (*path).path.parent = self.output;
            (*path).path.pathtarget = self.target;
            (*path).path.parallel_safe = (*self.output).consider_parallel && mode != Mode::Final;
            (*path).flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
            (*path).methods = &raw const PATH_METHODS.0;
            (*path).custom_private = write_private(self, mode, top);
            path
        }
    }

    /// Costs of a path that hands out `rows` groups after it has done its work.
    ///
    /// # Safety
    /// A path of ours.
    pub unsafe fn cost(&self, path: &mut pg_sys::CustomPath, work: f64, rows: f64) {
        // SAFETY: the planner's own target.
        let cost = unsafe { (*self.target).cost };
        path.path.rows = rows;
        path.path.startup_cost = work + cost.startup;
        path.path.total_cost = path.path.startup_cost + rows * (self.each + cost.per_tuple);
    }
}

/// # Safety
/// The planner's own nodes.
unsafe fn offer(
    root: &mut pg_sys::PlannerInfo,
    input: &mut pg_sys::RelOptInfo,
    output: &mut pg_sys::RelOptInfo,
) -> Option<Vec<*mut pg_sys::CustomPath>> {
    // SAFETY: by contract.
    unsafe {
        let parse = &*root.parse;
        let grouped = parse.hasAggs || !parse.groupClause.is_null();
        if !crate::settings::columnar_aggregate()
            || !grouped
            || !parse.groupingSets.is_null()
            || parse.hasTargetSRFs
            || !parse.rowMarks.is_null()
            || input.reloptkind != pg_sys::RelOptKind::RELOPT_BASEREL
            || !input.lateral_relids.is_null()
            || pg_sys::is_dummy_rel(input)
        {
            return None;
        }
        let rte = &**root.simple_rte_array.add(input.relid as usize);
        if rte.rtekind != pg_sys::RTEKind::RTE_RELATION || !rte.tablesample.is_null() {
            return None;
        }
        let varno = input.relid as i32;
        let target = *root
            .upper_targets
            .as_ptr()
            .add(pg_sys::UpperRelationKind::UPPERREL_GROUP_AGG as usize);
        let mut keys: Vec<*mut pg_sys::Expr> = Vec::new();
        for clause in list::nodes::<pg_sys::SortGroupClause>(parse.groupClause) {
            let expr = pg_sys::get_sortgroupclause_expr(clause, root.processed_tlist).cast();
            spec::key(expr, varno)?;
            keys.push(expr);
        }
        let mut calls: Vec<*mut pg_sys::Aggref> = Vec::new();
        for expr in list::nodes::<pg_sys::Node>((*target).exprs)
            .chain([parse.havingQual].into_iter().filter(|q| !q.is_null()))
        {
            collect(expr, &keys, &mut calls)?;
        }
        let aggregates: Option<Vec<Aggregate>> = calls
            .iter()
            .map(|call| spec::aggregate(&**call, varno))
            .collect();
        let aggregates = aggregates?;
        if !estimate::distinct_fit(root, input.rows, &keys, &calls, &aggregates) {
            return None;
        }
        let specs: Vec<Key> = keys
            .iter()
            .filter_map(|expr| spec::key(*expr, varno))
            .collect();
        let chunks = chunks(root, input, rte, &aggregates, &specs)?;
        let top = top(root, &chunks, varno, &keys);
        let planned = list::nodes::<pg_sys::Path>(output.pathlist)
            .next()
            .map_or(1.0, |path| (*path).rows);
        let groups = estimate::groups(root, input.rows, &keys, &specs, &chunks, planned);
        // Where headers alone give the answer, nothing else comes near.
        let headers_do = keys.is_empty()
            && aggregates.iter().all(Aggregate::headers_do)
            && chunks.iter().all(|c| c.whole);
        let work: f64 = if headers_do {
            chunks.len() as f64 * pg_sys::cpu_operator_cost
        } else {
            let sum = |of: fn(&Chunk) -> f64| chunks.iter().map(of).sum::<f64>();
            let frozen = chunks.iter().filter(|c| c.frozen.is_some());
            let rows = frozen.map(|c| c.rows).sum();
            let values = estimate::values(rows, keys.len() + calls.len());
            let pages = sum(|c| c.row_pages);
            let share = estimate::decoded(&specs, &aggregates, &chunks, groups, pages);
            sum(|c| c.cost) + (sum(|c| c.decoding) + values) * share
        };
        let outputs = (keys.len() + calls.len()) as f64;
        let query = Query {
            target,
            output,
            varno,
            table: rte.relid,
            keys,
            calls,
            chunks,
            groups,
            work,
            each: pg_sys::cpu_tuple_cost + pg_sys::cpu_operator_cost * outputs,
        };
        let path = query.path(Mode::Whole, None);
        query.cost(&mut *path, work, groups);
        let mut paths = vec![path];
        if let Some(top) = &top {
            // Pages are read from that end on, until there are groups enough.
            let path = query.path(Mode::Whole, Some(top));
            let rows = groups.min(f64::from(top.count));
            (*path).path.pathkeys = root.sort_pathkeys;
            let share = (0.05 + rows / groups.max(1.0)).min(1.0);
            query.cost(&mut *path, work * share, rows);
            paths.push(path);
        }
        if !headers_do {
            paths.extend(parallel::path(root, input, &query));
        }
        Some(paths)
    }
}

/// Pages of a segment, as a rule.
const PAGES_OF_SEGMENT: f64 = 64.0;

/// More groups than that are not looked for from one end.
const MOST: i64 = 10_000;

/// How many rows LIMIT lets through, those that OFFSET leaves out included, where both are constants.
///
/// # Safety
/// A query of the planner's.
unsafe fn limit(parse: &pg_sys::Query) -> Option<i64> {
    // SAFETY: by contract; a node's tag says what it is.
    let constant = |node: *mut pg_sys::Node| unsafe {
        if node.is_null() || list::tag(node) != pg_sys::NodeTag::T_Const {
            return None;
        }
        let constant = &*node.cast::<pg_sys::Const>();
        (!constant.constisnull).then_some(constant.constvalue.value() as i64)
    };
    let offset = if parse.limitOffset.is_null() {
        0
    } else {
        constant(parse.limitOffset)?
    };
    constant(parse.limitCount)?.checked_add(offset.max(0))
}

/// Whether the query wants the first groups only, in the order of a key whose zones say where they are.
///
/// # Safety
/// The planner's own nodes.
unsafe fn top(
    root: &pg_sys::PlannerInfo,
    chunks: &[Chunk],
    varno: i32,
    keys: &[*mut pg_sys::Expr],
) -> Option<Top> {
    // SAFETY: by contract.
    unsafe {
        let parse = &*root.parse;
        let [expr] = keys else {
            return None;
        };
        let sorted = list::cells(root.sort_pathkeys).len() == 1;
        let count = limit(parse)?;
        if !(1..=MOST).contains(&count)
            || !sorted
            || !parse.havingQual.is_null()
            || !parse.distinctClause.is_null()
            || parse.hasWindowFuncs
        {
            return None;
        }
        let column = match spec::key(*expr, varno)? {
            Key::Column(column) | Key::Bucket { column, .. } => column,
            Key::Expression { .. } => return None,
        };
        if column.class != spec::Class::Int {
            return None;
        }
        let pathkey = &*list::nodes::<pg_sys::PathKey>(root.sort_pathkeys).next()?;
        let found = list::nodes::<pg_sys::EquivalenceMember>((*pathkey.pk_eclass).ec_members)
            .map(|m| (*m).em_expr)
            .any(|e| pg_sys::equal(e.cast_const().cast(), expr.cast_const().cast()));
        let descending = match pathkey.pk_strategy as u32 {
            pg_sys::BTLessStrategyNumber => false,
            pg_sys::BTGreaterStrategyNumber => true,
            _ => return None,
        };
        // Zones don't say where NULLs lie. What a chunk allows is its own matter, whatever the table above says.
        let never_null = |chunk: &Chunk| {
            let attnum = chunk.map.get(column.attnum as usize - 1).copied();
            let at = attnum.and_then(|a| usize::try_from(a).ok()?.checked_sub(1));
            let rel = OpenRel::table(chunk.oid, pg_sys::NoLock);
            at.is_some_and(|at| relation::attribute(relation::tupdesc(rel.as_ptr()), at).attnotnull)
        };
        (found && chunks.iter().all(never_null)).then_some(Top {
            count: count as i32,
            descending,
        })
    }
}

struct Collector<'a> {
    keys: &'a [*mut pg_sys::Expr],
    calls: &'a mut Vec<*mut pg_sys::Aggref>,
    failed: bool,
}

/// Collects the aggregates of an expression; `None` where it reads something that is neither of them nor a key.
///
/// # Safety
/// `node` is a valid expression.
unsafe fn collect(
    node: *mut pg_sys::Node,
    keys: &[*mut pg_sys::Expr],
    calls: &mut Vec<*mut pg_sys::Aggref>,
) -> Option<()> {
    let mut collector = Collector {
        keys,
        calls,
        failed: false,
    };
    // SAFETY: by contract.
    unsafe { walk(node, (&raw mut collector).cast()) };
    (!collector.failed).then_some(())
}

unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the walker passes on our own context and valid nodes; a node's tag says what it is.
    unsafe {
        let collector = &mut *context.cast::<Collector>();
        let same = |a: *const c_void, b: *const c_void| pg_sys::equal(a, b);
        if collector
            .keys
            .iter()
            .any(|key| same(key.cast_const().cast(), node.cast_const().cast()))
        {
            return false;
        }
        match list::tag(node) {
            pg_sys::NodeTag::T_Aggref => {
                let known = collector
                    .calls
                    .iter()
                    .any(|call| same(call.cast_const().cast(), node.cast_const().cast()));
                if !known {
                    collector.calls.push(node.cast());
                }
                false
            }
            pg_sys::NodeTag::T_Var
            | pg_sys::NodeTag::T_SubLink
            | pg_sys::NodeTag::T_SubPlan
            | pg_sys::NodeTag::T_AlternativeSubPlan
            | pg_sys::NodeTag::T_GroupingFunc
            | pg_sys::NodeTag::T_PlaceHolderVar => {
                collector.failed = true;
                true
            }
            _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
        }
    }
}

/// The chunks to read; `None` where one can't be read by the node, or none has frozen rows.
///
/// # Safety
/// The planner's own nodes.
unsafe fn chunks(
    root: &mut pg_sys::PlannerInfo,
    input: &mut pg_sys::RelOptInfo,
    rte: &pg_sys::RangeTblEntry,
    aggregates: &[Aggregate],
    keys: &[Key],
) -> Option<Vec<Chunk>> {
    let mut found = Vec::new();
    let mut frozen = false;
    let filters: Vec<*mut pg_sys::Expr> = aggregates
        .iter()
        .map(|a| a.filter)
        .filter(|f| !f.is_null())
        .collect();
    // SAFETY: by contract.
    unsafe {
        if !rte.inh {
            let natts = i32::from(input.max_attr);
            let map = (1..=natts).collect();
            let (chunk, is_frozen) = chunk(root, input, rte.relid, map, filters, keys)?;
            frozen |= is_frozen;
            found.push(chunk);
        } else {
            for info in list::nodes::<pg_sys::AppendRelInfo>(root.append_rel_list) {
                if (*info).parent_relid != input.relid {
                    continue;
                }
                let child_relid = (*info).child_relid as usize;
                let child = *root.simple_rel_array.add(child_relid);
                let child_rte = &**root.simple_rte_array.add(child_relid);
                if child.is_null() || child_rte.inh {
                    return None;
                }
                if pg_sys::is_dummy_rel(child) {
                    continue;
                }
                let map = list::nodes::<pg_sys::Var>((*info).translated_vars)
                    .map(|var| {
                        if var.is_null() {
                            0
                        } else {
                            i32::from((*var).varattno)
                        }
                    })
                    .collect();
                let mut infos = [info];
                let translated = filters
                    .iter()
                    .map(|f| {
                        pg_sys::adjust_appendrel_attrs(root, f.cast(), 1, infos.as_mut_ptr()).cast()
                    })
                    .collect();
                let (chunk, is_frozen) =
                    chunk(root, &mut *child, child_rte.relid, map, translated, keys)?;
                frozen |= is_frozen;
                found.push(chunk);
            }
        }
    }
    (frozen && !found.is_empty()).then_some(found)
}

/// # Safety
/// The planner's own nodes.
unsafe fn chunk(
    root: *mut pg_sys::PlannerInfo,
    rel: &mut pg_sys::RelOptInfo,
    oid: pg_sys::Oid,
    map: Vec<i32>,
    filters: Vec<*mut pg_sys::Expr>,
    keys: &[Key],
) -> Option<(Chunk, bool)> {
    // SAFETY: by contract; the planner holds a lock on the relation.
    unsafe {
        let table = OpenRel::table(oid, pg_sys::NoLock);
        let form = relation::form(table.as_ptr());
        let is_varve = Some(form.relam) == relation::varve_am();
        if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char
            || !(is_varve || form.relam == relation::HEAP_AM)
        {
            return None;
        }
        let latest = snapshot::Registered::latest();
        let directory = if is_varve {
            cache::directory_for(table.as_ptr(), latest.get())
        } else {
            None
        };
        let scope = Scope {
            varno: rel.relid as i32,
            outer: false,
        };
        let mut quals = Vec::new();
        for clause in list::nodes::<pg_sys::RestrictInfo>(rel.baserestrictinfo) {
            let expr = (*clause).clause;
            let fits = if directory.is_some() {
                Compiled::new(expr, &scope).is_some()
            } else {
                !pg_sys::contain_subplans(expr.cast())
            };
            if (*clause).pseudoconstant || !fits {
                return None;
            }
            quals.push(expr);
        }
        let blocks = relation::blocks(table.as_ptr());
        let mut cost = f64::from(blocks) * pg_sys::seq_page_cost;
        let mut decoding = 0.0;
        let mut pages = f64::from(blocks);
        let mut row_pages = 0.0;
        let mut pieces = f64::from(blocks / 64);
        match &directory {
            Some(directory) => {
                let estimate = Estimate::new(root, rel, directory, blocks, std::ptr::null());
                decoding = estimate.pages * estimate.columns * 0.2 * pg_sys::seq_page_cost;
                pages += estimate.pages * estimate.columns;
                row_pages = estimate.pages;
                pieces += (estimate.pages / PAGES_OF_SEGMENT).ceil();
                let delta =
                    rel.tuples - directory.iter().map(|s| s.live_at_birth()).sum::<u64>() as f64;
                cost += delta.max(0.0) * (pg_sys::cpu_tuple_cost + rel.baserestrictcost.per_tuple);
            }
            None => {
                cost += rel.tuples * (pg_sys::cpu_tuple_cost + rel.baserestrictcost.per_tuple)
                    + rel.rows * pg_sys::cpu_operator_cost;
            }
        }
        let frozen = directory.as_deref().map(|d| Frozen::new(d, keys, &map));
        let chunk = Chunk {
            oid,
            varno: rel.relid as i32,
            map,
            decoding,
            rows: rel.rows,
            frozen,
            whole: quals.is_empty() && directory.is_some() && blocks <= 1,
            quals,
            filters,
            cost,
            pages,
            row_pages,
            pieces,
        };
        Some((chunk, directory.is_some()))
    }
}
