//! Freezing and thawing beside transactions that are open: every snapshot keeps seeing the rows it saw, and nothing
//! that an open transaction did is lost or doubled.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::{Session, simple};

const ROWS: i32 = 3000;
const ALL: &str = "SELECT count(*), sum(v), md5(string_agg(t::text, ',' ORDER BY id)) FROM t";

/// A table `t` whose rows are hot and old; `other` is a table that nobody freezes.
fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(&format!(
            "CREATE TABLE other (); CREATE TABLE t (id int PRIMARY KEY, v int);
             INSERT INTO t SELECT i, 0 FROM generate_series(1, {ROWS}) i; SELECT varve.enable('t')"
        ))
        .unwrap();
    (cluster, client)
}

fn set_tier(client: &mut Client, tier: &str) {
    client
        .batch_execute(&format!("SELECT varve.set_tier('t', '{tier}')"))
        .unwrap();
}

fn delta_rows(client: &mut Client) -> String {
    simple(client, "SELECT delta_rows FROM varve.chunks")
        .unwrap()
        .concat()
}

/// Both tables' changes that a snapshot must not see.
const CHANGES: &[&str] = &[
    "UPDATE t SET v = v + 1 WHERE id % 3 = 0",
    "DELETE FROM t WHERE id % 5 = 0",
    "INSERT INTO t SELECT i, 7 FROM generate_series(10001, 10100) i",
    "INSERT INTO t SELECT i, 9 FROM generate_series(1, 50) i ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "UPDATE t SET id = id + 20000 WHERE id % 7 = 0 AND id < 10000",
];

#[test]
fn an_older_snapshot_sees_the_same_rows_after_a_freeze() {
    for level in [
        "REPEATABLE READ",
        "SERIALIZABLE",
        "REPEATABLE READ READ ONLY",
    ] {
        let (cluster, mut client) = start();
        // Pairs of a session and what its snapshot must show, one taken before each step.
        let mut snapshots: Vec<(Session, Vec<String>)> = Vec::new();
        let mut expected = simple(&mut client, ALL).unwrap();
        let mut take = |expected: &[String]| {
            let mut session = Session::new(&cluster).unwrap();
            session.ok(&format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM other"));
            snapshots.push((session, expected.to_vec()));
        };
        for (number, change) in CHANGES.iter().enumerate() {
            take(&expected);
            client.batch_execute(change).unwrap();
            expected = simple(&mut client, ALL).unwrap();
            take(&expected);
            set_tier(&mut client, "warm");
            take(&expected);
            if number % 3 < 2 {
                set_tier(&mut client, "cold");
                take(&expected);
            }
            if number % 2 == 1 {
                set_tier(&mut client, "hot");
                take(&expected);
                set_tier(&mut client, "warm");
            }
            if number == 3 {
                client.batch_execute("VACUUM FULL t").unwrap();
            }
            client.batch_execute("VACUUM t").unwrap();
        }
        for (number, (session, expected)) in snapshots.iter_mut().enumerate() {
            assert_eq!(&session.ok(ALL), expected, "{level}: snapshot {number}");
            let one = session.ok("SELECT v FROM t WHERE id = 3");
            assert!(one.len() <= 1, "{level}: {one:?}");
            session.ok("COMMIT");
        }
        // With no older snapshot left, everything freezes and reads the same.
        set_tier(&mut client, "warm");
        assert_eq!(delta_rows(&mut client), "0");
        assert_eq!(simple(&mut client, ALL).unwrap(), expected);
    }
}

#[test]
fn a_write_on_an_older_snapshot_fails_where_the_row_was_changed() {
    let (cluster, mut client) = start();
    for (change, statement, code) in [
        (
            "UPDATE t SET v = 1 WHERE id = 1",
            "UPDATE t SET v = 2 WHERE id = 1",
            Some("40001"),
        ),
        (
            "DELETE FROM t WHERE id = 2",
            "UPDATE t SET v = 2 WHERE id = 2",
            Some("40001"),
        ),
        (
            "DELETE FROM t WHERE id = 3",
            "SELECT FROM t WHERE id = 3 FOR SHARE",
            Some("40001"),
        ),
        (
            "DELETE FROM t WHERE id = 9",
            "SELECT FROM t WHERE id = 9 FOR KEY SHARE",
            Some("40001"),
        ),
        (
            "UPDATE t SET id = -10 WHERE id = 10",
            "SELECT FROM t WHERE id = 10 FOR KEY SHARE",
            Some("40001"),
        ),
        // Stricter than heap, which lets a lock of the key pass by a change of other columns: the old version that a
        // freeze leaves for older snapshots does not tell the two apart.
        (
            "UPDATE t SET v = 1 WHERE id = 11",
            "SELECT FROM t WHERE id = 11 FOR KEY SHARE",
            Some("40001"),
        ),
        (
            "UPDATE t SET v = 1 WHERE id = 4",
            "INSERT INTO t VALUES (4, 0) ON CONFLICT (id) DO UPDATE SET v = 5",
            Some("40001"),
        ),
        (
            "INSERT INTO t VALUES (-5, 0)",
            "INSERT INTO t VALUES (-5, 1)",
            Some("23505"),
        ),
        (
            "INSERT INTO t VALUES (-6, 0)",
            "INSERT INTO t VALUES (-6, 0) ON CONFLICT DO NOTHING",
            Some("40001"),
        ),
        (
            "INSERT INTO t VALUES (-7, 0)",
            "UPDATE t SET v = 2 WHERE id = 7",
            None,
        ),
        (
            "DELETE FROM t WHERE id = 8",
            "INSERT INTO t VALUES (8, 0)",
            None,
        ),
    ] {
        let mut old = Session::new(&cluster).unwrap();
        old.ok("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM other");
        client.batch_execute(change).unwrap();
        set_tier(&mut client, "warm");
        let result = old.run(statement).map_err(|e| e.code);
        assert_eq!(
            result.as_ref().err().map(String::as_str),
            code,
            "{change}; freeze; {statement}: {result:?}"
        );
        old.ok("ROLLBACK");
        let sum = simple(
            &mut client,
            "SELECT count(*) FROM (SELECT id FROM t GROUP BY id HAVING count(*) > 1) d",
        );
        assert_eq!(sum.unwrap(), ["0"], "{change}");
    }
}

#[test]
fn a_freeze_rolled_back_leaves_no_trace() {
    let (_cluster, mut client) = start();
    for tier in ["warm", "cold", "hot", "cold", "warm"] {
        for change in CHANGES {
            let before = simple(&mut client, ALL).unwrap();
            client.batch_execute("BEGIN").unwrap();
            client.batch_execute(change).unwrap();
            let during = simple(&mut client, ALL).unwrap();
            client.batch_execute("SAVEPOINT s").unwrap();
            set_tier(&mut client, tier);
            assert_eq!(
                simple(&mut client, ALL).unwrap(),
                during,
                "{change}; {tier}"
            );
            client
                .batch_execute(
                    "UPDATE t SET v = v + 1; DELETE FROM t WHERE id % 2 = 0; ROLLBACK TO s",
                )
                .unwrap();
            assert_eq!(
                simple(&mut client, ALL).unwrap(),
                during,
                "{change}; {tier} undone"
            );
            set_tier(&mut client, tier);
            client.batch_execute("ROLLBACK").unwrap();
            assert_eq!(
                simple(&mut client, ALL).unwrap(),
                before,
                "{change}; {tier} rolled back"
            );
        }
        set_tier(&mut client, tier);
    }
    let leftovers = "SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace AND relkind = 'r'";
    assert_eq!(simple(&mut client, leftovers).unwrap(), ["2"]);
}

#[test]
fn writers_wait_for_an_open_freeze_and_then_find_their_rows() {
    let (cluster, mut client) = start();
    for (end, again) in [("COMMIT", false), ("ROLLBACK", false), ("COMMIT", true)] {
        for (number, statement) in [
            "UPDATE t SET v = v + 1 WHERE id IN (1, 2) RETURNING id",
            "DELETE FROM t WHERE id IN (-1, -2) RETURNING id",
            "SELECT id FROM t WHERE id IN (1, 2) FOR UPDATE",
            "INSERT INTO t VALUES (1, 0), (2, 0) ON CONFLICT (id) DO UPDATE SET v = t.v + 1 RETURNING id",
            "SELECT id FROM t WHERE id IN (1, 2)",
        ]
        .iter()
        .enumerate()
        {
            client
                .batch_execute("INSERT INTO t VALUES (-1, 0), (-2, 0) ON CONFLICT DO NOTHING")
                .unwrap();
            if !again {
                set_tier(&mut client, "hot");
            }
            let before = simple(&mut client, "SELECT sum(v) FROM t").unwrap().concat();
            let mut freezer = Session::new(&cluster).unwrap();
            freezer.ok("BEGIN; SELECT varve.set_tier('t', 'warm')");
            let mut writer = Session::new(&cluster).unwrap();
            writer.start(statement);
            assert!(writer.waits(&mut client), "the storage is being exchanged");
            freezer.ok(end);
            let mut ids = writer.finish().unwrap_or_else(|e| panic!("{statement}: {e:?}"));
            ids.sort();
            assert_eq!(ids.len(), 2, "{end}: {statement}: {ids:?}");
            let after = simple(&mut client, "SELECT sum(v) FROM t").unwrap().concat();
            let added = after.parse::<i64>().unwrap() - before.parse::<i64>().unwrap();
            let expected = if number == 0 || number == 3 { 2 } else { 0 };
            assert_eq!(added, expected, "{end}: {statement}");
        }
    }
}

#[test]
fn a_freeze_beside_open_changes_leaves_them_in_the_delta() {
    let (cluster, mut client) = start();
    set_tier(&mut client, "warm");
    client
        .batch_execute("UPDATE t SET v = 1 WHERE id <= 10")
        .unwrap();
    // The writer holds the table until it ends, so the freeze waits for its moment, and must see what was committed.
    let mut writer = Session::new(&cluster).unwrap();
    writer.ok("BEGIN; UPDATE t SET v = 2 WHERE id IN (1, 20); DELETE FROM t WHERE id IN (2, 30); SELECT FROM t WHERE id = 40 FOR UPDATE; SAVEPOINT s; UPDATE t SET v = 99 WHERE id < 500; ROLLBACK TO s");
    let mut freezer = Session::new(&cluster).unwrap();
    freezer.start("SELECT varve.set_tier('t', 'warm')");
    freezer.waits(&mut client);
    // Readers and writers are let through while the freeze tries.
    client
        .batch_execute("UPDATE t SET v = 3 WHERE id = 50; SELECT count(*) FROM t")
        .unwrap();
    writer.ok("COMMIT");
    freezer.finish().unwrap();
    let rows = simple(&mut client, "SELECT id, v FROM t WHERE v > 0 ORDER BY id").unwrap();
    let expected: Vec<String> = [(1, 2)]
        .into_iter()
        .chain((3..=10).map(|i| (i, 1)))
        .chain([(20, 2), (50, 3)])
        .map(|(id, v)| format!("{id}|{v}"))
        .collect();
    assert_eq!(rows, expected);
    let count = simple(&mut client, "SELECT count(*) FROM t").unwrap();
    assert_eq!(count, [(ROWS - 2).to_string()]);
}

#[test]
fn a_row_frozen_between_snapshot_and_lock_is_locked_as_ever() {
    let (cluster, mut client) = start();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for (statement, in_the_end) in [
            ("SELECT v FROM t WHERE id = 5 FOR UPDATE", "0"),
            ("SELECT v FROM t WHERE id = 5 FOR KEY SHARE", "0"),
            ("UPDATE t SET v = 1 WHERE id = 5", "1"),
            (
                "INSERT INTO t VALUES (5, 0) ON CONFLICT (id) DO UPDATE SET v = t.v + 2",
                "2",
            ),
            ("DELETE FROM t WHERE id = 5", ""),
        ] {
            client
                .batch_execute("INSERT INTO t VALUES (5, 0) ON CONFLICT (id) DO UPDATE SET v = 0")
                .unwrap();
            let mut session = Session::new(&cluster).unwrap();
            session.ok(&format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM other"));
            set_tier(&mut client, "warm");
            assert_eq!(delta_rows(&mut client), "0");
            session.ok(statement);
            let mut other = Session::new(&cluster).unwrap();
            other.start("UPDATE t SET v = v + 10, id = -5 WHERE id = 5");
            assert!(
                other.waits(&mut client),
                "{level}: {statement}: the row is locked"
            );
            session.ok("COMMIT");
            other.finish().unwrap();
            let expected: Vec<String> = in_the_end
                .parse::<i32>()
                .map(|v| vec![(v + 10).to_string()])
                .unwrap_or_default();
            let rows = simple(&mut client, "DELETE FROM t WHERE id = -5 RETURNING v").unwrap();
            assert_eq!(rows, expected, "{level}: {statement}");
        }
    }
}

#[test]
fn an_upsert_that_began_before_a_freeze_works_after_it() {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(
            "CREATE TABLE h (k int, ts timestamptz, v int, PRIMARY KEY (k, ts));
             SELECT create_hypertable('h', 'ts'); SELECT varve.enable('h');
             INSERT INTO h SELECT i, '2024-01-01', 0 FROM generate_series(1, 1000) i;
             CREATE TABLE p (k int PRIMARY KEY, v int) PARTITION BY RANGE (k);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10000);
             INSERT INTO p SELECT i, 0 FROM generate_series(1, 1000) i; SELECT varve.enable('p')",
        )
        .unwrap();
    let cases = [
        (
            "INSERT INTO h SELECT 5, '2024-01-01', 1 FROM pg_advisory_xact_lock(7) ON CONFLICT (k, ts) DO UPDATE SET v = h.v + 1 RETURNING v",
            "SELECT varve.set_tier(c, 'warm') FROM show_chunks('h') c",
        ),
        (
            "INSERT INTO p SELECT 5, 1 FROM pg_advisory_xact_lock(7) ON CONFLICT (k) DO UPDATE SET v = p.v + 1 RETURNING v",
            "SELECT varve.set_tier('p1', 'warm')",
        ),
        (
            "MERGE INTO p USING (SELECT 6 AS k FROM pg_advisory_xact_lock(7)) s ON p.k = s.k WHEN MATCHED THEN UPDATE SET v = p.v + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.k, 0) RETURNING p.v",
            "SELECT varve.set_tier('p1', 'warm')",
        ),
    ];
    for (statement, freeze) in cases {
        client.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
        let mut writer = Session::new(&cluster).unwrap();
        writer.start(statement);
        assert!(writer.waits(&mut client), "{statement}");
        let mut freezer = Session::new(&cluster).unwrap();
        freezer.start(freeze);
        // Either the freeze gets in between, or it waits for the statement; both are right.
        freezer.waits(&mut client);
        client
            .batch_execute("SELECT pg_advisory_unlock(7)")
            .unwrap();
        assert_eq!(writer.finish(), Ok(vec!["1".to_string()]), "{statement}");
        freezer.finish().unwrap();
    }
}
