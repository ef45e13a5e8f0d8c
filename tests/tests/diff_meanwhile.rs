//! `varve.diff` beside those who change what its tables are: it tells what its snapshot has, or nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::{self, Session, one, rows, simple};

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// Begins a transaction whose snapshot lasts, and takes it.
fn take_snapshot(client: &mut Client) {
    one(
        client,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class",
    );
}

/// Tables and the keys by which they are compared; `a` has two rows with the key 7 until somebody deletes one and says that there is one of
/// each.
const TWICE: &[(&str, &str)] = &[
    // As a plain table, with the index that a constraint makes.
    (
        "CREATE TABLE {t} (id int, v text);
         INSERT INTO {t} SELECT i, 'row ' || i FROM generate_series(1, 3000) i WHERE i <> 7",
        "ALTER TABLE a ADD PRIMARY KEY (id)",
    ),
    // The index is there; what was missing is NOT NULL.
    (
        "CREATE TABLE {t} (id int, v text); CREATE UNIQUE INDEX ON {t} (id);
         INSERT INTO {t} SELECT nullif(i, 7), 'row ' || i FROM generate_series(1, 3000) i WHERE i <> 7",
        "ALTER TABLE a ALTER id SET NOT NULL",
    ),
    // Its chunks get theirs with it.
    (
        "CREATE TABLE {t} (id int NOT NULL, v text); SELECT create_hypertable('{t}', 'id', chunk_time_interval => 1000); SELECT varve.enable('{t}');
         INSERT INTO {t} SELECT i, 'row ' || i FROM generate_series(1, 3000) i WHERE i <> 7;
         SELECT varve.set_tier(c, 'warm') FROM show_chunks('{t}') c",
        "CREATE UNIQUE INDEX ON a (id)",
    ),
    (
        "CREATE TABLE {t} (id int NOT NULL, v text) PARTITION BY RANGE (id); CREATE TABLE {t}_low PARTITION OF {t} FOR VALUES FROM (0) TO (1000);
         CREATE TABLE {t}_high PARTITION OF {t} FOR VALUES FROM (1000) TO (4000); SELECT varve.enable('{t}', order_by => '{id}');
         INSERT INTO {t} SELECT i, 'row ' || i FROM generate_series(1, 3000) i WHERE i <> 7;
         SELECT varve.set_tier('{t}_low', 'warm'), varve.set_tier('{t}_high', 'warm')",
        "ALTER TABLE a ADD PRIMARY KEY (id)",
    ),
];

/// The key that two rows have.
fn key(create: &str) -> &'static str {
    match create.contains("nullif") {
        true => "NULL",
        false => "7",
    }
}

/// Makes both; `b` says which rows are unique.
fn twice(client: &mut Client, create: &str, unique: &str) {
    for table in ["a", "b"] {
        for sql in create.replace("{t}", table).split_inclusive(';') {
            one(client, sql);
        }
        let key = key(create);
        one(
            client,
            &format!(
                "INSERT INTO {table} VALUES ({key}, 'y'); INSERT INTO {table} SELECT {key}, 'x' WHERE '{table}' = 'a'"
            ),
        );
    }
    if key(create) == "NULL" {
        one(client, "UPDATE b SET id = 7 WHERE id IS NULL");
    }
    one(
        client,
        &unique.replace("TABLE a", "TABLE b").replace("ON a", "ON b"),
    );
}

fn drop_tables(client: &mut Client) {
    one(client, "DROP TABLE a; DROP TABLE b");
}

/// The snapshot has two rows with a key; when the tables are looked at, there is one, and an index that says so.
#[test]
fn an_index_that_is_younger_than_the_snapshot() {
    let (cluster, mut client) = start();
    for (create, unique) in TWICE {
        for arguments in ["'a', 'b', '{id}'", "'b', 'a', '{id}'"] {
            twice(&mut client, create, unique);
            let diff = format!("SELECT op, key, changed FROM varve.diff({arguments})");
            // Who waits has his snapshot.
            let mut reader = Session::new(&cluster).unwrap();
            one(
                &mut client,
                "BEGIN; LOCK TABLE a; DELETE FROM a WHERE v = 'x'; UPDATE a SET id = 7 WHERE id IS NULL",
            );
            one(&mut client, unique);
            reader.start(&diff);
            let mut observer = cluster.connect().unwrap();
            assert!(reader.waits(&mut observer), "{create}");
            one(&mut client, "COMMIT");
            let code = reader.finish().expect_err(create).code;
            assert_eq!(code, "21000", "{create} {arguments}");
            // The next statement's snapshot has one of each.
            assert!(reader.ok(&diff).is_empty(), "{create} {arguments}");
            drop_tables(&mut client);

            // A snapshot that lasts, taken before.
            twice(&mut client, create, unique);
            let mut old = cluster.connect().unwrap();
            take_snapshot(&mut old);
            one(
                &mut client,
                "DELETE FROM a WHERE v = 'x'; UPDATE a SET id = 7 WHERE id IS NULL",
            );
            let mut own = cluster.connect().unwrap();
            take_snapshot(&mut own);
            one(&mut client, unique);
            let failed = simple(&mut old, &diff).expect_err(create);
            assert_eq!(failed.code, "21000", "{create} {arguments}");
            // As if it were not there, it does no harm: rows are as they should be.
            assert!(rows(&mut own, &diff).is_empty(), "{create} {arguments}");
            one(&mut own, "ROLLBACK");
            one(&mut old, "ROLLBACK");
            drop_tables(&mut client);

            // Who makes it himself, by what his snapshot does not have.
            twice(&mut client, create, unique);
            take_snapshot(&mut old);
            one(
                &mut client,
                "DELETE FROM a WHERE v = 'x'; UPDATE a SET id = 7 WHERE id IS NULL",
            );
            one(&mut old, unique);
            let failed = simple(&mut old, &diff).expect_err(create);
            assert_eq!(failed.code, "21000", "{create} {arguments}");
            one(&mut old, "ROLLBACK");
            drop_tables(&mut client);
        }
    }
}

/// Rows that the snapshot has twice: in a partition, and in a table that becomes one when they are gone from there.
const MOVED: &str = "CREATE TABLE {t} (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE {t}_low PARTITION OF {t} FOR VALUES FROM (0) TO (1000); CREATE TABLE {t}_rest PARTITION OF {t} DEFAULT;
    INSERT INTO {t} SELECT i, 'row ' || i FROM generate_series(1, 3000) i;
    CREATE TABLE {t}_high (LIKE {t} INCLUDING ALL); INSERT INTO {t}_high SELECT id, 'elsewhere' FROM {t} WHERE id >= 1000";

/// A table that becomes a partition when the snapshot is there is none for it.
#[test]
fn a_partition_that_is_younger_than_the_snapshot() {
    let (cluster, mut client) = start();
    for table in ["a", "b"] {
        one(&mut client, &MOVED.replace("{t}", table));
    }
    one(
        &mut client,
        "UPDATE a SET v = 'other' WHERE id IN (5, 2000)",
    );
    let diff = "SELECT op, key, changed FROM varve.diff('a', 'b') ORDER BY key";
    let expected = [r#"update|{"id": 5}|{v}"#, r#"update|{"id": 2000}|{v}"#];
    let mut old = cluster.connect().unwrap();
    take_snapshot(&mut old);
    one(
        &mut client,
        "DELETE FROM a_rest WHERE id >= 1000; ALTER TABLE a ATTACH PARTITION a_high FOR VALUES FROM (1000) TO (5000)",
    );
    assert_eq!(rows(&mut old, diff), expected);
    one(&mut old, "COMMIT");
    assert_eq!(rows(&mut old, diff).len(), 2002);
}

/// A partition that is none yet for the snapshot, and equal to one of the other relation.
#[test]
fn an_equal_partition_that_is_younger_than_the_snapshot() {
    let (cluster, mut client) = start();
    for table in ["a", "b"] {
        one(
            &mut client,
            &format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
                 CREATE TABLE {table}_low PARTITION OF {table} FOR VALUES FROM (0) TO (20000); CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT;
                 CREATE TABLE {table}_high (LIKE {table} INCLUDING ALL); SELECT varve.enable('{table}'), varve.enable('{table}_high');
                 INSERT INTO {table} SELECT i, 'row ' || i FROM generate_series(1, 40000) i;
                 INSERT INTO {table}_high SELECT id, 'elsewhere' FROM {table} WHERE id >= 20000"
            ),
        );
        for part in ["low", "rest", "high"] {
            one(
                &mut client,
                &format!("SELECT varve.set_tier('{table}_{part}', 'warm')"),
            );
        }
    }
    let attach = |client: &mut Client, table: &str| {
        one(
            client,
            &format!(
                "DELETE FROM {table}_rest; ALTER TABLE {table} ATTACH PARTITION {table}_high FOR VALUES FROM (20000) TO (50000)"
            ),
        )
    };
    attach(&mut client, "b");
    let (mut old, heard) = session::listening(&mut cluster.config("postgres")).unwrap();
    take_snapshot(&mut old);
    attach(&mut client, "a");
    heard.try_iter().for_each(drop);
    let diff = "SELECT op, changed, count(*) FROM varve.diff('a', 'b') GROUP BY 1, 2";
    assert_eq!(rows(&mut old, diff), ["update|{v}|20001"]);
    let words: Vec<String> = heard
        .try_iter()
        .filter(|line| line.contains("not read"))
        .collect();
    let one_each = ["a", "b"]
        .map(|table| format!("varve.diff: tables of public.{table} that are not read: 1"));
    assert_eq!(words, one_each);
    one(&mut old, "COMMIT");
    assert!(rows(&mut old, diff).is_empty());
}

/// A partition that comes between the two readings.
#[test]
fn a_partition_that_comes_between_the_readings() {
    let (cluster, mut client) = start();
    one(
        &mut client,
        "CREATE TABLE a (part int, id int, v int) PARTITION BY LIST (part); CREATE TABLE a1 PARTITION OF a FOR VALUES IN (1);
         INSERT INTO a SELECT 1, i, i FROM generate_series(1, 3000) i; CREATE TABLE b AS SELECT id, v + (id % 100 = 0)::int AS v FROM a;
         CREATE TABLE a2 (part int, id int, v int) PARTITION BY LIST (id); CREATE TABLE a21 PARTITION OF a2 DEFAULT; INSERT INTO a2 SELECT 2, id, 7 FROM a;
         CREATE FUNCTION waits(id int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF id = 1500 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; RETURN id; END $$;
         CREATE VIEW va AS SELECT waits(id) AS id, v FROM a",
    );
    let diff = |old, new| {
        format!(
            "SELECT op, changed, count(*) FROM varve.diff('{old}', '{new}', '{{id}}') GROUP BY 1, 2"
        )
    };
    for (old, new) in [("va", "b"), ("b", "va")] {
        let mut reader = Session::new(&cluster).unwrap();
        one(&mut client, "BEGIN; SELECT pg_advisory_xact_lock(1)");
        reader.start(&diff(old, new));
        let mut other = cluster.connect().unwrap();
        assert!(reader.waits(&mut other));
        one(
            &mut other,
            "ALTER TABLE a ATTACH PARTITION a2 FOR VALUES IN (2)",
        );
        one(&mut client, "COMMIT");
        // Each of its rows would be a second one of a key.
        assert_eq!(reader.finish().unwrap(), ["update|{v}|30"]);
        assert_eq!(reader.err(&diff(old, new)), "21000");
        one(&mut client, "ALTER TABLE a DETACH PARTITION a2");
    }
}
