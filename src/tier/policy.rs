//! `varve.add_tiering_policy`: a job that brings chunks into denser tiers as they age. What it runs is in `sql/policy.sql`.

use super::{catalog, set_tier};
use crate::am::error::{null_argument, raise};
use crate::jobs::{self, NewJob};
use crate::pg::function::Args;
use crate::pg::owner::as_role;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi;
use crate::pg::zone::Zone;
use pgrx::pg_sys;
use pgrx::prelude::*;

const KIND: &str = "tiering";

/// The arguments that are ages, and what becomes of chunks that are as old.
const AGES: [(usize, &str); 4] = [
    (1, "warm_after"),
    (2, "cold_after"),
    (3, "archive_after"),
    (4, "drop_after"),
];

fn refuse(code: PgSqlErrorCode, message: String, hint: &str) -> ! {
    raise(code, message, None, Some(hint.into()))
}

/// Fails where an age cannot be one of the table's time, and tells the end of the ranges of chunks that have it: as a number
/// that grows with time.
fn limit(oid: pg_sys::Oid, age: &str, time_zone: &str) -> f64 {
    spi::read_one::<f64>(
        "SELECT coalesce(pg_catalog.date_part('epoch', l.at), l.at_integer::pg_catalog.float8) FROM varve.chunk_limit($1::pg_catalog.oid::pg_catalog.regclass, $2, $3) l",
        &[oid.into(), age.into(), time_zone.into()],
    )
    .unwrap_or(0.0)
}

fn add_tiering_policy(args: &Args) -> pg_sys::Datum {
    super::check_writable(c"varve.add_tiering_policy()");
    let oid = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the table"));
    set_tier::check_table(oid);
    let name = relation::qualified_name(oid);
    let invalid = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    let time_zone = args
        .get::<String>(7)
        .unwrap_or_else(|| Zone::of_session().name());
    let schedule = args
        .get::<String>(6)
        .unwrap_or_else(|| null_argument("the schedule"));
    let first_run = jobs::first_run(&schedule, &time_zone, None);
    let refreeze_at = args.get::<f64>(8).unwrap_or(0.05);
    if refreeze_at.is_nan() || refreeze_at <= 0.0 {
        refuse(
            invalid,
            "refreeze_at must be positive".into(),
            "Give the share of a chunk's rows in the delta from which on it is frozen anew, such as 0.05.",
        );
    }
    let ages: Vec<(&str, String)> = AGES
        .iter()
        .filter_map(|(index, what)| Some((*what, args.text(*index)?)))
        .collect();
    let of = |what: &str| ages.iter().find(|a| a.0 == what).map(|a| a.1.as_str());
    if of("archive_after").is_some() || args.get::<String>(5).is_some() {
        refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "chunks cannot be archived yet".into(),
            "Leave archive_after and archive_to out.",
        );
    }
    if ages.is_empty() {
        refuse(
            invalid,
            "the policy would do nothing".into(),
            "Give at least one of warm_after, cold_after and drop_after.",
        );
    }
    let owner = {
        let table = OpenRel::table(oid, pg_sys::AccessShareLock);
        relation::form(table.as_ptr()).relowner
    };
    let mut before: Option<(&str, f64)> = None;
    for (what, age) in &ages {
        // The table's owner chooses the function that tells an integer time now.
        let at = as_role(owner, || limit(oid, age, &time_zone));
        if let Some((sooner, limit)) = before
            && at >= limit
        {
            refuse(
                invalid,
                format!("{what} must be longer than {sooner}"),
                "Chunks go from hot to warm to cold, and are dropped last.",
            );
        }
        before = Some((what, at));
    }
    if (of("warm_after").is_some() || of("cold_after").is_some()) && !catalog::is_managed(oid) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{name} is not under varve's care"),
            "SELECT varve.enable(...) says in which order its rows are frozen.",
        );
    }
    if !jobs::policies_of(KIND, Some(oid)).is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("{name} has a tiering policy already"),
            "Remove it first: SELECT varve.remove_tiering_policy(...).",
        );
    }
    let mut settings: serde_json::Map<String, serde_json::Value> = ages
        .iter()
        .map(|(what, age)| (what.to_string(), age.as_str().into()))
        .collect();
    settings.insert("refreeze_at".into(), refreeze_at.into());
    let none = pg_sys::Interval::default();
    let backoff = pg_sys::Interval {
        time: 30_000_000,
        ..none
    };
    let interval =
        |i: &pg_sys::Interval| Some(pg_sys::Datum::from(std::ptr::from_ref(i).cast_mut()));
    let id = jobs::add(&NewJob {
        name: &format!("tiering of {name}"),
        owner,
        schedule: &schedule,
        time_zone: &time_zone,
        command: "CALL varve.run_tiering_policy({job})",
        enabled: true,
        timeout: None,
        retries: 3,
        backoff: interval(&backoff),
        jitter: interval(&none),
        first_run,
    });
    let settings = serde_json::Value::Object(settings).to_string();
    jobs::make_policy(id, KIND, Some(oid), &settings);
    jobs::warn_without_workers();
    pg_sys::Datum::from(id)
}

fn remove_tiering_policy(args: &Args) -> pg_sys::Datum {
    super::check_writable(c"varve.remove_tiering_policy()");
    let oid = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the table"));
    set_tier::check_table(oid);
    let found = jobs::policies_of(KIND, Some(oid));
    if found.is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("{} has no tiering policy", relation::qualified_name(oid)),
            "SELECT subject FROM varve.jobs WHERE kind = 'tiering' lists the tables that have one.",
        );
    }
    found.into_iter().for_each(jobs::remove);
    args.null()
}

crate::sql_function!(
    varve_add_tiering_policy,
    pg_finfo_varve_add_tiering_policy,
    add_tiering_policy
);
crate::sql_function!(
    varve_remove_tiering_policy,
    pg_finfo_varve_remove_tiering_policy,
    remove_tiering_policy
);
