//! Making what was written reach the disk.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use nix::unistd::syncfs;

use super::super::error::BackupError;
use crate::wait::{Outcome, Tick, receive, spawn};

/// Files of this size are synced by themselves.
pub(super) const LARGE: u64 = 1 << 20;

/// How many files may wait for it. Each is held open.
const QUEUE: usize = 64;

/// A thread that syncs large files while others are unpacked: the disk works while the processors do. At the end one call
/// syncs the thousands of small ones.
pub(super) struct Syncing {
    files: SyncQueue,
    ended: Receiver<Result<(), (PathBuf, io::Error)>>,
}

impl Syncing {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, BackupError> {
        let (files, queue) = sync_channel::<(PathBuf, File)>(QUEUE);
        let (answer, ended) = channel();
        let run = move || {
            let failed = queue
                .iter()
                .find_map(|(path, file)| file.sync_data().err().map(|error| (path, error)));
            // Nobody may be there to hear it.
            let _ = answer.send(failed.map_or(Ok(()), Err));
        };
        spawn("varve-sync", run).map_err(BackupError::thread)?;
        Ok(Self {
            files: SyncQueue(files),
            ended,
        })
    }

    /// Where it is told of files.
    pub(super) fn queue(&self) -> SyncQueue {
        self.files.clone()
    }

    /// Waits until it is done: nobody has its queue any more.
    pub(super) fn finish(self, tick: Tick<'_>) -> Result<(), BackupError> {
        drop(self.files);
        match receive(&self.ended, tick)? {
            Outcome::Sent(Ok(())) => Ok(()),
            Outcome::Sent(Err((path, error))) => Err(BackupError::io(&path, error)),
            Outcome::Gone => Err(BackupError::ended_early()),
        }
    }
}

/// Where a [`Syncing`] is told of files.
#[derive(Clone)]
pub(super) struct SyncQueue(SyncSender<(PathBuf, File)>);

impl SyncQueue {
    /// Gives it a file. Where too many wait, this one is left for the end, where all that is not on the disk yet gets there;
    /// so it is after an error, which [`Syncing::finish`] tells.
    pub(super) fn sync(&self, path: PathBuf, file: File) {
        let _ = self.0.try_send((path, file));
    }
}

/// Makes what was written to the file systems of some directories reach the disk, on a thread, since it may take long.
pub(super) fn sync_all(directories: Vec<PathBuf>, tick: Tick<'_>) -> Result<(), BackupError> {
    let (answer, ended) = channel();
    let run = move || {
        let failed = directories.into_iter().find_map(|directory| {
            let synced = File::open(&directory).and_then(|file| Ok(syncfs(&file)?));
            synced.err().map(|error| (directory, error))
        });
        // Nobody may be there to hear it.
        let _ = answer.send(failed.map_or(Ok(()), Err));
    };
    spawn("varve-sync", run).map_err(BackupError::thread)?;
    match receive(&ended, tick)? {
        Outcome::Sent(Ok(())) => Ok(()),
        Outcome::Sent(Err((path, error))) => Err(BackupError::io(&path, error)),
        Outcome::Gone => Err(BackupError::ended_early()),
    }
}
