//! One chunk goes back to heap, row for row.

use crate::show;
use crate::stage::{Result, Stage};
use std::time::Instant;

/// Thaws the oldest chunk.
pub fn run(stage: &mut Stage) -> Result<()> {
    let chunk = stage.chunk_at(0.0)?;
    let before = stage.fingerprint(&chunk.name, "true")?;
    show::aside(&format!("SELECT varve.set_tier('{}', 'hot')", chunk.name));
    let begin = Instant::now();
    stage.client.execute(
        "SELECT varve.set_tier($1::text::regclass, 'hot')",
        &[&chunk.name],
    )?;
    let took = begin.elapsed();
    let now = stage.chunk_at(0.0)?;
    let text = format!(
        "{} rows are back on heap after {}",
        show::count(now.rows),
        show::time(took)
    );
    let holds = now.tier == "hot" && now.rows == chunk.rows && now.segments == 0;
    stage.claim(&text, holds, format!("{now:?}"))?;
    let after = stage.fingerprint(&chunk.name, "true")?;
    stage.same("they are the same rows", after, before)?;
    let chunks = stage.chunks()?;
    let warm = chunks.iter().filter(|c| c.tier == "warm").count();
    stage.same("no other chunk changed its tier", warm, chunks.len() - 1)
}
