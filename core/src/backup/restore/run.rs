//! The course of a restore.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::chain::chain_of;
use super::super::error::BackupError;
use super::super::list::load_from_any;
use super::super::manifest::Manifest;
use super::super::record::{Archive, Backup, StoredObject};
use super::super::seal::read_manifest;
use super::combine::{combine, combine_program};
use super::fetch::Source;
use super::place::{self, Marker, Place, empty, remove, undone};
use super::sync::{Syncing, sync_all};
use super::unpack::{Unpack, directory};
use super::{RestoreOptions, RestorePhase, RestoreProgress, Restored, TablespaceMove};
use crate::store::Store;
use crate::wait::Tick;

/// Restores a backup, and those that it needs, from the first of some stores; what that has damaged or has not comes from the
/// next one.
///
/// `progress` is called on the calling thread. Nothing of PostgreSQL is needed but, for a chain, `pg_combinebackup`. The
/// server that is started in the data directory recovers as the options say.
///
/// # Errors
/// [`BackupError::Refused`] for a directory that is not empty; [`BackupError::Corrupt`] where no store has something
/// undamaged; what the stores, the system or `pg_combinebackup` say.
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
    let combine_with = match chain.len() {
        1 => None,
        _ => Some(combine_program(options.bindir.as_deref(), target)?),
    };
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
        syncing: None,
        progress,
        now: RestoreProgress {
            phase: RestorePhase::Files,
            bytes: 0,
            total: chain.iter().map(Backup::raw_bytes).sum(),
        },
        tick,
    };
    if !run.place.moving() {
        match &combine_with {
            None => run.full(target)?,
            Some(program) => run.chain(&chain, program)?,
        }
        options.recovery.write(&run.place.out())?;
        run.sync()?;
    }
    run.place.move_up()?;
    let resumed = run.place.resumed;
    run.place.finish()?;
    Ok(Restored {
        chain: ids,
        bytes: run.now.bytes,
        repaired: run.source.repaired(),
        resumed,
    })
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
    /// None for the members of a chain, which need not outlive the machine.
    syncing: Option<Syncing>,
    progress: &'r mut dyn FnMut(&RestoreProgress),
    now: RestoreProgress,
    tick: Tick<'r>,
}

impl Run<'_> {
    /// A full backup goes to where it belongs at once.
    fn full(&mut self, backup: &Backup) -> Result<(), BackupError> {
        self.syncing = Some(Syncing::start()?);
        let (out, tablespaces) = (self.place.out(), self.place.tablespaces().to_vec());
        self.member(backup, &out, &tablespaces)
    }

    /// The backups of a chain are unpacked beside each other and combined.
    fn chain(&mut self, chain: &[Backup], program: &Path) -> Result<(), BackupError> {
        let work = self.place.work();
        let mut members = Vec::new();
        let mut mapping = Vec::new();
        for (number, backup) in chain.iter().enumerate() {
            let member = work.join(number.to_string());
            let data = member.join("data");
            let tablespaces: Vec<(u32, PathBuf)> = backup
                .tablespaces
                .iter()
                .map(|t| (t.oid, member.join(t.oid.to_string())))
                .collect();
            if place::is_done(&member) {
                self.now.bytes += backup.raw_bytes();
            } else {
                remove(&member)?;
                self.member(backup, &data, &tablespaces)?;
                place::done(&member)?;
            }
            members.push(data);
            mapping = tablespaces;
        }
        self.tell(RestorePhase::Combining);
        let mapping: Vec<(PathBuf, PathBuf)> = mapping
            .into_iter()
            .filter_map(|(oid, from)| {
                let mut to = self.place.tablespaces().iter();
                let (_, to) = to.find(|(other, _)| *other == oid)?;
                Some((from, Place::combined(to)))
            })
            .collect();
        let (out, said) = (self.place.out(), work.join("combine.log"));
        combine(program, &members, &mapping, &out, &said, self.tick)?;
        self.place.settle()?;
        for number in 0..chain.len() {
            let member = work.join(number.to_string());
            // What is half removed must not be taken for done.
            undone(&member)?;
            remove(&member)?;
        }
        Ok(())
    }

    /// Unpacks one backup.
    fn member(
        &mut self,
        backup: &Backup,
        data: &Path,
        tablespaces: &[(u32, PathBuf)],
    ) -> Result<(), BackupError> {
        let object = |archive| {
            backup.object(archive).ok_or_else(|| {
                BackupError::corrupt(
                    format!("backup {}", backup.id),
                    "an archive is not in its record",
                )
            })
        };
        let (bytes, manifest) = self.manifest(backup, object(Archive::Manifest)?)?;
        self.now.bytes += bytes.len() as u64;
        let mut seen = 0;
        let base = object(Archive::Base)?;
        seen += self.archive(backup, base, data, String::new(), &manifest)?;
        for (oid, directory) in tablespaces {
            let prefix = format!("pg_tblspc/{oid}");
            let object = object(Archive::Tablespace(*oid))?;
            seen += self.archive(backup, object, directory, prefix.clone(), &manifest)?;
            let link = data.join(prefix);
            symlink(directory, &link).map_err(|error| BackupError::io(&link, error))?;
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
        let path = data.join("backup_manifest");
        fs::write(&path, bytes).map_err(|error| BackupError::io(&path, error))
    }

    /// The manifest, from the first store that has it undamaged.
    fn manifest(
        &self,
        backup: &Backup,
        object: &StoredObject,
    ) -> Result<(Vec<u8>, Manifest), BackupError> {
        self.source
            .ask(0, &object.key, &mut |_, store| {
                let identities = self.source.identities;
                let bytes =
                    read_manifest(store, object, backup.encrypted(), identities, self.tick)?;
                Ok((Manifest::parse(&object.key, &bytes)?, bytes))
            })
            .map(|(manifest, bytes)| (bytes, manifest))
    }

    /// Unpacks one archive; how many files of the manifest were in it.
    fn archive(
        &mut self,
        backup: &Backup,
        object: &StoredObject,
        to: &Path,
        prefix: String,
        manifest: &Manifest,
    ) -> Result<usize, BackupError> {
        let before = self.now.bytes;
        let mut found = 0;
        let (source, tick, syncing) = (&self.source, self.tick, self.syncing.as_ref());
        let (now, progress) = (&mut self.now, &mut *self.progress);
        let mut unpack = |archive: &mut dyn std::io::BufRead| {
            // A store's archive that turned out to be wrong has left something.
            empty(to)?;
            directory(to, 0o700)?;
            now.bytes = before;
            let mut unpack = Unpack {
                name: &object.key,
                to,
                prefix: prefix.clone(),
                manifest,
                seen: HashSet::new(),
                progress: &mut |bytes| {
                    now.bytes += bytes;
                    progress(now);
                },
                syncing,
                tick,
            };
            unpack.run(archive)?;
            found = unpack.seen.len();
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

    /// Makes everything reach the disk.
    fn sync(&mut self) -> Result<(), BackupError> {
        self.tell(RestorePhase::Syncing);
        if let Some(syncing) = self.syncing.take() {
            syncing.finish(self.tick)?;
        }
        let tablespaces = self.place.tablespaces().iter();
        let tablespaces = tablespaces.map(|(_, directory)| directory.clone());
        let directories = std::iter::once(self.place.out()).chain(tablespaces);
        sync_all(directories.collect(), self.tick)
    }
}
