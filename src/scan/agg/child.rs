//! A chunk that is read: its relation, and the conditions on its rows.

use super::private::ChildPlan;
use super::spec::{Aggregate, Column};
use crate::am::cache;
use crate::pg::{list, relation};
use crate::scan::eval;
use crate::scan::filter::{Compiled, Filter, Scope, Value};
use crate::scan::pages::Pages;
use crate::scan::values;
use pgrx::pg_sys;

/// A condition that rows have to satisfy, or of FILTER.
pub struct Condition {
    filter: Option<Filter>,
    values: Vec<Value>,
    value_states: Vec<*mut pg_sys::ExprState>,
    /// The same for rows of heaps.
    pub state: *mut pg_sys::ExprState,
}

impl Condition {
    /// # Safety
    /// A valid expression. It is told of no node: the rows that it reads are not those of the node's scan slot.
    unsafe fn new(clause: *mut pg_sys::Expr, varno: i32) -> Self {
        let scope = Scope {
            varno,
            outer: false,
        };
        // SAFETY: by contract; the copy is ours to complete.
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
}

/// Of each aggregate with FILTER its number, the condition, and the values that it compares with.
pub type AggregateFilters = Vec<(usize, Filter, Vec<eval::Resolved>)>;

/// A chunk to read.
pub struct Child {
    /// The relation, open.
    pub rel: pg_sys::Relation,
    /// Its place among the chunks.
    pub number: usize,
    /// Its attribute numbers by the parent's, from 1 on.
    map: Vec<i16>,
    /// Conditions on its rows.
    pub conditions: Vec<Condition>,
    /// Of each aggregate with FILTER its number and the condition.
    pub filters: Vec<(usize, Condition)>,
    /// Holds a row of its heap.
    pub slot: *mut pg_sys::TupleTableSlot,
}

impl Child {
    /// Opens a chunk. It is closed by [`Child::close`], or by the resource owner.
    ///
    /// # Safety
    /// A plan of ours, and the executor that begins it.
    pub unsafe fn open(
        child: ChildPlan,
        number: usize,
        aggregates: &[Aggregate],
        estate: *mut pg_sys::EState,
    ) -> Self {
        // SAFETY: by contract.
        unsafe {
            let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let rel = pg_sys::table_open(child.oid, mode);
            let conditions = child
                .quals
                .iter()
                .map(|clause| Condition::new(*clause, child.varno))
                .collect();
            let filtered = aggregates
                .iter()
                .enumerate()
                .filter(|(_, a)| !a.filter.is_null())
                .map(|(at, _)| at);
            let filters = filtered
                .zip(&child.filters)
                .map(|(at, clause)| (at, Condition::new(*clause, child.varno)))
                .collect();
            let slot = pg_sys::ExecInitExtraTupleSlot(
                estate,
                relation::tupdesc(rel),
                &raw const pg_sys::TTSOpsBufferHeapTuple,
            );
            Child {
                rel,
                number,
                map: child.map,
                conditions,
                filters,
                slot,
            }
        }
    }

    /// Closes the relation.
    pub fn close(&self) {
        // SAFETY: opened by `open`.
        unsafe { pg_sys::table_close(self.rel, pg_sys::NoLock as pg_sys::LOCKMODE) };
    }

    /// The child's attribute number of a column of the parent.
    pub fn attnum(&self, column: Column) -> i16 {
        self.map
            .get(column.attnum as usize - 1)
            .copied()
            .unwrap_or(column.attnum)
    }

    /// The pages of a child with frozen rows, and its conditions.
    pub fn pages(
        &self,
        snapshot: pg_sys::Snapshot,
        context: *mut pg_sys::ExprContext,
    ) -> Option<Pages> {
        let am = relation::form(self.rel).relam;
        if Some(am) != relation::varve_am() {
            return None;
        }
        let directory = cache::directory_for(self.rel, snapshot)?;
        let mut filters = Vec::new();
        let mut resolved = Vec::new();
        for condition in &self.conditions {
            if let Some(filter) = &condition.filter {
                filters.push(filter.clone().shifted(resolved.len()));
                let states = &condition.value_states;
                resolved.extend(values::resolve(&condition.values, states, context));
            }
        }
        let mut pages = Pages::new(self.rel, directory, snapshot, filters);
        pages.restart(resolved);
        Some(pages)
    }

    /// The conditions of FILTER, by aggregate, with their values.
    pub fn aggregate_filters(&self, context: *mut pg_sys::ExprContext) -> AggregateFilters {
        self.filters
            .iter()
            .filter_map(|(at, c)| {
                let values = values::resolve(&c.values, &c.value_states, context);
                Some((*at, c.filter.clone()?, values))
            })
            .collect()
    }
}
