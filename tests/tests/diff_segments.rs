//! `varve.diff` reads frozen chunks segment by segment, and knows heap's rows by their bytes: it tells what a FULL JOIN tells, and leaves alone
//! what is the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::sync::mpsc::Receiver;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{self, one, rows, simple};

/// Comparisons, unless `VARVE_DIFF_STEPS` says otherwise.
const STEPS: u64 = 36;

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off", "jit = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// Of what the server has said since it was asked last: the chunks that were read by their segments, and rows that were not, since they
/// lie in the same place in both relations with the same values or in segments that are equal.
fn told(heard: &Receiver<String>) -> (u64, u64) {
    sums(heard.try_iter())
}

fn sums(words: impl Iterator<Item = String>) -> (u64, u64) {
    let mut sums = (0, 0);
    for word in words {
        let number = || word.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        if word.starts_with("varve.diff: chunks of") {
            sums.0 += number();
        } else if word.starts_with("varve.diff: rows that are the same by their segments") {
            sums.1 += number();
        }
    }
    sums
}

/// Columns beside the key, with values of which some are the same and are stored in other ways.
const COLUMNS: &[(&str, &[&str])] = &[
    ("v", &["NULL", "1.5", "1.50", "symbol + ts / 8.0", "'NaN'"]),
    ("f", &["NULL", "0", "'-0'", "symbol / 7.0", "'Infinity'"]),
    ("n", &["NULL", "symbol * ts", "7"]),
    (
        "note",
        &["NULL", "''", "'note ' || symbol", "md5(ts::text || symbol)"],
    ),
    ("j", &["NULL", "'{\"a\": 1}'", "'{\"a\": 1.0}'"]),
    ("u", &["NULL", "md5(symbol::text)::uuid"]),
];

struct Tables<'a> {
    client: &'a mut Client,
    random: Random,
    /// Columns that were added.
    extra: Vec<String>,
}

impl Tables<'_> {
    fn run(&mut self, sql: &str) {
        rows(self.client, sql);
    }

    /// Two tables with the same rows, all frozen: chunks of one segment, and of two.
    fn create(&mut self, symbols: u64, hours: u64, hypertable: bool) {
        for table in ["one", "two"] {
            self.run(&format!(
                "CREATE TABLE {table} (symbol int, gone int, ts int, v numeric, f float8, n bigint, note text, j jsonb, u uuid, PRIMARY KEY (symbol, ts)); ALTER TABLE {table} DROP gone"
            ));
            let how = match hypertable {
                true => format!(
                    "SELECT create_hypertable('{table}', 'ts', chunk_time_interval => 1000); SELECT varve.enable('{table}')"
                ),
                false => format!("SELECT varve.enable('{table}', order_by => '{{symbol,ts}}')"),
            };
            self.run(&how);
            self.run(&format!(
                "INSERT INTO {table} SELECT symbol, ts, symbol + ts / 8.0, symbol / 7.0, CASE WHEN ts % 5 > 0 THEN symbol * ts END, 'note ' || ts % 300, '{{\"a\": 1}}', md5(ts::text)::uuid
                 FROM generate_series(1, {symbols}) symbol, generate_series(0, {hours} - 1) ts"
            ));
            self.tier(table, "warm", "true");
        }
    }

    fn tier(&mut self, table: &str, tier: &str, of: &str) {
        self.run(&format!(
            "SELECT varve.set_tier(chunk, '{tier}') FROM (SELECT chunk, row_number() OVER (ORDER BY chunk) AS n FROM varve.chunk_ranges('{table}')) c WHERE {of}"
        ));
    }

    fn step(&mut self, symbols: u64, hours: u64) -> String {
        let table = self.random.pick(&["one", "two"]).unwrap().to_string();
        let both = |sql: String| ["one", "two"].map(|t| sql.replace("{t}", t)).join("; ");
        let (column, values) = *self.random.pick(COLUMNS).unwrap();
        let value = *self.random.pick(values).unwrap();
        let modulus = *self.random.pick(&[7, 997, 10_007]).unwrap();
        let scattered = format!(
            "(symbol * 7919 + ts) % {modulus} = {}",
            self.random.below(modulus)
        );
        let (symbol, hour) = (
            1 + self.random.below(symbols + 2),
            self.random.below(hours + 20),
        );
        let row = format!("symbol = {symbol} AND ts = {hour}");
        let chance = self.random.below(3);
        let sql = match self.random.below(14) {
            0 | 1 => format!("UPDATE {table} SET {column} = {value} WHERE {scattered}"),
            2 => both(format!(
                "UPDATE {{t}} SET {column} = {value} WHERE {scattered}"
            )),
            3 => format!("DELETE FROM {table} WHERE {scattered} AND {modulus} > 100"),
            4 => format!("UPDATE {table} SET {column} = {value} WHERE {row}"),
            5 => format!("DELETE FROM {table} WHERE {row}"),
            6 => format!(
                "INSERT INTO {table} (symbol, ts, v) VALUES ({symbol}, {hour}, 0) ON CONFLICT DO NOTHING"
            ),
            7 if chance == 0 => {
                let extra = format!("extra_{}", self.random.below(1000));
                let default = self.random.pick(&["", "DEFAULT 5"]).unwrap().to_string();
                self.extra.push(extra.clone());
                both(format!(
                    "ALTER TABLE {{t}} ADD IF NOT EXISTS {extra} int {default}"
                ))
            }
            7 if chance == 1 => match self.extra.pop() {
                Some(extra) => both(format!("ALTER TABLE {{t}} DROP IF EXISTS {extra}")),
                None => "SET work_mem = '64kB'".into(),
            },
            8 if chance == 0 => {
                self.tier(&table, "hot", "n = 1");
                return format!("{table}: hot");
            }
            8 => "RESET work_mem".into(),
            // As a copy is made anew: rows lie as they did in the one.
            9 if chance == 0 => {
                let other = if table == "one" { "two" } else { "one" };
                format!("TRUNCATE {table}; INSERT INTO {table} SELECT * FROM {other}")
            }
            _ => {
                let tier = self
                    .random
                    .pick(&["warm", "warm", "cold"])
                    .unwrap()
                    .to_string();
                let of = if chance < 2 { "true" } else { "n = 1" };
                self.tier(&table, &tier, of);
                return format!("{table}: {tier}, {of}");
            }
        };
        self.run(&sql);
        // Frozen anew as often as not.
        match self.random.below(2) {
            0 => sql,
            _ => {
                self.tier(&table, "warm", "true");
                format!("{sql}; {table}: warm")
            }
        }
    }

    /// What PostgreSQL itself says.
    fn expected(&mut self) -> Vec<String> {
        let columns = COLUMNS.iter().map(|(name, _)| name.to_string());
        let differs = columns
            .chain(self.extra.iter().cloned())
            .map(|c| format!("CASE WHEN a.{c} IS DISTINCT FROM b.{c} THEN '{c}' END"));
        let differs = differs.collect::<Vec<_>>().join(", ");
        rows(
            self.client,
            &format!(
                "SELECT CASE WHEN a.symbol IS NULL THEN 'insert' WHEN b.symbol IS NULL THEN 'delete' ELSE 'update' END,
                     symbol, ts, CASE WHEN a.symbol + b.symbol > 0 THEN (SELECT array_agg(c ORDER BY c) FROM unnest(ARRAY[{differs}]) c WHERE c IS NOT NULL) END
                 FROM one a FULL JOIN two b USING (symbol, ts) WHERE a IS DISTINCT FROM b ORDER BY symbol, ts"
            ),
        )
    }

    fn found(&mut self) -> Vec<String> {
        rows(
            self.client,
            "SELECT op, key->>'symbol', key->>'ts', (SELECT array_agg(c ORDER BY c) FROM unnest(changed) c) FROM varve.diff('one', 'two')
             ORDER BY (key->>'symbol')::int, (key->>'ts')::int",
        )
    }
}

#[test]
fn as_a_full_join_says() {
    let steps = std::env::var("VARVE_DIFF_STEPS").map_or(STEPS, |n| n.parse().unwrap());
    let (cluster, _client) = start();
    let (mut client, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    let shapes = [(60, 3000, true), (35, 4000, false), (90, 1700, true)];
    let (mut differences, mut chunks, mut same) = (0, 0, 0);
    for (round, (symbols, hours, hypertable)) in shapes.into_iter().enumerate() {
        let mut tables = Tables {
            client: &mut client,
            random: Random::new(round as u64),
            extra: Vec::new(),
        };
        tables.create(symbols, hours, hypertable);
        let mut done = vec![];
        for step in 0..steps.div_ceil(3) {
            let expected = tables.expected();
            told(&heard);
            let found = tables.found();
            let (by_segments, left) = told(&heard);
            assert!(
                found == expected,
                "round {round}, step {step}: {} changes, not {}: {done:#?}",
                found.len(),
                expected.len()
            );
            (differences, chunks, same) = (
                differences + expected.len(),
                chunks + by_segments,
                same + left,
            );
            done.push(tables.step(symbols, hours));
        }
        tables.run("RESET work_mem; DROP TABLE one; DROP TABLE two");
    }
    assert!(
        differences > 1000 && chunks > 10 && same > 300_000,
        "{differences} {chunks} {same}"
    );
}

/// Statements, each in a transaction of its own: what a transaction has written it does not freeze.
fn each(client: &mut Client, sql: &str) {
    for sql in sql.split_inclusive(';') {
        rows(client, sql);
    }
}

/// Two tables of a frozen chunk with the same rows in two segments.
fn frozen(client: &mut Client) {
    for table in ["a", "b"] {
        each(
            client,
            &format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v numeric, w text); SELECT varve.enable('{table}', order_by => '{{id}}');
                 INSERT INTO {table} SELECT i, i / 4.0, 'word ' || i % 1000 FROM generate_series(1, 100000) i; SELECT varve.set_tier('{table}', 'warm')"
            ),
        );
    }
}

#[test]
fn what_is_the_same_is_left_alone() {
    let (cluster, mut client) = start();
    frozen(&mut client);
    let (mut client, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    let mut check = |change: &str, expected: &[&str], left: (u64, u64)| {
        each(&mut client, change);
        told(&heard);
        let found = rows(
            &mut client,
            "SELECT op, key->>'id', changed FROM varve.diff('a', 'b') ORDER BY 2",
        );
        assert_eq!(found, expected, "{change}");
        assert_eq!(told(&heard), left, "{change}");
    };
    // The whole table is: that is known from its sum.
    check("", &[], (0, 0));
    // One segment is; of the other, all rows but one are where they were.
    check(
        "UPDATE b SET v = 0 WHERE id = 7; SELECT varve.set_tier('b', 'warm')",
        &["update|7|{v}"],
        (2, 99_999),
    );
    // Rows of the delta, rows that are gone.
    check(
        "DELETE FROM a WHERE id = 70; UPDATE b SET w = 'x' WHERE id = 700; INSERT INTO b VALUES (-1, 1, '')",
        &[
            "insert|-1|∅",
            "update|7|{v}",
            "insert|70|∅",
            "update|700|{w}",
        ],
        (2, 99_997),
    );
    // Other bytes, the same values.
    check(
        "UPDATE b SET v = v::numeric(20, 8) WHERE id % 2 = 1; SELECT varve.set_tier('b', 'cold')",
        &[
            "insert|-1|∅",
            "update|7|{v}",
            "insert|70|∅",
            "update|700|{w}",
        ],
        (0, 0),
    );
    // Keys that lie otherwise.
    check(
        "DELETE FROM b; INSERT INTO b SELECT * FROM a; UPDATE b SET id = -id WHERE id = 500; SELECT varve.set_tier('b', 'warm')",
        &["insert|-500|∅", "delete|500|∅"],
        (0, 0),
    );
}

/// Whatever is in a segment, it is an error or something to be told.
#[test]
fn damaged_segments() {
    let (_cluster, mut client) = start();
    frozen(&mut client);
    each(
        &mut client,
        "UPDATE b SET v = v + 1, w = 'other ' || id % 10 WHERE id % 100 = 0; SELECT varve.set_tier('b', 'warm')",
    );
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.diff('a', 'b')"),
        "1000"
    );
    let pieces: Vec<(&str, String)> = ["a", "b"]
        .map(|t| {
            (
                t,
                one(&mut client, &format!("SELECT varve.segment_table('{t}')")),
            )
        })
        .into();
    let mut random = Random::new(3);
    let mut refused = 0;
    for _ in 0..150 {
        let (name, table) = random.pick(&pieces).unwrap();
        let (of, at, byte) = (
            random.number() % 50,
            random.number() % 3000,
            random.below(256),
        );
        rows(
            &mut client,
            &format!(
                "BEGIN; UPDATE {table} SET data = set_byte(data, ({at} % length(data))::int, {byte}) WHERE (segment, item) =
                     (SELECT segment, item FROM {table} ORDER BY segment, item LIMIT 1 OFFSET {of} % (SELECT count(*) FROM {table}))"
            ),
        );
        match simple(&mut client, "SELECT count(*) FROM varve.diff('a', 'b')") {
            Ok(_) => {}
            Err(error) if error.code == "XX001" => {
                assert!(
                    error.message.contains(&format!("\"{name}\"")),
                    "{name}: {error:?}"
                );
                refused += 1;
            }
            // Keys that have become the same.
            Err(error) => assert_eq!(error.code, "21000", "{error:?}"),
        }
        rows(&mut client, "ROLLBACK");
    }
    assert!(refused > 10, "{refused}");
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.diff('a', 'b')"),
        "1000"
    );
}

/// What a snapshot has, and what its own transaction has done.
#[test]
fn snapshots_and_own_changes() {
    let (cluster, mut client) = start();
    frozen(&mut client);
    let (mut other, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    let diff = "SELECT op, key->>'id', changed FROM varve.diff('a', 'b') ORDER BY 2";
    each(&mut client, "UPDATE b SET v = 0 WHERE id = 7");
    // The second time, two more rows lie in the delta of one of them.
    for (isolation, same) in [("REPEATABLE READ", 99_999), ("SERIALIZABLE", 99_997)] {
        rows(
            &mut other,
            &format!("BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM pg_class"),
        );
        each(
            &mut client,
            "DELETE FROM a WHERE id = 70000; UPDATE b SET v = 1 WHERE id = 7; UPDATE b SET w = 'new' WHERE id = 8; INSERT INTO b VALUES (-1, 1, '')",
        );
        told(&heard);
        assert_eq!(rows(&mut other, diff), ["update|7|{v}"]);
        assert_eq!(told(&heard), (2, same));
        // Its own changes, but for those of a savepoint that is no more.
        rows(
            &mut other,
            "DELETE FROM b WHERE id = 500; SAVEPOINT s; DELETE FROM a WHERE id < 1000; UPDATE b SET w = 'gone' WHERE id = 9; ROLLBACK TO s; INSERT INTO a VALUES (-5, 5, '')",
        );
        told(&heard);
        assert_eq!(
            rows(&mut other, diff),
            ["delete|-5|∅", "delete|500|∅", "update|7|{v}"]
        );
        assert_eq!(told(&heard), (2, same - 1));
        rows(&mut other, "ROLLBACK");
        assert_eq!(
            rows(&mut other, diff),
            [
                "insert|-1|∅",
                "update|7|{v}",
                "insert|70000|∅",
                "update|8|{w}"
            ]
        );
        each(
            &mut client,
            "INSERT INTO a VALUES (70000, 70000 / 4.0, 'word 0'); UPDATE b SET v = 0 WHERE id = 7; UPDATE b SET w = 'word 8' WHERE id = 8; DELETE FROM b WHERE id = -1",
        );
    }
}

/// Who may not read all is told what a query tells.
#[test]
fn privileges() {
    let (cluster, mut client) = start();
    frozen(&mut client);
    each(
        &mut client,
        "UPDATE b SET v = 0 WHERE id IN (7, 8); SELECT varve.set_tier('b', 'warm'); CREATE ROLE reader; GRANT SELECT ON a, b TO reader;
         ALTER TABLE a ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON a USING (id % 2 = 0 OR id > 10);
         ALTER TABLE b ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON b USING (id % 2 = 0 OR id > 10);
         CREATE ROLE half; GRANT SELECT ON a TO half; GRANT SELECT (id, v) ON b TO half",
    );
    let (mut other, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    let diff = "SELECT op, key->>'id', changed FROM varve.diff('a', 'b') ORDER BY 2";
    assert_eq!(rows(&mut other, diff), ["update|7|{v}", "update|8|{v}"]);
    assert_eq!(told(&heard), (2, 99_998));
    rows(&mut other, "SET ROLE reader");
    told(&heard);
    assert_eq!(rows(&mut other, diff), ["update|8|{v}"]);
    assert_eq!(told(&heard), (0, 0));
    rows(
        &mut other,
        "RESET ROLE; ALTER TABLE a DISABLE ROW LEVEL SECURITY; ALTER TABLE b DISABLE ROW LEVEL SECURITY; SET ROLE half",
    );
    assert_eq!(simple(&mut other, diff).unwrap_err().code, "42501");
}

/// Partitions have columns in other places than their table; a column's value was stored since, on one side.
#[test]
fn columns_in_other_places() {
    let (cluster, mut client) = start();
    for table in ["a", "b"] {
        each(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int, v numeric, w text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
                 CREATE TABLE {table}_low (gone text, w text, id int NOT NULL, v numeric);
                 ALTER TABLE {table}_low DROP gone;
                 CREATE TABLE {table}_high (id int NOT NULL, v numeric, w text);
                 ALTER TABLE {table} ATTACH PARTITION {table}_low FOR VALUES FROM (MINVALUE) TO (5000);
                 ALTER TABLE {table} ATTACH PARTITION {table}_high FOR VALUES FROM (5000) TO (MAXVALUE);
                 SELECT varve.enable('{table}', order_by => '{{id}}');
                 INSERT INTO {table} SELECT i, i / 4.0, 'word ' || i % 1000 FROM generate_series(1, 10000) i;
                 SELECT varve.set_tier('{table}_low', 'warm'), varve.set_tier('{table}_high', 'warm')"
            ),
        );
    }
    each(
        &mut client,
        "UPDATE b SET w = 'x' WHERE id IN (7, 7000); SELECT varve.set_tier('b_low', 'warm'), varve.set_tier('b_high', 'warm')",
    );
    let (mut other, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    let diff = "SELECT op, key->>'id', changed FROM varve.diff('a', 'b') ORDER BY 2";
    assert_eq!(rows(&mut other, diff), ["update|7|{w}", "update|7000|{w}"]);
    assert_eq!(told(&heard), (4, 9_998));
    each(
        &mut client,
        "ALTER TABLE a ADD m int DEFAULT 5; ALTER TABLE b ADD m int DEFAULT 5; UPDATE b SET m = 6 WHERE id IN (9, 9000);
         SELECT varve.set_tier('b_low', 'warm'), varve.set_tier('b_high', 'warm')",
    );
    let expected = [
        "update|7|{w}",
        "update|7000|{w}",
        "update|9|{m}",
        "update|9000|{m}",
    ];
    assert_eq!(rows(&mut other, diff), expected);
    // Stored in both, they are compared again.
    each(
        &mut client,
        "UPDATE a SET w = w WHERE id IN (1, 9999); SELECT varve.set_tier('a_low', 'warm'), varve.set_tier('a_high', 'warm')",
    );
    told(&heard);
    assert_eq!(rows(&mut other, diff), expected);
    assert_eq!(told(&heard), (4, 9_996));
}

/// Where most segments have no counterpart, the chunk is left to queries, which read both side by side.
#[test]
fn rows_that_have_moved_on() {
    let (cluster, mut client) = start();
    for table in ["a", "b"] {
        each(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v int); SELECT varve.enable('{table}', order_by => '{{id}}');
                 INSERT INTO {table} SELECT i, i FROM generate_series(1, 700000) i; SELECT varve.set_tier('{table}', 'warm')"
            ),
        );
    }
    let (mut other, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    rows(&mut other, "SET log_temp_files = 0");
    for (id, left) in [(650_000, (2, 589_824)), (200_000, (0, 0))] {
        each(
            &mut client,
            &format!("DELETE FROM b WHERE id = {id}; SELECT varve.set_tier('b', 'warm')"),
        );
        heard.try_iter().for_each(drop);
        let gone = one(
            &mut other,
            "SELECT string_agg(op || ' ' || (key->>'id'), ', ' ORDER BY key) FROM varve.diff('a', 'b')",
        );
        assert!(gone.contains(&format!("delete {id}")), "{gone}");
        let words: Vec<String> = heard.try_iter().collect();
        assert!(
            !words.iter().any(|word| word.contains("temporary file")),
            "{words:#?}"
        );
        assert_eq!(sums(words.into_iter()), left);
    }
}

/// Rows in heap that say the same in other bytes, few and all of them.
#[test]
fn bytes_are_not_values() {
    let (_cluster, mut client) = start();
    for table in ["a", "b"] {
        rows(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v numeric, w text, long text STORAGE EXTERNAL, dense text STORAGE MAIN);
                 INSERT INTO {table} SELECT i, i, CASE WHEN i % 3 > 0 THEN 'w' || i END, repeat(md5(i::text), CASE WHEN i % 50 = 0 THEN 100 ELSE 1 END), repeat('d', CASE WHEN i % 60 = 0 THEN 3000 ELSE 1 END)
                 FROM generate_series(1, 20000) i"
            ),
        );
    }
    let mut check = |change: &str, expected: &[&str]| {
        rows(&mut client, change);
        for memory in ["64kB", "64MB"] {
            rows(&mut client, &format!("SET work_mem = '{memory}'"));
            let found = rows(
                &mut client,
                "SELECT op, key->>'id', changed FROM varve.diff('a', 'b') ORDER BY (key->>'id')::int",
            );
            assert_eq!(found, expected, "{change} {memory}");
        }
    };
    check("", &[]);
    check("UPDATE b SET v = v::numeric(20, 3) WHERE id % 100 = 1", &[]);
    check("UPDATE b SET v = v::numeric(20, 4)", &[]);
    check("UPDATE a SET v = v::numeric(20, 4)", &[]);
    check(
        "UPDATE b SET long = long || 'x' WHERE id = 50; UPDATE b SET w = NULL WHERE id = 1; UPDATE b SET w = '' WHERE id = 3; UPDATE b SET dense = 'd' WHERE id = 60",
        &[
            "update|1|{w}",
            "update|3|{w}",
            "update|50|{long}",
            "update|60|{dense}",
        ],
    );
    // The same long value in another place; compressed in another way, or not.
    check(
        "UPDATE a SET long = (SELECT long FROM b WHERE b.id = a.id), dense = dense || '' WHERE id % 50 = 0",
        &["update|1|{w}", "update|3|{w}", "update|60|{dense}"],
    );
    check(
        "ALTER TABLE b ALTER dense SET STORAGE EXTERNAL; UPDATE b SET dense = dense || '' WHERE id % 60 = 0",
        &["update|1|{w}", "update|3|{w}", "update|60|{dense}"],
    );
    // Rows from before a column have its value and do not have it stored.
    check(
        "ALTER TABLE a ADD more int DEFAULT 5; ALTER TABLE b ADD more int; UPDATE b SET more = 5 WHERE id > 10",
        &[
            "update|1|{w,more}",
            "update|2|{more}",
            "update|3|{w,more}",
            "update|4|{more}",
            "update|5|{more}",
            "update|6|{more}",
            "update|7|{more}",
            "update|8|{more}",
            "update|9|{more}",
            "update|10|{more}",
            "update|60|{dense}",
        ],
    );
    check(
        "ALTER TABLE a DROP more; ALTER TABLE b DROP more",
        &["update|1|{w}", "update|3|{w}", "update|60|{dense}"],
    );
    // The same bytes are other values in other types.
    check(
        "ALTER TABLE a ADD at date; ALTER TABLE b ADD at date; UPDATE a SET at = date '2000-01-01' + id; UPDATE b SET at = date '2000-01-01' + id + (id = 9)::int",
        &[
            "update|1|{w}",
            "update|3|{w}",
            "update|9|{at}",
            "update|60|{dense}",
        ],
    );
}
