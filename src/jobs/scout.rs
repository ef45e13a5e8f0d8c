//! What a worker looks for in a database: whether it has the extension, what was cut off, what is due next.

use super::shared::{self, Report};
use super::{catalog, run};
use crate::am::retained;
use crate::backup::{destination, drill_log};
use crate::pg::{clock, transaction};
use crate::settings;
use pgrx::pg_sys;

/// How long a scout waits for a lock, in milliseconds: one looks after all databases.
const PATIENCE: i32 = 1000;

/// Looks, and leaves a report; none, where somebody has locked what it looks at. `stuck` is a job whose process has ended
/// again and again before it had begun, or 0.
pub fn visit(ticket: shared::Ticket, stuck: i64) {
    let look = || {
        let installed = transaction::run_within(PATIENCE, || {
            let installed = is_installed();
            if installed && !is_restoring() {
                if stuck != 0 {
                    run::fail_to_start(stuck);
                }
                put_in_order();
                destination::publish();
            }
            if !installed {
                destination::withdraw();
            }
            installed
        });
        (installed, report_if(installed))
    };
    match transaction::attempt(look) {
        Ok((installed, report)) => {
            shared::leave_report(ticket, report);
            if installed && !is_restoring() {
                clean_up();
            }
        }
        Err(failure) => pgrx::log!("varve could not look what is due: {}", failure.message),
    }
    drill_log::gather();
}

/// Drops what nobody needs any more.
fn clean_up() {
    let sweep = || while !transaction::run_within(PATIENCE, retained::sweep) {};
    if let Err(failure) = transaction::attempt(sweep) {
        pgrx::log!(
            "varve could not drop segments that no checkpoint needs: {}",
            failure.message
        );
    }
}

/// What is due, in a database with the extension; nothing while it is being restored.
pub fn report_if(installed: bool) -> Report {
    if installed && !is_restoring() {
        transaction::run(catalog::report)
    } else {
        Report::new(installed)
    }
}

/// Whether TimescaleDB was told (`timescaledb_pre_restore`) that a dump is being restored.
pub fn is_restoring() -> bool {
    // SAFETY: a setting by its name, which may not exist.
    unsafe {
        let value = pg_sys::GetConfigOption(c"timescaledb.restoring".as_ptr(), true, false);
        !value.is_null() && std::ffi::CStr::from_ptr(value).to_bytes() == b"on"
    }
}

/// Whether the database has the extension, with the tables of jobs.
pub fn is_installed() -> bool {
    // SAFETY: syscache look-ups.
    unsafe {
        if pg_sys::get_extension_oid(c"varve".as_ptr(), true) == pg_sys::InvalidOid {
            return false;
        }
        let schema = pg_sys::get_namespace_oid(c"varve".as_ptr(), true);
        schema != pg_sys::InvalidOid && crate::pg::relation::lookup("job_run", schema).is_some()
    }
}

fn put_in_order() {
    // Runs first, then slots: who has begun since is not among the runs.
    let running = catalog::running();
    // SAFETY: reads a variable of the process.
    let alive = shared::jobs_inside(unsafe { pg_sys::MyDatabaseId });
    for cut_off in running.iter().filter(|r| !alive.contains(&r.job)) {
        run::record_interruption(cut_off);
    }
    let now = clock::now();
    for job in catalog::without_state() {
        let next = if job.first_run > now {
            job.first_run
        } else {
            run::next_run(&job, now)
        };
        catalog::add_state(job.id, next);
    }
    for job in catalog::due_without_owner() {
        run::fail_without_owner(job);
    }
    catalog::prune(settings::job_history_days());
}
