//! The aggregating node: `Custom Scan (VarveAggregate)`.
//!
//! It reads every chunk of a table itself, frozen rows by pages and zones, rows of heaps and deltas in blocks, and hands
//! out one row a group, which the executor filters (HAVING) and projects.

use super::block::{Block, Rows};
use super::engine::{Engine, columns_of};
use super::finish;
use super::plan::{self, ChildPlan, Top};
use super::spec::{Column, Key};
use crate::am::cache;
use crate::pg::{ffi, guard, list, relation};
use crate::scan::delta::Delta;
use crate::scan::eval::{self, Bits};
use crate::scan::explain;
use crate::scan::filter::{Compiled, Filter, Scope, Value};
use crate::scan::node::{Methods, finish_row};
use crate::scan::pages::{Counters, Pages, Selection};
use crate::scan::values;
use pgrx::pg_sys;

/// Rows of a heap that make a block.
const BLOCK: usize = 1024;

/// The node as the executor knows it, and what it does.
#[repr(C)]
struct Node {
    css: pg_sys::CustomScanState,
    run: *mut Run,
}

/// A condition that rows have to satisfy, or of FILTER.
struct Condition {
    filter: Option<Filter>,
    values: Vec<Value>,
    value_states: Vec<*mut pg_sys::ExprState>,
    /// The same for rows of heaps.
    state: *mut pg_sys::ExprState,
}

/// A chunk to read.
struct Child {
    rel: pg_sys::Relation,
    /// Its attribute numbers by the parent's, from 1 on.
    map: Vec<i16>,
    conditions: Vec<Condition>,
    /// Of each aggregate with FILTER its number and the condition.
    filters: Vec<(usize, Condition)>,
    slot: *mut pg_sys::TupleTableSlot,
}

/// Of each aggregate with FILTER its number, the condition, and the values that it compares with.
type AggregateFilters = Vec<(usize, Filter, Vec<eval::Resolved>)>;

struct Run {
    engine: Engine,
    children: Vec<Child>,
    snapshot: pg_sys::Snapshot,
    /// Columns that keys read, and each aggregate.
    key_columns: Vec<Column>,
    aggregate_columns: Vec<Vec<Column>>,
    done: bool,
    next: usize,
    top: Option<Top>,
    /// The groups to hand out, in their order, where that is not as they came.
    chosen: Option<Vec<usize>>,
    counters: Counters,
    heap_rows: u64,
}

/// The methods that make a node out of a plan.
pub static SCAN_METHODS: Methods<pg_sys::CustomScanMethods> = Methods(pg_sys::CustomScanMethods {
    CustomName: plan::NAME.as_ptr(),
    CreateCustomScanState: Some(create),
});

static EXEC_METHODS: Methods<pg_sys::CustomExecMethods> = Methods(pg_sys::CustomExecMethods {
    CustomName: plan::NAME.as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(exec),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: None,
    InitializeDSMCustomScan: None,
    ReInitializeDSMCustomScan: None,
    InitializeWorkerCustomScan: None,
    ShutdownCustomScan: None,
    ExplainCustomScan: Some(explain_node),
});

unsafe extern "C-unwind" fn create(plan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    guard::entry(|| {
        // SAFETY: a node of our own shape, which begins with the executor's.
        unsafe {
            let node: *mut Node = pg_sys::palloc0(size_of::<Node>()).cast();
            (*node).css.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
            (*node).css.flags = (*plan).flags;
            (*node).css.methods = &raw const EXEC_METHODS.0;
            node.cast()
        }
    })
}

/// # Safety
/// `node` was made by [`create`] and begun.
unsafe fn parts<'a>(node: *mut pg_sys::CustomScanState) -> (&'a mut Node, &'a mut Run) {
    // SAFETY: by contract; the run lives as long as the query's memory.
    unsafe {
        let node = &mut *node.cast::<Node>();
        let run = &mut *node.run;
        (node, run)
    }
}

/// Prepares an expression that setrefs.c has not seen. It is told of no node: the rows that it reads are not those of the
/// node's scan slot.
///
/// # Safety
/// A valid expression.
unsafe fn prepare(expr: *mut pg_sys::Expr) -> *mut pg_sys::ExprState {
    // SAFETY: by contract; the copy is ours to complete.
    unsafe {
        let copy = pg_sys::copyObjectImpl(expr.cast()).cast::<pg_sys::Expr>();
        pg_sys::fix_opfuncids(copy.cast());
        pg_sys::ExecInitExpr(copy, std::ptr::null_mut())
    }
}

/// # Safety
/// As [`prepare`].
unsafe fn condition(clause: *mut pg_sys::Expr, varno: i32) -> Condition {
    let scope = Scope {
        varno,
        outer: false,
    };
    // SAFETY: by contract.
    unsafe {
        let copy = pg_sys::copyObjectImpl(clause.cast()).cast::<pg_sys::Expr>();
        pg_sys::fix_opfuncids(copy.cast());
        let (filter, values) = match Compiled::new(copy, &scope) {
            Some(compiled) => (Some(compiled.filter), compiled.values),
            None => (None, Vec::new()),
        };
        let value_states = values
            .iter()
            .map(|v| pg_sys::ExecInitExpr(v.expr, std::ptr::null_mut()))
            .collect();
        let qual = list::of_nodes([copy]);
        Condition {
            filter,
            values,
            value_states,
            state: pg_sys::ExecInitQual(qual, std::ptr::null_mut()),
        }
    }
}

unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    _eflags: i32,
) {
    guard::entry(|| {
        // SAFETY: the executor has made the slots; the plan is one of ours; the memory context is the query's.
        unsafe {
            let ours = &mut *node.cast::<Node>();
            let plan = &*ours.css.ss.ps.plan.cast::<pg_sys::CustomScan>();
            let spec = plan::read_private(plan.custom_private);
            let states = spec
                .keys
                .iter()
                .map(|key| match key {
                    Key::Expression { expr, .. } => Some(prepare(*expr)),
                    _ => None,
                })
                .collect();
            let table = relation::OpenRel::table(spec.table, pg_sys::AccessShareLock);
            let desc = pg_sys::CreateTupleDescCopy(relation::tupdesc(table.as_ptr()));
            let slot =
                pg_sys::ExecInitExtraTupleSlot(estate, desc, &raw const pg_sys::TTSOpsVirtual);
            drop(table);
            let children = spec
                .children
                .into_iter()
                .map(|child| open(child, &spec.aggregates, estate))
                .collect();
            let aggregate_columns = spec.aggregates.iter().map(columns_of).collect();
            let engine = Engine::new(
                spec.keys,
                spec.aggregates,
                states,
                slot,
                ours.css.ss.ps.ps_ExprContext,
            );
            let run = Run {
                key_columns: engine.key_columns(),
                aggregate_columns,
                engine,
                children,
                snapshot: (*estate).es_snapshot,
                done: false,
                next: 0,
                top: spec.top,
                chosen: None,
                counters: Counters::default(),
                heap_rows: 0,
            };
            ours.run = pgrx::PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(run);
        }
    })
}

/// # Safety
/// Called by [`begin`].
unsafe fn open(
    child: ChildPlan,
    aggregates: &[super::spec::Aggregate],
    estate: *mut pg_sys::EState,
) -> Child {
    // SAFETY: by contract. The relation is closed by `end`, or by the resource owner.
    unsafe {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let rel = pg_sys::table_open(child.oid, mode);
        let conditions = child
            .quals
            .iter()
            .map(|clause| condition(*clause, child.varno))
            .collect();
        let filtered = aggregates
            .iter()
            .enumerate()
            .filter(|(_, a)| !a.filter.is_null())
            .map(|(at, _)| at);
        let filters = filtered
            .zip(&child.filters)
            .map(|(at, clause)| (at, condition(*clause, child.varno)))
            .collect();
        let slot = pg_sys::ExecInitExtraTupleSlot(
            estate,
            relation::tupdesc(rel),
            &raw const pg_sys::TTSOpsBufferHeapTuple,
        );
        Child {
            rel,
            map: child.map,
            conditions,
            filters,
            slot,
        }
    }
}

unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: the executor ends what it began.
        let (_, run) = unsafe { parts(node) };
        for child in run.children.drain(..) {
            // SAFETY: opened by `open`.
            unsafe { pg_sys::table_close(child.rel, pg_sys::NoLock as pg_sys::LOCKMODE) };
        }
        run.engine.clear();
    })
}

unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: a begun node.
        let (ours, run) = unsafe { parts(node) };
        // SAFETY: the node's own slot.
        unsafe { pg_sys::ExecClearTuple(ours.css.ss.ss_ScanTupleSlot) };
        run.engine.pass = (0, 1);
        run.engine.clear();
        run.done = false;
        run.next = 0;
        run.chosen = None;
    })
}

unsafe extern "C-unwind" fn exec(
    node: *mut pg_sys::CustomScanState,
) -> *mut pg_sys::TupleTableSlot {
    guard::entry(|| {
        // SAFETY: a begun node.
        unsafe {
            let (ours, run) = parts(node);
            let context = ours.css.ss.ps.ps_ExprContext;
            loop {
                if !run.done {
                    run.aggregate(context);
                    run.done = true;
                    run.next = 0;
                }
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                if run.next >= run.chosen.as_ref().map_or(run.engine.len(), Vec::len) {
                    let (pass, passes) = run.engine.pass;
                    if pass + 1 < passes {
                        run.engine.pass = (pass + 1, passes);
                        run.engine.clear();
                        run.done = false;
                        continue;
                    }
                    return pg_sys::ExecClearTuple(ours.css.ss.ss_ScanTupleSlot);
                }
                run.emit(ours.css.ss.ss_ScanTupleSlot, context);
                if let Some(slot) = finish_row(&mut ours.css.ss) {
                    return slot;
                }
            }
        }
    })
}

impl Run {
    /// Puts the next group into a virtual slot: keys, then aggregates.
    ///
    /// # Safety
    /// The node's scan slot and its expression context.
    unsafe fn emit(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) {
        let next = self.next;
        self.next += 1;
        let group = match &self.chosen {
            Some(chosen) => chosen.get(next).copied().unwrap_or(0),
            None => next,
        };
        // SAFETY: by contract; the slot has a column for each key and each aggregate.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let desc = (*slot).tts_tupleDescriptor;
            let natts = relation::natts(desc);
            let values = std::slice::from_raw_parts_mut((*slot).tts_values, natts);
            let nulls = std::slice::from_raw_parts_mut((*slot).tts_isnull, natts);
            let keys = self.engine.keys.len();
            for (at, (value, null)) in values.iter_mut().zip(nulls).enumerate() {
                let datum = if at < keys {
                    let typ = relation::attribute(desc, at).atttypid;
                    let token = self.engine.key(group).get(at).copied().unwrap_or((0, true));
                    finish::of_cell(typ, token, &self.engine.strings)
                } else {
                    self.engine.result(at - keys, group)
                };
                *value = datum.unwrap_or(pg_sys::Datum::from(0usize));
                *null = datum.is_none();
            }
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }

    /// Reads everything, as often as the memory that groups may take asks for; or from one end on, until there are the
    /// groups that are wanted.
    fn aggregate(&mut self, context: *mut pg_sys::ExprContext) {
        if let Some(top) = self.top.take() {
            let fits = self.read_top(&top, context);
            self.top = Some(top);
            if fits {
                return;
            }
            self.chosen = None;
            self.engine.clear();
        }
        loop {
            if self.read_all(context) {
                return;
            }
            let (_, passes) = self.engine.pass;
            self.engine.pass = (0, passes * 2);
            self.engine.clear();
        }
    }

    /// Reads all children; `false` where groups take more memory than they may.
    fn read_all(&mut self, context: *mut pg_sys::ExprContext) -> bool {
        let children = std::mem::take(&mut self.children);
        let fits = children.iter().all(|child| self.read(child, context));
        self.children = children;
        fits
    }

    /// Reads pages in the order of their zones, until no other can hold one of the groups that are wanted; `false` where
    /// the groups take more memory than they may.
    fn read_top(&mut self, top: &Top, context: *mut pg_sys::ExprContext) -> bool {
        let children = std::mem::take(&mut self.children);
        let fits = self.read_top_of(&children, top, context);
        self.children = children;
        if fits {
            self.chosen = Some(self.engine.first_groups(top.count as usize, top.descending));
        }
        fits
    }

    fn read_top_of(
        &mut self,
        children: &[Child],
        top: &Top,
        context: *mut pg_sys::ExprContext,
    ) -> bool {
        let Some(column) = self.key_columns.first().copied() else {
            return false;
        };
        let mut frozen = Vec::new();
        let mut candidates = Vec::new();
        for child in children {
            if !self.read_heap(child, context) {
                return false;
            }
            if let Some(mut pages) = self.pages_of(child, context) {
                let bounds = pages.bounds(child.attnum(column), top.descending);
                let number = frozen.len();
                candidates.extend(
                    bounds
                        .into_iter()
                        .map(|(bound, s, p)| (bound, number, s, p)),
                );
                let filters = self.filters_of(child, context);
                frozen.push((child, pages, filters));
            }
        }
        candidates.sort_unstable_by_key(|(bound, ..)| *bound);
        if top.descending {
            candidates.reverse();
        }
        let mut block = Block::default();
        let mut groups = 0;
        let mut threshold = None;
        for (bound, number, segment, page) in candidates {
            if self.engine.len() != groups {
                groups = self.engine.len();
                threshold = self.engine.nth_key(top.count as usize, top.descending);
            }
            if let Some(threshold) = threshold
                && self.engine.is_beyond(bound, threshold, top.descending)
            {
                break;
            }
            let Some((child, pages, filters)) = frozen.get_mut(number) else {
                continue;
            };
            if let Some(selection) = pages.page(segment, page) {
                block.new_segment();
                self.add_page(child, pages, &selection, &mut block, filters);
                if !self.fits() {
                    return false;
                }
            }
        }
        for (_, pages, _) in &frozen {
            self.counters.add(&pages.counters);
        }
        true
    }

    fn fits(&self) -> bool {
        // SAFETY: reads settings.
        let limit = unsafe { pg_sys::get_hash_memory_limit() };
        // A single group can't be divided.
        self.engine.len() < 64 || self.engine.memory() < limit
    }

    fn read(&mut self, child: &Child, context: *mut pg_sys::ExprContext) -> bool {
        // SAFETY: the relation and the snapshot are the executor's.
        unsafe { ffi::PredicateLockRelation(child.rel, self.snapshot) };
        if let Some(mut pages) = self.pages_of(child, context) {
            let fits = self.read_frozen(child, &mut pages, context);
            self.counters.add(&pages.counters);
            if !fits {
                return false;
            }
        }
        self.read_heap(child, context)
    }

    /// The pages of a child with frozen rows, and its conditions.
    fn pages_of(&self, child: &Child, context: *mut pg_sys::ExprContext) -> Option<Pages> {
        let am = relation::form(child.rel).relam;
        if Some(am) != relation::varve_am() {
            return None;
        }
        let directory = cache::directory_for(child.rel, self.snapshot)?;
        let mut filters = Vec::new();
        let mut resolved = Vec::new();
        for condition in &child.conditions {
            if let Some(filter) = &condition.filter {
                filters.push(filter.clone().shifted(resolved.len()));
                let states = &condition.value_states;
                resolved.extend(values::resolve(&condition.values, states, context));
            }
        }
        let mut pages = Pages::new(child.rel, directory, self.snapshot, filters);
        pages.restart(resolved);
        Some(pages)
    }

    /// The conditions of FILTER, by aggregate, with their values.
    fn filters_of(&self, child: &Child, context: *mut pg_sys::ExprContext) -> AggregateFilters {
        child
            .filters
            .iter()
            .filter_map(|(at, c)| {
                let values = values::resolve(&c.values, &c.value_states, context);
                Some((*at, c.filter.clone()?, values))
            })
            .collect()
    }

    fn read_frozen(
        &mut self,
        child: &Child,
        pages: &mut Pages,
        context: *mut pg_sys::ExprContext,
    ) -> bool {
        let filters = self.filters_of(child, context);
        let mut block = Block::default();
        let mut segment = None;
        loop {
            while let Some(whole) = pages.whole_segment() {
                let zone = |column: Column| {
                    let attnum = child.attnum(column);
                    whole
                        .column(i32::from(attnum))
                        .map(|(entry, _)| entry.summary.clone())
                };
                if !self.engine.zones_do(zone) {
                    break;
                }
                let Some(group) = self.engine.group_of_zones(zone) else {
                    break;
                };
                if let Some(group) = group {
                    let rows = whole.header.rows as usize;
                    self.engine.add_zones(group, rows, zone);
                }
                pages.skip();
            }
            let Some(selection) = pages.next(true, None) else {
                return true;
            };
            if segment != Some(selection.segment.number) {
                segment = Some(selection.segment.number);
                block.new_segment();
            }
            self.add_page(child, pages, &selection, &mut block, &filters);
            if !self.fits() {
                return false;
            }
        }
    }

    fn add_page(
        &mut self,
        child: &Child,
        pages: &mut Pages,
        selection: &Selection,
        block: &mut Block,
        filters: &[(usize, Filter, Vec<eval::Resolved>)],
    ) {
        let number = selection.segment.number;
        let rows = Rows::of_bits(&selection.rows);
        pages.with_columns(number, |columns| {
            let mut group = None;
            let all: Vec<usize> = (0..self.engine.aggregates.len()).collect();
            let mut left = all.clone();
            if rows.len() == columns.rows() {
                let mut zone = |column: Column| columns.zone(child.attnum(column)).ok().flatten();
                if let Some(found) = self.engine.group_of_zones(&mut zone) {
                    let Some(found) = found else {
                        return Ok(());
                    };
                    group = Some(found);
                    left = self.engine.add_zones(found, rows.len(), zone);
                }
            }
            let (filtered, plain): (Vec<usize>, Vec<usize>) = left
                .into_iter()
                .partition(|at| filters.iter().any(|(with, ..)| with == at));
            if group.is_none() || !plain.is_empty() {
                block.start(rows.len());
                self.fill(child, columns, block, &rows, &plain, group.is_none())?;
                self.engine.add(block, &plain, group);
            }
            for at in filtered {
                let Some((_, filter, values)) = filters.iter().find(|(with, ..)| *with == at)
                else {
                    continue;
                };
                let mut bits: Bits = selection.rows;
                eval::and(&mut bits, &eval::rows(filter, values, columns)?);
                let rows = Rows::of_bits(&bits);
                block.start(rows.len());
                self.fill(child, columns, block, &rows, &[at], group.is_none())?;
                self.engine.add(block, &[at], group);
            }
            Ok(())
        });
    }

    /// Fills the lanes that some aggregates need, and with `keys` those of the keys.
    fn fill(
        &mut self,
        child: &Child,
        columns: &mut crate::scan::columns::Columns,
        block: &mut Block,
        rows: &Rows,
        aggregates: &[usize],
        keys: bool,
    ) -> Result<(), String> {
        let needed = aggregates
            .iter()
            .filter_map(|at| self.aggregate_columns.get(*at))
            .flatten()
            .chain(self.key_columns.iter().filter(|_| keys));
        for column in needed {
            let attnum = child.attnum(*column);
            block.fill(*column, attnum, columns, rows, &mut self.engine.strings)?;
        }
        Ok(())
    }

    /// Reads a heap, or the delta of a relation with frozen rows.
    fn read_heap(&mut self, child: &Child, context: *mut pg_sys::ExprContext) -> bool {
        if relation::blocks(child.rel) == 0 {
            return true;
        }
        let mut columns: Vec<Column> = self.key_columns.clone();
        columns.extend(self.aggregate_columns.iter().flatten());
        columns.sort_by_key(|c| c.attnum);
        columns.dedup_by_key(|c| c.attnum);
        let highest = columns.iter().map(|c| child.attnum(*c)).max().unwrap_or(0);
        let mut delta = Delta::begin(child.rel, self.snapshot, std::ptr::null_mut());
        let mut block = Block::default();
        let mut masks: Vec<Vec<bool>> = vec![Vec::new(); child.filters.len()];
        let mut fits = true;
        block.start(0);
        loop {
            let found = delta.next(child.slot, true);
            if found {
                // SAFETY: the slot holds a row of the child, whose attributes the conditions and the columns are.
                unsafe {
                    pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                    (*context).ecxt_scantuple = child.slot;
                    if !child
                        .conditions
                        .iter()
                        .all(|c| pg_sys::ExecQual(c.state, context))
                    {
                        self.counters.rows_removed += 1;
                        continue;
                    }
                    for ((_, condition), mask) in child.filters.iter().zip(&mut masks) {
                        mask.push(pg_sys::ExecQual(condition.state, context));
                    }
                    if highest > (*child.slot).tts_nvalid {
                        pg_sys::slot_getsomeattrs_int(child.slot, i32::from(highest));
                    }
                    let slot = &*child.slot;
                    let datums = columns.iter().map(|column| {
                        let index = child.attnum(*column) as usize - 1;
                        (!*slot.tts_isnull.add(index)).then(|| *slot.tts_values.add(index))
                    });
                    block.push(&columns, datums, &mut self.engine.strings);
                }
                self.heap_rows += 1;
            }
            if block.rows() >= BLOCK || (!found && block.rows() > 0) {
                self.add_block(child, &mut block, &mut masks);
                block.start(0);
                fits = self.fits();
                pgrx::check_for_interrupts!();
            }
            if !found || !fits {
                break;
            }
        }
        delta.end();
        fits
    }

    fn add_block(&mut self, child: &Child, block: &mut Block, masks: &mut [Vec<bool>]) {
        let is_filtered = |at: &usize| child.filters.iter().any(|(with, _)| with == at);
        let plain: Vec<usize> = (0..self.engine.aggregates.len())
            .filter(|at| !is_filtered(at))
            .collect();
        self.engine.add(block, &plain, None);
        for ((at, _), mask) in child.filters.iter().zip(masks) {
            let mut some = block.subset(mask);
            self.engine.add(&mut some, &[*at], None);
            mask.clear();
        }
    }
}

impl Child {
    /// The child's attribute number of a column of the parent.
    fn attnum(&self, column: Column) -> i16 {
        self.map
            .get(column.attnum as usize - 1)
            .copied()
            .unwrap_or(column.attnum)
    }
}

unsafe extern "C-unwind" fn explain_node(
    node: *mut pg_sys::CustomScanState,
    _ancestors: *mut pg_sys::List,
    state: *mut pg_sys::ExplainState,
) {
    guard::entry(|| {
        // SAFETY: a begun node and EXPLAIN's own state.
        unsafe {
            let (_, run) = parts(node);
            explain::number(c"Chunks", run.children.len() as u64, state);
            if let Some(top) = &run.top {
                explain::number(c"First Groups", top.count as u64, state);
            }
            if (*state).analyze {
                explain::counters(&run.counters, 0, state);
                if run.heap_rows > 0 {
                    explain::number(c"Heap Rows", run.heap_rows, state);
                }
            }
        }
    })
}
