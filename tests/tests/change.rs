//! `varve.row_checksum`: rows that are the same, however and wherever they are stored; what is refused; memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::{one, rows, simple};

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// A table of many types, with NULLs and values that are TOASTed.
const WIDE: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a numeric, b text);
CREATE TABLE wide (
    id int NOT NULL, ts timestamptz NOT NULL, flag bool, small int2, long int8, single float4, double float8, price numeric(12, 3), free numeric,
    words text, padded char(9), raw bytea, day date, clock time, span interval, name uuid, doc jsonb, feeling mood, ints int[], prices numeric[],
    period tstzrange, couple pair, net inet, long_text text
);
INSERT INTO wide SELECT i, timestamptz '2024-01-01 00:00Z' + i * interval '20 min', i % 3 = 0, i % 1000 - 500, -i, i / 7.0, CASE i % 9 WHEN 1 THEN '-0' ELSE i / 13.0 END,
    (i - 200) / 7.0, i / 1000.0, 'Wörter ' || i, repeat('x', i % 9), decode(lpad(to_hex(i), 8, '0'), 'hex'), date '1900-01-01' + i, time '00:00' + i * interval '1.000001 s',
    i * interval '1 mon 2 d 3 s', md5(i::text)::uuid, jsonb_build_object('i', i, 'list', array[i, null]), CASE i % 2 WHEN 0 THEN 'sad' ELSE 'ok' END::mood,
    ARRAY(SELECT nullif(g, 2) FROM generate_series(1, i % 4) g), ARRAY[i, 0.01, NULL], tstzrange(timestamptz '2024-01-01 00:00Z', NULL), ROW(i, 'b' || i)::pair, '10.0.0.1',
    CASE WHEN i % 100 = 0 THEN (SELECT string_agg(md5((i * g)::text), '') FROM generate_series(1, 1000) g) END
    FROM generate_series(1, 500) i;
INSERT INTO wide (id, ts) SELECT i, timestamptz '2024-01-03 00:00Z' + i * interval '1 s' FROM generate_series(501, 600) i;
";

/// The checksums of all rows of a table, by both algorithms, in the order of their ids.
fn sums(client: &mut Client, table: &str) -> Vec<String> {
    rows(
        client,
        &format!(
            "SELECT id, varve.row_checksum(t), varve.row_checksum(t, 'sha256') FROM {table} t ORDER BY id"
        ),
    )
}

#[test]
fn layouts() {
    let (_cluster, mut client) = start();
    one(&mut client, WIDE);
    let before = sums(&mut client, "wide");
    assert_eq!(before.len(), 600);
    let mut distinct: Vec<&str> = before
        .iter()
        .map(|s| s.split_once('|').unwrap().1)
        .collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 600);
    // What a table goes through that says nothing of its rows.
    for change in [
        "ALTER TABLE wide ADD more text",
        "VACUUM FULL wide",
        "ALTER TABLE wide ADD number int DEFAULT 7; ALTER TABLE wide DROP number",
        "ALTER TABLE wide ALTER small TYPE bigint, ALTER single TYPE float8, ALTER id TYPE int2, ALTER words TYPE varchar, ALTER price TYPE numeric",
        "ALTER TABLE wide ALTER long_text SET STORAGE PLAIN; ALTER TABLE wide ALTER words SET STORAGE EXTERNAL",
        "ALTER TABLE wide ALTER long_text SET STORAGE EXTENDED, ALTER long_text SET COMPRESSION pglz; UPDATE wide SET long_text = long_text || ''",
        "ALTER TYPE mood ADD VALUE 'very' BEFORE 'sad'",
        "ALTER TYPE pair ADD ATTRIBUTE c int",
        "ALTER TABLE wide RENAME TO wider; ALTER TABLE wider RENAME TO wide",
        "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = -15; SET search_path = pg_catalog, public",
    ] {
        one(&mut client, change);
        let after = sums(&mut client, "wide");
        // The client's own output of bytes is another one by now, for the last change.
        one(&mut client, "SET bytea_output = 'hex'");
        let after = match change.contains("bytea_output") {
            true => sums(&mut client, "wide"),
            false => after,
        };
        assert!(before == after, "{change}");
    }
    // Another order of the columns, through a view, a subselect, and a table.
    one(
        &mut client,
        "RESET search_path; CREATE VIEW turned AS SELECT couple, net, long_text, padded, raw, day, clock, span, name, doc, feeling, ints, prices, period, words, free, price, double, single, long, small, flag, ts, id FROM wide",
    );
    assert!(sums(&mut client, "turned") == before);
    assert!(sums(&mut client, "(SELECT * FROM turned OFFSET 0)") == before);
    one(&mut client, "CREATE TABLE copied AS TABLE turned");
    assert!(sums(&mut client, "copied") == before);
    // What does say something.
    one(&mut client, "ALTER TABLE copied RENAME flag TO glaf");
    let after = sums(&mut client, "copied");
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 500, "those where it is not NULL");
    one(
        &mut client,
        "ALTER TABLE copied RENAME glaf TO flag; ALTER TABLE copied ADD n int DEFAULT 7",
    );
    let after = sums(&mut client, "copied");
    assert_eq!(before.iter().zip(&after).filter(|(a, b)| a == b).count(), 0);
    one(
        &mut client,
        "ALTER TABLE copied DROP n; UPDATE copied SET words = '' WHERE words IS NULL",
    );
    let after = sums(&mut client, "copied");
    assert_eq!(
        before.iter().zip(&after).filter(|(a, b)| a != b).count(),
        100
    );
}

#[test]
fn tiers() {
    let (_cluster, mut client) = start();
    one(&mut client, WIDE);
    one(
        &mut client,
        "ALTER TABLE wide ADD PRIMARY KEY (id, ts);
         SELECT create_hypertable('wide', 'ts', chunk_time_interval => interval '1 day', migrate_data => true)",
    );
    let before = sums(&mut client, "wide");
    one(&mut client, "SELECT varve.enable('wide')");
    for tier in ["warm", "cold"] {
        for chunk in rows(&mut client, "SELECT c FROM show_chunks('wide') c") {
            one(
                &mut client,
                &format!("SELECT varve.set_tier('{chunk}', '{tier}')"),
            );
        }
        assert!(sums(&mut client, "wide") == before, "{tier}");
        one(&mut client, "SET varve.enable_columnar_scan = off");
        assert!(sums(&mut client, "wide") == before, "{tier}, row by row");
        one(&mut client, "RESET varve.enable_columnar_scan");
    }
    // Frozen rows from before the column was there.
    one(&mut client, "ALTER TABLE wide ADD more text");
    assert!(sums(&mut client, "wide") == before);
    one(&mut client, "ALTER TABLE wide ADD number int DEFAULT 7");
    let after = sums(&mut client, "wide");
    assert_eq!(before.iter().zip(&after).filter(|(a, b)| a == b).count(), 0);
    let plain = "(SELECT *, 7 AS number FROM copied OFFSET 0)";
    one(
        &mut client,
        "CREATE TABLE copied AS SELECT * FROM wide; ALTER TABLE copied DROP number",
    );
    assert!(sums(&mut client, plain) == after);
    // In parallel workers, whose client has no encoding of its own.
    one(
        &mut client,
        "SET debug_parallel_query = on; SET client_encoding = 'LATIN1'",
    );
    assert!(sums(&mut client, "wide") == after);
}

#[test]
fn rows_of_every_kind() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE a (id int, x text); CREATE TABLE b (id int, y text); INSERT INTO a VALUES (1, 'a'), (2, NULL); INSERT INTO b VALUES (1, 'b'), (2, 'c');
         CREATE TYPE deep AS (n int, inner_row a); CREATE TABLE nested (id int, d deep, ds deep[])",
    );
    let mut same = |first: &str, second: &str, equal: bool| {
        let sum = |client: &mut Client, sql: &str| {
            rows(client, &format!("SELECT varve.row_checksum{sql}"))
        };
        let (a, b) = (sum(&mut client, first), sum(&mut client, second));
        assert_eq!(a == b, equal, "{first} and {second}");
    };
    // Anonymous rows have the names f1, f2, …
    same(
        "(ROW(1, 'a'::text))",
        "(x) FROM (SELECT 'a'::text AS f2, 1 AS f1) x",
        true,
    );
    same("(ROW(1, NULL::text))", "(ROW(1))", true);
    same("(ROW(NULL::text, 1))", "(ROW(1))", false);
    same("(ROW())", "(ROW(NULL::int, NULL::text))", true);
    // Rows of joins and subselects.
    same(
        "(j) FROM (SELECT x, y, id FROM a JOIN b USING (id)) j ORDER BY id",
        "(j) FROM (a JOIN b USING (id)) j ORDER BY id",
        true,
    );
    same(
        "(a) FROM a JOIN b USING (id) ORDER BY id",
        "(s) FROM (SELECT x, id FROM a) s ORDER BY id",
        true,
    );
    same(
        "(ROW(a.*)) FROM a WHERE id = 1",
        "(ROW(1, 'a'::text))",
        true,
    );
    // Columns of one name.
    same(
        "(x) FROM (SELECT 1 AS n, 2 AS n) x",
        "(x) FROM (SELECT 2 AS n, 1 AS n) x",
        true,
    );
    same(
        "(x, 'sha256') FROM (SELECT 1 AS n, 2 AS n) x",
        "(x, 'sha256') FROM (SELECT 2 AS n, 1 AS n) x",
        false,
    );
    same(
        "(x) FROM (SELECT 1 AS n, 2 AS n) x",
        "(x) FROM (SELECT 1 AS n, 3 AS n) x",
        false,
    );
    // Rows within rows, of one call many types.
    same(
        "(ROW(x.c)) FROM (VALUES (1, ROW(1, 'a'::text)), (2, ROW('a'::text, 1)), (3, ROW(1, 'a'::text))) x (i, c) WHERE i <> 2 ORDER BY i",
        "(ROW(ROW(1, 'a'::varchar))) FROM generate_series(1, 2)",
        true,
    );
    same("(NULL::a)", "(NULL::a, 'sha256')", true);
    same("(NULL::a, 'md5')", "(ROW(1), NULL)", true);
    // A type that changes under a function that is kept.
    one(
        &mut client,
        "INSERT INTO nested VALUES (1, ROW(1, ROW(1, 'a')), ARRAY[ROW(2, ROW(2, 'b'))::deep, NULL]);
         CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE moods (m mood); INSERT INTO moods VALUES ('ok');
         CREATE FUNCTION kept() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE n nested; mm moods;
         BEGIN
             SELECT * INTO n FROM nested; SELECT * INTO mm FROM moods;
             RETURN varve.row_checksum(n) || ' ' || varve.row_checksum(mm);
         END $$",
    );
    let fresh =
        "SELECT varve.row_checksum(n) || ' ' || varve.row_checksum(mm) FROM nested n, moods mm";
    let mut all = Vec::new();
    one(&mut client, "BEGIN");
    for change in [
        "SELECT",
        "ALTER TABLE a RENAME x TO z",
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'well'",
        "ALTER TYPE deep RENAME ATTRIBUTE n TO m",
        "ALTER TYPE deep RENAME ATTRIBUTE inner_row TO n",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'ok'",
        "ALTER TYPE mood RENAME VALUE 'well' TO 'fine'",
    ] {
        one(&mut client, change);
        let kept = one(&mut client, "SELECT kept()");
        assert_eq!(kept, one(&mut client, fresh), "{change}");
        all.push(kept);
    }
    one(&mut client, "COMMIT");
    assert_eq!(all[4], all[5], "a label that is in no row");
    all.dedup();
    assert_eq!(all.len(), 6);
}

#[test]
fn what_is_refused() {
    let (_cluster, mut client) = start();
    let mut refused = |sql: &str| simple(&mut client, sql).unwrap_err();
    for algorithm in ["md5", "", "XXH3", "sha256 "] {
        let e = refused(&format!("SELECT varve.row_checksum(ROW(1), '{algorithm}')"));
        assert_eq!(e.code, "22023");
        assert_eq!(
            e.message,
            format!("unknown checksum algorithm \"{algorithm}\"")
        );
        assert_eq!(e.hint.as_deref(), Some("It is xxh3 or sha256."));
    }
    for column in ["acl", "acls", "acl_row"] {
        let e = refused(&format!(
            "SELECT varve.row_checksum(x) FROM (SELECT 1 AS id, v AS {column} FROM (SELECT a[1] AS acl, a AS acls, ROW(a) AS acl_row
                 FROM (SELECT '{{=r/postgres}}'::aclitem[]) y (a)) z (acl, acls, acl_row), LATERAL (SELECT {column}) w (v)) x"
        ));
        assert_eq!(e.code, "42883");
        assert!(
            e.message
                .starts_with("no binary output function available for type aclitem"),
            "{e:?}"
        );
        assert!(e.hint.is_some());
    }
    let e = refused("SELECT varve.row_checksum(1)");
    assert_eq!(e.code, "42883");
    // The session goes on, and everybody may call it.
    assert_eq!(
        one(
            &mut client,
            "CREATE ROLE nobody; GRANT USAGE ON SCHEMA varve TO nobody; SET ROLE nobody; SELECT varve.row_checksum(ROW(1)) IS NOT NULL"
        ),
        "t"
    );
    // Deeper than the stack.
    let deep = "SET ROLE postgres; SET max_stack_depth = '6MB'; CREATE TEMP TABLE deep AS SELECT (repeat('[', 3500) || repeat(']', 3500))::jsonb AS d; SET max_stack_depth = '100kB'";
    one(&mut client, deep);
    let e = simple(&mut client, "SELECT varve.row_checksum(t) FROM deep t").unwrap_err();
    assert_eq!(e.code, "54001");
}

/// What backups note of tables is the sum of rows' checksums, and asks for no send function.
#[test]
fn sums_of_rows() {
    let (_cluster, mut client) = start();
    one(&mut client, WIDE);
    let all = rows(
        &mut client,
        "SELECT encode(varve.row_checksum(t), 'hex') FROM wide t",
    );
    let sum = all.iter().fold(0u128, |sum, row| {
        sum.wrapping_add(u128::from_str_radix(row, 16).unwrap())
    });
    let sum_of = |client: &mut Client, from: &str| {
        one(
            client,
            &format!("SELECT varve.rows_checksum(t) FROM {from}"),
        )
    };
    assert_eq!(sum_of(&mut client, "wide t"), format!("{sum:032x}"));
    assert_eq!(
        sum_of(&mut client, "(SELECT * FROM wide ORDER BY id DESC) t"),
        format!("{sum:032x}")
    );
    assert_eq!(sum_of(&mut client, "wide t WHERE false"), "0".repeat(32));
    // Two rows that exchange a value.
    one(
        &mut client,
        "UPDATE wide SET long = -3 - long WHERE id IN (1, 2)",
    );
    assert_ne!(sum_of(&mut client, "wide t"), format!("{sum:032x}"));
    let acl = |text: &str| {
        format!("(SELECT 1 AS id, v FROM (VALUES ('{text}'::aclitem), (NULL)) x (v)) t")
    };
    let first = sum_of(&mut client, &acl("=r/postgres"));
    assert_eq!(first, sum_of(&mut client, &acl("=r/postgres")));
    assert_ne!(first, sum_of(&mut client, &acl("=w/postgres")));
}

/// Resident memory of a server process, in kB.
fn resident(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_does_not_grow_with_rows() {
    let (_cluster, mut client) = start();
    one(&mut client, WIDE);
    let pid = one(&mut client, "SELECT pg_backend_pid()");
    let narrow = |count: u64| {
        format!(
            "SELECT count(varve.row_checksum(x)) FROM (SELECT id, words, prices FROM wide CROSS JOIN generate_series(1, {count} / 500) WHERE id <= 500 OFFSET 0) x"
        )
    };
    let wide = |count: u64| {
        format!(
            "SELECT count(varve.row_checksum(x)) FROM (SELECT wide, generate_series FROM wide CROSS JOIN generate_series(1, {count} / 500) WHERE id <= 500 OFFSET 0) x"
        )
    };
    one(&mut client, "SET max_parallel_workers_per_gather = 0");
    one(&mut client, &narrow(1000));
    one(&mut client, &wide(1000));
    let before = resident(&pid);
    assert_eq!(one(&mut client, &narrow(10_000_000)), "10000000");
    assert_eq!(one(&mut client, &wide(100_000)), "100000");
    // One long value, and types that change all the time.
    one(
        &mut client,
        "DO $$ DECLARE i int; s bytea; BEGIN
             CREATE TYPE changing AS ENUM ('a0');
             FOR i IN 1..1000 LOOP
                 EXECUTE format('ALTER TYPE changing RENAME VALUE %L TO %L', 'a' || i - 1, 'a' || i);
                 s := varve.row_checksum(ROW(i, 'x', '1.1.1.1'::inet));
             END LOOP; END $$",
    );
    let after = resident(&pid);
    assert!(
        after < before + 20_000,
        "{before} kB before, {after} kB after"
    );
}
