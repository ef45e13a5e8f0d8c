//! `varve.checksums` of what lies elsewhere: foreign tables, foreign partitions, views over them, chunks in TimescaleDB's columnstore, and
//! databases of other encodings. The same rows have the same sum everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use varve_tests::cluster::Cluster;
use varve_tests::session::{one, rows, simple};
use varve_tests::twin::{self, FREEZE};

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off", "autovacuum = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// Rows and the sum of their checksums.
fn sum(client: &mut Client, relation: &str) -> String {
    one(
        client,
        &format!(
            "SELECT sum(rows), varve.checksum_sum(checksum) FROM varve.checksums('{relation}')"
        ),
    )
}

/// What a query says of the same.
fn by_query(client: &mut Client, relation: &str) -> String {
    one(
        client,
        &format!("SELECT count(*), varve.checksum_sum(varve.row_checksum(t)) FROM {relation} t"),
    )
}

#[test]
fn foreign_tables() {
    let (cluster, mut client) = start();
    twin::create(&mut client).unwrap();
    rows(&mut client, FREEZE);
    let socket = cluster.dir().display();
    one(
        &mut client,
        &format!(
            "SET client_min_messages = warning; CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw;
             CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket}', dbname 'postgres'); CREATE USER MAPPING FOR postgres SERVER here OPTIONS (user 'postgres');
             CREATE SCHEMA far; IMPORT FOREIGN SCHEMA public LIMIT TO (bars, twin) FROM SERVER here INTO far;
             CREATE VIEW over AS SELECT * FROM far.bars WHERE symbol < 5; CREATE VIEW near AS SELECT * FROM twin WHERE symbol < 5"
        ),
    );
    let all = sum(&mut client, "twin");
    for relation in ["bars", "far.bars", "far.twin"] {
        assert_eq!(sum(&mut client, relation), all, "{relation}");
        assert_eq!(by_query(&mut client, relation), all, "{relation}");
    }
    assert_eq!(sum(&mut client, "over"), sum(&mut client, "near"));
    // A foreign table is one relation, whatever lies behind it.
    let named = "SELECT chunk, rows FROM varve.checksums('far.bars')";
    let count = one(&mut client, "SELECT count(*) FROM twin");
    assert_eq!(rows(&mut client, named), [format!("far.bars|{count}")]);
    one(
        &mut client,
        "UPDATE bars SET note = 'other' WHERE symbol = 2 AND ts = '2024-01-02Z'",
    );
    assert_eq!(sum(&mut client, "far.bars"), sum(&mut client, "bars"));
    assert_ne!(sum(&mut client, "far.bars"), all);
    // A file, which PostgreSQL's own process reads.
    let file = cluster.dir().join("twin.csv");
    let path = file.display();
    one(
        &mut client,
        &format!(
            "COPY twin TO '{path}' (FORMAT csv); CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE FOREIGN TABLE filed (symbol int, ts timestamptz, close float8, volume bigint, note text) SERVER files OPTIONS (filename '{path}', format 'csv')"
        ),
    );
    assert_eq!(sum(&mut client, "filed"), all);
    // Partitions, some of which are foreign: they are told one by one.
    one(
        &mut client,
        "CREATE TABLE low (LIKE twin); INSERT INTO low SELECT * FROM twin WHERE symbol < 5; CREATE TABLE parts (LIKE twin) PARTITION BY RANGE (symbol);
         CREATE FOREIGN TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (5) SERVER here OPTIONS (table_name 'low');
         CREATE TABLE parts_high PARTITION OF parts DEFAULT; INSERT INTO parts SELECT * FROM twin WHERE symbol >= 5; SELECT varve.enable('parts', segment_by => '{symbol}', order_by => '{ts}')",
    );
    one(&mut client, "SELECT varve.set_tier('parts_high', 'warm')");
    assert_eq!(sum(&mut client, "parts"), all);
    let each = rows(
        &mut client,
        "SELECT chunk, rows, checksum FROM varve.checksums('parts')",
    );
    let expected =
        ["parts_low", "parts_high"].map(|part| format!("{part}|{}", sum(&mut client, part)));
    assert_eq!(each, expected);
    // Where the other side is gone, it says so.
    one(&mut client, "ALTER TABLE low RENAME TO lost");
    for relation in ["parts", "parts_low"] {
        let e = simple(
            &mut client,
            &format!("SELECT * FROM varve.checksums('{relation}')"),
        );
        assert_eq!(e.unwrap_err().code, "42P01", "{relation}");
    }
}

/// Foreign tables and partitions are watched and compared by queries.
#[test]
fn foreign_changes() {
    let (cluster, mut client) = start();
    let socket = cluster.dir().display();
    one(
        &mut client,
        &format!(
            "SET client_min_messages = warning; CREATE EXTENSION postgres_fdw;
             CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket}', dbname 'postgres'); CREATE USER MAPPING FOR postgres SERVER here OPTIONS (user 'postgres');
             CREATE TABLE low (id int PRIMARY KEY, v numeric); INSERT INTO low SELECT i, i / 10.0 FROM generate_series(1, 500) i; CREATE TABLE parts (id int, v numeric) PARTITION BY RANGE (id);
             CREATE FOREIGN TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (1000) SERVER here OPTIONS (table_name 'low'); CREATE TABLE parts_high PARTITION OF parts DEFAULT;
             INSERT INTO parts_high SELECT i, i FROM generate_series(1000, 1500) i"
        ),
    );
    one(&mut client, "CREATE TABLE was AS TABLE parts");
    one(
        &mut client,
        "SELECT varve.watch('parts', key => '{id}'), varve.watch('parts_low', key => '{id}')",
    );
    let told = |client: &mut Client, relation: &str| {
        rows(
            client,
            &format!("SELECT op, key->>'id' FROM varve.detect_changes('{relation}') ORDER BY 2, 1"),
        )
    };
    for relation in ["parts", "parts_low"] {
        assert_eq!(told(&mut client, relation), [""; 0], "{relation}");
    }
    one(
        &mut client,
        "UPDATE low SET v = 7 WHERE id = 100; DELETE FROM low WHERE id = 200; INSERT INTO low VALUES (600, 6); UPDATE parts SET v = v * 2 WHERE id = 1100",
    );
    let low = ["update|100", "delete|200", "insert|600"];
    let all = ["update|100", "update|1100", "delete|200", "insert|600"];
    let diff = "SELECT op, key->>'id' FROM varve.diff('was', 'parts', '{id}') ORDER BY 2, 1";
    assert_eq!(rows(&mut client, diff), all);
    assert_eq!(told(&mut client, "parts"), all);
    assert_eq!(told(&mut client, "parts_low"), low);
    for relation in ["parts", "parts_low"] {
        assert_eq!(told(&mut client, relation), [""; 0], "{relation}");
    }
    // A foreign partition that becomes one of ours, with the same rows.
    one(
        &mut client,
        "ALTER TABLE parts DETACH PARTITION parts_low; ALTER TABLE parts ATTACH PARTITION low FOR VALUES FROM (0) TO (1000)",
    );
    assert_eq!(told(&mut client, "parts"), [""; 0]);
    one(&mut client, "DELETE FROM parts WHERE id = 1200");
    assert_eq!(told(&mut client, "parts"), ["delete|1200"]);
}

/// Texts have the same sum in every encoding that has their letters, and so have the names of columns.
#[test]
fn encodings() {
    let (cluster, mut client) = start();
    let letters = [
        ("LATIN1", "naïve Größe Ünï"),
        ("EUC_JP", "日本語 テキスト"),
        ("WIN1252", "Größe €"),
    ];
    for (encoding, words) in letters {
        let name = encoding.to_lowercase();
        one(
            &mut client,
            &format!("CREATE DATABASE {name} ENCODING {encoding} LOCALE 'C' TEMPLATE template0"),
        );
        let mut there = cluster.config(&name).connect(NoTls).unwrap();
        one(
            &mut there,
            "SET client_min_messages = warning; CREATE EXTENSION varve CASCADE",
        );
        let column = words.split(' ').next().unwrap();
        let mut found = Vec::new();
        for client in [&mut client, &mut there] {
            one(
                client,
                &format!(
                    "CREATE TABLE {name}_t (id int PRIMARY KEY, \"{column}\" text, c char(20), a text[], j jsonb, n name, v varchar);
                     INSERT INTO {name}_t SELECT i, '{words} ' || i, '{words}', ARRAY['{words}', NULL, i::text], jsonb_build_object('{column}', '{words}'), '{column}', NULL FROM generate_series(1, 2000) i;
                     CREATE VIEW {name}_v AS TABLE {name}_t; SELECT varve.enable('{name}_t', segment_by => '{{}}', order_by => '{{id}}')"
                ),
            );
            let table = format!("{name}_t");
            let mut sums = vec![by_query(client, &table), sum(client, &format!("{name}_v"))];
            for tier in ["hot", "warm", "cold"] {
                one(
                    client,
                    &format!("SELECT varve.set_tier('{table}', '{tier}')"),
                );
                sums.push(sum(client, &table));
            }
            let first = sums[0].clone();
            assert!(first.starts_with("2000|"), "{first}");
            assert!(sums.iter().all(|sum| *sum == first), "{encoding}: {sums:?}");
            // What is watched is told in the client's encoding.
            one(
                client,
                &format!("SELECT varve.watch('{table}', key => '{{\"{column}\"}}')"),
            );
            one(
                client,
                &format!(
                    "DELETE FROM {table} WHERE id = 7; UPDATE {table} SET v = '{words}' WHERE id = 8"
                ),
            );
            let told = rows(
                client,
                &format!(
                    "SELECT op, key->>'{column}', new->>'v' FROM varve.detect_changes('{table}') ORDER BY 2"
                ),
            );
            assert_eq!(
                told,
                [
                    format!("delete|{words} 7|∅"),
                    format!("update|{words} 8|{words}")
                ],
                "{encoding}"
            );
            found.push((first, sum(client, &table)));
        }
        assert_eq!(found[0], found[1], "{encoding}");
    }
}
