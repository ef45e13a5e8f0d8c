//! The tables on both sides: made, loaded, and on varve's side frozen.
//!
//! What has been done is written down in tables of the schema `bench`, so that a kept server is not loaded again.

use crate::data::Source;
use crate::data::bars::Bars;
use crate::data::copy::copy;
use crate::data::cpu::Cpu;
use crate::ingest;
use crate::memory::{Peak, Watch};
use crate::options::{FULL, Options, Scale};
use crate::server::Server;
use crate::{Result, SIDES, Side};
use postgres::Client;
use std::time::{Duration, Instant};
use varve_demo::show;

/// A table: name, definition, column of time, and width of its chunks.
pub struct Table {
    name: &'static str,
    columns: &'static str,
    time: &'static str,
    chunk: &'static str,
}

impl Table {
    /// The definition of its columns, without the key.
    pub fn columns_without_key(&self) -> &'static str {
        self.columns
            .split_once(", PRIMARY KEY")
            .map_or(self.columns, |(columns, _)| columns)
    }

    /// Statements that make it a hypertable, of any name.
    pub fn create(&self, name: &str) -> String {
        format!(
            "CREATE TABLE {name} ({}); \
             SELECT create_hypertable('{name}', '{}', chunk_time_interval => interval '{}')",
            self.columns, self.time, self.chunk
        )
    }
}

const CPU: Table = Table {
    name: "cpu",
    columns: "hostname text NOT NULL, time timestamptz NOT NULL, \
        usage_user float8, usage_system float8, usage_idle float8, usage_nice float8, usage_iowait float8, \
        usage_irq float8, usage_softirq float8, usage_steal float8, usage_guest float8, usage_guest_nice float8, \
        PRIMARY KEY (hostname, time)",
    time: "time",
    chunk: "1 day",
};

/// One-minute bars of stocks, as [`Bars`] makes them.
pub const BARS: Table = Table {
    name: "bars",
    columns: "symbol text NOT NULL, ts timestamptz NOT NULL, \
        open float8, high float8, low float8, close float8, volume bigint, \
        PRIMARY KEY (symbol, ts)",
    time: "ts",
    chunk: "7 days",
};

/// Seconds between two reports of a host in `cpu`.
const STEP: u32 = 10;

/// How fast a table was frozen or thawed.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub rows: i64,
    pub took: Duration,
    pub peak: Peak,
}

impl Rate {
    /// Rows a second.
    pub fn per_second(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }
}

/// What is loaded.
pub struct Loaded {
    pub scale: Scale,
    /// Names of the tables that have rows.
    pub tables: Vec<&'static str>,
    /// Whether this run has frozen the chunks, or an earlier one.
    pub fresh: bool,
}

/// Makes the extensions, and the tables in which is written down what is loaded.
pub fn prepare(client: &mut Client, options: &Options) -> Result<()> {
    client.batch_execute(
        "SET client_min_messages = warning; \
         CREATE EXTENSION IF NOT EXISTS timescaledb; \
         CREATE SCHEMA IF NOT EXISTS bench; \
         CREATE TABLE IF NOT EXISTS bench.loaded (side text PRIMARY KEY, scale text NOT NULL); \
         CREATE TABLE IF NOT EXISTS bench.frozen \
             (hypertable text PRIMARY KEY, rows bigint, seconds float8, own bigint, everything bigint)",
    )?;
    if options.reload {
        forget_varve(client)?;
    }
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS varve")?;
    Ok(())
}

/// Loads and freezes what is not there yet, or what the options want anew.
pub fn load(server: &Server, options: &Options) -> Result<Loaded> {
    let mut client = server.connect(Side::Heap)?;
    let kept = client.query_opt("SELECT scale FROM bench.loaded LIMIT 1", &[])?;
    let kept: Option<Scale> = kept.map(|row| row.get::<_, &str>(0).parse()).transpose()?;
    let scale = Scale::asked(options, kept.unwrap_or(FULL));
    if let Some(kept) = kept.filter(|kept| *kept != scale) {
        return Err(format!("the data kept is of another scale ({kept}); remove it first").into());
    }
    let tables: Vec<&Table> = [(&CPU, scale.cpu_days), (&BARS, scale.bars_days)]
        .into_iter()
        .filter_map(|(table, days)| (days > 0).then_some(table))
        .collect();
    let mut missing = Vec::new();
    for side in SIDES {
        let sql = "SELECT FROM bench.loaded WHERE side = $1";
        if client.query_opt(sql, &[&side.schema()])?.is_none() {
            missing.push(side);
        }
    }
    let fresh = missing.contains(&Side::Varve);
    load_sides(server, &missing, &tables, scale)?;
    if fresh {
        freeze(server, &tables)?;
    }
    let scale_text = scale.to_string();
    for side in missing {
        client.execute(
            "INSERT INTO bench.loaded VALUES ($1, $2)",
            &[&side.schema(), &scale_text],
        )?;
    }
    client.batch_execute("CHECKPOINT")?;
    Ok(Loaded {
        scale,
        tables: tables.iter().map(|table| table.name).collect(),
        fresh,
    })
}

/// Removes varve's side, and the extension.
fn forget_varve(client: &mut Client) -> Result<()> {
    // What a run of ingest has left that was interrupted.
    client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", ingest::SCHEMA))?;
    client.batch_execute(&format!(
        "DELETE FROM bench.loaded WHERE side = '{0}'; \
         DELETE FROM bench.frozen; \
         DROP SCHEMA IF EXISTS {0} CASCADE; \
         DROP EXTENSION IF EXISTS varve CASCADE",
        Side::Varve.schema()
    ))?;
    Ok(())
}

/// Makes and fills the tables of some sides, each by a thread of its own.
fn load_sides(server: &Server, sides: &[Side], tables: &[&Table], scale: Scale) -> Result<()> {
    if sides.is_empty() {
        return Ok(());
    }
    let cpu = || Cpu::new(scale.hosts, scale.cpu_days, STEP);
    let bars = || Bars::new(scale.symbols, scale.bars_days);
    let rows = cpu().rows() + bars().rows();
    let bar = show::progress(rows * sides.len() as u64, "rows");
    let begin = Instant::now();
    let one = |side: Side| -> Result<()> {
        let mut client = server.connect(side)?;
        client.batch_execute(&format!(
            "SET client_min_messages = warning; \
             DROP SCHEMA IF EXISTS {0} CASCADE; CREATE SCHEMA {0}",
            side.schema()
        ))?;
        for table in tables {
            client.batch_execute(&table.create(table.name))?;
            let progress = |n| bar.inc(n);
            if table.name == CPU.name {
                copy(&mut client, table.name, cpu(), progress)?;
            } else {
                copy(&mut client, table.name, bars(), progress)?;
            }
            client.batch_execute(&format!("VACUUM (ANALYZE) {}", table.name))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = sides
            .iter()
            .map(|side| scope.spawn(|| one(*side)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a loader died".into()))
        })
    })?;
    bar.finish_and_clear();
    show::say(&format!(
        "loaded {} rows into {} schemas at once in {}",
        show::count(rows as i64),
        sides.len(),
        show::time(begin.elapsed())
    ));
    Ok(())
}

/// Freezes the tables of varve's side, and writes down how fast.
fn freeze(server: &Server, tables: &[&Table]) -> Result<()> {
    let mut client = server.connect(Side::Varve)?;
    for table in tables {
        client.execute("SELECT varve.enable($1::text::regclass)", &[&table.name])?;
    }
    let rates = freeze_chunks(server, tables)?;
    for (table, rate) in tables.iter().zip(rates) {
        client.batch_execute(&format!("VACUUM (ANALYZE) {}", table.name))?;
        let not_frozen = client.query_one(
            "SELECT count(*) FROM varve.chunks WHERE hypertable = $1::text::regclass \
             AND (tier <> 'warm' OR delta_rows > 0)",
            &[&table.name],
        )?;
        let not_frozen: i64 = not_frozen.get(0);
        if not_frozen > 0 {
            return Err(format!("{not_frozen} chunks of {} did not freeze", table.name).into());
        }
        client.execute(
            "INSERT INTO bench.frozen VALUES ($1, $2, $3, $4, $5) ON CONFLICT (hypertable) DO UPDATE \
             SET rows = excluded.rows, seconds = excluded.seconds, own = excluded.own, everything = excluded.everything",
            &[&table.name, &rate.rows, &rate.took.as_secs_f64(), &rate.peak.own, &rate.peak.all],
        )?;
    }
    Ok(())
}

/// The chunks of a table of varve's side, oldest first.
pub fn chunks(client: &mut Client, table: &str) -> Result<Vec<String>> {
    let rows = client.query(
        "SELECT c::text FROM show_chunks($1::text::regclass) c ORDER BY c::oid",
        &[&table],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Freezes all chunks one after the other, each in a transaction of its own; the rate for each table.
fn freeze_chunks(server: &Server, tables: &[&Table]) -> Result<Vec<Rate>> {
    let mut rates = Vec::new();
    for table in tables {
        // A backend of its own for each table, since the kernel's peak of memory is that of its whole life.
        let mut client = server.connect(Side::Varve)?;
        let count = client.query_one(&format!("SELECT count(*) FROM {}", table.name), &[])?;
        let chunks = chunks(&mut client, table.name)?;
        let bar = show::progress(chunks.len() as u64, &format!("chunks of {}", table.name));
        let watch = Watch::begin(backend(&mut client)?);
        let begin = Instant::now();
        for chunk in &chunks {
            client.execute(
                "SELECT varve.set_tier($1::text::regclass, 'warm')",
                &[chunk],
            )?;
            bar.inc(1);
        }
        let took = begin.elapsed();
        bar.finish_and_clear();
        rates.push(Rate {
            rows: count.get(0),
            took,
            peak: watch.end(),
        });
    }
    Ok(rates)
}

/// Process id of a connection's backend.
pub fn backend(client: &mut Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// How fast a table was frozen, by this run or the one that kept it.
pub fn frozen(client: &mut Client, table: &str) -> Result<Rate> {
    let row = client.query_one(
        "SELECT rows, seconds, own, everything FROM bench.frozen WHERE hypertable = $1",
        &[&table],
    )?;
    Ok(Rate {
        rows: row.get(0),
        took: Duration::from_secs_f64(row.get(1)),
        peak: Peak {
            own: row.get(2),
            all: row.get(3),
        },
    })
}
