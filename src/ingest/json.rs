//! Rows out of JSON. Objects may have different keys: a column that an object lacks keeps its stored value (or takes
//! its default), so objects are written in groups that have the same keys.

use super::batch::Summary;
use super::target::{Target, no_column};
use crate::am::error::raise;
use crate::pg::relation::quote;
use crate::pg::spi::{Connection, Param};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Objects with the same keys, as a query.
pub struct Group {
    /// Returns the rows in their order.
    pub query: String,
    /// Its parameters.
    pub params: Vec<Param>,
}

/// The array's objects with their position from 1; a single object counts as an array of one.
const ELEMENTS: &str = "(SELECT e.value, e.ordinality FROM pg_catalog.jsonb_array_elements(CASE \
    WHEN pg_catalog.jsonb_typeof($1) OPERATOR(pg_catalog.=) 'object' THEN pg_catalog.jsonb_build_array($1) ELSE $1 END) WITH ORDINALITY e) x";

/// The keys of one object, sorted, as a JSON array.
const KEYS: &str = "(SELECT COALESCE(pg_catalog.jsonb_agg(k.k ORDER BY k.k COLLATE pg_catalog.\"C\"), '[]'::pg_catalog.jsonb) FROM pg_catalog.jsonb_object_keys(x.value) k(k))";

fn malformed(detail: String) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "the JSON is not an array of objects".into(),
        Some(detail),
        Some("Give rows as objects: '[{\"column\": value, ...}, ...]'.".into()),
    )
}

/// Splits the rows into groups of objects with the same keys. Where there are several groups, objects with the same
/// key as a later one are left out here and counted as duplicates. Parameters live as long as the connection.
pub fn groups(
    connection: &Connection,
    target: &Target,
    rows: pg_sys::Datum,
    summary: &mut Summary,
) -> Vec<Group> {
    let json = Param {
        typ: pg_sys::JSONBOID,
        value: Some(rows),
    };
    check_shape(connection, json);
    let sets = connection.one_row(
        &format!(
            "SELECT pg_catalog.array_agg(s.keys::pg_catalog.text ORDER BY s.first) FROM \
             (SELECT {KEYS} AS keys, pg_catalog.min(x.ordinality) AS first FROM {ELEMENTS} GROUP BY 1) s"
        ),
        &[json],
    );
    // SAFETY: an array of text, as the query says; the strings are copied.
    let sets: Vec<String> = match sets.first().copied().flatten() {
        // SAFETY: as above.
        Some(datum) => unsafe { Vec::<String>::from_datum(datum, false) }.unwrap_or_default(),
        None => return Vec::new(),
    };
    let sets: Vec<(String, Vec<String>)> = sets
        .into_iter()
        .map(|set| {
            let keys = serde_json::from_str(&set).unwrap_or_default();
            (set, keys)
        })
        .collect();
    for key in sets.iter().flat_map(|(_, keys)| keys) {
        if target.position(key).is_none() {
            no_column(&target.name, key, "An object of the JSON has such a key.");
        }
    }
    let row = format!(
        "pg_catalog.jsonb_populate_record(NULL::{}, x.value) r",
        target.name
    );
    let winners = if sets.len() > 1 {
        Some(winners(connection, target, json, &row, summary))
    } else {
        None
    };
    sets.iter()
        .map(|(set, keys)| group(set, keys, json, &row, winners.as_deref()))
        .collect()
}

fn check_shape(connection: &Connection, json: Param) {
    let bad = connection.one_row(
        &format!(
            "SELECT CASE WHEN pg_catalog.jsonb_typeof($1) OPERATOR(pg_catalog.=) ANY ('{{array,object}}'::pg_catalog.text[]) \
             THEN (SELECT pg_catalog.concat('Element ', x.ordinality, ' is ', pg_catalog.jsonb_typeof(x.value), '.') FROM {ELEMENTS} \
                   WHERE pg_catalog.jsonb_typeof(x.value) OPERATOR(pg_catalog.<>) 'object' ORDER BY x.ordinality LIMIT 1) \
             ELSE pg_catalog.concat('It is ', pg_catalog.jsonb_typeof($1), '.') END"
        ),
        &[json],
    );
    if let Some(detail) = bad.first().copied().flatten() {
        // SAFETY: a text, as the query says.
        malformed(unsafe { String::from_datum(detail, false) }.unwrap_or_default());
    }
}

/// Positions of the objects that no later one with the same key makes void.
fn winners(
    connection: &Connection,
    target: &Target,
    json: Param,
    row: &str,
    summary: &mut Summary,
) -> Vec<i64> {
    let key = target
        .key
        .iter()
        .filter_map(|k| target.columns.get(k.column))
        .map(|c| format!("r.{}", quote(&c.name)))
        .collect::<Vec<_>>()
        .join(", ");
    // Objects without a key stay, to be complained of.
    let found = connection.one_row(
        &format!(
            "SELECT pg_catalog.array_agg(w.ordinality ORDER BY w.ordinality), (SELECT pg_catalog.count(*) FROM {ELEMENTS}) FROM \
             (SELECT DISTINCT ON ({key}) x.ordinality FROM {ELEMENTS}, LATERAL {row} ORDER BY {key}, x.ordinality DESC) w"
        ),
        &[json],
    );
    let winners = found
        .first()
        .copied()
        .flatten()
        // SAFETY: an array of int8, as the query says.
        .and_then(|d| unsafe { Vec::<i64>::from_datum(d, false) })
        .unwrap_or_default();
    let all = found
        .get(1)
        .copied()
        .flatten()
        .map_or(0, |d| d.value() as i64);
    let void = all - winners.len() as i64;
    summary.rows_in += void;
    summary.duplicates += void;
    winners
}

/// The objects whose keys are `keys`, in their JSON form `set`.
fn group(set: &str, keys: &[String], json: Param, row: &str, winners: Option<&[i64]>) -> Group {
    let columns: Vec<String> = keys.iter().map(|k| format!("r.{}", quote(k))).collect();
    let mut params = vec![
        json,
        Param {
            typ: pg_sys::TEXTOID,
            value: set.into_datum(),
        },
    ];
    let mut only = String::new();
    if let Some(winners) = winners {
        params.push(Param {
            typ: pg_sys::INT8ARRAYOID,
            value: winners.to_vec().into_datum(),
        });
        only = "AND x.ordinality OPERATOR(pg_catalog.=) ANY ($3)".into();
    }
    Group {
        query: format!(
            "SELECT {} FROM {ELEMENTS}, LATERAL {row} WHERE {KEYS}::pg_catalog.text OPERATOR(pg_catalog.=) $2 {only} ORDER BY x.ordinality",
            columns.join(", ")
        ),
        params,
    }
}
