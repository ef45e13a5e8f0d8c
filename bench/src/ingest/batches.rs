//! Batches into hypertables on heap: keys that are new, that are there, with values changed or the same.

use super::Ingest;
use super::compare::dead_rows;
use super::contest::{Contestant, How, Summary, Total};
use super::stage::Rows;
use super::wal;
use crate::Result;
use crate::numbers::{at_least, at_most, figure};
use std::time::Duration;
use varve_demo::show::{self, Align::Left, Align::Right};

/// The table that INSERT … ON CONFLICT fills, and the one that varve does.
const TABLES: [&str; 2] = ["inserted", "upserted"];

/// WAL of [`WAL_ROWS`] rows that are there already, at most (bytes).
const WAL_TARGET: f64 = 1e6;

/// The rows for which that stands; fewer may write the same.
const WAL_ROWS: i64 = 970_000;

/// A measurement of the chapter.
struct Case {
    what: &'static str,
    rows: Rows,
    /// Times as fast as INSERT … ON CONFLICT.
    target: Option<f64>,
    /// Of all rows, what becomes of them.
    right: fn(i64) -> Summary,
}

const NEW: Case = Case {
    what: "every key new",
    rows: Rows::STAGED,
    target: Some(1.5),
    right: |rows| Summary {
        inserted: rows,
        ..Summary::default()
    },
};

const CHANGED: Case = Case {
    what: "every key there, values changed",
    rows: Rows::CHANGED,
    target: Some(2.0),
    right: |rows| Summary {
        updated: rows,
        ..Summary::default()
    },
};

const SAME: Case = Case {
    what: "every key there, values the same",
    rows: Rows::CHANGED,
    target: Some(6.0),
    right: |rows| Summary {
        unchanged: rows,
        ..Summary::default()
    },
};

const MIXED: Case = Case {
    what: "half new, half changed",
    rows: Rows::CHANGED,
    target: None,
    right: |rows| Summary {
        inserted: rows / 2,
        updated: rows / 2,
        ..Summary::default()
    },
};

impl Ingest {
    /// The chapter.
    pub fn batches(&mut self) -> Result<()> {
        show::heading(
            7,
            &format!(
                "Ingest: {} into a hypertable with a key, in turn",
                self.volume()
            ),
        );
        let mut lines = Vec::new();
        self.hypertables(&TABLES)?;
        self.checkpoint()?;
        for case in [NEW, CHANGED] {
            let (line, _) = self.case(&case)?;
            lines.push(line);
        }
        // What the changes have left dead goes first: pruning it is not the next upsert's work, nor its WAL.
        self.vacuum(&TABLES)?;
        let dead_before = self.dead()?;
        let (line, totals) = self.case(&SAME)?;
        lines.push(line);
        let dead = self.dead()?;
        let remarks = self.unchanged(&totals, dead_before, dead)?;

        self.hypertables(&TABLES)?;
        self.fill(&TABLES, Rows::HALF)?;
        self.checkpoint()?;
        let (line, _) = self.case(&MIXED)?;
        lines.push(line);
        let head = [
            ("batches", Left),
            ("INSERT … ON CONFLICT rows/s", Right),
            ("WAL", Right),
            ("varve rows/s", Right),
            ("WAL", Right),
            ("times as fast", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &lines, None);
        remarks.iter().for_each(|remark| show::say(remark));
        Ok(())
    }

    /// Dead rows of both tables.
    fn dead(&mut self) -> Result<[i64; 2]> {
        let [heap, varve] = TABLES.map(|table| dead_rows(&mut self.client, table));
        Ok([heap?, varve?])
    }

    /// Measures a case, and checks both tables after it; its line, and the totals.
    fn case(&mut self, case: &Case) -> Result<(Vec<String>, [Total; 2])> {
        let [insert, upsert] = TABLES;
        let contestant = |table, how| Contestant {
            table,
            how,
            rows: case.rows,
        };
        let contestants = [
            contestant(insert, How::Insert),
            contestant(upsert, How::Upsert),
        ];
        let totals: [Total; 2] = self
            .contest(case.what, &contestants, Duration::MAX)?
            .try_into()
            .map_err(|_| "a contestant got lost")?;
        let [heap, varve] = &totals;
        let right = (case.right)(varve.asked());
        let is_right =
            self.told(case.what, varve.summary, right) & self.same(case.what, insert, upsert)?;
        let ratio = varve.times_as_fast_as(heap);
        let line = vec![
            case.what.into(),
            show::count(heap.rate() as i64),
            show::bytes(heap.wal()),
            show::count(varve.rate() as i64),
            show::bytes(varve.wal()),
            figure(ratio),
            case.target.map_or_else(String::new, figure),
            if is_right {
                case.target
                    .map_or_else(String::new, |target| at_least(ratio, target))
            } else {
                "✗ OTHER ROWS".into()
            },
        ];
        Ok((line, totals))
    }

    /// What rows that are there already cost: WAL and dead rows. Dead rows of varve's are a failure.
    fn unchanged(
        &mut self,
        [heap, varve]: &[Total; 2],
        before: [i64; 2],
        after: [i64; 2],
    ) -> Result<Vec<String>> {
        let mut remarks = vec![format!(
            "{}: WAL of INSERT {}, of varve {}; target for {} rows {} {}",
            SAME.what,
            show::bytes(heap.wal()),
            show::bytes(varve.wal()),
            show::count(WAL_ROWS),
            show::bytes(WAL_TARGET as i64),
            at_most(varve.wal() as f64, WAL_TARGET),
        )];
        remarks.push(wal::told(&mut self.client, &varve.spans)?);
        let dead = after[1] - before[1];
        remarks.push(format!(
            "dead rows after INSERT {}, after varve {}; target none {}",
            show::count(after[0] - before[0]),
            show::count(dead),
            if dead == 0 { "✓" } else { "✗" },
        ));
        if before != [0, 0] || after[1] != 0 {
            self.failures.push(format!(
                "{}: dead rows before {before:?}, after {after:?}",
                SAME.what
            ));
        }
        Ok(remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_account_for_every_row() {
        for case in [NEW, CHANGED, SAME, MIXED] {
            assert_eq!((case.right)(20_000).rows(), 20_000, "{}", case.what);
        }
    }
}
