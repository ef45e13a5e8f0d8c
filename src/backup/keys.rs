//! How what leaves the machine is encrypted, and who can read it again.

use super::settings;
use std::path::Path;
use varve_core::backup::{BackupError, SealOptions};
use varve_core::seal::{IDENTITY_VARIABLE, Identities, Recipients};

/// How backups and WAL are written now.
///
/// # Errors
/// [`BackupError::Seal`] if `varve.backup_recipients` has something else than public keys.
pub fn seal() -> Result<SealOptions, BackupError> {
    let recipients = settings::recipients();
    let keys = recipients.split(',').map(str::trim);
    let keys: Vec<&str> = keys.filter(|key| !key.is_empty()).collect();
    let recipients = match keys.is_empty() {
        true => None,
        false => Some(
            Recipients::from_keys(keys)
                .map_err(|e| BackupError::of_seal("varve.backup_recipients", e))?,
        ),
    };
    Ok(SealOptions {
        recipients,
        ..SealOptions::default()
    })
}

/// Who can read what is encrypted, as far as the server knows.
///
/// # Errors
/// [`BackupError::Seal`] if the file or the variable of the environment has no secret key.
pub fn identities() -> Result<Option<Identities>, BackupError> {
    let file = settings::identity_file();
    if !file.is_empty() {
        let keys = Identities::from_file(Path::new(&file));
        return keys
            .map(Some)
            .map_err(|e| BackupError::of_seal("varve.backup_identity_file", e));
    }
    match std::env::var_os(IDENTITY_VARIABLE) {
        Some(_) => Identities::from_environment()
            .map(Some)
            .map_err(|e| BackupError::of_seal(IDENTITY_VARIABLE, e)),
        None => Ok(None),
    }
}
