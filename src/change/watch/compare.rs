//! Both sides of all chunks, read together: a row may have moved from one to the other.
//!
//! They are read twice. First they are hashed, and what is the same on both sides cancels out; what remains are keys, of which the
//! rows are read again and told.

use super::checkpoint::Checkpoint;
use super::error::{damaged, unsteady};
use super::frozen::{self, Pages};
use super::log::{Entries, Old};
use super::loose::{Horizon, Met, merge};
use super::output::{Found, Output};
use super::part::{BATCH, Loose, Part, open_query};
use super::rows::{Row, Shape};
use super::subject::Subject;
use super::value::{self, Layout};
use crate::change::delta_scan::DeltaScan;
use crate::change::row_hash::Hashes;
use crate::change::table::Total;
use crate::pg::memory::{self, Context};
use crate::pg::relation;
use crate::pg::spi::Connection;
use crate::pg::temp_file::TempFile;
use crate::pg::tuple::slot_values;
use pgrx::pg_sys;
use varve_core::change::{Matching, Seen, Side, Wanted};

/// What is read, and how.
struct Reading<'a> {
    subject: &'a Subject,
    key: &'a [String],
    horizon: Horizon,
    snapshot: pg_sys::Snapshot,
    connection: &'a Connection,
}

type Take<'a> = &'a mut dyn FnMut(Side, &Row) -> [u64; 2];

/// Finds what has changed, and tells it.
pub fn tell(
    subject: &Subject,
    checkpoint: &Checkpoint,
    parts: &mut [Part],
    snapshot: pg_sys::Snapshot,
    output: &mut Output,
) {
    if parts.iter().all(Part::is_same) {
        return;
    }
    let key = &checkpoint.key;
    let connection = Connection::open();
    let reading = Reading {
        subject,
        key: &key.columns,
        horizon: Horizon::of(checkpoint.horizon),
        snapshot,
        connection: &connection,
    };
    let unique = key.unique && subject.vouches_for(&key.columns);
    let wanted = open_keys(&reading, parts, unique);
    if wanted.is_empty() {
        return;
    }
    let mut found = Found::new(&subject.name);
    for part in parts.iter().filter(|part| !part.is_same()) {
        reading.part(part, Some(&wanted), &mut |side, row| {
            found.put(side, row);
            [0; 2]
        });
    }
    found.tell(output);
}

/// Memory for hashing, in bytes.
fn hash_memory() -> usize {
    // SAFETY: of the settings.
    unsafe { pg_sys::get_hash_memory_limit() }
}

/// The keys of rows that are not on both sides as they are, and a few more. Notes of each part what has come and gone.
fn open_keys(reading: &Reading, parts: &mut [Part], unique: bool) -> Wanted {
    // SAFETY: the context of the whole call, which outlives the files.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: as above.
    let make = || unsafe { memory::within(context, TempFile::new) };
    let mut matching = Matching::new(hash_memory(), !unique, &make);
    for part in parts.iter_mut().filter(|part| !part.is_same()) {
        let (mut went, mut came) = (Total::default(), Total::default());
        let changes = reading.part(part, None, &mut |side, row| {
            let total = match side {
                Side::Old => &mut went,
                Side::New => &mut came,
            };
            total.rows += 1;
            total.sum = total.sum.wrapping_add(row.hashes.row);
            matching.put(side, Seen::new(side, row.hashes.key, row.hashes.row, 0));
            [Side::Old, Side::New].map(|side| matching.waiting(side))
        });
        (part.went, part.came, part.changes) = (went, came, changes);
    }
    let mut keys = Wanted::new(matching.rows() as usize, hash_memory() / 2);
    matching.without_pair(&mut |row| keys.add(row.key()));
    keys
}

impl Reading<'_> {
    /// Reads what is to be compared of a part, or the rows of it whose keys are looked for. `take` tells how many rows of either side
    /// wait. Gives the number of rows that have come and gone without being in a segment, where the storage is what it was.
    fn part(&self, part: &Part, wanted: Option<&Wanted>, take: Take) -> u64 {
        let mut old = part
            .then
            .as_ref()
            .map(|then| Shape::of(then.desc, self.key));
        let mut new = part
            .now
            .as_ref()
            .map(|now| Shape::of(now.desc(self.subject), self.key));
        self.segments(part, (&mut old, &mut new), wanted, take);
        match part.loose {
            Loose::Same => 0,
            Loose::All => {
                self.remembered(part, wanted, take);
                self.present(part, &mut new, wanted, take);
                0
            }
            Loose::Some => self.changes(part, &mut new, wanted, take),
        }
    }

    /// The rows of segments. Those of both sides lie in about the same order as a rule, so the side goes on of which fewer rows wait.
    fn segments(
        &self,
        part: &Part,
        (old, new): (&mut Option<Shape>, &mut Option<Shape>),
        wanted: Option<&Wanted>,
        take: Take,
    ) {
        let table = part.now.as_ref().and_then(|now| now.table.as_ref());
        let rel = table.unwrap_or(&self.subject.rel).as_ptr();
        let pages = |shape: &Option<Shape>, pieces| {
            let shape = shape.as_ref()?;
            Some(Pages::new(rel, shape.desc, pieces)).filter(|pages| !pages.ended())
        };
        let mut old_pages = pages(old, frozen::old(part, self.subject, self.snapshot));
        let mut new_pages = pages(new, frozen::new(part, self.subject, self.snapshot));
        let mut waiting = [0; 2];
        loop {
            let old_first = waiting[0] <= waiting[1];
            let (side, pages, shape) = match (&mut old_pages, &mut new_pages) {
                (None, None) => break,
                (Some(pages), None) => (Side::Old, pages, &mut *old),
                (Some(pages), Some(_)) if old_first => (Side::Old, pages, &mut *old),
                (_, Some(pages)) => (Side::New, pages, &mut *new),
            };
            let Some(shape) = shape else { break };
            next_page(pages, shape, wanted, &mut |row| waiting = take(side, row));
            old_pages = old_pages.filter(|pages| !pages.ended());
            new_pages = new_pages.filter(|pages| !pages.ended());
        }
    }

    /// All rows that a checkpoint remembers one by one.
    fn remembered(&self, part: &Part, wanted: Option<&Wanted>, take: Take) {
        let Some(then) = &part.then else { return };
        let mut keys = Keys::new(then.desc, self.key);
        let mut entries = Entries::open(then.number, &then.state, self.snapshot);
        while let Some(old) = entries.peek() {
            keys.take(old, wanted, take);
            entries.advance();
        }
    }

    /// All rows that lie in no segment.
    fn present(&self, part: &Part, shape: &mut Option<Shape>, wanted: Option<&Wanted>, take: Take) {
        let Some(now) = &part.now else { return };
        match &now.table {
            None => {
                let mut read = Total::default();
                each_of_query(self.connection, self.subject, self.key, |shape, row| {
                    if wanted.is_some() {
                        // SAFETY: a row of the shape.
                        let hashes = unsafe { shape.hashes(row.0, row.1) };
                        read.rows += 1;
                        read.sum = read.sum.wrapping_add(hashes.row);
                    }
                    came(shape, row, wanted, take);
                });
                if wanted.is_some() && read != part.came {
                    unsteady(&self.subject.name);
                }
            }
            Some(table) => {
                let Some(shape) = shape else { return };
                let mut scan = DeltaScan::new(table.as_ptr(), self.snapshot);
                while let Some(row) = scan.next() {
                    came(shape, row.values(), wanted, take);
                }
            }
        }
    }

    /// The rows that have come and gone; tells how many.
    fn changes(
        &self,
        part: &Part,
        shape: &mut Option<Shape>,
        wanted: Option<&Wanted>,
        take: Take,
    ) -> u64 {
        let table = part.now.as_ref().and_then(|now| now.table.as_ref());
        let (Some(then), Some(table), Some(shape)) = (&part.then, table, shape) else {
            return 0;
        };
        let mut keys = Keys::new(then.desc, self.key);
        let mut count = 0;
        merge(
            (then, table),
            shape,
            self.horizon,
            self.snapshot,
            |shape, met| {
                count += 1;
                match met {
                    Met::Stays(_) => count -= 1,
                    Met::Went(old) => keys.take(old, wanted, take),
                    Met::Came(row) => came(shape, row.values(), wanted, take),
                }
            },
        );
        count
    }
}

/// Hands on the rows of a relation that is read by a query.
pub fn each_of_query(
    connection: &Connection,
    subject: &Subject,
    key: &[String],
    mut f: impl FnMut(&mut Shape, (&[pg_sys::Datum], &[bool])),
) {
    let mut cursor = open_query(connection, subject);
    let mut shape = Shape::of(cursor.desc(), key);
    let width = relation::natts(cursor.desc());
    while !cursor.ended() {
        cursor.fetch(BATCH, width, &mut |slot| {
            // SAFETY: a row of the query, with all values.
            f(&mut shape, unsafe { slot_values(slot, width) });
        });
    }
}

fn next_page(
    pages: &mut Pages,
    shape: &mut Shape,
    wanted: Option<&Wanted>,
    take: &mut dyn FnMut(&Row),
) {
    let key = shape.key.clone();
    let some = |place: usize| wanted.is_none() || key.contains(&place);
    pages.next(some, |values, nulls, whole| {
        // SAFETY: a row of the shape: whole, or its key.
        unsafe {
            if wanted.is_some() && !whole {
                return shape.is_wanted(wanted, values, nulls);
            }
            let hashes = shape.hashes(values, nulls);
            take(&Row {
                hashes,
                values,
                nulls,
                shape,
            });
        }
        false
    });
}

fn came(
    shape: &mut Shape,
    (values, nulls): (&[pg_sys::Datum], &[bool]),
    wanted: Option<&Wanted>,
    take: Take,
) {
    // SAFETY: a row of the shape.
    unsafe {
        if !shape.is_wanted(wanted, values, nulls) {
            return;
        }
        let hashes = shape.hashes(values, nulls);
        take(
            Side::New,
            &Row {
                hashes,
                values,
                nulls,
                shape,
            },
        );
    }
}

/// Keys that a checkpoint remembers.
struct Keys {
    shape: Shape,
    memory: Context,
    count: u32,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Keys {
    fn new(desc: pg_sys::TupleDesc, key: &[String]) -> Self {
        Keys {
            shape: Shape::of_keys(desc, key),
            memory: Context::new(),
            count: 0,
            values: Vec::new(),
            nulls: Vec::new(),
        }
    }

    fn take(&mut self, old: &Old, wanted: Option<&Wanted>, take: Take) {
        let Keys {
            shape,
            memory,
            count,
            values,
            nulls,
        } = self;
        *count += 1;
        if count.is_multiple_of(BATCH) {
            pgrx::check_for_interrupts!();
            memory.reset();
        }
        values.clear();
        nulls.clear();
        let mut rest = old.key.as_slice();
        memory.within(|| {
            for place in 0..relation::natts(shape.desc) {
                let layout = Layout::of(relation::attribute(shape.desc, place));
                let value = value::take(layout, &mut rest);
                nulls.push(value.is_none());
                values.push(value.unwrap_or(pg_sys::Datum::from(0usize)));
            }
        });
        if !rest.is_empty() {
            damaged(&"a key is longer than it should be");
        }
        // SAFETY: the values of a key.
        let key = unsafe { shape.key_hash(values, nulls) };
        if wanted.is_none_or(|wanted| wanted.has(Seen::key_part(key))) {
            let row = old.row;
            let row = Row {
                hashes: Hashes { key, row },
                values,
                nulls,
                shape,
            };
            take(Side::Old, &row);
        }
    }
}
