//! Stores in a directory.
//!
//! An object is written under a temporary name in the directory `.varve-tmp` at the root of the store, is synced, gets its
//! name by `rename` or `link`, and then every directory on the way to it is synced. (The `LocalFileSystem` of the crate
//! `object_store` can sync too, but follows symbolic links, makes files with the process's own umask, and never removes what
//! killed writers left.) Directories are
//! opened one after the other with `O_NOFOLLOW`: a symbolic link below the root leads nowhere.

mod directory;
mod fault;
mod job;
mod read;
mod walk;
mod write;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{channel, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use self::job::Job;
use super::config::StoreConfig;
use super::error::{At, StoreError};
use super::flow::{Abandon, Flow, answer};
use super::handle::ObjectMeta;
use super::parts::PartSizes;
use super::place::{self, StorePlace};
use super::writer::{Feed, Sink};
use crate::wait::Tick;

/// How many pieces a reading thread is ahead of the caller.
const AHEAD: usize = 4;

/// Bytes of a piece that is read or written.
const PIECE_BYTES: usize = 1 << 20;

/// A store in a directory. Every call works on a thread of its own, since a disk or a server of files may take long.
pub(super) struct LocalStore {
    root: PathBuf,
    create: bool,
}

impl LocalStore {
    pub(super) fn new(config: &StoreConfig) -> Self {
        Self {
            root: PathBuf::from(config.url().path()),
            create: config.create,
        }
    }

    pub(super) fn place(&self, at: At, tick: Tick<'_>) -> Result<StorePlace, StoreError> {
        self.run(at, tick, |job| {
            Ok(StorePlace::directory(&place::resolved(&job.root)))
        })
    }

    pub(super) fn put(
        &self,
        at: At,
        bytes: Vec<u8>,
        new: bool,
        tick: Tick<'_>,
    ) -> Result<(), StoreError> {
        self.run(at, tick, move |job| write::put(job, &bytes, new))
    }

    pub(super) fn get_range(
        &self,
        at: At,
        range: Range<u64>,
        tick: Tick<'_>,
    ) -> Result<Vec<u8>, StoreError> {
        self.run(at, tick, move |job| read::range(job, range))
    }

    pub(super) fn head(&self, at: At, tick: Tick<'_>) -> Result<ObjectMeta, StoreError> {
        self.run(at, tick, read::head)
    }

    pub(super) fn delete(&self, at: At, tick: Tick<'_>) -> Result<(), StoreError> {
        self.run(at, tick, write::delete)
    }

    pub(super) fn settle(&self, at: At, tick: Tick<'_>) -> Result<(), StoreError> {
        self.run(at, tick, write::settle)
    }

    pub(super) fn sweep(
        &self,
        at: At,
        older_than: Duration,
        tick: Tick<'_>,
    ) -> Result<u64, StoreError> {
        self.run(at, tick, move |job| write::sweep(job, older_than))
    }

    pub(super) fn reader(&self, at: At, tick: Tick<'_>) -> Result<(Flow<Bytes>, u64), StoreError> {
        let abandon = Abandon::default();
        let job = self.job(at.clone(), &abandon);
        let (size_sender, size) = channel();
        let (sender, pieces) = sync_channel(AHEAD);
        job.start(move |job| read::stream(job, &size_sender, &sender))?;
        let size = answer(&size, &at, tick)?;
        Ok((Flow::new(pieces, at, abandon), size))
    }

    pub(super) fn list(&self, at: At, prefix: &str) -> Result<Flow<Vec<ObjectMeta>>, StoreError> {
        let abandon = Abandon::default();
        let job = self.job(at.clone(), &abandon);
        let prefix = prefix.to_owned();
        let (sender, pieces) = sync_channel(AHEAD);
        job.start(move |job| walk::list(job, &prefix, &sender))?;
        Ok(Flow::new(pieces, at, abandon))
    }

    pub(super) fn writer(&self, at: At) -> Result<Sink, StoreError> {
        let abandon = Abandon::default();
        let job = self.job(at.clone(), &abandon);
        let (feed, orders) = channel();
        let (sender, progress) = channel();
        job.start(move |job| {
            if let Err(error) = write::stream(job, &orders, &sender) {
                // Nobody listens any more: nobody wants to know.
                let _ = sender.send(Err(error));
            }
        })?;
        Ok(Sink::new(
            Feed::Thread(feed),
            progress,
            PartSizes::Fixed(PIECE_BYTES),
            at,
            Some(abandon),
        ))
    }

    /// Does a job on another thread and waits for it.
    fn run<T: Send + 'static>(
        &self,
        at: At,
        tick: Tick<'_>,
        work: impl FnOnce(&Job) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let abandon = Abandon::default();
        let job = self.job(at.clone(), &abandon);
        let (sender, result) = channel();
        job.start(move |job| {
            // The caller may have gone; the job has cleaned up by itself.
            let _ = sender.send(work(job));
        })?;
        answer(&result, &at, tick)
    }

    fn job(&self, at: At, abandon: &Abandon) -> Job {
        Job {
            root: self.root.clone(),
            create: self.create,
            at,
            abandoned: abandon.flag(),
        }
    }
}
