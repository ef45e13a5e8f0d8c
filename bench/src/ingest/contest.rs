//! Batches brought by several ways, in turn.

use super::Ingest;
use super::stage::{BATCH, COLUMNS, Rows};
use super::wal::{self, Span};
use crate::Result;
use postgres::{Client, SimpleQueryMessage};
use std::ops::AddAssign;
use std::time::{Duration, Instant};
use varve_demo::show;

/// Plain INSERT, as anybody writes it.
pub const ON_CONFLICT: &str = "ON CONFLICT (symbol, ts) DO UPDATE SET open = excluded.open, high = excluded.high, \
     low = excluded.low, close = excluded.close, volume = excluded.volume";

/// How a batch is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// INSERT … ON CONFLICT DO UPDATE.
    Insert,
    /// `varve.upsert_query`.
    Upsert,
}

/// A way to bring rows into a table of its own.
#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    pub table: &'static str,
    pub how: How,
    pub rows: Rows,
}

impl Contestant {
    /// The statement that brings a batch.
    fn statement(&self, batch: u32) -> String {
        let (table, query) = (self.table, self.rows.query(Some(batch)));
        match self.how {
            How::Insert => format!("INSERT INTO {table} ({COLUMNS}) {query} {ON_CONFLICT}"),
            How::Upsert => format!("SELECT * FROM varve.upsert_query('{table}', $q${query}$q$)"),
        }
    }
}

/// What became of rows, as `varve.upsert_summary` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub inserted: i64,
    pub updated: i64,
    pub unchanged: i64,
    pub duplicates: i64,
}

impl Summary {
    /// Reads the columns of a row, in text.
    pub fn read(row: &postgres::SimpleQueryRow) -> Result<Summary> {
        let field = |name: &str| -> Result<i64> {
            let text = row.try_get(name)?.ok_or("an upsert without a summary")?;
            Ok(text.parse()?)
        };
        let summary = Summary {
            inserted: field("inserted")?,
            updated: field("updated")?,
            unchanged: field("unchanged")?,
            duplicates: field("duplicates")?,
        };
        if field("rows_in")? != summary.rows() {
            return Err(format!("rows_in is not the sum of {summary:?}").into());
        }
        Ok(summary)
    }

    /// All rows.
    pub fn rows(&self) -> i64 {
        self.inserted + self.updated + self.unchanged + self.duplicates
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, more: Summary) {
        self.inserted += more.inserted;
        self.updated += more.updated;
        self.unchanged += more.unchanged;
        self.duplicates += more.duplicates;
    }
}

/// What a contestant has done in all.
#[derive(Clone, Debug, Default)]
pub struct Total {
    pub rows: i64,
    pub took: Duration,
    /// The WAL of each statement, commit included.
    pub spans: Vec<Span>,
    /// Of upserts alone.
    pub summary: Summary,
}

impl Total {
    /// Rows a second.
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }

    /// Statements that were run, each a batch.
    pub fn batches(&self) -> u32 {
        self.spans.len() as u32
    }

    /// Rows of the batches brought, as they should be.
    pub fn asked(&self) -> i64 {
        i64::from(self.batches()) * i64::from(BATCH)
    }

    /// Bytes of WAL.
    pub fn wal(&self) -> i64 {
        self.spans.iter().map(Span::bytes).sum()
    }

    /// How many times as fast as another.
    pub fn times_as_fast_as(&self, other: &Total) -> f64 {
        self.rate() / other.rate()
    }

    /// Runs one statement, a transaction of its own, and adds what it did.
    pub fn run(&mut self, client: &mut Client, sql: &str) -> Result<()> {
        let from = wal::position(client)?;
        let begin = Instant::now();
        let answer = client.simple_query(sql)?;
        self.took += begin.elapsed();
        self.spans.push(Span {
            from,
            to: wal::position(client)?,
        });
        let summary = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(Summary::read(row)),
            _ => None,
        });
        if let Some(summary) = summary.transpose()? {
            self.rows += summary.rows();
            self.summary += summary;
            return Ok(());
        }
        for message in answer {
            if let SimpleQueryMessage::CommandComplete(rows) = message {
                self.rows += rows as i64;
            }
        }
        Ok(())
    }
}

impl AddAssign for Total {
    fn add_assign(&mut self, more: Total) {
        self.rows += more.rows;
        self.took += more.took;
        self.spans.extend(more.spans);
        self.summary += more.summary;
    }
}

impl Ingest {
    /// Brings all batches by all contestants, batch by batch in turn; each begins in its turn too. Where one has taken
    /// `longest`, it ends early, for all after the same batch.
    pub fn contest(
        &mut self,
        what: &str,
        contestants: &[Contestant],
        longest: Duration,
    ) -> Result<Vec<Total>> {
        let mut totals = vec![Total::default(); contestants.len()];
        let bar = show::progress(self.batches.into(), &format!("batches, {what}"));
        for batch in 0..self.batches {
            for turn in 0..contestants.len() {
                let i = (batch as usize + turn) % contestants.len();
                totals[i].run(&mut self.client, &contestants[i].statement(batch))?;
            }
            bar.inc(1);
            if totals.iter().any(|total| total.took > longest) {
                break;
            }
        }
        bar.finish_and_clear();
        for (contestant, total) in contestants.iter().zip(&totals) {
            if total.rows != total.asked() {
                self.failures.push(format!(
                    "{what}: {} rows came into {}, not {}",
                    show::count(total.rows),
                    contestant.table,
                    show::count(total.asked())
                ));
            }
        }
        Ok(totals)
    }

    /// What was measured, and of how many batches where that is not all.
    pub fn label(&self, what: &str, brought: u32) -> String {
        if brought == self.batches {
            what.into()
        } else {
            format!("{what} ({brought} batches, slow)")
        }
    }

    /// Checks what an upsert has told; false if it is wrong, which is written down.
    pub fn told(&mut self, what: &str, told: Summary, right: Summary) -> bool {
        if told != right {
            self.failures
                .push(format!("{what}: varve tells {told:?}, right is {right:?}"));
        }
        told == right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_bring_the_same_rows() {
        let statement = |how| {
            Contestant {
                table: "t",
                how,
                rows: Rows::CHANGED,
            }
            .statement(3)
        };
        let query = Rows::CHANGED.query(Some(3));
        let insert = statement(How::Insert);
        assert!(insert.starts_with("INSERT INTO t (symbol, ts,"), "{insert}");
        assert!(insert.contains(&query) && insert.contains("DO UPDATE SET open = excluded.open"));
        assert_eq!(
            statement(How::Upsert),
            format!("SELECT * FROM varve.upsert_query('t', $q${query}$q$)")
        );
    }

    #[test]
    fn totals_are_compared_by_rate() {
        let total = |rows, ms| Total {
            rows,
            took: Duration::from_millis(ms),
            spans: vec![
                Span {
                    from: 10.into(),
                    to: 30.into(),
                };
                2
            ],
            ..Total::default()
        };
        assert_eq!(total(10_000, 50).rate(), 200_000.0);
        assert_eq!(total(10_000, 50).times_as_fast_as(&total(10_000, 100)), 2.0);
        assert_eq!(total(1, 1).wal(), 40);
        assert_eq!(total(1, 1).asked(), 20_000);
    }
}
