//! `varve.recovery_drill`: restores a backup beside the running server, replays WAL, compares and verifies what came of it, and
//! measures how long that took and what would have been lost.

use super::checks;
use super::choice::{self, Choice, Stores};
use super::drill_log::{self, Note};
use super::scratch::{Origin, Scratch, Until};
use crate::pg::function::Args;
use crate::pg::{guard, transaction};
use crate::progress::{Operation, Phase, Work};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use varve_core::backup::{BackupError, Lsn, RestorePhase, RestoreProgress, Timestamp};
use varve_core::replication::Row;

/// How many tables that are wrong are named.
const NAMED: usize = 20;

/// A part of a drill, and what came of it; neither good nor bad where it was left out.
struct Step {
    name: &'static str,
    ok: Option<bool>,
    detail: String,
    elapsed: Duration,
}

/// A drill, as far as it has come.
#[derive(Default)]
struct Drill {
    /// The part that it is at.
    at: &'static str,
    steps: Vec<Step>,
    backup: Option<String>,
    restore: Option<Duration>,
    replay: Option<Duration>,
    restored_bytes: Option<u64>,
    replayed_bytes: Option<u64>,
    checked: u64,
    wrong: Vec<String>,
    rto: Option<Duration>,
    rpo: Option<Duration>,
    error: Option<String>,
}

impl Drill {
    fn step(&mut self, name: &'static str, ok: Option<bool>, detail: String, since: Instant) {
        self.steps.push(Step {
            name,
            ok,
            detail,
            elapsed: since.elapsed(),
        });
    }

    fn ok(&self) -> bool {
        self.error.is_none() && self.steps.iter().all(|step| step.ok != Some(false))
    }

    /// What came of it, in words.
    fn told(&self) -> String {
        let seconds = |d: Duration| format!("{:.1} s", d.as_secs_f64());
        match (&self.error, self.rto) {
            (Some(error), _) => error.clone(),
            (None, Some(rto)) => {
                let rpo = self.rpo.map_or("not measured".to_owned(), seconds);
                format!("RTO {}, RPO {rpo}", seconds(rto))
            }
            (None, None) => String::new(),
        }
    }

    /// Runs a part; an error ends the drill.
    fn part<T>(
        &mut self,
        name: &'static str,
        f: impl FnOnce(&mut Self) -> Result<T, BackupError>,
    ) -> Result<T, ()> {
        let begun = Instant::now();
        self.at = name;
        f(self).map_err(|error| {
            let hint = error.hint().map(|hint| format!(" {hint}"));
            let why = format!("{error}{}", hint.unwrap_or_default());
            self.step(name, Some(false), why.clone(), begun);
            self.error = Some(format!("{name}: {why}"));
        })
    }
}

/// What shall be tried.
struct Wanted {
    backup: Option<String>,
    target: Option<Timestamp>,
    /// Up to where the running server's WAL was safe when the drill began, and when that was.
    flushed: Lsn,
    began: Timestamp,
}

impl Wanted {
    /// What is wanted of a drill that begins now.
    fn now(backup: Option<String>, target: Option<TimestampWithTimeZone>) -> Self {
        // SAFETY: outside recovery.
        let flushed = Lsn(unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) });
        Self {
            backup,
            target: target.and_then(past),
            flushed,
            began: Timestamp::now(),
        }
    }
}

/// Shows how far a drill is.
struct Shown(Work, Option<Phase>);

impl Shown {
    fn at(&mut self, phase: Phase, done: u64, total: u64) {
        if self.1 != Some(phase) {
            self.1 = Some(phase);
            self.0.phase(phase, total);
        }
        self.0.reach(done);
    }

    fn restoring(&mut self, now: &RestoreProgress) {
        let phase = match now.phase {
            RestorePhase::Files => Phase::Restoring,
            RestorePhase::Syncing => Phase::Syncing,
        };
        self.at(phase, now.bytes, now.total);
    }
}

/// Does the drill. Its steps tell what came of it; the error is told in them.
fn run(drill: &mut Drill, wanted: &Wanted, mut stores: Stores) -> Result<(), ()> {
    let mut shown = Shown(Work::begin(Operation::Drill, pg_sys::InvalidOid), None);
    let chosen = drill.part("choose a backup", |drill| {
        let begun = Instant::now();
        let chosen = choice::choose(&mut stores, wanted.backup.as_deref(), wanted.target)?;
        drill.backup = Some(chosen.backup.id.clone());
        if !chosen.is_usable() {
            return Err(BackupError::Refused {
                message: format!(
                    "backup {} cannot be started: {}",
                    chosen.backup.id,
                    chosen.gaps().join("; ")
                ),
                hint: String::new(),
            });
        }
        let ids: Vec<&str> = chosen.chain.iter().map(|b| b.id.as_str()).collect();
        let mut told = vec![ids.join(" + ")];
        told.push(match chosen.segments() {
            1 => "1 segment of WAL".to_owned(),
            n => format!("{n} segments of WAL"),
        });
        let gaps = chosen.gaps();
        let whole = gaps.is_empty();
        told.extend(gaps);
        told.extend(stores.troubles.iter().cloned());
        drill.step("choose a backup", Some(whole), told.join("; "), begun);
        Ok(chosen)
    })?;
    // What cannot be read is known before anything is restored.
    let counted = drill.part("read its counts", |_| {
        checks::parse(&chosen.backup.checks).map_err(|detail| BackupError::Corrupt {
            object: format!("backup {}", chosen.backup.id),
            detail,
        })
    })?;
    let here = checks::database_name();
    crate::pg::transaction::release_snapshot();
    let database = counted
        .as_ref()
        .map_or(here.as_str(), |c| c.database.as_str());
    let origin = Origin {
        stores: stores.refs(),
        backup: &chosen.backup,
        chain: &chosen.chain,
        last_segment: chosen.last_segment(),
        later_timeline: chosen.later_timeline(),
        database,
    };
    let mut scratch = drill.part("restore", |drill| {
        let begun = Instant::now();
        let scratch = Scratch::restore(&origin, &mut |now| shown.restoring(now))?;
        drill.restore = Some(begun.elapsed());
        drill.restored_bytes = Some(scratch.restored.bytes);
        let mut told = vec![format!("{} MB", scratch.restored.bytes / 1_000_000)];
        for repaired in &scratch.restored.repaired {
            told.push(format!("taken from another store: {}", repaired.detail));
        }
        drill.step("restore", Some(true), told.join("; "), begun);
        Ok(scratch)
    })?;
    let mut last_commit = None;
    let mut spent = Duration::ZERO;
    match reachable(&counted, &chosen, wanted) {
        Ok(counted) => {
            drill.part("replay to the counts", |drill| {
                let begun = Instant::now();
                spent += scratch.start(Until::PausedAt(counted.lsn), &mut |lsn| {
                    shown.at(Phase::Replaying, replayed(lsn, &chosen), ahead(&chosen));
                })?;
                last_commit = state(&scratch, database)?.0;
                let detail = format!("paused at {}", counted.lsn);
                drill.step("replay to the counts", Some(true), detail, begun);
                Ok(())
            })?;
            drill.part("compare counts", |drill| {
                let all = counted.tables.len() as u64;
                shown.at(Phase::Counting, 0, all);
                compare(drill, &scratch, counted)
            })?;
        }
        Err(why) => drill.step("compare counts", None, why.to_owned(), Instant::now()),
    }
    drill.part("replay", |drill| {
        let begun = Instant::now();
        let until = wanted.target.map_or(Until::End, Until::Time);
        shown.1 = None;
        spent += scratch.start(until, &mut |lsn| {
            shown.at(Phase::Replaying, replayed(lsn, &chosen), ahead(&chosen));
        })?;
        let (commit, replayed) = state(&scratch, database)?;
        last_commit = commit.max(last_commit);
        let replayed = replayed.unwrap_or(chosen.backup.stop_lsn);
        drill.replay = Some(spent);
        drill.replayed_bytes = Some(self::replayed(replayed, &chosen));
        drill.rto = Some(drill.restore.unwrap_or_default() + spent);
        // Where a moment was wanted, what lies behind it was not looked for.
        if wanted.target.is_none() {
            let last = last_commit.unwrap_or(chosen.backup.stopped_at);
            let lost = wanted.began.seconds_since(last).max(0.0);
            drill.rpo = Some(match replayed >= wanted.flushed {
                true => Duration::ZERO,
                false => Duration::from_secs_f64(lost),
            });
        }
        let files = scratch.wal_files();
        let last = last_commit.map_or("none".to_owned(), Timestamp::for_postgresql);
        let detail = format!("{files} files of WAL, to {replayed}; last commit: {last}");
        drill.step("replay", Some(true), detail, begun);
        Ok(())
    })?;
    drill.part("verify", |drill| {
        shown.at(Phase::Verifying, 0, 0);
        verify(drill, &scratch, database)
    })?;
    drill.part("clean up", |_| scratch.stop())
}

/// WAL from the backup's start up to a position, in bytes.
fn replayed(lsn: Lsn, chosen: &Choice) -> u64 {
    lsn.0.saturating_sub(chosen.backup.start_lsn.0)
}

/// WAL from the backup's start to the end of what there is, in bytes.
fn ahead(chosen: &Choice) -> u64 {
    chosen.reach.end.map_or(0, |end| replayed(end, chosen))
}

/// The counts of the record, where they can be compared; else why not.
fn reachable<'c>(
    counted: &'c Option<checks::Checks>,
    chosen: &Choice,
    wanted: &Wanted,
) -> Result<&'c checks::Checks, &'static str> {
    let counted = counted
        .as_ref()
        .ok_or("the backup's record has no counts of rows")?;
    if wanted.target.is_some_and(|target| target < counted.at) {
        return Err("rows were counted after the moment that is wanted");
    }
    // A standby that had not received all was promoted.
    if chosen.reach.left_at.is_some_and(|at| counted.lsn > at) {
        return Err("rows were counted on a timeline that was left before that");
    }
    match chosen.reach.end.is_some_and(|end| counted.lsn < end) {
        true => Ok(counted),
        false => Err("the WAL up to where rows were counted is in no store yet"),
    }
}

/// The last commit that was replayed, and up to where WAL is.
fn state(
    scratch: &Scratch<'_>,
    database: &str,
) -> Result<(Option<Timestamp>, Option<Lsn>), BackupError> {
    const STATE: &str = "SELECT pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_last_xact_replay_timestamp()), 'YYYY-MM-DD HH24:MI:SS.US\"+00\"'), pg_catalog.pg_last_wal_replay_lsn()";
    let mut session = scratch.connect(database)?;
    let rows = scratch.query(&mut session, STATE)?;
    Ok((
        field(&rows, 0, 0).and_then(|time| time.parse().ok()),
        field(&rows, 0, 1).and_then(|lsn| lsn.parse().ok()),
    ))
}

fn field(rows: &[Row], row: usize, column: usize) -> Option<&str> {
    rows.get(row)?.get(column)?.as_deref()
}

/// Settings of the restored database that would end long work.
const NO_LIMITS: &str = "SELECT pg_catalog.set_config('statement_timeout', '0', false), pg_catalog.set_config('lock_timeout', '0', false)";

/// Counts again what the record says.
fn compare(
    drill: &mut Drill,
    scratch: &Scratch<'_>,
    counted: &checks::Checks,
) -> Result<(), BackupError> {
    let begun = Instant::now();
    let text = serde_json::to_string(counted).map_err(|e| BackupError::Corrupt {
        object: "the record".to_owned(),
        detail: e.to_string(),
    })?;
    let text = text.replace('\'', "''");
    let mut session = scratch.connect(&counted.database)?;
    scratch.query(&mut session, NO_LIMITS)?;
    scratch.query(&mut session, "SET standard_conforming_strings = on")?;
    let sql = format!(
        "SELECT relation::pg_catalog.int8, rows, checksum, detail FROM varve.recount('{text}')"
    );
    let rows = scratch.query(&mut session, &sql)?;
    let expected = counted.tables.iter().filter(|table| table.rows.is_some());
    let mut named = 0;
    for (number, table) in expected.clone().enumerate() {
        let told = |column| field(&rows, number, column);
        let found: Option<i64> = told(1).and_then(|rows| rows.parse().ok());
        let name = table.sql_name();
        let wrong = if told(0) != Some(table.oid.to_string().as_str()) {
            Some(format!("{name} was not counted"))
        } else if let Some(why) = told(3) {
            Some(format!("{name}: {why}"))
        } else if found != table.rows {
            Some(format!(
                "{name} has {} rows, and had {}",
                found.unwrap_or_default(),
                table.rows.unwrap_or_default()
            ))
        } else if table.checksum.is_some() && told(2) != table.checksum.as_deref() {
            Some(format!("{name} has other rows than it had"))
        } else {
            None
        };
        named += 1;
        drill.wrong.extend(wrong);
    }
    drill.checked = named;
    let uncounted = counted.tables.len() as u64 - named;
    let mut told = vec![format!("{named} tables compared")];
    if uncounted > 0 {
        told.push(format!("{uncounted} were not counted"));
    }
    told.extend(drill.wrong.iter().take(NAMED).cloned());
    if drill.wrong.len() > NAMED {
        told.push(format!("and {} more", drill.wrong.len() - NAMED));
    }
    let ok = drill.wrong.is_empty();
    drill.step("compare counts", Some(ok), told.join("; "), begun);
    Ok(())
}

/// Verifies the segments of all tables of the database.
fn verify(drill: &mut Drill, scratch: &Scratch<'_>, database: &str) -> Result<(), BackupError> {
    const INSTALLED: &str =
        "SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'varve'";
    const VERIFY: &str = "SELECT pg_catalog.count(*), pg_catalog.count(DISTINCT v.chunk), \
            pg_catalog.array_to_string((pg_catalog.array_agg(pg_catalog.format('%s segment %s: %s', v.chunk, v.segment, v.detail)) \
                FILTER (WHERE NOT v.ok))[1:20], '; ') \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam \
        CROSS JOIN LATERAL varve.verify(c.oid::pg_catalog.regclass) v \
        WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND a.amname OPERATOR(pg_catalog.=) 'varve'";
    let begun = Instant::now();
    let mut session = scratch.connect(database)?;
    scratch.query(&mut session, NO_LIMITS)?;
    if scratch.query(&mut session, INSTALLED)?.is_empty() {
        let detail = "the database does not have the extension varve".to_owned();
        drill.step("verify", None, detail, begun);
        return Ok(());
    }
    let all = scratch.query(&mut session, VERIFY)?;
    let part = |column| field(&all, 0, column).unwrap_or_default();
    let mut told = vec![format!("{} segments of {} tables", part(0), part(1))];
    let ok = part(2).is_empty();
    if !ok {
        told.push(part(2).to_owned());
    }
    drill.step("verify", Some(ok), told.join("; "), begun);
    Ok(())
}

/// What is written down of a drill: the values of the columns of `varve.drill`.
fn entry(drill: &Drill, wanted: &Wanted) -> serde_json::Value {
    let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
    let interval = |d: Option<Duration>| d.map(|d| format!("{} microseconds", d.as_micros()));
    let steps: Vec<serde_json::Value> = drill
        .steps
        .iter()
        .map(|step| {
            serde_json::json!({"step": step.name, "ok": step.ok, "detail": step.detail, "seconds": step.elapsed.as_secs_f64()})
        })
        .collect();
    serde_json::json!({
        "started_at": wanted.began.for_postgresql(),
        "backup": drill.backup,
        "target_time": wanted.target.map(Timestamp::for_postgresql),
        "ok": drill.ok(),
        "rto": interval(drill.rto),
        "rpo": interval(drill.rpo),
        "restore_seconds": seconds(drill.restore),
        "replay_seconds": seconds(drill.replay),
        "restored_bytes": drill.restored_bytes,
        "replayed_bytes": drill.replayed_bytes,
        "tables_checked": drill.checked,
        "tables_wrong": drill.wrong.len(),
        "detail": {"steps": steps, "wrong": drill.wrong},
        "error": drill.error,
    })
}

/// Does a drill. An error that ends it, say that it is cancelled, is recorded as what came of it, and goes on; else it is left
/// to the caller to record what is returned, before the note is dropped; where that fails, the note is recorded.
fn carry_out(wanted: &Wanted, stores: Stores) -> (Drill, Option<Note>) {
    let cut_off = Drill {
        error: Some("it was cut off: its session or the server ended".to_owned()),
        ..Drill::default()
    };
    let note = Note::begin(&entry(&cut_off, wanted))
        .inspect_err(|e| log!("if this drill is cut off, it will not be recorded: {e}"))
        .ok();
    let mut drill = Drill::default();
    // The error is among the steps.
    let done = guard::caught(AssertUnwindSafe(|| {
        let _: Result<(), ()> = run(&mut drill, wanted, stores);
    }));
    let Err(failure) = done else {
        if let Some(bytes) = drill.restored_bytes {
            crate::jobs::note_done(0, bytes as i64);
        }
        if let Some(note) = &note {
            note.say(&entry(&drill, wanted));
        }
        return (drill, note);
    };
    drill.error = Some(format!("{}: {}", drill.at, failure.message));
    // All that ran and lay about for the drill has gone by now.
    if let Some(note) = note {
        note.leave(&entry(&drill, wanted));
    }
    guard::raise(&failure)
}

/// A moment that SQL gave. What is to come cannot be recovered to: there all that is archived is the most.
pub fn past(time: TimestampWithTimeZone) -> Option<Timestamp> {
    // SAFETY: a function of SQL is called in a transaction.
    if pg_sys::TimestampTz::from(time) >= unsafe { pg_sys::GetCurrentTransactionStartTimestamp() } {
        return None;
    }
    let text = time.to_iso_string_with_timezone("UTC");
    let parsed = text.map_err(|e| e.to_string()).and_then(|t| t.parse());
    let moment = parsed.unwrap_or_else(|why: String| {
        crate::am::error::raise(
            PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            format!("no such moment can be recovered to: {why}"),
            None,
            Some("Leave it out to recover all that is archived.".into()),
        )
    });
    Some(moment)
}

/// A time that passed, as SQL has it.
pub fn interval(elapsed: Duration) -> Option<Interval> {
    Interval::new(0, 0, i64::try_from(elapsed.as_micros()).ok()?).ok()
}

/// One row for each step, and one for the whole.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn recovery_drill(
    backup: Option<&str>,
    target_time: Option<TimestampWithTimeZone>,
) -> TableIterator<
    'static,
    (
        name!(step, &'static str),
        name!(ok, Option<bool>),
        name!(detail, String),
        name!(elapsed, Option<Interval>),
    ),
> {
    crate::tier::check_writable(c"varve.recovery_drill()");
    let wanted = Wanted::now(backup.map(str::to_owned), target_time);
    let begun = Instant::now();
    let (drill, note) = carry_out(&wanted, Stores::usable());
    drill_log::insert(&entry(&drill, &wanted));
    drop(note);
    let (ok, told) = (drill.ok(), drill.told());
    let mut rows: Vec<_> = drill
        .steps
        .into_iter()
        .map(|step| (step.name, step.ok, step.detail, interval(step.elapsed)))
        .collect();
    rows.push(("result", Some(ok), told, interval(begun.elapsed())));
    TableIterator::new(rows)
}

/// A drill that fails, once it is recorded, where something was wrong. It is in a transaction without a snapshot, so that VACUUM
/// is not held up for as long as it takes: it ends the transaction that it is called in.
fn procedure(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.run_recovery_drill()");
    let wanted = Wanted::now(args.get(0), args.get(1));
    let stores = Stores::usable();
    transaction::begin_anew(args);
    transaction::release_snapshot();
    let (drill, note) = carry_out(&wanted, stores);
    transaction::with_snapshot(|| drill_log::insert(&entry(&drill, &wanted)));
    transaction::begin_anew(args);
    drop(note);
    if !drill.ok() {
        let bad = drill.steps.iter().find(|step| step.ok == Some(false));
        let problem = bad.map_or_else(|| drill.told(), |step| step.detail.clone());
        crate::am::error::raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("the recovery drill failed: {problem}"),
            None,
            Some("SELECT * FROM varve.drill ORDER BY id DESC tells more.".into()),
        );
    }
    args.null()
}

crate::sql_function!(
    varve_run_recovery_drill,
    pg_finfo_varve_run_recovery_drill,
    procedure
);
