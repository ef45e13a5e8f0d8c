//! Batches into frozen chunks, beside INSERT … ON CONFLICT of the same rows where they are on heap.

use super::Ingest;
use super::contest::{Contestant, How, Summary};
use super::stage::Rows;
use super::wal;
use crate::Result;
use crate::numbers::{at_least, figure};
use std::time::Duration;
use varve_demo::show::{self, Align::Left, Align::Right};

/// Rows a second asked for, where INSERT … ON CONFLICT of new keys brings [`REFERENCE`].
const TARGET: f64 = 200_000.0;

/// Rows a second of INSERT … ON CONFLICT, no key there yet, on the machine of the targets.
pub const REFERENCE: f64 = 226_000.0;

/// A case in which a contestant has taken so long ends with its batch: what is that slow is known well enough.
const LONG: Duration = Duration::from_secs(60);

/// The table that shows what INSERT … ON CONFLICT of new keys takes meanwhile; the one on heap; the frozen one.
const TABLES: [&str; 3] = ["yardstick", "inserted", "frozen"];

/// What is brought into frozen chunks that hold all staged rows.
struct Case {
    what: &'static str,
    rows: Rows,
    /// Of all rows, what becomes of them.
    right: fn(i64) -> Summary,
}

const CASES: [Case; 3] = [
    Case {
        what: "keys in between, new",
        rows: Rows::BETWEEN,
        right: |rows| Summary {
            inserted: rows,
            ..Summary::default()
        },
    },
    Case {
        what: "every key there, values changed",
        rows: Rows::CHANGED,
        right: |rows| Summary {
            updated: rows,
            ..Summary::default()
        },
    },
    Case {
        what: "every key there, values the same",
        rows: Rows::STAGED,
        right: |rows| Summary {
            unchanged: rows,
            ..Summary::default()
        },
    },
];

impl Ingest {
    /// The chapter.
    pub fn frozen(&mut self) -> Result<()> {
        show::heading(8, &format!("Ingest: {} into frozen chunks", self.volume()));
        let mut lines = Vec::new();
        let mut remarks = Vec::new();
        for case in CASES {
            lines.push(self.case_of_frozen(&case, &mut remarks)?);
        }
        let head = [
            ("batches", Left),
            ("new keys by INSERT", Right),
            ("INSERT … ON CONFLICT into heap", Right),
            ("WAL", Right),
            ("varve into frozen", Right),
            ("WAL", Right),
            ("÷ heap", Right),
            ("÷ new keys", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &lines, None);
        show::say(&format!(
            "rows/s; the target is {} where INSERT … ON CONFLICT of new keys into an empty hypertable brings {}, which is measured in the same turns",
            show::count(TARGET as i64),
            show::count(REFERENCE as i64)
        ));
        remarks.iter().for_each(|remark| show::say(remark));
        Ok(())
    }

    /// Measures a case on tables made for it, and checks them.
    fn case_of_frozen(&mut self, case: &Case, remarks: &mut Vec<String>) -> Result<Vec<String>> {
        let what = format!("into frozen chunks, {}", case.what);
        let [yardstick, heap, frozen] = TABLES;
        self.hypertables(&TABLES)?;
        self.fill(&[heap, frozen], Rows::STAGED)?;
        self.freeze(frozen)?;
        self.checkpoint()?;
        let contestants = [
            Contestant {
                table: yardstick,
                how: How::Insert,
                rows: Rows::STAGED,
            },
            Contestant {
                table: heap,
                how: How::Insert,
                rows: case.rows,
            },
            Contestant {
                table: frozen,
                how: How::Upsert,
                rows: case.rows,
            },
        ];
        let totals = self.contest(&what, &contestants, LONG)?;
        let [new, insert, upsert] = &totals[..] else {
            return Err("a contestant got lost".into());
        };
        let right = (case.right)(upsert.asked());
        let is_right = self.told(&what, upsert.summary, right) & self.same(&what, heap, frozen)?;
        if upsert.summary.unchanged == upsert.rows {
            remarks.push(format!(
                "{}: WAL of varve {}; {}",
                case.what,
                show::bytes(upsert.wal()),
                wal::told(&mut self.client, &upsert.spans)?
            ));
        }
        if upsert.summary.inserted == upsert.rows {
            self.batches_to_frozen = upsert.batches();
        }
        let ratio = upsert.times_as_fast_as(new);
        let target = TARGET / REFERENCE;
        Ok(vec![
            self.label(case.what, upsert.batches()),
            show::count(new.rate() as i64),
            show::count(insert.rate() as i64),
            show::bytes(insert.wal()),
            show::count(upsert.rate() as i64),
            show::bytes(upsert.wal()),
            figure(upsert.times_as_fast_as(insert)),
            figure(ratio),
            figure(target),
            if is_right {
                at_least(ratio, target)
            } else {
                "✗ OTHER ROWS".into()
            },
        ])
    }
}
