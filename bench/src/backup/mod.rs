//! Backups of a cluster of about 1 GB beside pgBackRest's: full, incremental after a change of a hundredth, and restored.
//!
//! Both work with two processes or threads and zstd at level 1, on one running server, in turn. Neither waits for WAL to be
//! archived, and both flush what they wrote. Then a server is started from varve's backup, and its rows are compared.
//!
//! - [`contest`]: the two programs; [`recovery`]: what recovery takes, start to answer.

mod contest;
mod recovery;

use crate::data::Source;
use crate::data::bars::Bars;
use crate::data::copy::copy;
use crate::load::BARS;
use crate::numbers::{at_most, figure, megabytes};
use crate::options::Options;
use crate::{Error, Result};
use contest::{PgBackRest, Varve};
use postgres::Client;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use varve_demo::show::{self, Align::Left, Align::Right};
use varve_tests::cluster::Cluster;

/// Symbols and trading days of `bars` that make a cluster of about 1.08 GB, unless others are asked for.
const SYMBOLS: u32 = 500;
const DAYS: u32 = 38;

/// Where Debian puts pgBackRest.
const PGBACKREST: &str = "/usr/bin/pgbackrest";

/// Times that each thing is measured at most; its minimum counts.
const FEW: u32 = 3;

/// Settings of the server: WAL summaries for incremental backups, none that lets something else run meanwhile.
const SETTINGS: &[&str] = &[
    "shared_buffers = 2GB",
    "max_wal_size = 8GB",
    "checkpoint_timeout = 1d",
    "autovacuum = off",
    "synchronous_commit = off",
    "summarize_wal = on",
    "log_min_messages = warning",
    "log_checkpoints = off",
];

/// What one measurement gave: how long it took, and what it wrote.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub took: Duration,
    pub bytes: u64,
}

/// The best of several measurements.
fn best(all: &[Measured]) -> Measured {
    let took = all.iter().map(|m| m.took).min().unwrap_or_default();
    let bytes = all.iter().map(|m| m.bytes).min().unwrap_or_default();
    Measured { took, bytes }
}

/// Runs a program to its end; how long that took.
pub fn timed(command: &mut Command) -> Result<Duration> {
    let begin = Instant::now();
    let output = command.output()?;
    let took = begin.elapsed();
    match output.status.success() {
        true => Ok(took),
        false => Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

/// Bytes of the files in a directory, of all users.
pub fn size_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => size_of(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}

fn load(client: &mut Client, options: &Options) -> Result<()> {
    client.batch_execute(&BARS.create("bars"))?;
    let symbols = options.symbols.unwrap_or(SYMBOLS);
    let bars = Bars::new(symbols, options.bars_days.unwrap_or(DAYS));
    let bar = show::progress(bars.rows(), "rows");
    copy(client, "bars", bars, |rows| bar.inc(rows))?;
    bar.finish_and_clear();
    client.batch_execute("VACUUM (FREEZE, ANALYZE) bars")?;
    client.batch_execute("CHECKPOINT")?;
    Ok(())
}

/// Changes about a hundredth of the rows, those of some hours.
fn change(client: &mut Client, round: u32) -> Result<()> {
    client.batch_execute(&format!(
        "UPDATE bars SET volume = volume + 1 WHERE ts >= (SELECT min(ts) + interval '{} days' FROM bars) \
         AND ts < (SELECT min(ts) + interval '{} days 3 hours' FROM bars)",
        7 * round,
        7 * round
    ))?;
    client.batch_execute("CHECKPOINT")?;
    Ok(())
}

/// What tells one state of the rows from another.
pub fn fingerprint(client: &mut Client) -> Result<String> {
    let row = client.query_one(
        "SELECT count(*)::text || ' ' || sum(hashtextextended(b::text, 0)::numeric)::text FROM bars b",
        &[],
    )?;
    Ok(row.get(0))
}

/// A line of the table: what was done, by varve, by pgBackRest, and the ratio.
fn line(what: &str, varve: Measured, other: Measured) -> Vec<String> {
    let ratio = varve.took.as_secs_f64() / other.took.as_secs_f64();
    vec![
        what.to_string(),
        format!("{} s", figure(varve.took.as_secs_f64())),
        format!("{} s", figure(other.took.as_secs_f64())),
        figure(ratio),
        at_most(ratio, 1.0),
        megabytes(varve.bytes as f64),
        megabytes(other.bytes as f64),
    ]
}

/// Measures backups; what was restored otherwise than it was.
pub fn run(options: &Options) -> Result<Vec<String>> {
    show::heading(1, "Backups beside pgBackRest");
    if !Path::new(PGBACKREST).exists() {
        show::say("pgBackRest is not installed (`make bench` does that): left out.");
        return Ok(Vec::new());
    }
    let rounds = options.runs.min(FEW);
    let cluster = Cluster::start_new(SETTINGS)?;
    let mut client = cluster.connect_with_varve()?;
    load(&mut client, options)?;
    let before = fingerprint(&mut client)?;
    // WAL of the load is in no backup.
    let cluster_bytes = size_of(&cluster.data().join("base"))?;
    let other = PgBackRest::new(&cluster)?;
    show::say(&format!(
        "A cluster of {}; two processes or threads, zstd 1; {}; best of {rounds}.",
        megabytes(cluster_bytes as f64),
        other.version()?
    ));
    let varve = Varve::new(&cluster)?;
    let (mut full, mut full_other) = (Vec::new(), Vec::new());
    let (mut back, mut back_other) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        full.push(varve.full()?);
        full_other.push(other.full()?);
        back.push(varve.restore()?);
        back_other.push(other.restore()?);
    }
    let (mut step, mut step_other) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        change(&mut client, round)?;
        step.push(varve.incremental()?);
        step_other.push(other.incremental()?);
    }
    let mut chain = Vec::new();
    let mut chain_other = Vec::new();
    for _ in 0..rounds {
        chain.push(varve.restore()?);
        chain_other.push(other.restore()?);
    }
    let rows = [
        line("full", best(&full), best(&full_other)),
        line("incremental, 1 % changed", best(&step), best(&step_other)),
        line("restored, full", best(&back), best(&back_other)),
        line(
            &format!("restored, {rounds} incrementals"),
            best(&chain),
            best(&chain_other),
        ),
    ];
    let head = [
        ("", Left),
        ("varve", Right),
        ("pgBackRest", Right),
        ("ratio", Right),
        ("target: 1", Left),
        ("varve wrote", Right),
        ("pgBackRest wrote", Right),
    ];
    show::table(&head, &rows, None);
    let after = fingerprint(&mut client)?;
    if before == after {
        return Err(Error::from("the changes have changed nothing"));
    }
    recovery::run(&cluster, &varve, cluster_bytes, &after)
}
