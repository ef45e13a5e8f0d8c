//! Removing backups that are old, and WAL that nobody needs any more.

mod keep;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::keep::{Decision, Known, Running, Situation, Unknown, decide};
use super::error::BackupError;
use super::keys::{self, BACKUP_PREFIX, RECORD_NAME, WAL_PREFIX, WalPart};
use super::list::{list, load, remove};
use super::lsn::Lsn;
use super::record::Backup;
use super::running::{SILENT, is_alive, parent_of};
use super::state::{Sizes, incomplete};
use super::timeline::Timelines;
use super::timestamp::Timestamp;
use super::wal_name::WalName;
use crate::store::Store;
use crate::wait::Tick;

/// How long backups are kept. A full backup stays if one of the two says so; with neither nothing is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// So many of the newest full backups.
    pub keep_full: Option<u32>,
    /// Full backups that ended within that time, and the newest one before, so that every moment in it can be reached.
    pub keep_for: Option<Duration>,
}

/// A backup that shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredBackup {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Bytes of its objects, its record included.
    pub bytes: u64,
}

/// An object of WAL that shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredWal {
    /// Its key.
    pub key: String,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// What is removed from a store by a retention.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expiry {
    /// Backups, in the order in which they are removed: none before those that need it.
    pub backups: Vec<ExpiredBackup>,
    /// Objects of WAL, oldest first.
    pub wal: Vec<ExpiredWal>,
    /// What stays although one might expect it to go, and why.
    pub notes: Vec<String>,
}

impl Expiry {
    /// Whether nothing is removed.
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty() && self.wal.is_empty()
    }

    /// Bytes of the backups.
    pub fn backup_bytes(&self) -> u64 {
        self.backups.iter().map(|backup| backup.bytes).sum()
    }

    /// Bytes of the WAL.
    pub fn wal_bytes(&self) -> u64 {
        self.wal.iter().map(|wal| wal.bytes).sum()
    }
}

/// What has been removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A backup.
    Backup(ExpiredBackup),
    /// An object of WAL.
    Wal(ExpiredWal),
}

/// Says what a retention would remove, and why the rest stays. Nothing is changed.
///
/// With a full backup go those that need it, and with the last backup that needs it WAL; histories of timelines stay. Never
/// removed are the newest full backup and what leads on from it, what a backup that stays needs, and backups whose chain
/// cannot be followed, for nobody knows what these need: until they are gone nothing older goes either.
///
/// A full backup of which something is missing, or among `damaged`, which are keys of objects that are known to be and what is
/// wrong with them, does not count as one that is kept: it stays as long as those that do are not newer.
///
/// # Errors
/// What the store answers.
pub fn plan_expiry(
    store: &Store,
    retention: &Retention,
    damaged: &BTreeMap<String, String>,
    now: Timestamp,
    tick: Tick<'_>,
) -> Result<Expiry, BackupError> {
    let mut expiry = Expiry::default();
    if *retention == Retention::default() {
        return Ok(expiry);
    }
    let found = Found::of(store, damaged, tick)?;
    let Decision {
        remove,
        notes,
        wal_before,
    } = decide(&found.situation, retention, now);
    expiry.notes = notes;
    for (id, reason) in remove {
        expiry.backups.push(ExpiredBackup {
            bytes: found.bytes.get(&id).copied().unwrap_or_default(),
            id,
            reason,
        });
    }
    let Some((segment, first)) = wal_before else {
        return Ok(expiry);
    };
    let old = |name: &WalName| name.segment_number(segment).is_some_and(|n| n < first);
    let mut wal: Vec<_> = found.wal.into_iter().filter(|w| old(&w.name)).collect();
    // By their position, and what was written first goes last.
    wal.sort_by_cached_key(|w| (w.name.segment_number(segment), w.key.clone()));
    wal.sort_by_key(|w| (w.name.segment_number(segment), w.part == WalPart::Sum));
    expiry.wal = wal
        .into_iter()
        .map(|wal| ExpiredWal {
            key: wal.key,
            bytes: wal.bytes,
        })
        .collect();
    Ok(expiry)
}

/// Removes what was planned: of each backup the record first, then WAL. `progress` is called on the calling thread for all
/// that has gone.
///
/// # Errors
/// [`BackupError::Refused`] if there is a backup now that needs one of those: it stays, and so does all that has not gone
/// before; what the store answers: what was not removed then is planned again the next time, or is swept where its record has
/// gone.
pub fn expire(
    store: &Store,
    expiry: &Expiry,
    progress: &mut dyn FnMut(&Removed),
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    if expiry.is_empty() {
        return Ok(());
    }
    let going = expiry.backups.iter().map(|backup| backup.id.clone());
    let mut needs = Needs {
        store,
        going: going.collect(),
        seen: BTreeSet::new(),
    };
    for backup in &expiry.backups {
        // It takes a while until all of them have gone.
        needs.check(tick)?;
        remove(store, &backup.id, tick)?;
        needs.going.remove(&backup.id);
        progress(&Removed::Backup(backup.clone()));
    }
    for wal in &expiry.wal {
        store.delete(&wal.key, tick)?;
        progress(&Removed::Wal(wal.clone()));
    }
    Ok(())
}

/// Looks for backups that were begun meanwhile and need what shall go.
struct Needs<'n> {
    store: &'n Store,
    /// What is there still.
    going: BTreeSet<String>,
    /// Backups that need none of these.
    seen: BTreeSet<String>,
}

impl Needs<'_> {
    /// # Errors
    /// [`BackupError::Refused`] if there is one; what the store answers.
    fn check(&mut self, tick: Tick<'_>) -> Result<(), BackupError> {
        let (mut signs, mut exist) = (Vec::new(), BTreeSet::new());
        for object in self.store.list(BACKUP_PREFIX, tick)? {
            let object = object?;
            if is_alive(&object, SILENT) {
                signs.push(object.key);
            } else if let Some((id, RECORD_NAME)) = keys::split(&object.key) {
                exist.insert(id.to_owned());
            }
        }
        for sign in signs {
            if let Some((id, _)) = keys::split(&sign)
                && !exist.contains(id)
                && let Some(Some(parent)) = parent_of(self.store, &sign, tick)?
            {
                self.refuse(id, &parent)?;
            }
        }
        for id in exist {
            if self.seen.contains(&id) || self.going.contains(&id) {
                continue;
            }
            match load(self.store, &id, tick) {
                Ok(backup) => {
                    if let Some(parent) = &backup.parent {
                        self.refuse(&id, parent)?;
                    }
                    self.seen.insert(id);
                }
                Err(error) if error.is_cancelled() || error.is_unreachable() => return Err(error),
                // What cannot be read has kept what it may need when it was planned.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn refuse(&self, id: &str, parent: &str) -> Result<(), BackupError> {
        match self.going.contains(parent) {
            false => Ok(()),
            true => Err(BackupError::refused(
                format!("backup {id} needs backup {parent}, which should be removed"),
                "It was begun meanwhile: plan again.",
            )),
        }
    }
}

/// An object of WAL.
struct WalObject {
    name: WalName,
    part: WalPart,
    key: String,
    bytes: u64,
}

/// What a store has.
struct Found {
    situation: Situation,
    /// Bytes of each backup's objects.
    bytes: BTreeMap<String, u64>,
    wal: Vec<WalObject>,
}

impl Found {
    fn of(
        store: &Store,
        damaged: &BTreeMap<String, String>,
        tick: Tick<'_>,
    ) -> Result<Self, BackupError> {
        let (mut backups, mut unknown) = (Vec::new(), Vec::new());
        for listed in list(store, tick)? {
            match listed.backup {
                Ok(backup) => backups.push(backup),
                Err(error) => unknown.push(Unknown {
                    id: listed.id,
                    why: error.to_string(),
                }),
            }
        }
        let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
        let mut sizes = Sizes::new();
        let (mut alive, mut exists) = (Vec::new(), BTreeSet::new());
        for object in store.list(BACKUP_PREFIX, tick)? {
            let object = object?;
            let Some((id, name)) = keys::split(&object.key) else {
                continue;
            };
            *bytes.entry(id.to_owned()).or_default() += object.size;
            let size = damaged
                .get(&object.key)
                .cloned()
                .map_or(Ok(object.size), Err);
            sizes.insert(object.key.clone(), size);
            if name == RECORD_NAME {
                exists.insert(id.to_owned());
            } else if is_alive(&object, SILENT) {
                alive.push((id.to_owned(), object.key));
            }
        }
        let mut running = Vec::new();
        for (id, key) in alive {
            if exists.contains(&id) {
                continue;
            }
            if let Some(parent) = parent_of(store, &key, tick)? {
                running.push(Running { id, parent });
            }
        }
        let mut wal = Vec::new();
        for object in store.list(WAL_PREFIX, tick)? {
            let object = object?;
            if let Some((name, part)) = keys::wal_object(&object.key) {
                wal.push(WalObject {
                    name,
                    part,
                    key: object.key,
                    bytes: object.size,
                });
            }
        }
        let sound = |w: &&WalObject| w.part != WalPart::Sum && !damaged.contains_key(&w.key);
        let there = wal.iter().filter(sound).map(|w| &w.name).collect();
        let mut faults: BTreeMap<String, String> =
            incomplete(&backups, &sizes, &there).into_iter().collect();
        let with_fault = |backup: Backup| Known {
            fault: faults.remove(&backup.id),
            ..Known::of(backup)
        };
        let known: Vec<Known> = backups.into_iter().map(with_fault).collect();
        let mut timelines = Timelines::default();
        for object in &wal {
            if let WalName::History { timeline } = object.name {
                timelines.read(store, timeline, None, tick)?;
            }
        }
        Ok(Self {
            situation: Situation {
                unknown,
                running,
                begins: begins(&known, &wal, &timelines),
                timelines,
                known,
            },
            bytes,
            wal,
        })
    }
}

/// Where each timeline begins, as its history says if it can be read without keys; else its first segment begins no later, and
/// so does that of the first backup on it.
fn begins(known: &[Known], wal: &[WalObject], timelines: &Timelines) -> BTreeMap<u32, Option<Lsn>> {
    let mut begins: BTreeMap<u32, Option<Lsn>> = BTreeMap::new();
    let mut note = |timeline: u32, number: Option<u64>, segment: u64| {
        let at = number.map(|number| Lsn(number.saturating_mul(segment)));
        let known = begins.entry(timeline).or_default();
        *known = match (*known, at) {
            (Some(before), Some(at)) => Some(before.min(at)),
            (before, at) => before.or(at),
        };
    };
    for backup in known {
        let segment = backup.segment_bytes;
        note(backup.timeline, Some(backup.start_lsn.0 / segment), segment);
    }
    let segment = known.first().map_or(0, |backup| backup.segment_bytes);
    for object in wal.iter().filter(|_| segment > 0) {
        note(object.name.timeline(), object.name.number(segment), segment);
    }
    for (timeline, begin) in &mut begins {
        *begin = timelines.begin(*timeline).or(*begin);
    }
    begins
}
