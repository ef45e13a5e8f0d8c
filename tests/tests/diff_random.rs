//! Random changes of a table of many types: `varve.diff` tells what a FULL JOIN tells, wherever the rows lie.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::rows;

/// Comparisons, unless `VARVE_DIFF_STEPS` says otherwise.
const STEPS: u64 = 200;

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

/// Columns that are not part of the key, with values of which some are the same and look different.
const COLUMNS: &[(&str, &str, &[&str])] = &[
    ("i", "int", &["NULL", "0", "1", "-7"]),
    (
        "t",
        "text",
        &["NULL", "''", "'a'", "'ä ö'", "repeat('long ', 3000)"],
    ),
    (
        "n",
        "numeric",
        &[
            "NULL",
            "0",
            "0.000",
            "1.5",
            "1.50",
            "'NaN'",
            "-12345.6789",
            "'Infinity'",
        ],
    ),
    (
        "f",
        "float8",
        &["NULL", "0", "'-0'", "'NaN'", "1.5", "'-Infinity'"],
    ),
    (
        "z",
        "timestamptz",
        &[
            "NULL",
            "'2024-01-01 00:00Z'",
            "'2024-01-01 01:00+01'",
            "'infinity'",
        ],
    ),
    (
        "j",
        "jsonb",
        &[
            "NULL",
            "'null'",
            "'{\"a\": 1}'",
            "'{\"a\": 1.0}'",
            "'[1, \"x\"]'",
        ],
    ),
    (
        "a",
        "numeric[]",
        &[
            "NULL",
            "'{}'",
            "'{1,NULL}'",
            "'{1.0,NULL}'",
            "'[0:1]={1,NULL}'",
        ],
    ),
];

/// Key columns: `id` and, for some tables, one of these beside it.
const KEYS: &[(&str, &[&str])] = &[
    ("numeric", &["1", "1.0", "'NaN'", "2.50"]),
    (
        "text",
        &[
            "'a'",
            "'b'",
            "'longer than a short header holds: '  || repeat('x', 200)",
        ],
    ),
    ("float8", &["0", "'-0'", "'NaN'", "3"]),
];

struct Tables<'a> {
    client: &'a mut Client,
    random: Random,
    /// The second column of the key.
    key: Option<(&'a str, &'a [&'a str])>,
}

impl Tables<'_> {
    fn run(&mut self, sql: &str) {
        rows(self.client, sql);
    }

    fn value(&mut self, of: &[&str]) -> String {
        (*self.random.pick(of).unwrap()).to_string()
    }

    fn key_columns(&self) -> &'static str {
        if self.key.is_some() { "id, k" } else { "id" }
    }

    /// Two tables of the same columns in another order; the new one may have a column more.
    fn create(&mut self, more: bool) {
        let key = self
            .key
            .map_or(String::new(), |(typ, _)| format!("k {typ} NOT NULL, "));
        let columns = COLUMNS.iter().map(|(name, typ, _)| format!("{name} {typ}"));
        let columns: Vec<String> = columns.collect();
        let back: Vec<String> = columns.iter().rev().cloned().collect();
        let by = self.key_columns();
        self.run(&format!(
            "CREATE TABLE one (id bigint NOT NULL, {key}{}); CREATE TABLE two (gone int, {}, {key}id bigint NOT NULL); ALTER TABLE two DROP gone;
             CREATE UNIQUE INDEX ON one ({by}); CREATE UNIQUE INDEX ON two ({by}); SELECT varve.enable('one'), varve.enable('two')",
            columns.join(", "),
            back.join(", ")
        ));
        if more {
            self.run("ALTER TABLE two ADD extra text");
        }
    }

    fn insert(&mut self, table: &str, count: u64) {
        for _ in 0..count {
            let mut names = vec!["id"];
            let mut values = vec![self.random.below(60).to_string()];
            if let Some((_, of)) = self.key {
                names.push("k");
                values.push(self.value(of));
            }
            for (name, _, of) in COLUMNS {
                names.push(name);
                values.push(self.value(of));
            }
            let (names, values) = (names.join(", "), values.join(", "));
            self.run(&format!(
                "INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
            ));
        }
    }

    fn step(&mut self, more: bool) {
        let table = self.value(&["one", "two"]);
        let id = self.random.below(60);
        match self.random.below(12) {
            0 => self.run(&format!("DELETE FROM {table} WHERE id = {id}")),
            1 => self.run(&format!("DELETE FROM {table} WHERE id % 10 = {}", id % 10)),
            2..5 => self.insert(&table, 3),
            5..8 => {
                let (name, _, of) = *self.random.pick(COLUMNS).unwrap();
                let value = self.value(of);
                self.run(&format!(
                    "UPDATE {table} SET {name} = {value} WHERE id BETWEEN {id} AND {id} + 2"
                ));
            }
            8 if more => {
                let value = self.value(&["NULL", "''", "'x'"]);
                self.run(&format!(
                    "UPDATE two SET extra = {value} WHERE id < {id} % 10"
                ));
            }
            9 => self.run(&format!("SELECT varve.set_tier('{table}', 'hot')")),
            10 => {
                let names = COLUMNS.iter().map(|(name, ..)| *name);
                let names: Vec<&str> = names.collect();
                let (names, by) = (names.join(", "), self.key_columns());
                self.run(&format!(
                    "DELETE FROM two; INSERT INTO two ({by}, {names}) SELECT {by}, {names} FROM one"
                ));
            }
            _ => {
                let tier = self.value(&["warm", "cold"]);
                self.run(&format!("SELECT varve.set_tier('{table}', '{tier}')"));
            }
        }
    }

    /// What PostgreSQL itself says.
    fn expected(&mut self, more: bool) -> Vec<String> {
        let join = match self.key {
            Some(_) => "was.id = now.id AND was.k = now.k",
            None => "was.id = now.id",
        };
        let changed = COLUMNS.iter().map(|(name, ..)| {
            format!("CASE WHEN was.{name} IS DISTINCT FROM now.{name} THEN '{name}' END")
        });
        let mut changed: Vec<String> = changed.collect();
        if more {
            changed.push("CASE WHEN now.extra IS NOT NULL THEN 'extra' END".into());
        }
        let key = self.key.map_or("", |_| ", 'k', coalesce(now.k, was.k)");
        let changed = changed.join(", ");
        let sql = format!(
            "SELECT op, key, CASE op WHEN 'update' THEN changed END, old, new FROM (
                SELECT CASE WHEN was.id IS NULL THEN 'insert' WHEN now.id IS NULL THEN 'delete' ELSE 'update' END AS op,
                    jsonb_build_object('id', coalesce(now.id, was.id){key}) AS key,
                    ARRAY(SELECT c FROM unnest(ARRAY[{changed}]) c WHERE c IS NOT NULL ORDER BY c) AS changed,
                    CASE WHEN was.id IS NOT NULL THEN to_jsonb(was) END AS old, CASE WHEN now.id IS NOT NULL THEN to_jsonb(now) END AS new
                FROM one was FULL JOIN two now ON {join}) x
             WHERE op <> 'update' OR changed <> '{{}}'"
        );
        sorted(rows(self.client, &sql))
    }
}

#[test]
fn as_a_full_join_says() {
    let steps = std::env::var("VARVE_DIFF_STEPS").map_or(STEPS, |n| n.parse().unwrap());
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let rounds = 8;
    let (mut told, mut none) = (0, 0);
    for round in 0..rounds {
        let more = round % 2 == 1;
        let mut tables = Tables {
            client: &mut client,
            random: Random::new(round),
            key: KEYS.get((round % 4) as usize).copied(),
        };
        tables.create(more);
        tables.run("CREATE VIEW view_one AS TABLE one; CREATE VIEW view_two AS TABLE two");
        // Most rows never change, so that the others are few.
        let (by, value) = match tables.key {
            Some((_, of)) => ("id, k", tables.value(of)),
            None => ("id, i", "0".into()),
        };
        for table in ["one", "two"] {
            tables.run(&format!(
                "INSERT INTO {table} ({by}) SELECT g, {value} FROM generate_series(1000, 2000) g"
            ));
            tables.insert(table, 40);
        }
        for step in 0..steps.div_ceil(rounds) {
            tables.step(more);
            let expected = tables.expected(more);
            let memory = if step % 3 == 0 { "64kB" } else { "4MB" };
            let key = format!("'{{{}}}'", tables.key_columns().replace(' ', ""));
            // By the index's own key, by the key that is named, and without an index that vouches for it.
            for arguments in [
                "'one', 'two'".to_string(),
                format!("'one', 'two', {key}"),
                format!("'view_one', 'view_two', {key}"),
            ] {
                tables.run(&format!("SET work_mem = '{memory}'"));
                let found = format!(
                    "SELECT op, key, (SELECT array_agg(c ORDER BY c) FROM unnest(changed) c), old, new FROM varve.diff({arguments})"
                );
                let found = sorted(rows(tables.client, &found));
                tables.run("RESET work_mem");
                assert_eq!(found, expected, "round {round}, step {step}, {arguments}");
            }
            told += expected.len();
            none += u64::from(expected.is_empty());
        }
        tables.run("DROP VIEW view_one, view_two; DROP TABLE one, two");
    }
    assert!(told > 1000 && none > 0, "{told} changes, {none} times none");
}
