//! What of a chunk may have changed since a checkpoint was taken.
//!
//! Where its storage is the same, so are segments that were there, but for rows that got a tombstone since, and rows that lie in no
//! segment, but for those that were written since. Where its rows lie in other storage, rows and the sum of their checksums tell
//! whether all are the same; where they do not, everything is compared.

use super::checkpoint::{Checkpoint, Remembered};
use super::frozen;
use super::loose::{self, Horizon};
use super::shape;
use super::subject::Subject;
use crate::am::directory;
use crate::am::{cache, companion};
use crate::change::row_hash::RowHash;
use crate::change::table::{self, Total};
use crate::pg::cursor::Cursor;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi::{Connection, with_setting};
use crate::pg::tuple::slot_values;
use pgrx::pg_sys;
use std::collections::HashMap;
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
    /// These, as a checkpoint remembers them.
    pub kept: Vec<Segment>,
    /// Tablespace and file number.
    pub storage: (u32, u32),
}

/// What is to be compared of the rows of segments.
pub enum Frozen {
    /// Nothing: they are the same.
    Same,
    /// Those that segments had and have no more, and those that they had not.
    Some,
    /// All that there were, with all that there are.
    All,
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
    /// The rows of segments.
    pub frozen: Frozen,
    /// The rows in no segment.
    pub loose: Loose,
    /// Whether the same rows lie somewhere else now.
    pub moved: bool,
    /// What was found to have gone, and to have come.
    pub went: Total,
    /// As above.
    pub came: Total,
    /// How many of these, of either side, lie in no segment.
    pub changes: u64,
}

impl Part {
    /// Whether there is nothing to compare.
    pub fn is_same(&self) -> bool {
        matches!(self.frozen, Frozen::Same) && matches!(self.loose, Loose::Same)
    }

    /// Whether all rows of both times are to be compared.
    pub fn is_whole(&self) -> bool {
        matches!(self.frozen, Frozen::All)
    }

    fn of(chunk: pg_sys::Oid, then: Option<Then>, now: Option<Now>) -> Self {
        Part {
            chunk,
            then,
            now,
            frozen: Frozen::Same,
            loose: Loose::Same,
            moved: false,
            went: Total::default(),
            came: Total::default(),
            changes: 0,
        }
    }

    /// All rows of both times.
    fn whole(self) -> Self {
        Part {
            frozen: Frozen::All,
            loose: Loose::All,
            ..self
        }
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

    /// A segment that was there.
    pub fn segment(&self, number: i32) -> Option<&Segment> {
        let segments = &self.state.segments;
        let at = segments.binary_search_by(|segment| segment.number.cmp(&number));
        at.ok().and_then(|at| segments.get(at))
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
        let gone = gone.unwrap_or_default();
        let segments = directory.iter().flat_map(|directory| directory.iter());
        let kept = segments.map(|segment| {
            let mut rows = Bitmap::new(segment.header.rows as usize);
            for row in gone.get(&segment.number).into_iter().flatten() {
                rows.set(*row as usize, true);
            }
            frozen::keep(segment, &rows)
        });
        Now {
            storage: (form.reltablespace.to_u32(), form.relfilenode.to_u32()),
            segments: companion.map_or(pg_sys::InvalidOid, |c| c.segments),
            kept: kept.collect(),
            table: Some(table),
        }
    }

    /// A relation that is read by a query.
    fn query() -> Self {
        Now {
            table: None,
            segments: pg_sys::InvalidOid,
            kept: Vec::new(),
            storage: (0, 0),
        }
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
            let row = unsafe {
                let (values, nulls) = slot_values(slot, width);
                hash.checksum(values, nulls)
            };
            total.rows += 1;
            total.sum = total.sum.wrapping_add(row);
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
        .map(|(chunk, now)| Part::of(chunk, None, Some(now)).whole())
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
            None => Part::of(chunk, None, Some(now)).whole(),
            Some(then) => compare(chunk, then, now, (subject, checkpoint), horizon, snapshot),
        };
        parts.push(part);
    }
    let mut gone: Vec<(u32, Then)> = then.into_iter().collect();
    gone.sort_unstable_by_key(|(chunk, _)| *chunk);
    for (chunk, then) in gone {
        let part = Part::of(pg_sys::Oid::from_u32(chunk), Some(then), None);
        parts.push(part.whole());
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
            false => part(then, now).whole(),
        };
    };
    // Of those that were there none goes, and none comes in the place of another, but by a crash or by force.
    for was in &then.state.segments {
        let is = now.kept.binary_search_by(|is| is.number.cmp(&was.number));
        let is = is.ok().and_then(|at| now.kept.get(at));
        if !is.is_some_and(|is| is.is(was)) {
            frozen::segment_lost(subject, was);
        }
    }
    let frozen = match now.kept == then.state.segments {
        true => Frozen::Same,
        false => Frozen::Some,
    };
    let loose = match loose::may_differ(table.as_ptr(), snapshot, horizon, then.state.loose) {
        false => Loose::Same,
        true => Loose::Some,
    };
    Part {
        frozen,
        loose,
        ..Part::of(chunk, Some(then), Some(now))
    }
}
