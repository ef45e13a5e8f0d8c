//! What the planner is told of a grouping query: how many groups it has, and what its values cost.

use super::plan::Chunk;
use super::spec::{Aggregate, Function, Key};
use crate::am::directory::Directory;
use crate::pg::{list, planner};
use crate::scan::order::sorted_by;
use pgrx::pg_sys;
use varve_core::paged::Bounds;

/// What a value of a page costs an aggregate or a key, as a share of `cpu_operator_cost`: measured beside heap's scan, a
/// tenth to a fifth of what calling an operator on a row does.
const VALUE: f64 = 0.15;

/// What the frozen rows of a chunk tell without being read.
#[derive(Default)]
pub struct Frozen {
    /// Of each key that is a bucket of an integer column the least and the greatest value of the column, if they are known.
    bounds: Vec<Option<(i64, i64)>>,
    /// Whether the columns of the keys are those that segments are sorted by first.
    lead: bool,
}

impl Frozen {
    /// Of a chunk with frozen rows, whose attribute numbers `map` has by the parent's.
    pub fn new(directory: &Directory, keys: &[Key], map: &[i32]) -> Self {
        let attnum = |key: &Key| {
            let at = key.column().attnum as usize - 1;
            map.get(at).copied().unwrap_or_default()
        };
        let order = sorted_by(directory);
        let first = order.get(..keys.len()).unwrap_or_default();
        let is_first = |key: &Key| first.iter().any(|a| i32::from(*a) == attnum(key));
        Frozen {
            bounds: keys
                .iter()
                .map(|key| match key {
                    Key::Bucket { .. } => bounds(directory, attnum(key)),
                    _ => None,
                })
                .collect(),
            lead: first.len() == keys.len() && keys.iter().all(is_first),
        }
    }
}

/// The least and the greatest value of an integer column; `None` where a segment does not tell.
fn bounds(directory: &Directory, attnum: i32) -> Option<(i64, i64)> {
    let mut all: Option<(i64, i64)> = None;
    for segment in directory.iter() {
        match segment.column(attnum)?.0.summary.bounds {
            Bounds::Int { min, max } => {
                let (least, greatest) = all.unwrap_or((min, max));
                all = Some((least.min(min), greatest.max(max)));
            }
            Bounds::None => {}
            _ => return None,
        }
    }
    all
}

/// How many groups there are: where all rows are frozen, the buckets that lie between the bounds of their column, times the
/// values of the other keys as the planner knows them. `planned` is what the planner expects; it knows nothing of buckets.
///
/// # Safety
/// The planner's own nodes; `exprs` are the keys' expressions.
pub unsafe fn groups(
    root: &mut pg_sys::PlannerInfo,
    rows: f64,
    exprs: &[*mut pg_sys::Expr],
    keys: &[Key],
    chunks: &[Chunk],
    planned: f64,
) -> f64 {
    let mut buckets = 1.0;
    let mut others = Vec::new();
    for (at, (key, expr)) in keys.iter().zip(exprs).enumerate() {
        let Key::Bucket { width, .. } = key else {
            others.push(*expr);
            continue;
        };
        let mut all: Option<(i64, i64)> = None;
        for chunk in chunks {
            let known = chunk
                .frozen
                .as_ref()
                .and_then(|f| f.bounds.get(at).copied());
            let Some(Some((min, max))) = known else {
                return planned;
            };
            let (least, greatest) = all.unwrap_or((min, max));
            all = Some((least.min(min), greatest.max(max)));
        }
        let (least, greatest) = all.unwrap_or((0, 0));
        let width = (*width).max(1) as f64;
        buckets *= ((greatest as f64 - least as f64) / width).floor() + 1.0;
    }
    if others.len() == keys.len() {
        return planned;
    }
    let values = if others.is_empty() {
        1.0
    } else {
        // SAFETY: by contract.
        unsafe { planner::num_groups(root, others, rows) }
    };
    (buckets * values).min(rows).max(1.0)
}

/// The share of pages that are decoded: all of them, but where zones do and pages lie in the order of the groups, of which
/// each has an edge in a page.
pub fn decoded(
    keys: &[Key],
    aggregates: &[Aggregate],
    chunks: &[Chunk],
    groups: f64,
    pages: f64,
) -> f64 {
    let lead = |chunk: &Chunk| chunk.frozen.as_ref().is_some_and(|f| f.lead);
    if keys.is_empty() || !aggregates.iter().all(Aggregate::headers_do) || !chunks.iter().all(lead)
    {
        return 1.0;
    }
    // Every chunk may have every group that has no bucket.
    let has_bucket = keys.iter().any(|key| matches!(key, Key::Bucket { .. }));
    let edges = groups * if has_bucket { 1.0 } else { chunks.len() as f64 };
    (edges / pages.max(1.0)).min(1.0)
}

/// Whether the values that count(DISTINCT …) tells apart fit into the memory that hashing may take: those of one group are not
/// divided, and PostgreSQL sorts them on disk.
///
/// # Safety
/// The planner's own nodes: keys, and aggregate calls with what they are.
pub unsafe fn distinct_fit(
    root: &mut pg_sys::PlannerInfo,
    rows: f64,
    keys: &[*mut pg_sys::Expr],
    calls: &[*mut pg_sys::Aggref],
    aggregates: &[Aggregate],
) -> bool {
    // SAFETY: by contract.
    unsafe {
        let limit = pg_sys::get_hash_memory_limit() as f64;
        calls.iter().zip(aggregates).all(|(call, aggregate)| {
            if !matches!(aggregate.function, Function::CountDistinct(_)) {
                return true;
            }
            let argument = list::nodes::<pg_sys::TargetEntry>((**call).args).next();
            let Some(argument) = argument.map(|entry| (*entry).expr) else {
                return true;
            };
            let exprs = keys.iter().copied().chain([argument]);
            let values = planner::num_groups(root, exprs, rows);
            let typ = pg_sys::exprType(argument.cast());
            let width = pg_sys::get_typavgwidth(typ, pg_sys::exprTypmod(argument.cast()));
            values * (DISTINCT + f64::from(width)) <= limit
        })
    }
}

/// Bytes that a value of count(DISTINCT …) takes beside its own.
const DISTINCT: f64 = 64.0;

/// What it costs to group and aggregate the values of frozen rows.
pub fn values(rows: f64, columns: usize) -> f64 {
    // SAFETY: reads a setting.
    rows * columns as f64 * VALUE * unsafe { pg_sys::cpu_operator_cost }
}
