//! `varve.store_state`: what each store has, and what of it is behind the primary store. `varve.recovery_status` is made of it.

use super::{choice, error, keys};
use crate::pg::owner::as_owner;
use crate::pg::spi::{read_all, write};
use crate::stores;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;
use varve_core::backup::{self, BackupError, Contents, Lag, StoreState};
use varve_core::seal::Identities;
use varve_core::store::{Role, Store, StorePlace};

/// What verification found damaged in a store when it last looked: keys, and what is wrong with them.
pub fn damaged(store: &str) -> BTreeMap<String, String> {
    let found: Vec<(String, String)> = as_owner(|| {
        read_all(
            "SELECT p.object, p.detail FROM varve.verification v, \
             pg_catalog.jsonb_to_recordset(v.problems) AS p (object pg_catalog.text, detail pg_catalog.text) \
             WHERE v.store OPERATOR(pg_catalog.=) $1 AND p.object IS NOT NULL",
            &[store.into()],
            |tuple| {
                let key: String = tuple.get(1)?.unwrap_or_default();
                let detail: String = tuple.get(2)?.unwrap_or_default();
                Ok(Some((key, detail)))
            },
        )
    });
    found.into_iter().collect()
}

/// Objects of a store that are whole again are forgotten as damaged; where the store is in step with a sound one, gaps are too.
pub fn forget_damaged(store: &str, keys: &[String], in_step: bool) {
    as_owner(|| {
        write(
            "UPDATE varve.verification v SET problems = coalesce((SELECT pg_catalog.jsonb_agg(p) \
             FROM pg_catalog.jsonb_array_elements(v.problems) p WHERE NOT coalesce((p OPERATOR(pg_catalog.->>) 'object') OPERATOR(pg_catalog.=) ANY ($2), $3)), '[]') \
             WHERE v.store OPERATOR(pg_catalog.=) $1 AND v.problems OPERATOR(pg_catalog.<>) '[]'",
            &[store.into(), keys.to_vec().into(), in_step.into()],
        );
    });
}

/// A moment as PostgreSQL has it.
fn moment(time: SystemTime) -> Option<TimestampWithTimeZone> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(pgrx::datum::to_timestamp(since.as_secs_f64()))
}

/// On what a store lies: what fails together is one medium.
fn medium(store: &Store, place: &StorePlace) -> String {
    place.service().unwrap_or_else(|| {
        let directory = store.url().trim_start_matches("file://");
        device(std::path::Path::new(directory))
    })
}

/// The file system that a directory is on.
fn device(directory: &std::path::Path) -> String {
    match std::fs::metadata(directory) {
        Ok(metadata) => format!("file system {}", metadata.dev()),
        Err(_) => "a file system that is not there".to_string(),
    }
}

/// What was found in a store.
struct Found {
    name: String,
    role: Role,
    place: String,
    medium: String,
    state: Result<StoreState, String>,
    lag: Option<Result<Lag, String>>,
    wal_end: Option<backup::Lsn>,
    wal_end_at: Option<TimestampWithTimeZone>,
}

fn told<T>(result: Result<T, BackupError>) -> Result<T, String> {
    match result {
        Ok(value) => Ok(value),
        Err(e) if e.is_cancelled() => error::raise(&e),
        Err(e) => Err(e.to_string()),
    }
}

/// What a store of this cluster's has, by its listings.
fn listed(store: &Store) -> Result<Contents, String> {
    told(whose(store)).and_then(|()| told(Contents::of(store, &stores::interrupts)))
}

/// Looks into a store whose listings were read, and compares them with the primary store's.
fn look(
    name: &str,
    store: &Store,
    contents: &Result<Contents, String>,
    primary: Option<&Result<Contents, String>>,
) -> Found {
    let place = store
        .place(&stores::interrupts)
        .unwrap_or_else(|e| stores::raise(&e));
    let identities = keys::identities().unwrap_or_else(|e| error::raise(&e));
    let state = contents.as_ref().map_err(Clone::clone).and_then(|here| {
        told(backup::state(
            store,
            here,
            &damaged(name),
            identities.as_ref(),
            &stores::interrupts,
        ))
    });
    let wal_end = state
        .as_ref()
        .ok()
        .and_then(|state| wal_end(store, state, identities.as_ref()));
    let wal_end_at = wal_end.as_ref().and_then(|(_, key)| {
        let head = store.head(key, &stores::interrupts).ok()?;
        moment(head.modified)
    });
    let lag = match (contents, primary) {
        (Ok(here), Some(Ok(primary))) => Some(Ok(primary.lacking_in(here))),
        (Ok(_), Some(Err(why))) => Some(Err(why.clone())),
        _ => None,
    };
    Found {
        name: name.to_string(),
        role: store.role(),
        medium: medium(store, &place),
        place: place.to_string(),
        state,
        lag,
        wal_end: wal_end.map(|(end, _)| end),
        wal_end_at,
    }
}

/// Fails where a store is another cluster's.
fn whose(store: &Store) -> Result<(), BackupError> {
    match backup::cluster_of(store, &stores::interrupts)? {
        Some(cluster) if cluster.system_identifier != choice::system_identifier() => {
            Err(BackupError::Refused {
                message: "it belongs to another cluster".to_string(),
                hint: "Give each cluster a store of its own.".to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// How far the newest good backup can be rolled forward from a store: where that ends, and the last segment's key. None where
/// that is not the timeline that the server is on.
fn wal_end(
    store: &Store,
    state: &StoreState,
    identities: Option<&Identities>,
) -> Option<(backup::Lsn, String)> {
    let backup = state.newest_good()?;
    let reach = backup::wal_reach(store, backup, &state.wal, identities, &stores::interrupts);
    let reach = told(reach).ok()?;
    // SAFETY: asks the server's state.
    let here = unsafe {
        match pg_sys::RecoveryInProgress() {
            true => None,
            false => Some(pg_sys::GetWALInsertionTimeLine()),
        }
    };
    let last = reach.last?;
    if here.is_some_and(|here| here != last.timeline()) {
        return None;
    }
    let file = state.wal.iter().find(|file| file.name == last)?;
    Some((reach.end?, file.key.clone()))
}

type Row = (
    String,
    Option<&'static str>,
    bool,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<TimestampWithTimeZone>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
);

fn row(found: Found) -> Row {
    let mut row: Row = (
        found.name,
        Some(found.role.name()),
        true,
        None,
        None,
        None,
        None,
        None,
        found.wal_end_at,
        None,
        None,
        None,
        Some(found.medium),
        Some(found.place),
    );
    let state = match found.state {
        Ok(state) => state,
        Err(why) => {
            (row.2, row.3) = (false, Some(why));
            return row;
        }
    };
    let mut details: Vec<String> = Vec::new();
    for (id, why) in &state.unreadable {
        details.push(format!("{id}: {why}"));
    }
    for (id, why) in &state.incomplete {
        details.push(format!("{id}: {why}"));
    }
    row.4 = Some(state.backups.len() as i64);
    if let Some(good) = state.newest_good() {
        row.5 = Some(good.id.clone());
        row.6 = Some(good.stopped_at.for_postgresql());
    }
    row.7 = found.wal_end.map(|lsn| lsn.to_string());
    match found.lag {
        Some(Ok(lag)) => {
            row.9 = Some((lag.backups.len() + lag.snapshots.len()) as i64);
            row.10 = Some(lag.wal_files as i64);
            row.11 = Some(lag.bytes as i64);
        }
        Some(Err(why)) => details.push(why),
        None => {}
    }
    row.3 = Some(details.join("; ")).filter(|d| !d.is_empty());
    row
}

/// One row for each store.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn store_state() -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(role, Option<&'static str>),
        name!(reachable, bool),
        name!(detail, Option<String>),
        name!(backups, Option<i64>),
        name!(newest_backup, Option<String>),
        name!(newest_backup_at, Option<String>),
        name!(wal_end, Option<String>),
        name!(wal_end_at, Option<TimestampWithTimeZone>),
        name!(missing_backups, Option<i64>),
        name!(missing_wal, Option<i64>),
        name!(missing_bytes, Option<i64>),
        name!(medium, Option<String>),
        name!(place, Option<String>),
    ),
> {
    crate::require_preload();
    let mut all = stores::all_usable();
    let is_primary =
        |store: &Result<Store, String>| matches!(store, Ok(store) if store.role() == Role::Primary);
    // What comes into it while the others are listed, these do not lack.
    all.sort_by_key(|(_, store)| !is_primary(store));
    let listed: Vec<Option<Result<Contents, String>>> = all
        .iter()
        .map(|(_, store)| store.as_ref().ok().map(listed))
        .collect();
    let primary = all.iter().position(|(_, store)| is_primary(store));
    let contents_of = |number: usize| listed.get(number).and_then(Option::as_ref);
    let rows: Vec<Row> = all
        .iter()
        .enumerate()
        .map(|(number, (name, store))| match store {
            Ok(store) => {
                let other = primary.filter(|primary| *primary != number);
                let none = Err(String::new());
                let contents = contents_of(number).unwrap_or(&none);
                row(look(name, store, contents, other.and_then(contents_of)))
            }
            Err(why) => {
                let (name, why) = (name.clone(), Some(why.clone()));
                (
                    name, None, false, why, None, None, None, None, None, None, None, None, None,
                    None,
                )
            }
        })
        .collect();
    TableIterator::new(rows)
}

/// What the server itself knows: where its last WAL that matters ends, files of WAL that wait to be archived, and the medium
/// that the data directory is on.
#[allow(clippy::type_complexity)] // As above.
#[pg_extern(sql = false)]
fn archive_state() -> TableIterator<
    'static,
    (
        name!(important, Option<String>),
        name!(waiting, i64),
        name!(waiting_since, Option<TimestampWithTimeZone>),
        name!(medium, String),
    ),
> {
    crate::require_preload();
    // SAFETY: reads the server's state; outside of recovery only.
    let important = unsafe {
        (!pg_sys::RecoveryInProgress()).then(|| backup::Lsn(pg_sys::GetLastImportantRecPtr()))
    };
    let mut waiting = 0;
    let mut since: Option<SystemTime> = None;
    // The server's working directory is the data directory.
    for entry in std::fs::read_dir("pg_wal/archive_status")
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.path().extension().is_some_and(|e| e == "ready") {
            waiting += 1;
            let modified = entry.metadata().and_then(|m| m.modified()).ok();
            since = match (since, modified) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    TableIterator::once((
        important.map(|lsn| lsn.to_string()),
        waiting,
        since.and_then(moment),
        device(std::path::Path::new(".")),
    ))
}
