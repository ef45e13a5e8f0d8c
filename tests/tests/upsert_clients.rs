//! Eight clients that upsert overlapping batches into the same chunks, while one session freezes and thaws them and
//! another inserts single rows: no deadlock, no row lost or doubled, and the last writer of each key has its way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{Failure, simple};
use varve_tests::wait;

const CLIENTS: u64 = 8;

/// Hours of data, in four chunks of a week each.
const HOURS: u64 = 4 * 7 * 24;

/// Symbols that all clients write; each has one of its own besides.
const SHARED: u64 = 12;

/// Symbol and hour.
type Key = (u64, u64);

/// A batch that was committed: what it says of each key, and the time that it took, seen by the client.
struct Written {
    rows: BTreeMap<Key, i64>,
    begun: Instant,
    done: Instant,
}

/// How the clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Each batch by itself.
    Alone,
    /// Each batch in a REPEATABLE READ transaction, tried again when it fails to serialise.
    Steady,
    /// Several batches in a transaction, with savepoints, and rolled back now and then.
    RolledBack,
}

fn seed() -> u64 {
    let seed = std::env::var("VARVE_SEED").map_or(20_240_101, |s| s.parse().unwrap());
    println!("VARVE_SEED={seed}");
    seed
}

/// Rows of a batch in their order, some keys twice.
type Rows = Vec<(Key, i64)>;

/// What every client says of some keys, so that their rows are new once and equal ever after.
fn agreed((symbol, hour): Key) -> Option<i64> {
    ((symbol * 7 + hour) % 5 == 0).then_some(-((symbol * 10_000 + hour) as i64))
}

/// A batch with values that nobody else sends: keys of these symbols in a random window, in random order.
fn batch(symbols: std::ops::Range<u64>, value: i64, random: &mut Random) -> Rows {
    let from = random.below(HOURS);
    let to = (from + 24 + random.below(4 * 24)).min(HOURS);
    let mut rows = Rows::new();
    for hour in (from..to).filter(|h| h.is_multiple_of(4)) {
        for symbol in symbols.clone() {
            let key = (symbol, hour);
            if random.below(10) < 7 {
                rows.push((key, agreed(key).unwrap_or(value)));
            }
            if random.below(20) == 0 && agreed(key).is_none() {
                rows.push((key, value + 1));
            }
        }
    }
    for i in (1..rows.len()).rev() {
        rows.swap(i, random.below(i as u64 + 1) as usize);
    }
    rows
}

fn values(rows: &Rows) -> String {
    let mut text = String::new();
    for ((symbol, hour), value) in rows {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}({symbol}, {hour}, {value}::bigint)").unwrap();
    }
    format!(
        "SELECT s, timestamptz '2024-01-01 00:00Z' + h * interval '1 hour' AS ts, v FROM (VALUES {text}) x (s, h, v)"
    )
}

/// What of each key the batch comes to: the last row wins.
fn last(rows: &Rows) -> BTreeMap<Key, i64> {
    rows.iter().copied().collect()
}

/// Upserts a batch; the rows that were new.
fn upsert(client: &mut Client, rows: &Rows) -> Result<i64, Failure> {
    if rows.is_empty() {
        return Ok(0);
    }
    let call = format!(
        "SELECT (u).* FROM varve.upsert_query('load', $q$ {} $q$) u",
        values(rows)
    );
    let answer = simple(client, &call)?.concat();
    let counts: Vec<i64> = answer.split('|').map(|n| n.parse().unwrap()).collect();
    assert_eq!(counts[0], rows.len() as i64, "{answer}");
    assert_eq!(counts[0], counts[1..].iter().sum::<i64>(), "{answer}");
    assert_eq!(
        counts[4],
        (rows.len() - last(rows).len()) as i64,
        "{answer}"
    );
    assert!(counts.iter().all(|n| *n >= 0), "{answer}");
    Ok(counts[1])
}

/// What one transaction of a client wrote in the end, and how many of its rows were new.
type Kept = (Vec<Rows>, i64);

/// Tries one transaction of a client. Values begin with `value`; there is room for nine.
fn transaction(
    client: &mut Client,
    way: Way,
    number: u64,
    value: i64,
    random: &mut Random,
) -> Result<Kept, Failure> {
    let own = |value: i64, random: &mut Random| batch(100 + number..101 + number, value, random);
    let mut shared = batch(1..SHARED + 1, value, random);
    if way != Way::RolledBack {
        shared.extend(own(value + 2, random));
        if way == Way::Alone {
            let new = upsert(client, &shared)?;
            return Ok((vec![shared], new));
        }
        simple(client, "BEGIN ISOLATION LEVEL REPEATABLE READ")?;
        let new = upsert(client, &shared)?;
        simple(client, "COMMIT")?;
        return Ok((vec![shared], new));
    }
    // Only the first batch meets those of others: two that do could deadlock, as two INSERTs could.
    simple(client, "BEGIN")?;
    let mut kept = Vec::new();
    let mut new = upsert(client, &shared)?;
    kept.push(shared);
    for n in 1..=3 {
        let rows = own(value + 2 * n, random);
        simple(client, "SAVEPOINT s")?;
        let of_these = upsert(client, &rows)?;
        if random.below(2) == 0 {
            simple(client, "ROLLBACK TO s")?;
        } else {
            new += of_these;
            kept.push(rows);
        }
    }
    if random.below(3) == 0 {
        simple(client, "ROLLBACK")?;
        return Ok((Vec::new(), 0));
    }
    simple(client, "COMMIT")?;
    Ok((kept, new))
}

/// One client's transactions, one after the other. For every four of them a chunk must have been moved, since a move
/// finds no moment of its own as long as everybody writes.
fn client(
    mut own: Client,
    way: Way,
    number: u64,
    batches: u64,
    moved: &AtomicU64,
    seed: u64,
) -> (Vec<Written>, i64) {
    let mut random = Random::new(seed ^ (number << 32));
    let mut written = Vec::new();
    let mut inserted = 0;
    for round in 0..batches {
        wait::until("chunks to move", || {
            moved.load(Ordering::Relaxed) >= round / 4
        });
        // Each attempt has values of its own, so that what a failed one left behind would be noticed.
        for attempt in 0.. {
            let value = (number * 100_000_000 + round * 100_000 + attempt * 10) as i64;
            let begun = Instant::now();
            match transaction(&mut own, way, number, value, &mut random) {
                Ok((kept, new)) => {
                    inserted += new;
                    let done = Instant::now();
                    let rows = kept.iter().flat_map(last).collect();
                    written.push(Written { rows, begun, done });
                    break;
                }
                Err(e) if way == Way::Steady && e.code == "40001" && attempt < 500 => {
                    simple(&mut own, "ROLLBACK").unwrap();
                }
                Err(e) => panic!("client {number}, round {round}: {e:?}"),
            }
        }
    }
    (written, inserted)
}

/// Inserts single rows in the order of the key until the clients are done, at least a hundred: keys of its own, and
/// some that are there and that all write.
fn single_rows(mut own: Client, done: &AtomicBool) -> Vec<Written> {
    let mut written = Vec::new();
    let mut number = 0_u64;
    while !done.load(Ordering::Relaxed) || number < 100 {
        let hour = number * 4 % HOURS;
        let key = if number.is_multiple_of(2) {
            (200, hour)
        } else {
            (1 + hour / 12 % SHARED, hour / 12 * 12)
        };
        let value = agreed(key).unwrap_or(9_000_000_000 + number as i64);
        let begun = Instant::now();
        let insert = format!(
            "INSERT INTO load {} ON CONFLICT (s, ts) DO UPDATE SET v = excluded.v",
            values(&vec![(key, value)])
        );
        simple(&mut own, &insert).unwrap_or_else(|e| panic!("{insert}: {e:?}"));
        written.push(Written {
            rows: [(key, value)].into(),
            begun,
            done: Instant::now(),
        });
        number += 1;
    }
    written
}

/// Freezes and thaws chunks until the clients are done; `moved` counts.
fn tiers(mut own: Client, chunks: &[String], done: &AtomicBool, moved: &AtomicU64, seed: u64) {
    let mut random = Random::new(seed);
    let mut frozen = vec![false; chunks.len()];
    while !done.load(Ordering::Relaxed) {
        let which = random.below(chunks.len() as u64) as usize;
        let tier = if frozen[which] { "hot" } else { "warm" };
        let call = format!("SELECT varve.set_tier('{}', '{tier}')", chunks[which]);
        match simple(&mut own, &call) {
            Ok(_) => {
                frozen[which] = !frozen[which];
                moved.fetch_add(1, Ordering::Relaxed);
            }
            // A move that waits too long for writers gives up, as documented.
            Err(e) => assert_eq!(e.code, "55P03", "{tier}: {e:?}"),
        }
    }
}

/// All of it, with so many transactions of each client.
fn hammer(way: Way, batches: u64) {
    let seed = seed();
    let cluster = Cluster::start_new(&["fsync = off", "deadlock_timeout = 200ms"]).unwrap();
    let mut admin = cluster.connect_with_varve().unwrap();
    admin
        .batch_execute(
            "CREATE TABLE load (s int, ts timestamptz, v bigint NOT NULL, PRIMARY KEY (s, ts));
             SELECT create_hypertable('load', 'ts', chunk_time_interval => interval '7 days'); SELECT varve.enable('load')",
        )
        .unwrap();
    // Every third point in time is there already, and so are all chunks.
    let begun = Instant::now();
    let keys = (1..=SHARED).flat_map(|s| (0..HOURS).step_by(12).map(move |h| (s, h)));
    let first: Rows = keys.map(|k| (k, agreed(k).unwrap_or(0))).collect();
    let mut inserted = upsert(&mut admin, &first).unwrap();
    let mut written = vec![Written {
        rows: last(&first),
        begun,
        done: Instant::now(),
    }];
    let chunks = simple(&mut admin, "SELECT show_chunks('load')").unwrap();
    assert!(chunks.len() >= 4, "{chunks:?}");
    let done = AtomicBool::new(false);
    let all = Mutex::new((Vec::new(), 0));
    let moved = AtomicU64::new(0);
    let singles = std::thread::scope(|scope| {
        let singles = {
            let own = cluster.connect().unwrap();
            scope.spawn(|| single_rows(own, &done))
        };
        let freezer = {
            let own = cluster.connect().unwrap();
            scope.spawn(|| tiers(own, &chunks, &done, &moved, seed))
        };
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut own = cluster.connect().unwrap();
                if number.is_multiple_of(2) {
                    // Batches that go into frozen chunks as segments, beside those that go to the delta.
                    simple(&mut own, "SET varve.upsert_merge_rows = 20").unwrap();
                }
                let (all, moved) = (&all, &moved);
                scope.spawn(move || {
                    let (written, inserted) = client(own, way, number, batches, moved, seed);
                    let mut all = all.lock().unwrap();
                    all.0.extend(written);
                    all.1 += inserted;
                })
            })
            .collect();
        let ends: Vec<_> = clients.into_iter().map(|c| c.join()).collect();
        done.store(true, Ordering::Relaxed);
        let others = (singles.join(), freezer.join());
        for end in ends {
            end.unwrap();
        }
        others.1.unwrap();
        others.0.unwrap()
    });
    let (of_clients, new) = all.into_inner().unwrap();
    assert_eq!(of_clients.len() as u64, CLIENTS * batches);
    println!("{way:?}: {moved:?} moves, {} single rows", singles.len());
    inserted += new;
    // Only the session with single rows writes this symbol.
    let of_singles: BTreeSet<Key> = singles
        .iter()
        .flat_map(|w| w.rows.keys().copied())
        .filter(|k| k.0 == 200)
        .collect();
    written.extend(of_clients);
    written.extend(singles);
    let stored = check(&mut admin, &written);
    assert_eq!(
        inserted as usize,
        stored - of_singles.len(),
        "rows that were new"
    );
    assert!(!cluster.log().contains("deadlock detected"));
}

/// Compares the table with what was written; returns the number of rows.
fn check(client: &mut Client, written: &[Written]) -> usize {
    let mut by_key: BTreeMap<Key, Vec<(i64, &Written)>> = BTreeMap::new();
    for w in written {
        for (key, value) in &w.rows {
            by_key.entry(*key).or_default().push((*value, w));
        }
    }
    let query = "SELECT s, (extract(epoch FROM ts - '2024-01-01 00:00Z') / 3600)::int, v FROM load";
    let read = |client: &mut Client, how: &str| {
        let sql = format!("{how}; {query}; RESET ALL");
        let mut rows: Vec<Vec<i64>> = simple(client, &sql)
            .unwrap()
            .iter()
            .map(|r| r.split('|').map(|n| n.parse().unwrap()).collect())
            .collect();
        rows.sort();
        rows
    };
    let rows = read(
        client,
        "SET enable_indexscan = off; SET enable_bitmapscan = off",
    );
    let by_index = read(client, "SET enable_seqscan = off");
    assert_eq!(rows, by_index, "by index");
    let mut wrong = Vec::new();
    let mut stored = BTreeSet::new();
    for row in &rows {
        let key = (row[0] as u64, row[1] as u64);
        if !stored.insert(key) {
            wrong.push(format!("{key:?} is there twice"));
        }
        let Some(sent) = by_key.get(&key) else {
            wrong.push(format!("{key:?} was never committed: {}", row[2]));
            continue;
        };
        // Its writer must not have ended before another began that said something else.
        let mine = sent.iter().filter(|(value, _)| *value == row[2]);
        let stands = |w: &Written| !sent.iter().any(|(v, o)| *v != row[2] && o.begun > w.done);
        if !mine.clone().any(|(_, w)| stands(w)) {
            wrong.push(format!(
                "{key:?} has {}, which {} transactions wrote, all before others",
                row[2],
                mine.count()
            ));
        }
    }
    let lost: Vec<_> = by_key.keys().filter(|k| !stored.contains(k)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        rows.len()
    );
    let bad = simple(client, "SELECT * FROM varve.verify('load') WHERE NOT ok").unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    // The unique index agrees: a second row with any key is refused.
    let again = simple(
        client,
        "WITH again AS (INSERT INTO load SELECT s, ts, 0 FROM load ON CONFLICT (s, ts) DO NOTHING RETURNING 1) SELECT count(*) FROM again",
    );
    assert_eq!(again.unwrap(), ["0"]);
    rows.len()
}

#[test]
fn batches_alone() {
    hammer(Way::Alone, 100);
}

#[test]
fn batches_in_repeatable_read() {
    hammer(Way::Steady, 30);
}

#[test]
fn batches_rolled_back() {
    hammer(Way::RolledBack, 50);
}
