//! The error type of the replication client.

use postgres_protocol::message::backend::ErrorFields;

use fallible_iterator::FallibleIterator;

use crate::wait::Stopped;

/// What can go wrong between us and the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationError {
    /// The server says so.
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    /// The server does not let us in, or something that is needed is off. The hint says what to do.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
        /// What the server said, if it was asked.
        cause: Option<Box<ServerError>>,
    },
    /// There is no way to the server.
    #[error("the server at {address} cannot be reached: {detail}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What the system says.
        detail: String,
    },
    /// The connection ended while something was expected from it.
    #[error("the connection to the server was lost: {detail}")]
    Lost {
        /// What the system says.
        detail: String,
    },
    /// The server does not speak as PostgreSQL 17 does.
    #[error("the server's answer is not understood: {detail}")]
    Protocol {
        /// What was found.
        detail: String,
    },
    /// The connection string or the password is wrong or missing.
    #[error("connection settings: {detail}")]
    Config {
        /// What is wrong.
        detail: String,
    },
    /// The caller's tick ended the call.
    #[error(transparent)]
    Cancelled(#[from] Stopped),
}

impl ReplicationError {
    pub(super) fn protocol(detail: impl Into<String>) -> Self {
        Self::Protocol {
            detail: detail.into(),
        }
    }

    pub(super) fn config(detail: impl Into<String>) -> Self {
        Self::Config {
            detail: detail.into(),
        }
    }

    pub(super) fn lost(detail: impl Into<String>) -> Self {
        Self::Lost {
            detail: detail.into(),
        }
    }

    /// What to do, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => Some(hint),
            Self::Server(error) => error.hint.as_deref(),
            _ => None,
        }
    }

    /// The server's SQLSTATE, where the error is the server's.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            Self::Refused { cause, .. } => cause.as_ref().map(|error| error.sqlstate.as_str()),
            _ => None,
        }
    }
}

/// An error or a notice as the server sends it.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{severity}: {message}{}", self.rest())]
pub struct ServerError {
    /// ERROR, FATAL, WARNING and so on.
    pub severity: String,
    /// Five characters; see the appendix "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// What happened.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl ServerError {
    pub(super) fn read(mut fields: ErrorFields<'_>) -> Result<Self, ReplicationError> {
        let mut error = Self::default();
        while let Some(field) = fields
            .next()
            .map_err(|e| ReplicationError::protocol(format!("an error message: {e}")))?
        {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => error.severity = value,
                b'C' => error.sqlstate = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        Ok(error)
    }

    fn rest(&self) -> String {
        let mut rest = String::new();
        if let Some(detail) = &self.detail {
            rest.push_str(&format!("; {detail}"));
        }
        if !self.sqlstate.is_empty() {
            rest.push_str(&format!(" (SQLSTATE {})", self.sqlstate));
        }
        rest
    }
}
