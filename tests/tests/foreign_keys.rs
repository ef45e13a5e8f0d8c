//! Foreign keys from and to frozen rows, with two sessions at work: no child is left without its parent.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::{Session, simple};

/// `parent` and `child`, both frozen; `rule` is the key's ON DELETE and ON UPDATE action.
fn start(cluster: &Cluster, rule: &str) -> Client {
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS child, parent;
             CREATE TABLE parent (id int PRIMARY KEY, v int);
             CREATE TABLE child (id int PRIMARY KEY, parent int DEFAULT 0 REFERENCES parent ON DELETE {rule} ON UPDATE {rule});
             INSERT INTO parent SELECT i, 0 FROM generate_series(0, 500) i;
             INSERT INTO child SELECT i, i FROM generate_series(1, 250) i;
             SELECT varve.enable('parent'); SELECT varve.enable('child')"
        ))
        .unwrap();
    client
        .batch_execute(
            "SELECT varve.set_tier('parent', 'warm'); SELECT varve.set_tier('child', 'warm')",
        )
        .unwrap();
    client
}

fn cluster() -> Cluster {
    Cluster::start_new(&["fsync = off", "deadlock_timeout = 200ms"]).unwrap()
}

fn orphans(client: &mut Client) -> Vec<String> {
    let sql = "SELECT c.id FROM child c WHERE parent IS NOT NULL AND NOT EXISTS (SELECT FROM parent p WHERE p.id = c.parent)";
    simple(client, sql).unwrap()
}

#[test]
fn a_frozen_parent_is_found_and_kept() {
    let cluster = cluster();
    let mut client = start(&cluster, "NO ACTION");
    for (sql, code) in [
        ("INSERT INTO child VALUES (1000, 500)", None),
        ("INSERT INTO child VALUES (1001, 501)", Some("23503")),
        ("UPDATE child SET parent = 400 WHERE id = 1", None),
        ("UPDATE child SET parent = 999 WHERE id = 2", Some("23503")),
        ("DELETE FROM parent WHERE id = 3", Some("23503")),
        ("UPDATE parent SET id = 1003 WHERE id = 3", Some("23503")),
        ("UPDATE parent SET v = 1 WHERE id = 3", None),
        ("DELETE FROM parent WHERE id = 1", None),
        ("DELETE FROM parent WHERE id = 499", None),
        ("TRUNCATE parent", Some("0A000")),
        (
            "ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES parent",
            Some("23503"),
        ),
        (
            "DELETE FROM child WHERE id = 1000; ALTER TABLE child ADD CHECK (id <> 1000)",
            None,
        ),
    ] {
        let result = simple(&mut client, sql).map_err(|e| e.code);
        assert_eq!(
            result.as_ref().err().map(String::as_str),
            code,
            "{sql}: {result:?}"
        );
    }
    assert!(orphans(&mut client).is_empty());
}

#[test]
fn actions_reach_frozen_children() {
    let cluster = cluster();
    for (rule, deleted, updated) in [
        ("CASCADE", "", "7|1007"),
        ("SET NULL", "5|∅", "7|∅"),
        ("SET DEFAULT", "5|0", "7|0"),
    ] {
        let mut client = start(&cluster, rule);
        client
            .batch_execute(
                "DELETE FROM parent WHERE id = 5; UPDATE parent SET id = 1007 WHERE id = 7",
            )
            .unwrap();
        let rows = simple(
            &mut client,
            "SELECT id, parent FROM child WHERE id IN (5, 7) ORDER BY id",
        )
        .unwrap();
        let expected: Vec<&str> = [deleted, updated]
            .into_iter()
            .filter(|r| !r.is_empty())
            .collect();
        assert_eq!(rows, expected, "{rule}");
        assert!(orphans(&mut client).is_empty());
    }
}

#[test]
fn a_parent_deleted_meanwhile_is_waited_for() {
    let cluster = cluster();
    for end in ["COMMIT", "ROLLBACK"] {
        let mut client = start(&cluster, "NO ACTION");
        let mut one = Session::new(&cluster).unwrap();
        let mut two = Session::new(&cluster).unwrap();
        // The parent goes first: the child waits, and fails only if it is gone.
        one.ok("BEGIN; DELETE FROM parent WHERE id = 400");
        two.start("INSERT INTO child VALUES (2000, 400)");
        assert!(two.waits(&mut client));
        one.ok(end);
        let code = two.finish().err().map(|e| e.code);
        let expected = (end == "COMMIT").then(|| "23503".to_string());
        assert_eq!(code, expected, "child after {end} of the parent's deletion");
        // The child goes first: the deletion waits, and fails only if the child is there.
        one.ok("BEGIN; INSERT INTO child VALUES (2001, 401)");
        two.start("DELETE FROM parent WHERE id = 401");
        assert!(two.waits(&mut client));
        one.ok(end);
        let code = two.finish().err().map(|e| e.code);
        assert_eq!(code, expected, "deletion after {end} of the child");
        assert!(orphans(&mut client).is_empty(), "{end}");
    }
}

#[test]
fn a_parent_refrozen_meanwhile_is_found() {
    let cluster = cluster();
    let mut client = start(&cluster, "NO ACTION");
    let mut child = Session::new(&cluster).unwrap();
    child.ok("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1");
    client
        .batch_execute("UPDATE parent SET v = 1 WHERE id = 300; DELETE FROM parent WHERE id = 301")
        .unwrap();
    client
        .batch_execute("SELECT varve.set_tier('parent', 'warm')")
        .unwrap();
    child.ok("INSERT INTO child VALUES (3000, 302)");
    child.ok("SAVEPOINT s");
    // 40001 on heap as well: the parent that the snapshot sees is gone.
    let code = child.err("INSERT INTO child VALUES (3002, 301)");
    assert!(code == "40001" || code == "23503", "{code}");
    child.ok("ROLLBACK TO s; COMMIT");
    assert!(orphans(&mut client).is_empty());
}

#[test]
fn children_of_one_frozen_parent_do_not_wait_for_each_other() {
    let cluster = cluster();
    let mut client = start(&cluster, "NO ACTION");
    let mut one = Session::new(&cluster).unwrap();
    let mut two = Session::new(&cluster).unwrap();
    one.ok("BEGIN; INSERT INTO child VALUES (4000, 400)");
    two.start("INSERT INTO child VALUES (4001, 400)");
    assert!(!two.waits(&mut client), "two children of one parent");
    two.finish().unwrap();
    one.ok("COMMIT");
}

#[test]
fn a_hypertable_refers_to_a_frozen_table() {
    let cluster = cluster();
    let mut client = start(&cluster, "NO ACTION");
    client
        .batch_execute(
            "CREATE TABLE bars (parent int REFERENCES parent ON DELETE CASCADE, ts timestamptz, v int, PRIMARY KEY (parent, ts));
             SELECT create_hypertable('bars', 'ts'); SELECT varve.enable('bars');
             INSERT INTO bars SELECT p, timestamptz '2024-01-01 00:00:00+00' + d * interval '1 day', 0 FROM generate_series(300, 400) p, generate_series(0, 20) d",
        )
        .unwrap();
    client
        .batch_execute("SELECT varve.set_tier(c, 'warm') FROM show_chunks('bars') c")
        .unwrap();
    client
        .batch_execute("DELETE FROM parent WHERE id IN (300, 301)")
        .unwrap();
    let rows = simple(&mut client, "SELECT count(*), min(parent) FROM bars").unwrap();
    assert_eq!(rows, [format!("{}|302", 99 * 21)]);
    let code = simple(
        &mut client,
        "INSERT INTO bars VALUES (300, '2024-01-02', 1)",
    )
    .map_err(|e| e.code);
    assert_eq!(code, Err("23503".to_string()));
    client
        .batch_execute("INSERT INTO bars VALUES (302, '2024-01-02 00:00:00+00', 1) ON CONFLICT (parent, ts) DO UPDATE SET v = excluded.v")
        .unwrap();
    let rows = simple(&mut client, "SELECT count(*), sum(v) FROM bars").unwrap();
    assert_eq!(rows, [format!("{}|1", 99 * 21)]);
}
