//! The SQL suites under `pg_test/`, run by PostgreSQL's own `pg_regress` and `pg_isolation_regress`.
//!
//! Suites of the schedules `both` and `isolation_both` run twice, with the same expected output: on frozen varve tables
//! and, in a database without the extension, on plain heap. So an expected file can't record a mistake of ours as right.
//! Those of `varve` and `isolation_varve` show what only varve has.
//!
//! A failure prints the differences; what was meant to change goes into the tree with `patch -p3`, after a look at each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use varve_tests::cluster::Cluster;

/// Where Debian puts the test drivers of PostgreSQL 17 (package `postgresql-server-dev-17`); `VARVE_PG_TESTDIR` says otherwise.
const TESTDIR: &str = "/usr/lib/postgresql/17/lib/pgxs/src/test";

/// Where Debian puts psql, for the drivers; `VARVE_PG_BINDIR` says otherwise, as it does for [`Cluster`].
const BINDIR: &str = "/usr/lib/postgresql/17/bin";

/// No workers of their own accord: a snapshot that they hold for a moment would keep rows from being frozen.
const SETTINGS: [&str; 5] = [
    "autovacuum = off",
    "timescaledb.max_background_workers = 0",
    "max_prepared_transactions = 10",
    "max_connections = 50",
    "fsync = off",
];

/// A step of a spec that has not ended after twice this many seconds is cancelled: it waits for ever.
const STEP_LIMIT: &str = "15";

/// What stands behind the tables of a run.
#[derive(Clone, Copy)]
enum Behind {
    Varve,
    Heap,
}

/// A server with a prepared database `regression`, and a copy of the suites that its user can read.
struct Bench {
    cluster: Cluster,
    suites: PathBuf,
}

impl Bench {
    fn new(behind: Behind) -> Bench {
        let cluster = Cluster::start_new(&SETTINGS).unwrap();
        let suites = cluster.dir().join("pg_test");
        copy(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../pg_test"),
            &suites,
        );
        let kind = match behind {
            Behind::Varve => "prepare_varve.sql",
            Behind::Heap => "prepare_heap.sql",
        };
        cluster.run("createdb", &["regression"]).unwrap();
        for file in [kind, "prepare.sql"] {
            let file = suites.join(file).display().to_string();
            let args = [
                "-Xq",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                "regression",
                "-f",
                &file,
            ];
            cluster.run("psql", &args).unwrap();
        }
        Bench { cluster, suites }
    }

    /// Runs schedules with one of the drivers; panics with the differences when a suite fails. `VARVE_RESULTS` names a
    /// directory to be made then, for what the suites printed.
    fn run(&self, driver: &str, schedules: &[&str]) {
        let testdir = std::env::var_os("VARVE_PG_TESTDIR").unwrap_or_else(|| TESTDIR.into());
        let driver = Path::new(&testdir).join(driver);
        let bindir = std::env::var("VARVE_PG_BINDIR").unwrap_or_else(|_| BINDIR.into());
        let output = self.cluster.dir().join("output");
        let output = self
            .cluster
            .tool(&driver.to_string_lossy())
            .env("PG_TEST_TIMEOUT_DEFAULT", STEP_LIMIT)
            .args(["--use-existing", "--user=postgres", "--dbname=regression"])
            .arg(format!("--host={}", self.cluster.dir().display()))
            .arg("--port=5432")
            .arg(format!("--bindir={bindir}"))
            .arg(format!("--inputdir={}", self.suites.display()))
            .arg(format!("--expecteddir={}", self.suites.display()))
            .arg(format!("--outputdir={}", output.display()))
            .args(
                schedules
                    .iter()
                    .map(|s| format!("--schedule={}", self.suites.join(s).display()) + ".schedule"),
            )
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        println!("{report}");
        if !output.status.success() {
            if let Some(keep) = std::env::var_os("VARVE_RESULTS") {
                copy(&self.cluster.dir().join("output/results"), Path::new(&keep));
            }
            let diffs = fs::read(self.cluster.dir().join("output/regression.diffs"));
            panic!(
                "{report}{}\n{}",
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&diffs.unwrap_or_default())
            );
        }
    }
}

/// Copies a directory tree; its directories get the owner of the one above, who has to remove them in the end.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let above = fs::metadata(to.parent().unwrap()).unwrap();
    chown(to, Some(above.uid()), Some(above.gid())).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn sql() {
    Bench::new(Behind::Varve).run("regress/pg_regress", &["both", "varve"]);
}

#[test]
fn sql_suites_that_heap_vouches_for() {
    Bench::new(Behind::Heap).run("regress/pg_regress", &["both"]);
}

#[test]
fn isolation() {
    let schedules = ["isolation_both", "isolation_varve"];
    Bench::new(Behind::Varve).run("isolation/pg_isolation_regress", &schedules);
}

#[test]
fn isolation_specs_that_heap_vouches_for() {
    Bench::new(Behind::Heap).run("isolation/pg_isolation_regress", &["isolation_both"]);
}
