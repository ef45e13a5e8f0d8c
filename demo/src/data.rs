//! Where the prices come from: the file that `DATA=` names, the S&P 500 file beside the checkout, or the generator.

use crate::generate;
use crate::stage::Result;
use csv::StringRecord;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Real daily prices, where they lie beside the checkout.
const BESIDE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/data/sp500_daily_2013_2018.csv.gz"
);

/// Columns that a file must have, in this order.
pub const COLUMNS: [&str; 7] = ["date", "symbol", "open", "high", "low", "close", "volume"];

/// Daily prices, as they are read.
pub struct Prices {
    /// Where they are from.
    pub source: String,
    /// Rows, in [`COLUMNS`].
    pub records: Vec<StringRecord>,
    /// Different symbols.
    pub symbols: usize,
    /// Different days.
    pub days: usize,
}

/// The prices to work with.
pub fn load() -> Result<Prices> {
    let named = std::env::var("DATA").unwrap_or_default();
    let (source, records) = if !named.is_empty() {
        (named.clone(), read(Path::new(&named))?)
    } else if Path::new(BESIDE).exists() {
        let name = Path::new(BESIDE).file_name().unwrap_or_default();
        (name.to_string_lossy().into(), read(Path::new(BESIDE))?)
    } else {
        let source = "generated, since no file is named by DATA= or lies beside the checkout";
        (source.to_string(), generate::prices())
    };
    if records.is_empty() {
        return Err(format!("{source}: no rows").into());
    }
    let distinct = |column: usize| {
        let values: BTreeSet<&str> = records.iter().filter_map(|r| r.get(column)).collect();
        values.len()
    };
    Ok(Prices {
        symbols: distinct(1),
        days: distinct(0),
        source,
        records,
    })
}

/// Reads a CSV file, compressed with gzip or not.
fn read(path: &Path) -> Result<Vec<StringRecord>> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(|e| at(&e))?);
    let gzip = file
        .fill_buf()
        .map_err(|e| at(&e))?
        .starts_with(&[0x1f, 0x8b]);
    let plain: Box<dyn Read> = if gzip {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut reader = csv::Reader::from_reader(plain);
    let header = reader.headers().map_err(|e| at(&e))?;
    if *header != COLUMNS[..] {
        let found: Vec<&str> = header.iter().collect();
        let (wanted, found) = (COLUMNS.join(","), found.join(","));
        return Err(at(&format!("the columns must be {wanted}, not {found}")).into());
    }
    let records: std::result::Result<Vec<StringRecord>, csv::Error> = reader.records().collect();
    Ok(records.map_err(|e| at(&e))?)
}
