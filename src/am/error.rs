//! Errors of the access method, turned into `ereport` in one place.

use crate::pg::relation;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

/// Raises `data_corrupted` for a segment of a relation.
pub fn corrupt(rel: pg_sys::Relation, segment: i32, detail: &str) -> ! {
    let name = relation::name(rel);
    raise(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("segment {segment} of relation \"{name}\" is damaged"),
        Some(detail.to_string()),
        Some(format!(
            "SELECT * FROM varve.verify('{}') lists every damaged segment; restore the chunk from a backup.",
            relation::qualified_name(relation::oid(rel)).replace('\'', "''")
        )),
    )
}

/// Raises `undefined_table` for a relation that is no more; `name` is what it was called.
pub fn gone(name: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!("{name} does not exist"),
        None,
        Some("It may have been dropped meanwhile.".into()),
    )
}

/// Raises `null_value_not_allowed` for an argument of an SQL function.
pub fn null_argument(what: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        format!("{what} must not be NULL"),
        None,
        Some("Give a value; a sub-select that finds nothing gives NULL.".into()),
    )
}

/// Raises an error with SQLSTATE, message, detail and hint.
pub fn raise(
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
) -> ! {
    let mut report = pgrx::pg_sys::panic::ErrorReport::new(code, message, "varve");
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("ereport(ERROR) does not return")
}
