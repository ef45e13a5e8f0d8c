//! The server and the stores beside it are lost; what is offsite brings everything back.

use crate::show;
use crate::stage::{Result, Stage, fingerprint_sql, text_of};
use postgres::{Client, Config, NoTls};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use varve_tests::s3::{BUCKET, KEY, S3Server, SECRET};

/// What was asked for: recovery within this time, and no more than this lost.
const RECOVERY: Duration = Duration::from_secs(60 * 60);
const LOSS: Duration = Duration::from_secs(15 * 60);

/// How long anything is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// What `archive_library` and backups that build on one another need.
const SETTINGS: &[&str] = &[
    "archive_mode = on",
    "archive_library = 'varve'",
    "archive_timeout = 1",
    "summarize_wal = on",
    "varve.max_workers = 4",
];

fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !holds()? {
        if begin.elapsed() > LIMIT {
            return Err(format!("waited too long for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A client that writes down the time, again and again, until the server is gone; the last time that was committed.
struct Clock {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Option<Instant>>,
    begin: Instant,
}

impl Clock {
    fn start(stage: &mut Stage) -> Result<Clock> {
        stage
            .client
            .batch_execute("CREATE TABLE ticks (milliseconds bigint)")?;
        let mut client = stage.cluster.connect()?;
        let (begin, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut last = None;
            while !stopped.load(Ordering::Relaxed) {
                let now = Instant::now();
                let tick = i64::try_from((now - begin).as_millis()).unwrap_or(i64::MAX);
                if client
                    .execute("INSERT INTO ticks VALUES ($1)", &[&tick])
                    .is_err()
                {
                    break;
                }
                last = Some(now);
            }
            last
        });
        Ok(Clock {
            stop,
            thread,
            begin,
        })
    }

    fn end(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let last = self.thread.join().map_err(|_| "the writer panicked")?;
        Ok(last.ok_or("nothing was written")? - self.begin)
    }
}

/// Stores in three places, and a policy.
fn policy(stage: &mut Stage, offsite: &S3Server) -> Result<[PathBuf; 2]> {
    let near = ["primary", "secondary"].map(|name| stage.cluster.dir().join(name));
    for path in &near {
        let made = stage.cluster.tool("/bin/mkdir").arg(path).status()?;
        if !made.success() {
            return Err(format!("cannot make {}", path.display()).into());
        }
    }
    let [primary, secondary] = near.each_ref().map(|path| path.display());
    let statements = [
        format!(
            "CREATE SERVER primary_store FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{primary}', role 'primary')"
        ),
        format!(
            "CREATE SERVER secondary_store FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{secondary}', role 'secondary')"
        ),
        format!(
            "CREATE SERVER offsite_store FOREIGN DATA WRAPPER varve_store OPTIONS (url 's3://{BUCKET}/demo', role 'offsite', endpoint 'http://{}', allow_http 'true')",
            offsite.address()
        ),
    ];
    for statement in &statements {
        show::aside(statement);
        stage.client.batch_execute(statement)?;
    }
    stage.client.batch_execute(&format!(
        "CREATE USER MAPPING FOR CURRENT_USER SERVER offsite_store OPTIONS (access_key_id '{KEY}', secret_access_key '{SECRET}')"
    ))?;
    let add = "SELECT varve.add_backup_policy('0 2 * * 0', '0 2 * * 1-6', '*/15 * * * *', keep_full => 4, copy_schedule => '1 second')";
    show::aside(add);
    stage.client.execute(add, &[])?;
    Ok(near)
}

/// Restores from the offsite store with the program alone, and starts a server; a client of that.
fn recover(stage: &Stage, offsite: &S3Server, pgdata: &Path) -> Result<Client> {
    let url = format!("s3://{BUCKET}/demo");
    show::aside(&format!(
        "varve restore --from {url} --pgdata {} --start",
        pgdata.display()
    ));
    let endpoint = format!("endpoint=http://{}", offsite.address());
    let output = stage
        .cluster
        .tool("varve")
        .args(["restore", "--quiet", "--start", "--from", &url])
        .args(["--store-option", &endpoint])
        .args(["--store-option", "allow_http=true", "--pgdata"])
        .arg(pgdata)
        .args(["--set", "archive_mode=off"])
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(Config::new()
        .host_path(stage.cluster.dir())
        .port(5432)
        .user("postgres")
        .dbname("postgres")
        .connect(NoTls)?)
}

/// Takes backups, loses everything but the offsite store, and recovers.
pub fn run(stage: &mut Stage) -> Result<()> {
    let place = std::env::temp_dir().join(format!("varve-demo-offsite-{}", std::process::id()));
    let result = lose_and_recover(stage, &place);
    std::fs::remove_dir_all(&place)?;
    result
}

fn lose_and_recover(stage: &mut Stage, place: &Path) -> Result<()> {
    for line in SETTINGS {
        show::aside(line);
    }
    stage.cluster.restart_with(SETTINGS)?;
    stage.client = stage.cluster.connect()?;
    let offsite = S3Server::start(place)?;
    let near = policy(stage, &offsite)?;
    let before = stage.fingerprint("prices", "true")?;
    let full = stage.text("SELECT id FROM varve.jobs WHERE name = 'full backup'")?;
    stage.text(&format!("SELECT varve.run_job({full})"))?;
    wait_for("copies in all stores", || {
        Ok(stage
            .text("SELECT count(*) = 1 AND bool_and(cardinality(stores) = 3) FROM varve.backups")?
            == "t")
    })?;
    let rule = stage.text("SELECT rule_3_2_1 FROM varve.recovery_status")?;
    stage.claim(&rule, rule.starts_with("3-2-1 satisfied"), "")?;
    let clock = Clock::start(stage)?;
    let behind = stage.text("SELECT pg_current_wal_insert_lsn()")?;
    wait_for("WAL with those writes offsite", || {
        Ok(stage.text(&format!(
            "SELECT coalesce(max(wal_end::pg_lsn) > '{behind}', false) FROM varve.store_state() WHERE role = 'offsite'"
        ))? == "t")
    })?;
    show::say(
        "Writes go on. The server is killed, its data and both stores beside it are deleted.",
    );
    stage.cluster.kill_all()?;
    let disaster = Instant::now();
    let written = clock.end()?;
    for path in near.iter().chain([&stage.cluster.data()]) {
        std::fs::remove_dir_all(path)?;
    }
    let pgdata = stage.cluster.dir().join("recovered");
    let mut client = recover(stage, &offsite, &pgdata)?;
    let took = disaster.elapsed();
    let after = text_of(&mut client, &fingerprint_sql("prices", "true"))?;
    stage.same("all prices are back, the same", after, before)?;
    let bad = text_of(
        &mut client,
        "SELECT count(*) FROM varve.verify('prices') WHERE NOT ok",
    )?;
    stage.same("no segment is damaged", bad, "0".to_string())?;
    let last: i64 = client
        .query_one("SELECT coalesce(max(milliseconds), 0) FROM ticks", &[])?
        .get(0);
    let last = Duration::from_millis(u64::try_from(last)?);
    let lost = written.saturating_sub(last);
    let text = format!(
        "recovered in {:.1} s, lost {:.1} s of data (asked: {} min, {} min)",
        took.as_secs_f64(),
        lost.as_secs_f64(),
        RECOVERY.as_secs() / 60,
        LOSS.as_secs() / 60
    );
    stage.claim(&text, took <= RECOVERY && lost <= LOSS, "")?;
    drop(client);
    let stopped = stage
        .cluster
        .tool("pg_ctl")
        .args(["-m", "fast", "-D"])
        .arg(&pgdata)
        .arg("stop")
        .output()?;
    stage.claim("the recovered server stops", stopped.status.success(), "")
}
