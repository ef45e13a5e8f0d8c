//! Snapshots of single tables in stores: what lies where, and what is said of it. What goes into the objects is the extension's;
//! `docs/snapshot.md` describes it.
//!
//! A snapshot exists when its `snapshot.json` does, which is written last.
//!
//! - [`record`]: what a store says of a snapshot.
//! - [`taking`]: objects out, and the record behind them.
//! - [`look`]: listing, loading, verifying, removing; objects in.

mod look;
mod record;
mod taking;

use super::keys::{is_id, is_number, is_time};

pub use look::{Listed, fetch, list, load, load_from_any, remove, sweep, verify};
pub use record::{Chunk, Column, Holds, Kept, Object, Slice, Snapshot, Table};
pub use taking::{ObjectOut, Part, Taking};

/// Below it are snapshots.
pub const SNAPSHOT_PREFIX: &str = "snapshots";

/// The object whose being there makes a snapshot exist.
pub const SNAPSHOT_RECORD: &str = "snapshot.json";

/// How the id of a snapshot ends.
pub const SNAPSHOT_SUFFIX: &str = "-snapshot";

/// An object of a snapshot.
fn key(id: &str, name: &str) -> String {
    format!("{SNAPSHOT_PREFIX}/{id}/{name}")
}

/// The key of a snapshot's record.
pub(super) fn record_of(id: &str) -> String {
    key(id, SNAPSHOT_RECORD)
}

/// The id of the snapshot that an object is part of.
pub(super) fn id_of(key: &str) -> Option<&str> {
    let (id, _) = split(key)?;
    is_id(id).then_some(id)
}

/// The id of the snapshot that an object belongs to, and the object's name in it.
fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(SNAPSHOT_PREFIX)?
        .strip_prefix('/')?
        .split_once('/')
}

/// Whether a name in a snapshot of an id is one that varve writes: what else lies there is somebody else's.
fn is_written(id: &str, name: &str) -> bool {
    let mut parts = id
        .strip_suffix(SNAPSHOT_SUFFIX)
        .unwrap_or_default()
        .split('-');
    let time = parts.next().is_some_and(is_time);
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let random = parts.next().is_some_and(digits);
    let name = name.strip_suffix(".age").unwrap_or(name);
    let file = name.strip_suffix(".parquet").is_some_and(is_number);
    let known = file || [SNAPSHOT_RECORD, "ddl.json", "ddl.sql"].contains(&name);
    time && random && parts.next().is_none() && known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varve_writes() {
        let at = "20261129T080000123";
        for mine in [
            "00001.parquet",
            "00001.parquet.age",
            "ddl.json.age",
            "snapshot.json",
        ] {
            assert!(
                is_written(&format!("{at}-5be0c1d7-snapshot"), mine),
                "{mine}"
            );
            for other in ["mine", at, "mine-snapshot", "20261129T080000123-x-snapshot"] {
                assert!(!is_written(other, mine), "{other}");
            }
        }
        for other in ["notes.txt", "x.parquet", ".parquet", "1/ddl.json"] {
            let id = format!("{at}-5be0c1d7-snapshot");
            assert!(!is_written(&id, other), "{other}");
        }
    }
}
