//! Rows of segments: which of them are to be compared, and what they say.
//!
//! A table may have thousands of segments, so what is made of each, a bit for each row, is made when it is its turn.

use super::error;
use super::part::{Frozen, Now, Part, Then};
use super::subject::Subject;
use crate::am::directory::{Decoded, SegmentRef};
use crate::am::{cache, retained};
use crate::pg::relation;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::change::checkpoint::Segment;

/// Some rows of a segment, which are read by a row shape.
pub struct Piece {
    /// The segment.
    segment: Rc<SegmentRef>,
    /// A bit for each of its rows.
    rows: Bitmap,
}

impl Piece {
    /// All rows of a segment but these, and but those that were dead from birth.
    fn without(segment: Rc<SegmentRef>, gone: &Bitmap) -> Self {
        let mut rows = Bitmap::full(segment.header.rows as usize);
        for dead in [&segment.header.dead, gone] {
            dead.iter_ones().for_each(|row| rows.set(row, false));
        }
        Piece { segment, rows }
    }

    /// Those of these rows that are not among others, without those that were dead from birth.
    fn between(segment: Rc<SegmentRef>, rows: &Bitmap, but: &Bitmap) -> Self {
        let dead = &segment.header.dead;
        let mut chosen = Bitmap::new(rows.len());
        rows.iter_ones()
            .filter(|row| !but.get(*row) && !dead.get(*row))
            .for_each(|row| chosen.set(row, true));
        let rows = chosen;
        Piece { segment, rows }
    }
}

/// Segments where they are, by their numbers.
struct Place<'a> {
    segments: HashMap<i32, Rc<SegmentRef>>,
    subject: &'a Subject,
}

impl<'a> Place<'a> {
    /// Those of a chunk as it is.
    fn of_now(now: &Now, subject: &'a Subject, snapshot: pg_sys::Snapshot) -> Self {
        let table = now.table.as_ref();
        let directory = table.and_then(|table| cache::directory_for(table.as_ptr(), snapshot));
        let all = directory.iter().flat_map(|directory| directory.iter());
        Place {
            segments: all.map(|s| (s.number, s.clone())).collect(),
            subject,
        }
    }

    /// Those of a chunk as it was, wherever they are by now.
    fn of_then(
        then: &Then,
        now: Option<&Now>,
        subject: &'a Subject,
        snapshot: pg_sys::Snapshot,
    ) -> Self {
        if let Some(now) = now.filter(|now| now.segments == then.segments) {
            return Self::of_now(now, subject, snapshot);
        }
        let segments = match then.state.segments.is_empty() {
            true => Some(HashMap::new()),
            false => retained::segments(then.segments, snapshot),
        };
        Place {
            segments: segments
                .unwrap_or_else(|| error::lost(&subject.name, "The table of a chunk's segments")),
            subject,
        }
    }

    fn get(&self, kept: &Segment) -> Rc<SegmentRef> {
        match self.segments.get(&kept.number) {
            Some(segment)
                if (segment.xmin.into_inner(), segment.header.rows) == (kept.writer, kept.rows) =>
            {
                segment.clone()
            }
            _ => segment_lost(self.subject, kept),
        }
    }
}

/// Raises an error for a segment that is not there any more.
pub fn segment_lost(subject: &Subject, kept: &Segment) -> ! {
    error::lost(
        &subject.name,
        &format!("Segment {} of a chunk", kept.number),
    )
}

/// A segment as a checkpoint remembers it.
pub fn keep(segment: &SegmentRef, gone: &Bitmap) -> Segment {
    Segment::new(segment.number, segment.xmin.into_inner(), gone)
}

/// Which of a segment's rows have a tombstone.
fn gone(kept: &Segment) -> Bitmap {
    kept.gone().unwrap_or_else(|e| error::damaged(&e))
}

/// Pieces, one after the other.
pub type Pieces<'a> = Box<dyn Iterator<Item = Piece> + 'a>;

/// The rows that segments had, and have no more.
pub fn old<'a>(part: &'a Part, subject: &'a Subject, snapshot: pg_sys::Snapshot) -> Pieces<'a> {
    match (&part.frozen, &part.then, &part.now) {
        (Frozen::All, Some(then), now) => {
            let place = Place::of_then(then, now.as_ref(), subject, snapshot);
            let all = then.state.segments.iter();
            Box::new(all.map(move |was| Piece::without(place.get(was), &gone(was))))
        }
        (Frozen::Some, Some(then), Some(now)) => {
            let place = Place::of_now(now, subject, snapshot);
            Box::new(now.kept.iter().filter_map(move |is| {
                let was = then.segment(is.number).filter(|was| *was != is)?;
                Some(Piece::between(place.get(is), &gone(is), &gone(was)))
            }))
        }
        _ => Box::new(std::iter::empty()),
    }
}

/// The rows that segments have, and had not.
pub fn new<'a>(part: &'a Part, subject: &'a Subject, snapshot: pg_sys::Snapshot) -> Pieces<'a> {
    let Some(now) = &part.now else {
        return Box::new(std::iter::empty());
    };
    let then = match part.frozen {
        Frozen::Same => return Box::new(std::iter::empty()),
        Frozen::Some => part.then.as_ref(),
        Frozen::All => None,
    };
    let place = Place::of_now(now, subject, snapshot);
    Box::new(now.kept.iter().filter_map(move |is| {
        match then.and_then(|then| then.segment(is.number)) {
            None => Some(Piece::without(place.get(is), &gone(is))),
            Some(was) if was == is => None,
            Some(was) => Some(Piece::between(place.get(is), &gone(was), &gone(is))),
        }
    }))
}

/// Reads the rows of pieces, page by page.
pub struct Pages<'a> {
    /// Named where a segment is damaged.
    rel: pg_sys::Relation,
    desc: pg_sys::TupleDesc,
    pieces: Pieces<'a>,
    /// The one that is read.
    piece: Option<Piece>,
    page: usize,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl<'a> Pages<'a> {
    /// For rows of a shape.
    pub fn new(rel: pg_sys::Relation, desc: pg_sys::TupleDesc, mut pieces: Pieces<'a>) -> Self {
        let natts = relation::natts(desc);
        Pages {
            rel,
            desc,
            piece: pieces.next(),
            pieces,
            page: 0,
            values: vec![pg_sys::Datum::from(0usize); natts],
            nulls: vec![true; natts],
        }
    }

    /// Whether there are no more pages.
    pub fn ended(&self) -> bool {
        self.piece.is_none()
    }

    /// Reads the next page that has rows, the first attributes of it that are `wanted`; `take` says of a row whether it is to be
    /// had whole, and is then given it once more.
    pub fn next(
        &mut self,
        wanted: impl Fn(usize) -> bool,
        take: impl FnMut(&[pg_sys::Datum], &[bool], bool) -> bool,
    ) {
        let Some(piece) = self.piece.take() else {
            return;
        };
        let page = self.page;
        self.page += 1;
        self.read(&piece, page, wanted, take);
        self.piece = match self.page < piece.segment.pages() {
            true => Some(piece),
            false => {
                self.page = 0;
                self.pieces.next()
            }
        };
    }

    fn read(
        &mut self,
        Piece { segment, rows }: &Piece,
        page: usize,
        wanted: impl Fn(usize) -> bool,
        mut take: impl FnMut(&[pg_sys::Datum], &[bool], bool) -> bool,
    ) {
        let mut chosen = segment
            .page_rows(page)
            .filter(|row| rows.get(*row as usize))
            .peekable();
        if chosen.peek().is_none() {
            return;
        }
        pgrx::check_for_interrupts!();
        let some = Decoded::shaped(self.rel, self.desc, segment, page, wanted);
        let mut whole = None;
        for row in chosen {
            some.row(row, &mut self.values, &mut self.nulls);
            if take(&self.values, &self.nulls, false) {
                let whole = whole.get_or_insert_with(|| {
                    Decoded::shaped(self.rel, self.desc, segment, page, |_| true)
                });
                whole.row(row, &mut self.values, &mut self.nulls);
                take(&self.values, &self.nulls, true);
            }
        }
    }
}
