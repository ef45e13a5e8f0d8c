//! `varve.upsert`, `upsert_query`, `upsert_rows`, `upsert_json`.

use super::batch::{self, OnConflict, Options, Summary};
use super::json;
use super::target::Target;
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::pg::relation;
use crate::pg::spi::{Connection, Param, with_setting};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// The arguments that all four functions share, from `first` on: key, on_conflict, dedup_window, skip_unchanged.
pub fn options(args: &Args, first: usize) -> (Option<Vec<String>>, Options) {
    let on_conflict = args
        .get::<&str>(first + 1)
        .map_or_else(|| null_argument("on_conflict"), OnConflict::named);
    let options = Options {
        on_conflict,
        dedup_window: args.datum(first + 2),
        skip_unchanged: args
            .get::<bool>(first + 3)
            .unwrap_or_else(|| null_argument("skip_unchanged")),
        copied_into: None,
        in_parts: false,
        tier: None,
        followed: false,
    };
    (args.names(first), options)
}

fn target_oid(args: &Args) -> pg_sys::Oid {
    crate::tier::check_writable(c"an upsert");
    args.get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the target"))
}

/// Runs a query for the rows of a batch and writes them.
fn run(target: Target, query: &str, params: &[Param], options: Options, what: &str) -> Summary {
    let connection = Connection::open();
    // Rows of a table count in their physical order, from its beginning: of several with one key the last one wins.
    let rows = with_setting(c"synchronize_seqscans", c"off", || {
        connection.fetch(query, params)
    });
    let Some(rows) = rows else {
        raise(
            PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            format!("{what} is not one statement that returns rows"),
            None,
            Some("Give one SELECT (or VALUES, TABLE, or a statement with RETURNING).".into()),
        )
    };
    batch::write(&connection, target, &rows, options)
}

fn answer(args: &Args, summary: &Summary) -> pg_sys::Datum {
    batch::remember(*summary);
    row(args, summary)
}

fn row(args: &Args, summary: &Summary) -> pg_sys::Datum {
    let values = [
        summary.rows_in,
        summary.inserted,
        summary.updated,
        summary.unchanged,
        summary.duplicates,
    ]
    .map(pg_sys::Datum::from);
    args.row(&values, &[false; 5])
}

/// `varve.upsert(target, source, …)`: the rows of a relation.
fn upsert(args: &Args) -> pg_sys::Datum {
    let oid = target_oid(args);
    let source = args
        .get::<pg_sys::Oid>(1)
        .unwrap_or_else(|| null_argument("the source"));
    let (key, options) = options(args, 2);
    let target = Target::resolve(oid, key);
    // SAFETY: a syscache look-up.
    if unsafe { pg_sys::get_rel_relkind(source) } == 0 {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("{} does not exist", relation::qualified_name(source)),
            None,
            Some("Name a table, view or foreign table with the rows of the batch.".into()),
        );
    }
    let name = relation::qualified_name(source);
    let query = format!("SELECT * FROM {name}");
    answer(args, &run(target, &query, &[], options, "the source"))
}

/// `varve.upsert_query(target, query, …)`: the rows of a query, which runs as the caller.
fn upsert_query(args: &Args) -> pg_sys::Datum {
    let oid = target_oid(args);
    let query = args
        .get::<String>(1)
        .unwrap_or_else(|| null_argument("the query"));
    let (key, options) = options(args, 2);
    let target = Target::resolve(oid, key);
    answer(args, &run(target, &query, &[], options, "the query"))
}

/// `varve.upsert_rows(target, rows, …)`: an array of rows.
fn upsert_rows(args: &Args) -> pg_sys::Datum {
    let oid = target_oid(args);
    let rows = args.datum(1).unwrap_or_else(|| null_argument("the rows"));
    let (key, options) = options(args, 2);
    let target = Target::resolve(oid, key);
    let array = args.type_of(1);
    // SAFETY: syscache look-ups.
    let (composite, name) = unsafe {
        let element = pg_sys::get_element_type(array);
        let name = pg_sys::format_type_be_qualified(array);
        (
            pg_sys::type_is_rowtype(element) && element != pg_sys::RECORDOID,
            CStr::from_ptr(name).to_string_lossy().into_owned(),
        )
    };
    if !composite {
        raise(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("the rows are of type {name}"),
            None,
            Some(format!(
                "Give an array of a named row type, say of the table itself: $1::{}[].",
                target.name
            )),
        );
    }
    let query = format!("SELECT * FROM pg_catalog.unnest($1::{name})");
    let param = Param {
        typ: array,
        value: Some(rows),
    };
    answer(args, &run(target, &query, &[param], options, "the array"))
}

/// `varve.upsert_json(target, rows, …)`: a JSON array of objects (or one object).
fn upsert_json(args: &Args) -> pg_sys::Datum {
    let oid = target_oid(args);
    let rows = args.datum(1).unwrap_or_else(|| null_argument("the rows"));
    let (key, options) = options(args, 2);
    let target = Target::resolve(oid, key);
    let mut summary = Summary::default();
    let connection = Connection::open();
    let groups = json::groups(&connection, &target, rows, &mut summary);
    let last = groups.len().saturating_sub(1);
    for (i, group) in groups.into_iter().enumerate() {
        let options = Options {
            followed: i < last,
            ..options.clone()
        };

        summary += run(
            target.clone(),
            &group.query,
            &group.params,
            options,
            "the JSON",
        );
    }
    drop(connection);
    answer(args, &summary)
}

/// `varve.last_upsert()`: what became of the session's last batch; NULL before the first.
fn last_upsert(args: &Args) -> pg_sys::Datum {
    match batch::last() {
        Some(summary) => row(args, &summary),
        None => args.null(),
    }
}

crate::sql_function!(varve_last_upsert, pg_finfo_varve_last_upsert, last_upsert);
crate::sql_function!(varve_upsert, pg_finfo_varve_upsert, upsert);
crate::sql_function!(
    varve_upsert_query,
    pg_finfo_varve_upsert_query,
    upsert_query
);
crate::sql_function!(varve_upsert_rows, pg_finfo_varve_upsert_rows, upsert_rows);
crate::sql_function!(varve_upsert_json, pg_finfo_varve_upsert_json, upsert_json);
