//! `varve.create_sink`.

use crate::am::error::{null_argument, raise};
use crate::ingest::target::Target;
use crate::ingest::upsert;
use crate::pg::function::Args;
use crate::pg::relation::{self, quote};
use crate::pg::spi::{Connection, Param};
use crate::tier::level::Tier;
use crate::tier::{catalog, set_tier};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

fn literal(text: &str) -> String {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: returns a palloc'd string.
    unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(text.as_ptr())) }
        .to_string_lossy()
        .into_owned()
}

/// `varve.create_sink(name, target, …)`: a view of the table's columns, with the triggers that upsert.
fn create_sink(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.create_sink");
    let name = args
        .get::<String>(0)
        .unwrap_or_else(|| null_argument("the name"));
    let oid = args
        .get::<pg_sys::Oid>(1)
        .unwrap_or_else(|| null_argument("the target"));
    let (key, options) = upsert::options(args, 2);
    set_tier::check_table(oid);
    let tier = args.get::<String>(6).map(|name| check_tier(oid, &name));
    let target = Target::resolve(oid, key.clone());
    let parts = identifiers(&name);
    let quoted: Vec<String> = parts.iter().map(|part| quote(part)).collect();
    let view = quoted.join(".");
    let columns: Vec<String> = target
        .columns
        .iter()
        .filter(|c| !c.generated)
        .map(|c| quote(&c.name))
        .collect();
    let connection = Connection::open();
    let window = match options.dedup_window {
        None => String::new(),
        Some(window) => text(&connection, pg_sys::INTERVALOID, window),
    };
    let mut arguments = vec![
        literal(options.on_conflict.name()),
        literal(if options.skip_unchanged {
            "true"
        } else {
            "false"
        }),
        literal(&window),
        literal(tier.map_or("", Tier::name)),
    ];
    arguments.extend(key.iter().flatten().map(|column| literal(column)));
    let arguments = arguments.join(", ");
    connection.run(&format!(
        "CREATE VIEW {view} AS SELECT {} FROM {}",
        columns.join(", "),
        target.name
    ));
    connection.run(&format!(
        "CREATE TRIGGER varve_begin BEFORE INSERT ON {view} FOR EACH STATEMENT EXECUTE FUNCTION varve.sink({arguments}); \
         CREATE TRIGGER varve_row INSTEAD OF INSERT ON {view} FOR EACH ROW EXECUTE FUNCTION varve.sink({arguments}); \
         CREATE TRIGGER varve_end AFTER INSERT ON {view} FOR EACH STATEMENT EXECUTE FUNCTION varve.sink({arguments}); \
         COMMENT ON VIEW {view} IS {comment}",
        comment = literal(&format!("Rows inserted here are upserted into {}", target.name)),
    ));
    let made = connection.one_row(
        "SELECT $1::pg_catalog.regclass::pg_catalog.oid",
        &[Param {
            typ: pg_sys::TEXTOID,
            value: view.clone().into_datum(),
        }],
    );
    match made.first() {
        Some(Some(oid)) => *oid,
        _ => pgrx::error!("{view} was not made"),
    }
}

crate::sql_function!(varve_create_sink, pg_finfo_varve_create_sink, create_sink);

/// The tier of a name that large batches may make of a table's chunks.
fn check_tier(oid: pg_sys::Oid, name: &str) -> Tier {
    let tier = Tier::from_name(name)
        .filter(|tier| tier.effort().is_some())
        .unwrap_or_else(|| {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("batches cannot be written to tier \"{name}\""),
                None,
                Some("It is 'warm' or 'cold'; NULL leaves new chunks hot.".into()),
            )
        });
    if !catalog::is_managed(catalog::root_of(oid)) {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "new chunks of {} cannot be frozen",
                relation::qualified_name(oid)
            ),
            Some("The table is not under varve's care.".into()),
            Some("Call varve.enable(table) first.".into()),
        );
    }
    tier
}

/// A name, qualified or not, taken apart.
fn identifiers(name: &str) -> Vec<String> {
    let text = CString::new(name).unwrap_or_default();
    // SAFETY: raises its own error for what is no name.
    let parts: Vec<String> = unsafe {
        let list = pg_sys::stringToQualifiedNameList(text.as_ptr(), std::ptr::null_mut());
        crate::pg::list::nodes::<pg_sys::String>(list)
            .map(|part| CStr::from_ptr((*part).sval).to_string_lossy().into_owned())
            .collect()
    };
    if parts.len() > 2 {
        raise(
            PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            format!("\"{name}\" is no name of a relation"),
            None,
            Some("Give a name, or a schema and a name: 'ingest.prices_in'.".into()),
        );
    }
    parts
}

fn text(connection: &Connection, typ: pg_sys::Oid, value: pg_sys::Datum) -> String {
    let row = connection.one_row(
        "SELECT $1::pg_catalog.text",
        &[Param {
            typ,
            value: Some(value),
        }],
    );
    // SAFETY: a text, as the query says.
    unsafe {
        row.first()
            .copied()
            .flatten()
            .and_then(|d| String::from_datum(d, false))
    }
    .unwrap_or_default()
}
