//! Typed access to the tables `varve.job`, `job_state` and `job_run`.
//!
//! Everything here runs as the owner of the tables, who is the bootstrap superuser; the caller's rights are checked before.

use super::run::Outcome;
use super::shared::{Due, LISTED, Report};
use crate::pg::owner::as_owner;
use crate::pg::spi::{read_all, write, write_all};
use crate::pg::transaction::Failure;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::{Result, SpiHeapTupleData};

/// What a job is.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The role that it runs as.
    pub owner: pg_sys::Oid,
    /// Its schedule, as it was given.
    pub schedule: String,
    /// The time zone of the schedule.
    pub time_zone: String,
    /// What it runs.
    pub command: String,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// The longest time that a run may take, in microseconds.
    pub timeout: Option<i64>,
    /// How often a run that failed is tried again.
    pub retries: i32,
    /// How long the first retry waits, in microseconds; each other one waits twice as long.
    pub backoff: i64,
    /// Runs begin up to so many microseconds late, by chance.
    pub jitter: i64,
    /// When it was due first.
    pub first_run: pg_sys::TimestampTz,
}

/// The columns of a definition, in the order in which [`definition`] reads them.
macro_rules! columns {
    () => {
        "j.id, j.name, j.owner::pg_catalog.oid, j.schedule, j.time_zone, j.command, j.enabled, \
         (extract(epoch FROM j.timeout) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, j.retries, \
         (extract(epoch FROM j.backoff) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, \
         (extract(epoch FROM j.jitter) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, j.first_run"
    };
}

/// How many columns that are.
const COLUMNS: usize = 12;

fn definition(tuple: &SpiHeapTupleData) -> Result<Definition> {
    Ok(Definition {
        id: value(tuple, 1)?,
        name: value(tuple, 2)?,
        owner: tuple.get(3)?.unwrap_or(pg_sys::InvalidOid),
        schedule: value(tuple, 4)?,
        time_zone: value(tuple, 5)?,
        command: value(tuple, 6)?,
        enabled: value(tuple, 7)?,
        timeout: tuple.get(8)?,
        retries: value(tuple, 9)?,
        backoff: value(tuple, 10)?,
        jitter: value(tuple, 11)?,
        first_run: time(tuple, 12)?.unwrap_or(0),
    })
}

fn value<T: FromDatum + IntoDatum + Default>(tuple: &SpiHeapTupleData, column: usize) -> Result<T> {
    Ok(tuple.get(column)?.unwrap_or_default())
}

fn time(tuple: &SpiHeapTupleData, column: usize) -> Result<Option<pg_sys::TimestampTz>> {
    let time: Option<TimestampWithTimeZone> = tuple.get(column)?;
    Ok(time.map(Into::into))
}

/// A time as a parameter of a statement.
fn at<'a>(time: pg_sys::TimestampTz) -> DatumWithOid<'a> {
    // SAFETY: a timestamp is its number of microseconds.
    unsafe { DatumWithOid::new(time, pg_sys::TIMESTAMPTZOID) }
}

fn maybe_at<'a>(time: Option<pg_sys::TimestampTz>) -> DatumWithOid<'a> {
    match time {
        Some(time) => at(time),
        None => DatumWithOid::null_oid(pg_sys::TIMESTAMPTZOID),
    }
}

/// A job by its number.
pub fn get(id: i64) -> Option<Definition> {
    as_owner(|| {
        read_all(
            concat!(
                "SELECT ",
                columns!(),
                " FROM varve.job j WHERE j.id OPERATOR(pg_catalog.=) $1"
            ),
            &[id.into()],
            |tuple| definition(&tuple).map(Some),
        )
    })
    .pop()
}

/// When a job is due, and how its run has gone so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When its schedule has it run next.
    pub next_run: pg_sys::TimestampTz,
    /// When a run that failed is tried again.
    pub retry_at: Option<pg_sys::TimestampTz>,
    /// When that run was due.
    pub retry_due: Option<pg_sys::TimestampTz>,
    /// Which try of it is the next one, from 1.
    pub attempt: i32,
    /// How many of its tries were cut off.
    pub interruptions: i32,
    /// The error that the log has of it.
    pub logged_error: Option<String>,
    /// When it was logged.
    pub logged_at: Option<pg_sys::TimestampTz>,
}

impl State {
    /// What was to be tried again is not.
    pub fn forget_retry(&mut self) {
        self.retry_at = None;
        self.retry_due = None;
        self.attempt = 1;
        self.interruptions = 0;
    }
}

/// The query of a job and its state.
macro_rules! with_state {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            ", s.next_run, s.retry_at, s.retry_due, s.attempt, s.interruptions, s.logged_error, s.logged_at \
             FROM varve.job j JOIN varve.job_state s ON s.job OPERATOR(pg_catalog.=) j.id \
             WHERE j.id OPERATOR(pg_catalog.=) $1"
        )
    };
}

/// A job and its state, locked to the end of the transaction; `None` where there is no such job, or somebody has it locked.
pub fn lock(id: i64) -> Option<(Definition, State)> {
    locked(concat!(with_state!(), " FOR UPDATE SKIP LOCKED"), id)
}

/// As [`lock`], and waits for who has it locked.
pub fn wait_and_lock(id: i64) -> Option<(Definition, State)> {
    locked(concat!(with_state!(), " FOR UPDATE"), id)
}

fn locked(query: &str, id: i64) -> Option<(Definition, State)> {
    as_owner(|| {
        write_all(query, &[id.into()], |tuple| {
            let state = State {
                next_run: time(&tuple, COLUMNS + 1)?.unwrap_or(i64::MAX),
                retry_at: time(&tuple, COLUMNS + 2)?,
                retry_due: time(&tuple, COLUMNS + 3)?,
                attempt: value(&tuple, COLUMNS + 4)?,
                interruptions: value(&tuple, COLUMNS + 5)?,
                logged_error: tuple.get(COLUMNS + 6)?,
                logged_at: time(&tuple, COLUMNS + 7)?,
            };
            Ok((definition(&tuple)?, state))
        })
    })
    .pop()
}

/// Jobs that have no state yet: new ones, and those of a restored dump.
pub fn without_state() -> Vec<Definition> {
    as_owner(|| {
        read_all(
            concat!(
                "SELECT ",
                columns!(),
                " FROM varve.job j WHERE NOT EXISTS (SELECT FROM varve.job_state s WHERE s.job OPERATOR(pg_catalog.=) j.id)"
            ),
            &[],
            |tuple| definition(&tuple).map(Some),
        )
    })
}

/// Jobs that are due and whose owner is no more.
pub fn due_without_owner() -> Vec<i64> {
    as_owner(|| {
        read_all(
            "SELECT j.id FROM varve.job j JOIN varve.job_state s ON s.job OPERATOR(pg_catalog.=) j.id \
             WHERE j.enabled AND least(s.next_run, s.retry_at) OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() \
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_authid a WHERE a.oid OPERATOR(pg_catalog.=) j.owner::pg_catalog.oid)",
            &[],
            |tuple| tuple.get(1),
        )
    })
}

/// Takes a job out of the schedule whose owner is no more, and forgets which he was: the number may be another role's one day.
pub fn disown(job: i64) {
    as_owner(|| {
        write(
            "UPDATE varve.job SET enabled = false, owner = 0 WHERE id OPERATOR(pg_catalog.=) $1",
            &[job.into()],
        );
    });
}

/// Records a job's state.
pub fn set_state(job: i64, state: &State) {
    as_owner(|| {
        write(
            "INSERT INTO varve.job_state (job, next_run, retry_at, retry_due, attempt, interruptions, logged_error, logged_at) \
             SELECT j.id, $2, $3, $4, $5, $6, $7, $8 FROM varve.job j WHERE j.id OPERATOR(pg_catalog.=) $1 \
             ON CONFLICT (job) DO UPDATE SET next_run = excluded.next_run, retry_at = excluded.retry_at, \
             retry_due = excluded.retry_due, attempt = excluded.attempt, interruptions = excluded.interruptions, \
             logged_error = excluded.logged_error, logged_at = excluded.logged_at",
            &[
                job.into(),
                at(state.next_run),
                maybe_at(state.retry_at),
                maybe_at(state.retry_due),
                state.attempt.into(),
                state.interruptions.into(),
                state.logged_error.clone().into(),
                maybe_at(state.logged_at),
            ],
        );
    });
}

/// Records the state of a job that has none.
pub fn add_state(job: i64, next_run: pg_sys::TimestampTz) {
    as_owner(|| {
        write(
            "INSERT INTO varve.job_state (job, next_run) \
             SELECT j.id, $2 FROM varve.job j WHERE j.id OPERATOR(pg_catalog.=) $1 ON CONFLICT DO NOTHING",
            &[job.into(), at(next_run)],
        );
    });
}

/// Records that a run has begun; returns its number.
pub fn begin_run(job: &Definition, due: pg_sys::TimestampTz, attempt: i32) -> i64 {
    // SAFETY: reads a variable of the process.
    let pid = unsafe { pg_sys::MyProcPid };
    as_owner(|| {
        write_all(
            "INSERT INTO varve.job_run (job, job_name, owner, due, attempt, started_at, state, pid) \
             VALUES ($1, $2, $3, $4, $5, pg_catalog.clock_timestamp(), 'running', $6) RETURNING id",
            &[
                job.id.into(),
                job.name.clone().into(),
                job.owner.into(),
                at(due),
                attempt.into(),
                pid.into(),
            ],
            |tuple| value(&tuple, 1),
        )
    })
    .pop()
    .unwrap_or(0)
}

/// Records how a run has ended, unless somebody has done so; tells whether nobody had.
pub fn end_run(run: i64, outcome: &Outcome) -> bool {
    let nothing = Failure::default();
    let (rows, bytes) = outcome.done();
    let failure = outcome.failure();
    let said = failure.unwrap_or(&nothing);
    let written = as_owner(|| {
        write(
            "UPDATE varve.job_run SET state = $2, ended_at = pg_catalog.clock_timestamp(), rows = $3, bytes = $4, \
             sqlstate = $5, message = $6, detail = $7, hint = $8, context = $9 \
             WHERE id OPERATOR(pg_catalog.=) $1 AND state OPERATOR(pg_catalog.=) 'running'",
            &[
                run.into(),
                outcome.state().into(),
                rows.into(),
                bytes.into(),
                failure.map(|f| f.sqlstate.clone()).into(),
                failure.map(|f| f.message.clone()).into(),
                said.detail.clone().into(),
                said.hint.clone().into(),
                said.context.clone().into(),
            ],
        )
    });
    written > 0
}

/// A run that has begun.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its number.
    pub run: i64,
    /// The job's number.
    pub job: i64,
    /// When it was due.
    pub due: pg_sys::TimestampTz,
    /// Which try of it this is.
    pub attempt: i32,
}

/// Runs that have begun and not ended.
pub fn running() -> Vec<Running> {
    as_owner(|| {
        read_all(
            "SELECT id, job, due, attempt FROM varve.job_run WHERE ended_at IS NULL ORDER BY id",
            &[],
            |tuple| {
                Ok(Some(Running {
                    run: value(&tuple, 1)?,
                    job: value(&tuple, 2)?,
                    due: time(&tuple, 3)?.unwrap_or(0),
                    attempt: value(&tuple, 4)?,
                }))
            },
        )
    })
}

/// How a run ended: its state, and the error if it had one.
pub fn end_of(run: i64) -> Option<(String, Option<Failure>)> {
    as_owner(|| {
        read_all(
            "SELECT state, sqlstate, message, detail, hint, context FROM varve.job_run WHERE id OPERATOR(pg_catalog.=) $1",
            &[run.into()],
            |tuple| {
                let sqlstate: Option<String> = tuple.get(2)?;
                let failure = match sqlstate {
                    Some(sqlstate) => Some(Failure {
                        sqlstate,
                        message: value(&tuple, 3)?,
                        detail: tuple.get(4)?,
                        hint: tuple.get(5)?,
                        context: tuple.get(6)?,
                    }),
                    None => None,
                };
                Ok(Some((value::<String>(&tuple, 1)?, failure)))
            },
        )
    })
    .pop()
}

/// What is due next in this database.
pub fn report() -> Report {
    let mut report = Report::new(true);
    let found = as_owner(|| {
        read_all(
            "SELECT j.id, j.owner::pg_catalog.oid, least(s.next_run, s.retry_at) AS due \
             FROM varve.job j JOIN varve.job_state s ON s.job OPERATOR(pg_catalog.=) j.id \
             WHERE j.enabled ORDER BY due, j.id LIMIT $1",
            &[(LISTED as i64 + 1).into()],
            |tuple| {
                Ok(Some(Due {
                    job: value(&tuple, 1)?,
                    owner: tuple.get(2)?.unwrap_or(pg_sys::InvalidOid),
                    at: time(&tuple, 3)?.unwrap_or(i64::MAX),
                }))
            },
        )
    });
    found.into_iter().for_each(|due| report.add(due));
    report
}

/// Removes runs that ended longer ago than so many days.
pub fn prune(days: i32) {
    as_owner(|| {
        write(
            "DELETE FROM varve.job_run WHERE ended_at OPERATOR(pg_catalog.<) \
             (pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => $1))",
            &[days.into()],
        );
    });
}

/// A job to be.
pub struct NewJob<'a> {
    /// Its name.
    pub name: &'a str,
    /// The role that it runs as.
    pub owner: pg_sys::Oid,
    /// Its schedule.
    pub schedule: &'a str,
    /// The time zone of the schedule.
    pub time_zone: &'a str,
    /// What it runs.
    pub command: &'a str,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// The longest time that a run may take (an `interval`).
    pub timeout: Option<pg_sys::Datum>,
    /// How often a run that failed is tried again.
    pub retries: i32,
    /// How long the first retry waits (an `interval`).
    pub backoff: Option<pg_sys::Datum>,
    /// By how much runs may begin late (an `interval`).
    pub jitter: Option<pg_sys::Datum>,
    /// When it is due first.
    pub first_run: pg_sys::TimestampTz,
}

/// An interval as a parameter of a statement.
fn interval<'a>(value: Option<pg_sys::Datum>) -> DatumWithOid<'a> {
    match value {
        // SAFETY: an argument of that type, which outlives the statement.
        Some(datum) => unsafe { DatumWithOid::new(RawDatum(datum), pg_sys::INTERVALOID) },
        None => DatumWithOid::null_oid(pg_sys::INTERVALOID),
    }
}

/// A value that is passed on as it is.
struct RawDatum(pg_sys::Datum);

impl IntoDatum for RawDatum {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::INTERVALOID
    }
}

/// Adds a job, and returns its number. A name that is taken is a `unique_violation`.
pub fn add(job: &NewJob) -> i64 {
    as_owner(|| {
        write_all(
            "WITH j AS (INSERT INTO varve.job (name, owner, schedule, time_zone, command, enabled, timeout, retries, backoff, jitter, first_run) \
             VALUES ($1, $2::pg_catalog.oid::pg_catalog.regrole, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id, first_run) \
             INSERT INTO varve.job_state (job, next_run) SELECT id, first_run FROM j RETURNING job",
            &[
                job.name.into(),
                job.owner.into(),
                job.schedule.into(),
                job.time_zone.into(),
                job.command.into(),
                job.enabled.into(),
                interval(job.timeout),
                job.retries.into(),
                interval(job.backoff),
                interval(job.jitter),
                at(job.first_run),
            ],
            |tuple| value(&tuple, 1),
        )
    })
    .pop()
    .unwrap_or(0)
}

/// Makes a job a policy of varve's own: `kind` says which, `subject` is the table that it is of, if it is of one, and `{job}`
/// in its command becomes its number.
pub fn make_policy(id: i64, kind: &str, subject: Option<pg_sys::Oid>, settings: &str) {
    as_owner(|| {
        write(
            "UPDATE varve.job SET kind = $2, subject = $3::pg_catalog.oid::pg_catalog.regclass, settings = $4::pg_catalog.jsonb, \
             command = pg_catalog.replace(command, '{job}', id::pg_catalog.text) WHERE id OPERATOR(pg_catalog.=) $1",
            &[id.into(), kind.into(), subject.into(), settings.into()],
        );
    });
}

/// The policies of a kind that a table has, or the database where they are of no table.
pub fn policies_of(kind: &str, subject: Option<pg_sys::Oid>) -> Vec<i64> {
    as_owner(|| {
        read_all(
            "SELECT id FROM varve.job WHERE kind OPERATOR(pg_catalog.=) $1 AND subject::pg_catalog.oid IS NOT DISTINCT FROM $2 ORDER BY id",
            &[kind.into(), subject.into()],
            |tuple| tuple.get(1),
        )
    })
}

/// What is changed of a job; what is `None` stays.
pub struct Change<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// Its schedule.
    pub schedule: Option<&'a str>,
    /// The time zone of the schedule.
    pub time_zone: Option<&'a str>,
    /// What it runs.
    pub command: Option<&'a str>,
    /// Whether it runs by itself.
    pub enabled: Option<bool>,
    /// The longest time that a run may take (an `interval`); 0 for any.
    pub timeout: Option<pg_sys::Datum>,
    /// How often a run that failed is tried again.
    pub retries: Option<i32>,
    /// How long the first retry waits (an `interval`).
    pub backoff: Option<pg_sys::Datum>,
    /// By how much runs may begin late (an `interval`).
    pub jitter: Option<pg_sys::Datum>,
    /// From when on intervals are counted, and when it is due next.
    pub begin: Option<(pg_sys::TimestampTz, pg_sys::TimestampTz)>,
}

/// Changes a job; where it begins anew, what was to be tried again is not.
pub fn alter(id: i64, change: &Change) {
    as_owner(|| {
        write(
            "UPDATE varve.job SET name = coalesce($2, name), schedule = coalesce($3, schedule), \
             time_zone = coalesce($4, time_zone), command = coalesce($5, command), enabled = coalesce($6, enabled), \
             timeout = nullif(coalesce($7, timeout), '0'), retries = coalesce($8, retries), backoff = coalesce($9, backoff), \
             jitter = coalesce($10, jitter), first_run = coalesce($11, first_run) WHERE id OPERATOR(pg_catalog.=) $1",
            &[
                id.into(),
                change.name.into(),
                change.schedule.into(),
                change.time_zone.into(),
                change.command.into(),
                change.enabled.into(),
                interval(change.timeout),
                change.retries.into(),
                interval(change.backoff),
                interval(change.jitter),
                maybe_at(change.begin.map(|b| b.0)),
            ],
        );
        if let Some((_, next)) = change.begin {
            write(
                "UPDATE varve.job_state SET next_run = $2, retry_at = NULL, retry_due = NULL, attempt = 1, interruptions = 0 \
                 WHERE job OPERATOR(pg_catalog.=) $1",
                &[id.into(), at(next)],
            );
        }
    });
}

/// Removes a job.
pub fn remove(id: i64) {
    as_owner(|| {
        write(
            "DELETE FROM varve.job WHERE id OPERATOR(pg_catalog.=) $1",
            &[id.into()],
        );
    });
}
