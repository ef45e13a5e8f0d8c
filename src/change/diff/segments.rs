//! Frozen chunks that are read segment by segment, past the executor, since much of them is the same in both relations.
//!
//! Segments with the same sum of rows hold the same rows, and are not read, as [chunks](super::equal_parts) are not. Segments whose keys are
//! encoded in the same bytes have the rows of the same keys in the same places; they are compared [column by column](super::beside), and only rows
//! that differ are read. For relations in which there is one row of each key: what is left out on both sides is what both have.

use super::beside;
use super::equal_parts::chunks;
use crate::am::directory::{self, Directory, SegmentRef};
use crate::am::error::corrupt;
use crate::am::{cache, companion};
use crate::change::checksums::{is_plain, may_read_all};
use crate::change::kept;
use crate::pg::memory::Context;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Registered;
use crate::pg::{ffi, tuple};
use crate::scan::batch::positions;
use crate::scan::columns::Columns;
use crate::scan::delta::Delta;
use crate::scan::eval::{self, Bits, NO_ROWS, first_rows};
use crate::tier::set_tier;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::change::{Side, cell_hash};
use varve_core::paged::PAGE_ROWS;

/// Takes rows: the values of a relation's columns, in their order.
pub type Take<'a> = &'a mut dyn FnMut(Side, &[pg_sys::Datum], &[bool]);

/// A relation, and the columns of its rows by their names and types.
pub struct Origin<'a> {
    pub rel: &'a OpenRel,
    pub columns: Vec<(&'a str, pg_sys::Oid)>,
    /// Chunks that need not be read.
    pub left_out: &'a [pg_sys::Oid],
}

/// What is known of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The other relation has a segment of the same rows.
    Equal,
    /// That chunk of the other relation has a segment of this number in which the keys are the same, one behind the other.
    Beside(usize, i32),
}

/// A chunk.
struct Part {
    table: OpenRel,
    /// The attributes of the relation's columns in it.
    attnums: Vec<i16>,
    /// By the segment's number; the others are read whole.
    fates: HashMap<i32, Fate>,
}

/// Chunks of both relations.
pub struct Segments {
    snapshot: Registered,
    old: Vec<Part>,
    new: Vec<Part>,
    /// Places of columns in the rows of the old and of the new relation, those of the key first; `None` where there are columns that one of
    /// them lacks, or has in another type.
    places: Option<Vec<(usize, usize)>>,
    key: usize,
}

impl Segments {
    /// Looks for chunks that have such segments. `places` as above, of which the first `key` are those of the key.
    pub fn find(
        origins: [Origin; 2],
        places: Option<Vec<(usize, usize)>>,
        key: usize,
    ) -> Option<Self> {
        let readable = |origin: &Origin| may_read_all(relation::oid(origin.rel.as_ptr()));
        if !origins.iter().all(readable) {
            return None;
        }
        let [old, new] = &origins;
        // SAFETY: a statement that calls a function has a snapshot.
        let snapshot = Registered::copy_of(unsafe { pg_sys::GetActiveSnapshot() });
        let mut segments = Segments {
            old: parts(old),
            new: parts(new),
            snapshot,
            places,
            key,
        };
        if segments.old.is_empty() || segments.new.is_empty() {
            return None;
        }
        segments.find_equal();
        segments.find_beside();
        let chosen = segments.chosen(Side::Old).chain(segments.chosen(Side::New));
        let chosen: Vec<_> = chosen.map(|(_, part)| part.oid()).collect();
        // Of what TimescaleDB's columnstore has compressed, some rows are not in the chunk.
        (!chosen.is_empty() && !set_tier::in_columnstore(chosen)).then_some(segments)
    }

    /// The chunks of a relation that are read here.
    pub fn chunks(&self, side: Side) -> Vec<pg_sys::Oid> {
        self.chosen(side).map(|(_, part)| part.oid()).collect()
    }

    /// Hands on the rows of both relations that have the same key, lie in the same places, and differ. Gives the number of those that are
    /// the same, in equal segments too.
    pub fn differing(&self, take: Take) -> u64 {
        let mut same = 0;
        let places = self.places.as_deref().unwrap_or_default();
        let mut beside: Option<(usize, Reading)> = None;
        for (_, part) in self.chosen(Side::Old) {
            let mut old = Reading::open(part, &self.snapshot);
            for segment in old.directory.clone().iter() {
                let (at, number) = match part.fates.get(&segment.number) {
                    Some(Fate::Beside(at, number)) => (at, number),
                    fate => {
                        same += fate.map_or(0, |_| u64::from(segment.header.rows));
                        continue;
                    }
                };
                let Some(new) = self.other(Side::Old, *at, &mut beside) else {
                    continue;
                };
                let Some(other) = new.segment(*number) else {
                    corrupt(new.part.table.as_ptr(), *number, "it is gone");
                };
                let hidden = [old.hidden(segment), new.hidden(&other)];
                let columns = both(places.iter().skip(self.key), part, new.part);
                let columns = beside::unequal(segment, &other, columns);
                let columns = columns.unwrap_or_else(|e| old.corrupt(segment, &e));
                for page in 0..segment.pages() {
                    pgrx::check_for_interrupts!();
                    let mut seen = first_rows(segment.page_rows(page).len());
                    for hidden in hidden.iter().flatten() {
                        without(&mut seen, hidden, page);
                    }
                    let mut differ = NO_ROWS;
                    if !columns.is_empty() {
                        old.columns.enter(segment, page);
                        new.columns.enter(&other, page);
                        differ = beside::differing(&mut old.columns, &mut new.columns, &columns)
                            .unwrap_or_else(|e| old.corrupt(segment, &e));
                        eval::and(&mut differ, &seen);
                    }
                    same += (eval::count(&seen) - eval::count(&differ)) as u64;
                    if differ != NO_ROWS {
                        let rows = positions(&differ);
                        old.hand_on(segment, &rows, &mut |values, nulls| {
                            take(Side::Old, values, nulls);
                        });
                        new.hand_on(&other, &rows, &mut |values, nulls| {
                            take(Side::New, values, nulls);
                        });
                    }
                }
            }
        }
        same
    }

    /// Hands on all rows of these chunks that are not in equal segments, and not in the same place in the other relation.
    pub fn rest(&self, take: Take) {
        let count = self.old.len().max(self.new.len());
        let mut beside = [None, None];
        // In turn, so that rows of both find each other early.
        for at in 0..count {
            for (side, beside) in [Side::Old, Side::New].into_iter().zip(&mut beside) {
                let part = self.parts(side).get(at);
                if let Some(part) = part.filter(|part| !part.fates.is_empty()) {
                    self.rest_of(side, part, beside, take);
                }
            }
        }
    }

    fn rest_of<'a>(
        &'a self,
        side: Side,
        part: &'a Part,
        beside: &mut Option<(usize, Reading<'a>)>,
        take: Take,
    ) {
        let mut reading = Reading::open(part, &self.snapshot);
        for segment in reading.directory.clone().iter() {
            let shown = match part.fates.get(&segment.number) {
                Some(Fate::Equal) => continue,
                None => None,
                Some(Fate::Beside(at, number)) => {
                    let Some(other) = self.other(side, *at, beside) else {
                        continue;
                    };
                    let Some(segment) = other.segment(*number) else {
                        corrupt(other.part.table.as_ptr(), *number, "it is gone");
                    };
                    match other.hidden(&segment) {
                        None => continue,
                        hidden => hidden,
                    }
                }
            };
            let hidden = reading.hidden(segment);
            for page in 0..segment.pages() {
                pgrx::check_for_interrupts!();
                let mut rows = first_rows(segment.page_rows(page).len());
                if let Some(shown) = &shown {
                    let all = rows;
                    without(&mut rows, shown, page);
                    rows.iter_mut()
                        .zip(all)
                        .for_each(|(rest, all)| *rest = all & !*rest);
                }
                if let Some(hidden) = &hidden {
                    without(&mut rows, hidden, page);
                }
                if rows != NO_ROWS {
                    reading.columns.enter(segment, page);
                    let mut take = |values: &[_], nulls: &[bool]| take(side, values, nulls);
                    reading.hand_on(segment, &positions(&rows), &mut take);
                }
            }
        }
        reading.delta(&self.snapshot, &mut |values, nulls| {
            take(side, values, nulls)
        });
    }

    fn parts(&self, side: Side) -> &[Part] {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }

    /// Chunks that are read here, with their places among all.
    fn chosen(&self, side: Side) -> impl Iterator<Item = (usize, &Part)> {
        let parts = self.parts(side).iter().enumerate();
        parts.filter(|(_, part)| !part.fates.is_empty())
    }

    /// A chunk of the other relation, which `open` holds until another one is asked for.
    fn other<'a, 'b>(
        &'a self,
        side: Side,
        at: usize,
        open: &'b mut Option<(usize, Reading<'a>)>,
    ) -> Option<&'b mut Reading<'a>> {
        if open.as_ref().is_none_or(|(there, _)| *there != at) {
            let others = match side {
                Side::Old => &self.new,
                Side::New => &self.old,
            };
            *open = None;
            *open = Some((at, Reading::open(others.get(at)?, &self.snapshot)));
        }
        open.as_mut().map(|(_, reading)| reading)
    }

    /// Pairs segments whose headers say that they hold the same rows.
    fn find_equal(&mut self) {
        let mut waiting: HashMap<(u32, u128), Vec<(usize, i32)>> = HashMap::new();
        for (at, part) in self.old.iter().enumerate() {
            part.each_sum(&self.snapshot, |segment, sum| {
                let waiting = waiting.entry((segment.header.rows, sum)).or_default();
                waiting.push((at, segment.number));
            });
        }
        let mut found = Vec::new();
        for (at, part) in self.new.iter().enumerate() {
            part.each_sum(&self.snapshot, |segment, sum| {
                let there = waiting.get_mut(&(segment.header.rows, sum));
                if let Some(old) = there.and_then(Vec::pop) {
                    found.push((old, (at, segment.number)));
                }
            });
        }
        for (old, new) in found {
            self.settle(old, new, Fate::Equal, Fate::Equal);
        }
    }

    /// Pairs segments in which the same keys lie one behind the other.
    fn find_beside(&mut self) {
        let Some(places) = self.places.clone() else {
            return;
        };
        let of_old: Vec<usize> = places.iter().map(|(old, _)| *old).collect();
        let of_new: Vec<usize> = places.iter().map(|(_, new)| *new).collect();
        let mut waiting: HashMap<u128, Vec<(usize, i32)>> = HashMap::new();
        for (at, part) in self.old.iter().enumerate() {
            part.each_open(&self.snapshot, |segment| {
                if let Some(look) = part.look(segment, &of_old, self.key) {
                    waiting.entry(look).or_default().push((at, segment.number));
                }
            });
        }
        if waiting.is_empty() {
            return;
        }
        let mut found = Vec::new();
        let mut beside = None;
        for (at, part) in self.new.iter().enumerate() {
            part.each_open(&self.snapshot, |segment| {
                let look = part.look(segment, &of_new, self.key);
                let Some(there) = look.and_then(|look| waiting.get_mut(&look)) else {
                    return;
                };
                let same = there.iter().position(|(old, number)| {
                    let Some(old) = self.other(Side::New, *old, &mut beside) else {
                        return false;
                    };
                    let Some(other) = old.segment(*number) else {
                        return false;
                    };
                    let keys = both(places.iter().take(self.key), old.part, part);
                    beside::unequal(&other, segment, keys).is_ok_and(|columns| columns.is_empty())
                });
                if let Some(same) = same {
                    found.push((there.swap_remove(same), (at, segment.number)));
                }
            });
        }
        drop(beside);
        for (old, new) in found {
            self.settle(
                old,
                new,
                Fate::Beside(new.0, new.1),
                Fate::Beside(old.0, old.1),
            );
        }
    }

    fn settle(&mut self, old: (usize, i32), new: (usize, i32), of_old: Fate, of_new: Fate) {
        let sides = [(&mut self.old, old, of_old), (&mut self.new, new, of_new)];
        for (parts, (at, number), fate) in sides {
            if let Some(part) = parts.get_mut(at) {
                part.fates.insert(number, fate);
            }
        }
    }
}

/// Chunks of a relation that have frozen rows and all of its columns.
fn parts(origin: &Origin) -> Vec<Part> {
    let frozen = &mut |rel| {
        let ours = Some(relation::form(rel).relam) == relation::varve_am();
        ours && !origin.left_out.contains(&relation::oid(rel))
            && is_plain(rel)
            && companion::of(rel).is_some()
    };
    let part = |table: OpenRel| {
        let desc = relation::tupdesc(table.as_ptr());
        let attnum = |(name, typ): &(&str, pg_sys::Oid)| {
            let mut attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
            let found = attributes.find(|attr| {
                !attr.attisdropped
                    && attr.atttypid == *typ
                    && relation::attribute_name(attr) == *name
            });
            found.map(|attr| attr.attnum)
        };
        let attnums: Option<Vec<i16>> = origin.columns.iter().map(attnum).collect();
        Some(Part {
            attnums: attnums?,
            table,
            fates: HashMap::new(),
        })
    };
    chunks(origin.rel, frozen)
        .into_iter()
        .filter_map(part)
        .collect()
}

impl Part {
    fn oid(&self) -> pg_sys::Oid {
        relation::oid(self.table.as_ptr())
    }

    /// Segments that the snapshot sees all rows of, with the sum of these, as far as headers say it.
    fn each_sum(&self, snapshot: &Registered, mut f: impl FnMut(&SegmentRef, u128)) {
        let mut columns = kept::Columns::of(relation::tupdesc(self.table.as_ptr()));
        let reading = Reading::open(self, snapshot);
        for segment in reading.directory.iter() {
            if let (None, Some(sum)) = (reading.hidden(segment), columns.kept(&segment.header)) {
                f(segment, sum);
            }
        }
    }

    /// Segments of which nothing is known yet.
    fn each_open(&self, snapshot: &Registered, mut f: impl FnMut(&Rc<SegmentRef>)) {
        let reading = Reading::open(self, snapshot);
        let directory = reading.directory.iter();
        for segment in directory.filter(|s| !self.fates.contains_key(&s.number)) {
            pgrx::check_for_interrupts!();
            f(segment);
        }
    }

    /// What segments agree in that may have the same keys in the same places, and whose other columns are stored alike; `None` where a
    /// value comes from elsewhere.
    fn look(&self, segment: &SegmentRef, places: &[usize], key: usize) -> Option<u128> {
        let desc = relation::tupdesc(self.table.as_ptr());
        let mut look = segment.header.rows.to_le_bytes().to_vec();
        for (at, place) in places.iter().enumerate() {
            let attnum = *self.attnums.get(*place)?;
            match segment.column(attnum.into()) {
                None if relation::attribute(desc, attnum as usize - 1).atthasmissing => {
                    return None;
                }
                None => look.push(0),
                Some((entry, _)) => {
                    look.extend([1, entry.form]);
                    look.extend(format!("{:?}", entry.kind).into_bytes());
                    if at < key {
                        look.push(entry.codec);
                        look.extend(entry.bytes.to_le_bytes());
                        look.extend(entry.summary.to_bytes());
                    }
                }
            }
        }
        Some(cell_hash(0, &look))
    }
}

/// A chunk that is being read.
struct Reading<'a> {
    part: &'a Part,
    directory: Rc<Directory>,
    /// Rows that were taken out of their segments.
    gone: HashMap<i32, Vec<u32>>,
    columns: Columns,
    memory: Context,
}

impl<'a> Reading<'a> {
    fn open(part: &'a Part, snapshot: &Registered) -> Self {
        let rel = part.table.as_ptr();
        let directory = cache::directory_for(rel, snapshot.get()).unwrap_or_default();
        let gone = companion::of(rel).map(|c| directory::tombstones(&c, snapshot.get()));
        Reading {
            part,
            directory,
            gone: gone.unwrap_or_default(),
            columns: Columns::new(relation::tupdesc(rel)),
            memory: Context::new(),
        }
    }

    fn segment(&self, number: i32) -> Option<Rc<SegmentRef>> {
        let mut segments = self.directory.iter();
        segments.find(|s| s.number == number).cloned()
    }

    /// The rows of a segment that the snapshot does not see; `None` where it sees all.
    fn hidden(&self, segment: &SegmentRef) -> Option<Bitmap> {
        let gone = self.gone.get(&segment.number);
        let all_live = segment.live_at_birth() == u64::from(segment.header.rows);
        (!all_live || gone.is_some()).then(|| directory::hidden_rows(segment, gone))
    }

    fn corrupt(&self, segment: &SegmentRef, detail: &str) -> ! {
        corrupt(self.part.table.as_ptr(), segment.number, detail)
    }

    /// Hands on rows of the page that the columns are at.
    fn hand_on(
        &mut self,
        segment: &SegmentRef,
        rows: &[u16],
        take: &mut dyn FnMut(&[pg_sys::Datum], &[bool]),
    ) {
        let Reading {
            part,
            columns,
            memory,
            ..
        } = self;
        let done = memory.within(|| {
            let attnums = part.attnums.iter();
            let found: Result<Vec<_>, String> = attnums
                .map(|attnum| columns.datums(*attnum, rows))
                .collect();
            let found = found?;
            let mut values = vec![pg_sys::Datum::from(0usize); found.len()];
            let mut nulls = vec![true; found.len()];
            for row in 0..rows.len() {
                let to = values.iter_mut().zip(&mut nulls);
                for (column, (value, null)) in found.iter().zip(to) {
                    let datum = column.get(row);
                    *null = datum.is_none();
                    *value = datum.unwrap_or(pg_sys::Datum::from(0usize));
                }
                take(&values, &nulls);
            }
            Ok(())
        });
        memory.reset();
        if let Err(detail) = done {
            let detail: String = detail;
            self.corrupt(segment, &detail);
        }
    }

    /// Hands on the rows that lie in no segment.
    fn delta(&self, snapshot: &Registered, take: &mut dyn FnMut(&[pg_sys::Datum], &[bool])) {
        let rel = self.part.table.as_ptr();
        let desc = relation::tupdesc(rel);
        let natts = relation::natts(desc);
        let mut values = vec![pg_sys::Datum::from(0usize); self.part.attnums.len()];
        let mut nulls = vec![true; values.len()];
        // SAFETY: an open table; the slot is dropped after the scan, and its values are used before the next row.
        unsafe {
            ffi::PredicateLockRelation(rel, snapshot.get());
            let slot =
                pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsBufferHeapTuple);
            let mut delta = Delta::begin(rel, snapshot.get(), std::ptr::null_mut());
            while delta.next(slot, true) {
                pgrx::check_for_interrupts!();
                let (of_row, nulls_of_row) = tuple::slot_values(slot, natts);
                let to = values.iter_mut().zip(&mut nulls);
                for (attnum, (value, null)) in self.part.attnums.iter().zip(to) {
                    let at = *attnum as usize - 1;
                    *value = of_row
                        .get(at)
                        .copied()
                        .unwrap_or(pg_sys::Datum::from(0usize));
                    *null = nulls_of_row.get(at).copied().unwrap_or(true);
                }
                self.memory.within(|| take(&values, &nulls));
                self.memory.reset();
            }
            delta.end();
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // After an error the resource owner has closed it.
        if !std::thread::panicking() {
            self.columns.close();
        }
    }
}

/// The attributes of columns in a chunk of the old and in one of the new relation.
fn both<'a>(
    places: impl Iterator<Item = &'a (usize, usize)>,
    old: &Part,
    new: &Part,
) -> Vec<(i16, i16)> {
    let attnums = |(a, b): &(usize, usize)| Some((*old.attnums.get(*a)?, *new.attnums.get(*b)?));
    places.filter_map(attnums).collect()
}

/// Takes the rows of a page out that are set in a segment's bitmap.
fn without(rows: &mut Bits, bitmap: &Bitmap, page: usize) {
    for (word, not) in rows.iter_mut().zip(bitmap.words(page * PAGE_ROWS)) {
        *word &= !not;
    }
}
