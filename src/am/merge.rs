//! Finding frozen rows by ascending keys: one pass over the pages of all segments beside a sorted batch.

use super::cache;
use super::companion::Companion;
use super::directory::{Decoded, SegmentRef};
use super::keyset::{self, PageKeys};
use super::tid::Place;
use super::unique::{self, UniqueIndex};
use super::{thaw, tombstone};
use crate::pg::compare::{self, Compare};
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;

/// Rows of a segment whose tombstones are looked for one by one; then those of the whole segment are read.
const FEW: u32 = 8;

/// Spent segments that a backend remembers.
const MOST_SPENT: usize = 10_000;

/// A segment by the table that it is in, and as a cache knows it there.
type Name = (u32, cache::SegmentKey);

thread_local! {
    /// Segments that have no visible row left, and the end of the snapshot that told so: all that it saw is seen by those
    /// that begin there.
    static SPENT: RefCell<HashMap<Name, pg_sys::TransactionId>> = RefCell::new(HashMap::new());
}

/// A pass over the frozen rows of a table, as a snapshot sees them.
pub struct FrozenWalk {
    rel: pg_sys::Relation,
    graves: Graves,
    compare: Vec<Compare>,
    indexes: Rc<Vec<UniqueIndex>>,
    index: usize,
    /// Segments whose rows do not lie in the order of the index, the newest first.
    unsorted: Vec<Segment>,
    /// The others, those that the pass is not through with: a binary heap, the smallest key at hand at its top.
    heap: Vec<Cursor>,
    /// The others, before the first key is asked for.
    fresh: Vec<Cursor>,
}

/// What hides frozen rows from a snapshot.
struct Graves {
    companion: Companion,
    snapshot: pg_sys::Snapshot,
    /// Whether there are tombstones at all.
    any: bool,
}

/// A segment, and what is known of its hidden rows.
struct Segment {
    segment: Rc<SegmentRef>,
    asked: u32,
    hidden: Option<Bitmap>,
}

/// How far the pass has come in a segment whose rows lie in the order of the index.
struct Cursor {
    segment: Segment,
    page: usize,
    keys: Rc<PageKeys>,
    /// The row at hand, counted on its page; those before it have smaller keys than were asked for last.
    row: usize,
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
        let compare = {
            let index = OpenRel::index(index, pg_sys::AccessShareLock);
            compare::of_keys(index.as_ptr())
        };
        let (mut unsorted, mut fresh) = (Vec::new(), Vec::new());
        for segment in cache::directory(rel, &companion).iter().rev() {
            if !thaw::segment_visible(&companion, segment, snapshot)
                || segment.pages() == 0
                || is_spent(segment, snapshot)
            {
                continue;
            }
            let segment = Segment {
                segment: segment.clone(),
                asked: 0,
                hidden: None,
            };
            if found.sorts_as(&segment.segment.header.order) {
                fresh.push(Cursor {
                    keys: keyset::page(rel, found, &segment.segment, 0),
                    segment,
                    page: 0,
                    row: 0,
                });
            } else {
                unsorted.push(segment);
            }
        }
        let tombstones = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
        Some(FrozenWalk {
            rel,
            graves: Graves {
                companion,
                snapshot,
                any: relation::blocks(tombstones.as_ptr()) > 0,
            },
            compare,
            index: at,
            indexes,
            unsorted,
            heap: Vec::new(),
            fresh,
        })
    }

    /// Finds the row with a key, which must be greater than all that were asked for before: its place, and its page.
    pub fn find(&mut self, key: &[pg_sys::Datum]) -> Option<(Place, Rc<Decoded>)> {
        if !self.fresh.is_empty() {
            for cursor in std::mem::take(&mut self.fresh) {
                self.seek(cursor, key);
            }
        }
        while let Some(first) = self.heap.first() {
            match first.lies(&mut self.compare, key) {
                Ordering::Greater => break,
                Ordering::Less => {
                    if let Some(cursor) = self.pop() {
                        self.seek(cursor, key);
                    }
                }
                Ordering::Equal => {
                    let row = first.number();
                    let first = self.heap.first_mut()?;
                    if !first.segment.hides(&self.graves, row) {
                        return Some(found(self.rel, &first.segment, row));
                    }
                    if let Some(mut cursor) = self.pop() {
                        cursor.row += 1;
                        self.seek(cursor, key);
                    }
                }
            }
        }
        self.find_unsorted(key)
    }

    fn find_unsorted(&mut self, key: &[pg_sys::Datum]) -> Option<(Place, Rc<Decoded>)> {
        if self.unsorted.is_empty() {
            return None;
        }
        let index = self.indexes.get(self.index)?;
        let key: Vec<Option<pg_sys::Datum>> = key.iter().copied().map(Some).collect();
        for segment in &mut self.unsorted {
            let mut rows: Vec<u32> = Vec::new();
            let add = &mut |row| rows.push(row);
            unique::in_segment(self.rel, index, &segment.segment, &key, add);
            for row in rows {
                if !segment.hides(&self.graves, row) {
                    return Some(found(self.rel, segment, row));
                }
            }
        }
        None
    }

    /// Moves a cursor to the first row whose key is not smaller, and puts it into the heap; drops it where there is none.
    fn seek(&mut self, mut cursor: Cursor, key: &[pg_sys::Datum]) {
        let Some(index) = self.indexes.get(self.index) else {
            return;
        };
        if cursor.seek(self.rel, index, &mut self.compare, key) {
            self.push(cursor);
        }
    }

    fn push(&mut self, cursor: Cursor) {
        self.heap.push(cursor);
        let mut at = self.heap.len() - 1;
        while at > 0 && self.is_before(at, (at - 1) / 2) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn pop(&mut self) -> Option<Cursor> {
        let last = self.heap.pop()?;
        let Some(first) = self.heap.first_mut() else {
            return Some(last);
        };
        let first = std::mem::replace(first, last);
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut least = at;
            for child in [left, right] {
                if child < self.heap.len() && self.is_before(child, least) {
                    least = child;
                }
            }
            if least == at {
                return Some(first);
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    fn is_before(&mut self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.heap.get(a), self.heap.get(b)) else {
            return false;
        };
        let mut columns = self.compare.iter_mut().enumerate();
        columns
            .find_map(|(at, compare)| {
                let order = match (a.keys.value(at, a.row), b.keys.value(at, b.row)) {
                    (Some(a), Some(b)) => compare.compare(a, b),
                    (a, b) => a.is_none().cmp(&b.is_none()),
                };
                order.is_ne().then_some(order)
            })
            .is_some_and(Ordering::is_lt)
    }
}

/// Whether a snapshot sees all segments that are there by now.
pub fn sees_all(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> bool {
    super::modify::frozen_part(rel).is_none_or(|companion| {
        cache::directory(rel, &companion)
            .iter()
            .all(|segment| thaw::segment_visible(&companion, segment, snapshot))
    })
}

fn name(segment: &SegmentRef) -> Name {
    let (_, number, place, writer) = cache::key_of(segment);
    let key = (0, number, place, writer);
    (segment.companion.segments.to_u32(), key)
}

/// Notes that a snapshot sees no row of a segment, by what others have committed.
fn remember_spent(segment: &SegmentRef, snapshot: pg_sys::Snapshot) {
    // SAFETY: a valid snapshot.
    let end = unsafe { (*snapshot).xmax };
    SPENT.with_borrow_mut(|spent| {
        if spent.len() >= MOST_SPENT {
            spent.clear();
        }
        spent.insert(name(segment), end);
    });
}

/// Whether a snapshot sees no row of a segment, as far as is remembered.
fn is_spent(segment: &SegmentRef, snapshot: pg_sys::Snapshot) -> bool {
    let end = SPENT.with_borrow(|spent| spent.get(&name(segment)).copied());
    // SAFETY: a valid snapshot; pure arithmetic.
    end.is_some_and(|end| unsafe { pg_sys::TransactionIdFollowsOrEquals((*snapshot).xmin, end) })
}

fn found(rel: pg_sys::Relation, segment: &Segment, row: u32) -> (Place, Rc<Decoded>) {
    let place = Place {
        segment: segment.segment.number,
        row,
    };
    (place, cache::decoded(rel, &segment.segment, row))
}

impl Segment {
    /// Whether a row is dead, thawed, or replaced, as far as the snapshot can tell.
    fn hides(&mut self, graves: &Graves, row: u32) -> bool {
        if self.segment.header.dead.get(row as usize) {
            return true;
        }
        if !graves.any {
            return false;
        }
        let number = self.segment.number;
        let (companion, snapshot) = (&graves.companion, graves.snapshot);
        if self.asked < FEW {
            self.asked += 1;
            let place = Place {
                segment: number,
                row,
            };
            return tombstone::find_visible(companion, place, snapshot).is_some();
        }
        self.hidden
            .get_or_insert_with(|| {
                let mut hidden = self.segment.header.dead.clone();
                let mut settled = true;
                tombstone::of_segment(companion, number, snapshot, |row, by| {
                    hidden.set(row as usize, true);
                    // SAFETY: a transaction status look-up.
                    settled &= !unsafe { pg_sys::TransactionIdIsCurrentTransactionId(by) };
                });
                if settled && hidden.count_ones() == self.segment.header.rows as usize {
                    remember_spent(&self.segment, snapshot);
                }
                hidden
            })
            .get(row as usize)
    }
}

impl Cursor {
    /// The number of the row at hand in its segment.
    fn number(&self) -> u32 {
        self.keys.first() + self.row as u32
    }

    /// How the key at hand lies to another.
    fn lies(&self, compare: &mut [Compare], key: &[pg_sys::Datum]) -> Ordering {
        lies(&self.keys, self.row, compare, key)
    }

    /// Moves to the first row whose key is not smaller; `false` where there is none.
    fn seek(
        &mut self,
        rel: pg_sys::Relation,
        index: &UniqueIndex,
        compare: &mut [Compare],
        key: &[pg_sys::Datum],
    ) -> bool {
        let pages = self.segment.segment.pages();
        let open = |page| keyset::page(rel, index, &self.segment.segment, page);
        // Pages are passed by ever longer steps while they begin with a smaller key, then by ever shorter ones.
        let mut step = 1;
        if last_is_smaller(&self.keys, compare, key) {
            while let Some(next) = Some(self.page + step).filter(|p| *p < pages) {
                let keys = open(next);
                if lies(&keys, 0, compare, key).is_gt() {
                    break;
                }
                (self.page, self.keys, self.row) = (next, keys, 0);
                step *= 2;
            }
            while step > 1 {
                step /= 2;
                let next = self.page + step;
                if next < pages {
                    let keys = open(next);
                    if lies(&keys, 0, compare, key).is_le() {
                        (self.page, self.keys, self.row) = (next, keys, 0);
                    }
                }
            }
        }
        self.row = first_not_smaller(&self.keys, self.row, compare, key);
        if self.row < self.keys.rows() {
            return true;
        }
        // It lies between two pages.
        self.page += 1;
        if self.page < pages {
            (self.keys, self.row) = (open(self.page), 0);
        }
        self.page < pages
    }
}

/// How the key of a row of a page lies to another.
fn lies(keys: &PageKeys, row: usize, compare: &mut [Compare], key: &[pg_sys::Datum]) -> Ordering {
    let mut columns = compare.iter_mut().zip(key).enumerate();
    columns
        .find_map(|(at, (compare, wanted))| {
            // NULLs come last, and are no whole key.
            let order = keys
                .value(at, row)
                .map_or(Ordering::Greater, |value| compare.compare(value, *wanted));
            order.is_ne().then_some(order)
        })
        .unwrap_or(Ordering::Equal)
}

fn last_is_smaller(keys: &PageKeys, compare: &mut [Compare], key: &[pg_sys::Datum]) -> bool {
    keys.rows()
        .checked_sub(1)
        .is_none_or(|last| lies(keys, last, compare, key).is_lt())
}

/// The first row of a page, from one on, whose key is not smaller; the number of its rows where there is none. The wanted
/// row is near, as a rule.
fn first_not_smaller(
    keys: &PageKeys,
    from: usize,
    compare: &mut [Compare],
    key: &[pg_sys::Datum],
) -> usize {
    let rows = keys.rows();
    let (mut low, mut high, mut step) = (from, rows, 1);
    while low + step <= rows {
        if lies(keys, low + step - 1, compare, key).is_ge() {
            high = low + step - 1;
            break;
        }
        low += step;
        step *= 2;
    }
    while low < high {
        let middle = low.midpoint(high);
        if lies(keys, middle, compare, key).is_lt() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
