//! Batches into tables of many shapes, on hot, frozen and half-thawed chunks, come to what INSERT … ON CONFLICT makes of
//! them on heap: columns, keys, values, and how rows are spread over chunks. (Constraints, triggers and rights:
//! `upsert_rules.rs`, `upsert_triggers.rs`.)
#![allow(clippy::unwrap_used, clippy::expect_used)]

use varve_tests::both_ways::Do::{Batch, Each, Ignore, Sql};
use varve_tests::both_ways::{Case, check, start};

/// 240 rows: six symbols, forty times over four days.
const GRID: &str =
    "SELECT s, timestamptz '2024-03-04 00:00Z' + h * interval '2 hours', s + h / 7.0, 'n' || h
    FROM generate_series(1, 6) s, generate_series(0, 39) h ORDER BY md5(s || ' ' || h)";

/// New rows (symbol 7), changed ones (3), equal ones, and some keys twice, in no order.
const MIXED: &str = "SELECT s, ts, v, n FROM (
    SELECT s, timestamptz '2024-03-04 00:00Z' + h * interval '2 hours', CASE WHEN s = 3 THEN -1 ELSE s + h / 7.0 END, 'n' || h, h
      FROM generate_series(1, 7) s, generate_series(0, 45) h
    UNION ALL SELECT 5, timestamptz '2024-03-04 00:00Z' + h * interval '2 hours', h, 'again', h FROM generate_series(0, 45, 3) h
  ) x (s, ts, v, n, h) ORDER BY md5(s || n || h)";

const HYPERTABLE: &str =
    "CREATE TABLE t (s int, ts timestamptz, v float8, n text, PRIMARY KEY (s, ts));
    SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day')";

#[test]
fn columns() {
    let (_cluster, mut client) = start();
    let grid = Batch("s, ts, v, n", GRID);
    let mixed = Batch("s, ts, v, n", MIXED);
    // A column dropped before the first chunk, one after, one added with a default: three kinds of chunks.
    let dropped = "CREATE TABLE t (gone int, s int, ts timestamptz, later text, v float8, n text, PRIMARY KEY (s, ts));
        SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day'); ALTER TABLE t DROP COLUMN gone";
    check(
        &mut client,
        &[
            Case {
                name: "plain columns",
                setup: HYPERTABLE,
                key: "s, ts",
                steps: &[grid, grid, mixed, mixed, Ignore("s, ts, v, n", GRID)],
                ..Case::default()
            },
            Case {
                name: "dropped and added columns",
                setup: dropped,
                key: "s, ts",
                steps: &[
                    Batch("s, ts, later, v, n", "SELECT s, ts, 'x' || s, v, n FROM (SELECT * FROM (VALUES (1, timestamptz '2024-03-04 00:00Z', 1.5, 'one'), (2, '2024-03-05 00:00Z', 2.5, 'two')) a) b (s, ts, v, n)"),
                    Sql("ALTER TABLE t DROP COLUMN later"),
                    grid,
                    Sql("ALTER TABLE t ADD COLUMN extra int NOT NULL DEFAULT 42"),
                    Batch("s, ts, v, n", "SELECT s, ts + interval '7 days', v, n FROM (TABLE t) x"),
                    mixed,
                    Sql("ALTER TABLE t ADD COLUMN more text; ALTER TABLE t DROP COLUMN n"),
                    Batch("more, extra, ts, s, v", "SELECT CASE WHEN s % 2 = 0 THEN 'm' || s END, s % 3, ts, s % 8, v FROM (TABLE t) x ORDER BY s, ts"),
                    Batch("s, ts, more", "SELECT s, ts, more FROM (TABLE t) x"),
                ],
                ..Case::default()
            },
            Case {
                name: "partial column sets, in any order",
                setup: HYPERTABLE,
                key: "s, ts",
                steps: &[
                    Batch("ts, s", "SELECT ts, s FROM (SELECT * FROM generate_series(1, 4) s, generate_series(timestamptz '2024-03-04 00:00Z', '2024-03-06 00:00Z', '6 hours') ts) x"),
                    Batch("n, ts, s", "SELECT 'n' || s, timestamptz '2024-03-04 00:00Z' + s % 3 * interval '1 day', s FROM generate_series(1, 6) s"),
                    Batch("v, s, ts", "SELECT s / 4.0, s, timestamptz '2024-03-04 00:00Z' + s % 3 * interval '1 day' FROM generate_series(2, 7) s"),
                    Batch("ts, s", "SELECT ts, s FROM (TABLE t) x UNION ALL SELECT ts, s + 100 FROM (TABLE t) x"),
                    // A NULL is a value; an absent column is none.
                    Batch("s, v, ts", "SELECT s, NULL::float8, ts FROM (TABLE t) x WHERE s % 2 = 0"),
                ],
                ..Case::default()
            },
            Case {
                name: "assignment casts",
                setup: "CREATE TABLE t (k int PRIMARY KEY, a varchar(4), b char(6), c numeric(8,2), d smallint, e date, f bit(3), g timestamptz, h varchar(3)[])",
                steps: &[
                    Batch("k, a, b, c, d, e, f, g, h", "SELECT i::bigint, 'a' || i, 'b ', i / 3.0::float8, i::bigint, timestamptz '2024-03-04 13:00Z', B'101', date '2024-03-04', ARRAY['abc']::text[] FROM generate_series(1, 40) i"),
                    Batch("k, a, b, c, d, e, f, g, h", "SELECT i::int2, ('a' || i || CASE WHEN i % 2 = 0 THEN '' ELSE ' ' END)::text, 'b   ', round(i / 3.0, 2), i, date '2024-03-04', B'101', date '2024-03-04', ARRAY['abc']::text[] FROM generate_series(30, 60) i"),
                    Batch("k, a", "SELECT 1, 'too long'"),
                    Batch("k, a", "SELECT i, CASE i WHEN 70 THEN 'over     x' ELSE 'ok' END FROM generate_series(65, 75) i"),
                    Batch("k, a", "SELECT 1, 'ok       '"),
                    Batch("k, c", "SELECT 1, 1e7"),
                    Batch("k, d", "SELECT 1, 40000"),
                    Batch("k, f", "SELECT 1, B'1010'"),
                    Batch("k, h", "SELECT 1, ARRAY['abcd']::text[]"),
                ],
                ..Case::default()
            },
            Case {
                name: "stored generated columns",
                setup: "CREATE TABLE t (s int, ts timestamptz, double int GENERATED ALWAYS AS (v * 2) STORED, v int, n text, tag text GENERATED ALWAYS AS (upper(n)) STORED, PRIMARY KEY (s, ts));
                        SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day')",
                key: "s, ts",
                steps: &[
                    grid,
                    mixed,
                    Batch("s, ts, n", "SELECT s, ts, n || '!' FROM (TABLE t) x WHERE v % 3 = 0"),
                    // The generated column overflows.
                    Batch("s, ts, v", "SELECT 1, timestamptz '2024-03-04 00:00Z', 2000000000"),
                ],
                ..Case::default()
            },
            Case {
                name: "generated columns that chunks have under other numbers",
                setup: "CREATE TABLE t (a int, s int, ts timestamptz, b int, v int, twice int GENERATED ALWAYS AS (v * 2) STORED, n text, PRIMARY KEY (s, ts));
                        SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day');
                        ALTER TABLE t DROP COLUMN a; INSERT INTO t VALUES (9, '2024-03-04 00:00Z', 1, 1); ALTER TABLE t DROP COLUMN b",
                key: "s, ts",
                // TimescaleDB leaves the generated column as it was where ON CONFLICT changes a row of such a chunk; the
                // engine computes it, which no heap does to compare with.
                checks: &["SELECT s, ts, v, n FROM t"],
                steps: &[grid, mixed, grid],
                ..Case::default()
            },
            Case {
                name: "constant defaults of absent columns",
                setup: "CREATE TABLE t (s int, ts timestamptz, v float8 DEFAULT 7.5, n text NOT NULL DEFAULT 'none', PRIMARY KEY (s, ts));
                        SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day')",
                key: "s, ts",
                steps: &[
                    Batch("s, ts", "SELECT s, timestamptz '2024-03-04 00:00Z' + s * interval '5 hours' FROM generate_series(1, 20) s"),
                    Batch("s, ts, v", "SELECT s, timestamptz '2024-03-04 00:00Z' + s * interval '5 hours', s FROM generate_series(10, 30) s"),
                    Batch("s, ts, n", "SELECT s, timestamptz '2024-03-04 00:00Z' + s * interval '5 hours', 'n' FROM generate_series(5, 40) s"),
                    Batch("s, ts, n", "SELECT 99, timestamptz '2024-03-04 00:00Z', NULL"),
                ],
                ..Case::default()
            },
            Case {
                // Which row takes which number is nobody's promise, nor how many numbers are used up.
                name: "volatile defaults of absent columns",
                setup: "CREATE SEQUENCE numbers; CREATE TABLE t (k int PRIMARY KEY, v int, serial bigint NOT NULL DEFAULT nextval('numbers'), at timestamptz NOT NULL DEFAULT clock_timestamp(), id uuid DEFAULT gen_random_uuid())",
                checks: &[
                    "SELECT k, v FROM t",
                    "SELECT count(*), count(DISTINCT serial), count(DISTINCT id), bool_and(at <= clock_timestamp() AND at > now() - interval '1 hour') FROM t",
                    "SELECT count(*) FROM t JOIN kept USING (k) WHERE (t.serial, t.at, t.id) IS DISTINCT FROM (kept.serial, kept.at, kept.id)",
                ],
                steps: &[
                    Sql("CREATE TABLE kept AS TABLE t"),
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 500) i"),
                    Sql("INSERT INTO kept TABLE t"),
                    Batch("k, v", "SELECT i, i % 400 FROM generate_series(250, 700) i ORDER BY random()"),
                ],
                ..Case::default()
            },
            Case {
                name: "identity by default",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int, id int GENERATED BY DEFAULT AS IDENTITY UNIQUE)",
                checks: &["SELECT k, v FROM t", "SELECT count(DISTINCT id), bool_and(id IS NOT NULL) FROM t", "SELECT k, id FROM t WHERE id > 1000"],
                steps: &[
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 50) i"),
                    Batch("k, v, id", "SELECT i, -i, 1000 + i FROM generate_series(40, 60) i"),
                    Batch("k, v", "SELECT i, 0 FROM generate_series(55, 65) i"),
                    Batch("k, v, id", "SELECT 99, 0, 1042"),
                    Batch("k, v, id", "SELECT 99, 0, NULL::int"),
                ],
                ..Case::default()
            },
            Case {
                name: "identity always, absent",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int, id int GENERATED ALWAYS AS IDENTITY)",
                checks: &["SELECT k, v FROM t", "SELECT count(DISTINCT id), bool_and(id IS NOT NULL) FROM t"],
                steps: &[
                    Batch("k, v", "SELECT i, i FROM generate_series(1, 50) i"),
                    Batch("k, v", "SELECT i, 0 FROM generate_series(45, 60) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "identity always, as the key",
                setup: "CREATE TABLE t (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
                steps: &[
                    Batch("k, v", "SELECT i, 'v' || i FROM generate_series(1, 50) i"),
                    Batch("k, v", "SELECT i, 'w' || i FROM generate_series(45, 60) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "only key columns",
                setup: "CREATE TABLE t (k int, l text, PRIMARY KEY (k, l))",
                key: "k, l",
                steps: &[
                    Batch("k, l", "SELECT i, 'x' FROM generate_series(1, 50) i"),
                    Batch("l, k", "SELECT 'x', i FROM generate_series(40, 60) i UNION ALL SELECT 'x', 45"),
                ],
                ..Case::default()
            },
            Case {
                name: "columns called as a statement might call its parts",
                setup: "CREATE TABLE t (k int PRIMARY KEY, t int, b int, l int, excluded int, varve_target int, varve_batch int)",
                steps: &[
                    Batch("k, t, b, l, excluded, varve_target, varve_batch", "SELECT i, i, i, i, i, i, i FROM generate_series(1, 50) i"),
                    Batch("k, t, b, l, excluded, varve_target, varve_batch", "SELECT i, i, i / 2 * 2, i, i / 3 * 3, i, i FROM generate_series(20, 70) i"),
                    Batch("excluded, b, k", "SELECT i % 2, i % 3, i FROM generate_series(1, 70, 3) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "names that must be quoted, types without equality",
                setup: r#"CREATE TABLE t (k int PRIMARY KEY, "select" json, "a ""b" point, "ÄÖ" xml, j jsonb, c numeric)"#,
                checks: &["SELECT t::text FROM t"],
                steps: &[
                    Batch(r#"k, "select", "a ""b", "ÄÖ", j, c"#, r#"SELECT i, '{"a":  1}'::json, point(i, i), xmlparse(content '<a/>'), '{"b": 1}'::jsonb, 1.0 FROM generate_series(1, 30) i"#),
                    Batch(r#"k, "select", "a ""b", "ÄÖ", j, c"#, r#"SELECT i, CASE WHEN i % 2 = 0 THEN '{"a":  1}' ELSE '{"a": 1}' END::json, point(i, i), xmlparse(content '<a/>'), '{"b":1}'::jsonb, 1.0 FROM generate_series(1, 40) i"#),
                    Batch("k, c", "SELECT i, CASE WHEN i % 3 = 0 THEN 1.00 ELSE 1.0 END FROM generate_series(1, 40) i"),
                ],
                ..Case::default()
            },
        ],
    );
}

#[test]
fn keys() {
    let (_cluster, mut client) = start();
    let floats = "SELECT k::float8, v FROM (VALUES ('0', 1), ('-0', 2), ('NaN', 3), ('Infinity', 4), ('-Infinity', 5), ('1e-300', 6), ('nan', 7)) x (k, v)";
    check(
        &mut client,
        &[
            Case {
                name: "included columns",
                setup: "CREATE TABLE t (k int, v int, w text, PRIMARY KEY (k) INCLUDE (v))",
                steps: &[
                    Batch("k, v, w", "SELECT i, i, 'w' FROM generate_series(1, 100) i"),
                    Batch("w, v, k", "SELECT 'w' || i % 2, i, i FROM generate_series(50, 150) i"),
                    Batch("v, k", "SELECT -i, i FROM generate_series(1, 150, 4) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "descending, NULLs first, columns in another order than the table's",
                setup: "CREATE TABLE t (v text, ts timestamptz NOT NULL, s int NOT NULL); SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day');
                        CREATE UNIQUE INDEX t_key ON t (s DESC NULLS FIRST, ts DESC)",
                key: "s, ts",
                steps: &[
                    Batch("s, ts, v", "SELECT s, ts, n FROM (SELECT i % 7, timestamptz '2024-03-04 00:00Z' + i * interval '1 hour', 'n' || i FROM generate_series(1, 90) i) x (s, ts, n)"),
                    Batch("v, ts, s", "SELECT n, ts, s FROM (SELECT i % 7, timestamptz '2024-03-04 00:00Z' + i * interval '1 hour', 'n' || i % 50 FROM generate_series(30, 120) i ORDER BY md5(i::text)) x (s, ts, n)"),
                ],
                ..Case::default()
            },
            Case {
                name: "NULLs first in order, and NULLs not distinct",
                setup: "CREATE TABLE t (k int, l text, v int); CREATE UNIQUE INDEX ON t (k NULLS FIRST, l DESC NULLS LAST) NULLS NOT DISTINCT",
                key: "k, l",
                steps: &[
                    Batch("k, l, v", "SELECT i, 'l' || i, i FROM generate_series(1, 60) i"),
                    Batch("k, l, v", "SELECT i, 'l' || i, i / 2 * 2 FROM generate_series(40, 80) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "numeric keys are equal whatever their scale",
                setup: "CREATE TABLE t (k numeric PRIMARY KEY, v int)",
                checks: &["SELECT k::text, v FROM t"],
                steps: &[
                    Batch("k, v", "SELECT k, v FROM (VALUES (1.0, 1), (2.00, 2), ('NaN'::numeric, 3), ('Infinity', 4), (-0.0, 5)) x (k, v)"),
                    Batch("k, v", "SELECT k, v FROM (VALUES (1.00, 1), (2.0, 22), ('NaN'::numeric, 33), ('-Infinity', 4), (0, 5), (1e20, 6), (3, 1), (3.000, 2)) x (k, v)"),
                    Batch("k, v", "SELECT i / 2.0, i FROM generate_series(-4, 9) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "float keys: -0 is 0, NaN is NaN",
                setup: "CREATE TABLE t (k float8 PRIMARY KEY, v int)",
                checks: &["SELECT k::text, v FROM t"],
                steps: &[
                    Batch("k, v", floats),
                    Batch("k, v", "SELECT k::float8, v FROM (VALUES ('-0', 1), ('NaN', 7), ('Infinity', 44), ('-Infinity', 5)) x (k, v)"),
                    Batch("k, v", "SELECT k::float8, -1 FROM (VALUES ('0'), ('NaN'), ('3')) x (k)"),
                ],
                ..Case::default()
            },
            Case {
                name: "times without end in the key of a plain table",
                setup: "CREATE TABLE t (k timestamptz, d date, v int, PRIMARY KEY (k, d))",
                key: "k, d",
                steps: &[
                    Batch("k, d, v", "SELECT k::timestamptz, d::date, v FROM (VALUES ('infinity', '-infinity', 1), ('-infinity', 'infinity', 2), ('2024-03-04 00:00Z', 'infinity', 3), ('1000-01-01 00:00Z', '4000-01-01', 4)) x (k, d, v)"),
                    Batch("k, d, v", "SELECT k::timestamptz, d::date, v FROM (VALUES ('infinity', '-infinity', 1), ('-infinity', 'infinity', 22), ('infinity', 'infinity', 3), ('0044-03-15 12:00Z BC', '-infinity', 4), ('infinity', 'infinity', 33)) x (k, d, v)"),
                    Batch("k, d, v", "SELECT timestamptz '2024-03-04 00:00Z' + i * interval '1 day', 'infinity'::date, i FROM generate_series(-3, 3) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "float4 keys out of a float8 batch",
                setup: "CREATE TABLE t (k float4, l int, v float4, PRIMARY KEY (k, l))",
                key: "k, l",
                steps: &[
                    Batch("k, l, v", "SELECT i / 10.0::float8, i % 2, i / 3.0::float8 FROM generate_series(1, 50) i"),
                    Batch("k, l, v", "SELECT i / 10.0::float8, i % 2, i / 3.0::float8 FROM generate_series(30, 60) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "a collation without case",
                setup: "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                        CREATE TABLE t (k text COLLATE nocase PRIMARY KEY, v int)",
                steps: &[
                    Batch("k, v", "SELECT 'Key' || i, i FROM generate_series(1, 60) i"),
                    Batch("k, v", "SELECT CASE i % 3 WHEN 0 THEN 'KEY' WHEN 1 THEN 'key' ELSE 'Key' END || i, i / 3 * 3 FROM generate_series(20, 80) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "keys of many types",
                setup: "CREATE TABLE t (u uuid, b boolean, c char(4), d bytea, e inet, v int, PRIMARY KEY (u, b, c, d, e))",
                key: "u, b, c, d, e",
                steps: &[
                    Batch("u, b, c, d, e, v", "SELECT md5((i % 20)::text)::uuid, i % 2 = 0, 'c' || i % 3, decode(md5((i % 5)::text), 'hex'), '10.0.0.0'::inet + i % 4, i FROM generate_series(1, 300) i"),
                    Batch("e, d, c, b, u, v", "SELECT '10.0.0.0'::inet + i % 4, decode(md5((i % 5)::text), 'hex'), 'c' || i % 3 || ' ', i % 2 = 0, md5((i % 20)::text)::uuid, i FROM generate_series(200, 400) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "a domain and an enum in the key",
                setup: "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE side AS ENUM ('buy', 'sell'); CREATE TABLE t (k positive, l side, v int, PRIMARY KEY (k, l))",
                key: "k, l",
                steps: &[
                    Batch("k, l, v", "SELECT i, (ARRAY['buy', 'sell']::side[])[1 + i % 2], i FROM generate_series(1, 60) i"),
                    Batch("k, l, v", "SELECT i, (ARRAY['buy', 'sell']::side[])[1 + i % 2], 60 - i FROM generate_series(20, 80) i"),
                    Batch("k, l, v", "SELECT 0, 'buy'::side, 1"),
                ],
                ..Case::default()
            },
            Case {
                name: "another key than the primary one",
                setup: "CREATE TABLE t (id int PRIMARY KEY, a int, b int, v int, UNIQUE (b, a))",
                key: "b, a",
                steps: &[
                    Batch("id, a, b, v", "SELECT i, i % 10, i / 10, i FROM generate_series(1, 100) i"),
                    Batch("a, b, v", "SELECT i % 10, i / 10, -i FROM generate_series(1, 100, 3) i"),
                    // New keys lack the primary key; one id is taken.
                    Batch("a, b, v", "SELECT 77, 77, 0"),
                    Batch("id, a, b, v", "SELECT 5, 77, 77, 0"),
                ],
                ..Case::default()
            },
            Case {
                name: "long values, equal and changed",
                setup: "CREATE TABLE t (s int, ts timestamptz, v text, w bytea, PRIMARY KEY (s, ts)); SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day');
                        ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
                key: "s, ts",
                checks: &["SELECT s, ts, length(v), md5(v), length(w), md5(w) FROM t"],
                steps: &[
                    Batch("s, ts, v, w", "SELECT i, timestamptz '2024-03-04 00:00Z' + i * interval '1 hour', repeat(md5(i::text), 320), convert_to(repeat('w', 10000 + i), 'UTF8') FROM generate_series(1, 60) i"),
                    Batch("s, ts, v, w", "SELECT i, timestamptz '2024-03-04 00:00Z' + i * interval '1 hour', repeat(md5((i / 2 * 2)::text), 320), convert_to(repeat('w', 10000 + i), 'UTF8') FROM generate_series(1, 70) i"),
                    Batch("s, ts, w", "SELECT i, timestamptz '2024-03-04 00:00Z' + i * interval '1 hour', convert_to(repeat('w', 10000 + i / 3 * 3), 'UTF8') FROM generate_series(1, 70) i ORDER BY i DESC"),
                    Batch("s, ts, v", "SELECT i, timestamptz '2024-03-04 00:00Z' + i * interval '1 hour', NULL::text FROM generate_series(1, 70, 5) i"),
                ],
                ..Case::default()
            },
        ],
    );
}

/// A hypertable by a type of time, and batches with new chunks before, between and after those that are there.
fn by_time(sql_type: &str, interval: &str, at: &str) -> [String; 4] {
    let rows = |ids: &str, value: &str| {
        let at = at.replace("{i}", "i");
        format!("SELECT i % 9, {at}, {value} FROM {ids} i ORDER BY md5(i::text)")
    };
    [
        format!(
            "CREATE TABLE t (s int, ts {sql_type}, v int, PRIMARY KEY (s, ts)); SELECT create_hypertable('t', 'ts', chunk_time_interval => {interval})"
        ),
        rows("generate_series(-20, 40)", "i"),
        rows("generate_series(-60, 90, 3)", "i"),
        rows("generate_series(-70, 120)", "i / 4"),
    ]
}

/// The batch's own duplicates are known by the key's collation too.
#[test]
fn duplicates_by_the_collation_of_the_key() {
    let (_cluster, mut client) = start();
    let collation = "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    let of_the_column =
        format!("{collation}; CREATE TABLE t (k text COLLATE nocase PRIMARY KEY, v int)");
    let of_the_index = format!(
        "{collation}; CREATE TABLE t (k text, v int); CREATE UNIQUE INDEX ON t (k COLLATE nocase)"
    );
    let rows =
        "VALUES ('Key1', 1), ('key2', 2), ('KEY1', 3), ('key1', 100), ('new', 1), ('NEW', 2)";
    let upsert = format!("SELECT varve.upsert_query('t', $$ SELECT * FROM ({rows}) x (k, v) $$)");
    // As one INSERT after the other: the first spelling of a new key stays, the last value wins.
    let insert = "INSERT INTO t VALUES ('NEW', 2), ('key1', 100), ('key2', 2) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
    check(
        &mut client,
        &[
            Case {
                name: "the column's collation",
                setup: &of_the_column,
                steps: &[
                    Batch("k, v", "SELECT 'Key' || i, i FROM generate_series(1, 3) i"),
                    Batch("k, v", rows),
                ],
                ..Case::default()
            },
            Case {
                name: "the index's collation",
                setup: &of_the_index,
                steps: &[
                    Sql("INSERT INTO t VALUES ('Key1', 1)"),
                    Each(&upsert, insert),
                ],
                ..Case::default()
            },
        ],
    );
}

#[test]
fn times_and_chunks() {
    let (_cluster, mut client) = start();
    let hour = "timestamptz '2024-03-04 00:00Z' + {i} * interval '4 hours'";
    let kinds = [
        ("timestamptz", "interval '2 days'", hour),
        (
            "timestamp",
            "interval '3 days'",
            "timestamp '1999-12-31 12:00' + {i} * interval '4 hours'",
        ),
        ("date", "interval '20 days'", "date '2000-01-01' + {i}"),
        ("int", "20", "{i}"),
        ("bigint", "40000000000", "{i} * 1000000007::bigint"),
        ("smallint", "20", "({i})::smallint"),
    ];
    for (sql_type, interval, at) in kinds {
        let [setup, first, second, third] = by_time(sql_type, interval, at);
        let columns = "s, ts, v";
        check(
            &mut client,
            &[Case {
                name: &format!("{sql_type} by {interval}"),
                setup: &setup,
                key: "s, ts",
                steps: &[
                    Batch(columns, &first),
                    Batch(columns, &second),
                    Batch(columns, &third),
                    Batch(columns, &third),
                ],
                checks: &["SELECT * FROM t", "SELECT count(DISTINCT tableoid) FROM t"],
                ..Case::default()
            }],
        );
    }
    check(
        &mut client,
        &[
            Case {
                name: "endless times",
                setup: HYPERTABLE,
                key: "s, ts",
                steps: &[
                    Batch("s, ts, v", "SELECT i, timestamptz '2024-03-04 00:00Z', i FROM generate_series(1, 20) i"),
                    Batch("s, ts, v", "SELECT i, CASE i % 3 WHEN 0 THEN 'infinity' WHEN 1 THEN '2024-03-04 00:00Z' ELSE '-infinity' END::timestamptz, i FROM generate_series(1, 20) i"),
                    Batch("s, ts, v", "SELECT i, CASE i % 3 WHEN 0 THEN 'infinity' WHEN 1 THEN '2024-03-04 00:00Z' ELSE '-infinity' END::timestamptz, i / 2 FROM generate_series(1, 30) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "fifty chunks in one batch",
                setup: HYPERTABLE,
                key: "s, ts",
                checks: &["SELECT * FROM t", "SELECT count(DISTINCT tableoid) FROM t"],
                steps: &[
                    Batch("s, ts, v", "SELECT i % 5, timestamptz '2024-03-04 00:00Z' + i * interval '1 day', i FROM generate_series(0, 49) i"),
                    Batch("s, ts, v", "SELECT i % 5, timestamptz '2024-03-04 00:00Z' + i % 55 * interval '1 day', i FROM generate_series(0, 299) i ORDER BY md5(i::text)"),
                ],
                ..Case::default()
            },
            Case {
                name: "two dimensions",
                setup: "CREATE TABLE t (s int, ts timestamptz, v float8, n text, PRIMARY KEY (ts, s));
                        SELECT create_hypertable('t', 'ts', partitioning_column => 's', number_partitions => 3, chunk_time_interval => interval '1 day')",
                key: "ts, s",
                checks: &["SELECT * FROM t", "SELECT count(DISTINCT tableoid) FROM t"],
                steps: &[
                    Batch("s, ts, v, n", GRID),
                    Batch("s, ts, v, n", MIXED),
                    Ignore("s, ts, v, n", MIXED),
                ],
                ..Case::default()
            },
            Case {
                name: "a table with partitions of its own",
                setup: "CREATE TABLE t (k int, at date, v text, PRIMARY KEY (at, k)) PARTITION BY RANGE (at);
                        CREATE TABLE p1 (v text, gone int, at date NOT NULL, k int NOT NULL); ALTER TABLE p1 DROP COLUMN gone;
                        ALTER TABLE t ATTACH PARTITION p1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
                        CREATE TABLE p2 PARTITION OF t FOR VALUES FROM ('2024-02-01') TO ('2024-03-01') PARTITION BY LIST (k);
                        CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN (0, 1, 2); CREATE TABLE p2b PARTITION OF p2 DEFAULT",
                key: "k, at",
                checks: &["SELECT tableoid::regclass, * FROM t"],
                steps: &[
                    Batch("k, at, v", "SELECT i % 5, date '2024-01-01' + i % 59, 'v' || i FROM generate_series(1, 300) i"),
                    Batch("v, at, k", "SELECT 'v' || i / 2 * 2, date '2024-01-01' + i % 59, i % 7 FROM generate_series(200, 500) i ORDER BY md5(i::text)"),
                    // No partition takes it.
                    Batch("k, at, v", "SELECT 1, d, 'x' FROM (VALUES (date '2024-01-05'), ('2024-05-05')) x (d)"),
                ],
                ..Case::default()
            },
            Case {
                name: "an unlogged table",
                setup: "CREATE UNLOGGED TABLE t (k int PRIMARY KEY, v text)",
                steps: &[
                    Batch("k, v", "SELECT i, 'v' || i FROM generate_series(1, 100) i"),
                    Batch("k, v", "SELECT i, 'v' || i / 2 * 2 FROM generate_series(50, 150) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "a temporary table",
                setup: "CREATE TEMP TABLE t (k int PRIMARY KEY, v text)",
                hot_only: true,
                steps: &[
                    Batch("k, v", "SELECT i, 'v' || i FROM generate_series(1, 100) i"),
                    Batch("k, v", "SELECT i, 'v' || i / 2 * 2 FROM generate_series(50, 150) i"),
                ],
                ..Case::default()
            },
            Case {
                name: "a table out of itself",
                setup: HYPERTABLE,
                key: "s, ts",
                steps: &[
                    Batch("s, ts, v, n", GRID),
                    Each(
                        "SELECT varve.upsert('t', 't')",
                        "SELECT 1",
                    ),
                    Batch("s, ts, v, n", "SELECT s, ts + interval '1 hour', v, n FROM (TABLE t) x"),
                    Batch("s, ts, v, n", "SELECT s % 4, ts, v + 1, n FROM (TABLE t) x ORDER BY s, ts"),
                ],
                ..Case::default()
            },
            Case {
                name: "large batches in no order",
                setup: HYPERTABLE,
                key: "s, ts",
                checks: &["SELECT count(*), sum(v), md5(string_agg(t::text, ',' ORDER BY s, ts)) FROM t"],
                steps: &[
                    Batch("s, ts, v, n", "SELECT i % 50, timestamptz '2024-03-04 00:00Z' + i / 50 * interval '10 min', i, 'n' FROM generate_series(1, 8000) i ORDER BY md5(i::text)"),
                    Batch("s, ts, v, n", "SELECT i % 50, timestamptz '2024-03-04 00:00Z' + i / 50 * interval '10 min', i / 4 * 4, 'n' FROM generate_series(4000, 12000) i ORDER BY md5(i::text)"),
                    Batch("s, ts, v", "SELECT i % 60, timestamptz '2024-03-04 00:00Z' + i % 200 * interval '10 min', i FROM generate_series(1, 12000) i ORDER BY md5(i::text)"),
                ],
                ..Case::default()
            },
        ],
    );
}
