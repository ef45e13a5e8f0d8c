//! `varve-bench`: frozen chunks beside the same hypertables on heap, varve's ingest and its detection of changes beside PostgreSQL's own,
//! and backups beside pgBackRest's, measured in one run on private servers.
//!
//! Data and queries are those of the figures to beat; every query runs on heap and on varve in turn, and what counts is
//! the ratio of the two. The program ends with an error only where something fails or answers otherwise than heap: a
//! target that is missed is shown, and is no error.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod backup;
mod change;
mod data;
mod ingest;
mod load;
mod measure;
mod memory;
mod numbers;
mod options;
mod queries;
mod random;
mod report;
mod server;
mod unchanged;

use clap::Parser;
use options::{FULL, Options, Section};
use server::Server;
use std::process::ExitCode;
use varve_demo::show;

/// Anything that ends the bench.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A result, or what ends the bench.
pub type Result<T> = std::result::Result<T, Error>;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Plain hypertables.
    Heap,
    /// The same rows, frozen.
    Varve,
}

/// Both sides.
pub const SIDES: [Side; 2] = [Side::Heap, Side::Varve];

impl Side {
    /// The schema of its tables.
    pub fn schema(self) -> &'static str {
        match self {
            Side::Heap => "heap",
            Side::Varve => "warm",
        }
    }
}

/// An error with its causes, of the server also where it happened.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = Some(error);
    while let Some(e) = cause {
        if !text.contains(&e.to_string()) {
            text += &format!(": {e}");
        }
        if let Some(place) = e
            .downcast_ref::<postgres::error::DbError>()
            .and_then(|e| e.where_())
        {
            text += &format!("\nCONTEXT: {place}");
        }
        cause = e.source();
    }
    text
}

fn run(options: &Options) -> Result<()> {
    let mut failures = Vec::new();
    let beside = [Section::Frozen, Section::Ingest, Section::Change];
    if beside.into_iter().any(|section| options.has(section)) {
        failures.extend(beside_heap(options)?);
    }
    if options.has(Section::Backup) {
        failures.extend(backup::run(options)?);
    }
    println!();
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("not as it should be:\n  {}", failures.join("\n  ")).into())
}

/// Frozen chunks, ingest and changes, on one server; what was not as on heap.
fn beside_heap(options: &Options) -> Result<Vec<String>> {
    show::heading(1, "A private server");
    show::say(&format!(
        "Data lies {}.",
        server::place(options.keep.as_ref())
    ));
    let server = Server::start(options.keep.as_deref())?;
    let mut client = server.connect(Side::Heap)?;
    load::prepare(&mut client, options)?;
    show::say(&report::machine(&mut client)?);
    drop(client);
    let mut failures = Vec::new();
    if options.has(Section::Frozen) {
        failures.extend(frozen(&server, options)?);
    }
    if options.has(Section::Ingest) {
        failures.extend(ingest::run(&server, options)?);
    }
    if options.has(Section::Change) {
        failures.extend(change::run(&server, options)?);
        failures.extend(unchanged::run(&server, options)?);
    }
    server.end()?;
    Ok(failures)
}

/// The same rows on heap and frozen; what was not as on heap.
fn frozen(server: &Server, options: &Options) -> Result<Vec<String>> {
    let queries: Vec<_> = queries::all()?
        .into_iter()
        .filter(|query| {
            options
                .only
                .as_ref()
                .is_none_or(|r| r.is_match(&query.name))
        })
        .collect();
    let loaded = load::load(server, options)?;
    show::say(&loaded.scale.to_string());
    if loaded.scale != FULL {
        show::say(&format!("Targets stand for another scale ({FULL})."));
    }
    let queries: Vec<_> = queries
        .into_iter()
        .filter(|query| loaded.tables.iter().any(|table| query.reads(table)))
        .collect();
    if queries.is_empty() {
        return Err("no query has such a name and a table with rows".into());
    }
    let mut report = report::Report::new(server, options, &loaded);
    report.queries(&queries)?;
    if options.plans {
        report.plans(&queries)?;
    }
    report.sizes()?;
    report.rates()?;
    report.parallel(&queries)?;
    report.memory();
    Ok(report.failures)
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("varve-bench: {}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}
