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

impl Columns {
    /// The type that times are compared as.
    fn time_type(&self) -> &'static str {
        match self.time_type {
            pg_sys::TIMESTAMPTZOID => "pg_catalog.timestamptz",
            pg_sys::TIMESTAMPOID | pg_sys::DATEOID => "pg_catalog.timestamp",
            _ => raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!("a window needs a time column, and {} is none", self.time),
                None,
                Some("Use a table whose time is a timestamp or a date.".into()),
            ),
        }
    }

    /// What of a row `side` tells whether it repeats another one: segment, payload, time.
    fn marks(&self, side: &str) -> String {
        let row_of = |names: &[String]| {
            let parts: Vec<String> = names.iter().map(|n| format!("{side}.{n}")).collect();
            format!("ROW({})::pg_catalog.text", parts.join(", "))
        };
        format!(
            "{} AS segment, {} AS payload, {side}.{}::{} AS at",
            row_of(&self.segment),
            row_of(&self.payload),
            self.time,
            self.time_type(),
        )
    }
}

/// The statement that deletes rows of a table which repeat another one within the window `$1` before them, and counts them.
pub fn removal(table: &str, c: &Columns) -> String {
    format!(
        "WITH varve_marks AS (SELECT t.tableoid AS part, t.ctid AS place, {marks} FROM {table} t), \
         varve_kept AS (SELECT part, place, at, varve.kept_at(at, false, $1) \
           OVER (PARTITION BY segment, payload ORDER BY at, part, place) AS kept, \
           pg_catalog.row_number() OVER (PARTITION BY segment, payload, at ORDER BY part, place) AS number FROM varve_marks), \
         varve_gone AS (DELETE FROM {table} t USING varve_kept k \
           WHERE t.tableoid OPERATOR(pg_catalog.=) k.part AND t.ctid OPERATOR(pg_catalog.=) k.place \
           AND (k.kept OPERATOR(pg_catalog.<>) k.at OR k.number OPERATOR(pg_catalog.>) 1) RETURNING 1) \
         SELECT pg_catalog.count(*) FROM varve_gone",
        marks = c.marks("t"),
    )
}

/// Common table expressions behind `varve_new`, the last of which, `varve_kept`, holds the rows that stay. Parameter
/// `$window` is the interval.
pub fn filter(table: &str, c: &Columns, columns: &str, window: usize, overwritten: &str) -> String {
    let time_type = c.time_type();
    let marks = |side: &str| c.marks(side);
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
