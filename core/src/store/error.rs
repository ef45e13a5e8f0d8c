//! The error type of stores.

use std::fmt;
use std::io;

use crate::wait::Stopped;

/// What kind of thing went wrong, for those who act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store has no object with that key.
    NotFound,
    /// The store already has an object with that key.
    AlreadyExists,
    /// The store refuses: credentials, rights, a file system that is mounted read-only.
    Permission,
    /// No room is left in the store.
    Full,
    /// The store cannot be reached or is in trouble; it was tried again until the time for that was over.
    Unreachable,
    /// The object's bytes are not those that were written.
    Corrupt,
    /// The object is larger than the caller takes.
    TooLarge,
    /// The store's URL, an option or a key is wrong.
    Config,
    /// The caller's tick ended the call.
    Cancelled,
    /// Everything else.
    Other,
}

impl ErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Permission => "permission denied",
            Self::Full => "no space left",
            Self::Unreachable => "unreachable",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too large",
            Self::Config => "wrong configuration",
            Self::Cancelled => "cancelled",
            Self::Other => "failed",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What went wrong with a store. No secret is in it: whatever is said was scrubbed of those that the configuration knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}: {detail}", self.place())]
pub struct StoreError {
    kind: ErrorKind,
    store: String,
    key: Option<String>,
    detail: String,
}

impl StoreError {
    pub(super) fn new(
        kind: ErrorKind,
        store: impl Into<String>,
        key: Option<&str>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            store: store.into(),
            key: key.map(str::to_owned),
            detail: detail.into(),
        }
    }

    /// A wrong URL or option.
    pub(super) fn config(store: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, store, None, detail)
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The store's URL; empty where there is none yet.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// The key that was asked for.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// What exactly happened.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn place(&self) -> String {
        match (&self.key, self.store.as_str()) {
            (None, "") => "store".to_owned(),
            (None, store) => store.to_owned(),
            (Some(key), store) => format!("{}/{key}", store.trim_end_matches('/')),
        }
    }

    /// As an error of `Read` and `Write`; [`StoreError::from_io`] gets it back.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Gets back the error of a store that came through `Read` or `Write`.
    ///
    /// # Errors
    /// The error itself, if it is no store's.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}

/// Where an error happened, to make more of them.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub(super) store: String,
    pub(super) key: Option<String>,
}

impl At {
    pub(super) fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError::new(kind, self.store.clone(), self.key.as_deref(), detail)
    }

    pub(super) fn stopped(&self, stopped: Stopped) -> StoreError {
        self.error(ErrorKind::Cancelled, stopped.reason)
    }

    /// The thread or task that should have answered is gone: it panicked.
    pub(super) fn gone(&self) -> StoreError {
        self.error(ErrorKind::Other, "the thread that did the work ended early")
    }
}
