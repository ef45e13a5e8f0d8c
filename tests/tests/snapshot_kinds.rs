//! Snapshots of hypertables with every kind of time, and in databases of other encodings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod snapshot_common;

use postgres::{Client, NoTls};
use snapshot_common::*;
use varve_tests::cluster::Cluster;

/// The type of the time, the chunks' interval, and the time of row `i`.
const TIMES: &[(&str, &str, &str)] = &[
    ("smallint", "100::smallint", "(i - 500)::smallint"),
    ("integer", "100", "i - 500"),
    ("bigint", "100::bigint", "9000000000000000000 + i"),
    ("date", "interval '100 days'", "date '2020-01-01' + i"),
    (
        "timestamp",
        "interval '100 hours'",
        "timestamp '2020-01-01' + i * interval '1 hour'",
    ),
];

#[test]
fn every_kind_of_time() {
    let (cluster, mut client, _dir) = start(&[]);
    ok(&mut client, "CREATE SCHEMA other");
    for (kind, interval, time) in TIMES {
        for statement in [
            format!("CREATE TABLE at_{kind} (at {kind} PRIMARY KEY, price float8)"),
            format!("SELECT create_hypertable('at_{kind}', by_range('at', {interval}))"),
            format!("INSERT INTO at_{kind} SELECT {time}, i / 7.0 FROM generate_series(0, 999) i"),
            format!("SELECT varve.enable('at_{kind}')"),
            format!(
                "SELECT varve.set_tier(c, 'warm') FROM (SELECT c FROM show_chunks('at_{kind}') c ORDER BY c LIMIT 4) x"
            ),
        ] {
            ok(&mut client, &statement);
        }
        let id = one(&mut client, &format!("SELECT varve.snapshot('at_{kind}')"));
        let restore = format!("SELECT varve.restore_snapshot('{id}', 'other.at_{kind}')");
        assert_eq!(one(&mut client, &restore), "1000", "{kind}");
        let (was, is) = (format!("at_{kind}"), format!("other.at_{kind}"));
        assert_eq!(difference(&mut client, &was, &is), "0|0|t", "{kind}");
        assert_eq!(
            definition(&cluster, "public", &was),
            definition(&cluster, "other", &was)
        );
        let ranges = |client: &mut Client, table: &str| {
            ok(
                client,
                &format!(
                    "SELECT range_start, range_end, range_start_integer, range_end_integer FROM timescaledb_information.chunks \
                     WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = '{table}'::regclass ORDER BY 1, 3"
                ),
            )
        };
        let expected = ranges(&mut client, &was);
        assert!(expected.len() > 9, "{kind}: {expected:?}");
        assert_eq!(ranges(&mut client, &is), expected, "{kind}");
        let frozen = "SELECT count(*) FROM varve.chunks WHERE tier = 'warm' AND hypertable = ";
        assert_eq!(one(&mut client, &format!("{frozen}'{is}'::regclass")), "4");
        // New rows find their chunk.
        let more = format!(
            "INSERT INTO {is} SELECT {time} FROM generate_series(1000, 1099) i RETURNING 1"
        );
        assert_eq!(ok(&mut client, &more).len(), 100, "{kind}");
    }
}

/// A database of some encoding with varve and a store in it, and a hypertable with these texts.
fn database(cluster: &Cluster, encoding: &str, store: &str, texts: &str) -> Client {
    let name = encoding.to_lowercase();
    let mut first = cluster.connect().unwrap();
    let create = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    );
    ok(&mut first, &create);
    let mut client = cluster.config(&name).connect(NoTls).unwrap();
    for statement in [
        "CREATE EXTENSION varve CASCADE",
        &format!(
            "CREATE SERVER first FOREIGN DATA WRAPPER varve_store OPTIONS (url '{store}', role 'primary')"
        ),
        "CREATE TABLE texts (at timestamptz PRIMARY KEY, words text, doc jsonb, list text[], short varchar(5))",
        "SELECT create_hypertable('texts', by_range('at', interval '1 day'))",
        &format!(
            "INSERT INTO texts SELECT timestamptz '2025-01-01 00:00Z' + (row_number() OVER ()) * interval '5 hours', w, \
             jsonb_build_object('w', w), ARRAY[w, NULL, w], left(w, 2) FROM unnest({texts}) w, generate_series(1, 50)"
        ),
        "SELECT varve.enable('texts')",
        "SELECT varve.set_tier(c, 'warm') FROM (SELECT c FROM show_chunks('texts') c ORDER BY c LIMIT 4) x",
    ] {
        ok(&mut client, statement);
    }
    client
}

#[test]
fn other_encodings() {
    let (cluster, mut utf8, dir) = start(&[]);
    let url = format!("file://{}", dir.display());
    let words = "ARRAY['naïve', 'Größe', '', E'tab\\tnewline\\n']";
    let mut ids = Vec::new();
    for encoding in ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"] {
        let words = match encoding {
            "EUC_JP" => "ARRAY['日本語', 'テキスト', '']",
            _ => words,
        };
        let mut client = database(&cluster, encoding, &url, words);
        let id = one(&mut client, "SELECT varve.snapshot('texts')");
        let restore = format!("SELECT varve.restore_snapshot('{id}', 'again')");
        assert_eq!(
            one(&mut client, &restore),
            one(&mut client, "SELECT count(*) FROM texts"),
            "{encoding}"
        );
        assert_eq!(
            difference(&mut client, "texts", "again"),
            "0|0|t",
            "{encoding}"
        );
        ids.push((
            encoding,
            id,
            ok(&mut client, "SELECT DISTINCT words FROM texts ORDER BY 1"),
        ));
    }
    // What one database has written, another reads.
    for (encoding, id, words) in ids {
        let restore = format!("SELECT varve.restore_snapshot('{id}', 'from_{encoding}')");
        ok(&mut utf8, &restore);
        let query = format!("SELECT DISTINCT words COLLATE \"C\" FROM from_{encoding} ORDER BY 1");
        let mut found = ok(&mut utf8, &query);
        let mut words = words;
        found.sort();
        words.sort();
        assert_eq!(found, words, "{encoding}");
    }
    // Bytes that are no text in UTF-8 are refused, and nothing is left of the snapshot.
    let mut bytes = cluster.config("sql_ascii").connect(NoTls).unwrap();
    ok(
        &mut bytes,
        "INSERT INTO texts VALUES (now(), convert_from('\\xff', 'SQL_ASCII'))",
    );
    assert_eq!(code(&mut bytes, "SELECT varve.snapshot('texts')"), "22021");
    assert_eq!(one(&mut bytes, "SELECT count(*) FROM varve.snapshots"), "4");
}
