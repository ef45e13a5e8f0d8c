//! Errors of snapshots, turned into `ereport` in one place.

use crate::am::error::raise as raise_error;
use pgrx::prelude::*;
use varve_core::backup::BackupError;
use varve_core::backup::snapshot::ObjectOut;
use varve_core::parquet::ParquetError;

/// Raises an error of a store or a record.
pub fn raise(error: &BackupError) -> ! {
    crate::backup::raise(error)
}

/// Raises what went wrong while an object was written.
pub fn writing(key: &str, error: ParquetError) -> ! {
    match error {
        ParquetError::Io(error) => raise(&ObjectOut::error(key, error)),
        ParquetError::TooLarge { .. } => too_large(
            error.to_string(),
            "Take the table without its largest values, or with fewer columns: a snapshot of CREATE TABLE ... AS SELECT ....",
        ),
        other => damaged(key, &other.to_string()),
    }
}

/// Raises that a snapshot cannot be taken since it could not be read.
pub fn too_large(message: String, hint: &str) -> ! {
    raise_error(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        message,
        None,
        Some(hint.into()),
    )
}

/// Raises what went wrong while an object was read that has the SHA-256 of its record.
pub fn reading(key: &str, error: ParquetError) -> ! {
    match error {
        ParquetError::Io(error) => raise(&BackupError::Io {
            path: format!("temporary copy of {key}"),
            error,
        }),
        other => damaged(key, &other.to_string()),
    }
}

/// Raises that an object does not hold what its record says.
pub fn damaged(key: &str, what: &str) -> ! {
    raise_error(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("{key} is damaged: {what}"),
        None,
        Some("Its SHA-256 is that of the snapshot's record: somebody has made both. Another snapshot may be whole.".into()),
    )
}
