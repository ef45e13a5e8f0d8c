//! Rows of a snapshot into tables.

use super::incoming::Incoming;
use super::session::as_called;
use crate::am::error::raise;
use crate::pg::context::RowAt;
use crate::pg::executor::Executor;
use crate::pg::relation::{self, OpenRel, quote};
use crate::pg::spi::{self, Connection};
use crate::pg::writer::TableWriter;
use crate::progress::Work;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::rc::Rc;

/// Rows are inserted together up to this number, and to so many bytes.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 16 << 20;

/// Where the values of a table's attributes come from: columns that come; `None` for what the table computes, and for
/// attributes that are dropped.
fn places(rel: pg_sys::Relation, columns: &[String]) -> Vec<Option<usize>> {
    let desc = relation::tupdesc(rel);
    (0..relation::natts(desc))
        .map(|i| {
            let attr = relation::attribute(desc, i);
            let name = relation::attribute_name(attr);
            let given = !attr.attisdropped && attr.attgenerated == 0;
            columns.iter().position(|c| given && *c == name)
        })
        .collect()
}

/// Writes rows into a table whose storage this transaction has made, visible to all as COPY does it with FREEZE: the one at hand
/// (if `begun`) and all that follow. How many those were.
pub fn into_new_storage(
    rows: &mut dyn Incoming,
    begun: bool,
    rel: OpenRel,
    columns: &[String],
    work: &mut Work,
) -> u64 {
    let places = places(rel.as_ptr(), columns);
    let executor = Rc::new(Executor::new());
    let at = Rc::new(RowAt::new(None));
    let mut writer = TableWriter::new(executor.clone(), at, rel, None);
    writer.freeze_rows();
    let mut written = 0;
    let mut more = begun || rows.next();
    while more {
        let mut count = 0;
        loop {
            let (values, nulls) = rows.row();
            written += 1;
            writer.put(count, written, |to, to_nulls| {
                for ((to, null), place) in to.iter_mut().zip(to_nulls).zip(&places) {
                    let found = place.and_then(|p| Some((*values.get(p)?, *nulls.get(p)?)));
                    (*to, *null) = found.unwrap_or((pg_sys::Datum::from(0usize), true));
                }
            });
            count += 1;
            more = (count < BATCH_ROWS && rows.bytes() < BATCH_BYTES) && rows.next();
            if !more {
                break;
            }
        }
        // Without an arbiter a key that is taken is an error.
        let _ = writer.insert(count);
        executor.reset_rows();
        rows.forget();
        work.add(count as u64);
        pgrx::check_for_interrupts!();
        more = rows.next();
    }
    written
}

/// What an INSERT of rows into a table gives: its columns but those that the table computes.
struct Given {
    attributes: Vec<pg_sys::FormData_pg_attribute>,
    places: Vec<usize>,
    names: String,
}

impl Given {
    fn of(rel: pg_sys::Relation, columns: &[String]) -> Self {
        let desc = relation::tupdesc(rel);
        let places = places(rel, columns).into_iter().enumerate();
        let (mut attributes, mut given, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (i, place) in places {
            if let Some(place) = place {
                let attr = relation::attribute(desc, i);
                attributes.push(*attr);
                given.push(place);
                names.push(quote(&relation::attribute_name(attr)));
            }
        }
        Given {
            attributes,
            places: given,
            names: names.join(", "),
        }
    }

    fn push(&self, rows: &dyn Incoming, to: &mut spi::Rows) {
        let (values, nulls) = rows.row();
        let none = pg_sys::Datum::from(0usize);
        let values: Vec<pg_sys::Datum> = self
            .places
            .iter()
            .map(|p| values.get(*p).copied().unwrap_or(none))
            .collect();
        let nulls: Vec<bool> = self
            .places
            .iter()
            .map(|p| nulls.get(*p).copied().unwrap_or(true))
            .collect();
        // SAFETY: a value of its column's type for each of the attributes.
        unsafe { to.push(&values, &nulls) };
    }

    fn insert(&self, target: &str) -> String {
        format!(
            "INSERT INTO {target} ({0}) OVERRIDING SYSTEM VALUE SELECT {0} FROM varve_rows",
            self.names
        )
    }
}

/// Inserts the row at hand into a table, as INSERT does it; and which chunk it went to.
pub fn insert_one(rows: &dyn Incoming, table: &OpenRel, columns: &[String]) -> pg_sys::Oid {
    let target = relation::qualified_name(relation::oid(table.as_ptr()));
    let given = Given::of(table.as_ptr(), columns);
    let connection = Connection::open();
    let mut one = spi::Rows::new(&given.attributes);
    given.push(rows, &mut one);
    connection.name("varve_rows", &one);
    let insert = format!(
        "WITH done AS ({} RETURNING tableoid AS chunk) SELECT (SELECT chunk FROM done)",
        given.insert(&target)
    );
    let chunk = as_called(|| connection.one_row(&insert, &[]));
    connection.forget("varve_rows");
    match chunk.first().copied().flatten() {
        Some(oid) => pg_sys::Oid::from_u32(oid.value() as u32),
        None => raise(
            PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            format!("a trigger of {target} kept the first row from being inserted"),
            Some("The row shows which chunk the others belong to.".into()),
            Some(format!(
                "ALTER TABLE {target} DISABLE TRIGGER USER, and restore again."
            )),
        ),
    }
}

/// Inserts the rows that follow the one at hand into a table, as INSERT does it: with its triggers, wherever they go. How many those
/// were.
pub fn insert_rest(
    rows: &mut dyn Incoming,
    table: &OpenRel,
    columns: &[String],
    work: &mut Work,
) -> u64 {
    let target = relation::qualified_name(relation::oid(table.as_ptr()));
    let given = Given::of(table.as_ptr(), columns);
    let insert = given.insert(&target);
    let mut written = 0;
    rows.forget();
    let mut more = rows.next();
    while more {
        let connection = Connection::open();
        let mut batch = spi::Rows::new(&given.attributes);
        let mut count = 0;
        loop {
            given.push(rows, &mut batch);
            count += 1;
            more = count < 10 * BATCH_ROWS && rows.bytes() < BATCH_BYTES && rows.next();
            if !more {
                break;
            }
        }
        connection.name("varve_rows", &batch);
        as_called(|| connection.run(&insert));
        // SAFETY: what the server says of the statement that was just run. Triggers may have left rows out.
        written += unsafe { pg_sys::SPI_processed };
        connection.forget("varve_rows");
        work.add(count as u64);
        rows.forget();
        more = rows.next();
    }
    written
}
