//! Whether what a store has is what was written.

use super::error::BackupError;
use super::record::Backup;
use super::seal::hex;
use super::wal::check_object;
use super::wal_list::WalFile;
use crate::seal::Identities;
use crate::store::Store;
use crate::wait::Tick;

/// What was found of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCheck {
    /// Its key.
    pub key: String,
    /// Whether it is what was written.
    pub ok: bool,
    /// Its SHA-256 as it should be, in hexadecimal digits.
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
