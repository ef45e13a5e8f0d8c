//! Where things lie in a store.

use super::wal_name::WalName;

/// The object that says whose store it is.
pub const CLUSTER_KEY: &str = "cluster.json";

/// Below it are base backups.
pub const BACKUP_PREFIX: &str = "backups";

/// Below it is WAL.
pub const WAL_PREFIX: &str = "wal";

/// The object whose being there makes a backup exist.
pub(super) const RECORD_NAME: &str = "backup.json";

/// The object that says that a backup is being taken, or copied here.
pub(super) const RUNNING_NAME: &str = "running";

/// What is behind the name of an object.
pub(super) fn extension(encrypted: bool) -> &'static str {
    match encrypted {
        false => ".zst",
        true => ".zst.age",
    }
}

/// An object of a backup.
pub(super) fn in_backup(id: &str, name: &str) -> String {
    format!("{BACKUP_PREFIX}/{id}/{name}")
}

/// A backup's record.
pub(super) fn record(id: &str) -> String {
    in_backup(id, RECORD_NAME)
}

/// The id of the backup that an object belongs to, and the object's name in it.
pub(super) fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(BACKUP_PREFIX)?
        .strip_prefix('/')?
        .split_once('/')
}

/// Whether it can be the id of a backup.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// A file of WAL.
pub(super) fn wal(name: &WalName, encrypted: bool) -> String {
    format!(
        "{WAL_PREFIX}/{:08X}/{name}{}",
        name.timeline(),
        extension(encrypted)
    )
}

/// What was written under the name of an encrypted file of WAL: its SHA-256, for him who cannot decrypt it.
pub(super) fn wal_sum(name: &WalName) -> String {
    format!("{WAL_PREFIX}/{:08X}/{name}.sha256", name.timeline())
}

/// What an object of WAL holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalPart {
    /// The file.
    Plain,
    /// The file, encrypted.
    Encrypted,
    /// The SHA-256 of a file that is encrypted.
    Sum,
}

/// The file of WAL that an object belongs to, and what it holds of it.
pub(super) fn wal_object(key: &str) -> Option<(WalName, WalPart)> {
    let name = key.rsplit('/').next()?;
    let ends = [
        (".zst.age", WalPart::Encrypted),
        (".zst", WalPart::Plain),
        (".sha256", WalPart::Sum),
    ];
    let (bare, part) = ends
        .into_iter()
        .find_map(|(end, part)| Some((name.strip_suffix(end)?, part)))?;
    let name: WalName = bare.parse().ok()?;
    let mine = match part {
        WalPart::Plain => wal(&name, false),
        WalPart::Encrypted => wal(&name, true),
        WalPart::Sum => wal_sum(&name),
    };
    (key == mine).then_some((name, part))
}
