//! Backups that are taken by SQL: into stores, of all kinds, listed, verified, cancelled; nothing that failed looks valid.
//! What they are worth is tried where they are restored (`cli/tests`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use varve_tests::cluster::{Cluster, Stop};
use varve_tests::session::{Session, simple};
use varve_tests::wait;

/// A server with a store in a directory, under the name `first`.
fn start(settings: &[&str]) -> (Cluster, Client, PathBuf) {
    let settings = [&["fsync = off", "summarize_wal = on"], settings].concat();
    let cluster = Cluster::start_new(&settings).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let dir = cluster.dir().join("store");
    std::fs::create_dir(&dir).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
    ok(
        &mut client,
        &format!(
            "CREATE SERVER first FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role 'primary')",
            dir.display()
        ),
    );
    (cluster, client, dir)
}

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn code(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => e.code,
    }
}

#[test]
fn kinds_lists_and_damage() {
    let (_cluster, mut client, dir) = start(&[]);
    assert_eq!(code(&mut client, "SELECT varve.backup('some')"), "22023");
    assert_eq!(code(&mut client, "SELECT varve.backup(NULL)"), "22004");
    assert_eq!(
        code(&mut client, "SELECT varve.backup('full', store => 'none')"),
        "42704"
    );
    // There is nothing yet that it could be based on.
    assert_eq!(
        code(&mut client, "SELECT varve.backup('incremental')"),
        "55000"
    );
    ok(
        &mut client,
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i",
    );
    let full = ok(&mut client, "SELECT varve.backup('full', 'the first')").concat();
    ok(
        &mut client,
        "UPDATE t SET md5 = 'x' WHERE i = 5; CHECKPOINT",
    );
    let incremental = ok(&mut client, "SELECT varve.backup('incremental')").concat();
    let differential = ok(&mut client, "SELECT varve.backup('differential')").concat();
    assert_eq!(
        ok(
            &mut client,
            "SELECT id, kind, parent, label, stores, includes_wal, encrypted, stored_bytes < bytes, start_lsn < stop_lsn, duration > interval '0' FROM varve.backups ORDER BY started_at"
        ),
        [
            format!("{full}|full|∅|the first|{{first}}|t|f|t|t|t"),
            format!("{incremental}|incremental|{full}|varve|{{first}}|t|f|t|t|t"),
            format!("{differential}|differential|{full}|varve|{{first}}|t|f|t|t|t"),
        ]
    );
    let smaller =
        "SELECT max(bytes) FILTER (WHERE kind <> 'full') * 2 < max(bytes) FROM varve.backups";
    assert_eq!(ok(&mut client, smaller), ["t"]);
    let whole = format!(
        "SELECT bool_and(ok), bool_and(expected = actual), count(*), min(store) FROM varve.verify_backup('{full}')"
    );
    assert_eq!(ok(&mut client, &whole), ["t|t|2|first"]);
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.verify_backup('none')"),
        "42704"
    );
    // A byte of it is not what it was.
    let object = ok(
        &mut client,
        &format!("SELECT object FROM varve.verify_backup('{full}') WHERE object LIKE '%base.tar%'"),
    )
    .concat();
    let path = dir.join(&object);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let bad = format!(
        "SELECT object, expected <> actual, detail FROM varve.verify_backup('{full}') WHERE NOT ok"
    );
    assert_eq!(
        ok(&mut client, &bad),
        [format!(
            "{object}|t|its bytes are not those that were written"
        )]
    );
    // What is taken against it is worth no more.
    let chain = format!("SELECT object FROM varve.verify_backup('{incremental}') WHERE NOT ok");
    assert_eq!(ok(&mut client, &chain), [object.as_str()]);
    std::fs::remove_file(&path).unwrap();
    let bad = format!("SELECT object, actual FROM varve.verify_backup('{full}') WHERE NOT ok");
    assert_eq!(ok(&mut client, &bad), [format!("{object}|∅")]);
    // A damaged record is told, and no backup.
    let record = dir.join(format!("backups/{differential}/backup.json"));
    let mut bytes = std::fs::read(&record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&record, &bytes).unwrap();
    assert_eq!(ok(&mut client, "SELECT count(*) FROM varve.backups"), ["2"]);
    let told = format!(
        "SELECT detail LIKE '%damaged%' FROM varve.list_backups() WHERE id = '{differential}'"
    );
    assert_eq!(ok(&mut client, &told), ["t"]);
}

#[test]
fn privileges_and_settings() {
    let (_cluster, mut client, _dir) = start(&["summarize_wal = off"]);
    ok(&mut client, "CREATE ROLE joe");
    ok(&mut client, "SET ROLE joe");
    for call in [
        "SELECT varve.backup('full')",
        "SELECT * FROM varve.backups",
        "SELECT * FROM varve.list_backups()",
        "SELECT * FROM varve.verify_backup('x')",
    ] {
        assert_eq!(code(&mut client, call), "42501", "{call}");
    }
    ok(
        &mut client,
        "RESET ROLE; GRANT EXECUTE ON FUNCTION varve.backup(text, text, name), varve.list_backups() TO joe; SET ROLE joe",
    );
    // He sees no store, and may use none.
    assert_eq!(code(&mut client, "SELECT varve.backup('full')"), "55000");
    assert_eq!(
        code(&mut client, "SELECT varve.backup('full', store => 'first')"),
        "42501"
    );
    assert_eq!(
        ok(&mut client, "SELECT count(*) FROM varve.list_backups()"),
        ["0"]
    );
    ok(
        &mut client,
        "RESET ROLE; GRANT USAGE ON FOREIGN SERVER first TO joe; SET ROLE joe",
    );
    ok(&mut client, "SELECT varve.backup('full')");
    assert_eq!(
        ok(&mut client, "SELECT count(*) FROM varve.list_backups()"),
        ["1"]
    );
    ok(&mut client, "RESET ROLE");
    let error = simple(&mut client, "SELECT varve.backup('incremental')").unwrap_err();
    assert_eq!(error.code, "55000");
    assert!(error.hint.unwrap().contains("summarize_wal"));
    // In a transaction that may not write, and on the way to a server that is not there.
    ok(&mut client, "SET default_transaction_read_only = on");
    assert_eq!(code(&mut client, "SELECT varve.backup('full')"), "25006");
    ok(&mut client, "RESET default_transaction_read_only");
    ok(
        &mut client,
        "ALTER SYSTEM SET varve.backup_conninfo = 'host=/nowhere port=1 user=postgres'",
    );
    ok(&mut client, "SELECT pg_reload_conf()");
    wait::until("the setting", || {
        ok(&mut client, "SHOW varve.backup_conninfo")[0].contains("nowhere")
    });
    assert_eq!(code(&mut client, "SELECT varve.backup('full')"), "08006");
}

#[test]
fn cancelled_and_as_a_job() {
    let (cluster, mut client, dir) = start(&["varve.max_workers = 2"]);
    ok(
        &mut client,
        "CREATE TABLE t AS SELECT i, md5(i::text), repeat('x', 500) FROM generate_series(1, 200000) i",
    );
    let shown = "SELECT count(*) > 0 FROM varve.progress WHERE operation = 'backup' AND phase = 'files' AND done > 0 AND unit = 'bytes'";
    let mut session = Session::new(&cluster).unwrap();
    session.start("SELECT varve.backup('full')");
    wait::until("the backup to be shown", || ok(&mut client, shown) == ["t"]);
    ok(
        &mut client,
        &format!("SELECT pg_cancel_backend({})", session.pid()),
    );
    assert_eq!(session.finish().unwrap_err().code, "57014");
    assert_eq!(
        ok(&mut client, "SELECT count(*) FROM varve.list_backups()"),
        ["0"]
    );
    assert_eq!(
        ok(&mut client, "SELECT count(*) FROM varve.progress"),
        ["0"]
    );
    let left = || std::fs::read_dir(dir.join("backups")).map_or(0, |entries| entries.count());
    wait::until("what was written to be removed", || left() == 0);
    // The server's own side has ended: it holds back no WAL.
    let senders = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    wait::until("the walsender to end", || ok(&mut client, senders) == ["0"]);
    // Terminated in the middle.
    session.start("SELECT varve.backup('full')");
    wait::until("the backup to be shown", || ok(&mut client, shown) == ["t"]);
    ok(
        &mut client,
        &format!("SELECT pg_terminate_backend({})", session.pid()),
    );
    session.finish().unwrap_err();
    wait::until("the walsender to end", || ok(&mut client, senders) == ["0"]);
    assert_eq!(
        ok(&mut client, "SELECT count(*) FROM varve.list_backups()"),
        ["0"]
    );
    ok(
        &mut client,
        "SELECT varve.add_job('nightly', '0 2 * * 0', $$SELECT varve.backup('full')$$)",
    );
    ok(&mut client, "SELECT varve.run_job(1)");
    assert_eq!(
        ok(
            &mut client,
            "SELECT r.state, r.bytes = b.stored_bytes FROM varve.job_runs r, varve.backups b"
        ),
        ["succeeded|t"]
    );
}

/// WAL goes into the primary store as soon as there is one; while it is away WAL waits, and nothing stands in the way of a shutdown.
#[test]
fn wal_is_archived() {
    let (cluster, mut client, dir) = start(&[
        "archive_mode = on",
        "archive_library = 'varve'",
        "varve.max_workers = 2",
    ]);
    let switch = |client: &mut Client| {
        ok(
            client,
            "CREATE TABLE IF NOT EXISTS w (v int); INSERT INTO w VALUES (1)",
        );
        let name = ok(
            client,
            "SELECT pg_walfile_name(pg_current_wal_insert_lsn())",
        )
        .concat();
        ok(client, "SELECT pg_switch_wal()");
        name
    };
    let object = |name: &str| dir.join(format!("wal/00000001/{name}.zst"));
    let first = switch(&mut client);
    wait::until("the first segment in the store", || object(&first).exists());
    let archived = |client: &mut Client, name: &str| {
        let sql = format!("SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver");
        ok(client, &sql) == ["t"]
    };
    wait::until("the archiver to know", || archived(&mut client, &first));
    // The store goes away: WAL waits.
    let away = dir.with_extension("away");
    std::fs::rename(&dir, &away).unwrap();
    let second = switch(&mut client);
    wait::until("the archiver to fail", || {
        ok(&mut client, "SELECT failed_count > 0 FROM pg_stat_archiver") == ["t"]
    });
    assert!(!archived(&mut client, &second));
    assert!(!dir.exists(), "a directory was made in the store's place");
    let waits =
        format!("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name = '{second}.ready'");
    assert_eq!(ok(&mut client, &waits), ["1"]);
    std::fs::rename(&away, &dir).unwrap();
    let third = switch(&mut client);
    wait::until("the archiver to catch up", || archived(&mut client, &third));
    assert!(object(&second).exists() && object(&third).exists());
    // A backup waits until its WAL is there.
    ok(&mut client, "SELECT varve.backup('full')");
    assert_eq!(
        ok(&mut client, "SELECT includes_wal FROM varve.backups"),
        ["f"]
    );
    // After a restart the store is found again, by itself.
    cluster.stop(Stop::Fast).unwrap();
    cluster.start().unwrap();
    let mut client = cluster.connect().unwrap();
    let fourth = switch(&mut client);
    wait::until("a segment after the restart", || object(&fourth).exists());
    // A store that answers nothing does not hold up a shutdown.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    ok(
        &mut client,
        &format!(
            "DROP SERVER first; CREATE SERVER silent FOREIGN DATA WRAPPER varve_store OPTIONS (url 's3://bucket/x', endpoint 'http://127.0.0.1:{port}', allow_http 'true', timeout '60s');
             CREATE USER MAPPING FOR CURRENT_USER SERVER silent OPTIONS (access_key_id 'a', secret_access_key 'b')"
        ),
    );
    silent.set_nonblocking(true).unwrap();
    wait::until("the archiver to come", || {
        switch(&mut client);
        silent.accept().is_ok()
    });
    let begin = Instant::now();
    cluster.stop(Stop::Fast).unwrap();
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(40),
        "a fast shutdown took {took:?}"
    );
}
