//! Copying backups.

use std::collections::BTreeSet;
use std::io::Write;

use sha2::{Digest, Sha256};

use super::super::error::BackupError;
use super::super::keys::{self, RECORD_NAME};
use super::super::list::load;
use super::super::record::{Backup, MAX_RECORD_BYTES, StoredObject};
use super::super::running::Sign;
use super::super::seal::{at, hex};
use super::lag::Contents;
use super::{CopyEvent, Copying, WAL_EVERY};
use crate::store::ErrorKind;

impl Copying<'_> {
    /// Size of a segment, and the number of the first that the newest sound backup needs.
    pub(super) fn newest(&self, here: &Contents) -> Result<Option<(u64, u64)>, BackupError> {
        for id in here.backups.keys().rev().filter(|id| here.has_record(id)) {
            match load(self.from, id, self.tick) {
                Ok(backup) => {
                    let segment = backup.wal_segment_bytes;
                    return Ok(Some((segment, backup.start_lsn.0 / segment)));
                }
                Err(error) if error.is_cancelled() || error.is_unreachable() => return Err(error),
                // It is told where it is copied.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// A backup, behind those that it needs and that are not there yet.
    pub(super) fn needed_first(
        &self,
        id: &str,
        here: &Contents,
    ) -> Result<Vec<String>, BackupError> {
        let mut order = vec![id.to_owned()];
        let mut seen: BTreeSet<String> = order.iter().cloned().collect();
        while let Some(last) = order.last() {
            let parent = match load(self.from, last, self.tick) {
                Ok(backup) => backup.parent,
                Err(error) if error.is_cancelled() || error.is_unreachable() => return Err(error),
                // It is told where it is copied.
                Err(_) => None,
            };
            let wanted = |parent: &String| {
                let objects = here.backups.get(parent);
                objects.is_some_and(|objects| self.there.lacks_backup(parent, objects))
            };
            match parent.filter(wanted) {
                Some(parent) if seen.insert(parent.clone()) => order.push(parent),
                _ => break,
            }
        }
        order.reverse();
        Ok(order)
    }

    /// Copies a backup, unless that was done or has failed before.
    pub(super) fn backup(&mut self, id: &str, here: &Contents) -> Result<(), BackupError> {
        let record = keys::in_backup(id, RECORD_NAME);
        let lacks = |there: &Contents| {
            let objects = here.backups.get(id);
            objects.is_some_and(|objects| there.lacks_backup(id, objects))
        };
        if self.failed.contains_key(&record) || !lacks(&self.there) {
            return Ok(());
        }
        let read = self
            .from
            .get(&record, MAX_RECORD_BYTES, self.tick)
            .map_err(BackupError::from)
            .and_then(|bytes| Ok((Backup::from_json(id, &bytes)?, bytes)));
        let (backup, bytes) = match read {
            Ok(read) => read,
            Err(error) => return self.of_one(&record, error),
        };
        // Where the record is there its objects were read back when it was written.
        let was_whole = match self.there.has_record(id) {
            false => false,
            true => match load(self.to, id, self.tick) {
                Ok(found) if found == backup => true,
                Ok(_) => {
                    self.fail(&record, "the copy has a different backup of that name");
                    return Ok(());
                }
                Err(error) if error.is_the_stores() && !error.is_unreachable() => false,
                Err(error) => return Err(error),
            },
        };
        if let Some(parent) = &backup.parent
            && !self.there.has_record(parent)
        {
            self.fail(
                &record,
                format!("it needs backup {parent}, which the copy has not"),
            );
            return Ok(());
        }
        let (to, tick) = (self.to, self.tick);
        let sign = Sign::put(to, id, backup.parent.as_deref(), tick)?;
        sign.during(|| {
            let mut whole = true;
            for object in &backup.objects {
                whole &= self.object(id, object, was_whole)?;
                self.wal(false)?;
            }
            if !whole {
                if self.exists(id)? {
                    self.fail(&record, "not all of the backup's objects are in the copy");
                }
                return Ok(());
            }
            // It may have taken days, and somebody may have removed what was there before.
            self.look_again(&backup)?;
            self.wal_of_backup(&backup)?;
            let gone = |object: &&StoredObject| {
                self.there.size_in_backup(id, &object.key) != Some(object.stored_bytes)
            };
            if let Some(gone) = backup.objects.iter().find(gone) {
                let reason = format!("{} was removed from the copy meanwhile", gone.key);
                self.fail(&record, reason);
                return Ok(());
            }
            self.record(&record, &bytes)
        })
    }

    /// Copies an object of a backup; whether it is there, the one that the record means.
    fn object(
        &mut self,
        id: &str,
        object: &StoredObject,
        was_whole: bool,
    ) -> Result<bool, BackupError> {
        let key = &object.key;
        if self.there.size_in_backup(id, key) == Some(object.stored_bytes)
            && (was_whole || self.is_there(key, &object.sha256)?)
        {
            return Ok(true);
        }
        match self.stream(key, object.stored_bytes, &object.sha256) {
            Ok(()) => {
                self.copied(key, object.stored_bytes);
                Ok(true)
            }
            Err(BackupError::Store(error)) if error.kind() == ErrorKind::NotFound => {
                // Where the record went first the backup was removed, and nobody misses it.
                if self.exists(id)? {
                    self.fail(key, error.to_string());
                }
                Ok(false)
            }
            Err(error) => self.of_one(key, error).map(|()| false),
        }
    }

    /// Whether a backup still exists where it comes from.
    fn exists(&self, id: &str) -> Result<bool, BackupError> {
        match self.from.head(&keys::in_backup(id, RECORD_NAME), self.tick) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an object in the copy has a SHA-256.
    pub(super) fn is_there(&mut self, key: &str, sha256: &str) -> Result<bool, BackupError> {
        match self.sum_of(key) {
            Ok(sum) => Ok(hex(&sum) == sha256),
            Err(BackupError::Store(error))
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn sum_of(&mut self, key: &str) -> Result<[u8; 32], BackupError> {
        let mut reader = self.to.get_stream(key, self.tick)?;
        let mut hash = Sha256::new();
        while let Some(chunk) = reader.chunk()? {
            hash.update(&chunk);
            self.between()?;
        }
        Ok(hash.finalize().into())
    }

    /// Copies an object, and reads it back.
    pub(super) fn stream(
        &mut self,
        key: &str,
        stored_bytes: u64,
        sha256: &str,
    ) -> Result<(), BackupError> {
        let damaged = |detail: String| BackupError::corrupt(at(self.from, key), detail);
        let mut reader = self.from.get_stream(key, self.tick)?;
        if reader.size() != stored_bytes {
            return Err(damaged(format!(
                "it has {} bytes and should have {stored_bytes}",
                reader.size(),
            )));
        }
        (self.each)(CopyEvent::Begun {
            key: key.to_owned(),
            bytes: stored_bytes,
        });
        let mut writer = self.to.writer_expecting(key, stored_bytes, self.tick)?;
        while let Some(chunk) = reader.chunk()? {
            writer
                .write_all(&chunk)
                .map_err(|error| BackupError::of_stream(&at(self.to, key), error))?;
            let bytes = chunk.len() as u64;
            (self.each)(CopyEvent::Moved { bytes });
            self.between()?;
        }
        let sum = hex(&writer.sha256());
        if sum != sha256 {
            return Err(BackupError::corrupt(
                at(self.from, key),
                format!("its SHA-256 should be {sha256} and is {sum}"),
            ));
        }
        writer.finish()?;
        match self.is_there(key, sha256)? {
            true => Ok(()),
            false => Err(self.take_back(key)?),
        }
    }

    /// Deletes what was written a moment ago and is something else when it is read.
    pub(super) fn take_back(&mut self, key: &str) -> Result<BackupError, BackupError> {
        self.to.delete(key, self.tick)?;
        self.there.forget(key);
        Ok(BackupError::corrupt(
            at(self.to, key),
            "the copy was not what was written when it was read back, and was deleted",
        ))
    }

    /// The record makes the backup or snapshot exist, if it still does where it comes from.
    pub(super) fn record(&mut self, key: &str, bytes: &[u8]) -> Result<(), BackupError> {
        match self.from.get(key, MAX_RECORD_BYTES, self.tick) {
            Ok(now) if now == bytes => {}
            Ok(_) => {
                self.fail(key, "it was changed while the backup was copied");
                return Ok(());
            }
            Err(error) => return self.of_one(key, error.into()),
        }
        self.to.put(key, bytes.to_vec(), self.tick)?;
        match self.to.get(key, MAX_RECORD_BYTES, self.tick) {
            Ok(written) if written == bytes => {
                self.copied(key, bytes.len() as u64);
                Ok(())
            }
            Ok(_) => {
                let error = self.take_back(key)?;
                self.of_one(key, error)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Between two pieces of an archive: WAL that has waited goes first.
    fn between(&mut self) -> Result<(), BackupError> {
        match self.wal_at.elapsed() >= WAL_EVERY {
            true => self.wal(false),
            false => Ok(()),
        }
    }
}
