//! `varve.add_backup_policy`: jobs that take, copy, expire, verify and rehearse backups. What they run is in
//! `sql/backup_policy.sql`.

use super::turn::{self, Turn};
use super::{destination, take};
use crate::am::error::{null_argument, raise};
use crate::jobs::{self, NewJob};
use crate::pg::function::Args;
use crate::pg::zone::Zone;
use pgrx::pg_sys;
use pgrx::prelude::*;

const KIND: &str = "backup";

/// The arguments that are schedules, in the order in which their jobs are made: the task, what the job is called, and how
/// often it is tried again.
const TASKS: [(usize, &str, &str, i32); 7] = [
    (0, "full", "full backup", 3),
    (1, "differential", "differential backup", 3),
    (2, "incremental", "incremental backup", 3),
    (5, "copy", "copies of backups", 0),
    (6, "verify", "verification of backups", 0),
    (7, "drill", "recovery drill", 0),
    (8, "watch", "watch over backups", 0),
];

fn refuse(code: PgSqlErrorCode, message: &str, hint: &str) -> ! {
    raise(code, message.into(), None, Some(hint.into()))
}

fn add_backup_policy(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.add_backup_policy()");
    let invalid = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    if args.get::<String>(0).is_none() {
        null_argument("the schedule of full backups");
    }
    let keep_full = args.get::<i32>(3);
    if keep_full.is_some_and(|n| n < 1) {
        refuse(
            invalid,
            "keep_full must be positive",
            "Give the number of full backups to keep, or leave it out to keep all.",
        );
    }
    let keep_for = args.text(4);
    jobs::check_not_negative(args, 4, "keep_for");
    let store = args.name(9);
    let time_zone = args
        .get::<String>(10)
        .unwrap_or_else(|| Zone::of_session().name());
    turn::wait_for(Turn::Policy);
    if !jobs::policies_of(KIND, None).is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            "there is a backup policy already",
            "Remove it first: SELECT varve.remove_backup_policy().",
        );
    }
    // What runs as the caller must be his to run.
    let name = take::store_name(store.clone());
    crate::stores::open(&name);
    if let Some(archived_to) = destination::here()
        && archived_to != name
        && take::archiving()
    {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            &format!("WAL is archived into store {archived_to}, and not into {name}"),
            "Take backups into the store that has their WAL: the first one whose role is primary, by name, of a superuser's.",
        );
    }
    // SAFETY: reads a variable of the session.
    let owner = unsafe { pg_sys::GetUserId() };
    let mut ids: Vec<i64> = Vec::new();
    for (index, task, what, retries) in TASKS {
        let Some(schedule) = args.get::<String>(index) else {
            continue;
        };
        let first_run = jobs::first_run(&schedule, &time_zone, None);
        let none = pg_sys::Interval::default();
        let backoff = pg_sys::Interval {
            time: 60_000_000,
            ..none
        };
        let interval =
            |i: &pg_sys::Interval| Some(pg_sys::Datum::from(std::ptr::from_ref(i).cast_mut()));
        let id = jobs::add(&NewJob {
            name: what,
            owner,
            schedule: &schedule,
            time_zone: &time_zone,
            command: "CALL varve.run_backup_policy({job})",
            enabled: true,
            timeout: None,
            retries,
            backoff: interval(&backoff),
            jitter: interval(&none),
            first_run,
        });
        let settings = serde_json::json!({
            "task": task,
            "store": store,
            "keep_full": keep_full,
            "keep_for": keep_for,
        });
        jobs::make_policy(id, KIND, None, &settings.to_string());
        ids.push(id);
    }
    jobs::warn_without_workers();
    ids.into_datum().unwrap_or_else(|| args.null())
}

fn remove_backup_policy(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.remove_backup_policy()");
    let found = jobs::policies_of(KIND, None);
    if found.is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "there is no backup policy",
            "SELECT varve.add_backup_policy(...) makes one.",
        );
    }
    for id in found {
        jobs::check_owned(id);
        jobs::remove(id);
    }
    args.null()
}

crate::sql_function!(
    varve_add_backup_policy,
    pg_finfo_varve_add_backup_policy,
    add_backup_policy
);
crate::sql_function!(
    varve_remove_backup_policy,
    pg_finfo_varve_remove_backup_policy,
    remove_backup_policy
);
