//! `varve.verify_stores`: every object of every store is read again.

use super::{error, keys};
use crate::pg::owner::as_owner;
use crate::pg::spi;
use crate::progress::{Operation, Phase, Work};
use crate::stores;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use varve_core::backup::snapshot::{self, Snapshot};
use varve_core::backup::{self, Backup, BackupError, ObjectCheck, WalFile};
use varve_core::seal::Identities;
use varve_core::store::{ErrorKind, Store};

/// Most problems of a store that are kept and shown.
const MOST_PROBLEMS: usize = 1000;

/// What is found in one store.
#[derive(Default)]
struct Findings {
    backups: u64,
    wal: u64,
    bytes: u64,
    problems: Vec<serde_json::Value>,
    more: usize,
    note: Option<String>,
    /// Something could not be read since the store was last known to be there.
    unread: bool,
}

impl Findings {
    fn problem(&mut self, object: Option<String>, detail: String) {
        match self.problems.len() < MOST_PROBLEMS {
            true => self
                .problems
                .push(serde_json::json!({ "object": object, "detail": detail })),
            false => self.more += 1,
        }
    }

    fn check(&mut self, check: ObjectCheck) {
        self.unread |= !check.ok && check.actual.is_none();
        if !check.ok {
            let detail = check
                .detail
                .unwrap_or_else(|| "its bytes are not those that were written".to_string());
            self.problem(Some(check.key), detail);
        }
    }
}

/// Fails where something could not be read because the store is away: then nothing is known of it.
fn still_there(store: &Store, findings: &mut Findings) -> Result<(), BackupError> {
    if std::mem::take(&mut findings.unread) {
        backup::cluster_of(store, &stores::interrupts)?;
    }
    Ok(())
}

/// What was removed while all was read is not missing. What nobody needs any more and is there yet is damaged all the same.
fn without_removed(store: &Store, findings: &mut Findings) -> Result<(), BackupError> {
    if findings.problems.is_empty() {
        return Ok(());
    }
    let there = backup::list(store, &stores::interrupts)?;
    let ids: BTreeSet<&str> = there.iter().map(|listed| listed.id.as_str()).collect();
    let segment = |lsn: backup::Lsn, bytes: u64| lsn.0 / bytes;
    let needed = there
        .iter()
        .filter_map(|listed| listed.backup.as_ref().ok())
        .map(|b| {
            (
                segment(b.start_lsn, b.wal_segment_bytes),
                b.wal_segment_bytes,
            )
        })
        .min();
    let is_needed = |key: &str| {
        let mut parts = key.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(backup::BACKUP_PREFIX), Some(id), _) => ids.contains(id),
            (Some(backup::WAL_PREFIX), _, Some(name)) => {
                let name = name.split(".zst").next().unwrap_or_default();
                let name: Option<backup::WalName> = name.parse().ok();
                match (name, needed) {
                    (Some(name), Some((first, bytes))) => {
                        name.number(bytes).is_none_or(|number| number >= first)
                    }
                    _ => true,
                }
            }
            _ => true,
        }
    };
    let mut kept = Vec::new();
    for problem in std::mem::take(&mut findings.problems) {
        let key = problem.get("object").and_then(serde_json::Value::as_str);
        let stays = match key.filter(|key| !is_needed(key)) {
            None => true,
            Some(key) => match store.head(key, &stores::interrupts) {
                Err(e) if e.kind() == ErrorKind::NotFound => false,
                // Nothing is known of a store that is away.
                Err(e) if e.kind() == ErrorKind::Unreachable => return Err(e.into()),
                _ => true,
            },
        };
        if stays {
            kept.push(problem);
        }
    }
    findings.problems = kept;
    Ok(())
}

/// Reads everything in a store.
fn scrub(
    store: &Store,
    identities: Option<&Identities>,
    work: &mut Work,
    findings: &mut Findings,
) -> Result<(), BackupError> {
    let tick = &stores::interrupts;
    let mut backups: Vec<Backup> = Vec::new();
    for listed in backup::list(store, tick)? {
        match listed.backup {
            Ok(backup) => backups.push(backup),
            Err(e) => findings.problem(
                Some(format!(
                    "{}/{}/backup.json",
                    backup::BACKUP_PREFIX,
                    listed.id
                )),
                e.to_string(),
            ),
        }
    }
    let mut tables = Vec::new();
    for listed in snapshot::list(store, tick)? {
        match listed.snapshot {
            Ok(snapshot) => tables.push(snapshot),
            Err(e) => {
                let key = format!(
                    "{}/{}/{}",
                    snapshot::SNAPSHOT_PREFIX,
                    listed.id,
                    snapshot::SNAPSHOT_RECORD
                );
                findings.problem(Some(key), e.to_string());
            }
        }
    }
    let files = backup::wal_list(store, tick)?;
    let total = backups.iter().map(Backup::stored_bytes).sum::<u64>()
        + tables.iter().map(Snapshot::stored_bytes).sum::<u64>()
        + files.iter().map(|f| f.stored_bytes).sum::<u64>();
    work.phase(Phase::Files, total);
    for backup in &backups {
        let mut each = |check| findings.check(check);
        backup::verify(store, backup, &mut each, tick)?;
        still_there(store, findings)?;
        if let Some(parent) = &backup.parent
            && !backups.iter().any(|b| b.id == *parent)
        {
            findings.problem(
                None,
                format!("backup {} needs {parent}, which is missing", backup.id),
            );
        }
        work.add(backup.stored_bytes());
        findings.backups += 1;
        findings.bytes += backup.stored_bytes();
    }
    for table in &tables {
        let mut each = |check| findings.check(check);
        snapshot::verify(store, table, &mut each, tick)?;
        still_there(store, findings)?;
        work.add(table.stored_bytes());
        findings.backups += 1;
        findings.bytes += table.stored_bytes();
    }
    let mut unread = 0;
    for file in &files {
        if file.encrypted && identities.is_none() {
            unread += 1;
        } else {
            let one = std::slice::from_ref(file);
            let mut each = |check| findings.check(check);
            backup::verify_wal(store, one, identities, &mut each, tick)?;
            still_there(store, findings)?;
            findings.bytes += file.stored_bytes;
        }
        work.add(file.stored_bytes);
        findings.wal += 1;
    }
    if unread > 0 {
        findings.note = Some(format!(
            "{unread} encrypted files of WAL were not read: varve.backup_identity_file is not set"
        ));
    }
    gaps(store, &backups, &files, identities, findings)?;
    without_removed(store, findings)
}

/// WAL that is missing behind some backup.
fn gaps(
    store: &Store,
    backups: &[Backup],
    files: &[WalFile],
    identities: Option<&Identities>,
    findings: &mut Findings,
) -> Result<(), BackupError> {
    let mut told = BTreeSet::new();
    for backup in backups {
        let reach = backup::wal_reach(store, backup, files, identities, &stores::interrupts);
        let reach = match reach {
            Ok(reach) => reach,
            Err(e) if e.is_cancelled() => return Err(e),
            Err(e) => {
                findings.problem(None, format!("behind backup {}: {e}", backup.id));
                continue;
            }
        };
        // A backup with its own WAL stands alone where there is no archive.
        if backup.includes_wal && reach.last.is_none() {
            continue;
        }
        for gap in reach.gaps {
            if told.insert(gap.last.clone()) {
                findings.problem(
                    None,
                    format!("WAL is missing: {} to {}", gap.first, gap.last),
                );
            }
        }
    }
    Ok(())
}

/// Writes down what was found, in place of what was found before.
fn record(store: &str, findings: &Findings, begun: pg_sys::TimestampTz) {
    let problems = serde_json::Value::Array(findings.problems.clone()).to_string();
    as_owner(|| {
        spi::write(
            "INSERT INTO varve.verification AS v (store, started_at, ended_at, backups, wal_files, bytes, problems) \
             VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, $4, $5, $6::pg_catalog.jsonb) \
             ON CONFLICT (store) DO UPDATE SET started_at = excluded.started_at, ended_at = excluded.ended_at, \
                 backups = excluded.backups, wal_files = excluded.wal_files, bytes = excluded.bytes, problems = excluded.problems",
            &[
                store.into(),
                // SAFETY: a timestamp is its number of microseconds.
                unsafe { pgrx::datum::DatumWithOid::new(begun, pg_sys::TIMESTAMPTZOID) },
                (findings.backups as i64).into(),
                (findings.wal as i64).into(),
                (findings.bytes as i64).into(),
                problems.as_str().into(),
            ],
        );
    });
}

type Row = (
    String,
    bool,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// One row for each problem, and one behind them for each store.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn verify_stores(
    only: Option<&core::ffi::CStr>,
) -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(ok, bool),
        name!(object, Option<String>),
        name!(detail, Option<String>),
        name!(backups, Option<i64>),
        name!(wal_files, Option<i64>),
        name!(bytes, Option<i64>),
    ),
> {
    crate::require_preload();
    crate::tier::check_writable(c"varve.verify_stores()");
    let identities = keys::identities().unwrap_or_else(|e| error::raise(&e));
    let all = match only {
        Some(name) => {
            let name = name.to_string_lossy().into_owned();
            let store = stores::open(&name);
            vec![(name, Ok(store))]
        }
        None => stores::all_usable(),
    };
    let mut rows: Vec<Row> = Vec::new();
    for (name, store) in all {
        let begun = crate::pg::clock::now();
        let mut findings = Findings::default();
        let mut work = Work::begin(Operation::Verify, pg_sys::InvalidOid);
        match store {
            Ok(store) => match scrub(&store, identities.as_ref(), &mut work, &mut findings) {
                Ok(()) => record(&name, &findings, begun),
                Err(e) if e.is_cancelled() => error::raise(&e),
                // What was known of it before stays.
                Err(e) => {
                    findings.problems.clear();
                    findings.problem(None, e.to_string());
                }
            },
            Err(why) => findings.problem(None, why),
        }
        crate::jobs::note_done(
            (findings.backups + findings.wal) as i64,
            findings.bytes as i64,
        );
        let text = |value: &serde_json::Value, key: &str| {
            let text = value.get(key).and_then(serde_json::Value::as_str);
            text.map(str::to_string)
        };
        for problem in &findings.problems {
            let (object, detail) = (text(problem, "object"), text(problem, "detail"));
            rows.push((name.clone(), false, object, detail, None, None, None));
        }
        let more = (findings.more > 0).then(|| format!("and {} problems more", findings.more));
        rows.push((
            name,
            findings.problems.is_empty(),
            None,
            more.or(findings.note),
            Some(findings.backups as i64),
            Some(findings.wal as i64),
            Some(findings.bytes as i64),
        ));
    }
    TableIterator::new(rows)
}
