//! `pg_combinebackup`, which makes a full backup of a chain.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::super::error::BackupError;
use super::super::record::Backup;
use crate::wait::{TICK, Tick};

/// The program's name.
const PROGRAM: &str = "pg_combinebackup";

/// How much of what it says is kept, in bytes.
const MAX_SAID: u64 = 16 << 10;

/// Finds `pg_combinebackup`: in a directory, if one is given; where Debian puts that of the server's version; in PATH.
///
/// # Errors
/// [`BackupError::Refused`] if it is nowhere.
pub fn combine_program(bindir: Option<&Path>, backup: &Backup) -> Result<PathBuf, BackupError> {
    let digits = |c: char| !c.is_ascii_digit();
    let major = backup
        .server_version
        .split(digits)
        .next()
        .unwrap_or_default();
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match bindir {
        Some(bindir) => vec![bindir.to_owned()],
        None => std::iter::once(debian)
            .chain(std::env::split_paths(&path))
            .collect(),
    };
    places
        .iter()
        .map(|place| place.join(PROGRAM))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            BackupError::refused(
                format!("{PROGRAM} is not found, and without it only full backups can be restored"),
                format!("Install PostgreSQL {major} (Debian: postgresql-{major}), or say where its programs are with --bindir."),
            )
        })
}

/// Combines backups that lie in directories, the full one first, into a new directory.
pub(super) fn combine(
    program: &Path,
    members: &[PathBuf],
    tablespaces: &[(PathBuf, PathBuf)],
    out: &Path,
    said: &Path,
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    let failed = |error| BackupError::io(program, error);
    let mut command = Command::new(program);
    command
        .args(["--no-sync", "--manifest-checksums=SHA256", "--output"])
        .arg(out);
    for (from, to) in tablespaces {
        let mut mapping = OsString::from("--tablespace-mapping=");
        mapping.push(mapped(from));
        mapping.push("=");
        mapping.push(mapped(to));
        command.arg(mapping);
    }
    let errors = File::create(said).map_err(|error| BackupError::io(said, error))?;
    let child = command
        .args(members)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(failed)?;
    let mut child = Running(child);
    let status = loop {
        tick()?;
        if let Some(status) = child.0.try_wait().map_err(failed)? {
            break status;
        }
        std::thread::sleep(TICK);
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    if let Ok(file) = File::open(said) {
        // What it said is of help only.
        let _ = file.take(MAX_SAID).read_to_end(&mut text);
    }
    Err(BackupError::Program {
        program: program.display().to_string(),
        detail: format!("{status}: {}", String::from_utf8_lossy(&text).trim()),
    })
}

/// A path with the equals signs that separate the two of a mapping escaped.
fn mapped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if *byte == b'=' {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

/// A program that is killed when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It fails where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
