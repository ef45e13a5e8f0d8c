//! Loads prices from a CSV file, or made-up ones, into a table of varve's, and tells what became of them.
//!
//! The server is the one that `PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE` and `PGPASSWORD`, or `--dsn`, name. Each batch is
//! a transaction of its own: a load that stopped half-way is begun again from the start, since rows that are there
//! already change nothing.

mod source;
mod time;
mod ways;

use clap::{Parser, value_parser};
use postgres::{Client, Config, NoTls};
use source::Source;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use ways::{Counts, SINK, TABLE, Way};

/// What goes wrong, as it is told to the user.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CREATE_TABLE: &str = "
    CREATE TABLE prices (
        symbol text, ts timestamptz,
        open float8, high float8, low float8, close float8, volume bigint,
        PRIMARY KEY (symbol, ts));
    SELECT create_hypertable('prices', 'ts', chunk_time_interval => interval '30 days');
    SELECT varve.enable('prices');
";

/// Loads prices into a table of varve's.
#[derive(Parser)]
struct Args {
    /// A CSV file with a header, packed with gzip or not
    #[arg(required_unless_present = "rows", conflicts_with = "rows")]
    file: Option<PathBuf>,
    /// So many made-up rows instead of a file
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// COPY into a sink, or JSON
    #[arg(long, value_enum, default_value = "sink")]
    via: Way,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value = "20000", value_parser = value_parser!(u32).range(1..))]
    batch: u32,
    /// Load a second time, to see that nothing changes
    #[arg(long)]
    again: bool,
    /// The server, as postgresql://… or key=value pairs [default: what PGHOST and its like name]
    #[arg(long)]
    dsn: Option<String>,
}

/// How to connect, as libpq would have it.
fn config(dsn: Option<&str>) -> Result<Config> {
    if let Some(dsn) = dsn {
        return Ok(dsn.parse()?);
    }
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = named("PGUSER").or_else(|| named("USER"));
    let user = user.ok_or("neither PGUSER nor USER is set, and there is no --dsn")?;
    let mut config = Config::new();
    config
        .host(&named("PGHOST").unwrap_or_else(|| "/var/run/postgresql".into()))
        .port(named("PGPORT").map_or(Ok(5432), |port| port.parse())?)
        .dbname(&named("PGDATABASE").unwrap_or_else(|| user.clone()))
        .user(&user);
    if let Some(password) = named("PGPASSWORD") {
        config.password(password);
    }
    Ok(config)
}

/// Makes what is missing: the extension, the table, the sink.
fn set_up(client: &mut Client) -> std::result::Result<(), postgres::Error> {
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS varve CASCADE")?;
    let mut transaction = client.transaction()?;
    let mut missing = |name: &str| -> std::result::Result<bool, postgres::Error> {
        transaction
            .query_one("SELECT to_regclass($1) IS NULL", &[&name])?
            .try_get(0)
    };
    let (table, sink) = (missing(TABLE)?, missing(SINK)?);
    if table {
        transaction.batch_execute(CREATE_TABLE)?;
    }
    if sink {
        transaction.execute(
            "SELECT varve.create_sink($1, $2::text::regclass)",
            &[&SINK, &TABLE],
        )?;
    }
    transaction.commit()
}

/// Loads all rows, batch by batch; what became of them.
fn load(client: &mut Client, source: &Source, via: Way, size: usize) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut rows = source.rows()?;
    loop {
        let batch = rows.by_ref().take(size).collect::<Result<Vec<_>>>()?;
        if batch.is_empty() {
            return Ok(counts);
        }
        let outcome = via.write(client, source.columns(), &batch);
        counts += outcome.map_err(|error| ways::explain(&error, source, &batch))?;
    }
}

fn run(args: &Args) -> Result<()> {
    let source = match &args.file {
        Some(path) => Source::csv(path)?,
        None => Source::made_up(args.rows.unwrap_or_default()),
    };
    let mut client = config(args.dsn.as_deref())?
        .connect(NoTls)
        .map_err(|error| format!("no connection: {}", ways::message(&error)))?;
    set_up(&mut client).map_err(|error| ways::message(&error))?;
    for pass in 0..=u32::from(args.again) {
        let begin = Instant::now();
        let counts = load(&mut client, &source, args.via, args.batch as usize)?;
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{via}{again}: {rows} rows in {seconds:.2} s, {rate:.0} rows/s: \
             {inserted} inserted, {updated} updated, {unchanged} unchanged, {duplicates} duplicates",
            via = args.via.name(),
            again = if pass == 0 { "" } else { ", again" },
            rows = counts.rows_in,
            rate = counts.rows_in as f64 / seconds,
            inserted = counts.inserted,
            updated = counts.updated,
            unchanged = counts.unchanged,
            duplicates = counts.duplicates,
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("varve-example-loader: {error}");
            ExitCode::FAILURE
        }
    }
}
