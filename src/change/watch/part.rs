//! What of a chunk may have changed since a checkpoint was taken.
//!
//! Where its storage is the same, so are segments that were there, but for rows that got a tombstone since, and rows that lie in no
//! segment, but for those that were written since. Where its rows lie in other storage, rows and the sum of their checksums tell
//! whether all are the same; where they do not, everything is compared.

use super::checkpoint::{Checkpoint, Remembered};
use super::error;
use super::frozen::Piece;
use super::hash::RowHash;
use super::loose::{self, Horizon};
use super::shape;
use super::subject::Subject;
use crate::am::directory::{self, Directory, SegmentRef};
use crate::am::{cache, companion, retained};
use crate::change::table::{self, Total};
use crate::pg::cursor::Cursor;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi::{Connection, with_setting};
use crate::pg::tuple::slot_values;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::change::checkpoint::{Chunk, Segment};

/// A chunk as a checkpoint remembers it.
pub struct Then {
    /// The number of what is remembered.
    pub number: i64,
    /// The table of its segments, if it had any.
    pub segments: pg_sys::Oid,
    /// What is remembered.
    pub state: Chunk,
    /// The shape that its rows had.
    pub desc: pg_sys::TupleDesc,
}

/// A chunk as it is, or a relation that is read by a query.
pub struct Now {
    /// The chunk; `None` for a query.
    pub table: Option<OpenRel>,
    /// The table of its segments, if it has any.
    pub segments: pg_sys::Oid,
    directory: Rc<Directory>,
    gone: HashMap<i32, Vec<u32>>,
    /// Tablespace and file number.
    pub storage: (u32, u32),
}

/// What is to be compared of the rows that lie in no segment.
pub enum Loose {
    /// Nothing: they are the same.
    Same,
    /// Those that have come and gone.
    Some,
    /// All that there were, with all that there are.
    All,
}

/// A chunk, and what is to be compared of it.
pub struct Part {
    /// The chunk.
    pub chunk: pg_sys::Oid,
    /// What was; `None` where it was not there.
    pub then: Option<Then>,
    /// What is; `None` where it is gone.
    pub now: Option<Now>,
    /// Rows that segments had, and have no more.
    pub old: Vec<Piece>,
    /// Rows that segments have, and had not.
    pub new: Vec<Piece>,
    /// The rows in no segment.
    pub loose: Loose,
    /// Whether all rows of both times are to be compared.
    pub whole: bool,
    /// Whether the same rows lie somewhere else now.
    pub moved: bool,
    /// What was found to have gone, and to have come.
    pub went: Total,
    /// As above.
    pub came: Total,
}

impl Part {
    /// Whether there is nothing to compare.
    pub fn is_same(&self) -> bool {
        self.old.is_empty() && self.new.is_empty() && matches!(self.loose, Loose::Same)
    }

    fn of(chunk: pg_sys::Oid, then: Option<Then>, now: Option<Now>) -> Self {
        Part {
            chunk,
            then,
            now,
            old: Vec::new(),
            new: Vec::new(),
            loose: Loose::Same,
            whole: false,
            moved: false,
            went: Total::default(),
            came: Total::default(),
        }
    }

    /// All rows of both times.
    fn whole(mut self, subject: &Subject, snapshot: pg_sys::Snapshot) -> Self {
        self.whole = true;
        self.loose = Loose::All;
        if let Some(then) = &self.then {
            let there = then.there(self.now.as_ref(), subject, snapshot);
            let pieces = then.state.segments.iter().map(|segment| {
                let Segment { number, gone } = segment;
                Piece::without(then.segment(&there, *number, gone.len(), subject), gone)
            });
            self.old = pieces.collect();
        }
        if let Some(now) = &self.now {
            let pieces = now.directory.iter().map(|segment| {
                let gone = now.gone(segment);
                Piece::without(segment.clone(), &gone)
            });
            self.new = pieces.collect();
        }
        self
    }
}

impl Then {
    fn of(remembered: Remembered) -> Self {
        Then {
            number: remembered.number,
            segments: remembered.segments,
            desc: shape::desc(&remembered.state.attributes),
            state: remembered.state,
        }
    }

    /// The segments that are where those were, by their numbers.
    fn there(
        &self,
        now: Option<&Now>,
        subject: &Subject,
        snapshot: pg_sys::Snapshot,
    ) -> HashMap<i32, Rc<SegmentRef>> {
        if self.state.segments.is_empty() {
            return HashMap::new();
        }
        match now.filter(|now| now.segments == self.segments) {
            Some(now) => now
                .directory
                .iter()
                .map(|s| (s.number, s.clone()))
                .collect(),
            None => match retained::segments(self.segments, snapshot) {
                Some(segments) => segments,
                None => error::lost(&subject.name, "The table of a chunk's segments"),
            },
        }
    }

    /// A segment that was there.
    fn segment(
        &self,
        there: &HashMap<i32, Rc<SegmentRef>>,
        number: i32,
        rows: usize,
        subject: &Subject,
    ) -> Rc<SegmentRef> {
        match there.get(&number) {
            Some(segment) if segment.header.rows as usize == rows => segment.clone(),
            _ => error::lost(&subject.name, &format!("Segment {number} of a chunk")),
        }
    }
}

impl Now {
    /// A table.
    fn table(table: OpenRel, snapshot: pg_sys::Snapshot) -> Self {
        let rel = table.as_ptr();
        let form = relation::form(rel);
        let varve = Some(form.relam) == relation::varve_am();
        // It waits for word of segments that somebody has just committed, the first ones of a table too.
        let directory = varve.then(|| cache::directory_for(rel, snapshot)).flatten();
        let companion = varve.then(|| companion::of(rel)).flatten();
        let reading = directory::reading_snapshot(snapshot);
        let gone = companion.map(|c| directory::tombstones(&c, reading.get()));
        Now {
            storage: (form.reltablespace.to_u32(), form.relfilenode.to_u32()),
            segments: companion.map_or(pg_sys::InvalidOid, |c| c.segments),
            directory: directory.unwrap_or_default(),
            gone: gone.unwrap_or_default(),
            table: Some(table),
        }
    }

    /// A relation that is read by a query.
    fn query() -> Self {
        Now {
            table: None,
            segments: pg_sys::InvalidOid,
            directory: Rc::default(),
            gone: HashMap::new(),
            storage: (0, 0),
        }
    }

    /// The rows of a segment that have a tombstone.
    fn gone(&self, segment: &SegmentRef) -> Bitmap {
        let mut gone = Bitmap::new(segment.header.rows as usize);
        for row in self.gone.get(&segment.number).into_iter().flatten() {
            gone.set(*row as usize, true);
        }
        gone
    }

    /// The segments as a checkpoint remembers them.
    pub fn kept_segments(&self) -> Vec<Segment> {
        let keep = |segment: &Rc<SegmentRef>| Segment {
            number: segment.number,
            gone: self.gone(segment),
        };
        self.directory.iter().map(keep).collect()
    }

    /// The shape of its rows.
    pub fn desc(&self, subject: &Subject) -> pg_sys::TupleDesc {
        match &self.table {
            Some(table) => relation::tupdesc(table.as_ptr()),
            None => subject.desc(),
        }
    }

    /// Its rows and the sum of their checksums; `None` where segments would have to be read for it.
    fn total(
        &self,
        subject: &Subject,
        key: &[String],
        snapshot: pg_sys::Snapshot,
    ) -> Option<Total> {
        let Some(table) = &self.table else {
            return Some(total_of_query(subject, key));
        };
        let (rows, sum) = table::frozen(table.as_ptr(), snapshot);
        let sum = sum?;
        let delta = table::delta(table.as_ptr(), snapshot);
        Some(Total {
            rows: rows + delta.rows,
            sum: sum.wrapping_add(delta.sum),
        })
    }
}

/// Opens the query that reads a relation. Where row security would hide rows of what it reads, it is an error.
pub fn open_query(connection: &Connection, subject: &Subject) -> Cursor {
    with_setting(c"row_security", c"off", || {
        Cursor::open(connection, &subject.query())
    })
}

/// Rows that are read at a time.
pub const BATCH: u32 = 1024;

fn total_of_query(subject: &Subject, key: &[String]) -> Total {
    let connection = Connection::open();
    let mut cursor = open_query(&connection, subject);
    let width = relation::natts(cursor.desc());
    let mut hash = RowHash::of(cursor.desc(), key);
    let mut total = Total::default();
    while !cursor.ended() {
        cursor.fetch(BATCH, width, &mut |slot| {
            // SAFETY: a row of the query, with all values.
            let hashes = unsafe {
                let (values, nulls) = slot_values(slot, width);
                hash.row(values, nulls)
            };
            total.rows += 1;
            total.sum = total.sum.wrapping_add(hashes.row);
        });
    }
    total
}

/// The parts of a relation as they are.
fn present(
    subject: &Subject,
    tables: Option<Vec<OpenRel>>,
    snapshot: pg_sys::Snapshot,
) -> Vec<(pg_sys::Oid, Now)> {
    match tables {
        None => vec![(subject.oid, Now::query())],
        Some(tables) => tables
            .into_iter()
            .map(|table| (relation::oid(table.as_ptr()), Now::table(table, snapshot)))
            .collect(),
    }
}

/// All parts of a relation, for its first checkpoint.
pub fn all(
    subject: &Subject,
    tables: Option<Vec<OpenRel>>,
    snapshot: pg_sys::Snapshot,
) -> Vec<Part> {
    present(subject, tables, snapshot)
        .into_iter()
        .map(|(chunk, now)| Part {
            whole: true,
            loose: Loose::All,
            ..Part::of(chunk, None, Some(now))
        })
        .collect()
}

/// The parts of a relation, with what may have changed since a checkpoint.
pub fn changed(
    subject: &Subject,
    checkpoint: &Checkpoint,
    tables: Option<Vec<OpenRel>>,
    snapshot: pg_sys::Snapshot,
) -> Vec<Part> {
    let horizon = Horizon::of(checkpoint.horizon);
    let remembered = checkpoint.chunks().into_iter();
    let mut then: HashMap<u32, Then> = remembered
        .map(|remembered| (remembered.chunk.to_u32(), Then::of(remembered)))
        .collect();
    let mut parts = Vec::new();
    for (chunk, now) in present(subject, tables, snapshot) {
        pgrx::check_for_interrupts!();
        let part = match then.remove(&chunk.to_u32()) {
            None => Part::of(chunk, None, Some(now)).whole(subject, snapshot),
            Some(then) => compare(chunk, then, now, (subject, checkpoint), horizon, snapshot),
        };
        parts.push(part);
    }
    let mut gone: Vec<(u32, Then)> = then.into_iter().collect();
    gone.sort_unstable_by_key(|(chunk, _)| *chunk);
    for (chunk, then) in gone {
        let part = Part::of(pg_sys::Oid::from_u32(chunk), Some(then), None);
        parts.push(part.whole(subject, snapshot));
    }
    parts
}

fn compare(
    chunk: pg_sys::Oid,
    then: Then,
    now: Now,
    (subject, checkpoint): (&Subject, &Checkpoint),
    horizon: Horizon,
    snapshot: pg_sys::Snapshot,
) -> Part {
    let desc = now.desc(subject);
    let says = shape::still_says(&then.state.attributes, desc);
    // Mapped catalogues have no file number of their own that would tell.
    let here = then.state.storage == now.storage && now.storage.1 != 0;
    let in_place = then.segments == now.segments && here && says;
    let table = now.table.as_ref().filter(|_| in_place);
    let Some(table) = table else {
        let part = |then, now| Part::of(chunk, Some(then), Some(now));
        let same = then.state.sum.is_some_and(|sum| {
            let rows = then.state.rows;
            now.total(subject, &checkpoint.key.columns, snapshot) == Some(Total { rows, sum })
        });
        return match same {
            true => {
                let elsewhere = then.state.storage != now.storage || then.segments != now.segments;
                let moved = now.table.is_some() || elsewhere;
                Part {
                    moved,
                    ..part(then, now)
                }
            }
            false => part(then, now).whole(subject, snapshot),
        };
    };
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let mut met = 0;
    for segment in now.directory.iter() {
        let place = |s: &Segment| s.number.cmp(&segment.number);
        let was = then.state.segments.binary_search_by(place).ok();
        let was = was.and_then(|at| then.state.segments.get(at));
        let gone = now.gone(segment);
        let Some(was) = was else {
            new.push(Piece::without(segment.clone(), &gone));
            continue;
        };
        met += 1;
        if was.gone.len() != segment.header.rows as usize {
            error::lost(&subject.name, &format!("Segment {} of a chunk", was.number));
        }
        if was.gone == gone {
            continue;
        }
        for (these, but, to) in [(&gone, &was.gone, &mut old), (&was.gone, &gone, &mut new)] {
            let mut rows = Bitmap::new(these.len());
            let died = these.iter_ones().filter(|row| !but.get(*row));
            let died = died.filter(|row| !segment.header.dead.get(*row));
            died.for_each(|row| rows.set(row, true));
            if rows.count_ones() > 0 {
                let segment = segment.clone();
                to.push(Piece { segment, rows });
            }
        }
    }
    if met != then.state.segments.len() {
        error::lost(&subject.name, "A segment of a chunk");
    }
    let loose = match loose::may_differ(table.as_ptr(), snapshot, horizon, then.state.loose) {
        false => Loose::Same,
        true => Loose::Some,
    };
    Part {
        old,
        new,
        loose,
        ..Part::of(chunk, Some(then), Some(now))
    }
}
