//! Where in a sorted row of zones the rows of a query can be: found by halving, not by asking each.

use super::eval::{Resolved, probe_order};
use super::filter::Filter;
use crate::am::zone::{Comparable, Comparison, Probe, Verdict, judge, of_attribute};
use pgrx::pg_sys;
use std::cmp::Ordering;
use std::ops::Range;
use varve_core::paged::Zone;

/// The conditions on the column that segments are sorted by first.
pub struct Narrow {
    /// Attribute number.
    pub attnum: i16,
    /// What is compared, and with which value.
    conditions: Vec<(Comparison, usize)>,
    /// Whether zones have the order of the column.
    ordered: bool,
}

impl Narrow {
    /// For scans under `filters`; `None` where no filter bounds the column.
    pub fn new(
        filters: &[Filter],
        attnum: i16,
        attr: &pg_sys::FormData_pg_attribute,
    ) -> Option<Self> {
        let mut conditions = Vec::new();
        filters
            .iter()
            .for_each(|f| collect(f, attnum, &mut conditions));
        (!conditions.is_empty()).then(|| Narrow {
            attnum,
            conditions,
            ordered: of_attribute(attr).0 == Comparable::Order,
        })
    }

    /// Which of some rows may satisfy the conditions, by their values of the column, which are sorted as probes are.
    pub fn window<T>(&self, rows: &[(Probe, T)], values: &[Resolved]) -> Range<usize> {
        let mut found = 0..rows.len();
        for (comparison, value) in &self.conditions {
            let Some(Resolved::One(probe)) = values.get(*value) else {
                return 0..0;
            };
            let order = |at: usize| {
                rows.get(at)
                    .map_or(Ordering::Equal, |(v, _)| probe_order(v, probe))
            };
            match comparison {
                Comparison::Greater => found.start = first(found.clone(), |at| order(at).is_gt()),
                Comparison::Equal | Comparison::GreaterEqual => {
                    found.start = first(found.clone(), |at| order(at).is_ge());
                }
                _ => {}
            }
            match comparison {
                Comparison::Less => found.end = first(found.clone(), |at| order(at).is_ge()),
                Comparison::Equal | Comparison::LessEqual => {
                    found.end = first(found.clone(), |at| order(at).is_gt());
                }
                _ => {}
            }
        }
        found
    }

    /// Which of `count` zones may have rows of the query. They must be [`ascending`](crate::am::zone::ascending).
    pub fn range<'a>(
        &self,
        count: usize,
        zone: impl Fn(usize) -> Option<&'a Zone>,
        values: &[Resolved],
    ) -> Range<usize> {
        let mut found = 0..count;
        if !self.ordered {
            return found;
        }
        for (comparison, value) in &self.conditions {
            let Some(Resolved::One(probe)) = values.get(*value) else {
                // Nothing compares with NULL.
                return 0..0;
            };
            let (above, below) = match comparison {
                Comparison::Less | Comparison::LessEqual => (None, Some(*comparison)),
                Comparison::Greater | Comparison::GreaterEqual => (Some(*comparison), None),
                _ => (Some(Comparison::GreaterEqual), Some(Comparison::LessEqual)),
            };
            // NULLs come last: zones of nothing else lie behind whatever is looked for.
            let only_nulls = |zone: &Zone| zone.nulls >= zone.rows;
            let never = |zone: &Zone, wanted| judge(zone, wanted, probe) == Verdict::Never;
            if let Some(above) = above {
                found.start = first(found.clone(), |at| {
                    zone(at).is_none_or(|z| only_nulls(z) || !never(z, above))
                });
            }
            if let Some(below) = below {
                found.end = first(found.clone(), |at| {
                    zone(at).is_some_and(|z| only_nulls(z) || never(z, below))
                });
            }
        }
        found
    }
}

/// The first place of a range from which on `holds`, or its end.
fn first(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Collects what a filter says of a column, as far as every row has to satisfy it.
pub fn collect(filter: &Filter, column: i16, into: &mut Vec<(Comparison, usize)>) {
    match filter {
        Filter::Compare {
            attnum,
            comparison,
            value,
        } if *attnum == column && *comparison != Comparison::NotEqual => {
            into.push((*comparison, *value));
        }
        Filter::And(parts) => parts.iter().for_each(|p| collect(p, column, into)),
        _ => {}
    }
}
