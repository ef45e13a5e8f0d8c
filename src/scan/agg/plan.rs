//! Offering the aggregating node to the planner.
//!
//! It is offered for grouping queries on one table (with all its chunks) whose keys, aggregates and conditions can be
//! evaluated by columns. Whatever cannot stays PostgreSQL's own aggregate over columnar scans.

use super::node::SCAN_METHODS;
use super::spec::{self, Aggregate, Key};
use crate::am::cache;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{guard, list, snapshot};
use crate::scan::filter::{Compiled, Scope};
use crate::scan::node::Methods;
use crate::scan::plan::Estimate;
use pgrx::pg_sys;
use std::ffi::{CStr, c_void};

/// What the node is called in EXPLAIN.
pub const NAME: &CStr = c"VarveAggregate";

static PATH_METHODS: Methods<pg_sys::CustomPathMethods> = Methods(pg_sys::CustomPathMethods {
    CustomName: NAME.as_ptr(),
    PlanCustomPath: Some(make_plan),
    ReparameterizeCustomPathByChild: None,
});

static mut PREVIOUS: pg_sys::create_upper_paths_hook_type = None;

/// Installs the hook and registers the node; called once from `_PG_init`.
pub fn install() {
    // SAFETY: `_PG_init` runs once, before any backend is at work.
    unsafe {
        PREVIOUS = pg_sys::create_upper_paths_hook;
        pg_sys::create_upper_paths_hook = Some(upper_paths);
        pg_sys::RegisterCustomScanMethods(&raw const SCAN_METHODS.0);
    }
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
struct Chunk {
    oid: pg_sys::Oid,
    varno: i32,
    map: Vec<i32>,
    quals: Vec<*mut pg_sys::Expr>,
    filters: Vec<*mut pg_sys::Expr>,
    cost: f64,
    /// Whether there are frozen rows only and no condition on them.
    whole: bool,
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
        let chunks = chunks(root, input, rte, &aggregates)?;
        let top = top(root, rte.relid, varno, &keys);
        let parent: *mut pg_sys::RelOptInfo = output;
        let make = |top: Option<&Top>| {
            let path: *mut pg_sys::CustomPath =
                pg_sys::palloc0(size_of::<pg_sys::CustomPath>()).cast();
            (*path).path.type_ = pg_sys::NodeTag::T_CustomPath;
            (*path).path.pathtype = pg_sys::NodeTag::T_CustomScan;
            (*path).path.parent = parent;
            (*path).path.pathtarget = target;
            (*path).path.parallel_safe = false;
            (*path).flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
            (*path).methods = &raw const PATH_METHODS.0;
            (*path).custom_private = write_private(varno, rte.relid, &keys, &calls, &chunks, top);
            path
        };
        let groups = list::nodes::<pg_sys::Path>(output.pathlist)
            .next()
            .map_or(1.0, |path| (*path).rows);
        // Where headers alone give the answer, nothing else comes near.
        let headers_do = keys.is_empty()
            && aggregates.iter().all(Aggregate::headers_do)
            && chunks.iter().all(|c| c.whole);
        let work: f64 = if headers_do {
            chunks.len() as f64 * pg_sys::cpu_operator_cost
        } else {
            chunks.iter().map(|c| c.cost).sum()
        };
        let each =
            pg_sys::cpu_tuple_cost + pg_sys::cpu_operator_cost * (keys.len() + calls.len()) as f64;
        let cost = &(*target).cost;
        let path = make(None);
        (*path).path.rows = groups;
        (*path).path.startup_cost = work + cost.startup;
        (*path).path.total_cost = (*path).path.startup_cost + groups * (each + cost.per_tuple);
        let mut paths = vec![path];
        if let Some(top) = &top {
            // Pages are read from that end on, until there are groups enough.
            let path = make(Some(top));
            let rows = groups.min(f64::from(top.count));
            (*path).path.rows = rows;
            (*path).path.pathkeys = root.sort_pathkeys;
            (*path).path.startup_cost =
                work * (0.05 + rows / groups.max(1.0)).min(1.0) + cost.startup;
            (*path).path.total_cost = (*path).path.startup_cost + rows * (each + cost.per_tuple);
            paths.push(path);
        }
        Some(paths)
    }
}

/// The first groups only, in the order of the one key.
pub struct Top {
    /// How many.
    pub count: i32,
    /// From the greatest on.
    pub descending: bool,
}

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
    table: pg_sys::Oid,
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
        let rel = OpenRel::table(table, pg_sys::NoLock);
        let desc = relation::tupdesc(rel.as_ptr());
        if !relation::attribute(desc, column.attnum as usize - 1).attnotnull {
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
        found.then_some(Top {
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
            let (chunk, is_frozen) = chunk(root, input, rte.relid, map, filters)?;
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
                    chunk(root, &mut *child, child_rte.relid, map, translated)?;
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
    root: &mut pg_sys::PlannerInfo,
    rel: &mut pg_sys::RelOptInfo,
    oid: pg_sys::Oid,
    map: Vec<i32>,
    filters: Vec<*mut pg_sys::Expr>,
) -> Option<(Chunk, bool)> {
    let _ = root;
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
        match &directory {
            Some(directory) => {
                let estimate = Estimate::new(rel, directory, blocks);
                cost += estimate.pages * estimate.columns * 0.2 * pg_sys::seq_page_cost;
                let delta =
                    rel.tuples - directory.iter().map(|s| s.live_at_birth()).sum::<u64>() as f64;
                cost += delta.max(0.0) * (pg_sys::cpu_tuple_cost + rel.baserestrictcost.per_tuple);
            }
            None => {
                cost += rel.tuples * (pg_sys::cpu_tuple_cost + rel.baserestrictcost.per_tuple)
                    + rel.rows * pg_sys::cpu_operator_cost;
            }
        }
        let chunk = Chunk {
            oid,
            varno: rel.relid as i32,
            map,
            whole: quals.is_empty() && directory.is_some() && blocks <= 1,
            quals,
            filters,
            cost,
        };
        Some((chunk, directory.is_some()))
    }
}

fn oids(oid: pg_sys::Oid) -> *mut pg_sys::List {
    // SAFETY: makes a list of one.
    unsafe { pg_sys::lappend_oid(std::ptr::null_mut(), oid) }
}

fn write_private(
    varno: i32,
    table: pg_sys::Oid,
    keys: &[*mut pg_sys::Expr],
    calls: &[*mut pg_sys::Aggref],
    chunks: &[Chunk],
    top: Option<&Top>,
) -> *mut pg_sys::List {
    let children = chunks.iter().map(|chunk| {
        let numbers = std::iter::once(chunk.varno).chain(chunk.map.iter().copied());
        list::of_nodes([
            oids(chunk.oid),
            list::of_integers(numbers),
            list::of_nodes(chunk.quals.iter().copied()),
            list::of_nodes(chunk.filters.iter().copied()),
        ])
    });
    let top = top.map_or([0, 0], |t| [t.count, i32::from(t.descending)]);
    list::of_nodes([
        list::of_integers([varno, top[0], top[1]]),
        oids(table),
        list::of_nodes(keys.iter().copied()),
        list::of_nodes(calls.iter().copied()),
        list::of_nodes(children),
    ])
}

/// A chunk, out of a plan.
pub struct ChildPlan {
    /// The chunk.
    pub oid: pg_sys::Oid,
    /// Its number in its conditions.
    pub varno: i32,
    /// Its attribute numbers by the parent's.
    pub map: Vec<i16>,
    /// Conditions on its rows.
    pub quals: Vec<*mut pg_sys::Expr>,
    /// Conditions of FILTER, in the order of the aggregates that have one.
    pub filters: Vec<*mut pg_sys::Expr>,
}

/// What a plan asks for.
pub struct Spec {
    /// The table.
    pub table: pg_sys::Oid,
    /// What rows are grouped by.
    pub keys: Vec<Key>,
    /// What is computed.
    pub aggregates: Vec<Aggregate>,
    /// What is read.
    pub children: Vec<ChildPlan>,
    /// Set where only the first groups are wanted.
    pub top: Option<Top>,
}

/// # Safety
/// A list of object identifiers.
unsafe fn first_oid(list: *const pg_sys::List) -> pg_sys::Oid {
    // SAFETY: by contract.
    unsafe {
        list::cells(list)
            .first()
            .map_or(pg_sys::InvalidOid, |cell| cell.oid_value)
    }
}

/// The reverse of `write_private`.
///
/// # Safety
/// A list that it made, or a copy of it.
pub unsafe fn read_private(private: *mut pg_sys::List) -> Spec {
    // SAFETY: by contract.
    unsafe {
        let part = |list: *mut pg_sys::List, n: usize| -> *mut pg_sys::List {
            list::nodes(list).nth(n).unwrap_or(std::ptr::null_mut())
        };
        let numbers: Vec<i32> = list::integers(part(private, 0)).collect();
        let [varno, count, descending] = numbers[..] else {
            pgrx::error!("a plan of varve's is not what it was made as");
        };
        let children = list::nodes::<pg_sys::List>(part(private, 4)).map(|child| {
            let mut numbers = list::integers(part(child, 1));
            ChildPlan {
                oid: first_oid(part(child, 0)),
                varno: numbers.next().unwrap_or(0),
                map: numbers.map(|n| n as i16).collect(),
                quals: list::nodes(part(child, 2)).collect(),
                filters: list::nodes(part(child, 3)).collect(),
            }
        });
        Spec {
            table: first_oid(part(private, 1)),
            keys: list::nodes::<pg_sys::Expr>(part(private, 2))
                .filter_map(|expr| spec::key(expr, varno))
                .collect(),
            aggregates: list::nodes::<pg_sys::Aggref>(part(private, 3))
                .filter_map(|call| spec::aggregate(&*call, varno))
                .collect(),
            children: children.collect(),
            top: (count > 0).then_some(Top {
                count,
                descending: descending != 0,
            }),
        }
    }
}

unsafe extern "C-unwind" fn make_plan(
    root: *mut pg_sys::PlannerInfo,
    _rel: *mut pg_sys::RelOptInfo,
    best: *mut pg_sys::CustomPath,
    tlist: *mut pg_sys::List,
    _clauses: *mut pg_sys::List,
    _plans: *mut pg_sys::List,
) -> *mut pg_sys::Plan {
    guard::entry(|| {
        // SAFETY: the planner's own nodes; the plan is made in its memory.
        unsafe {
            let private = (*best).custom_private;
            let part = |n: usize| -> *mut pg_sys::List {
                list::nodes(private).nth(n).unwrap_or(std::ptr::null_mut())
            };
            let outputs = list::nodes::<pg_sys::Expr>(part(2)).chain(list::nodes(part(3)));
            let outputs = outputs.enumerate().map(|(at, expr)| {
                pg_sys::makeTargetEntry(
                    pg_sys::copyObjectImpl(expr.cast()).cast(),
                    at as i16 + 1,
                    std::ptr::null_mut(),
                    false,
                )
            });
            // Values that conditions compare with depend on parameters, which the executor has to know of.
            let mut values = Vec::new();
            for child in list::nodes::<pg_sys::List>(part(4)) {
                let mut parts = list::nodes::<pg_sys::List>(child);
                let varno = parts
                    .nth(1)
                    .and_then(|n| list::integers(n).next())
                    .unwrap_or(0);
                let scope = Scope {
                    varno,
                    outer: false,
                };
                for clause in parts.flat_map(|clauses| list::nodes::<pg_sys::Expr>(clauses)) {
                    if let Some(compiled) = Compiled::new(clause, &scope) {
                        values.extend(
                            compiled
                                .values
                                .iter()
                                .filter(|v| list::tag(v.expr) != pg_sys::NodeTag::T_Const)
                                .map(|v| v.expr),
                        );
                    }
                }
            }
            let scan: *mut pg_sys::CustomScan =
                pg_sys::palloc0(size_of::<pg_sys::CustomScan>()).cast();
            (*scan).scan.plan.type_ = pg_sys::NodeTag::T_CustomScan;
            (*scan).scan.plan.targetlist = tlist;
            (*scan).scan.plan.qual = (*(*root).parse).havingQual.cast();
            (*scan).flags = (*best).flags;
            (*scan).custom_exprs = list::of_nodes(values);
            (*scan).custom_scan_tlist = list::of_nodes(outputs);
            (*scan).custom_private = private;
            (*scan).methods = &raw const SCAN_METHODS.0;
            scan.cast()
        }
    })
}
