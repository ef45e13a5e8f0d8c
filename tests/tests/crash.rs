//! `kill -9` of the postmaster: what was committed is there afterwards, frozen or not, and nothing else.
//!
//! Every change goes to a hypertable under varve and to a heap twin in one transaction; after the crash both must hold
//! the same rows, whatever was under way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::time::Duration;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{Session, simple};
use varve_tests::twin::{self, COLD, FREEZE, HOURS, SYMBOLS, THAW, both};

/// fsync protects from a crash of the machine, which is not what happens here.
const SETTINGS: &[&str] = &[
    "fsync = off",
    "max_prepared_transactions = 10",
    "autovacuum_naptime = 1s",
];

const UPDATE: &str = "UPDATE {t} SET close = close + 1, note = 'updated' WHERE symbol = 3 AND extract(day FROM ts) % 2 = 0";
const DELETE: &str = "DELETE FROM {t} WHERE symbol = 5 AND volume % 3 = 0";
const MOVE: &str = "UPDATE {t} SET symbol = symbol + 100 WHERE symbol = 7 AND volume % 4 = 1";
const UPSERT: &str = "INSERT INTO {t}
    SELECT s, timestamptz '2024-01-01 00:00:00+00' + h * interval '1 hour', s * h, h, 'upserted'
    FROM generate_series(2, 14, 4) s, generate_series(0, 600, 7) h
    ON CONFLICT (symbol, ts) DO UPDATE SET close = excluded.close, note = {t}.note || excluded.note";
const LOCK: &str = "SELECT count(*) FROM (SELECT FROM {t} WHERE symbol = 9 FOR UPDATE) l";

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(SETTINGS).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    twin::create(&mut client).unwrap();
    (cluster, client)
}

/// Kills the server, starts it again, and compares.
fn crash_and_check(cluster: &Cluster, when: &str) -> Client {
    cluster.kill().unwrap();
    cluster.start().unwrap();
    let mut client = cluster.connect().unwrap();
    twin::check(&mut client, when);
    client
}

#[test]
fn committed_steps_survive_a_crash_after_each() {
    let (cluster, mut client) = start();
    let steps = [
        ("freeze", FREEZE.to_string()),
        ("update", both(UPDATE)),
        ("delete", both(DELETE)),
        ("freeze again", FREEZE.to_string()),
        ("upsert", both(UPSERT)),
        ("change of keys", both(MOVE)),
        ("checkpoint", "CHECKPOINT".into()),
        ("row locks", both(LOCK)),
        ("freeze a third time", FREEZE.to_string()),
        ("warm to cold", COLD.to_string()),
        ("update of cold rows", both(UPDATE)),
        ("cold again", COLD.to_string()),
        (
            "savepoint",
            format!(
                "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; {} COMMIT",
                both(UPDATE),
                both("DELETE FROM {t}"),
                both(DELETE)
            ),
        ),
        ("vacuum", "VACUUM bars".into()),
        ("vacuum full", "VACUUM FULL bars".into()),
        (
            "truncate one chunk",
            "TRUNCATE _timescaledb_internal._hyper_1_2_chunk; DELETE FROM twin WHERE ts >= '2024-01-04' AND ts < '2024-01-11'".into(),
        ),
        ("thaw", THAW.to_string()),
        ("upsert after the thaw", both(UPSERT)),
        ("cold from hot", COLD.to_string()),
        ("warm from cold", FREEZE.to_string()),
    ];
    for (name, sql) in &steps {
        // VACUUM and CHECKPOINT refuse to run in a transaction block.
        simple(&mut client, sql).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        client = crash_and_check(&cluster, &format!("after {name}"));
    }
    assert_eq!(
        simple(&mut client, "SELECT DISTINCT tier FROM varve.chunks").unwrap(),
        ["warm"]
    );
}

#[test]
fn a_transaction_that_was_open_leaves_nothing() {
    let (cluster, mut client) = start();
    let moments = [
        ("an open freeze", FREEZE.to_string()),
        ("an open move to cold", COLD.to_string()),
        (
            "an open update and freeze",
            format!("{} {FREEZE}", both(UPDATE)),
        ),
        ("an open update", both(UPDATE)),
        ("an open delete", both(DELETE)),
        ("an open upsert", both(UPSERT)),
        ("an open change of keys", both(MOVE)),
        ("open row locks", both(LOCK)),
        ("an open thaw", THAW.to_string()),
        (
            "an open thaw with changes",
            format!("{THAW}; {} {}", both(UPDATE), both(DELETE)),
        ),
        (
            "an open refreeze",
            format!("{FREEZE}; {} {FREEZE}", both(UPSERT)),
        ),
        (
            "an open savepoint",
            format!(
                "{} SAVEPOINT s; {} RELEASE s; SAVEPOINT t; {}",
                both(DELETE),
                both(UPSERT),
                both(UPDATE)
            ),
        ),
        ("an open truncation", "TRUNCATE bars, twin".into()),
        (
            "an open drop of chunks",
            "SELECT drop_chunks('bars', older_than => timestamptz '2024-01-15'); DELETE FROM twin"
                .into(),
        ),
        ("an open disable", "SELECT varve.disable('bars')".into()),
    ];
    for (number, (name, sql)) in moments.iter().enumerate() {
        if number == 2 {
            client.batch_execute(FREEZE).unwrap();
        }
        simple(&mut client, &format!("BEGIN; {sql}")).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        if number % 2 == 0 {
            // All that the transaction wrote reaches the disk, so that recovery finds it there.
            cluster
                .connect()
                .unwrap()
                .batch_execute("CHECKPOINT")
                .unwrap();
        }
        client = crash_and_check(&cluster, name);
        let count = simple(&mut client, "SELECT count(*) FROM bars").unwrap();
        assert_eq!(count, [(SYMBOLS * HOURS).to_string()], "{name}");
    }
}

#[test]
fn a_prepared_transaction_waits_for_its_commit_through_a_crash() {
    let (cluster, mut client) = start();
    client.batch_execute(FREEZE).unwrap();
    for (name, sql) in [("update", UPDATE), ("upsert", UPSERT), ("delete", DELETE)] {
        let prepare = format!("BEGIN; {} PREPARE TRANSACTION 'p'", both(sql));
        simple(&mut client, &prepare).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        cluster.kill().unwrap();
        cluster.start().unwrap();
        client = cluster.connect().unwrap();
        assert_eq!(
            twin::fingerprint(&mut client, "bars"),
            twin::fingerprint(&mut client, "twin"),
            "{name} prepared"
        );
        client.batch_execute("COMMIT PREPARED 'p'").unwrap();
        client = crash_and_check(&cluster, &format!("{name} committed"));
    }
    client
        .batch_execute(&format!("BEGIN; {FREEZE}; PREPARE TRANSACTION 'p'"))
        .unwrap();
    cluster.kill().unwrap();
    cluster.start().unwrap();
    client = cluster.connect().unwrap();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    crash_and_check(&cluster, "freeze committed");
}

/// One random transaction on both tables, the `number`th.
fn random_transaction(random: &mut Random, number: u64) -> String {
    let symbol = 1 + random.below(SYMBOLS as u64 + 2);
    let hour = random.below(HOURS as u64);
    let span = 1 + random.below(60);
    let range = format!(
        "symbol = {symbol} AND ts >= {} AND ts < {}",
        twin::at(hour as i32),
        twin::at((hour + span) as i32)
    );
    let sql = match random.below(5) {
        0 => format!("DELETE FROM {{t}} WHERE {range}"),
        1 => format!("UPDATE {{t}} SET symbol = 1000 + {number} WHERE {range}"),
        2 => format!("UPDATE {{t}} SET close = close + 1, note = 'n{hour}' WHERE {range}"),
        _ => format!(
            "INSERT INTO {{t}} SELECT {symbol}, {} + h * interval '1 hour', h, {hour}, NULL FROM generate_series(0, {span}) h
             ON CONFLICT (symbol, ts) DO UPDATE SET close = {{t}}.close + excluded.close, volume = excluded.volume",
            twin::at(hour as i32)
        ),
    };
    let end = if random.below(8) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!("BEGIN; {} {end}", both(&sql))
}

#[test]
fn a_crash_at_any_moment_of_freezing_and_writing() {
    const ROUNDS: u64 = 12;
    let seed = std::env::var("VARVE_SEED").map_or(20_240_101, |s| s.parse().unwrap());
    println!("VARVE_SEED={seed}");
    let (cluster, mut client) = start();
    let mut random = Random::new(seed);
    let mut written = 0;
    for round in 0..ROUNDS {
        drop(client);
        let mut freezer = Session::new(&cluster).unwrap();
        let mut writer = Session::new(&cluster).unwrap();
        let until = std::time::Instant::now() + Duration::from_millis(30 + random.below(900));
        let mut tier = 0;
        freezer.start(FREEZE);
        writer.start(&random_transaction(&mut random, written));
        // Both are kept busy until the moment comes, which may be in the middle of anything.
        while std::time::Instant::now() < until {
            if freezer.done() {
                freezer.finish().unwrap();
                tier += 1;
                freezer.start([FREEZE, COLD, FREEZE, THAW][tier % 4]);
            }
            if writer.done() {
                // A deadlock between the two is theirs to lose; anything else is an error.
                if let Err(e) = writer.finish() {
                    assert_eq!(e.code, "40P01", "{e:?}");
                    writer = Session::new(&cluster).unwrap();
                }
                written += 1;
                writer.start(&random_transaction(&mut random, written));
            }
            std::thread::yield_now();
        }
        client = crash_and_check(&cluster, &format!("round {round} of seed {seed}"));
    }
    assert!(written > ROUNDS, "only {written} transactions ran");
}
