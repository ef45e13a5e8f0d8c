//! Stores that are damaged, processes that are killed, restores that are interrupted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::{Command, Stdio};

use common::{Bench, all, files, flip, sum, user};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use varve_tests::wait::until;

fn copy_store(bench: &Bench) {
    let (from, to) = (bench.path("store"), bench.path("second"));
    let status = user("cp")
        .arg("-a")
        .arg(format!("{}/.", from.display()))
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

fn filled(bench: &mut Bench) {
    let fill = "CREATE TABLE x AS SELECT i, md5(i::text) h FROM generate_series(1, 300000) i";
    bench.client.batch_execute(fill).unwrap();
}

/// What a store has damaged or lost comes from the next one; what both have damaged is an error.
#[test]
fn a_damaged_object_comes_from_the_next_store() {
    let mut bench = Bench::new();
    filled(&mut bench);
    bench.backup("full");
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (0, 'later')")
        .unwrap();
    bench.backup("incremental");
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (-1, 'last')")
        .unwrap();
    bench.archived();
    copy_store(&bench);
    let store = bench.path("store");
    let archives = files(&store, "base.tar.zst");
    flip(&archives[0]);
    std::fs::remove_file(&archives[1]).unwrap();
    for wal in files(&store.join("wal"), ".zst") {
        flip(&wal);
    }
    let (first, second) = (bench.store(), bench.url("second"));
    let (code, said) = bench.fails(&["verify", "--from", &first]);
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("SHA-256 expected") && said.contains("not found"),
        "{said}"
    );
    assert!(
        bench
            .ok(&["verify", "--from", &second])
            .contains(" 0 damaged")
    );

    let both = ["--from", &first, "--from", &second];
    let restored = bench.restored("restored", &both);
    assert_eq!(
        sum(&mut restored.connect(), "x"),
        sum(&mut bench.client, "x")
    );
    drop(restored);
    let pgdata = bench.path("none");
    let pgdata = pgdata.to_str().unwrap();
    let (code, said) = bench.fails(&["restore", "--from", &first, "--pgdata", pgdata]);
    assert!(code == 3 || code == 1, "{said}");
    // The same directory is gone on with, once the other store is named too: the backup is the same.
    let output = bench
        .varve(&[&["restore", "--pgdata", pgdata], &both[..]].concat())
        .output()
        .unwrap();
    let said = all(&output);
    // The restore command names other stores, so it is another restore.
    assert!(said.contains("another restore was interrupted"), "{said}");
}

/// A truncated record, and one with a changed byte, are named and not used.
#[test]
fn records_that_are_damaged() {
    let mut bench = Bench::new();
    bench
        .client
        .batch_execute("CREATE TABLE x (n int)")
        .unwrap();
    bench.backup("full");
    let record = files(&bench.path("store"), "backup.json").remove(0);
    let whole = std::fs::read(&record).unwrap();
    for bytes in [
        &whole[..whole.len() / 2],
        b"",
        b"{}",
        &whole.to_ascii_uppercase(),
    ] {
        std::fs::write(&record, bytes).unwrap();
        let (code, said) = bench.fails(&["list", "--from", &bench.store()]);
        assert!(code == 3 && said.contains("damaged"), "{said}");
        let (code, said) =
            bench.fails(&["backup", "--to", &bench.store(), "--kind", "incremental"]);
        assert!(
            code == 4 && said.contains("Take a full backup first"),
            "{said}"
        );
    }
    std::fs::write(&record, &whole).unwrap();
    let text = String::from_utf8(whole)
        .unwrap()
        .replace("\"timeline\":1", "\"timeline\":2");
    std::fs::write(&record, text).unwrap();
    let (_, said) = bench.fails(&["list", "--from", &bench.store()]);
    assert!(said.contains("its SHA-256 should be"), "{said}");
}

/// kill -9 amid a backup leaves nothing that is one; the server is free of it at once.
#[test]
fn killed_and_cancelled_backups() {
    let mut bench = Bench::new();
    filled(&mut bench);
    let store = bench.path("store");
    let objects = |store: &std::path::Path| files(&store.join("backups"), "").len();
    for signal in ["-KILL", "-TERM"] {
        // Slow enough to be found at work.
        let url = bench.store();
        let mut child = bench
            .varve(&["backup", "--to", &url, "--max-rate", "1024"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let client = &mut bench.client;
        until("the backup to be under way", || {
            client
                .query_one("SELECT count(*) > 0 FROM pg_stat_progress_basebackup WHERE backup_streamed > 0", &[])
                .unwrap()
                .get(0)
        });
        let group = format!("-{}", child.id());
        let killed = Command::new("kill")
            .args([signal, "--", &group])
            .status()
            .unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert!(!status.success());
        until("the server to end the backup", || {
            client
                .query_one(
                    "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'walsender'",
                    &[],
                )
                .unwrap()
                .get(0)
        });
        // Of the one that was killed what says that it is at work stays, until it is old; the other takes its own away.
        assert_eq!(objects(&store), 1, "{signal}");
        assert_eq!(files(&store.join("backups"), "running").len(), 1);
        let listed = bench.ok(&["list", "--from", &url, "--json"]);
        assert_eq!(listed, "", "{signal}");
    }
    bench.backup("full");
    assert!(
        bench
            .ok(&["verify", "--from", &bench.store()])
            .contains(" 0 damaged")
    );
}

/// kill -9 amid a restore: it cannot be started, it is not mistaken for another, and the same arguments finish it.
#[test]
fn interrupted_restores() {
    let mut bench = Bench::new();
    filled(&mut bench);
    bench.backup("full");
    bench
        .client
        .batch_execute("UPDATE x SET h = 'new' WHERE i % 1000 = 0")
        .unwrap();
    bench.backup("incremental");
    bench.archived();
    let url = bench.store();
    let mut name = String::new();
    let mut socket = String::new();
    // It may be done before it is killed: then once more, with another directory.
    for attempt in 0..20 {
        name = format!("restored{attempt}");
        let pgdata = bench.path(&name);
        socket = format!("unix_socket_directories={}", pgdata.display());
        let mut child = bench
            .varve(&[
                "restore",
                "--from",
                &url,
                "--pgdata",
                pgdata.to_str().unwrap(),
            ])
            .args(["--set", &socket, "--set", "archive_mode=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It is done within a few milliseconds: what looks for it must not sleep.
        let begun = pgdata.join("varve_restore/out/base");
        while !begun.is_dir() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let group = Pid::from_raw(child.id() as i32);
        // It may have ended.
        let _ = killpg(group, Signal::SIGKILL);
        child.wait().unwrap();
        if pgdata.join("varve_restore/marker.json").is_file() {
            break;
        }
    }
    let pgdata = bench.path(&name);
    assert!(pgdata.join("varve_restore/marker.json").is_file());
    assert!(!pgdata.join("global/pg_control").exists());
    let (code, said) = bench.fails(&[
        "restore",
        "--from",
        &url,
        "--to-backup",
        "--pgdata",
        pgdata.to_str().unwrap(),
    ]);
    assert!(
        code == 4 && said.contains("another restore was interrupted"),
        "{said}"
    );
    let restored = bench.restored(&name, &[]);
    assert!(!pgdata.join("varve_restore").exists());
    assert_eq!(
        sum(&mut restored.connect(), "x"),
        sum(&mut bench.client, "x")
    );
    drop(restored);
    let (code, said) = bench.fails(&[
        "restore",
        "--from",
        &url,
        "--pgdata",
        pgdata.to_str().unwrap(),
        "--set",
        &socket,
    ]);
    assert!(code == 4 && said.contains("is not empty"), "{said}");
}
