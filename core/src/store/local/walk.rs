//! Listing objects.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::directory::{Directory, is_directory, is_file};
use super::job::Job;
use crate::store::error::StoreError;
use crate::store::flow::{Message, Piece};
use crate::store::handle::ObjectMeta;
use crate::store::key;

/// Objects of a message.
const BATCH: usize = 1_000;

/// Sends the objects below a prefix.
pub(super) fn list(job: &Job, prefix: &str, to: &SyncSender<Message<Vec<ObjectMeta>>>) {
    let mut walk = Walk {
        job,
        to,
        batch: Vec::new(),
    };
    let last = walk.all(prefix).map(|()| None);
    // If nobody listens any more, nobody wants to know.
    let _ = to.send(last);
}

struct Walk<'a> {
    job: &'a Job,
    to: &'a SyncSender<Message<Vec<ObjectMeta>>>,
    batch: Vec<ObjectMeta>,
}

impl Walk<'_> {
    fn all(&mut self, prefix: &str) -> Result<(), StoreError> {
        let names: Vec<&str> = prefix.split('/').filter(|name| !name.is_empty()).collect();
        let path = match self.job.root()?.path(&names, false) {
            Ok(path) => path,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(self.failed(errno)),
        };
        if let Some(directory) = path.last() {
            self.directory(directory, prefix)?;
        }
        self.send()
    }

    fn directory(&mut self, directory: &Directory, path: &str) -> Result<(), StoreError> {
        for (name, stat) in self.entries(directory, path)? {
            let key = joined(path, &name);
            if is_file(&stat) {
                self.batch.push(ObjectMeta {
                    key,
                    size: u64::try_from(stat.st_size).unwrap_or(0),
                    modified: modified(&stat),
                });
                if self.batch.len() == BATCH {
                    self.send()?;
                }
                continue;
            }
            match directory.enter(name.as_str()) {
                Ok(inner) => self.directory(&inner, &key)?,
                // It was removed meanwhile, or replaced by something else.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    /// Files and directories whose names are components of keys, in the order of the keys: a directory's name ends with a
    /// slash there.
    fn entries(
        &self,
        directory: &Directory,
        path: &str,
    ) -> Result<Vec<(String, FileStat)>, StoreError> {
        let mut entries = Vec::new();
        for name in directory.names().map_err(|errno| self.failed(errno))? {
            self.job.check()?;
            if key::fault(&joined(path, &name)).is_some() {
                continue;
            }
            match directory.stat(name.as_str()) {
                Ok(stat) if is_file(&stat) || is_directory(&stat) => entries.push((name, stat)),
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        entries.sort_by_cached_key(|(name, stat)| match is_directory(stat) {
            true => format!("{name}/"),
            false => name.clone(),
        });
        Ok(entries)
    }

    fn send(&mut self) -> Result<(), StoreError> {
        let value = std::mem::take(&mut self.batch);
        let piece = Piece {
            value,
            _place: None,
        };
        // A listener who is gone has raised the job's flag.
        let _ = self.to.send(Ok(Some(piece)));
        self.job.check()
    }

    fn failed(&self, errno: Errno) -> StoreError {
        self.job.failed("a directory cannot be listed", errno)
    }
}

fn joined(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}/{name}"),
    }
}

fn modified(stat: &FileStat) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    let nanos = Duration::from_nanos(u64::try_from(stat.st_mtime_nsec).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + nanos
}
