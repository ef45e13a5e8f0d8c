//! Errors of stores, turned into `ereport` in one place.

use pgrx::prelude::*;
use varve_core::store::{ErrorKind, StoreError};

/// Raises an error of a store.
pub fn raise(error: &StoreError) -> ! {
    use PgSqlErrorCode as Code;
    let (code, hint) = match error.kind() {
        ErrorKind::NotFound => (
            Code::ERRCODE_UNDEFINED_FILE,
            "The store does not have the object; another store may.",
        ),
        ErrorKind::AlreadyExists => (
            Code::ERRCODE_DUPLICATE_FILE,
            "Nothing was written over; look what is there.",
        ),
        ErrorKind::Permission => (
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "Check the store's credentials (CREATE USER MAPPING), or the rights of the server's operating system user.",
        ),
        ErrorKind::Full => (
            Code::ERRCODE_DISK_FULL,
            "Make room in the store, or let older backups expire.",
        ),
        ErrorKind::Unreachable => (
            Code::ERRCODE_CONNECTION_FAILURE,
            "Check the network, the store's options url and endpoint, and whether its file system is mounted.",
        ),
        ErrorKind::Corrupt => (
            Code::ERRCODE_DATA_CORRUPTED,
            "The object is damaged; another store may have it whole.",
        ),
        ErrorKind::TooLarge => (
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "The object is no object of varve's.",
        ),
        ErrorKind::Config => (
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "docs/stores.md lists the options.",
        ),
        ErrorKind::Cancelled => (Code::ERRCODE_QUERY_CANCELED, "It can be begun again."),
        ErrorKind::Other => (Code::ERRCODE_IO_ERROR, "The server's log may say more."),
    };
    let place = match (error.store(), error.key()) {
        ("", _) => "store".to_string(),
        (store, None) => format!("store {store}"),
        (store, Some(key)) => format!("object {key} of store {store}"),
    };
    crate::am::error::raise(
        code,
        format!("{place}: {}", error.kind()),
        Some(error.detail().to_string()),
        Some(hint.into()),
    )
}
