//! What is refused says why and what to do.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, all, files};
use postgres::Client;
use varve_tests::wait::until;

fn hba(bench: &mut Bench, lines: &str) {
    std::fs::write(bench.cluster.data().join("pg_hba.conf"), lines).unwrap();
    bench
        .client
        .batch_execute("SELECT pg_reload_conf()")
        .unwrap();
    let client = &mut bench.client;
    let count = lines.lines().count() as i64;
    until("pg_hba.conf to be read", || {
        client
            .query_one("SELECT count(*) = $1 FROM pg_hba_file_rules", &[&count])
            .unwrap()
            .get(0)
    });
}

#[test]
fn another_clusters_store() {
    let one = Bench::new();
    let two = Bench::new();
    one.backup("full");
    let (code, said) = two.fails(&["backup", "--to", &one.store()]);
    assert!(
        code == 4 && said.contains("belongs to the cluster with system identifier"),
        "{said}"
    );
    assert_eq!(files(&one.path("store"), "backup.json").len(), 1);
}

#[test]
fn lines_of_pg_hba_and_rights() {
    let mut bench = Bench::new();
    bench
        .client
        .batch_execute("CREATE ROLE plain LOGIN")
        .unwrap();
    let url = bench.store();
    hba(&mut bench, "local all all trust\n");
    let (code, said) = bench.fails(&["backup", "--to", &url]);
    assert!(
        code == 5 && said.contains("local replication postgres peer"),
        "{said}"
    );
    assert!(said.contains("28000"), "{said}");
    hba(
        &mut bench,
        "local all all trust\nlocal replication all trust\n",
    );
    let conninfo = format!("host={} user=plain", bench.cluster.dir().display());
    let (_, said) = bench.fails(&["backup", "--to", &url, "--conninfo", &conninfo]);
    assert!(said.contains("ALTER ROLE plain REPLICATION"), "{said}");
    let (code, said) = bench.fails(&["backup", "--to", &url, "--conninfo", "host=/nowhere user=x"]);
    assert!(code == 5 && said.contains("cannot be reached"), "{said}");
}

#[test]
fn passwords() {
    let mut bench = Bench::new();
    let url = bench.store();
    for method in ["scram-sha-256", "md5", "password"] {
        let kind = if method == "md5" {
            "md5"
        } else {
            "scram-sha-256"
        };
        let role = format!(
            "SET password_encryption = '{kind}'; ALTER ROLE postgres PASSWORD 'it is ''secret'"
        );
        bench.client.batch_execute(&role).unwrap();
        hba(
            &mut bench,
            &format!("local all all trust\nlocal replication all {method}\n"),
        );
        let (_, said) = bench.fails(&["backup", "--to", &url]);
        assert!(said.contains("asks for the password"), "{method}: {said}");
        let with = |password: &str| {
            bench
                .varve(&["backup", "--to", &url, "--no-wait"])
                .env("PGPASSWORD", password)
                .output()
                .unwrap()
        };
        let wrong = with("wrong");
        assert!(
            !wrong.status.success() && !all(&wrong).contains("secret"),
            "{}",
            all(&wrong)
        );
        let right = with("it is 'secret");
        assert!(right.status.success(), "{method}: {}", all(&right));
    }
}

/// Sets whether WAL is summarised, and waits until the server has taken it in.
fn summaries(client: &mut Client, sql: &str, value: &str) {
    client.batch_execute(sql).unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    until("the setting of summaries", || {
        client
            .query_one("SHOW summarize_wal", &[])
            .unwrap()
            .get::<_, String>(0)
            == value
    });
}

#[test]
fn summaries_that_are_off_or_gone() {
    let mut bench = Bench::with(&["min_wal_size = 32MB", "max_wal_size = 32MB"]);
    let url = bench.store();
    let (code, said) = bench.fails(&["backup", "--to", &url, "--kind", "differential"]);
    assert!(
        code == 4 && said.contains("Take a full backup first"),
        "{said}"
    );
    bench.backup("full");
    bench
        .client
        .batch_execute("CREATE TABLE x AS SELECT generate_series(1, 1000) n")
        .unwrap();
    bench.archived();
    bench.backup("incremental");
    summaries(
        &mut bench.client,
        "ALTER SYSTEM SET summarize_wal = off",
        "off",
    );
    let (code, said) = bench.fails(&["backup", "--to", &url, "--kind", "incremental"]);
    assert!(
        code == 4 && said.contains("Set summarize_wal = on"),
        "{said}"
    );
    // They are made again of WAL that is still there.
    let wal = bench.cluster.data().join("pg_wal");
    let oldest = files(&bench.path("store/wal"), ".backup.zst")
        .pop()
        .unwrap();
    let oldest = oldest.file_name().unwrap().to_str().unwrap()[..24].to_owned();
    until("WAL to be recycled", || {
        bench
            .client
            .batch_execute("INSERT INTO x VALUES (0)")
            .unwrap();
        bench.archived();
        bench.client.batch_execute("CHECKPOINT").unwrap();
        !wal.join(&oldest).exists()
    });
    for summary in files(&bench.cluster.data().join("pg_wal/summaries"), ".summary") {
        std::fs::remove_file(summary).unwrap();
    }
    summaries(&mut bench.client, "ALTER SYSTEM RESET summarize_wal", "on");
    let (code, said) = bench.fails(&["backup", "--to", &url, "--kind", "incremental"]);
    assert!(code == 5 && said.contains("take a full backup"), "{said}");
    assert_eq!(files(&bench.path("store"), "backup.json").len(), 2);
}
