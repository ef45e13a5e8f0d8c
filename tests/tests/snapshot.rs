//! Snapshots of tables: out into Parquet files and back, every value, every part of the definition, every tier; read by others;
//! damaged, cancelled, forbidden.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use varve_tests::cluster::Cluster;
use varve_tests::session::{Session, simple};
use varve_tests::wait;

/// A directory of the server's user in the cluster's, as a store.
fn store(cluster: &Cluster, client: &mut Client, name: &str, role: &str) -> PathBuf {
    let dir = cluster.dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
    ok(
        client,
        &format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS (url 'file://{}', role '{role}')",
            dir.display()
        ),
    );
    dir
}

/// A server with a store under the name `first`.
fn start(settings: &[&str]) -> (Cluster, Client, PathBuf) {
    let settings = [&["fsync = off"], settings].concat();
    let cluster = Cluster::start_new(&settings).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    let dir = store(&cluster, &mut client, "first", "primary");
    (cluster, client, dir)
}

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn one(client: &mut Client, sql: &str) -> String {
    ok(client, sql).concat()
}

fn code(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => e.code,
    }
}

/// How many rows one table has that the other has not, and the other way round, compared as text: exactly, whatever `=` says.
fn difference(client: &mut Client, a: &str, b: &str) -> String {
    one(
        client,
        &format!(
            "SELECT (SELECT count(*) FROM (SELECT t::text FROM {a} t EXCEPT ALL SELECT t::text FROM {b} t) x), \
             (SELECT count(*) FROM (SELECT t::text FROM {b} t EXCEPT ALL SELECT t::text FROM {a} t) x), \
             (SELECT count(*) FROM {a}) > 0"
        ),
    )
}

/// The definition of a table as pg_dump has it, with the name of its schema taken out.
fn definition(cluster: &Cluster, schema: &str, table: &str) -> String {
    let dumped = cluster
        .run(
            "pg_dump",
            &[
                "--schema-only",
                "--no-owner",
                "--table",
                &format!("{schema}.{table}"),
                "postgres",
            ],
        )
        .unwrap();
    let text = String::from_utf8(dumped.stdout).unwrap();
    text.lines()
        .filter(|line| !line.starts_with("--") && !line.starts_with('\\') && !line.is_empty())
        .map(|line| line.replace(&format!("{schema}."), "S.") + "\n")
        .collect()
}

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
         SET bytea_output = 'escape'; SET search_path = pg_temp, public",
    );
    let id = one(&mut client, "SELECT varve.snapshot('kinds', label => 'all')");
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
    let verified =
        format!("SELECT count(*), bool_and(ok) FROM varve.verify_snapshot('{id}')");
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
    ok(
        &mut client,
        r#"
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
"#,
    );
    ok(
        &mut client,
        r#"
COMMENT ON TABLE parts IS 'it''s all'; COMMENT ON COLUMN parts.b IS 'a "b"'; COMMENT ON INDEX by_expression IS 'i';
COMMENT ON CONSTRAINT positive ON parts IS 'p'; COMMENT ON CONSTRAINT second ON parts IS 's';
CREATE TRIGGER fires BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE POLICY sees ON parts USING (a > 0); ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS together ON a, e FROM parts;
GRANT SELECT ON parts TO reader;
CREATE SCHEMA other;
"#,
    );
    let id = one(&mut client, "SELECT varve.snapshot('parts')");
    assert_eq!(
        ok(&mut client, "SELECT left_out FROM varve.snapshots"),
        ["{\"trigger fires\",\"policy sees\",\"statistics together\",\"privileges of reader\",\"row security\",\"owner postgres\"}"]
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
            .map(|line| line.replace("public.", "S.").replace("other.", "S."))
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
            "INSERT INTO {table} (b, d, e) VALUES ('x', '[5000,5001)', 9) RETURNING n, always, mine, a, computed"
        );
        assert_eq!(ok(&mut client, &next), ["1001|7100|1001|42|43"]);
    }
    // Beside the table that it is of: what has its name is called like the new table, the rest as PostgreSQL likes.
    ok(&mut client, &format!("SELECT varve.restore_snapshot('{id}', 'copied')"));
    assert_eq!(
        ok(
            &mut client,
            "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'copied'::regclass ORDER BY 1::text"
        ),
        ["copied_b_c_key", "copied_by_e", "copied_d_excl", "copied_lower_twice_c_idx", "copied_pkey", "copied_to_tsvector_idx"]
    );
    assert_eq!(
        one(&mut client, "SELECT pg_get_serial_sequence('copied', 'n')"),
        "public.copied_n_seq"
    );
    // The definition that people read makes the same table.
    let script =
        std::fs::read_to_string(dir.join(format!("snapshots/{id}/ddl.sql"))).unwrap();
    ok(&mut client, "DROP SCHEMA other CASCADE; CREATE SCHEMA other");
    ok(&mut client, &script.replace("public.parts", "other.parts").replace("INDEX public.", "INDEX other."));
    assert_eq!(kept(definition(&cluster, "other", "parts")), before);
}
