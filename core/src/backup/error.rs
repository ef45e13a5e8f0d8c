//! The error type of backups.

use std::io;
use std::path::Path;

use crate::replication::ReplicationError;
use crate::seal::SealError;
use crate::store::{ErrorKind, StoreError};
use crate::wait::Stopped;

/// What can go wrong with backups.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A store says so.
    #[error(transparent)]
    Store(StoreError),
    /// The server says so, or cannot be reached.
    #[error(transparent)]
    Replication(ReplicationError),
    /// Compressing, encrypting or the reverse failed.
    #[error("{object}: {error}")]
    Seal {
        /// Which object.
        object: String,
        /// What happened.
        error: SealError,
    },
    /// An object or a file does not hold what was written to it.
    #[error("{object} is damaged: {detail}")]
    Corrupt {
        /// Which.
        object: String,
        /// What was found.
        detail: String,
    },
    /// It was made by a newer version.
    #[error("{object} needs a newer version of varve: {detail}")]
    Unsupported {
        /// Which object.
        object: String,
        /// What was found.
        detail: String,
    },
    /// There is no such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// Which backup or file.
        what: String,
    },
    /// What is asked for is not done, and why.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// A program of PostgreSQL's failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// Which.
        program: String,
        /// How it ended and what it said.
        detail: String,
    },
    /// The caller's tick ended the call.
    #[error(transparent)]
    Cancelled(Stopped),
}

impl BackupError {
    pub(super) fn corrupt(object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            object: object.into(),
            detail: detail.into(),
        }
    }

    pub(super) fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused {
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.display().to_string(),
            error,
        }
    }

    /// A thread of ours could not be started.
    pub(super) fn thread(error: io::Error) -> Self {
        Self::io(Path::new("a thread"), error)
    }

    /// A thread of ours is gone without an answer.
    pub(super) fn ended_early() -> Self {
        Self::thread(io::Error::other("it ended early"))
    }

    /// What came out of a stack of readers or writers: a store's error, sealing's, or the system's.
    pub(super) fn of_stream(object: &str, error: io::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(error) => return error,
            Err(error) => error,
        };
        match StoreError::from_io(error) {
            Ok(error) => error.into(),
            Err(error) => Self::of_seal(object, SealError::from_io(error)),
        }
    }

    /// What sealing or opening an object, or the keys for it, has met.
    pub fn of_seal(object: &str, error: SealError) -> Self {
        match error {
            SealError::Cancelled(stopped) => Self::Cancelled(stopped),
            SealError::Io(error) => match StoreError::from_io(error) {
                Ok(error) => error.into(),
                Err(error) => Self::Io {
                    path: object.to_owned(),
                    error,
                },
            },
            error => Self::Seal {
                object: object.to_owned(),
                error,
            },
        }
    }

    /// What to do, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => Some(hint).filter(|h| !h.is_empty()).map(String::as_str),
            Self::Replication(error) => error.hint(),
            _ => None,
        }
    }

    /// Whether another store may do better: the object is damaged, not there, or not understood, or its store is away. A bucket
    /// that does not exist is a wrong configuration, and the next store may have one.
    pub(super) fn is_the_stores(&self) -> bool {
        match self {
            Self::Store(error) => error.kind() != ErrorKind::Cancelled,
            Self::Corrupt { .. } | Self::NotFound { .. } | Self::Unsupported { .. } => true,
            Self::Seal { error, .. } => {
                matches!(
                    error,
                    // One byte of an encrypted file's head, and it is for somebody else, as it seems.
                    SealError::Corrupt { .. }
                        | SealError::Unsupported { .. }
                        | SealError::Key { .. }
                )
            }
            _ => false,
        }
    }

    /// Whether the object or backup is simply not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Store(error) => error.kind() == ErrorKind::NotFound,
            Self::NotFound { .. } => true,
            _ => false,
        }
    }

    /// Whether the caller's tick ended the call.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled(_) => true,
            Self::Store(error) => error.kind() == ErrorKind::Cancelled,
            Self::Replication(error) => matches!(error, ReplicationError::Cancelled(_)),
            Self::Seal { error, .. } => matches!(error, SealError::Cancelled(_)),
            _ => false,
        }
    }
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Stopped> for BackupError {
    fn from(stopped: Stopped) -> Self {
        Self::Cancelled(stopped)
    }
}

impl From<ReplicationError> for BackupError {
    fn from(error: ReplicationError) -> Self {
        match error {
            ReplicationError::Cancelled(stopped) => Self::Cancelled(stopped),
            error => Self::Replication(error),
        }
    }
}
