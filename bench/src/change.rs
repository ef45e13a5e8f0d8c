//! What has changed: `varve.diff` beside the FULL JOIN that one would write, and `varve.detect_changes` of a frozen table in which nothing
//! has changed beside reading it.
//!
//! Every query has to find the same as the one beside it. All run in turn, in one backend; the minimum counts.

use crate::data::bars::Bars;
use crate::data::copy::copy;
use crate::load::BARS;
use crate::numbers::{at_least, figure, ms};
use crate::options::{FULL, Options};
use crate::server::{self, Server};
use crate::{Error, Result, Side};
use postgres::Client;
use std::time::{Duration, Instant};
use varve_demo::show::{self, Align::Left, Align::Right};

/// Rows of the tables that are compared: 200 symbols on 13 days.
const SYMBOLS: u32 = 200;
const DAYS: u32 = 13;

/// What somebody would write who has no `varve.diff`.
const BY_HAND: &str = "SELECT count(*) FROM (SELECT symbol, ts, to_jsonb(a), to_jsonb(b) FROM {old} a FULL JOIN {new} b USING (symbol, ts) \
     WHERE a IS DISTINCT FROM b) x";

/// Two queries that are compared, and by what factor the second one should be faster.
struct Contest {
    name: &'static str,
    slow: String,
    fast: String,
    target: f64,
}

/// Makes what is compared, and compares it.
pub fn run(options: &Options) -> Result<Vec<String>> {
    show::heading(1, "What has changed");
    show::say(&format!("Data lies {}.", server::place(None)));
    let server = Server::start(None)?;
    let mut client = server.connect(Side::Heap)?;
    client.batch_execute(
        "SET client_min_messages = warning; CREATE EXTENSION varve CASCADE; CREATE SCHEMA heap",
    )?;
    let rows = pairs(&mut client)?;
    let days = options.bars_days.unwrap_or(FULL.bars_days);
    let many = frozen(&mut client, options.symbols.unwrap_or(FULL.symbols), days)?;
    show::say(&format!(
        "Tables of {} rows compared, and one of {} frozen rows that nobody changes; work_mem 64 MB.",
        show::count(rows),
        show::count(many)
    ));
    let mut failures = Vec::new();
    let mut lines = Vec::new();
    for contest in contests() {
        let (slow, fast, differ) = time(&mut client, &contest, options.runs)?;
        failures.extend(differ.map(|what| format!("{}: {what}", contest.name)));
        let times = slow.as_secs_f64() / fast.as_secs_f64();
        lines.push(vec![
            contest.name.to_string(),
            ms(slow),
            ms(fast),
            figure(times),
            figure(contest.target),
            at_least(times, contest.target),
        ]);
    }
    let head = [
        ("", Left),
        ("by hand, ms", Right),
        ("varve, ms", Right),
        ("times as fast", Right),
        ("target", Right),
        ("", Left),
    ];
    show::table(&head, &lines, None);
    server.end()?;
    Ok(failures)
}

/// What is compared.
fn contests() -> Vec<Contest> {
    let diff = |name, old: &str, new: &str, target| Contest {
        name,
        slow: BY_HAND.replace("{old}", old).replace("{new}", new),
        fast: format!("SELECT count(*) FROM varve.diff('{old}', '{new}')"),
        target,
    };
    let unchanged = "SELECT count(*) FROM varve.detect_changes('bars')";
    let read = |name, row: &str, target| Contest {
        name,
        slow: format!("SELECT count({row}) - count(*) FROM bars b"),
        fast: unchanged.to_string(),
        target,
    };
    vec![
        diff("diff: hot, 1 % changed", "hot_old", "hot_new", 3.0),
        diff("diff: frozen, 1 % changed", "cold_old", "cold_new", 3.0),
        diff(
            "diff: frozen, one chunk of many",
            "cold_old",
            "cold_one",
            20.0,
        ),
        read("unchanged: every row read", "b", 100.0),
        read(
            "unchanged: every row's checksum",
            "varve.row_checksum(b)",
            100.0,
        ),
    ]
}

/// Makes the tables of the first three contests, of which one row of a hundred differs, or one day; how many rows each has.
fn pairs(client: &mut Client) -> Result<i64> {
    let plain = format!("CREATE TABLE hot_old ({})", BARS.columns());
    client.batch_execute(&plain)?;
    let rows = copy(client, "hot_old", Bars::new(SYMBOLS, DAYS), |_| {})?;
    let change = "SET close = close + 0.01 WHERE abs(hashtext(symbol || ts)) % 100 = 0";
    client.batch_execute(&format!(
        "CREATE TABLE hot_new (LIKE hot_old INCLUDING ALL);
         INSERT INTO hot_new SELECT * FROM hot_old;
         UPDATE hot_new {change};"
    ))?;
    for (table, change) in [
        ("cold_old", String::new()),
        ("cold_new", format!("UPDATE cold_new {change}")),
        (
            "cold_one",
            "UPDATE cold_one SET close = close + 0.01 WHERE ts::date = (SELECT max(ts)::date FROM cold_one) AND symbol < 'S1'".into(),
        ),
    ] {
        client.batch_execute(&format!(
            "CREATE TABLE {table} (LIKE hot_old INCLUDING ALL);
             SELECT create_hypertable('{table}', 'ts', chunk_time_interval => interval '12 hours');
             INSERT INTO {table} SELECT * FROM hot_old; {change}"
        ))?;
        freeze(client, table)?;
    }
    for table in ["hot_old", "hot_new", "cold_old", "cold_new", "cold_one"] {
        client.batch_execute(&format!("VACUUM (ANALYZE) {table}"))?;
    }
    Ok(rows as i64)
}

/// Makes the table in which nothing changes; how many rows it has.
fn frozen(client: &mut Client, symbols: u32, days: u32) -> Result<i64> {
    client.batch_execute(&BARS.create("bars"))?;
    copy(client, "bars", Bars::new(symbols, days), |_| {})?;
    freeze(client, "bars")?;
    client.batch_execute("VACUUM (ANALYZE) bars")?;
    Ok(client.query_one("SELECT varve.watch('bars')", &[])?.get(0))
}

fn freeze(client: &mut Client, table: &str) -> Result<()> {
    client.batch_execute(&format!("SELECT varve.enable('{table}')"))?;
    client.batch_execute(&format!("CALL varve.set_tiers('{table}', 'warm')"))?;
    let hot = "SELECT count(*) FROM varve.chunks WHERE hypertable = $1::text::regclass AND (tier <> 'warm' OR delta_rows > 0)";
    let hot: i64 = client.query_one(hot, &[&table])?.get(0);
    match hot {
        0 => Ok(()),
        _ => Err(Error::from(format!(
            "{hot} chunks of {table} did not freeze"
        ))),
    }
}

/// Times both queries of a contest in turn, after a run of each that is not timed; what is different in their answers.
fn time(
    client: &mut Client,
    contest: &Contest,
    runs: u32,
) -> Result<(Duration, Duration, Option<String>)> {
    let mut best = [Duration::MAX; 2];
    let mut answers = [0i64; 2];
    for n in 0..=runs {
        for (i, sql) in [&contest.slow, &contest.fast].into_iter().enumerate() {
            let begin = Instant::now();
            let answer = client.query_one(sql, &[])?;
            let took = begin.elapsed();
            answers[i] = answer.get(0);
            if n > 0 {
                best[i] = best[i].min(took);
            }
        }
    }
    let [slow, fast] = answers;
    let differ = (slow != fast).then(|| format!("{slow} rows by hand, {fast} by varve"));
    Ok((best[0], best[1], differ))
}
