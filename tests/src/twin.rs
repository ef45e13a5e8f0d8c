//! A hypertable under varve beside a heap table that gets the same statements: `bars` and `twin`.
//!
//! Changes go to both in one transaction, so that both hold the same rows whatever is interrupted where.

use crate::session::{Failure, simple};
use postgres::Client;

/// Symbols in the table.
pub const SYMBOLS: i32 = 12;

/// Hours of data, which make chunks of a week each.
pub const HOURS: i32 = 3 * 7 * 24;

/// Puts every chunk of `bars` into the warm tier.
pub const FREEZE: &str = "SELECT varve.set_tier(c, 'warm') FROM show_chunks('bars') c";

/// Puts every chunk of `bars` into the cold tier.
pub const COLD: &str = "SELECT varve.set_tier(c, 'cold') FROM show_chunks('bars') c";

/// Puts every chunk of `bars` into the hot tier.
pub const THAW: &str = "SELECT varve.set_tier(c, 'hot') FROM show_chunks('bars') c";

/// A point in time, `hour` hours after the first.
pub fn at(hour: i32) -> String {
    format!("(timestamptz '2024-01-01 00:00:00+00' + interval '{hour} hours')")
}

/// A statement about `{t}`, for both tables.
pub fn both(sql: &str) -> String {
    format!(
        "{};\n{};",
        sql.replace("{t}", "bars"),
        sql.replace("{t}", "twin")
    )
}

/// Makes both tables and fills them with the same rows, all hot.
pub fn create(client: &mut Client) -> Result<(), postgres::Error> {
    client.batch_execute(
        "CREATE TABLE twin (symbol int, ts timestamptz, close float8 NOT NULL, volume bigint, note text,
                            PRIMARY KEY (symbol, ts));
         CREATE TABLE bars (LIKE twin INCLUDING ALL);
         SELECT create_hypertable('bars', 'ts', chunk_time_interval => interval '7 days');
         SELECT varve.enable('bars')",
    )?;
    client.batch_execute(&both(&format!(
        "INSERT INTO {{t}}
         SELECT s, {}, 100 + sin(h + s), CASE WHEN h % 17 > 0 THEN h * 100 + s END, CASE WHEN h % 5 = 0 THEN 'note ' || h END
         FROM generate_series(1, {SYMBOLS}) s, generate_series(0, {}) h",
        "timestamptz '2024-01-01 00:00:00+00' + h * interval '1 hour'",
        HOURS - 1
    )))
}

/// Number of rows, and the MD5 of all of them in the order of the key.
pub fn fingerprint(client: &mut Client, table: &str) -> Result<String, Failure> {
    let rows = simple(
        client,
        &format!(
            "SELECT count(*) || ' rows ' || md5(coalesce(string_agg(x::text, E'\\n' ORDER BY symbol, ts), '')) FROM {table} x"
        ),
    )?;
    Ok(rows.concat())
}

/// Panics unless both tables hold the same rows, every segment verifies, and the key is unique among frozen rows too.
pub fn check(client: &mut Client, when: &str) {
    let or_panic = |what: &str, e: Failure| -> ! { panic!("{when}: {what}: {e:?}") };
    let bars = fingerprint(client, "bars").unwrap_or_else(|e| or_panic("bars", e));
    let twin = fingerprint(client, "twin").unwrap_or_else(|e| or_panic("twin", e));
    if bars != twin {
        let differing = simple(
            client,
            "(SELECT 'only in bars', * FROM (TABLE bars EXCEPT ALL TABLE twin) a LIMIT 10)
             UNION ALL (SELECT 'only in twin', * FROM (TABLE twin EXCEPT ALL TABLE bars) a LIMIT 10)",
        );
        panic!("{when}: bars {bars}, twin {twin}: {differing:#?}");
    }
    let bad = simple(
        client,
        "SELECT chunk, segment, detail FROM varve.verify('bars') WHERE NOT ok",
    )
    .unwrap_or_else(|e| or_panic("verify", e));
    assert!(bad.is_empty(), "{when}: {bad:?}");
    check_key(client, when);
}

/// Panics unless an INSERT of a key that is there fails, in every chunk, and ON CONFLICT finds it.
fn check_key(client: &mut Client, when: &str) {
    let some = simple(
        client,
        "SELECT DISTINCT ON (tableoid) quote_literal(symbol) || ',' || quote_literal(ts) FROM bars ORDER BY tableoid, md5(symbol::text || ts)",
    );
    for key in some.unwrap_or_else(|e| panic!("{when}: {e:?}")) {
        let insert = format!("INSERT INTO bars VALUES ({key}, 0)");
        match simple(client, &insert) {
            Err(e) if e.code == "23505" => {}
            other => panic!("{when}: a second row with the key {key}: {other:?}"),
        }
        let upserted = simple(
            client,
            &format!(
                "BEGIN; {insert} ON CONFLICT (symbol, ts) DO UPDATE SET close = -1;
                 SELECT count(*), max(close) FROM bars WHERE (symbol, ts) = ({key}); ROLLBACK"
            ),
        );
        assert_eq!(
            upserted.as_deref(),
            Ok(&["1|-1".to_string()][..]),
            "{when}: upsert of {key}"
        );
    }
}
