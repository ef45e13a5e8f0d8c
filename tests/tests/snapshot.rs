//! Snapshots of tables: out into Parquet files and back, every value, every part of the definition, every tier; read by others;
//! cancelled, forbidden.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod snapshot_common;

use postgres::Client;
use snapshot_common::*;
use std::path::{Path, PathBuf};
use varve_tests::session::{Session, simple};
use varve_tests::wait;

/// A table with a column of every kind, and values at the ends of their ranges.
const KINDS: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE kinds (
    id bigserial, truth boolean, small int2, medium int4, big int8, single float4, double float8,
    words text, short varchar(7), padded char(5), raw bytea, day date, at timestamp, moment timestamptz(3), clock time,
    zoned timetz, span interval, name uuid, money_p numeric(20, 4), whole numeric(38), free numeric, odd numeric(3, 5), round numeric(4, -2),
    doc json, docb jsonb, feeling mood, many positive, two pair, net inet, rng int4range, oids oid, cash money,
    bits bit varying(9), "Odd ""Name" text, ints int[], nested text[], times timestamptz[], prices numeric(10, 2)[], feelings mood[],
    docs jsonb[], truths boolean[], tsv tsvector, obj regclass, twice int GENERATED ALWAYS AS (medium / 2) STORED,
    letter "char", vector int2vector, empty text[]
);
INSERT INTO kinds (words) VALUES (NULL);
INSERT INTO kinds (truth, small, medium, big, single, double, words, short, padded, raw, day, at, moment, clock, zoned, span, name,
    money_p, whole, free, odd, round, doc, docb, feeling, many, two, net, rng, oids, cash, bits, "Odd ""Name", ints, nested, times,
    prices, feelings, docs, truths, tsv, obj, letter, vector, empty)
VALUES
(true, -32768, -2147483648, -9223372036854775808, '-infinity', '-infinity', '', '', '', '', '-infinity', '-infinity', '-infinity', '00:00', '00:00+15:59', '-178000000 years',
    '00000000-0000-0000-0000-000000000000', 'NaN', 'NaN', 'NaN', 0.00001, -999900, '{"b": 1, "a":  2, "b": 3}', '{}', 'sad', 1, '(1,"x ,""y")', '::1/128', 'empty', 0, '-92233720368547758.08',
    '', '', '{}', '[0:1][-1:1]={{a,NULL,"x y"},{"","NULL","\""}}', '{infinity,-infinity,NULL}', '{NaN,0.01,-99999999.99}', '{sad,NULL}', '{"{\"a\":null}",NULL}', '{t,NULL,f}', '''a'':1A', 'pg_catalog.pg_class', 'x', '1 2 3', '{}'),
(false, 32767, 2147483647, 9223372036854775807, 'infinity', 'infinity', E'a\nb\t\\ äöü € 𝄞', 'sevenxx', 'x', '\x00ff27', 'infinity', 'infinity', 'infinity', '24:00:00', '24:00:00-15:59', '178000000 years',
    'ffffffff-ffff-ffff-ffff-ffffffffffff', 9999999999999999.9999, 99999999999999999999999999999999999999, 1e-16000, -0.00999, 999900, 'null', 'null', 'ok', 2147483647, '(,)', '10.0.0.0/8', '[1,)', 4294967295, '92233720368547758.07',
    B'101', 'q', '{1,2,NULL}', '{x}', '[5:6]={2020-01-01 00:00:00+00,2020-01-02 00:00:00+00}', '{}', '{}', '{}', '{}', '', NULL, '', '', '{}'),
(NULL, 0, 0, 0, 'NaN', 'NaN', repeat('long', 100000), NULL, 'a b', decode(repeat('ab', 300000), 'hex'), '4713-01-01 BC', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC', '12:34:56.789012', '12:34:56.789012+01', '1 mon -1 day 00:00:00.000001',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', -9999999999999999.9999, -99999999999999999999999999999999999999, 'infinity', 0, 0, '[1, 2 ]', '[1,{"x":1.50}]', 'it''s "fine"', 7, '(5,)', '1.2.3.4', '(,5)', 1, '0',
    B'1', NULL, '{{1,2},{3,4}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(true, 1, 1, 1, '-0', '-0', 'x', 'x', 'x', 'x', '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999+00', '23:59:59.999999', '00:00+00', '0',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 0.0001, 0, 1.10, 0, 0, '1', '1', 'ok', 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(true, 1, 1, 1, 1e-45, 5e-324, 'x', 'x', 'x', 'x', '0001-12-31 BC', '294247-01-10 04:00:54.775806', '294247-01-10 04:00:54.776+00', '00:00:00.000001', '00:00+00', '1 year 2 mons',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 0, 0, '-infinity', 0, 0, '1', '1', 'ok', 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(true, 1, 1, 1, 3.4028235e38, 1.7976931348623157e308, 'x', 'x', 'x', 'x', '1969-12-31', '294247-01-10 04:00:54.775807', '1969-12-31 23:59:59.999+00', '00:00:00', '00:00+00', '1 year 2 mons',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 0, 0, 0.1e-100, 0, 0, '1', '1', 'ok', 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(true, 1, 1, 1, 1, 1, 'x', 'x', 'x', 'x', '2000-01-01', '294247-01-10 04:00:54.775808', '2000-01-01 00:00:00+00', '00:00:00', '00:00+00', '1 year 2 mons',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 0, 0, 0.1e-100, 0, 0, '1', '1', 'ok', 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO kinds (medium, words, ints) SELECT i, CASE WHEN i % 3 > 0 THEN 'w' || i END, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE array_fill(i, ARRAY[i % 7 + 1]) END FROM generate_series(1, 50000) i;
"#;

#[test]
fn every_kind_of_value() {
    let (cluster, mut client, dir) = start(&[]);
    ok(&mut client, KINDS);
    // Texts are exact whatever the session shows them like, and whatever is in its way.
    ok(
        &mut client,
        "SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = -10; SET TimeZone = 'Asia/Tokyo'; \
         SET bytea_output = 'escape'; SET standard_conforming_strings = off; SET array_nulls = off; SET transform_null_equals = on; SET search_path = pg_temp, public",
    );
    let id = one(
        &mut client,
        "SELECT varve.snapshot('kinds', label => 'all')",
    );
    assert!(id.ends_with("-snapshot"), "{id}");
    ok(&mut client, "CREATE SCHEMA other");
    let restored = format!("SELECT varve.restore_snapshot('{id}', 'other.kinds')");
    assert_eq!(ok(&mut client, &restored), ["50008"]);
    ok(
        &mut client,
        "RESET ALL; SET extra_float_digits = 3; SET search_path = other, public",
    );
    assert_eq!(
        difference(&mut client, "public.kinds", "other.kinds"),
        "0|0|t"
    );
    assert_eq!(
        definition(&cluster, "other", "kinds"),
        definition(&cluster, "public", "kinds")
    );
    // Into the schema where the first one is.
    let again = format!("SELECT varve.restore_snapshot('{id}', 'public.\"Kinds again\"')");
    assert_eq!(ok(&mut client, &again), ["50008"]);
    assert_eq!(
        difference(&mut client, "public.kinds", "public.\"Kinds again\""),
        "0|0|t"
    );
    assert_eq!(code(&mut client, &again), "42P07");
    assert_eq!(
        ok(
            &mut client,
            "INSERT INTO \"Kinds again\" (medium) VALUES (8) RETURNING id, twice"
        ),
        ["50009|4"]
    );
    assert_eq!(
        ok(
            &mut client,
            "SELECT id, kind, \"table\", label, rows, bytes > 100000, stores FROM varve.snapshots"
        ),
        [format!("{id}|snapshot|public.kinds|all|50008|t|{{first}}")]
    );
    let verified = format!("SELECT count(*), bool_and(ok) FROM varve.verify_snapshot('{id}')");
    assert_eq!(ok(&mut client, &verified), ["3|t"]);
    let files: Vec<String> = std::fs::read_dir(dir.join("snapshots").join(&id))
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files.len(), 4, "{files:?}");
}

#[test]
fn every_part_of_a_definition() {
    let (cluster, mut client, dir) = start(&[]);
    let made = r#"
CREATE TABLE parents (id int PRIMARY KEY);
INSERT INTO parents VALUES (1), (2);
CREATE SEQUENCE shared START 5;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1 * 2;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE ROLE reader;
CREATE TABLE parts (
    n serial, always int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 7 CACHE 2 CYCLE), mine bigint GENERATED BY DEFAULT AS IDENTITY,
    other int DEFAULT nextval('shared'), parent int DEFAULT 1 REFERENCES parents ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    a int NOT NULL DEFAULT twice(21), b text COLLATE "C" DEFAULT 'it''s; DROP TABLE parts', c text, gone int, d int4range, e int,
    "Quoted ""x""" int DEFAULT 3, computed int GENERATED ALWAYS AS (a + 1) STORED,
    CONSTRAINT parts_pkey PRIMARY KEY (n, a) WITH (fillfactor = 77),
    CONSTRAINT second UNIQUE NULLS NOT DISTINCT (b, c) DEFERRABLE,
    CONSTRAINT positive CHECK (twice(a) > 0), CHECK (c <> 'never') NO INHERIT, EXCLUDE USING gist (d WITH &&)
) WITH (fillfactor = 90, autovacuum_enabled = off, toast.autovacuum_vacuum_threshold = 777);
ALTER TABLE parts DROP COLUMN gone;
INSERT INTO parts (b, d, e) SELECT i::text, int4range(i, i + 1), -i FROM generate_series(1, 1000) i;
ALTER TABLE parts ADD CONSTRAINT later CHECK (e > 0) NOT VALID;
ALTER TABLE parts ADD CONSTRAINT "also later" FOREIGN KEY (other) REFERENCES parents NOT VALID;
ALTER TABLE parts ALTER b SET STORAGE EXTERNAL, ALTER c SET STATISTICS 77, ALTER c SET COMPRESSION lz4, ALTER a SET (n_distinct = -0.5);
CREATE INDEX by_expression ON parts (lower(b) text_pattern_ops DESC NULLS LAST, twice(a)) INCLUDE (c) WHERE a > 0;
CREATE UNIQUE INDEX parts_by_e ON parts USING btree (e) WITH (fillfactor = 50);
CREATE INDEX "Odd name" ON parts USING gin (to_tsvector('english', c));
ALTER TABLE parts REPLICA IDENTITY USING INDEX parts_pkey;
ALTER TABLE parts CLUSTER ON parts_by_e;
COMMENT ON TABLE parts IS 'it''s all'; COMMENT ON COLUMN parts.b IS 'a "b"'; COMMENT ON INDEX by_expression IS 'i';
COMMENT ON CONSTRAINT positive ON parts IS 'p'; COMMENT ON CONSTRAINT second ON parts IS 's';
CREATE TRIGGER fires BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE POLICY sees ON parts USING (a > 0); ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS together ON a, e FROM parts;
GRANT SELECT ON parts TO reader;
CREATE SCHEMA other;
"#;
    for statement in made.split(";\n") {
        ok(&mut client, statement);
    }
    let id = one(&mut client, "SELECT varve.snapshot('parts')");
    assert_eq!(
        ok(&mut client, "SELECT left_out FROM varve.snapshots"),
        [
            "{\"trigger fires\",\"policy sees\",\"statistics together\",\"privileges of reader\",\"row security\",\"owner postgres\"}"
        ]
    );
    let restored = format!("SELECT varve.restore_snapshot('{id}', 'other.parts')");
    assert_eq!(ok(&mut client, &restored), ["1000"]);
    assert_eq!(difference(&mut client, "parts", "other.parts"), "0|0|t");
    let left = [
        "CREATE TRIGGER",
        "CREATE POLICY",
        "ENABLE ROW",
        "GRANT",
        "CREATE STATISTICS",
    ];
    let kept = |text: String| -> Vec<String> {
        let lines = text.lines().map(str::to_string);
        lines
            .filter(|line| !left.iter().any(|l| line.contains(l)))
            .collect()
    };
    let (before, after) = (
        kept(definition(&cluster, "public", "parts")),
        kept(definition(&cluster, "other", "parts")),
    );
    assert_eq!(before, after);
    // The sequences go on where they were.
    for table in ["parts", "other.parts"] {
        let next = format!(
            "INSERT INTO {table} (b, d, e, other) VALUES ('x', '[5000,5001)', 9, 1) RETURNING n, always, mine, a, computed"
        );
        assert_eq!(ok(&mut client, &next), ["1001|7100|1001|42|43"]);
    }
    // Beside the table that it is of: what has its name is called like the new table, the rest gets a number.
    ok(
        &mut client,
        &format!("SELECT varve.restore_snapshot('{id}', 'copied')"),
    );
    assert_eq!(
        ok(
            &mut client,
            "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'copied'::regclass ORDER BY indexrelid::regclass::text COLLATE \"C\""
        ),
        [
            "\"Odd name1\"",
            "by_expression1",
            "copied_by_e",
            "copied_d_excl",
            "copied_pkey",
            "second1"
        ]
    );
    assert_eq!(
        one(
            &mut client,
            "SELECT obj_description('by_expression1'::regclass), pg_get_serial_sequence('copied', 'always')"
        ),
        "i|public.copied_always_seq"
    );
    assert_eq!(
        one(&mut client, "SELECT pg_get_serial_sequence('copied', 'n')"),
        "public.copied_n_seq"
    );
    // The definition that people read makes the same table.
    let script = std::fs::read_to_string(dir.join(format!("snapshots/{id}/ddl.sql"))).unwrap();
    ok(
        &mut client,
        "DROP SCHEMA other CASCADE; CREATE SCHEMA other",
    );
    ok(
        &mut client,
        &script
            .replace("public.parts", "other.parts")
            .replace("INDEX public.", "INDEX other."),
    );
    assert_eq!(kept(definition(&cluster, "other", "parts")), before);
}

#[test]
fn keys_sequences_and_names() {
    let (_cluster, mut client, _dir) = start(&[]);
    ok(
        &mut client,
        "CREATE TABLE tree (id serial PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE, n int GENERATED BY DEFAULT AS IDENTITY, list text[] DEFAULT '{NULL}'); \
         CREATE INDEX x ON tree (up); CREATE INDEX tree_up_idx ON tree (n); INSERT INTO tree SELECT i, 1, i FROM generate_series(1, 9) i; \
         SELECT setval('tree_id_seq', 50, false); SET array_nulls = off",
    );
    let id = one(&mut client, "SELECT varve.snapshot('tree')");
    let random = id.split('-').nth(1).unwrap();
    assert!(random.len() == 8 && random.bytes().all(|b| b.is_ascii_hexdigit()));
    let restored = format!("SELECT varve.restore_snapshot('{id}', 'copy')");
    assert_eq!(one(&mut client, &restored), "9");
    ok(&mut client, "RESET array_nulls");
    assert_eq!(
        one(
            &mut client,
            "SELECT confrelid::regclass FROM pg_constraint WHERE conrelid = 'copy'::regclass AND contype = 'f'"
        ),
        "copy"
    );
    assert_eq!(
        one(
            &mut client,
            "INSERT INTO copy DEFAULT VALUES RETURNING id, n, list"
        ),
        "50|1|{NULL}"
    );
    // None of them is what PostgreSQL would call another one.
    assert_eq!(
        one(
            &mut client,
            "SELECT string_agg(indexrelid::regclass::text, ',' ORDER BY indexrelid) FROM pg_index WHERE indrelid = 'copy'::regclass"
        ),
        "copy_pkey,x1,copy_up_idx"
    );
    ok(
        &mut client,
        "CREATE SEQUENCE own; CREATE TABLE named (id int DEFAULT nextval('own')); ALTER SEQUENCE own OWNED BY named.id",
    );
    let of_named = one(&mut client, "SELECT varve.snapshot('named')");
    let long = "ä".repeat(31);
    ok(
        &mut client,
        &format!("SELECT varve.restore_snapshot('{of_named}', '{long}')"),
    );
    assert_eq!(
        one(
            &mut client,
            &format!("SELECT pg_get_serial_sequence('{long}', 'id')")
        ),
        "public.own1"
    );
    // A leaf has the keys that its table gave it.
    ok(
        &mut client,
        "CREATE TABLE parted (id int PRIMARY KEY, n int REFERENCES tree) PARTITION BY RANGE (id); \
         CREATE TABLE leaf PARTITION OF parted FOR VALUES FROM (0) TO (9); INSERT INTO parted VALUES (1, 1)",
    );
    let of_leaf = one(&mut client, "SELECT varve.snapshot('leaf')");
    ok(
        &mut client,
        &format!("SELECT varve.restore_snapshot('{of_leaf}', 'leaf2')"),
    );
    assert_eq!(
        one(
            &mut client,
            "SELECT string_agg(contype::text, '' ORDER BY contype) FROM pg_constraint WHERE conrelid = 'leaf2'::regclass"
        ),
        "fp"
    );
    // What may not be known of sequences.
    ok(
        &mut client,
        "CREATE ROLE joe; GRANT SELECT ON tree TO joe; GRANT USAGE ON FOREIGN SERVER first TO joe; \
         GRANT EXECUTE ON FUNCTION varve.snapshot(regclass, name, text) TO joe; SET ROLE joe",
    );
    let his = one(&mut client, "SELECT varve.snapshot('tree')");
    ok(&mut client, "RESET ROLE");
    let left = format!("SELECT left_out FROM varve.snapshots WHERE id = '{his}'");
    assert_eq!(
        one(&mut client, &left),
        "{\"privileges of joe\",\"owner postgres\",\"value of sequence tree_id_seq\",\"value of sequence tree_n_seq\"}"
    );
    ok(&mut client, "SET temp_file_limit = 0");
    let restored = format!("SELECT varve.restore_snapshot('{id}', 'third')");
    assert_eq!(code(&mut client, &restored), "53400");
}

#[test]
fn changed_since_the_transaction_began() {
    let (cluster, mut client, _dir) = start(&[]);
    prices(&mut client);
    ok(
        &mut client,
        "CREATE TABLE t (id int, n int); INSERT INTO t VALUES (1, 2)",
    );
    let mut other = cluster.connect().unwrap();
    for (table, change) in [
        ("t", "ALTER TABLE t RENAME n TO m"),
        ("t", "ALTER TABLE t DROP m, ADD m int"),
        ("t", "TRUNCATE t"),
        (
            "prices",
            "SELECT drop_chunks('prices', timestamptz '2025-01-02 00:00Z')",
        ),
    ] {
        ok(
            &mut client,
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current_snapshot()",
        );
        ok(&mut other, change);
        let call = format!("SELECT varve.snapshot('{table}')");
        assert_eq!(code(&mut client, &call), "40001", "{change}");
        ok(
            &mut client,
            "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ",
        );
        ok(&mut client, &call);
        ok(&mut client, "COMMIT");
    }
}

fn dimensions(client: &mut Client, table: &str) -> Vec<String> {
    ok(
        client,
        &format!(
            "SELECT dimension_number, column_name, time_interval, num_partitions FROM timescaledb_information.dimensions \
             WHERE hypertable_name = '{table}' AND hypertable_schema = 'public' ORDER BY 1"
        ),
    )
}

#[test]
fn a_hypertable_in_tiers() {
    let (cluster, mut client, _dir) = start(&[]);
    prices(&mut client);
    let id = one(&mut client, "SELECT varve.snapshot('prices')");
    ok(&mut client, "CREATE SCHEMA other");
    let restored = format!("SELECT varve.restore_snapshot('{id}', 'other.prices')");
    let rows = one(&mut client, "SELECT count(*) FROM prices");
    assert_eq!(one(&mut client, &restored), rows);
    assert_eq!(difference(&mut client, "prices", "other.prices"), "0|0|t");
    assert_eq!(
        definition(&cluster, "public", "prices"),
        definition(&cluster, "other", "prices")
    );
    let restored = format!("SELECT varve.restore_snapshot('{id}', 'again')");
    assert_eq!(one(&mut client, &restored), rows);
    assert_eq!(difference(&mut client, "prices", "again"), "0|0|t");
    assert_eq!(
        dimensions(&mut client, "again"),
        dimensions(&mut client, "prices")
    );
    // What was thawed is frozen again.
    let before = chunks(&mut client, "prices");
    assert!(
        before
            .iter()
            .any(|c| c.contains("|warm|") && !c.ends_with("|0")),
        "{before:?}"
    );
    ok(
        &mut client,
        "SELECT varve.set_tier(chunk, tier) FROM varve.chunks WHERE hypertable = 'prices'::regclass AND tier <> 'hot'",
    );
    let frozen = chunks(&mut client, "prices");
    assert_ne!(before, frozen);
    assert_eq!(chunks(&mut client, "again"), frozen);
    assert_eq!(chunks(&mut client, "other.prices"), frozen);
    assert_eq!(
        ok(
            &mut client,
            "SELECT bool_and(ok), count(*) > 5 FROM varve.verify('again')"
        ),
        ["t|t"]
    );
    // The table is at work.
    ok(
        &mut client,
        "INSERT INTO again SELECT symbol, ts + interval '1 year', price, volume, note FROM prices; \
         UPDATE again SET price = 0 WHERE ts < '2025-01-01 01:00Z'",
    );
    assert_eq!(
        code(
            &mut client,
            "INSERT INTO again VALUES ('A', '2025-01-01 00:00Z')"
        ),
        "23505"
    );
    // In a transaction that is rolled back nothing is left.
    ok(&mut client, "BEGIN; SAVEPOINT a");
    ok(
        &mut client,
        &format!("SELECT varve.restore_snapshot('{id}', 'third')"),
    );
    ok(&mut client, "ROLLBACK TO a; COMMIT");
    assert_eq!(one(&mut client, "SELECT to_regclass('third')"), "∅");
}

/// A Python with PyArrow and DuckDB, which `make setup` makes.
fn python() -> PathBuf {
    match std::env::var_os("VARVE_PARQUET_PYTHON") {
        Some(python) => python.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python"),
    }
}

#[test]
fn others_read_it() {
    let (cluster, mut client, dir) = start(&[]);
    ok(
        &mut client,
        r#"
SET TimeZone = 'UTC';
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE simple (
    id int8, flag bool, small int2, number int4, single float4, double float8, words text, short varchar(9), raw bytea, day date, at timestamp,
    moment timestamptz, clock time, name uuid, price numeric(12, 3), free numeric, doc jsonb, feeling mood, ints int[], tags text[],
    prices numeric(10, 2)[], moments timestamptz[]
);
INSERT INTO simple SELECT i, i % 3 = 0, i % 1000 - 500, -i, i / 7.0, i / 13.0, 'Wörter ' || i, repeat('x', i % 9), decode(lpad(to_hex(i), 8, '0'), 'hex'),
    date '1900-01-01' + i, timestamp '1969-12-31 23:59:59.999999' + i * interval '1 hour', timestamptz '1969-12-31 23:59:59.999999Z' + i * interval '1 day', time '00:00' + i * interval '1.000001 s',
    md5(i::text)::uuid, (i - 20000) / 7.0, i / 1000.0, jsonb_build_object('i', i, 'list', array[i, null]), CASE i % 2 WHEN 0 THEN 'sad' ELSE 'ok' END::mood,
    CASE WHEN i % 5 > 0 THEN ARRAY(SELECT nullif(g, 2) FROM generate_series(1, i % 4) g) END, ARRAY['a', NULL, 'b' || i], ARRAY[i, 0.01, NULL], ARRAY[timestamptz '2025-01-01 00:00Z']
    FROM generate_series(1, 40000) i;
INSERT INTO simple (id) SELECT i FROM generate_series(40001, 45000) i;
"#,
    );
    prices(&mut client);
    ok(&mut client, "SET TimeZone = 'UTC'");
    let of_prices = "SELECT json_agg(json_build_object('id', coalesce(volume, extract(epoch FROM ts)::bigint) + ascii(symbol) * 1000000, 'symbol', symbol, 'ts', ts, 'price', price, 'volume', volume, 'note', note)) FROM prices";
    ok(
        &mut client,
        "ALTER TABLE prices ADD id bigint; UPDATE prices SET id = coalesce(volume, extract(epoch FROM ts)::bigint) + ascii(symbol) * 1000000",
    );
    let types = |text: &str, reader: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(reader));
        lines.map(|line| line.trim().to_string()).collect()
    };
    let mut read = |table: &str, expected: &str| {
        let id = one(&mut client, &format!("SELECT varve.snapshot('{table}')"));
        let file = cluster.dir().join(format!("{table}.json"));
        std::fs::write(&file, one(&mut client, expected)).unwrap();
        let output = std::process::Command::new(python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/read_parquet.py"))
            .arg(file)
            .args(objects(&dir, &id, ".parquet"))
            .output()
            .expect("no Python with pyarrow and duckdb: `make setup` makes it");
        let text = String::from_utf8(output.stdout).unwrap();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{table}: {text}{wrong}");
        text
    };
    let text = read("simple", "SELECT json_agg(row_to_json(s)) FROM simple s");
    assert_eq!(
        types(&text, "pyarrow"),
        [
            "id int64",
            "flag bool",
            "small int16",
            "number int32",
            "single float",
            "double double",
            "words string",
            "short string",
            "raw binary",
            "day date32[day]",
            "at timestamp[us]",
            "moment timestamp[us, tz=UTC]",
            "clock time64[us]",
            "name extension<arrow.uuid>",
            "price decimal128(12, 3)",
            "free string",
            "doc extension<arrow.json>",
            "feeling string",
            "ints list<element: int32>",
            "ints.dimensions string",
            "tags list<element: string>",
            "tags.dimensions string",
            "prices list<element: decimal128(10, 2)>",
            "prices.dimensions string",
            "moments list<element: timestamp[us, tz=UTC]>",
            "moments.dimensions string"
        ]
    );
    assert_eq!(
        types(&text, "duckdb"),
        [
            "id BIGINT",
            "flag BOOLEAN",
            "small SMALLINT",
            "number INTEGER",
            "single FLOAT",
            "double DOUBLE",
            "words VARCHAR",
            "short VARCHAR",
            "raw BLOB",
            "day DATE",
            "at TIMESTAMP",
            "moment TIMESTAMP WITH TIME ZONE",
            "clock TIME",
            "name UUID",
            "price DECIMAL(12,3)",
            "free VARCHAR",
            "doc JSON",
            "feeling VARCHAR",
            "ints INTEGER[]",
            "ints.dimensions VARCHAR",
            "tags VARCHAR[]",
            "tags.dimensions VARCHAR",
            "prices DECIMAL(10,2)[]",
            "prices.dimensions VARCHAR",
            "moments TIMESTAMP WITH TIME ZONE[]",
            "moments.dimensions VARCHAR"
        ]
    );
    let text = read("prices", of_prices);
    assert_eq!(types(&text, "pyarrow").len(), 6);
}

#[test]
fn one_moment_while_others_write() {
    let (cluster, mut client, _dir) = start(&["max_locks_per_transaction = 256"]);
    prices(&mut client);
    ok(&mut client, "UPDATE prices SET volume = 0");
    let writers: Vec<_> = (0..2)
        .map(|w| {
            let mut other = cluster.connect().unwrap();
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let told = stop.clone();
            let thread = std::thread::spawn(move || {
                let mut n = 0u64;
                while !told.load(std::sync::atomic::Ordering::Relaxed) {
                    n += 1;
                    // From one chunk to another, frozen or not: what all rows have together stays 0.
                    let (from, to) = (n * 977 % 5760, (n * 3571 + w * 1000) % 5760);
                    let statement = format!(
                        "BEGIN; UPDATE prices SET volume = volume - {n} WHERE symbol = 'A' AND ts = timestamptz '2025-01-01 00:00Z' + {from} * interval '1 minute'; \
                         UPDATE prices SET volume = volume + {n} WHERE symbol = 'A' AND ts = timestamptz '2025-01-01 00:00Z' + {to} * interval '1 minute'; \
                         INSERT INTO prices VALUES ('W{w}', timestamptz '2025-01-02 00:00Z' + {n} * interval '1 second', 1, {n}), ('W{w}', timestamptz '2026-01-02 00:00Z' + {n} * interval '1 second', 1, -{n}); COMMIT"
                    );
                    // Two of them may want each other's rows.
                    if let Err(e) = simple(&mut other, &statement) {
                        assert_eq!(e.code, "40P01", "{e:?}");
                        ok(&mut other, "ROLLBACK");
                    }
                }
                n
            });
            (stop, thread)
        })
        .collect();
    let mut ids = Vec::new();
    for round in 0..4 {
        // The first ones in a transaction that goes on seeing the same.
        let repeatable = round < 2;
        let begin = if repeatable {
            "BEGIN ISOLATION LEVEL REPEATABLE READ"
        } else {
            "BEGIN"
        };
        ok(&mut client, begin);
        let seen = "SELECT count(*), sum(volume), md5(string_agg(p::text, ';' ORDER BY symbol, ts)) FROM prices p";
        let before = one(&mut client, seen);
        let id = one(&mut client, "SELECT varve.snapshot('prices')");
        ok(&mut client, "COMMIT");
        ids.push((id, repeatable.then_some(before)));
        if round == 1 {
            ok(
                &mut client,
                "SELECT varve.set_tier(chunk, tier) FROM varve.chunks WHERE hypertable = 'prices'::regclass AND tier <> 'hot'",
            );
        }
    }
    for (stop, thread) in writers {
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(thread.join().unwrap() > 10);
    }
    for (i, (id, seen)) in ids.iter().enumerate() {
        ok(
            &mut client,
            &format!("SELECT varve.restore_snapshot('{id}', 'at{i}')"),
        );
        assert_eq!(
            one(&mut client, &format!("SELECT sum(volume) FROM at{i}")),
            "0"
        );
        if let Some(seen) = seen {
            let again = format!(
                "SELECT count(*), sum(volume), md5(string_agg(p::text, ';' ORDER BY symbol, ts)) FROM at{i} p"
            );
            assert_eq!(one(&mut client, &again), *seen);
        }
    }
}

#[test]
fn privileges() {
    let (_cluster, mut client, dir) = start(&[]);
    ok(
        &mut client,
        "CREATE ROLE joe; CREATE TABLE t (id int, owner text, secret text); INSERT INTO t SELECT i, CASE i % 2 WHEN 0 THEN 'joe' ELSE 'ann' END FROM generate_series(1, 100) i; \
         REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    );
    let id = one(&mut client, "SELECT varve.snapshot('t')");
    ok(&mut client, "SET ROLE joe");
    let all = [
        "SELECT varve.snapshot('t')",
        "SELECT varve.restore_snapshot('x')",
        "SELECT * FROM varve.snapshots",
        "SELECT * FROM varve.list_snapshots()",
        "SELECT * FROM varve.verify_snapshot('x')",
    ];
    for call in all {
        assert_eq!(code(&mut client, call), "42501", "{call}");
    }
    ok(
        &mut client,
        "RESET ROLE; GRANT EXECUTE ON FUNCTION varve.snapshot(regclass, name, text), varve.restore_snapshot(text, text, name), varve.list_snapshots(), varve.verify_snapshot(text) TO joe; SET ROLE joe",
    );
    // The table, then the store, then all of the table's columns.
    assert_eq!(
        code(&mut client, "SELECT varve.snapshot('t', 'first')"),
        "42501"
    );
    ok(
        &mut client,
        "RESET ROLE; GRANT SELECT (id, owner) ON t TO joe; SET ROLE joe",
    );
    let error = simple(&mut client, "SELECT varve.snapshot('t', 'first')").unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.contains("store")),
        ("42501", true)
    );
    assert_eq!(
        code(
            &mut client,
            &format!("SELECT varve.restore_snapshot('{id}')")
        ),
        "42704"
    );
    ok(
        &mut client,
        "RESET ROLE; GRANT USAGE ON FOREIGN SERVER first TO joe; SET ROLE joe",
    );
    let error = simple(&mut client, "SELECT varve.snapshot('t', 'first')").unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.contains("table t")),
        ("42501", true)
    );
    assert_eq!(objects(&dir, "", "").len(), 1, "nothing is left of it");
    ok(
        &mut client,
        "RESET ROLE; GRANT SELECT ON t TO joe; SET ROLE joe",
    );
    let his = one(&mut client, "SELECT varve.snapshot('t', 'first')");
    // Somewhere to put it.
    let restore = format!("SELECT varve.restore_snapshot('{his}', 'joes.t')");
    assert_eq!(code(&mut client, &restore), "3F000");
    ok(
        &mut client,
        "RESET ROLE; CREATE SCHEMA joes; GRANT USAGE ON SCHEMA joes TO joe; SET ROLE joe",
    );
    assert_eq!(code(&mut client, &restore), "42501");
    ok(
        &mut client,
        "RESET ROLE; GRANT CREATE ON SCHEMA joes TO joe; SET ROLE joe",
    );
    assert_eq!(one(&mut client, &restore), "100");
    assert_eq!(
        one(
            &mut client,
            "SELECT relowner::regrole FROM pg_class WHERE oid = 'joes.t'::regclass"
        ),
        "joe"
    );
    // Of rows that policies hide from him there are none in a snapshot of his.
    ok(
        &mut client,
        "RESET ROLE; CREATE POLICY own ON t USING (owner = current_user); ALTER TABLE t ENABLE ROW LEVEL SECURITY; SET ROLE joe",
    );
    let his = one(&mut client, "SELECT varve.snapshot('t')");
    let rows = format!("SELECT rows FROM varve.list_snapshots() WHERE id = '{his}'");
    assert_eq!(one(&mut client, &rows), "50");
    let left = format!(
        "SELECT left_out::text LIKE '%hides%' FROM varve.list_snapshots() WHERE id = '{his}'"
    );
    assert_eq!(one(&mut client, &left), "t");
    ok(&mut client, "SET row_security = off");
    assert_eq!(code(&mut client, "SELECT varve.snapshot('t')"), "42501");
    // And so it is none that the others could be lost by.
    ok(&mut client, "RESET ROLE");
    let restore = format!("SELECT varve.restore_chunk('{his}', 't')");
    assert_eq!(code(&mut client, &restore), "55000");
    ok(&mut client, "RESET row_security; RESET ROLE");
    // What is no table of the user's.
    ok(
        &mut client,
        "CREATE VIEW v AS SELECT 1; CREATE TABLE p (i int) PARTITION BY RANGE (i); CREATE TEMP TABLE temporary (i int)",
    );
    for (what, expected) in [
        ("v", "42809"),
        ("p", "0A000"),
        ("pg_class", "42501"),
        ("varve.managed", "42501"),
        ("temporary", "0A000"),
    ] {
        let call = format!("SELECT varve.snapshot('{what}')");
        assert_eq!(code(&mut client, &call), expected, "{what}");
    }
    ok(&mut client, "SET default_transaction_read_only = on");
    let id = one(&mut client, "SELECT varve.snapshot('t')");
    let restore = format!("SELECT varve.restore_snapshot('{id}', 'u')");
    assert_eq!(code(&mut client, &restore), "25006");
}

#[test]
fn cancelled() {
    let (cluster, mut client, dir) = start(&[]);
    ok(
        &mut client,
        "CREATE TABLE big AS SELECT i, md5(i::text) a, md5((i + 1)::text) b FROM generate_series(1, 1500000) i",
    );
    let mut session = Session::new(&cluster).unwrap();
    let mut stopped = |client: &mut Client, call: &str, operation: &str| {
        session.start(call);
        let shown = format!(
            "SELECT count(*) FROM varve.progress WHERE operation = '{operation}' AND phase = 'rows' AND done > 0 AND unit = 'rows'"
        );
        wait::until("the work to be shown", || ok(client, &shown) == ["1"]);
        ok(
            client,
            &format!("SELECT pg_cancel_backend({})", session.pid()),
        );
        assert_eq!(session.finish().unwrap_err().code, "57014", "{call}");
    };
    stopped(&mut client, "SELECT varve.snapshot('big')", "snapshot");
    assert_eq!(
        ok(&mut client, "SELECT count(*) FROM varve.list_snapshots()"),
        ["0"]
    );
    let left = |dir: &Path| -> usize {
        let found = std::fs::read_dir(dir.join("snapshots"));
        found
            .into_iter()
            .flatten()
            .map(|d| std::fs::read_dir(d.unwrap().path()).unwrap().count())
            .sum()
    };
    assert_eq!(left(&dir), 0);
    let id = one(&mut client, "SELECT varve.snapshot('big')");
    assert_eq!(left(&dir), 4);
    let restore = format!("SELECT varve.restore_snapshot('{id}', 'again')");
    stopped(&mut client, &restore, "restore snapshot");
    assert_eq!(one(&mut client, "SELECT to_regclass('again')"), "∅");
    assert_eq!(one(&mut client, &restore), "1500000");
    assert_eq!(difference(&mut client, "big", "again"), "0|0|t");
}
