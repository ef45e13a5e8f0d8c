//! Freezing a chunk while clients read and write it: no update is lost, nobody waits long, and whatever else happens to
//! the chunk meanwhile gives a clear error or works.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{Failure, Outcome, Session, simple};

/// Rows of the chunk; `VARVE_ROWS` asks for another number.
const ROWS: i64 = 300_000;

/// Clients that write at the same time.
const CLIENTS: i64 = 2;

/// Longest time a statement may take here. The aim is 100 ms on an idle machine; those that run tests are not idle.
const LIMIT: Duration = Duration::from_secs(2);

fn rows() -> i64 {
    std::env::var("VARVE_ROWS").map_or(ROWS, |n| n.parse().unwrap())
}

/// A hypertable `bars` with one chunk of that many rows: `id` says whose they are, `v` counts their changes.
fn start(rows: i64) -> (Cluster, Client, String) {
    let cluster = Cluster::start_new(&[
        "fsync = off",
        "shared_buffers = 256MB",
        "max_wal_size = 4GB",
    ])
    .unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(&format!(
            "CREATE TABLE bars (id bigint, ts timestamptz, v bigint NOT NULL, note text, PRIMARY KEY (id, ts));
             SELECT create_hypertable('bars', 'ts', chunk_time_interval => interval '1 year');
             INSERT INTO bars SELECT i, {TS}, 0, 'note ' || i % 100 FROM generate_series(0, {rows} - 1) i;
             SELECT varve.enable('bars')"
        ))
        .unwrap();
    client.batch_execute("VACUUM ANALYZE bars").unwrap();
    let chunk = simple(&mut client, "SELECT show_chunks('bars')")
        .unwrap()
        .concat();
    (cluster, client, chunk)
}

/// The time of every row.
const TS: &str = "timestamptz '2024-06-01 00:00:00+00'";

/// One client's own book of what it has committed: value by id. Ids are `client` modulo the number of clients.
struct Writer {
    client: Client,
    number: i64,
    rows: i64,
    next: i64,
    book: BTreeMap<i64, i64>,
    random: Random,
    slowest: (Duration, String),
    statements: u64,
}

impl Writer {
    fn new(cluster: &Cluster, number: i64, rows: i64) -> Writer {
        Writer {
            client: cluster.connect().unwrap(),
            number,
            rows,
            next: rows + number,
            book: (0..rows)
                .filter(|id| id % CLIENTS == number)
                .map(|id| (id, 0))
                .collect(),
            random: Random::new(7 + number as u64),
            slowest: Default::default(),
            statements: 0,
        }
    }

    /// Runs a statement and returns the first row, with the time taken on record.
    fn run(&mut self, sql: &str) -> Option<String> {
        let begin = Instant::now();
        let rows = simple(&mut self.client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let taken = begin.elapsed();
        self.statements += 1;
        if taken > self.slowest.0 {
            self.slowest = (taken, sql.to_string());
        }
        rows.into_iter().next()
    }

    /// One random statement on one of its own rows, checked against the book.
    fn step(&mut self) {
        let id = self.random.below((self.rows / CLIENTS) as u64) as i64 * CLIENTS + self.number;
        let known = self.book.get(&id).copied();
        let here = format!("id = {id} AND ts = {TS}");
        match self.random.below(10) {
            0..=3 => {
                let got = self.run(&format!(
                    "UPDATE bars SET v = v + 1 WHERE {here} RETURNING v"
                ));
                assert_eq!(got, known.map(|v| (v + 1).to_string()), "update of {id}");
                if let Some(v) = self.book.get_mut(&id) {
                    *v += 1;
                }
            }
            4 => {
                let got = self.run(&format!("DELETE FROM bars WHERE {here} RETURNING v"));
                assert_eq!(got, known.map(|v| v.to_string()), "delete of {id}");
                self.book.remove(&id);
            }
            5 => {
                let id = self.next;
                self.next += CLIENTS;
                self.run(&format!("INSERT INTO bars VALUES ({id}, {TS}, 1)"));
                self.book.insert(id, 1);
            }
            6 | 7 => {
                let got = self.run(&format!(
                    "INSERT INTO bars VALUES ({id}, {TS}, 1000) ON CONFLICT (id, ts) DO UPDATE SET v = bars.v + 1 RETURNING v"
                ));
                let now = known.map_or(1000, |v| v + 1);
                assert_eq!(got, Some(now.to_string()), "upsert of {id}");
                self.book.insert(id, now);
            }
            8 => {
                self.run(&format!(
                    "BEGIN; UPDATE bars SET v = -1 WHERE {here}; ROLLBACK"
                ));
            }
            _ => {
                let got = self.run(&format!("SELECT v FROM bars WHERE {here}"));
                assert_eq!(got, known.map(|v| v.to_string()), "read of {id}");
            }
        }
    }
}

/// How long the lock that a writer takes is waited for, again and again until `stop`: the part of a statement's time
/// that the freeze is to blame for.
fn lock_waits(cluster: &Cluster, chunk: &str, stop: &AtomicBool) -> Vec<Duration> {
    let mut client = cluster.connect().unwrap();
    let mut waits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        simple(
            &mut client,
            &format!("BEGIN; LOCK TABLE {chunk} IN ROW EXCLUSIVE MODE; COMMIT"),
        )
        .unwrap();
        waits.push(begin.elapsed());
        // A pace, so that measuring leaves the processor to those who are measured.
        std::thread::sleep(Duration::from_millis(2));
    }
    waits
}

#[test]
fn no_update_is_lost_and_nobody_waits_long() {
    const TIERS: [&str; 6] = ["warm", "warm", "cold", "cold", "warm", "cold"];
    let rows = rows();
    let (cluster, mut client, chunk) = start(rows);
    let stop = AtomicBool::new(false);
    let mut freezes = Vec::new();
    let (writers, waits): (Vec<Writer>, Vec<Duration>) = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (cluster, stop) = (&cluster, &stop);
                scope.spawn(move || {
                    let mut writer = Writer::new(cluster, number, rows);
                    while !stop.load(Ordering::Relaxed) {
                        writer.step();
                    }
                    writer
                })
            })
            .collect();
        let waits = scope.spawn(|| lock_waits(&cluster, &chunk, &stop));
        let freezing = TIERS.into_iter().try_for_each(|tier| {
            let begin = Instant::now();
            simple(
                &mut client,
                &format!("SELECT varve.set_tier('{chunk}', '{tier}')"),
            )?;
            freezes.push((tier, begin.elapsed()));
            let now = simple(&mut client, "SELECT DISTINCT tier FROM varve.chunks")?;
            assert_eq!(now, [tier]);
            // The next freeze has to find changes to freeze.
            std::thread::sleep(Duration::from_millis(300));
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let writers = handles.into_iter().map(|h| h.join().unwrap()).collect();
        freezing.unwrap_or_else(|e: Failure| panic!("{e:?}"));
        (writers, waits.join().unwrap())
    });
    let mut book = BTreeMap::new();
    for writer in &writers {
        println!(
            "client {}: {} statements, slowest {:?}: {}",
            writer.number, writer.statements, writer.slowest.0, writer.slowest.1
        );
        book.extend(&writer.book);
    }
    let longest = waits.iter().max().copied().unwrap_or_default();
    println!(
        "freezes of {rows} rows took {freezes:?}; of {} locks as writers take them, the slowest took {longest:?}",
        waits.len()
    );
    let stored: BTreeMap<i64, i64> = client
        .query("SELECT id, v FROM bars", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let count: i64 = client
        .query_one("SELECT count(*) FROM bars", &[])
        .unwrap()
        .get(0);
    assert_eq!(count, stored.len() as i64, "no row is there twice");
    let lost: Vec<_> = book
        .iter()
        .filter(|(id, v)| stored.get(id) != Some(v))
        .take(10)
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(stored.len(), book.len(), "deleted rows are back");
    let bad = simple(
        &mut client,
        "SELECT * FROM varve.verify('bars') WHERE NOT ok",
    )
    .unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    for writer in &writers {
        assert!(
            writer.statements > 50,
            "client {} hardly got a turn",
            writer.number
        );
        assert!(writer.slowest.0 < LIMIT, "{:?}", writer.slowest);
    }
    assert!(longest < LIMIT, "{longest:?}");
}

#[test]
fn several_sessions_freeze_the_same_chunk() {
    let (cluster, mut client, chunk) = start(20_000);
    let before = simple(&mut client, "SELECT count(*), sum(v), sum(id) FROM bars").unwrap();
    for round in 0..4 {
        let mut sessions: Vec<Session> = (0..4).map(|_| Session::new(&cluster).unwrap()).collect();
        for (number, session) in sessions.iter_mut().enumerate() {
            let tier = ["warm", "cold", "warm", "hot"][(round + number) % 4];
            session.start(&format!("SELECT varve.set_tier('{chunk}', '{tier}')"));
        }
        for session in &mut sessions {
            let result = session.finish();
            assert!(result.is_ok(), "{result:?}\n{}", cluster.log());
        }
        assert_eq!(
            simple(&mut client, "SELECT count(*), sum(v), sum(id) FROM bars").unwrap(),
            before
        );
    }
    simple(
        &mut client,
        &format!("SELECT varve.set_tier('{chunk}', 'warm')"),
    )
    .unwrap();
    let companions = "SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace AND relkind = 'r'";
    assert_eq!(simple(&mut client, companions).unwrap(), ["2"]);
}

/// Lets `during` happen in the middle of a freeze, and returns what became of the freeze and of it.
fn meanwhile(during: &str) -> (Outcome, Outcome, Cluster, Client) {
    let (cluster, mut client, chunk) = start(60_000);
    let mut freezer = Session::new(&cluster).unwrap();
    let mut other = Session::new(&cluster).unwrap();
    freezer.start(&format!("SELECT varve.set_tier('{chunk}', 'warm')"));
    // It is at work once it holds its lock.
    let at_work = format!(
        "SELECT 1 FROM pg_locks WHERE pid = {} AND mode = 'ShareUpdateExclusiveLock' AND relation = '{chunk}'::regclass",
        freezer.pid()
    );
    varve_tests::wait::until("the freeze to begin", || {
        simple(&mut client, &at_work).unwrap() == ["1"] || freezer.done()
    });
    other.start(&during.replace("{chunk}", &chunk));
    let other = other.finish();
    (freezer.finish(), other, cluster, client)
}

#[test]
fn the_chunk_goes_away_during_a_freeze() {
    for (during, rows_left) in [
        ("DROP TABLE {chunk}", "0"),
        (
            "SELECT drop_chunks('bars', older_than => timestamptz '2030-01-01')",
            "0",
        ),
        ("TRUNCATE bars", "0"),
        ("TRUNCATE {chunk}", "0"),
        ("DROP TABLE bars CASCADE", ""),
        (
            "ALTER TABLE bars ADD COLUMN extra text DEFAULT 'x'",
            "60000",
        ),
        ("ALTER TABLE bars ALTER v TYPE numeric", "60000"),
        ("VACUUM FULL bars", "60000"),
        ("VACUUM bars", "60000"),
        ("CREATE INDEX ON bars (v)", "60000"),
        ("SELECT varve.disable('bars')", "60000"),
        ("DELETE FROM bars", "0"),
        ("UPDATE bars SET v = 1", "60000"),
    ] {
        let (freeze, other, _cluster, mut client) = meanwhile(during);
        assert!(other.is_ok(), "{during}: {other:?}");
        if let Err(e) = &freeze {
            // Gone, locked for too long, or one of the two was chosen as a deadlock's victim: all say so.
            let clear = ["42P01", "55P03", "40P01", "55000"].contains(&e.code.as_str());
            assert!(clear, "{during}: the freeze: {e:?}");
        }
        if rows_left.is_empty() {
            let companions =
                "SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace";
            assert_eq!(simple(&mut client, companions).unwrap(), ["0"], "{during}");
            continue;
        }
        let count = simple(&mut client, "SELECT count(*) FROM bars").unwrap();
        assert_eq!(count, [rows_left], "{during}");
        let again = simple(
            &mut client,
            "SELECT varve.set_tier(c, 'warm') FROM show_chunks('bars') c",
        );
        assert!(again.is_ok(), "{during}: {again:?}");
        let count = simple(&mut client, "SELECT count(*) FROM bars").unwrap();
        assert_eq!(count, [rows_left], "{during}, frozen again");
    }
}

#[test]
fn a_chunk_that_another_session_drops_is_a_clear_error() {
    for (call, code) in [
        ("SELECT varve.set_tier('{chunk}', 'warm')", Some("42P01")),
        ("SELECT varve.set_tier('{chunk}', 'hot')", Some("42P01")),
        // Those that go over all chunks leave out what is gone.
        ("CALL varve.set_tiers('bars', 'warm')", None),
        ("SELECT varve.disable('bars')", None),
        ("SELECT * FROM varve.verify('bars')", None),
        ("SELECT * FROM varve.chunks", None),
    ] {
        let (cluster, mut client, chunk) = start(2_000);
        client
            .batch_execute(&format!("SELECT varve.set_tier('{chunk}', 'warm')"))
            .unwrap();
        client
            .batch_execute("INSERT INTO bars VALUES (-1, '2020-06-01 00:00:00+00', 0)")
            .unwrap();
        let mut dropper = Session::new(&cluster).unwrap();
        dropper.ok(&format!("BEGIN; DROP TABLE {chunk}"));
        let mut other = Session::new(&cluster).unwrap();
        other.start(&call.replace("{chunk}", &chunk));
        assert!(other.waits(&mut client), "{call}: the chunk is locked");
        dropper.ok("COMMIT");
        let result = other.finish();
        let got = result.as_ref().err().map(|e| e.code.as_str());
        assert_eq!(got, code, "{call}: {result:?}");
        let rows = simple(&mut client, "SELECT count(*) FROM bars").unwrap();
        assert_eq!(rows, ["1"], "{call}");
    }
}

#[test]
fn a_freeze_that_finds_no_moment_gives_up_and_leaves_the_chunk() {
    let (cluster, mut client, chunk) = start(5_000);
    let mut holder = Session::new(&cluster).unwrap();
    holder.ok("BEGIN; SELECT count(*) FROM bars");
    let mut freezer = Session::new(&cluster).unwrap();
    freezer.ok("SET varve.lock_timeout = '500ms'");
    let error = freezer
        .run(&format!("SELECT varve.set_tier('{chunk}', 'warm')"))
        .unwrap_err();
    assert_eq!(error.code, "55P03", "{error:?}");
    assert!(error.hint.is_some(), "{error:?}");
    // While a freeze tries, others come and go.
    freezer.ok("SET varve.lock_timeout = 0");
    freezer.start(&format!("SELECT varve.set_tier('{chunk}', 'warm')"));
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begin = Instant::now();
        simple(&mut client, "UPDATE bars SET v = v + 1 WHERE id = 1").unwrap();
        slowest = slowest.max(begin.elapsed());
    }
    println!("slowest update beside a freeze that waits: {slowest:?}");
    assert!(slowest < LIMIT, "{slowest:?}");
    assert!(!freezer.done(), "the holder still reads the chunk");
    // And it can be cancelled.
    simple(
        &mut client,
        &format!("SELECT pg_cancel_backend({})", freezer.pid()),
    )
    .unwrap();
    assert_eq!(freezer.finish().unwrap_err().code, "57014");
    freezer.start(&format!("SELECT varve.set_tier('{chunk}', 'warm')"));
    holder.ok("COMMIT");
    freezer.finish().unwrap();
    let row = simple(&mut client, "SELECT tier, rows FROM varve.chunks").unwrap();
    assert_eq!(row, ["warm|5000"]);
    let row = simple(&mut client, "SELECT v FROM bars WHERE id = 1").unwrap();
    assert_eq!(row, ["50"]);
}
