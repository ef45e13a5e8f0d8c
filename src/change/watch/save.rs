//! The checkpoint as it is afterwards, written by the transaction to which the changes were told.
//!
//! Of rows that lie in no segment, few changes are one more generation of entries ([`log`](super::log)).

use super::checkpoint::{Checkpoint, Key};
use super::compare::each_of_query;
use super::log::Log;
use super::loose::{Horizon, Met, merge};
use super::part::{Now, Part, Then};
use super::rows::Shape;
use super::store::{self, EntryWriter};
use super::subject::Subject;
use super::{error, shape};
use crate::am::retained;
use crate::change::delta_scan::DeltaScan;
use crate::change::table::{self, Total};
use crate::pg::owner::as_owner;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi::{self, Connection};
use pgrx::pg_sys;
use varve_core::change::checkpoint::{Chunk, Generation, attributes_to_bytes};
use varve_core::change::entries::{Entry, Kept};

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
        let state = writing.state(now, total, (loose.rows, first(loose.rows)));
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
        if part.is_whole() {
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
        let state = self.state(now, total, (loose.rows, first(loose.rows)));
        if let Some(then) = then {
            store::remove_chunk(then.number);
        }
        self.insert(number, chunk, now, &state);
        total.rows
    }

    /// Writes what has changed of a chunk whose storage is what it was.
    fn in_place(&self, part: &Part, then: &Then, now: &Now, total: Totals) {
        let was = &then.state;
        let mut number = then.number;
        let mut kept = (was.loose, was.generations.clone());
        if part.changes > 0
            && let Some(table) = &now.table
        {
            let from = was.merged_from(part.changes);
            let (stay, merged) = was.generations.split_at(from.min(was.generations.len()));
            let last = was.generations.last().filter(|_| from > 0);
            let generation = last.map_or(Some(0), |last| last.number.checked_add(1));
            let Some(generation) = generation else {
                error::damaged(&"generations have no number left")
            };
            let before = match from {
                0 => {
                    number = next_number();
                    &[]
                }
                _ => merged,
            };
            let mut log = Log::begin(number, generation, before, self.snapshot);
            let loose = self.write((then, table), &mut log, from == 0);
            let new = Generation {
                number: generation,
                entries: log.end(),
            };
            for generation in before {
                store::remove_generation(number, generation.number);
            }
            kept = (loose, [stay, &[new]].concat());
        }
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

    /// Writes what has become of the rows that lay in no segment, or an entry for each that there is. Tells how many there are.
    fn write(&self, (then, table): (&Then, &OpenRel), to: &mut Log, all: bool) -> u64 {
        let desc = relation::tupdesc(table.as_ptr());
        let mut shape = Shape::of(desc, self.key);
        let mut rows = 0;
        let mut key = Vec::new();
        merge(
            (then, table),
            &mut shape,
            self.horizon,
            self.snapshot,
            |shape, met| match met {
                Met::Stays(old) => {
                    rows += 1;
                    if all {
                        to.put(old.place, old.kept());
                    }
                }
                Met::Went(old) if !all => to.gone(old.place),
                Met::Went(_) => {}
                Met::Came(row) => {
                    rows += 1;
                    let (values, nulls) = row.values();
                    // SAFETY: a row of the table.
                    let checksum = unsafe {
                        shape.keep_key(values, nulls, &mut key);
                        shape.hashes(values, nulls).row
                    };
                    let kept = Kept {
                        row: checksum,
                        key: &key,
                    };
                    to.put(row.place, kept);
                }
            },
        );
        rows
    }

    fn state(
        &self,
        now: &Now,
        total: Totals,
        (loose, generations): (u64, Vec<Generation>),
    ) -> Chunk {
        Chunk {
            storage: now.storage,
            rows: total.rows,
            sum: total.sum,
            loose,
            generations,
            segments: now.kept.clone(),
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

/// The first generation, which has an entry for each row.
fn first(entries: u64) -> Vec<Generation> {
    vec![Generation { number: 0, entries }]
}
