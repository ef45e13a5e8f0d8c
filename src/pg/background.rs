//! Background workers.

use super::ffi;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;
use std::time::Duration;

/// Registers a process that the server starts when it takes writes, and again when it has ended with an error.
pub fn register(name: &str, function: &str, restart: Duration) {
    BackgroundWorkerBuilder::new(name)
        .set_type(name)
        .set_library("varve")
        .set_function(function)
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(restart))
        .enable_spi_access()
        .load();
}

/// Starts a process that is not started again; false where the server has no place for it (`max_worker_processes`).
pub fn start(name: &str, typ: &str, function: &str, argument: pg_sys::Datum) -> bool {
    once(name, typ, function, argument).load_dynamic().is_ok()
}

/// Starts such a process and waits until it has ended; false where the server has no place for it, or ends itself.
pub fn run(name: &str, function: &str, argument: pg_sys::Datum) -> bool {
    // SAFETY: a variable of the process.
    let me = unsafe { pg_sys::MyProcPid };
    once(name, name, function, argument)
        .set_notify_pid(me)
        .load_dynamic()
        .is_ok_and(|worker| worker.wait_for_shutdown().is_ok())
}

/// A process that is not started again.
fn once(name: &str, typ: &str, function: &str, argument: pg_sys::Datum) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(typ)
        .set_library("varve")
        .set_function(function)
        .set_argument(Some(argument))
        .set_restart_time(None)
        .enable_spi_access()
}

/// Begins a process that works with databases: SIGTERM ends it at the next check for interrupts, SIGINT cancels its
/// statement, SIGHUP has it read the configuration.
pub fn accept_signals() {
    // SAFETY: handlers of the server's own, set before signals are let in.
    unsafe {
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(ffi::raw::die));
        pg_sys::pqsignal(
            pg_sys::SIGHUP as i32,
            Some(ffi::raw::SignalHandlerForConfigReload),
        );
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Reads the configuration anew where a signal has asked for it.
pub fn reload_configuration() {
    // SAFETY: as every process of the server does between its tasks.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Connects to a database as a role, whether it may log in or not.
pub fn connect(database: pg_sys::Oid, role: pg_sys::Oid) {
    // SAFETY: once in a process that has no connection yet; a failure ends the process.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            database,
            role,
            pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK,
        );
    }
}

/// Waits until somebody sets the process's latch, for a time at most, in milliseconds; ends with the postmaster.
pub fn wait(milliseconds: i64, event: u32) {
    // SAFETY: the process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            milliseconds as std::ffi::c_long,
            event,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// What a process waits for, as `pg_stat_activity` shows it.
pub fn wait_event(name: &std::ffi::CStr) -> u32 {
    // SAFETY: a NUL-terminated name; the same number for the same name.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}

/// What the process does, as `pg_stat_activity` shows it; nothing while idle.
pub fn report_activity(command: Option<&std::ffi::CStr>) {
    // SAFETY: NUL-terminated texts, which are copied.
    unsafe {
        match command {
            Some(command) => pg_sys::pgstat_report_activity(
                pg_sys::BackendState::STATE_RUNNING,
                command.as_ptr(),
            ),
            None => {
                pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null())
            }
        }
    }
}
