//! Drills that are cut off, held up or led elsewhere: what is left, what is recorded, what goes on beside them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drill_common;

use drill_common::{Bench, TABLES, assert_good, last_drill, processes_of};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use varve_tests::cluster::Stop;
use varve_tests::session::{Session, simple};
use varve_tests::wait;

/// The ways to call for a drill.
const FUNCTION: &str = "SELECT * FROM varve.recovery_drill()";
const PROCEDURE: &str = "CALL varve.run_recovery_drill()";

/// Starts a drill and waits until it is in a phase; none where it has ended before that was seen.
fn drill_in(bench: &mut Bench, phase: &str, sql: &str) -> Option<Session> {
    let mut session = Session::new(&bench.cluster).unwrap();
    session.start(sql);
    let shown = format!(
        "SELECT count(*) FROM varve.progress WHERE operation = 'drill' AND phase = '{phase}' AND pid = {}",
        session.pid()
    );
    let mut seen = false;
    wait::until("the drill to be in a phase", || {
        seen = bench.ok(&shown) == ["1"];
        seen || session.done()
    });
    seen.then_some(session)
}

/// How many drills are noted in the data directory.
fn notes(bench: &Bench) -> usize {
    let entries = std::fs::read_dir(bench.cluster.data().join("pg_stat_tmp")).unwrap();
    entries
        .filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("varve_drill")
        })
        .count()
}

/// Nothing of a drill runs any more.
fn assert_nothing_runs(bench: &mut Bench) {
    let scratch = bench.cluster.dir().join("scratch");
    wait::until("the scratch server to end", || processes_of(&scratch) == 0);
    wait::until("the drill not to be shown", || {
        bench.ok("SELECT count(*) FROM varve.progress WHERE operation = 'drill'") == ["0"]
    });
}

/// Cancels a drill that is seen in a phase, which leaves nothing but its record; the step that it says.
fn cancelled_in(bench: &mut Bench, phase: &str, sql: &str) -> Option<String> {
    let mut session = drill_in(bench, phase, sql)?;
    let begun = Instant::now();
    bench.ok(&format!("SELECT pg_cancel_backend({})", session.pid()));
    let error = session.finish().err()?;
    assert_eq!(error.code, "57014", "{phase}");
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "{phase}: cancelled in {took:?}"
    );
    assert_eq!(bench.left(), Vec::<PathBuf>::new(), "{phase}");
    // It is on record, though its transaction was taken back, and with what it had found.
    let last = last_drill(bench);
    let told = last
        .strip_prefix("f|")
        .and_then(|told| told.split_once(": "));
    let Some((step, "canceling statement due to user request")) = told else {
        panic!("{phase}: {last}");
    };
    assert_nothing_runs(bench);
    assert_eq!(notes(bench), 0);
    Some(step.to_owned())
}

#[test]
fn ended_in_the_midst() {
    let mut bench = Bench::new(&[]);
    bench.ok(
        "CREATE TABLE much AS SELECT i, repeat('x', 50) FROM generate_series(1, 600000) i;
         CREATE TABLE frozen (i bigint PRIMARY KEY, v float8);
         INSERT INTO frozen SELECT i, random() FROM generate_series(1, 600000) i;
         SELECT varve.enable('frozen'); SELECT varve.set_tier('frozen', 'warm')",
    );
    bench.backup("full");
    let scratch = bench.cluster.dir().join("scratch");
    for (phase, step, sql) in [
        ("restoring", "restore", FUNCTION),
        ("syncing", "restore", PROCEDURE),
        ("replaying", "replay", FUNCTION),
        ("replaying", "replay", PROCEDURE),
        ("counting", "compare counts", FUNCTION),
        ("verifying", "verify", PROCEDURE),
    ] {
        // It may be a step further, or done, before the cancel gets to it: then once more.
        let met = (0..8).any(|_| cancelled_in(&mut bench, phase, sql).as_deref() == Some(step));
        assert!(met, "no drill was ever cancelled {phase}");
    }
    assert_eq!(
        bench.ok("SELECT count(*) > 0, bool_and(backup IS NOT NULL AND detail -> 'steps' -> 0 ->> 'step' = 'choose a backup') FROM varve.drill WHERE NOT ok"),
        ["t|t"]
    );
    // A limit of time, of a statement and of a job.
    let mut session = Session::new(&bench.cluster).unwrap();
    session.ok("SET statement_timeout = '300ms'");
    for sql in [FUNCTION, PROCEDURE] {
        session.start(sql);
        let error = session.finish().unwrap_err();
        assert_eq!(error.code, "57014", "{error:?}");
        let last = last_drill(&mut bench);
        assert!(
            last.ends_with(": canceling statement due to statement timeout"),
            "{last}"
        );
        assert_eq!(bench.left(), Vec::<PathBuf>::new());
    }
    drop(session);
    let before = bench.ok("SELECT max(id) FROM varve.drill").concat();
    bench.ok("SELECT varve.add_job('drill', '0 0 1 1 *', 'CALL varve.run_recovery_drill()', timeout => '1 second', retries => 0)");
    bench.ok("SELECT varve.run_job(id, wait => false) FROM varve.jobs WHERE name = 'drill'");
    wait::until("the job to end", || {
        bench.ok(
            "SELECT count(*) FROM varve.job_runs WHERE job_name = 'drill' AND state <> 'running'",
        ) == ["1"]
    });
    let sql = format!(
        "SELECT r.state, d.ok, d.error LIKE '%: canceling statement%', d.id > {before} FROM varve.job_runs r, varve.drill d \
         WHERE r.job_name = 'drill' ORDER BY d.id DESC LIMIT 1"
    );
    assert_eq!(bench.ok(&sql), ["failed|f|t|t"]);
    assert_nothing_runs(&mut bench);
    // Terminated: its process does not come back to its own code.
    let mut session = drill_in(&mut bench, "replaying", FUNCTION).unwrap();
    wait::until("the scratch server to run", || processes_of(&scratch) > 0);
    bench.ok(&format!("SELECT pg_terminate_backend({})", session.pid()));
    session.finish().unwrap_err();
    wait::until("the directory to be removed", || bench.left().is_empty());
    assert_nothing_runs(&mut bench);
    let cut_off = "f|it was cut off: its session or the server ended";
    wait::until("it to be recorded", || {
        last_drill(&mut bench) == cut_off && notes(&bench) == 0
    });
    // Killed: its server goes with it, the directory goes by the next drill.
    let session = drill_in(&mut bench, "replaying", FUNCTION).unwrap();
    wait::until("the scratch server to run", || processes_of(&scratch) > 0);
    bench.cluster.kill_backend(session.pid()).unwrap();
    drop(session);
    wait::until("the scratch server to end", || processes_of(&scratch) == 0);
    assert_eq!(bench.left().len(), 1);
    wait::until("the server to be back", || {
        bench.cluster.connect().is_ok_and(|client| {
            bench.client = client;
            simple(&mut bench.client, "SELECT 1").is_ok()
        })
    });
    // The worker that looks what is due finds what the crash has left of it.
    let again = format!(
        "SELECT count(*) FROM varve.drill WHERE NOT ok AND ok::text || error = '{}'",
        cut_off.replacen("f|", "false", 1)
    );
    wait::until("it to be recorded", || bench.ok(&again) == ["2"]);
    let steps = bench.drill();
    assert_good(&steps);
    assert_eq!(last_drill(&mut bench), "t|∅");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
    // A shutdown does not wait for a drill.
    let _session = drill_in(&mut bench, "replaying", FUNCTION).unwrap();
    let begun = Instant::now();
    bench.cluster.stop(Stop::Fast).unwrap();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "a fast shutdown took {took:?}"
    );
    wait::until("the scratch server to end", || processes_of(&scratch) == 0);
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
}

/// A drill of a job does not keep VACUUM from removing what was deleted; one of a query does.
#[test]
fn vacuum_goes_on() {
    let mut bench = Bench::new(&[]);
    bench.ok("CREATE TABLE much AS SELECT i, repeat('x', 50) FROM generate_series(1, 600000) i");
    bench.ok("CREATE TABLE gone (a int)");
    bench.backup("full");
    let in_drill = "SELECT count(*) FROM varve.progress WHERE operation = 'drill'";
    for (sql, kept) in [(FUNCTION, true), (PROCEDURE, false)] {
        let mut session = (0..5)
            .find_map(|_| drill_in(&mut bench, "restoring", sql))
            .expect("a drill that restores");
        bench.ok("INSERT INTO gone SELECT generate_series(1, 1000)");
        bench.ok("DELETE FROM gone");
        let held = format!(
            "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = {}",
            session.pid()
        );
        let mut removed = false;
        let (mut phases, mut looked) = (std::collections::BTreeSet::new(), 0);
        wait::until("the drill to end", || {
            let phase = bench
                .ok("SELECT phase FROM varve.progress WHERE operation = 'drill'")
                .concat();
            let holds = bench.ok(&held).concat();
            bench.ok("VACUUM gone");
            let empty = bench.ok("SELECT pg_relation_size('gone') = 0") == ["t"];
            // Only what was seen while it is still at work counts.
            if bench.ok(in_drill) == ["1"] {
                phases.insert(phase);
                looked += 1;
                assert_eq!(holds, if kept { "t" } else { "f" }, "{sql}, {phases:?}");
                assert!(!(kept && empty), "{sql}: nothing was held");
                removed |= empty;
            }
            session.done()
        });
        session.finish().unwrap();
        assert!(looked > 3 && phases.contains("replaying"), "{phases:?}");
        assert_eq!(removed, !kept, "{sql}");
        assert_eq!(last_drill(&mut bench), "t|∅");
        bench.ok("VACUUM gone");
        assert_eq!(bench.ok("SELECT pg_relation_size('gone')"), ["0"]);
    }
    assert_eq!(
        simple(&mut bench.client, "BEGIN; CALL varve.run_recovery_drill()")
            .unwrap_err()
            .code,
        "2D000"
    );
}

/// A standby is promoted between a backup and the next drill: recovery follows it, and what was counted is on the way.
#[test]
fn a_failover_after_the_counts() {
    let mut bench = Bench::new(&[]);
    bench.ok(TABLES);
    bench.backup("full");
    bench.archived();
    bench.cluster.stop(Stop::Fast).unwrap();
    let signal = bench.cluster.data().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    bench.cluster.start().unwrap();
    bench.client = bench.cluster.connect().unwrap();
    bench.ok("SELECT pg_promote()");
    bench.ok("INSERT INTO parted VALUES (3)");
    bench.archived();
    let steps = bench.drill();
    assert_good(&steps);
    assert_eq!(
        bench.ok("SELECT pg_walfile_name(pg_current_wal_lsn()) LIKE '00000002%'"),
        ["t"]
    );
}

/// The server went on from a moment between the backup and its counts: these are of what is lost, and cannot be compared.
#[test]
fn a_failover_before_the_counts() {
    let mut bench = Bench::new(&[]);
    bench.ok(TABLES);
    bench.backup("full");
    bench.archived();
    bench.cluster.stop(Stop::Fast).unwrap();
    let pgdata = bench.cluster.dir().join("other");
    let url = format!("file://{}", bench.cluster.dir().join("first").display());
    let mut restore = bench.cluster.tool("varve");
    restore.args([
        "restore",
        "--quiet",
        "--start",
        "--to-backup",
        "--from",
        &url,
    ]);
    let output = restore.arg("--pgdata").arg(&pgdata).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    bench.client = bench.cluster.connect().unwrap();
    bench.ok("INSERT INTO parted VALUES (3)");
    // The archive's last file is of the timeline that was left: it is of no use any more.
    bench.archived();
    let steps = bench.drill();
    let found: Vec<&str> = steps.iter().map(|s| s.split('|').next().unwrap()).collect();
    assert_eq!(
        found,
        [
            "choose a backup",
            "restore",
            "compare counts",
            "replay",
            "verify",
            "result"
        ],
        "{steps:#?}"
    );
    assert_eq!(
        steps[2],
        "compare counts|∅|rows were counted on a timeline that was left before that"
    );
    let good = steps.iter().filter(|step| step.contains("|t|")).count();
    assert_eq!(good, 5, "{steps:#?}");
    let mut pg_ctl = bench.cluster.tool("pg_ctl");
    pg_ctl.args(["-m", "immediate", "stop", "-D"]).arg(&pgdata);
    assert!(pg_ctl.status().unwrap().success());
}

/// A file system that is unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// Too little room is noticed before anything is fetched.
#[test]
fn too_little_room() {
    let mut bench = Bench::new(&[]);
    bench.ok("CREATE TABLE much AS SELECT generate_series(1, 1000)");
    let id = bench.backup("full");
    let base = bench
        .cluster
        .dir()
        .join(format!("first/backups/{id}/base.tar.zst"));
    // Whoever fetched anything would notice.
    std::fs::rename(&base, base.with_extension("away")).unwrap();
    let scratch = bench.cluster.dir().join("scratch");
    let needed = |steps: &[String]| -> (u64, u64) {
        let step = &steps[1];
        assert!(step.starts_with("restore|f|"), "{steps:#?}");
        let number = |before: &str| {
            let (_, rest) = step.split_once(before).unwrap_or_else(|| panic!("{step}"));
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(step.contains("Set varve.scratch_directory"), "{step}");
        (number("scratch has "), number(&format!("{id} needs ")))
    };
    // A record that tells of more than any disk holds.
    let record = base.with_file_name("backup.json");
    let bytes = std::fs::read(&record).unwrap();
    let mut told = varve_core::backup::Backup::from_json(&id, &bytes).unwrap();
    let object = &mut told.objects[0];
    object.frames = vec![1; 1_000_000];
    object.stored_bytes = 1_000_000;
    object.raw_bytes = 1_000_000 * object.frame_bytes;
    let large = object.raw_bytes >> 20;
    std::fs::write(&record, told.to_json().unwrap()).unwrap();
    let (free, wanted) = needed(&bench.drill());
    assert!(wanted > large && free < large, "{free} {wanted}");
    std::fs::write(&record, bytes).unwrap();
    // A disk that is small, where we may mount one.
    let owner = std::fs::metadata(&scratch).unwrap();
    if owner.uid() != std::fs::metadata("/proc/self").unwrap().uid() {
        let options = format!("size=64m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "varve-test"])
            .arg(&scratch)
            .status()
            .unwrap();
        assert!(mount.success());
        let _mounted = Mounted(scratch.clone());
        let (free, wanted) = needed(&bench.drill());
        assert!(
            free <= 64 && wanted > 256 && wanted < 1000,
            "{free} {wanted}"
        );
        assert_eq!(bench.left(), Vec::<PathBuf>::new());
    }
    let last = last_drill(&mut bench);
    assert!(
        last.starts_with("f|restore: ") && last.contains("MB free"),
        "{last}"
    );
}
