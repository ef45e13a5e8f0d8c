//! What one store has and another has not.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::super::error::BackupError;
use super::super::keys::{self, BACKUP_PREFIX, RECORD_NAME, RUNNING_NAME, WAL_PREFIX, WalPart};
use super::super::record::Backup;
use super::super::snapshot::{self, SNAPSHOT_PREFIX};
use super::super::wal_list::{WalFile, wal_file};
use crate::store::Store;
use crate::wait::Tick;

/// What a copy lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lag {
    /// Ids of backups, oldest first.
    pub backups: Vec<String>,
    /// Ids of snapshots of tables, oldest first.
    pub snapshots: Vec<String>,
    /// How many files of WAL.
    pub wal_files: u64,
    /// Bytes of all objects that are missing or of another size.
    pub bytes: u64,
    /// When the oldest of them was written to the store that has it, by its clock; none if nothing is missing.
    pub since: Option<SystemTime>,
}

impl Lag {
    /// Whether nothing is missing.
    pub fn is_none(&self) -> bool {
        self.since.is_none()
    }

    fn add(&mut self, object: &Stored) {
        self.bytes += object.size;
        let since = self.since.unwrap_or(object.modified);
        self.since = Some(since.min(object.modified));
    }
}

/// What `to` has not of what `from` has. Only listings are read, so that damage is not noticed.
///
/// # Errors
/// What the stores answer.
pub fn compare(from: &Store, to: &Store, tick: Tick<'_>) -> Result<Lag, BackupError> {
    let there = Contents::of(to, tick)?;
    Ok(Contents::of(from, tick)?.lacking_in(&there))
}

/// An object in a listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) size: u64,
    modified: SystemTime,
}

/// The objects of a store by their keys.
pub(super) type Objects = BTreeMap<String, Stored>;

/// What a store has, by its listings: each is read once, whatever is asked of it.
pub struct Contents {
    /// By their ids; some have no record.
    pub(super) backups: BTreeMap<String, Objects>,
    /// As the backups.
    pub(super) snapshots: BTreeMap<String, Objects>,
    pub(super) wal: Objects,
}

/// The objects below a prefix by the ids in their keys.
fn by_id(
    store: &Store,
    prefix: &str,
    id_of: fn(&str) -> Option<&str>,
    tick: Tick<'_>,
) -> Result<BTreeMap<String, Objects>, BackupError> {
    let mut found: BTreeMap<String, Objects> = BTreeMap::new();
    for object in store.list(prefix, tick)? {
        let object = object?;
        let stored = Stored {
            size: object.size,
            modified: object.modified,
        };
        if let Some(id) = id_of(&object.key) {
            let entry = found.entry(id.to_owned()).or_default();
            entry.insert(object.key, stored);
        }
    }
    Ok(found)
}

/// The id of the backup that an object is part of.
fn backup_of(key: &str) -> Option<&str> {
    let (id, name) = keys::split(key)?;
    (keys::is_id(id) && name != RUNNING_NAME).then_some(id)
}

impl Contents {
    /// Lists a store.
    ///
    /// # Errors
    /// What the store answers.
    pub fn of(store: &Store, tick: Tick<'_>) -> Result<Self, BackupError> {
        let backups = by_id(store, BACKUP_PREFIX, backup_of, tick)?;
        let snapshots = by_id(store, SNAPSHOT_PREFIX, snapshot::id_of, tick)?;
        let wal = wal_of(store, tick)?;
        Ok(Self {
            backups,
            snapshots,
            wal,
        })
    }

    /// The objects of a backup that are in a store now, and the WAL of its timeline.
    pub(super) fn of_backup(
        store: &Store,
        backup: &Backup,
        tick: Tick<'_>,
    ) -> Result<Objects, BackupError> {
        let mut found = Objects::new();
        let id = &backup.id;
        let mut ids = by_id(store, &format!("{BACKUP_PREFIX}/{id}"), backup_of, tick)?;
        found.extend(ids.remove(id).unwrap_or_default());
        found.extend(wal_below(store, &wal_prefix(backup.timeline), tick)?);
        Ok(found)
    }

    /// The keys of a backup's objects that are known, and of WAL of its timeline.
    pub(super) fn of_backup_or_wal(&self, backup: &Backup) -> impl Iterator<Item = &str> {
        let below = format!("{}/", wal_prefix(backup.timeline));
        let wal = self.wal.keys().filter(move |key| key.starts_with(&below));
        let own = self.backups.get(&backup.id).into_iter();
        own.flat_map(Objects::keys).chain(wal).map(String::as_str)
    }

    /// Notes objects that are there.
    pub(super) fn extend(&mut self, objects: Objects) {
        for (key, stored) in objects {
            self.among(&key).insert(key, stored);
        }
    }

    /// The objects that one with a key is among.
    fn among(&mut self, key: &str) -> &mut Objects {
        match (keys::split(key), snapshot::id_of(key)) {
            (Some((id, _)), _) => self.backups.entry(id.to_owned()).or_default(),
            (None, Some(id)) => self.snapshots.entry(id.to_owned()).or_default(),
            (None, None) => &mut self.wal,
        }
    }

    /// Notes an object that was written.
    pub(super) fn add(&mut self, key: &str, size: u64) {
        let modified = SystemTime::now();
        let stored = Stored { size, modified };
        self.among(key).insert(key.to_owned(), stored);
    }

    /// Notes an object that was deleted.
    pub(super) fn forget(&mut self, key: &str) {
        self.among(key).remove(key);
    }

    /// Whether a snapshot exists elsewhere, with these objects, and not whole here.
    pub(super) fn lacks_snapshot(&self, id: &str, objects: &Objects) -> bool {
        objects.contains_key(&snapshot::record_of(id))
            && missing(objects, self.snapshots.get(id)).next().is_some()
    }

    pub(super) fn size_in_backup(&self, id: &str, key: &str) -> Option<u64> {
        Some(self.backups.get(id)?.get(key)?.size)
    }

    pub(super) fn has_record(&self, id: &str) -> bool {
        self.size_in_backup(id, &keys::in_backup(id, RECORD_NAME))
            .is_some()
    }

    /// Whether a backup exists elsewhere, with these objects, and not whole here.
    pub(super) fn lacks_backup(&self, id: &str, objects: &Objects) -> bool {
        objects.contains_key(&keys::in_backup(id, RECORD_NAME))
            && missing(objects, self.backups.get(id)).next().is_some()
    }

    /// The ids of what has the record of a backup.
    pub(in crate::backup) fn recorded(&self) -> impl Iterator<Item = &str> {
        let ids = self.backups.keys().map(String::as_str);
        ids.filter(|id| self.has_record(id))
    }

    /// The objects of backups, and their sizes in bytes.
    pub(in crate::backup) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        let objects = self.backups.values().flatten();
        objects.map(|(key, stored)| (key.as_str(), stored.size))
    }

    /// The files of WAL, in order of their names.
    pub(in crate::backup) fn wal_files(&self) -> impl Iterator<Item = WalFile> {
        let objects = self.wal.iter();
        objects.filter_map(|(key, stored)| wal_file(key.clone(), stored.size))
    }

    /// What another store lacks of what is here.
    pub fn lacking_in(&self, there: &Self) -> Lag {
        let mut lag = Lag::default();
        for (id, objects) in &self.backups {
            if there.lacks_backup(id, objects) {
                lag.backups.push(id.clone());
                for (_, object) in missing(objects, there.backups.get(id)) {
                    lag.add(object);
                }
            }
        }
        for (id, objects) in &self.snapshots {
            if there.lacks_snapshot(id, objects) {
                lag.snapshots.push(id.clone());
                for (_, object) in missing(objects, there.snapshots.get(id)) {
                    lag.add(object);
                }
            }
        }
        for (key, object) in missing(&self.wal, Some(&there.wal)) {
            let is_sum = keys::wal_object(key).is_some_and(|(_, part)| part == WalPart::Sum);
            lag.wal_files += u64::from(!is_sum);
            lag.add(object);
        }
        lag
    }
}

/// Below it is WAL of one timeline.
fn wal_prefix(timeline: u32) -> String {
    format!("{WAL_PREFIX}/{timeline:08X}")
}

/// The objects of WAL in a store.
pub(super) fn wal_of(store: &Store, tick: Tick<'_>) -> Result<Objects, BackupError> {
    wal_below(store, WAL_PREFIX, tick)
}

fn wal_below(store: &Store, prefix: &str, tick: Tick<'_>) -> Result<Objects, BackupError> {
    let mut wal = Objects::new();
    for object in store.list(prefix, tick)? {
        let object = object?;
        if keys::wal_object(&object.key).is_some() {
            let stored = Stored {
                size: object.size,
                modified: object.modified,
            };
            wal.insert(object.key, stored);
        }
    }
    Ok(wal)
}

/// What is not there, or has another size.
pub(super) fn missing<'o>(
    here: &'o Objects,
    there: Option<&'o Objects>,
) -> impl Iterator<Item = (&'o str, &'o Stored)> {
    here.iter()
        .filter(move |(key, object)| {
            let found = there.and_then(|there| there.get(key.as_str()));
            found.is_none_or(|found| found.size != object.size)
        })
        .map(|(key, object)| (key.as_str(), object))
}
