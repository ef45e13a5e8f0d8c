//! `varve.add_job`, `alter_job`, `remove_job`, `run_job`.

use super::catalog::{self, Change, Definition, NewJob};
use super::schedule::Schedule;
use super::shared::{self, Assignment, Refused, Task};
use super::{launcher, run, worker};
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::pg::transaction::Failure;
use crate::pg::zone::Zone;
use crate::pg::{background, clock, guard, snapshot};
use crate::{settings, tier};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CString;

fn invalid(message: String, detail: Option<String>, hint: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    raise(code, message, detail, Some(hint.into()))
}

/// A schedule and its time zone, or an error that says what is wrong with them.
fn read_schedule(schedule: &str, time_zone: &str) -> (Schedule, Zone) {
    let zone = Zone::named(time_zone).unwrap_or_else(|| {
        invalid(
            format!("time zone \"{time_zone}\" not recognized"),
            None,
            "SELECT name FROM pg_timezone_names lists those that are known.",
        )
    });
    let schedule = Schedule::parse(schedule).unwrap_or_else(|why| {
        invalid(
            format!("invalid schedule: \"{schedule}\""),
            Some(why),
            "Write an interval ('15 minutes'), or a cron expression of five fields, or of six with seconds first ('0 3 * * *').",
        )
    });
    (schedule, zone)
}

/// When a job is due first.
pub fn first_run(
    schedule: &str,
    time_zone: &str,
    given: Option<pg_sys::TimestampTz>,
) -> pg_sys::TimestampTz {
    let now = clock::now();
    let (parsed, zone) = read_schedule(schedule, time_zone);
    let first = given.or_else(|| parsed.next(zone, now, now));
    first.unwrap_or_else(|| {
        invalid(
            format!("schedule \"{schedule}\" never comes"),
            None,
            "No date in the years to come is like that.",
        )
    })
}

/// Fails with what is wrong with the syntax of a command.
fn check_command(command: &str) {
    let text = CString::new(command).unwrap_or_default();
    // SAFETY: a NUL-terminated text; errors of the parser go on.
    let statements = unsafe { pg_sys::pg_parse_query(text.as_ptr()) };
    if statements.is_null() {
        invalid(
            "the command is empty".into(),
            None,
            "Give an SQL statement, or several with semicolons between them.",
        );
    }
}

/// Raises an error where an argument that is an interval is negative, or longer than a century.
pub fn check_not_negative(args: &Args, index: usize, what: &str) {
    let Some(datum) = args.datum(index) else {
        return;
    };
    // SAFETY: an argument that is declared as an interval.
    let interval = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
    let centuries = interval.month > 1_200
        || interval.day > 36_525
        || interval.time > 36_525 * 86_400 * 1_000_000;
    if interval.month < 0 || interval.day < 0 || interval.time < 0 || centuries {
        invalid(
            format!("{what} must not be negative, nor longer than a century"),
            None,
            "Give an interval such as '30 seconds'.",
        );
    }
}

fn check_retries(retries: i32) {
    if retries < 0 {
        invalid(
            "retries must not be negative".into(),
            None,
            "Give 0 for a job that is not tried again before it is due again.",
        );
    }
}

fn check_name(name: &str) {
    if name.trim().is_empty() {
        invalid(
            "the job's name is empty".into(),
            None,
            "Give it a name, by which it is known in varve.jobs and in the log.",
        );
    }
}

fn time(args: &Args, index: usize) -> Option<pg_sys::TimestampTz> {
    args.get::<TimestampWithTimeZone>(index).map(Into::into)
}

fn add_job(args: &Args) -> pg_sys::Datum {
    tier::check_writable(c"varve.add_job()");
    let text = |index, what: &str| {
        args.get::<String>(index)
            .unwrap_or_else(|| null_argument(what))
    };
    let name = text(0, "the job's name");
    let schedule = text(1, "the schedule");
    let command = text(2, "the command");
    let time_zone = args
        .get::<String>(3)
        .unwrap_or_else(|| Zone::of_session().name());
    let retries = args.get::<i32>(6).unwrap_or(3);
    check_name(&name);
    check_retries(retries);
    check_not_negative(args, 5, "the time-out");
    check_not_negative(args, 7, "the backoff");
    check_not_negative(args, 8, "the jitter");
    check_command(&command);
    let none = pg_sys::Interval::default();
    let some = |index: usize| {
        args.datum(index)
            .unwrap_or(pg_sys::Datum::from(std::ptr::from_ref(&none).cast_mut()))
    };
    let id = catalog::add(&NewJob {
        name: &name,
        // SAFETY: the current user.
        owner: unsafe { pg_sys::GetUserId() },
        schedule: &schedule,
        time_zone: &time_zone,
        command: &command,
        enabled: args.get::<bool>(4).unwrap_or(true),
        timeout: args.datum(5),
        retries,
        backoff: Some(some(7)),
        jitter: Some(some(8)),
        first_run: first_run(&schedule, &time_zone, time(args, 9)),
    });
    warn_without_workers();
    pg_sys::Datum::from(id)
}

/// Says that nothing will run by itself, where the server is set up so.
pub fn warn_without_workers() {
    if settings::max_workers() == 0 {
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            "the job will not run by itself: varve.max_workers is 0"
        );
    }
}

fn owned(args: &Args) -> Definition {
    let id = args.get::<i64>(0);
    check_owned(id.unwrap_or_else(|| null_argument("the job's number")))
}

/// A job that the current user may change and run: his own, or one of a role that he is in.
pub fn check_owned(id: i64) -> Definition {
    let Some(job) = catalog::get(id) else {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("job {id} does not exist"),
            None,
            Some("SELECT id, name FROM varve.jobs lists the jobs.".into()),
        )
    };
    // SAFETY: a catalogue look-up.
    if !unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), job.owner) } {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for job {id}"),
            Some("It is another role's.".into()),
            Some("Its owner, members of that role and superusers may change and run it.".into()),
        );
    }
    job
}

fn alter_job(args: &Args) -> pg_sys::Datum {
    tier::check_writable(c"varve.alter_job()");
    let job = owned(args);
    let schedule = args.get::<String>(1);
    let command = args.get::<String>(2);
    let time_zone = args.get::<String>(3);
    let enabled = args.get::<bool>(4);
    let retries = args.get::<i32>(6);
    let first = time(args, 9);
    let name = args.get::<String>(10);
    if let Some(name) = &name {
        check_name(name);
    }
    if let Some(command) = &command {
        check_command(command);
    }
    check_retries(retries.unwrap_or(0));
    check_not_negative(args, 5, "the time-out");
    check_not_negative(args, 7, "the backoff");
    check_not_negative(args, 8, "the jitter");
    let begins_anew = schedule.is_some()
        || time_zone.is_some()
        || first.is_some()
        || (enabled == Some(true) && !job.enabled);
    let now = clock::now();
    let begin = begins_anew.then(|| {
        let schedule = schedule.as_ref().unwrap_or(&job.schedule);
        let time_zone = time_zone.as_ref().unwrap_or(&job.time_zone);
        let first = first_run(schedule, time_zone, first);
        // Intervals are counted from a time that is past, and what was due then has been.
        let (parsed, zone) = read_schedule(schedule, time_zone);
        // `now()` is due.
        // SAFETY: reads the clock of the transaction.
        let next = if first >= unsafe { pg_sys::GetCurrentTransactionStartTimestamp() } {
            Some(first)
        } else {
            parsed.next(zone, first, now)
        };
        (first, next.unwrap_or(i64::MAX))
    });
    catalog::alter(
        job.id,
        &Change {
            name: name.as_deref(),
            schedule: schedule.as_deref(),
            time_zone: time_zone.as_deref(),
            command: command.as_deref(),
            enabled,
            timeout: args.datum(5),
            retries,
            backoff: args.datum(7),
            jitter: args.datum(8),
            begin,
        },
    );
    args.null()
}

fn remove_job(args: &Args) -> pg_sys::Datum {
    tier::check_writable(c"varve.remove_job()");
    catalog::remove(owned(args).id);
    args.null()
}

fn run_job(args: &Args) -> pg_sys::Datum {
    tier::check_writable(c"varve.run_job()");
    let job = owned(args);
    if settings::max_workers() == 0 {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "jobs are switched off".into(),
            Some("varve.max_workers is 0.".into()),
            Some("Raise varve.max_workers and restart the server.".into()),
        );
    }
    let event = background::wait_event(c"VarveRunJob");
    let pause = || {
        pgrx::check_for_interrupts!();
        background::wait(20, event);
    };
    let assignment = Assignment {
        task: Task::Asked,
        // SAFETY: reads a variable of the process.
        database: unsafe { pg_sys::MyDatabaseId },
        job: job.id,
        owner: job.owner,
    };
    let ticket = loop {
        match shared::reserve(assignment, settings::max_workers()) {
            Ok(ticket) => break ticket,
            Err(Refused::Full) => pause(),
            Err(Refused::Running | Refused::Barred) => raise(
                PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                format!("job {} \"{}\" is running", job.id, job.name),
                None,
                Some("Wait for its end; SELECT * FROM varve.job_runs shows it.".into()),
            ),
        }
    };
    let process = format!("varve job {}", job.id);
    if !background::start(&process, "varve job", worker::FUNCTION, ticket.to_datum()) {
        shared::give_back(ticket);
        raise(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "no process for the job".into(),
            Some("All of max_worker_processes are in use.".into()),
            Some("Raise max_worker_processes, and restart the server.".into()),
        );
    }
    let number = loop {
        match shared::progress_of(ticket) {
            Some((0, false)) => pause(),
            Some((run, _)) if run != 0 => break run,
            _ => raise(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("job {} \"{}\" could not be started", job.id, job.name),
                None,
                Some("Commit the transaction that added or altered it first; the server's log may say more.".into()),
            ),
        }
    };
    if !args.get::<bool>(1).unwrap_or(true) {
        shared::look_away(ticket);
    } else {
        // A wait that a deadlock is noticed in, should the job want what we have locked.
        run::lock_of(job.id).acquire(pg_sys::ShareLock);
        run::lock_of(job.id).release(pg_sys::ShareLock);
        while shared::progress_of(ticket).is_some_and(|(_, ended)| !ended) {
            pause();
        }
        shared::look_away(ticket);
        let latest = snapshot::Registered::latest();
        // SAFETY: a registered snapshot, popped below; after an error the transaction's end pops it.
        unsafe { pg_sys::PushActiveSnapshot(latest.get()) };
        let end = catalog::end_of(number);
        // SAFETY: pushed above.
        unsafe { pg_sys::PopActiveSnapshot() };
        match end {
            Some((_, Some(failure))) => fail(&job, failure),
            Some((state, None)) if state == "running" => fail(
                &job,
                Failure {
                    sqlstate: "57P01".into(),
                    message: "the run was cut off".into(),
                    ..Failure::default()
                },
            ),
            _ => {}
        }
    }
    pg_sys::Datum::from(number)
}

/// Fails as a run did.
fn fail(job: &Definition, mut failure: Failure) -> ! {
    failure
        .detail
        .get_or_insert_with(|| format!("Job {} \"{}\" failed.", job.id, job.name));
    guard::raise(&failure)
}

fn note_job(args: &Args) -> pg_sys::Datum {
    let number = |index| args.get::<i64>(index).unwrap_or(0);
    run::note_done(number(0), number(1));
    args.null()
}

fn jobs_changed(_args: &Args) -> pg_sys::Datum {
    launcher::on_commit();
    pg_sys::Datum::null()
}

fn wake_launcher(args: &Args) -> pg_sys::Datum {
    launcher::on_commit();
    args.null()
}

crate::sql_function!(varve_add_job, pg_finfo_varve_add_job, add_job);
crate::sql_function!(varve_alter_job, pg_finfo_varve_alter_job, alter_job);
crate::sql_function!(varve_remove_job, pg_finfo_varve_remove_job, remove_job);
crate::sql_function!(varve_note_job, pg_finfo_varve_note_job, note_job);
crate::sql_function!(varve_run_job, pg_finfo_varve_run_job, run_job);
crate::sql_function!(
    varve_jobs_changed,
    pg_finfo_varve_jobs_changed,
    jobs_changed
);
crate::sql_function!(
    varve_wake_launcher,
    pg_finfo_varve_wake_launcher,
    wake_launcher
);
