//! Writing a batch: one statement that resolves duplicates, leaves out what is stored already, and inserts or updates
//! the rest through INSERT … ON CONFLICT as the caller, so that constraints, triggers, row-level security and
//! privileges hold as they do for any INSERT.

use super::target::{Column, Target, no_column};
use crate::am::error::raise;
use crate::pg::relation::{self, quote};
use crate::pg::spi::{Connection, Param, Rows, with_setting};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;

/// What to do with a row whose key is stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Update it.
    Update,
    /// Leave the stored row.
    Ignore,
    /// Fail with `unique_violation`.
    Error,
}

/// How to write a batch.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do with keys that are stored already.
    pub on_conflict: OnConflict,
    /// Whether rows equal to the stored ones are left alone.
    pub skip_unchanged: bool,
    /// Within this time after an equal row of the same segment, a row is dropped. An `interval` datum.
    pub dedup_window: Option<pg_sys::Datum>,
}

/// What became of a batch; `rows_in` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows in the batch.
    pub rows_in: i64,
    /// Rows with new keys.
    pub inserted: i64,
    /// Stored rows that were changed.
    pub updated: i64,
    /// Rows that changed nothing.
    pub unchanged: i64,
    /// Rows that a later row of the batch, or the window, made void.
    pub duplicates: i64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.rows_in += other.rows_in;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.duplicates += other.duplicates;
    }
}

/// Name under which the statements read the batch.
const BATCH: &str = "varve_batch";

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

/// A batch column: which of the target's it is, and the expression that gives it the target's type.
struct Used<'a> {
    column: &'a Column,
    quoted: String,
    expression: String,
}

/// Writes the rows of a batch; `order` names their columns.
pub fn write(connection: &Connection, target: &Target, rows: &Rows, options: &Options) -> Summary {
    let used = match_columns(target, &rows.columns());
    let keys = key_columns(target, &used);
    connection.name(BATCH, rows);
    let bounds = check_keys(connection, target, &used, &keys);
    let counter = Counter::start();
    let (sql, params) = statement(target, &used, &keys, &bounds, options);
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

/// Finds the target's column for each of the batch's and checks that INSERT would take its type.
fn match_columns<'a>(target: &'a Target, columns: &[(String, pg_sys::Oid, i32)]) -> Vec<Used<'a>> {
    let mut used: Vec<Used<'a>> = Vec::new();
    for (name, typ, typmod) in columns {
        let Some(column) = target.position(name).and_then(|i| target.columns.get(i)) else {
            no_column(&target.name, name, "The batch has such a column.")
        };
        if column.generated {
            continue;
        }
        if used.iter().any(|u| u.column.name == *name) {
            raise(
                PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
                format!("column \"{name}\" stands twice in the batch"),
                None,
                Some("Give each column of the batch a name of its own.".into()),
            );
        }
        // SAFETY: one type each way.
        let fits = unsafe {
            pg_sys::can_coerce_type(
                1,
                typ,
                &column.typ,
                pg_sys::CoercionContext::COERCION_ASSIGNMENT,
            )
        };
        if !fits {
            raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "column \"{name}\" is of type {} but the batch has {}",
                    type_name(column.typ, -1),
                    type_name(*typ, -1)
                ),
                None,
                Some("Cast it in the query that makes the batch (varve.upsert_query).".into()),
            );
        }
        let quoted = quote(name);
        used.push(Used {
            column,
            expression: cast(&format!("b.{quoted}"), (*typ, *typmod), column),
            quoted,
        });
    }
    used
}

/// A type as SQL text. Without a modifier, types whose bare name implies one (`bit`, `char`) come out unlimited.
fn type_name(typ: pg_sys::Oid, typmod: i32) -> String {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: returns a palloc'd string.
    unsafe { CStr::from_ptr(pg_sys::format_type_extended(typ, typmod, flags as u16)) }
        .to_string_lossy()
        .into_owned()
}

/// The value as the target will store it, so that it can be compared with what is stored. An explicit cast would cut
/// character and bit strings to their length without a word; those keep theirs, and INSERT complains.
fn cast(value: &str, from: (pg_sys::Oid, i32), to: &Column) -> String {
    let mut typmod = to.typmod;
    // SAFETY: syscache look-up; a domain counts as its base type.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(to.typ, &mut typmod) };
    if from == (to.typ, to.typmod) {
        return value.to_string();
    }
    match base {
        pg_sys::BPCHAROID | pg_sys::VARCHAROID if typmod > 4 => {
            let whole = format!("{value}::{}", type_name(base, -1));
            format!(
                "CASE WHEN pg_catalog.length({whole}) OPERATOR(pg_catalog.<=) {} THEN {value}::{} ELSE {whole} END",
                typmod - 4,
                type_name(base, typmod)
            )
        }
        pg_sys::BITOID | pg_sys::VARBITOID => format!("{value}::{}", type_name(base, -1)),
        _ if cut_by_cast(base) => format!("{value}::{}", type_name(base, -1)),
        _ => format!("{value}::{}", type_name(to.typ, to.typmod)),
    }
}

/// Whether an explicit cast to the type's length would cut elements of an array.
fn cut_by_cast(array: pg_sys::Oid) -> bool {
    // SAFETY: syscache look-ups; what is no array has the invalid type as its element.
    let element = unsafe {
        let element = pg_sys::get_element_type(array);
        if element == pg_sys::InvalidOid {
            return false;
        }
        relation::base_type(element)
    };
    matches!(
        element,
        pg_sys::BPCHAROID | pg_sys::VARCHAROID | pg_sys::BITOID | pg_sys::VARBITOID
    )
}

/// A key column within the batch: its position among the used ones, and its equality operator.
struct Key {
    used: usize,
    equal: String,
}

fn key_columns(target: &Target, used: &[Used]) -> Vec<Key> {
    target
        .key
        .iter()
        .map(|key| {
            let name = target
                .columns
                .get(key.column)
                .map_or("", |c| c.name.as_str());
            match used.iter().position(|u| u.column.name == name) {
                Some(used) => Key {
                    used,
                    equal: key.equal.clone(),
                },
                None => raise(
                    PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
                    format!("the batch lacks the key column \"{name}\""),
                    Some(format!(
                        "The key of {} is ({}).",
                        target.name,
                        target.key_names()
                    )),
                    Some("Add the column to the batch, or name another key.".into()),
                ),
            }
        })
        .collect()
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
            raise(
                PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
                format!(
                    "null value in key column \"{}\" of row {} of the batch",
                    u.column.name,
                    n.value()
                ),
                Some(format!(
                    "The key of {} is ({}).",
                    target.name,
                    target.key_names()
                )),
                Some(
                    "Rows without a key cannot be upserted; leave them out or fill the column."
                        .into(),
                ),
            );
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
            .map(|(k, u)| format!("t.{0} {1} {side}.{0}", u.quoted, k.equal))
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
         varve_last AS MATERIALIZED (SELECT DISTINCT ON ({key_list}) {columns} FROM varve_rows \
         ORDER BY {key_list}, \"varve row number\" DESC), ",
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
             (SELECT * FROM {} t WHERE {range}) t ON {} WHERE t.{first_key} IS NULL OR {differs}), ",
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
    let overriding = if used.iter().any(|u| u.column.identity_always) {
        " OVERRIDING SYSTEM VALUE"
    } else {
        ""
    };
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
         ORDER BY {key_list} {conflict} RETURNING 1) \
         SELECT (SELECT pg_catalog.count(*) FROM varve_last), \
         (SELECT pg_catalog.count(*) FROM varve_last) OPERATOR(pg_catalog.-) \
         ((SELECT pg_catalog.count(*) FROM varve_new) OPERATOR(pg_catalog.-) (SELECT pg_catalog.count(*) FROM {source})), \
         (SELECT pg_catalog.count(*) FROM varve_done)",
        target.name,
    ));
    (sql, params)
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
