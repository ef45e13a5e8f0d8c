//! What launcher, workers and sessions tell each other, in shared memory.
//!
//! A *slot* is a worker's place: the launcher (or a session that runs a job at once) reserves it and registers the process,
//! which attaches, leaves its *report* of what is due next in its database, and ends; the launcher then frees the slot.

use crate::pg::clock;
use pgrx::lwlock::PgLwLock;
use pgrx::pg_guard;
use pgrx::{PGRXSharedMemory, pg_sys};

/// Most workers that `varve.max_workers` allows.
pub const MOST_WORKERS: usize = 64;
/// Jobs that a report lists.
pub const LISTED: usize = 32;
/// The slot of the scout; the others are for jobs.
const SCOUT: usize = 0;
const SLOTS: usize = MOST_WORKERS + 1;
const WOKEN: usize = 64;
const BARRED: usize = 16;
/// A process that has not started after so long never will (microseconds).
const START_LIMIT: i64 = 60_000_000;
/// Who asked for a job and has not looked at its end for so long never will (microseconds).
const LOOK_LIMIT: i64 = 5_000_000;

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Looks what is due in a database.
    Scout,
    /// Runs a job that is due.
    Due,
    /// Runs a job because somebody asks for it.
    Asked,
}

/// A job that will be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its number in its database.
    pub job: i64,
    /// The role whose privileges it has.
    pub owner: pg_sys::Oid,
    /// When.
    pub at: pg_sys::TimestampTz,
}

const NEVER: Due = Due {
    job: 0,
    owner: pg_sys::InvalidOid,
    at: i64::MAX,
};

/// What is due in a database, as a worker found it.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// When it looked.
    pub taken_at: pg_sys::TimestampTz,
    /// Whether the database has the extension.
    pub installed: bool,
    /// How many of `due` are set.
    pub count: usize,
    /// The jobs that are due first.
    pub due: [Due; LISTED],
    /// Whether there are others.
    pub more: bool,
}

impl Report {
    /// A report with nothing in it yet.
    pub fn new(installed: bool) -> Self {
        Report {
            taken_at: clock::now(),
            installed,
            count: 0,
            due: [NEVER; LISTED],
            more: false,
        }
    }

    /// Adds a job.
    pub fn add(&mut self, due: Due) {
        match self.due.get_mut(self.count) {
            Some(place) => {
                *place = due;
                self.count += 1;
            }
            None => self.more = true,
        }
    }

    /// The jobs that it lists.
    pub fn listed(&self) -> &[Due] {
        self.due.get(..self.count).unwrap_or_default()
    }
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// What for.
    pub task: Task,
    /// The database.
    pub database: pg_sys::Oid,
    /// The job; for a scout one that does not start, or 0.
    pub job: i64,
    /// Its owner.
    pub owner: pg_sys::Oid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Starting,
    Running,
    Ended,
}

#[derive(Clone, Copy)]
struct Slot {
    phase: Phase,
    /// Grows with each use, so that a process that comes late finds that it is no longer wanted.
    generation: u32,
    assignment: Assignment,
    pid: i32,
    since: pg_sys::TimestampTz,
    run: i64,
    report: Option<Report>,
    /// Whether who asked for the job still looks how far it has come.
    awaited: bool,
}

const FREE: Slot = Slot {
    phase: Phase::Free,
    generation: 0,
    assignment: Assignment {
        task: Task::Scout,
        database: pg_sys::InvalidOid,
        job: 0,
        owner: pg_sys::InvalidOid,
    },
    pid: 0,
    since: 0,
    run: 0,
    report: None,
    awaited: false,
};

/// A slot that was reserved; goes to the process as its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    index: u32,
    generation: u32,
}

impl Ticket {
    /// As the argument of a background worker.
    pub fn to_datum(self) -> pg_sys::Datum {
        pg_sys::Datum::from((i64::from(self.generation) << 32) | i64::from(self.index))
    }

    /// From the argument of a background worker.
    pub fn from_datum(datum: pg_sys::Datum) -> Self {
        let value = datum.value() as u64;
        Ticket {
            index: value as u32,
            generation: (value >> 32) as u32,
        }
    }
}

/// What became of a worker.
pub struct Ended {
    /// What it was to do.
    pub assignment: Assignment,
    /// The number of its run; 0 where it ended before one had begun.
    pub run: i64,
    /// What it found due; `None` where it ended before it had looked.
    pub report: Option<Report>,
}

/// Databases in which something changed.
#[derive(Default)]
pub struct Woken {
    /// Any may be meant.
    pub all: bool,
    /// These are.
    pub databases: Vec<pg_sys::Oid>,
}

#[derive(Clone, Copy)]
struct Shared {
    /// The launcher's latch, which lies in shared memory too; 0 while there is no launcher.
    launcher: usize,
    launcher_pid: i32,
    woken: [pg_sys::Oid; WOKEN],
    woken_count: usize,
    woken_all: bool,
    /// Databases that are being dropped, and by which process.
    barred: [(pg_sys::Oid, i32); BARRED],
    slots: [Slot; SLOTS],
}

// SAFETY: plain data of fixed size.
unsafe impl PGRXSharedMemory for Shared {}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            launcher: 0,
            launcher_pid: 0,
            woken: [pg_sys::InvalidOid; WOKEN],
            woken_count: 0,
            woken_all: true,
            barred: [(pg_sys::InvalidOid, 0); BARRED],
            slots: [FREE; SLOTS],
        }
    }
}

// SAFETY: no other lock has the name.
static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"varve_jobs") };

/// Asks for the memory; called once from `_PG_init`.
#[allow(unexpected_cfgs, reason = "the macro asks for features of pgrx's own")]
pub fn init() {
    pgrx::pg_shmem_init!(SHARED);
}

/// A launcher starts.
pub fn launcher_starts() {
    let mut shared = SHARED.exclusive();
    // SAFETY: the process's own latch.
    shared.launcher = unsafe { pg_sys::MyLatch } as usize;
    // SAFETY: reads a variable of the process.
    shared.launcher_pid = unsafe { pg_sys::MyProcPid };
    shared.woken_all = true;
}

/// The launcher ends.
pub fn launcher_ends() {
    let mut shared = SHARED.exclusive();
    // SAFETY: reads a variable of the process.
    if shared.launcher_pid == unsafe { pg_sys::MyProcPid } {
        shared.launcher = 0;
        shared.launcher_pid = 0;
    }
}

fn nudge(shared: &Shared) {
    let latch = shared.launcher as *mut pg_sys::Latch;
    if !latch.is_null() {
        // SAFETY: latches of processes lie in shared memory as long as the server runs; one that has got another owner
        // meanwhile wakes him in vain.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// Tells the launcher that jobs of a database have changed.
pub fn wake(database: pg_sys::Oid) {
    let mut shared = SHARED.exclusive();
    let count = shared.woken_count;
    if shared.woken.iter().take(count).all(|d| *d != database) {
        match shared.woken.get_mut(count) {
            Some(place) => {
                *place = database;
                shared.woken_count += 1;
            }
            None => shared.woken_all = true,
        }
    }
    nudge(&shared);
}

/// Takes what the launcher was told since the last time.
pub fn take_woken() -> Woken {
    let mut shared = SHARED.exclusive();
    let count = shared.woken_count;
    let woken = Woken {
        all: shared.woken_all,
        databases: shared.woken.iter().take(count).copied().collect(),
    };
    shared.woken_count = 0;
    shared.woken_all = false;
    woken
}

/// Why no slot was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All are taken.
    Full,
    /// The job has one.
    Running,
    /// The database is being dropped.
    Barred,
}

/// Reserves a slot; at most `workers` jobs have one at a time.
pub fn reserve(assignment: Assignment, workers: usize) -> Result<Ticket, Refused> {
    let mut shared = SHARED.exclusive();
    if shared.barred.iter().any(|b| b.0 == assignment.database) {
        return Err(Refused::Barred);
    }
    let is_same = |s: &Slot| {
        s.phase != Phase::Free
            && s.assignment.task != Task::Scout
            && (s.assignment.database, s.assignment.job) == (assignment.database, assignment.job)
    };
    let scouting = assignment.task == Task::Scout;
    if !scouting && shared.slots.iter().any(is_same) {
        return Err(Refused::Running);
    }
    let range = if scouting {
        SCOUT..SCOUT + 1
    } else {
        1..workers.min(MOST_WORKERS) + 1
    };
    for index in range {
        if let Some(slot) = shared.slots.get_mut(index)
            && slot.phase == Phase::Free
        {
            let generation = slot.generation.wrapping_add(1);
            *slot = Slot {
                phase: Phase::Starting,
                generation,
                assignment,
                since: clock::now(),
                awaited: assignment.task == Task::Asked,
                ..FREE
            };
            return Ok(Ticket {
                index: index as u32,
                generation,
            });
        }
    }
    Err(Refused::Full)
}

fn with_slot<T>(ticket: Ticket, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
    let mut shared = SHARED.exclusive();
    let slot = shared.slots.get_mut(ticket.index as usize)?;
    (slot.generation == ticket.generation && slot.phase != Phase::Free).then(|| f(slot))
}

/// Gives a slot back whose process could not be registered.
pub fn give_back(ticket: Ticket) {
    with_slot(ticket, |slot| slot.phase = Phase::Free);
}

/// The process of a slot has started; `None` where it is no longer wanted.
pub fn attach(ticket: Ticket) -> Option<Assignment> {
    with_slot(ticket, |slot| {
        let wanted = slot.phase == Phase::Starting;
        if wanted {
            slot.phase = Phase::Running;
            // SAFETY: reads a variable of the process.
            slot.pid = unsafe { pg_sys::MyProcPid };
        }
        wanted.then_some(slot.assignment)
    })
    .flatten()
}

/// The process of a slot ends, in whatever way.
pub fn detach(ticket: Ticket) {
    with_slot(ticket, |slot| {
        slot.phase = Phase::Ended;
        slot.since = clock::now();
    });
    nudge(&SHARED.share());
}

/// Leaves a report.
pub fn leave_report(ticket: Ticket, report: Report) {
    with_slot(ticket, |slot| slot.report = Some(report));
}

/// Tells the number of the run that has begun.
pub fn tell_run(ticket: Ticket, run: i64) {
    with_slot(ticket, |slot| slot.run = run);
}

/// How far a worker that somebody asked for has come: the number of its run, once it has begun, and whether it has ended.
/// `None` where the slot was given to others.
pub fn progress_of(ticket: Ticket) -> Option<(i64, bool)> {
    with_slot(ticket, |slot| (slot.run, slot.phase == Phase::Ended))
}

/// Who asked for a worker no longer looks how far it has come.
pub fn look_away(ticket: Ticket) {
    with_slot(ticket, |slot| slot.awaited = false);
    nudge(&SHARED.share());
}

/// Frees the slots whose processes have ended, or never started, and tells what became of them. Those of workers that
/// somebody asked for stay until he has read them, or for a while.
pub fn collect(now: pg_sys::TimestampTz) -> Vec<Ended> {
    let mut shared = SHARED.exclusive();
    let mut ended = Vec::new();
    for slot in &mut shared.slots {
        let over = match slot.phase {
            Phase::Free | Phase::Running => false,
            Phase::Starting => now - slot.since > START_LIMIT,
            Phase::Ended => !slot.awaited || now - slot.since > LOOK_LIMIT,
        };
        if over {
            slot.phase = Phase::Free;
            ended.push(Ended {
                assignment: slot.assignment,
                run: slot.run,
                report: slot.report,
            });
        }
    }
    ended
}

/// Keeps workers out of a database that this process is about to drop; tells the processes of those that are in it.
pub fn bar(database: pg_sys::Oid) -> Vec<i32> {
    // SAFETY: reads a variable of the process.
    let me = unsafe { pg_sys::MyProcPid };
    let mut shared = SHARED.exclusive();
    if !shared.barred.contains(&(database, me))
        && let Some(place) = shared.barred.iter_mut().find(|b| b.1 == 0)
    {
        *place = (database, me);
    }
    let inside = |s: &&Slot| s.assignment.database == database && s.phase == Phase::Running;
    shared.slots.iter().filter(inside).map(|s| s.pid).collect()
}

/// Whether a worker is in a database, or on its way.
pub fn is_inside(database: pg_sys::Oid) -> bool {
    let shared = SHARED.share();
    let inside = |s: &Slot| {
        s.assignment.database == database && matches!(s.phase, Phase::Starting | Phase::Running)
    };
    shared.slots.iter().any(inside)
}

/// The jobs of a database that have a process.
pub fn jobs_inside(database: pg_sys::Oid) -> Vec<i64> {
    let shared = SHARED.share();
    let inside = |s: &&Slot| {
        s.assignment.database == database && matches!(s.phase, Phase::Starting | Phase::Running)
    };
    let jobs = shared.slots.iter().filter(inside);
    jobs.map(|s| s.assignment.job).collect()
}

/// Ends what [`bar`] began in this process.
pub fn unbar() {
    // SAFETY: reads a variable of the process.
    let me = unsafe { pg_sys::MyProcPid };
    let mut shared = SHARED.exclusive();
    for place in &mut shared.barred {
        if place.1 == me {
            *place = (pg_sys::InvalidOid, 0);
        }
    }
    shared.woken_all = true;
    nudge(&shared);
}
