//! What is left of chunks that are read by their segments: rows that no segment of the other relation has in the same place, segments without a
//! counterpart, and the delta.

use super::chunk::{Chunk, OpenChunk, Pair, Take, Test};
use super::segments::Segments;
use crate::am::directory::SegmentRef;
use crate::change::delta_scan::DeltaScan;
use crate::pg::ffi;
use crate::scan::batch::positions;
use crate::scan::eval::{NO_ROWS, and_not, first_rows, without};
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::change::Side;

/// Rows of the delta that are handed on at a time.
const AT_A_TIME: usize = 1024;

/// Reads them, of one of the relations, page by page.
pub struct Rest<'a> {
    segments: &'a Segments,
    side: Side,
    chunks: std::vec::IntoIter<&'a Chunk>,
    open: Option<Open<'a>>,
    /// A chunk of the other relation that was looked at last, and its place.
    other: Option<(usize, OpenChunk<'a>)>,
    ended: bool,
}

/// A chunk at hand.
struct Open<'a> {
    chunk: OpenChunk<'a>,
    /// The next page: its segment's place in the directory, and its own in the segment.
    segment: usize,
    page: usize,
    /// Rows of that segment that the snapshot does not see, and those that it sees here alone, once that was asked.
    rows: Option<Rows>,
    delta: Option<DeltaScan>,
    /// Whether the delta has no more rows.
    ended: bool,
}

struct Rows {
    hidden: Option<Bitmap>,
    alone: Option<Bitmap>,
}

impl<'a> Rest<'a> {
    /// Before the first row.
    pub fn new(segments: &'a Segments, side: Side) -> Self {
        Rest {
            segments,
            side,
            chunks: segments.chosen(side).collect::<Vec<_>>().into_iter(),
            open: None,
            other: None,
            ended: false,
        }
    }

    /// Whether there are no more rows.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Hands on the rows of the next page that are wanted.
    pub fn next(&mut self, mut wanted: Option<Test>, take: Take) {
        loop {
            pgrx::check_for_interrupts!();
            let Some(mut open) = self.open.take().or_else(|| self.next_chunk()) else {
                self.ended = true;
                self.other = None;
                return;
            };
            let found = self.page(&mut open, wanted.as_mut(), take);
            if found || open.delta(self.segments, wanted.as_mut(), take) {
                self.open = Some(open);
                return;
            }
        }
    }

    fn next_chunk(&mut self) -> Option<Open<'a>> {
        let chunk = self.chunks.next()?;
        let snapshot = self.segments.snapshot();
        // SAFETY: an open table and a snapshot of a statement's.
        unsafe { ffi::PredicateLockRelation(chunk.table.as_ptr(), snapshot.get()) };
        Some(Open {
            chunk: OpenChunk::new(chunk, snapshot),
            segment: 0,
            page: 0,
            rows: None,
            delta: None,
            ended: false,
        })
    }

    /// Hands on a page of a segment; `false` where there is none.
    fn page(&mut self, open: &mut Open<'a>, mut wanted: Option<&mut Test>, take: Take) -> bool {
        while let Some(segment) = open.chunk.directory.get(open.segment).cloned() {
            pgrx::check_for_interrupts!();
            let pair = open.chunk.chunk.pairs.get(&segment.number).copied();
            if open.page >= segment.pages() || pair.is_some_and(|pair| pair.equal) {
                (open.segment, open.page, open.rows) = (open.segment + 1, 0, None);
                continue;
            }
            let rows = match open.rows.take() {
                Some(rows) => Some(rows),
                None => self.rows(&open.chunk, &segment, pair),
            };
            let Some(rows) = rows else {
                open.page = segment.pages();
                continue;
            };
            let page = open.page;
            open.page += 1;
            let mut left = first_rows(segment.page_rows(page).len());
            if let Some(alone) = &rows.alone {
                let mut shared = left;
                without(&mut shared, alone, page);
                left = and_not(&left, &shared);
            }
            if let Some(hidden) = &rows.hidden {
                without(&mut left, hidden, page);
            }
            open.rows = Some(rows);
            if left != NO_ROWS {
                open.chunk.columns.enter(&segment, page);
                let wanted = wanted.as_deref_mut();
                open.chunk
                    .hand_on(&segment, &positions(&left), wanted, take);
                return true;
            }
        }
        false
    }

    /// Which rows of a segment are left; `None` where the other relation has all of them in the same place.
    fn rows(
        &mut self,
        chunk: &OpenChunk,
        segment: &Rc<SegmentRef>,
        pair: Option<Pair>,
    ) -> Option<Rows> {
        let alone = match pair {
            None => None,
            Some(pair) => {
                let other = self.segments.other(self.side, pair.at, &mut self.other)?;
                Some(other.hidden(&other.segment(pair.number))?)
            }
        };
        Some(Rows {
            hidden: chunk.hidden(segment),
            alone,
        })
    }
}

impl Open<'_> {
    /// Hands on rows of the delta; `false` after the last one.
    fn delta(&mut self, segments: &Segments, mut wanted: Option<&mut Test>, take: Take) -> bool {
        if self.ended {
            return false;
        }
        let rel = self.chunk.chunk.table.as_ptr();
        let begin = || DeltaScan::new(rel, segments.snapshot().get());
        let delta = self.delta.get_or_insert_with(begin);
        let mut row = (Vec::new(), Vec::new());
        for at in 0..AT_A_TIME {
            pgrx::check_for_interrupts!();
            let Some(found) = delta.next() else {
                self.ended = true;
                return at > 0;
            };
            self.chunk
                .arrange(found.values(), &mut row, wanted.as_deref_mut(), take);
        }
        true
    }
}
