//! How the program ends.

use std::fmt;
use std::process::ExitCode;

use varve_core::backup::BackupError;
use varve_core::store::StoreError;

/// What `--help` says of it.
pub const HELP: &str = "\
Exit codes: 0 done; 1 what was asked for does not exist; 2 wrong arguments; 3 something is damaged or missing; 4 refused, \
the message says why; 5 a store, the server or the system failed; 130 interrupted. wal-get: 1 only if every store answers \
that it has no such file, else 200, at which PostgreSQL ends recovery instead of taking it for the end of WAL.";

/// Something does not exist.
pub const NOT_FOUND: u8 = 1;
/// The arguments are wrong.
pub const USAGE: u8 = 2;
/// Something is damaged or missing.
pub const DAMAGED: u8 = 3;
/// It is not done.
pub const REFUSED: u8 = 4;
/// A store, the server or the system failed.
pub const FAILED: u8 = 5;
/// The user ended it.
pub const INTERRUPTED: u8 = 130;

/// Why the program ends early.
#[derive(Debug)]
pub struct Failure {
    /// What it answers.
    pub code: u8,
    /// What it says.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

impl Failure {
    /// Wrong arguments.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
            hint: None,
        }
    }

    /// The system failed.
    pub fn system(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            message: message.into(),
            hint: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "varve: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nHint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let code = match &error {
            error if error.is_cancelled() => INTERRUPTED,
            error if error.is_not_found() => NOT_FOUND,
            BackupError::Corrupt { .. } | BackupError::Seal { .. } => DAMAGED,
            BackupError::Refused { .. } => REFUSED,
            _ => FAILED,
        };
        Self {
            code,
            hint: error.hint().map(str::to_owned),
            message: error.to_string(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        BackupError::from(error).into()
    }
}

/// Says why, and answers.
pub fn failed(failure: Failure) -> ExitCode {
    eprintln!("{failure}");
    failure.code.into()
}
