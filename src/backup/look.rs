//! `varve.list_backups` and `varve.verify_backup`: what the stores have.

use super::{error, keys};
use crate::am::error::{null_argument, raise};
use crate::stores;
use pgrx::prelude::*;
use varve_core::backup::{self, Backup};

type Row = (
    String,
    Option<String>,
    Option<&'static str>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<bool>,
    Option<bool>,
    Option<String>,
);

fn row(store: &str, backup: &Backup) -> Row {
    (
        store.to_string(),
        Some(backup.id.clone()),
        Some(backup.kind.name()),
        backup.parent.clone(),
        Some(backup.label.clone()),
        Some(backup.started_at.for_postgresql()),
        Some(backup.stopped_at.for_postgresql()),
        Some(backup.start_lsn.to_string()),
        Some(backup.stop_lsn.to_string()),
        Some(backup.timeline.into()),
        Some(backup.raw_bytes() as i64),
        Some(backup.stored_bytes() as i64),
        Some(backup.includes_wal),
        Some(backup.encrypted()),
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
        None,
        None,
        None,
        Some(why),
    )
}

/// One row for each record, or for a store that cannot be read.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn list_backups() -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(id, Option<String>),
        name!(kind, Option<&'static str>),
        name!(parent, Option<String>),
        name!(label, Option<String>),
        name!(started_at, Option<String>),
        name!(stopped_at, Option<String>),
        name!(start_lsn, Option<String>),
        name!(stop_lsn, Option<String>),
        name!(timeline, Option<i64>),
        name!(bytes, Option<i64>),
        name!(stored_bytes, Option<i64>),
        name!(includes_wal, Option<bool>),
        name!(encrypted, Option<bool>),
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
        match backup::list(&store, &stores::interrupts) {
            Ok(listed) => rows.extend(listed.into_iter().map(|one| match one.backup {
                Ok(backup) => row(&name, &backup),
                Err(e) => unreadable(&name, Some(one.id), e.to_string()),
            })),
            Err(e) if e.is_cancelled() => error::raise(&e),
            Err(e) => rows.push(unreadable(&name, None, e.to_string())),
        }
    }
    TableIterator::new(rows)
}

/// One row for each object of the backup's whole chain and of the WAL that it needs, and each store, or for a store whose record
/// of the backup cannot be read.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn verify_backup(
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
    let id = id.unwrap_or_else(|| null_argument("the backup"));
    let identities = keys::identities().unwrap_or_else(|e| error::raise(&e));
    let mut rows = Vec::new();
    for (name, store) in stores::all_usable() {
        let store = match store {
            Ok(store) => store,
            Err(why) => {
                rows.push((name, None, false, None, None, Some(why)));
                continue;
            }
        };
        let loaded = match backup::load(&store, id, &stores::interrupts) {
            Ok(loaded) => loaded,
            Err(e) if e.is_not_found() => continue,
            Err(e) if e.is_cancelled() => error::raise(&e),
            Err(e) => {
                rows.push((name, None, false, None, None, Some(e.to_string())));
                continue;
            }
        };
        let mut each = |check: backup::ObjectCheck| {
            rows.push((
                name.clone(),
                Some(check.key),
                check.ok,
                Some(check.expected).filter(|sum| !sum.is_empty()),
                check.actual,
                check.detail,
            ));
        };
        // The server has no keys: encrypted WAL is told by its size.
        let verified = backup::verify_chain(
            &store,
            &loaded,
            identities.as_ref(),
            &mut each,
            &stores::interrupts,
        );
        if let Err(e) = verified {
            error::raise(&e);
        }
    }
    if rows.is_empty() {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no store has a backup \"{id}\""),
            None,
            Some("SELECT id FROM varve.backups lists the backups.".into()),
        );
    }
    TableIterator::new(rows)
}
