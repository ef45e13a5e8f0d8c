//! Ingest: varve's upserts and sinks beside INSERT … ON CONFLICT and COPY, in turn.
//!
//! The workload is that of the targets: `bars`, ordered by time and symbol, in batches of 10,000 rows, each a transaction,
//! into hypertables of 7-day chunks with the key (symbol, ts) and an index of time. What counts is a ratio to INSERT …
//! ON CONFLICT in the same run. After each measurement the tables are compared.
//!
//! - [`stage`]: the rows, and tables to bring them into; [`contest`]: batches by several ways, in turn.
//! - [`batches`], [`frozen`], [`copying`]: the chapters.
//! - [`compare`]: whether tables hold the same; [`wal`]: what WAL was written for.

mod batches;
mod compare;
mod contest;
mod copying;
mod frozen;
mod stage;
mod wal;

use crate::Result;
use crate::options::Options;
use crate::server::Server;
use postgres::Client;

/// The schema of all tables here.
pub const SCHEMA: &str = "ingest";

/// Runs of what takes seconds: so many at most, as with queries.
const FEW: u32 = 3;

/// What the chapters share.
struct Ingest {
    client: Client,
    /// Batches in each measurement.
    batches: u32,
    /// Batches that are copied to frozen chunks: fewer, where bringing new keys there is slow.
    batches_to_frozen: u32,
    /// Runs of each COPY.
    rounds: u32,
    /// What is wrong: other rows than INSERT leaves, other counts, dead rows.
    failures: Vec<String>,
}

/// Measures ingest; what was not as on heap.
pub fn run(server: &Server, options: &Options) -> Result<Vec<String>> {
    let mut client = server.connect_to(SCHEMA)?;
    let drop_schema = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE");
    client.batch_execute(&format!(
        "SET client_min_messages = warning; {drop_schema}; CREATE SCHEMA {SCHEMA}"
    ))?;
    let mut ingest = Ingest {
        client,
        batches: options.batches,
        batches_to_frozen: options.batches,
        rounds: options.runs.min(FEW),
        failures: Vec::new(),
    };
    ingest.stage()?;
    ingest.batches()?;
    ingest.frozen()?;
    ingest.copying()?;
    // A kept server shall not grow.
    ingest.client.batch_execute(&drop_schema)?;
    Ok(ingest.failures)
}
