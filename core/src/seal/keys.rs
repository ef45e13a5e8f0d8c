//! Who may open what is sealed.

use std::fmt;
use std::io::Read;
use std::path::Path;

use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;

use super::error::SealError;

/// The variable of the environment that [`Identities::from_environment`] reads.
pub const IDENTITY_VARIABLE: &str = "VARVE_AGE_IDENTITY";

/// Longest file of keys, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// To whom something is encrypted.
#[derive(Clone)]
pub struct Recipients(pub(super) To);

#[derive(Clone)]
pub(super) enum To {
    Keys(Vec<x25519::Recipient>),
    Passphrase(SecretString),
}

impl Recipients {
    /// One or more public keys, as `age-keygen` prints them: `age1…`. Whoever has the secret of one of them can decrypt.
    ///
    /// # Errors
    /// [`SealError::Key`] for something else, or for none.
    pub fn from_keys<'k>(keys: impl IntoIterator<Item = &'k str>) -> Result<Self, SealError> {
        let keys: Vec<_> = keys.into_iter().map(recipient).collect::<Result<_, _>>()?;
        match keys.is_empty() {
            false => Ok(Self(To::Keys(keys))),
            true => Err(SealError::key("there is no recipient")),
        }
    }

    /// The passphrase that is the first line of a file.
    ///
    /// # Errors
    /// [`SealError::Key`] if the file cannot be read or its first line is empty.
    pub fn from_passphrase_file(path: &Path) -> Result<Self, SealError> {
        passphrase(path).map(|passphrase| Self(To::Passphrase(passphrase)))
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            To::Keys(keys) => f
                .debug_list()
                .entries(keys.iter().map(ToString::to_string))
                .finish(),
            To::Passphrase(_) => f.write_str("***"),
        }
    }
}

/// Who can decrypt.
#[derive(Clone)]
pub struct Identities {
    pub(super) keys: Vec<x25519::Identity>,
    pub(super) passphrase: Option<SecretString>,
}

impl Identities {
    /// Secret keys, one a line, as `age-keygen` writes them: `AGE-SECRET-KEY-1…`; lines that begin with `#` are comments.
    ///
    /// # Errors
    /// [`SealError::Key`] for something else, or for none. The message has no part of the text in it.
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line.parse().map_err(|_| {
                SealError::key(format!("line {} is no secret key of age", number + 1))
            })?;
            keys.push(key);
        }
        match keys.is_empty() {
            false => Ok(Self {
                keys,
                passphrase: None,
            }),
            true => Err(SealError::key("there is no secret key of age")),
        }
    }

    /// Secret keys in a file, see [`Identities::from_text`].
    ///
    /// # Errors
    /// [`SealError::Key`], also if the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let text = read(path)?;
        Self::from_text(text.expose_secret()).map_err(|error| in_file(path, error))
    }

    /// Secret keys in the variable `VARVE_AGE_IDENTITY` of the environment, see [`Identities::from_text`].
    ///
    /// # Errors
    /// [`SealError::Key`], also if there is no such variable.
    pub fn from_environment() -> Result<Self, SealError> {
        let text = std::env::var(IDENTITY_VARIABLE)
            .map_err(|_| SealError::key(format!("the variable {IDENTITY_VARIABLE} is not set")))?;
        Self::from_text(&text)
    }

    /// The passphrase that is the first line of a file.
    ///
    /// # Errors
    /// [`SealError::Key`] if the file cannot be read or its first line is empty.
    pub fn from_passphrase_file(path: &Path) -> Result<Self, SealError> {
        Ok(Self {
            keys: Vec::new(),
            passphrase: Some(passphrase(path)?),
        })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn recipient(key: &str) -> Result<x25519::Recipient, SealError> {
    // Somebody may have taken the wrong one of the two: then the message must not show it.
    let shown = match key.trim().starts_with("age1") {
        true => key.trim(),
        false => "what was given",
    };
    key.trim()
        .parse()
        .map_err(|_| SealError::key(format!("{shown} is no public key of age")))
}

fn passphrase(path: &Path) -> Result<SecretString, SealError> {
    let text = read(path)?;
    match text.expose_secret().lines().next() {
        Some(line) if !line.is_empty() => Ok(SecretString::from(line.to_owned())),
        _ => Err(in_file(path, SealError::key("the first line is empty"))),
    }
}

fn read(path: &Path) -> Result<SecretString, SealError> {
    let failed = |detail: String| in_file(path, SealError::key(detail));
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    let got = file
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    match got as u64 > MAX_FILE_BYTES {
        false => Ok(SecretString::from(text)),
        true => Err(failed("the file is too long for one of keys".to_owned())),
    }
}

fn in_file(path: &Path, error: SealError) -> SealError {
    match error {
        SealError::Key { detail } => SealError::key(format!("{}: {detail}", path.display())),
        error => error,
    }
}
