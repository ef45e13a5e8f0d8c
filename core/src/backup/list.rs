//! Which backups a store has.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::error::BackupError;
use super::keys::{self, BACKUP_PREFIX, RECORD_NAME, RUNNING_NAME};
use super::record::{Backup, MAX_RECORD_BYTES};
use crate::store::{ErrorKind, Store};
use crate::wait::Tick;

/// What a store has under the name of a backup.
#[derive(Debug)]
pub struct Listed {
    /// The backup's id.
    pub id: String,
    /// Its record, or why it cannot be had.
    pub backup: Result<Backup, BackupError>,
}

/// The backups in a store, by their ids and so by their age, damaged ones too.
///
/// # Errors
/// What the store answers.
pub fn list(store: &Store, tick: Tick<'_>) -> Result<Vec<Listed>, BackupError> {
    let mut listed = Vec::new();
    for object in store.list(BACKUP_PREFIX, tick)? {
        let object = object?;
        let Some((id, RECORD_NAME)) = keys::split(&object.key) else {
            continue;
        };
        listed.extend(load_listed(store, id, tick)?);
    }
    Ok(listed)
}

/// What has a record; none where that was removed meanwhile.
pub(super) fn load_listed(
    store: &Store,
    id: &str,
    tick: Tick<'_>,
) -> Result<Option<Listed>, BackupError> {
    let backup = match load(store, id, tick) {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if !error.is_the_stores() => return Err(error),
        backup => backup,
    };
    Ok(Some(Listed {
        id: id.to_owned(),
        backup,
    }))
}

/// Reads the record of a backup.
///
/// # Errors
/// [`BackupError::NotFound`], [`BackupError::Corrupt`], or what the store answers.
pub fn load(store: &Store, id: &str, tick: Tick<'_>) -> Result<Backup, BackupError> {
    let missing = || BackupError::NotFound {
        what: format!("backup {id} in {}", store.url()),
    };
    if !keys::is_id(id) {
        return Err(missing());
    }
    match store.get(&keys::record(id), MAX_RECORD_BYTES, tick) {
        Ok(bytes) => Backup::from_json(id, &bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the record of a backup from the first store that has it undamaged, and says which that is.
///
/// # Errors
/// That of the first store that has it damaged, else that of the last one.
pub fn load_from_any(
    stores: &[&Store],
    id: &str,
    tick: Tick<'_>,
) -> Result<(usize, Backup), BackupError> {
    let mut worst: Option<BackupError> = None;
    for (number, store) in stores.iter().enumerate() {
        match load(store, id, tick) {
            Ok(backup) => return Ok((number, backup)),
            Err(error) if !error.is_the_stores() => return Err(error),
            Err(error) if worst.as_ref().is_none_or(BackupError::is_not_found) => {
                worst = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(worst.unwrap_or_else(|| BackupError::NotFound {
        what: format!("backup {id}"),
    }))
}

/// Removes a backup: first the record, so that it ceases to exist at once, then its objects. Whether another needs it is not
/// asked.
///
/// # Errors
/// What the store answers.
pub fn remove(store: &Store, id: &str, tick: Tick<'_>) -> Result<(), BackupError> {
    if !keys::is_id(id) {
        return Err(BackupError::NotFound {
            what: format!("backup {id} in {}", store.url()),
        });
    }
    store.delete(&keys::record(id), tick)?;
    let objects: Result<Vec<_>, _> = store
        .list(&format!("{BACKUP_PREFIX}/{id}"), tick)?
        .collect();
    for object in objects? {
        store.delete(&object.key, tick)?;
    }
    Ok(())
}

/// Removes what backups that failed have left behind: objects without a record, none of which was written in the last while.
/// How many objects those were. What is not named as varve does is not touched. A backup that is being taken rewrites a small object every few minutes, so that it is never
/// taken for one that failed: let it be hours, or a day.
///
/// # Errors
/// What the store answers.
pub fn sweep(store: &Store, older_than: Duration, tick: Tick<'_>) -> Result<u64, BackupError> {
    #[derive(Default)]
    struct Found {
        exists: bool,
        fresh: bool,
        /// The sign of life of who ended without removing it.
        silent: Option<String>,
        keys: Vec<String>,
    }
    let before = SystemTime::now()
        .checked_sub(older_than)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for object in store.list(BACKUP_PREFIX, tick)? {
        let object = object?;
        if let Some((id, name)) = keys::split(&object.key)
            && keys::is_written(&object.key)
        {
            let entry = found.entry(id.to_owned()).or_default();
            entry.exists |= name == RECORD_NAME;
            let fresh = object.modified > before;
            entry.fresh |= fresh;
            if name == RUNNING_NAME && !fresh {
                entry.silent = Some(object.key);
            } else {
                entry.keys.push(object.key);
            }
        }
    }
    let mut removed = 0;
    for left in found.into_values() {
        let failed = !left.exists && !left.fresh;
        let keys = left.keys.into_iter().filter(|_| failed);
        for key in keys.chain(left.silent) {
            store.delete(&key, tick)?;
            removed += 1;
        }
    }
    store.sweep(older_than, tick)?;
    Ok(removed)
}
