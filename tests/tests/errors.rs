//! Bad input: a clear error with SQLSTATE and hint, and nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use std::path::Path;
use varve_tests::cluster::Cluster;
use varve_tests::session::{Failure, simple};

/// Tables of every kind; `bars` has a frozen and a hot chunk, `frozen` is frozen.
const SETUP: &[&str] = &[
    "CREATE TABLE bars (symbol int, ts timestamptz, v float8, PRIMARY KEY (symbol, ts));
     SELECT create_hypertable('bars', 'ts', chunk_time_interval => interval '1 day');
     INSERT INTO bars SELECT s, timestamptz '2024-01-01 00:00:00+00' + h * interval '1 hour', h FROM generate_series(1, 5) s, generate_series(0, 47) h;
     CREATE TABLE frozen (id int PRIMARY KEY, v int); INSERT INTO frozen SELECT i, i FROM generate_series(1, 500) i;
     CREATE TABLE plain (id int PRIMARY KEY, p point, j json); INSERT INTO plain SELECT i FROM generate_series(1, 100) i;
     CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1), (1);
     CREATE TABLE excluding (id int PRIMARY KEY, r int4range, CONSTRAINT no_overlap EXCLUDE USING gist (r WITH &&));
     INSERT INTO excluding SELECT i, int4range(i, i + 1) FROM generate_series(1, 100) i;
     CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF parts DEFAULT;
     CREATE VIEW a_view AS TABLE plain; CREATE MATERIALIZED VIEW a_matview AS TABLE plain; CREATE SEQUENCE a_sequence;
     CREATE TYPE a_type AS (x int); CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
     CREATE FOREIGN TABLE a_foreign_table (id int) SERVER nowhere;
     CREATE ROLE stranger; GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger; GRANT ALL ON SCHEMA public TO stranger;
     SELECT varve.enable('bars'), varve.enable('frozen'), varve.enable('excluding'), varve.enable('parts')",
    "SELECT varve.set_tier('frozen', 'warm'); SELECT varve.set_tier(min(c::text)::regclass, 'warm') FROM show_chunks('bars') c",
];

fn set_up(client: &mut Client) {
    for sql in SETUP {
        client.batch_execute(sql).unwrap();
    }
}

/// All that an error must leave as it is: rows, storage, access methods, varve's catalogue.
fn state(client: &mut Client) -> Vec<String> {
    simple(
        client,
        "SELECT 'class', oid::regclass, relam, relfilenode, relkind FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'i', 'p', 't') AND relnamespace::regnamespace::text !~ 'timescaledb' ORDER BY oid;
         SELECT 'managed', relation, segment_by, order_by FROM varve.managed ORDER BY relation;
         SELECT 'history', * FROM varve.chunk_history ORDER BY chunk;
         SELECT 'bars', count(*), sum(v), count(DISTINCT (symbol, ts)) FROM bars; SELECT 'frozen', count(*), sum(v) FROM frozen;
         SELECT 'keyless', count(*) FROM keyless; SELECT 'excluding', count(*) FROM excluding; SELECT 'plain', count(*) FROM plain",
    )
    .unwrap()
}

/// Each statement fails with its SQLSTATE; errors of varve's own (not those that PostgreSQL raises before varve is asked)
/// carry a hint; nothing changes.
fn must_fail(client: &mut Client, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (sql, code) in cases {
        let before = state(client);
        match simple(client, sql) {
            Ok(rows) => wrong.push(format!("{sql}: no error, but {rows:?}")),
            Err(e) if e.code != *code => wrong.push(format!("{sql}: not {code}: {e:?}")),
            Err(Failure {
                hint: None,
                message,
                ..
            }) => wrong.push(format!("{sql}: no hint: {message}")),
            Err(_) => {}
        }
        let after = state(client);
        if before != after {
            let news: Vec<_> = after.iter().filter(|l| !before.contains(l)).collect();
            wrong.push(format!("{sql}: changed, now {news:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    set_up(&mut client);
    (cluster, client)
}

const CHUNK: &str = "(SELECT max(c::text)::regclass FROM show_chunks('bars') c)";

#[test]
fn targets_that_are_no_tables() {
    let (_cluster, mut client) = start();
    let mut cases = Vec::new();
    let targets = [
        ("a_view", "42809"),
        ("a_matview", "42809"),
        ("a_sequence", "42809"),
        ("a_type", "42809"),
        ("a_foreign_table", "42809"),
        ("plain_pkey", "42809"),
        ("pg_class", "42501"),
        ("pg_toast.pg_toast_1255", "42809"),
        ("information_schema.sql_features", "42501"),
    ];
    for call in [
        "SELECT varve.enable('{}')",
        "SELECT varve.disable('{}')",
        "SELECT varve.set_tier('{}', 'warm')",
        "SELECT varve.set_tier('{}', 'hot')",
        "SELECT * FROM varve.verify('{}')",
        "CALL varve.set_tiers('{}', 'warm')",
    ] {
        for (target, code) in targets {
            // A table like any other, but for its schema: it can be verified (and has nothing frozen).
            if target != "information_schema.sql_features" {
                cases.push((call.replace("{}", target), code));
            }
        }
    }
    let cases: Vec<(&str, &str)> = cases.iter().map(|(s, c)| (s.as_str(), *c)).collect();
    must_fail(&mut client, &cases);
}

#[test]
fn missing_tables_and_null() {
    let (_cluster, mut client) = start();
    must_fail(
        &mut client,
        &[
            ("SELECT varve.enable(4000000000::regclass)", "42P01"),
            ("SELECT varve.disable(4000000000::regclass)", "42P01"),
            (
                "SELECT varve.set_tier(4000000000::regclass, 'warm')",
                "42P01",
            ),
            ("SELECT * FROM varve.verify(4000000000::regclass)", "42P01"),
            (
                "CALL varve.set_tiers(4000000000::regclass, 'warm')",
                "42P01",
            ),
            ("SELECT varve.enable(NULL)", "22004"),
            ("SELECT varve.disable(NULL)", "22004"),
            ("SELECT varve.set_tier(NULL, 'warm')", "22004"),
            ("SELECT varve.set_tier('plain', NULL)", "22004"),
            ("SELECT * FROM varve.verify(NULL)", "22004"),
            ("CALL varve.set_tiers(NULL, 'warm')", "22004"),
            ("CALL varve.set_tiers('bars', NULL)", "22004"),
            (
                "SELECT varve.enable('plain', segment_by => '{NULL}')",
                "22004",
            ),
        ],
    );
    // PostgreSQL's own error, before varve is called.
    let error = simple(&mut client, "SELECT varve.enable('no_such_table')").unwrap_err();
    assert_eq!(error.code, "42P01", "{error:?}");
}

#[test]
fn tiers_and_codecs_that_there_are_not() {
    let (_cluster, mut client) = start();
    let on_chunk = |tail: &str| format!("SELECT varve.set_tier({CHUNK}, {tail})");
    let tail = [
        ("'lukewarm'", "22023"),
        ("''", "22023"),
        ("'WARM'", "22023"),
        ("'archived'", "0A000"),
        ("'warm', codec => 'rot13'", "22023"),
        ("'warm', codec => ''", "22023"),
        ("'hot', codec => 'rot13'", "22023"),
        ("'warm', codec => 'zstd'", "0A000"),
        ("'cold', codec => 'lzma'", "0A000"),
    ];
    let mut cases: Vec<(String, &str)> = tail.iter().map(|(t, c)| (on_chunk(t), *c)).collect();
    cases.push(("CALL varve.set_tiers('bars', 'lukewarm')".into(), "22023"));
    cases.push((
        "CALL varve.set_tiers('bars', 'lukewarm', older_than => interval '1000 years')".into(),
        "22023",
    ));
    cases.push(("SELECT varve.set_tier('bars', 'warm')".into(), "42809"));
    cases.push(("SELECT varve.set_tier('bars', 'hot')".into(), "42809"));
    cases.push(("SELECT varve.set_tier('parts', 'warm')".into(), "42809"));
    cases.push((format!("SELECT varve.enable({CHUNK})"), "42809"));
    cases.push((format!("SELECT varve.disable({CHUNK})"), "55000"));
    cases.push(("SELECT varve.enable('part_1')".into(), "42809"));
    cases.push((
        "CALL varve.set_tiers('frozen', 'warm', older_than => interval '1 day')".into(),
        "0A000",
    ));
    let cases: Vec<(&str, &str)> = cases.iter().map(|(s, c)| (s.as_str(), *c)).collect();
    must_fail(&mut client, &cases);
}

#[test]
fn keys_and_orders_that_do_not_fit() {
    let (_cluster, mut client) = start();
    must_fail(
        &mut client,
        &[
            ("SELECT varve.enable('keyless')", "42P16"),
            (
                "SELECT varve.enable('plain', order_by => '{nope}')",
                "42703",
            ),
            (
                "SELECT varve.enable('plain', segment_by => '{nope}')",
                "42703",
            ),
            (
                "SELECT varve.enable('plain', segment_by => '{ctid}')",
                "42703",
            ),
            ("SELECT varve.enable('plain', order_by => '{p}')", "42804"),
            ("SELECT varve.enable('plain', segment_by => '{j}')", "42804"),
            (
                "SELECT varve.enable('plain', segment_by => '{id}', order_by => '{id}')",
                "42701",
            ),
            (
                "SELECT varve.enable('plain', order_by => '{id,id}')",
                "42701",
            ),
            ("SELECT varve.disable('plain')", "55000"),
            ("SELECT varve.set_tier('excluding', 'warm')", "0A000"),
            (
                "ALTER TABLE frozen ADD EXCLUDE USING gist (int4range(id, id + 1) WITH &&)",
                "0A000",
            ),
            ("DROP EXTENSION varve", "2BP01"),
            ("DROP EXTENSION varve CASCADE", "2BP01"),
            ("DROP EXTENSION timescaledb CASCADE", "2BP01"),
        ],
    );
}

#[test]
fn enable_takes_names_of_columns() {
    let (_cluster, mut client) = start();
    for (sql, managed) in [
        (
            "SELECT varve.enable('keyless', order_by => '{v}')",
            "{}|{v}",
        ),
        (
            "SELECT varve.enable('plain', segment_by => '{}', order_by => '{id}')",
            "{}|{id}",
        ),
        (
            "SELECT varve.enable('bars', segment_by => '{symbol}', order_by => '{ts,v}')",
            "{symbol}|{ts,v}",
        ),
        ("SELECT varve.enable('bars')", "{symbol}|{ts}"),
    ] {
        simple(&mut client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let table = sql.split('\'').nth(1).unwrap();
        let row = simple(
            &mut client,
            &format!(
                "SELECT segment_by, order_by FROM varve.managed WHERE relation = '{table}'::regclass"
            ),
        );
        assert_eq!(row.unwrap(), [managed], "{sql}");
    }
    simple(&mut client, "SELECT varve.set_tier('keyless', 'warm')").unwrap();
    let rows = simple(&mut client, "SELECT v FROM keyless").unwrap();
    assert_eq!(rows, ["1", "1"]);
}

#[test]
fn strangers_are_refused() {
    let (cluster, mut client) = start();
    let mut stranger = cluster.config("postgres").connect(NoTls).unwrap();
    stranger
        .batch_execute("SET SESSION AUTHORIZATION stranger")
        .unwrap();
    let frozen_chunk = simple(
        &mut client,
        "SELECT min(c::text) FROM show_chunks('bars') c",
    )
    .unwrap()
    .concat();
    let segments = simple(&mut client, "SELECT varve.segment_table('frozen')")
        .unwrap()
        .concat();
    for (sql, hint) in [
        ("SELECT varve.enable('plain')", true),
        ("SELECT varve.disable('bars')", true),
        ("SELECT varve.set_tier('plain', 'warm')", true),
        ("SELECT varve.set_tier('frozen', 'hot')", true),
        (
            &format!("SELECT varve.set_tier('{frozen_chunk}', 'hot')"),
            true,
        ),
        ("CALL varve.set_tiers('bars', 'hot')", true),
        ("SELECT * FROM varve.verify('frozen')", true),
        // PostgreSQL's own checks.
        ("DELETE FROM varve.managed", false),
        (
            "INSERT INTO varve.managed VALUES ('plain', '{}', '{id}')",
            false,
        ),
        ("UPDATE varve.chunk_history SET bytes_before = 0", false),
        (&format!("SELECT * FROM {segments}"), false),
        (&format!("DELETE FROM {segments}"), false),
        ("SET varve.debug_freeze = 'commit'", false),
    ] {
        let before = state(&mut client);
        let error = simple(&mut stranger, sql).expect_err(sql);
        assert_eq!(error.code, "42501", "{sql}: {error:?}");
        assert!(error.hint.is_some() || !hint, "{sql}: no hint: {error:?}");
        assert_eq!(state(&mut client), before, "{sql}");
    }
    // What was granted works: the companions are read and written on the table's behalf.
    let rows = simple(
        &mut stranger,
        "UPDATE frozen SET v = 0 WHERE id <= 10; DELETE FROM frozen WHERE id = 11; INSERT INTO frozen VALUES (12, 0) ON CONFLICT (id) DO UPDATE SET v = -1; SELECT count(*), sum(v) FROM frozen",
    );
    assert_eq!(
        rows.unwrap(),
        [format!("499|{}", 500 * 501 / 2 - 55 - 11 - 13)]
    );
    // A member of the owning role may do all.
    client.batch_execute("CREATE ROLE owners; GRANT owners TO stranger; ALTER TABLE frozen OWNER TO owners; ALTER TABLE bars OWNER TO owners").unwrap();
    for sql in [
        "SELECT varve.set_tier('frozen', 'warm')",
        "SELECT varve.set_tier('frozen', 'hot')",
        "CALL varve.set_tiers('bars', 'warm')",
        "SELECT count(*) FROM varve.verify('bars') WHERE ok",
        "SELECT varve.disable('bars')",
        "SELECT varve.enable('bars')",
    ] {
        simple(&mut stranger, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

#[test]
fn moments_that_do_not_suit() {
    let (_cluster, mut client) = start();
    for (sql, code) in [
        (
            "BEGIN READ ONLY; SELECT varve.set_tier('frozen', 'hot')",
            "25006",
        ),
        (
            "BEGIN READ ONLY; SELECT varve.set_tier('plain', 'warm')",
            "25006",
        ),
        ("BEGIN READ ONLY; SELECT varve.enable('plain')", "25006"),
        ("BEGIN READ ONLY; SELECT varve.disable('bars')", "25006"),
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT * FROM plain; FETCH 1 FROM c; SELECT varve.set_tier('plain', 'warm')",
            "55006",
        ),
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT * FROM frozen; FETCH 1 FROM c; SELECT varve.set_tier('frozen', 'hot')",
            "55006",
        ),
        (
            "SELECT varve.set_tier('frozen', 'hot') FROM frozen",
            "55006",
        ),
        (
            "BEGIN; SELECT 1; CALL varve.set_tiers('bars', 'warm')",
            "2D000",
        ),
    ] {
        let before = state(&mut client);
        let error = simple(&mut client, sql).expect_err(sql);
        assert_eq!(error.code, code, "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(state(&mut client), before, "{sql}");
    }
}

/// The lines of source files below a directory that have letters beyond ASCII in what is not a comment.
fn beyond_ascii(dir: &Path, ends: &str, comment: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            beyond_ascii(&path, ends, comment, found);
        } else if path.to_string_lossy().ends_with(ends) {
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                let code = line.split(comment).next().unwrap_or_default();
                if !code.is_ascii() {
                    found.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
}

/// The server sends messages in its own encoding, which may have none but the letters of ASCII; so has the script of the extension.
#[test]
fn messages_are_in_ascii() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    beyond_ascii(&root.join("src"), ".rs", "//", &mut found);
    beyond_ascii(&root.join("sql"), ".sql", "--", &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
