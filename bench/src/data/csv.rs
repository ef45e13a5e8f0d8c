//! Rows as the reference program (`gen.py`) prints them, to compare with it byte by byte.

use super::bars::Bars;
use super::cpu::Cpu;
use super::{DAY, Sink, Source};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// How floats are printed.
#[derive(Clone, Copy)]
enum Floats {
    /// As short as they read back, as Python's `repr` does.
    Shortest,
    /// With two decimals.
    Cents,
}

struct Csv {
    floats: Floats,
    text: String,
}

impl Csv {
    fn add(&mut self, value: std::fmt::Arguments) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(',');
        }
        self.text.write_fmt(value).unwrap();
    }
}

/// A float as Python's `repr` prints it, for what is not above 10^16.
fn shortest(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-4 {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once("e-").unwrap();
        format!("{digits}e-{exponent:0>2}")
    } else {
        format!("{x:?}")
    }
}

impl Sink for Csv {
    fn row(&mut self, _columns: u16) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    fn text(&mut self, text: &str) {
        self.add(format_args!("{text}"));
    }

    /// Dates from January 2025 only.
    fn time(&mut self, seconds: i64) {
        let (day, second) = (seconds / DAY - 9_132 + 1, seconds % DAY);
        assert!((1..=31).contains(&day));
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        self.add(format_args!(
            "2025-01-{day:02} {hour:02}:{minute:02}:{second:02}+00"
        ));
    }

    fn float(&mut self, value: f64) {
        match self.floats {
            Floats::Shortest => self.add(format_args!("{}", shortest(value))),
            Floats::Cents => self.add(format_args!("{value:.2}")),
        }
    }

    fn int(&mut self, value: i64) {
        self.add(format_args!("{value}"));
    }
}

/// SHA-256 of all rows as CSV, in hexadecimal.
fn digest(mut source: impl Source, floats: Floats) -> String {
    let mut csv = Csv {
        floats,
        text: String::new(),
    };
    let rows = source.rows();
    let mut seen = 0;
    loop {
        let made = source.next(&mut csv);
        if made == 0 {
            break;
        }
        seen += made;
    }
    assert_eq!(seen, rows);
    csv.text.push('\n');
    Sha256::digest(csv.text.as_bytes())
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// `gen.py cpu --hosts 10 --days 1 --step 60`, with numpy 2.4.
#[test]
fn cpu_is_what_the_reference_makes() {
    assert_eq!(
        digest(Cpu::new(10, 1, 60), Floats::Shortest),
        "40ba9ade50abbc94c4cdc211fd9799d3fa259206cad153920b0f9ba96d56c2e0"
    );
}

/// `gen.py bars --symbols 20 --days 3`, with numpy 2.4.
#[test]
fn bars_are_what_the_reference_makes() {
    assert_eq!(
        digest(Bars::new(20, 3), Floats::Cents),
        "af67ba452270fa6151dba4b64bfa482913400886f5d694ae41ce68649fe48eae"
    );
}
