//! Every chunk becomes warm: immutable columnar segments.

use crate::show;
use crate::stage::{Result, Stage};
use std::time::Instant;

/// Freezes chunk by chunk, each in a transaction of its own.
pub fn run(stage: &mut Stage) -> Result<()> {
    show::aside("SELECT varve.set_tier(chunk, 'warm')   -- chunk by chunk");
    let chunks = stage.chunks()?;
    let rows: i64 = chunks.iter().map(|c| c.rows).sum();
    let bar = show::progress(chunks.len() as u64, "chunks");
    let begin = Instant::now();
    for chunk in &chunks {
        stage.client.execute(
            "SELECT varve.set_tier($1::text::regclass, 'warm')",
            &[&chunk.name],
        )?;
        bar.inc(1);
    }
    let took = begin.elapsed();
    bar.finish_and_clear();
    show::say(&format!(
        "{} rows in {}: {} rows a second",
        show::count(rows),
        show::time(took),
        show::count((rows as f64 / took.as_secs_f64()) as i64)
    ));
    let frozen = stage.chunks()?;
    let warm = frozen.iter().filter(|c| c.tier == "warm").count();
    stage.same(
        &format!("all chunks are warm: {}", chunks.len()),
        warm,
        chunks.len(),
    )?;
    let left: i64 = frozen.iter().map(|c| c.delta_rows).sum();
    stage.same("no row stayed behind in a delta", left, 0)
}
