//! A batch and what becomes of it.

use super::columns::{Key, Used, key_columns, match_columns};
use super::engine::{self, Engine};
use super::statement;
use super::target::Target;
use crate::am::error::raise;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi::{Connection, Rows};
use crate::tier::level::Tier;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::rc::Rc;

/// What to do with a row whose key is stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Update it.
    Update,
    /// Leave the stored row.
    Ignore,
    /// Fail with `unique_violation`.
    Error,
}

impl OnConflict {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            OnConflict::Update => "update",
            OnConflict::Ignore => "ignore",
            OnConflict::Error => "error",
        }
    }

    /// The one of a name; others are an error.
    pub fn named(name: &str) -> Self {
        let all = [OnConflict::Update, OnConflict::Ignore, OnConflict::Error];
        all.into_iter()
            .find(|o| o.name() == name)
            .unwrap_or_else(|| {
                raise(
                    PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                    format!("unknown on_conflict \"{name}\""),
                    None,
                    Some("It is 'update', 'ignore' or 'error'.".into()),
                )
            })
    }
}

/// How to write a batch.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do with keys that are stored already.
    pub on_conflict: OnConflict,
    /// Whether rows equal to the stored ones are left alone.
    pub skip_unchanged: bool,
    /// Within this time after an equal row of the same segment, a row is dropped. An `interval` datum.
    pub dedup_window: Option<pg_sys::Datum>,
    /// The relation that the rows are copied into, whose lines their numbers are.
    pub copied_into: Option<String>,
    /// Whether rows are written whenever they have taken the memory that they may take, rather than sorted on disk.
    pub in_parts: bool,
    /// The tier that large batches make of chunks of which nothing is frozen; `None` leaves them hot.
    pub tier: Option<Tier>,
    /// Whether other batches follow in the same call.
    pub followed: bool,
}

/// What became of a batch; `rows_in` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows in the batch.
    pub rows_in: i64,
    /// Rows with new keys.
    pub inserted: i64,
    /// Stored rows that were changed.
    pub updated: i64,
    /// Rows that changed nothing.
    pub unchanged: i64,
    /// Rows that a later row of the batch, or the window, made void.
    pub duplicates: i64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.rows_in += other.rows_in;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.duplicates += other.duplicates;
    }
}

/// What is known of a batch before its first row.
#[derive(Debug)]
pub struct Spec {
    /// Where it goes.
    pub target: Target,
    /// Its columns.
    pub used: Vec<Used>,
    /// Those of the key.
    pub keys: Vec<Key>,
    /// How it is written.
    pub options: Options,
    /// Whether nothing comes before it in its transaction, and nothing after, as far as can be told: it is no part of a
    /// transaction block, and nothing has been written yet.
    pub alone: bool,
}

impl Spec {
    /// The attributes of its columns in the target.
    pub fn attributes(&self) -> Vec<pg_sys::FormData_pg_attribute> {
        let table = OpenRel::table(self.target.oid, pg_sys::AccessShareLock);
        let desc = relation::tupdesc(table.as_ptr());
        self.used
            .iter()
            .map(|u| *relation::attribute(desc, u.column.attnum as usize - 1))
            .collect()
    }

    /// A batch with columns of these names and types.
    pub fn new(target: Target, columns: &[(String, pg_sys::Oid, i32)], options: Options) -> Self {
        let used = match_columns(&target, columns);
        let keys = key_columns(&target, &used);
        // SAFETY: reads the state of the transaction.
        let alone = unsafe {
            !options.followed
                && !pg_sys::IsTransactionBlock()
                && pg_sys::GetTopTransactionIdIfAny() == pg_sys::InvalidTransactionId
                && !engine::direct::holds_chunks()
        };
        Spec {
            alone,
            target,
            used,
            keys,
            options,
        }
    }
}

/// A batch whose rows come one by one, of the target's types.
pub struct Batch(Way);

/// The way that a batch takes.
enum Way {
    Engine(Box<Engine>),
    /// All rows at the end, by one statement.
    Statement(Rc<Spec>, Rows),
}

impl Batch {
    /// Begins a batch. It lives in the current memory context, which has to be the current one whenever it is called.
    pub fn start(spec: Rc<Spec>) -> Self {
        Batch(match engine_for(&spec) {
            Some(engine) => Way::Engine(Box::new(engine)),
            None => {
                let rows = Rows::new(&spec.attributes());
                Way::Statement(spec, rows)
            }
        })
    }

    /// Takes a row in; its number is told in errors, and of several with one key the highest counts.
    ///
    /// # Safety
    /// A value of its column's type, and a NULL flag, for each column of the batch.
    pub unsafe fn push(&mut self, values: &[pg_sys::Datum], nulls: &[bool], number: u64) {
        // SAFETY: by contract.
        unsafe {
            match &mut self.0 {
                Way::Engine(engine) => engine.push(values, nulls, number),
                Way::Statement(_, rows) => rows.push(values, nulls),
            }
        }
    }

    /// Whether the rows have taken the memory that they may take.
    pub fn is_full(&self) -> bool {
        match &self.0 {
            Way::Engine(engine) => engine.is_full(),
            // They go to disk.
            Way::Statement(..) => false,
        }
    }

    /// Writes the rows; the statement goes on with another batch.
    pub fn finish_part(self) -> Summary {
        match self.0 {
            Way::Engine(engine) => engine.finish_part(),
            Way::Statement(..) => self.finish(),
        }
    }

    /// Writes the rows.
    pub fn finish(self) -> Summary {
        match self.0 {
            Way::Engine(engine) => engine.finish(),
            Way::Statement(spec, rows) => statement::write(&Connection::open(), &spec, &rows),
        }
    }
}

/// Writes the rows of a batch: by the engine where it can, by one statement where the table has something that the engine
/// does not honour.
pub fn write(connection: &Connection, target: Target, rows: &Rows, options: Options) -> Summary {
    let spec = Rc::new(Spec::new(target, &rows.columns(), options));
    match engine_for(&spec) {
        Some(engine) => engine.write(rows),
        None => statement::write(connection, &spec, rows),
    }
}

/// The engine, where it can write a batch; where it cannot, a message says why.
fn engine_for(spec: &Rc<Spec>) -> Option<Engine> {
    Engine::start(spec.clone())
        .map_err(|reason| engine::note(&spec.target.name, reason))
        .ok()
}

thread_local! {
    static LAST: Cell<Option<Summary>> = const { Cell::new(None) };
}

/// Remembers what became of the session's last batch.
pub fn remember(summary: Summary) {
    LAST.set(Some(summary));
}

/// What became of the session's last batch.
pub fn last() -> Option<Summary> {
    LAST.get()
}
