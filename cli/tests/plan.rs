//! The commands of `varve.recovery_plan` do what they say, as they stand there.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{VARVE, user};
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;
use varve_tests::wait;

#[test]
fn commands_bring_the_cluster_back() {
    let cluster = Cluster::start_new(&[
        "archive_mode = on",
        "archive_library = 'varve'",
        "summarize_wal = on",
        "varve.max_workers = 2",
    ])
    .unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let mut ok = |sql: &str| simple(&mut client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    for name in ["store", "second", "scratch", "space"] {
        let path = cluster.dir().join(name);
        assert!(user("mkdir").arg(path).status().unwrap().success());
    }
    let dir = cluster.dir().display().to_string();
    for (name, role) in [("store", "primary"), ("second", "secondary")] {
        ok(&format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{dir}/{name}', role '{role}')"
        ));
    }
    ok(&format!("CREATE TABLESPACE space LOCATION '{dir}/space'; "));
    ok(
        "CREATE TABLE t (a int PRIMARY KEY) TABLESPACE space; INSERT INTO t SELECT generate_series(1, 1000)",
    );
    ok("SELECT varve.enable('t'); SELECT varve.set_tier('t', 'warm')");
    ok("SELECT varve.backup('full')");
    ok("INSERT INTO t VALUES (1001)");
    ok("SELECT varve.backup('incremental')");
    ok("INSERT INTO t VALUES (1002)");
    let moment = ok("SELECT clock_timestamp()").concat();
    ok("DELETE FROM t");
    let segment = ok("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").concat();
    ok("SELECT pg_switch_wal()");
    let sql = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    wait::until("WAL to be archived", || ok(&sql) == ["t"]);
    let plan = format!(
        "SELECT command FROM varve.recovery_plan('{moment}') WHERE command IS NOT NULL ORDER BY step"
    );
    // Nothing was measured yet.
    let first = ok(&format!(
        "SELECT step, command, estimated FROM varve.recovery_plan('{moment}') LIMIT 1"
    ));
    assert_eq!(first, ["1|SELECT * FROM varve.recovery_drill()|∅"]);
    ok(&format!(
        "ALTER SYSTEM SET varve.scratch_directory = '{dir}/scratch'"
    ));
    ok("SELECT pg_reload_conf()");
    wait::until("the setting", || {
        ok("SHOW varve.scratch_directory") == [format!("{dir}/scratch")]
    });
    assert_eq!(ok("SELECT bool_and(ok) FROM varve.recovery_drill()"), ["t"]);
    let estimated = ok(&format!(
        "SELECT count(*) FROM varve.recovery_plan('{moment}') WHERE estimated > '0'"
    ));
    assert_eq!(estimated, ["3"], "restore, replay, and the new backup");
    let commands = ok(&plan);
    let words = [
        "mv ",
        "varve restore ",
        "pg_ctl",
        "varve.verify",
        "varve.backup",
    ];
    // Behind them come copies, where there is a function that makes them.
    let (needed, copies) = commands.split_at(words.len());
    for (command, word) in needed.iter().zip(words) {
        assert!(command.contains(word), "{commands:#?}");
    }
    assert!(copies.len() <= 1, "{commands:#?}");
    let last = ok("SELECT action FROM varve.recovery_plan() ORDER BY step DESC LIMIT 1");
    assert_eq!(last, ["Have a copy of it in store \"second\" again"]);
    drop(client);
    let bin = Path::new(VARVE).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap();
    for command in &commands {
        let said = cluster.dir().join("said");
        let output = user("sh")
            .args(["-c", &format!("{command} >{} 2>&1", said.display())])
            .env("PATH", format!("{bin}:{path}"))
            .env("PGHOST", cluster.dir())
            .env("PGPORT", "5432")
            .env("PGUSER", "postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let said = std::fs::read_to_string(&said).unwrap();
        let log = std::fs::read_to_string(cluster.data().join("startup.log")).unwrap_or_default();
        assert!(output.success(), "{command}: {said}\n{log}");
    }
    let mut client = cluster.connect().unwrap();
    let mut ok = |sql: &str| simple(&mut client, sql).unwrap();
    assert_eq!(
        ok("SELECT count(*), max(a), bool_and(v.ok) FROM t, varve.verify('t') v"),
        ["1002|1002|t"]
    );
    assert_eq!(ok("SELECT count(*) FROM varve.backups"), ["3"]);
}
