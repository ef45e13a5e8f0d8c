//! What tests of `varve.watch` need: a server, and what is told in short.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::{one, rows};

/// A server with the extension, with more settings on top.
pub fn start(settings: &[&str]) -> (Cluster, Client) {
    // A worker's snapshot would keep rows from being frozen for a moment.
    let quiet = "timescaledb.max_background_workers = 0";
    let settings = [&["fsync = off", "autovacuum = off", quiet], settings].concat();
    let cluster = Cluster::start_new(&settings).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    one(&mut client, "SET TIME ZONE 'UTC'");
    (cluster, client)
}

/// What has changed, in the order of the keys: operation and key.
pub fn changes(client: &mut Client, arguments: &str) -> Vec<String> {
    rows(
        client,
        &format!("SELECT op, key FROM varve.detect_changes({arguments}) ORDER BY key, op"),
    )
}

/// How many rows have changed, by operation.
pub fn counts(client: &mut Client, arguments: &str) -> String {
    let sql = format!(
        "SELECT op || ' ' || count(*) FROM varve.detect_changes({arguments}) GROUP BY op ORDER BY op"
    );
    rows(client, &sql).join(", ")
}

/// SQLSTATE, message and detail of an error, which has a hint.
pub fn refused(client: &mut Client, sql: &str) -> String {
    let error = client.simple_query(sql).expect_err(sql);
    let error = error.as_db_error().unwrap();
    assert!(error.hint().is_some(), "{sql}: {error}");
    let detail = error.detail().unwrap_or_default();
    format!("{} {} {detail}", error.code().code(), error.message())
}

/// Tables of segments that are kept for checkpoints only.
pub fn kept(client: &mut Client) -> String {
    one(
        client,
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'kept\\_segments\\_%' AND relkind = 'r'",
    )
}
