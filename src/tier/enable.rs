//! `varve.enable` and `varve.disable`.

use super::{catalog, rewrite, set_tier};
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Names of the key's columns: of the primary key, else of the only unique index; and the time column.
fn defaults(oid: pg_sys::Oid) -> (Vec<String>, Option<String>) {
    let columns = spi::read_one::<Vec<String>>(
        "SELECT k.columns::pg_catalog.text[] FROM varve.unique_keys($1::pg_catalog.oid::pg_catalog.regclass) k ORDER BY k.is_primary DESC, k.index_oid LIMIT 1",
        &[oid.into()],
    );
    let time = spi::read_one::<String>(
        "SELECT varve.time_column($1::pg_catalog.oid::pg_catalog.regclass)::pg_catalog.text",
        &[oid.into()],
    );
    (columns.unwrap_or_default(), time)
}

fn check_columns(oid: pg_sys::Oid, names: &[String], what: &str) {
    for name in names {
        let cname = std::ffi::CString::new(name.as_str()).unwrap_or_default();
        // SAFETY: syscache look-ups.
        unsafe {
            let attnum = pg_sys::get_attnum(oid, cname.as_ptr());
            if attnum <= 0 {
                raise(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                    format!(
                        "column \"{name}\" of {} does not exist",
                        relation::qualified_name(oid)
                    ),
                    Some(format!("It is named in {what}.")),
                    Some("Name columns of the table.".into()),
                );
            }
            let typ = pg_sys::get_atttype(oid, attnum);
            if relation::ordering_operator(typ, false) == pg_sys::InvalidOid {
                raise(
                    PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                    format!("column \"{name}\" has a type without an order"),
                    Some(format!("It is named in {what}.")),
                    Some("Rows are frozen in the order of these columns; name others.".into()),
                );
            }
        }
    }
}

/// Puts a table under varve's care: its chunks can be frozen, in the order of these columns.
fn enable(args: &Args) -> pg_sys::Datum {
    super::check_writable(c"varve.enable()");
    let oid = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the table"));
    let (segment_by, order_by) = (args.names(1), args.names(2));
    set_tier::check_table(oid);
    let root = catalog::root_of(oid);
    if root != oid {
        raise(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is a chunk", relation::qualified_name(oid)),
            None,
            Some(format!(
                "Enable {} instead.",
                relation::qualified_name(root)
            )),
        );
    }
    let (key, time) = defaults(oid);
    if key.is_empty() && order_by.is_none() && time.is_none() {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
            format!(
                "{} has no primary key, unique index or time column",
                relation::qualified_name(oid)
            ),
            None,
            Some("Add a key, or name the order: varve.enable(table, segment_by => '{...}', order_by => '{...}').".into()),
        );
    }
    let order_by = order_by.unwrap_or_else(|| match &time {
        Some(t) => vec![t.clone()],
        None => key.last().cloned().into_iter().collect(),
    });
    let segment_by = segment_by.unwrap_or_else(|| {
        key.iter()
            .filter(|c| !order_by.contains(c))
            .cloned()
            .collect()
    });
    check_columns(oid, &segment_by, "segment_by");
    check_columns(oid, &order_by, "order_by");
    let mut seen = std::collections::HashSet::new();
    for name in segment_by.iter().chain(&order_by) {
        if !seen.insert(name) {
            raise(
                PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
                format!("column \"{name}\" is named twice"),
                None,
                Some("Name each column once, in segment_by or in order_by.".into()),
            );
        }
    }
    catalog::manage(oid, &segment_by, &order_by);
    pg_sys::Datum::null()
}

/// Takes a table out of varve's care: every frozen row comes back, and its chunks become ordinary heap tables.
fn disable(args: &Args) -> pg_sys::Datum {
    super::check_writable(c"varve.disable()");
    let oid = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the table"));
    set_tier::check_table(oid);
    if !catalog::is_managed(oid) {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{} is not enabled", relation::qualified_name(oid)),
            None,
            Some("varve.managed lists the tables that are.".into()),
        );
    }
    for chunk in catalog::chunks_of(oid) {
        let varve = {
            let Some(table) = OpenRel::try_open(chunk, pg_sys::ShareUpdateExclusiveLock) else {
                continue;
            };
            Some(relation::form(table.as_ptr()).relam) == relation::varve_am()
        };
        if varve {
            super::lock::exclusively(chunk);
            rewrite::to_heap(chunk);
            catalog::forget_size(chunk);
        }
    }
    catalog::unmanage(oid);
    pg_sys::Datum::null()
}

crate::sql_function!(varve_enable, pg_finfo_varve_enable, enable);
crate::sql_function!(varve_disable, pg_finfo_varve_disable, disable);
