//! A streaming standby reads frozen chunks the same, follows freezes, changes and thaws, and works when promoted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::{Cluster, Stop};
use varve_tests::session::{Session, simple};
use varve_tests::twin::{self, COLD, FREEZE, THAW, both};
use varve_tests::wait;

/// Primary, standby and a client of each. The standby gives queries that stand in replay's way half a second.
fn start(standby_settings: &[&str]) -> (Cluster, Client, Cluster, Client) {
    let primary = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let mut client = primary.connect_with_varve().unwrap();
    twin::create(&mut client).unwrap();
    client.batch_execute(FREEZE).unwrap();
    let standby = primary.standby(standby_settings).unwrap();
    let reader = standby.connect().unwrap();
    (primary, client, standby, reader)
}

/// Waits until the standby has replayed all that the primary has written.
fn catch_up(primary: &mut Client, standby: &mut Client) {
    let lsn = simple(primary, "SELECT pg_current_wal_insert_lsn()")
        .unwrap()
        .concat();
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    wait::until("the standby to catch up", || {
        simple(standby, &sql).unwrap() == ["t"]
    });
}

/// Both servers hold the same rows, in the hypertable and in the heap table, and the standby verifies its segments.
fn compare(primary: &mut Client, standby: &mut Client, when: &str) {
    catch_up(primary, standby);
    let expected = twin::fingerprint(primary, "twin");
    let of_primary = twin::fingerprint(primary, "bars");
    assert_eq!(of_primary, expected, "{when}: bars on the primary");
    for table in ["bars", "twin"] {
        let of_standby = twin::fingerprint(standby, table);
        assert_eq!(of_standby, expected, "{when}: {table} on the standby");
    }
    let chunks =
        "SELECT chunk, tier, rows, delta_rows, segments, sha256 FROM varve.chunks ORDER BY 1";
    assert_eq!(simple(standby, chunks), simple(primary, chunks), "{when}");
    let bad = "SELECT * FROM varve.verify('bars') WHERE NOT ok";
    assert_eq!(simple(standby, bad), Ok(vec![]), "{when}");
}

#[test]
fn the_standby_follows_and_can_take_over() {
    let (primary, mut client, standby, mut reader) = start(&[]);
    compare(&mut client, &mut reader, "at first");
    let steps = [
        both("UPDATE {t} SET close = close + 1 WHERE symbol = 2"),
        both("DELETE FROM {t} WHERE symbol = 3"),
        FREEZE.into(),
        both(
            "INSERT INTO {t} SELECT symbol, ts, 0 FROM {t} WHERE symbol = 4 ON CONFLICT (symbol, ts) DO UPDATE SET note = 'upserted'",
        ),
        both("SELECT FROM {t} WHERE symbol = 5 FOR UPDATE"),
        COLD.into(),
        both(
            "UPDATE {t} SET close = close + 1 WHERE symbol = 7; DELETE FROM {t} WHERE symbol = 8 AND volume IS NULL",
        ),
        COLD.into(),
        format!("BEGIN; {}{FREEZE}; ROLLBACK", both("DELETE FROM {t}")),
        "VACUUM bars".into(),
        FREEZE.into(),
        THAW.into(),
        both("UPDATE {t} SET symbol = symbol + 100 WHERE symbol = 6"),
        FREEZE.into(),
        both("ALTER TABLE {t} ADD COLUMN extra int DEFAULT 7"),
        "VACUUM FULL bars".into(),
        FREEZE.into(),
        COLD.into(),
        // A chunk without a segment: the catalogue says what it is.
        both("DELETE FROM {t} WHERE ts < '2024-01-11'"),
        COLD.into(),
    ];
    for step in &steps {
        simple(&mut client, step).unwrap_or_else(|e| panic!("{step}: {e:?}"));
        compare(&mut client, &mut reader, step);
    }
    for (sql, code) in [
        ("UPDATE bars SET close = 0", "25006"),
        ("SELECT FROM bars FOR UPDATE", "25006"),
        (FREEZE, "25006"),
        ("SELECT varve.disable('bars')", "25006"),
    ] {
        let error = simple(&mut reader, sql).expect_err(sql);
        assert_eq!(error.code, code, "{sql}: {error:?}");
    }
    // An update of frozen rows that the primary never commits must not be seen by the one that takes over.
    let mut open = Session::new(&primary).unwrap();
    open.ok("BEGIN; UPDATE bars SET close = -1; DELETE FROM bars WHERE symbol = 1; SELECT pg_switch_wal()");
    catch_up(&mut client, &mut reader);
    primary.stop(Stop::Immediate).unwrap();
    simple(&mut reader, "SELECT pg_promote()").unwrap();
    twin::check(&mut reader, "promoted");
    for step in [
        both("UPDATE {t} SET close = close + 1 WHERE symbol = 8"),
        both("DELETE FROM {t} WHERE symbol = 9"),
        FREEZE.into(),
        both(
            "INSERT INTO {t} (symbol, ts, close) SELECT 1, ts, 5 FROM {t} WHERE symbol = 8 ON CONFLICT (symbol, ts) DO UPDATE SET close = 6",
        ),
        THAW.into(),
    ] {
        simple(&mut reader, &step).unwrap_or_else(|e| panic!("promoted: {step}: {e:?}"));
        twin::check(&mut reader, &format!("promoted: {step}"));
    }
    drop(open);
    drop(standby);
}

/// Takes snapshots on the standby, lets the primary change and freeze rows, and returns what the snapshots then see.
fn old_snapshots(standby_settings: &[&str]) -> (Vec<String>, Vec<Result<Vec<String>, String>>) {
    let (_primary, mut client, standby, mut reader) = start(standby_settings);
    catch_up(&mut client, &mut reader);
    let expected = vec![twin::fingerprint(&mut reader, "bars").unwrap()];
    let fingerprint = "SELECT count(*) || ' rows ' || md5(coalesce(string_agg(x::text, E'\\n' ORDER BY symbol, ts), '')) FROM bars x";
    let mut sessions: Vec<Session> = (0..3)
        .map(|_| {
            let mut session = Session::new(&standby).unwrap();
            // A snapshot, and no lock on any chunk.
            session.ok("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1");
            session
        })
        .collect();
    // A standby reports its oldest snapshot now and then; the primary must know of it.
    if standby_settings.contains(&"hot_standby_feedback = on") {
        wait::until("the standby's feedback", || {
            simple(
                &mut client,
                "SELECT 1 FROM pg_stat_replication WHERE backend_xmin IS NOT NULL",
            ) == Ok(vec!["1".into()])
        });
    }
    for _ in 0..2 {
        client
            .batch_execute(&both("UPDATE {t} SET close = close + 1 WHERE symbol < 5"))
            .unwrap();
        client
            .batch_execute(&both("DELETE FROM {t} WHERE symbol = 6 AND volume % 2 = 0"))
            .unwrap();
        client.batch_execute(FREEZE).unwrap();
    }
    client.batch_execute("VACUUM bars").unwrap();
    let mut fresh = standby.connect().unwrap();
    compare(&mut client, &mut fresh, "a new snapshot");
    let seen = sessions
        .iter_mut()
        .map(|s| s.run(fingerprint).map_err(|e| e.code))
        .collect();
    (expected, seen)
}

#[test]
fn an_older_snapshot_on_the_standby_is_cancelled_rather_than_wrong() {
    let (expected, seen) = old_snapshots(&["max_standby_streaming_delay = 300ms"]);
    for result in seen {
        // Cancelled in its transaction (40001), or with its connection (57P01, lost).
        match result {
            Ok(rows) => assert_eq!(rows, expected),
            Err(code) => assert!(
                ["40001", "57P01", "lost"].contains(&code.as_str()),
                "{code}"
            ),
        }
    }
}

#[test]
fn with_feedback_an_older_snapshot_on_the_standby_goes_on() {
    let (expected, seen) = old_snapshots(&[
        "hot_standby_feedback = on",
        "wal_receiver_status_interval = 100ms",
        "max_standby_streaming_delay = 10s",
    ]);
    for result in seen {
        assert_eq!(result, Ok(expected.clone()));
    }
}

#[test]
fn a_standby_made_while_changes_and_freezes_go_on() {
    let primary = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = primary.connect_with_varve().unwrap();
    twin::create(&mut client).unwrap();
    let mut writer = Session::new(&primary).unwrap();
    let mut freezer = Session::new(&primary).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let standby = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                freezer.ok(if round % 3 == 2 { THAW } else { FREEZE });
                writer.ok(&both(&format!(
                    "UPDATE {{t}} SET close = close + 1, note = 'round {round}' WHERE symbol = 1 + {round} % 12"
                )));
            }
        });
        let standby = primary.standby(&["max_standby_streaming_delay = 0"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        standby
    })
    .unwrap();
    let mut reader = standby.connect().unwrap();
    compare(
        &mut client,
        &mut reader,
        "from a base backup in the middle of it",
    );
}
