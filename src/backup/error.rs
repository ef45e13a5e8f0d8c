//! Errors of backups, turned into `ereport` in one place.

use crate::pg::guard;
use crate::pg::transaction::Failure;
use crate::stores;
use varve_core::backup::BackupError;
use varve_core::replication::ReplicationError;
use varve_core::seal::SealError;

/// Raises an error of a backup.
pub fn raise(error: &BackupError) -> ! {
    let hint = error.hint().map(str::to_string);
    let (sqlstate, message, detail) = match error {
        BackupError::Store(error) => stores::raise(error),
        BackupError::Replication(error) => {
            // The server has an SQLSTATE of its own.
            let code = match error {
                ReplicationError::Refused { .. } => "55000",
                ReplicationError::Config { .. } => "22023",
                ReplicationError::Cancelled(_) => "57014",
                _ => "08006",
            };
            let code = error.sqlstate().unwrap_or(code);
            (code.to_string(), error.to_string(), None)
        }
        BackupError::Seal {
            error: SealError::Key { .. },
            ..
        } => ("22023".into(), error.to_string(), None),
        BackupError::Seal { .. } | BackupError::Corrupt { .. } => {
            ("XX001".into(), error.to_string(), None)
        }
        BackupError::Unsupported { .. } => ("0A000".into(), error.to_string(), None),
        BackupError::NotFound { .. } => ("42704".into(), error.to_string(), None),
        BackupError::Refused { .. } => ("55000".into(), error.to_string(), None),
        BackupError::Io { .. } => ("58030".into(), error.to_string(), None),
        BackupError::Program { .. } => ("38000".into(), error.to_string(), None),
        BackupError::Cancelled(_) => ("57014".into(), error.to_string(), None),
    };
    guard::raise(&Failure {
        sqlstate,
        message,
        detail,
        hint: hint.or(Some("The server's log may say more.".into())),
        context: None,
    })
}
