//! Recovery drills: a restored server has what the record says, damage and wrong counts are found, and nothing is left behind however
//! a drill ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use varve_tests::cluster::{Cluster, Stop};
use varve_tests::session::{Session, simple};
use varve_tests::wait;

/// A server that archives into the store `first`, and drills in a directory of its own.
struct Bench {
    cluster: Cluster,
    client: Client,
}

impl Bench {
    fn new(settings: &[&str]) -> Bench {
        let settings = [
            &[
                "fsync = off",
                "summarize_wal = on",
                "archive_mode = on",
                "archive_library = 'varve'",
                "varve.max_workers = 2",
                "max_prepared_transactions = 5",
            ],
            settings,
        ]
        .concat();
        let cluster = Cluster::start_new(&settings).unwrap();
        let client = cluster.connect_with_varve().unwrap();
        let mut bench = Bench { cluster, client };
        bench.store("first", "primary");
        let scratch = bench.directory("scratch");
        let setting = format!(
            "ALTER SYSTEM SET varve.scratch_directory = '{}'",
            scratch.display()
        );
        bench.ok(&setting);
        bench.ok("SELECT pg_reload_conf()");
        let client = &mut bench.client;
        wait::until("the setting", || {
            ok(client, "SHOW varve.scratch_directory")[0].ends_with("scratch")
        });
        bench
    }

    /// A directory of the server's user.
    fn directory(&self, name: &str) -> PathBuf {
        let dir = self.cluster.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let above = std::fs::metadata(self.cluster.dir()).unwrap();
        chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
        dir
    }

    fn store(&mut self, name: &str, role: &str) -> PathBuf {
        let dir = self.directory(name);
        let sql = format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role '{role}')",
            dir.display()
        );
        self.ok(&sql);
        dir
    }

    fn ok(&mut self, sql: &str) -> Vec<String> {
        ok(&mut self.client, sql)
    }

    /// What lies in the scratch directory.
    fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cluster.dir().join("scratch")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Ends the segment of WAL and waits until it is archived.
    fn archived(&mut self) {
        self.ok("CREATE TABLE IF NOT EXISTS marks (v int)");
        self.ok("INSERT INTO marks VALUES (1)");
        let name = self
            .ok("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
            .concat();
        self.ok("SELECT pg_switch_wal()");
        let client = &mut self.client;
        let sql = format!("SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver");
        wait::until("WAL to be archived", || ok(client, &sql) == ["t"]);
    }

    fn backup(&mut self, kind: &str) -> String {
        self.ok(&format!("SELECT varve.backup('{kind}')")).concat()
    }

    /// Runs a drill; its steps as `step|ok|detail`.
    fn drill(&mut self) -> Vec<String> {
        self.ok("SELECT step, ok, detail FROM varve.recovery_drill()")
    }
}

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// Steps of a drill that was good.
fn assert_good(steps: &[String]) {
    let names: Vec<&str> = steps.iter().map(|s| s.split('|').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "choose a backup",
            "restore",
            "replay to the counts",
            "compare counts",
            "replay",
            "verify",
            "result"
        ],
        "{steps:#?}"
    );
    assert!(steps.iter().all(|s| s.contains("|t|")), "{steps:#?}");
}

/// Processes whose command line names a path.
fn processes_of(path: &Path) -> usize {
    let path = path.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&path))
        })
        .count()
}

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

const TABLES: &str = "
    CREATE TABLE load (k bigint, n int, v text);
    CREATE INDEX ON load (k);
    CREATE TABLE still (a int, gone text, \"*\" text, n numeric, t timestamptz);
    INSERT INTO still SELECT i, 'x', repeat(md5(i::text), i % 200), i * 1.50, now() FROM generate_series(1, 3000) i;
    ALTER TABLE still DROP COLUMN gone;
    CREATE TABLE prices (time timestamptz NOT NULL, symbol text NOT NULL, close float8, PRIMARY KEY (symbol, time));
    SELECT create_hypertable('prices', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO prices SELECT '2026-01-01'::timestamptz + i * interval '1 minute', 's' || i % 5, i FROM generate_series(1, 5000) i;
    SELECT varve.enable('prices');
    CREATE UNLOGGED TABLE fleeting (a int);
    CREATE TABLE parted (a int) PARTITION BY RANGE (a);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
    INSERT INTO parted VALUES (1), (2)";

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

/// The ways to call for a drill.
const FUNCTION: &str = "SELECT * FROM varve.recovery_drill()";
const PROCEDURE: &str = "CALL varve.run_recovery_drill()";

/// Starts a drill and waits until it is in a phase; none where it has ended before that was seen.
fn drill_in(bench: &mut Bench, phase: &str, sql: &str) -> Option<Session> {
    let mut session = Session::new(&bench.cluster).unwrap();
    session.start(sql);
    let shown = format!(
        "SELECT count(*) FROM varve.progress WHERE operation = 'drill' AND phase = '{phase}' AND pid = {}",
        session.pid()
    );
    let mut seen = false;
    wait::until("the drill to be in a phase", || {
        seen = bench.ok(&shown) == ["1"];
        seen || session.done()
    });
    seen.then_some(session)
}

/// What is on record of the last drill: whether it was good, and the error.
fn last_drill(bench: &mut Bench) -> String {
    bench
        .ok("SELECT ok, error FROM varve.drill ORDER BY id DESC LIMIT 1")
        .concat()
}

/// How many drills are noted in the data directory.
fn notes(bench: &Bench) -> usize {
    let entries = std::fs::read_dir(bench.cluster.data().join("pg_stat_tmp")).unwrap();
    entries
        .filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("varve_drill")
        })
        .count()
}

/// Nothing of a drill runs any more.
fn assert_nothing_runs(bench: &mut Bench) {
    let scratch = bench.cluster.dir().join("scratch");
    wait::until("the scratch server to end", || processes_of(&scratch) == 0);
    wait::until("the drill not to be shown", || {
        bench.ok("SELECT count(*) FROM varve.progress WHERE operation = 'drill'") == ["0"]
    });
}

#[test]
fn ended_in_the_midst() {
    let mut bench = Bench::new(&[]);
    bench.ok(
        "CREATE TABLE much AS SELECT i, repeat('x', 50) FROM generate_series(1, 600000) i;
         CREATE TABLE frozen (i bigint PRIMARY KEY, v float8);
         INSERT INTO frozen SELECT i, random() FROM generate_series(1, 600000) i;
         SELECT varve.enable('frozen'); SELECT varve.set_tier('frozen', 'warm')",
    );
    bench.backup("full");
    let scratch = bench.cluster.dir().join("scratch");
    for (phase, step, sql) in [
        ("restoring", "restore", FUNCTION),
        ("syncing", "restore", PROCEDURE),
        ("replaying", "replay", FUNCTION),
        ("replaying", "replay", PROCEDURE),
        ("counting", "compare counts", FUNCTION),
        ("verifying", "verify", PROCEDURE),
    ] {
        let mut session = (0..5)
            .find_map(|_| drill_in(&mut bench, phase, sql))
            .unwrap_or_else(|| panic!("no drill was ever seen {phase}"));
        assert_ne!(bench.left(), Vec::<PathBuf>::new(), "{phase}");
        let begun = Instant::now();
        bench.ok(&format!("SELECT pg_cancel_backend({})", session.pid()));
        match session.finish() {
            Err(error) => assert_eq!(error.code, "57014", "{phase}"),
            Ok(rows) => panic!("{phase}: it went on to its end: {rows:?}"),
        }
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "{phase}: cancelled in {took:?}"
        );
        assert_eq!(bench.left(), Vec::<PathBuf>::new(), "{phase}");
        // It is on record, though its transaction was taken back, and with what it had found.
        let last = last_drill(&mut bench);
        assert!(
            last.starts_with(&format!("f|{step}"))
                && last.ends_with(": canceling statement due to user request"),
            "{phase}: {last}"
        );
        assert_nothing_runs(&mut bench);
        assert_eq!(notes(&bench), 0);
    }
    assert_eq!(
        bench.ok("SELECT count(*) > 0, bool_and(backup IS NOT NULL AND detail -> 'steps' -> 0 ->> 'step' = 'choose a backup') FROM varve.drill WHERE NOT ok"),
        ["t|t"]
    );
    // A limit of time, of a statement and of a job.
    let mut session = Session::new(&bench.cluster).unwrap();
    session.ok("SET statement_timeout = '300ms'");
    for sql in [FUNCTION, PROCEDURE] {
        session.start(sql);
        let error = session.finish().unwrap_err();
        assert_eq!(error.code, "57014", "{error:?}");
        let last = last_drill(&mut bench);
        assert!(
            last.ends_with(": canceling statement due to statement timeout"),
            "{last}"
        );
        assert_eq!(bench.left(), Vec::<PathBuf>::new());
    }
    drop(session);
    let before = bench.ok("SELECT max(id) FROM varve.drill").concat();
    bench.ok("SELECT varve.add_job('drill', '0 0 1 1 *', 'CALL varve.run_recovery_drill()', timeout => '1 second', retries => 0)");
    bench.ok("SELECT varve.run_job(id, wait => false) FROM varve.jobs WHERE name = 'drill'");
    wait::until("the job to end", || {
        bench.ok(
            "SELECT count(*) FROM varve.job_runs WHERE job_name = 'drill' AND state <> 'running'",
        ) == ["1"]
    });
    let sql = format!(
        "SELECT r.state, d.ok, d.error LIKE '%: canceling statement%', d.id > {before} FROM varve.job_runs r, varve.drill d \
         WHERE r.job_name = 'drill' ORDER BY d.id DESC LIMIT 1"
    );
    assert_eq!(bench.ok(&sql), ["failed|f|t|t"]);
    assert_nothing_runs(&mut bench);
    // Terminated: its process does not come back to its own code.
    let mut session = drill_in(&mut bench, "replaying", FUNCTION).unwrap();
    wait::until("the scratch server to run", || processes_of(&scratch) > 0);
    bench.ok(&format!("SELECT pg_terminate_backend({})", session.pid()));
    session.finish().unwrap_err();
    wait::until("the directory to be removed", || bench.left().is_empty());
    assert_nothing_runs(&mut bench);
    let cut_off = "f|it was cut off: its session or the server ended";
    wait::until("it to be recorded", || {
        last_drill(&mut bench) == cut_off && notes(&bench) == 0
    });
    // Killed: its server goes with it, the directory goes by the next drill.
    let session = drill_in(&mut bench, "replaying", FUNCTION).unwrap();
    wait::until("the scratch server to run", || processes_of(&scratch) > 0);
    bench.cluster.kill_backend(session.pid()).unwrap();
    drop(session);
    wait::until("the scratch server to end", || processes_of(&scratch) == 0);
    assert_eq!(bench.left().len(), 1);
    wait::until("the server to be back", || {
        bench.cluster.connect().is_ok_and(|client| {
            bench.client = client;
            simple(&mut bench.client, "SELECT 1").is_ok()
        })
    });
    // The worker that looks what is due finds what the crash has left of it.
    let again = format!(
        "SELECT count(*) FROM varve.drill WHERE NOT ok AND ok::text || error = '{}'",
        cut_off.replacen("f|", "false", 1)
    );
    wait::until("it to be recorded", || bench.ok(&again) == ["2"]);
    let steps = bench.drill();
    assert_good(&steps);
    assert_eq!(last_drill(&mut bench), "t|∅");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
    // A shutdown does not wait for a drill.
    let _session = drill_in(&mut bench, "replaying", FUNCTION).unwrap();
    let begun = Instant::now();
    bench.cluster.stop(Stop::Fast).unwrap();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "a fast shutdown took {took:?}"
    );
    wait::until("the scratch server to end", || processes_of(&scratch) == 0);
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
}

/// A drill of a job does not keep VACUUM from removing what was deleted; one of a query does.
#[test]
fn vacuum_goes_on() {
    let mut bench = Bench::new(&[]);
    bench.ok("CREATE TABLE much AS SELECT i, repeat('x', 50) FROM generate_series(1, 600000) i");
    bench.ok("CREATE TABLE gone (a int)");
    bench.backup("full");
    let in_drill = "SELECT count(*) FROM varve.progress WHERE operation = 'drill'";
    for (sql, kept) in [(FUNCTION, true), (PROCEDURE, false)] {
        let mut session = (0..5)
            .find_map(|_| drill_in(&mut bench, "restoring", sql))
            .expect("a drill that restores");
        bench.ok("INSERT INTO gone SELECT generate_series(1, 1000)");
        bench.ok("DELETE FROM gone");
        let held = format!(
            "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = {}",
            session.pid()
        );
        let mut removed = false;
        let (mut phases, mut looked) = (std::collections::BTreeSet::new(), 0);
        wait::until("the drill to end", || {
            let phase = bench
                .ok("SELECT phase FROM varve.progress WHERE operation = 'drill'")
                .concat();
            let holds = bench.ok(&held).concat();
            bench.ok("VACUUM gone");
            let empty = bench.ok("SELECT pg_relation_size('gone') = 0") == ["t"];
            // Only what was seen while it is still at work counts.
            if bench.ok(in_drill) == ["1"] {
                phases.insert(phase);
                looked += 1;
                assert_eq!(holds, if kept { "t" } else { "f" }, "{sql}, {phases:?}");
                assert!(!(kept && empty), "{sql}: nothing was held");
                removed |= empty;
            }
            session.done()
        });
        session.finish().unwrap();
        assert!(looked > 3 && phases.contains("replaying"), "{phases:?}");
        assert_eq!(removed, !kept, "{sql}");
        assert_eq!(last_drill(&mut bench), "t|∅");
        bench.ok("VACUUM gone");
        assert_eq!(bench.ok("SELECT pg_relation_size('gone')"), ["0"]);
    }
    assert_eq!(
        simple(&mut bench.client, "BEGIN; CALL varve.run_recovery_drill()")
            .unwrap_err()
            .code,
        "2D000"
    );
}

/// A standby is promoted between a backup and the next drill: recovery follows it, and what was counted is on the way.
#[test]
fn a_failover_after_the_counts() {
    let mut bench = Bench::new(&[]);
    bench.ok(TABLES);
    bench.backup("full");
    bench.archived();
    bench.cluster.stop(Stop::Fast).unwrap();
    let signal = bench.cluster.data().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    bench.cluster.start().unwrap();
    bench.client = bench.cluster.connect().unwrap();
    bench.ok("SELECT pg_promote()");
    bench.ok("INSERT INTO parted VALUES (3)");
    bench.archived();
    let steps = bench.drill();
    assert_good(&steps);
    assert_eq!(
        bench.ok("SELECT pg_walfile_name(pg_current_wal_lsn()) LIKE '00000002%'"),
        ["t"]
    );
}

/// The server went on from a moment between the backup and its counts: these are of what is lost, and cannot be compared.
#[test]
fn a_failover_before_the_counts() {
    let mut bench = Bench::new(&[]);
    bench.ok(TABLES);
    bench.backup("full");
    bench.archived();
    bench.cluster.stop(Stop::Fast).unwrap();
    let pgdata = bench.cluster.dir().join("other");
    let url = format!("file://{}", bench.cluster.dir().join("first").display());
    let mut restore = bench.cluster.tool("varve");
    restore.args([
        "restore",
        "--quiet",
        "--start",
        "--to-backup",
        "--from",
        &url,
    ]);
    let output = restore.arg("--pgdata").arg(&pgdata).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    bench.client = bench.cluster.connect().unwrap();
    bench.ok("INSERT INTO parted VALUES (3)");
    // The archive's last file is of the timeline that was left: it is of no use any more.
    bench.archived();
    let steps = bench.drill();
    let found: Vec<&str> = steps
        .iter()
        .map(|s| s.splitn(3, '|').next().unwrap())
        .collect();
    assert_eq!(
        found,
        [
            "choose a backup",
            "restore",
            "compare counts",
            "replay",
            "verify",
            "result"
        ],
        "{steps:#?}"
    );
    assert_eq!(
        steps[2],
        "compare counts|∅|rows were counted on a timeline that was left before that"
    );
    let good = steps.iter().filter(|step| step.contains("|t|")).count();
    assert_eq!(good, 5, "{steps:#?}");
    let mut pg_ctl = bench.cluster.tool("pg_ctl");
    pg_ctl.args(["-m", "immediate", "stop", "-D"]).arg(&pgdata);
    assert!(pg_ctl.status().unwrap().success());
}

/// A file system that is unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// Too little room is noticed before anything is fetched.
#[test]
fn too_little_room() {
    let mut bench = Bench::new(&[]);
    bench.ok("CREATE TABLE much AS SELECT generate_series(1, 1000)");
    let id = bench.backup("full");
    let base = bench
        .cluster
        .dir()
        .join(format!("first/backups/{id}/base.tar.zst"));
    // Whoever fetched anything would notice.
    std::fs::rename(&base, base.with_extension("away")).unwrap();
    let scratch = bench.cluster.dir().join("scratch");
    let needed = |steps: &[String]| -> (u64, u64) {
        let step = &steps[1];
        assert!(step.starts_with("restore|f|"), "{steps:#?}");
        let number = |before: &str| {
            let (_, rest) = step.split_once(before).unwrap_or_else(|| panic!("{step}"));
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(step.contains("Set varve.scratch_directory"), "{step}");
        (number("scratch has "), number(&format!("{id} needs ")))
    };
    // A record that tells of more than any disk holds.
    let record = base.with_file_name("backup.json");
    let bytes = std::fs::read(&record).unwrap();
    let mut told = varve_core::backup::Backup::from_json(&id, &bytes).unwrap();
    let object = &mut told.objects[0];
    object.frames = vec![1; 1_000_000];
    object.stored_bytes = 1_000_000;
    object.raw_bytes = 1_000_000 * object.frame_bytes;
    let large = object.raw_bytes >> 20;
    std::fs::write(&record, told.to_json().unwrap()).unwrap();
    let (free, wanted) = needed(&bench.drill());
    assert!(wanted > large && free < large, "{free} {wanted}");
    std::fs::write(&record, bytes).unwrap();
    // A disk that is small, where we may mount one.
    let owner = std::fs::metadata(&scratch).unwrap();
    if owner.uid() != std::fs::metadata("/proc/self").unwrap().uid() {
        let options = format!("size=64m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "varve-test"])
            .arg(&scratch)
            .status()
            .unwrap();
        assert!(mount.success());
        let _mounted = Mounted(scratch.clone());
        let (free, wanted) = needed(&bench.drill());
        assert!(
            free <= 64 && wanted > 256 && wanted < 1000,
            "{free} {wanted}"
        );
        assert_eq!(bench.left(), Vec::<PathBuf>::new());
    }
    let last = last_drill(&mut bench);
    assert!(
        last.starts_with("f|restore: ") && last.contains("MB free"),
        "{last}"
    );
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
