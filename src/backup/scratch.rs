//! A server of our own beside the running one, restored from a backup into a directory that is removed afterwards.
//!
//! It listens on a socket in that directory only, archives nothing, runs no jobs, and ends with the backend that started it, however
//! that ends: by [`Drop`], by a callback as the process exits, or, after `kill -9`, by the signal that the system sends to a
//! child whose parent is gone. What then lies about is removed by the next call, which finds that nobody holds its lock.

use super::wal_feed::Feed;
use crate::pg::background;
use crate::stores;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use varve_core::backup::{
    self, Backup, BackupError, Lsn, Recovery, RestoreOptions, RestoreProgress, Restored,
    TablespaceMove, Timestamp,
};
use varve_core::replication::{ConnInfo, ReplicationError, Row, Session};
use varve_core::store::Store;
use varve_core::wait::Stopped;

/// What the names of scratch directories begin with.
const PREFIX: &str = "varve-scratch-";

/// The port of a scratch server; it only names the socket.
const PORT: u16 = 5432;

/// The longest path of a Unix socket, in bytes, without its NUL.
const MAX_SOCKET_BYTES: usize = 107;

/// How long a directory without a lock is left alone: its maker may be about to lock it.
const UNLOCKED: Duration = Duration::from_secs(600);

/// How long a server may take to shut down before it is told to quit.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// How long a server may take to quit before it is killed.
const QUIT: Duration = Duration::from_secs(6);

/// How often a server that starts is looked at, in milliseconds.
const LOOK_EVERY: i64 = 20;

/// How much of a line of a server's log is told, in characters.
const TOLD: usize = 400;

/// How much of the end of the log is read for that, in bytes.
const READ: u64 = 64 << 10;

/// The most shared memory that a scratch server takes for buffers, in pages of 8 kB: it is a guest.
const MAX_BUFFERS: u64 = 256 << 7;

/// Settings that hot standby, and what replays WAL, want to be as the running server has them.
const SAME: [&CStr; 10] = [
    c"shared_preload_libraries",
    c"dynamic_library_path",
    c"max_connections",
    c"max_worker_processes",
    c"max_wal_senders",
    c"max_prepared_transactions",
    c"max_locks_per_transaction",
    c"wal_level",
    c"max_wal_size",
    c"timescaledb.license",
];

/// Settings of every scratch server: nothing runs by itself, and nothing goes out.
const OWN: [(&str, &str); 20] = [
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("archive_mode", "off"),
    ("hot_standby", "on"),
    ("max_standby_archive_delay", "0"),
    ("primary_conninfo", ""),
    ("ssl", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("autovacuum", "off"),
    ("event_triggers", "off"),
    ("max_logical_replication_workers", "0"),
    ("sync_replication_slots", "off"),
    ("summarize_wal", "off"),
    ("synchronous_standby_names", ""),
    ("huge_pages", "off"),
    ("varve.max_workers", "0"),
    ("cron.launch_active_jobs", "off"),
    ("timescaledb.telemetry_level", "off"),
    ("timescaledb.max_background_workers", "0"),
];

/// How far a scratch server recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the end of the backup itself, where it waits, open for reading.
    Consistent,
    /// To just before a position, where it waits, open for reading.
    PausedAt(Lsn),
    /// To a moment; it is open for writing then.
    Time(Timestamp),
    /// To the end of the WAL that it is given; it is open for writing then.
    End,
}

/// What to restore, and where from.
pub struct Origin<'s> {
    /// Stores, in the order in which they are asked.
    pub stores: Vec<&'s Store>,
    /// The backup.
    pub backup: &'s Backup,
    /// It and those that it needs, the full one first.
    pub chain: &'s [Backup],
    /// The number of the last segment of WAL that the server is given.
    pub last_segment: u64,
    /// The database to connect to while the server starts.
    pub database: &'s str,
}

/// A restored server, removed with all that is its when dropped.
pub struct Scratch<'s> {
    origin: &'s Origin<'s>,
    place: Place,
    feed: Feed<'s>,
    server: Option<Server>,
    /// What the restore said.
    pub restored: Restored,
}

fn refused(message: impl Into<String>, hint: impl Into<String>) -> BackupError {
    BackupError::Refused {
        message: message.into(),
        hint: hint.into(),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    move |error| BackupError::Io {
        path: path.display().to_string(),
        error,
    }
}

/// Makes a directory that is its owner's alone.
///
/// # Errors
/// What the system says.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

impl<'s> Scratch<'s> {
    /// Restores a backup of this cluster into a new directory below `varve.scratch_directory`, having removed what is left of
    /// others whose backends are gone.
    ///
    /// # Errors
    /// [`BackupError::Refused`] where there is not enough room or the place will not do, with what to do about it; all that a
    /// restore answers.
    pub fn restore(
        origin: &'s Origin<'s>,
        progress: &mut dyn FnMut(&RestoreProgress),
    ) -> Result<Self, BackupError> {
        check_cluster(origin.backup)?;
        let parent = parent_directory()?;
        sweep(&parent);
        check_room(&parent, origin)?;
        let place = Place::new(&parent)?;
        let dir = &place.path;
        let feed = Feed::new(
            origin.stores.clone(),
            dir,
            origin.backup.wal_segment_bytes,
            origin.last_segment,
        )
        .map_err(at(dir))?;
        let tablespaces = dir.join("tablespaces");
        make_directory(&tablespaces).map_err(at(&tablespaces))?;
        let options = RestoreOptions {
            pgdata: place.data(),
            tablespaces: origin
                .backup
                .tablespaces
                .iter()
                .map(|t| TablespaceMove {
                    from: t.oid.to_string(),
                    to: tablespaces.join(t.oid.to_string()),
                })
                .collect(),
            threads: std::thread::available_parallelism().map_or(2, |n| n.get().min(4)),
            recovery: Recovery::default(),
            identities: None,
            bindir: Some(bindir()),
        };
        let id = &origin.backup.id;
        let restored =
            backup::restore(&origin.stores, id, &options, progress, &stores::interrupts)?;
        // What ALTER SYSTEM has set on the running server would have the last word here.
        let auto = place.data().join("postgresql.auto.conf");
        fs::write(&auto, []).map_err(at(&auto))?;
        Ok(Scratch {
            origin,
            place,
            feed,
            server: None,
            restored,
        })
    }

    /// Starts the server and waits until it has come to where it shall and answers a query; how long that took. `progress` is
    /// told now and then up to where WAL is replayed.
    ///
    /// # Errors
    /// [`BackupError::Program`] with the end of its log where it does not come up or does not get there, a store's error where
    /// WAL could not be fetched.
    pub fn start(
        &mut self,
        until: Until,
        progress: &mut dyn FnMut(Lsn),
    ) -> Result<Duration, BackupError> {
        self.stop()?;
        let begun = Instant::now();
        self.configure(until)?;
        self.server = Some(Server::spawn(&self.place)?);
        let mut session: Option<Session> = None;
        loop {
            background::wait(LOOK_EVERY, wait_event());
            self.tick_or_error()?;
            if let Some(server) = &mut self.server
                && let Some(status) = server.child.try_wait().map_err(at(&self.place.path))?
            {
                self.server = None;
                self.place.note_server(None);
                return Err(self.feed.failure().unwrap_or_else(|| BackupError::Program {
                    program: "the scratch server".into(),
                    detail: format!("{status}: {}", self.last_words()),
                }));
            }
            let mut open = match session.take() {
                Some(open) => open,
                None => match self.connect(self.origin.database) {
                    Ok(open) => open,
                    Err(BackupError::Cancelled(stopped)) => {
                        return Err(BackupError::Cancelled(stopped));
                    }
                    // It is starting up still; that it has ended is seen above.
                    Err(_) => continue,
                },
            };
            // Replay may cancel a query on its way.
            let Ok(rows) = self.query(&mut open, STATE) else {
                self.tick_or_error()?;
                continue;
            };
            session = Some(open);
            let field = |n: usize| rows.first()?.get(n)?.as_deref();
            if let Some(replayed) = field(1).and_then(|lsn| lsn.parse().ok()) {
                progress(replayed);
            }
            match (until, field(0)) {
                (Until::PausedAt(_) | Until::Consistent, Some("paused"))
                | (Until::Time(_) | Until::End, Some("open")) => return Ok(begun.elapsed()),
                (Until::PausedAt(_) | Until::Consistent, Some("open")) => {
                    return Err(BackupError::Program {
                        program: "the scratch server".into(),
                        detail: format!("it did not wait where it should: {}", self.last_words()),
                    });
                }
                _ => {}
            }
        }
    }

    /// Connects to the server, as a superuser.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect(&self, database: &str) -> Result<Session, BackupError> {
        let user = super::take::superuser();
        let info = ConnInfo::socket(&self.place.path, PORT, &user).with_database(database);
        Session::connect(&info, &|| self.tick()).map_err(BackupError::from)
    }

    /// Runs a statement in the server; its rows as text.
    ///
    /// # Errors
    /// What the server says; the session is of no use then.
    pub fn query(&self, session: &mut Session, sql: &str) -> Result<Vec<Row>, BackupError> {
        session
            .query(sql, &|| self.tick())
            .map_err(BackupError::from)
    }

    /// Runs a `COPY … TO STDOUT` in the server; `each` gets the bytes of each message, a row in most formats.
    ///
    /// # Errors
    /// What the server says, and what `each` answers.
    pub fn copy_out(
        &self,
        session: &mut Session,
        sql: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ReplicationError>,
    ) -> Result<(), BackupError> {
        session
            .copy_out(sql, each, &|| self.tick())
            .map_err(BackupError::from)
    }

    /// How many files of WAL the server has had.
    pub fn wal_files(&self) -> u64 {
        self.feed.served()
    }

    /// Shuts the server down, cleanly where it can.
    ///
    /// # Errors
    /// What the tick answers.
    pub fn stop(&mut self) -> Result<(), BackupError> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        server.signal(libc::SIGINT);
        let begun = Instant::now();
        while begun.elapsed() < SHUTDOWN && !server.has_ended() {
            background::wait(LOOK_EVERY, wait_event());
            if let Err(error) = self.tick_or_error() {
                self.server = Some(server);
                return Err(error);
            }
        }
        drop(server);
        self.place.note_server(None);
        Ok(())
    }

    /// Looks for interrupts and gives the server WAL that it asks for.
    fn tick(&self) -> Result<(), Stopped> {
        self.tick_or_error()
            .map_err(|error| Stopped::new(error.to_string()))
    }

    fn tick_or_error(&self) -> Result<(), BackupError> {
        stores::interrupts()?;
        self.feed.serve(&stores::interrupts)
    }

    /// The end of the server's log.
    fn last_words(&self) -> String {
        let mut log = Vec::new();
        if let Ok(mut file) = File::open(self.place.log()) {
            let length = file.metadata().map_or(0, |m| m.len());
            // What it said is of help only.
            let _ = file
                .seek(SeekFrom::Start(length.saturating_sub(READ)))
                .and_then(|_| file.take(READ).read_to_end(&mut log));
        }
        let log = String::from_utf8_lossy(&log).into_owned();
        let worst = |line: &&str| ["FATAL", "PANIC"].iter().any(|word| line.contains(word));
        let of_note: Vec<&str> = log.lines().rev().filter(worst).take(2).collect();
        let lines = match of_note.is_empty() {
            true => log.lines().rev().take(3).collect(),
            false => of_note,
        };
        let each = lines.into_iter().rev();
        each.map(|line| line.chars().take(TOLD).collect::<String>())
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn configure(&self, until: Until) -> Result<(), BackupError> {
        let dir = &self.place.path;
        let hba = dir.join("pg_hba.conf");
        fs::write(&hba, "local all all trust\n").map_err(at(&hba))?;
        let ident = dir.join("pg_ident.conf");
        fs::write(&ident, "").map_err(at(&ident))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut settings: Vec<(String, String)> = Vec::new();
        for name in SAME {
            if let Some(value) = setting(name) {
                settings.push((name.to_string_lossy().into_owned(), value));
            }
        }
        for (name, value) in OWN {
            settings.push((name.to_owned(), value.to_owned()));
        }
        let buffers = setting(c"shared_buffers").and_then(|pages| pages.parse::<u64>().ok());
        let buffers = buffers.unwrap_or(MAX_BUFFERS).min(MAX_BUFFERS);
        let mut add = |name: &str, value: String| settings.push((name.to_owned(), value));
        add("shared_buffers", buffers.to_string());
        add("hba_file", text(&hba));
        add("ident_file", text(&ident));
        add("unix_socket_directories", socket_directory(dir));
        add("port", PORT.to_string());
        add("restore_command", Feed::command(dir));
        match until {
            Until::Consistent => {
                add("recovery_target", "immediate".into());
                add("recovery_target_action", "pause".into());
                add("recovery_target_timeline", "current".into());
            }
            Until::PausedAt(lsn) => {
                add("recovery_target_lsn", lsn.to_string());
                add("recovery_target_inclusive", "off".into());
                add("recovery_target_action", "pause".into());
                add("recovery_target_timeline", "current".into());
            }
            Until::Time(time) => {
                add("recovery_target_time", time.for_postgresql());
                add("recovery_target_action", "promote".into());
            }
            Until::End => {}
        }
        let mut file = String::new();
        for (name, value) in settings {
            let value = value.replace('\\', "\\\\").replace('\'', "''");
            file.push_str(&format!("{name} = '{value}'\n"));
        }
        let path = dir.join("postgresql.conf");
        fs::write(&path, file).map_err(at(&path))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // The server goes before its directory does.
        self.server = None;
    }
}

/// What the server is at, and up to where it has replayed.
const STATE: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_get_wal_replay_pause_state() ELSE 'open' END, pg_catalog.pg_last_wal_replay_lsn()";

fn wait_event() -> u32 {
    background::wait_event(c"VarveScratchServer")
}

/// A setting of the running server, as a file of settings takes it; none where there is no such setting.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: a NUL-terminated name; the value is copied before another call.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// A directory as a list of socket directories has it.
fn socket_directory(dir: &Path) -> String {
    format!("\"{}\"", dir.to_string_lossy().replace('"', "\"\""))
}

/// The running server's data directory.
pub fn data_directory() -> PathBuf {
    // SAFETY: set when the server started.
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

/// Where PostgreSQL's programs lie: beside the running one.
pub fn bindir() -> PathBuf {
    // SAFETY: an array that ends with a NUL, set when the server started.
    let path = unsafe { CStr::from_ptr((&raw const pg_sys::my_exec_path).cast()) };
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()));
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// Replaying WAL makes tablespaces where they were made: those that came after the backup would be the running server's own.
fn check_cluster(backup: &Backup) -> Result<(), BackupError> {
    // SAFETY: read from the control file at start.
    let ours = unsafe { pg_sys::GetSystemIdentifier() }.to_string();
    if backup.system_identifier != ours {
        return Err(refused(
            format!("backup {} is of another cluster", backup.id),
            "Restore it with the program varve.",
        ));
    }
    let links = data_directory().join("pg_tblspc");
    for entry in fs::read_dir(&links).map_err(at(&links))? {
        let entry = entry.map_err(at(&links))?;
        let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_link && !backup.tablespaces.iter().any(|t| t.oid.to_string() == name) {
            return Err(refused(
                format!(
                    "the tablespace with oid {name} was made after backup {}",
                    backup.id
                ),
                "Replaying WAL beside the running server would write into it: take a backup first.",
            ));
        }
    }
    Ok(())
}

/// `varve.scratch_directory`, which must be there and not in the data directory.
fn parent_directory() -> Result<PathBuf, BackupError> {
    let given = crate::settings::scratch_directory();
    let given = match given.is_empty() {
        true => std::env::temp_dir(),
        false => PathBuf::from(given),
    };
    let parent = fs::canonicalize(&given).map_err(at(&given))?;
    let data = data_directory();
    let data = fs::canonicalize(&data).map_err(at(&data))?;
    if parent.starts_with(&data) {
        return Err(refused(
            format!("{} is in the data directory", parent.display()),
            "Set varve.scratch_directory to a directory elsewhere: what is below the data directory goes into backups.",
        ));
    }
    Ok(parent)
}

/// What a restore takes, in bytes: the backups of a chain lie beside what is made of them.
fn needed(origin: &Origin<'_>) -> u64 {
    let raw: u64 = origin.chain.iter().map(Backup::raw_bytes).sum();
    let whole = match origin.chain {
        [_] | [] => 0,
        [full, ..] => full.raw_bytes(),
    };
    // Segments that are fetched ahead, and those that the server writes itself.
    raw + whole + 16 * origin.backup.wal_segment_bytes
}

fn check_room(parent: &Path, origin: &Origin<'_>) -> Result<(), BackupError> {
    let path = CString::new(parent.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: a NUL-terminated path, and a structure that the call fills.
    let free = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut found) != 0 {
            return Err(at(parent)(io::Error::last_os_error()));
        }
        u64::from(found.f_bavail).saturating_mul(found.f_frsize)
    };
    let needed = needed(origin);
    if free < needed {
        let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(refused(
            format!(
                "{} has {} MB free, and backup {} needs {} MB",
                parent.display(),
                megabytes(free),
                origin.backup.id,
                megabytes(needed)
            ),
            "Set varve.scratch_directory to a directory on a disk with more room.",
        ));
    }
    Ok(())
}

/// Removes what scratch servers left whose backends are gone.
fn sweep(parent: &Path) {
    // SAFETY: asks who we are.
    let me = unsafe { libc::geteuid() };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == me);
        if !ours {
            continue;
        }
        let stale = match File::open(path.join("lock")) {
            Ok(lock) => try_lock(&lock),
            Err(_) => entry.metadata().and_then(|m| m.modified()).is_ok_and(|at| {
                SystemTime::now()
                    .duration_since(at)
                    .is_ok_and(|a| a > UNLOCKED)
            }),
        };
        if stale {
            // The system has told its server to quit when the backend ended: it is gone, or about to be.
            remove(&path);
        }
    }
}

fn try_lock(file: &File) -> bool {
    // SAFETY: an open file.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// Removes a directory, in which a process that is ending may still write.
fn remove(path: &Path) {
    for _ in 0..20 {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => return,
        }
    }
}

thread_local! {
    /// Scratch directories of this process, and the process ids of their servers.
    static LEFT: RefCell<Vec<(PathBuf, Option<i32>)>> = const { RefCell::new(Vec::new()) };
}

/// Called as the process exits: by FATAL, which drops nothing.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    for (path, server) in LEFT.take() {
        if let Some(pid) = server {
            end(pid, &mut || {
                // SAFETY: waits for our own child.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) != 0 }
            });
        }
        remove(&path);
    }
}

/// Tells a server to quit, and kills it where it does not.
fn end(pid: i32, ended: &mut dyn FnMut() -> bool) {
    // SAFETY: signals to our own child, whose id is not given to another process before we have waited for it.
    unsafe { libc::kill(pid, libc::SIGQUIT) };
    let begun = Instant::now();
    while begun.elapsed() < QUIT {
        if ended() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: as above; its own children see that it is gone.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// A directory, locked, and removed when dropped.
struct Place {
    path: PathBuf,
    _lock: File,
}

impl Place {
    fn new(parent: &Path) -> Result<Self, BackupError> {
        let mut number = 0;
        let path = loop {
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match make_directory(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(at(&path)(error)),
            }
        };
        // Locked before it has the name under which it is looked for.
        let unnamed = path.join("lock.new");
        let lock = File::create(&unnamed).map_err(at(&path))?;
        try_lock(&lock);
        fs::rename(&unnamed, path.join("lock")).map_err(at(&path))?;
        let first = LEFT.with_borrow_mut(|left| {
            left.push((path.clone(), None));
            left.len() == 1
        });
        thread_local! {
            static TIDIES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
        }
        if first && !TIDIES.replace(true) {
            // SAFETY: called once as the process ends, whatever has ended it.
            unsafe { pg_sys::on_proc_exit(Some(on_exit), pg_sys::Datum::null()) };
        }
        let place = Place { path, _lock: lock };
        let socket = place.path.join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > MAX_SOCKET_BYTES {
            return Err(refused(
                format!("the path {} is too long for a socket", socket.display()),
                "Set varve.scratch_directory to a directory with a shorter path.",
            ));
        }
        Ok(place)
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    fn note_server(&self, pid: Option<i32>) {
        LEFT.with_borrow_mut(|left| {
            for (path, server) in left.iter_mut() {
                if *path == self.path {
                    *server = pid;
                }
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LEFT.with_borrow_mut(|left| left.retain(|(path, _)| *path != self.path));
        remove(&self.path);
    }
}

/// A running server, told to quit when dropped.
struct Server {
    child: Child,
}

impl Server {
    fn spawn(place: &Place) -> Result<Self, BackupError> {
        let log = File::create(place.log()).map_err(at(&place.path))?;
        let errors = log.try_clone().map_err(at(&place.path))?;
        let mut command = Command::new(bindir().join("postgres"));
        command
            .arg("-D")
            .arg(place.data())
            .arg("-c")
            .arg(format!(
                "config_file={}",
                place.path.join("postgresql.conf").display()
            ))
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| {
                let name = name.to_string_lossy();
                ["PATH", "LANG", "TZ", "HOME", "LD_LIBRARY_PATH"].contains(&name.as_ref())
                    || name.starts_with("LC_")
            }))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let me = std::process::id();
        // SAFETY: between fork and exec only these two calls of the system are made.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // We may have ended before it was set.
                match libc::getppid() as u32 == me {
                    true => Ok(()),
                    false => Err(io::ErrorKind::Other.into()),
                }
            });
        }
        let child = command.spawn().map_err(at(&bindir().join("postgres")))?;
        let server = Server { child };
        place.note_server(Some(server.pid()));
        Ok(server)
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signal: i32) {
        // SAFETY: our own child, which we have not waited for.
        unsafe { libc::kill(self.pid(), signal) };
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.has_ended() {
            end(self.pid(), &mut || {
                !matches!(self.child.try_wait(), Ok(None))
            });
            // Killed at last, it is gone at once.
            let _ = self.child.wait();
        }
    }
}
