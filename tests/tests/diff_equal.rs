//! `varve.diff` leaves out chunks that both relations have with the same rows: it tells what a FULL JOIN tells, and does not read them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{self, one, rows};

/// Comparisons, unless `VARVE_DIFF_STEPS` says otherwise.
const STEPS: u64 = 84;

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// Symbols in the tables.
const SYMBOLS: u64 = 60;

/// Hours, and so rows of a symbol.
const HOURS: u64 = 4 * 168;

/// A table by its time column's type: the time of an hour `{h}`, and statements that split `{t}` up, the old and the new one.
struct Shape {
    typ: &'static str,
    hour: &'static str,
    split: [&'static str; 2],
}

const WEEKS: &str =
    "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => interval '7 days')";
const BY_INTEGER: &str = "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => 168)";

const SHAPES: &[Shape] = &[
    Shape {
        typ: "timestamptz",
        hour: "timestamptz '2024-01-04Z' + interval '1 hour' * ({h})",
        split: [WEEKS, WEEKS],
    },
    // Chunks of other ranges hold the same rows now and then.
    Shape {
        typ: "timestamp",
        hour: "timestamp '2024-01-04' + interval '1 hour' * ({h})",
        split: [
            WEEKS,
            "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => interval '14 days')",
        ],
    },
    Shape {
        typ: "date",
        hour: "date '2024-01-04' + ({h})::int",
        split: [
            "SELECT create_hypertable('{t}', 'ts', chunk_time_interval => interval '168 days')",
            "CREATE TABLE {t}_first PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (date '2024-01-04' + 168);
             CREATE TABLE {t}_rest PARTITION OF {t} DEFAULT",
        ],
    },
    Shape {
        typ: "bigint",
        hour: "({h})::bigint",
        split: [BY_INTEGER, BY_INTEGER],
    },
    // Two chunks of each range.
    Shape {
        typ: "timestamptz",
        hour: "timestamptz '2024-01-04Z' + interval '1 hour' * ({h})",
        split: [
            "SELECT create_hypertable('{t}', 'ts', 'symbol', 2, chunk_time_interval => interval '14 days')",
            "SELECT create_hypertable('{t}', 'ts', 'symbol', 2, chunk_time_interval => interval '14 days')",
        ],
    },
    Shape {
        typ: "int",
        hour: "({h})::int",
        split: ["", BY_INTEGER],
    },
];

struct Tables<'a> {
    client: &'a mut Client,
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
            // A row changes its chunk.
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
    let (_cluster, mut client) = start();
    // Literals of times would have to be read with these.
    rows(
        &mut client,
        "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'",
    );
    let (mut told, mut none) = (0, 0);
    for (round, shape) in SHAPES.iter().enumerate() {
        let mut tables = Tables {
            client: &mut client,
            random: Random::new(round as u64),
            shape,
        };
        tables.create();
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
    // Several comparisons in one statement, and a query that is planned after one that failed.
    one(
        &mut client,
        "CREATE FUNCTION fails() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM varve.diff('a', 'b', '{id}')); EXCEPTION WHEN cardinality_violation THEN RETURN -1; END $$",
    );
    assert_eq!(
        one(
            &mut client,
            "SELECT fails(), (SELECT count(*) FROM varve.diff('a', 'b')), (SELECT count(*) FROM a), (SELECT sum(id) FROM b WHERE at < 100)"
        ),
        "-1|0|30000|505000"
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
    let (_cluster, mut client) = start();
    for (table, interval) in [("a", 100), ("b", 300)] {
        one(
            &mut client,
            &format!(
                "CREATE TABLE {table} (at int, id int, v int, PRIMARY KEY (at, id)); SELECT create_hypertable('{table}', 'at', chunk_time_interval => {interval});
                 INSERT INTO {table} SELECT at, id, at + id FROM generate_series(0, 1999) at, generate_series(1, 100) id"
            ),
        );
    }
    for (changed, upto) in [(1000, 10), (1000, 100), (500, 250), (900, 1800)] {
        one(
            &mut client,
            &format!(
                "BEGIN; UPDATE b SET v = -1 WHERE (at, id) IN (SELECT at, id FROM b WHERE at < {upto} ORDER BY hashint4(at * 100 + id) LIMIT {changed})"
            ),
        );
        assert_eq!(
            one(
                &mut client,
                "SELECT op, changed, count(*) FROM varve.diff('a', 'b') GROUP BY 1, 2"
            ),
            format!("update|{{v}}|{changed}")
        );
        one(&mut client, "ROLLBACK");
    }
}
