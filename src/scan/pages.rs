//! The pages of a table's segments that may hold rows of a query, one after the other.

use super::columns::Columns;
use super::eval::{self, Bits, NO_ROWS, Resolved};
use super::filter::Filter;
use crate::am::cache;
use crate::am::directory::{self, Directory, SegmentRef};
use crate::am::error::corrupt;
use crate::am::zone::Verdict;
use crate::pg::relation;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::paged::{Bounds, PAGE_ROWS};

/// What a scan did, for EXPLAIN.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    /// Segments of which a page was read.
    pub segments_read: u64,
    /// Segments that their headers kept out.
    pub segments_skipped: u64,
    /// Pages of which a column was decoded or that were taken by their zones alone.
    pub pages_read: u64,
    /// Pages that their zones and Bloom filters kept out.
    pub pages_skipped: u64,
    /// Those of them that zones alone would not have kept out.
    pub pages_filtered: u64,
    /// Frozen rows that conditions on pages kept out.
    pub rows_removed: u64,
    /// Columns of pages that were decoded.
    pub columns_decoded: u64,
}

/// How many numbers [`Counters`] has.
pub const COUNTED: usize = 7;

impl From<[u64; COUNTED]> for Counters {
    fn from(numbers: [u64; COUNTED]) -> Self {
        let [
            segments_read,
            segments_skipped,
            pages_read,
            pages_skipped,
            pages_filtered,
            rows_removed,
            columns_decoded,
        ] = numbers;
        Counters {
            segments_read,
            segments_skipped,
            pages_read,
            pages_skipped,
            pages_filtered,
            rows_removed,
            columns_decoded,
        }
    }
}

impl Counters {
    /// As numbers, for another process.
    pub fn numbers(&self) -> [u64; COUNTED] {
        [
            self.segments_read,
            self.segments_skipped,
            self.pages_read,
            self.pages_skipped,
            self.pages_filtered,
            self.rows_removed,
            self.columns_decoded,
        ]
    }

    /// Adds what another process counted.
    pub fn add(&mut self, other: &Counters) {
        self.segments_read += other.segments_read;
        self.segments_skipped += other.segments_skipped;
        self.pages_read += other.pages_read;
        self.pages_skipped += other.pages_skipped;
        self.pages_filtered += other.pages_filtered;
        self.rows_removed += other.rows_removed;
        self.columns_decoded += other.columns_decoded;
    }
}

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
    hidden: Option<Bitmap>,
    counted: bool,
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
        Pages {
            rel,
            kept_out: vec![None; directory.len()],
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
                .map(|(entry, _)| entry.summary.clone())
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
            for page in 0..segment.pages() {
                let bound = match column.index.zone(page).map(|z| z.bounds) {
                    Some(Bounds::Int { max, .. }) if greatest => max,
                    Some(Bounds::Int { min, .. }) => min,
                    Some(Bounds::None) => continue,
                    _ => unknown,
                };
                found.push((bound, index, page));
            }
        }
        found
    }

    /// The rows of a page, by the number of its segment in the directory, that satisfy every filter.
    pub fn page(&mut self, index: usize, page: usize) -> Option<Selection> {
        let segment = self.directory.get(index)?.clone();
        self.current = Some(Current {
            index,
            segment: segment.clone(),
            hidden: None,
            counted: false,
        });
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
            self.at = self.neighbour(forward, &mut hand_out);
            let At::Page(index, page) = self.at else {
                return Ok(None);
            };
            let Some(segment) = self.directory.get(index).cloned() else {
                return Ok(None);
            };
            if self.current.as_ref().is_none_or(|c| c.index != index) {
                self.current = Some(Current {
                    index,
                    segment: segment.clone(),
                    hidden: None,
                    counted: false,
                });
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
    fn neighbour(&mut self, forward: bool, hand_out: &mut HandOut) -> At {
        let count = self.directory.len();
        let pages = |index: usize| self.directory.get(index).map_or(0, |s| s.pages());
        let mut index = match (self.at, forward) {
            (At::Page(index, page), true) if page + 1 < pages(index) => {
                return At::Page(index, page + 1);
            }
            (At::Page(index, page), false) if page > 0 => return At::Page(index, page - 1),
            (At::End, true) => return At::End,
            (At::Start, false) => return At::Start,
            (At::Start, true) => None,
            (At::End, false) => Some(count),
            (At::Page(index, _), _) => Some(index),
        };
        loop {
            let next = match (forward, hand_out.as_mut()) {
                (true, Some(hand_out)) => hand_out(),
                (true, None) => index.map_or(0, |i| i + 1),
                (false, _) => match index {
                    None | Some(0) => return At::Start,
                    Some(i) => i - 1,
                },
            };
            if next >= count {
                return At::End;
            }
            index = Some(next);
            let pages = self.directory.get(next).map_or(0, |s| s.pages());
            if pages > 0 && !self.keeps_out(next) {
                return At::Page(next, if forward { 0 } else { pages - 1 });
            }
        }
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
                .map(|(entry, _)| entry.summary.clone())
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
            let hidden = directory::hidden_rows(&segment, thawed);
            self.current.as_mut()?.hidden = Some(hidden);
        }
        self.current.as_ref()?.hidden.as_ref()
    }

    /// The rows of a page that the snapshot sees and that satisfy every filter; `None` where there are none.
    fn select(&mut self, segment: &Rc<SegmentRef>, page: usize) -> Result<Option<Bits>, String> {
        self.columns.enter(segment, page);
        let count = self.columns.rows();
        let mut rows = eval::first_rows(count);
        if let Some(hidden) = self.hidden() {
            for (word, not) in rows.iter_mut().zip(hidden.words(page * PAGE_ROWS)) {
                *word &= !not;
            }
        }
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
