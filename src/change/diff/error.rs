//! Errors of `varve.diff`.

use crate::am::error::raise;
use pgrx::PgSqlErrorCode as Code;

/// Raises `wrong_object_type` for a relation that has no rows to be read.
pub fn no_rows(relation: &str) -> ! {
    raise(
        Code::ERRCODE_WRONG_OBJECT_TYPE,
        format!("{relation} has no rows to compare"),
        None,
        Some("varve.diff compares tables, views, materialized views and foreign tables.".into()),
    )
}

/// Raises `invalid_table_definition` or `ambiguous_column` where nothing says by which columns rows are known.
pub fn no_key(relation: &str, keys: usize) -> ! {
    let (code, message) = match keys {
        0 => (
            Code::ERRCODE_INVALID_TABLE_DEFINITION,
            format!("{relation} has no primary key and no unique index of NOT NULL columns"),
        ),
        keys => (
            Code::ERRCODE_AMBIGUOUS_COLUMN,
            format!("{relation} has no primary key and {keys} unique indexes of NOT NULL columns"),
        ),
    };
    raise(
        code,
        message,
        None,
        Some("Say by which columns its rows are known: key => '{column, ...}'.".into()),
    )
}

/// Raises `invalid_parameter_value` for a key without columns.
pub fn empty_key() -> ! {
    raise(
        Code::ERRCODE_INVALID_PARAMETER_VALUE,
        "the key has no columns".into(),
        None,
        Some(
            "Name one at least, or leave the key out: then it is that of the new relation.".into(),
        ),
    )
}

/// Raises `undefined_column` for a column of the key.
pub fn no_column(relation: &str, column: &str) -> ! {
    raise(
        Code::ERRCODE_UNDEFINED_COLUMN,
        format!("column \"{column}\" of {relation} does not exist"),
        Some("It is a column of the key, which both relations must have.".into()),
        Some("Columns are matched by name: rename it in a view, or name another key.".into()),
    )
}

/// Raises `undefined_column` where two relations have no column of the same name.
pub fn nothing_in_common(old: &str, new: &str) -> ! {
    raise(
        Code::ERRCODE_UNDEFINED_COLUMN,
        format!("{old} and {new} have no column in common"),
        None,
        Some("Columns are matched by name: rename them in a view.".into()),
    )
}

/// Raises `datatype_mismatch` for a column whose types have no values in common; each relation with its type.
pub fn other_class(column: &str, key: bool, old: (&str, &str), new: (&str, &str)) -> ! {
    let what = if key { "key column" } else { "column" };
    raise(
        Code::ERRCODE_DATATYPE_MISMATCH,
        format!(
            "{what} \"{column}\" is of type {} in {} but of type {} in {}",
            old.1, old.0, new.1, new.0
        ),
        Some("No value of the one type is the same as one of the other.".into()),
        Some("Cast one of them in a view.".into()),
    )
}

/// Raises `undefined_function`, as the server does, for a column whose type has no send function.
pub fn unsendable(relation: &str, column: &str, type_name: &str) -> ! {
    raise(
        Code::ERRCODE_UNDEFINED_FUNCTION,
        format!("no binary output function available for type {type_name}"),
        Some(format!("Column \"{column}\" of {relation} has that type.")),
        Some("Leave the column out in a view, or cast it to text.".into()),
    )
}

/// Raises `cardinality_violation` for keys that several rows of one relation have.
pub fn duplicates(lines: &[String]) -> ! {
    raise(
        Code::ERRCODE_CARDINALITY_VIOLATION,
        "several rows have the same key".into(),
        Some(lines.join("\n")),
        Some("Name a key that tells all rows apart: key => '{column, ...}'.".into()),
    )
}

/// Raises `serialization_failure` where a relation is not made of the same tables any more that it was read from.
pub fn changed_meanwhile(old: &str, new: &str) -> ! {
    let what = match old == new {
        true => old.into(),
        false => format!("{old} or {new}"),
    };
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("tables of {what} have come or gone while it was compared"),
        None,
        Some("Try again.".into()),
    )
}
