//! The error type of sealing and opening.

use std::io;

use crate::wait::Stopped;

/// What can go wrong with compressing, encrypting and the reverse.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The bytes are not what a writer wrote: damaged, truncated or forged.
    #[error("sealed bytes are corrupt: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// The bytes may be sound, but are not of a kind that is read here.
    #[error("sealed bytes cannot be read: {detail}")]
    Unsupported {
        /// What was found.
        detail: String,
    },
    /// A key, a passphrase or an option is missing, wrong or not the right one. The message holds no secret.
    #[error("keys: {detail}")]
    Key {
        /// What is wrong.
        detail: String,
    },
    /// The caller's tick ended the call.
    #[error(transparent)]
    Cancelled(#[from] Stopped),
    /// The system gave no thread, or no memory, or refused a file.
    #[error("{detail}")]
    System {
        /// What was wanted and what happened.
        detail: String,
    },
    /// What lies beneath could not be read or written; the error is its own.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl SealError {
    pub(super) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt {
            detail: detail.into(),
        }
    }

    pub(super) fn unsupported(detail: impl Into<String>) -> Self {
        Self::Unsupported {
            detail: detail.into(),
        }
    }

    pub(super) fn key(detail: impl Into<String>) -> Self {
        Self::Key {
            detail: detail.into(),
        }
    }

    pub(super) fn system(detail: impl Into<String>) -> Self {
        Self::System {
            detail: detail.into(),
        }
    }

    /// As an error of `Read` and `Write`.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            error => io::Error::other(error),
        }
    }

    /// Gets back what [`SealError::into_io`] made; every other error is [`SealError::Io`].
    pub fn from_io(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Io)
    }
}
