//! The vendor's file of today beside the table: a price that is new, one that is gone, three that were corrected. Then the table beside
//! what it was itself.

use crate::show::{self, Align};
use crate::stage::{Result, Stage};
use std::time::{Duration, Instant};

/// What somebody would write who has no `varve.diff`.
const BY_HAND: &str = "SELECT count(*) FROM (SELECT symbol, date, to_jsonb(p), to_jsonb(v) FROM prices p FULL JOIN vendor v USING (symbol, date) \
     WHERE p IS DISTINCT FROM v) x";

/// The vendor's file: the table's prices, of which one is gone and three are corrected, and one more.
const VENDOR: &str = "
    CREATE TABLE vendor (LIKE prices INCLUDING ALL);
    INSERT INTO vendor SELECT * FROM prices ORDER BY symbol, date;
    CREATE TEMPORARY TABLE touched AS
        SELECT symbol, date, row_number() OVER (ORDER BY date, symbol) AS n
        FROM vendor ORDER BY date, symbol LIMIT 4 OFFSET (SELECT count(*) / 2 FROM vendor);
    DELETE FROM vendor v USING touched t WHERE (v.symbol, v.date) = (t.symbol, t.date)
        AND n = (SELECT min(n) FROM touched);
    UPDATE vendor v SET close = round((v.close * 1.01)::numeric, 2) + 0.01 FROM touched t
        WHERE (v.symbol, v.date) = (t.symbol, t.date);
    INSERT INTO vendor SELECT 'ZZ.LISTED', date, 10, 11, 9, 10.5, 1000 FROM touched LIMIT 1;
    ANALYZE vendor";

/// What is done to the vendor's file.
const EXPECTED: &str = "1 new, 1 gone, 3 changed";

/// The rows of a query of changes, as a table is made of them: operation, key, and what else there is.
fn changes(stage: &mut Stage, sql: &str) -> Result<(Vec<Vec<String>>, Duration)> {
    let begin = Instant::now();
    let rows = stage.client.query(sql, &[])?;
    let took = begin.elapsed();
    let text = |row: &postgres::Row| (0..row.len()).map(|i| row.get(i)).collect();
    Ok((rows.iter().map(text).collect(), took))
}

/// How many of each operation.
fn counts(rows: &[Vec<String>]) -> String {
    let of = |op: &str| {
        rows.iter()
            .filter(|row| row.first().is_some_and(|o| o == op))
            .count()
    };
    format!(
        "{} new, {} gone, {} changed",
        of("insert"),
        of("delete"),
        of("update")
    )
}

/// Compares, repairs, and compares again.
pub fn run(stage: &mut Stage) -> Result<()> {
    stage.client.batch_execute(VENDOR)?;
    show::aside("SELECT op, key, changed FROM varve.diff('prices', 'vendor')");
    let (rows, took) = changes(
        stage,
        "SELECT op, key::text, coalesce(changed::text, '') FROM varve.diff('prices', 'vendor') ORDER BY key, op",
    )?;
    let head = [
        ("op", Align::Left),
        ("key", Align::Left),
        ("changed", Align::Left),
    ];
    show::table(&head, &rows, None);
    stage.same(
        "that is what the vendor has changed",
        counts(&rows),
        EXPECTED.into(),
    )?;
    let begin = Instant::now();
    let by_hand = stage.number(BY_HAND)?;
    show::say(&format!(
        "{}; the FULL JOIN that one would write took {}",
        show::time(took),
        show::time(begin.elapsed())
    ));
    stage.same("a FULL JOIN finds as many", rows.len() as i64, by_hand)?;

    show::aside("SELECT varve.watch('prices')");
    let watched = stage.number("SELECT varve.watch('prices')")?;
    let held = stage.number("SELECT count(*) FROM prices")?;
    stage.same("every row is remembered", watched, held)?;
    show::say(
        "The vendor's file is taken over: what is new and corrected upserted, what is gone deleted.",
    );
    stage.client.batch_execute(
        "SELECT varve.upsert('prices', 'vendor'::regclass);
         DELETE FROM prices p WHERE NOT EXISTS
             (SELECT FROM vendor v WHERE (v.symbol, v.date) = (p.symbol, p.date))",
    )?;
    show::aside("SELECT op, key, new FROM varve.detect_changes('prices')");
    let detect = "SELECT op, key::text, coalesce(new::text, '') FROM varve.detect_changes('prices') ORDER BY key, op";
    let (found, took) = changes(stage, detect)?;
    let head = [
        ("op", Align::Left),
        ("key", Align::Left),
        ("new", Align::Left),
    ];
    show::table(&head, &found, None);
    let keys = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().take(2).cloned().collect())
            .collect()
    };
    let holds = keys(&found) == keys(&rows);
    stage.claim(
        "the same keys, found in the table alone",
        holds,
        format!("{found:?}"),
    )?;
    let (again, nothing) = changes(stage, detect)?;
    show::say(&format!(
        "{}; and once more, when nothing has changed, {}",
        show::time(took),
        show::time(nothing)
    ));
    stage.same("it is told once", again.len(), 0)?;
    let (differ, _) = changes(stage, "SELECT op FROM varve.diff('prices', 'vendor')")?;
    stage.same("table and file are the same", differ.len(), 0)?;
    stage
        .client
        .batch_execute("DROP TABLE vendor, touched; SELECT varve.unwatch('prices')")?;
    Ok(())
}
