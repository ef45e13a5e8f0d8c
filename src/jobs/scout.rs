//! What a worker looks for in a database: whether it has the extension, what was cut off, what is due next.

use super::shared::{self, Report};
use super::{catalog, run};
use crate::pg::{clock, transaction};
use crate::settings;
use pgrx::pg_sys;

/// Looks, and leaves a report.
pub fn visit(ticket: shared::Ticket) {
    let report = transaction::run(|| {
        if is_installed() {
            put_in_order();
            true
        } else {
            false
        }
    });
    let report = if report {
        transaction::run(catalog::report)
    } else {
        Report::new(false)
    };
    shared::leave_report(ticket, report);
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
