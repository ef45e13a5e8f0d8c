//! Two sessions at the same rows: with frozen rows everything must come out as on heap.
//!
//! Each scenario runs on a heap table and on a table whose rows are frozen, with the same statements in the same order;
//! what each statement returned, whether it waited, and what the table held in the end must agree. Where frozen rows
//! may be stricter (never wrong, only slower), [`Scenario::only_stricter`] says how.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::{Outcome, Session, simple};

const HEAP: &str = "in_heap";
const FROZEN: &str = "in_rock";

/// What the first session does to row `{a}` of group `{n}`.
const FIRST: &[&str] = &[
    "UPDATE {t} SET v = v + 1 WHERE id = {a} RETURNING id, v",
    "UPDATE {t} SET id = id + 5 WHERE id = {a} RETURNING id",
    "UPDATE {t} SET v = v + 1 WHERE grp = {n}; UPDATE {t} SET v = v + 1 WHERE id = {a} RETURNING v",
    "DELETE FROM {t} WHERE id = {a} RETURNING v",
    "DELETE FROM {t} WHERE id = {a}; INSERT INTO {t} VALUES ({a}, {n}, 50, 'again')",
    "SELECT v FROM {t} WHERE id = {a} FOR UPDATE",
    "SELECT v FROM {t} WHERE id = {a} FOR NO KEY UPDATE",
    "SELECT v FROM {t} WHERE id = {a} FOR SHARE",
    "SELECT v FROM {t} WHERE id = {a} FOR KEY SHARE",
    "SELECT v FROM {t} WHERE id = {a} FOR SHARE; UPDATE {t} SET v = -1 WHERE id = {a}",
    "INSERT INTO {t} VALUES ({a}, {n}, 100, 'new') ON CONFLICT (id) DO UPDATE SET v = {t}.v + 10 RETURNING v",
    "INSERT INTO {t} VALUES ({a} + 7, {n}, 100, 'new') RETURNING v",
];

/// What the second does meanwhile.
const SECOND: &[&str] = &[
    "UPDATE {t} SET v = v + 1 WHERE id = {a} RETURNING id, v",
    "UPDATE {t} SET v = v + 1 WHERE grp = {n} AND v = 0 RETURNING id, v",
    "UPDATE {t} SET id = id + 6 WHERE id = {a} RETURNING id",
    "DELETE FROM {t} WHERE id = {a} RETURNING v",
    "DELETE FROM {t} WHERE grp = {n} AND v < 2 RETURNING id, v",
    "SELECT v FROM {t} WHERE id = {a}",
    "SELECT v FROM {t} WHERE id = {a} FOR UPDATE",
    "SELECT id, v FROM {t} WHERE grp = {n} ORDER BY id FOR NO KEY UPDATE",
    "SELECT v FROM {t} WHERE id = {a} FOR SHARE",
    "SELECT v FROM {t} WHERE id = {a} FOR KEY SHARE",
    "SELECT v FROM {t} WHERE id = {a} FOR UPDATE NOWAIT",
    "SELECT v FROM {t} WHERE id = {a} FOR SHARE NOWAIT",
    "SELECT id FROM {t} WHERE grp = {n} ORDER BY id FOR UPDATE SKIP LOCKED",
    "SELECT id FROM {t} WHERE grp = {n} ORDER BY id FOR KEY SHARE SKIP LOCKED",
    "INSERT INTO {t} VALUES ({a}, {n}, 100, 'new') RETURNING v",
    "INSERT INTO {t} VALUES ({a} + 7, {n}, 100, 'new') RETURNING v",
    "INSERT INTO {t} VALUES ({a}, {n}, 100, 'new') ON CONFLICT (id) DO UPDATE SET v = {t}.v + 10 RETURNING v",
    "INSERT INTO {t} VALUES ({a}, {n}, 100, 'new') ON CONFLICT DO NOTHING RETURNING v",
    "MERGE INTO {t} USING (VALUES ({a})) s (i) ON id = s.i WHEN MATCHED AND v < 2 THEN UPDATE SET v = v + 100 \
     WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.i, {n}, 7, 'merged')",
];

/// How the first session ends what it did: after the second one's statement has begun, or before.
const ENDS: &[(&str, bool)] = &[
    ("COMMIT", false),
    ("ROLLBACK", false),
    ("ROLLBACK TO s", false),
    ("COMMIT", true),
];

/// The ends that commit.
const COMMITS: &[(&str, bool)] = &[("COMMIT", false), ("COMMIT", true)];

/// Rows of each group: 1, 2 and 3 of a block of 20.
const BLOCK: usize = 20;

fn start(groups: usize, debug_freeze: &str) -> (Cluster, Client) {
    // Sequential scans on both sides, so that predicate locks are as coarse on heap as they are on frozen rows.
    let cluster = Cluster::start_new(&[
        "fsync = off",
        "enable_indexscan = off",
        "enable_indexonlyscan = off",
        "enable_bitmapscan = off",
        "deadlock_timeout = 200ms",
        &format!("varve.debug_freeze = {debug_freeze}"),
    ])
    .unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    for table in [HEAP, FROZEN] {
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, grp int, v int, note text);
                 INSERT INTO {table} SELECT n * {BLOCK} + i, n, 0, 'row' FROM generate_series(1, {groups}) n, generate_series(1, 3) i"
            ))
            .unwrap();
    }
    let enable = format!("SELECT varve.enable('{FROZEN}')");
    client.batch_execute(&enable).unwrap();
    freeze(&mut client);
    (cluster, client)
}

fn freeze(client: &mut Client) {
    let rows = client
        .query_one(
            &format!(
                "SELECT varve.set_tier('{FROZEN}', 'warm'), (SELECT delta_rows FROM varve.chunks)"
            ),
            &[],
        )
        .and_then(|_| client.query_one("SELECT delta_rows FROM varve.chunks", &[]))
        .unwrap();
    assert_eq!(rows.get::<_, i64>(0), 0, "all rows are frozen");
}

fn show(outcome: &Outcome, table: &str) -> String {
    match outcome {
        Ok(rows) => {
            let mut rows = rows.clone();
            rows.sort_unstable();
            rows.join(" ")
        }
        Err(e) => format!("error {} {}", e.code, e.message.replace(table, "table")),
    }
}

/// One scenario's statements.
#[derive(Clone, Copy)]
struct Scenario {
    level: &'static str,
    first: &'static str,
    second: &'static str,
    end: &'static str,
    ends_before: bool,
}

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    first: String,
    first_sees: String,
    waits: bool,
    second: String,
    second_sees: String,
    first_ends: String,
    first_sees_at_last: String,
    second_sees_at_last: String,
    first_commits: String,
    second_commits: String,
    in_the_end: String,
}

impl Scenario {
    fn run(&self, table: &str, group: usize, sessions: &mut Trio) -> Run {
        let fill = |sql: &str| {
            sql.replace("{t}", table)
                .replace("{n}", &group.to_string())
                .replace("{a}", &(group * BLOCK + 1).to_string())
        };
        let text = |outcome: Outcome| show(&outcome, table);
        let Trio(one, two, observer) = sessions;
        let all = fill("SELECT id, v, note FROM {t} WHERE grp = {n} ORDER BY id");
        let begin = format!("BEGIN ISOLATION LEVEL {}", self.level);
        one.ok(&format!("{begin}; SAVEPOINT s"));
        two.ok(&begin);
        two.ok("SELECT FROM pg_class LIMIT 0");
        let first = text(one.run(&fill(self.first)));
        let first_sees = text(one.run(&all));
        let mut first_ends = String::new();
        if self.ends_before {
            first_ends = text(one.run(self.end));
        }
        two.start(&fill(self.second));
        let waits = two.waits(observer);
        let (mut second, mut second_sees) = Default::default();
        if !waits {
            second = text(two.finish());
            second_sees = text(two.run(&all));
        }
        if !self.ends_before {
            first_ends = text(one.run(self.end));
        }
        if waits {
            second = text(two.finish());
            second_sees = text(two.run(&all));
        }
        Run {
            first,
            first_sees,
            waits,
            second,
            second_sees,
            first_ends,
            first_sees_at_last: text(one.run(&all)),
            second_sees_at_last: text(two.run(&all)),
            first_commits: text(one.run("COMMIT")),
            second_commits: text(two.run("COMMIT")),
            in_the_end: text(simple(observer, &all)),
        }
    }

    /// Whether the frozen run differs from heap's only by holding the second session back: it waits, finds the row
    /// locked, or must try again, and then has changed nothing. That is slower, and never wrong.
    fn only_stricter(&self, heap: &Run, frozen: &Run) -> bool {
        let failed = |run: &Run, code: &str| {
            [
                &run.second,
                &run.second_sees,
                &run.second_sees_at_last,
                &run.second_commits,
            ]
            .iter()
            .any(|s| s.starts_with(&format!("error {code}")))
        };
        if (&heap.first, &heap.first_ends, &heap.first_commits)
            != (&frozen.first, &frozen.first_ends, &frozen.first_commits)
        {
            return false;
        }
        if (failed(frozen, "40001") && self.level != "READ COMMITTED")
            || (failed(frozen, "55P03") && self.second.contains("NOWAIT"))
        {
            return frozen.in_the_end == frozen.first_sees_at_last;
        }
        let mut same = frozen.clone();
        if !heap.waits && frozen.waits {
            same.waits = false;
            same.second_sees = heap.second_sees.clone();
            if self.level == "READ COMMITTED" && self.second.contains("SHARE") {
                // Having waited, it is given what has been committed meanwhile.
                same.second = heap.second.clone();
            }
        }
        if self.second.contains("SKIP LOCKED") {
            let all: Vec<&str> = heap.second.split(' ').collect();
            let fewer =
                frozen.second.is_empty() || frozen.second.split(' ').all(|r| all.contains(&r));
            if fewer {
                same.second = heap.second.clone();
            }
        }
        same == *heap
    }
}

/// First session, second session, observer.
struct Trio(Session, Session, Client);

impl Trio {
    fn new(cluster: &Cluster) -> Trio {
        Trio(
            Session::new(cluster).unwrap(),
            Session::new(cluster).unwrap(),
            cluster.connect().unwrap(),
        )
    }
}

/// Runs scenarios on both tables; returns how each went on heap and on frozen rows.
fn both(scenarios: &[Scenario], debug_freeze: &str) -> Vec<(Run, Run)> {
    let (cluster, _client) = start(scenarios.len(), debug_freeze);
    let run = |table: &str| -> Vec<Run> {
        let mut sessions = Trio::new(&cluster);
        let numbered = scenarios.iter().enumerate();
        numbered
            .map(|(i, s)| s.run(table, i + 1, &mut sessions))
            .collect()
    };
    std::thread::scope(|scope| {
        let heap = scope.spawn(|| run(HEAP));
        let frozen = run(FROZEN);
        heap.join().unwrap().into_iter().zip(frozen).collect()
    })
}

/// Panics with the scenarios that went differently, but for those that `accept` accepts.
fn must_agree(
    scenarios: &[Scenario],
    runs: &[(Run, Run)],
    accept: fn(&Scenario, &Run, &Run) -> bool,
) {
    let mut differences = Vec::new();
    for (scenario, (heap, frozen)) in scenarios.iter().zip(runs) {
        if heap != frozen && !accept(scenario, heap, frozen) {
            let Scenario {
                level,
                first,
                second,
                end,
                ends_before,
            } = scenario;
            differences.push(format!(
                "{level}\n  first: {first}\n  second: {second}\n  end: {end}, before the second: {ends_before}\nheap: {heap:#?}\nfrozen: {frozen:#?}"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} scenarios differ from heap:\n{}",
        differences.len(),
        scenarios.len(),
        differences[..differences.len().min(10)].join("\n\n")
    );
}

/// Every first statement with every second one and each of some ends.
fn all_pairs(level: &'static str, debug_freeze: &str, ends: &[(&'static str, bool)]) {
    let mut scenarios = Vec::new();
    for first in FIRST {
        for second in SECOND {
            for (end, ends_before) in ends {
                scenarios.push(Scenario {
                    level,
                    first,
                    second,
                    end,
                    ends_before: *ends_before,
                });
            }
        }
    }
    let runs = both(&scenarios, debug_freeze);
    let waits = runs.iter().filter(|(heap, _)| heap.waits).count();
    assert!(waits > scenarios.len() / 5, "sessions do meet");
    let same = runs.iter().filter(|(heap, frozen)| heap == frozen).count();
    println!(
        "{level}, debug_freeze {debug_freeze}: {same} of {} scenarios exactly as on heap",
        runs.len()
    );
    must_agree(&scenarios, &runs, Scenario::only_stricter);
}

#[test]
fn read_committed_is_as_on_heap() {
    all_pairs("READ COMMITTED", "off", ENDS);
}

#[test]
fn repeatable_read_is_as_on_heap() {
    all_pairs("REPEATABLE READ", "off", ENDS);
}

#[test]
fn serializable_is_as_on_heap() {
    all_pairs("SERIALIZABLE", "off", ENDS);
}

/// Here the first session's commit freezes what it wrote before the second one gets to it.
#[test]
fn read_committed_is_as_on_heap_with_debug_freeze() {
    all_pairs("READ COMMITTED", "commit", COMMITS);
}

#[test]
fn repeatable_read_is_as_on_heap_with_debug_freeze() {
    all_pairs("REPEATABLE READ", "commit", COMMITS);
}

/// The scenarios of some first and second statements that must agree to the letter.
fn exactly(level: &'static str, first: &[&'static str], second: &[&'static str]) {
    let scenarios: Vec<Scenario> = first
        .iter()
        .flat_map(|f| second.iter().map(move |s| (*f, *s)))
        .map(|(first, second)| Scenario {
            level,
            first,
            second,
            end: "COMMIT",
            ends_before: false,
        })
        .collect();
    must_agree(&scenarios, &both(&scenarios, "off"), |_, _, _| false);
}

/// Sharers leave a frozen row where it is. Who thaws it (UPDATE, ON CONFLICT) waits for them, which heap need not.
#[test]
fn shared_row_locks_do_not_wait() {
    let share = "SELECT v FROM {t} WHERE id = {a} FOR SHARE";
    let key_share = "SELECT v FROM {t} WHERE id = {a} FOR KEY SHARE";
    let second = [
        share,
        key_share,
        "SELECT v FROM {t} WHERE id = {a} FOR SHARE NOWAIT",
        "SELECT id FROM {t} WHERE grp = {n} ORDER BY id FOR KEY SHARE SKIP LOCKED",
    ];
    exactly("READ COMMITTED", &[share, key_share], &second);
}

#[test]
fn repeatable_read_upsert_after_a_row_lock() {
    exactly(
        "REPEATABLE READ",
        &["SELECT v FROM {t} WHERE id = {a} FOR UPDATE"],
        &[
            "INSERT INTO {t} VALUES ({a}, {n}, 100, 'new') ON CONFLICT (id) DO UPDATE SET v = {t}.v + 10 RETURNING v",
        ],
    );
}

#[test]
fn many_sessions_that_update_one_frozen_row_neither_double_nor_lose_it() {
    const SESSIONS: i32 = 6;
    const ROUNDS: i32 = 15;
    let (cluster, mut client) = start(1, "off");
    for round in 1..=ROUNDS {
        let mut sessions: Vec<Session> = (0..SESSIONS)
            .map(|_| Session::new(&cluster).unwrap())
            .collect();
        for session in &mut sessions {
            session.start(&format!(
                "UPDATE {FROZEN} SET v = v + 1 WHERE id % {BLOCK} = 2"
            ));
        }
        for session in &mut sessions {
            session.finish().unwrap();
        }
        let rows = simple(
            &mut client,
            &format!("SELECT v FROM {FROZEN} WHERE id % {BLOCK} = 2"),
        );
        assert_eq!(rows.unwrap(), [(round * SESSIONS).to_string()]);
        freeze(&mut client);
    }
}

#[test]
fn different_rows_of_one_segment_do_not_meet() {
    let (cluster, mut client) = start(4, "off");
    let mut sessions: Vec<Session> = (0..4).map(|_| Session::new(&cluster).unwrap()).collect();
    let statements = [
        "UPDATE in_rock SET v = 1 WHERE id = 21",
        "DELETE FROM in_rock WHERE id = 22",
        "SELECT FROM in_rock WHERE id = 23 FOR UPDATE",
        "INSERT INTO in_rock VALUES (41, 2, 9, 'new') ON CONFLICT (id) DO UPDATE SET v = 4",
    ];
    for (session, sql) in sessions.iter_mut().zip(statements) {
        session.ok("BEGIN");
        session.start(sql);
        assert!(!session.waits(&mut client), "{sql}");
        session.finish().unwrap();
    }
    for session in sessions.iter_mut().rev() {
        session.ok("COMMIT");
    }
    let rows = simple(
        &mut client,
        "SELECT id, v FROM in_rock WHERE grp <= 2 ORDER BY id",
    );
    assert_eq!(rows.unwrap(), ["21|1", "23|0", "41|4", "42|0", "43|0"]);
}

#[test]
fn more_rows_are_locked_than_the_lock_table_holds() {
    const GROUPS: usize = 40_000;
    let (cluster, mut client) = start(GROUPS, "off");
    let mut session = Session::new(&cluster).unwrap();
    for strength in ["KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE"] {
        let rows = session.ok(&format!(
            "BEGIN; SELECT count(*) FROM (SELECT FROM {FROZEN} FOR {strength}) l"
        ));
        assert_eq!(rows, [(3 * GROUPS).to_string()], "FOR {strength}");
        let mut other = Session::new(&cluster).unwrap();
        other.start(&format!(
            "DELETE FROM {FROZEN} WHERE id = {}",
            BLOCK * GROUPS + 2
        ));
        assert!(other.waits(&mut client), "FOR {strength}");
        session.ok("ROLLBACK");
        other.finish().unwrap();
        client
            .batch_execute(&format!(
                "INSERT INTO {FROZEN} VALUES ({}, {GROUPS}, 0, 'row')",
                BLOCK * GROUPS + 2
            ))
            .unwrap();
        freeze(&mut client);
    }
}
