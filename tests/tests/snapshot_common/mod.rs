//! What tests of snapshots need: a server with a store, a hypertable with chunks of every kind, and looks at what came back.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;

/// A directory of the server's user in the cluster's, as a store.
pub fn store(cluster: &Cluster, client: &mut Client, name: &str, role: &str) -> PathBuf {
    let dir = cluster.dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
    ok(
        client,
        &format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role '{role}')",
            dir.display()
        ),
    );
    dir
}

/// A server with a store under the name `first`.
pub fn start(settings: &[&str]) -> (Cluster, Client, PathBuf) {
    let settings = [&["fsync = off"], settings].concat();
    let cluster = Cluster::start_new(&settings).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let dir = store(&cluster, &mut client, "first", "primary");
    (cluster, client, dir)
}

pub fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

pub fn one(client: &mut Client, sql: &str) -> String {
    ok(client, sql).concat()
}

pub fn code(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => e.code,
    }
}

/// How many rows one table has that the other has not, and the other way round, compared as text: exactly, whatever `=` says.
pub fn difference(client: &mut Client, a: &str, b: &str) -> String {
    one(
        client,
        &format!(
            "SELECT (SELECT count(*) FROM (SELECT t::text FROM {a} t EXCEPT ALL SELECT t::text FROM {b} t) x), \
             (SELECT count(*) FROM (SELECT t::text FROM {b} t EXCEPT ALL SELECT t::text FROM {a} t) x), \
             (SELECT count(*) FROM {a}) > 0"
        ),
    )
}

/// The definition of a table as pg_dump has it; `S` stands for its schema, and for `public`.
pub fn definition(cluster: &Cluster, schema: &str, table: &str) -> String {
    let dumped = cluster
        .run(
            "pg_dump",
            &[
                "--schema-only",
                "--no-owner",
                "--table",
                &format!("{schema}.{table}"),
                "postgres",
            ],
        )
        .unwrap();
    let text = String::from_utf8(dumped.stdout).unwrap();
    text.lines()
        .filter(|line| !line.starts_with("--") && !line.starts_with('\\') && !line.is_empty())
        .map(|line| {
            let line = line.replace(&format!("{schema}."), "S.");
            line.replace("public.", "S.") + "\n"
        })
        .collect()
}

/// Hypertable `prices`, four days of three symbols, with a chunk that is hot, frozen ones of both tiers, and one that is half thawed.
pub const PRICES: &str = "
CREATE TABLE prices (symbol text NOT NULL, ts timestamptz NOT NULL, price float8, volume bigint, gone int, note text DEFAULT 'x', PRIMARY KEY (symbol, ts));
SELECT create_hypertable('prices', by_range('ts', interval '1 day'));
SELECT add_dimension('prices', by_hash('symbol', 2));
CREATE INDEX ON prices (volume DESC);
ALTER TABLE prices DROP COLUMN gone;
SELECT varve.enable('prices');
INSERT INTO prices SELECT s, timestamptz '2025-01-01 00:00Z' + i * interval '1 minute', i / 7.0, i, repeat('n', i % 5)
    FROM unnest('{A,B,C}'::text[]) s, generate_series(0, 4 * 1440 - 1) i;
SELECT count(varve.set_tier(c.chunk, CASE WHEN c.range_start < timestamptz '2025-01-02 00:00Z' THEN 'cold' ELSE 'warm' END))
    FROM varve.chunks c WHERE c.range_start < timestamptz '2025-01-04 00:00Z';
UPDATE prices SET price = -1 WHERE ts >= '2025-01-03 00:00Z' AND ts < '2025-01-03 06:00Z';
DELETE FROM prices WHERE ts >= '2025-01-03 12:00Z' AND ts < '2025-01-03 13:00Z' AND symbol = 'B';
SELECT set_chunk_time_interval('prices', interval '1 week', 'ts');
INSERT INTO prices SELECT 'A', timestamptz '2025-02-01 00:00Z' + i * interval '1 hour', i FROM generate_series(0, 1000) i;
";

pub fn prices(client: &mut Client) {
    for statement in PRICES.split(";\n") {
        ok(client, statement);
    }
}

/// What chunks a table has: their ranges, tiers and rows.
pub fn chunks(client: &mut Client, table: &str) -> Vec<String> {
    ok(
        client,
        &format!(
            "SELECT range_start, range_end, tier, rows, CASE WHEN tier <> 'hot' THEN delta_rows END FROM varve.chunks \
             WHERE hypertable = '{table}'::regclass ORDER BY 1, 4, 5"
        ),
    )
}

/// The objects of a snapshot whose names end so.
pub fn objects(dir: &Path, id: &str, end: &str) -> Vec<PathBuf> {
    let found = std::fs::read_dir(dir.join("snapshots").join(id)).unwrap();
    let mut all: Vec<PathBuf> = found.map(|f| f.unwrap().path()).collect();
    all.retain(|path| path.to_string_lossy().ends_with(end));
    all.sort();
    all
}
