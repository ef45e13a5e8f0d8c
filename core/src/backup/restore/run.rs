//! The course of a restore.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::super::chain::chain_of;
use super::super::error::BackupError;
use super::super::list::load_from_any;
use super::super::manifest::{Manifest, ManifestFile};
use super::super::record::{Archive, Backup, StoredObject};
use super::super::seal::read_manifest;
use super::super::tar::Pieces;
use super::combine::Combined;
use super::fetch::Source;
use super::incremental::incremental;
use super::label;
use super::place::{Marker, Place, empty};
use super::sync::sync_all;
use super::unpack::{Unpack, Unpacked, directory};
use super::write::Writers;
use super::{RestoreOptions, RestorePhase, RestoreProgress, Restored, TablespaceMove};
use crate::store::Store;
use crate::wait::Tick;

/// Restores a backup, and those that it needs, from the first of some stores; what that has damaged or has not comes from the
/// next one.
///
/// `progress` is called on the calling thread. Nothing of PostgreSQL is needed. The server that is started in the data directory
/// recovers as the options say.
///
/// # Errors
/// [`BackupError::Refused`] for a directory that is not empty; [`BackupError::Corrupt`] where no store has something
/// undamaged; what the stores or the system say.
pub fn restore(
    stores: &[&Store],
    id: &str,
    options: &RestoreOptions,
    progress: &mut dyn FnMut(&RestoreProgress),
    tick: Tick<'_>,
) -> Result<Restored, BackupError> {
    options.recovery.check()?;
    let (_, backup) = load_from_any(stores, id, tick)?;
    let chain = chain_of(backup, &mut |id| {
        load_from_any(stores, id, tick).map(|(_, backup)| backup)
    })?;
    let target = chain.last().ok_or_else(|| BackupError::NotFound {
        what: format!("backup {id}"),
    })?;
    let pgdata = std::path::absolute(&options.pgdata)
        .map_err(|error| BackupError::io(&options.pgdata, error))?;
    let marker = Marker {
        chain: chain.iter().map(|backup| backup.id.clone()).collect(),
        tablespaces: moved(target, &options.tablespaces)?,
        recovery: format!("{:?}", options.recovery),
        moving: false,
        token: String::new(),
    };
    let ids = marker.chain.clone();
    let place = Place::open(&pgdata, marker)?;
    let mut run = Run {
        source: Source::new(stores, options.threads, options.identities.as_ref()),
        place,
        writers: Writers::start(options.threads)?,
        progress,
        now: RestoreProgress {
            phase: RestorePhase::Files,
            bytes: 0,
            total: chain.iter().map(Backup::raw_bytes).sum(),
        },
        tick,
    };
    if !run.place.moving() {
        run.chain(target, &chain)?;
        options.recovery.write(&run.place.out())?;
    }
    run.end(ids)
}

/// Where the tablespaces of a backup go.
fn moved(backup: &Backup, moves: &[TablespaceMove]) -> Result<Vec<(u32, PathBuf)>, BackupError> {
    for TablespaceMove { from, .. } in moves {
        let known = |t: &super::super::record::BackupTablespace| {
            t.path == *from || t.oid.to_string() == *from
        };
        if !backup.tablespaces.iter().any(known) {
            return Err(BackupError::refused(
                format!("backup {} has no tablespace {from}", backup.id),
                "Name a tablespace by its oid or by the directory that it lay in; varve list shows them.",
            ));
        }
    }
    let to = |oid: u32, path: &str| {
        let found = moves
            .iter()
            .find(|m| m.from == path || m.from == oid.to_string());
        found.map_or_else(|| PathBuf::from(path), |m| m.to.clone())
    };
    let all: Vec<(u32, PathBuf)> = backup
        .tablespaces
        .iter()
        .map(|t| (t.oid, to(t.oid, &t.path)))
        .collect();
    let different: HashSet<&PathBuf> = all.iter().map(|(_, path)| path).collect();
    match different.len() == all.len() {
        true => Ok(all),
        false => Err(BackupError::refused(
            "two tablespaces would go into one directory",
            "Give each a directory of its own with --tablespace-map.",
        )),
    }
}

struct Run<'r> {
    source: Source<'r>,
    place: Place,
    writers: Writers,
    progress: &'r mut dyn FnMut(&RestoreProgress),
    now: RestoreProgress,
    tick: Tick<'r>,
}

/// One of a backup's archives.
struct Part {
    archive: Archive,
    /// The directory that it is unpacked into.
    to: PathBuf,
    /// What the paths in it have before them in the manifest.
    prefix: String,
}

impl Run<'_> {
    /// Unpacks the newest backup of a chain to where it belongs, and then of each older one what no newer one has.
    fn chain(&mut self, newest: &Backup, chain: &[Backup]) -> Result<(), BackupError> {
        let mut combined = Combined::default();
        let mut manifest = self.newest(newest, &mut combined)?;
        let mut older = chain.iter().rev().skip(1).peekable();
        if newest.parent.is_none() {
            return Ok(());
        }
        self.make_full(newest, older.peek().copied(), &mut manifest)?;
        while let Some(backup) = older.next() {
            combined.finish_whole(&self.writers, self.tick)?;
            if combined.is_finished() {
                break;
            }
            self.older(backup, older.peek().copied(), &mut combined)?;
        }
        combined.finish_whole(&self.writers, self.tick)?;
        if let Some(path) = combined.missing() {
            return Err(BackupError::corrupt(
                format!("backup {}", newest.id),
                format!("no backup of its chain has the whole file {path}"),
            ));
        }
        for (path, file) in combined.into_files() {
            manifest.replace(&incremental(&path), path, file);
        }
        let path = self.place.out().join("backup_manifest");
        let written = fs::write(&path, manifest.to_bytes());
        written.map_err(|error| BackupError::io(&path, error))
    }

    /// Unpacks the newest backup.
    fn newest(
        &mut self,
        backup: &Backup,
        combined: &mut Combined,
    ) -> Result<Manifest, BackupError> {
        let (bytes, manifest) = self.manifest(backup)?;
        let mut seen = 0;
        for part in self.parts() {
            let unpacked = self.archive(backup, &part, &manifest, None)?;
            seen += unpacked.seen.len();
            combined.settle(unpacked.filled);
            if !part.prefix.is_empty() {
                let link = self.place.out().join(&part.prefix);
                symlink(&part.to, &link).map_err(|error| BackupError::io(&link, error))?;
            }
        }
        if seen != manifest.files.len() {
            return Err(BackupError::corrupt(
                format!("backup {}", backup.id),
                format!(
                    "it has {seen} of the {} files that its manifest lists",
                    manifest.files.len()
                ),
            ));
        }
        let path = self.place.out().join("backup_manifest");
        fs::write(&path, bytes).map_err(|error| BackupError::io(&path, error))?;
        Ok(manifest)
    }

    /// Takes of an older backup what is wanted.
    fn older(
        &mut self,
        backup: &Backup,
        parent: Option<&Backup>,
        combined: &mut Combined,
    ) -> Result<(), BackupError> {
        let (_, manifest) = self.manifest(backup)?;
        for part in self.parts() {
            // What a newer backup has some blocks of, an older one has.
            for path in combined.asked(&part.prefix) {
                let files = &manifest.files;
                if !files.contains_key(path) && !files.contains_key(&incremental(path)) {
                    return Err(BackupError::corrupt(
                        format!("backup {}", backup.id),
                        format!("it lacks the file {}", String::from_utf8_lossy(path)),
                    ));
                }
            }
            // A tablespace may be younger than the backup, or have nothing that is wanted.
            if part.archive != Archive::Base && combined.asked(&part.prefix).next().is_none() {
                continue;
            }
            let unpacked = self.archive(backup, &part, &manifest, Some(combined))?;
            combined.settle(unpacked.filled);
            if part.archive == Archive::Base
                && let Some(parent) = parent
            {
                check_label(backup, parent, &unpacked.label.unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// The label of an incremental backup becomes that of a full one.
    fn make_full(
        &self,
        backup: &Backup,
        parent: Option<&Backup>,
        manifest: &mut Manifest,
    ) -> Result<(), BackupError> {
        let path = self.place.out().join(label::NAME);
        let failed = |error| BackupError::io(&path, error);
        let listed = manifest.files.get(label::NAME.as_bytes());
        if listed.is_none_or(|listed| listed.size > label::MAX_BYTES) {
            return Err(BackupError::corrupt(
                format!("backup {}", backup.id),
                "it has no backup_label, or none that is read",
            ));
        }
        let incremental = fs::read(&path).map_err(failed)?;
        if let Some(parent) = parent {
            check_label(backup, parent, &incremental)?;
        }
        let full = label::of_full(&incremental);
        fs::write(&path, &full).map_err(failed)?;
        let file = ManifestFile {
            size: full.len() as u64,
            sha256: Sha256::digest(&full).into(),
        };
        manifest.replace(label::NAME.as_bytes(), label::NAME.into(), file);
        Ok(())
    }

    /// The archives of the newest backup.
    fn parts(&self) -> Vec<Part> {
        let tablespaces = self.place.tablespaces().iter();
        let tablespaces = tablespaces.map(|(oid, directory)| Part {
            archive: Archive::Tablespace(*oid),
            to: directory.clone(),
            prefix: format!("pg_tblspc/{oid}"),
        });
        let base = Part {
            archive: Archive::Base,
            to: self.place.out(),
            prefix: String::new(),
        };
        std::iter::once(base).chain(tablespaces).collect()
    }

    /// The manifest, from the first store that has it undamaged.
    fn manifest(&mut self, backup: &Backup) -> Result<(Vec<u8>, Manifest), BackupError> {
        let object = object(backup, Archive::Manifest)?;
        let (identities, tick) = (self.source.identities, self.tick);
        let (manifest, bytes) = self.source.ask(0, &object.key, &mut |_, store| {
            let bytes = read_manifest(store, object, backup.encrypted(), identities, tick)?;
            Ok((Manifest::parse(&object.key, &bytes)?, bytes))
        })?;
        self.now.bytes += bytes.len() as u64;
        let of = manifest.system_identifier;
        if of.is_some_and(|of| of.to_string() != backup.system_identifier) {
            return Err(BackupError::corrupt(
                object.key.clone(),
                "it is the manifest of another cluster's backup",
            ));
        }
        Ok((bytes, manifest))
    }

    /// Unpacks one archive, of an older backup only what a chain wants of it.
    fn archive(
        &mut self,
        backup: &Backup,
        part: &Part,
        manifest: &Manifest,
        combined: Option<&Combined>,
    ) -> Result<Unpacked, BackupError> {
        let object = object(backup, part.archive)?;
        let before = self.now.bytes;
        let mut found = Unpacked::default();
        let (source, tick, writers) = (&self.source, self.tick, &mut self.writers);
        let (now, progress) = (&mut self.now, &mut *self.progress);
        let mut touched = Vec::new();
        let mut unpack = |archive: &mut dyn Pieces| {
            // A store's archive that turned out to be wrong has left something.
            writers.flush(tick)?;
            match combined {
                None => {
                    empty(&part.to)?;
                    directory(&part.to, 0o700)?;
                }
                Some(combined) => {
                    combined.wipe(&std::mem::take(&mut touched), writers, tick)?;
                    writers.flush(tick)?;
                }
            }
            now.bytes = before;
            let mut unpack = Unpack {
                name: &object.key,
                to: &part.to,
                prefix: &part.prefix,
                manifest,
                incremental: backup.parent.is_some(),
                combined,
                touched: &mut touched,
                writers,
                progress: &mut |bytes| {
                    now.bytes += bytes;
                    progress(now);
                },
                tick,
            };
            found = unpack.run(archive)?;
            Ok(())
        };
        source.archive(object, backup.encrypted(), &mut unpack, tick)?;
        self.now.bytes = before + object.raw_bytes;
        self.tell(RestorePhase::Files);
        Ok(found)
    }

    fn tell(&mut self, phase: RestorePhase) {
        self.now.phase = phase;
        (self.progress)(&self.now);
    }

    /// Makes everything reach the disk, and then moves it up to where a server can be started.
    fn end(mut self, chain: Vec<String>) -> Result<Restored, BackupError> {
        // Older backups of a chain are not read if nothing is wanted of them any more.
        let bytes = std::mem::replace(&mut self.now.bytes, self.now.total);
        self.tell(RestorePhase::Syncing);
        let directories = self.parts().into_iter().map(|part| part.to);
        let directories = directories.filter(|directory| directory.exists());
        self.writers.finish(self.tick)?;
        sync_all(directories.collect(), self.tick)?;
        self.place.move_up()?;
        let resumed = self.place.resumed;
        self.place.finish()?;
        Ok(Restored {
            chain,
            bytes,
            repaired: self.source.repaired(),
            resumed,
        })
    }
}

fn object(backup: &Backup, archive: Archive) -> Result<&StoredObject, BackupError> {
    backup.object(archive).ok_or_else(|| {
        BackupError::corrupt(
            format!("backup {}", backup.id),
            "an archive is not in its record",
        )
    })
}

/// Sees that a backup is based on the one that its record says.
fn check_label(backup: &Backup, parent: &Backup, label: &[u8]) -> Result<(), BackupError> {
    match label::based_on(label) {
        Some(of) if of == (parent.start_lsn, parent.timeline) => Ok(()),
        _ => Err(BackupError::corrupt(
            format!("backup {}", backup.id),
            format!(
                "its backup_label does not say that it is based on backup {}",
                parent.id
            ),
        )),
    }
}
