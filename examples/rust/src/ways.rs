//! The ways that a batch goes to the server.

use crate::source::{Column, Row, Source};
use clap::ValueEnum;
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::{Client, Error};
use serde_json::{Map, Value};
use std::error::Error as _;

/// The table.
pub const TABLE: &str = "prices";

/// Its sink: rows that are copied or inserted into this view are upserted into the table.
pub const SINK: &str = "prices_in";

/// What stands before the number of a row that was not copied.
const ROW: &str = "row ";

/// A way to write a batch.
#[derive(Clone, Copy, ValueEnum)]
pub enum Way {
    /// COPY into the sink, the fastest way.
    Sink,
    /// `varve.upsert_json`, for who has JSON already, or rows that lack different columns.
    Json,
}

/// What became of rows; the first number is the sum of the others.
#[derive(Default)]
pub struct Counts {
    pub rows_in: i64,
    pub inserted: i64,
    pub updated: i64,
    pub unchanged: i64,
    pub duplicates: i64,
}

impl Counts {
    fn of(row: &postgres::Row) -> Result<Self, Error> {
        Ok(Counts {
            rows_in: row.try_get("rows_in")?,
            inserted: row.try_get("inserted")?,
            updated: row.try_get("updated")?,
            unchanged: row.try_get("unchanged")?,
            duplicates: row.try_get("duplicates")?,
        })
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.rows_in += other.rows_in;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.duplicates += other.duplicates;
    }
}

impl Way {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Way::Sink => "sink",
            Way::Json => "json",
        }
    }

    /// Writes a batch. Columns that are not given keep what is stored, or take their default.
    pub fn write(
        self,
        client: &mut Client,
        columns: &[Column],
        batch: &[Row],
    ) -> Result<Counts, Error> {
        match self {
            Way::Sink => by_sink(client, columns, batch),
            Way::Json => by_json(client, columns, batch),
        }
    }
}

fn by_sink(client: &mut Client, columns: &[Column], batch: &[Row]) -> Result<Counts, Error> {
    let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    let types: Vec<_> = columns.iter().map(|column| column.sql_type()).collect();
    let copy = format!(
        "COPY {SINK} ({}) FROM STDIN (FORMAT binary)",
        names.join(", ")
    );
    // One transaction, so that a pool between us and the server asks the session that copied.
    let mut transaction = client.transaction()?;
    let mut writer = BinaryCopyInWriter::new(transaction.copy_in(&copy)?, &types);
    for row in batch {
        let values: Vec<_> = columns.iter().map(|column| column.value(row)).collect();
        writer.write(&values)?;
    }
    writer.finish()?;
    let counts = Counts::of(&transaction.query_one("SELECT * FROM varve.last_upsert()", &[])?)?;
    transaction.commit()?;
    Ok(counts)
}

fn by_json(client: &mut Client, columns: &[Column], batch: &[Row]) -> Result<Counts, Error> {
    let object = |row: &Row| {
        let fields = columns
            .iter()
            .map(|column| (column.name().to_string(), column.json(row)));
        Value::Object(fields.collect::<Map<String, Value>>())
    };
    let rows = Value::Array(batch.iter().map(object).collect()).to_string();
    let call = format!("SELECT * FROM varve.upsert_json('{TABLE}', $1::text::jsonb)");
    Counts::of(&client.query_one(&call, &[&rows])?)
}

/// An error as the server words it, with its detail and hint.
pub fn message(error: &Error) -> String {
    let Some(db) = error.as_db_error() else {
        return match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
    };
    let more = [db.detail(), db.hint()];
    more.into_iter()
        .flatten()
        .fold(db.message().to_string(), |told, line| {
            format!("{told}\n  {line}")
        })
}

/// The server's message, with the line of the file in place of the number within the batch.
pub fn explain(error: &Error, source: &Source, batch: &[Row]) -> String {
    let told = error.as_db_error().and_then(|db| {
        let context = db.where_().unwrap_or_default();
        number(&format!("COPY {SINK}, line "), context)
            .or_else(|| number(ROW, context))
            .or_else(|| number(ROW, db.message()))
    });
    let row = told.and_then(|number| batch.get(number.checked_sub(1)?));
    let name = source.name();
    match row {
        Some(row) => format!(
            "{name}, {} {}: {}",
            source.unit(),
            row.number,
            message(error)
        ),
        None => format!("{name}: {}", message(error)),
    }
}

/// The number behind some words of an error: "COPY prices_in, line 3" in the context where rows are copied, "row 3 of the
/// batch" in the context or the message else.
fn number(words: &str, text: &str) -> Option<usize> {
    text.match_indices(words).find_map(|(at, _)| {
        let behind = text.get(at + words.len()..)?;
        let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
        let rest = behind.get(digits.len()..)?;
        let number = digits.parse().ok()?;
        (words != ROW || rest.starts_with(" of the batch")).then_some(number)
    })
}
