//! Random statements behave on varve tables as on heap tables; see `varve_tests::shadow`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use varve_tests::cluster::Cluster;
use varve_tests::shadow::pair::{Pair, Setting, prepare};
use varve_tests::shadow::step::{Step, Who};
use varve_tests::shadow::{report, run};

/// Statements for each setting, unless `VARVE_SHADOW_STATEMENTS` says otherwise.
const STATEMENTS: usize = 2000;

/// Seeds that always run. A new one joins them where `VARVE_SHADOW_STATEMENTS` is set (`make soak`); the run that every
/// change has to pass stays the same from day to day.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

fn cluster() -> Cluster {
    let cluster = Cluster::start_new(&[
        // Most batches are small here.
        "varve.upsert_merge_rows = 2",
        "fsync = off",
        "autovacuum = off",
        "synchronous_commit = off",
        "max_connections = 50",
    ])
    .unwrap();
    prepare(&cluster).unwrap();
    cluster
}

fn shadow(freeze_at_commit: bool) {
    let cluster = cluster();
    let statements = number("VARVE_SHADOW_STATEMENTS").map_or(STATEMENTS, |n| n as usize);
    let seeds = match number("VARVE_SHADOW_SEED") {
        Some(seed) => vec![seed],
        None if number("VARVE_SHADOW_STATEMENTS").is_some() => {
            let random =
                std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64 % 1_000_000_000;
            SEEDS.into_iter().chain([random]).collect()
        }
        None => SEEDS.to_vec(),
    };
    let each = statements.div_ceil(seeds.len());
    for seed in seeds {
        let setting = Setting {
            freeze_at_commit,
            start_on_heap: !freeze_at_commit && seed % 2 == 0,
        };
        let begin = std::time::Instant::now();
        println!("shadow test: seed {seed}, {setting:?}, {each} statements");
        match run(&cluster, setting, seed, each) {
            Ok(tally) => {
                println!("  no difference; {tally:?}, {:.1?}", begin.elapsed());
                assert!(
                    tally.failed * 3 < tally.statements,
                    "too many statements failed to tell much: {tally:?}"
                );
            }
            Err(found) => panic!("{}", report(&cluster, setting, seed, &found)),
        }
    }
}

#[test]
fn random_statements_agree_with_heap() {
    shadow(false);
}

#[test]
fn random_statements_agree_with_heap_when_commits_freeze() {
    shadow(true);
}

#[test]
fn a_lost_row_is_noticed() {
    let cluster = cluster();
    let setting = Setting {
        freeze_at_commit: false,
        start_on_heap: false,
    };
    let mut pair = Pair::new(&cluster, setting).unwrap();
    let insert = Step::new(
        Who::Main,
        "INSERT INTO log VALUES (1, 'a', NULL), (2, 'b', NULL)",
    )
    .touching(vec!["log".into()]);
    pair.apply(&insert).unwrap();
    pair.compare_all().unwrap();
    assert_eq!(pair.ask_varve("DELETE FROM log WHERE a = 1").counts, [1]);
    let query = Step::new(Who::Second, "SELECT a FROM log");
    let difference = pair.apply(&query).unwrap_err();
    assert_eq!(
        (difference.heap.rows.len(), difference.varve.rows.len()),
        (2, 1)
    );
    assert!(
        pair.compare_all()
            .unwrap_err()
            .what
            .starts_with("contents: log")
    );
}
