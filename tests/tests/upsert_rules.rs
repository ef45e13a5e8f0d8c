//! Batches hold to a table's rules as INSERT … ON CONFLICT does: constraints, foreign keys, and rights. Each batch is
//! compared with the INSERT on heap, on hot, frozen and half-thawed chunks, errors by SQLSTATE, constraint and column.
//! (Only a NULL in the key is told in other words: varve says which row of the batch has it; see `upsert.rs`.)
#![allow(clippy::unwrap_used, clippy::expect_used)]

use varve_tests::both_ways::Do::{Batch, Each, Ignore, Sql};
use varve_tests::both_ways::{Case, ROWS, check, hypertable, rows, start};

#[test]
fn constraints() {
    let (_cluster, mut client) = start();
    let mixed = rows(40, 80, "i / 2 * 2");
    let [one_bad, bad_update] = [
        rows(70, 110, "CASE i WHEN 90 THEN -1 ELSE i END"),
        rows(1, 20, "CASE i WHEN 13 THEN -1 ELSE i + 100 END"),
    ];
    let nulls = rows(1, 100, "CASE WHEN i <> 77 THEN i END");
    let [taken, free, moved] = [
        rows(100, 130, "CASE i WHEN 120 THEN 5 ELSE i END"),
        rows(100, 130, "i"),
        rows(1, 60, "CASE i WHEN 33 THEN 34 ELSE i END"),
    ];
    let batch = |source| Batch("s, ts, v", source);
    let first = batch(ROWS);
    check(
        &mut client,
        &[
            Case {
                name: "CHECK",
                setup: &hypertable(
                    "CONSTRAINT not_negative CHECK (v >= 0), CONSTRAINT by_symbol CHECK (s < 200 OR v > 5),",
                ),
                key: "s, ts",
                steps: &[
                    first,
                    batch(&mixed),
                    batch(&one_bad),
                    batch(&bad_update),
                    batch("SELECT 300, timestamptz '2024-03-04 00:00Z', 3"),
                ],
                ..Case::default()
            },
            Case {
                name: "a domain's CHECK, and NOT NULL of a domain",
                setup: "CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0); CREATE TABLE t (k int PRIMARY KEY, v positive)",
                steps: &[
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 60) i"),
                    Batch("k, v", "SELECT i, 50 - i FROM generate_series(1, 60) i"),
                    Batch("k, v", "SELECT i, i + 1 FROM generate_series(50, 70) i"),
                    // The default of an absent column is NULL, which the domain refuses.
                    Batch("k", "SELECT 71"),
                ],
                ..Case::default()
            },
            Case {
                name: "NOT NULL",
                setup: &hypertable(
                    "CONSTRAINT later CHECK (v IS DISTINCT FROM 1000), w int NOT NULL DEFAULT 3,",
                ),
                key: "s, ts",
                steps: &[
                    first,
                    Sql("ALTER TABLE t ALTER v SET NOT NULL"),
                    batch(&nulls),
                    batch(&mixed),
                    Batch(
                        "s, ts, v, w",
                        "SELECT 5, timestamptz '2024-03-04 00:00Z', 1, NULL::int",
                    ),
                    Batch("s, ts, w", "SELECT 500, timestamptz '2024-03-04 00:00Z', 1"),
                ],
                ..Case::default()
            },
            Case {
                name: "a second unique index",
                setup: "CREATE TABLE t (s int, ts timestamptz, v int, PRIMARY KEY (s, ts), UNIQUE (v, ts)); SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '10 days')",
                key: "s, ts",
                steps: &[
                    Batch(
                        "s, ts, v",
                        "SELECT i, timestamptz '2024-03-04 00:00Z', i FROM generate_series(1, 60) i",
                    ),
                    Batch(
                        "s, ts, v",
                        "SELECT i, timestamptz '2024-03-04 00:00Z', CASE i WHEN 120 THEN 5 ELSE i END FROM generate_series(100, 130) i",
                    ),
                    Batch(
                        "s, ts, v",
                        "SELECT i, timestamptz '2024-03-04 00:00Z', CASE i WHEN 120 THEN 110 ELSE i END FROM generate_series(100, 130) i",
                    ),
                    Batch(
                        "s, ts, v",
                        "SELECT i, timestamptz '2024-03-04 00:00Z', CASE i WHEN 33 THEN 34 ELSE i END FROM generate_series(1, 60) i",
                    ),
                    Batch(
                        "s, ts, v",
                        "SELECT i, timestamptz '2024-03-04 00:00Z', 1000 + i FROM generate_series(1, 70) i",
                    ),
                    Ignore(
                        "s, ts, v",
                        "SELECT i, timestamptz '2024-03-04 00:00Z', 1000 + i % 75 FROM generate_series(60, 78) i",
                    ),
                ],
                ..Case::default()
            },
            Case {
                name: "a deferred unique constraint",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
                hot_only: true,
                steps: &[
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 60) i"),
                    // All change places: right at the end only.
                    Batch("k, v", "SELECT i, 61 - i FROM generate_series(1, 60) i"),
                    Batch("k, v", "SELECT i, 7 FROM generate_series(80, 81) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "a partial unique index beside the key",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int, live boolean); CREATE UNIQUE INDEX t_live ON t (v) WHERE live",
                steps: &[
                    Batch(
                        "k, v, live",
                        "SELECT i, i % 40, i <= 40 FROM generate_series(1, 60) i",
                    ),
                    Batch(
                        "k, v, live",
                        "SELECT i, i % 40, true FROM generate_series(61, 70) i",
                    ),
                    Batch(
                        "k, v, live",
                        "SELECT i, i + 1000, true FROM generate_series(50, 70) i",
                    ),
                    Batch("k, v", "SELECT 3, 4"),
                    Batch("k, live", "SELECT i, false FROM generate_series(1, 70) i"),
                    Batch("k, v", "SELECT i, 4 FROM generate_series(1, 75) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "an index on an expression",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE UNIQUE INDEX t_lower ON t (lower(v)); CREATE INDEX ON t ((k % 7), length(v))",
                steps: &[
                    Batch(
                        "k, v",
                        "SELECT i, 'Name' || i FROM generate_series(1, 60) i",
                    ),
                    Batch(
                        "k, v",
                        "SELECT i, 'name' || i FROM generate_series(30, 90) i",
                    ),
                    Batch(
                        "k, v",
                        "SELECT i, 'NAME' || i - 60 FROM generate_series(91, 99) i",
                    ),
                    Batch(
                        "k, v",
                        "SELECT i, 'NAME' || i + 1 FROM generate_series(5, 5) i",
                    ),
                ],
                checks: &[
                    "SELECT * FROM t",
                    "SELECT k FROM t WHERE lower(v) = 'name45'",
                    "SELECT k FROM t WHERE k % 7 = 3 AND length(v) = 6",
                ],
                ..Case::default()
            },
            Case {
                name: "an index on an expression that fails",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE INDEX t_div ON t ((100 / v))",
                steps: &[
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 60) i"),
                    Batch("k, v", "SELECT i, 70 - i FROM generate_series(50, 80) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "an exclusion constraint",
                setup: "CREATE TABLE t (k int PRIMARY KEY, r int4range, CONSTRAINT apart EXCLUDE USING gist (r WITH &&))",
                hot_only: true,
                steps: &[
                    Batch(
                        "k, r",
                        "SELECT i, int4range(10 * i, 10 * i + 5) FROM generate_series(1, 40) i",
                    ),
                    Batch(
                        "k, r",
                        "SELECT i, int4range(10 * i, 10 * i + CASE i WHEN 20 THEN 11 ELSE 6 END) FROM generate_series(10, 30) i",
                    ),
                    Batch(
                        "k, r",
                        "SELECT i, int4range(10 * i, 10 * i + 7) FROM generate_series(30, 60) i",
                    ),
                    Batch(
                        "k, r",
                        "SELECT i, int4range(9 * i, 9 * i + 2) FROM generate_series(70, 90) i UNION ALL SELECT 100, int4range(640, 650)",
                    ),
                ],
                ..Case::default()
            },
            Case {
                name: "values that no longer clash within a batch",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int, CONSTRAINT one_v UNIQUE (v))",
                steps: &[
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 30) i"),
                    // Each takes what the one before it had: right in one order of writing, wrong in another.
                    // In the order of the key the first clashes with the second.
                    Batch("k, v", "SELECT i, i + 1 FROM generate_series(1, 30) i"),
                    Batch("k, v", "SELECT i, i - 1 FROM generate_series(1, 30) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "new rows that clash over another column of a chunk",
                setup: &hypertable("CONSTRAINT v_once UNIQUE (ts, v),"),
                key: "s, ts",
                steps: &[first, batch(&taken), batch(&free), batch(&moved)],
                ..Case::default()
            },
        ],
    );
}

#[test]
fn foreign_keys() {
    let (_cluster, mut client) = start();
    let outward = format!(
        "CREATE TABLE symbol (s int PRIMARY KEY); INSERT INTO symbol SELECT generate_series(1, 90); {}; ALTER TABLE t ADD CONSTRAINT known FOREIGN KEY (s) REFERENCES symbol;
         CREATE TABLE kind (v int PRIMARY KEY); INSERT INTO kind SELECT generate_series(0, 100); ALTER TABLE t ADD CONSTRAINT kind_known FOREIGN KEY (v) REFERENCES kind",
        hypertable("")
    );
    let [mixed, unknown_key, unknown_value] = [
        rows(40, 80, "i / 2 * 2"),
        rows(70, 95, "i"),
        rows(1, 60, "CASE i WHEN 50 THEN 101 ELSE i END"),
    ];
    let batch = |source| Batch("s, ts, v", source);
    let inward = "CREATE TABLE t (k int PRIMARY KEY, v int, w int, CONSTRAINT v_once UNIQUE (v)); CREATE TABLE child (v int REFERENCES t (v) ON UPDATE CASCADE, k int CONSTRAINT of_t REFERENCES t);
         CREATE TABLE strict (v int CONSTRAINT stays REFERENCES t (v))";
    let deferred = "CREATE TABLE other (v int PRIMARY KEY); CREATE TABLE t (k int PRIMARY KEY, v int CONSTRAINT there REFERENCES other DEFERRABLE INITIALLY DEFERRED)";
    let itself = "CREATE TABLE t (k int PRIMARY KEY, v int CONSTRAINT within REFERENCES t)";
    check(
        &mut client,
        &[
            Case {
                name: "from a hypertable",
                setup: &outward,
                key: "s, ts",
                steps: &[
                    batch(ROWS),
                    batch(&mixed),
                    batch(&unknown_key),
                    batch(&unknown_value),
                    Sql(
                        "INSERT INTO symbol SELECT generate_series(91, 99); INSERT INTO kind VALUES (101)",
                    ),
                    batch(&unknown_key),
                    batch(&unknown_value),
                    Sql("DELETE FROM symbol WHERE s = 95"),
                ],
                ..Case::default()
            },
            Case {
                name: "to the table",
                setup: inward,
                checks: &["SELECT * FROM t", "SELECT * FROM child"],
                steps: &[
                    Batch("k, v, w", "SELECT i, i, i FROM generate_series(1, 60) i"),
                    Sql(
                        "INSERT INTO child SELECT i, i FROM generate_series(1, 20) i; INSERT INTO strict VALUES (30)",
                    ),
                    Batch(
                        "k, w",
                        "SELECT i, -i FROM generate_series(1, 70) i ORDER BY i DESC",
                    ),
                    Batch("k, v", "SELECT i, 1000 + i FROM generate_series(15, 25) i"),
                    Batch("k, v", "SELECT i, 2000 + i FROM generate_series(26, 35) i"),
                    Sql("DELETE FROM t WHERE k = 16"),
                    Sql("DELETE FROM t WHERE k = 59"),
                ],
                ..Case::default()
            },
            Case {
                name: "checked at the end",
                setup: deferred,
                checks: &["SELECT * FROM t", "SELECT * FROM other"],
                steps: &[
                    Batch("k, v", "SELECT i, NULL::int FROM generate_series(1, 30) i"),
                    Batch("k, v", "SELECT i, i FROM generate_series(20, 40) i"),
                    Each(
                        "BEGIN; SELECT varve.upsert_query('t', 'SELECT i AS k, i AS v FROM generate_series(20, 40) i'); INSERT INTO other SELECT generate_series(20, 40); COMMIT",
                        "BEGIN; INSERT INTO t SELECT i, i FROM generate_series(20, 40) i ON CONFLICT (k) DO UPDATE SET v = excluded.v; INSERT INTO other SELECT generate_series(20, 40); COMMIT",
                    ),
                ],
                ..Case::default()
            },
            Case {
                name: "within the table",
                setup: itself,
                steps: &[
                    // Rows of the batch refer to rows of the batch, before and behind them.
                    Batch("k, v", "SELECT i, 61 - i FROM generate_series(1, 60) i"),
                    Batch("k, v", "SELECT i, i + 1 FROM generate_series(50, 70) i"),
                    Batch(
                        "k, v",
                        "SELECT i, i / 2 FROM generate_series(2, 90) i ORDER BY md5(i::text)",
                    ),
                ],
                ..Case::default()
            },
        ],
    );
}

#[test]
fn rights() {
    let (_cluster, mut client) = start();
    client
        .batch_execute("CREATE ROLE writer; CREATE ROLE reader")
        .unwrap();
    let mine = "symbol_of_writer";
    let secured = format!(
        "{}; GRANT SELECT, INSERT, UPDATE ON t TO writer; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY {mine} ON t TO writer USING (s <= 70) WITH CHECK (s <= 75 AND v >= 0)",
        hypertable("")
    );
    let split = format!(
        "{}; GRANT SELECT, INSERT, UPDATE ON t TO writer; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY see ON t FOR SELECT TO writer USING (true); CREATE POLICY add ON t FOR INSERT TO writer WITH CHECK (v < 1000);
         CREATE POLICY change ON t FOR UPDATE TO writer USING (v % 2 = 0) WITH CHECK (v < 500)",
        hypertable("")
    );
    let granted = |grants: &str| format!("{}; {grants}", hypertable("w int DEFAULT 5,"));
    let [no_update, no_insert, no_select, all] = [
        granted("GRANT SELECT, INSERT ON t TO writer"),
        granted("GRANT SELECT, UPDATE ON t TO writer"),
        granted("GRANT INSERT, UPDATE ON t TO writer"),
        granted("GRANT SELECT, INSERT, UPDATE ON t TO writer"),
    ];
    let first = Sql(
        "INSERT INTO t (s, ts, v) SELECT i, timestamptz '2024-03-04 00:00Z' + i % 3 * interval '1 day', i FROM generate_series(1, 60) i",
    );
    let unseen = Sql(
        "INSERT INTO t (s, ts, v) SELECT i, timestamptz '2024-03-04 00:00Z' + i % 3 * interval '1 day', i FROM generate_series(80, 90) i",
    );
    let [own, beyond, negative, hidden, even, odd, large, new] = [
        rows(40, 70, "i / 2 * 2"),
        rows(60, 78, "i"),
        rows(1, 20, "i - 10"),
        rows(50, 85, "i"),
        rows(1, 60, "CASE WHEN i % 2 = 0 THEN i + 2 ELSE i END"),
        rows(1, 60, "CASE WHEN i = 31 THEN 30 ELSE i END"),
        rows(60, 70, "i * 10"),
        rows(100, 110, "i"),
    ];
    let batch = |source| Batch("s, ts, v", source);
    let role = Some("writer");
    let key = "s, ts";
    check(
        &mut client,
        &[
            Case {
                name: "all rights",
                setup: &all,
                key,
                role,
                steps: &[first, batch(&own), batch(&new)],
                ..Case::default()
            },
            Case {
                name: "no UPDATE",
                setup: &no_update,
                key,
                role,
                steps: &[
                    first,
                    batch(&own),
                    batch(&new),
                    Batch("s, ts", "SELECT 200, timestamptz '2024-03-04 00:00Z'"),
                    Ignore("s, ts, v", &hidden),
                ],
                ..Case::default()
            },
            Case {
                name: "no INSERT",
                setup: &no_insert,
                key,
                role,
                steps: &[first, batch(&own), batch(&even)],
                ..Case::default()
            },
            Case {
                name: "no SELECT",
                setup: &no_select,
                key,
                role,
                steps: &[first, batch(&own), batch(&new)],
                ..Case::default()
            },
            Case {
                name: "one policy",
                setup: &secured,
                key,
                role,
                // `hidden` meets stored rows that the writer cannot see.
                steps: &[
                    first,
                    batch(&own),
                    batch(&beyond),
                    batch(&negative),
                    unseen,
                    batch(&hidden),
                    batch(&new),
                    Ignore("s, ts, v", &own),
                ],
                ..Case::default()
            },
            Case {
                name: "a policy for each command",
                setup: &split,
                key,
                role,
                steps: &[
                    first,
                    batch(&even),
                    batch(&odd),
                    batch(&large),
                    batch(&rows(70, 75, "500")),
                    batch(&rows(70, 75, "1000 + i")),
                ],
                ..Case::default()
            },
            Case {
                name: "a stranger",
                setup: &all,
                key,
                role: Some("reader"),
                steps: &[first, batch(&own)],
                ..Case::default()
            },
        ],
    );
}

/// Rights to the columns of the batch suffice for INSERT … ON CONFLICT.
#[test]
fn rights_to_columns() {
    let (_cluster, mut client) = start();
    client.batch_execute("CREATE ROLE writer").unwrap();
    let granted = |grants: &str| format!("{}; {grants}", hypertable("w int DEFAULT 5,"));
    let some = granted("GRANT SELECT (s, ts, v), INSERT (s, ts, v), UPDATE (v) ON t TO writer");
    let first = Sql(
        "INSERT INTO t (s, ts, v) SELECT i, timestamptz '2024-03-04 00:00Z' + i % 3 * interval '1 day', i FROM generate_series(1, 60) i",
    );
    let own = rows(40, 70, "i / 2 * 2");
    check(
        &mut client,
        &[Case {
            name: "the batch's columns",
            setup: &some,
            key: "s, ts",
            role: Some("writer"),
            steps: &[
                first,
                Batch("s, ts, v", &own),
                // Another column than those that may be written.
                Batch("s, ts, w", "SELECT 1, timestamptz '2024-03-05 00:00Z', 1"),
            ],
            ..Case::default()
        }],
    );
}
