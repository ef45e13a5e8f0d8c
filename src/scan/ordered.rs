//! Delivering the rows of a scan in an order: sorted segments as they lie, or group by group the other way round, and
//! rows of the delta, and of segments that were added since, which are sorted, in their places between them.

use super::batch::{Batch, positions};
use super::eval::{self, Bits, NO_ROWS, Resolved, and, and_not, first_rows};
use super::filter::Filter;
use super::node::copy_row;
use super::order::Order;
use super::pages::{Pages, Selection};
use crate::am::datum::DatumColumn;
use crate::am::directory::SegmentRef;
use crate::am::zone::{Comparable, Comparison, Verdict, of_attribute};
use crate::pg::sort::{RowSort, SortColumn};
use crate::pg::{relation, tuple};
use pgrx::pg_sys;
use std::cmp::Ordering;
use std::rc::Rc;

/// Rows of a page that belong to the group at hand.
struct Span {
    segment: Rc<SegmentRef>,
    page: usize,
    rows: Bits,
}

impl Span {
    /// Its first row, or its last one.
    fn edge(&self, first: bool) -> u16 {
        let words = || self.rows.iter().enumerate();
        let found = if first {
            words().find(|(_, word)| **word != 0)
        } else {
            words().rfind(|(_, word)| **word != 0)
        };
        found.map_or(0, |(at, word)| {
            let bit = if first {
                word.trailing_zeros()
            } else {
                word.ilog2()
            };
            (at * 64) as u16 + bit as u16
        })
    }

    /// The same page with other rows; `None` without any.
    fn part(&self, rows: Bits) -> Option<Span> {
        (rows != NO_ROWS).then(|| Span {
            segment: self.segment.clone(),
            page: self.page,
            rows,
        })
    }
}

/// A scan in an order.
pub struct Ordered {
    order: Order,
    columns: Vec<SortColumn>,
    sorts: Vec<pg_sys::SortSupportData>,
    needed: Vec<i16>,
    /// The group at hand; the span to be delivered next is the last one.
    group: Vec<Span>,
    /// Rows that were read and belong to the next group, and that one's key.
    ahead: Option<(Span, Key)>,
    batch: Option<Batch>,
    /// Whether a frozen row lies in the scan slot, to be delivered or not before rows of the delta.
    head: bool,
    /// Whether the row of the present group that comes first was delivered.
    delivered: bool,
    frozen_done: bool,
    /// Rows of the delta, each with its tid.
    delta: Option<RowSort>,
    /// The tid of the row of the delta that comes next.
    delta_head: Option<u64>,
}

impl Ordered {
    /// For an order of a relation's rows. `needed` are the attribute numbers that the plan reads.
    ///
    /// # Safety
    /// Called when the node begins; the current memory context is the query's.
    pub unsafe fn new(order: Order, rel: pg_sys::Relation, needed: &[i16]) -> Self {
        let desc = relation::tupdesc(rel);
        let columns: Vec<SortColumn> = order
            .columns
            .iter()
            .enumerate()
            .filter_map(|(n, attnum)| {
                let attr = relation::attribute(desc, *attnum as usize - 1);
                SortColumn::of(attr, order.descends(n))
            })
            .collect();
        let sorts = columns.iter().map(SortColumn::support).collect();
        let mut needed = needed.to_vec();
        needed.extend(
            order
                .columns
                .iter()
                .filter(|c| !needed.contains(c))
                .copied()
                .collect::<Vec<_>>(),
        );
        needed.sort_unstable();
        Ordered {
            order,
            columns,
            sorts,
            needed,
            group: Vec::new(),
            ahead: None,
            batch: None,
            head: false,
            delivered: false,
            frozen_done: false,
            delta: None,
            delta_head: None,
        }
    }

    /// Whether pages are read from the last one on.
    pub fn reads_backward(&self) -> bool {
        self.order.mirrored
    }

    /// The attribute numbers that are read.
    pub fn needed(&self) -> &[i16] {
        &self.needed
    }

    /// The columns that segments have to be sorted by.
    pub fn columns(&self) -> &[i16] {
        &self.order.columns
    }

    /// Starts over.
    pub fn restart(&mut self) {
        self.group.clear();
        self.ahead = None;
        self.batch = None;
        self.head = false;
        self.delivered = false;
        self.frozen_done = false;
        self.delta_head = None;
        if let Some(sort) = self.delta.take() {
            sort.end();
        }
    }

    /// Takes in the rows of the delta, and of segments that are not sorted with the others: `next` puts one after the other
    /// into a slot.
    pub fn sort_delta(
        &mut self,
        rel: pg_sys::Relation,
        slot: *mut pg_sys::TupleTableSlot,
        mut next: impl FnMut() -> bool,
    ) {
        if !next() {
            return;
        }
        let desc = relation::tupdesc(rel);
        let natts = relation::natts(desc);
        // SAFETY: a setting.
        let memory = unsafe { pg_sys::work_mem };
        let mut sort = RowSort::new(desc, &self.columns, memory);
        loop {
            // SAFETY: the slot holds a row of the relation.
            unsafe {
                pg_sys::slot_getsomeattrs_int(slot, natts as i32);
                let values = std::slice::from_raw_parts((*slot).tts_values, natts);
                let nulls = std::slice::from_raw_parts((*slot).tts_isnull, natts);
                sort.put(values, nulls, tuple::tid_key(&(*slot).tts_tid));
            }
            if !next() {
                break;
            }
        }
        sort.perform();
        self.delta_head = sort.next();
        self.delta = Some(sort);
    }

    /// Puts the next row into the scan slot, `false` at the end.
    pub fn next(
        &mut self,
        rel: pg_sys::Relation,
        mut pages: Option<&mut Pages>,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool {
        if !self.head && !self.frozen_done {
            let pages = pages.as_deref_mut();
            self.head = pages.is_some_and(|pages| self.advance_frozen(rel, pages, slot));
            self.frozen_done = !self.head;
        }
        if self.delta_head.is_some() {
            let first = match pages {
                Some(pages) if self.head => self.compare_heads(pages).is_gt(),
                _ => true,
            };
            if first {
                return self.take_delta(rel, slot);
            }
        }
        self.delivered = self.head;
        std::mem::take(&mut self.head)
    }

    /// The rows that are being handed out.
    pub fn batch(&mut self) -> Option<&mut Batch> {
        self.batch.as_mut()
    }

    /// How the frozen row in the scan slot lies to the row of the delta.
    fn compare_heads(&mut self, pages: &mut Pages) -> Ordering {
        let Some(delta) = &self.delta else {
            return Ordering::Less;
        };
        for (attnum, sort) in self.order.columns.iter().zip(&mut self.sorts) {
            let at = *attnum as usize - 1;
            let batch = self.batch.as_mut();
            let frozen = batch.and_then(|batch| batch.value(pages, at));
            // SAFETY: a slot that holds a row of the relation's shape; both values are of the column.
            let order = unsafe { compare(frozen, value(delta.slot(), at), sort) };
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Puts the row of the delta into the scan slot. A frozen row that waits there goes back to its batch.
    fn take_delta(&mut self, rel: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot) -> bool {
        let forward = self.forward();
        if std::mem::take(&mut self.head)
            && let Some(batch) = &mut self.batch
        {
            batch.back(forward);
        }
        let (Some(delta), Some(tid)) = (&mut self.delta, self.delta_head) else {
            return false;
        };
        // The row lives in the sort until the next one is fetched: it is copied.
        // SAFETY: the slot has the relation's row shape, the sort's one column more.
        unsafe {
            copy_row(delta.slot(), slot);
            (*slot).tts_tid = tuple::tid_from_key(tid);
            (*slot).tts_tableOid = (*rel).rd_id;
            pg_sys::ExecMaterializeSlot(slot);
        }
        self.delta_head = delta.next();
        true
    }

    /// Whether rows of a page leave in their order.
    fn forward(&self) -> bool {
        self.order.is_plain() != self.order.mirrored
    }

    fn advance_frozen(
        &mut self,
        rel: pg_sys::Relation,
        pages: &mut Pages,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool {
        let forward = self.forward();
        if self.order.first_only && std::mem::take(&mut self.delivered) {
            self.batch = None;
            self.group.clear();
        }
        loop {
            if let Some(batch) = &mut self.batch
                && batch.emit(rel, slot, forward)
            {
                return true;
            }
            self.batch = None;
            if self.order.is_plain() && !self.order.first_only {
                match pages.next(forward, None) {
                    Some(selection) => {
                        self.batch = Some(Batch::new(&selection, &self.needed, forward));
                    }
                    None => return false,
                }
                continue;
            }
            match self.group.pop() {
                Some(span) => {
                    let selection = pages.revisit(&span.segment, span.page);
                    let rows = if self.order.first_only {
                        vec![span.edge(forward)]
                    } else {
                        positions(&span.rows)
                    };
                    let batch = Batch::of_rows(&selection, rows, &self.needed, forward);
                    self.batch = Some(batch);
                }
                None if self.next_group(pages) => {}
                None => return false,
            }
        }
    }

    /// Reads the spans of the next group of rows that agree in the straight columns; in the order in which they are
    /// delivered, from the end.
    fn next_group(&mut self, pages: &mut Pages) -> bool {
        // The straight columns ascend in the segments: mirrored, the groups come the other way round.
        let forward = !self.order.mirrored;
        let (mut span, key) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => {
                let Some(span) = next_span(pages, forward) else {
                    return false;
                };
                let key = self.key(pages, &span, forward);
                (span, key)
            }
        };
        loop {
            let (mine, rest) = self.split(pages, span, &key, forward);
            self.group.extend(mine);
            if let Some(rest) = rest {
                let key = self.key(pages, &rest, forward);
                self.ahead = Some((rest, key));
                break;
            }
            match next_span(pages, forward) {
                Some(next) => span = next,
                None => break,
            }
        }
        // Within a group rows leave against the order in which its pages were read, unless the whole order is plain.
        if self.order.is_plain() {
            self.group.reverse();
        }
        true
    }

    /// Cuts a span where the group ends.
    fn split(
        &mut self,
        pages: &mut Pages,
        span: Span,
        key: &Key,
        forward: bool,
    ) -> (Option<Span>, Option<Span>) {
        match self.verdict(pages, &span, key) {
            Verdict::Always => return (Some(span), None),
            Verdict::Never => return (None, Some(span)),
            Verdict::Maybe => {}
        }
        if let Some(filter) = &key.filter {
            pages.revisit(&span.segment, span.page);
            let mut mine = pages.with_columns(span.segment.number, |columns| {
                eval::rows(filter, &key.probes, columns)
            });
            and(&mut mine, &span.rows);
            return (span.part(mine), span.part(and_not(&span.rows, &mine)));
        }
        let rows = positions(&span.rows);
        let count = rows.len();
        let nth = |n: usize| {
            let at = if forward { n } else { count - 1 - n };
            rows.get(at).copied().unwrap_or(0)
        };
        // How many of its rows, from the edge that comes first, are of the group.
        let mut low = 0;
        let mut high = count;
        while low < high {
            let middle = (low + high) / 2;
            if self.matches(pages, &span, nth(middle), key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == count {
            return (Some(span), None);
        }
        // The first row of the other group, or the last one where pages are read backward.
        let edge = usize::from(nth(low));
        let before = first_rows(if forward { edge } else { edge + 1 });
        let mut lower = span.rows;
        and(&mut lower, &before);
        let (lower, upper) = (span.part(lower), span.part(and_not(&span.rows, &before)));
        if forward {
            (lower, upper)
        } else {
            (upper, lower)
        }
    }

    fn straight(&self) -> &[i16] {
        self.order
            .columns
            .get(..self.order.straight)
            .unwrap_or_default()
    }

    /// Whether the rows of a span are of a group, as far as zones tell.
    fn verdict(&self, pages: &mut Pages, span: &Span, key: &Key) -> Verdict {
        let Some(filter) = &key.filter else {
            return Verdict::Maybe;
        };
        pages.revisit(&span.segment, span.page);
        pages.with_columns(span.segment.number, |columns| {
            eval::page_verdict(filter, &key.probes, columns)
        })
    }

    /// The values of the straight columns in a row of a span.
    fn straight_values(&self, pages: &mut Pages, span: &Span, row: u16) -> Vec<DatumColumn> {
        pages.revisit(&span.segment, span.page);
        pages.with_columns(span.segment.number, |columns| {
            self.straight()
                .iter()
                .map(|attnum| columns.datums(*attnum, &[row]))
                .collect()
        })
    }

    /// The key of the group that a span begins with.
    fn key(&self, pages: &mut Pages, span: &Span, forward: bool) -> Key {
        let values = self.straight_values(pages, span, span.edge(forward));
        let mut probes = Vec::with_capacity(values.len());
        let same = |(attnum, value): (&i16, &DatumColumn)| {
            let attnum = *attnum;
            let Some(datum) = value.get(0) else {
                return Some(Filter::Null {
                    attnum,
                    wanted: true,
                });
            };
            let (comparable, kind) = of_attribute(pages.attribute(attnum));
            let kind = kind.filter(|_| comparable != Comparable::No)?;
            // SAFETY: a value of the attribute's type.
            probes.push(Resolved::One(unsafe { kind.probe(datum) }));
            Some(Filter::Compare {
                attnum,
                comparison: Comparison::Equal,
                value: probes.len() - 1,
            })
        };
        let filter: Option<Vec<_>> = self.straight().iter().zip(&values).map(same).collect();
        Key {
            filter: filter.map(Filter::And),
            probes,
            values,
        }
    }

    /// Whether a row of a span is of a group.
    fn matches(&mut self, pages: &mut Pages, span: &Span, row: u16, key: &Key) -> bool {
        let values = self.straight_values(pages, span, row);
        key.values
            .iter()
            .zip(&values)
            .zip(&mut self.sorts)
            // SAFETY: values of the column that the comparison is for.
            .all(|((a, b), sort)| unsafe { compare(a.get(0), b.get(0), sort) }.is_eq())
    }
}

/// The values of the straight columns of a group.
struct Key {
    values: Vec<DatumColumn>,
    /// That rows have them, for zones; `None` where zones do not compare with one of the types.
    filter: Option<Filter>,
    probes: Vec<Resolved>,
}

fn next_span(pages: &mut Pages, forward: bool) -> Option<Span> {
    let selection: Selection = pages.next(forward, None)?;
    Some(Span {
        rows: selection.rows,
        segment: selection.segment,
        page: selection.page,
    })
}

/// # Safety
/// The slot holds a row, whose attribute `at` is filled.
unsafe fn value(slot: *mut pg_sys::TupleTableSlot, at: usize) -> Option<pg_sys::Datum> {
    // SAFETY: by contract.
    unsafe { (!*(*slot).tts_isnull.add(at)).then(|| *(*slot).tts_values.add(at)) }
}

/// As `ApplySortComparator`.
///
/// # Safety
/// Values of the type that the comparison is for.
unsafe fn compare(
    a: Option<pg_sys::Datum>,
    b: Option<pg_sys::Datum>,
    sort: &mut pg_sys::SortSupportData,
) -> Ordering {
    let nulls_first = sort.ssup_nulls_first;
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) if nulls_first => Ordering::Less,
        (None, _) => Ordering::Greater,
        (_, None) if nulls_first => Ordering::Greater,
        (_, None) => Ordering::Less,
        (Some(a), Some(b)) => {
            let Some(comparator) = sort.comparator else {
                return Ordering::Equal;
            };
            let reverse = sort.ssup_reverse;
            // SAFETY: by contract.
            let order = unsafe {
                pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| comparator(a, b, sort))
            };
            let order = order.cmp(&0);
            if reverse { order.reverse() } else { order }
        }
    }
}
