//! Restored servers that the program starts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Bench;
use varve_tests::wait::until;

/// A server whose WAL takes a while to be replayed.
fn filled(bench: &mut Bench) -> i64 {
    bench
        .client
        .batch_execute("CREATE TABLE t (i int)")
        .unwrap();
    bench.backup("full");
    for _ in 0..12 {
        bench
            .client
            .batch_execute("INSERT INTO t SELECT generate_series(1, 100000)")
            .unwrap();
        bench.archived();
    }
    bench
        .client
        .query_one("SELECT count(*) FROM t", &[])
        .unwrap()
        .get(0)
}

fn start(bench: &Bench, pgdata: &std::path::Path, more: &[&str]) {
    let output = started(bench, pgdata, more);
    assert!(output.status.success(), "{}", common::all(&output));
}

fn started(bench: &Bench, pgdata: &std::path::Path, more: &[&str]) -> std::process::Output {
    let (socket, store) = (bench.directory("socket"), bench.store());
    let pgdata = pgdata.display().to_string();
    let socket = format!("unix_socket_directories={}", socket.display());
    let fixed = [
        "restore",
        "--quiet",
        "--start",
        "--from",
        &store,
        "--pgdata",
        &pgdata,
        "--set",
        &socket,
        "--set",
        "archive_mode=off",
    ];
    bench.varve(&[&fixed, more].concat()).output().unwrap()
}

fn answer(bench: &Bench, sql: &str) -> String {
    let mut client = postgres::Config::new()
        .host_path(bench.path("socket"))
        .port(5432)
        .user("postgres")
        .dbname("postgres")
        .connect(postgres::NoTls)
        .unwrap();
    client.query_one(sql, &[]).unwrap().get(0)
}

fn stop(bench: &Bench, pgdata: &std::path::Path) {
    let mut pg_ctl = bench.cluster.tool("pg_ctl");
    pg_ctl.args(["-m", "immediate", "stop", "-D"]).arg(pgdata);
    assert!(pg_ctl.status().unwrap().success());
}

#[test]
fn started_is_recovered() {
    let mut bench = Bench::new();
    let rows = filled(&mut bench);
    let pgdata = bench.path("latest");
    start(&bench, &pgdata, &[]);
    // Not only consistent, and open for reading.
    let state = "SELECT count(*) || ' ' || pg_is_in_recovery() FROM t";
    assert_eq!(answer(&bench, state), format!("{rows} false"));
    stop(&bench, &pgdata);
    let pgdata = bench.path("paused");
    let target = ["--to-name", "archived", "--target-action", "pause"];
    start(&bench, &pgdata, &target);
    assert_eq!(
        answer(&bench, "SELECT pg_get_wal_replay_pause_state()"),
        "paused"
    );
    assert_eq!(answer(&bench, "SELECT count(*)::text FROM t"), "100000");
    stop(&bench, &pgdata);
    let pgdata = bench.path("shut");
    start(
        &bench,
        &pgdata,
        &["--to-name", "archived", "--target-action", "shutdown"],
    );
    assert!(!pgdata.join("postmaster.pid").exists());
}

/// Nothing was committed at or after the moment: PostgreSQL ends. What it takes to go on is said, and works.
#[test]
fn a_moment_behind_the_last_commit() {
    let mut bench = Bench::new();
    let rows = filled(&mut bench);
    let from_log = ["", "logging_collector=on"];
    for (number, collector) in from_log.into_iter().enumerate() {
        let pgdata = bench.path(&format!("behind{number}"));
        let mut more = vec!["--to-time", "2100-01-01 00:00:00+00"];
        if !collector.is_empty() {
            more.extend(["--set", collector]);
        }
        let output = started(&bench, &pgdata, &more);
        let said = common::all(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        for part in [
            "ends before recovery_target_time = '2100-01-01 00:00:00.000000+00'",
            "its last commit was at 20",
            "leave the target out",
        ] {
            assert!(said.contains(part), "{said}");
        }
        let (_, command) = said.split_once("leave the target out: ").unwrap();
        let (command, _) = command.split_once(" recovers to").unwrap();
        let mut shell = common::user("sh");
        let output = shell.args(["-c", command]).output().unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            common::all(&output)
        );
        until("recovery to end", || {
            answer(&bench, "SELECT pg_is_in_recovery()::text") == "false"
        });
        assert_eq!(
            answer(&bench, "SELECT count(*)::text FROM t"),
            rows.to_string()
        );
        stop(&bench, &pgdata);
    }
}
