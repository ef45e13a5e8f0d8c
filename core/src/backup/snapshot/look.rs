//! Which snapshots a store has, and whether they are what was written.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use super::super::error::BackupError;
use super::super::keys::is_id;
use super::super::seal::{at, hex};
use super::super::verify::ObjectCheck;
use super::record::{MAX_RECORD_BYTES, Object, Snapshot};
use super::{SNAPSHOT_PREFIX, SNAPSHOT_RECORD, is_written, key, split};
use crate::seal::{Decryptor, Hashed, Identities};
use crate::store::{ErrorKind, Store};
use crate::wait::Tick;

/// What a store has under the name of a snapshot.
#[derive(Debug)]
pub struct Listed {
    /// The snapshot's id.
    pub id: String,
    /// Its record, or why it cannot be had.
    pub snapshot: Result<Snapshot, BackupError>,
}

/// The snapshots in a store, by their ids and so by their age, damaged ones too.
///
/// # Errors
/// What the store answers.
pub fn list(store: &Store, tick: Tick<'_>) -> Result<Vec<Listed>, BackupError> {
    let mut listed = Vec::new();
    for object in store.list(SNAPSHOT_PREFIX, tick)? {
        let object = object?;
        let Some((id, SNAPSHOT_RECORD)) = split(&object.key) else {
            continue;
        };
        let snapshot = match load(store, id, tick) {
            // It was removed meanwhile.
            Err(error) if error.is_not_found() => continue,
            Err(error) if !error.is_the_stores() => return Err(error),
            snapshot => snapshot,
        };
        listed.push(Listed {
            id: id.to_owned(),
            snapshot,
        });
    }
    Ok(listed)
}

/// Reads the record of a snapshot.
///
/// # Errors
/// [`BackupError::NotFound`], [`BackupError::Corrupt`], or what the store answers.
pub fn load(store: &Store, id: &str, tick: Tick<'_>) -> Result<Snapshot, BackupError> {
    let missing = || BackupError::NotFound {
        what: format!("snapshot {id} in {}", store.url()),
    };
    if !is_id(id) {
        return Err(missing());
    }
    match store.get(&key(id, SNAPSHOT_RECORD), MAX_RECORD_BYTES, tick) {
        Ok(bytes) => Snapshot::from_json(id, &bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the record of a snapshot from the first store that has it undamaged.
///
/// # Errors
/// That of the first store that has it damaged, else that of the last one.
pub fn load_from_any(stores: &[Store], id: &str, tick: Tick<'_>) -> Result<Snapshot, BackupError> {
    let mut worst: Option<BackupError> = None;
    for store in stores {
        match load(store, id, tick) {
            Ok(snapshot) => return Ok(snapshot),
            Err(error) if !error.is_the_stores() => return Err(error),
            Err(error) if worst.as_ref().is_none_or(BackupError::is_not_found) => {
                worst = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(worst.unwrap_or_else(|| BackupError::NotFound {
        what: format!("snapshot {id}"),
    }))
}

/// Copies an object's plain bytes to where `begin` says, from the first store that has it undamaged. `begin` is called for each
/// store that is tried; what the last call gave has the bytes when this returns, and nothing else may be relied on.
///
/// # Errors
/// That of the first store that has it damaged, else that of the last one; [`BackupError::Refused`] where keys are missing.
pub fn fetch<W: Write>(
    stores: &[Store],
    object: &Object,
    encrypted: bool,
    identities: Option<&Identities>,
    begin: &mut dyn FnMut() -> Result<W, BackupError>,
    tick: Tick<'_>,
) -> Result<W, BackupError> {
    let mut worst: Option<BackupError> = None;
    for store in stores {
        let mut to = begin()?;
        match fetch_from(store, object, encrypted, identities, &mut to, tick) {
            Ok(()) => return Ok(to),
            Err(error) if !error.is_the_stores() => return Err(error),
            Err(error) if worst.as_ref().is_none_or(BackupError::is_not_found) => {
                worst = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(worst.unwrap_or_else(|| BackupError::NotFound {
        what: object.key.clone(),
    }))
}

fn fetch_from(
    store: &Store,
    object: &Object,
    encrypted: bool,
    identities: Option<&Identities>,
    to: &mut dyn Write,
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    let name = at(store, &object.key);
    let stream = store.get_stream(&object.key, tick)?;
    if stream.size() != object.stored_bytes {
        let found = stream.size();
        return Err(BackupError::corrupt(
            name,
            format!(
                "it has {found} bytes and should have {}",
                object.stored_bytes
            ),
        ));
    }
    let failed = |error| BackupError::of_stream(&name, error);
    let mut stored = Hashed::new(stream);
    let raw = match (encrypted, identities) {
        (false, _) => copy(&mut stored, to, object.raw_bytes, &name)?,
        (true, Some(identities)) => {
            let plain = Decryptor::new(&mut stored, identities, tick)
                .map_err(|error| BackupError::of_seal(&name, error))?;
            copy(&mut { plain }, to, object.raw_bytes, &name)?
        }
        (true, None) => {
            return Err(BackupError::refused(
                format!("{name} is encrypted"),
                "Give the secret key that it is encrypted to.",
            ));
        }
    };
    // Whatever lies behind it counts too.
    std::io::copy(&mut stored, &mut std::io::sink()).map_err(failed)?;
    let sum = hex(&stored.sha256());
    if sum != object.sha256 || raw != object.raw_bytes {
        return Err(BackupError::corrupt(
            name,
            format!("its SHA-256 should be {} and is {sum}", object.sha256),
        ));
    }
    Ok(())
}

fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    most: u64,
    name: &str,
) -> Result<u64, BackupError> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let got = from
            .read(&mut buffer)
            .map_err(|error| BackupError::of_stream(name, error))?;
        if got == 0 {
            return Ok(bytes);
        }
        bytes += got as u64;
        if bytes > most {
            return Err(BackupError::corrupt(
                name,
                format!("it holds more than {most} bytes"),
            ));
        }
        to.write_all(buffer.get(..got).unwrap_or_default())
            .map_err(|error| BackupError::Io {
                path: "a temporary file".to_owned(),
                error,
            })?;
    }
}

/// Reads every object of a snapshot in a store. `each` is called with what was found of each of them.
///
/// # Errors
/// Only what ends the call: the caller's tick. A store that is away makes each of its objects one that cannot be read.
pub fn verify(
    store: &Store,
    snapshot: &Snapshot,
    each: &mut dyn FnMut(ObjectCheck),
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    for object in &snapshot.objects {
        each(super::super::verify::check(
            store,
            &object.key,
            object.stored_bytes,
            &object.sha256,
            tick,
        )?);
    }
    Ok(())
}

/// Removes a snapshot: first the record, so that it ceases to exist at once, then its objects.
///
/// # Errors
/// What the store answers.
pub fn remove(store: &Store, id: &str, tick: Tick<'_>) -> Result<(), BackupError> {
    if !is_id(id) {
        return Err(BackupError::NotFound {
            what: format!("snapshot {id} in {}", store.url()),
        });
    }
    store.delete(&key(id, SNAPSHOT_RECORD), tick)?;
    let objects: Result<Vec<_>, _> = store
        .list(&format!("{SNAPSHOT_PREFIX}/{id}"), tick)?
        .collect();
    for object in objects? {
        store.delete(&object.key, tick)?;
    }
    Ok(())
}

/// Removes what snapshots that failed have left behind: objects without a record, none of which was written in the last while.
/// How many objects those were. What is not named as varve does is not touched. A snapshot that is being taken must write more often than that: let it be a day.
///
/// # Errors
/// What the store answers.
pub fn sweep(store: &Store, older_than: Duration, tick: Tick<'_>) -> Result<u64, BackupError> {
    #[derive(Default)]
    struct Found {
        stays: bool,
        keys: Vec<String>,
    }
    let before = SystemTime::now()
        .checked_sub(older_than)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for object in store.list(SNAPSHOT_PREFIX, tick)? {
        let object = object?;
        if let Some((id, name)) = split(&object.key)
            && is_written(id, name)
        {
            let entry = found.entry(id.to_owned()).or_default();
            entry.stays |= name == SNAPSHOT_RECORD || object.modified > before;
            entry.keys.push(object.key);
        }
    }
    let mut removed = 0;
    for left in found.into_values().filter(|f| !f.stays) {
        for key in left.keys {
            store.delete(&key, tick)?;
            removed += 1;
        }
    }
    Ok(removed)
}
