//! Three stores behind one policy, and what is left when the server and two of them are gone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::s3;
use varve_tests::session::{Session, simple};
use varve_tests::wait::{archived, until};

/// The S3 server as a process of its own.
struct Offsite {
    directory: PathBuf,
    address: String,
    process: Child,
}

impl Offsite {
    fn start(directory: &Path, address: Option<&str>) -> Offsite {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3-server"));
        let mut process = command
            .arg(directory)
            .args(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        Offsite {
            directory: directory.to_path_buf(),
            address: line.trim().to_string(),
            process,
        }
    }

    fn options(&self) -> String {
        format!(
            "url 's3://{}/varve', role 'offsite', endpoint 'http://{}', allow_http 'true', retry_timeout '3s'",
            s3::BUCKET,
            self.address
        )
    }
}

impl Drop for Offsite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn one(client: &mut Client, sql: &str) -> String {
    ok(client, sql).concat()
}

/// A directory of the server's user, beside the server.
fn directory(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.dir().join(name);
    std::fs::create_dir(&path).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&path, Some(above.uid()), Some(above.gid())).unwrap();
    path
}

fn stores(cluster: &Cluster, client: &mut Client, offsite: &Offsite) -> [PathBuf; 2] {
    let near = ["primary", "secondary"].map(|name| {
        let path = directory(cluster, name);
        ok(
            client,
            &format!(
                "CREATE SERVER {name}_store FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role '{name}')",
                path.display()
            ),
        );
        path
    });
    ok(
        client,
        &format!(
            "CREATE SERVER offsite_store FOREIGN DATA WRAPPER varve_store OPTIONS ({}); \
             CREATE USER MAPPING FOR CURRENT_USER SERVER offsite_store OPTIONS (access_key_id '{}', secret_access_key '{}')",
            offsite.options(),
            s3::KEY,
            s3::SECRET
        ),
    );
    near
}

/// Stops the server of a data directory that was restored where the cluster's own was lost: its socket lies in the same place.
fn stop(cluster: &Cluster, pgdata: &Path) {
    let stopped = cluster
        .tool("pg_ctl")
        .args(["-m", "immediate", "-D"])
        .arg(pgdata)
        .arg("stop")
        .status()
        .unwrap();
    assert!(stopped.success());
}

const SETTINGS: &[&str] = &[
    "summarize_wal = on",
    "archive_mode = on",
    "archive_library = 'varve'",
    "varve.max_workers = 4",
];

/// A client that writes until it is stopped or cut off, and remembers of each commit where it ended in WAL.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(i64, u64)>>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Writer {
        let mut client = cluster.connect().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut commits = Vec::new();
            for id in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let insert = format!(
                    "INSERT INTO readings SELECT now() + i * interval '1 us', {id}, repeat(md5(i::text), 8) FROM generate_series(1, 100) i"
                );
                // The position is read behind the commit, so that it is not before its end.
                let position = client.batch_execute(&insert).and_then(|()| {
                    client.query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8", &[])
                });
                match position {
                    Ok(row) => commits.push((id, row.get::<_, i64>(0) as u64)),
                    Err(_) => break,
                }
            }
            commits
        });
        Writer { stop, thread }
    }

    fn end(self) -> Vec<(i64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Where the newest whole segment of timeline 1 in a directory of WAL ends.
fn archived_to(wal: &Path) -> u64 {
    let names = std::fs::read_dir(wal.join("00000001"))
        .into_iter()
        .flatten();
    names
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let bare = name.strip_suffix(".zst")?;
            if bare.len() != 24 {
                return None;
            }
            let high = u64::from_str_radix(bare.get(8..16)?, 16).ok()?;
            let low = u64::from_str_radix(bare.get(16..24)?, 16).ok()?;
            Some((high << 32) + ((low + 1) << 24))
        })
        .max()
        .unwrap_or(0)
}

fn job(client: &mut Client, task: &str) -> String {
    one(
        client,
        &format!(
            "SELECT id FROM varve.jobs WHERE kind = 'backup' AND settings ->> 'task' = '{task}'"
        ),
    )
}

#[test]
fn the_server_and_the_stores_beside_it_are_lost() {
    let cluster = Cluster::start_new(SETTINGS).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let place = std::env::temp_dir().join(format!("varve-offsite-{}", std::process::id()));
    let offsite = Offsite::start(&place, None);
    let near = stores(&cluster, &mut client, &offsite);
    ok(
        &mut client,
        "CREATE TABLE readings (ts timestamptz NOT NULL, id bigint NOT NULL, v text); \
         SELECT create_hypertable('readings', 'ts', chunk_time_interval => interval '1 day'); \
         CREATE TABLE old (ts timestamptz NOT NULL, id bigint NOT NULL, v float8, PRIMARY KEY (ts, id)); \
         SELECT create_hypertable('old', 'ts', chunk_time_interval => interval '1 day'); \
         INSERT INTO old SELECT '2026-01-01'::timestamptz + i * interval '1 s', i % 10, i FROM generate_series(1, 200000) i; \
         SELECT varve.enable('old', order_by => ARRAY['ts'], segment_by => ARRAY['id'])",
    );
    ok(
        &mut client,
        "SELECT varve.set_tier(c, 'warm') FROM show_chunks('old') c",
    );
    let ids = one(
        &mut client,
        "SELECT varve.add_backup_policy('0 2 * * 0', '0 2 * * 1-6', '*/15 * * * *', keep_full => 2, copy_schedule => '1 second', verify_schedule => '0 5 * * 6')",
    );
    assert_eq!(ids.split(',').count(), 6, "{ids}");
    let old = one(
        &mut client,
        "SELECT md5(string_agg(o::text, '|' ORDER BY ts, id)) FROM old o",
    );
    let writer = Writer::start(&cluster);
    let full = job(&mut client, "full");
    ok(&mut client, &format!("SELECT varve.run_job({full})"));
    let incremental = job(&mut client, "incremental");
    ok(&mut client, &format!("SELECT varve.run_job({incremental})"));
    // The copies come by themselves, and WAL goes on behind them.
    let wal = place.join(s3::BUCKET).join("varve/wal");
    let behind: u64 = one(
        &mut client,
        "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8",
    )
    .parse()
    .unwrap();
    until("WAL beyond the backups in the offsite store", || {
        ok(&mut client, "SELECT pg_switch_wal()");
        archived_to(&wal) > behind
    });
    until("all stores to have the backups", || {
        one(
            &mut client,
            "SELECT count(*) = 2 AND bool_and(cardinality(stores) = 3) FROM varve.backups",
        ) == "t"
    });
    let status = ok(
        &mut client,
        "SELECT rule_3_2_1, rpo_now < interval '2 minutes', newest_backup IS NOT NULL, alerts - 'drill' FROM varve.recovery_status",
    )
    .concat();
    assert_eq!(
        status,
        "3-2-1 satisfied: 4 copies (database, offsite_store, primary_store, secondary_store), 2 media, 1 offsite|t|t|{}"
    );
    // Everything is gone but what is offsite.
    drop(client);
    cluster.kill_all().unwrap();
    let commits = writer.end();
    for path in near.iter().chain([&cluster.data()]) {
        std::fs::remove_dir_all(path).unwrap();
    }
    let safe = archived_to(&wal);
    let begin = Instant::now();
    let pgdata = cluster.dir().join("recovered");
    let mut restore = cluster.tool("varve");
    restore
        .args([
            "restore",
            "--start",
            "--from",
            &format!("s3://{}/varve", s3::BUCKET),
        ])
        .args([
            "--store-option",
            &format!("endpoint=http://{}", offsite.address),
        ])
        .args(["--store-option", "allow_http=true", "--pgdata"])
        .arg(&pgdata)
        .env("AWS_ACCESS_KEY_ID", s3::KEY)
        .env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
    let output = restore.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        std::fs::read_to_string(pgdata.join("startup.log")).unwrap_or_default(),
    );
    println!("recovered in {:?}", begin.elapsed());
    let mut client = cluster.connect().unwrap();
    // Whole transactions, the first ones, and no fewer than the WAL that was offsite has.
    let rows = ok(
        &mut client,
        "SELECT count(DISTINCT id), coalesce(max(id) + 1, 0), bool_and(n = 100) FROM (SELECT id, count(*) AS n FROM readings GROUP BY id) r",
    )
    .concat();
    let parts: Vec<&str> = rows.split('|').collect();
    let found: usize = parts[0].parse().unwrap();
    assert_eq!((parts[0], parts[2]), (parts[1], "t"), "{rows}");
    let sure = commits.iter().filter(|(_, at)| *at <= safe).count();
    println!(
        "{found} transactions, {sure} were safe, {} committed",
        commits.len()
    );
    assert!(
        sure > 0 && found >= sure,
        "{found} of {sure}\n{:?}\n{}",
        files(&wal),
        std::fs::read_to_string(pgdata.join("startup.log")).unwrap_or_default()
    );
    // Of the last one the client was not told.
    assert!(found <= commits.len() + 1);
    assert_eq!(
        one(
            &mut client,
            "SELECT md5(string_agg(o::text, '|' ORDER BY ts, id)) FROM old o"
        ),
        old
    );
    assert_eq!(
        one(&mut client, "SELECT bool_and(ok) FROM varve.verify('old')"),
        "t"
    );
    drop(client);
    stop(&cluster, &pgdata);
}

/// What goes wrong in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Backup,
    Archiver,
    Postmaster,
    OffsiteStore,
    FullDiskOfBackup,
    FullDiskOfArchiver,
    FlippedByte,
}

const FAULTS: [Fault; 7] = [
    Fault::Backup,
    Fault::Archiver,
    Fault::Postmaster,
    Fault::OffsiteStore,
    Fault::FullDiskOfBackup,
    Fault::FullDiskOfArchiver,
    Fault::FlippedByte,
];

/// Limits the size of files that a process writes: a full disk, for what it writes only, and no right is needed for it.
fn limit_files(cluster: &Cluster, pid: &str, bytes: &str) {
    let status = cluster
        .tool("/usr/bin/prlimit")
        .args(["--pid", pid, &format!("--fsize={bytes}:")])
        .status()
        .unwrap();
    assert!(status.success(), "prlimit {pid} {bytes}");
}

fn archiver(client: &mut Client) -> String {
    let mut pid = String::new();
    until("the archiver to run", || {
        pid = one(
            client,
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'",
        );
        !pid.is_empty()
    });
    pid
}

/// Waits until the server takes connections after a crash.
fn again(cluster: &Cluster) -> Client {
    until("the server to recover", || {
        cluster
            .connect()
            .is_ok_and(|mut c| simple(&mut c, "SELECT NOT pg_is_in_recovery()").is_ok())
    });
    cluster.connect().unwrap()
}

/// Kills a process of the server, and waits until the server has noticed and recovered.
fn kill(cluster: &Cluster, pid: i32) -> Client {
    let mut witness = Session::new(cluster).unwrap();
    witness.start("SELECT pg_sleep(3600)");
    cluster.kill_backend(pid).unwrap();
    witness.finish().unwrap_err();
    again(cluster)
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Copies to all stores, which must succeed.
fn copy(client: &mut Client) {
    let failed = ok(
        client,
        "SELECT store, detail FROM varve.copy_backups() WHERE NOT ok",
    );
    assert_eq!(failed, Vec::<String>::new());
}

fn problems(client: &mut Client) -> Vec<String> {
    ok(
        client,
        "SELECT store, object, detail FROM varve.verify_stores() WHERE NOT ok AND (object IS NOT NULL OR detail IS NOT NULL)",
    )
}

/// Every backup that its maker was told of is there, and whatever looks like one is sound.
fn judge(client: &mut Client, sound: &[String], when: &str) {
    assert_eq!(problems(client), Vec::<String>::new(), "{when}");
    let listed = ok(
        client,
        "SELECT id FROM varve.backups WHERE 'primary_store' = ANY (stores)",
    );
    for id in sound {
        assert!(listed.contains(id), "{when}: backup {id} is lost");
    }
}

/// Flips a byte somewhere in a store; it is named, and made good from another store.
fn flip(client: &mut Client, near: &[PathBuf; 2], far: &Path, random: &mut Random) {
    archived(client);
    copy(client);
    let [primary, secondary] = near;
    let all = [
        ("primary_store", primary.as_path()),
        ("secondary_store", secondary.as_path()),
        ("offsite_store", far),
    ];
    let (store, root) = *random.pick(&all).unwrap();
    let objects: Vec<PathBuf> = files(root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "zst" || e == "json"))
        .filter(|path| !path.ends_with("cluster.json"))
        .collect();
    let path = random.pick(&objects).unwrap().clone();
    let key = path.strip_prefix(root).unwrap().display().to_string();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = random.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << random.below(8);
    std::fs::write(&path, bytes).unwrap();
    let found = problems(client);
    let named = format!("{store}|{key}|");
    assert!(
        found.iter().any(|p| p.starts_with(&named)),
        "byte {at} of {named} was flipped, and found was {found:?}"
    );
    assert!(found.iter().all(|p| p.starts_with(store)), "{found:?}");
    let from = match store {
        "primary_store" => "secondary_store",
        _ => "primary_store",
    };
    let copied = ok(
        client,
        &format!("SELECT ok, detail FROM varve.copy_backups('{from}', '{store}')"),
    );
    assert_eq!(copied, ["t|∅"], "{named}");
}

#[test]
fn kills_full_disks_and_flipped_bytes() {
    let rounds: usize =
        std::env::var("VARVE_CHAOS_ROUNDS").map_or(FAULTS.len(), |n| n.parse().unwrap());
    let seed: u64 = std::env::var("VARVE_SEED").map_or_else(
        |_| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |n| n.parse().unwrap(),
    );
    println!("VARVE_SEED={seed}");
    let mut random = Random::new(seed);
    let cluster = Cluster::start_new(SETTINGS).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let place = std::env::temp_dir().join(format!("varve-chaos-{}", std::process::id()));
    let mut offsite = Offsite::start(&place, None);
    let near = stores(&cluster, &mut client, &offsite);
    let far = place.join(s3::BUCKET).join("varve");
    ok(
        &mut client,
        "CREATE TABLE readings (ts timestamptz NOT NULL, id bigint NOT NULL, v text); \
         SELECT create_hypertable('readings', 'ts', chunk_time_interval => interval '1 day'); \
         CREATE TABLE noise AS SELECT string_agg(md5(random()::text), '') AS v FROM generate_series(1, 1500000) i GROUP BY i % 20000; \
         CHECKPOINT",
    );
    let mut sound = vec![one(&mut client, "SELECT varve.backup('full')")];
    for round in 0..rounds {
        let fault = FAULTS[round % FAULTS.len()];
        let when = format!("round {round}, {fault:?}, seed {seed}");
        let writer = Writer::start(&cluster);
        let kind = match random.below(3) {
            0 => "full",
            1 => "differential",
            _ => "incremental",
        };
        let mut session = Session::new(&cluster).unwrap();
        let take = format!("SELECT varve.backup('{kind}')");
        let in_files = "SELECT count(*) FROM varve.progress WHERE operation = 'backup' AND phase = 'files' AND done > 0";
        match fault {
            Fault::Backup | Fault::Postmaster => {
                session.start("SELECT varve.backup('full')");
                until("the backup to be under way", || {
                    one(&mut client, in_files) == "1" || session.done()
                });
                match fault {
                    Fault::Backup => client = kill(&cluster, session.pid()),
                    _ => {
                        cluster.kill().unwrap();
                        cluster.start().unwrap();
                        client = again(&cluster);
                    }
                }
                if let Ok(rows) = session.finish() {
                    sound.push(rows.concat());
                }
            }
            Fault::Archiver => {
                session.start(&take);
                let pid = archiver(&mut client);
                client = kill(&cluster, pid.parse().unwrap());
                if let Ok(rows) = session.finish() {
                    sound.push(rows.concat());
                }
            }
            Fault::OffsiteStore => {
                sound.push(session.ok(&take).concat());
                session.start("SELECT store, ok FROM varve.copy_backups() ORDER BY store");
                until("the copies to be under way", || {
                    one(
                        &mut client,
                        "SELECT count(*) FROM varve.progress WHERE operation = 'copy' AND done > 0",
                    ) != "0"
                        || session.done()
                });
                offsite.process.kill().unwrap();
                offsite.process.wait().unwrap();
                let rows = session.finish().unwrap();
                assert_eq!(rows[1], "secondary_store|t", "{when}");
                let address = offsite.address.clone();
                std::mem::forget(std::mem::replace(
                    &mut offsite,
                    Offsite::start(&place, Some(&address)),
                ));
            }
            Fault::FullDiskOfBackup => {
                // WAL segments can still be written.
                limit_files(&cluster, &session.pid().to_string(), "17000000");
                let error = {
                    session.start("SELECT varve.backup('full')");
                    session.finish().unwrap_err()
                };
                assert_eq!(error.code, "53100", "{when}: {error:?}");
            }
            Fault::FullDiskOfArchiver => {
                let pid = archiver(&mut client);
                limit_files(&cluster, &pid, "1000");
                ok(
                    &mut client,
                    "SELECT pg_create_restore_point('full'), pg_switch_wal()",
                );
                until("the archiver to fail", || {
                    one(
                        &mut client,
                        "SELECT last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver",
                    ) == "t"
                });
                limit_files(&cluster, &pid, "unlimited");
                sound.push(session.ok(&take).concat());
            }
            Fault::FlippedByte => {
                sound.push(session.ok(&take).concat());
                flip(&mut client, &near, &far, &mut random);
            }
        }
        writer.end();
        archived(&mut client);
        copy(&mut client);
        judge(&mut client, &sound, &when);
    }
    // What is left can be recovered from, whatever store one has.
    let expected = one(&mut client, "SELECT count(*) FROM readings");
    archived(&mut client);
    copy(&mut client);
    drop(client);
    cluster.kill_all().unwrap();
    for (number, path) in near.iter().chain([&far]).enumerate() {
        let pgdata = cluster.dir().join(format!("recovered{number}"));
        let restored = cluster
            .tool("varve")
            .args([
                "restore",
                "--quiet",
                "--from",
                &format!("file://{}", path.display()),
                "--pgdata",
            ])
            .arg(&pgdata)
            .args(["--start", "--set", "archive_mode=off"])
            .output()
            .unwrap();
        assert!(restored.status.success(), "{path:?}: {restored:?}");
        let mut client = cluster.connect().unwrap();
        assert_eq!(one(&mut client, "SELECT count(*) FROM readings"), expected);
        drop(client);
        stop(&cluster, &pgdata);
        std::fs::remove_dir_all(&pgdata).unwrap();
    }
}
