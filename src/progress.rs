//! `varve.progress`: long work, as it goes, in shared memory for everybody to see.

use crate::pg::clock;
use pgrx::lwlock::PgLwLock;
use pgrx::pg_guard;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, pg_sys};
use std::cell::Cell;

/// How many pieces of work are shown at a time; others go on unseen.
const MOST: usize = 128;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A chunk is brought into a tier.
    Freeze,
    /// A chunk is brought back to heap.
    Thaw,
    /// Segments are read and compared with their sums.
    Verify,
    /// A base backup goes into a store.
    Backup,
    /// Backups and WAL go from one store to another.
    Copy,
    /// A table goes into a store.
    Snapshot,
    /// A table or chunk comes back from a snapshot.
    RestoreSnapshot,
    /// A backup is restored beside the running server, to see whether it can be.
    Drill,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Freeze => "freeze",
            Operation::Thaw => "thaw",
            Operation::Verify => "verify",
            Operation::Backup => "backup",
            Operation::Copy => "copy",
            Operation::Snapshot => "snapshot",
            Operation::RestoreSnapshot => "restore snapshot",
            Operation::Drill => "drill",
        }
    }
}

/// A part of some work, and in what it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Pages of the delta and of segments are read and sorted.
    Reading,
    /// Rows are encoded.
    Encoding,
    /// The lock is waited for, and storage exchanged.
    Exchanging,
    /// Segments are decoded.
    Decoding,
    /// The backup that another is based on is looked for.
    Preparing,
    /// The server makes a checkpoint.
    Checkpoint,
    /// Files come from the server.
    Files,
    /// Rows go into a store, or into a table.
    Rows,
    /// The last is written; the server may wait until WAL is archived.
    Finishing,
    /// Rows of all tables are counted.
    Counting,
    /// Files come from a store.
    Restoring,
    /// What was written is made to reach the disk.
    Syncing,
    /// A restored server starts, and replays WAL.
    Replaying,
    /// A restored server verifies the segments of its tables.
    Verifying,
}

impl Phase {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Phase::Reading => ("reading", "pages"),
            Phase::Encoding => ("encoding", "rows"),
            Phase::Exchanging => ("exchanging storage", "pages"),
            Phase::Decoding => ("decoding", "segments"),
            Phase::Preparing => ("preparing", "bytes"),
            Phase::Checkpoint => ("waiting for a checkpoint", "bytes"),
            Phase::Files => ("files", "bytes"),
            Phase::Rows => ("rows", "rows"),
            Phase::Finishing => ("finishing", "bytes"),
            Phase::Counting => ("counting", "tables"),
            Phase::Restoring => ("restoring", "bytes"),
            Phase::Syncing => ("syncing", "bytes"),
            Phase::Replaying => ("replaying", "bytes"),
            Phase::Verifying => ("verifying", "tables"),
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    pid: i32,
    database: pg_sys::Oid,
    role: pg_sys::Oid,
    relation: pg_sys::Oid,
    operation: Operation,
    phase: Phase,
    done: u64,
    total: u64,
    started_at: pg_sys::TimestampTz,
    phase_at: pg_sys::TimestampTz,
}

#[derive(Clone, Copy)]
struct Entries([Option<Entry>; MOST]);

impl Default for Entries {
    fn default() -> Self {
        Entries([None; MOST])
    }
}

// SAFETY: plain data of fixed size.
unsafe impl PGRXSharedMemory for Entries {}

// SAFETY: no other lock has the name.
static ENTRIES: PgLwLock<Entries> = unsafe { PgLwLock::new(c"varve_progress") };

/// Asks for the memory; called once from `_PG_init`.
#[allow(unexpected_cfgs, reason = "the macro asks for features of pgrx's own")]
pub fn init() {
    pgrx::pg_shmem_init!(ENTRIES);
}

thread_local! {
    /// Whether this process takes its entries away when it ends.
    static TIDIES: Cell<bool> = const { Cell::new(false) };
}

/// A piece of work that is shown until it is dropped.
pub struct Work {
    place: Option<usize>,
    done: u64,
    shown: u64,
    step: u64,
}

impl Work {
    /// Begins to show some work on a relation.
    pub fn begin(operation: Operation, relation: pg_sys::Oid) -> Self {
        if !TIDIES.replace(true) {
            // SAFETY: called once as the process ends, whatever has ended it.
            unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::null()) };
        }
        let now = clock::now();
        // SAFETY: reads variables of the process.
        let (pid, database, role) = unsafe {
            (
                pg_sys::MyProcPid,
                pg_sys::MyDatabaseId,
                pg_sys::GetOuterUserId(),
            )
        };
        let entry = Entry {
            pid,
            database,
            role,
            relation,
            operation,
            phase: Phase::Reading,
            done: 0,
            total: 0,
            started_at: now,
            phase_at: now,
        };
        let mut entries = ENTRIES.exclusive();
        let place = entries.0.iter().position(Option::is_none);
        if let Some(free) = place.and_then(|i| entries.0.get_mut(i)) {
            *free = Some(entry);
        }
        Work {
            place,
            done: 0,
            shown: 0,
            step: 1,
        }
    }

    fn with(&self, f: impl FnOnce(&mut Entry)) {
        let Some(place) = self.place else {
            return;
        };
        let mut entries = ENTRIES.exclusive();
        if let Some(Some(entry)) = entries.0.get_mut(place) {
            f(entry);
        }
    }

    /// Begins a phase with so much to do.
    pub fn phase(&mut self, phase: Phase, total: u64) {
        (self.done, self.shown, self.step) = (0, 0, (total / 1000).max(1));
        let now = clock::now();
        self.with(|entry| {
            (entry.phase, entry.total) = (phase, total);
            (entry.done, entry.phase_at) = (0, now);
        });
    }

    /// So much is done in all.
    pub fn reach(&mut self, done: u64) {
        self.add(done.saturating_sub(self.done));
    }

    /// So much more is done.
    pub fn add(&mut self, more: u64) {
        self.done += more;
        if self.done - self.shown >= self.step {
            self.shown = self.done;
            let done = self.done;
            self.with(|entry| entry.done = done);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut entries = ENTRIES.exclusive();
            if let Some(entry) = entries.0.get_mut(place) {
                *entry = None;
            }
        }
    }
}

unsafe extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    // SAFETY: reads a variable of the process.
    let me = unsafe { pg_sys::MyProcPid };
    let mut entries = ENTRIES.exclusive();
    for entry in &mut entries.0 {
        if entry.is_some_and(|e| e.pid == me) {
            *entry = None;
        }
    }
}

/// Whether the current user sees the work of a role: his own, that of roles he is in, all as a member of `pg_monitor`.
fn may_see(role: pg_sys::Oid) -> bool {
    let monitor = pg_sys::Oid::from_u32(pg_sys::ROLE_PG_MONITOR);
    // SAFETY: catalogue look-ups.
    unsafe {
        let user = pg_sys::GetUserId();
        pg_sys::has_privs_of_role(user, role) || pg_sys::has_privs_of_role(user, monitor)
    }
}

/// The work of all processes that the current user may see; behind the view `varve.progress`.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn progress_entries() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(database, pg_sys::Oid),
        name!(relation, pg_sys::Oid),
        name!(operation, &'static str),
        name!(phase, &'static str),
        name!(unit, &'static str),
        name!(done, i64),
        name!(total, i64),
        name!(started_at, Option<TimestampWithTimeZone>),
        name!(phase_at, Option<TimestampWithTimeZone>),
    ),
> {
    crate::require_preload();
    let entries = *ENTRIES.share();
    let rows = entries.0.into_iter().flatten();
    let rows = rows.filter(|e| may_see(e.role)).map(|e| {
        let (phase, unit) = e.phase.names();
        (
            e.pid,
            e.database,
            e.relation,
            e.operation.name(),
            phase,
            unit,
            e.done as i64,
            e.total as i64,
            TimestampWithTimeZone::try_from(e.started_at).ok(),
            TimestampWithTimeZone::try_from(e.phase_at).ok(),
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}
