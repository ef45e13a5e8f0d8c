//! The exchange corrects a day that was frozen long ago: new, changed, unchanged and doubled rows in one batch.

use crate::show;
use crate::stage::{Result, Stage, Summary};

/// A symbol that the day lacked.
const FORGOTTEN: &str = "ZZ.NEW";
/// Every how many-th row is corrected.
const EVERY: i64 = 5;

/// Upserts a corrected day into a frozen chunk, and freezes the chunk again.
pub fn run(stage: &mut Stage) -> Result<()> {
    let chunk = stage.chunk_at(0.4)?;
    let day = stage.text(&format!(
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY date) FROM {}",
        chunk.name
    ))?;
    let elsewhere = format!("date <> '{day}'");
    let others = stage.fingerprint("prices", &elsewhere)?;
    let old = stage.number(&format!("SELECT count(*) FROM prices WHERE date = '{day}'"))?;
    // A row that is sent twice: the last one counts.
    stage.client.batch_execute(&format!(
        "TRUNCATE incoming;
         INSERT INTO incoming
             SELECT symbol, date, open, high, low, close,
                    volume + CASE WHEN row_number() OVER (ORDER BY symbol) % {EVERY} = 0 THEN 100 ELSE 0 END
             FROM prices WHERE date = '{day}';
         INSERT INTO incoming VALUES ('{FORGOTTEN}', '{day}', 10, 11, 9, 10.5, 1000);
         INSERT INTO incoming VALUES ('{FORGOTTEN}', '{day}', 10, 11, 9, 10.75, 1200)"
    ))?;
    show::say(&format!(
        "{day} comes again: {} volumes corrected, one symbol that was forgotten, which is sent twice.",
        old / EVERY
    ));
    let summary = stage.upsert()?;
    show::say(&format!("{summary}"));
    let expected = Summary {
        rows_in: old + 2,
        inserted: 1,
        updated: old / EVERY,
        unchanged: old - old / EVERY,
        duplicates: 1,
    };
    stage.same("that is just what was changed", summary, expected)?;
    let wrong = stage.number(&format!(
        "SELECT count(*) FROM (
             (SELECT * FROM prices WHERE date = '{day}'
              EXCEPT SELECT * FROM incoming WHERE symbol <> '{FORGOTTEN}' OR volume = 1200)
             UNION ALL
             (SELECT * FROM incoming WHERE symbol <> '{FORGOTTEN}' OR volume = 1200
              EXCEPT SELECT * FROM prices WHERE date = '{day}')) AS d"
    ))?;
    stage.same("the day reads as it was sent", wrong, 0)?;
    let found = stage.fingerprint("prices", &elsewhere)?;
    stage.same("all other days read as before", found, others.clone())?;

    let now = stage.chunk_at(0.4)?;
    let text = format!(
        "the chunk is still {}, with {} rows in its delta",
        now.tier, now.delta_rows
    );
    let expected_delta = old / EVERY + 1;
    let holds =
        now.tier == "warm" && now.delta_rows == expected_delta && now.rows == chunk.rows + 1;
    stage.claim(&text, holds, format!("{expected_delta} expected; {now:?}"))?;

    show::aside(&format!("SELECT varve.set_tier('{}', 'warm')", now.name));
    stage.client.execute(
        "SELECT varve.set_tier($1::text::regclass, 'warm')",
        &[&now.name],
    )?;
    let refrozen = stage.chunk_at(0.4)?;
    let holds = refrozen.tier == "warm" && refrozen.delta_rows == 0 && refrozen.rows == now.rows;
    stage.claim(
        "frozen again, its delta is empty",
        holds,
        format!("{refrozen:?}"),
    )?;
    let found = stage.fingerprint("prices", &elsewhere)?;
    stage.same("and all other days still read as before", found, others)
}
