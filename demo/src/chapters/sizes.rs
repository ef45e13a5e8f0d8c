//! What the chunks took, indexes and all, and what they take now.

use crate::show::{self, Align};
use crate::stage::{Result, Stage};

/// Rows from which on the saving must be that of [`SAVED`]; less is mostly page headers.
const ENOUGH: i64 = 100_000;
/// Share of bytes that freezing saves at least.
const SAVED: f64 = 0.70;

/// A table of sizes, checked against what the database itself takes.
pub fn run(stage: &mut Stage) -> Result<()> {
    let chunks = stage.chunks()?;
    let line = |name: String, rows: i64, segments: i64, before: i64, now: i64| {
        vec![
            name,
            show::count(rows),
            segments.to_string(),
            show::bytes(before),
            show::bytes(now),
            show::percent(1.0 - now as f64 / before as f64),
            format!("{:.1}", now as f64 / rows.max(1) as f64),
        ]
    };
    let rows: Vec<Vec<String>> = chunks
        .iter()
        .map(|c| {
            line(
                c.from.clone(),
                c.rows,
                c.segments.into(),
                c.bytes_before,
                c.bytes_now,
            )
        })
        .collect();
    let count: i64 = chunks.iter().map(|c| c.rows).sum();
    let segments: i64 = chunks.iter().map(|c| i64::from(c.segments)).sum();
    let before: i64 = chunks.iter().map(|c| c.bytes_before).sum();
    let now: i64 = chunks.iter().map(|c| c.bytes_now).sum();
    let head = [
        ("chunk from", Align::Left),
        ("rows", Align::Right),
        ("segments", Align::Right),
        ("as heap", Align::Right),
        ("frozen", Align::Right),
        ("saved", Align::Right),
        ("bytes a row", Align::Right),
    ];
    show::table(
        &head,
        &rows,
        Some(line("all".into(), count, segments, before, now)),
    );
    show::say("Everything is counted: table, indexes, TOAST, segments, tombstones.");
    stage.same(
        "the rows are all there",
        count,
        stage.prices.records.len() as i64,
    )?;
    let saved = 1.0 - now as f64 / before as f64;
    if count >= ENOUGH {
        let text = format!(
            "freezing saved {}: at least {}",
            show::percent(saved),
            show::percent(SAVED)
        );
        stage.claim(&text, saved >= SAVED, show::percent(saved))?;
    }
    // Files that a freeze leaves behind go with the next checkpoint.
    stage.client.batch_execute("CHECKPOINT")?;
    let database = stage.number("SELECT pg_database_size(current_database())")?;
    let shrunk = stage.database_bytes - database;
    let text = format!(
        "pg_database_size says so too: {} before, {} now",
        show::bytes(stage.database_bytes),
        show::bytes(database)
    );
    // What the catalogs grew by meanwhile is not ours to count.
    let near = shrunk as f64 >= 0.9 * (before - now) as f64 - 2e6;
    stage.claim(
        &text,
        near,
        format!(
            "it shrank by {}, not by {}",
            show::bytes(shrunk),
            show::bytes(before - now)
        ),
    )
}
