//! Finding frozen rows by ascending keys: one pass over the pages of each segment beside a sorted batch.

use super::cache;
use super::companion::Companion;
use super::directory::{Decoded, SegmentRef};
use super::keyset::{self, Lies};
use super::tid::Place;
use super::unique::{self, UniqueIndex};
use super::{thaw, tombstone};
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;
use std::rc::Rc;

/// How far the pass has come in a segment.
struct Cursor {
    segment: Rc<SegmentRef>,
    /// Whether its rows lie in the order of the index.
    sorted: bool,
    /// No key greater than those before lies on an earlier page.
    page: usize,
}

/// A pass over the frozen rows of a table, as a snapshot sees them.
pub struct FrozenWalk {
    rel: pg_sys::Relation,
    companion: Companion,
    indexes: Rc<Vec<UniqueIndex>>,
    index: usize,
    snapshot: pg_sys::Snapshot,
    cursors: Vec<Cursor>,
    /// Whether any row was thawed, as far as the snapshot can tell.
    thawed: bool,
}

impl FrozenWalk {
    /// A pass by the keys of a unique index; `None` where nothing is frozen. Nobody may freeze meanwhile.
    pub fn new(
        rel: pg_sys::Relation,
        index: pg_sys::Oid,
        snapshot: pg_sys::Snapshot,
    ) -> Option<Self> {
        let companion = super::modify::frozen_part(rel)?;
        let indexes = unique::unique_indexes(rel, &companion);
        let at = indexes.iter().position(|i| i.oid == index)?;
        let found = indexes.get(at)?;
        let cursors = cache::directory(rel, &companion)
            .iter()
            .filter(|segment| thaw::segment_visible(&companion, segment, snapshot))
            .map(|segment| Cursor {
                segment: segment.clone(),
                sorted: found.sorts_as(&segment.header.order),
                page: 0,
            })
            .collect();
        let tombstones = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
        Some(FrozenWalk {
            rel,
            companion,
            index: at,
            snapshot,
            cursors,
            thawed: relation::blocks(tombstones.as_ptr()) > 0,
            indexes,
        })
    }

    /// Finds the row with a key, which must be greater than all that were asked for before: its place, and its page.
    pub fn find(&mut self, key: &[pg_sys::Datum]) -> Option<(Place, Rc<Decoded>)> {
        let index = self.indexes.get(self.index)?;
        let key: Vec<Option<pg_sys::Datum>> = key.iter().copied().map(Some).collect();
        for cursor in &mut self.cursors {
            let mut rows: Vec<u32> = Vec::new();
            if cursor.sorted {
                rows.extend(cursor.find(self.rel, index, &key));
            } else {
                let add = &mut |row| rows.push(row);
                unique::in_segment(self.rel, index, &cursor.segment, &key, add);
            }
            for row in rows {
                let place = Place {
                    segment: cursor.segment.number,
                    row,
                };
                let hidden = cursor.segment.header.dead.get(row as usize)
                    || self.thawed
                        && tombstone::find_visible(&self.companion, place, self.snapshot).is_some();
                if !hidden {
                    return Some((place, cache::decoded(self.rel, &cursor.segment, row)));
                }
            }
        }
        None
    }
}

impl Cursor {
    fn find(
        &mut self,
        rel: pg_sys::Relation,
        index: &UniqueIndex,
        key: &[Option<pg_sys::Datum>],
    ) -> Option<u32> {
        let pages = self.segment.pages();
        // Pages are passed by ever longer steps, and from where one was too long by the shortest again.
        let mut step = 1;
        while self.page < pages {
            match keyset::page(rel, index, &self.segment, self.page).lies(index, key) {
                Lies::At(row) => return Some(row),
                Lies::Before | Lies::Between => return None,
                Lies::Behind => {}
            }
            loop {
                let next = self.page + step;
                let passed = next < pages
                    && !matches!(
                        keyset::page(rel, index, &self.segment, next).lies(index, key),
                        Lies::Before
                    );
                if passed {
                    self.page = next;
                    step *= 2;
                    break;
                }
                if step == 1 {
                    // Behind all rows of this page, and before the next one, or behind the segment.
                    if next >= pages {
                        self.page = pages;
                    }
                    return None;
                }
                step = 1;
            }
        }
        None
    }
}
