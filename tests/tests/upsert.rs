//! `varve.upsert` and its kin: counts, on hot and frozen chunks alike; bad input; privileges; concurrency.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, SimpleQueryMessage};
use varve_tests::cluster::Cluster;

/// A server with a hypertable `prices` of four chunks and a staging table with the same rows.
fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(
            "SET client_min_messages = error;
             CREATE TABLE prices (symbol text, ts timestamptz, close float8, note varchar(5), amount numeric(10,2), volume int,
                                  PRIMARY KEY (symbol, ts));
             SELECT create_hypertable('prices', 'ts', chunk_time_interval => interval '1 day');
             SELECT varve.enable('prices');
             CREATE TABLE staging (LIKE prices);
             INSERT INTO staging SELECT 'S' || s, '2024-03-04 00:00Z'::timestamptz + t * interval '2 hours', s + t / 7.0, 'n' || t, t / 3.0, s * t
             FROM generate_series(1, 20) s, generate_series(0, 46) t",
        )
        .unwrap();
    (cluster, client)
}

/// The counts of an upsert: rows_in, inserted, updated, unchanged, duplicates.
fn counts(client: &mut Client, call: &str) -> [i64; 5] {
    let row = client
        .query_one(&format!("SELECT * FROM varve.{call}"), &[])
        .unwrap_or_else(|e| panic!("{call}: {e:?}"));
    let counts = [0, 1, 2, 3, 4].map(|i| row.get::<_, i64>(i));
    assert_eq!(counts[0], counts[1..].iter().sum::<i64>(), "{call}");
    counts
}

/// SQLSTATE of a statement that must fail; its hint must say what to do where `hint` is set.
fn fails(client: &mut Client, statement: &str, hint: bool) -> String {
    let error = client
        .simple_query(statement)
        .map(|_| panic!("{statement} succeeds"))
        .unwrap_err();
    let error = error.as_db_error().expect("an error of the server");
    assert!(!hint || error.hint().is_some(), "no hint: {error:?}");
    error.code().code().to_string()
}

fn value(client: &mut Client, query: &str) -> String {
    let rows = client.simple_query(query).unwrap();
    rows.iter()
        .find_map(|m| match m {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_string()),
            _ => None,
        })
        .unwrap()
}

fn freeze(client: &mut Client) {
    client
        .batch_execute("CALL varve.set_tiers('prices', 'warm')")
        .unwrap();
}

#[test]
fn a_batch_is_counted_alike_on_hot_and_frozen_chunks() {
    let (_cluster, mut client) = start();
    let all = "upsert('prices', 'staging')";
    assert_eq!(counts(&mut client, all), [940, 940, 0, 0, 0]);
    for frozen in [false, true] {
        if frozen {
            freeze(&mut client);
        }
        assert_eq!(
            counts(&mut client, all),
            [940, 0, 0, 940, 0],
            "frozen: {frozen}"
        );
        client
            .batch_execute(
                "CREATE TEMP TABLE batch AS SELECT * FROM staging;
                 UPDATE batch SET close = close + 1 WHERE symbol = 'S3';
                 INSERT INTO batch SELECT symbol, ts, 99, note, amount, volume FROM batch WHERE symbol = 'S5';
                 INSERT INTO batch SELECT 'NEW', ts, close FROM batch WHERE symbol = 'S7'",
            )
            .unwrap();
        // 47 rows changed, 47 keys twice (the later row changes), 47 new keys the first time.
        let new = if frozen { 0 } else { 47 };
        assert_eq!(
            counts(&mut client, "upsert('prices', 'batch')"),
            [1034, new, 94, 1034 - 47 - 94 - new, 47],
            "frozen: {frozen}"
        );
        // Of several rows with one key the last one wins.
        assert_eq!(
            value(
                &mut client,
                "SELECT count(*) FROM prices WHERE symbol = 'S5' AND close = 99"
            ),
            "47"
        );
        client.batch_execute("DROP TABLE batch").unwrap();
        assert_eq!(counts(&mut client, all), [940, 0, 94, 846, 0]);
    }
    // What was not changed still lies in its segments.
    let delta = value(&mut client, "SELECT sum(delta_rows) FROM varve.chunks");
    assert_eq!(delta, "94");
}

#[test]
fn rows_queries_and_json_come_to_the_same() {
    let (_cluster, mut client) = start();
    counts(&mut client, "upsert('prices', 'staging')");
    freeze(&mut client);
    let day = "SELECT * FROM staging WHERE ts < '2024-03-05 00:00Z'";
    for call in [
        format!("upsert_query('prices', $$ {day}; $$)"),
        format!("upsert_rows('prices', ARRAY(SELECT ROW(s.*)::prices FROM ({day}) s))"),
        format!("upsert_json('prices', (SELECT jsonb_agg(to_jsonb(s)) FROM ({day}) s))"),
    ] {
        assert_eq!(counts(&mut client, &call), [240, 0, 0, 240, 0]);
    }
    // Columns that are absent keep their stored value; objects may differ in theirs.
    let json = r#"upsert_json('prices', '[{"symbol":"S1","ts":"2024-03-04 00:00Z","close":5},
        {"symbol":"S1","ts":"2024-03-04 02:00Z","volume":77},
        {"symbol":"zz","ts":"2024-03-04 02:00Z","volume":77},
        {"symbol":"S1","ts":"2024-03-04 00:00Z","close":6}]')"#;
    assert_eq!(counts(&mut client, json), [4, 1, 2, 0, 1]);
    assert_eq!(
        value(
            &mut client,
            "SELECT string_agg(p::text, ' ' ORDER BY symbol, ts) FROM prices p WHERE ts <= '2024-03-04 02:00Z' AND symbol IN ('S1', 'zz')"
        ),
        r#"(S1,"2024-03-04 00:00:00+00",6,n0,0.00,0) (S1,"2024-03-04 02:00:00+00",1.1428571428571428,n1,0.33,77) (zz,"2024-03-04 02:00:00+00",,,,77)"#
    );
    assert_eq!(counts(&mut client, "upsert_json('prices', '[]')"), [0; 5]);
    assert_eq!(
        counts(&mut client, "upsert_rows('prices', '{}'::prices[])"),
        [0; 5]
    );
}

#[test]
fn conflicts_are_met_as_told() {
    let (_cluster, mut client) = start();
    counts(&mut client, "upsert('prices', 'staging')");
    freeze(&mut client);
    let row = r#"'{"symbol":"S1","ts":"2024-03-04 00:00Z","close":-1}'"#;
    let call = |options: &str| format!("upsert_json('prices', {row}, {options})");
    assert_eq!(
        counts(&mut client, &call("on_conflict => 'ignore'")),
        [1, 0, 0, 1, 0]
    );
    let error = format!("SELECT varve.{}", call("on_conflict => 'error'"));
    assert_eq!(fails(&mut client, &error, false), "23505");
    assert_eq!(
        value(&mut client, "SELECT sum(delta_rows) FROM varve.chunks"),
        "0"
    );
    assert_eq!(
        counts(&mut client, &call("on_conflict => 'update'")),
        [1, 0, 1, 0, 0]
    );
    assert_eq!(
        counts(&mut client, &call("skip_unchanged => false")),
        [1, 0, 1, 0, 0]
    );
    assert_eq!(
        counts(&mut client, &call("skip_unchanged => true")),
        [1, 0, 0, 1, 0]
    );
    assert_eq!(
        counts(&mut client, &call("key => '{ts,symbol}'")),
        [1, 0, 0, 1, 0]
    );
}

#[test]
fn equal_rows_within_the_window_are_dropped() {
    let (_cluster, mut client) = start();
    let minutes = |from: i32, to: i32| {
        format!(
            "upsert_query('prices', $$ SELECT 'W' AS symbol, '2024-03-04 00:00Z'::timestamptz + m * interval '10 min' AS ts,
             1.5::float8 AS close FROM generate_series({from}, {to}) m $$, dedup_window => '1 hour')"
        )
    };
    assert_eq!(counts(&mut client, &minutes(0, 30)), [31, 5, 0, 0, 26]);
    // The window looks back at what is stored, hot or frozen.
    for frozen in [false, true] {
        if frozen {
            freeze(&mut client);
        }
        assert_eq!(
            counts(&mut client, &minutes(29, 34)),
            [6, 0, 0, 0, 6],
            "frozen: {frozen}"
        );
    }
    assert_eq!(counts(&mut client, &minutes(35, 36)), [2, 1, 0, 0, 1]);
    assert_eq!(
        value(
            &mut client,
            "SELECT string_agg(to_char(ts AT TIME ZONE 'UTC', 'HH24:MI'), ' ' ORDER BY ts) FROM prices"
        ),
        "00:00 01:10 02:20 03:30 04:40 05:50"
    );
}

#[test]
fn bad_input_says_what_is_wrong_and_writes_nothing() {
    let (_cluster, mut client) = start();
    counts(&mut client, "upsert('prices', 'staging')");
    client
        .batch_execute(
            "CREATE VIEW v AS SELECT * FROM prices;
             CREATE TABLE keyless (a int); CREATE TABLE two (a int UNIQUE, b int UNIQUE);
             CREATE FOREIGN DATA WRAPPER f; CREATE SERVER s FOREIGN DATA WRAPPER f; CREATE FOREIGN TABLE foreign_prices (a int) SERVER s;
             CREATE TABLE wrong_type (symbol text, ts text); CREATE TABLE surplus (symbol text, ts timestamptz, nonsense int)",
        )
        .unwrap();
    let before = value(
        &mut client,
        "SELECT md5(string_agg(p::text, ',' ORDER BY symbol, ts)) FROM prices p",
    );
    let cases = [
        ("upsert('v', 'staging')", "42809"),
        ("upsert('foreign_prices', 'staging')", "42809"),
        ("upsert('keyless', 'staging')", "42P16"),
        ("upsert('two', 'staging')", "42702"),
        ("upsert('prices', 'staging', key => '{symbol}')", "42P10"),
        ("upsert('prices', 'staging', key => '{nonsense}')", "42703"),
        ("upsert('prices', 'surplus')", "42703"),
        ("upsert('prices', 'wrong_type')", "42804"),
        (
            "upsert('prices', 'staging', on_conflict => 'maybe')",
            "22023",
        ),
        ("upsert(NULL, 'staging')", "22004"),
        ("upsert('prices', NULL)", "22004"),
        ("upsert_query('prices', 'SELECT 1; SELECT 2')", "42601"),
        ("upsert_query('prices', 'CREATE TABLE t ()')", "42601"),
        (
            "upsert_query('prices', $$ SELECT 'S1' AS symbol $$)",
            "42P10",
        ),
        (
            "upsert_query('prices', $$ SELECT NULL AS symbol, now() AS ts $$)",
            "23502",
        ),
        ("upsert_rows('prices', '{1,2}'::int[])", "42804"),
        ("upsert_json('prices', '[1]')", "22023"),
        ("upsert_json('prices', '7')", "22023"),
        (r#"upsert_json('prices', '{"nonsense": 1}')"#, "42703"),
        ("upsert('pg_class', 'staging')", "42501"),
    ];
    for (call, code) in cases {
        let statement = format!("SELECT varve.{call}");
        assert_eq!(fails(&mut client, &statement, true), code, "{call}");
    }
    // PostgreSQL's own words, without a hint.
    let plain = [
        (r#"upsert_json('prices', '[{"symbol": "S1", }]')"#, "22P02"),
        (
            r#"upsert_json('prices', '{"symbol":"q","ts":"2024-03-04","volume":3000000000}')"#,
            "22003",
        ),
        (
            r#"upsert_json('prices', '{"symbol":"q","ts":"2024-03-04","note":"too long"}')"#,
            "22001",
        ),
        (
            r#"upsert_query('prices', $$ SELECT 'S1' AS symbol, ts, 1/0 AS volume FROM staging $$)"#,
            "22012",
        ),
    ];
    for (call, code) in plain {
        let statement = format!("SELECT varve.{call}");
        assert_eq!(fails(&mut client, &statement, false), code, "{call}");
    }
    let after = value(
        &mut client,
        "SELECT md5(string_agg(p::text, ',' ORDER BY symbol, ts)) FROM prices p",
    );
    assert_eq!(before, after);
}

#[test]
fn rights_are_those_of_insert() {
    let (_cluster, mut client) = start();
    counts(&mut client, "upsert('prices', 'staging')");
    client
        .batch_execute(
            "CREATE ROLE loader; GRANT SELECT ON staging TO loader;
             ALTER TABLE prices ENABLE ROW LEVEL SECURITY;
             CREATE POLICY mine ON prices TO loader USING (symbol = 'S1') WITH CHECK (symbol = 'S1');
             SET ROLE loader",
        )
        .unwrap();
    let call = "upsert_query('prices', $$ SELECT * FROM staging WHERE symbol = 'S1' $$)";
    assert_eq!(
        fails(&mut client, &format!("SELECT varve.{call}"), false),
        "42501"
    );
    client
        .batch_execute(
            "RESET ROLE; GRANT SELECT, INSERT, UPDATE ON prices TO loader; SET ROLE loader",
        )
        .unwrap();
    assert_eq!(counts(&mut client, call), [47, 0, 0, 47, 0]);
    let others = "SELECT varve.upsert_query('prices', $$ SELECT symbol, ts, 0 AS close FROM staging WHERE symbol = 'S2' $$)";
    assert_eq!(fails(&mut client, others, false), "42501");
    client.batch_execute("RESET ROLE").unwrap();
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM prices WHERE close = 0"),
        "0"
    );
}

#[test]
fn two_batches_at_once_lose_and_double_nothing() {
    const CLIENTS: i64 = 4;
    let (cluster, mut client) = start();
    counts(&mut client, "upsert('prices', 'staging')");
    freeze(&mut client);
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut own = cluster.connect().unwrap();
            scope.spawn(move || {
                for round in 0..5 {
                    let call = format!(
                        "upsert_query('prices', $$ SELECT symbol, ts, {n} + {round} * 10 AS close FROM staging ORDER BY random() $$)"
                    );
                    assert_eq!(counts(&mut own, &call)[0], 940);
                }
            });
        }
    });
    assert_eq!(value(&mut client, "SELECT count(*) FROM prices"), "940");
    // Each row is what one of the last batches wrote.
    assert_eq!(
        value(
            &mut client,
            "SELECT count(*) FROM prices WHERE close NOT BETWEEN 0 AND 43"
        ),
        "0"
    );
    assert_eq!(
        value(
            &mut client,
            "SELECT bool_and(ok) FROM varve.verify('prices')"
        ),
        "t"
    );
}

#[test]
fn shapes_of_tables() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE shaped (id int GENERATED ALWAYS AS IDENTITY, k text UNIQUE, v json, tags varchar(3)[], twice int GENERATED ALWAYS AS (n * 2) STORED, n int);
             CREATE TABLE parts (k int, at date, v int, PRIMARY KEY (at, k)) PARTITION BY RANGE (at);
             CREATE TABLE parts_1 (v int, at date NOT NULL, k int NOT NULL);
             ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             CREATE TABLE only_key (k int PRIMARY KEY)",
        )
        .unwrap();
    let shaped = r#"upsert_query('shaped', $$ SELECT 'a' AS k, '{"x": 1}'::json AS v, '{abc}'::text[] AS tags, 5 AS n $$)"#;
    assert_eq!(counts(&mut client, shaped), [1, 1, 0, 0, 0]);
    client
        .batch_execute("SELECT varve.set_tier('shaped', 'warm')")
        .unwrap();
    assert_eq!(counts(&mut client, shaped), [1, 0, 0, 1, 0]);
    let too_long =
        "SELECT varve.upsert_query('shaped', $$ SELECT 'b' AS k, '{abcdef}'::text[] AS tags $$)";
    assert_eq!(fails(&mut client, too_long, false), "22001");
    assert_eq!(value(&mut client, "SELECT twice FROM shaped"), "10");
    let parts = "upsert_query('parts', $$ SELECT i AS k, '2024-05-01'::date AS at, i AS v FROM generate_series(1, 10) i $$)";
    assert_eq!(counts(&mut client, parts), [10, 10, 0, 0, 0]);
    client
        .batch_execute("SELECT varve.set_tier('parts_1', 'warm')")
        .unwrap();
    assert_eq!(counts(&mut client, parts), [10, 0, 0, 10, 0]);
    let changed = parts.replace("i AS v", "i % 2 AS v");
    assert_eq!(counts(&mut client, &changed), [10, 0, 9, 1, 0]);
    for expected in [[3, 3, 0, 0, 0], [3, 0, 0, 3, 0]] {
        let call = "upsert_query('only_key', 'SELECT generate_series(1, 3) AS k')";
        assert_eq!(counts(&mut client, call), expected);
    }
}
