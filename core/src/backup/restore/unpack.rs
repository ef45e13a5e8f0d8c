//! An archive becomes files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::error::BackupError;
use super::super::manifest::{Manifest, ManifestFile};
use super::super::seal::hex;
use super::super::tar::{Entry, EntryKind, Pieces, TarReader};
use super::combine::Combined;
use super::filling::{Filled, Filling};
use super::incremental::{self, belongs_to};
use super::label;
use super::write::{OutFile, Writers};
use crate::wait::Tick;

/// How much comes between two questions to the caller.
const STEP: u64 = 1 << 20;

/// What is unpacked where.
pub(super) struct Unpack<'u> {
    /// The name of the archive in messages.
    pub(super) name: &'u str,
    /// The directory that it is unpacked into; it is empty, unless the backup is an older one of a chain.
    pub(super) to: &'u Path,
    /// What the paths in it have before them in the manifest: nothing, or `pg_tblspc/16400`.
    pub(super) prefix: &'u str,
    pub(super) manifest: &'u Manifest,
    /// Whether the backup is incremental: then it may have some blocks of a file only.
    pub(super) incremental: bool,
    /// What a chain is made of, if an older backup of it is unpacked, of which only that is taken that newer ones have not.
    pub(super) combined: Option<&'u Combined>,
    /// The files of the chain that something was written to.
    pub(super) touched: &'u mut Vec<Vec<u8>>,
    pub(super) writers: &'u mut Writers,
    /// Told how many more bytes were unpacked.
    pub(super) progress: &'u mut dyn FnMut(u64),
    pub(super) tick: Tick<'u>,
}

/// What was in an archive.
#[derive(Default)]
pub(super) struct Unpacked {
    /// The paths of the manifest that were found.
    pub(super) seen: HashSet<Vec<u8>>,
    /// What came for files of relations that a chain is combined of, by their paths in the manifest.
    pub(super) filled: Vec<(Vec<u8>, Filled)>,
    /// The file `backup_label`.
    pub(super) label: Option<Vec<u8>>,
}

/// Where the content of a file goes.
enum To {
    File { file: Arc<OutFile>, at: u64 },
    Filling { path: Vec<u8>, filling: Filling },
    Label(Vec<u8>),
}

impl Unpack<'_> {
    /// Unpacks an archive. Links are passed over; those of tablespaces are made later.
    pub(super) fn run(&mut self, archive: &mut dyn Pieces) -> Result<Unpacked, BackupError> {
        let mut reader = TarReader::new(archive);
        let mut unpacked = Unpacked::default();
        loop {
            (self.tick)()?;
            let entry = reader.entry().map_err(|error| self.failed(error))?;
            let Some(entry) = entry else {
                break;
            };
            match self.combined {
                None => self.entry(&entry, &mut reader, &mut unpacked)?,
                Some(combined) => self.older(&entry, combined, &mut reader, &mut unpacked)?,
            }
        }
        self.writers.flush(self.tick)?;
        if let Some(combined) = self.combined {
            let filled: HashSet<&Vec<u8>> = unpacked.filled.iter().map(|(path, _)| path).collect();
            if let Some(path) = combined
                .asked(self.prefix)
                .find(|path| !filled.contains(path))
            {
                let path = String::from_utf8_lossy(path);
                return Err(BackupError::corrupt(
                    self.name,
                    format!("it lacks the file {path}"),
                ));
            }
        }
        Ok(unpacked)
    }

    fn entry(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<'_>,
        unpacked: &mut Unpacked,
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
            EntryKind::File => {
                if let Some(parent) = path.parent() {
                    directory(parent, 0o700)?;
                }
                let mode = 0o600 | group & 0o040;
                let belongs = belongs_to(&self.listed_as(&entry.path));
                let to = match belongs.filter(|_| self.incremental) {
                    None => To::File {
                        file: OutFile::create(path, mode, entry.size)?,
                        at: 0,
                    },
                    Some(listed) => {
                        let whole = incremental::whole(&entry.path);
                        let path = self.to.join(OsStr::from_bytes(&whole));
                        To::Filling {
                            path: listed,
                            filling: Filling::new(path, mode, entry.size),
                        }
                    }
                };
                self.file(entry, to, reader, unpacked)
            }
        }
    }

    /// Takes of an older backup what is wanted.
    fn older(
        &mut self,
        entry: &Entry,
        combined: &Combined,
        reader: &mut TarReader<'_>,
        unpacked: &mut Unpacked,
    ) -> Result<(), BackupError> {
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        let listed = self.listed_as(&entry.path);
        let belongs = belongs_to(&listed).filter(|_| self.incremental);
        let path = belongs.as_ref().unwrap_or(&listed);
        let filling = match combined.unfinished(path) {
            Some(unfinished) if belongs.is_some() => Filling::blocks(unfinished, entry.size)?,
            Some(unfinished) => Filling::whole(unfinished, entry.size)?,
            None if listed == label::NAME.as_bytes() && entry.size <= label::MAX_BYTES => {
                return self.file(entry, To::Label(Vec::new()), reader, unpacked);
            }
            None => {
                (self.progress)(entry.size);
                return Ok(());
            }
        };
        let path = path.clone();
        self.touched.push(path.clone());
        self.file(entry, To::Filling { path, filling }, reader, unpacked)
    }

    /// Reads a file, and sees that it is what the manifest says.
    fn file(
        &mut self,
        entry: &Entry,
        mut to: To,
        reader: &mut TarReader<'_>,
        unpacked: &mut Unpacked,
    ) -> Result<(), BackupError> {
        let listed = self.listed_as(&entry.path);
        let expected = self.manifest.files.get(&listed);
        if expected.is_none() && !is_wal(&listed) {
            return Err(self.corrupt(entry, "the manifest does not have it"));
        }
        let mut hash = Sha256::new();
        let (mut size, mut untold) = (0, 0);
        let (tick, writers, progress) = (self.tick, &mut *self.writers, &mut *self.progress);
        let combined = self.combined;
        let mut take = |piece: Bytes| {
            hash.update(&piece);
            let len = piece.len() as u64;
            size += len;
            untold += len;
            if untold >= STEP {
                progress(std::mem::take(&mut untold));
                tick()
                    .map_err(BackupError::from)
                    .map_err(io::Error::other)?;
            }
            match &mut to {
                To::File { file, at } => {
                    let from = *at;
                    *at += len;
                    let written = writers.write(file, from, piece, tick);
                    written.map_err(io::Error::other)
                }
                To::Filling { path, filling } => {
                    let unfinished = combined.and_then(|combined| combined.unfinished(path));
                    filling.take(unfinished, piece, writers, tick)
                }
                To::Label(label) => {
                    label.extend_from_slice(&piece);
                    Ok(())
                }
            }
        };
        let read = reader.content(&mut take);
        if read.is_ok() {
            progress(untold);
        }
        read.map_err(|error| self.failed_in(entry, error))?;
        let found = ManifestFile {
            size,
            sha256: hash.finalize().into(),
        };
        if let Some(expected) = expected {
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
            if !unpacked.seen.insert(listed) {
                return Err(self.corrupt(entry, "it is there twice"));
            }
        }
        match to {
            To::File { file, .. } => self.writers.end(file),
            To::Filling { path, filling } => {
                let filled = filling.end(found, self.writers, tick);
                let filled = filled.map_err(|error| self.failed_in(entry, error))?;
                unpacked.filled.push((path, filled));
            }
            To::Label(label) => unpacked.label = Some(label),
        }
        Ok(())
    }

    fn listed_as(&self, path: &[u8]) -> Vec<u8> {
        match self.prefix {
            "" => path.to_vec(),
            prefix => [prefix.as_bytes(), b"/", path].concat(),
        }
    }

    fn corrupt(&self, entry: &Entry, detail: &str) -> BackupError {
        let path = String::from_utf8_lossy(&entry.path);
        BackupError::corrupt(self.name, format!("{path}: {detail}"))
    }

    /// What reading a file says.
    fn failed_in(&self, entry: &Entry, error: io::Error) -> BackupError {
        match error.kind() {
            io::ErrorKind::InvalidData => self.corrupt(entry, &error.to_string()),
            _ => self.failed(error),
        }
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
