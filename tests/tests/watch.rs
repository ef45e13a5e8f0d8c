//! `varve.watch` and `varve.detect_changes`: what they tell, what they refuse, and what a checkpoint keeps of the past.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod watch_common;

use postgres::Client;
use varve_tests::session::{one, rows, simple};
use varve_tests::twin::{self, COLD, FREEZE, THAW};
use watch_common::{changes, counts, kept, refused, start};

#[test]
fn the_example() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE prices (article int PRIMARY KEY, name text, price numeric);
         INSERT INTO prices VALUES (1, 'pencil', 0.80), (2, 'eraser', 1.20), (3, 'ruler', 2.50)",
    );
    assert_eq!(one(&mut client, "SELECT varve.watch('prices')"), "3");
    assert_eq!(changes(&mut client, "'prices'"), [""; 0]);
    one(
        &mut client,
        "UPDATE prices SET price = 0.90 WHERE article = 1; UPDATE prices SET price = 1.2 WHERE article = 2;
         DELETE FROM prices WHERE article = 3; INSERT INTO prices VALUES (4, 'glue', 3.10)",
    );
    let told = "SELECT * FROM varve.detect_changes('prices', advance => false) ORDER BY key";
    let expected = [
        r#"update|{"article": 1}|{"name": "pencil", "price": 0.90, "article": 1}"#,
        r#"delete|{"article": 3}|∅"#,
        r#"insert|{"article": 4}|{"name": "glue", "price": 3.10, "article": 4}"#,
    ];
    assert_eq!(rows(&mut client, told), expected);
    // A peek leaves all as it is; what is taken is not told again.
    let take = told.replace(", advance => false", "");
    assert_eq!(rows(&mut client, &take), expected);
    assert_eq!(rows(&mut client, &take), [""; 0]);
    assert_eq!(
        one(
            &mut client,
            "SELECT relation, checkpoint, key, rows, owner, retained_bytes FROM varve.watches"
        ),
        "prices|default|{article}|3|postgres|0"
    );
    // Several checkpoints know nothing of each other; one that is taken anew begins there.
    one(
        &mut client,
        "SELECT varve.watch('prices', checkpoint => 'billing'); DELETE FROM prices WHERE article = 1",
    );
    assert_eq!(
        counts(&mut client, "'prices', checkpoint => 'billing'"),
        "delete 1"
    );
    assert_eq!(counts(&mut client, "'prices', checkpoint => 'billing'"), "");
    assert_eq!(counts(&mut client, "'prices'"), "delete 1");
    one(
        &mut client,
        "DELETE FROM prices WHERE article = 2; SELECT varve.watch('prices')",
    );
    assert_eq!(counts(&mut client, "'prices'"), "");
    // What a transaction or a savepoint takes back has not been told.
    one(&mut client, "BEGIN");
    assert_eq!(
        counts(&mut client, "'prices', checkpoint => 'billing'"),
        "delete 1"
    );
    one(
        &mut client,
        "INSERT INTO prices VALUES (9, 'nib', 1); SAVEPOINT s",
    );
    assert_eq!(
        counts(&mut client, "'prices', checkpoint => 'billing'"),
        "insert 1"
    );
    one(&mut client, "ROLLBACK TO s");
    assert_eq!(
        counts(&mut client, "'prices', checkpoint => 'billing'"),
        "insert 1"
    );
    one(&mut client, "ROLLBACK");
    assert_eq!(
        counts(&mut client, "'prices', checkpoint => 'billing'"),
        "delete 1"
    );
    // Without a checkpoint there is nothing to compare with, and with its table it goes.
    one(&mut client, "SELECT varve.unwatch('prices', 'billing')");
    assert!(
        refused(
            &mut client,
            "SELECT varve.detect_changes('prices', checkpoint => 'billing')"
        )
        .starts_with("42704 public.prices has no checkpoint \"billing\"")
    );
    assert!(refused(&mut client, "SELECT varve.unwatch('prices', 'billing')").starts_with("42704"));
    one(&mut client, "DROP TABLE prices");
    let left = "SELECT (SELECT count(*) FROM varve.checkpoint), (SELECT count(*) FROM varve.checkpoint_chunk), (SELECT count(*) FROM varve.checkpoint_rows)";
    assert_eq!(one(&mut client, left), "0|0|0");
}

/// Whatever is done with the storage of chunks, their rows are what they were; what is lost of it is told.
#[test]
fn storage() {
    let (_cluster, mut client) = start(&[]);
    twin::create(&mut client).unwrap();
    let all: usize = one(&mut client, "SELECT count(*) FROM bars")
        .parse()
        .unwrap();
    one(
        &mut client,
        "SELECT varve.watch('bars'), varve.watch('bars', checkpoint => 'other')",
    );
    let rewrites = [
        FREEZE,
        "ALTER TABLE bars ADD more int",
        COLD,
        FREEZE,
        "SELECT varve.set_tier(c, 'hot') FROM (SELECT c FROM show_chunks('bars') c LIMIT 1) c",
        "VACUUM FULL bars",
        "VACUUM bars",
        "CLUSTER bars USING bars_pkey",
        THAW,
        FREEZE,
        "SELECT count(*) FROM (SELECT FROM bars WHERE symbol = 3 FOR UPDATE) x",
        "UPDATE bars SET close = close, more = NULL WHERE symbol = 4",
        FREEZE,
    ];
    for sql in rewrites {
        rows(&mut client, sql);
        assert_eq!(
            changes(&mut client, "'bars', advance => false"),
            [""; 0],
            "{sql}"
        );
        // One of the checkpoints moves only now and then.
        if sql == FREEZE || sql == THAW {
            assert_eq!(changes(&mut client, "'bars'"), [""; 0], "{sql}");
            assert_eq!(changes(&mut client, "'bars'"), [""; 0], "{sql}");
        }
    }
    let other = "'bars', checkpoint => 'other'";
    assert_eq!(changes(&mut client, other), [""; 0]);
    assert_eq!(kept(&mut client), "0");
    // A rewrite with changes.
    one(
        &mut client,
        "UPDATE bars SET close = -1 WHERE symbol = 2 AND ts < '2024-01-02'",
    );
    rows(&mut client, FREEZE);
    assert_eq!(counts(&mut client, "'bars', advance => false"), "update 24");
    assert_ne!(kept(&mut client), "0");
    let retained = "SELECT bool_and(retained_bytes > 0) FROM varve.watches";
    assert_eq!(one(&mut client, retained), "t");
    rows(&mut client, COLD);
    assert_eq!(counts(&mut client, "'bars'"), "update 24");
    assert_eq!(counts(&mut client, "'bars'"), "");
    assert_ne!(kept(&mut client), "0", "the other checkpoint needs them");
    assert_eq!(counts(&mut client, other), "update 24");
    assert_eq!(kept(&mut client), "0");
    // Chunks that are emptied and dropped, back and forth.
    let chunks = rows(&mut client, "SELECT show_chunks('bars')");
    let rows_of = |client: &mut Client, chunk: &str| -> usize {
        one(client, &format!("SELECT count(*) FROM {chunk}"))
            .parse()
            .unwrap()
    };
    let [first, second] = [0, 1].map(|i| rows_of(&mut client, &chunks[i]));
    one(&mut client, &format!("BEGIN; TRUNCATE {}", chunks[0]));
    assert_eq!(counts(&mut client, "'bars'"), format!("delete {first}"));
    one(&mut client, "ROLLBACK");
    assert_eq!(counts(&mut client, "'bars'"), "");
    assert_eq!(kept(&mut client), "0");
    one(
        &mut client,
        &format!("TRUNCATE {}; DROP TABLE {}", chunks[0], chunks[1]),
    );
    let deleted = format!("delete {}", first + second);
    assert_eq!(counts(&mut client, "'bars', advance => false"), deleted);
    assert_eq!(counts(&mut client, "'bars'"), deleted);
    one(
        &mut client,
        "INSERT INTO bars SELECT * FROM twin ON CONFLICT DO NOTHING",
    );
    assert_eq!(
        counts(&mut client, "'bars'"),
        format!("insert {}", first + second)
    );
    // To the other checkpoint these rows are the same, or what they were before the change.
    assert_eq!(counts(&mut client, other), "update 24");
    assert_eq!(
        one(&mut client, "SELECT rows FROM varve.watches LIMIT 1"),
        all.to_string()
    );
    rows(&mut client, FREEZE);
    one(
        &mut client,
        "UPDATE bars SET close = 5 WHERE symbol = 7 AND ts < '2024-01-01 05:00'",
    );
    assert_eq!(counts(&mut client, "'bars'"), "update 5");
    rows(&mut client, THAW);
    one(
        &mut client,
        "SELECT varve.unwatch('bars'), varve.unwatch('bars', 'other')",
    );
    assert_eq!(kept(&mut client), "0");
    one(&mut client, "SELECT varve.watch('bars')");
    rows(&mut client, FREEZE);
    one(&mut client, "SELECT varve.watch('bars')");
    rows(&mut client, THAW);
    assert_ne!(kept(&mut client), "0");
    one(&mut client, "DROP TABLE bars");
    assert_eq!(kept(&mut client), "0", "they go with the table");
    assert_eq!(
        one(
            &mut client,
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace"
        ),
        "0"
    );
}

/// What is written before, in and after the transaction that takes the checkpoint.
#[test]
fn one_transaction() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "BEGIN; CREATE TABLE t (id int PRIMARY KEY, v int); SELECT varve.enable('t', segment_by => '{}', order_by => '{id}');
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i; SELECT varve.watch('t');
         UPDATE t SET v = 1 WHERE id = 1; SAVEPOINT s; UPDATE t SET v = 1 WHERE id = 2; ROLLBACK TO s; DELETE FROM t WHERE id = 3",
    );
    assert_eq!(
        changes(&mut client, "'t'"),
        [r#"update|{"id": 1}"#, r#"delete|{"id": 3}"#]
    );
    // Emptied without a way back, since the table is of this very transaction.
    one(
        &mut client,
        "TRUNCATE t; INSERT INTO t VALUES (1, 1), (2, 5)",
    );
    assert_eq!(counts(&mut client, "'t'"), "delete 97, update 1");
    one(&mut client, "COMMIT");
    assert_eq!(counts(&mut client, "'t'"), "");
    // Rows that are frozen as the transaction ends.
    one(
        &mut client,
        "SET varve.debug_freeze = 'commit'; BEGIN; INSERT INTO t SELECT i, 0 FROM generate_series(10, 19) i",
    );
    assert_eq!(counts(&mut client, "'t'"), "insert 10");
    one(&mut client, "COMMIT; RESET varve.debug_freeze");
    assert_eq!(counts(&mut client, "'t', advance => false"), "");
    assert_eq!(counts(&mut client, "'t'"), "");
    one(&mut client, "DELETE FROM t WHERE id = 12");
    assert_eq!(changes(&mut client, "'t'"), [r#"delete|{"id": 12}"#]);
}

/// Segments of this very transaction's storage, which TRUNCATE would empty without a way back; and the extension's end.
#[test]
fn storage_that_comes_and_goes() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT varve.enable('t', segment_by => '{}', order_by => '{id}');
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i",
    );
    for end in ["ROLLBACK", "COMMIT"] {
        one(
            &mut client,
            "BEGIN; SELECT varve.set_tier('t', 'warm'); SELECT varve.watch('t'); UPDATE t SET v = 1 WHERE id < 11; TRUNCATE t;
             INSERT INTO t SELECT i, 1 FROM generate_series(1, 20) i",
        );
        assert_eq!(
            counts(&mut client, "'t', advance => false"),
            "delete 80, update 20"
        );
        assert_eq!(kept(&mut client), "1");
        assert_eq!(counts(&mut client, "'t'"), "delete 80, update 20");
        assert_eq!(kept(&mut client), "0");
        one(&mut client, end);
    }
    assert_eq!(counts(&mut client, "'t'"), "");
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), "20");
    // What is kept of the past does not keep the extension.
    one(&mut client, "SELECT varve.set_tier('t', 'warm')");
    one(&mut client, "SELECT varve.watch('t')");
    one(&mut client, "SELECT varve.disable('t')");
    assert_eq!(kept(&mut client), "1");
    assert_eq!(counts(&mut client, "'t', advance => false"), "");
    one(&mut client, "DROP EXTENSION varve");
    assert_eq!(kept(&mut client), "0");
    assert_eq!(one(&mut client, "SELECT count(*) FROM t"), "20");
}

/// Partitions that leave and come back, materialized views, and foreign tables.
#[test]
fn other_relations() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE p (id int, v int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2, 3);
         CREATE TABLE p2 PARTITION OF p DEFAULT PARTITION BY HASH (id); CREATE TABLE p21 PARTITION OF p2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE p22 PARTITION OF p2 FOR VALUES WITH (MODULUS 2, REMAINDER 1); INSERT INTO p SELECT i, 0 FROM generate_series(1, 20) i;
         SELECT varve.enable('p', segment_by => '{}', order_by => '{id}'); SELECT varve.watch('p', key => '{id}')",
    );
    one(
        &mut client,
        "SELECT varve.set_tier('p1', 'warm'), varve.set_tier('p22', 'cold')",
    );
    assert_eq!(counts(&mut client, "'p'"), "");
    one(&mut client, "ALTER TABLE p DETACH PARTITION p1");
    assert_eq!(counts(&mut client, "'p', advance => false"), "delete 3");
    one(
        &mut client,
        "DELETE FROM p1 WHERE id = 2; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1, 2, 3)",
    );
    assert_eq!(changes(&mut client, "'p'"), [r#"delete|{"id": 2}"#]);
    one(&mut client, "ALTER TABLE p DETACH PARTITION p1");
    assert_eq!(counts(&mut client, "'p'"), "delete 2");
    one(&mut client, "DROP TABLE p1");
    assert_eq!(counts(&mut client, "'p'"), "");
    one(
        &mut client,
        "UPDATE p SET v = 1 WHERE id IN (4, 5); DROP TABLE p2",
    );
    assert_eq!(counts(&mut client, "'p'"), "delete 17");
    assert_eq!(kept(&mut client), "0");
    // A key of the whole row.
    one(
        &mut client,
        "CREATE TABLE base (id int PRIMARY KEY, v int); INSERT INTO base SELECT i, i FROM generate_series(1, 50) i;
         CREATE MATERIALIZED VIEW mat AS TABLE base; CREATE UNIQUE INDEX ON mat (id); SELECT varve.watch('mat', key => '{v,id}');
         DELETE FROM base WHERE id = 1; UPDATE base SET v = 0 WHERE id = 2",
    );
    assert_eq!(counts(&mut client, "'mat'"), "");
    one(&mut client, "REFRESH MATERIALIZED VIEW mat");
    assert_eq!(counts(&mut client, "'mat'"), "delete 2, insert 1");
    assert_eq!(counts(&mut client, "'mat'"), "");
    one(&mut client, "DROP MATERIALIZED VIEW mat; DROP TABLE p");
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.watches"), "0");
}

#[test]
fn altered() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c numeric, e text DEFAULT 'x '); INSERT INTO t SELECT i, i, -i, i FROM generate_series(1, 3000) i;
         SELECT varve.enable('t', segment_by => '{}', order_by => '{id}'), varve.watch('t')",
    );
    let error = "55000 public.t was altered since checkpoint \"default\" was taken";
    for (sql, detail) in [
        (
            "ALTER TABLE t DROP b",
            "Its column \"b\" was dropped or renamed.",
        ),
        (
            "ALTER TABLE t RENAME b TO x",
            "Its column \"b\" was dropped or renamed.",
        ),
        (
            "ALTER TABLE t RENAME id TO x",
            "Its column \"id\" was dropped or renamed.",
        ),
        (
            "ALTER TABLE t ALTER b TYPE numeric",
            "Its column \"b\" has a type whose values are others now.",
        ),
    ] {
        one(&mut client, "BEGIN");
        one(&mut client, sql);
        let e = refused(&mut client, "SELECT varve.detect_changes('t')");
        assert_eq!(e, format!("{error} {detail}"), "{sql}");
        one(&mut client, "ROLLBACK");
    }
    // For frozen rows and for others.
    for tier in ["hot", "warm"] {
        one(
            &mut client,
            &format!("SELECT varve.set_tier('t', '{tier}')"),
        );
        assert_eq!(counts(&mut client, "'t'"), "", "{tier}");
        for (sql, told) in [
            // A column more that is NULL is no change, and one with a value is.
            ("ALTER TABLE t ADD d text", ""),
            ("ALTER TABLE t ADD d text DEFAULT 'x'", "update 3000"),
            (
                "ALTER TABLE t ADD d text DEFAULT 'x'; ALTER TABLE t DROP d",
                "",
            ),
            (
                "ALTER TABLE t ADD d text; UPDATE t SET d = 'x' WHERE id < 4",
                "update 3",
            ),
            // The same values in another type of their class.
            ("ALTER TABLE t ALTER a TYPE bigint", ""),
            (
                "ALTER TABLE t ALTER a TYPE bigint; UPDATE t SET a = 1 << 40 WHERE id = 4",
                "update 1",
            ),
            // Blanks at the end say nothing any more, though no row is written anew.
            ("ALTER TABLE t ALTER e TYPE bpchar", "update 3000"),
            // Columns that change their names: what lies there is another column's.
            (
                "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b",
                "update 3000",
            ),
        ] {
            one(&mut client, "BEGIN");
            one(&mut client, sql);
            assert_eq!(
                counts(&mut client, "'t', advance => false"),
                told,
                "{tier}: {sql}"
            );
            assert_eq!(counts(&mut client, "'t'"), told, "{tier}: {sql}");
            assert_eq!(counts(&mut client, "'t'"), "", "{tier}: {sql}");
            one(&mut client, "DELETE FROM t WHERE id = 7");
            assert_eq!(counts(&mut client, "'t'"), "delete 1", "{tier}: {sql}");
            one(&mut client, "ROLLBACK");
        }
    }
    // A chunk that is gone has the columns that it had.
    one(
        &mut client,
        "ALTER TABLE t ADD d text DEFAULT 'x'; SELECT varve.watch('t'); ALTER TABLE t ALTER d SET DEFAULT NULL;
         UPDATE t SET d = 'y' WHERE id = 1; TRUNCATE t",
    );
    assert_eq!(counts(&mut client, "'t', advance => false"), "delete 3000");
    one(
        &mut client,
        "INSERT INTO t SELECT i, i, -i, i, 'x ', CASE WHEN i % 100 > 0 THEN 'x' END FROM generate_series(1, 3000) i",
    );
    assert_eq!(counts(&mut client, "'t'"), "update 30");
}

#[test]
fn keys() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE bare (id int, v int); INSERT INTO bare VALUES (1, 1), (2, 1), (NULL, 1);
         CREATE TABLE two (a int NOT NULL UNIQUE, b int NOT NULL UNIQUE);
         CREATE VIEW seen AS SELECT id, v FROM bare; CREATE SEQUENCE s; CREATE INDEX i ON bare (v); CREATE TEMP TABLE temp (id int PRIMARY KEY);
         CREATE TABLE odd (id int PRIMARY KEY, acl aclitem)",
    );
    for (sql, error) in [
        (
            "SELECT varve.watch('bare')",
            "42P16 public.bare has no primary key and no unique index of NOT NULL columns",
        ),
        ("SELECT varve.watch('seen')", "42P16"),
        ("SELECT varve.watch('two')", "42702"),
        (
            "SELECT varve.watch('bare', key => '{}')",
            "22023 the key has no columns",
        ),
        (
            "SELECT varve.watch('s')",
            "42809 public.s has no rows to watch",
        ),
        ("SELECT varve.watch('i')", "42809"),
        ("SELECT varve.watch('temp')", "0A000"),
        (
            "SELECT varve.watch('odd')",
            "42883 no binary output function available for type aclitem Column \"acl\" of public.odd has that type.",
        ),
        (
            "SELECT varve.watch(NULL)",
            "22004 the relation must not be NULL",
        ),
        ("SELECT varve.watch('bare', '{id}', NULL)", "22004"),
        ("SELECT varve.detect_changes('bare')", "42704"),
        ("SELECT varve.detect_changes('bare', NULL)", "22004"),
        ("SELECT varve.detect_changes(NULL)", "22004"),
        ("SELECT varve.unwatch(NULL)", "22004"),
    ] {
        let e = refused(&mut client, sql);
        assert!(e.starts_with(error), "{sql}: {e}");
    }
    let e = simple(&mut client, "SELECT varve.watch('bare', key => '{id,nix}')").unwrap_err();
    assert_eq!(
        format!("{} {}", e.code, e.message),
        "42703 column \"nix\" of public.bare does not exist"
    );
    let e = simple(&mut client, "SELECT varve.detect_changes(4000000000)").unwrap_err();
    assert_eq!(e.code, "42P01");
    // NULL is a value of a key; views are read by their query.
    for relation in ["bare", "seen"] {
        assert_eq!(
            one(
                &mut client,
                &format!("SELECT varve.watch('{relation}', key => '{{id}}')")
            ),
            "3"
        );
        one(
            &mut client,
            "BEGIN; UPDATE bare SET v = 2 WHERE id IS NULL; DELETE FROM bare WHERE id = 1; INSERT INTO bare VALUES (3, 3)",
        );
        assert_eq!(
            changes(&mut client, &format!("'{relation}'")),
            [
                r#"update|{"id": null}"#,
                r#"delete|{"id": 1}"#,
                r#"insert|{"id": 3}"#
            ]
        );
        assert_eq!(counts(&mut client, &format!("'{relation}'")), "");
        // Two rows of one key are noticed where they are read.
        one(&mut client, "INSERT INTO bare VALUES (5, 4), (5, 5)");
        let e = refused(
            &mut client,
            &format!("SELECT varve.detect_changes('{relation}')"),
        );
        assert!(e.starts_with("21000 several rows have the same key"), "{e}");
        one(&mut client, "ROLLBACK");
        assert_eq!(counts(&mut client, &format!("'{relation}'")), "");
    }
    one(&mut client, "DROP VIEW seen");
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.watches"), "1");
    // Keys of many types, and of a length that no index would take.
    one(
        &mut client,
        "CREATE DOMAIN d AS numeric; CREATE TABLE many (a bigint, b text, c d, d uuid, e timestamptz, f text[], g name, h \"char\", i bool, j interval, k float4, l bytea, v int);
         INSERT INTO many SELECT i, repeat('x', i * 1000), i / 7.0, md5(i::text)::uuid, timestamptz '2024-01-01Z' + i * interval '1 day', ARRAY['a', NULL, i::text],
             'n' || i, 'c', i % 2 = 0, i * interval '1 h', i / 3.0, decode(repeat('00ff', i), 'hex'), 0 FROM generate_series(1, 90) i;
         SELECT varve.watch('many', key => '{a,b,c,d,e,f,g,h,i,j,k,l}'); CREATE TABLE gone AS SELECT * FROM many WHERE a % 3 = 0; DELETE FROM many WHERE a % 3 = 0",
    );
    assert_eq!(
        one(
            &mut client,
            "SELECT count(*), bool_and(c.op = 'delete' AND c.key = to_jsonb(was) - 'v') FROM varve.detect_changes('many') c FULL JOIN gone was ON (c.key->>'a')::int = was.a"
        ),
        "30|t"
    );
}

#[test]
fn whose() {
    let (_cluster, mut client) = start(&[]);
    twin::create(&mut client).unwrap();
    one(
        &mut client,
        "CREATE ROLE reader; CREATE ROLE other; CREATE ROLE member; GRANT reader TO member;
         CREATE TABLE t (id int PRIMARY KEY, secret int); INSERT INTO t VALUES (1, 1), (2, 2); SELECT varve.watch('t', checkpoint => 'mine');
         GRANT SELECT ON bars TO reader, other, member; GRANT SELECT (id) ON t TO reader; SET ROLE reader",
    );
    let denied = refused(&mut client, "SELECT varve.watch('t')");
    assert!(
        denied.starts_with("42501 permission denied for public.t"),
        "{denied}"
    );
    assert!(
        refused(
            &mut client,
            "SELECT varve.detect_changes('t', checkpoint => 'mine')"
        )
        .starts_with("42501")
    );
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.watches"), "0");
    one(&mut client, "SELECT varve.watch('bars')");
    assert_eq!(counts(&mut client, "'bars'"), "");
    assert_eq!(
        one(&mut client, "SELECT relation, owner FROM varve.watches"),
        "bars|reader"
    );
    // To others it is as if it were not theirs to know; members of the role may do all.
    one(
        &mut client,
        "RESET ROLE; UPDATE bars SET close = 0 WHERE symbol = 1; SET ROLE other",
    );
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.watches"), "0");
    for sql in [
        "SELECT varve.detect_changes('bars')",
        "SELECT varve.watch('bars')",
        "SELECT varve.unwatch('bars')",
    ] {
        let e = refused(&mut client, sql);
        assert!(
            e.starts_with("42501 checkpoint \"default\" of public.bars belongs to role reader"),
            "{sql}: {e}"
        );
    }
    one(
        &mut client,
        "SELECT varve.watch('bars', checkpoint => 'other'); RESET ROLE; SET ROLE member",
    );
    let changed: i32 = twin::HOURS;
    assert_eq!(
        counts(&mut client, "'bars', advance => false"),
        format!("update {changed}")
    );
    one(
        &mut client,
        "RESET ROLE; REVOKE SELECT ON bars FROM reader; SET ROLE reader",
    );
    assert!(
        refused(&mut client, "SELECT varve.detect_changes('bars')")
            .starts_with("42501 permission denied")
    );
    one(
        &mut client,
        "RESET ROLE; GRANT SELECT ON bars TO reader; SET ROLE reader",
    );
    for sql in [
        "SELECT * FROM varve.checkpoint",
        "SELECT * FROM varve.checkpoint_rows",
        "SELECT * FROM varve.checkpoint_chunk",
    ] {
        assert_eq!(simple(&mut client, sql).unwrap_err().code, "42501");
    }
    // Rows that a policy hides would look deleted.
    one(
        &mut client,
        "RESET ROLE; ALTER TABLE bars ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON bars USING (symbol = 1);
         CREATE VIEW through WITH (security_invoker) AS SELECT * FROM bars; GRANT SELECT ON through TO reader; SET ROLE reader",
    );
    let e = refused(&mut client, "SELECT varve.detect_changes('bars')");
    assert!(
        e.starts_with("42501 row security of public.bars applies"),
        "{e}"
    );
    let e = simple(
        &mut client,
        "SELECT varve.watch('through', key => '{symbol,ts}')",
    )
    .unwrap_err();
    assert_eq!(e.code, "42501", "{e:?}");
    one(
        &mut client,
        "RESET ROLE; ALTER TABLE bars DISABLE ROW LEVEL SECURITY; SET ROLE reader",
    );
    assert_eq!(counts(&mut client, "'bars'"), format!("update {changed}"));
    // Who owns a table sees what others have it remember, and can end that.
    one(&mut client, "RESET ROLE; CREATE ROLE owner; GRANT CREATE ON SCHEMA public TO owner; SET ROLE owner; CREATE TABLE mine (id int PRIMARY KEY); GRANT SELECT ON mine TO reader;
         RESET ROLE; SET ROLE reader; SELECT varve.watch('mine'); RESET ROLE; SET ROLE owner");
    assert_eq!(
        one(&mut client, "SELECT relation, owner FROM varve.watches"),
        "mine|reader"
    );
    assert!(
        refused(&mut client, "SELECT varve.detect_changes('mine')").starts_with("42501 checkpoint")
    );
    one(
        &mut client,
        "SELECT varve.unwatch('mine'); SELECT varve.watch('mine')",
    );
    one(&mut client, "RESET ROLE; SET ROLE reader");
    assert!(refused(&mut client, "SELECT varve.unwatch('mine')").starts_with("42501 checkpoint"));
    // In a transaction that only reads one can look.
    one(
        &mut client,
        "RESET ROLE; DELETE FROM bars WHERE symbol = 2; BEGIN READ ONLY",
    );
    assert_eq!(
        counts(&mut client, "'bars', advance => false"),
        format!("delete {changed}")
    );
    let e = simple(&mut client, "SELECT varve.detect_changes('bars')").unwrap_err();
    assert_eq!(e.code, "25006");
    one(&mut client, "ROLLBACK");
}

/// Frozen rows that have not changed are not read, whatever has become of others.
#[test]
fn what_is_read() {
    let (_cluster, mut client) = start(&[]);
    twin::create(&mut client).unwrap();
    rows(&mut client, FREEZE);
    one(&mut client, "SELECT varve.watch('bars')");
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.checkpoint_rows"),
        "0"
    );
    // All bytes of all bodies are damaged: who reads one says so.
    let tables = rows(
        &mut client,
        "SELECT varve.segment_table(c) FROM show_chunks('bars') c",
    );
    one(&mut client, "BEGIN");
    for table in &tables {
        one(
            &mut client,
            &format!(
                "UPDATE {table} SET data = decode(repeat('00', length(data)), 'hex') WHERE item > 0"
            ),
        );
    }
    assert_eq!(counts(&mut client, "'bars'"), "");
    one(
        &mut client,
        "INSERT INTO bars VALUES (77, '2024-01-03', 1), (78, '2024-01-13', 1)",
    );
    assert_eq!(counts(&mut client, "'bars'"), "insert 2");
    one(&mut client, "UPDATE bars SET close = 2 WHERE symbol = 77");
    assert_eq!(counts(&mut client, "'bars'"), "update 1");
    one(&mut client, "ROLLBACK");
    assert_eq!(counts(&mut client, "'bars'"), "");
}

/// Many rows that come and go by and by: the log of entries becomes one again.
#[test]
fn generations() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20000) i; SELECT varve.watch('t')",
    );
    let blocks = "SELECT count(DISTINCT generation) FROM varve.checkpoint_rows";
    let mut most = 0;
    for i in 0..40 {
        let from = i * 137 % 20_000;
        one(
            &mut client,
            &format!(
                "UPDATE t SET v = v || '!' WHERE id BETWEEN {from} AND {from} + 9; DELETE FROM t WHERE id = {from} + 400; INSERT INTO t VALUES (30000 + {i}, 'new')"
            ),
        );
        one(&mut client, "VACUUM t");
        let found = counts(&mut client, "'t'");
        let updates = one(
            &mut client,
            &format!("SELECT count(*) FROM t WHERE id BETWEEN {from} AND {from} + 9"),
        );
        assert_eq!(
            found,
            format!("delete 1, insert 1, update {updates}"),
            "{i}"
        );
        assert_eq!(counts(&mut client, "'t', advance => false"), "");
        most = most.max(one(&mut client, blocks).parse::<u32>().unwrap());
    }
    assert!((3..8).contains(&most), "{most} generations");
    one(&mut client, "DELETE FROM t WHERE id % 2 = 0");
    let found = counts(&mut client, "'t'");
    assert!(found.starts_with("delete "), "{found}");
    assert_eq!(one(&mut client, blocks), "1");
    assert_eq!(counts(&mut client, "'t'"), "");
    let rows = one(&mut client, "SELECT count(*) FROM t");
    assert_eq!(one(&mut client, "SELECT rows FROM varve.watches"), rows);
}

/// Little is written where little changes, however often, and however many rows there are.
#[test]
fn few_changes_of_many_rows() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 60000) i; SELECT varve.watch('t')",
    );
    // Nothing is vacuumed, so the table grows by what is written to it.
    let size = |client: &mut Client| -> u64 {
        let size = "SELECT pg_total_relation_size('varve.checkpoint_rows')";
        one(client, size).parse().unwrap()
    };
    let whole = size(&mut client);
    for i in 0..48 {
        let from = i * 1201;
        one(
            &mut client,
            &format!("UPDATE t SET v = v + 1 WHERE id BETWEEN {from} + 1 AND {from} + 10"),
        );
        assert_eq!(counts(&mut client, "'t'"), "update 10", "{i}");
    }
    let grown = size(&mut client) - whole;
    assert!(grown < whole / 2, "{grown} of {whole} bytes");
    // Where much changes, all becomes one again.
    one(&mut client, "UPDATE t SET v = -1 WHERE id % 2 = 0");
    assert_eq!(counts(&mut client, "'t'"), "update 30000");
    let generations = "SELECT count(DISTINCT generation) FROM varve.checkpoint_rows";
    assert_eq!(one(&mut client, generations), "1");
    assert_eq!(counts(&mut client, "'t'"), "");
}

/// What is stored of a checkpoint is not trusted.
#[test]
fn damage() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 2000) i; SELECT varve.watch('t');
         DELETE FROM t WHERE id = 5",
    );
    for sql in [
        "UPDATE varve.checkpoint SET columns = ''",
        "UPDATE varve.checkpoint SET columns = set_byte(columns, 7, 99)",
        "UPDATE varve.checkpoint_chunk SET state = ''",
        "UPDATE varve.checkpoint_chunk SET state = set_byte(state, 20, 99)",
        "UPDATE varve.checkpoint_rows SET data = ''",
        "UPDATE varve.checkpoint_rows SET data = set_byte(data, 9, 99)",
        "UPDATE varve.checkpoint_rows SET data = substr(data, 1, 1000)",
        "UPDATE varve.checkpoint_rows SET number = 5 - number",
        "DELETE FROM varve.checkpoint_rows WHERE number = 1",
        "DELETE FROM varve.checkpoint_rows",
    ] {
        one(&mut client, &format!("BEGIN; {sql}"));
        let e = refused(&mut client, "SELECT varve.detect_changes('t')");
        assert!(e.starts_with("XX001 a checkpoint is damaged"), "{sql}: {e}");
        one(&mut client, "ROLLBACK");
    }
    assert_eq!(counts(&mut client, "'t'"), "delete 1");
    // What was added since.
    one(&mut client, "UPDATE t SET v = 'y' WHERE id = 6");
    assert_eq!(counts(&mut client, "'t'"), "update 1");
    one(&mut client, "DELETE FROM t WHERE id = 7");
    for generation in ["> 0", "= 0"] {
        one(
            &mut client,
            &format!("BEGIN; DELETE FROM varve.checkpoint_rows WHERE generation {generation}"),
        );
        let e = refused(&mut client, "SELECT varve.detect_changes('t')");
        assert!(
            e.starts_with("XX001 a checkpoint is damaged"),
            "{generation}: {e}"
        );
        one(&mut client, "ROLLBACK");
    }
    assert_eq!(counts(&mut client, "'t'"), "delete 1");
    // Segments that somebody has dropped.
    one(
        &mut client,
        "SELECT varve.enable('t', segment_by => '{}', order_by => '{id}'); SELECT varve.set_tier('t', 'warm')",
    );
    one(&mut client, "SELECT varve.watch('t')");
    one(&mut client, "UPDATE t SET v = 'x' WHERE id = 9");
    one(&mut client, "SELECT varve.set_tier('t', 'hot')");
    let table = one(
        &mut client,
        "SELECT oid::regclass FROM pg_class WHERE relname LIKE 'kept\\_segments\\_%' AND relkind = 'r'",
    );
    one(
        &mut client,
        &format!(
            "DELETE FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND objid = '{table}'::regclass; DROP TABLE {table}"
        ),
    );
    let e = refused(&mut client, "SELECT varve.detect_changes('t')");
    assert!(
        e.starts_with("55000 public.t has lost what its checkpoint refers to"),
        "{e}"
    );
    one(&mut client, "SELECT varve.watch('t')");
    assert_eq!(counts(&mut client, "'t'"), "");
}
