//! To whom snapshots are encrypted, and who can read them.

use varve_core::backup::SealOptions;
use varve_core::seal::Identities;

/// How objects are encrypted: as those of backups that are taken by SQL.
pub fn options() -> SealOptions {
    SealOptions::default()
}

/// The keys that encrypted objects are read with.
pub fn identities() -> Option<Identities> {
    None
}
