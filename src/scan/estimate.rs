//! What a scan is expected to read, for its cost.

use super::eval::{self, Resolved};
use super::filter::{Compiled, Filter, Scope};
use super::order;
use super::values;
use crate::am::directory::Directory;
use crate::am::zone::{Comparison, Verdict};
use crate::pg::{list, planner, relation};
use pgrx::pg_sys;
use varve_core::paged::Bounds;

/// Elements of an array of which nothing is known, as PostgreSQL reckons.
const ELEMENTS: f64 = 10.0;

/// The share of pages that a Bloom filter takes for those of a value wrongly, of pages of as many values as rows.
const FALSE_POSITIVES: f64 = 0.03;

/// Pages of a full segment.
const PAGES_OF_SEGMENT: f64 = 64.0;

/// The part of a delta's cost that each run of a scan bears, where the delta is read once for many runs.
const DELTA_AGAIN: f64 = 0.1;

/// What a scan is expected to do.
pub struct Estimate {
    /// Pages of segments to read.
    pub pages: f64,
    /// Columns to decode of each.
    pub columns: f64,
    /// Blocks of the delta.
    pub delta_blocks: f64,
    /// Headers of segments, zones of pages and rows of the delta to test, times conditions.
    pub tests: f64,
}

/// A condition that is evaluated on zones and pages.
struct Condition {
    clause: *mut pg_sys::RestrictInfo,
    compiled: Compiled,
    /// Its values, where all of them are constants.
    known: Option<Vec<Resolved>>,
}

/// What a condition says of one column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It has one value, or one of a few.
    Pinned,
    /// It lies on one side of something.
    Ranged,
}

impl Condition {
    /// How it holds a column, if it does.
    fn hold(&self, attnum: i16) -> Option<Hold> {
        match &self.compiled.filter {
            Filter::Compare {
                attnum: of,
                comparison,
                ..
            } if *of == attnum => match comparison {
                Comparison::Equal => Some(Hold::Pinned),
                Comparison::NotEqual => None,
                _ => Some(Hold::Ranged),
            },
            Filter::In { attnum: of, .. } if *of == attnum => Some(Hold::Pinned),
            _ => None,
        }
    }

    /// How many values it asks for.
    fn values(&self) -> f64 {
        match (&self.compiled.filter, self.known.as_deref()) {
            (Filter::In { .. }, Some([Resolved::Many(all)])) => all.len() as f64,
            (Filter::In { .. }, _) => ELEMENTS,
            _ => 1.0,
        }
    }
}

impl Estimate {
    /// For a scan of a relation with frozen rows under its own conditions and, where `param` is not NULL, those of a
    /// parametrised path.
    ///
    /// # Safety
    /// The planner's own nodes.
    pub unsafe fn new(
        root: *mut pg_sys::PlannerInfo,
        rel: &pg_sys::RelOptInfo,
        directory: &Directory,
        delta_blocks: u32,
        param: *const pg_sys::ParamPathInfo,
    ) -> Self {
        // SAFETY: clauses of the planner's.
        let (conditions, rows) = unsafe {
            let mut all = conditions(rel, rel.baserestrictinfo, false);
            if param.is_null() {
                (all, rel.rows)
            } else {
                all.extend(conditions(rel, (*param).ppi_clauses, true));
                (all, (*param).ppi_rows)
            }
        };
        let all: f64 = directory.iter().map(|s| s.pages()).sum::<usize>() as f64;
        let known: Vec<(&Filter, &[Resolved])> = conditions
            .iter()
            .filter_map(|c| Some((&c.compiled.filter, c.known.as_deref()?)))
            .collect();
        let pages: usize = directory
            .iter()
            .filter(|segment| {
                known.iter().all(|(filter, values)| {
                    let mut zone = |attnum: i16| {
                        segment
                            .column(i32::from(attnum))
                            .map(|(entry, _)| &entry.summary)
                    };
                    eval::verdict(filter, values, &mut zone) != Verdict::Never
                })
            })
            .map(|segment| segment.pages())
            .sum();
        let mut pages = pages as f64;
        if !known.is_empty() {
            // Rows that satisfy the conditions lie together as a rule, since segments are sorted.
            let share = if rel.tuples > 0.0 {
                (rows / rel.tuples).clamp(0.0, 1.0)
            } else {
                1.0
            };
            pages = pages.min((all * share * 2.0).max(1.0));
        }
        let frozen: u64 = directory.iter().map(|s| s.live_at_birth()).sum();
        let leading = directory.first().and_then(|s| s.header.order.first());
        let by_value = leading.is_some_and(|key| {
            conditions
                .iter()
                .any(|c| c.hold(key.attnum as i16).is_some())
        });
        // SAFETY: reads a setting.
        let memory = unsafe { pg_sys::work_mem } as f64 * 1024.0 / f64::from(pg_sys::BLCKSZ);
        // Scans that start over and over find rows of the delta by their value, once they are in memory.
        let delta_share = if by_value && !param.is_null() && f64::from(delta_blocks) < memory {
            DELTA_AGAIN
        } else {
            1.0
        };
        let delta_rows = (rel.tuples - frozen as f64).max(0.0) * delta_share;
        let tests =
            |zones: f64| (directory.len() as f64 + zones + delta_rows) * conditions.len() as f64;
        let mut estimate = Estimate {
            pages,
            // SAFETY: the relation's target list.
            columns: unsafe { list::cells((*rel.reltarget).exprs).len() as f64 }.max(1.0),
            delta_blocks: f64::from(delta_blocks) * delta_share,
            tests: tests(pages),
        };
        if known.len() < conditions.len() {
            let reading = Reading {
                root,
                rel,
                directory,
                conditions: &conditions,
                all,
            };
            // SAFETY: by contract.
            let narrow = unsafe {
                let ordered = reading.by_order();
                ordered.min(reading.by_zones()).min(reading.by_filters())
            };
            if narrow < estimate.pages {
                estimate.pages = narrow.max(1.0);
                // Segments that are read have their pages' zones asked.
                let segments = (narrow / PAGES_OF_SEGMENT).ceil().max(1.0);
                let zones = (segments * PAGES_OF_SEGMENT).min(pages);
                estimate.tests = tests(zones);
            }
        }
        estimate
    }
}

/// The clauses of a list that scans evaluate on zones and pages.
///
/// # Safety
/// A relation and clauses of the planner's.
unsafe fn conditions(
    rel: &pg_sys::RelOptInfo,
    clauses: *mut pg_sys::List,
    outer: bool,
) -> Vec<Condition> {
    let scope = Scope {
        varno: rel.relid as i32,
        outer,
    };
    // SAFETY: by contract.
    unsafe {
        list::nodes::<pg_sys::RestrictInfo>(clauses)
            .filter_map(|clause| {
                let compiled = Compiled::new((*clause).clause, &scope)?;
                let known = compiled
                    .values
                    .iter()
                    .map(|v| values::constant(v))
                    .collect();
                Some(Condition {
                    clause,
                    compiled,
                    known,
                })
            })
            .collect()
    }
}

/// A relation that is to be read under conditions, of which `all` pages there are.
struct Reading<'a> {
    root: *mut pg_sys::PlannerInfo,
    rel: &'a pg_sys::RelOptInfo,
    directory: &'a Directory,
    conditions: &'a [Condition],
    all: f64,
}

impl Reading<'_> {
    /// The share of rows that satisfy some of the conditions, whatever the values of other tables' columns in them.
    ///
    /// # Safety
    /// The planner's own nodes.
    unsafe fn selectivity<'c>(&self, conditions: impl Iterator<Item = &'c Condition>) -> f64 {
        let clauses = list::of_nodes(conditions.map(|c| c.clause));
        let none = std::ptr::null_mut();
        // SAFETY: by contract.
        unsafe {
            pg_sys::clauselist_selectivity(
                self.root,
                clauses,
                self.rel.relid as i32,
                pg_sys::JoinType::JOIN_INNER,
                none,
            )
        }
    }

    /// Pages to read as far as the order of segments tells: rows that agree in the first columns of it lie together, in as
    /// many runs as there are values of columns before that are not asked for.
    ///
    /// # Safety
    /// The planner's own nodes.
    unsafe fn by_order(&self) -> f64 {
        let Some(first) = self.directory.first() else {
            return self.all;
        };
        // Segments that were not written together are sorted each by itself.
        let mut runs = if order::sorted_by(self.directory).is_empty() {
            self.directory.len() as f64
        } else {
            1.0
        };
        let mut share = 1.0;
        let mut least = self.all;
        for key in &first.header.order {
            let attnum = key.attnum as i16;
            let holding = || {
                self.conditions
                    .iter()
                    .filter(move |c| c.hold(attnum).is_some())
            };
            if holding().next().is_none() {
                // SAFETY: by contract.
                runs *= unsafe { self.distinct(attnum) };
                if runs >= self.all {
                    break;
                }
                continue;
            }
            // SAFETY: by contract.
            share *= unsafe { self.selectivity(holding()) };
            let pinned = holding().filter(|c| c.hold(attnum) == Some(Hold::Pinned));
            let values = pinned.map(Condition::values).reduce(f64::min);
            runs *= values.unwrap_or(1.0);
            least = least.min(self.all * share + runs);
            if values.is_none() {
                break;
            }
        }
        least
    }

    /// About how many values a column has.
    ///
    /// # Safety
    /// The planner's own nodes; an attribute of the relation.
    unsafe fn distinct(&self, attnum: i16) -> f64 {
        // SAFETY: by contract; the relation is locked, and open while its row shape is read.
        unsafe {
            let rte = &**(*self.root).simple_rte_array.add(self.rel.relid as usize);
            let table = relation::OpenRel::table(rte.relid, pg_sys::NoLock);
            let var = planner::column(self.rel, relation::tupdesc(table.as_ptr()), attnum);
            planner::num_groups(self.root, [var], self.rel.tuples.max(1.0)).max(1.0)
        }
    }

    /// Pages to read as far as zones tell: where each segment has a small part of all values of a column, so has what is
    /// looked for a small part of the segments.
    ///
    /// # Safety
    /// The planner's own nodes.
    unsafe fn by_zones(&self) -> f64 {
        let mut least = self.all;
        for condition in self.conditions.iter().filter(|c| c.known.is_none()) {
            let (Filter::Compare { attnum, .. } | Filter::In { attnum, .. }) =
                &condition.compiled.filter
            else {
                continue;
            };
            let Some(hold) = condition.hold(*attnum) else {
                continue;
            };
            let width = width_of_segments(self.directory, *attnum) * condition.values();
            let share = match hold {
                Hold::Pinned => width,
                // SAFETY: by contract.
                Hold::Ranged => width + unsafe { self.selectivity(std::iter::once(condition)) },
            };
            least = least.min(self.all * share);
        }
        least.min(self.all)
    }

    /// Pages to read as far as Bloom filters tell, which columns have that an index has and segments are not sorted by: those
    /// of the rows that are looked for, and those that filters take for theirs.
    ///
    /// # Safety
    /// The planner's own nodes.
    unsafe fn by_filters(&self) -> f64 {
        let order = self.directory.first().map(|s| s.header.order.as_slice());
        let order = order.unwrap_or_default();
        let mut least = self.all;
        // SAFETY: by contract.
        unsafe {
            let indexed = super::inner::indexed_columns(self.rel);
            for attnum in indexed
                .iter()
                .filter(|a| order.iter().all(|key| key.attnum as i16 != **a))
            {
                let pins = |c: &&Condition| c.hold(*attnum) == Some(Hold::Pinned);
                for condition in self.conditions.iter().filter(pins) {
                    let rows = self.selectivity(std::iter::once(condition)) * self.rel.tuples;
                    least = least.min(rows + self.all * condition.values() * FALSE_POSITIVES);
                }
            }
        }
        least
    }
}

/// The part of a column's whole range that a segment has, on average; 1 where that is not known.
fn width_of_segments(directory: &Directory, attnum: i16) -> f64 {
    let mut widths = 0.0;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for segment in directory.iter() {
        let Some((entry, _)) = segment.column(i32::from(attnum)) else {
            return 1.0;
        };
        let (min, max) = match entry.summary.bounds {
            Bounds::Int { min, max } => (min as f64, max as f64),
            Bounds::Float { min, max } => (min, max),
            Bounds::None if entry.summary.nulls >= entry.summary.rows => continue,
            _ => return 1.0,
        };
        widths += max - min;
        low = low.min(min);
        high = high.max(max);
    }
    let share = widths / directory.len() as f64 / (high - low);
    if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        1.0
    }
}
