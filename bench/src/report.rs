//! The chapters of the report: each measures something and prints its table.

use crate::load::{Loaded, Rate, backend, chunks, frozen};
use crate::measure::Pair;
use crate::memory::{Peak, Watch};
use crate::numbers::{at_least, at_most, figure, megabytes, ms};
use crate::options::{FULL, Options};
use crate::queries::Query;
use crate::server::Server;
use crate::{Result, Side};
use postgres::Client;
use std::time::Instant;
use varve_demo::show::{self, Align::Left, Align::Right};

/// Queries whose speed with two workers is measured, by the beginning of their names.
const PARALLEL: [&str; 2] = ["c06_", "b01_"];

/// Of answers of so many rows that miss their target it is told what delivering them takes.
const MANY_ROWS: usize = 100;

/// How many times as fast two workers must be.
const PARALLEL_TARGET: f64 = 1.7;

/// What is asked of a table, for a row of it, and of the freezing of it.
struct Target {
    table: &'static str,
    warm: f64,
    cold: f64,
    freeze: f64,
}

/// Megabytes over rows of the full scale, and twice the peer's rows a second.
const TARGETS: [Target; 2] = [
    Target {
        table: "cpu",
        warm: 185e6 / 2_592_000.0,
        cold: 168e6 / 2_592_000.0,
        freeze: 2.0 * 0.53e6,
    },
    Target {
        table: "bars",
        warm: 100e6 / 11_700_000.0,
        cold: 80e6 / 11_700_000.0,
        freeze: 2.0 * 1.01e6,
    },
];

/// What a run keeps until its end.
pub struct Report<'a> {
    server: &'a Server,
    options: &'a Options,
    loaded: &'a Loaded,
    /// How many times as long as on the machine of the targets queries take on heap, as the middle of all has it; known at
    /// the full scale alone.
    slower: Option<f64>,
    /// How fast warm tables went cold.
    cooled: Vec<(&'static str, Rate)>,
    /// Peaks of memory: what it was, and how much.
    peaks: Vec<(String, Peak)>,
    /// What went wrong: other answers, errors.
    pub failures: Vec<String>,
}

impl<'a> Report<'a> {
    pub fn new(server: &'a Server, options: &'a Options, loaded: &'a Loaded) -> Self {
        Report {
            server,
            options,
            loaded,
            slower: None,
            cooled: Vec::new(),
            peaks: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The targets of the tables that are loaded.
    fn targets(&self) -> impl Iterator<Item = &'static Target> + use<'a> {
        let tables = &self.loaded.tables;
        TARGETS.iter().filter(|t| tables.contains(&t.table))
    }

    /// Times of all queries, heap and varve in turn.
    pub fn queries(&mut self, queries: &[Query]) -> Result<()> {
        show::heading(
            2,
            "Queries: the best of alternating runs, planning and fetching included",
        );
        let mut pair = Pair::new(self.server)?;
        let mut rows = Vec::new();
        let mut met = 0;
        let mut hungriest: Option<(&str, Peak)> = None;
        let mut remarks = Vec::new();
        let mut slower = Vec::new();
        let bar = show::progress(queries.len() as u64, "queries");
        for query in queries {
            let name = query.name.as_str();
            let target = figure(query.target);
            match pair.time(query, self.options.runs) {
                Ok(timing) => {
                    slower.push(timing.heap.as_secs_f64() * 1e3 / query.reference);
                    let mut verdict = at_most(timing.ratio(), query.target);
                    if let Some(difference) = &timing.difference {
                        self.failures.push(format!("{name}: {difference}"));
                        verdict = "✗ ANOTHER ANSWER".into();
                    } else if timing.ratio() <= query.target {
                        met += 1;
                    } else if timing.rows >= MANY_ROWS {
                        let alone = pair.time_delivery(query, self.options.runs)?;
                        remarks.push(format!(
                            "{name}: to deliver its {} rows from a table that holds nothing else takes PostgreSQL {} ms, {} of heap's time",
                            show::count(timing.rows as i64),
                            ms(alone),
                            figure(alone.as_secs_f64() / timing.heap.as_secs_f64()),
                        ));
                    }
                    if hungriest.is_none_or(|(_, peak)| timing.peak.own > peak.own) {
                        hungriest = Some((name, timing.peak));
                    }
                    rows.push(vec![
                        name.into(),
                        ms(timing.heap),
                        ms(timing.varve),
                        figure(timing.ratio()),
                        target,
                        verdict,
                    ]);
                }
                Err(error) => {
                    self.failures
                        .push(format!("{name}: {}", crate::causes(&*error)));
                    let none = || "-".to_string();
                    rows.push(vec![
                        name.into(),
                        none(),
                        none(),
                        none(),
                        target,
                        "✗ ERROR".into(),
                    ]);
                    // The server may have gone down under both connections.
                    pair = Pair::new(self.server)?;
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let head = [
            ("query", Left),
            ("heap ms", Right),
            ("varve ms", Right),
            ("ratio", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &rows, None);
        show::say(&format!("{met} of {} targets met", queries.len()));
        remarks.iter().for_each(|remark| show::say(remark));
        slower.sort_by(f64::total_cmp);
        if self.loaded.scale == FULL
            && let Some(middle) = slower.get(slower.len() / 2)
        {
            show::say(&format!(
                "on heap queries take {} times as long here as on the machine of the targets (the middle of {} quotients)",
                figure(*middle),
                slower.len()
            ));
            self.slower = Some(*middle);
        }
        if let Some((name, peak)) = hungriest {
            self.peaks.push((format!("a query: {name}"), peak));
        }
        Ok(())
    }

    /// Varve's plans.
    pub fn plans(&mut self, queries: &[Query]) -> Result<()> {
        let mut pair = Pair::new(self.server)?;
        for query in queries {
            println!("\n   {}: {}\n", query.name, query.sql);
            let plan = pair.plan(&query.sql, "ANALYZE, BUFFERS")?;
            for line in plan.lines() {
                show::aside(line);
            }
        }
        Ok(())
    }

    /// What the tables occupy, everything counted.
    pub fn sizes(&mut self) -> Result<()> {
        show::heading(3, "Sizes, with indexes, TOAST and metadata");
        let mut heap = self.server.connect(Side::Heap)?;
        let mut varve = self.server.connect(Side::Varve)?;
        let mut rows = Vec::new();
        for target in self.targets() {
            let table = target.table;
            let before = heap.query_one(
                "SELECT sum(pg_total_relation_size(c))::bigint FROM show_chunks($1::text::regclass) c",
                &[&table],
            )?;
            let before: i64 = before.get(0);
            let mut add = |tier: &str, (count, bytes): (i64, i64), target: f64| {
                let target = count as f64 * target;
                rows.push(vec![
                    table.into(),
                    show::count(count),
                    tier.into(),
                    megabytes(before as f64),
                    megabytes(bytes as f64),
                    show::percent(1.0 - bytes as f64 / before as f64),
                    megabytes(target),
                    at_most(bytes as f64, target),
                ]);
            };
            add("warm", rows_and_bytes(&mut varve, table)?, target.warm);
            if self.options.only.is_none() {
                let (figures, rate) = self.cold(table)?;
                add("cold", figures, target.cold);
                self.cooled.push((table, rate));
            }
        }
        let head = [
            ("table", Left),
            ("rows", Right),
            ("tier", Left),
            ("heap", Right),
            ("varve", Right),
            ("saved", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &rows, None);
        Ok(())
    }

    /// Rows and bytes of a table with all chunks cold, and how fast they went there from warm; in a transaction that is
    /// rolled back.
    fn cold(&self, table: &str) -> Result<((i64, i64), Rate)> {
        let mut client = self.server.connect(Side::Varve)?;
        let chunks = chunks(&mut client, table)?;
        let bar = show::progress(chunks.len() as u64, &format!("chunks of {table} to cold"));
        let watch = Watch::begin(backend(&mut client)?);
        let mut transaction = client.transaction()?;
        let begin = Instant::now();
        for chunk in &chunks {
            transaction.execute(
                "SELECT varve.set_tier($1::text::regclass, 'cold')",
                &[chunk],
            )?;
            bar.inc(1);
        }
        let took = begin.elapsed();
        bar.finish_and_clear();
        let peak = watch.end();
        let sql = "SELECT count(*) FROM varve.chunks WHERE hypertable = $1::text::regclass \
                   AND (tier <> 'cold' OR delta_rows > 0)";
        let other: i64 = transaction.query_one(sql, &[&table])?.get(0);
        if other > 0 {
            return Err(format!("{other} chunks of {table} did not go cold").into());
        }
        let (rows, bytes) = rows_and_bytes(&mut transaction, table)?;
        transaction.rollback()?;
        Ok(((rows, bytes), Rate { rows, took, peak }))
    }

    /// How fast tables freeze, and how fast a chunk thaws.
    pub fn rates(&mut self) -> Result<()> {
        show::heading(4, "Freezing and thawing, one session");
        let mut client = self.server.connect(Side::Varve)?;
        let mut rows = Vec::new();
        let slower = self.slower;
        let mut add = |what: &str, rate: Rate, target: Option<f64>| {
            rows.push(vec![
                what.into(),
                show::count(rate.rows),
                show::time(rate.took),
                show::count(rate.per_second() as i64),
                slower.map_or_else(String::new, |s| show::count((rate.per_second() * s) as i64)),
                target.map_or_else(String::new, |t| show::count(t as i64)),
                target.map_or_else(String::new, |t| {
                    at_least(rate.per_second() * slower.unwrap_or(1.0), t)
                }),
            ]);
        };
        for target in self.targets() {
            let rate = frozen(&mut client, target.table)?;
            let earlier = if self.loaded.fresh {
                ""
            } else {
                ", by an earlier run"
            };
            let what = format!("freeze {}{earlier}", target.table);
            add(&what, rate, Some(target.freeze));
            self.peaks.push((what, rate.peak));
        }
        for (table, rate) in std::mem::take(&mut self.cooled) {
            let what = format!("{table} from warm to cold");
            add(&what, rate, None);
            self.peaks.push((what, rate.peak));
        }
        if self.options.only.is_none() {
            for target in self.targets() {
                let what = format!("thaw a chunk of {}", target.table);
                let rate = self.thaw(target.table)?;
                add(&what, rate, None);
                self.peaks.push((what, rate.peak));
            }
        }
        let head = [
            ("what", Left),
            ("rows", Right),
            ("time", Right),
            ("rows/s", Right),
            ("× slower here", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &rows, None);
        Ok(())
    }

    /// Thaws the oldest chunk, in a transaction that is rolled back.
    fn thaw(&mut self, table: &str) -> Result<Rate> {
        let mut client = self.server.connect(Side::Varve)?;
        let chunk = chunks(&mut client, table)?
            .into_iter()
            .next()
            .ok_or_else(|| format!("{table} has no chunk"))?;
        let count = format!("SELECT count(*) FROM {chunk}");
        let before: i64 = client.query_one(&count, &[])?.get(0);
        let watch = Watch::begin(backend(&mut client)?);
        let mut transaction = client.transaction()?;
        let begin = Instant::now();
        transaction.execute(
            "SELECT varve.set_tier($1::text::regclass, 'hot')",
            &[&chunk],
        )?;
        let took = begin.elapsed();
        let peak = watch.end();
        let after: i64 = transaction.query_one(&count, &[])?.get(0);
        transaction.rollback()?;
        if before != after {
            return Err(format!("{chunk} had {before} rows, and {after} after a thaw").into());
        }
        Ok(Rate {
            rows: after,
            took,
            peak,
        })
    }

    /// What two workers gain, on varve's side.
    pub fn parallel(&mut self, queries: &[Query]) -> Result<()> {
        let queries: Vec<&Query> = queries
            .iter()
            .filter(|query| PARALLEL.iter().any(|name| query.name.starts_with(name)))
            .collect();
        if queries.is_empty() {
            return Ok(());
        }
        show::heading(5, "Two workers");
        let mut pair = Pair::new(self.server)?;
        let mut rows = Vec::new();
        let bar = show::progress(queries.len() as u64, "queries");
        for query in queries {
            let (alone, shared, workers) = pair.time_parallel(query, self.options.runs)?;
            let gain = alone.as_secs_f64() / shared.as_secs_f64();
            rows.push(vec![
                query.name.clone(),
                ms(alone),
                ms(shared),
                workers.to_string(),
                figure(gain),
                figure(PARALLEL_TARGET),
                at_least(gain, PARALLEL_TARGET),
            ]);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let head = [
            ("query", Left),
            ("alone ms", Right),
            ("with 2 workers ms", Right),
            ("planned", Right),
            ("times as fast", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &rows, None);
        Ok(())
    }

    /// Peaks of memory of varve's backends.
    pub fn memory(&self) {
        show::heading(6, "Memory");
        let rows: Vec<Vec<String>> = self
            .peaks
            .iter()
            .map(|(what, peak)| {
                vec![
                    what.clone(),
                    megabytes(peak.own as f64),
                    megabytes(peak.all as f64),
                ]
            })
            .collect();
        let head = [
            ("peak of the backend's memory", Left),
            ("its own", Right),
            ("with shared buffers (VmHWM)", Right),
        ];
        show::table(&head, &rows, None);
    }
}

/// What a table of varve's side has and occupies.
fn rows_and_bytes(client: &mut impl postgres::GenericClient, table: &str) -> Result<(i64, i64)> {
    let row = client.query_one(
        "SELECT sum(rows)::bigint, sum(bytes_now)::bigint FROM varve.chunks WHERE hypertable = $1::text::regclass",
        &[&table],
    )?;
    Ok((row.get(0), row.get(1)))
}

/// On what machine and with what programs this runs.
pub fn machine(client: &mut Client) -> Result<String> {
    let row = client.query_one(
        "SELECT current_setting('server_version'), \
                (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'), \
                (SELECT extversion FROM pg_extension WHERE extname = 'varve')",
        &[],
    )?;
    let (postgresql, timescaledb, varve): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(String::new, |line| {
            line.trim_start_matches([' ', '\t', ':']).trim().to_string()
        })
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: f64 = field("/proc/meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0.0);
    Ok(format!(
        "{cores} × {}, {:.0} GB; PostgreSQL {postgresql}, TimescaleDB {timescaledb}, varve {varve}",
        field("/proc/cpuinfo", "model name"),
        memory * 1024.0 / 1e9,
    ))
}
