//! Where scratch servers lie: directories that are locked while somebody uses them, and removed whichever way he ends.

use super::server::end;
use super::{Origin, PORT, at, data_directory, refused};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use varve_core::backup::{Backup, BackupError};

/// What the names of scratch directories begin with.
const PREFIX: &str = "varve-scratch-";

/// The longest path of a Unix socket, in bytes, without its NUL.
const MAX_SOCKET_BYTES: usize = 107;

/// How long a directory without a lock is left alone: its maker may be about to lock it.
const UNLOCKED: Duration = Duration::from_secs(600);

/// Makes a directory that is its owner's alone.
///
/// # Errors
/// What the system says.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// `varve.scratch_directory`, which must be there and not in the data directory.
///
/// # Errors
/// [`BackupError::Refused`] where it is; what the system says.
pub fn parent_directory() -> Result<PathBuf, BackupError> {
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

/// What a restore takes at most, in bytes: each block of a chain is written once.
fn needed(origin: &Origin<'_>) -> u64 {
    let raw: u64 = origin.chain.iter().map(Backup::raw_bytes).sum();
    // Segments that are fetched ahead, and those that the server writes itself.
    raw + 16 * origin.backup.wal_segment_bytes
}

/// Refuses a place without enough room.
///
/// # Errors
/// [`BackupError::Refused`] with what there is and what is needed; what the system says.
pub fn check_room(parent: &Path, origin: &Origin<'_>) -> Result<(), BackupError> {
    let path = CString::new(parent.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: a NUL-terminated path, and a structure that the call fills.
    let free = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut found) != 0 {
            return Err(at(parent)(io::Error::last_os_error()));
        }
        found.f_bavail.saturating_mul(found.f_frsize)
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
pub fn sweep(parent: &Path) {
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

/// A directory, locked, and removed when dropped.
pub struct Place {
    /// The directory.
    pub path: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes one in a directory.
    ///
    /// # Errors
    /// What the system says; [`BackupError::Refused`] where its path is too long.
    pub fn new(parent: &Path) -> Result<Self, BackupError> {
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

    /// Where the server's data directory is.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where the server's log is.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Notes that a server runs here, or none: it is ended with the process.
    pub fn note_server(&self, pid: Option<i32>) {
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
