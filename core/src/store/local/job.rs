//! A piece of work on a directory, done by a thread of its own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::directory::{self, Directory};
use super::fault;
use crate::store::error::{At, ErrorKind, StoreError};
use crate::wait::{Stopped, spawn};

/// What the thread knows.
pub(super) struct Job {
    pub(super) root: PathBuf,
    pub(super) create: bool,
    pub(super) at: At,
    pub(super) abandoned: Arc<AtomicBool>,
}

impl Job {
    /// Starts the thread.
    pub(super) fn start(self, work: impl FnOnce(&Self) + Send + 'static) -> Result<(), StoreError> {
        let at = self.at.clone();
        spawn("varve-file", move || work(&self))
            .map(drop)
            .map_err(|error| {
                at.error(
                    ErrorKind::Other,
                    format!("no thread could be started: {error}"),
                )
            })
    }

    /// Ends the job if nobody waits for it any more.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.abandoned.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(self
                .at
                .stopped(Stopped::new("nobody waits for it any more"))),
        }
    }

    /// The object's key, cut into directories and a file name.
    pub(super) fn components(&self) -> (Vec<&str>, &str) {
        let key = self.at.key.as_deref().unwrap_or_default();
        match key.rsplit_once('/') {
            Some((directories, file)) => (directories.split('/').collect(), file),
            None => (Vec::new(), key),
        }
    }

    /// Opens the root of the store, and makes it if that is allowed.
    pub(super) fn root(&self) -> Result<Directory, StoreError> {
        let opened = match Directory::root(&self.root) {
            Err(Errno::ENOENT) if self.create => {
                directory::make_all(&self.root).and_then(|()| Directory::root(&self.root))
            }
            opened => opened,
        };
        opened.map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => self.at.error(
                ErrorKind::Unreachable,
                format!(
                    "{} is no directory; if it is not a matter of mounting it, the option create makes it",
                    self.root.display()
                ),
            ),
            errno => self.failed("the store's directory cannot be opened", errno),
        })
    }

    pub(super) fn failed(&self, what: &str, errno: Errno) -> StoreError {
        self.at
            .error(fault::kind(errno), format!("{what}: {}", errno.desc()))
    }

    pub(super) fn io_failed(&self, what: &str, error: &io::Error) -> StoreError {
        self.at
            .error(fault::kind(fault::errno(error)), format!("{what}: {error}"))
    }
}
