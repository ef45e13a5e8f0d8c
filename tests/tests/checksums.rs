//! `varve.checksums`: always the sum of the rows' own checksums, computed here from a heap table that gets the same statements,
//! and without reading frozen rows wherever these have not changed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_core::header::SegmentHeader;
use varve_tests::cluster::Cluster;
use varve_tests::random::Random;
use varve_tests::session::{self, Session, one, rows, simple};
use varve_tests::twin::{self, COLD, FREEZE, THAW, both};

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

fn refused(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => format!("{} {}", e.code, e.message),
    }
}

/// Number and sum of checksums that are given in hexadecimal digits.
fn added(checksums: &[String]) -> String {
    let sum = checksums.iter().fold(0u128, |sum, checksum| {
        sum.wrapping_add(u128::from_str_radix(checksum, 16).unwrap())
    });
    format!("{}|{sum:032x}", checksums.len())
}

/// What there is to be said of the rows of a `FROM` clause, with `t` for a row.
fn expected(client: &mut Client, from: &str) -> String {
    let sql = format!("SELECT encode(varve.row_checksum(t.*), 'hex') FROM {from}");
    added(&rows(client, &sql))
}

/// What is said of a table that has no chunks.
fn sums(table: &str) -> String {
    format!("SELECT rows, encode(checksum, 'hex') FROM varve.checksums('{table}')")
}

/// `bars` chunk by chunk, against the same rows of `twin`.
fn check_bars(client: &mut Client, when: &str) {
    let found = rows(
        client,
        "SELECT chunk, rows, encode(checksum, 'hex') FROM varve.checksums('bars')",
    );
    let chunks = rows(
        client,
        "SELECT format('%I.%I', chunk_schema, chunk_name)::regclass, range_start, range_end FROM timescaledb_information.chunks
         WHERE hypertable_name = 'bars' ORDER BY range_start",
    );
    let expected: Vec<String> = chunks
        .iter()
        .map(|chunk| {
            let parts: Vec<&str> = chunk.split('|').collect();
            let [name, from, to] = parts[..] else {
                panic!("{chunk}")
            };
            let of = expected(
                client,
                &format!("twin t WHERE ts >= '{from}' AND ts < '{to}'"),
            );
            format!("{name}|{of}")
        })
        .collect();
    assert_eq!(found, expected, "{when}");
}

/// Blocks that a query of the checksums of a table asks for.
fn blocks(client: &mut Client, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM varve.checksums('{table}')");
    // What the session remembers of the catalogue is there by then.
    one(client, &sql);
    session::blocks(client, &sql)
}

/// Whether the checksums of a frozen table come without its rows.
fn is_kept(client: &mut Client, table: &str) -> bool {
    let pages: u64 = one(
        client,
        &format!("SELECT pg_relation_size(varve.segment_table('{table}')) / 8192"),
    )
    .parse()
    .unwrap();
    assert!(pages > 200, "{pages}");
    // What the catalogue takes.
    one(client, "CREATE TABLE IF NOT EXISTS nothing ()");
    let beside = blocks(client, "nothing");
    blocks(client, table).saturating_sub(beside) < pages / 4
}

#[test]
fn tiers() {
    let (cluster, mut client) = start();
    twin::create(&mut client).unwrap();
    check_bars(&mut client, "hot");
    let of_all = "SELECT sum(rows), encode(varve.checksum_sum(checksum), 'hex') FROM varve.checksums('bars')";
    let hot = one(&mut client, of_all);
    assert_eq!(hot, expected(&mut client, "twin t"));
    for (tier, sql) in [
        ("warm", FREEZE),
        ("cold", COLD),
        ("hot again", THAW),
        ("warm again", FREEZE),
    ] {
        one(&mut client, sql);
        check_bars(&mut client, tier);
        assert_eq!(one(&mut client, of_all), hot, "{tier}");
    }
    // One of another session, which has nothing in its caches.
    let mut other = cluster.connect().unwrap();
    check_bars(&mut other, "another session");
    for change in [
        "UPDATE {t} SET close = close + 1 WHERE symbol = 3",
        "DELETE FROM {t} WHERE symbol = 4 AND ts < '2024-01-10'",
        "INSERT INTO {t} VALUES (1, '2024-01-02 00:30Z', 1), (1, '2024-03-02 00:30Z', 1)",
        "DELETE FROM {t} WHERE ts >= '2024-01-15Z' AND ts < '2024-01-22Z'",
    ] {
        one(&mut client, &both(change));
        check_bars(&mut client, change);
    }
    assert_ne!(one(&mut client, of_all), hot);
    let empty = "SELECT count(*) FROM varve.checksums('bars') WHERE rows = 0 AND checksum = decode(repeat('00', 16), 'hex')";
    assert_eq!(
        one(&mut client, empty),
        "1",
        "a chunk whose rows are gone is listed"
    );
    // A chunk by itself, frozen again.
    one(&mut client, FREEZE);
    check_bars(&mut client, "frozen with the changes");
    let chunk = one(
        &mut client,
        "SELECT min(c::text) FROM show_chunks('bars') c",
    );
    let alone = one(
        &mut client,
        &format!(
            "SELECT (SELECT (s) FROM varve.checksums('{chunk}') s)::text = (SELECT (s) FROM varve.checksums('bars') s WHERE chunk = '{chunk}'::regclass)::text"
        ),
    );
    assert_eq!(alone, "t");
}

/// Columns of types that sums are kept of; with NULLs, values that are TOASTed, and values that are the same next to each other.
const MANY: &str = "
CREATE TABLE many (
    id int NOT NULL, ts timestamptz, flag bool, small int2, long int8, single float4, double float8, price numeric(12, 3), free numeric,
    words text, padded char(9), raw bytea, day date, clock time, zoned timetz, span interval, name uuid, doc jsonb, written json, ints int[], prices numeric[],
    period tstzrange, periods int4multirange, who name, letter \"char\", moment timestamp, of oid, long_text text
);
INSERT INTO many SELECT i, timestamptz '2024-01-01 00:00:00Z' + i * interval '20 min', i % 3 = 0, i % 1000 - 500, -i, i / 7.0, CASE i % 9 WHEN 1 THEN '-0' WHEN 2 THEN 'NaN' ELSE i / 13.0 END,
    (i - 200) / 7.0, i / 1000.0, 'Wörter ' || i / 10, repeat('x', i % 9), decode(lpad(to_hex(i), 8, '0'), 'hex'), date '1900-01-01' + i, time '00:00' + i * interval '1.000001 s',
    timetz '12:00+02', i * interval '1 mon 2 d 3 s', md5(i::text)::uuid, jsonb_build_object('i', i, 'list', array[i, null]), '{\"a\": 1}', ARRAY(SELECT nullif(g, 2) FROM generate_series(1, i % 4) g),
    ARRAY[i, 0.01, NULL], tstzrange(timestamptz '2024-01-01 00:00Z', NULL), int4multirange(int4range(i, i + 5), int4range(i + 7, i + 8)), 'n' || i, chr(33 + i % 90)::\"char\",
    timestamp '2024-01-01' + i * interval '1 s', i::oid, CASE WHEN i % 100 = 0 THEN (SELECT string_agg(md5((i * g)::text), '') FROM generate_series(1, 1000) g) END
    FROM generate_series(1, 20000) i;
INSERT INTO many (id) SELECT i FROM generate_series(20001, 21000) i;
CREATE TABLE heap AS TABLE many;
SELECT varve.enable('many', segment_by => '{}', order_by => '{id}');
";

#[test]
fn columns_that_change() {
    let (_cluster, mut client) = start();
    one(&mut client, MANY);
    one(&mut client, "SELECT varve.set_tier('many', 'warm')");
    assert!(is_kept(&mut client, "many"));
    let first = one(&mut client, &sums("many"));
    assert_eq!(first, expected(&mut client, "heap t"));
    // What is done to both tables, and whether the sums count that were kept before it.
    for (change, kept) in [
        ("ALTER TABLE {t} ADD more text", true),
        ("ALTER TABLE {t} ADD n int DEFAULT 7", false),
        ("ALTER TABLE {t} DROP n", true),
        ("VACUUM FULL {t}", true),
        ("ALTER TABLE {t} RENAME small TO little", false),
        ("ALTER TABLE {t} RENAME little TO small", true),
        ("ALTER TABLE {t} ALTER words TYPE varchar", true),
        ("ALTER TABLE {t} ALTER price TYPE numeric", true),
        // Values stay where they are, and mean something else.
        ("ALTER TABLE {t} ALTER words TYPE bpchar", false),
        (
            "ALTER TABLE {t} ALTER words TYPE text USING words || ''",
            false,
        ),
        ("FREEZE", true),
        (
            "SET TimeZone = 'UTC'; ALTER TABLE {t} ALTER moment TYPE timestamptz",
            false,
        ),
        ("ALTER TABLE {t} ALTER moment TYPE timestamp", true),
        ("UPDATE {t} SET more = 'm' WHERE id = 77", true),
        ("ALTER TABLE {t} DROP flag", false),
        ("VACUUM FULL {t}", false),
        ("FREEZE", true),
        // The rewrite puts the value into the segments, and the table forgets that rows lacked it.
        ("ALTER TABLE {t} ADD later int DEFAULT 5", false),
        ("VACUUM FULL {t}", false),
        ("FREEZE", true),
        ("ALTER TABLE {t} ADD feeling mood", true),
        ("VACUUM FULL {t}", false),
        ("ALTER TABLE {t} DROP feeling", false),
    ] {
        if change.contains("feeling mood") {
            one(&mut client, "CREATE TYPE mood AS ENUM ('sad', 'ok')");
        }
        match change {
            "FREEZE" => {
                one(&mut client, "SELECT varve.set_tier('many', 'hot')");
                one(&mut client, "SELECT varve.set_tier('many', 'warm')");
            }
            change => {
                for sql in change.split(';') {
                    for table in ["many", "heap"] {
                        one(&mut client, &sql.replace("{t}", table));
                    }
                }
            }
        }
        let found = one(&mut client, &sums("many"));
        assert_eq!(found, expected(&mut client, "heap t"), "{change}");
        assert_eq!(found, one(&mut client, &sums("heap")), "{change}");
        let frozen = "SELECT coalesce(pg_relation_size(varve.segment_table('many')), 0) > 0";
        if one(&mut client, frozen) == "t" {
            assert_eq!(is_kept(&mut client, "many"), kept, "{change}");
        } else {
            assert!(!kept, "{change}");
        }
    }
    // A wider type says the same.
    let before = one(&mut client, &sums("many"));
    one(
        &mut client,
        "ALTER TABLE many ALTER id TYPE bigint, ALTER single TYPE float8",
    );
    assert_eq!(one(&mut client, &sums("many")), before);
    one(&mut client, "SELECT varve.set_tier('many', 'cold')");
    assert_eq!(one(&mut client, &sums("many")), before);
    assert!(is_kept(&mut client, "many"));
    let bad = "SELECT count(*) FROM varve.verify('many') WHERE NOT ok";
    assert_eq!(one(&mut client, bad), "0");
}

#[test]
fn types_whose_meaning_the_catalogue_has() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN feeling AS mood; CREATE EXTENSION citext;",
    );
    for (table, typ, value) in [
        (
            "enums",
            "mood",
            "CASE i % 2 WHEN 0 THEN 'sad' ELSE 'ok' END::mood",
        ),
        ("lists", "mood[]", "ARRAY['sad'::mood, NULL]"),
        ("domains", "feeling", "'ok'::mood::feeling"),
        ("pairs", "pair", "ROW(i, 'b')::pair"),
        ("others", "citext", "('c' || i)::citext"),
    ] {
        one(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int, v {typ}, filler text);
                 INSERT INTO {table} SELECT i, {value}, md5(i::text) || md5((-i)::text) FROM generate_series(1, 80000) i;
                 CREATE TABLE heap_{table} AS TABLE {table};
                 SELECT varve.enable('{table}', segment_by => '{{}}', order_by => '{{id}}')"
            ),
        );
        one(
            &mut client,
            &format!("SELECT varve.set_tier('{table}', 'warm')"),
        );
        let heap = format!("heap_{table} t");
        assert_eq!(
            one(&mut client, &sums(table)),
            expected(&mut client, &heap),
            "{table}"
        );
        assert!(!is_kept(&mut client, table), "{table}");
    }
    for change in [
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE pair RENAME ATTRIBUTE a TO c",
    ] {
        one(&mut client, change);
        for table in ["enums", "lists", "domains", "pairs"] {
            let heap = format!("heap_{table} t");
            assert_eq!(
                one(&mut client, &sums(table)),
                expected(&mut client, &heap),
                "{table}: {change}"
            );
        }
    }
}

#[test]
fn transactions() {
    let (cluster, mut client) = start();
    twin::create(&mut client).unwrap();
    one(&mut client, FREEZE);
    let mut old = cluster.connect().unwrap();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        one(&mut old, &format!("BEGIN ISOLATION LEVEL {level}"));
        check_bars(&mut old, level);
        let of_old = rows(&mut old, "SELECT * FROM varve.checksums('bars')");
        one(&mut client, "BEGIN");
        check_bars(&mut client, "nothing done");
        one(
            &mut client,
            &both("UPDATE {t} SET volume = coalesce(volume, 0) + 1 WHERE symbol = 5"),
        );
        check_bars(&mut client, "an update");
        one(&mut client, "SAVEPOINT s");
        one(&mut client, &both("DELETE FROM {t} WHERE symbol < 4"));
        one(
            &mut client,
            &both(
                "INSERT INTO {t} VALUES (1, '2024-01-03 00:00Z', 1), (2, '2024-01-03 00:20Z', 1)",
            ),
        );
        check_bars(&mut client, "a savepoint");
        one(&mut client, "ROLLBACK TO s");
        check_bars(&mut client, "a savepoint that was rolled back");
        one(
            &mut client,
            &both("DELETE FROM {t} WHERE symbol = 6 AND ts > '2024-01-16Z'"),
        );
        check_bars(&mut client, "before the commit");
        check_bars(&mut old, "beside a writer");
        one(&mut client, "COMMIT");
        check_bars(&mut client, "committed");
        check_bars(&mut old, "beside who has written");
        let again = rows(&mut old, "SELECT * FROM varve.checksums('bars')");
        assert_eq!(again == of_old, level != "READ COMMITTED", "{level}");
        one(&mut old, "COMMIT");
        one(
            &mut client,
            &both("UPDATE {t} SET note = 'again' WHERE symbol = 7"),
        );
        one(&mut client, FREEZE);
        check_bars(&mut client, "frozen anew");
    }
    // Snapshots from before rows were thawed and frozen again.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM twin";
    let mut older = [COLD, THAW, FREEZE].map(|sql| {
        let mut session = cluster.connect().unwrap();
        one(&mut session, begin);
        (sql, session)
    });
    let before = one(&mut old, "SELECT sum(close) FROM twin");
    one(
        &mut client,
        &both("UPDATE {t} SET close = -close WHERE symbol = 2"),
    );
    for (sql, session) in &mut older {
        one(&mut client, sql);
        check_bars(session, sql);
        check_bars(&mut client, sql);
        assert_eq!(one(session, "SELECT sum(close) FROM twin"), before, "{sql}");
        one(session, "COMMIT");
    }
    // One statement has one snapshot: changes of its own functions are not in it.
    one(
        &mut client,
        "CREATE FUNCTION change() RETURNS int LANGUAGE sql AS 'DELETE FROM bars WHERE symbol = 9; DELETE FROM twin WHERE symbol = 9; SELECT 1'",
    );
    let both_times = one(
        &mut client,
        "WITH c AS MATERIALIZED (SELECT change() AS n) SELECT sum(s.rows) = (SELECT count(*) FROM bars) FROM c, LATERAL (SELECT * FROM varve.checksums('bars') OFFSET c.n - 1) s",
    );
    assert_eq!(both_times, "t");
    check_bars(&mut client, "after a statement that changed rows");
    // Somebody who waits for nothing: a reader beside an exchange of storage.
    let mut freezer = Session::new(&cluster).unwrap();
    one(&mut client, "BEGIN");
    check_bars(&mut client, "holding its locks");
    freezer.ok("SET varve.lock_timeout = '60s'");
    freezer.start(THAW);
    check_bars(&mut client, "while somebody waits to thaw");
    one(&mut client, "COMMIT");
    freezer.finish().unwrap();
    check_bars(&mut client, "thawed");
}

#[test]
fn whose_rows() {
    let (_cluster, mut client) = start();
    twin::create(&mut client).unwrap();
    one(&mut client, FREEZE);
    one(
        &mut client,
        "CREATE ROLE reader; GRANT USAGE ON SCHEMA varve TO reader; CREATE TABLE empty (); CREATE TABLE few (); INSERT INTO few DEFAULT VALUES;
         CREATE TABLE owned (id int, who text, filler text); INSERT INTO owned SELECT i, CASE WHEN i % 3 = 0 THEN 'reader' ELSE 'other' END, md5(i::text) FROM generate_series(1, 3000) i;
         SELECT varve.enable('owned', segment_by => '{}', order_by => '{id}');
         ALTER TABLE owned ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON owned USING (who = current_user);
         CREATE VIEW seen AS SELECT symbol, close, ts FROM bars WHERE symbol < 5; CREATE MATERIALIZED VIEW stored AS TABLE bars;
         CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id);
         CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM (100) TO (200); CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (100) PARTITION BY LIST (id);
         CREATE TABLE parts_a_rest PARTITION OF parts_a DEFAULT; CREATE TABLE parts_a_seven (v text, id int); ALTER TABLE parts_a ATTACH PARTITION parts_a_seven FOR VALUES IN (7);
         INSERT INTO parts SELECT i, 'v' || i FROM generate_series(0, 199) i; SELECT varve.enable('parts', segment_by => '{}', order_by => '{id}');
         CREATE TABLE parent (id int); CREATE TABLE child (extra text) INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x');
         CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS a; CREATE TEMP TABLE passing AS SELECT 2 AS a; CREATE TABLE x (x int); INSERT INTO x VALUES (3);
         CREATE TABLE numbers (at bigint NOT NULL, v int); SELECT create_hypertable('numbers', 'at', chunk_time_interval => 10); INSERT INTO numbers VALUES (105, 1), (95, 2), (5, 3); SELECT varve.enable('numbers');
         CREATE TABLE none (ts timestamptz NOT NULL); SELECT create_hypertable('none', 'ts'); CREATE TABLE acls (a aclitem)",
    );
    one(
        &mut client,
        "SELECT varve.set_tier(t, 'warm') FROM unnest('{owned,parts_a_seven,parts_b}'::regclass[]) t",
    );
    for (table, of) in [
        ("empty", "empty t"),
        ("few", "few t"),
        ("owned", "owned t"),
        ("seen", "seen t"),
        ("stored", "bars t"),
        ("parent", "parent t"),
        ("child", "child t"),
        ("fleeting", "fleeting t"),
        ("passing", "passing t"),
        ("x", "(SELECT 3 AS x) t"),
        ("pg_class", "pg_class t"),
        (
            "timescaledb_information.chunks",
            "timescaledb_information.chunks t",
        ),
    ] {
        if table == "pg_class" {
            // It has a column of access privileges.
            assert!(refused(&mut client, &sums(table)).starts_with("42883"));
            continue;
        }
        assert_eq!(
            one(&mut client, &sums(table)),
            expected(&mut client, of),
            "{table}"
        );
    }
    assert!(refused(&mut client, &sums("acls")).starts_with("42883"));
    let chunked = |client: &mut Client, table: &str| {
        rows(
            client,
            &format!("SELECT chunk, rows, encode(checksum, 'hex') FROM varve.checksums('{table}')"),
        )
    };
    let parts = chunked(&mut client, "parts");
    let of_parts: Vec<String> = ["parts_a_seven", "parts_a_rest", "parts_b"]
        .iter()
        .map(|part| format!("{part}|{}", expected(&mut client, &format!("{part} t"))))
        .collect();
    assert_eq!(parts, of_parts, "in the order of their bounds");
    let ordered = rows(
        &mut client,
        "SELECT (SELECT min(at) FROM numbers n WHERE n.tableoid = c.chunk), c.rows FROM varve.checksums('numbers') c",
    );
    assert_eq!(ordered, ["5|1", "95|1", "105|1"]);
    assert!(chunked(&mut client, "none").is_empty());
    for (sql, error) in [
        ("SELECT * FROM varve.checksums(NULL)", "22004"),
        ("SELECT * FROM varve.checksums(4000000000)", "42P01"),
        ("SELECT * FROM varve.checksums('bars_pkey')", "42809"),
        ("SELECT varve.checksum_sum('\\x0102')", "22023"),
    ] {
        assert!(
            refused(&mut client, sql).starts_with(error),
            "{sql}: {}",
            refused(&mut client, sql)
        );
    }
    // Who may not read, may read some columns, some rows, the hypertable and not its chunks.
    let all = chunked(&mut client, "bars");
    one(&mut client, "SET ROLE reader");
    for table in ["bars", "owned", "parts", "seen", "stored"] {
        assert!(
            refused(&mut client, &sums(table)).starts_with("42501"),
            "{table}"
        );
    }
    one(
        &mut client,
        "RESET ROLE; GRANT SELECT (id) ON parts TO reader; GRANT SELECT ON bars, owned, seen TO reader; REVOKE ALL ON ALL TABLES IN SCHEMA _timescaledb_internal FROM reader; SET ROLE reader",
    );
    assert!(
        refused(&mut client, &sums("parts")).starts_with("42501"),
        "one column"
    );
    assert_eq!(
        chunked(&mut client, "bars"),
        all,
        "chunks go with their table"
    );
    assert_eq!(
        one(&mut client, &sums("seen")),
        expected(&mut client, "seen t")
    );
    let own = one(&mut client, &sums("owned"));
    assert!(own.starts_with("1000|"), "{own}");
    assert_eq!(own, expected(&mut client, "owned t"));
    one(
        &mut client,
        "RESET ROLE; GRANT SELECT (v) ON parts TO reader; SET ROLE reader",
    );
    assert_eq!(
        chunked(&mut client, "parts"),
        parts,
        "all columns, one by one"
    );
    one(
        &mut client,
        "RESET ROLE; ALTER TABLE bars ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON bars USING (symbol = 1); SET ROLE reader",
    );
    let some = chunked(&mut client, "bars");
    assert_eq!(some.len(), all.len());
    let of_some = "SELECT sum(rows), encode(varve.checksum_sum(checksum), 'hex') FROM varve.checksums('bars')";
    assert_eq!(one(&mut client, of_some), expected(&mut client, "bars t"));
    one(
        &mut client,
        "RESET ROLE; ALTER TABLE bars FORCE ROW LEVEL SECURITY",
    );
    assert_eq!(
        chunked(&mut client, "bars"),
        all,
        "a superuser sees all rows"
    );
    // Of a query that is cancelled nothing remains.
    one(&mut client, "SET statement_timeout = '1ms'");
    let e = refused(
        &mut client,
        "SELECT * FROM generate_series(1, 100000) i, LATERAL (SELECT * FROM varve.checksums('bars') OFFSET i - i) s",
    );
    assert!(e.starts_with("57014"), "{e}");
}

#[test]
fn a_sum_that_is_wrong() {
    let (cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE t (id int, v numeric, w float8, a int[]); INSERT INTO t SELECT i, i / 7.0, i / 3.0, ARRAY[i, NULL] FROM generate_series(1, 70000) i;
         SELECT varve.enable('t', segment_by => '{}', order_by => '{id}')",
    );
    one(&mut client, "SELECT varve.set_tier('t', 'warm')");
    // Neither a later column nor a default is among what was summed.
    one(&mut client, "ALTER TABLE t ADD later text");
    let verified = "SELECT segment, ok, detail FROM varve.verify('t') ORDER BY segment";
    assert_eq!(rows(&mut client, verified), ["0|t|∅", "1|t|∅"]);
    let before = one(&mut client, &sums("t"));
    let table = one(&mut client, "SELECT varve.segment_table('t')");
    let at = "WHERE segment = 1 AND item = 0";
    let stored = one(
        &mut client,
        &format!("SELECT encode(data, 'hex') FROM {table} {at}"),
    );
    let bytes: Vec<u8> = (0..stored.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&stored[i..i + 2], 16).unwrap())
        .collect();
    // The header comes behind its length.
    let mut header = SegmentHeader::from_bytes(&bytes[4..]).unwrap();
    let checksum = header.checksum.as_mut().unwrap();
    assert_eq!(checksum.attributes, 4);
    checksum.total = checksum.total.wrapping_sub(1);
    let forged: String = header
        .to_bytes()
        .unwrap()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let length = &stored[..8];
    one(
        &mut client,
        &format!("UPDATE {table} SET data = decode('{length}{forged}', 'hex') {at}"),
    );
    // A session that does not remember the header.
    let mut client = cluster.connect().unwrap();
    assert_eq!(
        rows(&mut client, verified),
        [
            "0|t|∅",
            "1|f|the checksum of its rows is not that of the header"
        ]
    );
    // It is the header's that is taken.
    let (count, sum) = before.split_once('|').unwrap();
    let less = u128::from_str_radix(sum, 16).unwrap().wrapping_sub(1);
    assert_eq!(one(&mut client, &sums("t")), format!("{count}|{less:032x}"));
    assert_eq!(before, expected(&mut client, "t"));
    // Written anew, it is right.
    one(&mut client, "SELECT varve.set_tier('t', 'cold')");
    assert_eq!(one(&mut client, &sums("t")), before);
    assert_eq!(rows(&mut client, verified), ["0|t|∅", "1|t|∅"]);
}

/// Statements of the random test; `{a}` and `{b}` are symbols, `{h}` an hour.
const CHANGES: &[&str] = &[
    "UPDATE {t} SET close = close + {a} WHERE symbol = {a} AND ts >= {h} AND ts < {h} + interval '30 hours'",
    "UPDATE {t} SET note = CASE WHEN note IS NULL THEN 'n' || volume END WHERE symbol IN ({a}, {b}) AND ts > {h}",
    "UPDATE {t} SET ts = ts + interval '1 second' WHERE symbol = {a} AND ts = {h}",
    "DELETE FROM {t} WHERE symbol = {b} AND ts >= {h} AND ts < {h} + interval '9 hours'",
    "DELETE FROM {t} WHERE ts = {h}",
    "INSERT INTO {t} SELECT {a}, {h} + i * interval '1 min', i, NULL, repeat('x', i) FROM generate_series(1, 20) i ON CONFLICT DO NOTHING",
    "INSERT INTO {t} SELECT {b}, {h} + i * interval '1 h', i, {a}, NULL FROM generate_series(1, 40) i ON CONFLICT (symbol, ts) DO UPDATE SET close = excluded.close, volume = NULL",
    "SELECT FROM {t} WHERE symbol = {a} AND ts > {h} FOR UPDATE",
];

#[test]
fn random_changes() {
    let number =
        |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let steps = number("VARVE_CHECKSUM_STEPS", 250);
    let seed = number("VARVE_SEED", 6);
    let (_cluster, mut client) = start();
    twin::create(&mut client).unwrap();
    let mut random = Random::new(seed);
    let mut within = 0;
    let mut script: Vec<String> = Vec::new();
    let mut columns = 0;
    for _ in 0..steps {
        let hour = twin::at(random.below(twin::HOURS as u64) as i32);
        let [a, b] = [1, 2].map(|_| (random.below(twin::SYMBOLS as u64) + 1).to_string());
        let sql = match random.below(if within > 0 { 14 } else { 20 }) {
            0 if within == 0 => {
                within = 1;
                "BEGIN".to_string()
            }
            0 | 1 if within > 0 && within < 4 => {
                within += 1;
                format!("SAVEPOINT s{within}")
            }
            2 if within > 1 => {
                within -= 1;
                format!("ROLLBACK TO s{}; RELEASE s{}", within + 1, within + 1)
            }
            3 if within > 0 => {
                within = 0;
                ["COMMIT", "ROLLBACK"][random.below(2) as usize].to_string()
            }
            14 => FREEZE.into(),
            15 => COLD.into(),
            16 => THAW.into(),
            17 => FREEZE.replace("'bars'", &format!("'bars', older_than => {hour}")),
            18 if columns < 20 => {
                columns += 1;
                let default = ["", " DEFAULT 3"][random.below(2) as usize];
                both(&format!("ALTER TABLE {{t}} ADD c{columns} int{default}"))
            }
            19 if columns > 0 => {
                let column = random.below(columns) + 1;
                both(&format!(
                    "ALTER TABLE {{t}} DROP COLUMN IF EXISTS c{column}"
                ))
            }
            _ => {
                let change = random.pick(CHANGES).unwrap();
                both(
                    &change
                        .replace("{a}", &a)
                        .replace("{b}", &b)
                        .replace("{h}", &hour),
                )
            }
        };
        // What is written is frozen by some of the statements that write.
        let frozen = within == 0 && random.below(10) == 0;
        let set = frozen.then(|| "SET varve.debug_freeze = 'commit'".to_string());
        let reset = frozen.then(|| "RESET varve.debug_freeze".to_string());
        for sql in set.into_iter().chain([sql]).chain(reset) {
            script.push(sql);
            let sql = script.last().unwrap();
            if let Err(e) = simple(&mut client, sql) {
                panic!("seed {seed}: {e:?} after {script:#?}");
            }
        }
        check_bars(&mut client, &format!("seed {seed}, {script:#?}"));
    }
    if within > 0 {
        one(&mut client, "COMMIT");
    }
    twin::check(&mut client, "after the random changes");
}
