//! Pages at the edge of what is looked for in sorted segments.
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

/// The conditions of a query that begin with values of the first columns of an order and go on with bounds of the next one.
pub struct Edges {
    /// Attribute numbers of the first columns, and which values they are to have.
    pins: Vec<(i16, usize)>,
    /// The next column.
    attnum: i16,
    /// What is compared with it.
    conditions: Vec<(Comparison, usize)>,
}

impl Edges {
    /// For scans under `filters` of segments that are sorted by `order`; `None` where the conditions are not of that form.
    pub fn new(filters: &[Filter], order: &[i16], desc: pg_sys::TupleDesc) -> Option<Self> {
        let mut pins: Vec<(i16, usize)> = Vec::new();
        let mut lists = 0;
        let mut bounds = None;
        for attnum in order {
            let Some((value, list)) = filters.iter().find_map(|f| pin(f, *attnum)) else {
                let mut conditions = Vec::new();
                for filter in filters {
                    collect(filter, *attnum, &mut conditions);
                }
                bounds = Some((*attnum, conditions)).filter(|(_, found)| !found.is_empty());
                break;
            };
            pins.push((*attnum, value));
            lists += usize::from(list);
        }
        // Where nothing but values is given, the last one is its own bound.
        if bounds.is_none() && lists == 0 {
            bounds = pins
                .pop()
                .map(|(attnum, value)| (attnum, vec![(Comparison::Equal, value)]));
        }
        let (attnum, conditions) = bounds?;
        let at = usize::try_from(attnum).ok()?.checked_sub(1)?;
        let exact = of_attribute(relation::attribute(desc, at))
            == (Comparable::Order, Some(ProbeKind::Int));
        // Lists of several columns would make as many pairs as their elements' product.
        let fit = exact && !pins.is_empty() && (lists == 0 || pins.len() == 1);
        fit.then_some(Edges {
            pins,
            attnum,
            conditions,
        })
    }

    /// Whether no row of a page satisfies the conditions, as far as the zones of the pages beside it tell. `zone` gives those
    /// of columns, none where there is no such page.
    pub fn exclude<Z: Borrow<Zone>>(
        &self,
        values: &[Resolved],
        mut zone: impl FnMut(Beside, i16) -> Result<Option<Z>, String>,
    ) -> Result<bool, String> {
        // Each row that is looked for begins with one of these values, as many as there are lists' elements.
        let mut count = 1;
        for (_, value) in &self.pins {
            match values.get(*value) {
                Some(Resolved::One(_)) => {}
                Some(Resolved::Many(probes)) if probes.len() <= MOST => count = probes.len(),
                _ => return Ok(false),
            }
        }
        for at in 0..count {
            if self.begins(values, at, Beside::This, &mut zone)? == Verdict::Never {
                continue;
            }
            let mut out = false;
            for beside in [Beside::Behind, Beside::Before] {
                out = out
                    || self.begins(values, at, beside, &mut zone)? == Verdict::Always
                        && zone(beside, self.attnum)?
                            .is_some_and(|zone| self.ends(values, beside, zone.borrow()));
            }
            if !out {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the rows of a page begin with the values that are looked for: the only ones, or those of a list at a place.
    fn begins<Z: Borrow<Zone>>(
        &self,
        values: &[Resolved],
        at: usize,
        beside: Beside,
        zone: &mut impl FnMut(Beside, i16) -> Result<Option<Z>, String>,
    ) -> Result<Verdict, String> {
        let mut all = Verdict::Always;
        for (attnum, value) in &self.pins {
            let probe = match values.get(*value) {
                Some(Resolved::One(probe)) => probe,
                Some(Resolved::Many(probes)) => match probes.get(at) {
                    Some(probe) => probe,
                    None => return Ok(Verdict::Maybe),
                },
                _ => return Ok(Verdict::Maybe),
            };
            let Some(zone) = zone(beside, *attnum)? else {
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

    /// Whether rows that lie no further on than all those of a page behind them, or no less far than all those of one before
    /// them, fail the conditions.
    fn ends(&self, values: &[Resolved], beside: Beside, zone: &Zone) -> bool {
        let Bounds::Int { min, max } = zone.bounds else {
            return false;
        };
        let edge = if beside == Beside::Behind { min } else { max };
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
