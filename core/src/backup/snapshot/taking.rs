//! Objects of a snapshot out, and its record behind them.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::time::Instant;

use super::super::clean_up;
use super::super::error::BackupError;
use super::super::seal::{Layer, SealOptions, hex};
use super::super::take::claim;
use super::super::timestamp::Timestamp;
use super::record::{Holds, MAX_RECORD_BYTES, Object, Snapshot, VERSION};
use super::{SNAPSHOT_RECORD, SNAPSHOT_SUFFIX, key, look};
use crate::store::{ErrorKind, ObjectWriter, Store};
use crate::wait::Tick;

/// What was written of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    key: String,
    stored_bytes: u64,
    raw_bytes: u64,
    sha256: String,
}

impl Part {
    /// The object, now that it is known what it holds.
    pub fn holding(self, holds: Holds) -> Object {
        Object {
            key: self.key,
            holds,
            stored_bytes: self.stored_bytes,
            raw_bytes: self.raw_bytes,
            sha256: self.sha256,
        }
    }

    /// Size of the object, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }
}

/// Random digits: two snapshots may begin in one millisecond, and in two servers. Processes that were forked have their hashes' keys
/// in common; what else goes into them differs.
fn random() -> String {
    let system = std::fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let own = (std::process::id(), Instant::now(), system);
    let number = RandomState::new().hash_one(own);
    format!("{:08x}", number as u32)
}

/// A snapshot that is being taken. Dropped before it is complete, it removes what it wrote.
pub struct Taking<'s> {
    store: &'s Store,
    seal: SealOptions,
    id: String,
    begun_at: Timestamp,
    begun: Vec<String>,
}

impl<'s> Taking<'s> {
    /// Begins a snapshot in the store of a cluster, under an id of its own.
    ///
    /// # Errors
    /// [`BackupError::Refused`] where the store is another cluster's, or what it answers.
    pub fn begin(
        store: &'s Store,
        system_identifier: u64,
        seal: SealOptions,
        tick: Tick<'_>,
    ) -> Result<Self, BackupError> {
        claim(store, system_identifier, tick)?;
        let begun_at = Timestamp::now();
        Ok(Self {
            store,
            seal,
            id: format!("{}-{}{SNAPSHOT_SUFFIX}", begun_at.for_id(), random()),
            begun_at,
            begun: Vec::new(),
        })
    }

    /// The version of the format that is written.
    pub fn version(&self) -> u32 {
        VERSION
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was begun.
    pub fn begun_at(&self) -> Timestamp {
        self.begun_at
    }

    /// How its objects are encrypted, for the record.
    pub fn encryption(&self) -> Option<String> {
        self.seal.recipients.is_some().then(|| "age".to_owned())
    }

    /// Begins an object.
    ///
    /// # Errors
    /// What the store answers.
    pub fn object<'t>(&mut self, name: &str, tick: Tick<'t>) -> Result<ObjectOut<'t>, BackupError> {
        let recipients = self.seal.recipients.as_ref();
        let extension = if recipients.is_some() { ".age" } else { "" };
        let key = key(&self.id, &format!("{name}{extension}"));
        self.begun.push(key.clone());
        let inner = self.store.writer(&key, tick)?;
        let layer = Layer::new(inner, recipients, tick)
            .map_err(|error| BackupError::of_seal(&key, error))?;
        Ok(ObjectOut {
            key,
            layer,
            raw_bytes: 0,
        })
    }

    /// Writes the record: with it the snapshot exists.
    ///
    /// # Errors
    /// [`BackupError::Refused`] for a record that is too large, [`BackupError::Corrupt`] for one that could not be read back, or what
    /// the store answers.
    pub fn finish(mut self, snapshot: &Snapshot, tick: Tick<'_>) -> Result<(), BackupError> {
        let record = snapshot.to_json()?;
        if record.len() as u64 > MAX_RECORD_BYTES {
            return Err(BackupError::refused(
                format!(
                    "the snapshot's record would have {} bytes, and {MAX_RECORD_BYTES} is the most",
                    record.len()
                ),
                "Let the table have fewer chunks, by merging or dropping old ones.",
            ));
        }
        Snapshot::from_json(&self.id, &record)?;
        // Once it is on its way the record may be there, whatever the answer is: what it lists stays.
        let begun = std::mem::take(&mut self.begun);
        let name = key(&self.id, SNAPSHOT_RECORD);
        let Err(error) = self.store.put_new(&name, record, tick) else {
            return Ok(());
        };
        match error.kind() {
            // The first answer was lost, and it was asked twice.
            ErrorKind::AlreadyExists if look::load(self.store, &self.id, tick)? == *snapshot => {
                return Ok(());
            }
            // The store did not take it, and nothing is on its way: objects without a record go.
            ErrorKind::Permission | ErrorKind::Full | ErrorKind::Config | ErrorKind::TooLarge => {
                let found = look::load(self.store, &self.id, tick);
                if found.is_err_and(|found| found.is_not_found()) {
                    self.begun = begun;
                }
            }
            _ => {}
        }
        Err(error.into())
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        clean_up::delete(self.store, &self.begun);
    }
}

/// An object of a snapshot that is being written.
pub struct ObjectOut<'t> {
    key: String,
    layer: Layer<ObjectWriter<'t>>,
    raw_bytes: u64,
}

impl ObjectOut<'_> {
    /// Ends the object, which is safe then.
    ///
    /// # Errors
    /// What the store answers.
    pub fn finish(self) -> Result<Part, BackupError> {
        let inner = self.layer.finish();
        let inner = inner.map_err(|error| BackupError::of_seal(&self.key, error))?;
        let written = inner.finish()?;
        Ok(Part {
            key: self.key,
            stored_bytes: written.size,
            raw_bytes: self.raw_bytes,
            sha256: hex(&written.sha256),
        })
    }

    /// What a failed write to it means.
    pub fn error(key: &str, error: io::Error) -> BackupError {
        BackupError::of_stream(key, error)
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Write for ObjectOut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.layer.write(bytes)?;
        self.raw_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
