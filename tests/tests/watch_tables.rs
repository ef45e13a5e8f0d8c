//! `varve.watch` and what is done to tables between two calls: crashes of unlogged ones, ALTER TABLE, TimescaleDB's columnstore; roles that
//! go, and the extension's end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod watch_common;

use postgres::Client;
use varve_tests::cluster::Stop;
use varve_tests::session::{Session, one, rows};
use varve_tests::twin::{self, FREEZE};
use varve_tests::wait;
use watch_common::{changes, counts, kept, refused, start};

/// A table of a thousand rows that can be frozen.
fn table(client: &mut Client, kind: &str, name: &str) {
    one(
        client,
        &format!(
            "CREATE {kind} TABLE {name} (id int PRIMARY KEY, v int); SELECT varve.enable('{name}', segment_by => '{{}}', order_by => '{{id}}');
             INSERT INTO {name} SELECT i, 0 FROM generate_series(1, 1000) i"
        ),
    );
}

fn set_tier(client: &mut Client, table: &str, tier: &str) {
    one(
        client,
        &format!("SELECT varve.set_tier('{table}', '{tier}')"),
    );
}

/// Unlogged tables are empty after a crash. That is told of rows that lay in no segment, whose keys a checkpoint has; with segments went
/// what there would be to tell, and that is an error, also where others came in their place.
#[test]
fn unlogged_tables_after_a_crash() {
    let (cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE UNLOGGED TABLE heap (id int PRIMARY KEY, v int); INSERT INTO heap SELECT i, 0 FROM generate_series(1, 100) i",
    );
    for name in ["hot", "frozen", "again", "same", "changed"] {
        table(&mut client, "UNLOGGED", name);
        if name != "hot" {
            set_tier(&mut client, name, "warm");
        }
    }
    for name in ["heap", "hot", "frozen", "again", "same", "changed"] {
        one(&mut client, &format!("SELECT varve.watch('{name}')"));
        assert_eq!(counts(&mut client, &format!("'{name}'")), "", "{name}");
    }
    // Tables that are logged by now, while what they were is not.
    one(
        &mut client,
        "ALTER TABLE same SET LOGGED; ALTER TABLE changed SET LOGGED; UPDATE changed SET v = 1 WHERE id = 7",
    );
    assert_eq!(
        counts(&mut client, "'changed', advance => false"),
        "update 1"
    );
    assert_eq!(kept(&mut client), "2");
    cluster.stop(Stop::Immediate).unwrap();
    cluster.start().unwrap();
    let mut client = cluster.connect().unwrap();
    for (name, rows) in [("heap", 100), ("hot", 1000)] {
        one(&mut client, &format!("INSERT INTO {name} VALUES (3, 3)"));
        assert_eq!(
            counts(&mut client, &format!("'{name}'")),
            format!("delete {}, update 1", rows - 1),
            "{name}"
        );
        assert_eq!(counts(&mut client, &format!("'{name}'")), "", "{name}");
    }
    // Another segment of the same number, with as many rows.
    one(&mut client, "SET varve.debug_freeze = 'commit'");
    one(
        &mut client,
        "INSERT INTO again SELECT i, 5 FROM generate_series(1, 1000) i",
    );
    one(&mut client, "RESET varve.debug_freeze");
    let segments = one(&mut client, "SELECT varve.segment_table('again')");
    let numbers = format!("SELECT segment FROM {segments} WHERE item = 0");
    assert_eq!(rows(&mut client, &numbers), ["0"]);
    for name in ["frozen", "again", "changed"] {
        for arguments in ["", ", advance => false"] {
            let e = refused(
                &mut client,
                &format!("SELECT * FROM varve.detect_changes('{name}'{arguments})"),
            );
            let expected = format!("55000 public.{name} has lost what its checkpoint refers to");
            assert!(e.starts_with(&expected), "{name}: {e}");
        }
        one(&mut client, &format!("SELECT varve.watch('{name}')"));
        one(&mut client, &format!("INSERT INTO {name} VALUES (2000, 5)"));
        assert_eq!(
            changes(&mut client, &format!("'{name}'")),
            [r#"insert|{"id": 2000}"#],
            "{name}"
        );
    }
    assert_eq!(counts(&mut client, "'same'"), "");
    one(&mut client, "UPDATE same SET v = 1 WHERE id = 7");
    assert_eq!(counts(&mut client, "'same'"), "update 1");
    assert_eq!(kept(&mut client), "0");
}

/// Other storage, other access methods, other names: only what has changed is told.
#[test]
fn tables_that_are_altered() {
    let (_cluster, mut client) = start(&[]);
    one(&mut client, "SET allow_in_place_tablespaces = on");
    one(&mut client, "CREATE TABLESPACE elsewhere LOCATION ''");
    twin::create(&mut client).unwrap();
    table(&mut client, "", "hot");
    table(&mut client, "", "warm");
    one(
        &mut client,
        "CREATE TABLE heap (id int PRIMARY KEY, v int); INSERT INTO heap SELECT i, 0 FROM generate_series(1, 1000) i",
    );
    set_tier(&mut client, "warm", "warm");
    rows(&mut client, FREEZE);
    let chunk = one(&mut client, "SELECT show_chunks('bars') LIMIT 1");
    for name in ["heap", "hot", "warm"] {
        one(&mut client, &format!("SELECT varve.watch('{name}')"));
        let alter = format!("ALTER TABLE {name}");
        let told = format!("'{name}'");
        check(
            &mut client,
            &told,
            &format!("UPDATE {name} SET v = v + 1 WHERE id = 5"),
            &[
                &format!("{alter} SET TABLESPACE elsewhere"),
                &format!("{alter} SET ACCESS METHOD heap"),
                &format!("{alter} SET TABLESPACE pg_default"),
                &format!("{alter} SET ACCESS METHOD varve"),
                &format!("SELECT varve.set_tier('{name}', 'cold')"),
                &format!("{alter} SET TABLESPACE elsewhere, SET ACCESS METHOD heap"),
                &format!("{alter} SET ACCESS METHOD varve, SET TABLESPACE pg_default"),
                &format!("{alter} SET UNLOGGED; {alter} SET LOGGED"),
                &format!("{alter} RENAME v TO w; {alter} RENAME w TO v"),
                &format!("{alter} RENAME TO other; ALTER TABLE other RENAME TO {name}"),
                &format!(
                    "CREATE SCHEMA s; {alter} SET SCHEMA s; ALTER TABLE s.{name} SET SCHEMA public; DROP SCHEMA s"
                ),
                &format!("{alter} ADD x int, SET (fillfactor = 50); {alter} DROP x"),
                &format!("{alter} ALTER v TYPE bigint"),
            ],
        );
        one(&mut client, &format!("{alter} RENAME TO other"));
        assert_eq!(counts(&mut client, "'other'"), "");
        one(&mut client, "DELETE FROM other WHERE id = 6");
        assert_eq!(changes(&mut client, "'other'"), [r#"delete|{"id": 6}"#]);
        one(&mut client, &format!("ALTER TABLE other RENAME TO {name}"));
        assert_eq!(counts(&mut client, &told), "");
    }
    let name = chunk.rsplit('.').next().unwrap();
    one(&mut client, "SELECT varve.watch('bars')");
    check(
        &mut client,
        "'bars'",
        "UPDATE bars SET close = close + 1 WHERE symbol = 3 AND ts = '2024-01-02 03:00Z'",
        &[
            &format!("ALTER TABLE {chunk} SET TABLESPACE elsewhere"),
            &format!("ALTER TABLE {chunk} SET ACCESS METHOD heap"),
            &format!("ALTER TABLE {chunk} SET ACCESS METHOD varve"),
            FREEZE,
            "ALTER TABLE bars SET TABLESPACE elsewhere",
            &format!(
                "ALTER TABLE {chunk} RENAME TO renamed; ALTER TABLE _timescaledb_internal.renamed RENAME TO {name}"
            ),
            FREEZE,
            "ALTER TABLE bars RENAME close TO x; ALTER TABLE bars RENAME x TO close",
            "ALTER TABLE bars RENAME TO foos; ALTER TABLE foos RENAME TO bars",
        ],
    );
    assert_eq!(kept(&mut client), "0");
}

/// Does each of these alone, which changes nothing, and together with a change of one row.
fn check(client: &mut Client, told: &str, change: &str, alter: &[&str]) {
    for sql in alter {
        rows(client, sql);
        let look = format!("{told}, advance => false");
        assert_eq!(counts(client, &look), "", "{told}: {sql}");
        rows(client, change);
        assert_eq!(counts(client, told), "update 1", "{told}: {sql}");
        assert_eq!(counts(client, told), "", "{told}: {sql}");
    }
    for sql in alter {
        rows(client, change);
        rows(client, sql);
        assert_eq!(counts(client, told), "update 1", "{told}: {sql}");
        assert_eq!(counts(client, told), "", "{told}: {sql}");
    }
}

/// Partitions that leave and come back: whole, changed, frozen, and as partitions of other bounds.
#[test]
fn partitions_that_leave() {
    let (_cluster, mut client) = start(&[]);
    one(
        &mut client,
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200); INSERT INTO p SELECT i, 0 FROM generate_series(0, 199) i;
         SELECT varve.enable('p', segment_by => '{}', order_by => '{id}'); SELECT varve.watch('p', key => '{id}'), varve.watch('p1', key => '{id}')",
    );
    let bounds = "FOR VALUES FROM (0) TO (100)";
    let (leave, come) = (
        "ALTER TABLE p DETACH PARTITION p1",
        format!("ALTER TABLE p ATTACH PARTITION p1 {bounds}"),
    );
    for tier in ["hot", "warm"] {
        set_tier(&mut client, "p1", tier);
        assert_eq!(counts(&mut client, "'p'"), "", "{tier}");
        one(&mut client, leave);
        one(&mut client, &come);
        assert_eq!(counts(&mut client, "'p'"), "", "{tier}");
        // Away as long as somebody looks.
        one(&mut client, leave);
        assert_eq!(counts(&mut client, "'p', advance => false"), "delete 100");
        one(&mut client, "UPDATE p1 SET v = v + 1 WHERE id < 3");
        one(&mut client, &come);
        assert_eq!(counts(&mut client, "'p'"), "update 3", "{tier}");
        one(&mut client, leave);
        assert_eq!(counts(&mut client, "'p'"), "delete 100", "{tier}");
        set_tier(&mut client, "p1", "cold");
        one(&mut client, &come);
        assert_eq!(counts(&mut client, "'p'"), "insert 100", "{tier}");
        // Its rows, in a new table in its place.
        one(
            &mut client,
            &format!(
                "{leave}; ALTER TABLE p1 RENAME TO old; CREATE TABLE p1 (v int, id int); INSERT INTO p1 SELECT v, id FROM old WHERE id > 0; {come}"
            ),
        );
        assert_eq!(changes(&mut client, "'p'"), [r#"delete|{"id": 0}"#]);
        // The table that was watched by itself is the old one.
        assert_eq!(counts(&mut client, "'old'"), "update 3", "{tier}");
        assert_eq!(counts(&mut client, "'old'"), "", "{tier}");
        one(
            &mut client,
            &format!("{leave}; DROP TABLE p1; ALTER TABLE old RENAME TO p1; {come}"),
        );
        assert_eq!(changes(&mut client, "'p'"), [r#"insert|{"id": 0}"#]);
    }
    assert_eq!(kept(&mut client), "0");
}

/// What many chunks have kept is not let go of at once: the rest goes with the next call, or when the server looks what is due.
#[test]
fn many_chunks_at_once() {
    const CHUNKS: usize = 230;
    let (cluster, mut client) = start(&[]);
    one(
        &mut client,
        &format!(
            "CREATE TABLE p (id int, v int) PARTITION BY LIST (id); SELECT varve.enable('p', segment_by => '{{}}', order_by => '{{id}}');
             DO $$ BEGIN FOR i IN 1..{CHUNKS} LOOP EXECUTE format('CREATE TABLE p%s PARTITION OF p FOR VALUES IN (%s)', i, i); END LOOP; END $$;
             INSERT INTO p SELECT i, 0 FROM generate_series(1, {CHUNKS}) i"
        ),
    );
    let exchange = |client: &mut Client, tier: &str| {
        one(client, "UPDATE p SET v = v + 1");
        let of_each = format!(
            "SELECT varve.set_tier('p' || i, '{tier}') FROM generate_series(1, {CHUNKS}) i"
        );
        rows(client, &of_each);
    };
    exchange(&mut client, "warm");
    one(&mut client, "SELECT varve.watch('p', key => '{id}')");
    exchange(&mut client, "hot");
    assert_eq!(kept(&mut client), CHUNKS.to_string());
    let all = format!("update {CHUNKS}");
    one(&mut client, "BEGIN");
    assert_eq!(counts(&mut client, "'p'"), all);
    let dropped = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock' AND locktype = 'relation'";
    let dropped: usize = one(&mut client, dropped).parse().unwrap();
    one(&mut client, "COMMIT");
    let left: usize = kept(&mut client).parse().unwrap();
    assert!(left > 0, "all went at once");
    assert_eq!(dropped, 2 * (CHUNKS - left), "tables and their indexes");
    // Who comes while somebody is at it leaves it to him.
    let [mut first, mut second] = [(); 2].map(|()| Session::new(&cluster).unwrap());
    one(
        &mut client,
        "CREATE TABLE x (id int PRIMARY KEY); CREATE TABLE y (id int PRIMARY KEY)",
    );
    for end in ["ROLLBACK", "COMMIT"] {
        assert_eq!(kept(&mut client), left.to_string());
        first.ok("BEGIN; SELECT varve.watch('x')");
        second.start("SELECT varve.watch('y')");
        assert!(!second.waits(&mut client));
        second.finish().unwrap();
        first.ok(end);
    }
    assert_eq!(kept(&mut client), "0");
    assert_eq!(counts(&mut client, "'p'"), "");
    // Of a checkpoint that is forgotten as of one that moves; and by the server.
    exchange(&mut client, "warm");
    one(&mut client, "SELECT varve.watch('p', key => '{id}')");
    exchange(&mut client, "hot");
    one(&mut client, "DROP TABLE p");
    assert_ne!(kept(&mut client), "0");
    cluster.restart_with(&["varve.max_workers = 2"]).unwrap();
    let mut client = cluster.connect().unwrap();
    wait::until("what was kept to go", || kept(&mut client) == "0");
}

/// Checkpoints of a hypertable and of its chunk know nothing of each other, and share the segments that they need.
#[test]
fn a_chunk_of_two_relations() {
    let (_cluster, mut client) = start(&[]);
    twin::create(&mut client).unwrap();
    rows(&mut client, FREEZE);
    let chunk = one(&mut client, "SELECT show_chunks('bars') LIMIT 1");
    let of_chunk = format!("'{chunk}'");
    let rows_of = one(&mut client, &format!("SELECT count(*) FROM {chunk}"));
    one(
        &mut client,
        &format!("SELECT varve.watch('bars'), varve.watch('{chunk}')"),
    );
    one(
        &mut client,
        "UPDATE bars SET close = 0 WHERE symbol = 1 AND ts < '2024-01-01 02:00Z'",
    );
    rows(&mut client, FREEZE);
    assert_eq!(kept(&mut client), "1");
    assert_eq!(counts(&mut client, "'bars'"), "update 2");
    assert_eq!(
        kept(&mut client),
        "1",
        "the chunk's own checkpoint needs it"
    );
    assert_eq!(counts(&mut client, &of_chunk), "update 2");
    assert_eq!(kept(&mut client), "0");
    rows(&mut client, FREEZE);
    one(
        &mut client,
        "UPDATE bars SET close = 1 WHERE symbol = 1 AND ts < '2024-01-01 03:00Z'",
    );
    rows(&mut client, FREEZE);
    one(&mut client, &format!("SELECT varve.unwatch('{chunk}')"));
    assert_eq!(kept(&mut client), "1");
    one(
        &mut client,
        &format!("SELECT varve.watch('{chunk}'); DROP TABLE {chunk}"),
    );
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.watches"), "1");
    assert_eq!(counts(&mut client, "'bars'"), format!("delete {rows_of}"));
    assert_eq!(kept(&mut client), "0");
}

/// What TimescaleDB's columnstore has compressed is read by queries, by everything that knows chunks.
#[test]
fn chunks_in_the_columnstore() {
    let (_cluster, mut client) = start(&[]);
    twin::create(&mut client).unwrap();
    rows(&mut client, FREEZE);
    let chunk = one(&mut client, "SELECT show_chunks('bars') LIMIT 1");
    let checksums = |client: &mut Client, table: &str| {
        rows(
            client,
            &format!("SELECT chunk, rows, checksum FROM varve.checksums('{table}')"),
        )
    };
    let before = checksums(&mut client, "bars");
    one(
        &mut client,
        &format!("SELECT varve.watch('bars'), varve.watch('{chunk}')"),
    );
    // The edition of TimescaleDB that is here compresses nothing. This is how its catalogue says that it has.
    let mark = |client: &mut Client, to: &str| {
        one(
            client,
            &format!(
                "UPDATE _timescaledb_catalog.chunk SET compressed_chunk_id = {to} WHERE format('%I.%I', schema_name, table_name) = '{chunk}'"
            ),
        )
    };
    mark(
        &mut client,
        "(SELECT max(id) FROM _timescaledb_catalog.chunk)",
    );
    let e = refused(
        &mut client,
        &format!("SELECT varve.set_tier('{chunk}', 'cold')"),
    );
    assert!(
        e.starts_with(&format!(
            "0A000 {chunk} is compressed by TimescaleDB's own columnstore"
        )),
        "{e}"
    );
    assert_eq!(checksums(&mut client, "bars"), before);
    assert_eq!(checksums(&mut client, &chunk), before[..1]);
    let diff = "SELECT op, key FROM varve.diff('twin', 'bars')";
    assert_eq!(rows(&mut client, diff), [""; 0]);
    let of_chunk = format!("'{chunk}'");
    let change = "UPDATE bars SET close = close + 1 WHERE symbol = 3 AND ts = '2024-01-02 03:00Z'";
    for to in [
        "",
        "NULL",
        "(SELECT max(id) FROM _timescaledb_catalog.chunk)",
    ] {
        if !to.is_empty() {
            mark(&mut client, to);
        }
        for told in ["'bars'", &of_chunk] {
            assert_eq!(counts(&mut client, told), "", "{told}, {to}");
        }
        one(&mut client, change);
        for told in ["'bars'", &of_chunk] {
            assert_eq!(counts(&mut client, told), "update 1", "{told}, {to}");
        }
        assert_eq!(rows(&mut client, diff).len(), 1, "{to}");
        // A change and another way of reading at once.
        one(&mut client, change);
        mark(
            &mut client,
            if to == "NULL" {
                "(SELECT max(id) FROM _timescaledb_catalog.chunk)"
            } else {
                "NULL"
            },
        );
        for told in ["'bars'", &of_chunk] {
            assert_eq!(counts(&mut client, told), "update 1", "{told}, {to}");
            assert_eq!(counts(&mut client, told), "", "{told}, {to}");
        }
    }
    assert_eq!(kept(&mut client), "0");
}

/// A checkpoint stays when its owner goes, as his jobs do: the table's owner and superusers see it, and can end it.
#[test]
fn owners_that_go() {
    let (_cluster, mut client) = start(&[]);
    table(&mut client, "", "t");
    set_tier(&mut client, "t", "warm");
    one(
        &mut client,
        "CREATE ROLE keeper; CREATE ROLE reader; CREATE ROLE heir; ALTER TABLE t OWNER TO keeper; GRANT SELECT ON t TO reader, heir;
         GRANT CREATE ON SCHEMA public TO reader; SET ROLE reader; SELECT varve.watch('t'); CREATE TABLE own (id int PRIMARY KEY); SELECT varve.watch('own'); RESET ROLE",
    );
    // What a role owns goes to another one, or goes; its checkpoints on tables of others do not.
    one(&mut client, "BEGIN; REASSIGN OWNED BY reader TO heir");
    assert_eq!(
        rows(
            &mut client,
            "SELECT relation, owner FROM varve.watches ORDER BY 1"
        ),
        ["t|reader", "own|reader"]
    );
    one(&mut client, "ROLLBACK");
    one(&mut client, "DROP OWNED BY reader; DROP ROLE reader");
    assert_eq!(
        one(
            &mut client,
            "SELECT relation, owner::text ~ '^[0-9]+$' FROM varve.watches"
        ),
        "t|t"
    );
    one(&mut client, "DELETE FROM t WHERE id = 4");
    set_tier(&mut client, "t", "cold");
    assert_eq!(kept(&mut client), "1");
    one(&mut client, "SET ROLE heir");
    assert_eq!(one(&mut client, "SELECT count(*) FROM varve.watches"), "0");
    for sql in ["detect_changes", "watch", "unwatch"] {
        let e = refused(&mut client, &format!("SELECT varve.{sql}('t')"));
        assert!(
            e.starts_with(
                "42501 checkpoint \"default\" of public.t belongs to a role that was dropped"
            ),
            "{e}"
        );
    }
    // A new role of the same name is another one.
    one(
        &mut client,
        "RESET ROLE; CREATE ROLE reader; GRANT SELECT ON t TO reader; SET ROLE reader",
    );
    assert!(refused(&mut client, "SELECT varve.unwatch('t')").starts_with("42501"));
    one(&mut client, "RESET ROLE");
    assert_eq!(counts(&mut client, "'t', advance => false"), "delete 1");
    one(&mut client, "SET ROLE keeper");
    assert_eq!(one(&mut client, "SELECT relation FROM varve.watches"), "t");
    one(&mut client, "SELECT varve.unwatch('t')");
    assert_eq!(kept(&mut client), "0");
    one(&mut client, "SELECT varve.watch('t'); RESET ROLE");
    // Then the table is the heir's, and may not be ended for nothing.
    one(
        &mut client,
        "DROP OWNED BY heir; ALTER TABLE t OWNER TO heir; SET ROLE heir; SELECT varve.unwatch('t'); SELECT varve.watch('t'); RESET ROLE",
    );
    one(&mut client, "DROP OWNED BY heir");
    assert_eq!(
        one(&mut client, "SELECT count(*) FROM varve.checkpoint"),
        "0"
    );
}

/// With the extension go checkpoints and what is kept for them, whatever they refer to.
#[test]
fn the_extension_goes() {
    let (_cluster, mut client) = start(&[]);
    for name in ["a", "b", "c"] {
        table(&mut client, "", name);
        set_tier(&mut client, name, "warm");
        one(
            &mut client,
            &format!("SELECT varve.watch('{name}'), varve.watch('{name}', checkpoint => 'more')"),
        );
        one(
            &mut client,
            &format!("UPDATE {name} SET v = 1 WHERE id = 1"),
        );
    }
    set_tier(&mut client, "a", "hot");
    one(&mut client, "TRUNCATE b");
    one(&mut client, "SELECT varve.disable('c')");
    set_tier(&mut client, "b", "hot");
    assert_eq!(kept(&mut client), "3");
    one(
        &mut client,
        "SELECT varve.disable('a'); SELECT varve.disable('b')",
    );
    one(&mut client, "BEGIN; DROP EXTENSION varve");
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '^(kept_)?segments_|^tombstones_|^checkpoint'";
    assert_eq!(one(&mut client, left), "0");
    one(&mut client, "ROLLBACK");
    assert_eq!(counts(&mut client, "'a'"), "update 1");
    assert_eq!(kept(&mut client), "3");
    assert_eq!(counts(&mut client, "'a', checkpoint => 'more'"), "update 1");
    assert_eq!(kept(&mut client), "2");
    one(&mut client, "DROP EXTENSION varve");
    assert_eq!(one(&mut client, left), "0");
    assert_eq!(one(&mut client, "SELECT count(*) FROM c"), "1000");
    // Of a new one nothing is known.
    one(&mut client, "CREATE EXTENSION varve");
    assert!(refused(&mut client, "SELECT varve.detect_changes('a')").starts_with("42704"));
    assert_eq!(one(&mut client, "SELECT varve.watch('a')"), "1000");
}
