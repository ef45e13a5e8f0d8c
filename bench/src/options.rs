//! What the bench is asked to do.

use crate::Result;
use clap::{Parser, ValueEnum};
use regex::Regex;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// Measures varve's frozen chunks beside heap: queries, sizes, rates, memory; and its ingest beside PostgreSQL's own.
///
/// The targets stand for the default scale; at a smaller one, fixed costs weigh more.
#[derive(Parser)]
#[command(name = "varve-bench", version)]
pub struct Options {
    /// Days of `cpu` (3 unless told otherwise; 0 leaves the table out)
    #[arg(long)]
    pub cpu_days: Option<u32>,
    /// Hosts of `cpu` (100)
    #[arg(long)]
    pub hosts: Option<u32>,
    /// Trading days of `bars` (60; 0 leaves the table out)
    #[arg(long)]
    pub bars_days: Option<u32>,
    /// Symbols of `bars` (500)
    #[arg(long)]
    pub symbols: Option<u32>,
    /// Timed runs of each query on each side; its minimum counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Only queries whose name matches; thawing, COLD, ingest, changes and backups are left out
    #[arg(long, value_name = "REGEX")]
    pub only: Option<Regex>,
    /// Keeps the loaded server's data in this directory, and uses what is there from an earlier run
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// With --keep: makes the extension and the frozen tables anew (after a change of segments, of freezing or of SQL)
    #[arg(long)]
    pub reload: bool,
    /// Prints varve's plan of each query too (EXPLAIN ANALYZE)
    #[arg(long)]
    pub plans: bool,
    /// Only this section
    #[arg(long, value_enum)]
    pub section: Option<Section>,
    /// Batches of 10,000 rows in each measurement of ingest
    #[arg(long, default_value_t = 97, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub batches: u32,
}

impl Options {
    /// Whether a section is asked for.
    pub fn has(&self, section: Section) -> bool {
        match self.section {
            Some(only) => only == section,
            None => section == Section::Frozen || self.only.is_none(),
        }
    }
}

/// A part of the bench that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Frozen chunks beside heap: queries, sizes, rates, memory
    Frozen,
    /// Batch upserts and COPY into sinks beside INSERT … ON CONFLICT and COPY
    Ingest,
    /// What has changed between tables, beside FULL JOIN
    Change,
    /// Backups and restores beside pgBackRest's
    Backup,
}

/// How much data there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub hosts: u32,
    pub cpu_days: u32,
    pub symbols: u32,
    pub bars_days: u32,
}

/// The scale for which the targets stand.
pub const FULL: Scale = Scale {
    hosts: 100,
    cpu_days: 3,
    symbols: 500,
    bars_days: 60,
};

impl Scale {
    /// The scale asked for, where the rest is as in `base`.
    pub fn asked(options: &Options, base: Scale) -> Scale {
        Scale {
            hosts: options.hosts.unwrap_or(base.hosts),
            cpu_days: options.cpu_days.unwrap_or(base.cpu_days),
            symbols: options.symbols.unwrap_or(base.symbols),
            bars_days: options.bars_days.unwrap_or(base.bars_days),
        }
    }
}

impl Display for Scale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cpu: {} hosts, {} days; bars: {} symbols, {} days",
            self.hosts, self.cpu_days, self.symbols, self.bars_days
        )
    }
}

impl FromStr for Scale {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Scale> {
        let numbers: Vec<u32> = text
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers[..] {
            [hosts, cpu_days, symbols, bars_days] => Ok(Scale {
                hosts,
                cpu_days,
                symbols,
                bars_days,
            }),
            _ => Err(format!("not a scale: {text}").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_read_back() {
        assert_eq!(FULL.to_string().parse::<Scale>().unwrap(), FULL);
        assert!("cpu: 3 days".parse::<Scale>().is_err());
    }

    #[test]
    fn options_hold_together() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        let options = Options::parse_from(["varve-bench", "--hosts", "7", "--bars-days", "0"]);
        let asked = Scale::asked(&options, FULL);
        assert_eq!((asked.hosts, asked.bars_days), (7, 0));
        assert_eq!((asked.cpu_days, asked.symbols), (3, 500));
    }

    #[test]
    fn sections_can_be_chosen() {
        let sections = |arguments: &[&str]| {
            let options = Options::parse_from([&["varve-bench"], arguments].concat());
            let all = [
                Section::Frozen,
                Section::Ingest,
                Section::Change,
                Section::Backup,
            ];
            all.map(|section| options.has(section))
        };
        assert_eq!(sections(&[]), [true; 4]);
        assert_eq!(sections(&["--only", "c01"]), [true, false, false, false]);
        for (n, section) in ["frozen", "ingest", "change", "backup"].iter().enumerate() {
            let alone = [0, 1, 2, 3].map(|of| of == n);
            assert_eq!(sections(&["--section", section]), alone);
        }
    }
}
