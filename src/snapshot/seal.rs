//! To whom snapshots are encrypted, and who can read them: as with backups.

use crate::backup::{keys, raise};
use varve_core::backup::SealOptions;
use varve_core::seal::Identities;

/// How objects are encrypted: as those of backups that are taken by SQL.
pub fn options() -> SealOptions {
    keys::seal().unwrap_or_else(|e| raise(&e))
}

/// The keys that encrypted objects are read with.
pub fn identities() -> Option<Identities> {
    keys::identities().unwrap_or_else(|e| raise(&e))
}
