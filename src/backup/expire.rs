//! `varve.expire`: backups and WAL that are not kept.

use super::turn::{self, Turn};
use super::{choice, error};
use crate::pg::owner::as_owner;
use crate::pg::spi::{self, read_all};
use crate::stores;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use std::time::Duration;
use varve_core::backup::{self, BackupError, Expiry, Retention, Timestamp};
use varve_core::store::Store;

/// What a backup that failed has left is removed when it is so old.
const LEFTOVERS: Duration = Duration::from_secs(24 * 3600);

/// How long backups are kept by the policy, if there is one: the number of full backups, and an age.
fn policy() -> Option<(Option<i32>, Option<Interval>)> {
    as_owner(|| {
        read_all(
            "SELECT (settings OPERATOR(pg_catalog.->>) 'keep_full')::pg_catalog.int4, (settings OPERATOR(pg_catalog.->>) 'keep_for')::pg_catalog.interval FROM varve.job \
             WHERE kind OPERATOR(pg_catalog.=) 'backup' AND (settings OPERATOR(pg_catalog.->>) 'task') OPERATOR(pg_catalog.=) 'full'",
            &[],
            |tuple| Ok(Some((tuple.get(1)?, tuple.get(2)?))),
        )
    })
    .pop()
}

/// An interval as the time that it reaches back from now.
fn back(interval: Interval) -> Duration {
    let seconds: Option<f64> = spi::read_one(
        "SELECT extract(epoch FROM pg_catalog.now() OPERATOR(pg_catalog.-) (pg_catalog.now() OPERATOR(pg_catalog.-) $1))::pg_catalog.float8",
        &[interval.into()],
    );
    Duration::try_from_secs_f64(seconds.unwrap_or(0.0).max(0.0)).unwrap_or(Duration::MAX)
}

type Row = (String, String, Option<String>, Option<i64>, Option<String>);

fn rows(store: &str, expiry: &Expiry) -> Vec<Row> {
    let row = |kind: &str, name: Option<String>, bytes: Option<i64>, detail: Option<String>| {
        (store.to_string(), kind.to_string(), name, bytes, detail)
    };
    let mut rows: Vec<Row> = Vec::new();
    for backup in &expiry.backups {
        let (id, bytes) = (backup.id.clone(), backup.bytes as i64);
        rows.push(row(
            "backup",
            Some(id),
            Some(bytes),
            Some(backup.reason.clone()),
        ));
    }
    if let (Some(first), Some(last)) = (expiry.wal.first(), expiry.wal.last()) {
        let file = |key: &str| key.rsplit('/').next().unwrap_or_default().to_string();
        let detail = format!("{} files, up to {}", expiry.wal.len(), file(&last.key));
        let bytes = expiry.wal_bytes() as i64;
        rows.push(row(
            "wal",
            Some(file(&first.key)),
            Some(bytes),
            Some(detail),
        ));
    }
    for note in &expiry.notes {
        rows.push(row("note", None, None, Some(note.clone())));
    }
    rows
}

/// Plans for a store, and removes if it shall.
fn one(
    name: &str,
    store: &Store,
    retention: &Retention,
    remove: bool,
) -> Result<Expiry, BackupError> {
    let tick = &stores::interrupts;
    match backup::cluster_of(store, tick)? {
        None => return Ok(Expiry::default()),
        Some(cluster) if cluster.system_identifier != choice::system_identifier() => {
            return Ok(Expiry {
                notes: vec!["it belongs to another cluster, and is left as it is".to_string()],
                ..Expiry::default()
            });
        }
        Some(_) => {}
    }
    let damaged = super::status::damaged(name);
    let expiry = backup::plan_expiry(store, retention, &damaged, Timestamp::now(), tick)?;
    if remove {
        backup::expire(store, &expiry, &mut |_| {}, tick)?;
        backup::sweep(store, LEFTOVERS, tick)?;
        backup::snapshot::sweep(store, LEFTOVERS, tick)?;
    }
    Ok(expiry)
}

/// What goes from each store.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn expire(
    keep_full: Option<i32>,
    keep_for: Option<Interval>,
    remove: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(kind, String),
        name!(name, Option<String>),
        name!(bytes, Option<i64>),
        name!(detail, Option<String>),
    ),
> {
    crate::require_preload();
    let remove = remove.unwrap_or(false);
    if remove {
        crate::tier::check_writable(c"varve.expire()");
    }
    let (keep_full, keep_for) = match (keep_full, keep_for) {
        (None, None) => policy().unwrap_or_default(),
        given => given,
    };
    if keep_full.is_some_and(|n| n < 1) {
        crate::am::error::raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "keep_full must be positive".into(),
            None,
            Some("Give the number of full backups to keep.".into()),
        );
    }
    let retention = Retention {
        keep_full: keep_full.and_then(|n| u32::try_from(n).ok()),
        keep_for: keep_for.map(back),
    };
    if remove {
        turn::wait_for(Turn::Stores);
    }
    let mut found: Vec<Row> = Vec::new();
    let mut failed: Option<BackupError> = None;
    for (name, store) in stores::all_usable() {
        let expiry = match store {
            Ok(store) => match one(&name, &store, &retention, remove) {
                Ok(expiry) => expiry,
                Err(e) if e.is_cancelled() => error::raise(&e),
                Err(e) => {
                    let why = e.to_string();
                    found.push((name, "error".into(), None, None, Some(why)));
                    failed = failed.or(Some(e));
                    continue;
                }
            },
            Err(why) => {
                found.push((name, "error".into(), None, None, Some(why)));
                continue;
            }
        };
        crate::jobs::note_done(
            (expiry.backups.len() + expiry.wal.len()) as i64,
            (expiry.backup_bytes() + expiry.wal_bytes()) as i64,
        );
        found.extend(rows(&name, &expiry));
    }
    // Other stores were seen to; that one could not be shall not go unnoticed.
    if let (true, Some(e)) = (remove, &failed) {
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("not all stores could be cleared: {e}")
        );
    }
    TableIterator::new(found)
}
