//! The pages of a table's segments that may hold rows of a query, one after the other.

use super::around::Around;
use super::columns::Columns;
use super::counters::Counters;
use super::edges::Edges;
use super::eval::{self, Bits, NO_ROWS, Resolved};
use super::filter::Filter;
use super::narrow::Narrow;
use super::order::sorted_by;
use crate::am::cache;
use crate::am::directory::{self, Directory, SegmentRef};
use crate::am::error::corrupt;
use crate::am::zone::{Verdict, ascending};
use crate::pg::relation;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::paged::Bounds;

/// Rows of one page.
pub struct Selection {
    /// The segment.
    pub segment: Rc<SegmentRef>,
    /// The page in it.
    pub page: usize,
    /// Which of its rows.
    pub rows: Bits,
}

/// Goes over the pages of a table's segments, either way.
pub struct Pages {
    rel: pg_sys::Relation,
    directory: Rc<Directory>,
    snapshot: pg_sys::Snapshot,
    tombstones: Option<HashMap<i32, Vec<u32>>>,
    filters: Vec<Filter>,
    /// Values of the filters for this run.
    values: Vec<Resolved>,
    columns: Columns,
    /// Where the last page was.
    at: At,
    /// Of each segment whether its header keeps it out, once that was asked.
    kept_out: Vec<Option<bool>>,
    /// Conditions on the column that segments are sorted by.
    narrow: Option<Narrow>,
    /// Conditions on columns that segments are sorted by, one after the other.
    edges: Option<Edges>,
    /// Whether the headers' zones of that column lie one behind the other.
    ascending: bool,
    /// Segments that those conditions leave.
    within: Range<usize>,
    current: Option<Current>,
    /// What was done.
    pub counters: Counters,
}

/// A position between or at pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Start,
    /// Number of the segment in the directory, and of its page.
    Page(usize, usize),
    End,
}

/// The segment at hand.
struct Current {
    index: usize,
    segment: Rc<SegmentRef>,
    /// Rows that the snapshot does not see; `None` inside where it sees all.
    hidden: Option<Option<Bitmap>>,
    /// Pages that conditions on the column of the order leave, once that was asked.
    within: Option<Range<usize>>,
    counted: bool,
}

impl Current {
    fn new(index: usize, segment: Rc<SegmentRef>) -> Self {
        Current {
            index,
            segment,
            hidden: None,
            within: None,
            counted: false,
        }
    }
}

/// Gives the number of the next segment to read, for scans that share them.
pub type HandOut<'a> = Option<&'a mut dyn FnMut() -> usize>;

impl Pages {
    /// The pages of an open relation with frozen rows.
    pub fn new(
        rel: pg_sys::Relation,
        directory: Rc<Directory>,
        snapshot: pg_sys::Snapshot,
        filters: Vec<Filter>,
    ) -> Self {
        let leading = directory.first().and_then(|s| s.header.order.first());
        let narrow = leading.and_then(|key| {
            let at = usize::from(key.attnum).checked_sub(1)?;
            let attr = relation::attribute(relation::tupdesc(rel), at);
            Narrow::new(&filters, key.attnum as i16, attr)
        });
        let edges = Edges::new(&filters, &sorted_by(&directory), relation::tupdesc(rel));
        let ascending = narrow.as_ref().is_some_and(|narrow| {
            let zones = || {
                directory
                    .iter()
                    .filter_map(|s| s.column(i32::from(narrow.attnum)))
            };
            zones().count() == directory.len()
                && ascending(zones().map(|(entry, _)| &entry.summary))
        });
        Pages {
            rel,
            kept_out: vec![None; directory.len()],
            narrow,
            edges,
            ascending,
            within: 0..directory.len(),
            directory,
            snapshot,
            tombstones: None,
            filters,
            values: Vec::new(),
            columns: Columns::new(relation::tupdesc(rel)),
            at: At::Start,
            current: None,
            counters: Counters::default(),
        }
    }

    /// Starts over before the first page, with other values of the filters.
    pub fn restart(&mut self, values: Vec<Resolved>) {
        self.values = values;
        self.kept_out.fill(None);
        self.at = At::Start;
        self.current = None;
        if let Some(narrow) = self.narrow.as_ref().filter(|_| self.ascending) {
            let zone = |index: usize| {
                let column = self
                    .directory
                    .get(index)?
                    .column(i32::from(narrow.attnum))?;
                Some(&column.0.summary)
            };
            let within = narrow.range(self.directory.len(), zone, &self.values);
            self.within = if within.is_empty() { 0..0 } else { within };
        }
    }

    /// The conditions on the column that segments are sorted by, and the values of this run.
    pub fn narrow(&self) -> Option<(&Narrow, &[Resolved])> {
        Some((self.narrow.as_ref()?, &self.values))
    }

    /// Closes what reading has opened, when the node ends.
    pub fn close(&mut self) {
        self.columns.close();
    }

    /// Goes behind the last page.
    pub fn end(&mut self) {
        self.at = At::End;
    }

    /// The next page, forward or backward, with rows that satisfy every filter.
    pub fn next(&mut self, forward: bool, hand_out: HandOut) -> Option<Selection> {
        match self.step(forward, hand_out) {
            Ok(found) => found,
            Err((segment, detail)) => corrupt(self.rel, segment, &detail),
        }
    }

    /// The segment that comes next, if all of it does: every filter holds for its header and no row is hidden. It is left
    /// out with [`Pages::skip`].
    pub fn whole_segment(&mut self) -> Option<Rc<SegmentRef>> {
        let next = match self.at {
            At::Start => 0,
            At::Page(index, page) if page + 1 >= self.directory.get(index)?.pages() => index + 1,
            _ => return None,
        };
        let index = (next..self.directory.len()).find(|index| !self.keeps_out(*index))?;
        self.whole(index)
    }

    /// Whether the page at hand is the last of its segment, or there is none.
    pub fn between_segments(&self) -> bool {
        match self.at {
            At::Page(index, page) => self
                .directory
                .get(index)
                .is_none_or(|s| page + 1 >= s.pages()),
            At::Start | At::End => true,
        }
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.directory.len()
    }

    /// A segment by its number in the directory, if all of it does: every filter holds for its header and no row is hidden.
    pub fn whole(&mut self, index: usize) -> Option<Rc<SegmentRef>> {
        let segment = self.directory.get(index)?.clone();
        let all_live = segment.live_at_birth() == u64::from(segment.header.rows);
        if !all_live || self.thawed().contains_key(&segment.number) {
            return None;
        }
        let mut zone = |attnum: i16| {
            segment
                .column(i32::from(attnum))
                .map(|(entry, _)| &entry.summary)
        };
        let all = self
            .filters
            .iter()
            .all(|f| eval::verdict(f, &self.values, &mut zone) == Verdict::Always);
        all.then_some(segment)
    }

    /// Leaves the segment out that [`Pages::whole_segment`] has just given.
    pub fn skip(&mut self) {
        let next = match self.at {
            At::Page(index, _) => index + 1,
            _ => 0,
        };
        let index = (next..self.directory.len()).find(|index| !self.keeps_out(*index));
        self.at = match index.and_then(|i| Some((i, self.directory.get(i)?.pages()))) {
            Some((index, pages)) => At::Page(index, pages.saturating_sub(1)),
            None => At::End,
        };
        self.counters.segments_read += 1;
    }

    /// Rows that were taken out of their segments, as the snapshot sees it.
    fn thawed(&mut self) -> &HashMap<i32, Vec<u32>> {
        let (directory, snapshot) = (&self.directory, self.snapshot);
        self.tombstones.get_or_insert_with(|| {
            let reading = directory::reading_snapshot(snapshot);
            match directory.first() {
                Some(segment) => directory::tombstones(&segment.companion, reading.get()),
                None => HashMap::new(),
            }
        })
    }

    /// Runs `f` on the columns of the page at hand; what is wrong with them is an error.
    pub fn with_columns<T>(
        &mut self,
        segment: i32,
        f: impl FnOnce(&mut Columns) -> Result<T, String>,
    ) -> T {
        let decoded = self.columns.decoded;
        let result = f(&mut self.columns);
        self.counters.columns_decoded += self.columns.decoded - decoded;
        match result {
            Ok(result) => result,
            Err(detail) => corrupt(self.rel, segment, &detail),
        }
    }

    /// Of every page that the headers of segments do not keep out the greatest (or smallest) value of an integer column, the
    /// number of its segment in the directory, and its own.
    pub fn bounds(&mut self, attnum: i16, greatest: bool) -> Vec<(i64, usize, usize)> {
        let unknown = if greatest { i64::MAX } else { i64::MIN };
        let mut found = Vec::new();
        for index in 0..self.directory.len() {
            let Some(segment) = self.directory.get(index).cloned() else {
                continue;
            };
            if self.keeps_out(index) {
                continue;
            }
            if segment.column(i32::from(attnum)).is_none() {
                // Rows that are older than the column have one value, which is not looked at here.
                found.extend((0..segment.pages()).map(|page| (unknown, index, page)));
                continue;
            }
            let column = cache::column_of(self.rel, &segment, i32::from(attnum));
            self.columns.enter(&segment, 0);
            for page in 0..segment.pages() {
                let bound = match column.zones().get(page).map(|z| &z.bounds) {
                    Some(Bounds::Int { max, .. }) if greatest => *max,
                    Some(Bounds::Int { min, .. }) => *min,
                    Some(Bounds::None) => continue,
                    _ => unknown,
                };
                let bound = self.narrower((index, page), attnum, bound, greatest);
                found.push((bound, index, page));
            }
        }
        found
    }

    /// A bound of the rows of a page that satisfy the filters, where the pages beside it tell more than its own zone.
    fn narrower(&mut self, at: (usize, usize), attnum: i16, own: i64, greatest: bool) -> i64 {
        let Some(edges) = &self.edges else {
            return own;
        };
        let (index, page) = at;
        let mut around = Around {
            directory: &self.directory,
            columns: &mut self.columns,
            index,
            page,
        };
        // What is wrong with a segment is said when its rows are read.
        let bound = edges.bound(&self.values, attnum, own, greatest, &mut around);
        bound.ok().flatten().unwrap_or(own)
    }

    /// The rows of a page, by the number of its segment in the directory, that satisfy every filter.
    pub fn page(&mut self, index: usize, page: usize) -> Option<Selection> {
        let segment = self.directory.get(index)?.clone();
        self.current = Some(Current::new(index, segment.clone()));
        match self.select(&segment, page) {
            Ok(rows) => Some(Selection {
                rows: rows?,
                segment,
                page,
            }),
            Err(detail) => corrupt(self.rel, segment.number, &detail),
        }
    }

    /// An attribute of the relation.
    pub fn attribute(&self, attnum: i16) -> &'static pg_sys::FormData_pg_attribute {
        self.columns.attribute(attnum)
    }

    /// Goes back to a page that was given before, whatever comes next.
    pub fn revisit(&mut self, segment: &Rc<SegmentRef>, page: usize) -> Selection {
        self.columns.revisit(segment, page);
        Selection {
            segment: segment.clone(),
            page,
            rows: NO_ROWS,
        }
    }

    fn step(
        &mut self,
        forward: bool,
        mut hand_out: HandOut,
    ) -> Result<Option<Selection>, (i32, String)> {
        loop {
            pgrx::check_for_interrupts!();
            self.at = self.neighbour(forward, &mut hand_out)?;
            let At::Page(index, page) = self.at else {
                return Ok(None);
            };
            let Some(segment) = self.directory.get(index).cloned() else {
                return Ok(None);
            };
            if self.current.as_ref().is_none_or(|c| c.index != index) {
                self.current = Some(Current::new(index, segment.clone()));
            }
            let number = segment.number;
            if let Some(rows) = self.select(&segment, page).map_err(|e| (number, e))? {
                return Ok(Some(Selection {
                    segment,
                    page,
                    rows,
                }));
            }
        }
    }

    /// The position of the page beside the present one.
    fn neighbour(&mut self, forward: bool, hand_out: &mut HandOut) -> Result<At, (i32, String)> {
        let count = self.directory.len();
        let mut index = match (self.at, forward) {
            (At::Page(index, page), _) => {
                let last = self.directory.get(index).map_or(0, |s| s.pages());
                let next = if forward {
                    Some(page + 1).filter(|next| *next < last)
                } else {
                    page.checked_sub(1)
                };
                if let Some(next) = next
                    && self.pages_within(index)?.contains(&next)
                {
                    return Ok(At::Page(index, next));
                }
                self.leave_pages(index, page, forward);
                Some(index)
            }
            (At::End, true) => return Ok(At::End),
            (At::Start, false) => return Ok(At::Start),
            (At::Start, true) => None,
            (At::End, false) => Some(count),
        };
        loop {
            let next = match (forward, hand_out.as_mut()) {
                (true, Some(hand_out)) => hand_out(),
                (true, None) => self.skip_up(index.map_or(0, |i| i + 1)),
                (false, _) => match self.skip_down(index.unwrap_or(0)) {
                    None => return Ok(At::Start),
                    Some(next) => next,
                },
            };
            if next >= count {
                return Ok(At::End);
            }
            index = Some(next);
            let pages = self.directory.get(next).map_or(0, |s| s.pages());
            if pages == 0 || self.keeps_out(next) {
                continue;
            }
            let within = self.pages_within(next)?;
            self.counters.pages_skipped += (pages - within.len()) as u64;
            if !within.is_empty() {
                return Ok(At::Page(
                    next,
                    if forward {
                        within.start
                    } else {
                        within.end - 1
                    },
                ));
            }
        }
    }

    /// Notes that the pages behind the last one of a segment are kept out.
    fn leave_pages(&mut self, index: usize, page: usize, forward: bool) {
        let pages = self.directory.get(index).map_or(0, |s| s.pages());
        let skipped = if forward {
            pages.saturating_sub(page + 1)
        } else {
            page
        };
        self.counters.pages_skipped += skipped as u64;
    }

    /// The first segment from a place on that conditions on the order leave; how many there are at the end.
    fn skip_up(&mut self, from: usize) -> usize {
        let next = if from < self.within.end {
            from.max(self.within.start)
        } else {
            self.directory.len()
        };
        self.leave_out(from..next);
        next
    }

    /// The last segment before a place that conditions on the order leave.
    fn skip_down(&mut self, before: usize) -> Option<usize> {
        let end = if before > self.within.start {
            before.min(self.within.end)
        } else {
            0
        };
        self.leave_out(end..before);
        end.checked_sub(1)
    }

    /// Notes that segments are kept out.
    fn leave_out(&mut self, segments: Range<usize>) {
        for known in self.kept_out.get_mut(segments).into_iter().flatten() {
            if known.replace(true).is_none() {
                self.counters.segments_skipped += 1;
            }
        }
    }

    /// The pages of a segment that conditions on the order leave; the segment becomes the one at hand.
    fn pages_within(&mut self, index: usize) -> Result<Range<usize>, (i32, String)> {
        let Some(segment) = self.directory.get(index).cloned() else {
            return Ok(0..0);
        };
        let pages = segment.pages();
        let Some(narrow) = &self.narrow else {
            return Ok(0..pages);
        };
        if self.current.as_ref().is_none_or(|c| c.index != index) {
            self.current = Some(Current::new(index, segment.clone()));
        }
        if let Some(known) = self.current.as_ref().and_then(|c| c.within.clone()) {
            return Ok(known);
        }
        self.columns.enter(&segment, 0);
        let within = self
            .columns
            .narrowed(narrow, &self.values, pages)
            .map_err(|e| (segment.number, e))?;
        if let Some(current) = &mut self.current {
            current.within = Some(within.clone());
        }
        Ok(within)
    }

    /// Whether a segment's header keeps it out, by its number in the directory.
    pub fn keeps_out(&mut self, index: usize) -> bool {
        if let Some(Some(known)) = self.kept_out.get(index) {
            return *known;
        }
        let Some(segment) = self.directory.get(index) else {
            return true;
        };
        let mut zone = |attnum: i16| {
            segment
                .column(i32::from(attnum))
                .map(|(entry, _)| &entry.summary)
        };
        let out = self
            .filters
            .iter()
            .any(|f| eval::verdict(f, &self.values, &mut zone) == Verdict::Never);
        self.counters.segments_skipped += u64::from(out);
        if let Some(known) = self.kept_out.get_mut(index) {
            *known = Some(out);
        }
        out
    }

    /// Rows of a segment that the snapshot does not see.
    fn hidden(&mut self) -> Option<&Bitmap> {
        let segment = self.current.as_ref()?.segment.clone();
        if self.current.as_ref()?.hidden.is_none() {
            let thawed = self.thawed().get(&segment.number);
            let hidden = directory::hidden_if_any(&segment, thawed);
            self.current.as_mut()?.hidden = Some(hidden);
        }
        self.current.as_ref()?.hidden.as_ref()?.as_ref()
    }

    /// Whether a page lies before or behind all rows that are looked for, as far as the pages beside it tell.
    fn is_beyond(&mut self, page: usize) -> Result<bool, String> {
        let (Some(edges), Some(current)) = (&self.edges, &self.current) else {
            return Ok(false);
        };
        let mut around = Around {
            directory: &self.directory,
            columns: &mut self.columns,
            index: current.index,
            page,
        };
        edges.exclude(&self.values, &mut around)
    }

    /// The rows of a page that the snapshot sees and that satisfy every filter; `None` where there are none.
    fn select(&mut self, segment: &Rc<SegmentRef>, page: usize) -> Result<Option<Bits>, String> {
        self.columns.enter(segment, page);
        let mut open = Vec::new();
        let filtered = self.columns.filtered;
        for (at, filter) in self.filters.iter().enumerate() {
            match eval::page_verdict(filter, &self.values, &mut self.columns)? {
                Verdict::Never => {
                    self.counters.pages_skipped += 1;
                    self.counters.pages_filtered += self.columns.filtered - filtered;
                    return Ok(None);
                }
                Verdict::Maybe => open.push(at),
                Verdict::Always => {}
            }
        }
        if !open.is_empty() && self.is_beyond(page)? {
            self.counters.pages_skipped += 1;
            return Ok(None);
        }
        let mut rows = eval::first_rows(self.columns.rows());
        if let Some(hidden) = self.hidden() {
            eval::without(&mut rows, hidden, page);
        }
        if let Some(current) = &mut self.current
            && !current.counted
        {
            current.counted = true;
            self.counters.segments_read += 1;
        }
        self.counters.pages_read += 1;
        let visible = eval::count(&rows);
        let decoded = self.columns.decoded;
        for at in open {
            if rows == NO_ROWS {
                break;
            }
            if let Some(filter) = self.filters.get(at) {
                eval::and(
                    &mut rows,
                    &eval::rows(filter, &self.values, &mut self.columns)?,
                );
            }
        }
        self.counters.columns_decoded += self.columns.decoded - decoded;
        self.counters.rows_removed += (visible - eval::count(&rows)) as u64;
        Ok((rows != NO_ROWS).then_some(rows))
    }
}
