//! The process that looks into a database, or runs one job.

use super::shared::{self, Report, Task, Ticket};
use super::{run, scout};
use crate::pg::{background, transaction};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// The worker's C symbol.
pub const FUNCTION: &str = "varve_worker_main";

/// Begins a worker; its argument is its ticket.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn varve_worker_main(argument: pg_sys::Datum) {
    background::accept_signals();
    let ticket = Ticket::from_datum(argument);
    let Some(assignment) = shared::attach(ticket) else {
        return;
    };
    // SAFETY: the callback is called once, before the process leaves shared memory, after its locks are given back.
    unsafe { pg_sys::before_shmem_exit(Some(on_exit), argument) };
    let role = match assignment.task {
        Task::Scout => pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID),
        Task::Due | Task::Asked => assignment.owner,
    };
    background::connect(assignment.database, role);
    if assignment.task == Task::Scout {
        scout::visit(ticket, assignment.job);
        return;
    }
    let installed = transaction::run(scout::is_installed);
    let later = if installed && !scout::is_restoring() {
        run::carry_out(ticket, &assignment)
    } else {
        None
    };
    let report =
        transaction::without_cancels(|| scout::report_if(transaction::run(scout::is_installed)));
    let mut put_off = Report { count: 0, ..report };
    for due in report.listed() {
        let mut due = *due;
        if let (Some(at), true) = (later, due.job == assignment.job) {
            due.at = due.at.max(at);
        }
        put_off.add(due);
    }
    shared::leave_report(ticket, put_off);
}

unsafe extern "C-unwind" fn on_exit(_code: std::ffi::c_int, argument: pg_sys::Datum) {
    shared::detach(Ticket::from_datum(argument));
}
