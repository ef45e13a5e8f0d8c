//! Servers whose `shared_preload_libraries` lack varve or TimescaleDB: clear errors, and never a frozen row unseen.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;
use varve_tests::twin::{self, FREEZE};

fn extensions(client: &mut Client) -> Vec<String> {
    simple(
        client,
        "SELECT extname FROM pg_extension WHERE extname IN ('varve', 'timescaledb') ORDER BY 1",
    )
    .unwrap()
}

#[test]
fn varve_needs_to_be_preloaded() {
    let cluster =
        Cluster::start_new(&["fsync = off", "shared_preload_libraries = 'timescaledb'"]).unwrap();
    let mut client = cluster.connect().unwrap();
    let error = simple(&mut client, "CREATE EXTENSION varve CASCADE").unwrap_err();
    assert_eq!(error.code, "55000", "{error:?}");
    assert!(
        error.message.contains("shared_preload_libraries"),
        "{error:?}"
    );
    assert!(error.hint.unwrap().contains("varve"));
    assert!(extensions(&mut client).is_empty());
}

#[test]
fn timescaledb_needs_to_be_preloaded() {
    let cluster =
        Cluster::start_new(&["fsync = off", "shared_preload_libraries = 'varve'"]).unwrap();
    let mut client = cluster.connect().unwrap();
    // TimescaleDB's own error, which ends the session.
    let error = simple(&mut client, "CREATE EXTENSION varve CASCADE").unwrap_err();
    let told = error.message.contains("timescaledb") && error.hint.is_some();
    // Where the connection was gone before the client had read it, the log has it.
    let logged = || cluster.log().contains("must be preloaded");
    assert!(told || error.code == "lost" && logged(), "{error:?}");
    let mut client = cluster.connect().unwrap();
    assert!(extensions(&mut client).is_empty());
    let error = simple(&mut client, "CREATE EXTENSION varve").unwrap_err();
    assert!(error.hint.is_some(), "{error:?}");
}

#[test]
fn either_order_will_do() {
    let cluster = Cluster::start_new(&[
        "fsync = off",
        "shared_preload_libraries = 'varve,timescaledb'",
    ])
    .unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    twin::create(&mut client).unwrap();
    client.batch_execute(FREEZE).unwrap();
    client
        .batch_execute(&twin::both("UPDATE {t} SET close = 0 WHERE symbol = 2"))
        .unwrap();
    twin::check(&mut client, "varve before timescaledb");
}

/// What touches a table with frozen rows.
const USES: &[&str] = &[
    "SELECT count(*) FROM frozen",
    "SELECT v FROM frozen WHERE id = 5",
    "INSERT INTO frozen VALUES (5, 0)",
    "INSERT INTO frozen VALUES (5, 0) ON CONFLICT (id) DO UPDATE SET v = 0",
    "UPDATE frozen SET v = 0 WHERE id = 5",
    "DELETE FROM frozen WHERE id = 5",
    "COPY frozen TO STDOUT",
    "TABLESAMPLE",
    "VACUUM FULL frozen",
    "ANALYZE frozen",
    "CREATE INDEX ON frozen (v)",
    "ALTER TABLE frozen ADD COLUMN w int DEFAULT random()",
    "ALTER TABLE frozen SET ACCESS METHOD heap",
    "INSERT INTO child VALUES (5)",
    "TRUNCATE frozen CASCADE",
    "DROP TABLE frozen CASCADE",
    "CREATE TABLE another (id int) USING varve",
    "SELECT varve.enable('plain')",
    "SELECT varve.set_tier('frozen', 'hot')",
    "SELECT * FROM varve.chunks",
    "SELECT * FROM varve.verify('frozen')",
];

fn with_frozen_rows() -> (Cluster, Vec<String>) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum_naptime = 1s"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(
            "CREATE TABLE frozen (id int PRIMARY KEY, v int); INSERT INTO frozen SELECT i, i FROM generate_series(1, 1000) i;
             CREATE TABLE child (id int REFERENCES frozen); CREATE TABLE plain (id int PRIMARY KEY);
             CREATE TABLE bars (symbol int, ts timestamptz, v int, PRIMARY KEY (symbol, ts)); SELECT create_hypertable('bars', 'ts');
             INSERT INTO bars SELECT i, '2024-01-01 00:00:00+00', i FROM generate_series(1, 1000) i;
             SELECT varve.enable('frozen'), varve.enable('bars')",
        )
        .unwrap();
    client
        .batch_execute(&format!(
            "SELECT varve.set_tier('frozen', 'warm'); {FREEZE}"
        ))
        .unwrap();
    client
        .batch_execute(
            "UPDATE frozen SET v = -1 WHERE id > 990; DELETE FROM bars WHERE symbol > 990",
        )
        .unwrap();
    let rows = contents(&mut client);
    (cluster, rows)
}

fn contents(client: &mut Client) -> Vec<String> {
    simple(
        client,
        "SELECT count(*), sum(v), (SELECT count(*) || ' ' || sum(v) FROM bars) FROM frozen",
    )
    .unwrap()
}

#[test]
fn frozen_rows_are_never_unseen_where_varve_is_not_preloaded() {
    let (cluster, rows) = with_frozen_rows();
    cluster
        .restart_with(&["shared_preload_libraries = 'timescaledb'"])
        .unwrap();
    let mut client = cluster.connect().unwrap();
    let mut wrong = Vec::new();
    for sql in USES {
        let sql = if *sql == "TABLESAMPLE" {
            "SELECT count(*) FROM frozen TABLESAMPLE system (100)"
        } else {
            sql
        };
        match simple(&mut client, &format!("BEGIN; {sql}")) {
            Ok(rows) => wrong.push(format!("{sql}: no error, but {rows:?}")),
            // VACUUM won't run in a transaction block, with or without varve.
            Err(e) if sql.starts_with("VACUUM") && e.code == "25001" => {
                let e = simple(&mut client, &format!("ROLLBACK; {sql}"));
                if !matches!(&e, Err(e) if e.code == "25001") {
                    wrong.push(format!("{sql}: {e:?}"));
                }
            }
            Err(e) if e.code != "55000" || e.hint.is_none() => wrong.push(format!("{sql}: {e:?}")),
            Err(_) => {}
        }
        let _ = simple(&mut client, "ROLLBACK");
        if client.is_closed() {
            wrong.push(format!("{sql}: the connection broke"));
            client = cluster.connect().unwrap();
        }
    }
    let vacuumed = simple(&mut client, "VACUUM frozen");
    println!("VACUUM: {vacuumed:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // With varve in its place again, nothing is missing.
    cluster
        .restart_with(&["shared_preload_libraries = 'timescaledb,varve'"])
        .unwrap();
    let mut client = cluster.connect().unwrap();
    assert_eq!(contents(&mut client), rows);
    assert!(!cluster.log().contains("terminated by signal"));
}

#[test]
fn frozen_rows_are_there_or_an_error_where_timescaledb_is_not_preloaded() {
    let (cluster, rows) = with_frozen_rows();
    cluster
        .restart_with(&["shared_preload_libraries = 'varve'"])
        .unwrap();
    for sql in ["SELECT count(*) FROM frozen", "SELECT count(*) FROM bars"] {
        // TimescaleDB may end the session that needs it.
        let mut client = cluster.connect().unwrap();
        match simple(&mut client, sql) {
            Ok(count) => {
                let expected = if sql.contains("bars") { "990" } else { "1000" };
                assert_eq!(count, [expected], "{sql}");
            }
            Err(e) => assert!(e.hint.is_some(), "{sql}: {e:?}"),
        }
    }
    cluster
        .restart_with(&["shared_preload_libraries = 'timescaledb,varve'"])
        .unwrap();
    let mut client = cluster.connect().unwrap();
    assert_eq!(contents(&mut client), rows);
}
