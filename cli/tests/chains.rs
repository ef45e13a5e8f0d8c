//! Full, differential and incremental backups of a server that is written to, restored and started.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Bench, sum};

/// Each kind is restored to a named point behind it: what was there then is there, and nothing of later.
#[test]
fn every_kind_under_load() {
    let mut bench = Bench::new();
    let setup = "CREATE TABLE facts (k int PRIMARY KEY, v text);
        INSERT INTO facts SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i;
        CREATE TABLE load (n bigint PRIMARY KEY, h text)";
    bench.client.batch_execute(setup).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, config) = (Arc::clone(&stop), bench.cluster.config("postgres"));
        std::thread::spawn(move || {
            let mut client = config.connect(postgres::NoTls).unwrap();
            let mut n: i64 = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                client
                    .execute("INSERT INTO load VALUES ($1, md5($1::bigint::text))", &[&n])
                    .unwrap();
            }
        })
    };
    let mut points = Vec::new();
    let kinds = [
        "full",
        "incremental",
        "incremental",
        "differential",
        "incremental",
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let change = format!(
            "UPDATE facts SET v = v || '{number}' WHERE k % 100 = {number};
             INSERT INTO facts VALUES ({}, '{kind}')",
            100_000 + number
        );
        bench.client.batch_execute(&change).unwrap();
        let id = bench.backup(kind);
        let change = format!("DELETE FROM facts WHERE k % 1000 = {number}");
        bench.client.batch_execute(&change).unwrap();
        let expected = sum(&mut bench.client, "facts");
        let name = format!("point {number}");
        bench
            .client
            .execute("SELECT pg_create_restore_point($1)", &[&name])
            .unwrap();
        points.push((id, name, expected));
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    bench.client.batch_execute("TRUNCATE facts").unwrap();
    bench.archived();

    let verified = bench.ok(&["verify", "--from", &bench.store()]);
    assert!(verified.contains(" 0 damaged"), "{verified}");
    let listed = bench.ok(&["list", "--from", &bench.store(), "--json"]);
    let chain: Vec<serde_json::Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let parents: Vec<Option<&str>> = chain.iter().map(|b| b["parent"].as_str()).collect();
    let ids: Vec<Option<&str>> = chain.iter().map(|b| b["id"].as_str()).collect();
    assert_eq!(parents, [None, ids[0], ids[1], ids[0], ids[3]]);

    for (number, (id, name, expected)) in points.iter().enumerate() {
        let restored = bench.restored(
            &format!("restored{number}"),
            &["--backup", id, "--to-name", name],
        );
        let mut client = restored.connect();
        assert_eq!(sum(&mut client, "facts"), *expected, "{id}");
        let whole: bool = client
            .query_one(
                "SELECT count(*) = coalesce(max(n), 0) AND bool_and(h = md5(n::text)) IS NOT false FROM load",
                &[],
            )
            .unwrap()
            .get(0);
        assert!(whole, "{id}");
    }
}

/// A tablespace goes elsewhere; recovery ends between two transactions that are known.
#[test]
fn tablespaces_and_a_point_in_time() {
    let mut bench = Bench::new();
    let old = bench.directory("tablespace");
    bench
        .client
        .batch_execute(&format!("CREATE TABLESPACE t LOCATION '{}'", old.display()))
        .unwrap();
    bench
        .client
        .batch_execute(
            "CREATE TABLE x (n int) TABLESPACE t; INSERT INTO x SELECT generate_series(1, 100000)",
        )
        .unwrap();
    bench.backup("full");
    bench
        .client
        .batch_execute("INSERT INTO x SELECT generate_series(1, 1000)")
        .unwrap();
    let incremental = bench.backup("incremental");
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (-1)")
        .unwrap();
    let between: String = bench
        .client
        .query_one("SELECT clock_timestamp()::text", &[])
        .unwrap()
        .get(0);
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (-2)")
        .unwrap();
    bench.archived();
    let new = bench.path("moved");
    let map = format!("{}={}", old.display(), new.display());
    let plan = bench.ok(&["plan", "--from", &bench.store(), "--to-time", &between]);
    assert!(
        plan.contains(&incremental) && plan.contains("2. Fetch and unpack"),
        "{plan}"
    );
    let restored = bench.restored("point", &["--to-time", &between, "--tablespace-map", &map]);
    let mut client = restored.connect();
    let found: Vec<i32> = client
        .query("SELECT n FROM x WHERE n < 0", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(found, [-1]);
    let location: String = client
        .query_one(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 't'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(location, new.to_str().unwrap());
    let count: i64 = client
        .query_one("SELECT count(*) FROM x", &[])
        .unwrap()
        .get(0);
    assert_eq!(count, 101_001);
    drop(restored);
    // A full one unpacks into the tablespace's directory at once, and refuses one that is not empty.
    let full = ["--to-backup", "--tablespace-map", &map];
    let pgdata = bench.path("again");
    let (code, said) = bench.fails(
        &[
            &[
                "restore",
                "--from",
                &bench.store(),
                "--pgdata",
                pgdata.to_str().unwrap(),
            ],
            &full[..],
        ]
        .concat(),
    );
    assert!(code == 4 && said.contains("is not empty"), "{said}");
    let elsewhere = format!("{}={}", old.display(), bench.path("third").display());
    let listed = bench.ok(&["list", "--from", &bench.store()]);
    let id = listed
        .lines()
        .find(|l| l.contains("-full"))
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let restored = bench.restored(
        "full",
        &[
            "--backup",
            id,
            "--to-backup",
            "--tablespace-map",
            &elsewhere,
        ],
    );
    let count: i64 = restored
        .connect()
        .query_one("SELECT count(*) FROM x", &[])
        .unwrap()
        .get(0);
    assert_eq!(count, 100_000);
}

/// A backup with its own WAL needs no archive.
#[test]
fn a_backup_that_includes_its_wal() {
    let mut bench = Bench::new();
    bench
        .client
        .batch_execute("CREATE TABLE x AS SELECT generate_series(1, 1000) n")
        .unwrap();
    bench.directory("alone");
    let alone = bench.url("alone");
    bench.ok(&["backup", "--to", &alone, "--include-wal"]);
    let verified = bench.ok(&["verify", "--from", &alone]);
    assert!(verified.contains(" 0 damaged"), "{verified}");
    let restored = bench.restored("restored", &["--from", &alone]);
    assert_eq!(
        sum(&mut restored.connect(), "x"),
        sum(&mut bench.client, "x")
    );
}

/// A restored server goes on in the same store, on a timeline of its own; what it wrote can be had from the old backup.
#[test]
fn a_timeline_that_forks() {
    let mut bench = Bench::new();
    bench
        .client
        .batch_execute("CREATE TABLE x (n int); INSERT INTO x VALUES (1)")
        .unwrap();
    let full = bench.backup("full");
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (2)")
        .unwrap();
    bench.archived();
    let command = format!(
        "archive_command={} wal-put %p --to {}",
        common::VARVE,
        bench.store()
    );
    let restored = bench.restored("one", &["--set", "archive_mode=on", "--set", &command]);
    // The old server writes on, and its rows are on the branch that is left.
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (3)")
        .unwrap();
    bench.archived();
    bench.client = restored.connect();
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (4)")
        .unwrap();
    bench.archived();
    let verified = bench.ok(&["verify", "--from", &bench.store()]);
    assert!(verified.contains(" 0 damaged"), "{verified}");
    let plan = bench.ok(&["plan", "--from", &bench.store()]);
    assert!(plan.contains("on timeline 2"), "{plan}");
    let history = bench.path("store/wal/00000002/00000002.history.zst");
    let sound = std::fs::read(&history).unwrap();
    common::flip(&history);
    let (code, said) = bench.fails(&["verify", "--from", &bench.store()]);
    assert!(code == 3 && said.contains("2 damaged or missing"), "{said}");
    std::fs::write(&history, sound).unwrap();
    for (timeline, expected) in [("latest", [1, 2, 4]), ("1", [1, 2, 3])] {
        let again = bench.restored(
            &format!("timeline{timeline}"),
            &["--backup", &full, "--timeline", timeline],
        );
        let found: Vec<i32> = again
            .connect()
            .query("SELECT n FROM x ORDER BY n", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(found, expected, "{timeline}");
    }
}
