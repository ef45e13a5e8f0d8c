//! Where things lie in a store.

use super::record::Kind;
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

/// Whether an object is one that varve writes into a backup: what else lies there is somebody else's.
pub(super) fn is_written(key: &str) -> bool {
    split(key).is_some_and(|(id, name)| is_made(id) && is_written_name(name))
}

/// Whether an id is made as those of backups are: of the time, the kind, and a number where several begin at once.
fn is_made(id: &str) -> bool {
    let mut parts = id.split('-');
    let time = parts.next().is_some_and(is_time);
    let kind = parts
        .next()
        .is_some_and(|kind| kind.parse::<Kind>().is_ok());
    let number = parts.next().is_none_or(is_number);
    time && kind && number && parts.next().is_none()
}

fn is_written_name(name: &str) -> bool {
    let bare = [true, false]
        .into_iter()
        .find_map(|encrypted| name.strip_suffix(extension(encrypted)));
    match bare {
        None => [RECORD_NAME, RUNNING_NAME].contains(&name),
        Some("base.tar" | "backup_manifest") => true,
        Some(bare) => bare.strip_suffix(".tar").is_some_and(is_number),
    }
}

/// Whether it is a time as ids begin with: `20261129T080000123`.
pub(super) fn is_time(text: &str) -> bool {
    let halves = text.split_once('T');
    halves.is_some_and(|(date, time)| {
        (date.len(), time.len()) == (8, 9) && is_number(date) && is_number(time)
    })
}

pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varve_writes() {
        let at = "20261129T080000123";
        for mine in [
            format!("backups/{at}-full/base.tar.zst"),
            format!("backups/{at}-full/running"),
            format!("backups/{at}-full/backup.json"),
            format!("backups/{at}-differential-2/16400.tar.zst.age"),
            format!("backups/{at}-incremental/backup_manifest.zst"),
        ] {
            assert!(is_written(&mine), "{mine}");
        }
        for other in [
            "backups/notes.txt".to_owned(),
            "backups/mine/base.tar.zst".to_owned(),
            "backups/main-20261129/base.tar.zst".to_owned(),
            format!("backups/{at}-full/notes.txt"),
            format!("backups/{at}-full/base.tar"),
            format!("backups/{at}-full/x.tar.zst"),
            format!("backups/{at}-full/x/base.tar.zst"),
            format!("backups/{at}-full-x/base.tar.zst"),
            format!("backups/{at}-full-2-3/base.tar.zst"),
            format!("backups/{at}-snapshot/base.tar.zst"),
            format!("backups/{at}/base.tar.zst"),
            format!("snapshots/{at}-full/base.tar.zst"),
        ] {
            assert!(!is_written(&other), "{other}");
        }
    }
}
