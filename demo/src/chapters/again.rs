//! The same prices once more: nothing changes, and nothing is written.

use super::load::BATCH;
use crate::show;
use crate::stage::{Result, Stage, Summary};
use std::time::Instant;

/// Upserts every row again.
pub fn run(stage: &mut Stage) -> Result<()> {
    let expected = stage.prices.records.len() as i64;
    let before = stage.fingerprint("prices", "true")?;
    let lsn = stage.text("SELECT pg_current_wal_insert_lsn()")?;
    let begin = Instant::now();
    let summary = stage.upsert_all(BATCH)?;
    let took = begin.elapsed();
    let wal = stage.number(&format!(
        "SELECT pg_current_wal_insert_lsn() - '{lsn}'::pg_lsn"
    ))?;
    show::say(&format!("{summary}"));
    show::say(&format!(
        "{}: {} rows a second; {} of WAL, whatever else the server wrote meanwhile included",
        show::time(took),
        show::count((expected as f64 / took.as_secs_f64()) as i64),
        show::bytes(wal)
    ));
    let unchanged = Summary {
        rows_in: expected,
        unchanged: expected,
        ..Summary::default()
    };
    stage.same("every row was unchanged", summary, unchanged)?;
    let after = stage.fingerprint("prices", "true")?;
    stage.same("the rows are the same", after, before)
}
