//! Which backup a drill or a plan begins with, and which WAL there is behind it.

use super::keys;
use crate::stores;
use std::collections::BTreeMap;
use varve_core::backup::{
    self, Backup, BackupError, Target, Timelines, Timestamp, WalFile, WalReach,
};
use varve_core::store::{ErrorKind, Role, Store};

/// A store, and what SQL calls it.
pub struct Named {
    /// Name of the server.
    pub name: String,
    /// The store.
    pub store: Store,
}

/// The stores that the current user may use: primary ones first, then secondary, then offsite.
pub struct Stores {
    /// In the order in which they are asked.
    pub all: Vec<Named>,
    /// Why others cannot be opened.
    pub troubles: Vec<String>,
}

impl Stores {
    /// Opens them.
    pub fn usable() -> Self {
        let mut all = Vec::new();
        let mut troubles = Vec::new();
        for (name, store) in stores::all_usable() {
            match store {
                // What is restored is started, and may hold code of whoever wrote it.
                Ok(_) if !stores::is_trusted(&name) => troubles.push(format!(
                    "store \"{name}\" is not asked: its owner is no superuser"
                )),
                Ok(store) => all.push(Named { name, store }),
                Err(why) => troubles.push(format!("store \"{name}\": {why}")),
            }
        }
        all.sort_by_key(|named| match named.store.role() {
            Role::Primary => 0,
            Role::Secondary => 1,
            Role::Offsite => 2,
        });
        Stores { all, troubles }
    }

    /// Takes out those in which nothing was ever put; their names. A restored server takes such a store for one that is
    /// not mounted.
    pub fn take_out_empty(&mut self) -> Vec<String> {
        let is_empty = |named: &Named| {
            let found = named.store.head(backup::CLUSTER_KEY, &stores::interrupts);
            found.is_err_and(|e| e.kind() == ErrorKind::NotFound)
        };
        let (empty, filled) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(is_empty);
        self.all = filled;
        let empty: Vec<Named> = empty;
        empty.into_iter().map(|named| named.name).collect()
    }

    /// The stores alone.
    pub fn refs(&self) -> Vec<&Store> {
        self.all.iter().map(|named| &named.store).collect()
    }

    /// The backups in any of them, by their ids.
    ///
    /// # Errors
    /// Where none of them can be listed, what the first answers.
    pub fn backups(&mut self) -> Result<BTreeMap<String, Backup>, BackupError> {
        let mut found = BTreeMap::new();
        let mut first = None;
        let mut listed = false;
        for named in &self.all {
            match backup::list(&named.store, &stores::interrupts) {
                Ok(all) => {
                    listed = true;
                    for one in all {
                        match one.backup {
                            Ok(backup) if !is_ours(&backup) => self.troubles.push(format!(
                                "{} has a backup of another cluster: {}",
                                named.store.url(),
                                backup.id
                            )),
                            Ok(backup) => drop(found.entry(one.id).or_insert(backup)),
                            Err(e) => self.troubles.push(e.to_string()),
                        }
                    }
                }
                Err(e) => {
                    self.troubles.push(e.to_string());
                    first.get_or_insert(e);
                }
            }
        }
        match first {
            Some(error) if !listed => Err(error),
            _ => Ok(found),
        }
    }
}

/// Whether a backup is of this cluster.
pub fn is_ours(backup: &Backup) -> bool {
    backup.system_identifier == system_identifier()
}

/// This cluster's system identifier, as records have it.
pub fn system_identifier() -> String {
    // SAFETY: read from the control file at start.
    unsafe { pgrx::pg_sys::GetSystemIdentifier() }.to_string()
}

/// A backup, and how far it leads.
pub struct Choice {
    /// The backup.
    pub backup: Backup,
    /// It and those that it needs, the full one first.
    pub chain: Vec<Backup>,
    /// The WAL behind it in all stores together.
    pub reach: WalReach,
}

impl Choice {
    /// The number of the last segment of WAL before the first gap.
    pub fn last_segment(&self) -> u64 {
        let end = self.reach.end.map_or(0, |end| end.0);
        (end / self.backup.wal_segment_bytes.max(1)).saturating_sub(1)
    }

    /// How many segments of WAL lie between its start and the first gap.
    pub fn segments(&self) -> u64 {
        let segment = self.backup.wal_segment_bytes.max(1);
        let end = self.reach.end.map_or(0, |end| end.0 / segment);
        end.saturating_sub(self.backup.start_lsn.0 / segment)
    }

    /// What is missing of WAL, in words.
    pub fn gaps(&self) -> Vec<String> {
        let gap = |gap: &backup::WalGap| match gap.segments {
            1 => format!("WAL {} is in no store", gap.first),
            n => format!(
                "{n} segments of WAL from {} to {} are in no store",
                gap.first, gap.last
            ),
        };
        self.reach.gaps.iter().map(gap).collect()
    }

    /// The timeline that is recovered to, where it is not the backup's own.
    pub fn later_timeline(&self) -> Option<u32> {
        let last = self.reach.timelines.last().copied();
        last.filter(|last| *last != self.backup.timeline)
    }

    /// Whether the backup can be started at all.
    pub fn is_usable(&self) -> bool {
        self.reach.covers_backup || self.backup.includes_wal
    }
}

/// The backup of that id, or the newest from which a moment can be reached.
///
/// # Errors
/// [`BackupError::NotFound`] where there is none; what the stores answer.
pub fn choose(
    stores: &mut Stores,
    id: Option<&str>,
    time: Option<Timestamp>,
) -> Result<Choice, BackupError> {
    let found = stores.backups()?;
    let target = time.map_or(Target::Latest, Target::Time);
    let backup = match id {
        Some(id) => found.get(id),
        None => {
            let timelines = timelines(&stores.refs())?;
            backup::choose_along(found.values(), target, &timelines, None)
        }
    };
    let Some(backup) = backup.cloned() else {
        return Err(BackupError::NotFound {
            what: match (id, time) {
                (Some(id), _) => format!("backup {id}"),
                (None, Some(time)) => format!("a backup from before {time}"),
                (None, None) => "a backup".to_owned(),
            },
        });
    };
    let refs = stores.refs();
    let chain = backup::chain_of(backup.clone(), &mut |id| {
        backup::load_from_any(&refs, id, &stores::interrupts).map(|(_, backup)| backup)
    })?;
    let (reach, troubles) = reach(&refs, &backup)?;
    stores.troubles.extend(troubles);
    Ok(Choice {
        backup,
        chain,
        reach,
    })
}

/// The timelines of those stores that are there; what is wrong with the others was told when their backups were listed.
fn timelines(stores: &[&Store]) -> Result<Timelines, BackupError> {
    let identities = keys::identities()?;
    let mut known = Timelines::default();
    for store in stores {
        match Timelines::of(&[store], identities.as_ref(), &stores::interrupts) {
            Ok(found) => known.extend(found),
            Err(e) if e.is_cancelled() => return Err(e),
            Err(_) => {}
        }
    }
    Ok(known)
}

/// How far the WAL of all stores together leads.
fn reach(stores: &[&Store], backup: &Backup) -> Result<(WalReach, Vec<String>), BackupError> {
    let mut troubles = Vec::new();
    let mut files: BTreeMap<String, WalFile> = BTreeMap::new();
    let mut listed = Vec::new();
    let mut first = None;
    for store in stores {
        match backup::wal_list(store, &stores::interrupts) {
            Ok(all) => {
                listed.push(*store);
                for file in all {
                    files.entry(file.key.clone()).or_insert(file);
                }
            }
            Err(e) => {
                troubles.push(e.to_string());
                first.get_or_insert(e);
            }
        }
    }
    let files: Vec<WalFile> = files.into_values().collect();
    // Histories of timelines are read from the first store that has them undamaged.
    let identities = keys::identities()?;
    for store in listed {
        match backup::wal_reach(
            store,
            backup,
            &files,
            identities.as_ref(),
            &stores::interrupts,
        ) {
            Ok(reach) => return Ok((reach, troubles)),
            Err(e) => drop(first.get_or_insert(e)),
        }
    }
    Err(first.unwrap_or_else(|| BackupError::NotFound {
        what: "a store that the current user may use".to_owned(),
    }))
}
