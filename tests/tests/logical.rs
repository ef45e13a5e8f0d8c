//! Logical decoding of a table with frozen rows: changes of frozen rows come out as what they were, freezing and thawing
//! do not come out as changes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;
use varve_tests::wait;

const ROWS: i64 = 2000;

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&[
        "fsync = off",
        "wal_level = logical",
        "logical_decoding_work_mem = 64kB",
    ])
    .unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

/// A plain table `t` whose rows are frozen, and a slot that starts after that.
fn frozen_table(client: &mut Client) {
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int, note text, big text);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT i, i, 'note ' || i, CASE WHEN i = 9 THEN repeat('big', 2000) END FROM generate_series(1, {ROWS}) i"
        ))
        .unwrap();
    client
        .batch_execute("SELECT varve.enable('t'); SELECT varve.set_tier('t', 'warm')")
        .unwrap();
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('s', 'test_decoding')")
        .unwrap();
}

/// What the slot says since the last call, without BEGIN and COMMIT.
fn changes(client: &mut Client) -> Vec<String> {
    simple(
        client,
        "SELECT data FROM pg_logical_slot_get_changes('s', NULL, NULL, 'include-xids', '0') WHERE data NOT IN ('BEGIN', 'COMMIT') AND data NOT LIKE 'table %.bgw_job%'",
    )
    .unwrap()
}

fn expect(client: &mut Client, sql: &str, expected: &[&str]) {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    assert_eq!(changes(client), expected, "{sql}");
}

const NEW_1: &str = "id[integer]:1 v[integer]:-1 note[text]:'note 1' big[text]:null";

#[test]
fn changes_of_frozen_rows_come_out_as_they_are() {
    let (_cluster, mut client) = start();
    frozen_table(&mut client);
    expect(
        &mut client,
        "UPDATE t SET v = -1 WHERE id = 1",
        &[&format!("table public.t: UPDATE: {NEW_1}")],
    );
    expect(
        &mut client,
        "DELETE FROM t WHERE id = 2",
        &["table public.t: DELETE: id[integer]:2"],
    );
    expect(
        &mut client,
        "UPDATE t SET id = -3 WHERE id = 3",
        &[
            "table public.t: UPDATE: old-key: id[integer]:3 new-tuple: id[integer]:-3 v[integer]:3 note[text]:'note 3' big[text]:null",
        ],
    );
    expect(
        &mut client,
        "INSERT INTO t VALUES (4, 0) ON CONFLICT (id) DO UPDATE SET v = -4",
        &["table public.t: UPDATE: id[integer]:4 v[integer]:-4 note[text]:'note 4' big[text]:null"],
    );
    expect(
        &mut client,
        "INSERT INTO t VALUES (5, 0) ON CONFLICT DO NOTHING",
        &[],
    );
    expect(&mut client, "SELECT FROM t WHERE id = 6 FOR UPDATE", &[]);
    expect(
        &mut client,
        "MERGE INTO t USING (VALUES (7), (-7)) s (i) ON id = s.i WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (i, 0)",
        &[
            "table public.t: DELETE: id[integer]:7",
            "table public.t: INSERT: id[integer]:-7 v[integer]:0 note[text]:null big[text]:null",
        ],
    );
    expect(
        &mut client,
        "BEGIN; SAVEPOINT a; UPDATE t SET v = 0 WHERE id = 8; ROLLBACK TO a; DELETE FROM t WHERE id = 8; COMMIT",
        &["table public.t: DELETE: id[integer]:8"],
    );
    expect(
        &mut client,
        "BEGIN; UPDATE t SET v = 0 WHERE id = 10; ROLLBACK",
        &[],
    );
    // Heap would not send a long value that did not change; from a segment it comes whole, which is as right.
    let big = "big".repeat(2000);
    expect(
        &mut client,
        "UPDATE t SET v = 0 WHERE id = 9",
        &[&format!(
            "table public.t: UPDATE: id[integer]:9 v[integer]:0 note[text]:'note 9' big[text]:'{big}'"
        )],
    );
    expect(
        &mut client,
        "TRUNCATE t",
        &["table public.t: TRUNCATE: (no-flags)"],
    );
}

#[test]
fn replica_identity_full_sends_the_frozen_row_as_the_old_one() {
    let (_cluster, mut client) = start();
    frozen_table(&mut client);
    expect(&mut client, "ALTER TABLE t REPLICA IDENTITY FULL", &[]);
    expect(
        &mut client,
        "UPDATE t SET v = -1 WHERE id = 1",
        &[&format!(
            "table public.t: UPDATE: old-key: id[integer]:1 v[integer]:1 note[text]:'note 1' new-tuple: {NEW_1}"
        )],
    );
    expect(
        &mut client,
        "DELETE FROM t WHERE id = 2",
        &["table public.t: DELETE: id[integer]:2 v[integer]:2 note[text]:'note 2'"],
    );
    expect(
        &mut client,
        "BEGIN; UPDATE t SET v = v + 1 WHERE id = 3; UPDATE t SET v = v + 1 WHERE id = 3; COMMIT",
        &[
            "table public.t: UPDATE: old-key: id[integer]:3 v[integer]:3 note[text]:'note 3' new-tuple: id[integer]:3 v[integer]:4 note[text]:'note 3' big[text]:null",
            "table public.t: UPDATE: old-key: id[integer]:3 v[integer]:4 note[text]:'note 3' new-tuple: id[integer]:3 v[integer]:5 note[text]:'note 3' big[text]:null",
        ],
    );
}

#[test]
fn freezing_and_thawing_are_no_changes() {
    let (_cluster, mut client) = start();
    frozen_table(&mut client);
    client
        .batch_execute(
            "CREATE TABLE h (symbol int, ts timestamptz, v int, PRIMARY KEY (symbol, ts));
             SELECT create_hypertable('h', 'ts'); SELECT varve.enable('h');
             INSERT INTO h SELECT s, timestamptz '2024-01-01 00:00:00+00' + i * interval '1 hour', 0 FROM generate_series(1, 3) s, generate_series(0, 400) i",
        )
        .unwrap();
    let inserted = changes(&mut client);
    let of_chunks = inserted.iter().filter(|c| {
        c.starts_with("table _timescaledb_internal._hyper_1_") && c.contains("_chunk: INSERT")
    });
    assert_eq!(of_chunks.count(), 3 * 401);
    for sql in [
        "SELECT varve.set_tier('t', 'warm')",
        "SELECT varve.set_tier(c, 'warm') FROM show_chunks('h') c",
        "VACUUM FULL t",
        "SELECT varve.set_tier('t', 'hot')",
        "CALL varve.set_tiers('h', 'hot')",
        "CALL varve.set_tiers('h', 'warm')",
        "VACUUM t",
        "SELECT varve.verify('h')",
        "SELECT varve.disable('t')",
    ] {
        simple(&mut client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let seen = changes(&mut client);
        let of_users: Vec<&String> = seen
            .iter()
            .filter(|c| {
                c.contains("public.")
                    || c.contains("_timescaledb_internal")
                    || c.contains("varve_data")
            })
            .collect();
        assert!(of_users.is_empty(), "{sql}: {of_users:?}");
        // What is left are rows of varve's own two catalogue tables.
        let others: Vec<&String> = seen
            .iter()
            .filter(|c| !c.starts_with("table varve."))
            .collect();
        assert!(others.is_empty(), "{sql}: {others:?}");
    }
}

#[test]
fn a_change_in_the_same_transaction_as_a_freeze_comes_out_once() {
    let (_cluster, mut client) = start();
    frozen_table(&mut client);
    let of_t = |client: &mut Client| -> Vec<String> {
        changes(client)
            .into_iter()
            .filter(|c| c.contains("public.t"))
            .collect()
    };
    client
        .batch_execute("BEGIN; UPDATE t SET v = -1 WHERE id = 1; SELECT varve.set_tier('t', 'warm'); DELETE FROM t WHERE id = 2; COMMIT")
        .unwrap();
    let update = format!("table public.t: UPDATE: {NEW_1}");
    assert_eq!(
        of_t(&mut client),
        [update.as_str(), "table public.t: DELETE: id[integer]:2"]
    );
    client
        .batch_execute("BEGIN; DELETE FROM t WHERE id = 3; SELECT varve.set_tier('t', 'hot'); DELETE FROM t WHERE id = 4; COMMIT")
        .unwrap();
    assert_eq!(
        of_t(&mut client),
        [
            "table public.t: DELETE: id[integer]:3",
            "table public.t: DELETE: id[integer]:4"
        ]
    );
}

/// A publisher with frozen rows and a subscriber, whose table is a heap table or has frozen rows itself.
fn replicate(subscriber_freezes: bool) {
    let (publisher, mut from) = start();
    frozen_table(&mut from);
    from.batch_execute("CREATE PUBLICATION p FOR TABLE t")
        .unwrap();
    let subscriber = Cluster::start_new(&["fsync = off"]).unwrap();
    let mut to = subscriber.connect_with_varve().unwrap();
    to.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int, note text, big text)")
        .unwrap();
    to.batch_execute(&format!(
        "CREATE SUBSCRIPTION sub CONNECTION '{}' PUBLICATION p",
        publisher.conninfo("postgres")
    ))
    .unwrap();
    // The initial copy reads the frozen rows.
    wait::until("the initial copy", || {
        simple(&mut to, "SELECT srsubstate FROM pg_subscription_rel").unwrap() == ["r"]
    });
    let all = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM t";
    assert_eq!(simple(&mut to, all), simple(&mut from, all));
    if subscriber_freezes {
        to.batch_execute("SELECT varve.enable('t'); SELECT varve.set_tier('t', 'warm')")
            .unwrap();
    }
    from.batch_execute(
        "UPDATE t SET v = -v WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; UPDATE t SET id = id + 10000 WHERE id % 7 = 0;
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i ON CONFLICT (id) DO UPDATE SET note = 'upserted'",
    )
    .unwrap();
    let lsn = simple(&mut from, "SELECT pg_current_wal_lsn()")
        .unwrap()
        .concat();
    let caught_up = format!(
        "SELECT 1 FROM pg_stat_replication WHERE application_name = 'sub' AND replay_lsn >= '{lsn}'"
    );
    let failed = "SELECT 1 FROM pg_stat_subscription_stats WHERE apply_error_count > 0";
    wait::until("the subscriber to catch up or to fail", || {
        simple(&mut from, &caught_up).unwrap() == ["1"] || simple(&mut to, failed).unwrap() == ["1"]
    });
    let (expected, got) = (simple(&mut from, all), simple(&mut to, all));
    assert_eq!(expected, got, "{}", subscriber.log());
    to.batch_execute("DROP SUBSCRIPTION sub").unwrap();
}

#[test]
fn a_heap_subscriber_follows_a_publisher_with_frozen_rows() {
    replicate(false);
}

#[test]
fn a_subscriber_with_frozen_rows_applies_changes_to_them() {
    replicate(true);
}
