//! COPY of all rows: into tables, and into sinks.

use super::Ingest;
use super::contest::{Contestant, How, Summary, Total};
use super::frozen::REFERENCE;
use super::stage::{BATCH, COLUMNS, Rows};
use super::wal::{self, Span};
use crate::Result;
use crate::load::BARS;
use crate::numbers::{at_least, figure};
use postgres::Client;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use varve_demo::show::{self, Align::Left, Align::Right};

/// Rows a second asked for, where INSERT … ON CONFLICT of new keys brings [`REFERENCE`].
const TARGET: f64 = 800_000.0;

/// After so long no other round begins.
const LONG: Duration = Duration::from_secs(100);

/// Bytes that are sent at once.
const BLOCK: usize = 1 << 18;

/// Where INSERT … ON CONFLICT goes.
const YARDSTICK: &str = "yardstick";

/// A plain table.
const BARE: &str = "bare";

/// A hypertable with a key.
const KEYED: &str = "keyed";

/// The same, behind a sink.
const SUNK: &str = "sunk";

/// The same, with frozen rows.
const FROZEN: &str = "frozen";

/// The same, whose sink makes new chunks warm.
const WARMED: &str = "warmed";

/// What is copied, in the order of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Parsing and writing rows, and nothing else.
    Bare,
    Keyed,
    /// Into a sink.
    Sink,
    /// Into the same sink, once more.
    Again,
    /// Into a sink that makes new chunks warm.
    Warm,
    /// Into the same sink, once more.
    WarmAgain,
    /// Into the sink of a table with as many rows frozen, all keys in between them.
    Frozen,
    /// The same rows once more, when it is frozen.
    FrozenAgain,
}

const WAYS: [Way; 8] = [
    Way::Bare,
    Way::Keyed,
    Way::Sink,
    Way::Again,
    Way::Warm,
    Way::WarmAgain,
    Way::Frozen,
    Way::FrozenAgain,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Bare => "COPY, plain table without an index",
            Way::Keyed => "COPY, hypertable with a key",
            Way::Sink => "COPY, sink of such a hypertable",
            Way::Again => "…, the same rows again",
            Way::Warm => "COPY, sink that makes new chunks warm",
            Way::WarmAgain => "…, the same rows again",
            Way::Frozen => "COPY, sink with as many frozen rows in between",
            Way::FrozenAgain => "…, frozen, and the same rows again",
        }
    }

    /// What it copies into.
    fn target(self) -> &'static str {
        match self {
            Way::Bare => BARE,
            Way::Keyed => KEYED,
            Way::Sink | Way::Again => "sunk_in",
            Way::Warm | Way::WarmAgain => "warmed_in",
            Way::Frozen | Way::FrozenAgain => "frozen_in",
        }
    }

    /// Whether it meets frozen rows.
    fn is_to_frozen(self) -> bool {
        matches!(self, Way::Frozen | Way::FrozenAgain)
    }

    /// What a sink tells of so many rows.
    fn right(self, rows: i64) -> Option<Summary> {
        match self {
            Way::Bare | Way::Keyed => None,
            Way::Sink | Way::Warm | Way::Frozen => Some(Summary {
                inserted: rows,
                ..Summary::default()
            }),
            Way::Again | Way::WarmAgain | Way::FrozenAgain => Some(Summary {
                unchanged: rows,
                ..Summary::default()
            }),
        }
    }
}

/// The first lines of a text.
fn lines(text: &[u8], count: usize) -> &[u8] {
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let end = count
        .checked_sub(1)
        .and_then(|before| ends.map(|(i, _)| i + 1).nth(before));
    end.map_or(&[], |end| &text[..end])
}

/// Copies text into a table or sink, a transaction of its own, and adds what it did.
fn copy(client: &mut Client, target: &str, text: &[u8], total: &mut Total) -> Result<()> {
    let from = wal::position(client)?;
    let begin = Instant::now();
    let mut stream = client.copy_in(&format!("COPY {target} ({COLUMNS}) FROM STDIN"))?;
    for block in text.chunks(BLOCK) {
        stream.write_all(block)?;
    }
    total.rows += stream.finish()? as i64;
    total.took += begin.elapsed();
    total.spans.push(Span {
        from,
        to: wal::position(client)?,
    });
    Ok(())
}

/// What all rounds have measured.
#[derive(Default)]
struct Measured {
    /// INSERT … ON CONFLICT of new keys, in batches.
    yardstick: Total,
    ways: [Total; WAYS.len()],
    rounds: u32,
    /// Ways that left other rows, or told something else.
    wrong: Vec<Way>,
}

impl Ingest {
    /// The chapter.
    pub fn copying(&mut self) -> Result<()> {
        show::heading(
            9,
            &format!(
                "Ingest: COPY of {} rows in text, in turn",
                show::count(self.rows())
            ),
        );
        let mut text = Vec::new();
        self.client
            .copy_out(&format!(
                "COPY (SELECT {COLUMNS} FROM stage ORDER BY batch, ts, symbol) TO STDOUT"
            ))?
            .read_to_end(&mut text)?;
        let mut measured = Measured::default();
        let bar = show::progress(self.rounds.into(), "rounds of COPY");
        let begin = Instant::now();
        for round in 0..self.rounds {
            measured.rounds += 1;
            self.round(round as usize, &text, &mut measured)?;
            bar.inc(1);
            if begin.elapsed() > LONG {
                break;
            }
        }
        bar.finish_and_clear();
        self.show(&measured);
        Ok(())
    }

    /// Empties all tables, and copies once in each way, whose order is another in every round.
    fn round(&mut self, round: usize, text: &[u8], measured: &mut Measured) -> Result<()> {
        self.hypertables(&[YARDSTICK, KEYED, SUNK, WARMED, FROZEN])?;
        self.client.batch_execute(&format!(
            "DROP TABLE IF EXISTS {BARE}; CREATE TABLE {BARE} ({}); \
             SELECT varve.enable('{WARMED}'); \
             SELECT varve.create_sink('{}', '{SUNK}'), varve.create_sink('{}', '{WARMED}', tier => 'warm'), varve.create_sink('{}', '{FROZEN}')",
            BARS.columns_without_key(),
            Way::Sink.target(),
            Way::Warm.target(),
            Way::Frozen.target(),
        ))?;
        self.fill(&[FROZEN], Rows::BETWEEN)?;
        self.freeze(FROZEN)?;
        self.checkpoint()?;
        let turns: [&[Way]; 6] = [
            &[],
            &[Way::Bare],
            &[Way::Keyed],
            &[Way::Sink, Way::Again],
            &[Way::Warm, Way::WarmAgain],
            &[Way::Frozen, Way::FrozenAgain],
        ];
        for turn in 0..turns.len() {
            let ways = turns[(round + turn) % turns.len()];
            for way in ways {
                if *way == Way::FrozenAgain {
                    self.freeze(FROZEN)?;
                }
                self.way(*way, text, measured)?;
            }
            if ways.is_empty() {
                let contestant = Contestant {
                    table: YARDSTICK,
                    how: How::Insert,
                    rows: Rows::STAGED,
                };
                for total in self.contest("INSERT beside COPY", &[contestant], Duration::MAX)? {
                    measured.yardstick += total;
                }
            }
        }
        Ok(())
    }

    /// Batches that are copied in one way.
    fn batches_of(&self, way: Way) -> u32 {
        if way.is_to_frozen() {
            self.batches_to_frozen
        } else {
            self.batches
        }
    }

    /// Copies rows in one way, and checks what is there then.
    fn way(&mut self, way: Way, text: &[u8], measured: &mut Measured) -> Result<()> {
        let total = &mut measured.ways[way as usize];
        let batches = self.batches_of(way);
        let text = lines(text, batches as usize * BATCH as usize);
        copy(&mut self.client, way.target(), text, total)?;
        let mut is_right = true;
        if let Some(right) = way.right(i64::from(batches) * i64::from(BATCH)) {
            let mut told = Total::default();
            told.run(&mut self.client, "SELECT * FROM varve.last_upsert()")?;
            is_right &= self.told(way.name(), told.summary, right);
        }
        let staged = Rows::STAGED.subquery(batches);
        is_right &= match way {
            Way::Bare => self.same(way.name(), &staged, BARE)?,
            Way::Keyed => self.same(way.name(), &staged, KEYED)?,
            Way::Sink | Way::Again => self.same(way.name(), &staged, SUNK)?,
            Way::Warm | Way::WarmAgain => self.same(way.name(), &staged, WARMED)?,
            Way::Frozen | Way::FrozenAgain => {
                let both = format!(
                    "({staged} UNION ALL {})",
                    Rows::BETWEEN.subquery(self.batches)
                );
                self.same(way.name(), &both, FROZEN)?
            }
        };
        if !is_right {
            measured.wrong.push(way);
        }
        Ok(())
    }

    /// The table of the chapter.
    fn show(&self, measured: &Measured) {
        let target = TARGET / REFERENCE;
        let keyed = &measured.ways[Way::Keyed as usize];
        let line = |what: &str, total: &Total, target: Option<f64>| {
            let ratio = total.times_as_fast_as(&measured.yardstick);
            vec![
                what.into(),
                show::time(total.took / measured.rounds),
                show::count(total.rate() as i64),
                show::bytes(total.wal() / i64::from(measured.rounds)),
                figure(total.times_as_fast_as(keyed)),
                figure(ratio),
                target.map_or_else(String::new, figure),
                target.map_or_else(String::new, |target| at_least(ratio, target)),
            ]
        };
        let mut lines = vec![line(
            "INSERT … ON CONFLICT, new keys, batches",
            &measured.yardstick,
            None,
        )];
        for way in WAYS {
            let asked = way.right(0).map(|_| target);
            let name = self.label(way.name(), self.batches_of(way));
            let mut line = line(&name, &measured.ways[way as usize], asked);
            if measured.wrong.contains(&way)
                && let Some(verdict) = line.last_mut()
            {
                *verdict = "✗ OTHER ROWS".into();
            }
            lines.push(line);
        }
        let head = [
            ("what", Left),
            ("time", Right),
            ("rows/s", Right),
            ("WAL", Right),
            ("÷ COPY with a key", Right),
            ("÷ INSERT", Right),
            ("target", Right),
            ("met", Left),
        ];
        show::table(&head, &lines, None);
        show::say(&format!(
            "rounds: {}; the target is {} rows/s into a sink where INSERT … ON CONFLICT of new keys brings {}",
            measured.rounds,
            show::count(TARGET as i64),
            show::count(REFERENCE as i64)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_counted_where_they_stand() {
        for (i, way) in WAYS.into_iter().enumerate() {
            assert_eq!(way as usize, i);
        }
    }

    #[test]
    fn lines_are_cut_off() {
        assert_eq!(lines(b"a\nb\nc\n", 2), b"a\nb\n");
        assert_eq!(lines(b"a\nb\nc\n", 3), b"a\nb\nc\n");
        assert_eq!(lines(b"a\n", 0), b"");
    }

    #[test]
    fn sinks_tell_of_every_row() {
        for way in WAYS {
            let is_sink = way.target().ends_with("_in");
            assert_eq!(way.right(7).map(|s| s.rows()), is_sink.then_some(7));
        }
    }
}
