//! The process that knows what is due when, in all databases, and starts workers.
//!
//! It has no connection itself. A *scout* looks into a database when something may have changed in it, and each worker
//! leaves word of what is due next in its own; in between the launcher sleeps. What is longest overdue runs first.

use super::shared::{self, Assignment, Due, Refused, Task};
use super::worker;
use crate::backup::destination;
use crate::pg::relation::OpenRel;
use crate::pg::{background, catalog, clock, ffi, transaction};
use crate::settings;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

const SECOND: i64 = 1_000_000;
/// How often the list of databases is read.
const LISTING: i64 = 10 * SECOND;
/// How often a database with the extension is looked into, in case somebody's word was lost.
const ROUND: i64 = 300 * SECOND;
/// After so many processes in a row that ended before they had begun, the run of a job has failed.
const STUCK: u32 = 3;
/// How often it is logged that no process could be started.
const REMINDER: i64 = 600 * SECOND;

/// Registers the launcher; called once from `_PG_init`.
pub fn register() {
    if settings::max_workers() > 0 {
        background::register(
            "varve launcher",
            "varve_launcher_main",
            Duration::from_secs(1),
        );
    }
}

thread_local! {
    /// Whether jobs of this database have changed in the running transaction.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Has the launcher look into this database once the running transaction has committed.
pub fn on_commit() {
    CHANGED.set(true);
}

/// Tells the launcher what it is to be told.
pub fn at_end_of_transaction(committed: bool) {
    if CHANGED.replace(false) && committed {
        // SAFETY: reads a variable of the process.
        shared::wake(unsafe { pg_sys::MyDatabaseId });
    }
}

/// What the launcher knows of a database.
struct Database {
    /// When a scout is to look into it.
    look_at: Option<pg_sys::TimestampTz>,
    /// What is due in it, in order.
    due: Vec<Due>,
    /// Whether there is more than that.
    more: bool,
    /// When what is known was found.
    taken_at: pg_sys::TimestampTz,
    /// How many scouts in a row left no report.
    misses: u32,
    /// How often a job's process has ended before it had begun, and when it is tried again.
    stuck: HashMap<i64, (u32, pg_sys::TimestampTz)>,
}

/// Begins the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn varve_launcher_main(_argument: pg_sys::Datum) {
    // SAFETY: the process has no connection yet; its handlers are the server's own.
    unsafe {
        background::accept_signals();
        pg_sys::pqsignal(
            pg_sys::SIGTERM as i32,
            Some(ffi::raw::SignalHandlerForShutdownRequest),
        );
        pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::null());
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
    shared::launcher_starts();
    let event = background::wait_event(c"VarveLauncherMain");
    let mut launcher = Launcher::default();
    loop {
        // SAFETY: set by the handler of SIGTERM.
        if unsafe { pg_sys::ShutdownRequestPending } != 0 {
            // With an error code the server starts it again, unless it shuts down.
            // SAFETY: ends the process.
            unsafe { pg_sys::proc_exit(1) };
        }
        pgrx::check_for_interrupts!();
        background::reload_configuration();
        let wait = launcher.turn();
        background::wait(wait, event);
    }
}

unsafe extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    shared::launcher_ends();
}

#[derive(Default)]
struct Launcher {
    databases: HashMap<pg_sys::Oid, Database>,
    list_at: pg_sys::TimestampTz,
    /// When processes can be started again, after there was no place for one.
    start_at: pg_sys::TimestampTz,
    told_at: pg_sys::TimestampTz,
}

impl Launcher {
    /// Does what is to be done now; returns for how long there will be nothing, in milliseconds.
    fn turn(&mut self) -> i64 {
        let now = clock::now();
        let woken = shared::take_woken();
        if woken.all
            || now >= self.list_at
            || woken
                .databases
                .iter()
                .any(|d| !self.databases.contains_key(d))
        {
            self.list(now);
        }
        for (oid, database) in &mut self.databases {
            if woken.all || woken.databases.contains(oid) {
                database.look_at = Some(now);
            }
        }
        self.collect(now);
        if now >= self.start_at {
            self.send_scout(now);
            self.start_jobs(now);
        }
        self.pause(clock::now())
    }

    /// Reads which databases there are.
    fn list(&mut self, now: pg_sys::TimestampTz) {
        let found = databases();
        destination::keep_only(&found);
        self.databases.retain(|oid, _| found.contains(oid));
        for oid in found {
            self.databases.entry(oid).or_insert(Database {
                look_at: Some(now),
                due: Vec::new(),
                more: false,
                taken_at: 0,
                misses: 0,
                stuck: HashMap::new(),
            });
        }
        self.list_at = now + LISTING;
    }

    /// Takes in what workers have found.
    fn collect(&mut self, now: pg_sys::TimestampTz) {
        for ended in shared::collect(now) {
            let Some(database) = self.databases.get_mut(&ended.assignment.database) else {
                continue;
            };
            let scouting = ended.assignment.task == Task::Scout;
            let job = ended.assignment.job;
            let Some(report) = ended.report else {
                // It was cut off, or could not connect, or had to wait.
                let mut again = now + SECOND;
                if scouting {
                    again = now + (SECOND << database.misses.min(6));
                    database.misses += 1;
                } else if ended.run == 0 {
                    let stuck = database.stuck.entry(job).or_default();
                    stuck.0 += 1;
                    stuck.1 = now + (SECOND << stuck.0.min(9));
                }
                database.look_at = Some(database.look_at.map_or(again, |at| at.min(again)));
                continue;
            };
            if scouting {
                database.misses = 0;
                let next = report.installed.then_some(now + ROUND);
                // Word that has come since the scout was sent stays.
                database.look_at = match (database.look_at, next) {
                    (Some(at), Some(next)) => Some(at.min(next)),
                    (at, next) => at.or(next),
                };
            }
            // A scout has recorded that the job's process does not start.
            database.stuck.remove(&job);
            if report.taken_at < database.taken_at {
                continue;
            }
            database.taken_at = report.taken_at;
            database.due = report.listed().to_vec();
            database.more = report.more;
        }
    }

    fn send_scout(&mut self, now: pg_sys::TimestampTz) {
        let waiting = self
            .databases
            .iter_mut()
            .filter(|(_, d)| d.look_at.is_some_and(|at| at <= now))
            .min_by_key(|(_, d)| d.look_at);
        let Some((oid, database)) = waiting else {
            return;
        };
        let stuck = database.stuck.iter().find(|(_, s)| s.0 >= STUCK);
        let assignment = Assignment {
            task: Task::Scout,
            database: *oid,
            job: stuck.map_or(0, |(job, _)| *job),
            owner: pg_sys::InvalidOid,
        };
        match shared::reserve(assignment, 0) {
            Ok(ticket) => {
                if background::start(
                    "varve scout",
                    "varve scout",
                    worker::FUNCTION,
                    ticket.to_datum(),
                ) {
                    database.look_at = None;
                } else {
                    shared::give_back(ticket);
                    self.no_place(now);
                }
            }
            Err(Refused::Barred) => database.look_at = Some(now + SECOND),
            Err(Refused::Full | Refused::Running) => {}
        }
    }

    fn start_jobs(&mut self, now: pg_sys::TimestampTz) {
        let mut overdue: Vec<(pg_sys::Oid, Due)> = self
            .databases
            .iter()
            .flat_map(|(oid, d)| d.due.iter().map(|due| (*oid, *due)))
            .filter(|(oid, due)| due.at <= now && !self.is_stuck(*oid, due.job, now))
            .collect();
        overdue.sort_by_key(|(oid, due)| (due.at, oid.to_u32(), due.job));
        for (oid, due) in overdue {
            let assignment = Assignment {
                task: Task::Due,
                database: oid,
                job: due.job,
                owner: due.owner,
            };
            match shared::reserve(assignment, settings::max_workers()) {
                Ok(ticket) => {
                    let name = format!("varve job {}", due.job);
                    if !background::start(&name, "varve job", worker::FUNCTION, ticket.to_datum()) {
                        shared::give_back(ticket);
                        self.no_place(now);
                        return;
                    }
                    self.forget(oid, due.job, now);
                }
                // Its own worker leaves word when it is due again.
                Err(Refused::Running) => {}
                Err(Refused::Full) => return,
                Err(Refused::Barred) => {}
            }
        }
    }

    /// Whether a job's process has just ended before it had begun.
    fn is_stuck(&self, database: pg_sys::Oid, job: i64, now: pg_sys::TimestampTz) -> bool {
        let stuck = self
            .databases
            .get(&database)
            .and_then(|d| d.stuck.get(&job));
        stuck.is_some_and(|s| s.1 > now)
    }

    /// A job has been started: what was known of it is old. Where that was all that is known, the rest is looked for.
    fn forget(&mut self, database: pg_sys::Oid, job: i64, now: pg_sys::TimestampTz) {
        if let Some(database) = self.databases.get_mut(&database) {
            database.due.retain(|due| due.job != job);
            if database.due.is_empty() && database.more {
                database.look_at = Some(now);
            }
        }
    }

    fn no_place(&mut self, now: pg_sys::TimestampTz) {
        self.start_at = now + SECOND;
        if now >= self.told_at + REMINDER {
            self.told_at = now;
            pgrx::warning!(
                "varve: no process for a job that is due: all of max_worker_processes are in use; raise it, and restart the server"
            );
        }
    }

    /// Milliseconds until something is to be done.
    fn pause(&self, now: pg_sys::TimestampTz) -> i64 {
        let mut next = self.list_at;
        if self.start_at > now {
            next = next.min(self.start_at);
        } else {
            for database in self.databases.values() {
                // What is overdue waits for a slot, whose worker wakes us when it ends.
                let later = database
                    .due
                    .iter()
                    .map(|d| d.at)
                    .filter(|at| *at > now)
                    .min();
                let look = database.look_at.filter(|at| *at > now);
                let stuck = database
                    .stuck
                    .values()
                    .map(|s| s.1)
                    .filter(|at| *at > now)
                    .min();
                for at in later.into_iter().chain(look).chain(stuck) {
                    next = next.min(at);
                }
            }
        }
        ((next - now) / 1000 + 1).clamp(1, 60_000)
    }
}

/// Databases that take connections, templates left out.
fn databases() -> Vec<pg_sys::Oid> {
    transaction::run(|| {
        let mut found = Vec::new();
        let table = OpenRel::table(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock);
        catalog::each(&table, |row| {
            // SAFETY: a row of pg_database.
            let form = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_database>() };
            if form.datallowconn && !form.datistemplate && form.datconnlimit != -2 {
                found.push(form.oid);
            }
        });
        found
    })
}
