//! The rows that are brought, staged, and tables to bring them into.

use super::Ingest;
use crate::Result;
use crate::data::bars::Bars;
use crate::data::copy::copy;
use crate::load::BARS;
use varve_demo::show;

/// Rows of a batch.
pub const BATCH: u32 = 10_000;

/// Symbols: as many rows has each minute.
const SYMBOLS: u32 = 500;

/// Minutes of a trading day.
const MINUTES: u32 = 390;

/// The columns, as a list.
pub const COLUMNS: &str = "symbol, ts, open, high, low, close, volume";

/// How the rows that are brought differ from the staged ones.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Seconds that times are later; within a minute, so that rows lie in between the staged ones.
    pub shift: u32,
    /// What closing prices are multiplied by.
    pub factor: f64,
    /// Every second row alone.
    pub half: bool,
}

impl Rows {
    /// The rows as they are staged.
    pub const STAGED: Rows = Rows {
        shift: 0,
        factor: 1.0,
        half: false,
    };

    /// The same keys, with other values.
    pub const CHANGED: Rows = Rows {
        factor: 1.01,
        ..Rows::STAGED
    };

    /// Keys in between the staged ones.
    pub const BETWEEN: Rows = Rows {
        shift: 30,
        ..Rows::STAGED
    };

    /// Every second key.
    pub const HALF: Rows = Rows {
        half: true,
        ..Rows::STAGED
    };

    /// A query for one batch, or for all.
    pub fn query(&self, batch: Option<u32>) -> String {
        let of_batch = batch.map_or_else(|| "true".into(), |batch| format!("batch = {batch}"));
        let half = if self.half { " AND half" } else { "" };
        format!(
            "SELECT symbol, ts + interval '{} s' AS ts, open, high, low, close * {:?}::float8 AS close, volume \
             FROM stage WHERE {of_batch}{half}",
            self.shift, self.factor
        )
    }

    /// Those of the first batches, as an item of FROM.
    pub fn subquery(&self, batches: u32) -> String {
        format!("({} AND batch < {batches})", self.query(None))
    }
}

/// Trading days of [`SYMBOLS`] that hold the rows of so many batches.
fn days(batches: u32) -> u32 {
    (batches * BATCH).div_ceil(SYMBOLS * MINUTES)
}

impl Ingest {
    /// Stages the rows of all batches.
    pub fn stage(&mut self) -> Result<()> {
        let bars = Bars::new(SYMBOLS, days(self.batches));
        let client = &mut self.client;
        client.batch_execute(&format!(
            "CREATE UNLOGGED TABLE made ({})",
            BARS.columns_without_key()
        ))?;
        copy(client, "made", bars, |_| ())?;
        client.batch_execute(&format!(
            "CREATE UNLOGGED TABLE stage AS \
                 SELECT ((n - 1) / {BATCH})::int AS batch, n % 2 = 0 AS half, {COLUMNS} \
                 FROM (SELECT row_number() OVER (ORDER BY ts, symbol) AS n, * FROM made) m \
                 WHERE n <= {BATCH} * {} ORDER BY n; \
             DROP TABLE made; CREATE INDEX ON stage (batch)",
            self.batches
        ))?;
        self.vacuum(&["stage"])?;
        let client = &mut self.client;
        let staged: i64 = client.query_one("SELECT count(*) FROM stage", &[])?.get(0);
        if staged != self.rows() {
            return Err(format!("{staged} rows are staged, not {}", self.rows()).into());
        }
        Ok(())
    }

    /// Rows of all batches.
    pub fn rows(&self) -> i64 {
        i64::from(self.batches) * i64::from(BATCH)
    }

    /// What is brought, for headings.
    pub fn volume(&self) -> String {
        format!("{} batches of {}", self.batches, show::count(BATCH.into()))
    }

    /// Makes empty hypertables with the key, in place of what there is.
    pub fn hypertables(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.client.batch_execute(&format!(
                "DROP TABLE IF EXISTS {name} CASCADE; {}",
                BARS.create(name)
            ))?;
        }
        Ok(())
    }

    /// Fills tables with rows of all batches, outside of any measurement.
    pub fn fill(&mut self, names: &[&str], rows: Rows) -> Result<()> {
        for name in names {
            self.client.batch_execute(&format!(
                "INSERT INTO {name} ({COLUMNS}) {} ORDER BY batch, stage.ts, symbol",
                rows.query(None)
            ))?;
        }
        self.vacuum(names)
    }

    /// Vacuums tables, so that no rows are dead and nothing is left to prune.
    pub fn vacuum(&mut self, names: &[&str]) -> Result<()> {
        // Dead rows that this session has not told of yet would be counted after VACUUM has removed them.
        self.client
            .batch_execute("SELECT pg_stat_force_next_flush()")?;
        for name in names {
            self.client
                .batch_execute(&format!("VACUUM (ANALYZE) {name}"))?;
        }
        Ok(())
    }

    /// Puts a table under varve's care, and freezes all of it.
    pub fn freeze(&mut self, name: &str) -> Result<()> {
        self.client
            .execute("SELECT varve.enable($1::text::regclass)", &[&name])?;
        self.client
            .batch_execute(&format!("CALL varve.set_tiers('{name}', 'warm')"))?;
        self.vacuum(&[name])?;
        let row = self.client.query_one(
            "SELECT count(*), count(*) FILTER (WHERE tier <> 'warm' OR delta_rows > 0) \
             FROM varve.chunks WHERE hypertable = $1::text::regclass",
            &[&name],
        )?;
        match (row.get(0), row.get(1)) {
            (1i64.., 0i64) => Ok(()),
            (chunks, not_frozen) => {
                Err(format!("{not_frozen} of {chunks} chunks of {name} did not freeze").into())
            }
        }
    }

    /// A checkpoint before a measurement: within it there is none, by the server's settings.
    pub fn checkpoint(&mut self) -> Result<()> {
        Ok(self.client.batch_execute("CHECKPOINT")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_take_what_is_asked_for() {
        assert_eq!(
            Rows::STAGED.query(Some(7)),
            "SELECT symbol, ts + interval '0 s' AS ts, open, high, low, close * 1.0::float8 AS close, volume \
             FROM stage WHERE batch = 7"
        );
        let all = Rows {
            half: true,
            ..Rows::CHANGED
        };
        let all = all.query(None);
        assert!(all.contains("close * 1.01::float8"), "{all}");
        assert!(all.ends_with(" WHERE true AND half"), "{all}");
        let first = Rows::BETWEEN.subquery(3);
        assert!(first.contains("interval '30 s'"), "{first}");
        assert!(first.ends_with(" WHERE true AND batch < 3)"), "{first}");
    }

    #[test]
    fn there_are_days_enough() {
        assert_eq!(days(97), 5);
        for batches in [2, 19, 20, 39, 40, 1000] {
            let enough = |days| days * SYMBOLS * MINUTES >= batches * BATCH;
            assert!(enough(days(batches)) && !enough(days(batches) - 1));
        }
    }
}
