//! The checkpoint as it is afterwards, written by the transaction to which the changes were told.
//!
//! Entries of rows that lie in no segment are kept as a log: few changes are one more generation, and when generations have come to be
//! many, they become one again.

use super::checkpoint::{Checkpoint, Key};
use super::compare::{Shape, each_of_query};
use super::loose::{DeltaScan, Entries, Horizon, Met, Old, merge};
use super::part::{Loose, Now, Part, Then};
use super::store::{self, EntryWriter};
use super::subject::Subject;
use super::{error, shape};
use crate::am::retained;
use crate::change::table::{self, Total};
use crate::pg::owner::as_owner;
use crate::pg::spi::{self, Connection};
use pgrx::pg_sys;
use std::cell::RefCell;
use varve_core::change::checkpoint::{Chunk, MOST_GENERATIONS, attributes_to_bytes};
use varve_core::change::entries::{Entry, Kept};

/// Entries that are added to a chunk before the log is compared with the rows.
const SMALL_LOG: u64 = 1000;

/// Takes a checkpoint; tells how many rows it has.
pub fn anew(
    subject: &Subject,
    name: &str,
    key: Key,
    parts: Vec<Part>,
    snapshot: pg_sys::Snapshot,
) -> u64 {
    // SAFETY: a variable of the process.
    let owner = unsafe { pg_sys::GetUserId() };
    let id = as_owner(|| {
        spi::write_all(
            "INSERT INTO varve.checkpoint (relation, checkpoint, owner, key, is_unique, columns, rows, horizon, version, taken_at) \
             VALUES ($1, $2::pg_catalog.name, $3, $4::pg_catalog.name[], $5, $6, 0, $7, 0, pg_catalog.clock_timestamp()) RETURNING id",
            &[
                subject.oid.into(),
                name.into(),
                owner.into(),
                key.columns.clone().into(),
                key.unique.into(),
                columns(subject).into(),
                (Horizon::number(snapshot) as i64).into(),
            ],
            |row| row.get::<i64>(1),
        )
    });
    let id = id.into_iter().next().flatten().unwrap_or_default();
    let writing = Writing {
        subject,
        key: &key.columns,
        snapshot,
        id,
        horizon: Horizon::of(0),
    };
    let mut rows = 0;
    for part in parts {
        let Some(now) = &part.now else { continue };
        let (frozen, sum) = match &now.table {
            Some(table) => table::frozen(table.as_ptr(), snapshot),
            None => (0, Some(0)),
        };
        let number = next_number();
        let loose = writing.all(number, now);
        let total = Totals {
            rows: frozen + loose.rows,
            sum: sum.map(|sum| sum.wrapping_add(loose.sum)),
        };
        let state = writing.state(now, total, (loose.rows, 0, 1));
        writing.insert(number, part.chunk, now, &state);
        rows += total.rows;
    }
    as_owner(|| {
        spi::write(
            "UPDATE varve.checkpoint SET rows = $2 WHERE id OPERATOR(pg_catalog.=) $1",
            &[id.into(), (rows as i64).into()],
        );
    });
    rows
}

/// Moves a checkpoint to what its parts are now.
pub fn advance(
    subject: &Subject,
    checkpoint: &Checkpoint,
    parts: Vec<Part>,
    snapshot: pg_sys::Snapshot,
) {
    let writing = Writing {
        subject,
        key: &checkpoint.key.columns,
        snapshot,
        id: checkpoint.id,
        horizon: Horizon::of(checkpoint.horizon),
    };
    let mut rows = 0;
    let mut released = Vec::new();
    for part in parts {
        if let Some(then) = &part.then
            && part.now.as_ref().map(|now| now.segments) != Some(then.segments)
        {
            released.push(then.segments);
        }
        rows += writing.part(part);
    }
    let unique = checkpoint.key.unique && subject.vouches_for(&checkpoint.key.columns);
    as_owner(|| {
        spi::write(
            "UPDATE varve.checkpoint SET rows = $2, columns = $3, horizon = $4, is_unique = $5, \
             version = version OPERATOR(pg_catalog.+) 1, taken_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) $1",
            &[
                checkpoint.id.into(),
                (rows as i64).into(),
                columns(subject).into(),
                (Horizon::number(snapshot) as i64).into(),
                unique.into(),
            ],
        );
    });
    retained::release(released);
}

/// The relation's columns, as a checkpoint keeps them.
fn columns(subject: &Subject) -> Vec<u8> {
    attributes_to_bytes(&shape::keep(subject.desc())).unwrap_or_else(|e| error::damaged(&e))
}

/// A number for what is remembered of a chunk.
fn next_number() -> i64 {
    let number = as_owner(|| {
        spi::write_all(
            "SELECT pg_catalog.nextval('varve.checkpoint_chunk_id_seq'::pg_catalog.regclass)",
            &[],
            |row| row.get::<i64>(1),
        )
    });
    number.into_iter().next().flatten().unwrap_or_default()
}

/// Rows, and the sum of their checksums where it is known.
#[derive(Clone, Copy)]
struct Totals {
    rows: u64,
    sum: Option<u128>,
}

/// What is written of, and as it is seen by which snapshot.
struct Writing<'a> {
    subject: &'a Subject,
    key: &'a [String],
    snapshot: pg_sys::Snapshot,
    id: i64,
    /// That of the checkpoint as it was.
    horizon: Horizon,
}

impl Writing<'_> {
    /// Moves a part; tells how many rows it has.
    fn part(&self, part: Part) -> u64 {
        let Some(now) = &part.now else {
            if let Some(then) = &part.then {
                store::remove_chunk(then.number);
            }
            return 0;
        };
        let came = Totals {
            rows: part.came.rows,
            sum: Some(part.came.sum),
        };
        let Some(then) = &part.then else {
            return self.replace(None, part.chunk, now, came);
        };
        if part.whole {
            return self.replace(Some(then), part.chunk, now, came);
        }
        let total = Totals {
            rows: then
                .state
                .rows
                .saturating_add(part.came.rows)
                .saturating_sub(part.went.rows),
            sum: then.state.sum.map(|sum| {
                let went = part.went.sum;
                sum.wrapping_add(part.came.sum).wrapping_sub(went)
            }),
        };
        if part.moved {
            return self.replace(Some(then), part.chunk, now, total);
        }
        self.in_place(&part, then, now, total);
        total.rows
    }

    /// Writes all that is to be remembered of a chunk.
    fn replace(&self, then: Option<&Then>, chunk: pg_sys::Oid, now: &Now, total: Totals) -> u64 {
        let number = next_number();
        let loose = self.all(number, now);
        let read = (loose.rows, Some(loose.sum));
        if now.table.is_none() && read != (total.rows, total.sum) {
            error::unsteady(&self.subject.name);
        }
        let state = self.state(now, total, (loose.rows, 0, 1));
        if let Some(then) = then {
            store::remove_chunk(then.number);
        }
        self.insert(number, chunk, now, &state);
        total.rows
    }

    /// Writes what has changed of a chunk whose storage is what it was.
    fn in_place(&self, part: &Part, then: &Then, now: &Now, total: Totals) {
        let was = &then.state;
        // Rows of segments are among them, as rows that were thawed are.
        let changes = part.went.rows + part.came.rows;
        let many = was.logged.saturating_add(changes) > was.loose / 4 + SMALL_LOG;
        let (number, kept) = match part.loose {
            Loose::Some if changes > 0 && (many || was.generations >= MOST_GENERATIONS) => {
                let number = next_number();
                let writer = EntryWriter::begin(number, 0);
                let (loose, _) = self.merged(then, now, writer, false);
                (number, (loose, 0, 1))
            }
            Loose::Some if changes > 0 => {
                let writer = EntryWriter::begin(then.number, was.generations);
                let (loose, added) = self.merged(then, now, writer, true);
                let generations = was.generations + u32::from(added > 0);
                (then.number, (loose, was.logged + added, generations))
            }
            _ => (then.number, (was.loose, was.logged, was.generations)),
        };
        let state = self.state(now, total, kept);
        if number != then.number {
            store::remove_chunk(then.number);
            self.insert(number, part.chunk, now, &state);
        } else if state != *was {
            let bytes = to_bytes(&state);
            as_owner(|| {
                spi::write(
                    "UPDATE varve.checkpoint_chunk SET state = $2 WHERE id OPERATOR(pg_catalog.=) $1",
                    &[number.into(), bytes.into()],
                );
            });
        }
    }

    /// Writes entries for all rows that lie in no segment.
    fn all(&self, number: i64, now: &Now) -> Total {
        let mut writer = EntryWriter::begin(number, 0);
        let mut total = Total::default();
        let mut key = Vec::new();
        let mut add = |shape: &mut Shape, place, (values, nulls): (&[_], &[_])| {
            // SAFETY: a row of the shape.
            let row = unsafe {
                shape.keep_key(values, nulls, &mut key);
                shape.hashes(values, nulls).row
            };
            total.rows += 1;
            total.sum = total.sum.wrapping_add(row);
            let kept = Some(Kept { row, key: &key });
            writer.push(Entry { place, kept });
        };
        match &now.table {
            Some(table) => {
                let mut shape = Shape::of(now.desc(self.subject), self.key);
                let mut scan = DeltaScan::new(table.as_ptr(), self.snapshot);
                while let Some(row) = scan.next() {
                    add(&mut shape, row.place, row.values());
                }
            }
            None => {
                let connection = Connection::open();
                let mut place = 0;
                each_of_query(&connection, self.subject, self.key, |shape, row| {
                    add(shape, place, row);
                    place += 1;
                });
            }
        }
        writer.end();
        total
    }

    /// Writes entries for the rows that lie in no segment: of all of them, or what is to be added to the log. Tells how many rows
    /// there are, and how many entries were written.
    fn merged(&self, then: &Then, now: &Now, writer: EntryWriter, log: bool) -> (u64, u64) {
        let Some(table) = &now.table else {
            return (0, 0);
        };
        let shape = RefCell::new(Shape::of(now.desc(self.subject), self.key));
        let mut scan = DeltaScan::new(table.as_ptr(), self.snapshot);
        let mut entries = Entries::open(then.number, &then.state, self.snapshot);
        let mut rows = 0;
        let mut key = Vec::new();
        let mut to = Log { writer, gone: None };
        merge(
            &mut scan,
            &mut entries,
            self.horizon,
            |old, row| {
                let (values, nulls) = row.values();
                // SAFETY: a row of the table.
                let hashes = unsafe { shape.borrow_mut().hashes(values, nulls) };
                hashes.row == old.row
            },
            |met| match met {
                Met::Stays(old) => {
                    rows += 1;
                    if !log {
                        to.put(old.place, kept(old));
                    }
                }
                Met::Went(old) if log => to.gone(old.place),
                Met::Went(_) => {}
                Met::Came(row) => {
                    rows += 1;
                    let (values, nulls) = row.values();
                    let mut shape = shape.borrow_mut();
                    // SAFETY: a row of the table.
                    let checksum = unsafe {
                        shape.keep_key(values, nulls, &mut key);
                        shape.hashes(values, nulls).row
                    };
                    let row_kept = Kept {
                        row: checksum,
                        key: &key,
                    };
                    to.put(row.place, row_kept);
                }
            },
        );
        (rows, to.end())
    }

    fn state(
        &self,
        now: &Now,
        total: Totals,
        (loose, logged, generations): (u64, u64, u32),
    ) -> Chunk {
        Chunk {
            storage: now.storage,
            rows: total.rows,
            sum: total.sum,
            loose,
            logged,
            generations,
            segments: now.kept_segments(),
            attributes: shape::keep(now.desc(self.subject)),
        }
    }

    fn insert(&self, number: i64, chunk: pg_sys::Oid, now: &Now, state: &Chunk) {
        let bytes = to_bytes(state);
        as_owner(|| {
            spi::write(
                "INSERT INTO varve.checkpoint_chunk (id, checkpoint, chunk, segments, state) VALUES ($1, $2, $3, $4, $5)",
                &[
                    number.into(),
                    self.id.into(),
                    chunk.into(),
                    (now.segments != pg_sys::InvalidOid)
                        .then_some(now.segments)
                        .into(),
                    bytes.into(),
                ],
            );
        });
    }
}

fn to_bytes(state: &Chunk) -> Vec<u8> {
    state.to_bytes().unwrap_or_else(|e| error::damaged(&e))
}

fn kept(old: &Old) -> Kept<'_> {
    Kept {
        row: old.row,
        key: &old.key,
    }
}

/// Writes what has become of places, of each place once.
struct Log {
    writer: EntryWriter,
    /// A place whose row is gone, unless another one has come there.
    gone: Option<u64>,
}

impl Log {
    fn flush(&mut self, but: Option<u64>) {
        if let Some(place) = self.gone.take().filter(|place| Some(*place) != but) {
            self.writer.push(Entry { place, kept: None });
        }
    }

    fn gone(&mut self, place: u64) {
        self.flush(None);
        self.gone = Some(place);
    }

    fn put(&mut self, place: u64, kept: Kept) {
        self.flush(Some(place));
        let kept = Some(kept);
        self.writer.push(Entry { place, kept });
    }

    fn end(mut self) -> u64 {
        self.flush(None);
        let count = self.writer.count;
        self.writer.end();
        count
    }
}
