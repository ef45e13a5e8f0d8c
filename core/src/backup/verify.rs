//! Whether what a store has is what was written.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::link_fault;
use super::error::BackupError;
use super::keys;
use super::list::load;
use super::record::Backup;
use super::seal::hex;
use super::wal::check_object;
use super::wal_list::{WalFile, wal_list};
use super::wal_name::WalName;
use crate::seal::Identities;
use crate::store::Store;
use crate::wait::Tick;

/// How many segments that are missing are told one by one: a record may say that a backup needs any number of them.
const MAX_MISSING: u32 = 1000;

/// What was found of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCheck {
    /// Its key.
    pub key: String,
    /// Whether it is what was written.
    pub ok: bool,
    /// Its SHA-256 as it should be, in hexadecimal digits; empty where nobody says.
    pub expected: String,
    /// Its SHA-256 as it is; none if it cannot be read.
    pub actual: Option<String>,
    /// What is wrong with it.
    pub detail: Option<String>,
}

/// Reads every object of a backup in a store. `each` is called with what was found of each of them.
///
/// # Errors
/// Only what ends the call: the caller's tick. A store that is away makes each of its objects one that cannot be read.
pub fn verify(
    store: &Store,
    backup: &Backup,
    each: &mut dyn FnMut(ObjectCheck),
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    for object in &backup.objects {
        let bytes = object.stored_bytes;
        each(check(store, &object.key, bytes, &object.sha256, tick)?);
    }
    Ok(())
}

impl ObjectCheck {
    fn bad(key: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            ok: false,
            expected: String::new(),
            actual: None,
            detail: Some(detail.into()),
        }
    }
}

/// Reads all that a store needs to restore a backup to its own end: the objects of its whole chain, the full backup's first,
/// and the WAL from where the backup starts to where it stops. What is missing is told like what is damaged: a parent's record
/// by its key, a segment of WAL by its name.
///
/// A backup that has its WAL in it needs none besides. Encrypted WAL is checked where there are keys; without them it is told
/// as sound if it is not empty, and the detail says that it was not read.
///
/// # Errors
/// Only what ends the call: the caller's tick. A store that is away makes each of its objects one that cannot be read.
pub fn verify_chain(
    store: &Store,
    backup: &Backup,
    identities: Option<&Identities>,
    each: &mut dyn FnMut(ObjectCheck),
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    let mut chain = vec![backup.clone()];
    let mut seen = BTreeSet::from([backup.id.clone()]);
    while let Some(child) = chain.last()
        && let Some(id) = &child.parent
    {
        let fault = match load(store, id, tick) {
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) if error.is_not_found() => Some("it does not exist".to_owned()),
            Err(error) => Some(error.to_string()),
            Ok(parent) => match link_fault(child, &parent) {
                Some(fault) => Some(format!("it cannot be the parent of {}: {fault}", child.id)),
                None if !seen.insert(parent.id.clone()) => Some("it needs itself".to_owned()),
                None => {
                    chain.push(parent);
                    continue;
                }
            },
        };
        each(ObjectCheck::bad(
            keys::record(id),
            fault.unwrap_or_default(),
        ));
        break;
    }
    for member in chain.iter().rev() {
        verify(store, member, each, tick)?;
    }
    verify_wal_of(store, backup, identities, each, tick)
}

/// The WAL from a backup's start to its end.
fn verify_wal_of(
    store: &Store,
    backup: &Backup,
    identities: Option<&Identities>,
    each: &mut dyn FnMut(ObjectCheck),
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    let files = match wal_list(store, tick) {
        Ok(files) => files,
        Err(error) if error.is_cancelled() => return Err(error),
        Err(error) => {
            each(ObjectCheck::bad(keys::WAL_PREFIX, error.to_string()));
            return Ok(());
        }
    };
    let segment = backup.wal_segment_bytes;
    let numbers = backup.start_lsn.0 / segment..=backup.stop_lsn.0.saturating_sub(1) / segment;
    let mut there: BTreeMap<&WalName, Vec<&WalFile>> = BTreeMap::new();
    for file in &files {
        there.entry(&file.name).or_default().push(file);
    }
    // Of what may be missing only that is looked at which is there: a record may say that it needs any number of files.
    let within = |name: &&&WalName| {
        let number = name.number(segment);
        name.timeline() == backup.timeline && number.is_some_and(|n| numbers.contains(&n))
    };
    let names: Box<dyn Iterator<Item = WalName>> = match backup.includes_wal {
        true => Box::new(there.keys().filter(within).map(|name| (*name).clone())),
        false => Box::new(
            numbers
                .clone()
                .map(|number| WalName::of_number(backup.timeline, number, segment)),
        ),
    };
    let mut missing = 0;
    for name in names {
        tick()?;
        let found = there.get(&name).map_or(&[][..], Vec::as_slice);
        if found.is_empty() && !backup.includes_wal {
            missing += 1;
            if missing > MAX_MISSING {
                let detail = "missing, and so may be others behind it: no more are looked for";
                each(ObjectCheck::bad(name.to_string(), detail));
                return Ok(());
            }
            each(ObjectCheck::bad(name.to_string(), "missing"));
        }
        for file in found {
            if file.encrypted && identities.is_none() {
                each(unread(file));
            } else {
                let file = std::slice::from_ref(*file);
                verify_wal(store, file, identities, each, tick)?;
            }
        }
    }
    Ok(())
}

/// What can be said of an encrypted file without keys.
fn unread(file: &WalFile) -> ObjectCheck {
    let detail = match file.stored_bytes {
        0 => "it is empty".to_owned(),
        bytes => format!("it is encrypted and was not read, since there is no key: {bytes} bytes"),
    };
    ObjectCheck {
        ok: file.stored_bytes > 0,
        ..ObjectCheck::bad(file.key.clone(), detail)
    }
}

/// Reads an object in a store, and compares it with its size and SHA-256.
///
/// # Errors
/// Only what ends the call: the caller's tick.
pub(super) fn check(
    store: &Store,
    key: &str,
    stored_bytes: u64,
    sha256: &str,
    tick: Tick<'_>,
) -> Result<ObjectCheck, BackupError> {
    let mut check = ObjectCheck {
        key: key.to_owned(),
        ok: false,
        expected: sha256.to_owned(),
        actual: None,
        detail: None,
    };
    match store.sha256(key, tick).map_err(BackupError::from) {
        Ok(found) => {
            let actual = hex(&found.sha256);
            check.ok = actual == sha256 && found.size == stored_bytes;
            if found.size != stored_bytes {
                check.detail = Some(format!(
                    "it has {} bytes and should have {stored_bytes}",
                    found.size
                ));
            } else if !check.ok {
                check.detail = Some("its bytes are not those that were written".to_owned());
            }
            check.actual = Some(actual);
        }
        Err(error) if error.is_cancelled() => return Err(error),
        Err(error) => check.detail = Some(error.to_string()),
    }
    Ok(check)
}

/// Reads every one of some files of WAL in a store, and compares it with the SHA-256 that it has of itself.
///
/// # Errors
/// Only what ends the call: the caller's tick, or that keys are missing.
pub fn verify_wal(
    store: &Store,
    files: &[WalFile],
    identities: Option<&Identities>,
    each: &mut dyn FnMut(ObjectCheck),
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    for file in files {
        let mut check = ObjectCheck {
            key: file.key.clone(),
            ok: false,
            expected: String::new(),
            actual: None,
            detail: None,
        };
        match check_object(store, file, identities, tick) {
            Ok(sum) => {
                check.ok = true;
                check.expected = hex(&sum.sha256);
                check.actual = Some(check.expected.clone());
            }
            Err(error) if error.is_cancelled() || !error.is_the_stores() => return Err(error),
            Err(error) => check.detail = Some(error.to_string()),
        }
        each(check);
    }
    Ok(())
}
