//! Where the rows come from: a CSV file, or chance.

use crate::Result;
use crate::time::Timestamp;
use csv::StringRecord;
use flate2::bufread::MultiGzDecoder;
use postgres::types::{ToSql, Type};
use serde_json::Value;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

/// A column of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Symbol,
    Ts,
    Open,
    High,
    Low,
    Close,
    Volume,
}

impl Column {
    /// All columns, in the table's order.
    pub const ALL: [Column; 7] = [
        Column::Symbol,
        Column::Ts,
        Column::Open,
        Column::High,
        Column::Low,
        Column::Close,
        Column::Volume,
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Column::Symbol => "symbol",
            Column::Ts => "ts",
            Column::Open => "open",
            Column::High => "high",
            Column::Low => "low",
            Column::Close => "close",
            Column::Volume => "volume",
        }
    }

    /// The column that a file's header names, by one name or another.
    fn named(header: &str) -> Option<Self> {
        let name = header.trim().to_ascii_lowercase();
        let name = match name.as_str() {
            "ticker" => "symbol",
            "date" | "time" | "timestamp" | "datetime" => "ts",
            other => other,
        };
        Column::ALL.into_iter().find(|column| column.name() == name)
    }

    /// Its type in the table.
    pub fn sql_type(self) -> Type {
        match self {
            Column::Symbol => Type::TEXT,
            Column::Ts => Type::TIMESTAMPTZ,
            Column::Volume => Type::INT8,
            Column::Open | Column::High | Column::Low | Column::Close => Type::FLOAT8,
        }
    }

    /// Its value in a row, for binary COPY.
    pub fn value(self, row: &Row) -> &(dyn ToSql + Sync) {
        match self {
            Column::Symbol => &row.symbol,
            Column::Ts => &row.ts,
            Column::Open => &row.open,
            Column::High => &row.high,
            Column::Low => &row.low,
            Column::Close => &row.close,
            Column::Volume => &row.volume,
        }
    }

    /// Its value in a row, as JSON.
    pub fn json(self, row: &Row) -> Value {
        // JSON's numbers have no NaN or infinity; the server takes the words.
        let float = |value: Option<f64>| match value {
            Some(number) if !number.is_finite() => Value::from(number.to_string()),
            other => Value::from(other),
        };
        match self {
            Column::Symbol => Value::from(row.symbol.clone()),
            Column::Ts => Value::from(row.ts.map(|ts| Timestamp::from(ts).to_string())),
            Column::Open => float(row.open),
            Column::High => float(row.high),
            Column::Low => float(row.low),
            Column::Close => float(row.close),
            Column::Volume => Value::from(row.volume),
        }
    }
}

/// A row; `None` is NULL.
#[derive(Default)]
pub struct Row {
    /// The line of the file where it ends, or its number among the made-up ones.
    pub number: u64,
    pub symbol: Option<String>,
    pub ts: Option<SystemTime>,
    pub open: Option<f64>,
    pub high: Option<f64>,
    pub low: Option<f64>,
    pub close: Option<f64>,
    pub volume: Option<i64>,
}

impl Row {
    /// Reads one of its values.
    fn read(&mut self, column: Column, text: &str) -> std::result::Result<(), String> {
        fn parsed<T: FromStr<Err: Display>>(text: &str) -> std::result::Result<Option<T>, String> {
            // An empty field is NULL.
            let value = (!text.is_empty()).then(|| text.parse()).transpose();
            value.map_err(|error: T::Err| format!("{error}: {text:?}"))
        }
        match column {
            Column::Symbol => self.symbol = parsed(text)?,
            Column::Ts => self.ts = parsed::<Timestamp>(text)?.map(SystemTime::from),
            Column::Open => self.open = parsed(text)?,
            Column::High => self.high = parsed(text)?,
            Column::Low => self.low = parsed(text)?,
            Column::Close => self.close = parsed(text)?,
            Column::Volume => self.volume = parsed(text)?,
        }
        Ok(())
    }
}

/// Rows that come one by one.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row>> + 'a>;

/// Where rows come from. They can be read again and again.
pub enum Source {
    Csv {
        path: PathBuf,
        /// Columns, in the table's order.
        columns: Vec<Column>,
        /// For each of them, its place in the file.
        places: Vec<usize>,
    },
    MadeUp(u64),
}

impl Source {
    /// The rows of a CSV file, whose header names the columns.
    pub fn csv(path: &Path) -> Result<Source> {
        let at = path.display();
        let (mut reader, _) = open(path)?;
        let header = reader.headers().map_err(|error| format!("{at}: {error}"))?;
        let told = || header.iter().collect::<Vec<_>>().join(", ");
        let found: Vec<Option<Column>> = header.iter().map(Column::named).collect();
        for (name, column) in header.iter().zip(&found) {
            if column.is_none() {
                eprintln!("{at}: column {name:?} is left out");
            }
        }
        let (mut columns, mut places) = (Vec::new(), Vec::new());
        for column in Column::ALL {
            let name = column.name();
            let mut of_it =
                (0..found.len()).filter(|place| found.get(*place) == Some(&Some(column)));
            match (of_it.next(), of_it.next()) {
                (Some(place), None) => {
                    columns.push(column);
                    places.push(place);
                }
                (Some(_), Some(_)) => {
                    return Err(format!("{at}: two columns for {name}: {}", told()).into());
                }
                (None, _) if matches!(column, Column::Symbol | Column::Ts) => {
                    return Err(format!("{at}: no column {name} among: {}", told()).into());
                }
                (None, _) => {}
            }
        }
        Ok(Source::Csv {
            path: path.to_path_buf(),
            columns,
            places,
        })
    }

    /// Minute bars of a hundred symbols that walk at random, the same ones each time.
    pub fn made_up(count: u64) -> Source {
        Source::MadeUp(count)
    }

    /// Its name, for messages.
    pub fn name(&self) -> String {
        match self {
            Source::Csv { path, .. } => path.display().to_string(),
            Source::MadeUp(_) => "made-up rows".into(),
        }
    }

    /// What the number of a row counts.
    pub fn unit(&self) -> &'static str {
        match self {
            Source::Csv { .. } => "line",
            Source::MadeUp(_) => "row",
        }
    }

    /// Columns that the rows have.
    pub fn columns(&self) -> &[Column] {
        match self {
            Source::Csv { columns, .. } => columns,
            Source::MadeUp(_) => &Column::ALL,
        }
    }

    /// The rows from the first one on.
    pub fn rows(&self) -> Result<Rows<'_>> {
        let (path, columns, places) = match self {
            Source::MadeUp(count) => return Ok(Box::new(made_up(*count).map(Ok))),
            Source::Csv {
                path,
                columns,
                places,
            } => (path, columns, places),
        };
        let (mut reader, ahead) = open(path)?;
        let mut record = StringRecord::new();
        Ok(Box::new(std::iter::from_fn(move || {
            let at = path.display();
            let found = reader.read_record(&mut record);
            let number = reader.position().line().saturating_sub(ahead);
            match found {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    let told = match error.kind() {
                        csv::ErrorKind::UnequalLengths {
                            expected_len, len, ..
                        } => {
                            format!("{len} fields where the header has {expected_len}")
                        }
                        _ => error.to_string(),
                    };
                    return Some(Err(format!("{at}, line {number}: {told}").into()));
                }
            }
            let mut row = Row {
                number,
                ..Row::default()
            };
            for (column, place) in columns.iter().zip(places) {
                let text = record.get(*place).unwrap_or_default();
                if let Err(error) = row.read(*column, text) {
                    let name = column.name();
                    return Some(Err(
                        format!("{at}, line {number}: column {name}: {error}").into()
                    ));
                }
            }
            Some(Ok(row))
        })))
    }
}

/// A CSV file, unpacked if it is packed with gzip; and how many lines the reader is ahead when it has read a record.
fn open(path: &Path) -> Result<(csv::Reader<Box<dyn Read>>, u64)> {
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(at)?);
    let packed = file.fill_buf().map_err(at)?.starts_with(&[0x1f, 0x8b]);
    let plain: Box<dyn Read> = if packed {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut plain = BufReader::new(plain);
    let line = plain
        .fill_buf()
        .map_err(at)?
        .split(|byte| *byte == b'\n')
        .next();
    // Of "\r\n" the reader takes the second half with the next record. The last line may have no end: it gets one, and a
    // line with nothing in it is no record.
    let (end, ahead) = match line.is_some_and(|line| line.ends_with(b"\r")) {
        true => ("\r\n", 0),
        false => ("\n", 1),
    };
    let plain: Box<dyn Read> = Box::new(plain.chain(end.as_bytes()));
    Ok((csv::Reader::from_reader(plain), ahead))
}

fn made_up(count: u64) -> impl Iterator<Item = Row> {
    /// 2025-01-01 00:00Z, in microseconds since 1970.
    const BEGIN: i64 = 1_735_689_600_000_000;
    const MINUTE: i64 = 60_000_000;
    const SYMBOLS: u64 = 100;
    let cents = |price: f64| (price * 100.0).round() / 100.0;
    let mut closes: Vec<f64> = (0..SYMBOLS).map(|symbol| 100.0 + symbol as f64).collect();
    // Knuth's generator; its upper bits are the good ones.
    let mut state = 17_u64;
    let mut chance = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..count).map(move |number| {
        let (minute, symbol) = ((number / SYMBOLS) as i64, number % SYMBOLS);
        let step = chance(101) as f64 / 100.0 - 0.5;
        let mut open = 0.0;
        let mut close = 0.0;
        if let Some(last) = closes.get_mut(symbol as usize) {
            open = *last;
            close = cents((open + step).max(1.0));
            *last = close;
        }
        Row {
            number: number + 1,
            symbol: Some(format!("S{symbol:02}")),
            ts: Some(Timestamp::micros(BEGIN + minute * MINUTE).into()),
            open: Some(open),
            high: Some(cents(open.max(close) + 0.1)),
            low: Some(cents(open.min(close) - 0.1)),
            close: Some(close),
            volume: Some(chance(1_000_000) as i64),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Source;
    use std::io::Write;

    /// The numbers of the lines where the rows of a file end.
    fn lines(name: &str, text: &str) -> Vec<u64> {
        let path = std::env::temp_dir().join(format!("varve-lines-{}-{name}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let source = Source::csv(&path).unwrap();
        let rows: crate::Result<Vec<_>> = source.rows().unwrap().collect();
        std::fs::remove_file(&path).unwrap();
        rows.unwrap().iter().map(|row| row.number).collect()
    }

    #[test]
    fn tells_lines() {
        let text = "symbol,ts\nA,2024-01-01\n\n\"B\nb\",2024-01-01\nC,2024-01-01";
        assert_eq!(lines("no-end", text), [2, 5, 6]);
        assert_eq!(lines("end", &format!("{text}\n")), [2, 5, 6]);
        assert_eq!(lines("cr-no-end", &text.replace('\n', "\r\n")), [2, 5, 6]);
        assert_eq!(
            lines("cr-end", &format!("{text}\n").replace('\n', "\r\n")),
            [2, 5, 6]
        );
    }
}
