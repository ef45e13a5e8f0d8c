//! Copying WAL.

use std::io::{self, Read, Write};
use std::time::Instant;

use super::super::error::BackupError;
use super::super::keys::{self, WalPart};
use super::super::record::Backup;
use super::super::seal::at;
use super::super::wal::{WalSum, check_object, unpack_from};
use super::super::wal_list::WalFile;
use super::super::wal_name::WalName;
use super::lag::{Contents, Objects, missing, wal_of};
use super::{CopyEvent, Copying};
use crate::store::{ErrorKind, ObjectWriter};

/// Largest object with the SHA-256 of a file, in bytes.
const MAX_SUM_BYTES: u64 = 1024;

impl Copying<'_> {
    /// Copies WAL that is missing: what the newest backup needs to be rolled forward, or all.
    pub(super) fn wal(&mut self, all: bool) -> Result<(), BackupError> {
        let needed = self.needed;
        let wanted = |name: &WalName| match needed {
            Some((segment, first)) => name.segment_number(segment).is_none_or(|n| n >= first),
            None => true,
        };
        self.wal_where(&wanted)?;
        if all && needed.is_some() {
            self.wal_where(&|name| !wanted(name))?;
        }
        self.wal_at = Instant::now();
        Ok(())
    }

    /// Copies the WAL without which a backup cannot be started.
    pub(super) fn wal_of_backup(&mut self, backup: &Backup) -> Result<(), BackupError> {
        let segment = backup.wal_segment_bytes;
        let first = backup.start_lsn.0 / segment;
        let last = backup.stop_lsn.0.saturating_sub(1) / segment;
        self.wal_where(&|name| {
            let number = name.segment_number(segment);
            number.is_none_or(|n| name.timeline() == backup.timeline && n >= first && n <= last)
        })
    }

    /// Lists again what the copy has of a backup and of the WAL without which it cannot be started.
    pub(super) fn look_again(&mut self, backup: &Backup) -> Result<(), BackupError> {
        let now = Contents::of_backup(self.to, backup, self.tick)?;
        let mut gone = Vec::new();
        for key in self.there.of_backup_or_wal(backup) {
            if !now.contains_key(key) {
                gone.push(key.to_owned());
            }
        }
        for key in gone {
            self.there.forget(&key);
        }
        // What is to be replaced is as good as not there until it was.
        let waits =
            |key: &String| self.options.replace.contains(key) && !self.replaced.contains(key);
        let there: Objects = now.into_iter().filter(|(key, _)| !waits(key)).collect();
        self.there.extend(there);
        Ok(())
    }

    /// Copies files whose names are wanted, in their order: that is the order in which they are replayed.
    fn wal_where(&mut self, wanted: &dyn Fn(&WalName) -> bool) -> Result<(), BackupError> {
        let here = wal_of(self.from, self.tick)?;
        let lacks: Vec<(String, u64)> = missing(&here, Some(&self.there.wal))
            .filter(|(key, _)| !self.failed.contains_key(*key))
            .map(|(key, object)| (key.to_owned(), object.size))
            .collect();
        for (key, bytes) in lacks {
            let Some((name, part)) = keys::wal_object(&key).filter(|(name, _)| wanted(name)) else {
                continue;
            };
            (self.tick)()?;
            let sum = keys::wal_sum(&name);
            if part == WalPart::Encrypted && self.failed.contains_key(&sum) {
                self.fail(&key, format!("{sum} could not be copied"));
                continue;
            }
            let event = CopyEvent::Begun {
                key: key.clone(),
                bytes,
            };
            (self.each)(event);
            let copied = match part {
                WalPart::Sum => self.wal_sum(&key, &name),
                WalPart::Plain | WalPart::Encrypted => {
                    let file = WalFile {
                        name,
                        key: key.clone(),
                        stored_bytes: bytes,
                        encrypted: part == WalPart::Encrypted,
                    };
                    self.wal_file(&file)
                }
            };
            match copied {
                Ok(bytes) => {
                    (self.each)(CopyEvent::Moved { bytes });
                    self.copied(&key, bytes);
                }
                Err(error) => self.of_one(&key, error)?,
            }
        }
        Ok(())
    }

    /// Copies the SHA-256 of an encrypted file; its size.
    fn wal_sum(&mut self, key: &str, name: &WalName) -> Result<u64, BackupError> {
        let bytes = self.from.get(key, MAX_SUM_BYTES, self.tick)?;
        let line = String::from_utf8_lossy(&bytes);
        let digits = line
            .strip_suffix(&format!("  {name}\n"))
            .unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let detail = "it is no line of a SHA-256 and that file";
            return Err(BackupError::corrupt(at(self.from, key), detail));
        }
        self.to.put(key, bytes.clone(), self.tick)?;
        match self.to.get(key, MAX_SUM_BYTES, self.tick)? == bytes {
            true => Ok(bytes.len() as u64),
            false => Err(self.take_back(key)?),
        }
    }

    /// Copies a file; the size of its object.
    fn wal_file(&mut self, file: &WalFile) -> Result<u64, BackupError> {
        let key = &file.key;
        if self.there.wal.contains_key(key) {
            self.may_replace(file)?;
        }
        let identities = self.options.identities.as_ref();
        let from = self.from.get_stream(key, self.tick)?;
        let mut writer = self.to.writer_expecting(key, from.size(), self.tick)?;
        let mut tee = Tee {
            from,
            to: &mut writer,
        };
        if !file.encrypted || identities.is_some() {
            let name = at(self.from, key);
            let nowhere = &mut io::sink();
            unpack_from(
                &mut tee,
                &name,
                file.encrypted,
                nowhere,
                identities,
                self.tick,
            )?;
        }
        // What the check had no need of.
        io::copy(&mut tee, &mut io::sink())
            .map_err(|error| BackupError::of_stream(&at(self.to, key), error))?;
        let written = writer.finish()?;
        match self.to.sha256(key, self.tick) {
            Ok(found) if found == written => Ok(written.size),
            Ok(_) => Err(self.take_back(key)?),
            Err(error) if error.kind() == ErrorKind::Corrupt => Err(self.take_back(key)?),
            Err(error) => Err(error.into()),
        }
    }

    /// The copy has an object of another size: it is replaced if it is damaged, or holds the same file.
    fn may_replace(&self, file: &WalFile) -> Result<(), BackupError> {
        let refused = |reason: &str| {
            let message = format!("{} has {reason}", at(self.to, &file.key));
            BackupError::refused(message, "")
        };
        let identities = self.options.identities.as_ref();
        if file.encrypted && identities.is_none() {
            return Err(refused(
                "another size, and without the key nobody can tell which of the two is sound",
            ));
        }
        let check = |store| -> Result<Option<WalSum>, BackupError> {
            match check_object(store, file, identities, self.tick) {
                Ok(sum) => Ok(Some(sum)),
                Err(BackupError::Corrupt { .. } | BackupError::Seal { .. }) => Ok(None),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        };
        match (check(self.to)?, check(self.from)?) {
            (Some(there), Some(here)) if there != here => {
                Err(refused("a different file under that name"))
            }
            _ => Ok(()),
        }
    }
}

/// Writes all that is read from it.
struct Tee<'w, 't, R> {
    from: R,
    to: &'w mut ObjectWriter<'t>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.to.write_all(buffer.get(..got).unwrap_or_default())?;
        Ok(got)
    }
}
