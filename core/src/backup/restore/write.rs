//! Writing files on threads of their own, while the caller's reads on and computes checksums.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::super::error::BackupError;
use super::sync::{LARGE, SyncQueue, Syncing};
use crate::wait::{Outcome, Tick, receive, spawn};

/// Most threads that write.
const MAX_THREADS: usize = 8;

/// Threads that decompress for which one writes: it has less to do, and several that write to one file wait for each other.
const READERS: usize = 2;

/// How much is written by one call, in bytes. For more the system takes larger pieces of memory, which on virtual machines is likelier to be
/// such as the host has yet to find: 4 MiB took 1.3 times as long.
const STEP: usize = 256 << 10;

/// Writes that may wait, for each thread. Each holds a frame of an archive in memory.
const QUEUE: usize = 2;

/// What is smaller than this is written at once by the caller's thread, in bytes: to tell another would take longer.
const SMALL: usize = 64 << 10;

/// A file that is written.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    file: File,
    /// Whether it is worth to be synced by itself.
    large: bool,
}

impl OutFile {
    /// Makes a file that is not there.
    pub(super) fn create(path: PathBuf, mode: u32, size: u64) -> Result<Arc<Self>, BackupError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path);
        Self::of(path, file, size)
    }

    /// Opens a file that is there.
    pub(super) fn open(path: PathBuf, size: u64) -> Result<Arc<Self>, BackupError> {
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Self::of(path, file, size)
    }

    fn of(path: PathBuf, file: io::Result<File>, size: u64) -> Result<Arc<Self>, BackupError> {
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                BackupError::corrupt(path.display().to_string(), "the archive has it twice")
            }
            _ => BackupError::io(&path, error),
        })?;
        let large = size >= LARGE;
        Ok(Arc::new(Self { path, file, large }))
    }

    /// Gives it a length; what was not written reads as zeros.
    pub(super) fn set_len(&self, len: u64) -> Result<(), BackupError> {
        self.file.set_len(len).map_err(|error| self.failed(error))
    }

    /// Reads from a place in it.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), BackupError> {
        self.file
            .read_exact_at(buffer, at)
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> BackupError {
        BackupError::io(&self.path, error)
    }
}

/// A piece of a file, and where in it.
struct Job {
    file: Arc<OutFile>,
    at: u64,
    bytes: Bytes,
}

/// The threads, and the one that makes large files reach the disk. They end when this is dropped.
pub(super) struct Writers {
    jobs: Sender<Job>,
    done: Receiver<Result<(), BackupError>>,
    /// Jobs that no answer has come to.
    waiting: usize,
    most: usize,
    syncing: Syncing,
}

impl Writers {
    /// Starts the threads, for as many that decompress.
    pub(super) fn start(readers: usize) -> Result<Self, BackupError> {
        let threads = readers.div_ceil(READERS).clamp(1, MAX_THREADS);
        let syncing = Syncing::start()?;
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let (answer, done) = channel();
        for _ in 0..threads {
            let (queue, answer, syncing) = (queue.clone(), answer.clone(), syncing.queue());
            let next = move || {
                let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.recv().ok()
            };
            let run = move || {
                while let Some(Job { file, at, bytes }) = next() {
                    let mut steps = bytes.chunks(STEP).zip((at..).step_by(STEP));
                    let written = steps.try_for_each(|(step, at)| file.file.write_all_at(step, at));
                    let written = written.map_err(|error| file.failed(error));
                    drop(bytes);
                    let_go(file, &syncing);
                    if answer.send(written).is_err() {
                        return;
                    }
                }
            };
            spawn("varve-write", run).map_err(BackupError::thread)?;
        }
        Ok(Self {
            jobs,
            done,
            waiting: 0,
            most: threads * QUEUE,
            syncing,
        })
    }

    /// Has bytes written to a place in a file, now or soon.
    ///
    /// # Errors
    /// Also that of an earlier write.
    pub(super) fn write(
        &mut self,
        file: &Arc<OutFile>,
        at: u64,
        bytes: Bytes,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        tick()?;
        if bytes.len() < SMALL {
            let written = file.file.write_all_at(&bytes, at);
            return written.map_err(|error| file.failed(error));
        }
        self.wait_for(self.most - 1, tick)?;
        let file = file.clone();
        self.waiting += 1;
        self.jobs
            .send(Job { file, at, bytes })
            .map_err(|_| BackupError::ended_early())
    }

    /// Says that no more of a file is to be written.
    pub(super) fn end(&self, file: Arc<OutFile>) {
        let_go(file, &self.syncing.queue());
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// That of a write.
    pub(super) fn flush(&mut self, tick: Tick<'_>) -> Result<(), BackupError> {
        self.wait_for(0, tick)
    }

    /// Waits until all is written, and the large files that were given to be synced by themselves are on the disk. Nothing can be
    /// written after that.
    ///
    /// # Errors
    /// That of a write, or of syncing.
    pub(super) fn finish(mut self, tick: Tick<'_>) -> Result<(), BackupError> {
        self.flush(tick)?;
        drop(self.jobs);
        self.syncing.finish(tick)
    }

    /// Waits until no more than some are waiting.
    fn wait_for(&mut self, most: usize, tick: Tick<'_>) -> Result<(), BackupError> {
        while self.waiting > most {
            match receive(&self.done, tick)? {
                Outcome::Sent(written) => {
                    self.waiting -= 1;
                    written?;
                }
                Outcome::Gone => return Err(BackupError::ended_early()),
            }
        }
        Ok(())
    }
}

/// The last who has a file gives it away to be synced, if it is large.
fn let_go(file: Arc<OutFile>, syncing: &SyncQueue) {
    if let Some(file) = Arc::into_inner(file)
        && file.large
    {
        syncing.sync(file.path, file.file);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::wait::never;

    #[test]
    fn pieces_of_many_files_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut writers = Writers::start(6).unwrap();
        let piece = |n: usize| Bytes::from(vec![n as u8; SMALL * 3 / 2 - n * 8192]);
        for name in ["a", "b", "c"] {
            let path = directory.path().join(name);
            let file = OutFile::create(path.clone(), 0o600, 2 * LARGE).unwrap();
            for n in (0..8).rev() {
                let at = (n * SMALL * 2) as u64;
                writers.write(&file, at, piece(n), &never).unwrap();
            }
            writers.end(file);
            assert!(OutFile::create(path, 0o600, 0).is_err());
        }
        writers.finish(&never).unwrap();
        for name in ["a", "b", "c"] {
            let found = std::fs::read(directory.path().join(name)).unwrap();
            for n in 0..8 {
                let at = n * SMALL * 2;
                assert_eq!(found[at..at + piece(n).len()], piece(n), "{name} {n}");
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let mut writers = Writers::start(1).unwrap();
        let full = OutFile::open(PathBuf::from("/dev/full"), 0).unwrap();
        let bytes = |len| Bytes::from(vec![1; len]);
        assert!(writers.write(&full, 0, bytes(1), &never).is_err());
        let mut told = None;
        for _ in 0..4 {
            told = told.or(writers.write(&full, 0, bytes(SMALL), &never).err());
        }
        let told = told.or(writers.flush(&never).err());
        assert!(told.unwrap().to_string().contains("/dev/full"));
    }
}
