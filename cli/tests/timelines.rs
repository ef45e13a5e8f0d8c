//! A server that was restored goes on on a timeline of its own, and backups of the one that was left lead nowhere.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, sum};

/// The newest backup ended on the old timeline after the new one had begun: no restore begins with it.
#[test]
fn a_backup_of_a_timeline_that_was_left() {
    let mut bench = Bench::new();
    let setup = "CREATE TABLE x AS SELECT i AS n FROM generate_series(1, 1000) i";
    bench.client.batch_execute(setup).unwrap();
    let before = bench.backup("full");
    bench.archived();
    let store = bench.store();
    let command = format!("archive_command={} wal-put %p --to {store}", common::VARVE);
    let restored = bench.restored("one", &["--set", "archive_mode=on", "--set", &command]);
    // The old server writes on, and is backed up.
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (0)")
        .unwrap();
    bench.archived();
    let left = bench.backup("full");
    bench.client = restored.connect();
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (-1)")
        .unwrap();
    bench.archived();
    let chosen = |arguments: &[&str]| {
        let plan = bench.ok(&[&["plan", "--from", &store], arguments].concat());
        let command = plan.lines().last().unwrap().to_owned();
        let (_, id) = command.split_once("--backup ").unwrap();
        id.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(chosen(&[]), before);
    assert_eq!(chosen(&["--timeline", "1"]), left);
    assert_eq!(chosen(&["--timeline", "current"]), left);
    let again = bench.restored("again", &[]);
    let mut client = restored.connect();
    assert_eq!(sum(&mut again.connect(), "x"), sum(&mut client, "x"));
    let conninfo = format!("host={} port=5432 user=postgres", restored.pgdata.display());
    let take = ["backup", "--to", &store, "--conninfo", &conninfo, "--quiet"];
    let new = bench.ok(&take);
    assert_eq!(chosen(&[]), new);
}
