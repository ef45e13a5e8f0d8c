//! The aggregating node: `Custom Scan (VarveAggregate)`.
//!
//! It groups what it reads from all chunks of a table ([`read`](super::read)), and hands out one row a group, which the
//! executor filters (HAVING) and projects. In a parallel plan it comes twice: the node below Gather hands its groups out as
//! bytes, and the one above puts the groups of all processes together.

use super::child::Child;
use super::engine::Engine;
use super::finish;
use super::part::Part;
use super::private::{self, Mode, Top};
use super::read::{Reader, fits};
use super::shared::{self, Shared};
use super::spec::Key;
use super::transfer::{Groups, Inflow};
use crate::pg::{guard, relation};
use crate::scan::counters::Counters;
use crate::scan::explain;
use crate::scan::node::{Methods, finish_row};
use pgrx::pg_sys;
use std::rc::Rc;

/// The node as the executor knows it, and what it does.
#[repr(C)]
struct Node {
    css: pg_sys::CustomScanState,
    run: *mut Run,
}

/// Where groups come from, and how they leave.
enum Role {
    /// From chunks, as rows.
    Whole(Reader),
    /// From chunks, as bytes.
    Partial(Reader, Groups),
    /// From processes, as rows.
    Final(Inflow),
}

struct Run {
    engine: Engine,
    role: Role,
    /// Parts of the groups that are still to be made, the next one last.
    parts: Vec<Part>,
    /// Whether those of a part are ready to be handed out.
    done: bool,
    next: usize,
    top: Option<Top>,
    /// The groups to hand out, in their order, where that is not as they came.
    chosen: Option<Vec<usize>>,
}

/// The methods that make a node out of a plan.
pub static SCAN_METHODS: Methods<pg_sys::CustomScanMethods> = Methods(pg_sys::CustomScanMethods {
    CustomName: private::NAME.as_ptr(),
    CreateCustomScanState: Some(create),
});

static EXEC_METHODS: Methods<pg_sys::CustomExecMethods> = Methods(pg_sys::CustomExecMethods {
    CustomName: private::NAME.as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(exec),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: Some(estimate_dsm),
    InitializeDSMCustomScan: Some(initialize_dsm),
    ReInitializeDSMCustomScan: Some(reinitialize_dsm),
    InitializeWorkerCustomScan: Some(initialize_worker),
    ShutdownCustomScan: Some(shutdown),
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

unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    eflags: i32,
) {
    guard::entry(|| {
        // SAFETY: the executor has made the slots; the plan is one of ours; the memory context is the query's.
        unsafe {
            let ours = &mut *node.cast::<Node>();
            let plan = &*ours.css.ss.ps.plan.cast::<pg_sys::CustomScan>();
            let spec = private::read_private(plan.custom_private);
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
            let role = if spec.mode == Mode::Final {
                let inflow = Inflow::begin(plan.custom_plans, estate, eflags);
                ours.css.custom_ps = inflow.children();
                Role::Final(inflow)
            } else {
                let children =
                    spec.children.into_iter().enumerate().map(|(at, child)| {
                        Rc::new(Child::open(child, at, &spec.aggregates, estate))
                    });
                let keys = spec.keys.iter().map(Key::column).collect();
                let snapshot = (*estate).es_snapshot;
                let reader = Reader::new(children.collect(), snapshot, keys, &spec.aggregates);
                match spec.mode {
                    Mode::Partial => Role::Partial(reader, Groups::default()),
                    _ => Role::Whole(reader),
                }
            };
            let engine = Engine::new(
                spec.keys,
                spec.aggregates,
                states,
                slot,
                ours.css.ss.ps.ps_ExprContext,
            );
            let run = Run {
                engine,
                role,
                parts: vec![Part::ALL],
                done: false,
                next: 0,
                top: spec.top,
                chosen: None,
            };
            ours.run = pgrx::PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(run);
        }
    })
}

unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: the executor ends what it began.
        let (_, run) = unsafe { parts(node) };
        match &mut run.role {
            Role::Whole(reader) | Role::Partial(reader, _) => {
                reader.restart();
                reader.children.drain(..).for_each(|child| child.close());
            }
            Role::Final(inflow) => inflow.end(),
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
        match &mut run.role {
            Role::Whole(reader) => reader.restart(),
            Role::Partial(reader, groups) => {
                reader.restart();
                groups.clear();
            }
            Role::Final(inflow) => inflow.rescan(ours.css.ss.ps.chgParam),
        }
        run.engine.part = Part::ALL;
        run.engine.clear();
        run.parts = vec![Part::ALL];
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
            let slot = ours.css.ss.ss_ScanTupleSlot;
            if let Role::Partial(reader, groups) = &mut run.role {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                return match groups.next(&mut run.engine, reader, context) {
                    Some(message) => {
                        Groups::emit(&message, slot, context);
                        finish_row(&mut ours.css.ss).unwrap_or(slot)
                    }
                    None => pg_sys::ExecClearTuple(slot),
                };
            }
            loop {
                if !run.done {
                    run.aggregate(context);
                    run.done = true;
                    run.next = 0;
                }
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                if run.next >= run.chosen.as_ref().map_or(run.engine.len(), Vec::len) {
                    if !run.parts.is_empty() {
                        run.restart();
                        run.done = false;
                        continue;
                    }
                    return pg_sys::ExecClearTuple(slot);
                }
                run.emit(slot, context);
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

    /// Goes back to the beginning of what is read.
    fn restart(&mut self) {
        self.engine.clear();
        match &mut self.role {
            Role::Whole(reader) | Role::Partial(reader, _) => reader.restart(),
            Role::Final(inflow) => inflow.rescan(std::ptr::null_mut()),
        }
    }

    /// Makes the groups of the next part, of as many as the memory that they may take asks for; or reads from one end on,
    /// until there are the groups that are wanted.
    fn aggregate(&mut self, context: *mut pg_sys::ExprContext) {
        if let (Some(top), Role::Whole(reader)) = (&self.top, &mut self.role) {
            reader.read_top(&mut self.engine, top, context);
            let count = top.count as usize;
            self.chosen = Some(self.engine.first_groups(count, top.descending));
            self.parts.clear();
            return;
        }
        while let Some(part) = self.parts.pop() {
            self.engine.part = part;
            let fit = match &mut self.role {
                Role::Whole(reader) | Role::Partial(reader, _) => {
                    reader.read(&mut self.engine, context)
                }
                Role::Final(inflow) => inflow.read(&mut self.engine, fits),
            };
            if fit {
                return;
            }
            self.parts.extend(part.halves());
            self.restart();
        }
    }
}

/// Runs `f` on the reader of a node that processes share; `None` for other nodes.
///
/// # Safety
/// A begun node.
unsafe fn shared_reader<T>(
    node: *mut pg_sys::CustomScanState,
    f: impl FnOnce(&mut Reader) -> T,
) -> Option<T> {
    // SAFETY: by contract.
    match unsafe { &mut parts(node).1.role } {
        Role::Partial(reader, _) => Some(f(reader)),
        _ => None,
    }
}

unsafe extern "C-unwind" fn estimate_dsm(
    node: *mut pg_sys::CustomScanState,
    _context: *mut pg_sys::ParallelContext,
) -> pg_sys::Size {
    guard::entry(|| {
        // SAFETY: a begun node.
        unsafe { shared_reader(node, |reader| shared::size(&reader.relations())) }.unwrap_or(0)
    })
}

unsafe extern "C-unwind" fn initialize_dsm(
    node: *mut pg_sys::CustomScanState,
    _context: *mut pg_sys::ParallelContext,
    coordinate: *mut std::ffi::c_void,
) {
    guard::entry(|| {
        // SAFETY: a begun node; the shared memory is as large as was estimated, and is there until `shutdown`.
        unsafe {
            shared_reader(node, |reader| {
                let relations = reader.relations();
                let shared = Shared::at(coordinate.cast(), &relations);
                shared.initialise(&relations, reader.snapshot());
                reader.shared = Some(shared);
            });
        }
    })
}

unsafe extern "C-unwind" fn reinitialize_dsm(
    node: *mut pg_sys::CustomScanState,
    _context: *mut pg_sys::ParallelContext,
    coordinate: *mut std::ffi::c_void,
) {
    guard::entry(|| {
        // SAFETY: as above.
        unsafe {
            shared_reader(node, |reader| {
                let relations = reader.relations();
                Shared::at(coordinate.cast(), &relations).reinitialise(&relations);
            });
        }
    })
}

unsafe extern "C-unwind" fn initialize_worker(
    node: *mut pg_sys::CustomScanState,
    _toc: *mut pg_sys::shm_toc,
    coordinate: *mut std::ffi::c_void,
) {
    guard::entry(|| {
        // SAFETY: as above.
        unsafe {
            shared_reader(node, |reader| {
                reader.shared = Some(Shared::at(coordinate.cast(), &reader.relations()));
            });
        }
    })
}

/// The shared memory goes away.
unsafe extern "C-unwind" fn shutdown(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: a begun node.
        unsafe { shared_reader(node, Reader::unshare) };
    })
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
            let (counters, heap_rows) = match &run.role {
                Role::Whole(reader) => (reader.counters, reader.heap_rows),
                // What this process counted has gone up with its groups.
                Role::Partial(..) => (Counters::default(), 0),
                Role::Final(inflow) => (inflow.counters, inflow.heap_rows),
            };
            let mode = match &run.role {
                Role::Whole(_) => None,
                Role::Partial(..) => Some(c"Partial"),
                Role::Final(_) => Some(c"Finalize"),
            };
            if let Some(mode) = mode {
                pg_sys::ExplainPropertyText(c"Partial Mode".as_ptr(), mode.as_ptr(), state);
            }
            if let Role::Whole(reader) | Role::Partial(reader, _) = &run.role {
                explain::number(c"Chunks", reader.children.len() as u64, state);
            }
            if let Some(top) = &run.top {
                explain::number(c"First Groups", top.count as u64, state);
            }
            if (*state).analyze && !matches!(run.role, Role::Partial(..)) {
                explain::counters(&counters, 0, state);
                if heap_rows > 0 {
                    explain::number(c"Heap Rows", heap_rows, state);
                }
            }
        }
    })
}
