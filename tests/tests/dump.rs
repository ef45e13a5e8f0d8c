//! pg_dump and restore of a database with frozen and half-thawed chunks: every row once, no companions, tables that work.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;
use varve_tests::twin::{self, FREEZE, both};

/// A hypertable with frozen, half-thawed and hot chunks; an ordinary and a partitioned table, frozen.
fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    twin::create(&mut client).unwrap();
    client
        .batch_execute(
            "CREATE TABLE plain (id int PRIMARY KEY, v numeric, tags text[], j jsonb, twice int GENERATED ALWAYS AS (id * 2) STORED, n int GENERATED ALWAYS AS IDENTITY);
             INSERT INTO plain SELECT i, i / 7.0, ARRAY['a', NULL, i::text], jsonb_build_object('i', i) FROM generate_series(1, 1000) i;
             CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY HASH (id);
             CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             INSERT INTO parts SELECT i, -i FROM generate_series(1, 1000) i;
             CREATE TABLE of_plain (id int PRIMARY KEY REFERENCES plain);
             INSERT INTO of_plain SELECT i FROM generate_series(1, 1000, 10) i;
             SELECT varve.enable('plain'), varve.enable('parts'), varve.enable('of_plain')",
        )
        .unwrap();
    client.batch_execute(FREEZE).unwrap();
    client
        .batch_execute("SELECT varve.set_tier(t, 'warm') FROM unnest('{plain,parts_0,parts_1,of_plain}'::regclass[]) t")
        .unwrap();
    client
        .batch_execute(&both(
            "UPDATE {t} SET note = 'changed' WHERE ts < '2024-01-10' AND symbol = 3",
        ))
        .unwrap();
    client
        .batch_execute("SELECT varve.set_tier(c, 'hot') FROM show_chunks('bars', newer_than => timestamptz '2024-01-15') c;
                        SELECT varve.set_tier(c, 'cold') FROM show_chunks('bars', older_than => timestamptz '2024-01-08') c;
                        SELECT varve.set_tier('parts_0', 'cold');
                        DELETE FROM plain WHERE id % 10 = 5; UPDATE parts SET v = 0 WHERE id = 7")
        .unwrap();
    (cluster, client)
}

const TABLES: &[(&str, &str)] = &[
    ("bars", "symbol, ts"),
    ("plain", "id"),
    ("parts", "id"),
    ("of_plain", "id"),
];

fn contents(client: &mut Client) -> Vec<String> {
    TABLES
        .iter()
        .map(|(table, key)| {
            let sql = format!("SELECT '{table} ' || count(*) || ' ' || md5(string_agg(x::text, ',' ORDER BY {key})) FROM {table} x");
            let checksum = format!("SELECT ' ' || sum(rows) || ' ' || varve.checksum_sum(checksum) FROM varve.checksums('{table}')");
            [sql, checksum]
                .map(|sql| simple(client, &sql).unwrap().concat())
                .concat()
        })
        .collect()
}

const MANAGED: &str =
    "SELECT relation, segment_by, order_by FROM varve.managed ORDER BY relation::text";

/// What TimescaleDB asks for before and after a restore.
fn prepare(cluster: &Cluster, database: &str) -> Client {
    cluster.run("createdb", &[database]).unwrap();
    let mut client = cluster.config(database).connect(NoTls).unwrap();
    client
        .batch_execute("SET client_min_messages = error; CREATE EXTENSION timescaledb; SELECT timescaledb_pre_restore()")
        .unwrap();
    client
}

/// Rows, care and order are as in the database that was dumped, and the tables work.
fn check(original: &mut Client, restored: &mut Client, what: &str) {
    restored
        .batch_execute("SELECT timescaledb_post_restore()")
        .unwrap();
    assert_eq!(contents(restored), contents(original), "{what}");
    assert_eq!(
        simple(restored, MANAGED),
        simple(original, MANAGED),
        "{what}"
    );
    let companions =
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace";
    assert_eq!(simple(restored, companions).unwrap(), ["0"], "{what}");
    restored.batch_execute(FREEZE).unwrap();
    restored
        .batch_execute("SELECT varve.set_tier(t, 'warm') FROM unnest('{plain,parts_0,parts_1,of_plain}'::regclass[]) t")
        .unwrap();
    assert_eq!(contents(restored), contents(original), "{what}, frozen");
    let hot = "SELECT count(*) FROM varve.chunks WHERE tier <> 'warm'";
    assert_eq!(simple(restored, hot).unwrap(), ["0"], "{what}");
    let chunks = "SELECT count(*) FROM varve.chunks";
    assert_eq!(simple(restored, chunks), simple(original, chunks), "{what}");
    restored
        .batch_execute(&both("UPDATE {t} SET close = 0 WHERE symbol = 1"))
        .unwrap();
    restored
        .batch_execute(&both("INSERT INTO {t} VALUES (1, '2024-01-02 00:00:00+00', 1), (1, '2025-01-02 00:00:00+00', 1) ON CONFLICT (symbol, ts) DO UPDATE SET close = 9"))
        .unwrap();
    twin::check(restored, what);
}

#[test]
fn custom_format() {
    let (cluster, mut client) = start();
    let file = cluster.dir().join("custom.dump");
    let file = file.to_str().unwrap();
    cluster
        .run("pg_dump", &["--format=custom", "--file", file, "postgres"])
        .unwrap();
    let list = cluster.run("pg_restore", &["--list", file]).unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(!list.contains("segments_"), "{list}");
    assert!(!list.contains("tombstones_"), "{list}");
    let mut restored = prepare(&cluster, "restored");
    cluster
        .run(
            "pg_restore",
            &["--exit-on-error", "--dbname=restored", file],
        )
        .unwrap();
    check(&mut client, &mut restored, "custom format");
    // What was restored can be dumped and restored in turn.
    cluster
        .run("pg_dump", &["--format=custom", "--file", file, "restored"])
        .unwrap();
    let mut again = prepare(&cluster, "again");
    cluster
        .run("pg_restore", &["--exit-on-error", "--dbname=again", file])
        .unwrap();
    check(&mut restored, &mut again, "a dump of what was restored");
}

#[test]
fn plain_format() {
    let (cluster, mut client) = start();
    for (number, options) in [&["--inserts"][..], &[], &["--quote-all-identifiers"]]
        .iter()
        .enumerate()
    {
        let file = cluster.dir().join("plain.sql");
        let path = file.to_str().unwrap();
        let mut args = vec!["--format=plain", "--file", path, "postgres"];
        args.extend_from_slice(options);
        cluster.run("pg_dump", &args).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("segments_") && !text.contains("tombstones_"));
        let database = format!("restored_{number}");
        let mut restored = prepare(&cluster, &database);
        cluster
            .run(
                "psql",
                &[
                    "--no-psqlrc",
                    "--quiet",
                    "--set=ON_ERROR_STOP=1",
                    "--dbname",
                    &database,
                    "--file",
                    path,
                ],
            )
            .unwrap();
        check(
            &mut client,
            &mut restored,
            &format!("plain format {options:?}"),
        );
    }
}

#[test]
fn directory_format_with_two_jobs() {
    let (cluster, mut client) = start();
    let dir = cluster.dir().join("directory.dump");
    let dir = dir.to_str().unwrap();
    cluster
        .run(
            "pg_dump",
            &["--format=directory", "--jobs=2", "--file", dir, "postgres"],
        )
        .unwrap();
    let mut restored = prepare(&cluster, "restored");
    // TimescaleDB's manual asks for a restore by one job.
    cluster
        .run("pg_restore", &["--exit-on-error", "--dbname=restored", dir])
        .unwrap();
    check(&mut client, &mut restored, "directory format");
}

#[test]
fn data_only_into_tables_that_are_there() {
    let (cluster, mut client) = start();
    let file = cluster.dir().join("data.sql");
    let path = file.to_str().unwrap();
    // Tables without TimescaleDB's catalogue: their data alone moves into tables made beforehand.
    cluster
        .run(
            "pg_dump",
            &[
                "--data-only",
                "--table=plain",
                "--table=parts",
                "--table=parts_0",
                "--table=parts_1",
                "--file",
                path,
                "postgres",
            ],
        )
        .unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("COPY public.plain"));
    let before = contents(&mut client);
    client
        .batch_execute("TRUNCATE plain, parts, of_plain; SELECT varve.set_tier(t, 'warm') FROM unnest('{plain,parts_0,parts_1}'::regclass[]) t")
        .unwrap();
    cluster
        .run(
            "psql",
            &[
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                "--dbname=postgres",
                "--file",
                path,
            ],
        )
        .unwrap();
    let after = contents(&mut client);
    assert_eq!(after[..3], before[..3]);
}

#[test]
fn copy_out_of_and_into_frozen_chunks() {
    let (cluster, mut client) = start();
    let file = cluster.dir().join("bars.csv");
    let path = file.to_str().unwrap();
    client
        .batch_execute(&format!(
            "COPY (SELECT * FROM bars ORDER BY symbol, ts) TO '{path}' (FORMAT csv)"
        ))
        .unwrap();
    let lines = std::fs::read_to_string(&file).unwrap().lines().count();
    let rows = simple(&mut client, "SELECT count(*) FROM twin").unwrap();
    assert_eq!(rows, [lines.to_string()]);
    let error = simple(
        &mut client,
        &format!("COPY bars FROM '{path}' (FORMAT csv)"),
    )
    .unwrap_err();
    assert_eq!(error.code, "23505", "{error:?}");
    client
        .batch_execute("DELETE FROM bars WHERE symbol <= 6")
        .unwrap();
    client.batch_execute(FREEZE).unwrap();
    client
        .batch_execute(&format!(
            "COPY bars FROM '{path}' (FORMAT csv) WHERE symbol <= 6"
        ))
        .unwrap();
    twin::check(&mut client, "copied back");
}
