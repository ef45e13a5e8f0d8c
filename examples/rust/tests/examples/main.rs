//! Both loaders, run as a user would, against a private server: what they load, what they tell, where they stop.
//!
//! It is a test of this package, not of `varve-tests`, since cargo builds a program for the tests of its own package only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod prices;

use flate2::{Compression, write::GzEncoder};
use harness::{Bench, Directory, Loader, Report};
use prices::{BEGIN, ROWS, csv, rows, stored};
use std::io::Write;
use varve_tests::cluster::Cluster;

/// A large file: loaded, loaded again, loaded with one value changed, and a file with some of the columns.
fn a_file(bench: &Bench<'_>) {
    let (way, again) = (bench.way, format!("{}, again", bench.way));
    let mut expected = rows();
    let file = std::fs::File::create(bench.files.join("prices.csv.gz")).unwrap();
    let mut packed = GzEncoder::new(file, Compression::fast());
    packed.write_all(csv(&expected).as_bytes()).unwrap();
    packed.finish().unwrap();
    let loaded = [
        Report::new(way, ROWS, 0, 0),
        Report::new(&again, 0, 0, ROWS),
    ];
    bench.loads(&["--again", "--batch", "7000", "prices.csv.gz"], &loaded);
    let mut client = bench.client();
    assert!(
        stored(&mut client) == expected,
        "{way}: other rows than were loaded"
    );

    expected[12_345].2[3] = Some(0.01);
    bench.file("changed.csv", &csv(&expected));
    bench.loads(&["changed.csv"], &[Report::new(way, 0, 1, ROWS - 1)]);
    assert!(
        stored(&mut client) == expected,
        "{way}: other rows after the change"
    );

    // Columns that a file lacks stay.
    let some = "symbol,ts,close\nT00,2025-01-01,0.02\nT40,2025-01-01,7\n";
    bench.file("some.csv", some);
    if bench.loader.needs_all == Some(way) {
        bench.stops(&["some.csv"], &["all columns"]);
    } else {
        bench.loads(&["some.csv"], &[Report::new(way, 1, 1, 0)]);
        expected[0].2[3] = Some(0.02);
        expected.push(("T40".into(), BEGIN, [None, None, None, Some(7.0)], None));
    }
    assert!(
        stored(&mut client) == expected,
        "{way}: other rows after some columns"
    );
}

/// Rows that the server or the loader refuses: the message tells their line, and their batch leaves nothing behind.
fn bad_rows(bench: &Bench<'_>) {
    let mut client = bench.client();
    client
        .batch_execute(
            "TRUNCATE prices; ALTER TABLE prices ADD CONSTRAINT sold CHECK (volume >= 0)",
        )
        .unwrap();
    let header = "symbol,ts,open,high,low,close,volume";
    let good = |minute: u32| format!("A,2025-01-01 00:{minute:02}Z,1,2,0.5,1.5,100");
    // Ten lines; the eighth, in the third batch of three, is bad. Blank lines are no rows, and count as lines.
    let with = |bad: &str| {
        let mut lines: Vec<String> = (2..=10).map(good).collect();
        lines[6] = bad.into();
        lines[1] = String::new();
        format!("{header}\n{}\n", lines.join("\n"))
    };
    for (bad, parts) in [
        (
            ",2025-01-01 00:08Z,1,2,0.5,1.5,100",
            ["null value in key column \"symbol\""],
        ),
        ("A,,1,2,0.5,1.5,100", ["null value in key column \"ts\""]),
        (
            "A,2025-01-01 00:08Z,1,2,0.5,1.5,-1",
            ["violates check constraint \"sold\""],
        ),
        ("A,2025-01-01 00:08Z,1,two,0.5,1.5,100", ["column high: "]),
        ("A,2025-02-29 00:08Z,1,2,0.5,1.5,100", ["column ts: "]),
        (
            "A,2025-01-01 00:08Z,1,2,0.5,1.5,9223372036854775808",
            ["column volume: "],
        ),
        ("A,2025-01-01 00:08Z,1,2", [""]),
    ] {
        bench.file("bad.csv", &with(bad));
        bench.stops(
            &["--batch", "3", "bad.csv"],
            &["bad.csv", "line 8", parts[0]],
        );
        // The first two batches, lines 2, 4, 5 and, of another batch, none of 6, 7, 9.
        let minutes: String = client
            .query_one(
                "SELECT string_agg(extract(minute FROM ts)::text, ' ' ORDER BY ts) FROM prices",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(minutes, "2 4 5", "{bad}");
    }
    bench.file("header.csv", "symbol,open\nA,1\n");
    bench.stops(&["header.csv"], &["header.csv: no column ts"]);
    bench.file("twice.csv", "symbol,date,ts\nA,2025-01-01,2025-01-01\n");
    bench.stops(&["twice.csv"], &["twice.csv: two columns for ts"]);
    bench.stops(&["nowhere.csv"], &["nowhere.csv"]);
    let nowhere = "postgresql://postgres@/postgres?host=/nowhere";
    bench.stops(
        &["bad.csv", "--dsn", nowhere],
        &["no connection", "No such file or directory"],
    );
    // Mended, the rest is loaded.
    bench.file("bad.csv", &with(&good(8)));
    bench.loads(
        &["--batch", "3", "bad.csv"],
        &[Report::new(bench.way, 5, 0, 3)],
    );
}

/// Rows that the loader makes up, in a database where nothing is yet.
fn made_up(bench: &Bench<'_>) {
    let reports = [
        Report::new(bench.way, 30_000, 0, 0),
        Report::new(&format!("{}, again", bench.way), 0, 0, 30_000),
    ];
    bench.loads(&["--rows", "30000", "--again"], &reports);
    let count: i64 = bench
        .client()
        .query_one(
            "SELECT count(*) FROM prices WHERE low < close AND close < high",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(count, 30_000);
}

/// NaN and infinity go through as they are.
fn strange_numbers(bench: &Bench<'_>) {
    bench.file(
        "strange.csv",
        "symbol,ts,open,high,low,close,volume\nN,2025-01-01,NaN,inf,-inf,1e-300,0\n",
    );
    bench.loads(&["strange.csv"], &[Report::new(bench.way, 1, 0, 0)]);
    let told: String = bench
        .client()
        .query_one(
            "SELECT concat_ws(' ', open, high, low, close) FROM prices WHERE symbol = 'N'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(told, "NaN Infinity -Infinity 1e-300");
}

fn tested(loader: &Loader) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let made = Directory::new();
    for way in loader.ways {
        let bench = |database: &str| {
            let database = format!("{database}_{way}");
            let mut client = cluster.connect().unwrap();
            client
                .batch_execute(&format!("CREATE DATABASE {database}"))
                .unwrap();
            Bench {
                loader,
                way,
                cluster: &cluster,
                database,
                files: made.path().to_path_buf(),
            }
        };
        let file = bench("file");
        a_file(&file);
        bad_rows(&file);
        let chance = bench("chance");
        made_up(&chance);
        strange_numbers(&chance);
    }
}

#[test]
fn python_loads() {
    tested(&Loader::python());
}

#[test]
fn rust_loads() {
    tested(&Loader::rust());
}
