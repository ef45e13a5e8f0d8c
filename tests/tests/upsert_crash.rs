//! `kill -9` of a backend, and of the postmaster with all its children, in the middle of batches: after recovery each
//! batch is there whole or not at all, one that was acknowledged is there, and the indexes agree with the rows.
//!
//! Two clients upsert numbered batches into the same chunks, each batch with a note of its number in the same
//! transaction. What a number stands for is a function of it, so that a heap twin can be made from the notes.
//! `VARVE_CRASH_KILLS` asks for more kills than the few of every run (`make soak`: a hundred).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::time::{Duration, Instant};
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{Failure, Session, simple};
use varve_tests::wait;

const KILLS: u64 = 6;

const CLIENTS: [i32; 2] = [1, 2];

/// Few buffers, so that pages of unfinished batches reach the disk. fsync protects from a crash of the machine, which is
/// not what happens here.
const SETTINGS: &[&str] = &[
    "fsync = off",
    "shared_buffers = 2MB",
    "bgwriter_delay = 10ms",
    "autovacuum_naptime = 1s",
    "max_wal_size = 64MB",
];

/// Batches have 500 to 3000 rows over three chunks: keys that others of the client's batches have too, with values that
/// change every five batches (equal till then), some with a value of their own; some new keys; some keys twice.
const SETUP: &str = "
    CREATE TABLE twin (s int, ts timestamptz, v bigint, n text, PRIMARY KEY (s, ts));
    CREATE TABLE prices (LIKE twin INCLUDING ALL); CREATE INDEX ON prices (v);
    SELECT create_hypertable('prices', 'ts', chunk_time_interval => interval '7 days'); SELECT varve.enable('prices');
    CREATE TABLE committed (client int, batch int, PRIMARY KEY (client, batch));
    CREATE TABLE applied (client int PRIMARY KEY, batch int); INSERT INTO applied VALUES (1, 0), (2, 0);
    CREATE FUNCTION batch(client int, b int) RETURNS TABLE (i bigint, s int, ts timestamptz, v bigint, n text)
    LANGUAGE sql STABLE AS $$
      SELECT i, CASE WHEN i % 60 = 0 THEN client * 100000 + 100 + b ELSE client * 100000 + k % 20 END,
        timestamptz '2024-01-01 00:00Z' + k / 20 * interval '2 hours',
        CASE WHEN i % 9 = 0 THEN b * 10000 + i ELSE k * 1000 + b / 5 END,
        CASE WHEN k % 3 = 0 THEN repeat('note ', k % 40) END
      FROM (SELECT i, ((hashint8extended(i * 1000003 + b, client) & 2147483647) % 5040)::int AS k
            FROM generate_series(1, 500 + (hashint8extended(b, client) & 2147483647) % 2500) i) x $$;
    CREATE PROCEDURE apply() LANGUAGE plpgsql AS $$ DECLARE c record; BEGIN
      FOR c IN SELECT m.client, m.batch FROM committed m JOIN applied a USING (client) WHERE m.batch > a.batch ORDER BY 1, 2 LOOP
        INSERT INTO twin SELECT DISTINCT ON (s, ts) s, ts, v, CASE WHEN c.batch % 4 <> 0 THEN n END FROM batch(c.client, c.batch) ORDER BY s, ts, i DESC
          ON CONFLICT (s, ts) DO UPDATE SET v = excluded.v, n = CASE WHEN c.batch % 4 = 0 THEN twin.n ELSE excluded.n END;
        UPDATE applied a SET batch = c.batch WHERE a.client = c.client;
      END LOOP; END $$";

/// One client: its session, the batch that it runs, and how many were acknowledged.
struct Writer {
    number: i32,
    session: Session,
    acknowledged: i32,
}

impl Writer {
    fn new(cluster: &Cluster, number: i32, acknowledged: i32) -> Writer {
        Writer {
            number,
            session: Session::new(cluster).unwrap(),
            acknowledged,
        }
    }

    /// Starts the next batch; every fourth has no notes. (New keys of such a batch have none either.)
    fn start(&mut self) {
        let (client, batch) = (self.number, self.acknowledged + 1);
        let columns = if batch % 4 == 0 {
            "s, ts, v"
        } else {
            "s, ts, v, n"
        };
        // Every second one goes into frozen chunks as segments, where it can.
        self.session
            .start(&format!("SET varve.upsert_merge_rows = {}", batch % 2 * 10));
        self.session.finish().unwrap();
        self.session.start(&format!(
            "WITH u AS MATERIALIZED (SELECT FROM varve.upsert_query('prices', 'SELECT {columns} FROM batch({client}, {batch}) ORDER BY i'))
             INSERT INTO committed SELECT {client}, {batch} FROM u"
        ));
    }

    /// Takes note of a batch that ended, and starts the next.
    fn go_on(&mut self) {
        if self.session.done() {
            self.session.finish().unwrap();
            self.acknowledged += 1;
            self.start();
        }
    }
}

fn lost(e: &Failure) -> bool {
    ["lost", "57P01", "57P02", "57P03"].contains(&e.code.as_str())
}

/// Kills a backend in the middle of what it does, and waits until the server has recovered.
fn kill_backend(cluster: &Cluster, pid: i32) {
    // Its end tells that the postmaster has noticed, and takes no connections before it has recovered.
    let mut witness = Session::new(cluster).unwrap();
    witness.start("SELECT pg_sleep(3600)");
    cluster.kill_backend(pid).unwrap();
    assert!(lost(&witness.finish().unwrap_err()));
    wait::until("the server to recover", || cluster.connect().is_ok());
}

/// Compares the table with what the notes come to. Returns the number of the last batch of each client.
fn check(client: &mut Client, when: &str) -> [i32; 2] {
    client
        .batch_execute("CALL apply()")
        .unwrap_or_else(|e| panic!("{when}: {e:?}"));
    let ask = |client: &mut Client, sql: &str| {
        simple(client, sql).unwrap_or_else(|e| panic!("{when}: {sql}: {e:?}"))
    };
    let of = |table: &str| {
        format!(
            "SELECT count(*), count(DISTINCT (s, ts)), md5(string_agg(x::text, E'\\n' ORDER BY s, ts)) FROM {table} x"
        )
    };
    let twin = ask(client, &of("twin"));
    let by_rows = format!(
        "SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; {}",
        of("prices")
    );
    let by_index = format!(
        "SET enable_seqscan = off; SET varve.enable_columnar_scan = off; {}",
        of("prices")
    );
    for how in [by_rows, by_index] {
        let prices = ask(client, &format!("{how}; RESET ALL"));
        if prices != twin {
            let only = |a: &str, b: &str| {
                format!(
                    "(SELECT 'only in {a}', * FROM (TABLE {a} EXCEPT ALL TABLE {b}) x LIMIT 10)"
                )
            };
            let both = format!(
                "{} UNION ALL {}",
                only("prices", "twin"),
                only("twin", "prices")
            );
            panic!(
                "{when}: {prices:?}, not {twin:?}: {:#?}",
                ask(client, &both)
            );
        }
    }
    // Each row is found by its key, once, and by its value.
    let lookups = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET varve.enable_columnar_scan = off;
        SELECT t.s, t.ts, found FROM twin t, LATERAL (SELECT count(*) AS found FROM prices p WHERE p.s = t.s AND p.ts = t.ts AND p.v = t.v) p
          WHERE found <> 1 AND hashint4(t.s) % 16 = 0 LIMIT 10; RESET ALL";
    assert_eq!(ask(client, lookups), [""; 0], "{when}");
    let bad = ask(
        client,
        "SELECT chunk, segment, detail FROM varve.verify('prices') WHERE NOT ok",
    );
    assert_eq!(bad, [""; 0], "{when}");
    // amcheck comes with PostgreSQL's server package of some systems, and separately on others.
    let indexes = "SELECT bt_index_check(i.indexrelid, true, true) FROM show_chunks('prices') c JOIN pg_index i ON i.indrelid = c";
    if !ask(client, "SELECT FROM pg_extension WHERE extname = 'amcheck'").is_empty() {
        ask(client, indexes);
    }
    let last = "SELECT count(*), coalesce(max(batch), 0) FROM committed WHERE client = ";
    CLIENTS.map(|number| {
        let row = ask(client, &format!("{last}{number}")).concat();
        let (count, last) = row.split_once('|').unwrap();
        assert_eq!(count, last, "{when}: batches of client {number}");
        last.parse().unwrap()
    })
}

#[test]
fn a_batch_is_there_whole_or_not_at_all() {
    let seed = std::env::var("VARVE_SEED").map_or(20_240_101, |s| s.parse().unwrap());
    let kills = std::env::var("VARVE_CRASH_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    println!("VARVE_SEED={seed}");
    let cluster = Cluster::start_new(SETTINGS).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client.batch_execute(SETUP).unwrap();
    let amcheck = "SELECT FROM pg_available_extensions WHERE name = 'amcheck'";
    if !simple(&mut client, amcheck).unwrap().is_empty() {
        client.batch_execute("CREATE EXTENSION amcheck").unwrap();
    }
    let mut random = Random::new(seed);
    let mut acknowledged = [0; 2];
    let (mut torn, mut kept, mut batches) = ([0; 2], 0, 0);
    for round in 0..kills {
        let tier = ["hot", "warm", "warm", "cold"][random.below(4) as usize];
        let chunks = simple(&mut client, "SELECT show_chunks('prices')").unwrap();
        for chunk in chunks.iter().filter(|_| random.below(3) > 0) {
            let call = format!("SELECT varve.set_tier('{chunk}', '{tier}')");
            simple(&mut client, &call).unwrap();
        }
        let freezes = random.below(3) == 0;
        let checkpoints = random.below(3) == 0;
        let by_backend = round.is_multiple_of(2);
        let mut freezer = Session::new(&cluster).unwrap();
        let mut writers = CLIENTS.map(|n| Writer::new(&cluster, n, acknowledged[n as usize - 1]));
        writers.iter_mut().for_each(Writer::start);
        if freezes {
            freezer.start("CALL varve.set_tiers('prices', 'warm')");
        }
        // A moment of any batch, the first or a later one.
        let until = Instant::now() + Duration::from_millis(1 + random.below(700));
        while Instant::now() < until {
            writers.iter_mut().for_each(Writer::go_on);
            std::thread::sleep(Duration::from_millis(1));
        }
        if checkpoints {
            client.batch_execute("CHECKPOINT").unwrap();
        }
        if by_backend {
            kill_backend(&cluster, random.pick(&writers).unwrap().session.pid());
        } else {
            cluster.kill_all().unwrap();
            cluster.start().unwrap();
        }
        client = cluster.connect().unwrap();
        let when = format!(
            "kill {round} of seed {seed} ({}), {tier}, freezing {freezes}, checkpoint {checkpoints}",
            if by_backend { "backend" } else { "postmaster" }
        );
        let there = check(&mut client, &when);
        for (writer, there) in writers.iter_mut().zip(there) {
            match writer.session.finish() {
                // It ended just before.
                Ok(_) => writer.acknowledged += 1,
                Err(e) => assert!(lost(&e), "{when}: {e:?}"),
            }
            let running = there - writer.acknowledged;
            assert!(
                (0..=1).contains(&running),
                "{when}: client {}: {there} batches, {} acknowledged",
                writer.number,
                writer.acknowledged
            );
            if running == 0 {
                torn[usize::from(by_backend)] += 1;
            } else {
                kept += 1;
            }
            batches += there - acknowledged[writer.number as usize - 1];
            acknowledged[writer.number as usize - 1] = there;
        }
    }
    println!(
        "{kills} kills, {batches} batches committed, torn by postmaster and backend: {torn:?}, {kept} in without word of it"
    );
    assert!(
        batches > 0 && torn.iter().all(|n| *n > 0),
        "no batch was torn by one kind of kill: {torn:?}"
    );
}
