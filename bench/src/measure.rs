//! Times of queries, heap and varve in turn.

use crate::answer::Answer;
use crate::load::backend;
use crate::memory::{Peak, Watch};
use crate::queries::Query;
use crate::{Result, Side};
use postgres::{Client, Row};
use std::time::{Duration, Instant};

/// A query that takes longer than this runs [`FEW`] times at most.
const SLOW: Duration = Duration::from_secs(2);

/// Timed runs of slow queries.
const FEW: u32 = 3;

/// Quick queries are run more often, for a steadier minimum, until they have taken this long on both sides...
const QUICK: Duration = Duration::from_secs(2);

/// ... or have run so often.
const OFTEN: u32 = 1_000;

/// What one query took.
pub struct Timing {
    pub heap: Duration,
    pub varve: Duration,
    /// Why the answers are not the same, if they are not.
    pub difference: Option<String>,
    /// Peak memory of varve's backend while it answered.
    pub peak: Peak,
    /// Rows of the answer.
    pub rows: usize,
}

impl Timing {
    /// Varve's time as a share of heap's.
    pub fn ratio(&self) -> f64 {
        self.varve.as_secs_f64() / self.heap.as_secs_f64()
    }
}

/// Plans and runs a query in one round trip; all rows, in binary, are here when the clock stops.
fn run(client: &mut Client, sql: &str) -> Result<(Vec<Row>, Duration)> {
    let begin = Instant::now();
    let rows = client.query_typed(sql, &[])?;
    Ok((rows, begin.elapsed()))
}

/// The two connections whose times are compared.
pub struct Pair {
    heap: Client,
    varve: Client,
    backend: i32,
}

impl Pair {
    /// A pair over two connections.
    pub fn new(server: &crate::server::Server) -> Result<Pair> {
        let mut varve = server.connect(Side::Varve)?;
        Ok(Pair {
            heap: server.connect(Side::Heap)?,
            backend: backend(&mut varve)?,
            varve,
        })
    }

    /// Times a query on both sides, in turn, and compares the answers.
    pub fn time(&mut self, query: &Query, runs: u32) -> Result<Timing> {
        // The first run warms up, is compared, and is watched; it isn't timed.
        let (rows, mut longest) = run(&mut self.heap, &query.sql)?;
        let expected = Answer::new(&rows, query.is_ordered())?;
        drop(rows);
        let watch = Watch::begin(self.backend);
        let answer = run(&mut self.varve, &query.sql);
        let peak = watch.end();
        let (rows, took) = answer?;
        longest = longest.max(took);
        let count = rows.len();
        let difference = expected.difference(&Answer::new(&rows, query.is_ordered())?);
        drop(rows);
        let (mut heap, mut varve) = (Duration::MAX, Duration::MAX);
        let mut total = Duration::ZERO;
        let runs = if longest > SLOW { runs.min(FEW) } else { runs };
        for n in 1.. {
            let (_, took) = run(&mut self.heap, &query.sql)?;
            heap = heap.min(took);
            total += took;
            let (_, took) = run(&mut self.varve, &query.sql)?;
            varve = varve.min(took);
            total += took;
            if n >= runs && (total > QUICK || n >= OFTEN) {
                break;
            }
        }
        Ok(Timing {
            heap,
            varve,
            difference,
            peak,
            rows: count,
        })
    }

    /// Times how long PostgreSQL takes to deliver the rows of a query that are there already, in a table with nothing else:
    /// no plan can be faster.
    pub fn time_delivery(&mut self, query: &Query, runs: u32) -> Result<Duration> {
        let client = &mut self.heap;
        let create = format!("CREATE TEMP TABLE delivered AS {}", query.sql);
        client.batch_execute(&create)?;
        let mut best = Duration::MAX;
        let mut total = Duration::ZERO;
        for n in 0.. {
            let (_, took) = run(client, "SELECT * FROM delivered")?;
            best = best.min(took);
            total += took;
            if n >= runs.max(FEW) && (total > QUICK / 2 || n >= OFTEN) {
                break;
            }
        }
        client.batch_execute("DROP TABLE delivered")?;
        Ok(best)
    }

    /// Times a query on varve's side without workers and with two, in turn; and how many workers the plan asks for.
    pub fn time_parallel(&mut self, query: &Query, runs: u32) -> Result<(Duration, Duration, u64)> {
        const SETTING: &str = "SET max_parallel_workers_per_gather =";
        let client = &mut self.varve;
        let (mut alone, mut shared) = (Duration::MAX, Duration::MAX);
        let mut runs = runs;
        let mut n = 0;
        // The run that is not counted, as above, warms up.
        while n <= runs {
            for (workers, best) in [(0, &mut alone), (2, &mut shared)] {
                client.batch_execute(&format!("{SETTING} {workers}"))?;
                let (_, took) = run(client, &query.sql)?;
                if n > 0 {
                    *best = took.min(*best);
                } else if took > SLOW {
                    runs = runs.min(FEW);
                }
            }
            n += 1;
        }
        let plan = self.plan(&query.sql, "COSTS OFF")?;
        self.varve.batch_execute(&format!("{SETTING} 0"))?;
        let workers = plan
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Workers Planned: ")?.parse().ok())
            .max();
        Ok((alone, shared, workers.unwrap_or(0)))
    }

    /// Varve's plan of a query.
    pub fn plan(&mut self, sql: &str, options: &str) -> Result<String> {
        let rows = self
            .varve
            .query_typed(&format!("EXPLAIN ({options}) {sql}"), &[])?;
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        Ok(lines.join("\n"))
    }
}
