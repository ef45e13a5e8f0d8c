//! The columnar scan node: `Custom Scan (VarveScan)`.
//!
//! Frozen rows first, page by page: conditions on whole pages, then the columns that are asked for in the rows that are
//! left. Then the rows of the delta, each tested by the executor. Rows leave in the node's own slot, which decodes as it is
//! asked ([`super::slot`]).

use super::batch::Batch;
use super::counters::Counters;
use super::delta::Delta;
use super::explain;
use super::filter::{Compiled, Filter, Scope, Value};
use super::order;
use super::ordered::Ordered;
use super::pages::{HandOut, Pages};
use super::parallel::{self, Shared};
use super::plan;
use super::slot;
use super::values;
use crate::am::cache;
use crate::pg::{ffi, guard, list, memory, relation};
use pgrx::pg_sys;
use std::ptr;
use std::rc::Rc;

/// The node as the executor knows it, and what it does.
#[repr(C)]
pub struct Node {
    css: pg_sys::CustomScanState,
    run: *mut Run,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Position {
    Start,
    Frozen,
    Delta,
    End,
}

/// What a node does.
pub struct Run {
    pub(super) rel: pg_sys::Relation,
    pub(super) snapshot: pg_sys::Snapshot,
    /// Attribute numbers that the plan reads.
    needed: Vec<i16>,
    values: Vec<Value>,
    states: Vec<*mut pg_sys::ExprState>,
    /// The conditions on pages, for rows that lie in the delta.
    pushed: *mut pg_sys::ExprState,
    /// Memory that is emptied for each row.
    per_row: pg_sys::MemoryContext,
    pub(super) pages: Option<Pages>,
    /// Segments that are not sorted with the others, where rows leave in an order.
    late: Option<Pages>,
    started: bool,
    position: Position,
    batch: Option<Batch>,
    delta: Option<Delta>,
    delta_slot: *mut pg_sys::TupleTableSlot,
    /// Set where rows leave in an order.
    ordered: Option<Ordered>,
    /// Rows of the delta that conditions on pages kept out.
    pub(super) delta_removed: u64,
    /// Set in processes that share the scan.
    pub(super) shared: Option<Shared>,
    /// What other processes did, once they have told.
    pub(super) others: (Counters, u64),
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
    EstimateDSMCustomScan: Some(parallel::estimate_dsm),
    InitializeDSMCustomScan: Some(parallel::initialize_dsm),
    ReInitializeDSMCustomScan: Some(parallel::reinitialize_dsm),
    InitializeWorkerCustomScan: Some(parallel::initialize_worker),
    ShutdownCustomScan: Some(parallel::shutdown),
    ExplainCustomScan: Some(explain_node),
});

/// A table of functions that never changes.
pub struct Methods<T>(pub T);

// SAFETY: names and functions are constants.
unsafe impl<T> Sync for Methods<T> {}

unsafe extern "C-unwind" fn create(plan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    guard::entry(|| {
        // SAFETY: a node of our own shape, which begins with the executor's.
        unsafe {
            let node: *mut Node = pg_sys::palloc0(size_of::<Node>()).cast();
            (*node).css.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
            (*node).css.flags = (*plan).flags;
            (*node).css.methods = &raw const EXEC_METHODS.0;
            (*node).css.slotOps = &raw const slot::OPS.0;
            node.cast()
        }
    })
}

/// # Safety
/// `node` was made by [`create`].
unsafe fn node_of<'a>(node: *mut pg_sys::CustomScanState) -> &'a mut Node {
    // SAFETY: by contract.
    unsafe { &mut *node.cast::<Node>() }
}

/// # Safety
/// `node` was made by [`create`] and begun.
pub(super) unsafe fn run_of<'a>(node: *mut pg_sys::CustomScanState) -> &'a mut Run {
    // SAFETY: by contract; the run lives as long as the query's memory.
    unsafe { &mut *node_of(node).run }
}

unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    _eflags: i32,
) {
    guard::entry(|| {
        // SAFETY: the executor has opened the relation and made the slots; the current memory context is the query's.
        unsafe {
            let ours = node_of(node);
            let plan = &*ours.css.ss.ps.plan.cast::<pg_sys::CustomScan>();
            let rel = ours.css.ss.ss_currentRelation;
            let scope = Scope {
                varno: plan.scan.scanrelid as i32,
                outer: true,
            };
            let (needed, order) = plan::read_private(plan.custom_private);
            let mut filters: Vec<Filter> = Vec::new();
            let mut all_values: Vec<Value> = Vec::new();
            for clause in list::nodes::<pg_sys::Expr>(plan.custom_exprs) {
                // The plan has only clauses that compiled; should one not, the executor still tests it on each row.
                if let Some(compiled) = Compiled::new(clause, &scope) {
                    filters.push(compiled.filter.shifted(all_values.len()));
                    all_values.extend(compiled.values);
                }
            }
            let parent = &raw mut ours.css.ss.ps;
            let states = all_values
                .iter()
                .map(|v| pg_sys::ExecInitExpr(v.expr, parent))
                .collect();
            let pushed = pg_sys::ExecInitQual(plan.custom_exprs, parent);
            let snapshot = (*estate).es_snapshot;
            let ordered = order.map(|order| Ordered::new(order, rel, &needed));
            let mut directory = cache::directory_for(rel, snapshot);
            let mut late = None;
            // Others may have added segments since the plan was made, and may again while it is kept.
            if let (Some(ordered), Some(all)) = (&ordered, &directory) {
                let (sorted, others) = order::parts(all, ordered.columns());
                if !others.is_empty() {
                    let filters = filters.clone();
                    late = Some(Pages::new(rel, Rc::new(others), snapshot, filters));
                    directory = Some(Rc::new(sorted));
                }
            }
            let pages = directory.map(|directory| Pages::new(rel, directory, snapshot, filters));
            let delta_slot = pg_sys::ExecInitExtraTupleSlot(
                estate,
                relation::tupdesc(rel),
                &raw const pg_sys::TTSOpsBufferHeapTuple,
            );
            let run = Run {
                rel,
                snapshot,
                needed,
                values: all_values,
                states,
                pushed,
                per_row: (*ours.css.ss.ps.ps_ExprContext).ecxt_per_tuple_memory,
                pages,
                late,
                started: false,
                position: Position::Start,
                batch: None,
                delta: None,
                delta_slot,
                ordered,
                delta_removed: 0,
                shared: None,
                others: (Counters::default(), 0),
            };
            ours.run = pgrx::PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(run);
            slot::set_source(ours.css.ss.ss_ScanTupleSlot, ours.run);
        }
    })
}

unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: the executor ends what it began.
        let run = unsafe { run_of(node) };
        run.end_delta();
        if let Some(ordered) = &mut run.ordered {
            ordered.restart();
        }
        run.batch = None;
        for pages in run.pages.iter_mut().chain(&mut run.late) {
            pages.close();
        }
    })
}

unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: a begun node; its scan slot is ours.
        unsafe {
            let ours = node_of(node);
            pg_sys::ExecClearTuple(ours.css.ss.ss_ScanTupleSlot);
            let run = run_of(node);
            run.started = false;
            run.position = Position::Start;
            run.batch = None;
            if let Some(delta) = &mut run.delta {
                delta.rescan();
            }
            if let Some(ordered) = &mut run.ordered {
                ordered.restart();
            }
            let epq = (*ours.css.ss.ps.state).es_epq_active;
            if !epq.is_null() {
                let at = relation_index(ours);
                *(*epq).relsubs_done.add(at) = *(*epq).relsubs_blocked.add(at);
            }
        }
    })
}

/// The node's relation in the executor's per-relation arrays.
fn relation_index(node: &Node) -> usize {
    // SAFETY: a scan node has a plan with a relation.
    unsafe { (*node.css.ss.ps.plan.cast::<pg_sys::Scan>()).scanrelid as usize - 1 }
}

unsafe extern "C-unwind" fn exec(
    node: *mut pg_sys::CustomScanState,
) -> *mut pg_sys::TupleTableSlot {
    guard::entry(|| {
        // SAFETY: a begun node.
        unsafe {
            let ours = node_of(node);
            loop {
                reset((*ours.css.ss.ps.ps_ExprContext).ecxt_per_tuple_memory);
                let epq = (*ours.css.ss.ps.state).es_epq_active;
                // The slot comes back to the run, for attributes, once the run is left.
                let found = if epq.is_null() {
                    run_of(node).next(ours)
                } else {
                    run_of(node).recheck(ours, epq)
                };
                if !found {
                    return end_of_scan(ours);
                }
                if let Some(slot) = finish_row(&mut ours.css.ss) {
                    return slot;
                }
            }
        }
    })
}

/// Resets a memory context, if anything was allocated in it.
///
/// # Safety
/// A valid memory context.
unsafe fn reset(context: pg_sys::MemoryContext) {
    // SAFETY: by contract.
    unsafe {
        if !(*context).isReset || !(*context).firstchild.is_null() {
            pg_sys::MemoryContextReset(context);
        }
    }
}

/// The answer at the end: an empty slot of the kind that the node returns.
fn end_of_scan(node: &mut Node) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the node's own slots.
    unsafe {
        let projection = node.css.ss.ps.ps_ProjInfo;
        let slot = if projection.is_null() {
            node.css.ss.ss_ScanTupleSlot
        } else {
            (*projection).pi_state.resultslot
        };
        pg_sys::ExecClearTuple(slot)
    }
}

/// Tests the row in the node's scan slot and projects it; `None` where a condition keeps it out.
///
/// # Safety
/// A begun node whose scan slot holds a row.
pub unsafe fn finish_row(scan: &mut pg_sys::ScanState) -> Option<*mut pg_sys::TupleTableSlot> {
    let (qual, projection) = (scan.ps.qual, scan.ps.ps_ProjInfo);
    // SAFETY: by contract.
    unsafe {
        let context = scan.ps.ps_ExprContext;
        (*context).ecxt_scantuple = scan.ss_ScanTupleSlot;
        if qual.is_null() && projection.is_null() {
            return Some(scan.ss_ScanTupleSlot);
        }
        if !qual.is_null() && !pg_sys::ExecQual(qual, context) {
            if !scan.ps.instrument.is_null() {
                (*scan.ps.instrument).nfiltered1 += 1.0;
            }
            return None;
        }
        Some(if projection.is_null() {
            scan.ss_ScanTupleSlot
        } else {
            pg_sys::ExecProject(projection)
        })
    }
}

impl Run {
    /// Puts attributes of the row that was handed out last into the slot that has it.
    ///
    /// # Safety
    /// The node's scan slot, with a row of the node's.
    pub(super) unsafe fn fill(&mut self, slot: *mut pg_sys::TupleTableSlot, natts: usize) {
        let batch = match &mut self.ordered {
            Some(ordered) => ordered.batch(),
            None => self.batch.as_mut(),
        };
        if let (Some(batch), Some(pages)) = (batch, &mut self.pages) {
            // SAFETY: by contract; datums lie in the batch.
            unsafe { memory::within(self.per_row, || batch.fill(pages, slot, natts)) };
        }
    }

    /// Puts the next row, in the direction that the executor asks for, into the node's scan slot.
    fn next(&mut self, node: &mut Node) -> bool {
        if !self.started {
            self.start(node);
        }
        // SAFETY: a begun node belongs to an executor state.
        let forward = unsafe { (*node.css.ss.ps.state).es_direction } >= 0;
        let slot = node.css.ss.ss_ScanTupleSlot;
        if let Some(mut ordered) = self.ordered.take() {
            if self.position == Position::Start {
                self.position = Position::Frozen;
                let (rel, needed) = (self.rel, ordered.needed().to_vec());
                let next = || self.next_of_delta(node, true) || self.next_of_late(slot, &needed);
                ordered.sort_delta(rel, slot, next);
            }
            let found = ordered.next(self.rel, self.pages.as_mut(), slot);
            self.ordered = Some(ordered);
            return found;
        }
        loop {
            match (self.position, forward) {
                (Position::Start, true) => self.position = Position::Frozen,
                (Position::Start, false) | (Position::End, true) => return false,
                (Position::Frozen, _) => {
                    if let Some(batch) = &mut self.batch
                        && batch.emit(self.rel, slot, forward)
                    {
                        return true;
                    }
                    self.batch = None;
                    if !self.next_batch(forward) {
                        self.position = if forward {
                            Position::Delta
                        } else {
                            Position::Start
                        };
                    }
                }
                (Position::Delta | Position::End, _) => {
                    if self.next_of_delta(node, forward) {
                        self.position = Position::Delta;
                        return true;
                    }
                    self.position = if forward {
                        Position::End
                    } else {
                        Position::Frozen
                    };
                }
            }
        }
    }

    fn start(&mut self, node: &Node) {
        self.started = true;
        // SAFETY: the relation and the snapshot are the executor's, and live as long as the query.
        unsafe { ffi::PredicateLockRelation(self.rel, self.snapshot) };
        let context = node.css.ss.ps.ps_ExprContext;
        // SAFETY: memory of the node; values are copied out of it.
        let resolved = unsafe {
            memory::within(self.per_row, || {
                values::resolve(&self.values, &self.states, context)
            })
        };
        if let Some(late) = &mut self.late {
            late.restart(resolved.clone());
        }
        if let Some(pages) = &mut self.pages {
            pages.restart(resolved);
            if self.ordered.as_ref().is_some_and(Ordered::reads_backward) {
                pages.end();
            }
        }
    }

    /// Puts the next row of the segments that are not sorted with the others into a slot, whole.
    fn next_of_late(&mut self, slot: *mut pg_sys::TupleTableSlot, needed: &[i16]) -> bool {
        let Some(late) = &mut self.late else {
            return false;
        };
        loop {
            if let Some(batch) = &mut self.batch
                && batch.emit(self.rel, slot, true)
            {
                let natts = relation::natts(relation::tupdesc(self.rel));
                // SAFETY: the slot holds the batch's row; its values lie in the batch.
                unsafe { memory::within(self.per_row, || batch.fill(late, slot, natts)) };
                return true;
            }
            self.batch = late
                .next(true, None)
                .map(|selection| Batch::new(&selection, needed, true));
            if self.batch.is_none() {
                return false;
            }
        }
    }

    /// Reads the next page with rows to hand out; `false` at the end.
    fn next_batch(&mut self, forward: bool) -> bool {
        let Some(pages) = &mut self.pages else {
            return false;
        };
        let shared = self.shared;
        let mut claim = shared.map(|shared| move || shared.claim());
        let hand_out: HandOut = claim.as_mut().map(|f| f as &mut dyn FnMut() -> usize);
        let Some(selection) = pages.next(forward, hand_out) else {
            return false;
        };
        self.batch = Some(Batch::new(&selection, &self.needed, forward));
        true
    }

    /// Ends without another row; heap's state of a shared scan goes away with the shared memory.
    pub(super) fn finish(&mut self) {
        self.end_delta();
        self.position = Position::End;
    }

    /// Ends the scan of the delta.
    pub(super) fn end_delta(&mut self) {
        if let Some(delta) = self.delta.take() {
            delta.end();
        }
    }

    fn next_of_delta(&mut self, node: &mut Node, forward: bool) -> bool {
        let (rel, snapshot) = (self.rel, self.snapshot);
        let shared = self.shared;
        let delta = self.delta.get_or_insert_with(|| {
            let heap = shared.map_or(ptr::null_mut(), Shared::heap);
            Delta::begin(rel, snapshot, heap)
        });
        let slot = node.css.ss.ss_ScanTupleSlot;
        if delta.untouched() {
            delta.expect(self.pages.as_ref().and_then(Pages::narrow), self.delta_slot);
        }
        while delta.next(self.delta_slot, forward) {
            // SAFETY: both slots have the relation's row shape.
            unsafe {
                copy_row(self.delta_slot, slot);
                if self.pushed.is_null() {
                    return true;
                }
                let context = node.css.ss.ps.ps_ExprContext;
                (*context).ecxt_scantuple = slot;
                if pg_sys::ExecQual(self.pushed, context) {
                    return true;
                }
                self.delta_removed += 1;
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
            pgrx::check_for_interrupts!();
        }
        false
    }

    /// The row to test again that EvalPlanQual has for this relation, as ExecScanFetch gets it.
    ///
    /// # Safety
    /// A begun node, and the active EvalPlanQual state.
    unsafe fn recheck(&mut self, node: &mut Node, epq: *mut pg_sys::EPQState) -> bool {
        let at = relation_index(node);
        let slot = node.css.ss.ss_ScanTupleSlot;
        // SAFETY: by contract; the arrays have an entry for each relation.
        unsafe {
            if *(*epq).relsubs_done.add(at) {
                return false;
            }
            let substitute = *(*epq).relsubs_slot.add(at);
            let source = if !substitute.is_null() {
                *(*epq).relsubs_done.add(at) = true;
                if (*substitute).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0 {
                    return false;
                }
                substitute
            } else if !(*(*epq).relsubs_rowmark.add(at)).is_null() {
                *(*epq).relsubs_done.add(at) = true;
                if !pg_sys::EvalPlanQualFetchRowMark(epq, at as u32 + 1, self.delta_slot) {
                    return false;
                }
                if (*self.delta_slot).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0 {
                    return false;
                }
                self.delta_slot
            } else {
                return self.next(node);
            };
            copy_row(source, slot);
            let context = node.css.ss.ps.ps_ExprContext;
            (*context).ecxt_scantuple = slot;
            self.pushed.is_null() || pg_sys::ExecQual(self.pushed, context)
        }
    }
}

/// Makes a scan's slot hold the values of another slot's row, which must outlive it or be copied (`ExecMaterializeSlot`, which
/// does nothing for a slot that says its values are its own already).
///
/// # Safety
/// `from` has no fewer attributes than `to`, which is a virtual one or of the scan's kind.
pub unsafe fn copy_row(from: *mut pg_sys::TupleTableSlot, to: *mut pg_sys::TupleTableSlot) {
    // SAFETY: by contract.
    unsafe {
        if (*to).tts_flags & pg_sys::TTS_FLAG_SHOULDFREE as u16 != 0 {
            pg_sys::ExecClearTuple(to);
        }
        let natts = relation::natts((*to).tts_tupleDescriptor);
        pg_sys::slot_getsomeattrs_int(from, natts as i32);
        ptr::copy_nonoverlapping((*from).tts_values, (*to).tts_values, natts);
        ptr::copy_nonoverlapping((*from).tts_isnull, (*to).tts_isnull, natts);
        filled(to, natts);
        (*to).tts_tid = (*from).tts_tid;
        (*to).tts_tableOid = (*from).tts_tableOid;
    }
}

/// Says that a virtual slot's arrays hold a row.
///
/// # Safety
/// `slot` is virtual and owns no memory for its values.
unsafe fn filled(slot: *mut pg_sys::TupleTableSlot, natts: usize) {
    // SAFETY: by contract.
    unsafe {
        (*slot).tts_flags &= !(pg_sys::TTS_FLAG_EMPTY as u16);
        (*slot).tts_nvalid = natts as i16;
    }
}

unsafe extern "C-unwind" fn explain_node(
    node: *mut pg_sys::CustomScanState,
    ancestors: *mut pg_sys::List,
    state: *mut pg_sys::ExplainState,
) {
    guard::entry(|| {
        // SAFETY: a begun node and EXPLAIN's own state.
        unsafe {
            let ours = node_of(node);
            let run = run_of(node);
            let plan = ours.css.ss.ps.plan;
            let pushed = (*plan.cast::<pg_sys::CustomScan>()).custom_exprs;
            explain::conditions(c"Columnar Filter", pushed, plan, ancestors, state);
            if (*state).analyze {
                let mut counters = run.pages.as_ref().map(|p| p.counters).unwrap_or_default();
                let (others, removed) = &run.others;
                counters.add(others);
                explain::counters(&counters, run.delta_removed + removed, state);
            }
        }
    })
}
