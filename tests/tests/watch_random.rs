//! Random changes of watched tables, hot, frozen and half thawed: `varve.detect_changes` tells what a FULL JOIN of the table and a copy
//! from the time of its checkpoint tells.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{one, rows, simple};

/// Steps, unless `VARVE_WATCH_STEPS` says otherwise.
const STEPS: u64 = 600;

/// What a table is, and by which key it is watched.
struct Kind {
    name: &'static str,
    create: &'static str,
    /// The argument `key`; of its own where it is empty.
    key: &'static str,
    join: &'static str,
    json: &'static str,
    /// Whether a row may get another time in place.
    moves: bool,
}

const COLUMNS: &str = "id int NOT NULL, ts timestamptz NOT NULL, v numeric, note text, tags text[]";

const KINDS: &[Kind] = &[
    Kind {
        name: "hypertable",
        create: "CREATE TABLE t ({columns}, PRIMARY KEY (id, ts)); SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '7 days'); SELECT varve.enable('t')",
        key: "",
        join: "was.id = now.id AND was.ts = now.ts",
        json: "'id', coalesce(now.id, was.id), 'ts', coalesce(now.ts, was.ts)",
        moves: false,
    },
    Kind {
        name: "hypertable by another key",
        create: "CREATE TABLE t ({columns}); CREATE INDEX ON t (id); SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '7 days'); SELECT varve.enable('t', segment_by => '{id}')",
        key: ", key => '{id}'",
        join: "was.id = now.id",
        json: "'id', coalesce(now.id, was.id)",
        moves: false,
    },
    Kind {
        name: "partitions",
        create: "CREATE TABLE t ({columns}) PARTITION BY RANGE (ts);
            CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('2024-01-01Z') TO ('2024-01-10Z'); CREATE TABLE t2 (note text, gone int, {columns_but_note});
            ALTER TABLE t2 DROP gone; ALTER TABLE t ATTACH PARTITION t2 DEFAULT; CREATE INDEX ON t (id); SELECT varve.enable('t', segment_by => '{id}', order_by => '{ts}')",
        key: ", key => '{id}'",
        join: "was.id = now.id",
        json: "'id', coalesce(now.id, was.id)",
        moves: true,
    },
    Kind {
        name: "table",
        create: "CREATE TABLE t ({columns}, UNIQUE (id)); SELECT varve.enable('t', segment_by => '{}', order_by => '{id}')",
        key: "",
        join: "was.id = now.id",
        json: "'id', coalesce(now.id, was.id)",
        moves: true,
    },
    Kind {
        name: "heap",
        create: "CREATE TABLE t ({columns}, UNIQUE (id))",
        key: "",
        join: "was.id = now.id",
        json: "'id', coalesce(now.id, was.id)",
        moves: true,
    },
];

const TIMES: u64 = 28 * 24;

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

struct Watched<'a> {
    client: &'a mut Client,
    random: Random,
    kind: &'a Kind,
    script: Vec<String>,
    columns: u64,
    next: u64,
}

impl Watched<'_> {
    fn run(&mut self, sql: &str) -> Vec<String> {
        self.script.push(sql.to_string());
        match simple(self.client, sql) {
            Ok(rows) => rows,
            Err(e) => self.fail(&format!("{e:?}")),
        }
    }

    fn fail(&self, what: &str) -> ! {
        let from = self.script.len().saturating_sub(80);
        panic!(
            "{}: {what}, after {:#?}",
            self.kind.name,
            &self.script[from..]
        )
    }

    fn id(&mut self) -> u64 {
        self.random.below(self.next.max(1)) + 1
    }

    /// A range of ids.
    fn some(&mut self) -> String {
        let from = self.id();
        let width = [0, 3, 40, 400][self.random.below(4) as usize];
        format!("id BETWEEN {from} AND {}", from + width)
    }

    fn time(&mut self) -> String {
        let hours = self.random.below(TIMES);
        format!("(timestamptz '2024-01-01 00:00Z' + interval '{hours} hours')")
    }

    fn insert(&mut self, count: u64) {
        let (from, time) = (self.next + 1, self.time());
        let spread = self.random.below(48) + 1;
        self.next += count;
        let to = self.next;
        self.run(&format!(
            "INSERT INTO t (id, ts, v, note, tags) SELECT i, {time} + (i % {spread}) * interval '1 h', i / 8.0, CASE WHEN i % 3 > 0 THEN 'note ' || i END,
                 CASE WHEN i % 5 = 0 THEN ARRAY[i::text, NULL] END FROM generate_series({from}, {to}) i"
        ));
    }

    /// The chunks that there are.
    fn chunks(&mut self) -> Vec<String> {
        rows(
            self.client,
            "SELECT c.oid::regclass FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN (SELECT 't'::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = 't'::regclass)
               AND (c.oid <> 't'::regclass OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 't'::regclass)) ORDER BY c.oid",
        )
    }

    fn chunk(&mut self) -> Option<String> {
        let chunks = self.chunks();
        self.random.pick(&chunks).cloned()
    }

    fn step(&mut self) {
        let some = self.some();
        let plain = self.kind.name == "heap";
        match self.random.below(30) {
            0..4 => {
                let count = [1, 5, 60, 700][self.random.below(4) as usize];
                self.insert(count);
            }
            4 => {
                self.run(&format!("DELETE FROM t WHERE {some}"));
            }
            5 => {
                self.run(&format!("DELETE FROM t WHERE {some} AND id % 3 = 0"));
            }
            6..9 => {
                self.run(&format!("UPDATE t SET v = v + 1 WHERE {some}"));
            }
            9 => {
                self.run(&format!(
                    "UPDATE t SET note = note, v = v * 1.0 WHERE {some}"
                ));
            }
            10 => {
                self.run(&format!(
                    "UPDATE t SET tags = CASE WHEN tags IS NULL THEN '{{a}}'::text[] END, note = repeat('long ', 600) WHERE {some} AND id % 7 = 0"
                ));
            }
            11 => {
                self.run(&format!(
                    "SELECT count(*) FROM (SELECT FROM t WHERE {some} FOR UPDATE) x"
                ));
            }
            12 => {
                let time = self.time();
                if self.kind.moves {
                    self.run(&format!("UPDATE t SET ts = {time} WHERE {some}"));
                } else {
                    self.run(&format!(
                        "WITH gone AS (DELETE FROM t WHERE {some} RETURNING *) INSERT INTO t (id, ts, v, note, tags) SELECT id, {time}, v, note, tags FROM gone"
                    ));
                }
            }
            // Rows that come again as they were are no change.
            13 => {
                self.run(&format!(
                    "BEGIN; CREATE TEMP TABLE again ON COMMIT DROP AS SELECT id, ts, v, note, tags FROM t WHERE {some};
                     DELETE FROM t WHERE {some}; INSERT INTO t (id, ts, v, note, tags) SELECT * FROM again; COMMIT"
                ));
            }
            14 => {
                self.run(&format!(
                    "BEGIN; UPDATE t SET v = 0 WHERE {some}; DELETE FROM t WHERE {some} AND id % 2 = 0; ROLLBACK"
                ));
            }
            15 => {
                self.run(&format!(
                    "BEGIN; UPDATE t SET v = 7 WHERE {some}; SAVEPOINT s; DELETE FROM t WHERE {some}; ROLLBACK TO s; COMMIT"
                ));
            }
            16 if !plain && self.kind.key.is_empty() => {
                let rows = [1, 1000][self.random.below(2) as usize];
                self.run(&format!(
                    "SET varve.upsert_merge_rows = {rows}; SELECT varve.upsert_query('t', $$SELECT id, ts, v + 2 AS v, note, tags FROM t WHERE {some}$$); RESET varve.upsert_merge_rows"
                ));
            }
            17 if !plain => {
                // One by one: what counts is the setting when the transaction ends.
                self.run("SET varve.debug_freeze = 'commit'");
                self.run(&format!("UPDATE t SET v = v - 1 WHERE {some}"));
                self.run("RESET varve.debug_freeze");
            }
            18..22 if !plain => {
                if let Some(chunk) = self.chunk() {
                    let tier = ["warm", "warm", "cold", "hot"][self.random.below(4) as usize];
                    self.run(&format!("SELECT varve.set_tier('{chunk}', '{tier}')"));
                }
            }
            22 => {
                if let Some(chunk) = self.chunk() {
                    self.run(&format!("VACUUM {chunk}"));
                }
            }
            23 => {
                if let Some(chunk) = self.chunk() {
                    self.run(&format!("VACUUM FULL {chunk}"));
                }
            }
            24 => {
                if let Some(chunk) = self.chunk() {
                    self.run(&format!("VACUUM (FREEZE) {chunk}"));
                }
            }
            25 if self.random.below(3) == 0 => {
                if let Some(chunk) = self.chunk() {
                    self.run(&format!("TRUNCATE {chunk}"));
                }
            }
            26 if self.random.below(3) == 0 => {
                if self.kind.name.starts_with("hyper") {
                    let time = self.time();
                    self.run(&format!("SELECT count(*) FROM (SELECT drop_chunks('t', older_than => {time} - interval '10 days')) x"));
                }
            }
            27 if self.columns < 6 => {
                self.columns += 1;
                let default = ["", " DEFAULT 3", ""][self.random.below(3) as usize];
                let column = self.columns;
                self.run(&format!("ALTER TABLE t ADD c{column} int{default}"));
            }
            28 if self.columns > 0 => {
                let column = self.random.below(self.columns) + 1;
                self.run(&format!(
                    "UPDATE t SET c{column} = CASE WHEN c{column} IS NULL THEN id END WHERE {some}"
                ));
            }
            _ => {
                self.run(&format!("UPDATE t SET v = -v WHERE {some} AND id % 2 = 1"));
            }
        }
    }

    fn expected(&mut self) -> Vec<String> {
        let Kind { join, json, .. } = self.kind;
        // A column that came later is NULL in what was.
        let sql = format!(
            "SELECT CASE WHEN was.id IS NULL THEN 'insert' WHEN now.id IS NULL THEN 'delete' ELSE 'update' END, jsonb_build_object({json}),
                    CASE WHEN now.id IS NOT NULL THEN to_jsonb(now) END
             FROM was FULL JOIN t now ON {join}
             WHERE was.id IS NULL OR now.id IS NULL OR jsonb_strip_nulls(to_jsonb(was) - 'tags') <> jsonb_strip_nulls(to_jsonb(now) - 'tags')
                OR was.tags IS DISTINCT FROM now.tags"
        );
        sorted(rows(self.client, &sql))
    }

    fn detect(&mut self, advance: bool) -> Vec<String> {
        let memory = ["64kB", "4MB"][self.random.below(2) as usize];
        let found = self.run(&format!(
            "SET work_mem = '{memory}'; SELECT op, key, new FROM varve.detect_changes('t', advance => {advance}); RESET work_mem"
        ));
        sorted(found)
    }

    fn check(&mut self, expected: &[String], found: &[String], what: &str) {
        if expected != found {
            let missing: Vec<_> = expected
                .iter()
                .filter(|l| !found.contains(l))
                .take(5)
                .collect();
            let wrong: Vec<_> = found
                .iter()
                .filter(|l| !expected.contains(l))
                .take(5)
                .collect();
            self.fail(&format!(
                "{what}: {} expected, {} found; missing {missing:#?}, wrong {wrong:#?}",
                expected.len(),
                found.len()
            ));
        }
    }
}

#[test]
fn as_a_full_join_says() {
    let number =
        |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let steps = number("VARVE_WATCH_STEPS", STEPS);
    let seed = number("VARVE_SEED", 11);
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    one(
        &mut client,
        "SET TIME ZONE 'UTC'; SET client_min_messages = warning",
    );
    let (mut told, mut none) = (0, 0);
    for (round, kind) in KINDS.iter().enumerate() {
        let mut watched = Watched {
            client: &mut client,
            random: Random::new(seed + round as u64),
            kind,
            script: Vec::new(),
            columns: 0,
            next: 0,
        };
        let create = kind.create.replace("{columns}", COLUMNS);
        let but_note = COLUMNS.replace("note text, ", "");
        watched.run(&create.replace("{columns_but_note}", &but_note));
        for _ in 0..4 {
            watched.insert(600);
        }
        watched.run(&format!(
            "SELECT varve.watch('t'{}); CREATE TABLE was AS TABLE t",
            kind.key
        ));
        for _ in 0..steps / KINDS.len() as u64 {
            for _ in 0..watched.random.below(4) {
                watched.step();
            }
            let expected = watched.expected();
            told += expected.len();
            none += u64::from(expected.is_empty());
            match watched.random.below(6) {
                0 => {
                    let found = watched.detect(false);
                    watched.check(&expected, &found, "a peek");
                }
                1 => {
                    watched.run("BEGIN; SAVEPOINT s");
                    let found = watched.detect(true);
                    watched.check(&expected, &found, "within a savepoint");
                    let again = watched.detect(true);
                    watched.check(&[], &again, "again in the same transaction");
                    watched.run("ROLLBACK TO s");
                    let found = watched.detect(true);
                    watched.check(&expected, &found, "after the savepoint");
                    watched.run("ROLLBACK");
                }
                2 if watched.random.below(3) == 0 => {
                    watched.run(&format!(
                        "SELECT varve.watch('t'{}); DROP TABLE was; CREATE TABLE was AS TABLE t",
                        kind.key
                    ));
                }
                _ => {
                    let found = watched.detect(true);
                    watched.check(&expected, &found, "an advance");
                    watched.run("DROP TABLE was; CREATE TABLE was AS TABLE t");
                    let again = watched.detect(false);
                    watched.check(&[], &again, "right afterwards");
                }
            }
        }
        watched.run("SELECT varve.unwatch('t'); DROP TABLE t; DROP TABLE was");
        // Nothing of the past is left.
        let left = one(
            watched.client,
            "SELECT (SELECT count(*) FROM varve.checkpoint_chunk) + (SELECT count(*) FROM varve.checkpoint_rows)
                  + (SELECT count(*) FROM pg_class WHERE relname LIKE 'kept%') + (SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace)",
        );
        assert_eq!(left, "0", "{}", kind.name);
    }
    assert!(told > 1000 && none > 0, "{told} changes, {none} times none");
}
