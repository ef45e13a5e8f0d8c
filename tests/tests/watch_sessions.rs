//! `varve.detect_changes` amid others: two who detect at once, a writer between them, isolation levels, crashes, a standby.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod watch_common;

use postgres::Client;
use std::collections::HashMap;
use varve_tests::cluster::{Cluster, Stop};
use varve_tests::random::Random;
use varve_tests::session::{Session, one, rows, simple};
use varve_tests::wait;
use watch_common::{kept, start};

const SETUP: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT varve.enable('t', segment_by => '{}', order_by => '{id}');
    INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i";

const DETECT: &str = "SELECT op, key->>'id', new->>'v' FROM varve.detect_changes('t') ORDER BY 2";

/// Sessions of a server.
fn sessions<const N: usize>(cluster: &Cluster) -> [Session; N] {
    [(); N].map(|()| Session::new(cluster).unwrap())
}

/// Does something with the table `t`, hot and frozen.
fn in_both_tiers(settings: &[&str], mut f: impl FnMut(&Cluster, &mut Client, &str)) {
    let (cluster, mut client) = start(settings);
    one(&mut client, SETUP);
    for tier in ["hot", "warm"] {
        let set = format!("SELECT varve.set_tier('t', '{tier}')");
        one(&mut client, &set);
        f(&cluster, &mut client, tier);
    }
}

#[test]
fn two_at_once() {
    in_both_tiers(&[], |cluster, client, tier| {
        one(client, "SELECT varve.watch('t')");
        let [mut a, mut b, mut writer] = sessions(cluster);
        // What the one has taken, the other is not told again, and what was written meanwhile it is.
        one(client, "UPDATE t SET v = v + 1 WHERE id = 1");
        a.ok("BEGIN");
        assert_eq!(a.ok(DETECT).len(), 1);
        b.start(DETECT);
        assert!(b.waits(client), "{tier}");
        writer.ok("UPDATE t SET v = 7 WHERE id = 2");
        a.ok("COMMIT");
        assert_eq!(b.finish().unwrap(), ["update|2|7"], "{tier}");
        // What the one has taken and given back, the other is told.
        writer.ok("UPDATE t SET v = 8 WHERE id = 2; DELETE FROM t WHERE id = 3");
        a.ok("BEGIN");
        assert_eq!(a.ok(DETECT), ["update|2|8", "delete|3|∅"], "{tier}");
        b.start(DETECT);
        assert!(b.waits(client), "{tier}");
        a.ok("ROLLBACK");
        assert_eq!(b.finish().unwrap(), ["update|2|8", "delete|3|∅"], "{tier}");
        assert_eq!(a.ok(DETECT), [""; 0]);
        // Those who only look do not wait for each other; who takes waits for them.
        writer.ok("INSERT INTO t VALUES (3, 0)");
        let look = DETECT.replace("'t'", "'t', advance => false");
        a.ok("BEGIN");
        assert_eq!(a.ok(&look), ["insert|3|0"]);
        assert_eq!(b.ok(&look), ["insert|3|0"]);
        b.start(DETECT);
        assert!(b.waits(client));
        a.ok("COMMIT");
        assert_eq!(b.finish().unwrap(), ["insert|3|0"]);
        // With a snapshot of its own, a transaction that comes too late fails.
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            for then in [
                DETECT,
                look.as_str(),
                "SELECT varve.watch('t')",
                "SELECT varve.unwatch('t')",
            ] {
                one(client, "UPDATE t SET v = v + 1 WHERE id = 5");
                a.ok(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"));
                a.ok("SELECT count(*) FROM t");
                assert_eq!(
                    one(client, "SELECT count(*) FROM varve.detect_changes('t')"),
                    "1"
                );
                assert_eq!(a.err(then), "40001", "{level}: {then}");
                a.ok("ROLLBACK");
            }
            // Otherwise it is told what it sees.
            a.ok(&format!("BEGIN ISOLATION LEVEL {level}"));
            a.ok("SELECT count(*) FROM t");
            writer.ok("UPDATE t SET v = 100 WHERE id = 6");
            assert_eq!(a.ok(DETECT), [""; 0], "{level}");
            a.ok("COMMIT");
            assert_eq!(one(client, DETECT), "update|6|100", "{level}");
            writer.ok("UPDATE t SET v = 0 WHERE id = 6");
            assert_eq!(one(client, DETECT), "update|6|0", "{level}");
        }
        // A checkpoint that comes to be at the same time twice.
        one(client, "SELECT varve.unwatch('t')");
        a.ok("BEGIN; SELECT varve.watch('t')");
        b.start("SELECT varve.watch('t')");
        assert!(b.waits(client));
        a.ok("COMMIT");
        assert_eq!(b.finish().unwrap(), [one(client, "SELECT count(*) FROM t")]);
        assert_eq!(one(client, "SELECT count(*) FROM varve.watches"), "1");
    });
}

/// A writer that is at work when the checkpoint is taken, and commits afterwards.
#[test]
fn writers_in_between() {
    in_both_tiers(&[], |cluster, client, tier| {
        let [mut writer] = sessions(cluster);
        writer.ok("BEGIN; UPDATE t SET v = v + 1 WHERE id = 10; SAVEPOINT s; UPDATE t SET v = v + 1 WHERE id = 11; DELETE FROM t WHERE id = 12");
        one(client, "SELECT varve.watch('t')");
        // Others commit before it does.
        one(client, "UPDATE t SET v = v + 1 WHERE id = 20");
        assert_eq!(rows(client, DETECT).len(), 1);
        one(client, "UPDATE t SET v = v + 1 WHERE id = 20");
        assert_eq!(rows(client, DETECT).len(), 1);
        writer.ok("RELEASE s; COMMIT");
        let found = rows(client, DETECT);
        let found: Vec<&str> = found
            .iter()
            .map(|line| line.rsplit_once('|').unwrap().0)
            .collect();
        assert_eq!(found, ["update|10", "update|11", "delete|12"], "{tier}");
        assert_eq!(rows(client, DETECT), [""; 0]);
        writer.ok("INSERT INTO t VALUES (12, 0)");
        assert_eq!(rows(client, DETECT), ["insert|12|0"]);
    });
}

/// Storage that is exchanged while somebody looks and moves.
#[test]
fn storage_in_between() {
    let (cluster, mut client) = start(&[]);
    one(&mut client, SETUP);
    one(&mut client, "SELECT varve.set_tier('t', 'warm')");
    one(
        &mut client,
        "SELECT varve.watch('t'), varve.watch('t', checkpoint => 'other')",
    );
    let [mut a, mut b] = sessions(&cluster);
    one(&mut client, "UPDATE t SET v = -1 WHERE id = 30");
    a.ok("BEGIN");
    assert_eq!(a.ok(DETECT), ["update|30|-1"]);
    b.start("SELECT varve.set_tier('t', 'cold')");
    assert!(b.waits(&mut client));
    a.ok("COMMIT");
    b.finish().unwrap();
    assert_eq!(rows(&mut client, DETECT), [""; 0]);
    let other = DETECT.replace("'t'", "'t', checkpoint => 'other'");
    assert_eq!(rows(&mut client, &other), ["update|30|-1"]);
    // Two checkpoints let go of the same segments at once: they go with the second.
    one(&mut client, "SELECT varve.set_tier('t', 'warm')");
    assert_eq!(kept(&mut client), "1");
    a.ok("BEGIN");
    a.ok(DETECT);
    b.start(&other);
    assert!(b.waits(&mut client));
    a.ok("COMMIT");
    b.finish().unwrap();
    assert_eq!(kept(&mut client), "0");
}

/// Commands that leave nothing to older snapshots, while somebody waits for them: nothing is told that has not changed.
#[test]
fn rewrites_that_are_waited_for() {
    let (cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p SELECT i, 0 FROM generate_series(1, 300) i; CREATE VIEW seen AS SELECT * FROM p1;
         SELECT varve.watch('p', key => '{id}'), varve.watch('seen', key => '{id}'); CREATE TABLE staging AS SELECT * FROM p1",
    );
    let [mut a, mut b] = sessions(&cluster);
    let rewrites = [
        "TRUNCATE p1; INSERT INTO p1 SELECT * FROM staging",
        "ALTER TABLE p1 SET ACCESS METHOD varve",
        "ALTER TABLE p1 SET UNLOGGED; ALTER TABLE p1 SET LOGGED",
        "DROP TABLE p2; CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p SELECT i, 0 FROM generate_series(100, 300) i",
    ];
    for sql in rewrites {
        for relation in ["p", "seen"] {
            let drops = sql.starts_with("DROP") && relation == "seen";
            a.ok("BEGIN");
            a.ok(sql);
            b.start(&format!("SELECT * FROM varve.detect_changes('{relation}')"));
            assert!(b.waits(&mut client) || drops, "{relation}: {sql}");
            a.ok("COMMIT");
            assert_eq!(b.finish().unwrap(), [""; 0], "{relation}: {sql}");
            assert_eq!(
                b.ok(&format!("SELECT * FROM varve.detect_changes('{relation}')")),
                [""; 0],
                "{relation}: {sql}"
            );
        }
    }
    // Who waits for his turn holds nothing that the one before him may want.
    one(&mut client, "UPDATE p SET v = 1 WHERE id = 7");
    a.ok("BEGIN; SELECT count(*) FROM varve.detect_changes('p')");
    b.start("SELECT op, key->>'id' FROM varve.detect_changes('p') ORDER BY 2");
    assert!(b.waits(&mut client));
    a.ok("TRUNCATE p; INSERT INTO p VALUES (7, 1)");
    a.ok("COMMIT");
    assert_eq!(b.finish().unwrap().len(), 299);
}

/// Segments whose storage is exchanged while the last reference to them goes are not left behind.
#[test]
fn references_that_go_meanwhile() {
    let (cluster, mut client) = start(&[]);
    one(&mut client, SETUP);
    let [mut a, mut b] = sessions(&cluster);
    for (end, other) in [("COMMIT", "0"), ("ROLLBACK", "1")] {
        // A partition that is not the watched table's any more, so that its lock does not order the two.
        one(
            &mut client,
            "DROP TABLE IF EXISTS p, p1; CREATE TABLE p (id int, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT;
             INSERT INTO p SELECT i, 0 FROM generate_series(1, 300) i; SELECT varve.enable('p', segment_by => '{}', order_by => '{id}')",
        );
        one(&mut client, "SELECT varve.set_tier('p1', 'warm')");
        one(
            &mut client,
            "SELECT varve.watch('p', key => '{id}'); ALTER TABLE p DETACH PARTITION p1",
        );
        // The storage goes first, and the reference while that is not committed.
        a.ok("BEGIN; TRUNCATE p1");
        b.start("SELECT varve.unwatch('p')");
        assert!(b.waits(&mut client));
        a.ok(end);
        b.finish().unwrap();
        assert_eq!(kept(&mut client), "0", "{end}");
        // The other way round.
        one(
            &mut client,
            "TRUNCATE p1; INSERT INTO p1 SELECT i, 0 FROM generate_series(1, 300) i; ALTER TABLE p ATTACH PARTITION p1 DEFAULT",
        );
        one(&mut client, "SELECT varve.set_tier('p1', 'warm')");
        one(
            &mut client,
            "SELECT varve.watch('p', key => '{id}'); ALTER TABLE p DETACH PARTITION p1",
        );
        a.ok("BEGIN; SELECT varve.unwatch('p')");
        b.start("TRUNCATE p1");
        assert!(b.waits(&mut client));
        a.ok(end);
        b.finish().unwrap();
        assert_eq!(kept(&mut client), other, "{end}");
        simple(&mut client, "SELECT varve.unwatch('p')").ok();
        assert_eq!(kept(&mut client), "0", "{end}");
    }
}

/// A detection in a prepared transaction: others wait for it as for any, and the checkpoint moves with COMMIT PREPARED, also where the
/// server was stopped in between.
#[test]
fn prepared_transactions() {
    let settings = ["max_prepared_transactions = 5"];
    in_both_tiers(&settings, |cluster, client, tier| {
        one(client, "SELECT varve.watch('t')");
        for (end, stop) in [
            ("COMMIT", None),
            ("ROLLBACK", None),
            ("ROLLBACK", Some(Stop::Immediate)),
            ("COMMIT", Some(Stop::Immediate)),
            ("COMMIT", Some(Stop::Fast)),
        ] {
            let case = format!("{tier}, {end}, {stop:?}");
            one(client, "UPDATE t SET v = v + 1 WHERE id = 1");
            let expected = format!("update|1|{}", one(client, "SELECT v FROM t WHERE id = 1"));
            // Storage is exchanged, so that the detection lets go of what was kept.
            one(client, &format!("SELECT varve.set_tier('t', '{tier}')"));
            let there = if tier == "warm" { "1" } else { "0" };
            assert_eq!(kept(client), there, "{case}");
            let [mut a] = sessions(cluster);
            a.ok("BEGIN");
            assert_eq!(a.ok(DETECT), [expected.as_str()], "{case}");
            a.ok("PREPARE TRANSACTION 'detected'");
            if let Some(stop) = stop {
                drop(a);
                cluster.stop(stop).unwrap();
                cluster.start().unwrap();
                *client = cluster.connect().unwrap();
            }
            let [mut b] = sessions(cluster);
            for sql in [
                DETECT,
                "SELECT varve.unwatch('t')",
                "SELECT varve.watch('t')",
            ] {
                let patience = format!("BEGIN; SET LOCAL lock_timeout = '10ms'; {sql}");
                assert_eq!(b.err(&patience), "55P03", "{case}: {sql}");
                b.ok("ROLLBACK");
            }
            b.start(DETECT);
            assert!(b.waits(client), "{case}");
            one(client, &format!("{end} PREPARED 'detected'"));
            let found = b.finish().unwrap();
            match end {
                "COMMIT" => assert_eq!(found, [""; 0], "{case}"),
                _ => assert_eq!(found, [expected], "{case}"),
            }
            assert_eq!(rows(client, DETECT), [""; 0], "{case}");
            assert_eq!(kept(client), "0", "{case}");
        }
        // A checkpoint that comes to be that way.
        one(client, "SELECT varve.unwatch('t')");
        let [mut a] = sessions(cluster);
        a.ok("BEGIN; SELECT varve.watch('t')");
        a.ok("PREPARE TRANSACTION 'taken'");
        drop(a);
        cluster.stop(Stop::Immediate).unwrap();
        cluster.start().unwrap();
        *client = cluster.connect().unwrap();
        one(client, "UPDATE t SET v = v + 1 WHERE id = 2");
        one(client, "COMMIT PREPARED 'taken'");
        assert_eq!(rows(client, DETECT).len(), 1, "{tier}");
    });
}

/// Kills between detection and commit: no change is lost, and none is told twice.
#[test]
fn kills() {
    let cluster = Cluster::start_new(&["autovacuum = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    one(&mut client, SETUP);
    one(&mut client, TOLD);
    let mut random = Random::new(5);
    for round in 0..8 {
        for _ in 0..3 {
            let sql = some_change(&mut random, round);
            simple(&mut client, &sql).unwrap();
        }
        let mut session = Session::new(&cluster).unwrap();
        let before = one(&mut client, "SELECT count(*) FROM told");
        session.ok("BEGIN");
        session.ok(TAKE);
        if round % 2 == 0 {
            cluster.kill_backend(session.pid()).unwrap();
        } else {
            cluster.kill().unwrap();
        }
        drop(session);
        cluster.stop(Stop::Immediate).ok();
        cluster.start().unwrap();
        client = cluster.connect().unwrap();
        assert_eq!(
            one(&mut client, "SELECT count(*) FROM told"),
            before,
            "round {round}"
        );
        if round % 3 > 0 {
            simple(&mut client, TAKE).unwrap();
        }
    }
    check_told(&mut client);
}

/// Kills in the midst of whatever writes to checkpoints, exchanges storage, keeps it and lets go of it.
#[test]
fn kills_at_any_moment() {
    let cluster = Cluster::start_new(&["autovacuum = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    one(&mut client, SETUP);
    one(&mut client, TOLD);
    one(
        &mut client,
        "SELECT varve.watch('t', checkpoint => 'other')",
    );
    let script = |round| {
        format!(
            "{TAKE}; SELECT varve.set_tier('t', 'cold'); UPDATE t SET v = v + 1 WHERE id % 50 = {round}; SELECT varve.watch('t', checkpoint => 'other');
             TRUNCATE t; SELECT varve.set_tier('t', 'hot'); INSERT INTO t SELECT i, {round} FROM generate_series(1, 900) i; {TAKE}; SELECT varve.unwatch('t', 'other');
             SELECT varve.watch('t', checkpoint => 'other'); SELECT varve.set_tier('t', 'warm')"
        )
    };
    let mut random = Random::new(17);
    let mut within = 0;
    for round in 0..16 {
        for _ in 0..2 {
            let sql = some_change(&mut random, round);
            simple(&mut client, &sql).unwrap();
        }
        let written = "SELECT pg_current_wal_insert_lsn() - '0/0'";
        let wal = |client: &mut Client| one(client, written).parse::<u64>().unwrap();
        let until = wal(&mut client) + random.below(120_000);
        let mut session = Session::new(&cluster).unwrap();
        session.start(&script(round));
        wait::until("some WAL to be written", || {
            session.done() || wal(&mut client) >= until
        });
        within += u32::from(!session.done());
        cluster.kill_all().unwrap();
        drop(session);
        cluster.start().unwrap();
        client = cluster.connect().unwrap();
        if round % 2 == 0 {
            simple(&mut client, TAKE).unwrap();
        }
        // What is kept, somebody needs.
        let in_vain = "SELECT count(*) FROM pg_class c WHERE relname LIKE 'kept%' AND relkind = 'r' AND NOT EXISTS (SELECT FROM varve.checkpoint_chunk WHERE segments = c.oid)";
        assert_eq!(one(&mut client, in_vain), "0", "round {round}");
    }
    assert!(within > 3, "killed {within} times on the way");
    one(&mut client, &script(0));
    check_told(&mut client);
    assert_eq!(
        one(
            &mut client,
            "SELECT count(*) FROM varve.verify('t') WHERE NOT ok"
        ),
        "0"
    );
    one(
        &mut client,
        "SELECT varve.unwatch('t'), varve.unwatch('t', 'other')",
    );
    assert_eq!(kept(&mut client), "0");
}

/// What has changed goes into a table.
const TOLD: &str = "SELECT varve.watch('t'); CREATE TABLE told (n bigint GENERATED ALWAYS AS IDENTITY, op text, id int, v int)";
const TAKE: &str = "INSERT INTO told (op, id, v) SELECT op, (key->>'id')::int, (new->>'v')::int FROM varve.detect_changes('t')";

fn some_change(random: &mut Random, round: u64) -> String {
    let id = random.below(900) + 1;
    match random.below(5) {
        0 => "SELECT varve.set_tier('t', 'warm')".to_string(),
        1 => format!("DELETE FROM t WHERE id = {id}"),
        2 => format!("INSERT INTO t SELECT max(id) + 1, {round} FROM t"),
        3 => "SELECT varve.set_tier('t', 'hot')".to_string(),
        _ => format!("UPDATE t SET v = v + 1 WHERE id BETWEEN {id} AND {id} + 20"),
    }
}

/// What was told, one after the other, makes the table.
fn check_told(client: &mut Client) {
    simple(client, TAKE).unwrap();
    let mut made: HashMap<String, String> = (1..=1000)
        .map(|i| (i.to_string(), "0".to_string()))
        .collect();
    for line in rows(client, "SELECT op, id, v FROM told ORDER BY n") {
        let parts: Vec<&str> = line.split('|').collect();
        let [op, id, v] = parts[..] else {
            panic!("{line}")
        };
        let was = match op {
            "delete" => made.remove(id),
            _ => made.insert(id.into(), v.into()),
        };
        assert_eq!(was.is_some(), op != "insert", "{line}");
        assert_ne!(was.as_deref(), Some(v), "{line}");
    }
    let mut made: Vec<String> = made
        .into_iter()
        .map(|(id, v)| format!("{id}|{v}"))
        .collect();
    made.sort_unstable();
    let mut there = rows(client, "SELECT id, v FROM t");
    there.sort_unstable();
    assert_eq!(made, there);
}

/// A standby can look.
#[test]
fn elsewhere() {
    let cluster = Cluster::start_new(&["wal_level = replica", "max_wal_senders = 5"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    one(&mut client, SETUP);
    one(&mut client, "SELECT varve.set_tier('t', 'warm')");
    one(&mut client, "SELECT varve.watch('t')");
    one(&mut client, "UPDATE t SET v = 1 WHERE id = 1");
    let standby = cluster.standby(&[]).unwrap();
    let mut there = standby.connect().unwrap();
    let look = DETECT.replace("'t'", "'t', advance => false");
    wait::until("the standby to have the change", || {
        simple(&mut there, &look).is_ok_and(|found| found == ["update|1|1"])
    });
    for sql in [
        DETECT,
        "SELECT varve.watch('t')",
        "SELECT varve.unwatch('t')",
    ] {
        assert_eq!(simple(&mut there, sql).unwrap_err().code, "25006", "{sql}");
    }
    // Also where the rows are in a table of segments that is kept.
    one(&mut client, "SELECT varve.set_tier('t', 'hot')");
    one(&mut client, "UPDATE t SET v = 2 WHERE id = 2");
    wait::until("the standby to have the second change", || {
        simple(&mut there, &look).is_ok_and(|found| found == ["update|1|1", "update|2|2"])
    });
    assert_eq!(rows(&mut client, DETECT).len(), 2);
    wait::until("the standby to have the checkpoint", || {
        simple(&mut there, &look).is_ok_and(|found| found.is_empty())
    });
}
