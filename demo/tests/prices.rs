//! All prices of the demonstration, real ones where the file lies beside the checkout: the same before freezing, after,
//! after a crash, on a standby, and after dump and restore.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::{Client, NoTls};
use varve_demo::chapters::load::{self, BATCH};
use varve_demo::data;
use varve_demo::stage::{Stage, Summary, text_of};
use varve_tests::cluster::Cluster;
use varve_tests::wait;

/// Number of rows, sum of a column, and the MD5 of all rows in the order of their key.
fn figures(client: &mut Client) -> String {
    text_of(
        client,
        "SELECT count(*), sum(volume), md5(string_agg(p::text, E'\\n' ORDER BY symbol, date)) FROM prices p",
    )
    .unwrap()
}

/// Bytes of the hypertable with its indexes and all that belongs to it.
fn bytes(client: &mut Client) -> i64 {
    text_of(client, "SELECT sum(bytes_now) FROM varve.chunks")
        .unwrap()
        .parse()
        .unwrap()
}

fn all_is_well(client: &mut Client, expected: &str, when: &str) {
    assert_eq!(figures(client), expected, "{when}");
    let bad = text_of(
        client,
        "SELECT * FROM varve.verify('prices') WHERE NOT ok LIMIT 5",
    );
    assert_eq!(bad.unwrap(), "", "{when}");
}

#[test]
fn prices_stay_the_same_whatever_happens() {
    let cluster = Cluster::start_new(&["max_wal_size = 4GB"]).unwrap();
    let mut stage = Stage::new(cluster, data::load().unwrap()).unwrap();
    load::run(&mut stage).unwrap();
    let rows = stage.prices.records.len() as i64;
    let before = figures(&mut stage.client);
    let hot = bytes(&mut stage.client);
    println!("{}: {before}", stage.prices.source);
    assert!(before.starts_with(&rows.to_string()), "{before}");
    let again = Summary {
        rows_in: rows,
        unchanged: rows,
        ..Summary::default()
    };
    assert_eq!(stage.upsert_all(BATCH).unwrap(), again);

    for chunk in stage.chunks().unwrap() {
        let sql = "SELECT varve.set_tier($1::text::regclass, 'warm')";
        stage.client.execute(sql, &[&chunk.name]).unwrap();
    }
    all_is_well(&mut stage.client, &before, "after freezing");
    let warm = bytes(&mut stage.client);
    println!("{hot} bytes hot, {warm} warm");
    assert!(warm * 10 <= hot * 3, "70 % less: {hot} bytes, then {warm}");
    assert_eq!(stage.upsert_all(BATCH).unwrap(), again, "frozen");

    let standby = stage.cluster.standby(&[]).unwrap();
    let mut reader = standby.connect().unwrap();
    let lsn = text_of(&mut stage.client, "SELECT pg_current_wal_insert_lsn()").unwrap();
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    wait::until("the standby to catch up", || {
        text_of(&mut reader, &caught_up).unwrap() == "t"
    });
    all_is_well(&mut reader, &before, "on a standby");
    drop(reader);
    drop(standby);

    stage.cluster.kill().unwrap();
    stage.cluster.start().unwrap();
    stage.client = stage.cluster.connect().unwrap();
    all_is_well(&mut stage.client, &before, "after a crash");

    let file = stage.cluster.dir().join("prices.dump");
    let file = file.to_str().unwrap();
    let run = |tool: &str, args: &[&str]| stage.cluster.run(tool, args).unwrap();
    run("pg_dump", &["--format=custom", "--file", file, "postgres"]);
    run("createdb", &["restored"]);
    let mut restored = stage.cluster.config("restored").connect(NoTls).unwrap();
    restored
        .batch_execute("SET client_min_messages = error; CREATE EXTENSION timescaledb; SELECT timescaledb_pre_restore()")
        .unwrap();
    run("pg_restore", &["--dbname", "restored", file]);
    restored
        .batch_execute("SELECT timescaledb_post_restore()")
        .unwrap();
    all_is_well(&mut restored, &before, "after dump and restore");
    restored
        .batch_execute("CALL varve.set_tiers('prices', 'warm')")
        .unwrap();
    all_is_well(&mut restored, &before, "restored and frozen");
}
