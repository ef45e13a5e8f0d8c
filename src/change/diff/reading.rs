//! The queries that read both relations, in two readings: what they leave out, and what they must not read that joined a relation meanwhile.

use super::chunk::Chunk;
use super::error;
use super::segments::Segments;
use super::tables::{Table, Tables};
use super::vouch;
use crate::pg::cursor::Cursor;
use crate::pg::spi::{Connection, with_setting};
use crate::scan::left_out;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashSet;
use varve_core::change::{Seen, Side};

/// How often the queries are planned anew because tables have joined their relations.
const TRIES: u32 = 20;

type Oids = HashSet<pg_sys::Oid>;

/// What is not read, of the old and of the new relation.
#[derive(Default)]
pub struct Reading {
    /// Chunks that both have with the same rows.
    equal: [Oids; 2],
    /// Chunks that are read by their segments.
    segments: [Oids; 2],
    /// Tables that are part of it only since the snapshot.
    joined: [Oids; 2],
    /// What the first reading's plans are made of.
    first: Option<[Oids; 2]>,
}

impl Reading {
    /// With chunks that need not be read, and those that are read by their segments.
    pub fn without(equal: [Vec<pg_sys::Oid>; 2], segments: Option<&Segments>) -> RefCell<Self> {
        let chunks =
            |side| segments.map_or_else(Oids::new, |s| s.chosen(side).map(Chunk::oid).collect());
        RefCell::new(Reading {
            equal: equal.map(Oids::from_iter),
            segments: [Side::Old, Side::New].map(chunks),
            ..Self::default()
        })
    }

    /// Whether chunks are read by their segments.
    pub fn by_segments(&self) -> bool {
        self.segments.iter().any(|chunks| !chunks.is_empty())
    }

    /// What is left out, of the old and of the new relation.
    pub fn left_out(&self) -> [Oids; 2] {
        let mut all = self.joined.clone();
        for more in [&self.equal, &self.segments] {
            for (all, more) in all.iter_mut().zip(more) {
                all.extend(more);
            }
        }
        all
    }
}

impl Tables {
    /// Begins to read both, the old one first.
    pub fn read(&self, connection: &Connection) -> [Cursor; 2] {
        let queries = self.both().map(|table| table.query.clone());
        let cursors = self.open(connection, &queries);
        let plans = cursors.each_ref().map(|c| Oids::from_iter(c.relations()));
        if self.reading.borrow_mut().first.replace(plans).is_some() {
            return cursors;
        }
        let reading = self.reading.borrow();
        for (i, table) in self.both().into_iter().enumerate() {
            let (name, count) = (&table.name, |of: &[Oids; 2]| of.get(i).map_or(0, Oids::len));
            let (equal, segments) = (count(&reading.equal), count(&reading.segments));
            if equal > 0 {
                pgrx::debug1!("varve.diff: tables of {name} that are not read: {equal}");
            }
            if segments > 0 {
                pgrx::debug1!(
                    "varve.diff: chunks of {name} that are read by their segments: {segments}"
                );
            }
        }
        cursors
    }

    /// Begins to read both again. With rows, what lies at their item pointers; others with the same item pointers, in other chunks, are among
    /// them.
    pub fn read_again(
        &self,
        connection: &Connection,
        rows: Option<&[Vec<Seen>; 2]>,
    ) -> [Cursor; 2] {
        let [old, new] = self.both();
        let Some([of_old, of_new]) = rows else {
            return self.open(connection, &[old.query.clone(), new.query.clone()]);
        };
        let count = of_old.len() + of_new.len();
        pgrx::debug1!("varve.diff: rows that are read again by their item pointers: {count}");
        let queries = [old.query_at(of_old), new.query_at(of_new)];
        // The planner thinks that every one of them costs a page from disk.
        with_setting(c"enable_seqscan", c"off", || {
            self.open(connection, &queries)
        })
    }

    fn both(&self) -> [&Table; 2] {
        [self.table(Side::Old), self.table(Side::New)]
    }

    fn open(&self, connection: &Connection, queries: &[String; 2]) -> [Cursor; 2] {
        for _ in 0..TRIES {
            let left_out = self.reading.borrow().left_out();
            let [old, new] = queries;
            let [without_old, without_new] = &left_out;
            let (old, met_old) = planned(connection, old, without_old);
            let (new, met_new) = planned(connection, new, without_new);
            let (cursors, met) = ([old, new], [met_old, met_new]);
            if self.fits(&cursors, &met) {
                return cursors;
            }
        }
        let [old, new] = self.both();
        error::changed_meanwhile(&old.name, &new.name)
    }

    /// Whether the plans leave out what they have to; otherwise it is known by now what that is.
    fn fits(&self, cursors: &[Cursor; 2], met: &[Oids; 2]) -> bool {
        let mut reading = self.reading.borrow_mut();
        let missed = |out: &[Oids; 2]| !out.iter().zip(met).all(|(out, met)| out.is_subset(met));
        // What only one of them leaves out would be told.
        if missed(&reading.equal) || missed(&reading.segments) {
            if reading.first.is_some() && reading.by_segments() {
                let [old, new] = self.both();
                error::changed_meanwhile(&old.name, &new.name);
            }
            reading.equal = Default::default();
            reading.segments = Default::default();
            return false;
        }
        let mut fits = true;
        for (i, table) in self.both().into_iter().enumerate() {
            let (Some(cursor), Some(met)) = (cursors.get(i), met.get(i)) else {
                continue;
            };
            let plan = Oids::from_iter(cursor.relations());
            let mut strange = Oids::from_iter(vouch::joined_since(table.oid));
            strange.retain(|oid| plan.contains(oid));
            if let Some(first) = reading.first.as_ref().and_then(|first| first.get(i)) {
                if !first.is_subset(&plan) {
                    error::changed_meanwhile(&table.name, &table.name);
                }
                strange.extend(vouch::there_before(&plan - first));
            }
            strange.retain(|oid| vouch::has_rows(*oid) && !met.contains(oid));
            fits &= strange.is_empty();
            if let Some(joined) = reading.joined.get_mut(i) {
                joined.extend(strange);
            }
        }
        fits
    }
}

/// A query that is planned without some tables, and which of these were met.
fn planned(connection: &Connection, query: &str, without: &Oids) -> (Cursor, Oids) {
    if without.is_empty() {
        return (Cursor::open(connection, query), Oids::new());
    }
    // Any other plan is made without its parameters.
    with_setting(c"plan_cache_mode", c"force_custom_plan", || {
        left_out::without(without, |params| {
            // SAFETY: the list of this query.
            unsafe { Cursor::open_with(connection, query, params) }
        })
    })
}
