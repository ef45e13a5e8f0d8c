//! Records that carry the SHA-256 of their own text, so that a changed byte is noticed.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::seal::hex;

/// A record's text, and its SHA-256 in hexadecimal digits.
pub(super) fn text_of(record: &impl Serialize) -> serde_json::Result<(Box<RawValue>, String)> {
    let text = serde_json::value::to_raw_value(record)?;
    let sum = hex(&Sha256::digest(text.get()));
    Ok((text, sum))
}

/// Reads a record from its text, if that has the SHA-256 that is said of it and is of a version. `key` is the object's.
///
/// # Errors
/// [`BackupError::Corrupt`], [`BackupError::Unsupported`].
pub(super) fn read<T: DeserializeOwned>(
    key: &str,
    sha256: &str,
    text: &RawValue,
    known: u32,
) -> Result<T, BackupError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let sum = hex(&Sha256::digest(text.get()));
    if sum != sha256 {
        let detail = format!("its SHA-256 should be {sha256} and is {sum}");
        return Err(BackupError::corrupt(key, detail));
    }
    let malformed = |error: serde_json::Error| BackupError::corrupt(key, error.to_string());
    let Version { version } = serde_json::from_str(text.get()).map_err(malformed)?;
    if version != known {
        return Err(BackupError::Unsupported {
            object: key.to_owned(),
            detail: format!("it is of version {version}, known is {known}"),
        });
    }
    serde_json::from_str(text.get()).map_err(malformed)
}
