//! What the planner hands to the aggregating node, and the node's plan.

use super::node::SCAN_METHODS;
use super::parallel;
use super::plan::Query;
use super::spec::{self, Aggregate, Key};
use crate::pg::{guard, list};
use crate::scan::filter::{Compiled, Scope};
use crate::scan::node::Methods;
use pgrx::pg_sys;
use std::ffi::CStr;

/// What the node is called in EXPLAIN.
pub const NAME: &CStr = c"VarveAggregate";

/// The methods that make a plan out of a path.
pub static PATH_METHODS: Methods<pg_sys::CustomPathMethods> = Methods(pg_sys::CustomPathMethods {
    CustomName: NAME.as_ptr(),
    PlanCustomPath: Some(make_plan),
    ReparameterizeCustomPathByChild: None,
});

/// Which part of the work a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// All of it.
    Whole,
    /// It reads chunks, and hands its groups out as bytes.
    Partial,
    /// It puts the groups of others together.
    Final,
}

/// The first groups only, in the order of the one key.
pub struct Top {
    /// How many.
    pub count: i32,
    /// From the greatest on.
    pub descending: bool,
}

fn oids(oid: pg_sys::Oid) -> *mut pg_sys::List {
    // SAFETY: makes a list of one.
    unsafe { pg_sys::lappend_oid(std::ptr::null_mut(), oid) }
}

/// What a plan hands to its node. The node that puts groups together reads no chunks.
pub fn write_private(query: &Query, mode: Mode, top: Option<&Top>) -> *mut pg_sys::List {
    let chunks = query.chunks.iter().filter(|_| mode != Mode::Final);
    let children = chunks.map(|chunk| {
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
        list::of_integers([query.varno, top[0], top[1], mode as i32]),
        oids(query.table),
        list::of_nodes(query.keys.iter().copied()),
        list::of_nodes(query.calls.iter().copied()),
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
    /// Which part of the work is the node's.
    pub mode: Mode,
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

fn mode_of(number: i32) -> Mode {
    [Mode::Whole, Mode::Partial, Mode::Final]
        .into_iter()
        .find(|mode| *mode as i32 == number)
        .unwrap_or(Mode::Whole)
}

/// The reverse of [`write_private`].
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
        let [varno, count, descending, mode] = numbers[..] else {
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
            mode: mode_of(mode),
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
    plans: *mut pg_sys::List,
) -> *mut pg_sys::Plan {
    guard::entry(|| {
        // SAFETY: the planner's own nodes; the plan is made in its memory.
        unsafe {
            let private = (*best).custom_private;
            let part = |n: usize| -> *mut pg_sys::List {
                list::nodes(private).nth(n).unwrap_or(std::ptr::null_mut())
            };
            let mode = mode_of(list::integers(part(0)).nth(3).unwrap_or(0));
            let outputs: Vec<*mut pg_sys::Expr> = if mode == Mode::Partial {
                vec![parallel::groups_as_bytes(part(2), part(3))]
            } else {
                let keys = list::nodes::<pg_sys::Expr>(part(2));
                keys.chain(list::nodes(part(3))).collect()
            };
            let outputs = outputs.into_iter().enumerate().map(|(at, expr)| {
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
            if mode != Mode::Partial {
                (*scan).scan.plan.qual = (*(*root).parse).havingQual.cast();
            }
            (*scan).flags = (*best).flags;
            (*scan).custom_plans = plans;
            (*scan).custom_exprs = list::of_nodes(values);
            (*scan).custom_scan_tlist = list::of_nodes(outputs);
            (*scan).custom_private = private;
            (*scan).methods = &raw const SCAN_METHODS.0;
            scan.cast()
        }
    })
}
