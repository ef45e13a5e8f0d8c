//! The ordinary path: one statement that resolves duplicates, leaves out what is stored already, and inserts or updates
//! the rest through INSERT … ON CONFLICT as the caller, so that constraints, triggers, row-level security and
//! privileges hold as they do for any INSERT.

use super::batch::{OnConflict, Options, Spec, Summary};
use super::columns::{BATCH, Key, Used, null_key};
use super::target::{Target, no_column};
use crate::pg::spi::{Connection, Param, Rows, with_setting};
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// Rows that the running batch has updated, counted by the statement itself.
    static UPDATED: Cell<i64> = const { Cell::new(0) };
}

/// Counts from zero for one batch, and gives the count of the batch around it back on every way out.
struct Counter(i64);

impl Counter {
    fn start() -> Self {
        Counter(UPDATED.replace(0))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        UPDATED.set(self.0);
    }
}

/// `varve.note_update()`: called for each stored row that the running batch changes.
pub fn note_update(_args: &crate::pg::function::Args) -> pg_sys::Datum {
    UPDATED.set(UPDATED.get() + 1);
    pg_sys::Datum::from(true)
}

crate::sql_function!(varve_note_update, pg_finfo_varve_note_update, note_update);

/// Writes the rows of a batch.
pub fn write(connection: &Connection, spec: &Spec, rows: &Rows) -> Summary {
    let Spec {
        target,
        used,
        keys,
        options,
        ..
    } = spec;
    connection.name(BATCH, rows);
    let bounds = check_keys(connection, target, used, keys);
    let counter = Counter::start();
    let (sql, params) = statement(target, used, keys, &bounds, options);
    let write = || connection.one_row(&sql, &params);
    let row = match options.dedup_window {
        // Payloads are compared as text, which has to tell any two numbers apart.
        Some(_) => with_setting(c"extra_float_digits", c"3", write),
        None => write(),
    };
    let updated = UPDATED.get();
    drop(counter);
    connection.forget(BATCH);
    let count = |i: usize| {
        row.get(i)
            .copied()
            .flatten()
            .map_or(0, |d| d.value() as i64)
    };
    let (distinct, kept, written) = (count(0), count(1), count(2));
    let updated = updated.min(written);
    Summary {
        rows_in: rows.count() as i64,
        inserted: written - updated,
        updated,
        unchanged: kept - written,
        duplicates: rows.count() as i64 - distinct + (distinct - kept),
    }
}

/// Lowest and highest value of a key column in the batch.
struct Bound {
    key: usize,
    typ: pg_sys::Oid,
    low: pg_sys::Datum,
    high: pg_sys::Datum,
}

/// Whether min and max of a type are exact and cheap.
fn bounded(typ: pg_sys::Oid) -> bool {
    matches!(
        typ,
        pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::FLOAT4OID
            | pg_sys::FLOAT8OID
            | pg_sys::NUMERICOID
            | pg_sys::DATEOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
    )
}

/// Reads the batch once: values that do not fit their type and NULLs in the key are errors here, before anything is
/// written. Returns the range of each key column that has one, so that only those chunks are read that the batch
/// touches.
fn check_keys(connection: &Connection, target: &Target, used: &[Used], keys: &[Key]) -> Vec<Bound> {
    let mut items: Vec<String> = Vec::new();
    let mut wants: Vec<(usize, pg_sys::Oid)> = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let Some(u) = used.get(key.used) else {
            continue;
        };
        items.push(format!(
            "pg_catalog.min(\"varve row number\") FILTER (WHERE {} IS NULL)",
            u.quoted
        ));
        if bounded(u.column.typ) {
            wants.push((i, u.column.typ));
        }
    }
    for (i, _) in &wants {
        if let Some(u) = keys.get(*i).and_then(|k| used.get(k.used)) {
            items.push(format!("pg_catalog.min({})", u.quoted));
            items.push(format!("pg_catalog.max({})", u.quoted));
        }
    }
    let sql = format!(
        "SELECT {} FROM (SELECT pg_catalog.row_number() OVER () AS \"varve row number\", {} FROM {BATCH} b) s",
        items.join(", "),
        list(used, |u| format!("{} AS {}", u.expression, u.quoted)),
    );
    let row = connection.one_row(&sql, &[]);
    for (key, first) in keys.iter().zip(&row) {
        if let (Some(u), Some(n)) = (used.get(key.used), first) {
            null_key(target, &u.column.name, Some(n.value() as u64))
        }
    }
    let ranges = row.get(keys.len()..).unwrap_or_default();
    wants
        .iter()
        .zip(ranges.chunks(2))
        .filter_map(|((key, typ), range)| match range {
            [Some(low), Some(high)] => Some(Bound {
                key: *key,
                typ: *typ,
                low: *low,
                high: *high,
            }),
            _ => None,
        })
        .collect()
}

fn list(used: &[Used], f: impl Fn(&Used) -> String) -> String {
    used.iter().map(f).collect::<Vec<_>>().join(", ")
}

/// Whether two rows differ in any of these columns, bit for bit; `false` for none.
fn differs(columns: &[&Used], left: &str, right: &str) -> String {
    if columns.is_empty() {
        return "false".into();
    }
    let side = |of: &str| {
        columns
            .iter()
            .map(|u| format!("{of}.{}", u.quoted))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "ROW({})::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW({})::pg_catalog.record",
        side(left),
        side(right)
    )
}

/// The statement that writes the batch. It returns the number of distinct keys, of rows left after the window, and of
/// rows written.
fn statement(
    target: &Target,
    used: &[Used],
    keys: &[Key],
    bounds: &[Bound],
    options: &Options,
) -> (String, Vec<Param>) {
    let mut params: Vec<Param> = Vec::new();
    let key_list = keys
        .iter()
        .filter_map(|k| used.get(k.used))
        .map(|u| u.quoted.clone())
        .collect::<Vec<_>>()
        .join(", ");
    let collated = keys
        .iter()
        .filter_map(|k| Some(format!("{}{}", used.get(k.used)?.quoted, k.collate)))
        .collect::<Vec<_>>()
        .join(", ");
    let columns = list(used, |u| u.quoted.clone());
    let is_key = |u: &Used| {
        keys.iter()
            .any(|k| used.get(k.used).is_some_and(|x| std::ptr::eq(x, u)))
    };
    let values: Vec<&Used> = used
        .iter()
        .filter(|u| !is_key(u) && !u.column.identity_always)
        .collect();
    let mut in_range: Vec<String> = Vec::new();
    for bound in bounds {
        let Some(u) = keys.get(bound.key).and_then(|k| used.get(k.used)) else {
            continue;
        };
        for (operator, value) in [(">=", bound.low), ("<=", bound.high)] {
            params.push(Param {
                typ: bound.typ,
                value: Some(value),
            });
            in_range.push(format!(
                "t.{} OPERATOR(pg_catalog.{operator}) ${}",
                u.quoted,
                params.len()
            ));
        }
    }
    let range = if in_range.is_empty() {
        "true".to_string()
    } else {
        in_range.join(" AND ")
    };
    let matched = |side: &str| {
        keys.iter()
            .filter_map(|k| used.get(k.used).map(|u| (k, u)))
            .map(|(k, u)| format!("t.{0} {1} {side}.{0}{2}", u.quoted, k.equal, k.collate))
            .collect::<Vec<_>>()
            .join(" AND ")
    };
    let first_key = keys
        .first()
        .and_then(|k| used.get(k.used))
        .map(|u| u.quoted.clone())
        .unwrap_or_default();

    let mut sql = format!(
        "WITH varve_rows AS (SELECT pg_catalog.row_number() OVER () AS \"varve row number\", {} FROM {BATCH} b), \
         varve_last AS MATERIALIZED (SELECT DISTINCT ON ({collated}) {columns} FROM varve_rows \
         ORDER BY {collated}, \"varve row number\" DESC), ",
        list(used, |u| format!("{} AS {}", u.expression, u.quoted)),
    );
    // Rows that are stored already with the same values, or at all, are left out before anything is touched.
    let unneeded = match options.on_conflict {
        OnConflict::Error => None,
        OnConflict::Ignore => Some("false".to_string()),
        OnConflict::Update if values.is_empty() => Some("false".to_string()),
        OnConflict::Update if options.skip_unchanged => Some(differs(&values, "t", "l")),
        OnConflict::Update => None,
    };
    match unneeded {
        Some(differs) => sql.push_str(&format!(
            "varve_new AS MATERIALIZED (SELECT {} FROM varve_last l LEFT JOIN \
             (SELECT {columns} FROM {} t WHERE {range}) t ON {} WHERE t.{first_key} IS NULL OR {differs}), ",
            list(used, |u| format!("l.{}", u.quoted)),
            target.name,
            matched("l"),
        )),
        None => sql.push_str("varve_new AS (SELECT * FROM varve_last), "),
    }
    let source = match options.dedup_window {
        None => "varve_new",
        Some(window) => {
            params.push(Param {
                typ: pg_sys::INTERVALOID,
                value: Some(window),
            });
            sql.push_str(&super::window::filter(
                &target.name,
                &window_columns(target, used, &key_names(used, keys)),
                &columns,
                params.len(),
                &match options.on_conflict {
                    OnConflict::Update => matched("o"),
                    _ => "false".into(),
                },
            ));
            "varve_kept"
        }
    };
    let overriding = overriding(used);
    let conflict = match options.on_conflict {
        OnConflict::Error => String::new(),
        OnConflict::Ignore => format!("ON CONFLICT ({key_list}) DO NOTHING"),
        OnConflict::Update if values.is_empty() => format!("ON CONFLICT ({key_list}) DO NOTHING"),
        OnConflict::Update => {
            let set = values
                .iter()
                .map(|u| format!("{0} = excluded.{0}", u.quoted))
                .collect::<Vec<_>>()
                .join(", ");
            let changed = if options.skip_unchanged {
                differs(&values, "varve_target", "excluded")
            } else {
                "true".into()
            };
            format!(
                "ON CONFLICT ({key_list}) DO UPDATE SET {set} \
                 WHERE CASE WHEN {changed} THEN varve.note_update() ELSE false END"
            )
        }
    };
    sql.push_str(&format!(
        "varve_done AS (INSERT INTO {} AS varve_target ({columns}){overriding} SELECT {columns} FROM {source} \
         ORDER BY {collated} {conflict} RETURNING 1) \
         SELECT (SELECT pg_catalog.count(*) FROM varve_last), \
         (SELECT pg_catalog.count(*) FROM varve_last) OPERATOR(pg_catalog.-) \
         ((SELECT pg_catalog.count(*) FROM varve_new) OPERATOR(pg_catalog.-) (SELECT pg_catalog.count(*) FROM {source})), \
         (SELECT pg_catalog.count(*) FROM varve_done)",
        target.name,
    ));
    (sql, params)
}

fn overriding(used: &[Used]) -> &'static str {
    if used.iter().any(|u| u.column.identity_always) {
        " OVERRIDING SYSTEM VALUE"
    } else {
        ""
    }
}

/// The statement that inserts one row, given as parameters, and tells the chunk and the place that it got; NULLs where
/// its key is taken.
pub fn seed(target: &Target, used: &[Used]) -> String {
    let parameters: Vec<String> = (1..=used.len()).map(|i| format!("${i}")).collect();
    format!(
        "WITH varve_done AS (INSERT INTO {} ({}){} VALUES ({}) ON CONFLICT DO NOTHING RETURNING tableoid, ctid AS place) \
         SELECT (SELECT tableoid FROM varve_done), (SELECT place FROM varve_done)",
        target.name,
        list(used, |u| u.quoted.clone()),
        overriding(used),
        parameters.join(", "),
    )
}

fn key_names(used: &[Used], keys: &[Key]) -> Vec<String> {
    keys.iter()
        .filter_map(|k| used.get(k.used))
        .map(|u| u.column.name.clone())
        .collect()
}

/// Time, segment and payload columns for the window.
fn window_columns(target: &Target, used: &[Used], keys: &[String]) -> super::window::Columns {
    let time = target
        .time
        .and_then(|t| target.columns.get(t))
        .map(|c| c.name.clone())
        .or_else(|| keys.last().cloned())
        .unwrap_or_default();
    let Some(at) = used.iter().find(|u| u.column.name == time) else {
        no_column(
            &target.name,
            &time,
            "dedup_window needs the time column in the batch.",
        )
    };
    let quoted = |u: &&Used| u.quoted.clone();
    super::window::Columns {
        time: at.quoted.clone(),
        time_type: at.column.typ,
        segment: used
            .iter()
            .filter(|u| keys.contains(&u.column.name) && u.column.name != time)
            .map(|u| quoted(&u))
            .collect(),
        payload: used
            .iter()
            .filter(|u| !keys.contains(&u.column.name) && u.column.name != time)
            .map(|u| quoted(&u))
            .collect(),
    }
}
