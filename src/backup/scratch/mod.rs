//! A server of our own beside the running one, restored from a backup into a directory that is removed afterwards.
//!
//! It listens on a socket in that directory only, archives nothing, runs no jobs, and ends with the backend that started it, however
//! that ends: by [`Drop`], by a callback as the process exits, or, after `kill -9`, by the signal that the system sends to a
//! child whose parent is gone. What then lies about is removed by the next call, which finds that nobody holds its lock.

mod place;
mod server;
mod settings;
mod wal_feed;

use super::keys;
use crate::pg::{background, transaction};
use crate::stores;
use pgrx::pg_sys;
use place::Place;
use server::Server;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};
use varve_core::backup::{
    self, Backup, BackupError, Lsn, Recovery, RestoreOptions, RestoreProgress, Restored,
    TablespaceMove, Timestamp,
};
use varve_core::replication::{ConnInfo, ReplicationError, Row, Session};
use varve_core::store::Store;
use varve_core::wait::Stopped;
use wal_feed::Feed;

pub use settings::{bindir, data_directory, setting};

/// The port of a scratch server; it only names the socket.
const PORT: u16 = 5432;

/// How long a server may take to shut down before it is told to quit.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// How often a server that starts is looked at, in milliseconds.
const LOOK_EVERY: i64 = 20;

/// How much of a line of a server's log is told, in characters.
const TOLD: usize = 400;

/// How much of the end of the log is read for that, in bytes.
const READ: u64 = 64 << 10;

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
    /// The timeline to recover to, where it is not the backup's own.
    pub later_timeline: Option<u32>,
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
        let parent = place::parent_directory()?;
        place::sweep(&parent);
        place::check_room(&parent, origin)?;
        let place = Place::new(&parent)?;
        let dir = &place.path;
        let identities = keys::identities()?;
        let feed = Feed::new(
            origin.stores.clone(),
            dir,
            origin.backup.wal_segment_bytes,
            origin.last_segment,
            identities.clone(),
        )
        .map_err(at(dir))?;
        let tablespaces = dir.join("tablespaces");
        place::make_directory(&tablespaces).map_err(at(&tablespaces))?;
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
            identities,
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
        settings::write(&self.place.path, until, self.origin.later_timeline)?;
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
                    Err(error) if passes(&error) => continue,
                    Err(error) => return Err(error),
                },
            };
            let rows = match self.query(&mut open, STATE) {
                Ok(rows) => rows,
                // Replay may cancel a query on its way.
                Err(error) if passes(&error) => {
                    self.tick_or_error()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            session = Some(open);
            let field = |n: usize| rows.first()?.get(n)?.as_deref();
            if let Some(replayed) = field(1).and_then(|lsn| lsn.parse().ok()) {
                progress(replayed);
            }
            match (until, field(0)) {
                (Until::PausedAt(_) | Until::Consistent, Some("paused"))
                | (Until::Time(_) | Until::End, Some("open")) => {
                    // A server that was not given a file takes what it has for all there is.
                    return match self.feed.failure() {
                        Some(error) => Err(error),
                        None => Ok(begun.elapsed()),
                    };
                }
                // It does where a setting is lower than the primary's was.
                (Until::Time(_) | Until::End, Some("paused")) => {
                    return Err(BackupError::Program {
                        program: "the scratch server".into(),
                        detail: format!("it does not go on: {}", self.last_words()),
                    });
                }
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
        transaction::release_snapshot();
        let info = ConnInfo::socket(&self.place.path, PORT, &user)
            .with_database(database)
            .with_options(OPTIONS);
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
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // The server goes before its directory does.
        self.server = None;
    }
}

/// What the server is at, and up to where it has replayed.
const STATE: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_get_wal_replay_pause_state() ELSE 'open' END, pg_catalog.pg_last_wal_replay_lsn()";

/// Whatever is set for the database or its roles: a standby has no serializable transactions, and counting takes its time.
const OPTIONS: &str = r"-c default_transaction_isolation=read\ committed -c default_transaction_deferrable=off -c statement_timeout=0 -c lock_timeout=0 -c transaction_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";

/// Whether an error of a server that starts, or replays WAL, may be gone at the next try.
fn passes(error: &BackupError) -> bool {
    let BackupError::Replication(error) = error else {
        return false;
    };
    match error {
        ReplicationError::Unreachable { .. } | ReplicationError::Lost { .. } => true,
        // It starts up, has no connection to spare, has cancelled the query or the session for the sake of replay.
        error => matches!(
            error.sqlstate(),
            Some("57P03" | "53300" | "40001" | "40P01" | "57014" | "57P01" | "57P02")
        ),
    }
}

fn wait_event() -> u32 {
    background::wait_event(c"VarveScratchServer")
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
