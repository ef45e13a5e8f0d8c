//! The error type of Parquet files.

use std::io;

/// What can go wrong with a Parquet file.
#[derive(Debug, thiserror::Error)]
pub enum ParquetError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is none, or none of varve's.
    #[error("no Parquet file of varve's: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// It would be larger than [`Reader`](super::Reader) takes.
    #[error("too large for a Parquet file of varve's: {detail}")]
    TooLarge {
        /// What is.
        detail: String,
    },
}

impl ParquetError {
    pub(super) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt {
            detail: detail.into(),
        }
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::TooLarge {
            detail: detail.into(),
        }
    }
}
