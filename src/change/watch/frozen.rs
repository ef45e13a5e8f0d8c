//! Rows of segments.

use crate::am::directory::{Decoded, SegmentRef};
use crate::pg::relation;
use pgrx::pg_sys;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;

/// Some rows of a segment, which are read by a row shape.
pub struct Piece {
    /// The segment.
    pub segment: Rc<SegmentRef>,
    /// A bit for each of its rows.
    pub rows: Bitmap,
}

impl Piece {
    /// All rows of a segment but these, and but those that were dead from birth.
    pub fn without(segment: Rc<SegmentRef>, gone: &Bitmap) -> Self {
        let mut rows = Bitmap::full(segment.header.rows as usize);
        for dead in [&segment.header.dead, gone] {
            dead.iter_ones().for_each(|row| rows.set(row, false));
        }
        Piece { segment, rows }
    }
}

/// Reads the rows of pieces, page by page.
pub struct Pages<'a> {
    /// Named where a segment is damaged.
    rel: pg_sys::Relation,
    desc: pg_sys::TupleDesc,
    pieces: &'a [Piece],
    page: usize,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl<'a> Pages<'a> {
    /// For rows of a shape.
    pub fn new(rel: pg_sys::Relation, desc: pg_sys::TupleDesc, pieces: &'a [Piece]) -> Self {
        let natts = relation::natts(desc);
        Pages {
            rel,
            desc,
            pieces,
            page: 0,
            values: vec![pg_sys::Datum::from(0usize); natts],
            nulls: vec![true; natts],
        }
    }

    /// Whether there are no more pages.
    pub fn ended(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Reads the next page that has rows, the first attributes of it that are `wanted`; `take` says of a row whether it is to be
    /// had whole, and is then given it once more.
    pub fn next(
        &mut self,
        wanted: impl Fn(usize) -> bool,
        mut take: impl FnMut(&[pg_sys::Datum], &[bool], bool) -> bool,
    ) {
        let Some((piece, rest)) = self.pieces.split_first() else {
            return;
        };
        let Piece { segment, rows } = piece;
        let page = self.page;
        self.page += 1;
        if self.page >= segment.pages() {
            self.pieces = rest;
            self.page = 0;
        }
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
