//! Chunks that were damaged or dropped come back from snapshots and base backups: as they were, where they were, or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use varve_tests::cluster::{Cluster, Stop};
use varve_tests::session::simple;
use varve_tests::wait;

/// A directory of the server's user.
fn directory(cluster: &Cluster, name: &str) -> PathBuf {
    let dir = cluster.dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
    dir
}

fn start(settings: &[&str]) -> (Cluster, Client) {
    let settings = [&["fsync = off"], settings].concat();
    let cluster = Cluster::start_new(&settings).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let dir = directory(&cluster, "first");
    ok(
        &mut client,
        &format!(
            "CREATE SERVER first FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role 'primary')",
            dir.display()
        ),
    );
    (cluster, client)
}

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn one(client: &mut Client, sql: &str) -> String {
    ok(client, sql).concat()
}

fn code(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => e.code,
    }
}

/// Hypertable `prices`, a chunk a day: the first one cold, the second warm with thawed rows, the third hot. And what it holds, in
/// `reference`.
fn prices(client: &mut Client) {
    for statement in [
        "CREATE TABLE prices (symbol text, gone int, ts timestamptz NOT NULL, price numeric(12, 3), tags text[], twice float8 GENERATED ALWAYS AS (price * 2) STORED, PRIMARY KEY (symbol, ts))",
        "SELECT create_hypertable('prices', by_range('ts', interval '1 day'))",
        "CREATE INDEX ON prices (price)",
        "SELECT varve.enable('prices')",
        "INSERT INTO prices SELECT 'A', 1, timestamptz '2025-01-01 00:00Z' + i * interval '1 minute', i / 8.0, ARRAY['t' || i % 3, NULL] FROM generate_series(0, 1439) i",
        "ALTER TABLE prices DROP COLUMN gone",
        "ALTER TABLE prices ADD COLUMN note text DEFAULT 'né'",
        "INSERT INTO prices (symbol, ts, price) SELECT s, timestamptz '2025-01-02 00:00Z' + i * interval '1 minute', i FROM unnest('{A,B}'::text[]) s, generate_series(0, 2879) i",
        "SELECT varve.set_tier(chunk, CASE WHEN range_start < '2025-01-02 00:00Z' THEN 'cold' ELSE 'warm' END) FROM varve.chunks WHERE range_start < '2025-01-03 00:00Z'",
        "UPDATE prices SET note = NULL WHERE ts >= '2025-01-02 00:00Z' AND ts < '2025-01-02 01:00Z'",
        "CREATE TABLE reference AS SELECT * FROM prices",
        "SET TimeZone = 'UTC'",
    ] {
        ok(client, statement);
    }
}

/// The chunks in order: name, tier, rows.
fn chunks(client: &mut Client) -> Vec<(String, String)> {
    let rows = ok(
        client,
        "SELECT chunk, tier || ' ' || rows FROM varve.chunks WHERE hypertable = 'prices'::regclass ORDER BY range_start",
    );
    let pair = |row: String| {
        let (chunk, rest) = row.split_once('|').unwrap();
        (chunk.to_string(), rest.to_string())
    };
    rows.into_iter().map(pair).collect()
}

const WHOLE: [&str; 3] = ["cold 1440", "warm 2880", "hot 2880"];

fn check_whole(client: &mut Client) {
    let states: Vec<String> = chunks(client).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, WHOLE);
    let difference = "SELECT (SELECT count(*) FROM (SELECT t::text FROM prices t EXCEPT ALL SELECT t::text FROM reference t) x), \
         (SELECT count(*) FROM (SELECT t::text FROM reference t EXCEPT ALL SELECT t::text FROM prices t) x)";
    assert_eq!(one(client, difference), "0|0");
    assert_eq!(
        one(client, "SELECT bool_and(ok) FROM varve.verify('prices')"),
        "t"
    );
    // The indexes find all of it.
    ok(client, "SET enable_seqscan = off");
    assert_eq!(
        one(
            client,
            "SELECT count(*), sum(price) FROM prices WHERE symbol = 'A' AND ts = '2025-01-03 01:00Z'"
        ),
        "1|1500.000"
    );
    ok(client, "RESET enable_seqscan");
    assert_eq!(
        code(
            client,
            "INSERT INTO prices (symbol, ts) VALUES ('A', '2025-01-01 00:00Z')"
        ),
        "23505"
    );
}

/// Changes bytes of a relation's file while the server is down.
fn damage(cluster: &Cluster, client: &mut Client, relation: &str, bytes: std::ops::Range<usize>) {
    let file = one(
        client,
        &format!("SELECT pg_relation_filepath('{relation}')"),
    );
    let path = cluster.data().join(file);
    cluster.stop(Stop::Fast).unwrap();
    let mut content = std::fs::read(&path).unwrap();
    for byte in &mut content[bytes] {
        *byte ^= 0x55;
    }
    std::fs::write(&path, content).unwrap();
    cluster.start().unwrap();
    *client = cluster.connect().unwrap();
    ok(client, "SET TimeZone = 'UTC'");
}

/// Damages and drops chunks, and has them back from a backup or snapshot.
fn comes_back(cluster: &Cluster, client: &mut Client, id: &str) {
    check_whole(client);
    // The companion of the warm one.
    let all = chunks(client);
    let segments = one(
        client,
        &format!("SELECT varve.segment_table('{}')", all[1].0),
    );
    damage(cluster, client, &segments, 8092..8180);
    assert!(simple(client, "SELECT md5(string_agg(p::text, '')) FROM prices p").is_err());
    let call = format!(
        "SELECT * FROM varve.restore_chunk('{id}', '{}'::regclass)",
        all[1].0
    );
    assert_eq!(one(client, &call), format!("{}|2880", all[1].0));
    check_whole(client);
    // The heap of the hot one.
    damage(cluster, client, &all[2].0, 8192..16384);
    assert!(simple(client, "SELECT md5(string_agg(p::text, '')) FROM prices p").is_err());
    let call = format!("SELECT * FROM varve.restore_chunk('{id}', '{}')", all[2].0);
    assert_eq!(one(client, &call), format!("{}|2880", all[2].0));
    check_whole(client);
    // Rows that came or went since.
    ok(
        client,
        "DELETE FROM prices WHERE ts < '2025-01-01 12:00Z'; INSERT INTO prices (symbol, ts) VALUES ('Z', '2025-01-01 00:00Z')",
    );
    ok(client, "BEGIN");
    let call = format!(
        "SELECT rows FROM varve.restore_chunk('{id}', '{}')",
        all[0].0
    );
    assert_eq!(one(client, &call), "1440");
    ok(client, "ROLLBACK");
    assert_eq!(
        one(
            client,
            "SELECT count(*) FROM prices WHERE ts < '2025-01-02 00:00Z'"
        ),
        "721"
    );
    assert_eq!(one(client, &call), "1440");
    check_whole(client);
    // Dropped: one that was frozen, and one that was not.
    for dropped in [0, 2] {
        ok(client, &format!("DROP TABLE {}", all[dropped].0));
        let call = format!(
            "SELECT restored <> coalesce(to_regclass('{0}'), 0), rows FROM varve.restore_chunk('{id}', '{0}')",
            all[dropped].0
        );
        assert_eq!(
            one(client, &call),
            format!("t|{}", &WHOLE[dropped].split_once(' ').unwrap().1)
        );
        check_whole(client);
    }
    // One of its rows has been written anew meanwhile: nothing is changed.
    let second = chunks(client).remove(1).0;
    ok(client, &format!("DROP TABLE {second}"));
    ok(
        client,
        "INSERT INTO prices (symbol, ts, price) VALUES ('B', '2025-01-02 05:00Z', -1)",
    );
    let call = format!(
        "SELECT rows FROM varve.restore_chunk('{id}', '{}')",
        all[1].0
    );
    let error = simple(client, &call).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.contains("prices_pkey")),
        ("23505", true),
        "{error:?}"
    );
    assert_eq!(
        one(
            client,
            "SELECT count(*) FROM prices WHERE ts >= '2025-01-02 00:00Z' AND ts < '2025-01-03 00:00Z'"
        ),
        "1"
    );
    // Without it the others come into the chunk that there is by now.
    ok(client, "DELETE FROM prices WHERE price = -1");
    assert_eq!(one(client, &call), "2880");
    check_whole(client);
}

#[test]
fn from_a_snapshot() {
    let (cluster, mut client) = start(&[]);
    prices(&mut client);
    let id = one(&mut client, "SELECT varve.snapshot('prices')");
    comes_back(&cluster, &mut client, &id);
}

#[test]
fn from_a_base_backup() {
    let (cluster, mut client) = start(&[
        "archive_mode = on",
        "archive_library = 'varve'",
        "varve.max_workers = 2",
        "summarize_wal = on",
    ]);
    let scratch = directory(&cluster, "scratch");
    ok(
        &mut client,
        &format!(
            "ALTER SYSTEM SET varve.scratch_directory = '{}'",
            scratch.display()
        ),
    );
    prices(&mut client);
    ok(&mut client, "SELECT varve.backup('full')");
    ok(&mut client, "CREATE TABLE more (i int)");
    let id = one(&mut client, "SELECT varve.backup('incremental')");
    // Whatever the encoding of the session's client is.
    let second = chunks(&mut client)[1].0.clone();
    let call = format!(
        "SET client_encoding = 'LATIN1'; SELECT rows FROM varve.restore_chunk('{id}', '{second}'); RESET client_encoding"
    );
    ok(&mut client, &call);
    comes_back(&cluster, &mut client, &id);
    // As it was at a moment after the backup.
    let first = chunks(&mut client)[0].0.clone();
    ok(
        &mut client,
        "UPDATE prices SET note = 'later' WHERE ts < '2025-01-02 00:00Z'",
    );
    let moment = one(&mut client, "SELECT clock_timestamp()");
    ok(
        &mut client,
        "DELETE FROM prices WHERE ts < '2025-01-02 00:00Z'",
    );
    wait::archived(&mut client);
    let call = format!("SELECT rows FROM varve.restore_chunk('{id}', '{first}', '{moment}')");
    assert_eq!(one(&mut client, &call), "1440");
    assert_eq!(
        one(
            &mut client,
            "SELECT count(*), min(note), max(note) FROM prices WHERE ts < '2025-01-02 00:00Z'"
        ),
        "1440|later|later"
    );
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);
    let call = format!("SELECT varve.restore_chunk('{id}', 'public.nothing')");
    assert_eq!(code(&mut client, &call), "42704");
    let call = format!("SELECT varve.restore_chunk('none', '{first}')");
    assert_eq!(code(&mut client, &call), "42704");
}

#[test]
fn what_cannot_come_back() {
    let (_cluster, mut client) = start(&[]);
    prices(&mut client);
    ok(
        &mut client,
        "CREATE TABLE plain (id int PRIMARY KEY, x text); INSERT INTO plain SELECT i, 'x' FROM generate_series(1, 100) i; CREATE ROLE joe",
    );
    let of_plain = one(&mut client, "SELECT varve.snapshot('plain')");
    let id = one(&mut client, "SELECT varve.snapshot('prices')");
    let first = chunks(&mut client)[0].0.clone();
    let restore = |chunk: &str| format!("SELECT rows FROM varve.restore_chunk('{id}', '{chunk}')");
    assert_eq!(code(&mut client, &restore("plain")), "42704");
    assert_eq!(
        code(&mut client, "SELECT varve.restore_chunk(NULL, 'x')"),
        "22004"
    );
    let timed = format!("SELECT varve.restore_chunk('{id}', '{first}', now())");
    assert_eq!(code(&mut client, &timed), "22023");
    // Those who may.
    ok(&mut client, "SET ROLE joe");
    assert_eq!(code(&mut client, &restore(&first)), "42501");
    ok(
        &mut client,
        "RESET ROLE; GRANT EXECUTE ON FUNCTION varve.restore_chunk(text, text, timestamptz) TO joe; GRANT USAGE ON FOREIGN SERVER first TO joe; \
         GRANT ALL ON prices TO joe; SET ROLE joe",
    );
    assert_eq!(code(&mut client, &restore(&first)), "42501");
    ok(&mut client, "RESET ROLE");
    // Triggers see what comes, and a foreign key does.
    ok(
        &mut client,
        "CREATE TABLE symbols (symbol text PRIMARY KEY); INSERT INTO symbols VALUES ('A'), ('B'); \
         ALTER TABLE prices ADD FOREIGN KEY (symbol) REFERENCES symbols; DELETE FROM prices WHERE symbol = 'A'; DELETE FROM symbols WHERE symbol = 'A'",
    );
    let rows = one(&mut client, "SELECT count(*) FROM prices");
    assert_eq!(code(&mut client, &restore(&first)), "23503");
    assert_eq!(one(&mut client, "SELECT count(*) FROM prices"), rows);
    ok(&mut client, "INSERT INTO symbols VALUES ('A')");
    assert_eq!(one(&mut client, &restore(&first)), "1440");
    ok(
        &mut client,
        "ALTER TABLE prices DROP CONSTRAINT prices_symbol_fkey",
    );
    // They run as they do elsewhere.
    ok(
        &mut client,
        "CREATE TABLE told (zone text, path text); SET TimeZone = 'Asia/Tokyo'; \
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO told SELECT current_setting(''TimeZone''), current_setting(''search_path''); RETURN NEW; END'; \
         CREATE TRIGGER tells BEFORE INSERT ON prices FOR EACH ROW EXECUTE FUNCTION tell()",
    );
    assert_eq!(one(&mut client, &restore(&first)), "1440");
    assert_eq!(
        ok(&mut client, "SELECT DISTINCT zone, path FROM told"),
        [format!(
            "Asia/Tokyo|{}",
            one(&mut client, "SHOW search_path")
        )]
    );
    // One that lets nothing in does not leave to guess where it would have gone.
    ok(
        &mut client,
        &format!(
            "CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; BEGIN; DROP TABLE {first}"
        ),
    );
    assert_eq!(code(&mut client, &restore(&first)), "09000");
    ok(
        &mut client,
        "ROLLBACK; DROP TRIGGER tells ON prices; SET TimeZone = 'UTC'",
    );
    // Another definition.
    ok(&mut client, "ALTER TABLE prices ADD COLUMN more int");
    assert_eq!(code(&mut client, &restore(&first)), "42804");
    ok(
        &mut client,
        "ALTER TABLE prices DROP COLUMN more, ALTER COLUMN note TYPE varchar(9)",
    );
    assert_eq!(code(&mut client, &restore(&first)), "42804");
    ok(&mut client, "DROP TABLE prices");
    assert_eq!(code(&mut client, &restore(&first)), "42P01");
    // A table is a chunk of its own.
    ok(&mut client, "DELETE FROM plain WHERE id > 50");
    let call = format!("SELECT * FROM varve.restore_chunk('{of_plain}', 'plain')");
    assert_eq!(one(&mut client, &call), "plain|100");
}
