//! A batch and what becomes of it.

use super::columns::{Key, Used, key_columns, match_columns};
use super::target::Target;
use super::{engine, statement};
use crate::pg::spi::{Connection, Rows};
use pgrx::pg_sys;
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
}

impl Spec {
    /// A batch with columns of these names and types.
    pub fn new(target: Target, columns: &[(String, pg_sys::Oid, i32)], options: Options) -> Self {
        let used = match_columns(&target, columns);
        let keys = key_columns(&target, &used);
        Spec {
            target,
            used,
            keys,
            options,
        }
    }
}

/// Writes the rows of a batch: by the engine where it can, by one statement where the table has something that the engine
/// does not honour.
pub fn write(connection: &Connection, target: Target, rows: &Rows, options: Options) -> Summary {
    let spec = Rc::new(Spec::new(target, &rows.columns(), options));
    match engine::Engine::start(spec.clone()) {
        Ok(engine) => engine.write(rows),
        Err(reason) => {
            engine::note(&spec.target.name, reason);
            statement::write(connection, &spec, rows)
        }
    }
}
