//! `varve.list_snapshots`, `varve.verify_snapshot` and `varve.remove_snapshot`: what the stores have.

use super::error;
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::stores;
use pgrx::pg_sys;
use pgrx::prelude::*;
use varve_core::backup::ObjectCheck;
use varve_core::backup::snapshot::{self, Snapshot};

type Row = (
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<bool>,
    Option<Vec<String>>,
    Option<String>,
);

fn row(store: &str, of: &Snapshot) -> Row {
    let quote = crate::pg::relation::quote;
    let table = format!("{}.{}", quote(&of.table.schema), quote(&of.table.name));
    (
        store.to_string(),
        Some(of.id.clone()),
        Some(of.database.clone()),
        Some(table),
        Some(of.label.clone()),
        Some(of.taken_at.for_postgresql()),
        Some(of.rows as i64),
        Some(of.stored_bytes() as i64),
        Some(of.lsn.to_string()),
        Some(of.encrypted()),
        Some(of.left_out.clone()),
        None,
    )
}

fn unreadable(store: &str, id: Option<String>, why: String) -> Row {
    (
        store.to_string(),
        id,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        Some(why),
    )
}

/// One row for each record, or for a store that cannot be read.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn list_snapshots() -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(id, Option<String>),
        name!(database, Option<String>),
        name!(table, Option<String>),
        name!(label, Option<String>),
        name!(taken_at, Option<String>),
        name!(rows, Option<i64>),
        name!(bytes, Option<i64>),
        name!(lsn, Option<String>),
        name!(encrypted, Option<bool>),
        name!(left_out, Option<Vec<String>>),
        name!(detail, Option<String>),
    ),
> {
    crate::require_preload();
    let mut rows: Vec<Row> = Vec::new();
    for (name, store) in stores::all_usable() {
        let store = match store {
            Ok(store) => store,
            Err(why) => {
                rows.push(unreadable(&name, None, why));
                continue;
            }
        };
        match snapshot::list(&store, &stores::interrupts) {
            Ok(listed) => rows.extend(listed.into_iter().map(|one| match one.snapshot {
                Ok(snapshot) => row(&name, &snapshot),
                Err(e) => unreadable(&name, Some(one.id), e.to_string()),
            })),
            Err(e) if e.is_cancelled() => error::raise(&e),
            Err(e) => rows.push(unreadable(&name, None, e.to_string())),
        }
    }
    TableIterator::new(rows)
}

/// One row for each object and store, or for a store whose record of the snapshot cannot be read.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn verify_snapshot(
    id: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(object, Option<String>),
        name!(ok, bool),
        name!(expected, Option<String>),
        name!(actual, Option<String>),
        name!(detail, Option<String>),
    ),
> {
    crate::require_preload();
    let id = id.unwrap_or_else(|| null_argument("the snapshot"));
    let mut rows = Vec::new();
    for (name, store) in stores::all_usable() {
        let store = match store {
            Ok(store) => store,
            Err(why) => {
                rows.push((name, None, false, None, None, Some(why)));
                continue;
            }
        };
        let loaded = match snapshot::load(&store, id, &stores::interrupts) {
            Ok(loaded) => loaded,
            Err(e) if e.is_not_found() => continue,
            Err(e) if e.is_cancelled() => error::raise(&e),
            Err(e) => {
                rows.push((name, None, false, None, None, Some(e.to_string())));
                continue;
            }
        };
        let mut each = |check: ObjectCheck| {
            rows.push((
                name.clone(),
                Some(check.key),
                check.ok,
                Some(check.expected),
                check.actual,
                check.detail,
            ));
        };
        if let Err(e) = snapshot::verify(&store, &loaded, &mut each, &stores::interrupts) {
            error::raise(&e);
        }
    }
    if rows.is_empty() {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no store has a snapshot \"{id}\""),
            None,
            Some("SELECT id FROM varve.snapshots lists the snapshots.".into()),
        );
    }
    TableIterator::new(rows)
}

/// Removes a snapshot from every store that has it and that the current user may use.
fn remove_snapshot(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.remove_snapshot()");
    let id: String = args.get(0).unwrap_or_else(|| null_argument("the snapshot"));
    let mut found = false;
    for (name, store) in stores::all_usable() {
        let store = store.unwrap_or_else(|why| {
            raise(
                PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
                format!("store \"{name}\" cannot be asked: {why}"),
                None,
                None,
            )
        });
        match snapshot::load(&store, &id, &stores::interrupts) {
            Err(e) if e.is_not_found() => continue,
            // A damaged one can be removed, too.
            Err(e) if e.is_cancelled() || e.is_unreachable() => error::raise(&e),
            _ => found = true,
        }
        if let Err(e) = snapshot::remove(&store, &id, &stores::interrupts) {
            error::raise(&e);
        }
    }
    if !found {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no store has a snapshot \"{id}\""),
            None,
            Some("SELECT id FROM varve.snapshots lists the snapshots.".into()),
        );
    }
    args.null()
}

crate::sql_function!(
    varve_remove_snapshot,
    pg_finfo_varve_remove_snapshot,
    remove_snapshot
);
