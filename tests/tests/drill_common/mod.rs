//! What tests of drills need: a server that archives and drills.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;
use varve_tests::wait;

/// A server that archives into the store `first`, and drills in a directory of its own.
pub struct Bench {
    pub cluster: Cluster,
    pub client: Client,
}

impl Bench {
    pub fn new(settings: &[&str]) -> Bench {
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
    pub fn directory(&self, name: &str) -> PathBuf {
        let dir = self.cluster.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let above = std::fs::metadata(self.cluster.dir()).unwrap();
        chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
        dir
    }

    pub fn store(&mut self, name: &str, role: &str) -> PathBuf {
        let dir = self.directory(name);
        let sql = format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role '{role}')",
            dir.display()
        );
        self.ok(&sql);
        dir
    }

    pub fn ok(&mut self, sql: &str) -> Vec<String> {
        ok(&mut self.client, sql)
    }

    /// What lies in the scratch directory.
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cluster.dir().join("scratch")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Ends the segment of WAL and waits until it is archived.
    pub fn archived(&mut self) {
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

    pub fn backup(&mut self, kind: &str) -> String {
        self.ok(&format!("SELECT varve.backup('{kind}')")).concat()
    }

    /// Runs a drill; its steps as `step|ok|detail`.
    pub fn drill(&mut self) -> Vec<String> {
        self.ok("SELECT step, ok, detail FROM varve.recovery_drill()")
    }
}

pub fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// Steps of a drill that was good.
pub fn assert_good(steps: &[String]) {
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
pub fn processes_of(path: &Path) -> usize {
    let path = path.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&path))
        })
        .count()
}

pub const TABLES: &str = "
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

/// What is on record of the last drill: whether it was good, and the error.
pub fn last_drill(bench: &mut Bench) -> String {
    bench
        .ok("SELECT ok, error FROM varve.drill ORDER BY id DESC LIMIT 1")
        .concat()
}
