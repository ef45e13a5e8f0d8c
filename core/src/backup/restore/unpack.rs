//! An archive becomes files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::error::BackupError;
use super::super::manifest::{Manifest, ManifestFile};
use super::super::seal::hex;
use super::super::tar::{Entry, EntryKind, TarReader};
use super::sync::{LARGE, Syncing};
use crate::wait::Tick;

/// How much comes between two questions to the caller.
pub(super) const STEP: u64 = 1 << 20;

/// What is unpacked where.
pub(super) struct Unpack<'u> {
    /// The name of the archive in messages.
    pub(super) name: &'u str,
    /// The directory that it is unpacked into; it is empty.
    pub(super) to: &'u Path,
    /// What the paths in it have before them in the manifest: nothing, or `pg_tblspc/16400`.
    pub(super) prefix: String,
    pub(super) manifest: &'u Manifest,
    /// The paths of the manifest that were found.
    pub(super) seen: HashSet<Vec<u8>>,
    /// Told how many more bytes were unpacked.
    pub(super) progress: &'u mut dyn FnMut(u64),
    /// Told of files that are large and whole, so that they reach the disk while others are unpacked.
    pub(super) syncing: Option<&'u Syncing>,
    pub(super) tick: Tick<'u>,
}

impl Unpack<'_> {
    /// Unpacks an archive. Links are passed over; those of tablespaces are made later.
    pub(super) fn run(&mut self, archive: &mut dyn BufRead) -> Result<(), BackupError> {
        let mut reader = TarReader::new(archive);
        loop {
            (self.tick)()?;
            let entry = reader.entry().map_err(|error| self.failed(error))?;
            let Some(entry) = entry else {
                return Ok(());
            };
            self.entry(&entry, &mut reader)?;
        }
    }

    fn entry(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<&mut dyn BufRead>,
    ) -> Result<(), BackupError> {
        let path = self.to.join(OsStr::from_bytes(&entry.path));
        let group = entry.mode & 0o050;
        match &entry.kind {
            EntryKind::Directory => {
                let mode = 0o700 | group;
                directory(&path, mode)?;
                // The directory itself is not in the archive: it is as those in it.
                for path in [path.as_path(), self.to] {
                    fs::set_permissions(path, Permissions::from_mode(mode))
                        .map_err(|error| BackupError::io(path, error))?;
                }
                Ok(())
            }
            EntryKind::Link(_) => match is_tablespace(&entry.path) && self.prefix.is_empty() {
                true => Ok(()),
                false => Err(self.corrupt(
                    entry,
                    "it is a link, and only those of tablespaces are taken",
                )),
            },
            EntryKind::File => self.file(entry, path, 0o600 | group & 0o040, reader),
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        path: PathBuf,
        mode: u32,
        reader: &mut TarReader<&mut dyn BufRead>,
    ) -> Result<(), BackupError> {
        let listed = self.listed_as(&entry.path);
        let expected = self.manifest.files.get(&listed);
        if expected.is_none() && !is_wal(&listed) {
            return Err(self.corrupt(entry, "the manifest does not have it"));
        }
        if let Some(parent) = path.parent() {
            directory(parent, 0o700)?;
        }
        let failed = |error| BackupError::io(&path, error);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(failed)?;
        let mut hash = Sha256::new();
        let (mut size, mut untold) = (0, 0);
        let mut written = Ok(());
        let (tick, progress) = (self.tick, &mut *self.progress);
        let read = reader.content(&mut |piece| {
            hash.update(piece);
            size += piece.len() as u64;
            untold += piece.len() as u64;
            if untold >= STEP {
                progress(std::mem::take(&mut untold));
                tick().map_err(|stopped| io::Error::other(BackupError::from(stopped)))?;
            }
            file.write_all(piece).map_err(|error| {
                written = Err(error);
                io::Error::other("the file cannot be written")
            })
        });
        written.map_err(failed)?;
        if read.is_ok() {
            progress(untold);
        }
        read.map_err(|error| self.failed(error))?;
        if let Some(expected) = expected {
            let found = ManifestFile {
                size,
                sha256: hash.finalize().into(),
            };
            if found != *expected {
                return Err(self.corrupt(
                    entry,
                    &format!(
                        "it has {size} bytes with SHA-256 {}, and should have {} with {}",
                        hex(&found.sha256),
                        expected.size,
                        hex(&expected.sha256)
                    ),
                ));
            }
            if !self.seen.insert(listed) {
                return Err(self.corrupt(entry, "it is there twice"));
            }
        }
        match self.syncing {
            Some(syncing) if size >= LARGE => syncing.sync(path, file),
            _ => Ok(()),
        }
    }

    fn listed_as(&self, path: &[u8]) -> Vec<u8> {
        match self.prefix.as_str() {
            "" => path.to_vec(),
            prefix => [prefix.as_bytes(), b"/", path].concat(),
        }
    }

    fn corrupt(&self, entry: &Entry, detail: &str) -> BackupError {
        let path = String::from_utf8_lossy(&entry.path);
        BackupError::corrupt(self.name, format!("{path}: {detail}"))
    }

    /// What reading the archive says.
    fn failed(&self, error: io::Error) -> BackupError {
        match error.kind() {
            io::ErrorKind::InvalidData => BackupError::corrupt(self.name, error.to_string()),
            io::ErrorKind::UnexpectedEof => BackupError::corrupt(self.name, "it is cut short"),
            _ => BackupError::of_stream(self.name, error),
        }
    }
}

/// Makes a directory and those above it, where they are not there.
pub(super) fn directory(path: &Path, mode: u32) -> Result<(), BackupError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| BackupError::io(path, error))
}

/// Whether it is the link of a tablespace: `pg_tblspc/16400`.
fn is_tablespace(path: &[u8]) -> bool {
    path.strip_prefix(b"pg_tblspc/")
        .is_some_and(|oid| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit))
}

/// Manifests have no WAL.
fn is_wal(path: &[u8]) -> bool {
    path.starts_with(b"pg_wal/")
}
