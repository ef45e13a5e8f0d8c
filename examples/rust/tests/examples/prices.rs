//! The prices of the large file, and what the table holds.

use postgres::Client;
use std::fmt::Write;

/// Rows of the large file, in several chunks.
pub const ROWS: usize = 20_000;

/// 2025-01-01 00:00Z, in seconds since 1970.
pub const BEGIN: i64 = 1_735_689_600;

/// A row: symbol, seconds since 1970, open, high, low, close, volume.
pub type Row = (String, i64, [Option<f64>; 4], Option<i64>);

/// Prices of forty symbols, every three hours, in the order of the table's key; some are missing.
pub fn rows() -> Vec<Row> {
    let each = ROWS / 40;
    let rows = (0..ROWS).map(|i| {
        let (symbol, at) = (i / each, i % each);
        let price = |plus: usize| {
            let cents = 10_000 + (i * 37 + plus * 11) % 5_000;
            (!(i + plus).is_multiple_of(97)).then_some(cents as f64 / 100.0)
        };
        (
            format!("T{symbol:02}"),
            BEGIN + at as i64 * 3 * 3600,
            [price(0), price(1), price(2), price(3)],
            (!i.is_multiple_of(101)).then_some(i as i64 * 1_000_003 % 9_999_991),
        )
    });
    rows.collect()
}

fn field<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// A file of the rows, with the columns in another order than the table's, and times in another zone.
pub fn csv(rows: &[Row]) -> String {
    let mut csv = String::from("date,volume,Ticker,open,high,low,close\n");
    for (symbol, at, [open, high, low, close], volume) in rows {
        // An hour east of Greenwich; days begin where BEGIN does.
        let (days, seconds) = ((at + 3600 - BEGIN) / 86_400, (at + 3600 - BEGIN) % 86_400);
        let months = [(59, 3), (31, 2), (0, 1)];
        let (first, month) = months
            .into_iter()
            .find(|(first, _)| days >= *first)
            .unwrap();
        let fields = [
            format!(
                "2025-{month:02}-{:02}T{:02}:{:02}:00+01:00",
                days - first + 1,
                seconds / 3600,
                seconds / 60 % 60
            ),
            field(*volume),
            symbol.clone(),
            field(*open),
            field(*high),
            field(*low),
            field(*close),
        ];
        writeln!(csv, "{}", fields.join(",")).unwrap();
    }
    csv
}

/// What the table holds, in the order of its key.
pub fn stored(client: &mut Client) -> Vec<Row> {
    let query = "SELECT symbol, extract(epoch FROM ts)::bigint, open, high, low, close, volume FROM prices \
                 ORDER BY symbol COLLATE \"C\", ts";
    let rows = client.query(query, &[]).unwrap();
    rows.iter()
        .map(|r| {
            (
                r.get(0),
                r.get(1),
                [r.get(2), r.get(3), r.get(4), r.get(5)],
                r.get(6),
            )
        })
        .collect()
}
