//! What a store has, as far as its listings and records tell: nothing but records is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chain::{Target, choose_along, link_fault};
use super::copy::Contents;
use super::error::BackupError;
use super::keys::BACKUP_PREFIX;
use super::list::load_listed;
use super::record::Backup;
use super::timeline::Timelines;
use super::wal_list::WalFile;
use super::wal_name::WalName;
use crate::seal::Identities;
use crate::store::Store;
use crate::wait::Tick;

/// What a store has.
#[derive(Debug)]
pub struct StoreState {
    /// Backups whose records can be read, by their age.
    pub backups: Vec<Backup>,
    /// What has the name of a backup and a record that cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
    /// Backups that cannot be restored from this store, and what is missing.
    pub incomplete: Vec<(String, String)>,
    /// The timelines that it knows.
    pub timelines: Timelines,
    /// Files of WAL that are not known to be damaged, in order of their names.
    pub wal: Vec<WalFile>,
}

/// Looks into a store whose listings were read. Histories of timelines that are encrypted are known only with `identities`. `damaged` are keys of objects that are known to be, and what is wrong with them: they count as missing.
///
/// # Errors
/// What the store answers.
pub fn state(
    store: &Store,
    contents: &Contents,
    damaged: &BTreeMap<String, String>,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<StoreState, BackupError> {
    let found = contents.sizes();
    let found = found
        .map(|(key, size)| sized(key.to_owned(), size, damaged))
        .collect();
    let (mut backups, mut unreadable) = (Vec::new(), Vec::new());
    for id in contents.recorded() {
        let Some(listed) = load_listed(store, id, tick)? else {
            continue;
        };
        match listed.backup {
            Ok(backup) => backups.push(backup),
            Err(error) => unreadable.push((listed.id, error.to_string())),
        }
    }
    backups.sort_by(|a, b| (a.stopped_at, &a.id).cmp(&(b.stopped_at, &b.id)));
    let mut wal: Vec<WalFile> = contents.wal_files().collect();
    let mut timelines = Timelines::default();
    for file in &wal {
        if let WalName::History { timeline } = file.name {
            timelines.read(store, timeline, identities, tick)?;
        }
    }
    wal.retain(|file| !damaged.contains_key(&file.key));
    let there = wal.iter().map(|file| &file.name).collect();
    let incomplete = incomplete(&backups, &found, &there);
    Ok(StoreState {
        backups,
        unreadable,
        incomplete,
        timelines,
        wal,
    })
}

/// The sizes of objects by their keys, in bytes, or what is wrong with them.
pub(super) type Sizes = HashMap<String, Result<u64, String>>;

/// The objects of all backups in a store; `damaged` are those that are known to be.
pub(super) fn sizes(
    store: &Store,
    damaged: &BTreeMap<String, String>,
    tick: Tick<'_>,
) -> Result<Sizes, BackupError> {
    let mut found = Sizes::new();
    for object in store.list(BACKUP_PREFIX, tick)? {
        let object = object?;
        found.extend([sized(object.key, object.size, damaged)]);
    }
    Ok(found)
}

/// An object's size, or what is known to be wrong with it.
fn sized(
    key: String,
    size: u64,
    damaged: &BTreeMap<String, String>,
) -> (String, Result<u64, String>) {
    let size = match damaged.get(&key) {
        None => Ok(size),
        Some(detail) => Err(detail.clone()),
    };
    (key, size)
}

/// Of each backup, whether its chain holds together and has all its objects, or what is missing.
pub(super) fn chains<'b>(
    backups: &'b [Backup],
    found: &Sizes,
) -> HashMap<&'b str, Result<(), String>> {
    let mut order: Vec<&Backup> = backups.iter().collect();
    // A parent begins before its children, though it may end behind them.
    order.sort_by_key(|backup| (backup.started_at, &backup.id));
    let mut chains: HashMap<&str, (&Backup, Result<(), String>)> = HashMap::new();
    for backup in order {
        let above = || match &backup.parent {
            None => Ok(()),
            Some(parent) => match chains.get(parent.as_str()) {
                Some((parent, whole)) => match link_fault(backup, parent) {
                    Some(fault) => Err(fault.to_owned()),
                    None => whole.clone(),
                },
                None => Err(format!("backup {parent} is missing")),
            },
        };
        let whole = match object_that_is_missing(backup, found) {
            Some(missing) => Err(missing),
            None => above(),
        };
        chains.insert(&backup.id, (backup, whole));
    }
    let whole = chains.into_iter().map(|(id, (_, whole))| (id, whole));
    whole.collect()
}

/// The first object of a backup that is not there as its record says.
fn object_that_is_missing(backup: &Backup, found: &Sizes) -> Option<String> {
    let mut objects = backup.objects.iter();
    objects.find_map(|object| match found.get(&object.key) {
        None => Some(format!("{} is missing", object.key)),
        Some(Err(detail)) => Some(format!("{} is damaged: {detail}", object.key)),
        Some(Ok(size)) if *size != object.stored_bytes => Some(format!(
            "{} has {size} bytes and should have {}",
            object.key, object.stored_bytes
        )),
        Some(Ok(_)) => None,
    })
}

/// Backups of which something is missing, and what: an object, the backup that they are based on, WAL that they need.
pub(super) fn incomplete(
    backups: &[Backup],
    found: &Sizes,
    there: &BTreeSet<&WalName>,
) -> Vec<(String, String)> {
    let chains = chains(backups, found);
    let missing = |backup: &Backup| {
        let whole = chains.get(backup.id.as_str()).cloned();
        let missing = whole.and_then(Result::err);
        missing.or_else(|| wal_that_is_missing(backup, there))
    };
    let incomplete = backups
        .iter()
        .filter_map(|backup| Some((backup.id.clone(), missing(backup)?)));
    incomplete.collect()
}

/// The first file of WAL that a backup needs and that is not there.
fn wal_that_is_missing(backup: &Backup, there: &BTreeSet<&WalName>) -> Option<String> {
    if backup.includes_wal {
        return None;
    }
    let segment = backup.wal_segment_bytes;
    let first = backup.start_lsn.0 / segment;
    let last = backup.stop_lsn.0.saturating_sub(1) / segment;
    (first..=last)
        .map(|number| WalName::of_number(backup.timeline, number, segment))
        .find(|name| !there.contains(name))
        .map(|name| format!("WAL {name} is missing"))
}

impl StoreState {
    /// The newest backup that can be restored from this store alone, and leads to its newest timeline.
    pub fn newest_good(&self) -> Option<&Backup> {
        let lacks = |backup: &&Backup| self.incomplete.iter().any(|(id, _)| *id == backup.id);
        let whole = self.backups.iter().filter(|backup| !lacks(backup));
        choose_along(whole, Target::Latest, &self.timelines, None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::lsn::Lsn;
    use super::super::record::{Archive, Kind, StoredObject};
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn backup(id: &str, parent: Option<&str>, segments: (u64, u64)) -> Backup {
        let moment = format!("2026-11-29T08:00:{:02}Z", segments.1)
            .parse()
            .unwrap();
        Backup {
            version: 1,
            id: id.to_owned(),
            kind: match parent {
                None => Kind::Full,
                Some(_) => Kind::Incremental,
            },
            parent: parent.map(str::to_owned),
            label: String::new(),
            started_at: moment,
            stopped_at: moment,
            start_lsn: Lsn(segments.0 * SEGMENT + 40),
            stop_lsn: Lsn(segments.1 * SEGMENT + 40),
            timeline: 1,
            server_version: "17.12".to_owned(),
            wal_segment_bytes: SEGMENT,
            system_identifier: "1".to_owned(),
            includes_wal: false,
            tablespaces: Vec::new(),
            compression: "zstd".to_owned(),
            encryption: None,
            objects: vec![StoredObject {
                key: format!("backups/{id}/base.tar.zst"),
                archive: Archive::Base,
                stored_bytes: 7,
                raw_bytes: 9,
                sha256: String::new(),
                frame_bytes: 9,
                frames: vec![7],
            }],
            checks: serde_json::Value::Null,
        }
    }

    fn wal(numbers: &[u64]) -> Vec<WalFile> {
        let file = |number: &u64| WalFile {
            name: WalName::of_number(1, *number, SEGMENT),
            key: String::new(),
            stored_bytes: 1,
            encrypted: false,
        };
        numbers.iter().map(file).collect()
    }

    fn of(backups: Vec<Backup>, sizes: &[(&str, u64)], numbers: &[u64]) -> StoreState {
        let sizes = sizes
            .iter()
            .map(|(id, size)| (format!("backups/{id}/base.tar.zst"), Ok(*size)))
            .collect();
        let wal = wal(numbers);
        StoreState {
            incomplete: incomplete(
                &backups,
                &sizes,
                &wal.iter().map(|file| &file.name).collect(),
            ),
            backups,
            unreadable: Vec::new(),
            timelines: Timelines::default(),
            wal,
        }
    }

    fn three() -> Vec<Backup> {
        vec![
            backup("a", None, (1, 1)),
            backup("b", Some("a"), (2, 3)),
            backup("c", Some("b"), (5, 5)),
        ]
    }

    #[test]
    fn what_is_whole_is_good() {
        let all = [("a", 7), ("b", 7), ("c", 7)];
        let whole = of(three(), &all, &[1, 2, 3, 4, 5]);
        assert!(whole.incomplete.is_empty());
        assert_eq!(whole.newest_good().unwrap().id, "c");
        assert!(of(Vec::new(), &[], &[]).newest_good().is_none());
    }

    #[test]
    fn what_lacks_something_is_not() {
        let all = [("a", 7), ("b", 7), ("c", 7)];
        // WAL of the parents is not needed.
        let state = of(three(), &all, &[5]);
        assert_eq!(state.newest_good().unwrap().id, "c");
        let state = of(three(), &all, &[1, 2, 3]);
        assert_eq!(state.newest_good().unwrap().id, "b");
        let state = of(three(), &all, &[1, 2]);
        assert_eq!(state.newest_good().unwrap().id, "a");
        let state = of(three(), &[("a", 7), ("b", 6), ("c", 7)], &[1, 2, 3, 5]);
        assert_eq!(state.newest_good().unwrap().id, "a");
        assert!(state.incomplete.iter().all(|(_, why)| why.contains("/b/")));
        let orphans = three().split_off(1);
        assert!(of(orphans, &all, &[2, 3, 5]).newest_good().is_none());
    }

    /// A parent may end after a child that was begun later.
    #[test]
    fn a_child_that_ended_first() {
        let mut backups = three();
        backups[0].stopped_at = "2026-11-29T09:00:00Z".parse().unwrap();
        backups.sort_by_key(|backup| backup.stopped_at);
        let all = [("a", 7), ("b", 7), ("c", 7)];
        let state = of(backups, &all, &[1, 2, 3, 4, 5]);
        assert!(state.incomplete.is_empty(), "{:?}", state.incomplete);
    }
}
