//! Copying snapshots of tables.

use super::super::error::BackupError;
use super::super::record::MAX_RECORD_BYTES;
use super::super::snapshot::{self, Snapshot};
use super::Copying;
use super::lag::{Contents, Objects};

impl Copying<'_> {
    /// Copies each snapshot that the copy lacks.
    pub(super) fn snapshots(&mut self, here: &Contents) -> Result<(), BackupError> {
        let lacks = |(id, objects): &(&String, &Objects)| self.there.lacks_snapshot(id, objects);
        let ids: Vec<String> = here
            .snapshots
            .iter()
            .filter(lacks)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids.iter().rev() {
            self.snapshot(id)?;
        }
        Ok(())
    }

    fn snapshot(&mut self, id: &str) -> Result<(), BackupError> {
        let record = snapshot::record_of(id);
        let read = self
            .from
            .get(&record, MAX_RECORD_BYTES, self.tick)
            .map_err(BackupError::from)
            .and_then(|bytes| Ok((Snapshot::from_json(id, &bytes)?, bytes)));
        let (of, bytes) = match read {
            Ok(read) => read,
            Err(error) => return self.of_one(&record, error),
        };
        match snapshot::load(self.to, id, self.tick) {
            Ok(found) if found == of => {}
            Ok(_) => {
                self.fail(&record, "the copy has a different snapshot of that name");
                return Ok(());
            }
            Err(error) if error.is_the_stores() && !error.is_unreachable() => {}
            Err(error) => return Err(error),
        }
        let mut whole = true;
        for object in &of.objects {
            let key = &object.key;
            let size = self
                .there
                .snapshots
                .get(id)
                .and_then(|objects| objects.get(key));
            let same = size.is_some_and(|found| found.size == object.stored_bytes);
            if same && self.is_there(key, &object.sha256)? {
                continue;
            }
            match self.stream(key, object.stored_bytes, &object.sha256) {
                Ok(()) => self.copied(key, object.stored_bytes),
                Err(error) => {
                    whole = false;
                    self.of_one(key, error)?;
                }
            }
        }
        match whole {
            true => self.record(&record, &bytes),
            false => Ok(()),
        }
    }
}
