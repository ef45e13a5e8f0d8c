//! `varve.row_checksum`: values that are the same and values that are not, of every class; other encodings; others who compute it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use std::path::{Path, PathBuf};
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{one, simple};

const TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok', '');
CREATE TYPE pair AS (a numeric, b text);
CREATE TYPE riap AS (b text, a numeric);
CREATE TYPE nested AS (p pair, more pair[]);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN pairs AS pair[];
CREATE TYPE textrange AS RANGE (subtype = text, collation = \"C\");
CREATE EXTENSION citext;
CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";

/// Values separated by `~` are the same, those of other lines are not. All of a block are in the column `v`.
const BLOCKS: &[&[&str]] = &[
    &["false", "true", "NULL::bool ~ NULL::int ~ NULL::text"],
    &[
        "1::smallint ~ 1::int ~ 1::bigint ~ 1::positive",
        "(-1)::smallint ~ (-1)::int ~ (-1)::bigint",
        "0::int",
        "'-9223372036854775808'::bigint",
        "1::oid",
        "1::numeric",
        "1::real ~ 1::float8",
        "'1'::text",
        "'1'::json",
        "'1'::jsonb ~ '1.0'::jsonb",
        "true",
        "'0.000001'::interval",
        "'1'::xid",
        "ARRAY[1]",
        "ROW(1)",
    ],
    &[
        "0::float8 ~ '-0'::float8 ~ '-0'::real",
        "'NaN'::float8 ~ 'NaN'::real ~ -'NaN'::float8",
        "'Infinity'::float8 ~ 'inf'::real",
        "'-Infinity'::float8",
        "0.1::real ~ 0.1::real::float8",
        "0.1::float8",
        "5e-324::float8",
    ],
    &[
        "0::numeric ~ 0.000::numeric ~ '-0'::numeric",
        "1.0::numeric ~ 1.00::numeric ~ 1::numeric(9, 5)",
        "100::numeric ~ 1e2::numeric ~ 100.0::numeric",
        "-100::numeric",
        "10000::numeric ~ 1e4::numeric",
        "0.0001::numeric ~ 1e-4::numeric ~ 0.00010::numeric",
        "0.001::numeric",
        "12345.678::numeric ~ 12345.678000000000::numeric",
        "1234567.8::numeric",
        "'NaN'::numeric",
        "'Infinity'::numeric",
        "'-Infinity'::numeric",
        "1e-16383::numeric",
        "1e131071::numeric ~ 1e131071::numeric + 0.00",
        "repeat('123456789', 2000)::numeric ~ (repeat('123456789', 2000) || '.00')::numeric",
        "(repeat('123456789', 2000) || '.01')::numeric",
    ],
    &[
        "''::text ~ ''::varchar ~ ''::char(3) ~ ''::name ~ ''::\"char\" ~ '   '::char(3)",
        "NULL::text",
        "'a'::text ~ 'a'::varchar(5) ~ 'a'::char(1) ~ 'a  '::char(9) ~ 'a'::name ~ 'a'::\"char\"",
        "'a '::text ~ 'a '::varchar",
        "'A'::text ~ 'A'::text COLLATE anycase",
        "'größe'::text ~ 'größe'::name ~ 'größe'::char(50)",
        "'a'::bytea",
        "''::bytea",
        "E'\\\\x00'::bytea",
        "'\\200'::\"char\" ~ E'\\\\200'::text",
        "'a'::citext",
        "'A'::citext",
        "'{}'::text[]",
    ],
    &[
        "'2024-02-29'::date",
        "'2024-02-29'::timestamp",
        "'2024-02-29 00:00Z'::timestamptz ~ '2024-02-29 02:00+02'::timestamptz",
        "'2024-02-29 00:00:00.000001Z'::timestamptz",
        "'infinity'::date",
        "'-infinity'::date",
        "'infinity'::timestamp",
        "'infinity'::timestamptz",
        "'12:00'::time",
        "'12:00Z'::timetz",
        "'13:00+01'::timetz",
    ],
    &[
        "'1 month'::interval ~ '30 days'::interval ~ '720 hours'::interval",
        "'-1 month'::interval ~ '-30 days'::interval",
        "'1 month -30 days'::interval ~ '0'::interval ~ '1 day -24 hours'::interval",
        "'infinity'::interval",
        "'-infinity'::interval",
        "'178000000 years'::interval",
    ],
    &[
        "'550e8400-e29b-41d4-a716-446655440000'::uuid",
        "'550e8400-e29b-41d4-a716-446655440001'::uuid",
        "'550e8400-e29b-41d4-a716-446655440000'::text",
        "decode('550e8400e29b41d4a716446655440000', 'hex')",
    ],
    &[
        "'{\"a\": 1}'::json",
        "'{\"a\":1}'::json",
        "'{\"a\": 1}'::jsonb ~ '{\"a\":1.00}'::jsonb ~ '{\"a\": 2, \"a\": 1}'::jsonb",
        "'{\"b\": 1, \"aa\": {\"x\": [1, null, \"ä\"]}}'::jsonb ~ '{\"aa\": {\"x\": [1.0, null, \"ä\"]}, \"b\": 1e0}'::jsonb",
        "'{\"b\": 1, \"aa\": {\"x\": [1, null]}}'::jsonb",
        "'{\"b\": 1, \"aa\": {\"x\": [[1, null]]}}'::jsonb",
        "'null'::jsonb",
        "NULL::jsonb",
        "'[]'::jsonb",
        "'{}'::jsonb",
        "'[1]'::jsonb",
        "'1'::jsonb",
        "'\"1\"'::jsonb",
        "'true'::jsonb",
        "'false'::jsonb",
        "'[true, false]'::jsonb",
        "'[\"\", \"\"]'::jsonb",
        "'[\"\"]'::jsonb",
        "'{\"\": \"\"}'::jsonb",
        "'{\"a\": {\"b\": 1}}'::jsonb",
        "'{\"a\": {\"b\": 1.5}}'::jsonb ~ '{\"a\": {\"b\": 1.500}}'::jsonb",
        "to_jsonb(1.5::numeric) ~ '1.50'::jsonb",
        "(SELECT jsonb_agg(g) FROM generate_series(1, 1000) g) ~ (SELECT jsonb_agg(g * 1.0) FROM generate_series(1, 1000) g)",
        "(SELECT jsonb_object_agg(g, g) FROM generate_series(1, 1000) g) ~ (SELECT jsonb_object_agg(1001 - g, 1001.0 - g) FROM generate_series(1, 1000) g)",
        "(SELECT jsonb_object_agg(g, g + 1) FROM generate_series(1, 1000) g)",
    ],
    &[
        "'{}'::int[] ~ '{}'::text[] ~ '{}'::numeric[]",
        "'{1,2}'::int[] ~ '{1,2}'::smallint[] ~ '{1,2}'::bigint[] ~ ARRAY[1, 2]::positive[]",
        "'{2,1}'::int[]",
        "'[0:1]={1,2}'::int[] ~ '1 2'::int2vector",
        "'{{1},{2}}'::int[]",
        "'{{1,2}}'::int[]",
        "'{1,NULL}'::int[]",
        "'{NULL,1}'::int[]",
        "'{1}'::int[]",
        "'{1,NULL,2}'::int[]",
        "'[0:1]={1,2}'::oid[] ~ '1 2'::oidvector",
        "'{a,b}'::text[] ~ '{a,b}'::varchar[] ~ '{a,b}'::name[] ~ '{a  ,b}'::char(4)[] ~ '{a,b}'::\"char\"[]",
        "'{ab,\"\"}'::text[]",
        "'{\"\",ab}'::text[]",
        "'{ab,NULL}'::text[]",
        "'{1.0,2}'::numeric[] ~ '{1,2.000}'::numeric[]",
        "'{1 mon,NULL,1 d}'::interval[] ~ '{30 d,NULL,24:00}'::interval[]",
        "ARRAY[repeat('x', 10), repeat('y', 200), 'z']",
        "ARRAY[repeat('x', 10), repeat('y', 201), 'z']",
        "'{10.0.0.1,10.0.0.0/8}'::inet[]",
        "ARRAY[true, NULL, false]",
        "(SELECT array_agg(g) FROM generate_series(1, 30000) g) ~ (SELECT array_agg(g::bigint) FROM generate_series(1, 30000) g)",
        "(SELECT array_agg(nullif(g, 29999)) FROM generate_series(1, 30000) g)",
    ],
    &[
        "'empty'::int4range ~ '(1,1)'::int4range ~ 'empty'::numrange",
        "'[1,3)'::int4range ~ '[1,2]'::int4range ~ '(0,3)'::int4range ~ '[1,3)'::int8range",
        "'[1,3]'::int4range",
        "'[1.0,3)'::numrange ~ '[1,3.00)'::numrange",
        "'[1,3]'::numrange",
        "'(1,3)'::numrange",
        "'(,)'::numrange ~ '(,)'::int4range",
        "'[1,)'::numrange",
        "'(,1)'::numrange",
        "'(,1]'::numrange",
        "'[2024-01-01,2024-01-31]'::daterange ~ '[2024-01-01,2024-02-01)'::daterange",
        "'[a,b)'::textrange",
        "textrange(repeat('a', 300), 'b')",
    ],
    &[
        "'{}'::nummultirange ~ '{empty}'::int4multirange",
        "'{[1,3),[5,6)}'::int4multirange ~ '{[5,5],[1,2],empty}'::int4multirange ~ '{[1,2),[2,3),[5,6)}'::int8multirange",
        "'{[1,3)}'::int4multirange",
        "'{[1,3),[5,7)}'::int4multirange",
        "'{[1.0,3),[5,)}'::nummultirange ~ '{[1,3.0),[5.000,)}'::nummultirange",
        "'{(,1),[2,3],(4,5)}'::nummultirange",
        "'[1,3)'::int4range",
        "textmultirange(textrange('a', 'b'), textrange(repeat('c', 200), 'd'), textrange('e', NULL))",
        "textmultirange(textrange('a', 'b'), textrange(repeat('c', 200), 'dd'), textrange('e', NULL))",
    ],
    &[
        "ROW(1, 'x')::pair ~ ROW(1.00, 'x')::pair ~ ROW('x', 1.0)::riap",
        "ROW(1, NULL)::pair",
        "ROW(NULL, NULL)::pair",
        "NULL::pair",
        "ROW(1.0, 'x') ~ ROW(1.00, 'x'::varchar)",
        "ROW('x', 1.0)",
        "ROW(ROW(1.0, 'x'))",
        "ROW(ROW(1, 'x')::pair, ARRAY[ROW(2, NULL)::pair, NULL])::nested ~ ROW(ROW(1.0, 'x')::pair, ARRAY[ROW(2.00, NULL)::pair, NULL])::nested",
        "ROW(ROW(1, 'x')::pair, ARRAY[NULL, ROW(2, NULL)::pair])::nested",
        "ARRAY[ROW(1, 'x')::pair] ~ ARRAY[ROW(1.0, 'x')::pair]::pairs ~ ARRAY[ROW('x', 1.0)::riap]",
        "ARRAY[ROW(1, 'x'), ROW(2, 'y')] ~ ARRAY[ROW(1, 'x'::varchar), ROW(2, 'y'::varchar)]",
    ],
    &[
        "'sad'::mood",
        "'ok'::mood",
        "''::mood",
        "'ok'::text",
        "ARRAY['ok'::mood]",
        "NULL::mood",
    ],
    &[
        "'10.0.0.1'::inet ~ '10.0.0.1/32'::inet",
        "'10.0.0.1/8'::inet",
        "'10.0.0.1'::cidr",
        "B'101'",
        "B'0101'",
        "B'101'::varbit",
        "'$1.00'::money",
        "'0/1'::pg_lsn",
        "'(1,2)'::point",
        "'(1,2)'::tid",
        "'a:1 b:2'::tsvector ~ 'b:2 a:1'::tsvector",
        "'08:00:2b:01:02:03'::macaddr",
        "'pg_class'::regclass",
    ],
];

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client.batch_execute(TYPES).unwrap();
    (cluster, client)
}

/// The checksums of a value, by both algorithms, as the column `v` of a row.
fn checksums(client: &mut Client, value: &str) -> String {
    one(
        client,
        &format!(
            "SELECT varve.row_checksum(x), varve.row_checksum(x, 'sha256') FROM (SELECT {value} AS v) x"
        ),
    )
}

#[test]
fn values_of_every_class() {
    let (_cluster, mut client) = start();
    let mut wrong = Vec::new();
    for block in BLOCKS {
        let mut seen: Vec<(String, &str)> = Vec::new();
        for line in *block {
            let mut variants = line.split(" ~ ");
            let first = variants.next().unwrap();
            let sum = checksums(&mut client, first);
            assert_eq!(sum.len(), 2 + 32 + 1 + 2 + 64, "{first}: {sum}");
            for other in variants {
                if checksums(&mut client, other) != sum {
                    wrong.push(format!("{first} and {other} differ"));
                }
            }
            let halves =
                |sum: &str| -> Vec<String> { sum.split('|').map(str::to_string).collect() };
            for (before, value) in &seen {
                if halves(before)
                    .iter()
                    .any(|half| halves(&sum).contains(half))
                {
                    wrong.push(format!("{first} and {value} are the same"));
                }
            }
            seen.push((sum, first));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A random literal of a type; often one of few, often in another form.
fn literal(random: &mut Random, typ: &str) -> String {
    let few = random.below(4) as i64 - 1;
    let zeros = "0".repeat(random.below(4) as usize);
    let digits: String = (0..random.below(30))
        .map(|_| char::from(b'0' + random.below(10) as u8))
        .collect();
    let text = ["", "a", "a ", "A", "ä", "b", " ", "aa"][random.below(8) as usize];
    match typ {
        "int4" => few.to_string(),
        "float8" => ["0", "-0", "NaN", "1", "1.0", "-1"][random.below(6) as usize].into(),
        "numeric" if random.below(3) == 0 => format!("{few}.{digits}{zeros}"),
        "numeric" if random.below(3) == 0 => format!("{few}{digits}00{zeros}.{zeros}"),
        "numeric" => format!("{few}.5{zeros}"),
        "bytea" => format!("\\x{}", ["", "00", "0000", "01"][random.below(4) as usize]),
        "timestamptz" => format!("2024-01-01 0{}:00+0{}", random.below(2), random.below(2)),
        "timetz" => format!("1{}:00+0{}", random.below(2), random.below(2)),
        "interval" => [
            "1 mon",
            "30 d",
            "720:00",
            "29 d 24:00",
            "-1 mon",
            "0",
            "1 mon -30 d",
            "1 us",
        ][random.below(8) as usize]
            .into(),
        "jsonb" => match random.below(5) {
            0 => format!("{few}.{zeros}0"),
            1 => format!("{{\"{text}\": {few}.0, \"k\": [null, \"{text}\"]}}"),
            2 => format!("[{few}, {{}}]"),
            3 => format!("\"{text}\""),
            _ => "null".into(),
        },
        "numeric[]" => [
            "{}",
            "{1}",
            "{1.0}",
            "{1,NULL}",
            "{1.00,NULL}",
            "[0:0]={1}",
            "{{1}}",
        ][random.below(7) as usize]
            .into(),
        "numrange" => [
            "empty",
            "(1,1)",
            "[1,2)",
            "[1.0,2.0)",
            "[1,2]",
            "(,2)",
            "(,2.00)",
        ][random.below(7) as usize]
            .into(),
        "int4multirange" => [
            "{}",
            "{[1,2),[2,3)}",
            "{[1,3)}",
            "{[1,2],[5,6)}",
            "{[1,3),[5,5]}",
        ][random.below(5) as usize]
            .into(),
        "pair" => format!("({few}.{zeros}0,\"{text}\")"),
        "mood" => ["sad", "ok", ""][random.below(3) as usize].into(),
        "inet" => ["10.0.0.1", "10.0.0.1/32", "10.0.0.1/8"][random.below(3) as usize].into(),
        _ => text.into(),
    }
}

/// Over random rows, checksums are equal exactly where `IS NOT DISTINCT FROM` says so of all columns.
#[test]
fn random_pairs() {
    const PAIRS: u64 = 10_000;
    const COLUMNS: &[&str] = &[
        "int4",
        "float8",
        "numeric",
        "text",
        "char(4)",
        "bytea",
        "timestamptz",
        "timetz",
        "interval",
        "jsonb",
        "numeric[]",
        "numrange",
        "int4multirange",
        "pair",
        "mood",
        "inet",
    ];
    let seed = std::env::var("VARVE_SEED").map_or(20_261_129, |s| s.parse().unwrap());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let (_cluster, mut client) = start();
    let columns: Vec<String> = (0..COLUMNS.len())
        .map(|i| format!("c{i} {}", COLUMNS[i]))
        .collect();
    let columns = columns.join(", ");
    one(
        &mut client,
        &format!("CREATE TABLE a (n int, {columns}); CREATE TABLE b (n int, {columns})"),
    );
    let value = |random: &mut Random, typ: &str| match random.below(5) {
        0 => "NULL".to_string(),
        _ => format!("'{}'", literal(random, typ)),
    };
    for from in (0..PAIRS).step_by(1000) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for n in from..from + 1000 {
            // Most pairs differ in few columns or in none, and those in their form only.
            let others = random.below(3);
            let mut rows = [format!("({n}"), format!("({n}")];
            for typ in COLUMNS {
                let first = value(&mut random, typ);
                let second = match random.below(COLUMNS.len() as u64) < others {
                    true => value(&mut random, typ),
                    false => first.clone(),
                };
                // The other form of a number.
                let second = match *typ {
                    "numeric" if second.contains('.') && second.starts_with('\'') => {
                        format!("{}000'", &second[..second.len() - 1])
                    }
                    _ => second,
                };
                rows[0] += &format!(", {first}");
                rows[1] += &format!(", {second}");
            }
            a.push(rows[0].clone() + ")");
            b.push(rows[1].clone() + ")");
        }
        for (table, rows) in [("a", a), ("b", b)] {
            one(
                &mut client,
                &format!("INSERT INTO {table} VALUES {}", rows.join(", ")),
            );
        }
    }
    let same: Vec<String> = (0..COLUMNS.len())
        .map(|i| format!("a.c{i} IS NOT DISTINCT FROM b.c{i}"))
        .collect();
    let same = same.join(" AND ");
    let query = format!(
        "WITH x AS (SELECT {same} AS same, varve.row_checksum(a) = varve.row_checksum(b) AS xxh3,
                varve.row_checksum(a, 'sha256') = varve.row_checksum(b, 'sha256') AS sha256, a::text AS a, b::text AS b FROM a JOIN b USING (n))
         SELECT count(*), count(*) FILTER (WHERE same) > 1000, count(*) FILTER (WHERE same AND a <> b) > 100, count(*) FILTER (WHERE NOT same) > 1000,
                count(*) FILTER (WHERE xxh3 <> same OR sha256 <> same), min(a || ' ' || b) FILTER (WHERE xxh3 <> same) FROM x"
    );
    assert_eq!(one(&mut client, &query), format!("{PAIRS}|t|t|t|0|∅"));
}

/// Text is the same in databases and clients of whichever encoding.
#[test]
fn encodings() {
    const VALUES: &str = "SELECT 'größe'::text AS wört, 'é'::char(4) AS b, 'ü'::name AS c, '{\"zz\": 1, \"ä\": [\"ö\"], \"aa\": 2}'::jsonb AS d, \
         ROW('ß') AS e, 'ä:1'::tsvector AS f, 'größer'::größe AS g, '{é,NULL}'::text[] AS h";
    let (cluster, mut client) = start();
    one(
        &mut client,
        "CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0;",
    );
    one(
        &mut client,
        "CREATE DATABASE ascii ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0;",
    );
    let mut found = Vec::new();
    for (database, encodings) in [
        ("postgres", &["UTF8", "LATIN1", "WIN1252"][..]),
        ("latin", &["UTF8", "LATIN1"]),
        ("ascii", &["UTF8"]),
    ] {
        let mut other = cluster.config(database).connect(NoTls).unwrap();
        one(
            &mut other,
            "SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS varve CASCADE; CREATE TYPE größe AS ENUM ('größer')",
        );
        // The client library speaks UTF-8: what it sends is read before the encoding is another one, what it gets is ASCII.
        one(
            &mut other,
            &format!(
                "CREATE FUNCTION sums(OUT xxh3 bytea, OUT sha256 bytea, OUT encoding text) LANGUAGE plpgsql AS $$ BEGIN
                     SELECT varve.row_checksum(v), varve.row_checksum(v, 'sha256') INTO xxh3, sha256 FROM ({VALUES}) v; encoding := current_setting('client_encoding'); END $$"
            ),
        );
        for encoding in encodings {
            one(&mut other, &format!("SET client_encoding = '{encoding}'"));
            let sums = one(&mut other, "SELECT xxh3, sha256 FROM sums()");
            // The client's encoding is what it was, by more than its name.
            one(&mut other, "SET client_encoding = 'UTF8'");
            assert_eq!(one(&mut other, "SELECT 'ü'"), "ü");
            found.push((database, *encoding, sums));
        }
    }
    let first = found[0].2.clone();
    let wrong: Vec<_> = found.iter().filter(|found| found.2 != first).collect();
    assert!(wrong.is_empty(), "not {first}: {wrong:?}");
}

/// What a type's own function sends does not ask whether the client could have read it.
#[test]
fn letters_that_the_client_has_not() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE VIEW letters AS SELECT '€:1'::tsvector AS v",
    );
    let sums = "SELECT varve.row_checksum(x), varve.row_checksum(x, 'sha256') FROM letters x";
    let before = one(&mut client, sums);
    one(&mut client, "SET client_encoding = 'LATIN1'");
    assert_eq!(one(&mut client, sums), before);
    let refused = simple(&mut client, "SELECT v FROM letters").unwrap_err();
    assert_eq!(refused.code, "22P05");
}

fn python() -> PathBuf {
    match std::env::var_os("VARVE_PARQUET_PYTHON") {
        Some(python) => python.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python"),
    }
}

/// The Python in `docs/change.md` computes what the server computes.
#[test]
fn others_compute_it() {
    let (cluster, mut client) = start();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(here.join("../docs/change.md")).unwrap();
    let code = docs.split("```python\n").nth(1).unwrap();
    let code = code.split("```").next().unwrap();
    one(
        &mut client,
        "CREATE TABLE t (id int, größe float8, price numeric, note text, ts timestamptz, ints bigint[], prices numeric[], words text[]);
         INSERT INTO t SELECT
             CASE WHEN i % 7 > 0 THEN (random() * 1e9)::int - 500000000 END,
             CASE i % 9 WHEN 0 THEN NULL WHEN 1 THEN 'NaN' WHEN 2 THEN '-0' WHEN 3 THEN '-Infinity' ELSE (random() - 0.5) * 10 ^ (i % 600 - 300) END,
             CASE i % 9 WHEN 0 THEN NULL WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' WHEN 3 THEN 'Infinity' WHEN 4 THEN '0.00'
                 ELSE round(((random() - 0.5) * 1e9)::numeric, i % 11) * (10::numeric ^ (i % 41 - 20)) END,
             CASE WHEN i % 5 > 0 THEN repeat(chr(32 + i % 300), i % 400) END,
             CASE WHEN i % 3 > 0 THEN timestamptz '1970-01-01 00:00Z' + random() * interval '60 years' * (i % 5 - 2) END,
             CASE WHEN i % 4 > 0 THEN ARRAY(SELECT nullif(g, 3) FROM generate_series(1, i % 6) g) END,
             ARRAY[i / 7.0, NULL, i * 1000],
             ARRAY[NULL, '', 'wört' || i]
         FROM generate_series(1, 5000) i",
    );
    let rows = one(
        &mut client,
        "SET TimeZone = 'UTC'; SET extra_float_digits = 1;
         SELECT json_agg(json_build_object('row', (SELECT json_object_agg(key, value) FROM (VALUES
                 ('id', to_json(id::text)), ('größe', to_json(größe::text)), ('price', to_json(price::text)), ('note', to_json(note)),
                 ('ts', to_json((extract(epoch FROM ts) * 1000000)::bigint::text)), ('ints', to_json(ints::text[])), ('prices', to_json(prices::text[])),
                 ('words', to_json(words))) x (key, value)),
             'xxh3', encode(varve.row_checksum(t), 'hex'), 'sha256', encode(varve.row_checksum(t, 'sha256'), 'hex')))
         FROM t",
    );
    let module = cluster.dir().join("documented.py");
    let expected = cluster.dir().join("rows.json");
    std::fs::write(&module, code).unwrap();
    std::fs::write(&expected, rows).unwrap();
    let output = std::process::Command::new(python())
        .arg(here.join("python/row_checksum.py"))
        .args([&module, &expected])
        .output()
        .expect("no Python with xxhash: `make setup` makes it");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "5000 rows, 0 wrong"
    );
}
