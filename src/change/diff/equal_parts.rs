//! Parts of two relations that are known to be equal and need not be read.

use crate::pg::relation;
use pgrx::pg_sys;

/// The rows of both relations whose value in a column is in a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// A column of the key, so that no row in the range has the key of one outside of it.
    pub column: String,
    /// The least value that belongs to it, as an SQL literal.
    pub from: String,
    /// The least value beyond it, as an SQL literal.
    pub to: String,
}

/// The parts of two relations that hold the same rows. None are known: whatever is not named here is read.
pub fn equal_parts(_old: pg_sys::Oid, _new: pg_sys::Oid, _key: &[String]) -> Vec<Part> {
    Vec::new()
}

/// A clause that leaves these parts out, in a form by which the planner leaves out chunks that lie within them.
pub fn others(parts: &[Part]) -> String {
    let outside = |part: &Part| {
        let column = relation::quote(&part.column);
        let Part { from, to, .. } = part;
        // NULLs are in no part.
        format!(
            "({column} OPERATOR(pg_catalog.<) {from} OR {column} OPERATOR(pg_catalog.>=) {to} OR {column} IS NULL)"
        )
    };
    let conditions: Vec<String> = parts.iter().map(outside).collect();
    match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    }
}
