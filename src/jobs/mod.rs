//! Jobs: SQL that runs by itself, at the times of a schedule, in background workers.
//!
//! - [`launcher`]: the process that knows when what is due, and starts workers.
//! - [`worker`]: the process that runs one job; [`scout`]: what one looks for in a database.
//! - [`execute`]: a command, run as a client's; [`run`]: a run, from claim to [`record`].
//! - [`schedule`]: cron expressions and intervals.
//! - [`catalog`]: the tables `varve.job`, `job_state` and `job_run`.
//! - [`functions`]: `add_job` and its kin; [`dropping`]: databases that are dropped.
//! - [`shared`]: what processes tell each other.

mod catalog;
mod dropping;
mod execute;
mod functions;
mod launcher;
mod record;
mod run;
pub mod schedule;
mod scout;
mod shared;
mod worker;

pub use catalog::{NewJob, add, make_policy, policies_of, remove};
pub use dropping::before_utility;
pub use functions::{check_not_negative, check_owned, first_run, warn_without_workers};
pub use run::note_done;
pub use scout::{is_installed, is_restoring};
pub use shared::MOST_WORKERS;

/// Asks for shared memory and registers the launcher; called once from `_PG_init`.
pub fn init() {
    shared::init();
    launcher::register();
}

/// Forgets what the transaction that ends has begun.
pub fn at_end_of_transaction(committed: bool) {
    dropping::forget();
    launcher::at_end_of_transaction(committed);
}
