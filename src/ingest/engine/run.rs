//! The engine, from the first row of a batch to its summary.

use super::chunk::{Chunk, Plan, Seeds};
use super::eligible::{self, Reason};
use super::route::{Route, Router};
use super::rows::{BatchRows, Run, Shape, SortedRows};
use crate::ingest::batch::{OnConflict, Options, Summary};
use crate::ingest::columns::{self, Key, Used};
use crate::ingest::statement;
use crate::ingest::target::Target;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Statement;
use crate::pg::sort::SortColumn;
use crate::pg::spi::{Connection, Param, Rows};
use crate::pg::tuple;
use crate::pg::walk;
use crate::pg::writer::Executor;
use crate::pg::{memory, permission};
use pgrx::pg_sys;
use std::rc::Rc;

/// A batch on its way into a table.
pub struct Engine<'a> {
    target: &'a Target,
    used: &'a [Used<'a>],
    keys: &'a [Key],
    options: &'a Options,
    plan: Plan,
    router: Router,
    rows: BatchRows,
    seeds: Seeds,
    /// What became of it so far.
    summary: Summary,
}

impl<'a> Engine<'a> {
    /// Prepares for a batch with these columns, after checking the caller's privileges. `Err` tells why the ordinary path
    /// has to be taken.
    pub fn start(
        target: &'a Target,
        used: &'a [Used<'a>],
        keys: &'a [Key],
        options: &'a Options,
    ) -> Result<Self, Reason> {
        if options.dedup_window.is_some() {
            return Err("a window of repeated rows is looked through");
        }
        let table = OpenRel::table(target.oid, pg_sys::RowExclusiveLock);
        let rel = table.as_ptr();
        eligible::check_root(rel)?;
        let desc = relation::tupdesc(rel);
        let attribute = |attnum: i16| relation::attribute(desc, attnum as usize - 1);
        let order = {
            let index = OpenRel::index(target.key_index, pg_sys::AccessShareLock);
            walk::order_of(index.as_ptr()).ok_or("the key's index is no plain ascending btree")?
        };
        let positions: Vec<usize> = keys.iter().map(|k| k.used).collect();
        let key: Vec<SortColumn> = order
            .iter()
            .zip(&positions)
            .map(|(column, position)| SortColumn {
                attnum: *position as i16 + 1,
                ..*column
            })
            .collect();
        let values: Vec<usize> = (0..used.len())
            .filter(|i| !positions.contains(i))
            .filter(|i| used.get(*i).is_some_and(|u| !u.column.identity_always))
            .collect();
        let on_conflict = match options.on_conflict {
            OnConflict::Update if values.is_empty() => OnConflict::Ignore,
            other => other,
        };
        let router = Router::new(target, used)?;
        let executor = Rc::new(Executor::new());
        let mut defaults = Vec::new();
        for column in &target.columns {
            let given = used.iter().any(|u| u.column.attnum == column.attnum);
            if given || column.generated {
                continue;
            }
            if relation::base_type(column.typ) != column.typ {
                return Err("the batch lacks a column whose type is a domain");
            }
            // SAFETY: an attribute of the open table.
            let expression = unsafe {
                let default = pg_sys::build_column_default(rel, i32::from(column.attnum));
                if default.is_null() {
                    continue;
                }
                executor.prepare(default.cast())
            };
            defaults.push((column.name.clone(), expression));
        }
        let attributes: Vec<_> = used.iter().map(|u| *attribute(u.column.attnum)).collect();
        let numbers = |positions: &[usize]| -> Vec<i16> {
            let of = |i: &usize| used.get(*i).map(|u| u.column.attnum);
            positions.iter().filter_map(of).collect()
        };
        let all: Vec<i16> = used.iter().map(|u| u.column.attnum).collect();
        let (read, updated) = match on_conflict {
            OnConflict::Error => (Vec::new(), Vec::new()),
            OnConflict::Ignore => (numbers(&positions), Vec::new()),
            OnConflict::Update => (all.clone(), numbers(&values)),
        };
        permission::check_write(
            rel,
            &permission::Columns {
                read: &read,
                inserted: &all,
                updated: &updated,
            },
        );
        let shape = Shape::new(&attributes, key);
        Ok(Engine {
            plan: Plan {
                on_conflict,
                skip_unchanged: options.skip_unchanged,
                names: used.iter().map(|u| u.column.name.clone()).collect(),
                key: positions,
                values,
                defaults,
                executor,
            },
            rows: BatchRows::new(shape, crate::settings::upsert_memory()),
            target,
            used,
            keys,
            options,
            router,
            seeds: Seeds::new(),
            summary: Summary::default(),
        })
    }

    /// Writes all rows of a batch.
    pub fn write(mut self, connection: &Connection, rows: &Rows) -> Summary {
        let converted = columns::converted(connection, self.used, rows);
        let rows = converted.as_ref().unwrap_or(rows);
        rows.for_each(
            &columns::positions(self.used, rows),
            // SAFETY: the columns of the batch, of the target's types.
            |values, nulls| unsafe { self.push(connection, values, nulls) },
        );
        drop(converted);
        self.finish(connection)
    }

    /// Takes a row in.
    ///
    /// # Safety
    /// A value of its column's type, and a NULL flag, for each column of the batch.
    pub unsafe fn push(
        &mut self,
        connection: &Connection,
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) {
        let null = |k: &&Key| nulls.get(k.used) != Some(&false);
        if let Some(key) = self
            .keys
            .iter()
            .find(null)
            .and_then(|k| self.used.get(k.used))
        {
            let number = self.rows.count() as i64 + 1;
            columns::null_key(self.target, &key.column.name, number);
        }
        let chunk = match self.router.find(values, nulls) {
            Route::Chunk(chunk) => chunk,
            Route::Unknown => pg_sys::InvalidOid,
            Route::Missing => self.seed(connection, values, nulls),
        };
        // SAFETY: by contract.
        unsafe { self.rows.push(values, nulls, chunk) };
    }

    /// Has TimescaleDB make a chunk, by inserting a row that belongs into it. Chunks come before all rows, so that no batch
    /// waits for another's chunk while it holds rows.
    fn seed(
        &mut self,
        connection: &Connection,
        values: &[pg_sys::Datum],
        nulls: &[bool],
    ) -> pg_sys::Oid {
        let params: Vec<Param> = self
            .used
            .iter()
            .zip(values.iter().zip(nulls))
            .map(|(u, (value, null))| Param {
                typ: u.column.typ,
                value: (!null).then_some(*value),
            })
            .collect();
        let made = connection.one_row(&statement::seed(self.target, self.used), &params);
        if let [Some(table), Some(place)] = made.as_slice() {
            // SAFETY: a tid, as the statement says.
            let place = unsafe { *place.cast_mut_ptr::<pg_sys::ItemPointerData>() };
            self.seeds
                .insert((table.value() as u32, tuple::tid_key(&place)));
        }
        match self.router.find(values, nulls) {
            Route::Chunk(chunk) => chunk,
            // A chunk that somebody made after this transaction's snapshot.
            _ => pg_sys::InvalidOid,
        }
    }

    /// Writes what was taken in.
    pub fn finish(self, connection: &Connection) -> Summary {
        let Engine {
            target,
            used,
            keys,
            options,
            plan,
            rows,
            seeds,
            mut summary,
            ..
        } = self;
        summary.rows_in = rows.count() as i64;
        let mut sorted = rows.sorted();
        let shape = sorted.shape();
        let mut statement = Statement::begin();
        plan.executor.begin_triggers();
        while let Some(oid) = sorted.chunk_ahead() {
            let opened = if oid == pg_sys::InvalidOid {
                Err("no chunk is known for some rows")
            } else {
                Chunk::open(oid, &plan)
            };
            match opened {
                Ok(mut chunk) => each_run(&mut sorted, oid, &mut summary, |run, summary| {
                    chunk.write(run, &shape, &mut statement, &seeds, summary);
                }),
                Err(reason) => {
                    eligible::note(&target.name, reason);
                    let mut rows = Rows::new(&shape.attributes());
                    each_run(&mut sorted, oid, &mut summary, |run, _| {
                        for row in 0..run.len() {
                            let (values, nulls) = run.row(row);
                            // SAFETY: values of the shape's columns.
                            unsafe { rows.push(values, nulls) };
                        }
                    });
                    let done = statement::write(connection, target, used, keys, &rows, options);
                    summary.inserted += done.inserted;
                    summary.updated += done.updated;
                    summary.unchanged += done.unchanged;
                    summary.duplicates += done.duplicates;
                }
            }
        }
        plan.executor.end_triggers();
        summary
    }
}

/// Hands on all runs of a chunk, each in memory of its own, and counts rows that later ones made void.
fn each_run(
    sorted: &mut SortedRows,
    chunk: pg_sys::Oid,
    summary: &mut Summary,
    mut f: impl FnMut(&Run, &mut Summary),
) {
    while sorted.chunk_ahead() == Some(chunk) {
        memory::for_this_call(|| {
            if let Some(run) = sorted.next_run() {
                summary.duplicates += run.read as i64 - run.len() as i64;
                f(&run, summary);
            }
        });
    }
}
