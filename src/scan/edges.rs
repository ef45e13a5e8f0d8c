//! Pages at the edges of series in sorted segments.
//!
//! Rows that ascend by host and time have the rows of a host on pages of its own, but for the first and the last one, which it
//! shares with its neighbours: what zones say of the time there covers all there is. But the rows before a page come before its
//! own: where the next page is the host's alone, the rows of the host on this one are no later than that one's first.

use super::eval::Resolved;
use super::filter::Filter;
use super::narrow::collect;
use crate::am::zone::{Comparable, Comparison, Probe, ProbeKind, Verdict, judge, of_attribute};
use crate::pg::relation;
use pgrx::pg_sys;
use std::borrow::Borrow;
use varve_core::paged::{Bounds, Sum, Zone};

/// Lists of values with more elements are not looked at.
const MOST: usize = 64;

/// A page, or one beside it in the order of the segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beside {
    /// The page itself.
    This,
    /// The page before it.
    Before,
    /// The page behind it.
    Behind,
}

/// A page and what lies beside it.
pub trait Nearby {
    /// How zones are given.
    type Zone: Borrow<Zone>;

    /// What is known of a column of one of the pages; `None` where there is no such page.
    ///
    /// # Errors
    /// In words what is wrong with the bytes of the segment.
    fn zone(&mut self, beside: Beside, attnum: i16) -> Result<Option<Self::Zone>, String>;

    /// Whether the segment of the page is known to have no value of a column between two that it has.
    ///
    /// # Errors
    /// As [`zone`](Self::zone).
    fn adjacent(&mut self, attnum: i16, low: &[u8], high: &[u8]) -> Result<bool, String>;
}

/// The conditions of a query that bound a column of the order of segments, and those that give the values of the columns
/// before it, if there are such.
pub struct Edges {
    /// Attribute numbers of the first columns, and which values they are to have. Without any, the order has one column before
    /// the bounded one, whose values do not matter.
    pins: Vec<(i16, usize)>,
    /// The first column.
    leading: i16,
    /// The bounded column.
    attnum: i16,
    /// What is compared with it.
    conditions: Vec<(Comparison, usize)>,
}

impl Edges {
    /// For scans under `filters` of segments that are sorted by `order`; `None` where the conditions are not of that form.
    pub fn new(filters: &[Filter], order: &[i16], desc: pg_sys::TupleDesc) -> Option<Self> {
        let compared = |attnum: i16| {
            let mut conditions = Vec::new();
            for filter in filters {
                collect(filter, attnum, &mut conditions);
            }
            conditions
        };
        let leading = *order.first()?;
        let mut pins: Vec<(i16, usize)> = Vec::new();
        let mut lists = 0;
        let mut bounded = None;
        for attnum in order {
            let Some((value, list)) = filters.iter().find_map(|f| pin(f, *attnum)) else {
                bounded = Some(*attnum);
                break;
            };
            pins.push((*attnum, value));
            lists += usize::from(list);
        }
        if pins.is_empty() {
            bounded = order.get(1).copied();
        }
        let mut conditions = bounded.map(compared).unwrap_or_default();
        // Where nothing but values is given, the last one is its own bound.
        if conditions.is_empty() && lists == 0 {
            let (attnum, value) = pins.pop()?;
            bounded = Some(attnum);
            conditions = vec![(Comparison::Equal, value)];
            if pins.is_empty() {
                return None;
            }
        }
        let attnum = bounded?;
        let at = usize::try_from(attnum).ok()?.checked_sub(1)?;
        let exact = of_attribute(relation::attribute(desc, at))
            == (Comparable::Order, Some(ProbeKind::Int));
        // Lists of several columns would make as many pairs as their elements' product.
        let fit = exact && !conditions.is_empty() && (lists == 0 || pins.len() == 1);
        fit.then_some(Edges {
            pins,
            leading,
            attnum,
            conditions,
        })
    }

    /// Whether no row of a page satisfies the conditions, as far as the zones of the pages beside it tell.
    pub fn exclude<N: Nearby>(&self, values: &[Resolved], nearby: &mut N) -> Result<bool, String> {
        if self.pins.is_empty() {
            // The greatest value of the page is of the one series or of the other, and so is the smallest: both have to fail.
            let own = nearby.zone(Beside::This, self.attnum)?;
            let all = own.is_some_and(|zone| match zone.borrow().bounds {
                Bounds::Int { min, max } => {
                    self.fail(values, Beside::Before, max) && self.fail(values, Beside::Behind, min)
                }
                _ => false,
            });
            if !all {
                return Ok(false);
            }
            let Some((tail, head)) = parts(self.leading, self.attnum, nearby)? else {
                return Ok(false);
            };
            return Ok(
                self.fail(values, Beside::Before, tail) && self.fail(values, Beside::Behind, head)
            );
        }
        // Each row that is looked for begins with one of these values, as many as there are lists' elements.
        let mut pins: Vec<(i16, &[Probe])> = Vec::with_capacity(self.pins.len());
        let mut count = 1;
        for (attnum, value) in &self.pins {
            match values.get(*value) {
                Some(Resolved::One(probe)) => pins.push((*attnum, std::slice::from_ref(probe))),
                Some(Resolved::Many(probes)) if probes.len() <= MOST => {
                    count = probes.len();
                    pins.push((*attnum, probes));
                }
                _ => return Ok(false),
            }
        }
        for at in 0..count {
            if begins(&pins, at, Beside::This, nearby)? == Verdict::Never {
                continue;
            }
            let mut out = false;
            for beside in [Beside::Behind, Beside::Before] {
                out = out
                    || begins(&pins, at, beside, nearby)? == Verdict::Always
                        && edge(nearby, beside, self.attnum)?
                            .is_some_and(|edge| self.fail(values, beside, edge));
            }
            if !out {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether rows fail the conditions that lie no further on than `edge`, where the pages behind begin, or no less far than
    /// where the pages before have ended.
    fn fail(&self, values: &[Resolved], beside: Beside, edge: i64) -> bool {
        let edge = Zone {
            rows: 1,
            nulls: 0,
            bounds: Bounds::Int {
                min: edge,
                max: edge,
            },
            sum: Sum::None,
        };
        self.conditions.iter().any(|(comparison, value)| {
            // What the outermost of the rows would have to satisfy for any of them to do.
            let wanted = match (beside, comparison) {
                (Beside::Behind, Comparison::Greater) => Comparison::Greater,
                (Beside::Behind, Comparison::GreaterEqual | Comparison::Equal) => {
                    Comparison::GreaterEqual
                }
                (Beside::Before, Comparison::Less) => Comparison::Less,
                (Beside::Before, Comparison::LessEqual | Comparison::Equal) => {
                    Comparison::LessEqual
                }
                _ => return false,
            };
            match values.get(*value) {
                Some(Resolved::One(probe @ Probe::Int(_))) => {
                    judge(&edge, wanted, probe) == Verdict::Never
                }
                _ => false,
            }
        })
    }

    /// A bound of the rows of a page that satisfy the conditions, narrower than the one that its own zone has of `attnum`, where
    /// it holds the end of one series and the begin of another, and one of them fails the conditions.
    pub fn bound<N: Nearby>(
        &self,
        values: &[Resolved],
        attnum: i16,
        own: i64,
        greatest: bool,
        nearby: &mut N,
    ) -> Result<Option<i64>, String> {
        let other = !self.pins.is_empty() || attnum != self.attnum;
        // The row that has the own bound is of the series that would have to fail.
        let beside = if greatest {
            Beside::Before
        } else {
            Beside::Behind
        };
        if other || !self.fail(values, beside, own) {
            return Ok(None);
        }
        Ok(
            parts(self.leading, self.attnum, nearby)?.and_then(|(tail, head)| {
                if greatest {
                    self.fail(values, Beside::Before, tail)
                        .then_some(head.min(own))
                } else {
                    self.fail(values, Beside::Behind, head)
                        .then_some(tail.max(own))
                }
            }),
        )
    }
}

/// Whether the rows of a page begin with values: those of columns that have one, and of a list at a place.
fn begins<N: Nearby>(
    pins: &[(i16, &[Probe])],
    at: usize,
    beside: Beside,
    nearby: &mut N,
) -> Result<Verdict, String> {
    let mut all = Verdict::Always;
    for (attnum, probes) in pins {
        let zone = nearby.zone(beside, *attnum)?;
        let (Some(zone), Some(probe)) = (zone, probes.get(at)) else {
            return Ok(Verdict::Maybe);
        };
        let zone = zone.borrow();
        match judge(zone, Comparison::Equal, probe) {
            Verdict::Never => return Ok(Verdict::Never),
            Verdict::Always if zone.nulls == 0 => {}
            _ => all = Verdict::Maybe,
        }
    }
    Ok(all)
}

/// Where a page holds the end of a series, which the page before has alone, and the begin of the next one, which has the page
/// behind alone, and nothing else: from where on the one goes, and how far the other.
fn parts<N: Nearby>(
    leading: i16,
    attnum: i16,
    nearby: &mut N,
) -> Result<Option<(i64, i64)>, String> {
    let Some(this) = nearby.zone(Beside::This, leading)? else {
        return Ok(None);
    };
    let this = this.borrow();
    let two = this.nulls == 0
        && match &this.bounds {
            Bounds::Int { min, max } => min.checked_add(1) == Some(*max),
            Bounds::Bytes {
                min,
                max,
                min_exact: true,
                max_exact: true,
            } => min != max && nearby.adjacent(leading, min, max)?,
            _ => false,
        };
    if !two {
        return Ok(None);
    }
    for (beside, greater) in [(Beside::Before, false), (Beside::Behind, true)] {
        match nearby.zone(beside, leading)? {
            Some(zone) if is_alone(zone.borrow(), &this.bounds, greater) => {}
            _ => return Ok(None),
        }
    }
    let tail = edge(nearby, Beside::Before, attnum)?;
    let head = edge(nearby, Beside::Behind, attnum)?;
    Ok(tail.zip(head))
}

/// Whether all rows of a zone have the smaller, or the greater, of two bounds.
fn is_alone(zone: &Zone, bounds: &Bounds, greater: bool) -> bool {
    zone.nulls == 0
        && match (&zone.bounds, bounds) {
            (
                Bounds::Int { min, max },
                Bounds::Int {
                    min: low,
                    max: high,
                },
            ) => min == max && max == if greater { high } else { low },
            (
                Bounds::Bytes {
                    min,
                    max,
                    min_exact: true,
                    max_exact: true,
                },
                Bounds::Bytes {
                    min: low,
                    max: high,
                    ..
                },
            ) => min == max && max == if greater { high } else { low },
            _ => false,
        }
}

/// The smallest value of the page behind, or the greatest of the one before.
fn edge<N: Nearby>(nearby: &mut N, beside: Beside, attnum: i16) -> Result<Option<i64>, String> {
    let zone = nearby.zone(beside, attnum)?;
    Ok(zone.and_then(|zone| match zone.borrow().bounds {
        Bounds::Int { min, .. } if beside == Beside::Behind => Some(min),
        Bounds::Int { max, .. } => Some(max),
        _ => None,
    }))
}

/// The value that a filter pins a column to, and whether it is a list of them.
fn pin(filter: &Filter, column: i16) -> Option<(usize, bool)> {
    match filter {
        Filter::Compare {
            attnum,
            comparison: Comparison::Equal,
            value,
        } if *attnum == column => Some((*value, false)),
        Filter::In { attnum, value } if *attnum == column => Some((*value, true)),
        Filter::And(parts) => parts.iter().find_map(|part| pin(part, column)),
        _ => None,
    }
}
