//! One run of a job: claimed, carried out, recorded.
//!
//! The claim is committed before the command begins, and the record of success is part of the command's last transaction. So a
//! run is on record once, whatever happens; and where it was cut off, its last transaction is there with the record, or
//! neither is.

use super::catalog::{self, Definition, State};
use super::execute;
use super::schedule::Schedule;
use super::shared::{self, Assignment, Task, Ticket};
use crate::pg::lock::Tag;
use crate::pg::transaction::{self, Failure};
use crate::pg::zone::Zone;
use crate::pg::{background, clock};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CString;

/// What tells a run's lock from others of sessions.
const RUN_LOCK: u16 = 0x7661;
const SECOND: i64 = 1_000_000;
/// Retries wait no longer than this, unless the first one does.
const LONGEST_BACKOFF: i64 = 3600 * SECOND;
/// A run that was cut off more often than this counts as failed: it may be what brings the server down.
const MOST_INTERRUPTIONS: i32 = 5;
/// The log is reminded of an error that goes on as often as this.
const REMINDER: i64 = 3600 * SECOND;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was to do.
    Succeeded {
        /// Rows that it handed out or changed.
        rows: i64,
        /// Bytes that it wrote, where the command tells.
        bytes: Option<i64>,
    },
    /// It raised an error.
    Failed(Failure),
    /// Somebody cancelled it.
    Cancelled(Failure),
    /// Its process ended, or the server did.
    Interrupted(Failure),
}

impl Outcome {
    /// As `job_run.state`.
    pub fn state(&self) -> &'static str {
        match self {
            Outcome::Succeeded { .. } => "succeeded",
            Outcome::Failed(_) => "failed",
            Outcome::Cancelled(_) => "cancelled",
            Outcome::Interrupted(_) => "interrupted",
        }
    }

    /// Rows and bytes.
    pub fn done(&self) -> (Option<i64>, Option<i64>) {
        match self {
            Outcome::Succeeded { rows, bytes } => (Some(*rows), *bytes),
            _ => (None, None),
        }
    }

    /// The error.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Outcome::Succeeded { .. } => None,
            Outcome::Failed(f) | Outcome::Cancelled(f) | Outcome::Interrupted(f) => Some(f),
        }
    }
}

thread_local! {
    /// Rows and bytes that the running command tells of itself.
    static NOTED: Cell<Option<(i64, i64)>> = const { Cell::new(None) };
}

/// Adds to what the running job has done, in the place of what its statements count.
pub fn note_done(rows: i64, bytes: i64) {
    let (r, b) = NOTED.get().unwrap_or_default();
    NOTED.set(Some((r + rows, b + bytes)));
}

/// The lock that a job's run holds while it goes on.
pub fn lock_of(job: i64) -> Tag {
    Tag::of_session(RUN_LOCK, job)
}

/// Rows and bytes: those that the command told of, else the rows of its statements.
fn done(rows: u64) -> (i64, Option<i64>) {
    match NOTED.get() {
        Some((rows, bytes)) => (rows, Some(bytes)),
        None => (rows as i64, None),
    }
}

struct Claim {
    job: Definition,
    run: i64,
    due: pg_sys::TimestampTz,
    attempt: i32,
}

/// Runs a job, in a process that is connected as its owner. Returns when it is to be looked at again, where it could not be
/// claimed now.
pub fn carry_out(ticket: Ticket, assignment: &Assignment) -> Option<pg_sys::TimestampTz> {
    lock_of(assignment.job).try_acquire_for_session(pg_sys::ExclusiveLock);
    let claim = match transaction::run(|| claim(assignment)) {
        Claimed::Yes(claim) => claim,
        Claimed::Later(at) => return Some(at),
        Claimed::No => return None,
    };
    shared::tell_run(ticket, claim.run);
    let outcome = execute(&claim);
    // Who cancels now comes too late: the run has ended, and would be taken for one that was cut off.
    transaction::without_cancels(|| {
        transaction::run(|| catalog::end_run(claim.run, &outcome));
        if assignment.task == Task::Due {
            transaction::run(|| decide(&claim, &outcome));
        }
    });
    None
}

enum Claimed {
    Yes(Claim),
    /// Somebody is changing the job.
    Later(pg_sys::TimestampTz),
    No,
}

fn claim(assignment: &Assignment) -> Claimed {
    let now = clock::now();
    let Some((job, mut state)) = catalog::lock(assignment.job) else {
        return match catalog::get(assignment.job) {
            Some(_) => Claimed::Later(now + SECOND),
            None => Claimed::No,
        };
    };
    if job.owner != assignment.owner {
        return Claimed::No;
    }
    let (due, attempt) = if assignment.task == Task::Asked {
        (now, 1)
    } else if !job.enabled {
        return Claimed::No;
    } else if state.next_run <= now {
        let due = state.next_run;
        state.next_run = next_run(&job, now);
        state.forget_retry();
        catalog::set_state(job.id, &state);
        (due, 1)
    } else if let (Some(at), Some(due)) = (state.retry_at, state.retry_due)
        && at <= now
    {
        state.retry_at = None;
        catalog::set_state(job.id, &state);
        (due, state.attempt)
    } else {
        return Claimed::No;
    };
    let run = catalog::begin_run(&job, due, attempt);
    Claimed::Yes(Claim {
        job,
        run,
        due,
        attempt,
    })
}

/// When a job is due after `now`; never, where its schedule has no such time or cannot be read any more.
pub fn next_run(job: &Definition, now: pg_sys::TimestampTz) -> pg_sys::TimestampTz {
    let next = || {
        let zone = Zone::named(&job.time_zone)?;
        Schedule::parse(&job.schedule)
            .ok()?
            .next(zone, job.first_run, now)
    };
    match next() {
        Some(at) => at.saturating_add(by_chance(job.jitter)),
        None => i64::MAX,
    }
}

/// Up to so many microseconds.
pub fn by_chance(most: i64) -> i64 {
    // SAFETY: the process's own generator, which the server has seeded.
    let share = unsafe { pg_sys::pg_prng_double(&raw mut pg_sys::pg_global_prng_state) };
    (share * most.max(0) as f64) as i64
}

fn execute(claim: &Claim) -> Outcome {
    let command = CString::new(claim.job.command.as_str()).unwrap_or_default();
    let deadline = claim.job.timeout.map(|t| clock::now().saturating_add(t));
    background::report_activity(Some(&command));
    NOTED.set(None);
    let end = transaction::attempt(|| {
        let count = execute::run(&command, deadline, |rows| {
            let (rows, bytes) = done(rows);
            super::record::succeeded(claim.run, rows, bytes);
        });
        done(count)
    });
    background::report_activity(None);
    match end {
        Ok((rows, bytes)) => Outcome::Succeeded { rows, bytes },
        Err(mut failure) => {
            let passed = deadline.is_some_and(|at| clock::now() >= at);
            if failure.sqlstate == "57014" && passed {
                failure.message = "the job ran into its time-out".into();
                failure.hint = Some(format!(
                    "SELECT varve.alter_job({}, timeout => '...') gives it more time.",
                    claim.job.id
                ));
                Outcome::Failed(failure)
            } else if failure.sqlstate == "57014" && !execute::timed_out() {
                Outcome::Cancelled(failure)
            } else {
                Outcome::Failed(failure)
            }
        }
    }
}

/// Decides when the job is due again because of how its run ended, and whether the log has to know.
fn decide(claim: &Claim, outcome: &Outcome) {
    let Some((job, mut state)) = catalog::wait_and_lock(claim.job.id) else {
        return;
    };
    let now = clock::now();
    match outcome {
        Outcome::Succeeded { .. } | Outcome::Cancelled(_) => {
            // A schedule that was altered meanwhile has begun anew.
            if state.retry_due == Some(claim.due) {
                state.forget_retry();
            }
            state.logged_error = None;
        }
        Outcome::Failed(failure) => {
            if tell(&job, failure, &state, now) {
                state.logged_error = Some(said(failure));
                state.logged_at = Some(now);
            }
            try_again(&job, &mut state, claim.due, claim.attempt, now, false);
        }
        Outcome::Interrupted(_) => {
            try_again(&job, &mut state, claim.due, claim.attempt, now, true);
        }
    }
    catalog::set_state(job.id, &state);
}

/// Records that a run was cut off: its process is gone.
pub fn record_interruption(running: &catalog::Running) {
    let Some((job, mut state)) = catalog::lock(running.job) else {
        // Another look comes.
        if catalog::get(running.job).is_none() {
            catalog::end_run(running.run, &interrupted());
        }
        return;
    };
    if catalog::end_run(running.run, &interrupted()) {
        let now = clock::now();
        try_again(&job, &mut state, running.due, running.attempt, now, true);
        catalog::set_state(job.id, &state);
    }
}

fn interrupted() -> Outcome {
    Outcome::Interrupted(Failure {
        sqlstate: "57P01".into(),
        message: "the run was cut off".into(),
        detail: Some(
            "Its process was terminated, or the server was shut down or went down.".into(),
        ),
        hint: Some("It is made up for by itself.".into()),
        context: None,
    })
}

/// Fails the run of a job whose owner is no more, without a process, and takes the job out of the schedule.
pub fn fail_without_owner(id: i64) {
    let failed = fail_without_process(id, |job| Failure {
        sqlstate: "42704".into(),
        message: format!("role with OID {} does not exist", job.owner.to_u32()),
        detail: Some("It owned the job, which is switched off.".into()),
        hint: Some(format!(
            "SELECT varve.remove_job({}) removes the job.",
            job.id
        )),
        context: None,
    });
    if failed {
        catalog::disown(id);
    }
}

/// Fails the run of a job whose process has ended again and again before it had begun.
pub fn fail_to_start(id: i64) {
    fail_without_process(id, |_| Failure {
        sqlstate: "58000".into(),
        message: "the process for the run could not be started".into(),
        detail: Some("It was tried several times.".into()),
        hint: Some(
            "The server's log says why: the owner may not be allowed to connect to the database."
                .into(),
        ),
        context: None,
    });
}

/// Records a run that failed without a process; it is not tried again before it is due again. Tells whether there was one.
fn fail_without_process(id: i64, why: impl FnOnce(&Definition) -> Failure) -> bool {
    let Some((job, mut state)) = catalog::lock(id) else {
        return false;
    };
    let now = clock::now();
    let attempt = match state.retry_due {
        Some(_) => state.attempt,
        None => 1,
    };
    let due = state.retry_due.unwrap_or(state.next_run);
    if !job.enabled || due > now {
        return false;
    }
    let run = catalog::begin_run(&job, due, attempt);
    catalog::end_run(run, &Outcome::Failed(why(&job)));
    if state.next_run <= now {
        state.next_run = next_run(&job, now);
    }
    state.forget_retry();
    catalog::set_state(job.id, &state);
    true
}

/// Has a run tried again, where it may be and where that comes before the job is due anyway.
fn try_again(
    job: &Definition,
    state: &mut State,
    due: pg_sys::TimestampTz,
    attempt: i32,
    now: pg_sys::TimestampTz,
    interrupted: bool,
) {
    if interrupted {
        state.interruptions += 1;
    }
    let cut_off = interrupted && state.interruptions <= MOST_INTERRUPTIONS;
    let failures = (attempt - state.interruptions.min(MOST_INTERRUPTIONS)).max(1);
    let wait = if cut_off {
        // At once; later, where that has not helped.
        match state.interruptions {
            ..=1 => 0,
            n => (SECOND << (n - 2).min(20)).min(600 * SECOND),
        }
    } else {
        let doubled = job.backoff.saturating_mul(1 << (failures - 1).min(30));
        doubled.min(LONGEST_BACKOFF.max(job.backoff))
    };
    let at = now.saturating_add(wait);
    let may = cut_off || failures <= job.retries;
    if may && at < state.next_run {
        state.retry_at = Some(at);
        state.retry_due = Some(due);
        state.attempt = attempt + 1;
    } else {
        state.forget_retry();
    }
}

fn said(failure: &Failure) -> String {
    format!("{} {}", failure.sqlstate, failure.message)
}

/// Logs an error, unless the log has it of this job already, and not for long; tells whether it did.
fn tell(job: &Definition, failure: &Failure, state: &State, now: pg_sys::TimestampTz) -> bool {
    let known = state.logged_error.as_ref() == Some(&said(failure));
    if known && state.logged_at.is_some_and(|at| now - at < REMINDER) {
        return false;
    }
    pgrx::warning!(
        "job {} \"{}\" failed: {} (SQLSTATE {})",
        job.id,
        job.name,
        failure.message,
        failure.sqlstate
    );
    true
}
