//! Jobs: they run when they are due, once, as their owner, whatever is killed meanwhile; databases, servers and standbys
//! come and go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::time::{Duration, Instant};
use varve_tests::cluster::{Cluster, Stop};
use varve_tests::random::Random;
use varve_tests::session::{Session, simple};
use varve_tests::wait;

const SETTINGS: [&str; 3] = [
    "fsync = off",
    "max_worker_processes = 16",
    "varve.max_workers = 4",
];

fn start(settings: &[&str]) -> (Cluster, Client) {
    let settings = [&SETTINGS[..], settings].concat();
    let cluster = Cluster::start_new(&settings).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap()
}

fn one(client: &mut Client, sql: &str) -> String {
    rows(client, sql).concat()
}

/// Waits until a query answers `t`.
fn holds(client: &mut Client, what: &str, sql: &str) {
    wait::until(what, || one(client, sql) == "t");
}

/// Kills workers and the launcher at random moments while fifty jobs are due at once and two may run: each has one run that
/// succeeded, what it did is there once, and all other runs are on record as cut off.
#[test]
fn fifty_jobs_two_workers_and_kills() {
    let (cluster, mut client) = start(&["varve.max_workers = 2"]);
    let seed = std::env::var("VARVE_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or(20_241_129);
    println!("VARVE_SEED={seed}");
    let mut random = Random::new(seed);
    client
        .batch_execute(
            "CREATE TABLE done (job int, pid int DEFAULT pg_backend_pid());
             SELECT varve.add_job('job ' || i, '1 day', format('INSERT INTO done SELECT %s FROM pg_sleep(%s)', i, 0.2 + (i % 5) * 0.1),
                 first_run => now() + interval '1 second', backoff => '10 ms') FROM generate_series(1, 50) i",
        )
        .unwrap();
    let begin = Instant::now();
    let mut kills = 0;
    let succeeded = "SELECT count(*) = 50 FROM varve.job_runs WHERE state = 'succeeded'";
    loop {
        let Ok(answer) = simple(&mut client, succeeded) else {
            // The server restarts after a crash.
            wait::until("the server to be back", || match cluster.connect() {
                Ok(fresh) => {
                    client = fresh;
                    true
                }
                Err(_) => false,
            });
            continue;
        };
        if answer == ["t"] {
            break;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(240),
            "not all jobs have run"
        );
        if kills >= 60 {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        }
        let process = match random.below(8) {
            0 => "varve launcher",
            _ => "varve job",
        };
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = '{process}' ORDER BY random() LIMIT 1"
        );
        let Ok(found) = simple(&mut client, &sql) else {
            continue;
        };
        if let Some(pid) = found.first().and_then(|pid| pid.parse::<i32>().ok()) {
            kills += 1;
            if kills % 12 == 0 {
                let _ = cluster.kill_backend(pid);
            } else {
                let _ = simple(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
            }
        }
        std::thread::sleep(Duration::from_millis(50 + random.below(300)));
    }
    assert!(kills > 10, "only {kills} kills: nothing was tested");
    holds(
        &mut client,
        "the last worker to end",
        "SELECT count(*) = 0 FROM varve.job_runs WHERE state = 'running'",
    );
    let once = "SELECT count(*), count(DISTINCT job) FROM done";
    assert_eq!(rows(&mut client, once), ["50|50"], "done");
    let runs = "SELECT count(*) = count(DISTINCT job) AND count(*) = 50 FROM varve.job_runs WHERE state = 'succeeded'";
    assert_eq!(rows(&mut client, runs), ["t"], "runs that succeeded");
    let others = "SELECT DISTINCT state, sqlstate FROM varve.job_runs WHERE state <> 'succeeded'";
    let others = rows(&mut client, others);
    assert!(
        others.iter().all(|o| o == "interrupted|57P01"),
        "{others:?}"
    );
    println!(
        "{kills} kills, {} runs",
        one(&mut client, "SELECT count(*) FROM varve.job_runs")
    );
}

/// Jobs run with their owner's privileges and settings, and cannot have others.
#[test]
fn owners_and_what_they_may() {
    let (_cluster, mut client) = start(&[]);
    client
        .batch_execute(
            "CREATE TABLE secret (v int);
             CREATE ROLE joe NOLOGIN; CREATE ROLE team NOLOGIN; CREATE ROLE ann IN ROLE team; CREATE ROLE watch IN ROLE pg_monitor;
             GRANT CREATE, USAGE ON SCHEMA public TO joe, team;
             ALTER ROLE joe SET default_transaction_read_only = off;
             ALTER ROLE joe SET application_name = 'of joe';
             SET ROLE joe;
             CREATE TABLE whoami (who text, session text, app text);
             SELECT varve.add_job('who', '1 day', 'INSERT INTO whoami VALUES (current_user, session_user, current_setting(''application_name''))');
             SELECT varve.add_job('steal', '1 day', 'RESET ROLE; RESET SESSION AUTHORIZATION; SELECT * FROM secret', retries => 0);
             SELECT varve.add_job('read only', '1 day', 'SET default_transaction_read_only = on; SELECT 1', retries => 0);
             RESET ROLE;
             SET ROLE ann; SET ROLE team; SELECT varve.add_job('of the team', '1 day', 'SELECT 1'); RESET ROLE;
             SELECT varve.add_job('of root', '1 day', 'SELECT 1')",
        )
        .unwrap();
    let id = |client: &mut Client, name: &str| {
        one(
            client,
            &format!("SELECT id FROM varve.job WHERE name = '{name}'"),
        )
    };
    let (who, steal, read_only) = (
        id(&mut client, "who"),
        id(&mut client, "steal"),
        id(&mut client, "read only"),
    );
    client.batch_execute("SET ROLE joe").unwrap();
    client
        .batch_execute(&format!("SELECT varve.run_job({who})"))
        .unwrap();
    assert_eq!(rows(&mut client, "TABLE whoami"), ["joe|joe|of joe"]);
    client
        .batch_execute(&format!("SELECT varve.run_job({read_only})"))
        .unwrap();
    let error = simple(&mut client, &format!("SELECT varve.run_job({steal})")).unwrap_err();
    assert_eq!(error.code, "42501", "{error:?}");
    // Nobody sees or touches what is not his.
    assert_eq!(
        rows(&mut client, "SELECT name FROM varve.jobs ORDER BY 1"),
        ["read only", "steal", "who"]
    );
    let root = one(
        &mut client,
        "RESET ROLE; SELECT id FROM varve.job WHERE name = 'of root'",
    );
    client.batch_execute("SET ROLE joe").unwrap();
    for call in [
        "run_job({})",
        "remove_job({})",
        "alter_job({}, enabled => false)",
    ] {
        let sql = format!("SELECT varve.{}", call.replace("{}", &root));
        assert_eq!(
            simple(&mut client, &sql).unwrap_err().code,
            "42501",
            "{sql}"
        );
    }
    for table in ["job", "job_state", "job_run"] {
        let sql = format!("SELECT * FROM varve.{table}");
        assert_eq!(
            simple(&mut client, &sql).unwrap_err().code,
            "42501",
            "{sql}"
        );
    }
    client.batch_execute("RESET ROLE; SET ROLE ann").unwrap();
    assert_eq!(
        rows(&mut client, "SELECT name FROM varve.jobs"),
        ["of the team"]
    );
    client.batch_execute("RESET ROLE; SET ROLE watch").unwrap();
    assert_eq!(rows(&mut client, "SELECT count(*) FROM varve.jobs"), ["5"]);
    client.batch_execute("RESET ROLE").unwrap();
    // Nor by functions that are called before the view leaves rows out.
    client
        .batch_execute(
            "CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS 'BEGIN RAISE EXCEPTION ''%'', $1; END';
             SET ROLE ann",
        )
        .unwrap();
    let leak = simple(
        &mut client,
        "SELECT name FROM varve.jobs WHERE leak(command)",
    )
    .unwrap_err();
    assert_eq!(leak.message, "SELECT 1", "{leak:?}");
    client.batch_execute("RESET ROLE").unwrap();
    // A new beginning in the past: intervals are counted from there, and what was due is not due again.
    let past = format!(
        "SELECT varve.alter_job({root}, schedule => '2 days', first_run => date_trunc('hour', now()) - interval '5 days')"
    );
    client.batch_execute(&past).unwrap();
    let next = format!(
        "SELECT next_run = date_trunc('hour', now()) + interval '1 day' FROM varve.jobs WHERE id = {root}"
    );
    assert_eq!(rows(&mut client, &next), ["t"]);
    // Who may not connect: the run has failed, and is not begun again every second.
    client
        .batch_execute(&format!(
            "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; SELECT varve.alter_job({who}, first_run => now(), schedule => '1 day')"
        ))
        .unwrap();
    holds(
        &mut client,
        "the run that could not be started",
        &format!(
            "SELECT count(*) = 1 FROM varve.job_run WHERE job = {who} AND state = 'failed' AND sqlstate = '58000'"
        ),
    );
    let next =
        format!("SELECT next_run > now() + interval '23 hours' FROM varve.jobs WHERE id = {who}");
    assert_eq!(rows(&mut client, &next), ["t"]);
    client
        .batch_execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
        .unwrap();
    // An owner who is no more.
    client
        .batch_execute(&format!(
            "DROP TABLE whoami; REVOKE ALL ON SCHEMA public FROM joe; DROP ROLE joe; SELECT varve.alter_job({who}, first_run => now())"
        ))
        .unwrap();
    holds(
        &mut client,
        "the run without an owner",
        &format!(
            "SELECT count(*) = 1 FROM varve.job_run WHERE job = {who} AND state = 'failed' AND sqlstate = '42704' AND message LIKE 'role%does not exist'"
        ),
    );
}

/// Statements of all kinds, errors, time-outs, cancels, retries; a failure that goes on does not fill the log.
#[test]
fn commands_and_failures() {
    let (cluster, mut client) = start(&[]);
    client
        .batch_execute("CREATE TABLE t (v int); CREATE PROCEDURE steps() LANGUAGE plpgsql AS 'BEGIN FOR i IN 1..3 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; INSERT INTO t VALUES (4); END'")
        .unwrap();
    let mut count = 0;
    let mut add = |client: &mut Client, command: &str, options: &str| -> i64 {
        count += 1;
        let sql = format!("SELECT varve.add_job('c' || {count}, '1 day', $1{options})");
        client.query_one(&sql, &[&command]).unwrap().get(0)
    };
    // It waits for transactions that are older, so none may wait for it.
    let concurrently = "CREATE INDEX CONCURRENTLY t_v ON t (v)";
    let job = add(&mut client, concurrently, "");
    client
        .batch_execute(&format!("SELECT varve.run_job({job}, wait => false)"))
        .unwrap();
    holds(
        &mut client,
        "the index",
        &format!("SELECT state = 'succeeded' FROM varve.job_runs WHERE job = {job}"),
    );
    let mut run = |client: &mut Client, command: &str, options: &str| {
        let job = add(client, command, options);
        let outcome = simple(client, &format!("SELECT varve.run_job({job})"));
        let state = one(
            client,
            &format!("SELECT state, rows, sqlstate FROM varve.job_runs WHERE job = {job}"),
        );
        (outcome.map(|_| ()).map_err(|e| e.code), state)
    };
    let ok = |state: &str| (Ok(()), state.to_string());
    let failed = |code: &str| (Err(code.to_string()), format!("failed|∅|{code}"));
    assert_eq!(run(&mut client, "CALL steps()", ""), ok("succeeded|0|∅"));
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["4"]);
    assert_eq!(run(&mut client, "VACUUM t", ""), ok("succeeded|0|∅"));
    let two = "INSERT INTO t VALUES (5), (6); UPDATE t SET v = v WHERE v < 3;";
    assert_eq!(run(&mut client, two, ""), ok("succeeded|4|∅"));
    let blocks = "BEGIN; INSERT INTO t VALUES (7); COMMIT";
    assert_eq!(run(&mut client, blocks, ""), ok("succeeded|1|∅"));
    let nothing = "SELECT varve.add_job('nothing', '1 day', '-- nothing')";
    assert_eq!(simple(&mut client, nothing).unwrap_err().code, "22023");
    for copy in ["COPY t TO STDOUT", "COPY t FROM STDIN"] {
        assert_eq!(run(&mut client, copy, ""), failed("0A000"));
    }
    // The idiom against a time-out of the role's.
    client
        .batch_execute("ALTER ROLE postgres SET statement_timeout = '300 ms'")
        .unwrap();
    let patient = "SET statement_timeout = 0; SELECT pg_sleep(0.6)";
    assert_eq!(run(&mut client, patient, ""), ok("succeeded|1|∅"));
    client
        .batch_execute("ALTER ROLE postgres RESET statement_timeout")
        .unwrap();
    // Several statements are one transaction.
    let half = "INSERT INTO t VALUES (100); SELECT 1 / 0";
    assert_eq!(run(&mut client, half, ""), failed("22012"));
    let open = "BEGIN; INSERT INTO t VALUES (100)";
    assert_eq!(run(&mut client, open, ""), failed("25001"));
    let unique = "SELECT 1; VACUUM t";
    assert_eq!(run(&mut client, unique, ""), failed("25001"));
    let own = "DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'XY123', DETAIL = 'why', HINT = 'so'; END $$";
    assert_eq!(run(&mut client, own, ""), failed("XY123"));
    let told = "SELECT message, detail, hint, context FROM varve.job_runs WHERE sqlstate = 'XY123'";
    assert_eq!(
        rows(&mut client, told),
        ["mine|why|so|PL/pgSQL function inline_code_block line 1 at RAISE"]
    );
    let slow = "SELECT pg_sleep(60)";
    let begin = Instant::now();
    assert_eq!(
        run(&mut client, slow, ", timeout => '200 ms'"),
        failed("57014")
    );
    assert!(begin.elapsed() < Duration::from_secs(30));
    let said =
        "SELECT message, hint LIKE '%timeout =>%' FROM varve.job_runs WHERE sqlstate = '57014'";
    assert_eq!(rows(&mut client, said), ["the job ran into its time-out|t"]);
    let slow_too = "SET statement_timeout = '200 ms'; SELECT pg_sleep(60)";
    assert_eq!(run(&mut client, slow_too, ""), failed("57014"));
    assert_eq!(
        rows(&mut client, "SELECT count(*) FROM t WHERE v = 100"),
        ["0"]
    );
    // Cancelled by somebody: no retry.
    client
        .batch_execute("SELECT varve.add_job('long', '1 day', 'SELECT pg_sleep(600)', first_run => now(), backoff => '0')")
        .unwrap();
    holds(
        &mut client,
        "the long job",
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active' AND backend_type = 'varve job'",
    );
    client.batch_execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'").unwrap();
    holds(
        &mut client,
        "its end",
        "SELECT count(*) = 1 FROM varve.job_runs WHERE job_name = 'long' AND state = 'cancelled'",
    );
    assert_eq!(
        rows(
            &mut client,
            "SELECT next_run > now() + interval '23 hours' FROM varve.jobs WHERE name = 'long'"
        ),
        ["t"]
    );
    // Retries, with growing pauses, as many as allowed; then the schedule again.
    client
        .batch_execute("SELECT varve.add_job('again', '1 day', 'SELECT 1 / 0', first_run => now(), retries => 3, backoff => '200 ms')")
        .unwrap();
    holds(
        &mut client,
        "four tries",
        "SELECT count(*) = 4 FROM varve.job_runs WHERE job_name = 'again' AND state = 'failed'",
    );
    let tries = "SELECT string_agg(attempt::text, ' ' ORDER BY id), count(DISTINCT due), bool_and(pause >= interval '200 ms' * 2 ^ (attempt - 2)) \
                 FROM (SELECT *, started_at - lag(ended_at) OVER (ORDER BY id) AS pause FROM varve.job_runs WHERE job_name = 'again') r";
    assert_eq!(rows(&mut client, tries), ["1 2 3 4|1|t"]);
    let next = "SELECT next_run > now() + interval '23 hours' FROM varve.jobs WHERE name = 'again'";
    assert_eq!(rows(&mut client, next), ["t"]);
    // The log has it once.
    client
        .batch_execute("SELECT varve.add_job('ever', '1 second', 'SELECT 1 / 0', retries => 0)")
        .unwrap();
    holds(
        &mut client,
        "some failures",
        "SELECT count(*) >= 3 FROM varve.job_runs WHERE job_name = 'ever' AND state = 'failed'",
    );
    for name in ["again", "ever"] {
        let line = format!("\"{name}\" failed: division by zero");
        assert_eq!(cluster.log().matches(&line).count(), 1, "{name}");
    }
    // Old runs go.
    client
        .batch_execute("UPDATE varve.job_run SET ended_at = ended_at - interval '31 days', started_at = started_at - interval '31 days' WHERE job_name = 'again'; SELECT varve.wake_launcher()")
        .unwrap();
    holds(
        &mut client,
        "old runs to go",
        "SELECT count(*) = 0 FROM varve.job_runs WHERE job_name = 'again'",
    );
}

/// Nothing of a job overlaps; what is missed while the server is down, or while it runs, is made up once.
#[test]
fn no_overlap_and_missed_runs() {
    let (cluster, mut client) = start(&[]);
    client
        .batch_execute(
            "SELECT varve.add_job('slow', '1 second', 'SELECT pg_sleep(1.6)');
             SELECT varve.add_job('quick', '2 seconds', 'SELECT 1')",
        )
        .unwrap();
    holds(
        &mut client,
        "three runs",
        "SELECT count(*) >= 3 FROM varve.job_runs WHERE job_name = 'slow' AND state = 'succeeded'",
    );
    let overlaps = "SELECT count(*) FROM varve.job_runs a JOIN varve.job_runs b ON a.job = b.job AND a.id < b.id \
                    AND (a.started_at, coalesce(a.ended_at, now())) OVERLAPS (b.started_at, coalesce(b.ended_at, now()))";
    assert_eq!(rows(&mut client, overlaps), ["0"]);
    // Down for longer than five of its intervals.
    cluster.stop(Stop::Fast).unwrap();
    let down = Instant::now();
    std::thread::sleep(Duration::from_secs(11));
    assert!(down.elapsed() > Duration::from_secs(10));
    cluster.start().unwrap();
    let mut client = cluster.connect().unwrap();
    holds(
        &mut client,
        "a run after the restart",
        "SELECT count(*) >= 2 FROM varve.job_runs WHERE job_name = 'quick' AND started_at > pg_postmaster_start_time()",
    );
    let made_up = "SELECT count(*) FROM varve.job_runs WHERE job_name = 'quick' \
                   AND due < pg_postmaster_start_time() AND started_at > pg_postmaster_start_time()";
    assert_eq!(rows(&mut client, made_up), ["1"]);
    // Those of the slow one that was cut off, or missed, too.
    holds(
        &mut client,
        "nothing cut off that is not made up for",
        "SELECT count(*) >= 1 FROM varve.job_runs WHERE job_name = 'slow' AND state = 'succeeded' AND started_at > pg_postmaster_start_time()",
    );
}

/// DROP DATABASE is not held up by jobs, and a database that comes is looked into; a fast shutdown takes a second at most.
#[test]
fn databases_and_shutdown() {
    let (cluster, mut client) = start(&[]);
    for sql in [
        "CREATE DATABASE other",
        "SELECT varve.add_job('long', '1 day', 'SELECT pg_sleep(600)', first_run => now())",
    ] {
        client.batch_execute(sql).unwrap();
    }
    let mut other = cluster.config("other").connect(postgres::NoTls).unwrap();
    other
        .batch_execute("CREATE EXTENSION varve CASCADE; SELECT varve.add_job('long', '1 day', 'SELECT pg_sleep(600)', first_run => now())")
        .unwrap();
    drop(other);
    let both = "SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'varve job' AND query = 'SELECT pg_sleep(600)'";
    holds(&mut client, "both jobs", both);
    // Not by somebody who may not.
    client.batch_execute("CREATE ROLE nobody").unwrap();
    client.batch_execute("SET ROLE nobody").unwrap();
    assert_eq!(
        simple(&mut client, "DROP DATABASE other").unwrap_err().code,
        "42501"
    );
    client.batch_execute("RESET ROLE").unwrap();
    holds(&mut client, "both jobs to go on", both);
    client.batch_execute("DROP DATABASE other").unwrap();
    // A copy of a database has its jobs, and they run.
    client.batch_execute("CREATE DATABASE fresh").unwrap();
    let mut fresh = cluster.config("fresh").connect(postgres::NoTls).unwrap();
    fresh
        .batch_execute(
            "CREATE EXTENSION varve CASCADE; SELECT varve.add_job('quick', '1 second', 'SELECT 1')",
        )
        .unwrap();
    holds(
        &mut fresh,
        "a run in a new database",
        "SELECT count(*) > 0 FROM varve.job_runs WHERE state = 'succeeded'",
    );
    fresh.batch_execute("DROP EXTENSION varve CASCADE").unwrap();
    drop(fresh);
    let begin = Instant::now();
    cluster.stop(Stop::Fast).unwrap();
    let took = begin.elapsed();
    println!("a fast shutdown while jobs run took {took:?}");
    // The server's own checkpoint is in it, and the machine may be busy.
    assert!(
        took < Duration::from_secs(60),
        "a fast shutdown took {took:?}"
    );
    cluster.start().unwrap();
    let mut client = cluster.connect().unwrap();
    holds(
        &mut client,
        "the run that was cut off to be told, and made up for",
        "SELECT count(*) FILTER (WHERE state = 'interrupted') = 1 AND count(*) FILTER (WHERE state = 'running') = 1 FROM varve.job_runs",
    );
}

/// A standby runs nothing, and everything once it is promoted.
#[test]
fn standby_and_promotion() {
    let (primary, mut client) = start(&[]);
    client
        .batch_execute("CREATE TABLE t (at timestamptz DEFAULT clock_timestamp()); SELECT varve.add_job('j', '1 second', 'INSERT INTO t DEFAULT VALUES')")
        .unwrap();
    let standby = primary.standby(&[]).unwrap();
    let mut reader = standby.connect().unwrap();
    holds(
        &mut reader,
        "runs on the standby",
        "SELECT count(*) > 1 FROM varve.job_runs",
    );
    let processes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'varve%'";
    assert_eq!(rows(&mut reader, processes), ["0"]);
    let call = "SELECT varve.run_job(1)";
    assert_eq!(simple(&mut reader, call).unwrap_err().code, "25006");
    primary.stop(Stop::Immediate).unwrap();
    reader.batch_execute("SELECT pg_promote()").unwrap();
    let count: i64 = reader
        .query_one("SELECT count(*) FROM t", &[])
        .unwrap()
        .get(0);
    holds(
        &mut reader,
        "runs after promotion",
        &format!("SELECT count(*) > {count} + 1 FROM t"),
    );
}

/// Called from pg_cron, varve's functions work as from a session.
#[test]
fn called_from_pg_cron() {
    let (_cluster, mut client) = start(&[
        "shared_preload_libraries = 'timescaledb, varve, pg_cron'",
        "cron.use_background_workers = on",
    ]);
    client
        .batch_execute(
            "CREATE EXTENSION pg_cron;
             CREATE TABLE prices (symbol text, ts timestamptz, close float8, PRIMARY KEY (symbol, ts));
             SELECT create_hypertable('prices', 'ts', chunk_time_interval => interval '1 day');
             SELECT varve.enable('prices');
             INSERT INTO prices SELECT 'a', t, 1 FROM generate_series(timestamptz '2024-01-01', '2024-01-02 23:00', '1 hour') t;
             SELECT varve.add_job('count', '1 day', 'SELECT count(*) FROM prices')",
        )
        .unwrap();
    client
        .batch_execute(
            "SELECT cron.schedule('run', '1 second', 'SELECT varve.run_job(1)');
             SELECT cron.schedule('tiers', '1 second', $$CALL varve.set_tiers('prices', 'warm')$$);
             SELECT cron.schedule('upsert', '1 second', $$SELECT varve.upsert_query('prices', 'SELECT ''b'' AS symbol, now() AS ts, 2::float8 AS close')$$);
             SELECT cron.schedule('fails', '1 second', 'SELECT varve.run_job(99)')",
        )
        .unwrap();
    holds(
        &mut client,
        "a run that pg_cron asked for",
        "SELECT count(*) > 0 FROM varve.job_runs WHERE state = 'succeeded' AND rows = 1",
    );
    holds(
        &mut client,
        "frozen chunks, and rows of today",
        "SELECT count(*) FILTER (WHERE tier = 'warm') >= 2 FROM varve.chunks WHERE (SELECT count(*) FROM prices WHERE symbol = 'b') > 0",
    );
    holds(
        &mut client,
        "pg_cron to know how they went",
        "SELECT bool_or(status = 'succeeded' AND jobname = 'run') AND bool_or(status = 'failed' AND jobname = 'fails' AND return_message LIKE '%job 99 does not exist%') \
         FROM cron.job_run_details JOIN cron.job USING (jobid)",
    );
}

/// Jobs come along in a dump, and are due anew in what is restored from it.
#[test]
fn dump_and_restore() {
    let (cluster, mut client) = start(&[]);
    client
        .batch_execute(
            "CREATE ROLE joe;
             SELECT varve.add_job('a', '0 3 * * *', 'SELECT 1', time_zone => 'Asia/Tokyo', timeout => '1 hour');
             SET ROLE joe; SELECT varve.add_job('b', '1 second', 'SELECT current_user'); RESET ROLE",
        )
        .unwrap();
    let file = cluster.dir().join("dump").display().to_string();
    cluster.run("pg_dump", &["-f", &file, "postgres"]).unwrap();
    cluster.run("createdb", &["copy"]).unwrap();
    cluster
        .run(
            "psql",
            &["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "copy", "-f", &file],
        )
        .unwrap();
    let mut copy = cluster.config("copy").connect(postgres::NoTls).unwrap();
    let jobs = "SELECT id, name, owner, schedule, time_zone, command, timeout, enabled FROM varve.jobs ORDER BY id";
    assert_eq!(rows(&mut copy, jobs), rows(&mut client, jobs));
    holds(
        &mut copy,
        "a run in the copy",
        "SELECT count(*) > 0 FROM varve.job_runs WHERE job_name = 'b' AND state = 'succeeded'",
    );
    let id = one(&mut copy, "SELECT varve.add_job('c', '1 day', 'SELECT 1')");
    assert_eq!(id, "3");
}

/// Who waits for a job that waits for him is told so.
#[test]
fn run_job_deadlock() {
    let (cluster, mut client) = start(&["deadlock_timeout = '200 ms'"]);
    client
        .batch_execute("CREATE TABLE t (v int); SELECT varve.add_job('j', '1 day', 'INSERT INTO t VALUES (1)', retries => 0)")
        .unwrap();
    let mut session = Session::new(&cluster).unwrap();
    session.ok("BEGIN; LOCK TABLE t");
    let code = session.err("SELECT varve.run_job(1)");
    assert_eq!(code, "40P01");
    session.ok("ROLLBACK");
    holds(
        &mut client,
        "the run to end",
        "SELECT count(*) = 1 FROM varve.job_runs WHERE state IN ('succeeded', 'failed')",
    );
}

/// Policies bring chunks from tier to tier as they age, freeze anew what has changed, and drop what is old; one chunk that
/// cannot be had does not hold up the others.
#[test]
fn tiering_policies() {
    let (cluster, mut client) = start(&["varve.lock_timeout = '200 ms'"]);
    client
        .batch_execute(
            "SET timezone = 'UTC';
             CREATE TABLE p (s text, ts timestamptz, v float8, PRIMARY KEY (s, ts));
             SELECT create_hypertable('p', 'ts', chunk_time_interval => interval '1 day');
             SELECT varve.enable('p');
             INSERT INTO p SELECT 'a', t, 1 FROM generate_series(date_trunc('day', now()) - interval '6 days', date_trunc('day', now()), '1 minute') t;
             CREATE TABLE i (s int, t bigint, v float8, PRIMARY KEY (s, t));
             SELECT create_hypertable('i', 't', chunk_time_interval => 1000);
             SELECT varve.enable('i');
             INSERT INTO i SELECT 1, g, 1 FROM generate_series(0, 9999) g;
             CREATE FUNCTION i_now() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT max(t) FROM public.i';
             SELECT set_integer_now_func('i', 'i_now');
             CREATE TABLE d (s int, t date, v float8, PRIMARY KEY (s, t));
             SELECT create_hypertable('d', 't', chunk_time_interval => interval '1 day');
             SELECT varve.enable('d');
             INSERT INTO d SELECT 1, current_date - g, 1 FROM generate_series(0, 5) g;
             CREATE TABLE l (s int, t timestamp, v float8, PRIMARY KEY (s, t));
             SELECT create_hypertable('l', 't', chunk_time_interval => interval '1 hour');
             SELECT varve.enable('l');
             INSERT INTO l SELECT 1, date_trunc('hour', timezone('Asia/Tokyo', now())) - g * interval '1 hour', 1 FROM generate_series(0, 5) g;
             SELECT varve.add_tiering_policy('p', warm_after => interval '1 day', cold_after => '3 days', drop_after => '6 days', schedule => '17 3 * * *');
             SELECT varve.add_tiering_policy('i', warm_after => 2000, drop_after => '8000');
             SELECT varve.add_tiering_policy('d', warm_after => '2 days');
             SELECT varve.add_tiering_policy('l', warm_after => '2 hours', time_zone => 'Asia/Tokyo')",
        )
        .unwrap();
    let run = |client: &mut Client, table: &str| {
        simple(
            client,
            &format!(
                "SELECT varve.run_job(id) > 0 FROM varve.jobs WHERE subject = '{table}'::regclass"
            ),
        )
    };
    let tiers = |client: &mut Client, table: &str| {
        rows(
            client,
            &format!("SELECT string_agg(tier, ' ' ORDER BY range_start, range_start_integer) FROM varve.chunks WHERE hypertable = '{table}'::regclass"),
        )
        .concat()
    };
    for table in ["p", "i", "d", "l"] {
        assert_eq!(run(&mut client, table).unwrap(), ["t"], "{table}");
    }
    // Days that ended 5, 4, 3, 2, 1, 0 days ago, and today; the eldest is younger than 6 days, at any hour.
    assert_eq!(tiers(&mut client, "p"), "cold cold cold warm warm hot hot");
    assert_eq!(
        tiers(&mut client, "i"),
        "warm warm warm warm warm warm hot hot hot"
    );
    assert_eq!(tiers(&mut client, "d"), "warm warm warm hot hot hot");
    assert_eq!(tiers(&mut client, "l"), "warm warm warm hot hot hot");
    let done =
        "SELECT state, rows, bytes > 0 FROM varve.job_runs WHERE job_name = 'tiering of public.i'";
    assert_eq!(rows(&mut client, done), ["succeeded|6000|t"]);
    // What has changed is frozen anew, what is as it was is left alone.
    client
        .batch_execute("UPDATE p SET v = 2 WHERE ts < date_trunc('day', now()) - interval '5 days'")
        .unwrap();
    let before = "SELECT max(delta_rows) FROM varve.chunks WHERE hypertable = 'p'::regclass AND tier = 'cold'";
    assert_eq!(rows(&mut client, before), ["1440"]);
    run(&mut client, "p").unwrap();
    assert_eq!(rows(&mut client, before), ["0"]);
    let done = "SELECT rows FROM varve.job_runs WHERE job_name = 'tiering of public.p' ORDER BY id DESC LIMIT 1";
    assert_eq!(rows(&mut client, done), ["1440"]);
    assert_eq!(rows(&mut client, "SELECT sum(v) FROM p"), ["10081"]);
    // A chunk that somebody has locked.
    client
        .batch_execute("SELECT varve.set_tier(c, 'hot') FROM show_chunks('p') c")
        .unwrap();
    let mut session = Session::new(&cluster).unwrap();
    let locked = one(
        &mut client,
        "SELECT c FROM show_chunks('p') c ORDER BY 1 LIMIT 1",
    );
    session.ok(&format!("BEGIN; LOCK TABLE {locked} IN ACCESS SHARE MODE"));
    let error = run(&mut client, "p").unwrap_err();
    assert_eq!(error.code, "55P03", "{error:?}");
    assert!(error.message.starts_with(&locked), "{error:?}");
    assert_eq!(tiers(&mut client, "p"), "hot cold cold warm warm hot hot");
    session.ok("ROLLBACK");
    run(&mut client, "p").unwrap();
    assert_eq!(tiers(&mut client, "p"), "cold cold cold warm warm hot hot");
    // A policy is the owner's of the table, whoever adds it, and only he runs it: he says what is called on the way.
    client
        .batch_execute(
            "CREATE ROLE ann LOGIN; CREATE TABLE a (s int, t bigint, PRIMARY KEY (s, t));
             SELECT create_hypertable('a', 't', chunk_time_interval => 1000); ALTER TABLE a OWNER TO ann;
             GRANT CREATE ON SCHEMA public TO ann; SET ROLE ann;
             CREATE FUNCTION a_now() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN IF current_user <> ''ann'' THEN RAISE EXCEPTION ''caught %'', current_user; END IF; RETURN 5000; END';
             SELECT set_integer_now_func('a', 'a_now'); SELECT varve.enable('a'); INSERT INTO a VALUES (1, 1); RESET ROLE;
             SELECT varve.add_tiering_policy('a', warm_after => 100)",
        )
        .unwrap();
    let policy =
        "SELECT id FROM varve.jobs WHERE subject = 'a'::regclass AND owner = 'ann'::regrole";
    let id = one(&mut client, policy);
    let call = format!("CALL varve.run_tiering_policy({id})");
    assert_eq!(simple(&mut client, &call).unwrap_err().code, "42501");
    run(&mut client, "a").unwrap();
    assert_eq!(tiers(&mut client, "a"), "warm");
    client
        .batch_execute("SELECT varve.remove_tiering_policy('a')")
        .unwrap();
    // Tables that go take their policies along.
    client.batch_execute("DROP TABLE i").unwrap();
    let left = "SELECT count(*) FROM varve.jobs WHERE name = 'tiering of public.i'";
    client
        .batch_execute(
            "SELECT varve.run_job(id) FROM varve.jobs WHERE name = 'tiering of public.i'",
        )
        .unwrap();
    assert_eq!(rows(&mut client, left), ["0"]);
    client
        .batch_execute("SELECT varve.remove_tiering_policy('p')")
        .unwrap();
    let left = "SELECT count(*) FROM varve.jobs WHERE kind = 'tiering'";
    assert_eq!(rows(&mut client, left), ["2"]);
}

/// Long work is shown as it goes, to who may see it, and is gone from view however it ends; it does not hold up a fast shutdown.
#[test]
fn progress_is_shown() {
    let (cluster, mut client) = start(&[]);
    client
        .batch_execute(
            "CREATE TABLE big (k int PRIMARY KEY, a float8, b float8, t text);
             SELECT varve.enable('big');
             INSERT INTO big SELECT i, random(), random(), md5(i::text) FROM generate_series(1, 400000) i;
             CREATE ROLE other",
        )
        .unwrap();
    let shown = "SELECT count(*) > 0 FROM varve.progress WHERE relation = 'big'::regclass AND operation = 'freeze' AND phase = 'encoding' AND total = 400000 AND percent BETWEEN 0 AND 100";
    let mut session = Session::new(&cluster).unwrap();
    session.ok("SET varve.freeze_memory = 0");
    session.start("SELECT varve.set_tier('big', 'cold')");
    holds(&mut client, "the freeze to be shown", shown);
    client.batch_execute("SET ROLE other").unwrap();
    assert_eq!(
        rows(&mut client, "SELECT count(*) FROM varve.progress"),
        ["0"]
    );
    client.batch_execute("RESET ROLE").unwrap();
    client
        .batch_execute(&format!("SELECT pg_cancel_backend({})", session.pid()))
        .unwrap();
    assert_eq!(session.finish().unwrap_err().code, "57014");
    assert_eq!(
        rows(&mut client, "SELECT count(*) FROM varve.progress"),
        ["0"]
    );
    session.start("SELECT varve.set_tier('big', 'cold')");
    holds(&mut client, "the freeze to be shown again", shown);
    client
        .batch_execute(&format!("SELECT pg_terminate_backend({})", session.pid()))
        .unwrap();
    session.finish().unwrap_err();
    holds(
        &mut client,
        "the entry to go",
        "SELECT count(*) = 0 FROM varve.progress",
    );
    // As a job, when the server is shut down.
    client
        .batch_execute("SELECT varve.add_job('freeze', '1 day', 'SET varve.freeze_memory = 0; SELECT varve.set_tier(''big'', ''cold'')', first_run => now())")
        .unwrap();
    holds(&mut client, "the freeze as a job", shown);
    let begin = Instant::now();
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'varve job'")
        .unwrap();
    holds(
        &mut client,
        "the worker to end",
        "SELECT count(*) = 0 FROM varve.progress",
    );
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(30),
        "a worker ended after {took:?}"
    );
    cluster.stop(Stop::Fast).unwrap();
}

/// While TimescaleDB is told that a dump is being restored, jobs of the database wait.
#[test]
fn while_a_dump_is_restored() {
    let (cluster, mut client) = start(&[]);
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.config("other").connect(postgres::NoTls).unwrap();
    other
        .batch_execute("CREATE EXTENSION varve CASCADE; SELECT timescaledb_pre_restore(); SELECT varve.add_job('j', '1 second', 'SELECT 1')")
        .unwrap();
    client
        .batch_execute("SELECT varve.add_job('j', '1 second', 'SELECT 1')")
        .unwrap();
    holds(
        &mut client,
        "four runs elsewhere",
        "SELECT count(*) > 3 FROM varve.job_runs WHERE state = 'succeeded'",
    );
    assert_eq!(
        rows(&mut other, "SELECT count(*) FROM varve.job_runs"),
        ["0"]
    );
    other
        .batch_execute("SELECT timescaledb_post_restore(); SELECT varve.wake_launcher()")
        .unwrap();
    holds(
        &mut other,
        "a run afterwards",
        "SELECT count(*) > 0 FROM varve.job_runs WHERE state = 'succeeded'",
    );
}
