//! A frozen table in which nothing has changed: `varve.detect_changes` beside reading it, in turn.

use crate::data::bars::Bars;
use crate::data::copy::copy;
use crate::load::{self, BARS};
use crate::numbers::{at_least, figure, ms};
use crate::options::{FULL, Options};
use crate::server::Server;
use crate::{Error, Result};
use std::time::{Duration, Instant};
use varve_demo::show::{self, Align::Left, Align::Right};

/// The schema of the table.
const SCHEMA: &str = "unchanged";

/// How many times as fast it has to be.
const TARGET: f64 = 100.0;

/// What it is compared with: a name, and a query that gives 0.
const READINGS: [(&str, &str); 2] = [
    ("every row made", "SELECT count(b) - count(*) FROM bars b"),
    (
        "every row's checksum",
        "SELECT count(varve.row_checksum(b)) - count(*) FROM bars b",
    ),
];

/// Runs of each: so many at most.
const FEW: u32 = 5;

/// Makes a table of bars, freezes and watches it, and looks for changes; where something is found there.
pub fn run(server: &Server, options: &Options) -> Result<Vec<String>> {
    show::heading(1, "Nothing has changed");
    let mut client = server.connect_to(SCHEMA)?;
    let drop_schema = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE");
    client.batch_execute(&format!(
        "SET client_min_messages = warning; {drop_schema}; CREATE SCHEMA {SCHEMA}"
    ))?;
    client.batch_execute(&BARS.create("bars"))?;
    let symbols = options.symbols.unwrap_or(FULL.symbols);
    let days = options.bars_days.unwrap_or(FULL.bars_days).max(1);
    let rows = copy(&mut client, "bars", Bars::new(symbols, days), |_| {})?;
    client.batch_execute("SELECT varve.enable('bars')")?;
    for chunk in load::chunks(&mut client, "bars")? {
        let freeze = "SELECT varve.set_tier($1::text::regclass, 'warm')";
        client.execute(freeze, &[&chunk])?;
    }
    for statement in ["VACUUM (ANALYZE) bars", "CHECKPOINT"] {
        client.batch_execute(statement)?;
    }
    let begin = Instant::now();
    let watched: i64 = client.query_one("SELECT varve.watch('bars')", &[])?.get(0);
    if watched != rows as i64 {
        return Err(Error::from(format!("{watched} of {rows} rows are watched")));
    }
    let rounds = options.runs.min(FEW);
    show::say(&format!(
        "{} frozen rows, watched in {} ms; best of {rounds}.",
        show::count(watched),
        ms(begin.elapsed())
    ));
    let mut failures = Vec::new();
    let mut lines = Vec::new();
    for (what, read) in READINGS {
        let detect = "SELECT count(*) FROM varve.detect_changes('bars')";
        let mut best = [Duration::MAX; 2];
        // The first round warms up.
        for round in 0..=rounds {
            for (sql, best) in [detect, read].into_iter().zip(&mut best) {
                let begin = Instant::now();
                let found: i64 = client.query_one(sql, &[])?.get(0);
                if found != 0 {
                    failures.push(format!("{found} rows by {sql}"));
                }
                if round > 0 {
                    *best = begin.elapsed().min(*best);
                }
            }
        }
        let [ours, theirs] = best;
        let times = theirs.as_secs_f64() / ours.as_secs_f64();
        lines.push(vec![
            what.to_string(),
            ms(ours),
            ms(theirs),
            figure(times),
            format!("{} {}", figure(TARGET), at_least(times, TARGET)),
        ]);
    }
    let head = [
        ("beside", Left),
        ("varve.detect_changes ms", Right),
        ("reading ms", Right),
        ("times as fast", Right),
        ("target", Left),
    ];
    show::table(&head, &lines, None);
    // A kept server shall not grow.
    client.batch_execute(&drop_schema)?;
    Ok(failures)
}
