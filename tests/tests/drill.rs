//! Recovery drills: a restored server has what the record says, and damage and wrong counts are found.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drill_common;

use drill_common::{Bench, TABLES, assert_good, ok};
use postgres::Client;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use varve_tests::cluster::Cluster;
use varve_tests::session::{Session, simple};
use varve_tests::wait;

/// Clients that write until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(bench: &Bench) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..3).map(|n| {
            let mut client = bench.cluster.connect().unwrap();
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut i = n;
                while !stop.load(Ordering::Relaxed) {
                    i += 3;
                    // Rows come and go, in subtransactions too, and some transactions last, so that a snapshot finds them running.
                    let sql = format!(
                        "BEGIN; INSERT INTO load SELECT {i}, g, 'a' FROM generate_series(1, 20) g; SAVEPOINT s; \
                         DELETE FROM load WHERE k < {i} - 30 AND k % 3 = {n}; SELECT pg_sleep(0.002); RELEASE s; \
                         UPDATE load SET v = 'b' WHERE k = {i}; {}",
                        if i % 5 == 0 { "ROLLBACK" } else { "COMMIT" }
                    );
                    ok(&mut client, &sql);
                }
            })
        });
        let threads = threads.collect();
        Load { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn counts_hold_while_writes_go_on() {
    let mut bench = Bench::new(&["varve.backup_checksums = on"]);
    bench.ok(TABLES);
    bench.ok("CALL varve.set_tiers('prices', 'warm', older_than => interval '1 day')");
    let load = Load::start(&bench);
    bench.backup("full");
    bench.backup("incremental");
    for _ in 0..3 {
        // The backup's own transaction has written something, too.
        bench.ok(
            "SET client_encoding = 'LATIN1'; INSERT INTO still (a, \"*\") VALUES (7, chr(252))",
        );
        bench.ok("BEGIN; DELETE FROM still WHERE a = 7; SELECT varve.backup('incremental'); COMMIT; INSERT INTO still (a, \"*\") VALUES (7, chr(228))");
        bench.ok("RESET client_encoding");
        let steps = bench.drill();
        assert_good(&steps);
        assert!(steps[3].contains("tables compared"), "{steps:#?}");
    }
    load.stop();
    bench.archived();
    let steps = bench.drill();
    assert_good(&steps);
    assert!(steps[6].contains("RPO 0.0 s"), "{steps:#?}");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
    assert_eq!(
        bench.ok("SELECT count(*), bool_and(ok), bool_and(rto > '0' AND restore_seconds > 0 AND replay_seconds > 0 AND restored_bytes > 1000000), \
                  min(tables_checked) > 5, max(tables_wrong), count(error) FROM varve.drill"),
        ["4|t|t|t|0|0"]
    );
}

/// A snapshot is rebuilt from what a record says of it: on a server that has replayed more, with transactions committed since then,
/// the same rows are seen, and those of subtransactions that were running are not.
#[test]
fn a_snapshot_is_rebuilt() {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    ok(
        &mut client,
        "CREATE TABLE t (a int, by text); INSERT INTO t SELECT i, 'before' FROM generate_series(1, 100) i",
    );
    ok(
        &mut client,
        "CREATE TABLE f (a int PRIMARY KEY) USING varve; INSERT INTO f SELECT generate_series(1, 1000); \
         SELECT varve.enable('f'); SELECT varve.set_tier('f', 'warm')",
    );
    let standby = cluster.standby(&[]).unwrap();
    // Keeps what the snapshot sees from being pruned, as a backup's own snapshot does until its position in WAL is noted.
    let mut keeper = Session::new(&cluster).unwrap();
    keeper.ok("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    let mut writer = Session::new(&cluster).unwrap();
    writer.ok("BEGIN; INSERT INTO t VALUES (101, 'top'); DELETE FROM f WHERE a <= 10; SAVEPOINT s");
    writer.ok("INSERT INTO t VALUES (102, 'sub'); DELETE FROM t WHERE a <= 5; RELEASE s");
    let oid = |client: &mut Client, table: &str| {
        ok(
            client,
            &format!("SELECT oid, relfilenode FROM pg_class WHERE relname = '{table}'"),
        )
        .concat()
    };
    let (t, f) = (oid(&mut client, "t"), oid(&mut client, "f"));
    // Every transaction and subtransaction that has written is in the rows.
    let running = writer
        .ok("SELECT DISTINCT xmin FROM t WHERE a > 100")
        .join(", ");
    assert_eq!(running.split(", ").count(), 2, "{running}");
    // One that begins later and ends before the snapshot: so those that run are not just too new for it.
    ok(&mut client, "SELECT pg_current_xact_id()");
    let bounds = ok(
        &mut client,
        "SELECT pg_snapshot_xmin(s), pg_snapshot_xmax(s) FROM pg_current_snapshot() s",
    )
    .concat();
    let (xmin, xmax) = bounds.split_once('|').unwrap();
    let seen = ["100", "1000"];
    let count = "SELECT count(*) FROM t UNION ALL SELECT count(*) FROM f";
    assert_eq!(ok(&mut client, count), seen);
    let sum = |client: &mut Client, table: &str| {
        ok(
            client,
            &format!("SELECT varve.rows_checksum(x.*) FROM ONLY {table} x"),
        )
        .concat()
    };
    let sums = (sum(&mut client, "t"), sum(&mut client, "f"));
    writer.ok("COMMIT");
    ok(
        &mut client,
        "INSERT INTO t VALUES (103, 'after'); DELETE FROM t WHERE a = 50; DELETE FROM f WHERE a > 900",
    );
    let mut replica = standby.connect().unwrap();
    wait::until("the standby to be where the server is", || {
        ok(&mut replica, count) == ["97", "890"]
    });
    let table = |ids: &str, name: &str, rows: &str, sum: &str| {
        let (oid, storage) = ids.split_once('|').unwrap();
        format!(
            r#"{{"oid":{oid},"storage":{storage},"schema":"public","name":"{name}","hypertable":null,"tier":"hot","rows":{rows},"checksum":"{sum}"}}"#
        )
    };
    let checks = |running: &str| {
        format!(
            r#"{{"version":1,"database":"postgres","at":"2026-01-01T00:00:00Z","lsn":"0/1","xmin":{xmin},"xmax":{xmax},"running":[{running}],"tables":[{},{}]}}"#,
            table(&t, "t", "0", &sums.0),
            table(&f, "f", "0", &sums.1)
        )
    };
    let recount = |running: &str| {
        format!(
            "SELECT rows, checksum, detail FROM varve.recount('{}')",
            checks(running)
        )
    };
    let expected = [format!("100|{}|∅", sums.0), format!("1000|{}|∅", sums.1)];
    assert_eq!(ok(&mut replica, &recount(&running)), expected);
    // Without what was running it would have been other rows.
    assert_ne!(ok(&mut replica, &recount("")), expected);
    // Not on a server that is no standby, and not by everybody.
    assert_eq!(
        simple(&mut client, &recount(&running)).unwrap_err().code,
        "55000"
    );
    ok(&mut client, "CREATE ROLE joe");
    ok(&mut client, "SET ROLE joe");
    for call in [
        recount("").as_str(),
        "SELECT * FROM varve.recovery_drill()",
        "CALL varve.run_recovery_drill()",
        "SELECT * FROM varve.recovery_plan()",
        "SELECT * FROM varve.drill",
        "SELECT varve.rows_checksum(x.*) FROM pg_am x",
    ] {
        assert_eq!(
            simple(&mut client, call).unwrap_err().code,
            "42501",
            "{call}"
        );
    }
    ok(&mut client, "RESET ROLE");
    keeper.ok("COMMIT");
    // The checksum does not ask how rows are stored, nor in which order; it asks what they are.
    ok(
        &mut client,
        "CREATE TABLE g (x int, a int); ALTER TABLE g DROP COLUMN x; INSERT INTO g SELECT a FROM f ORDER BY a DESC",
    );
    assert_eq!(sum(&mut client, "f"), sum(&mut client, "g"));
    ok(&mut client, "SELECT varve.set_tier('f', 'hot')");
    assert_eq!(sum(&mut client, "f"), sum(&mut client, "g"));
    ok(&mut client, "UPDATE g SET a = 7000 WHERE a = 700");
    assert_ne!(sum(&mut client, "f"), sum(&mut client, "g"));
}

/// Flips a byte in the middle of an object.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Copies a directory with all below it, as its owner.
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn damage_and_wrong_counts() {
    let mut bench = Bench::new(&[]);
    bench.ok(TABLES);
    let id = bench.backup("full");
    bench.archived();
    // One store has the data directory damaged: it comes from the other.
    let second = bench.store("second", "secondary");
    let first = bench.cluster.dir().join("first");
    copy(&first, &second);
    let object = format!("backups/{id}/base.tar.zst");
    damage(&first.join(&object));
    let steps = bench.drill();
    assert_good(&steps);
    assert!(steps[1].contains("taken from another store"), "{steps:#?}");
    // Both have.
    damage(&second.join(&object));
    let steps = bench.drill();
    assert!(steps[1].starts_with("restore|f|"), "{steps:#?}");
    assert!(steps[2].starts_with("result|f|restore:"), "{steps:#?}");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
    assert_eq!(
        bench.ok("SELECT ok, backup, rto, error LIKE 'restore: %damaged%' FROM varve.drill ORDER BY id DESC LIMIT 1"),
        [format!("f|{id}|∅|t")]
    );
    // As a job it fails, and is recorded all the same.
    bench.ok("SELECT varve.add_job('drill', '1 year', 'CALL varve.run_recovery_drill()', retries => 0, first_run => '2100-01-01')");
    let error = simple(&mut bench.client, "SELECT varve.run_job(1)").unwrap_err();
    assert!(
        error.message.contains("the recovery drill failed"),
        "{error:?}"
    );
    assert_eq!(
        bench.ok("SELECT count(*) FROM varve.drill WHERE NOT ok"),
        ["2"]
    );
    // A record that counts one row too many: the drill finds out which table it is.
    let id = bench.backup("full");
    wrong_count(&mut bench, &id);
    let steps = bench.drill();
    assert_eq!(
        steps[3],
        "compare counts|f|9 tables compared; public.still has 3000 rows, and had 3001"
    );
    assert!(steps.last().unwrap().starts_with("result|f|"), "{steps:#?}");
    assert_eq!(
        bench.ok("SELECT ok, tables_checked, tables_wrong, detail->'wrong'->>0 LIKE 'public.still%' FROM varve.drill ORDER BY id DESC LIMIT 1"),
        ["f|9|1|t"]
    );
    // A drill of the good kind, by the job.
    bench.backup("full");
    bench.ok("SELECT varve.run_job(1)");
    assert_eq!(
        bench.ok("SELECT r.state, r.bytes > 1000000, d.ok FROM varve.job_runs r, varve.drill d ORDER BY r.id DESC, d.id DESC LIMIT 1"),
        ["succeeded|t|t"]
    );
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
}

/// Writes the record of a backup anew, signed, with a row more in one table than there was.
fn wrong_count(bench: &mut Bench, id: &str) {
    let path = bench
        .cluster
        .dir()
        .join(format!("first/backups/{id}/backup.json"));
    let mut backup =
        varve_core::backup::Backup::from_json(id, &std::fs::read(&path).unwrap()).unwrap();
    let tables = backup.checks["tables"].as_array_mut().unwrap();
    let still = tables.iter_mut().find(|t| t["name"] == "still").unwrap();
    assert_eq!(still["rows"], 3000);
    still["rows"] = 3001.into();
    std::fs::write(&path, backup.to_json().unwrap()).unwrap();
}

#[test]
fn targets_places_and_tablespaces() {
    let mut bench = Bench::new(&[]);
    // There is nothing yet.
    let steps = bench.drill();
    assert_eq!(
        steps,
        [
            "choose a backup|f|a backup does not exist",
            "result|f|choose a backup: a backup does not exist"
        ]
    );
    let plan = bench.ok("SELECT action, command FROM varve.recovery_plan()");
    assert_eq!(
        plan,
        ["There is no backup in any store that you may use|SELECT varve.backup('full')"]
    );
    let space = bench.directory("space");
    bench.ok(&format!(
        "CREATE TABLESPACE space LOCATION '{}'",
        space.display()
    ));
    bench.ok("CREATE TABLE elsewhere TABLESPACE space AS SELECT generate_series(1, 1000) a");
    let id = bench.backup("full");
    // A moment between two changes.
    bench.ok("DELETE FROM elsewhere WHERE a > 900");
    let moment = bench.ok("SELECT clock_timestamp()").concat();
    bench.ok("DELETE FROM elsewhere");
    bench.archived();
    let sql =
        format!("SELECT step, ok, detail FROM varve.recovery_drill(target_time => '{moment}')");
    let steps = bench.ok(&sql);
    assert_good(&steps);
    assert!(steps[6].ends_with("RPO not measured"), "{steps:#?}");
    assert_eq!(bench.ok("SELECT count(*) FROM elsewhere"), ["0"]);
    let sql = format!(
        "SELECT target_time = '{moment}', backup, rpo, ok FROM varve.drill ORDER BY id DESC LIMIT 1"
    );
    assert_eq!(bench.ok(&sql), [format!("t|{id}|∅|t")]);
    // One for which there is no WAL.
    bench.ok("SELECT pg_switch_wal()");
    let early = bench.ok("SELECT step, ok FROM varve.recovery_drill(target_time => '2020-01-01')");
    assert_eq!(early, ["choose a backup|f", "result|f"]);
    let plan = bench.ok("SELECT action FROM varve.recovery_plan('2020-01-01')");
    assert!(
        plan[0].starts_with("There is no backup from before 2020-01-01") && plan[0].contains(&id),
        "{plan:?}"
    );
    // WAL is missing behind the backup.
    let wal = bench.cluster.dir().join("first/wal/00000001");
    bench.archived();
    bench.archived();
    let mut names: Vec<_> = std::fs::read_dir(&wal)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| !p.to_string_lossy().contains(".backup"))
        .collect();
    names.sort();
    let lost = names[names.len() - 2].clone();
    let kept = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let name = lost
        .file_name()
        .unwrap()
        .to_string_lossy()
        .replace(".zst", "");
    let steps = bench.drill();
    assert!(
        steps[0].starts_with("choose a backup|f|")
            && steps[0].contains(&format!("WAL {name} is in no store")),
        "{steps:#?}"
    );
    assert!(steps.last().unwrap().starts_with("result|f|"));
    let plan = bench.ok("SELECT action FROM varve.recovery_plan()");
    assert!(
        plan[0].starts_with(&format!("Warning: WAL {name} is in no store")),
        "{plan:?}"
    );
    std::fs::write(&lost, kept).unwrap();
    let owner = std::fs::metadata(&wal).unwrap();
    chown(&lost, Some(owner.uid()), Some(owner.gid())).unwrap();
    // A tablespace that came later would be made where the running server has it.
    let later = bench.directory("later");
    bench.ok(&format!(
        "CREATE TABLESPACE later LOCATION '{}'",
        later.display()
    ));
    let steps = bench.drill();
    assert!(steps[1].contains("was made after backup"), "{steps:#?}");
    bench.ok("DROP TABLESPACE later");
    // The place.
    for (place, message) in [
        (
            bench.cluster.data().join("base"),
            "is in the data directory",
        ),
        (bench.cluster.dir().join("nowhere"), "No such file"),
        (bench.directory(&"long".repeat(20)), "too long for a socket"),
    ] {
        bench.ok(&format!(
            "ALTER SYSTEM SET varve.scratch_directory = '{}'",
            place.display()
        ));
        bench.ok("SELECT pg_reload_conf()");
        let shown = place.to_string_lossy().into_owned();
        wait::until("the setting", || {
            bench.ok("SHOW varve.scratch_directory") == [shown.as_str()]
        });
        let steps = bench.drill();
        assert!(
            steps[1].starts_with("restore|f|") && steps[1].contains(message),
            "{steps:#?}"
        );
    }
    // A name that shells, lists and files of settings take apart.
    let odd = bench.directory("o'dd %p, \"x\\");
    let name = odd.to_string_lossy().into_owned();
    let quoted = name.replace('\'', "''");
    bench.ok(&format!(
        "ALTER SYSTEM SET varve.scratch_directory = '{quoted}'"
    ));
    bench.ok("SELECT pg_reload_conf()");
    wait::until("the setting", || {
        bench.ok("SHOW varve.scratch_directory") == [name.as_str()]
    });
    let steps = bench.drill();
    assert_good(&steps);
    assert_eq!(std::fs::read_dir(&odd).unwrap().count(), 0);
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
}
