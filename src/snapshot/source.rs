//! Rows of a snapshot as they come: objects are fetched into files that nobody else sees, checked, and decoded.

use super::error;
use super::income::Income;
use super::incoming::Incoming;
use super::kept::Shape;
use super::seal;
use crate::am::error::raise;
use crate::backup::choice;
use crate::pg::memory::Context;
use crate::stores;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use varve_core::backup::BackupError;
use varve_core::backup::snapshot::{self, Holds, Object, Snapshot};
use varve_core::parquet::Reader;
use varve_core::seal::Identities;
use varve_core::store::Store;

/// Largest definition of a table, in bytes.
pub const MAX_DDL_BYTES: u64 = 64 << 20;

/// The stores to read from: the one that is named, or all that the current user may use, the primary ones first.
fn stores(name: Option<String>) -> Vec<Store> {
    match name {
        Some(name) => vec![stores::open(&name)],
        None => {
            let usable = choice::Stores::usable().all;
            usable.into_iter().map(|named| named.store).collect()
        }
    }
}

/// A snapshot, and where it is read from.
pub struct Source {
    /// Its record.
    pub snapshot: Snapshot,
    stores: Vec<Store>,
    identities: Option<Identities>,
}

/// A file among the server's temporary ones, which has no name any more.
pub fn temporary() -> io::Result<File> {
    // The server's working directory is its data directory; it removes what is left there when it starts.
    let directory = Path::new("base/pgsql_tmp");
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let pid = std::process::id();
    let path: PathBuf = directory.join(format!("pgsql_tmp{pid}.varve"));
    // A file of that name is left over from a process that was killed.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// How large it may be, in bytes: `temp_file_limit`.
pub fn temporary_bytes() -> u64 {
    // SAFETY: reads a setting, in kilobytes; below 0 it is none.
    let limit = unsafe { pg_sys::temp_file_limit };
    u64::try_from(limit).map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}

impl Source {
    /// Reads a snapshot's record from the first store that has it undamaged.
    pub fn open(id: &str, store: Option<String>) -> Self {
        let stores = stores(store);
        let loaded = snapshot::load_from_any(&stores, id, &stores::interrupts);
        match loaded {
            Ok(snapshot) => Source {
                snapshot,
                stores,
                identities: seal::identities(),
            },
            Err(e) => error::raise(&e),
        }
    }

    fn fetch(&self, object: &Object) -> File {
        if object.raw_bytes > temporary_bytes() {
            raise(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("a temporary copy of {} exceeds temp_file_limit", object.key),
                Some(format!("It has {} bytes.", object.raw_bytes)),
                Some("Set temp_file_limit higher for this session.".into()),
            );
        }
        let mut begin = || {
            temporary().map_err(|error| BackupError::Io {
                path: "temporary file".into(),
                error,
            })
        };
        let fetched = snapshot::fetch(
            &self.stores,
            object,
            self.snapshot.encrypted(),
            self.identities.as_ref(),
            &mut begin,
            &stores::interrupts,
        );
        fetched.unwrap_or_else(|e| error::raise(&e))
    }

    /// The table's definition.
    pub fn ddl(&self) -> super::ddl::Ddl {
        let object = self.snapshot.objects.iter().find(|o| o.holds == Holds::Ddl);
        let Some(object) = object.filter(|o| o.raw_bytes <= MAX_DDL_BYTES) else {
            error::damaged(&self.snapshot.id, "it has no definition");
        };
        let fetched = snapshot::fetch(
            &self.stores,
            object,
            self.snapshot.encrypted(),
            self.identities.as_ref(),
            &mut || Ok(Vec::new()),
            &stores::interrupts,
        );
        let bytes = fetched.unwrap_or_else(|e| error::raise(&e));
        let ddl: super::ddl::Ddl = serde_json::from_slice(&bytes)
            .unwrap_or_else(|e| error::damaged(&object.key, &e.to_string()));
        if ddl.version != super::describe::VERSION {
            raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("{} needs a newer version of varve", object.key),
                Some(format!("It is of version {}.", ddl.version)),
                Some("Update the extension.".into()),
            );
        }
        ddl
    }

    /// The names of the columns.
    pub fn names(&self) -> Vec<String> {
        let columns = self.snapshot.columns.iter();
        columns.map(|c| c.name.clone()).collect()
    }

    /// The rows of a chunk. `shape` says of what type each column of the record is in the table that they go to.
    pub fn rows(&self, chunk: usize, shape: &dyn Fn(&str) -> Option<Shape>) -> Rows<'_> {
        let columns = &self.snapshot.columns;
        let incomes = columns
            .iter()
            .map(|column| {
                let shape = shape(&column.name)
                    .filter(|s| s.kept == column.kept && s.array == column.shape.is_some());
                match shape {
                    Some(shape) => Income::new(&column.name, shape),
                    None => raise(
                        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                        format!(
                            "column \"{}\" of the table is not what it is in the snapshot, {}",
                            column.name, column.type_name
                        ),
                        None,
                        Some("Restore the snapshot into a table of its own: varve.restore_snapshot(id, into_table => '...').".into()),
                    ),
                }
            })
            .collect();
        Rows {
            source: self,
            objects: self.snapshot.objects_of(chunk).collect(),
            reader: None,
            incomes,
            context: Context::new(),
            values: vec![pg_sys::Datum::from(0usize); columns.len()],
            nulls: vec![true; columns.len()],
        }
    }
}

/// Rows of a chunk, one after the other.
pub struct Rows<'s> {
    source: &'s Source,
    objects: VecDeque<&'s Object>,
    reader: Option<(&'s str, Reader<File>)>,
    incomes: Vec<Income>,
    /// Where values lie until [`forget`](Self::forget).
    context: Context,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl<'s> Rows<'s> {
    fn open(&mut self, object: &'s Object) {
        let key = object.key.as_str();
        let file = self.source.fetch(object);
        let reader = Reader::open(file).unwrap_or_else(|e| error::reading(key, e));
        let bare = |fields: Vec<varve_core::parquet::Field>| {
            let each = fields.into_iter().map(|f| (f.name, f.physical, f.list));
            each.collect::<Vec<_>>()
        };
        let rows = match object.holds {
            Holds::Rows { rows, .. } => rows,
            _ => 0,
        };
        if bare(reader.fields().to_vec()) != bare(self.source.snapshot.fields()) {
            error::damaged(key, "its columns are not those of the record");
        }
        if reader.rows() != rows {
            error::damaged(key, "it has not as many rows as the record says");
        }
        self.reader = Some((key, reader));
    }
}

impl Incoming for Rows<'_> {
    fn next(&mut self) -> bool {
        loop {
            if let Some((key, reader)) = &mut self.reader {
                match reader.next_row() {
                    Ok(true) => break,
                    Ok(false) => self.reader = None,
                    Err(e) => error::reading(key, e),
                }
                continue;
            }
            let Some(object) = self.objects.pop_front() else {
                return false;
            };
            self.open(object);
        }
        let Some((key, reader)) = &mut self.reader else {
            return false;
        };
        let places = self.values.iter_mut().zip(&mut self.nulls);
        let incomes = &mut self.incomes;
        let taken = self.context.within(|| {
            let mut first = 0;
            for (income, (value, null)) in incomes.iter_mut().zip(places) {
                let taken = income.take(reader, first)?;
                first += income.width();
                *null = taken.is_none();
                *value = taken.unwrap_or(pg_sys::Datum::from(0usize));
            }
            Ok(())
        });
        taken.unwrap_or_else(|e| error::reading(key, e));
        true
    }

    fn row(&self) -> (&[pg_sys::Datum], &[bool]) {
        (&self.values, &self.nulls)
    }

    fn bytes(&self) -> usize {
        self.context.bytes()
    }

    fn forget(&mut self) {
        self.context.reset();
    }
}
