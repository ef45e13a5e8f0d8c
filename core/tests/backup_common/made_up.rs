//! Backups and WAL that no server made.

use std::path::Path;

use varve_core::backup::*;
use varve_core::seal::Recipients;
use varve_core::store::Store;
use varve_core::wait::never;

use super::hex;
use crate::store_common::{noise, sha256};

pub const SEGMENT: u64 = 1 << 20;

/// What is said of a backup that is made up.
#[derive(Clone)]
pub struct MadeUp<'m> {
    pub id: &'m str,
    pub parent: Option<&'m str>,
    pub stopped: Timestamp,
    pub timeline: u32,
    /// Segments of its start and end.
    pub segments: (u64, u64),
}

impl<'m> MadeUp<'m> {
    /// A backup of timeline 1 that begins and ends in a segment; its kind is in its name.
    pub fn new(id: &'m str, parent: Option<&'m str>, segment: u64) -> Self {
        Self {
            id,
            parent,
            stopped: moment(segment),
            timeline: 1,
            segments: (segment, segment),
        }
    }

    /// Its record, with objects of this size.
    pub fn record(&self, size: usize) -> (Backup, Vec<(String, Vec<u8>)>) {
        let kind = self.id.rsplit('-').next().unwrap().parse().unwrap();
        let object = |name: &str, archive, seed| {
            let bytes = noise(seed, size);
            let object = StoredObject {
                key: format!("{BACKUP_PREFIX}/{}/{name}", self.id),
                archive,
                stored_bytes: size as u64,
                raw_bytes: size as u64,
                sha256: hex(&sha256(&bytes)),
                frame_bytes: size as u64,
                frames: vec![size as u32],
            };
            (object, bytes)
        };
        let seed = u64::from_be_bytes(sha256(self.id.as_bytes())[..8].try_into().unwrap());
        let (objects, bytes): (Vec<_>, Vec<_>) = [
            object("base.tar.zst", Archive::Base, seed),
            object("backup_manifest.zst", Archive::Manifest, seed + 1),
        ]
        .into_iter()
        .unzip();
        let keys = objects.iter().map(|object| object.key.clone());
        let content = keys.zip(bytes).collect();
        let backup = Backup {
            version: 1,
            id: self.id.to_owned(),
            kind,
            parent: self.parent.map(str::to_owned),
            label: String::new(),
            started_at: self.stopped,
            stopped_at: self.stopped,
            start_lsn: Lsn(self.segments.0 * SEGMENT + 40),
            stop_lsn: Lsn(self.segments.1 * SEGMENT + 400),
            timeline: self.timeline,
            server_version: "17.12".to_owned(),
            wal_segment_bytes: SEGMENT,
            system_identifier: "7".to_owned(),
            includes_wal: false,
            tablespaces: Vec::new(),
            compression: "zstd".to_owned(),
            encryption: None,
            objects,
            checks: serde_json::Value::Null,
        };
        (backup, content)
    }

    /// Puts it into a store.
    pub fn put(&self, store: &Store) -> Backup {
        claim(store, 7, &never).unwrap();
        let (backup, content) = self.record(1000);
        for (key, bytes) in content {
            store.put(&key, bytes, &never).unwrap();
        }
        put_record(store, &backup);
        backup
    }
}

/// So many hours after the beginning of a year.
pub fn moment(hour: u64) -> Timestamp {
    let (day, hour) = (1 + hour / 24, hour % 24);
    format!("2026-01-{day:02}T{hour:02}:00:00Z")
        .parse()
        .unwrap()
}

pub fn put_record(store: &Store, backup: &Backup) {
    let key = format!("{BACKUP_PREFIX}/{}/backup.json", backup.id);
    store.put(&key, backup.to_json().unwrap(), &never).unwrap();
}

/// Archives a file of WAL with some content, and tells the key of its object.
pub fn put_wal(store: &Store, work: &Path, name: &str, encrypt: Option<&Recipients>) -> String {
    let path = work.join("file-of-wal");
    let seed = u64::from_be_bytes(sha256(name.as_bytes())[..8].try_into().unwrap());
    std::fs::write(&path, noise(seed, 3000)).unwrap();
    let seal = SealOptions {
        recipients: encrypt.cloned(),
        ..SealOptions::default()
    };
    let parsed: WalName = name.parse().unwrap();
    archive(store, &path, &parsed, &seal, &never).unwrap();
    let end = if encrypt.is_some() { "zst.age" } else { "zst" };
    format!("wal/{}/{name}.{end}", &name[..8])
}

/// The name of a segment.
pub fn segment(timeline: u32, number: u64) -> String {
    WalName::of_number(timeline, number, SEGMENT).to_string()
}

/// Changes a byte in the middle of an object.
pub fn flip(store: &Store, key: &str) {
    let mut bytes = store.get(key, 1 << 30, &never).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.put(key, bytes, &never).unwrap();
}
