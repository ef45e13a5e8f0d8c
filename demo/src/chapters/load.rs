//! A hypertable, and all prices upserted into it.

use crate::show;
use crate::stage::{Result, Stage, Summary};
use std::time::Instant;

/// Rows of one batch.
pub const BATCH: usize = 10_000;

const TABLE: &str = "
    CREATE TABLE prices (
        symbol text NOT NULL,
        date   date NOT NULL,
        open float8, high float8, low float8, close float8,
        volume bigint,
        PRIMARY KEY (symbol, date)
    )";
const HYPERTABLE: &str =
    "SELECT create_hypertable('prices', 'date', chunk_time_interval => interval '365 days')";

/// Creates the table, enables varve for it and upserts every row.
pub fn run(stage: &mut Stage) -> Result<()> {
    show::say(&format!("Data: {}", stage.prices.source));
    let expected = stage.prices.records.len() as i64;
    let shape = format!(
        "{} daily prices of {} symbols on {} days",
        show::count(expected),
        stage.prices.symbols,
        show::count(stage.prices.days as i64)
    );
    show::aside(
        "CREATE TABLE prices (symbol text, date date, open, high, low, close float8, volume bigint,",
    );
    show::aside("                     PRIMARY KEY (symbol, date))");
    stage.client.batch_execute(TABLE)?;
    show::aside(HYPERTABLE);
    stage.client.batch_execute(HYPERTABLE)?;
    show::aside("SELECT varve.enable('prices')");
    stage
        .client
        .batch_execute("SELECT varve.enable('prices')")?;
    stage
        .client
        .batch_execute("CREATE TEMPORARY TABLE incoming (LIKE prices)")?;
    show::aside("SELECT * FROM varve.upsert('prices', 'incoming')   -- in batches of 10,000");

    let begin = Instant::now();
    let summary = stage.upsert_all(BATCH)?;
    let took = begin.elapsed();
    show::say(&format!("{summary}"));
    show::say(&format!(
        "{}: {} rows a second",
        show::time(took),
        show::count((expected as f64 / took.as_secs_f64()) as i64)
    ));
    let all_new = Summary {
        rows_in: expected,
        inserted: expected,
        ..Summary::default()
    };
    stage.same(&format!("all of {shape} were new"), summary, all_new)?;
    let found = stage.number("SELECT count(*) FROM prices")?;
    stage.same("the table holds as many", found, expected)?;
    let chunks = stage.chunks()?;
    let hot = chunks.iter().filter(|c| c.tier == "hot").count();
    let text = format!("all chunks are hot: {}", chunks.len());
    stage.same(&text, hot, chunks.len())
}
