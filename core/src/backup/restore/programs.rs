//! Where PostgreSQL's programs are.

use std::path::{Path, PathBuf};

use super::super::error::BackupError;
use super::super::record::Backup;

/// Finds a program of the version of PostgreSQL that a backup is of: in a directory, if one is given; where Debian puts it; in
/// PATH.
///
/// # Errors
/// [`BackupError::Refused`] if it is nowhere.
pub fn server_program(
    name: &str,
    bindir: Option<&Path>,
    backup: &Backup,
) -> Result<PathBuf, BackupError> {
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
        .map(|place| place.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            BackupError::refused(
                format!("the program {name} is not found"),
                format!("Install PostgreSQL {major} (Debian: postgresql-{major}), or say where its programs are with --bindir."),
            )
        })
}
