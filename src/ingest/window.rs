//! `dedup_window`: a row is dropped when a row of the same segment with the same payload lies within the window before
//! it. What counts is the rows that are kept or stored, so a value repeated for ever is stored once a window.

use crate::am::error::raise;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// The columns of a batch by their part, quoted.
pub struct Columns {
    /// The time.
    pub time: String,
    /// Its type.
    pub time_type: pg_sys::Oid,
    /// The key without the time.
    pub segment: Vec<String>,
    /// Everything else.
    pub payload: Vec<String>,
}

/// Common table expressions behind `varve_new`, the last of which, `varve_kept`, holds the rows that stay. Parameter
/// `$window` is the interval.
pub fn filter(table: &str, c: &Columns, columns: &str, window: usize, overwritten: &str) -> String {
    let time_type = match c.time_type {
        pg_sys::TIMESTAMPTZOID => "pg_catalog.timestamptz",
        pg_sys::TIMESTAMPOID | pg_sys::DATEOID => "pg_catalog.timestamp",
        _ => raise(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("dedup_window needs a time column, and {} is none", c.time),
            None,
            Some(
                "Leave dedup_window out, or use a table whose time is a timestamp or a date."
                    .into(),
            ),
        ),
    };
    let row_of = |side: &str, names: &[String]| {
        let parts: Vec<String> = names.iter().map(|n| format!("{side}.{n}")).collect();
        format!("ROW({})::pg_catalog.text", parts.join(", "))
    };
    let marks = |side: &str| {
        format!(
            "{} AS segment, {} AS payload, {side}.{}::{time_type} AS at",
            row_of(side, &c.segment),
            row_of(side, &c.payload),
            c.time
        )
    };
    let time = &c.time;
    format!(
        "varve_numbered AS MATERIALIZED (SELECT pg_catalog.row_number() OVER () AS \"varve number\", n.* FROM varve_new n), \
         varve_marks AS (SELECT {batch}, false AS stored, n.\"varve number\" AS number FROM varve_numbered n \
           UNION ALL SELECT {stored}, true, NULL FROM {table} t \
           WHERE t.{time} OPERATOR(pg_catalog.>=) ((SELECT pg_catalog.min({time}) FROM varve_numbered)::{time_type} OPERATOR(pg_catalog.-) ${window}) \
             AND t.{time} OPERATOR(pg_catalog.<=) (SELECT pg_catalog.max({time}) FROM varve_numbered) \
             AND NOT EXISTS (SELECT FROM varve_numbered o WHERE {overwritten})), \
         varve_kept AS (SELECT {columns} FROM varve_numbered WHERE \"varve number\" IN \
           (SELECT number FROM (SELECT m.*, varve.kept_at(at, stored, ${window}) \
              OVER (PARTITION BY segment, payload ORDER BY at, stored DESC) AS kept FROM varve_marks m) k \
            WHERE NOT stored AND kept OPERATOR(pg_catalog.=) at)), ",
        batch = marks("n"),
        stored = marks("t"),
    )
}
