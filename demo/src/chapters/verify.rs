//! Every SHA-256 is computed anew, every column decoded.

use crate::show;
use crate::stage::{Result, Stage};
use std::time::Instant;

/// Verifies the whole table.
pub fn run(stage: &mut Stage) -> Result<()> {
    show::aside("SELECT * FROM varve.verify('prices')");
    let begin = Instant::now();
    let row = stage.client.query_one(
        "SELECT count(*), count(*) FILTER (WHERE ok), string_agg(detail, '; ') FROM varve.verify('prices')",
        &[],
    )?;
    let took = begin.elapsed();
    let (segments, good): (i64, i64) = (row.get(0), row.get(1));
    let detail: Option<String> = row.get(2);
    let text = format!(
        "all segments are what was written: {segments} of them, in {}",
        show::time(took)
    );
    stage.claim(&text, segments == good, detail.unwrap_or_default())?;
    let chunks = stage.chunks()?;
    let listed: i64 = chunks.iter().map(|c| i64::from(c.segments)).sum();
    stage.same(
        "none of those that varve.chunks lists was left out",
        segments,
        listed,
    )
}
