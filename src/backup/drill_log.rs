//! `varve.drill`: what came of drills is written down, also of those that were cut off.
//!
//! An error takes back what its transaction has written. So a drill begins with a *note* in the data directory, a file that says
//! what shall be recorded if it does not come to its end; the session locks it for as long as it is at work. A worker writes
//! what unlocked notes say into the table, in a transaction of its own: it is started when a drill ends by an error or with
//! its session. What a crash leaves is recorded by the worker that looks what is due, or when the next drill begins.

use crate::jobs::{is_installed, is_restoring};
use crate::pg::owner::as_owner;
use crate::pg::{background, spi, transaction};
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where notes lie, in the data directory: backups leave out what is in it.
const DIRECTORY: &str = "pg_stat_tmp";

/// What the names of notes begin with; the database, the process and the moment follow.
const PREFIX: &str = "varve_drill";

/// What the name of a note begins with before it is whole.
const UNNAMED: &str = "varve_drill_new";

/// How long a worker waits for a lock on the table, in milliseconds: the note stays, and is recorded another time.
const PATIENCE: i32 = 5000;

/// The longest note that is read, in bytes.
const MAX_NOTE_BYTES: u64 = 16 << 20;

/// The worker's C symbol.
const FUNCTION: &str = "varve_drill_log_main";

/// Writes a drill down. `entry` has the values of the table's columns by their names.
pub fn insert(entry: &Value) {
    as_owner(|| {
        spi::write(
            "INSERT INTO varve.drill (started_at, finished_at, backup, target_time, ok, rto, rpo, restore_seconds, replay_seconds, \
                 restored_bytes, replayed_bytes, tables_checked, tables_wrong, detail, error) \
             SELECT d.started_at, coalesce(d.finished_at, pg_catalog.clock_timestamp()), d.backup, d.target_time, d.ok, d.rto, d.rpo, \
                 d.restore_seconds, d.replay_seconds, d.restored_bytes, d.replayed_bytes, d.tables_checked, d.tables_wrong, d.detail, d.error \
             FROM pg_catalog.jsonb_populate_record(NULL::varve.drill, $1::pg_catalog.jsonb) d",
            &[entry.to_string().into()],
        )
    });
}

thread_local! {
    /// The note of the drill that this process is at, and the file that it has locked.
    static OPEN: RefCell<Option<(PathBuf, File)>> = const { RefCell::new(None) };
}

/// The note of a drill, removed when dropped, unless an error is the reason.
pub struct Note(());

impl Note {
    /// Writes the note of a drill that begins; `entry` is what is recorded if nothing more is heard of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(entry: &Value) -> io::Result<Self> {
        record_left();
        // SAFETY: variables of the process.
        let (database, process) = unsafe { (pg_sys::MyDatabaseId, pg_sys::MyProcPid) };
        let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let moment = moment.unwrap_or_default().as_micros();
        let name = format!("{PREFIX}.{}.{process}.{moment}", database.to_u32());
        let path = Path::new(DIRECTORY).join(name);
        let file = write(&path, entry)?;
        thread_local! {
            static TIDIES: Cell<bool> = const { Cell::new(false) };
        }
        if !TIDIES.replace(true) {
            // SAFETY: called once as the process ends, while it may still speak to the postmaster.
            unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::null()) };
        }
        OPEN.set(Some((path, file)));
        Ok(Note(()))
    }

    /// From now on the note says what `entry` does: that is recorded if nothing more is heard of the drill.
    pub fn say(&self, entry: &Value) {
        OPEN.with_borrow_mut(|open| {
            let Some((path, file)) = open else {
                return;
            };
            match write(path, entry) {
                Ok(new) => *file = new,
                Err(error) => log!(
                    "{} tells less of a drill than it could: {error}",
                    path.display()
                ),
            }
        });
    }

    /// Has recorded what `entry` says, in another transaction than ours, which is about to be taken back.
    pub fn leave(self, entry: &Value) {
        self.say(entry);
        // Whoever gets the lock records it.
        drop(OPEN.take());
        let argument = database();
        transaction::without_cancels(|| background::run("varve drill log", FUNCTION, argument));
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some((path, _locked)) = OPEN.take()
            && !std::thread::panicking()
        {
            // What is left would be recorded as cut off: it says so itself.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a note, whole and locked before it has its name.
fn write(path: &Path, entry: &Value) -> io::Result<File> {
    // SAFETY: a variable of the process.
    let process = unsafe { pg_sys::MyProcPid };
    let unnamed = Path::new(DIRECTORY).join(format!("{UNNAMED}.{process}"));
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&unnamed)?;
    file.try_lock()?;
    file.write_all(entry.to_string().as_bytes())?;
    fs::rename(&unnamed, path)?;
    Ok(file)
}

/// This database, as the worker's argument.
fn database() -> pg_sys::Datum {
    // SAFETY: a variable of the process.
    pg_sys::Datum::from(unsafe { pg_sys::MyDatabaseId }.to_u32())
}

/// Called as a process ends in the midst of a drill.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some((_, locked)) = OPEN.take() {
        drop(locked);
        let name = "varve drill log";
        background::start(name, name, FUNCTION, database());
    }
}

/// The notes of this database that nobody is at work on any more, locked by us.
fn left() -> Vec<(PathBuf, File)> {
    // SAFETY: a variable of the process.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let prefix = format!("{PREFIX}.{database}.");
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .filter_map(|entry| {
            // Some file systems lock only what is open for writing.
            let options = OpenOptions::new().read(true).write(true).open(entry.path());
            let file = options.ok()?;
            file.try_lock().ok()?;
            // Another one may have recorded and removed it before the lock was ours.
            let is_there = file.metadata().is_ok_and(|m| m.nlink() > 0);
            is_there.then(|| (entry.path(), file))
        })
        .collect()
}

/// Has recorded what sessions left that are gone.
fn record_left() {
    if !left().is_empty() {
        background::run("varve drill log", FUNCTION, database());
    }
}

/// Records what sessions left that are gone; outside any transaction, in a process that is connected to a database.
pub fn gather() {
    if is_restoring() {
        // The table's rows come from the dump.
        return;
    }
    for (path, mut file) in left() {
        let mut text = String::new();
        let read = (&mut file).take(MAX_NOTE_BYTES).read_to_string(&mut text);
        // One that was cut off while it was written tells nothing.
        let entry = read.ok().and_then(|_| serde_json::from_str(&text).ok());
        let recorded = transaction::attempt(|| {
            transaction::run_within(PATIENCE, || {
                if let Some(entry) = entry.filter(|_| is_installed()) {
                    insert(&entry);
                }
            });
        });
        match recorded {
            // Where it cannot be removed, it says nothing any more.
            Ok(()) => drop(fs::remove_file(&path).or_else(|_| file.set_len(0))),
            Err(failure) => log!("a drill could not be recorded: {}", failure.message),
        }
    }
}

/// Begins a worker that records what is left in a database; its argument is the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn varve_drill_log_main(argument: pg_sys::Datum) {
    background::accept_signals();
    let role = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);
    background::connect(pg_sys::Oid::from_u32(argument.value() as u32), role);
    gather();
}
