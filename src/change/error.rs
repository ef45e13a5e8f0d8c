//! Errors of checksums.

use crate::am::error::raise;
use pgrx::PgSqlErrorCode;

/// Raises `data_corrupted` for a value that is not what its type has.
pub fn damaged(what: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("{what} is damaged"),
        None,
        Some("The table is damaged there; restore the row from a backup.".into()),
    )
}

/// Raises `invalid_parameter_value` for an algorithm that there is not.
pub fn unknown_algorithm(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("unknown checksum algorithm \"{name}\""),
        None,
        Some("It is xxh3 or sha256.".into()),
    )
}

/// Raises `undefined_function`, as the server does, for a column whose type has no send function.
pub fn unsendable(column: &str, type_name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
        format!("no binary output function available for type {type_name}"),
        Some(format!("Column \"{column}\" of the row has that type.")),
        Some("Leave the column out, or cast it: varve.row_checksum(x) FROM (SELECT a, b::text FROM t) x.".into()),
    )
}
