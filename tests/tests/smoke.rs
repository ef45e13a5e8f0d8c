//! The extension loads, freezes and gives back.
#![allow(clippy::unwrap_used)]

use varve_tests::cluster::Cluster;

#[test]
fn extension_loads_and_a_frozen_table_reads_the_same() {
    let cluster = Cluster::start_new(&[]).unwrap();
    let mut client = cluster.connect_with_varve().unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 1000) i",
        )
        .unwrap();
    // In a transaction of its own: rows of the running transaction are not yet visible to everybody and stay hot.
    client
        .batch_execute("SELECT varve.enable('t'); SELECT varve.set_tier('t', 'warm')")
        .unwrap();
    let row = client
        .query_one(
            "SELECT count(*), sum(id), (SELECT segments FROM varve.chunks) FROM t",
            &[],
        )
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (1000, 500_500)
    );
    assert_eq!(row.get::<_, i32>(2), 1);
}
