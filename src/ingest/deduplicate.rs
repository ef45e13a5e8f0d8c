//! `varve.deduplicate`: rows that repeat another one of their segment within a time are removed.

use super::target::{Column, Target, no_column};
use super::window::{self, Columns};
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::pg::permission;
use crate::pg::relation::{self, OpenRel, quote};
use crate::pg::spi::{Connection, Param, with_setting};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// `varve.deduplicate(target, time_window, key)`: the number of rows removed.
fn deduplicate(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.deduplicate");
    let oid = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the table"));
    let window = args
        .datum(1)
        .unwrap_or_else(|| null_argument("time_window"));
    let (target, key) = match args.names(2) {
        Some(names) => (Target::without_key(oid), names),
        None => {
            let target = Target::resolve(oid, None);
            let names = target.key_columns().map(|c| c.name.clone()).collect();
            (target, names)
        }
    };
    let columns = of_key(&target, &key);
    let read: Vec<i16> = target.columns.iter().map(|c| c.attnum).collect();
    let table = relation::qualified_name(oid);
    let open = OpenRel::table(oid, pg_sys::RowExclusiveLock);
    permission::check_delete(open.as_ptr(), &read);
    let connection = Connection::open();
    let param = Param {
        typ: pg_sys::INTERVALOID,
        value: Some(window),
    };
    check_window(&connection, param);
    // Payloads are compared as text, which has to tell any two numbers apart.
    let removed = with_setting(c"extra_float_digits", c"3", || {
        connection.one_row(&window::removal(&table, &columns), &[param])
    });
    removed
        .first()
        .copied()
        .flatten()
        .unwrap_or(pg_sys::Datum::from(0usize))
}

crate::sql_function!(varve_deduplicate, pg_finfo_varve_deduplicate, deduplicate);

fn check_window(connection: &Connection, window: Param) {
    let positive = connection.one_row(
        "SELECT $1 OPERATOR(pg_catalog.>=) '0'::pg_catalog.interval",
        &[window],
    );
    let positive = positive.first().copied().flatten();
    if positive.is_none_or(|d| d.value() == 0) {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "time_window is negative".into(),
            None,
            Some(
                "Give how long after a row an equal one is a repetition: interval '60 minutes'."
                    .into(),
            ),
        );
    }
}

/// Time, segment and payload by the columns of a key.
fn of_key(target: &Target, key: &[String]) -> Columns {
    for name in key {
        if target.position(name).is_none() {
            no_column(&target.name, name, "It is named in the key.");
        }
    }
    let hypertable = target.time.and_then(|t| target.columns.get(t));
    let last = key
        .last()
        .and_then(|name| target.columns.get(target.position(name)?));
    let Some(time) = hypertable.or(last) else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the key names no column".into(),
            None,
            Some("Name what tells series apart, and the time: key => '{symbol, ts}'.".into()),
        )
    };
    let in_key = |c: &&Column| key.contains(&c.name) && c.name != time.name;
    let is_payload = |c: &&Column| !key.contains(&c.name) && c.name != time.name;
    Columns {
        time: quote(&time.name),
        time_type: time.typ,
        segment: target
            .columns
            .iter()
            .filter(in_key)
            .map(|c| quote(&c.name))
            .collect(),
        payload: target
            .columns
            .iter()
            .filter(is_payload)
            .map(|c| quote(&c.name))
            .collect(),
    }
}
