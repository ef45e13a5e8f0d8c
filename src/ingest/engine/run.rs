//! The engine, from the first row of a batch to its summary.

use super::chunk::{Chunk, Plan, Seeds};
use super::direct;
use super::eligible::{self, Reason};
use super::route::{Route, Router};
use super::rows::{BatchRows, Run, Shape, SortedRows};
use crate::ingest::batch::{OnConflict, Spec, Summary};
use crate::ingest::columns::{self, Key};
use crate::ingest::statement;
use crate::pg::cast::{Casts, Type};
use crate::pg::context::RowAt;
use crate::pg::executor::Executor;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Statement;
use crate::pg::sort::SortColumn;
use crate::pg::spi::{Connection, Param, Rows};
use crate::pg::tuple;
use crate::pg::walk;
use crate::pg::writer::delete_own;
use crate::pg::{memory, permission};
use pgrx::pg_sys;
use std::cell::OnceCell;
use std::rc::Rc;

/// A batch on its way into a table.
pub struct Engine {
    spec: Rc<Spec>,
    plan: Plan,
    router: Router,
    rows: BatchRows,
    seeds: Seeds,
}

impl Engine {
    /// Prepares for a batch, after checking the caller's privileges. `Err` tells why the ordinary path has to be taken.
    /// The engine lives in the current memory context, which has to be the current one whenever it is called.
    pub fn start(spec: Rc<Spec>) -> Result<Self, Reason> {
        let Spec {
            target,
            used,
            keys,
            options,
            alone,
        } = &*spec;
        if options.dedup_window.is_some() {
            return Err("a window of repeated rows is looked through");
        }
        // A table that is its own chunk may be locked against other writers later, by one batch after the other.
        let mode = match target.time {
            Some(_) => pg_sys::RowExclusiveLock,
            None => pg_sys::AccessShareLock,
        };
        let table = OpenRel::table(target.oid, mode);
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
        let router = Router::new(&spec)?;
        let executor = Rc::new(Executor::new());
        let mut defaults = Vec::new();
        let mut partial = false;
        for column in &target.columns {
            let given = used.iter().any(|u| u.column.attnum == column.attnum);
            if given || column.generated {
                continue;
            }
            partial = true;
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
                partial,
                defaults,
                executor,
                at: Rc::new(RowAt::new(spec.options.copied_into.as_deref())),
                alone: *alone,
                goes_on: false,
                tier: options.tier,
                root: target.oid,
                order: OnceCell::new(),
            },
            rows: BatchRows::new(shape, crate::settings::upsert_memory(), !options.in_parts),
            router,
            seeds: Seeds::new(),
            spec: spec.clone(),
        })
    }

    /// Writes all rows of a batch.
    pub fn write(mut self, rows: &Rows) -> Summary {
        let (positions, types): (Vec<usize>, Vec<Type>) = columns::positions(&self.spec.used, rows)
            .into_iter()
            .unzip();
        let wanted = self.spec.used.iter().map(|u| Type {
            oid: u.column.typ,
            modifier: u.column.typmod,
        });
        let executor = self.plan.executor.clone();
        let casts = Casts::new(executor.clone(), types.into_iter().zip(wanted));
        let mut number = 0;
        rows.for_each(&positions, |values, nulls| {
            number += 1;
            casts.apply(values, nulls);
            // SAFETY: the columns of the batch, brought to the target's types.
            unsafe { self.push(values, nulls, number) };
            executor.reset_rows();
        });
        self.finish()
    }

    /// Whether the rows have taken the memory that they may take.
    pub fn is_full(&self) -> bool {
        self.rows.is_full()
    }

    /// Takes a row in. Its number says which of several with one key is the last, and is told in errors.
    ///
    /// # Safety
    /// A value of its column's type, and a NULL flag, for each column of the batch.
    pub unsafe fn push(&mut self, values: &[pg_sys::Datum], nulls: &[bool], number: u64) {
        let Spec { keys, used, .. } = &*self.spec;
        let null = |k: &&Key| nulls.get(k.used) != Some(&false);
        if let Some(key) = keys.iter().find(null).and_then(|k| used.get(k.used)) {
            let row = self.spec.options.copied_into.is_none().then_some(number);
            columns::null_key(&self.spec.target, &key.column.name, row);
        }
        let chunk = match self.router.find(values, nulls) {
            Route::Chunk(chunk) => chunk,
            Route::Unknown => pg_sys::InvalidOid,
            Route::Missing => self.seed(values, nulls),
        };
        // SAFETY: by contract.
        unsafe { self.rows.push(values, nulls, chunk, number) };
    }

    /// Has TimescaleDB make a chunk, by inserting a row that belongs into it. Chunks come before all rows, so that no batch
    /// waits for another's chunk while it holds rows.
    fn seed(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> pg_sys::Oid {
        let Spec { target, used, .. } = &*self.spec;
        let params: Vec<Param> = used
            .iter()
            .zip(values.iter().zip(nulls))
            .map(|(u, (value, null))| Param {
                typ: u.column.typ,
                value: (!null).then_some(*value),
            })
            .collect();
        let connection = Connection::open();
        let made = connection.one_row(&statement::seed(target, used), &params);
        let made = match made.as_slice() {
            // SAFETY: an oid and a tid, as the statement says.
            [Some(table), Some(place)] => Some(unsafe {
                let place = *place.cast_mut_ptr::<pg_sys::ItemPointerData>();
                (pg_sys::Oid::from_u32(table.value() as u32), place)
            }),
            _ => None,
        };
        drop(connection);
        match (self.router.find(values, nulls), made) {
            (Route::Chunk(chunk), made) => {
                let seed = made.map(|(table, place)| (table.to_u32(), tuple::tid_key(&place)));
                self.seeds.extend(seed);
                chunk
            }
            // A chunk that somebody made after this transaction's snapshot, or whose rows the engine does not write: all
            // rows go the ordinary way.
            (_, made) => {
                if let Some((table, place)) = made {
                    let chunk = OpenRel::table(table, pg_sys::RowExclusiveLock);
                    delete_own(chunk.as_ptr(), place);
                }
                pg_sys::InvalidOid
            }
        }
    }

    /// Writes what was taken in, where the statement goes on with another batch.
    pub fn finish_part(mut self) -> Summary {
        self.plan.goes_on = true;
        self.finish()
    }

    /// Writes what was taken in.
    pub fn finish(self) -> Summary {
        let Engine {
            spec,
            plan,
            rows,
            seeds,
            ..
        } = self;
        let mut summary = Summary {
            rows_in: rows.count() as i64,
            ..Summary::default()
        };
        let mut sorted = rows.sorted();
        let shape = sorted.shape();
        let claimed = direct::claim(&sorted.chunks(), &plan);
        // What others have written before the chunks were locked is seen.
        let mut statement = Statement::begin();
        plan.executor.begin_triggers();
        while let Some(oid) = sorted.chunk_ahead() {
            let opened = if oid == pg_sys::InvalidOid {
                Err("no chunk is known for some rows")
            } else {
                Chunk::open(oid, claimed.contains(&oid), &plan, &mut statement)
            };
            match opened {
                Ok(mut chunk) => plan.at.during(|| {
                    each_run(&mut sorted, oid, &mut summary, |run, summary| {
                        chunk.write(run, &shape, &mut statement, &seeds, summary);
                    });
                    chunk.end();
                }),
                Err(reason) => {
                    eligible::note(&spec.target.name, reason);
                    let mut rows = Rows::new(&shape.attributes());
                    each_run(&mut sorted, oid, &mut summary, |run, _| {
                        for row in 0..run.len() {
                            let (values, nulls) = run.row(row);
                            // SAFETY: values of the shape's columns.
                            unsafe { rows.push(values, nulls) };
                        }
                    });
                    let done = statement::write(&Connection::open(), &spec, &rows);
                    // These rows are counted as the batch's already.
                    summary += Summary { rows_in: 0, ..done };
                }
            }
        }
        sorted.end();
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
