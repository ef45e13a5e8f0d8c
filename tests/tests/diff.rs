//! `varve.diff`: what it tells, what it refuses, which rows it sees, and how much memory it takes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use varve_tests::cluster::Cluster;
use varve_tests::session::{Session, one, rows, simple};
use varve_tests::wait;

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// What differs, in the order of the keys: operation, key, changed columns.
fn diff(client: &mut Client, arguments: &str) -> Vec<String> {
    rows(
        client,
        &format!("SELECT op, key, changed FROM varve.diff({arguments}) ORDER BY key, op"),
    )
}

/// SQLSTATE, message and detail of an error of varve's own, which has a hint.
fn refused(client: &mut Client, sql: &str) -> (String, String, String) {
    let error = client.simple_query(sql).expect_err(sql);
    let error = error.as_db_error().unwrap();
    assert!(error.hint().is_some(), "{sql}: {error}");
    (
        error.code().code().to_string(),
        error.message().to_string(),
        error.detail().unwrap_or_default().to_string(),
    )
}

/// One article is new, one is gone, three have changed.
#[test]
fn the_example() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE monday (article int PRIMARY KEY, name text, price numeric, stock int);
         INSERT INTO monday VALUES (1, 'pencil', 0.80, 500), (2, 'eraser', 1.20, 80), (3, 'ruler', 2.50, 40), (4, 'glue', 3.10, NULL), (5, 'chalk', 0.30, 900);
         CREATE TABLE tuesday (LIKE monday INCLUDING ALL);
         INSERT INTO tuesday VALUES (1, 'pencil', 0.8, 480), (2, 'eraser', 1.20, 80), (3, 'ruler, 30 cm', 2.75, 40), (4, 'glue', 3.10, 12), (6, 'crayon', 4.00, 25)",
    );
    assert_eq!(
        rows(
            &mut client,
            "SELECT * FROM varve.diff('monday', 'tuesday') ORDER BY key"
        ),
        [
            r#"update|{"article": 1}|{stock}|{"name": "pencil", "price": 0.80, "stock": 500, "article": 1}|{"name": "pencil", "price": 0.8, "stock": 480, "article": 1}"#,
            r#"update|{"article": 3}|{name,price}|{"name": "ruler", "price": 2.50, "stock": 40, "article": 3}|{"name": "ruler, 30 cm", "price": 2.75, "stock": 40, "article": 3}"#,
            r#"update|{"article": 4}|{stock}|{"name": "glue", "price": 3.10, "stock": null, "article": 4}|{"name": "glue", "price": 3.10, "stock": 12, "article": 4}"#,
            r#"delete|{"article": 5}|∅|{"name": "chalk", "price": 0.30, "stock": 900, "article": 5}|∅"#,
            r#"insert|{"article": 6}|∅|∅|{"name": "crayon", "price": 4.00, "stock": 25, "article": 6}"#,
        ]
    );
    // The other way round, with itself, with nothing, in the list of columns, and more than once in a statement.
    assert_eq!(
        diff(&mut client, "'tuesday', 'monday'")[3..],
        [r#"insert|{"article": 5}|∅"#, r#"delete|{"article": 6}|∅"#]
    );
    assert!(diff(&mut client, "'tuesday', 'tuesday'").is_empty());
    one(
        &mut client,
        "CREATE TABLE nobody (LIKE monday INCLUDING ALL)",
    );
    assert_eq!(diff(&mut client, "'nobody', 'monday'").len(), 5);
    assert_eq!(diff(&mut client, "'monday', 'nobody'").len(), 5);
    assert!(diff(&mut client, "'nobody', 'nobody'").is_empty());
    assert_eq!(
        one(
            &mut client,
            "SELECT count(*), count(DISTINCT d) FROM (SELECT varve.diff('monday', x::regclass) d FROM (VALUES ('tuesday'), ('tuesday')) v (x)) x"
        ),
        "10|5"
    );
}

/// Columns by name: another order, columns that one side lacks, other types of a class, keys of several columns, NULLs.
#[test]
fn columns_and_keys() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE a (x int, y text, gone int, v float8, w numeric); ALTER TABLE a DROP gone;
         CREATE TABLE b (w numeric, added text, v real, y varchar(9), x bigint);
         INSERT INTO a VALUES (1, 'a', 'NaN', 1.0), (1, 'b', -0.0, 'NaN'), (1, NULL, 2, 3), (NULL, NULL, 4, 5), (2, 'c', NULL, NULL), (3, 'd', 0, 0);
         INSERT INTO b (x, y, v, w, added) VALUES (1, 'a', 'NaN', 1.000, NULL), (1, 'b', 0.0, 'NaN', NULL), (1, NULL, 2, 3, NULL), (NULL, NULL, 4, 5.0, NULL), (2, 'c', NULL, NULL, NULL), (3, 'd', 0, 0, NULL)",
    );
    let key = "'a', 'b', '{x,y}'";
    assert!(diff(&mut client, key).is_empty());
    one(
        &mut client,
        "UPDATE b SET added = 'new' WHERE y = 'a'; UPDATE b SET w = 5.01, v = NULL WHERE x IS NULL; UPDATE b SET v = 'NaN' WHERE y = 'b';
         DELETE FROM b WHERE x = 1 AND y IS NULL; INSERT INTO b (x, y) VALUES (2, NULL); UPDATE b SET w = 0.000 WHERE x = 2",
    );
    let expected = [
        r#"update|{"x": null, "y": null}|{w,v}"#,
        r#"delete|{"x": 1, "y": null}|∅"#,
        r#"update|{"x": 1, "y": "a"}|{added}"#,
        r#"update|{"x": 1, "y": "b"}|{v}"#,
        r#"insert|{"x": 2, "y": null}|∅"#,
        r#"update|{"x": 2, "y": "c"}|{w}"#,
    ];
    assert_eq!(diff(&mut client, key), expected);
    // The same key in another order, and named twice; the other direction; views; materialized and partitioned ones, heirs.
    assert_eq!(diff(&mut client, "'a', 'b', '{y,x,y}'").len(), 6);
    assert_eq!(
        diff(&mut client, "'b', 'a', '{x,y}'")[2],
        r#"update|{"x": 1, "y": "a"}|{added}"#
    );
    one(
        &mut client,
        "CREATE VIEW va AS SELECT v, y, w, x FROM a; CREATE MATERIALIZED VIEW vb AS SELECT * FROM b;
         CREATE TABLE pb (LIKE b) PARTITION BY LIST (x); CREATE TABLE pb1 PARTITION OF pb FOR VALUES IN (1); CREATE TABLE pb2 PARTITION OF pb DEFAULT; INSERT INTO pb SELECT * FROM b;
         CREATE TABLE ia (LIKE a); CREATE TABLE heir (more int) INHERITS (ia); INSERT INTO ia SELECT * FROM a WHERE x = 1; INSERT INTO heir SELECT * FROM a WHERE x = 1 IS NOT TRUE",
    );
    for old in ["a", "va", "ia"] {
        for new in ["b", "vb", "pb"] {
            let found = diff(&mut client, &format!("'{old}', '{new}', '{{x,y}}'"));
            assert_eq!(found, expected, "{old} {new}");
        }
    }
    // Column names that have to be quoted; a key that is all there is; long values, elsewhere and compressed.
    one(
        &mut client,
        r#"CREATE TABLE "O'Old" ("Der ""Schlüssel""" text PRIMARY KEY, "Großer Wert" text);
           CREATE TABLE "neu" ("Großer Wert" text, "Der ""Schlüssel""" text PRIMARY KEY); ALTER TABLE neu ALTER 1 SET STORAGE EXTERNAL;"#
            .replace("ALTER 1 ", "ALTER \"Großer Wert\" ")
            .as_str(),
    );
    one(
        &mut client,
        r#"INSERT INTO "O'Old" SELECT i, repeat('lang ', 10000 * i) || i FROM generate_series(1, 9) i;
           INSERT INTO neu SELECT repeat('lang ', 10000 * i) || nullif(i, 4), i FROM generate_series(1, 9) i; UPDATE neu SET "Großer Wert" = repeat('lang ', 70000) || 8 WHERE "Der ""Schlüssel""" = '7'"#,
    );
    assert_eq!(
        diff(&mut client, r#"'"O''Old"', 'neu'"#),
        [
            r#"update|{"Der \"Schlüssel\"": "4"}|{"Großer Wert"}"#,
            r#"update|{"Der \"Schlüssel\"": "7"}|{"Großer Wert"}"#
        ]
    );
    one(
        &mut client,
        "CREATE TABLE k1 AS SELECT i AS k FROM generate_series(1, 3) i; CREATE TABLE k2 AS SELECT i::int2 AS k FROM generate_series(2, 4) i",
    );
    assert_eq!(
        diff(&mut client, "'k1', 'k2', '{k}'"),
        [r#"delete|{"k": 1}|∅"#, r#"insert|{"k": 4}|∅"#]
    );
}

/// Where no key is named: the primary key of the new relation, else its only unique index of NOT NULL columns.
#[test]
fn default_keys() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE plain AS SELECT i AS a, i AS b, i AS c FROM generate_series(1, 3) i; CREATE TABLE keyed (LIKE plain); INSERT INTO keyed VALUES (1, 1, 1), (2, 5, 2), (3, 3, 3)",
    );
    let code = |client: &mut Client| refused(client, "SELECT varve.diff('plain', 'keyed')").0;
    assert_eq!(code(&mut client), "42P16");
    // Indexes by which rows may be the same.
    one(
        &mut client,
        "CREATE UNIQUE INDEX ON keyed (a); CREATE UNIQUE INDEX ON keyed (b) WHERE b > 0; CREATE UNIQUE INDEX ON keyed ((a + 1)); ALTER TABLE keyed ALTER b SET NOT NULL;
         ALTER TABLE keyed ADD UNIQUE (b) DEFERRABLE",
    );
    assert_eq!(code(&mut client), "42P16");
    one(&mut client, "ALTER TABLE keyed ALTER a SET NOT NULL");
    assert_eq!(
        diff(&mut client, "'plain', 'keyed'"),
        [r#"update|{"a": 2}|{b}"#]
    );
    one(&mut client, "CREATE UNIQUE INDEX ON keyed (b, a)");
    let (code, message, _) = refused(&mut client, "SELECT varve.diff('plain', 'keyed')");
    assert_eq!(
        (code.as_str(), message.as_str()),
        (
            "42702",
            "public.keyed has no primary key and 2 unique indexes of NOT NULL columns"
        )
    );
    one(&mut client, "ALTER TABLE keyed ADD PRIMARY KEY (b)");
    assert_eq!(
        diff(&mut client, "'plain', 'keyed'"),
        [r#"delete|{"b": 2}|∅"#, r#"insert|{"b": 5}|∅"#]
    );
}

#[test]
fn bad_input() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1); CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1, '1');
         CREATE TABLE w (id text PRIMARY KEY, v int); CREATE TABLE other (x int PRIMARY KEY); CREATE TABLE nothing (); CREATE VIEW seen AS TABLE t;
         CREATE TABLE more (id int PRIMARY KEY, v int, n int); CREATE TABLE rights (id int PRIMARY KEY, r aclitem); CREATE SEQUENCE s; CREATE TYPE c AS (id int); CREATE INDEX i ON t (v);
         CREATE TABLE arrays (id int PRIMARY KEY, v int[])",
    );
    for (arguments, code, message) in [
        ("'t', 'seen'", "42P16", "public.seen has no primary key"),
        ("'t', 't', '{}'", "22023", "the key has no columns"),
        ("'t', 't', '{NULL}'", "22004", "must not be NULL"),
        ("NULL, 't'", "22004", "a relation must not be NULL"),
        ("'t', NULL", "22004", "a relation must not be NULL"),
        (
            "'t', 't', '{id,nix}'",
            "42703",
            "column \"nix\" of public.t does not exist",
        ),
        (
            "'t', 'more', '{n}'",
            "42703",
            "column \"n\" of public.t does not exist",
        ),
        (
            "'other', 't'",
            "42703",
            "public.other and public.t have no column in common",
        ),
        (
            "'t', 'w'",
            "42804",
            "key column \"id\" is of type integer in public.t but of type text in public.w",
        ),
        (
            "'t', 'u'",
            "42804",
            "column \"v\" is of type integer in public.t but of type text in public.u",
        ),
        (
            "'t', 'arrays'",
            "42804",
            "column \"v\" is of type integer in public.t but of type integer[] in public.arrays",
        ),
        (
            "'nothing', 'nothing'",
            "42P16",
            "public.nothing has no primary key",
        ),
        ("'nothing', 't'", "42703", "have no column in common"),
        (
            "'rights', 'rights'",
            "42883",
            "no binary output function available for type aclitem",
        ),
        ("'s', 't'", "42809", "public.s has no rows to compare"),
        ("'c', 't'", "42809", "public.c has no rows to compare"),
        ("'t', 'i'", "42809", "public.i has no rows to compare"),
        ("4294967295::regclass, 't'", "42P01", "does not exist"),
    ] {
        let (found, words, _) = refused(&mut client, &format!("SELECT varve.diff({arguments})"));
        assert!(
            found == code && words.contains(message),
            "{arguments}: {found} {words}"
        );
    }
    // The session goes on.
    assert!(diff(&mut client, "'t', 't'").is_empty());
}

/// Several rows of one key: an error that shows them, wherever they are and whether they are the same or not.
#[test]
fn duplicates() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE a AS SELECT i AS id, i % 7 AS v FROM generate_series(1, 3000) i; CREATE TABLE b AS TABLE a; INSERT INTO a VALUES (NULL, 1); INSERT INTO b VALUES (NULL, 1)",
    );
    for memory in ["4MB", "64kB"] {
        one(&mut client, &format!("SET work_mem = '{memory}'"));
        for (insert, expected) in [
            (
                "INSERT INTO a VALUES (77, 0)",
                "2 rows of public.a have the key {\"id\": 77}.",
            ),
            (
                "INSERT INTO b VALUES (NULL, 8), (NULL, 9)",
                "3 rows of public.b have the key {\"id\": null}.",
            ),
            // The same rows, as often in both.
            (
                "INSERT INTO a VALUES (-5, 1), (-5, 1); INSERT INTO b VALUES (-5, 1), (-5, 1)",
                "2 rows of public.a have the key {\"id\": -5}.\n2 rows of public.b have the key {\"id\": -5}.",
            ),
            (
                "INSERT INTO a VALUES (-5, 1), (-5, 2); INSERT INTO b VALUES (-5, 2)",
                "2 rows of public.a have the key {\"id\": -5}.",
            ),
        ] {
            one(&mut client, "BEGIN");
            one(&mut client, insert);
            let (code, message, detail) =
                refused(&mut client, "SELECT varve.diff('a', 'b', '{id}')");
            assert_eq!(
                (code.as_str(), message.as_str(), detail.as_str()),
                ("21000", "several rows have the same key", expected),
                "{insert}"
            );
            one(&mut client, "ROLLBACK");
            assert!(diff(&mut client, "'a', 'b', '{id}'").is_empty());
        }
    }
    // Where very many are there, some are shown. What is the same by its cells, is the same: 1.0 and 1.00, 0 and -0.
    let (_, _, detail) = refused(&mut client, "SELECT varve.diff('a', 'b', '{v}')");
    assert_eq!(detail.lines().count(), 3, "{detail}");
    one(
        &mut client,
        "CREATE TABLE n AS SELECT 1.0 AS id UNION ALL SELECT 1.00; CREATE TABLE f AS SELECT float8 '0' AS id UNION ALL SELECT '-0'",
    );
    for table in ["n", "f"] {
        let sql = format!("SELECT varve.diff('{table}', '{table}', '{{id}}')");
        assert_eq!(refused(&mut client, &sql).0, "21000");
    }
    // An index of a parent says nothing of its heirs.
    one(
        &mut client,
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1), (2); CREATE TABLE h () INHERITS (p); INSERT INTO h VALUES (2)",
    );
    assert_eq!(
        refused(&mut client, "SELECT varve.diff('p', 'p')").0,
        "21000"
    );
}

/// The hypertable has a unique index, and one of its chunks none.
#[test]
fn a_chunk_without_its_index() {
    let (_cluster, mut client) = start();
    for table in ["a", "b"] {
        one(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int NOT NULL, v int); SELECT create_hypertable('{table}', 'id', chunk_time_interval => 1000, create_default_indexes => false); CREATE UNIQUE INDEX ON {table} (id);
                 INSERT INTO {table} SELECT i, i FROM generate_series(1, 3000) i"
            ),
        );
    }
    assert!(diff(&mut client, "'a', 'b'").is_empty());
    let index = "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = (SELECT c FROM show_chunks('a') c ORDER BY c LIMIT 1)";
    let index = one(&mut client, index);
    one(
        &mut client,
        &format!("DROP INDEX {index}; INSERT INTO a VALUES (7, 8)"),
    );
    for arguments in ["'a', 'b'", "'b', 'a'"] {
        let sql = format!("SELECT varve.diff({arguments})");
        assert_eq!(refused(&mut client, &sql).0, "21000");
    }
}

/// Indexes by which rows differ whose cells are the same.
#[test]
fn indexes_of_other_operator_classes() {
    let (_cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TYPE amount AS (n numeric); CREATE TABLE a (k amount NOT NULL, v int); CREATE UNIQUE INDEX ON a (k record_image_ops);
         INSERT INTO a VALUES (ROW(1.0), 1), (ROW(1.00), 2), (ROW(2), 3); CREATE TABLE b (k amount PRIMARY KEY, v int); INSERT INTO b VALUES (ROW(1), 2), (ROW(2.0), 3)",
    );
    for arguments in ["'a', 'b'", "'b', 'a'"] {
        let sql = format!("SELECT varve.diff({arguments})");
        assert_eq!(refused(&mut client, &sql).0, "21000");
    }
    one(&mut client, "DELETE FROM a WHERE v = 1");
    assert!(diff(&mut client, "'a', 'b'").is_empty());
    // Others that say the same as the default.
    for (typ, class) in [
        ("text", "text_pattern_ops"),
        ("varchar(20)", "varchar_ops"),
        ("name", "name_ops"),
    ] {
        one(
            &mut client,
            &format!(
                "CREATE TABLE c (k {typ} NOT NULL, v int); CREATE UNIQUE INDEX ON c (k {class}); INSERT INTO c VALUES ('a', 1), ('b', 2);
                 CREATE TABLE d AS TABLE c; ALTER TABLE d ALTER k SET NOT NULL; CREATE UNIQUE INDEX ON d (k {class}); UPDATE d SET v = 5 WHERE k = 'b'"
            ),
        );
        assert_eq!(diff(&mut client, "'c', 'd'"), [r#"update|{"k": "b"}|{v}"#]);
        one(&mut client, "DROP TABLE c, d");
    }
}

/// Rows are read by the caller's rights, row security too.
#[test]
fn privileges() {
    let (cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE a (id int PRIMARY KEY, who text); INSERT INTO a SELECT i, 'me' FROM generate_series(1, 10) i; CREATE TABLE b (LIKE a INCLUDING ALL); INSERT INTO b SELECT id + 1, who FROM a;
         CREATE ROLE reader LOGIN; GRANT SELECT ON a TO reader; GRANT SELECT (id) ON b TO reader",
    );
    let mut reader = cluster
        .config("postgres")
        .user("reader")
        .connect(NoTls)
        .unwrap();
    let denied = |reader: &mut Client| simple(reader, "SELECT varve.diff('a', 'b')").unwrap_err();
    assert_eq!(denied(&mut reader).code, "42501");
    one(
        &mut client,
        "GRANT SELECT ON b TO reader; REVOKE SELECT ON a FROM reader",
    );
    assert_eq!(denied(&mut reader).code, "42501");
    one(
        &mut client,
        "GRANT SELECT ON a TO reader; ALTER TABLE a ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON a USING (id > 2)",
    );
    assert_eq!(
        diff(&mut reader, "'a', 'b'"),
        [r#"insert|{"id": 2}|∅"#, r#"insert|{"id": 11}|∅"#]
    );
    assert_eq!(
        diff(&mut client, "'a', 'b'"),
        [r#"delete|{"id": 1}|∅"#, r#"insert|{"id": 11}|∅"#]
    );
}

/// Two tables of so many rows, of which every hundredth has changed; the new one in another order.
fn large(client: &mut Client, rows: u64) {
    one(
        client,
        &format!(
            "CREATE TABLE a (id int PRIMARY KEY, v int, words text); INSERT INTO a SELECT i, i % 1000, 'row ' || i FROM generate_series(1, {rows}) i;
             CREATE TABLE b (LIKE a INCLUDING ALL); INSERT INTO b SELECT id, v + (id % 100 = 0)::int, words FROM a ORDER BY hashint4(id);
             CREATE VIEW va AS TABLE a; CREATE VIEW vb AS TABLE b"
        ),
    );
}

/// What goes through files comes to the same.
#[test]
fn spilling() {
    let (_cluster, mut client) = start();
    large(&mut client, 50_000);
    let all = "SELECT md5(string_agg(d::text, ';' ORDER BY key)), count(*) FROM varve.diff";
    let mut found = Vec::new();
    for memory in ["64kB", "256kB", "64MB"] {
        one(&mut client, &format!("SET work_mem = '{memory}'"));
        one(
            &mut client,
            "SET log_temp_files = 0; SET client_min_messages = log",
        );
        for relations in ["('a', 'b')", "('va', 'vb', '{id}')"] {
            found.push(one(&mut client, &format!("{all} {relations} d")));
            assert!(found.last().unwrap().ends_with("|500"), "{found:?}");
        }
    }
    found.dedup();
    assert_eq!(found.len(), 1, "{found:?}");
    let files = "SELECT temp_files FROM pg_stat_database WHERE datname = 'postgres'";
    one(&mut client, "SELECT pg_stat_force_next_flush()");
    let spilled: u64 = one(&mut client, files).parse().unwrap();
    assert!(spilled > 0);
    // Everything has changed.
    one(
        &mut client,
        "SET work_mem = '64kB'; UPDATE b SET words = words || '!'",
    );
    assert_eq!(
        one(
            &mut client,
            "SELECT op, changed, count(*) FROM varve.diff('a', 'b') GROUP BY 1, 2 ORDER BY 3"
        ),
        "update|{v,words}|500update|{words}|49500"
    );
}

/// Memory of the server process, in kB.
fn resident(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_does_not_grow_with_rows() {
    let (cluster, mut client) = start();
    one(
        &mut client,
        "CREATE VIEW small AS SELECT i AS id, 'row ' || i AS words FROM generate_series(1, 1000) i;
         CREATE VIEW a AS SELECT i AS id, 'row ' || i AS words FROM generate_series(1, 100) j, LATERAL generate_series(j * 50000, j * 50000 + 49999) i;
         CREATE VIEW b AS SELECT i AS id, 'row ' || i + (i % 1000000 = 0)::int AS words FROM generate_series(100, 1, -1) j, LATERAL generate_series(j * 50000, j * 50000 + 49999) i",
    );
    let mut session = Session::new(&cluster).unwrap();
    session
        .start("SET work_mem = '1MB'; SELECT count(*) FROM varve.diff('small', 'small', '{id}')");
    assert_eq!(session.finish().unwrap(), ["0"]);
    let pid = session.pid().to_string();
    let before = resident(&pid);
    session.start(
        "SELECT string_agg(op || ' ' || key, ', ' ORDER BY key) FROM varve.diff('a', 'b', '{id}')",
    );
    let mut most = before;
    wait::until("the comparison of 5 million rows", || {
        most = most.max(resident(&pid));
        session.done()
    });
    assert_eq!(
        session.finish().unwrap(),
        [
            r#"update {"id": 1000000}, update {"id": 2000000}, update {"id": 3000000}, update {"id": 4000000}, update {"id": 5000000}"#
        ]
    );
    assert!(
        most < before + 20_000,
        "{before} kB before, up to {most} kB"
    );
}

/// Both readings see what the statement sees.
#[test]
fn snapshots() {
    let (cluster, mut client) = start();
    large(&mut client, 2000);
    // Under REPEATABLE READ others' changes stay unseen, one's own do not.
    let mut other = cluster.connect().unwrap();
    one(
        &mut client,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM a",
    );
    one(
        &mut other,
        "UPDATE b SET v = -1 WHERE id <= 50; DELETE FROM a WHERE id > 1990; INSERT INTO b VALUES (5000, 1, 'x')",
    );
    assert_eq!(diff(&mut client, "'a', 'b'").len(), 20);
    one(&mut client, "UPDATE b SET v = -2 WHERE id = 77");
    assert_eq!(diff(&mut client, "'a', 'b'").len(), 21);
    one(&mut client, "ROLLBACK");
    assert_eq!(diff(&mut client, "'a', 'b'").len(), 19 + 50 + 10 + 1);
    // In the middle of a transaction, and of a function that writes.
    one(
        &mut client,
        "CREATE FUNCTION writes() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN UPDATE b SET v = -3 WHERE id = 78; RETURN (SELECT count(*) FROM varve.diff('a', 'b')); END $$",
    );
    assert_eq!(one(&mut client, "SELECT writes()"), "81");
    // A writer who moves one amount from row to row, always in both tables: no moment has a difference.
    one(
        &mut client,
        "CREATE TABLE c AS TABLE a; ALTER TABLE c ADD PRIMARY KEY (id)",
    );
    let mut writer = Session::new(&cluster).unwrap();
    writer.start(
        "DO $$ BEGIN FOR i IN 1..400 LOOP
             UPDATE a SET v = v + 1 WHERE id = i; UPDATE c SET v = v + 1 WHERE id = i;
             DELETE FROM a WHERE id = i + 500; DELETE FROM c WHERE id = i + 500; COMMIT;
             END LOOP; END $$",
    );
    let mut looks = 0;
    while !writer.done() || looks == 0 {
        assert!(diff(&mut client, "'a', 'c'").is_empty());
        looks += 1;
    }
    writer.finish().unwrap();
    assert_eq!(one(&mut client, "SELECT count(*) FROM a"), "1590");
}

#[test]
fn cancelled() {
    let (cluster, mut client) = start();
    one(
        &mut client,
        "CREATE VIEW endless AS SELECT i AS id FROM generate_series(1, 1000000000) i",
    );
    let mut session = Session::new(&cluster).unwrap();
    session.start("SET work_mem = '64kB'; SELECT * FROM varve.diff('endless', 'endless', '{id}')");
    let pid = session.pid();
    wait::until("temporary files", || {
        one(&mut client, "SELECT count(*) > 0 FROM pg_ls_tmpdir()") == "t"
    });
    one(&mut client, &format!("SELECT pg_cancel_backend({pid})"));
    assert_eq!(session.finish().unwrap_err().code, "57014");
    // The server tells the error before it has cleaned up behind it.
    wait::until("the temporary files to go", || {
        one(&mut client, "SELECT count(*) FROM pg_ls_tmpdir()") == "0"
    });
    // After an error that is caught in a subtransaction, the session goes on.
    session.start(
        "CREATE VIEW twice AS SELECT i % 50000 AS id FROM generate_series(1, 100000) i; CREATE VIEW once AS SELECT i AS id FROM generate_series(1, 100000) i;
         DO $$ BEGIN PERFORM varve.diff('twice', 'twice', '{id}'); EXCEPTION WHEN cardinality_violation THEN NULL; END $$;
         SELECT count(*) FROM varve.diff('once', 'once', '{id}')",
    );
    assert_eq!(session.finish().unwrap(), ["0"]);
    assert_eq!(one(&mut client, "SELECT count(*) FROM pg_ls_tmpdir()"), "0");
}

/// More in temporary files than the session may have.
#[test]
fn no_room_for_temporary_files() {
    let (_cluster, mut client) = start();
    large(&mut client, 100_000);
    one(
        &mut client,
        "SET work_mem = '64kB'; SET temp_file_limit = '1MB';
         CREATE FUNCTION tries() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
            BEGIN PERFORM varve.diff('a', 'b'); EXCEPTION WHEN configuration_limit_exceeded THEN NULL; END;
            RETURN (SELECT count(*) FROM pg_ls_tmpdir()); END $$",
    );
    let files = "SELECT count(*) FROM pg_ls_tmpdir()";
    for relations in ["'a', 'b'", "'va', 'vb', '{id}'"] {
        let failed = simple(&mut client, &format!("SELECT varve.diff({relations})"));
        assert_eq!(failed.expect_err(relations).code, "53400", "{relations}");
        assert_eq!(one(&mut client, files), "0");
    }
    // The subtransaction takes them back, and what they counted for.
    assert_eq!(one(&mut client, "SELECT tries(), tries()"), "0|0");
    let count = "SELECT count(*) FROM varve.diff('a', 'b')";
    one(
        &mut client,
        "BEGIN; SELECT tries(); SET LOCAL temp_file_limit = -1",
    );
    assert_eq!(one(&mut client, count), "1000");
    one(&mut client, "COMMIT; RESET work_mem");
    assert_eq!(one(&mut client, count), "1000");
    assert_eq!(one(&mut client, files), "0");
}
