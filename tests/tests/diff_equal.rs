//! `varve.diff` leaves out chunks that both relations have with the same rows: it tells what a FULL JOIN tells, and does not read them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use std::sync::mpsc::Receiver;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{self, one, rows};

/// Comparisons, unless `VARVE_DIFF_STEPS` says otherwise.
const STEPS: u64 = 112;

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// How many tables of the old and of the new relation the comparisons since the last call have not read.
fn left_out(heard: &Receiver<String>) -> Vec<(String, usize)> {
    let words = heard.try_iter();
    let of = |line: String| {
        let rest = line.strip_prefix("varve.diff: tables of ")?;
        let (table, count) = rest.split_once(" that are not read: ")?;
        Some((table.to_string(), count.parse().unwrap()))
    };
    words.filter_map(of).collect()
}

/// How many rows were read again by their item pointers, by each comparison since the last call that did.
fn by_item_pointers(heard: &Receiver<String>) -> Vec<usize> {
    let words = heard.try_iter();
    let of = |line: String| {
        let count =
            line.strip_prefix("varve.diff: rows that are read again by their item pointers: ")?;
        Some(count.parse().unwrap())
    };
    words.filter_map(of).collect()
}

/// Symbols in the tables.
const SYMBOLS: u64 = 60;

/// Hours, and so rows of a symbol.
const HOURS: u64 = 4 * 168;

/// A table by its time column's type: the time of an hour `{h}`, and statements that split `{t}` up, the old and the new one. So many chunks
/// are the same at first.
struct Shape {
    typ: &'static str,
    hour: &'static str,
    split: [&'static str; 2],
    equal: usize,
}

const WEEKS: &str =
    "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => interval '7 days')";
const BY_INTEGER: &str = "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => 168)";

/// Where hypertables of 168 days begin a new chunk too.
const PARTITIONS: &str = "CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (date '2023-10-26' + 168);
    CREATE TABLE {t}_2 PARTITION OF {t} FOR VALUES FROM (date '2023-10-26' + 168) TO (date '2023-10-26' + 336);
    CREATE TABLE {t}_3 PARTITION OF {t} FOR VALUES FROM (date '2023-10-26' + 336) TO (date '2023-10-26' + 504);
    CREATE TABLE {t}_4 PARTITION OF {t} DEFAULT";

const WITHIN_EACH_OTHER: &str = "CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (400) PARTITION BY HASH (symbol);
    CREATE TABLE {t}_11 PARTITION OF {t}_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE {t}_12 PARTITION OF {t}_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE {t}_2 PARTITION OF {t} DEFAULT";

const SHAPES: &[Shape] = &[
    Shape {
        typ: "timestamptz",
        hour: "timestamptz '2024-01-04Z' + interval '1 hour' * ({h})",
        split: [WEEKS, WEEKS],
        equal: 4,
    },
    // The first and the last week are chunks of their own in both.
    Shape {
        typ: "timestamp",
        hour: "timestamp '2024-01-11' + interval '1 hour' * ({h})",
        split: [
            WEEKS,
            "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => interval '14 days')",
        ],
        equal: 2,
    },
    Shape {
        typ: "date",
        hour: "date '2023-10-26' + ({h})::int",
        split: [
            "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => interval '168 days')",
            PARTITIONS,
        ],
        equal: 4,
    },
    Shape {
        typ: "date",
        hour: "date '2023-10-26' + ({h})::int",
        split: [PARTITIONS, PARTITIONS],
        equal: 4,
    },
    Shape {
        typ: "int",
        hour: "({h})::int",
        split: [WITHIN_EACH_OTHER, WITHIN_EACH_OTHER],
        equal: 3,
    },
    Shape {
        typ: "bigint",
        hour: "({h})::bigint",
        split: [BY_INTEGER, BY_INTEGER],
        equal: 4,
    },
    // Two chunks of each range.
    Shape {
        typ: "timestamptz",
        hour: "timestamptz '2024-01-04Z' + interval '1 hour' * ({h})",
        split: [
            "SELECT create_hypertable('{t}', 'ts', 'symbol', 2, chunk_time_interval => interval '14 days')",
            "SELECT create_hypertable('{t}', 'ts', 'symbol', 2, chunk_time_interval => interval '14 days')",
        ],
        equal: 4,
    },
    Shape {
        typ: "int",
        hour: "({h})::int",
        split: ["", ""],
        equal: 1,
    },
    // One chunk for all.
    Shape {
        typ: "int",
        hour: "({h})::int",
        split: [
            "",
            "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => 1000)",
        ],
        equal: 1,
    },
];

struct Tables<'a> {
    client: &'a mut Client,
    heard: &'a Receiver<String>,
    random: Random,
    shape: &'a Shape,
}

impl Tables<'_> {
    fn run(&mut self, sql: &str) {
        rows(self.client, sql);
    }

    /// Two tables with the same rows, all frozen; columns lie in another order in the new one.
    fn create(&mut self) {
        let Shape { typ, split, .. } = self.shape;
        let shapes = [
            format!("symbol int, ts {typ}, v numeric, note text, gone int"),
            format!("gone int, note text, ts {typ}, symbol bigint, v numeric(12, 3)"),
        ];
        for ((table, columns), split) in ["one", "two"].iter().zip(shapes).zip(split) {
            let partitioned = match split.contains("PARTITION OF") {
                true => "PARTITION BY RANGE (ts)",
                false => "",
            };
            self.run(&format!(
                "CREATE TABLE {table} ({columns}, PRIMARY KEY (symbol, ts)) {partitioned}; ALTER TABLE {table} DROP gone"
            ));
            self.run(&split.replace("{t}", table));
            self.run(&format!("SELECT varve.enable('{table}')"));
            let hour = self.shape.hour.replace("{h}", "h");
            self.run(&format!(
                "INSERT INTO {table} (symbol, ts, v, note) SELECT s, {hour}, s + h / 8.0, CASE WHEN h % 5 = 0 THEN 'note ' || h END
                 FROM generate_series(1, {SYMBOLS}) s, generate_series(0, {}) h",
                HOURS - 1
            ));
            self.tier(table, "warm", "true");
        }
    }

    fn tier(&mut self, table: &str, tier: &str, of: &str) {
        self.run(&format!(
            "SELECT varve.set_tier(chunk, '{tier}') FROM (SELECT chunk, row_number() OVER (ORDER BY chunk) AS n, count(*) OVER () AS chunks FROM varve.chunk_ranges('{table}')) c WHERE {of}"
        ));
    }

    fn step(&mut self) -> String {
        let table = self.random.pick(&["one", "two"]).unwrap().to_string();
        let (symbol, hour) = (
            1 + self.random.below(SYMBOLS),
            self.random.below(HOURS + 100),
        );
        let at = self.shape.hour.replace("{h}", &hour.to_string());
        let later = self.shape.hour.replace("{h}", &(hour + 3).to_string());
        let row = format!("symbol = {symbol} AND ts = {at}");
        let some =
            format!("symbol BETWEEN {symbol} AND {symbol} + 2 AND ts BETWEEN {at} AND {later}");
        let chance = self.random.below(4);
        let both = |sql: String| ["one", "two"].map(|t| sql.replace("{t}", t)).join("; ");
        let sql = match self.random.below(13) {
            0 => format!("DELETE FROM {table} WHERE {some}"),
            1 => both(format!("DELETE FROM {{t}} WHERE {some}")),
            2 => format!("UPDATE {table} SET v = v + 1 WHERE {row}"),
            3 => both(format!(
                "UPDATE {{t}} SET note = 'both ' || {hour} WHERE {some}"
            )),
            4 => format!(
                "INSERT INTO {table} (symbol, ts, v) VALUES ({symbol}, {at}, 0), ({symbol}, {later}, 0) ON CONFLICT DO NOTHING"
            ),
            5 => both(format!(
                "INSERT INTO {{t}} (symbol, ts, v) VALUES ({symbol}, {at}, 7.50) ON CONFLICT (symbol, ts) DO UPDATE SET v = EXCLUDED.v"
            )),
            // A row goes to another chunk.
            6 => {
                let other = self.random.below(HOURS).to_string();
                let other = self.shape.hour.replace("{h}", &other);
                format!(
                    "WITH gone AS (DELETE FROM {table} WHERE {row} RETURNING symbol, v, note)
                     INSERT INTO {table} (symbol, ts, v, note) SELECT symbol, {other}, v, note FROM gone ON CONFLICT DO NOTHING"
                )
            }
            7 if chance == 0 => {
                let extra = format!("extra_{}", self.random.below(1000));
                format!(
                    "ALTER TABLE {table} ADD IF NOT EXISTS {extra} int; UPDATE {table} SET {extra} = 5 WHERE {row}"
                )
            }
            8 => {
                self.tier(&table, "hot", &format!("n % chunks = {chance}"));
                return format!("{table}: hot, {chance}");
            }
            9 if chance == 0 => "SET work_mem = '64kB'".into(),
            9 => "RESET work_mem".into(),
            _ => {
                let tier = self
                    .random
                    .pick(&["warm", "warm", "cold"])
                    .unwrap()
                    .to_string();
                let of = if chance < 2 {
                    "true".into()
                } else {
                    format!("n % 4 = {chance}")
                };
                self.tier(&table, &tier, &of);
                return format!("{table}: {tier}, {chance}");
            }
        };
        self.run(&sql);
        sql
    }

    /// Just made, they have the same rows, and chunks with the same ranges need not be read.
    fn all_is_equal(&mut self) {
        left_out(self.heard);
        assert!(self.found("'one', 'two'").is_empty());
        let equal = self.shape.equal;
        let expected = ["public.one", "public.two"].map(|table| (table.to_string(), equal));
        assert_eq!(left_out(self.heard), expected, "{:?}", self.shape.split);
    }

    /// What PostgreSQL itself says.
    fn expected(&mut self) -> Vec<String> {
        let columns = "SELECT attname FROM pg_attribute WHERE attrelid IN ('one'::regclass, 'two'::regclass) AND attnum > 0 AND NOT attisdropped GROUP BY 1 ORDER BY 1";
        let columns = rows(self.client, columns);
        let differs = columns.iter().map(|c| {
            format!("CASE WHEN to_jsonb(a)->'{c}' IS DISTINCT FROM nullif(to_jsonb(b)->'{c}', 'null') AND coalesce(nullif(to_jsonb(a)->'{c}', 'null'), nullif(to_jsonb(b)->'{c}', 'null')) IS NOT NULL THEN '{c}' END")
        });
        let differs = differs.collect::<Vec<_>>().join(", ");
        rows(
            self.client,
            &format!(
                "SELECT op, key, CASE op WHEN 'update' THEN changed END FROM (
                    SELECT CASE WHEN a.symbol IS NULL THEN 'insert' WHEN b.symbol IS NULL THEN 'delete' ELSE 'update' END AS op,
                        jsonb_build_object('symbol', coalesce(a.symbol, b.symbol), 'ts', coalesce(a.ts, b.ts)) AS key,
                        array_remove(ARRAY[{differs}], NULL) AS changed
                    FROM one a FULL JOIN two b ON a.symbol = b.symbol AND a.ts = b.ts
                    WHERE a IS NULL OR b IS NULL OR (to_jsonb(a) IS DISTINCT FROM to_jsonb(b))) x
                 WHERE op <> 'update' OR changed <> '{{}}' ORDER BY key"
            ),
        )
    }

    fn found(&mut self, arguments: &str) -> Vec<String> {
        rows(
            self.client,
            &format!(
                "SELECT op, key, (SELECT array_agg(c ORDER BY c) FROM unnest(changed) c) FROM varve.diff({arguments}) ORDER BY key"
            ),
        )
    }
}

#[test]
fn as_a_full_join_says() {
    let steps = std::env::var("VARVE_DIFF_STEPS").map_or(STEPS, |n| n.parse().unwrap());
    let (cluster, _client) = start();
    let (mut client, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    // Literals of times would have to be read with these.
    rows(
        &mut client,
        "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'",
    );
    let (mut told, mut none) = (0, 0);
    for (round, shape) in SHAPES.iter().enumerate() {
        let mut tables = Tables {
            client: &mut client,
            heard: &heard,
            random: Random::new(round as u64),
            shape,
        };
        tables.create();
        tables.all_is_equal();
        let mut done = vec![];
        for step in 0..steps.div_ceil(SHAPES.len() as u64) {
            let expected = tables.expected();
            let found = tables.found("'one', 'two'");
            assert_eq!(found, expected, "round {round}, step {step}: {done:#?}");
            let back = tables.found("'two', 'one', '{ts,symbol}'");
            assert_eq!(
                back.len(),
                expected.len(),
                "round {round}, step {step}: {done:#?}"
            );
            told += expected.len();
            none += u64::from(expected.is_empty());
            done.push(tables.step());
        }
        tables.run("RESET work_mem; DROP TABLE one; DROP TABLE two");
    }
    assert!(told > 100 && none > 0, "{told} changes, {none} times none");
}

/// Two hypertables with the same rows, of so many chunks, all frozen.
fn frozen(client: &mut Client, chunks: u32) {
    for table in ["a", "b"] {
        one(
            client,
            &format!(
                "CREATE TABLE {table} (at int, id int, v float8, words text, PRIMARY KEY (at, id)); SELECT create_hypertable('{table}', 'at', chunk_time_interval => 100);
                 SELECT varve.enable('{table}');
                 INSERT INTO {table} SELECT at, id, at / 7.0 + id, md5((at * id)::text) FROM generate_series(0, 100 * {chunks} - 1) at, generate_series(1, 100) id"
            ),
        );
        one(
            client,
            &format!("SELECT varve.set_tier(c, 'warm') FROM show_chunks('{table}') c"),
        );
    }
}

/// Blocks that a comparison asks for; it has to find so many differences.
fn blocks(client: &mut Client, arguments: &str, differences: u64) -> u64 {
    let sql = format!("SELECT count(*) FROM varve.diff({arguments})");
    // What the session remembers of the catalogue is there by then.
    assert_eq!(one(client, &sql), differences.to_string(), "{arguments}");
    session::blocks(client, &sql)
}

#[test]
fn equal_chunks_are_not_read() {
    let (cluster, mut client) = start();
    frozen(&mut client, 20);
    // By views nothing is known of the chunks: all is read.
    one(
        &mut client,
        "CREATE VIEW va AS TABLE a; CREATE VIEW vb AS TABLE b",
    );
    let (named, views) = ("'a', 'b', '{at,id}'", "'va', 'vb', '{at,id}'");
    let whole = blocks(&mut client, views, 0);
    let beside = blocks(&mut client, named, 0);
    // Headers are read, and the plan is made, for each chunk.
    let few = beside + whole / 2;
    assert!(few < whole, "{beside} of {whole}");
    // A chunk of another tier says the same.
    one(
        &mut client,
        "SELECT varve.set_tier(c, 'cold') FROM show_chunks('b') c LIMIT 5",
    );
    let read = blocks(&mut client, named, 0);
    assert!(read < few, "{read}, not {few}");
    // One chunk differs, in one and the other relation, hot and frozen anew: it is read twice, in both.
    for change in [
        "UPDATE b SET v = 0 WHERE at = 150 AND id = 7",
        "SELECT varve.set_tier(c, 'warm') FROM show_chunks('b') c OFFSET 1 LIMIT 1",
        "UPDATE a SET v = 1 WHERE at = 151 AND id = 7; UPDATE b SET v = 1 WHERE at = 151 AND id = 7",
    ] {
        one(&mut client, change);
        let read = blocks(&mut client, named, 1);
        assert!(read < few, "{change}: {read}, not {few}");
    }
    assert_eq!(
        one(
            &mut client,
            "SELECT op, key, changed FROM varve.diff('a', 'b')"
        ),
        r#"update|{"at": 150, "id": 7}|{v}"#
    );
    // A chunk that only one has; keys that no index vouches for.
    one(&mut client, "SELECT drop_chunks('b', 100)");
    let one_gone = blocks(&mut client, named, 10_001);
    one(&mut client, "ALTER TABLE b DROP CONSTRAINT b_pkey");
    let read = blocks(&mut client, named, 10_001);
    assert!(
        read > one_gone + whole / 2,
        "{read}, and {one_gone} with a key"
    );
    one(&mut client, "ALTER TABLE b ADD PRIMARY KEY (id, at)");
    let read = blocks(&mut client, named, 10_001);
    assert!(read < one_gone + whole / 4, "{read}, and {one_gone} before");

    // Whoever does not see all rows.
    one(
        &mut client,
        "CREATE ROLE reader LOGIN; GRANT SELECT ON a, b TO reader; ALTER TABLE b ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON b USING (at <> 500)",
    );
    let mut reader = cluster
        .config("postgres")
        .user("reader")
        .connect(NoTls)
        .unwrap();
    let read = blocks(&mut reader, named, 10_101);
    assert!(
        read > one_gone + whole / 2,
        "{read}, and {one_gone} without a policy"
    );
    one(
        &mut client,
        "DROP POLICY few ON b; ALTER TABLE b DISABLE ROW LEVEL SECURITY",
    );
    let read = blocks(&mut reader, named, 10_001);
    assert!(
        read < one_gone + whole / 4,
        "{read}, and {one_gone} for the owner"
    );
    one(
        &mut client,
        "REVOKE SELECT ON b FROM reader; GRANT SELECT (at, id) ON b TO reader",
    );
    let sql = format!("SELECT varve.diff({named})");
    let denied = reader.simple_query(&sql).unwrap_err();
    assert_eq!(denied.code().unwrap().code(), "42501");
}

/// Sums and rows are of one snapshot, that of the statement.
#[test]
fn snapshots() {
    let (cluster, mut client) = start();
    frozen(&mut client, 3);
    let count = "SELECT count(*) FROM varve.diff('a', 'b')";
    let mut olds: Vec<Client> = ["REPEATABLE READ", "SERIALIZABLE"]
        .iter()
        .map(|level| {
            let mut old = cluster.connect().unwrap();
            one(&mut old, &format!("BEGIN ISOLATION LEVEL {level}"));
            assert_eq!(one(&mut old, "SELECT count(*) FROM a"), "30000");
            old
        })
        .collect();
    one(
        &mut client,
        "BEGIN; UPDATE b SET v = -1 WHERE at = 5 AND id < 4",
    );
    assert_eq!(one(&mut client, count), "3", "its own changes");
    one(
        &mut client,
        "SAVEPOINT s; UPDATE a SET v = -1 WHERE at = 5 AND id < 4",
    );
    assert_eq!(one(&mut client, count), "0");
    one(&mut client, "ROLLBACK TO s");
    assert_eq!(one(&mut client, count), "3");
    for old in &mut olds {
        assert_eq!(one(old, count), "0", "beside who writes");
    }
    one(&mut client, "COMMIT");
    for old in &mut olds {
        assert_eq!(one(old, count), "0", "beside who has written");
        one(old, "COMMIT");
        assert_eq!(one(old, count), "3");
        // The snapshot is taken; no chunk is locked yet.
        one(
            old,
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class",
        );
    }
    // What was equal then is frozen anew, and not equal any more.
    one(&mut client, "UPDATE a SET words = 'new' WHERE at = 250");
    one(
        &mut client,
        "SELECT varve.set_tier(c, 'warm') FROM show_chunks('a') c; SELECT varve.set_tier(c, 'warm') FROM show_chunks('b') c",
    );
    assert_eq!(one(&mut client, count), "103");
    for old in &mut olds {
        assert_eq!(one(old, count), "3", "from before it was frozen");
    }
}

/// A chunk beside the whole that it is of, and relations whose chunks are equal to several.
#[test]
fn chunks_that_are_in_both() {
    let (_cluster, mut client) = start();
    frozen(&mut client, 3);
    let chunk = one(
        &mut client,
        "SELECT c FROM show_chunks('a') c OFFSET 1 LIMIT 1",
    );
    for (arguments, differences) in [
        (format!("'a', '{chunk}', '{{at,id}}'"), "20000"),
        (format!("'{chunk}', 'b', '{{at,id}}'"), "20000"),
        (format!("'{chunk}', '{chunk}', '{{at,id}}'"), "0"),
        ("'a', 'a'".into(), "0"),
    ] {
        let sql = format!("SELECT count(*) FROM varve.diff({arguments})");
        assert_eq!(one(&mut client, &sql), differences, "{arguments}");
    }
    // Several comparisons in one statement.
    assert_eq!(
        one(
            &mut client,
            "SELECT (SELECT count(*) FROM varve.diff('a', 'b')), (SELECT count(*) FROM varve.diff('b', 'a')), (SELECT count(*) FROM a), (SELECT sum(id) FROM b WHERE at < 100)"
        ),
        "0|0|30000|505000"
    );
    // A column that only one has is NULL in the other, and no difference while it has no values.
    one(&mut client, "ALTER TABLE b ADD extra int");
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.diff('a', 'b')"),
        "0"
    );
    one(&mut client, "ALTER TABLE a ADD other int DEFAULT 5");
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.diff('a', 'b')"),
        "30000"
    );
    // Types of which no sum is kept.
    one(
        &mut client,
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE e1 (id int PRIMARY KEY, m mood); CREATE TABLE e2 (LIKE e1 INCLUDING ALL);
         INSERT INTO e1 SELECT i, 'ok' FROM generate_series(1, 20000) i; INSERT INTO e2 TABLE e1; SELECT varve.enable('e1'), varve.enable('e2')",
    );
    one(
        &mut client,
        "SELECT varve.set_tier('e1', 'warm'), varve.set_tier('e2', 'warm')",
    );
    one(&mut client, "UPDATE e2 SET m = 'sad' WHERE id = 9");
    assert_eq!(
        one(&mut client, "SELECT op, key FROM varve.diff('e1', 'e2')"),
        r#"update|{"id": 9}"#
    );
}

/// Rows that are read again by their item pointers: others have these item pointers too, in other chunks, and not the same ones in both
/// relations.
#[test]
fn rows_at_the_same_places() {
    let (cluster, mut client) = start();
    for (table, interval) in [("a", 100), ("b", 300)] {
        one(
            &mut client,
            &format!(
                "CREATE TABLE {table} (at int, id int, v int, PRIMARY KEY (at, id)); SELECT create_hypertable('{table}', 'at', chunk_time_interval => {interval});
                 INSERT INTO {table} SELECT at, id, at + id FROM generate_series(0, 1999) at, generate_series(1, 100) id"
            ),
        );
    }
    let (mut client, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    for (changed, upto, few) in [
        (500, 10, true),
        (590, 100, true),
        (500, 250, true),
        (590, 2000, true),
        (1000, 100, false),
        (900, 1800, false),
    ] {
        one(
            &mut client,
            &format!(
                "BEGIN; UPDATE b SET v = -1 WHERE (at, id) IN (SELECT at, id FROM b WHERE at < {upto} ORDER BY hashint4(at * 100 + id) LIMIT {changed})"
            ),
        );
        by_item_pointers(&heard);
        assert_eq!(
            one(
                &mut client,
                "SELECT op, changed, count(*) FROM varve.diff('a', 'b') GROUP BY 1, 2"
            ),
            format!("update|{{v}}|{changed}")
        );
        let expected = few.then_some(2 * changed);
        assert_eq!(by_item_pointers(&heard), Vec::from_iter(expected));
        one(&mut client, "ROLLBACK");
    }
}

/// What is planned while a query that leaves chunks out is planned, and after one that could not be, reads all rows.
#[test]
fn only_its_own_queries_leave_chunks_out() {
    let (cluster, mut client) = start();
    frozen(&mut client, 3);
    let chunk = |client: &mut Client, n: u32| {
        one(
            client,
            &format!("SELECT c FROM show_chunks('a') c ORDER BY c OFFSET {n} LIMIT 1"),
        )
    };
    let (first, second) = (chunk(&mut client, 0), chunk(&mut client, 1));
    // The planner evaluates what an index's expression says, once for each session.
    one(
        &mut client,
        &format!(
            "CREATE FUNCTION rate() RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
                PERFORM set_config('test.seen', concat(current_setting('test.seen', true), (SELECT count(*) FROM {second}), ' '), false);
                IF current_setting('test.fails', true) = 'yes' THEN RAISE 'not now'; END IF; RETURN 2.0; END $$;
             CREATE INDEX ON {first} ((v * rate()))"
        ),
    );
    let seen = "SELECT current_setting('test.seen')";
    let (mut planner, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    let diff = "SELECT count(*) FROM varve.diff('a', 'b')";
    assert_eq!(one(&mut planner, diff), "0");
    let all = ["public.a", "public.b"].map(|table| (table.to_string(), 3));
    assert_eq!(left_out(&heard), all);
    assert_eq!(one(&mut planner, seen), "10000 ");
    assert_eq!(one(&mut planner, "SELECT rate()"), "2");
    assert_eq!(one(&mut planner, seen), "10000 10000 ");

    // Planning fails within a block that goes on, and without.
    let (mut planner, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    one(
        &mut planner,
        "CREATE FUNCTION tries() RETURNS text LANGUAGE plpgsql AS $$ DECLARE a bigint; b bigint; BEGIN
            BEGIN PERFORM varve.diff('a', 'b'); EXCEPTION WHEN raise_exception THEN NULL; END;
            PERFORM set_config('test.fails', 'no', true);
            EXECUTE 'SELECT count(*) FROM a' INTO a; EXECUTE 'SELECT count(*) FROM b' INTO b; RETURN concat(a, ' ', b); END $$;
         SET test.fails = 'yes'",
    );
    left_out(&heard);
    assert_eq!(one(&mut planner, "SELECT tries()"), "30000 30000");
    assert!(left_out(&heard).is_empty());
    let (mut planner, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    one(&mut planner, "SET test.fails = 'yes'");
    assert_eq!(
        session::simple(&mut planner, diff).unwrap_err().code,
        "P0001"
    );
    one(&mut planner, "SET test.fails = 'no'");
    for table in ["a", "b"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(one(&mut planner, &count), "30000");
    }
    // However plans are made.
    one(&mut planner, "SET plan_cache_mode = force_generic_plan");
    left_out(&heard);
    assert_eq!(one(&mut planner, diff), "0");
    assert_eq!(left_out(&heard), all);
}
