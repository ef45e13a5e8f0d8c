//! Policies of backups: what they do, what is kept, what is found damaged, what the log is told, what is encrypted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use varve_tests::cluster::Cluster;
use varve_tests::s3::{self, S3Server};
use varve_tests::session::simple;
use varve_tests::wait::{archived, until};

/// A key that serves here alone.
const SECRET: &str = "AGE-SECRET-KEY-1N8ZCTQVZF3528V2AYEX8P9EUJQNHANF2RN30U0QE5JKWTLPHTYHQ8JSC8K";
const PUBLIC: &str = "age1h5n6rq84h9zmycxvqzukyqug08j78ccp0z7npgtlhc00tvv2a4sqyfxxpr";

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn one(client: &mut Client, sql: &str) -> String {
    ok(client, sql).concat()
}

fn code(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => e.code,
    }
}

/// A server with two stores, `first` and `second`.
fn start(settings: &[&str]) -> (Cluster, Client, [PathBuf; 2]) {
    let fixed = [
        "fsync = off",
        "summarize_wal = on",
        "archive_mode = on",
        "archive_library = 'varve'",
        "varve.max_workers = 4",
    ];
    let cluster = Cluster::start_new(&[&fixed, settings].concat()).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    let stores = [("first", "primary"), ("second", "secondary")].map(|(name, role)| {
        let path = cluster.dir().join(name);
        std::fs::create_dir(&path).unwrap();
        chown(&path, Some(above.uid()), Some(above.gid())).unwrap();
        ok(
            &mut client,
            &format!(
                "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role '{role}')",
                path.display()
            ),
        );
        path
    });
    (cluster, client, stores)
}

/// Sets what is read anew at a reload, and waits until this session has it.
fn set(client: &mut Client, setting: &str, value: &str) {
    ok(client, &format!("ALTER SYSTEM SET {setting} = '{value}'"));
    ok(client, "SELECT pg_reload_conf()");
    until("the setting to be read", || {
        one(
            client,
            &format!("SELECT setting = '{value}' FROM pg_settings WHERE name = '{setting}'"),
        ) == "t"
    });
}

fn run(client: &mut Client, task: &str) {
    ok(
        client,
        &format!(
            "SELECT varve.run_job(id) FROM varve.jobs WHERE kind = 'backup' AND settings ->> 'task' = '{task}'"
        ),
    );
}

fn wal_files(store: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(store.join("wal/00000001"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_policy_takes_copies_and_removes() {
    let (_cluster, mut client, [first, second]) = start(&[]);
    let add = |more: &str| format!("SELECT varve.add_backup_policy({more})");
    assert_eq!(code(&mut client, &add("NULL")), "22004");
    assert_eq!(code(&mut client, &add("'no schedule'")), "22023");
    assert_eq!(
        code(&mut client, &add("'0 2 * * 0', keep_full => 0")),
        "22023"
    );
    assert_eq!(
        code(&mut client, &add("'0 2 * * 0', keep_for => '-1 day'")),
        "22023"
    );
    assert_eq!(
        code(&mut client, &add("'0 2 * * 0', store => 'none'")),
        "42704"
    );
    assert_eq!(
        code(&mut client, &add("'0 2 * * 0', time_zone => 'Nowhere'")),
        "22023"
    );
    assert_eq!(
        code(&mut client, "SELECT varve.remove_backup_policy()"),
        "42704"
    );
    ok(&mut client, "CREATE ROLE joe; SET ROLE joe");
    for call in [
        add("'0 2 * * 0'"),
        "SELECT varve.remove_backup_policy()".into(),
        "SELECT * FROM varve.expire()".into(),
        "SELECT * FROM varve.copy_backups()".into(),
        "SELECT * FROM varve.verify_stores()".into(),
        "SELECT * FROM varve.recovery_status".into(),
        "CALL varve.take_backup()".into(),
        "CALL varve.watch_backups()".into(),
    ] {
        assert_eq!(code(&mut client, &call), "42501", "{call}");
    }
    ok(&mut client, "RESET ROLE");
    // Times that do not come by themselves here.
    let policy = add(
        "'0 2 1 1 *', '0 3 1 1 *', '0 4 1 1 *', keep_full => 1, copy_schedule => '0 5 1 1 *', watch_schedule => '0 6 1 1 *', time_zone => 'UTC'",
    );
    ok(&mut client, &policy);
    assert_eq!(code(&mut client, &policy), "42710");
    assert_eq!(
        ok(
            &mut client,
            "SELECT name, schedule, settings ->> 'task' FROM varve.jobs WHERE kind = 'backup' ORDER BY id"
        ),
        [
            "full backup|0 2 1 1 *|full",
            "differential backup|0 3 1 1 *|differential",
            "incremental backup|0 4 1 1 *|incremental",
            "copies of backups|0 5 1 1 *|copy",
            "watch over backups|0 6 1 1 *|watch",
        ]
    );
    // There is nothing yet that an incremental backup could be based on.
    run(&mut client, "incremental");
    let kinds = "SELECT kind, label FROM varve.backups ORDER BY started_at";
    assert_eq!(ok(&mut client, kinds), ["full|policy"]);
    run(&mut client, "incremental");
    archived(&mut client);
    run(&mut client, "copy");
    let both = "SELECT kind, stores FROM varve.backups ORDER BY started_at";
    assert_eq!(
        ok(&mut client, both),
        ["full|{first,second}", "incremental|{first,second}"]
    );
    // The next full backup takes the place of both, and of their WAL.
    let before = wal_files(&second);
    run(&mut client, "full");
    assert_eq!(
        ok(&mut client, both),
        ["full|{second}", "incremental|{second}", "full|{first}"]
    );
    assert_eq!(wal_files(&second), before);
    run(&mut client, "copy");
    let shown = "SELECT store, kind, count(*) FROM varve.expire(1) GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(ok(&mut client, shown), ["second|backup|2", "second|wal|1"]);
    // Shown is not removed, and what is to be kept longer is not shown.
    assert_eq!(ok(&mut client, shown), ["second|backup|2", "second|wal|1"]);
    assert_eq!(
        one(
            &mut client,
            "SELECT count(*) FROM varve.expire(1, '1 hour')"
        ),
        "0"
    );
    let removed = "SELECT count(*) FROM varve.expire(remove => true) WHERE kind = 'backup'";
    assert_eq!(one(&mut client, removed), "2");
    assert_eq!(ok(&mut client, both), ["full|{first,second}"]);
    assert_eq!(wal_files(&first)[0], wal_files(&second)[0]);
    assert!(wal_files(&first)[0] > before[0]);
    let bad = "SELECT * FROM varve.verify_stores() WHERE NOT ok";
    assert_eq!(ok(&mut client, bad), Vec::<String>::new());
    // A backup that begins anew commits what was before it: not in a transaction of somebody else's.
    assert_eq!(
        code(&mut client, "BEGIN; CALL varve.take_backup()"),
        "2D000"
    );
    ok(&mut client, "ROLLBACK");
    ok(&mut client, "SELECT varve.remove_backup_policy()");
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.jobs"), "0");
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.backups"), "1");
}

#[test]
fn a_backup_of_the_policy_holds_no_snapshot() {
    let (cluster, mut client, _) = start(&[]);
    ok(
        &mut client,
        "CREATE TABLE noise AS SELECT string_agg(md5(random()::text), '') AS v FROM generate_series(1, 1000000) i GROUP BY i % 20000",
    );
    let mut session = varve_tests::session::Session::new(&cluster).unwrap();
    session.start("CALL varve.take_backup()");
    let pid = session.pid();
    let sql = format!(
        "SELECT a.backend_xmin IS NULL FROM pg_stat_activity a, varve.progress p \
         WHERE a.pid = {pid} AND p.pid = a.pid AND p.phase IN ('files', 'waiting for a checkpoint') AND a.state = 'active'"
    );
    until("the backup to be under way", || {
        let found = one(&mut client, &sql);
        assert_ne!(found, "f", "a snapshot is held");
        found == "t" || session.done()
    });
    session.finish().unwrap();
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.backups"), "1");
}

/// The policy's drill is a procedure within one: it is recorded whether it is good or not, and the job fails where it is not.
#[test]
fn the_policy_drills() {
    let (_cluster, mut client, [first, _]) = start(&[]);
    let never = "'0 2 1 1 *'";
    ok(
        &mut client,
        &format!(
            "SELECT varve.add_backup_policy({never}, drill_schedule => {never}, copy_schedule => {never}, watch_schedule => {never})"
        ),
    );
    let id = one(&mut client, "SELECT varve.backup()");
    run(&mut client, "drill");
    let recorded = "SELECT ok, error, rto > '0', tables_wrong FROM varve.drill ORDER BY id";
    assert_eq!(ok(&mut client, recorded), ["t|∅|t|0"]);
    std::fs::write(first.join(format!("backups/{id}/base.tar.zst")), "x").unwrap();
    let job = one(
        &mut client,
        "SELECT id FROM varve.jobs WHERE settings ->> 'task' = 'drill'",
    );
    let error = simple(&mut client, &format!("SELECT varve.run_job({job})")).unwrap_err();
    assert_eq!(error.code, "22000", "{error:?}");
    assert_eq!(
        ok(
            &mut client,
            "SELECT ok, error LIKE 'restore: %' FROM varve.drill ORDER BY id"
        ),
        ["t|∅", "f|t"]
    );
    let state = format!(
        "SELECT state, message LIKE 'the recovery drill failed: %base.tar.zst%' FROM varve.job_runs WHERE job = {job} ORDER BY started_at DESC LIMIT 1"
    );
    assert_eq!(one(&mut client, &state), "failed|t");
}

/// A directory that is removed when dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two buckets of one name at two servers are two places and two media; a second name of one of them is neither.
#[test]
fn places_are_counted_and_not_names() {
    let (cluster, mut client, [first, _]) = start(&[]);
    // Their files are ours and not the server's user's: they go before his directory does.
    let buckets = ["a", "b"].map(|name| Removed(cluster.dir().join(name)));
    let servers = buckets.each_ref().map(|b| S3Server::start(&b.0).unwrap());
    let make = |client: &mut Client, name: &str, role: &str, options: &str| {
        ok(
            client,
            &format!(
                "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (role '{role}', {options})"
            ),
        );
    };
    let remote = |client: &mut Client, name: &str, role: &str, endpoint: &str| {
        let options = format!(
            "url 's3://{}/varve', endpoint '{endpoint}', allow_http 'true', retry_timeout '3s'",
            s3::BUCKET
        );
        make(client, name, role, &options);
        ok(
            client,
            &format!(
                "CREATE USER MAPPING FOR CURRENT_USER SERVER {name} OPTIONS (access_key_id '{}', secret_access_key '{}')",
                s3::KEY,
                s3::SECRET
            ),
        );
    };
    let [a, b] = servers
        .each_ref()
        .map(|s| format!("http://{}", s.address()));
    ok(&mut client, "DROP SERVER second");
    remote(&mut client, "at_a", "secondary", &a);
    ok(&mut client, "SELECT varve.backup()");
    let copied = "SELECT bool_and(ok) FROM varve.copy_backups()";
    let rule = "SELECT rule_3_2_1 FROM varve.recovery_status";
    assert_eq!(one(&mut client, copied), "t");
    assert_eq!(
        one(&mut client, rule),
        "3-2-1 not satisfied: 3 copies (database, at_a, first), 2 media, 0 offsite"
    );
    // A second name of what is there already.
    remote(&mut client, "at_a_again", "offsite", &format!("{a}/"));
    let link = cluster.dir().join("link");
    std::os::unix::fs::symlink(&first, &link).unwrap();
    make(
        &mut client,
        "first_again",
        "offsite",
        &format!("url 'file://{}'", link.display()),
    );
    assert_eq!(
        one(&mut client, rule),
        "3-2-1 not satisfied: 3 copies (database, at_a, first), 2 media, 0 offsite"
    );
    let refused = ok(
        &mut client,
        "SELECT detail FROM varve.copy_backups() WHERE store = 'first_again'",
    )
    .concat();
    assert_eq!(
        refused,
        format!(
            "file://{} cannot be copied to itself",
            first.canonicalize().unwrap().display()
        )
    );
    ok(&mut client, "DROP SERVER first_again");
    // Another server, with a bucket of the same name.
    remote(&mut client, "at_b", "offsite", &b);
    assert_eq!(
        one(
            &mut client,
            "SELECT ok FROM varve.copy_backups('at_a', 'at_b')"
        ),
        "t"
    );
    assert_eq!(
        one(&mut client, rule),
        "3-2-1 satisfied: 4 copies (database, at_a, at_b, first), 3 media, 1 offsite"
    );
    let places = ok(
        &mut client,
        "SELECT store, medium, place FROM varve.store_state() WHERE store LIKE 'at%' ORDER BY store",
    );
    let told = |name: &str, at: &str| format!("{name}|{at}|s3://{}/varve at {at}", s3::BUCKET);
    assert_eq!(
        places,
        [told("at_a", &a), told("at_a_again", &a), told("at_b", &b)]
    );
    assert!(!places.concat().contains(s3::SECRET) && !places.concat().contains(s3::KEY));
}

#[test]
fn the_log_warns_when_it_begins() {
    let (cluster, mut client, [first, _]) = start(&["log_min_messages = warning"]);
    let alerts = "SELECT string_agg(key, ',' ORDER BY key) FROM varve.recovery_status, jsonb_each_text(alerts)";
    assert_eq!(one(&mut client, alerts), "backup,drill");
    let warned = |what: &str| {
        cluster
            .log()
            .matches(&format!("backups need attention ({what})"))
            .count()
    };
    ok(&mut client, "CALL varve.watch_backups()");
    ok(&mut client, "CALL varve.watch_backups()");
    assert_eq!(
        (warned("backup"), warned("drill"), warned("wal")),
        (1, 1, 0)
    );
    ok(&mut client, "SELECT varve.backup('full')");
    set(&mut client, "varve.drill_max_age", "0");
    assert_eq!(one(&mut client, alerts), "∅");
    ok(&mut client, "CALL varve.watch_backups()");
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.backup_alert"),
        "0"
    );
    // It is over, and begins again.
    set(&mut client, "varve.backup_max_age", "1");
    until("the backup to be older than a second", || {
        one(&mut client, alerts) == "backup"
    });
    ok(&mut client, "CALL varve.watch_backups()");
    assert_eq!(warned("backup"), 2);
    set(&mut client, "varve.backup_max_age", "0");
    // WAL that cannot be archived grows old.
    archived(&mut client);
    assert_eq!(
        one(&mut client, "SELECT rpo_now FROM varve.recovery_status"),
        "00:00:00"
    );
    std::fs::rename(&first, first.with_extension("away")).unwrap();
    ok(
        &mut client,
        "CREATE TABLE t AS SELECT 1 AS i; SELECT pg_switch_wal()",
    );
    let stores = one(&mut client, "SELECT stores FROM varve.recovery_status");
    assert!(stores.contains("first: cannot be reached"), "{stores}");
    assert_eq!(one(&mut client, alerts), "store first");
    std::fs::rename(first.with_extension("away"), &first).unwrap();
    set(&mut client, "varve.wal_max_age", "1");
    until("the archiver to catch up", || {
        one(&mut client, "SELECT wal_waiting FROM varve.recovery_status") == "0"
    });
    ok(&mut client, "INSERT INTO t VALUES (2)");
    until("WAL that is not archived to be older than a second", || {
        one(&mut client, alerts) == "wal"
    });
    let text = one(
        &mut client,
        "SELECT alerts ->> 'wal' FROM varve.recovery_status",
    );
    assert!(text.contains("the limit is 00:00:01"), "{text}");
}

#[test]
fn what_is_damaged_is_known_and_replaced() {
    let (_cluster, mut client, [first, second]) = start(&[]);
    archived(&mut client);
    let id = one(&mut client, "SELECT varve.backup('full')");
    archived(&mut client);
    ok(&mut client, "SELECT * FROM varve.copy_backups()");
    let good = "SELECT string_agg(store || ' ' || coalesce(newest_backup, 'none'), ', ' ORDER BY store) FROM varve.store_state()";
    assert_eq!(one(&mut client, good), format!("first {id}, second {id}"));
    let key = format!("backups/{id}/base.tar.zst");
    let path = second.join(&key);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(
        ok(
            &mut client,
            "SELECT store, object FROM varve.verify_stores() WHERE object IS NOT NULL"
        ),
        [format!("second|{key}")]
    );
    assert_eq!(one(&mut client, good), format!("first {id}, second none"));
    let alert = one(
        &mut client,
        "SELECT alerts ? 'verification' FROM varve.recovery_status",
    );
    assert_eq!(alert, "t");
    // The next copy makes it good, and it is known that it did.
    assert_eq!(
        ok(
            &mut client,
            "SELECT store, ok, objects FROM varve.copy_backups()"
        ),
        ["second|t|2"]
    );
    assert_eq!(
        std::fs::read(first.join(&key)).unwrap(),
        std::fs::read(&path).unwrap()
    );
    assert_eq!(one(&mut client, good), format!("first {id}, second {id}"));
    let bad = "SELECT * FROM varve.verify_stores('second') WHERE NOT ok";
    assert_eq!(ok(&mut client, bad), Vec::<String>::new());
    // No backup needs WAL from before the first one. It is named nevertheless, as long as it is there.
    let wal = std::fs::read_dir(second.join("wal/00000001")).unwrap();
    let oldest = wal.map(|e| e.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&oldest).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&oldest, &bytes).unwrap();
    let key = oldest.strip_prefix(&second).unwrap().display().to_string();
    let named = "SELECT store, object FROM varve.verify_stores() WHERE object IS NOT NULL";
    assert_eq!(ok(&mut client, named), [format!("second|{key}")]);
    ok(&mut client, "SELECT * FROM varve.copy_backups()");
    assert_eq!(ok(&mut client, bad), Vec::<String>::new());
    // Snapshots of tables are copied and verified as well.
    ok(
        &mut client,
        "CREATE TABLE kept AS SELECT generate_series(1, 100) AS i",
    );
    let table = one(&mut client, "SELECT varve.snapshot('kept')");
    assert_eq!(
        ok(
            &mut client,
            "SELECT missing_backups FROM varve.store_state() WHERE store = 'second'"
        ),
        ["1"]
    );
    assert_eq!(
        ok(&mut client, "SELECT ok FROM varve.copy_backups()"),
        ["t"]
    );
    let stores = format!("SELECT stores FROM varve.snapshots WHERE id = '{table}'");
    assert_eq!(one(&mut client, &stores), "{first,second}");
    let object = std::fs::read_dir(second.join("snapshots").join(&table))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "parquet"))
        .unwrap();
    std::fs::write(&object, b"PAR1").unwrap();
    let named = one(
        &mut client,
        "SELECT object FROM varve.verify_stores() WHERE object IS NOT NULL",
    );
    assert_eq!(
        named,
        object.strip_prefix(&second).unwrap().display().to_string()
    );
    assert_eq!(
        ok(&mut client, "SELECT ok FROM varve.copy_backups()"),
        ["t"]
    );
    let bad = "SELECT * FROM varve.verify_stores() WHERE NOT ok";
    assert_eq!(ok(&mut client, bad), Vec::<String>::new());
    ok(
        &mut client,
        &format!("SELECT varve.remove_snapshot('{table}')"),
    );
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.snapshots"),
        "0"
    );
    assert_eq!(
        code(
            &mut client,
            &format!("SELECT varve.remove_snapshot('{table}')")
        ),
        "42704"
    );
    // WAL in the middle is gone.
    let names = wal_files(&first);
    let lost = names.iter().filter(|n| n.len() == 28).nth_back(0).unwrap();
    archived(&mut client);
    std::fs::remove_file(first.join("wal/00000001").join(lost)).unwrap();
    let gap = one(
        &mut client,
        "SELECT detail FROM varve.verify_stores('first') WHERE NOT ok AND detail IS NOT NULL",
    );
    assert!(gap.contains(lost.trim_end_matches(".zst")), "{gap}");
    // Other names than stores have.
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.verify_stores('none')"),
        "42704"
    );
    assert_eq!(
        code(
            &mut client,
            "SELECT * FROM varve.copy_backups('first', 'first')"
        ),
        "22023"
    );
}

#[test]
fn encrypted_everywhere() {
    let (cluster, mut client, [first, second]) =
        start(&[&format!("varve.backup_recipients = '{PUBLIC}'")]);
    let full = one(&mut client, "SELECT varve.backup('full')");
    // The manifest of the one before cannot be read without the secret.
    assert_eq!(
        code(&mut client, "SELECT varve.backup('incremental')"),
        "55000"
    );
    let keys = cluster.dir().join("keys");
    std::fs::write(&keys, format!("{SECRET}\n")).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&keys, Some(above.uid()), Some(above.gid())).unwrap();
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).unwrap();
    set(
        &mut client,
        "varve.backup_identity_file",
        &keys.display().to_string(),
    );
    ok(
        &mut client,
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i",
    );
    let incremental = one(&mut client, "SELECT varve.backup('incremental')");
    archived(&mut client);
    ok(&mut client, "SELECT * FROM varve.copy_backups()");
    assert_eq!(
        ok(
            &mut client,
            "SELECT id, encrypted, stores FROM varve.backups ORDER BY started_at"
        ),
        [
            format!("{full}|t|{{first,second}}"),
            format!("{incremental}|t|{{first,second}}")
        ]
    );
    for store in [&first, &second] {
        assert!(
            wal_files(store)
                .iter()
                .all(|n| n.ends_with(".age") || n.ends_with(".sha256"))
        );
    }
    let bad = "SELECT * FROM varve.verify_stores() WHERE NOT ok OR detail IS NOT NULL";
    assert_eq!(ok(&mut client, bad), Vec::<String>::new());
    set(&mut client, "varve.backup_identity_file", "");
    let note = one(
        &mut client,
        "SELECT detail FROM varve.verify_stores('first')",
    );
    assert!(note.contains("were not read"), "{note}");
    set(&mut client, "varve.backup_recipients", "age1nonsense");
    assert_eq!(code(&mut client, "SELECT varve.backup('full')"), "22023");
    // Restored by who has the secret.
    let pgdata = cluster.dir().join("restored");
    let restored = cluster
        .tool("varve")
        .args([
            "restore",
            "--quiet",
            "--from",
            &format!("file://{}", second.display()),
            "--identity",
        ])
        .arg(&keys)
        .arg("--pgdata")
        .arg(&pgdata)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    assert!(pgdata.join("PG_VERSION").exists());
}
