//! What has changed between two tables: `varve.diff` beside the FULL JOIN that one would write by hand, in turn.
//!
//! A million rows of eight columns on each side, fewer at a smaller scale. What counts is the ratio of the two in one run; both have to find as many rows.

use crate::numbers::{at_least, figure, ms};
use crate::options::{FULL, Options};
use crate::server::Server;
use crate::{Result, load};
use postgres::Client;
use std::time::{Duration, Instant};
use varve_demo::show::{self, Align::Left, Align::Right};

/// The schema of all tables here.
const SCHEMA: &str = "change";

/// Rows of a table, unless a smaller scale is asked for, and the fewest.
const ROWS: u32 = 1_000_000;
const FEWEST: u32 = 50_000;

/// How many rows each table has at a scale.
fn scaled(options: &Options) -> u32 {
    let symbols = options.symbols.unwrap_or(FULL.symbols);
    let days = options.bars_days.unwrap_or(FULL.bars_days);
    let share = f64::from(symbols) * f64::from(days)
        / (f64::from(FULL.symbols) * f64::from(FULL.bars_days));
    ((f64::from(ROWS) * share) as u32).clamp(FEWEST, ROWS)
}

/// Runs of each: so many at most, as with queries.
const FEW: u32 = 5;

/// Two tables that are compared.
struct Contest {
    what: &'static str,
    old: &'static str,
    new: &'static str,
    key: &'static str,
    work_mem: &'static str,
    /// How many times as fast as the join it has to be, where something is asked.
    target: Option<f64>,
}

const CONTESTS: [Contest; 5] = [
    Contest {
        what: "hot, in the order of the key, 1 % changed",
        old: "hot",
        new: "hot_changed",
        key: "id",
        work_mem: "64MB",
        target: Some(3.0),
    },
    Contest {
        what: "the same in random orders",
        old: "mixed",
        new: "mixed_changed",
        key: "id",
        work_mem: "64MB",
        target: None,
    },
    Contest {
        what: "the same, beyond work_mem",
        old: "mixed",
        new: "mixed_changed",
        key: "id",
        work_mem: "4MB",
        target: None,
    },
    Contest {
        what: "frozen, 1 % changed",
        old: "frozen",
        new: "frozen_changed",
        key: "symbol, ts",
        work_mem: "64MB",
        target: Some(3.0),
    },
    Contest {
        what: "frozen, one chunk of 50 changed",
        old: "frozen",
        new: "frozen_one",
        key: "symbol, ts",
        work_mem: "64MB",
        target: Some(20.0),
    },
];

/// Makes the tables.
fn fill(client: &mut Client, rows: u32) -> Result<()> {
    client.batch_execute(&format!(
        "CREATE TABLE hot (id bigint PRIMARY KEY, name text, ts timestamptz, a float8, b float8, c float8, d float8, n bigint); \
         INSERT INTO hot SELECT i, 'name ' || i % 5000, timestamptz '2024-01-01Z' + i * interval '1 s', \
             random(), random(), random(), random(), i * 7 FROM generate_series(1, {rows}) i; \
         CREATE TABLE hot_changed (LIKE hot INCLUDING ALL); \
         INSERT INTO hot_changed SELECT id, name, ts, a, b, c, d + (id % 100 = 0)::int, n FROM hot ORDER BY id; \
         CREATE TABLE mixed (LIKE hot INCLUDING ALL); INSERT INTO mixed SELECT * FROM hot ORDER BY hashint8(id); \
         CREATE TABLE mixed_changed (LIKE hot INCLUDING ALL); \
         INSERT INTO mixed_changed SELECT * FROM hot_changed ORDER BY hashint8(id + {rows})"
    ))?;
    let sides = [
        ("frozen", "false"),
        ("frozen_changed", "(id / 100 + id) % 100 = 0"),
        (
            "frozen_one",
            "id / (max_id / 50) = 20 AND (id / 100 + id) % 20 = 0",
        ),
    ];
    // As many chunks at every scale.
    let step = f64::from(864 * ROWS / rows);
    for (table, changed) in sides {
        client.batch_execute(&format!(
            "CREATE TABLE {table} (symbol int, ts timestamptz, a float8, b float8, c float8, d float8, n bigint, name text, PRIMARY KEY (symbol, ts)); \
             SELECT create_hypertable('{table}', 'ts', chunk_time_interval => interval '2 days'); SELECT varve.enable('{table}'); \
             INSERT INTO {table} SELECT id % 100, timestamptz '2024-01-04Z' + id / 100 * interval '{step} s', a, b, c, d + ({changed})::int, n, name \
                 FROM hot, (SELECT max(id) AS max_id FROM hot) m"
        ))?;
        for chunk in load::chunks(client, table)? {
            client.execute(
                "SELECT varve.set_tier($1::text::regclass, 'warm')",
                &[&chunk],
            )?;
        }
    }
    let tables: Vec<&str> = CONTESTS.iter().flat_map(|c| [c.old, c.new]).collect();
    client.batch_execute(&format!("VACUUM (ANALYZE) {}", tables.join(", ")))?;
    client.batch_execute("CHECKPOINT")?;
    Ok(())
}

/// What a query that counts says, and how long it takes.
fn timed(client: &mut Client, sql: &str) -> Result<(i64, Duration)> {
    let begin = Instant::now();
    let row = client.query_one(sql, &[])?;
    Ok((row.get(0), begin.elapsed()))
}

/// Measures comparisons; what the two do not agree on.
pub fn run(server: &Server, options: &Options) -> Result<Vec<String>> {
    show::heading(1, "What has changed, beside FULL JOIN");
    let mut client = server.connect_to(SCHEMA)?;
    let drop_schema = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE");
    client.batch_execute(&format!(
        "SET client_min_messages = warning; {drop_schema}; CREATE SCHEMA {SCHEMA}"
    ))?;
    let rows = scaled(options);
    fill(&mut client, rows)?;
    let rounds = options.runs.min(FEW);
    show::say(&format!(
        "{} rows of eight columns in each table; best of {rounds}.",
        show::count(rows.into())
    ));
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    for contest in &CONTESTS {
        let Contest { old, new, key, .. } = contest;
        client.batch_execute(&format!("SET work_mem = '{}'", contest.work_mem))?;
        let diff = format!("SELECT count(op) FROM varve.diff('{old}', '{new}')");
        let join = format!(
            "SELECT count(*), count(to_jsonb(was)), count(to_jsonb(now)) \
             FROM {old} was FULL JOIN {new} now USING ({key}) WHERE was IS DISTINCT FROM now"
        );
        let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
        // The first round warms up.
        for round in 0..=rounds {
            let (found, took) = timed(&mut client, &diff)?;
            let (expected, took_join) = timed(&mut client, &join)?;
            if found != expected || found == 0 {
                failures.push(format!(
                    "{}: {found} differences, the join says {expected}",
                    contest.what
                ));
                break;
            }
            if round > 0 {
                (ours, theirs) = (ours.min(took), theirs.min(took_join));
            }
        }
        let times = theirs.as_secs_f64() / ours.as_secs_f64();
        lines.push(vec![
            contest.what.to_string(),
            contest.work_mem.to_string(),
            ms(ours),
            ms(theirs),
            figure(times),
            contest.target.map_or(String::new(), |target| {
                format!("{} {}", figure(target), at_least(times, target))
            }),
        ]);
    }
    let head = [
        ("", Left),
        ("work_mem", Right),
        ("varve.diff ms", Right),
        ("FULL JOIN ms", Right),
        ("times as fast", Right),
        ("target", Left),
    ];
    show::table(&head, &lines, None);
    // A kept server shall not grow.
    client.batch_execute(&drop_schema)?;
    Ok(failures)
}
