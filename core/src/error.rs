//! The one error type of the crate.

/// What can go wrong in encoding or decoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// Stored bytes are not what an encoder wrote: damaged, truncated or forged.
    #[error("stored bytes are corrupt: {detail}")]
    Corrupt {
        /// What was found and where.
        detail: String,
    },
    /// Stored bytes look sound but were written by a newer version of the format.
    #[error("stored bytes need a newer version of varve: {detail}")]
    Unsupported {
        /// Which version or feature was found.
        detail: String,
    },
    /// The caller's data cannot be encoded.
    #[error("data cannot be encoded: {detail}")]
    Invalid {
        /// Which rule the data breaks.
        detail: String,
    },
}

impl CoreError {
    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt {
            detail: detail.into(),
        }
    }

    pub(crate) fn unsupported(detail: impl Into<String>) -> Self {
        Self::Unsupported {
            detail: detail.into(),
        }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid {
            detail: detail.into(),
        }
    }
}
