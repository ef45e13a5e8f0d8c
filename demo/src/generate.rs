//! Prices for where no file is: as many rows as the S&P 500 file has, the same ones on every machine.
//!
//! Each symbol walks at random around a market that walks too, from its day of listing on. Only additions,
//! multiplications and divisions are used, which IEEE 754 fixes to the last bit.

use csv::StringRecord;
use std::collections::BTreeSet;

/// Symbols, as many as the index has members.
const SYMBOLS: usize = 505;
/// Symbols that are listed after the first day.
const LATE: usize = 31;
/// Prices that are missing, each in a row of its own.
const GAPS: usize = 11;
/// Days between the listings of two late symbols.
const LATE_STEP: usize = 36;
/// What the last listing is later than that, so that the rows come to 619,040.
const LATE_REST: usize = 15;

/// First and last day: year, month, day.
const FIRST: (u32, u32, u32) = (2013, 2, 8);
const LAST: (u32, u32, u32) = (2018, 2, 7);
/// Days on which the exchange was closed though it was no weekend, as month and day.
const CLOSED: [(u32, &[(u32, u32)]); 6] = [
    (
        2013,
        &[
            (2, 18),
            (3, 29),
            (5, 27),
            (7, 4),
            (9, 2),
            (11, 28),
            (12, 25),
        ],
    ),
    (
        2014,
        &[
            (1, 1),
            (1, 20),
            (2, 17),
            (4, 18),
            (5, 26),
            (7, 4),
            (9, 1),
            (11, 27),
            (12, 25),
        ],
    ),
    (
        2015,
        &[
            (1, 1),
            (1, 19),
            (2, 16),
            (4, 3),
            (5, 25),
            (7, 3),
            (9, 7),
            (11, 26),
            (12, 25),
        ],
    ),
    (
        2016,
        &[
            (1, 1),
            (1, 18),
            (2, 15),
            (3, 25),
            (5, 30),
            (7, 4),
            (9, 5),
            (11, 24),
            (12, 26),
        ],
    ),
    (
        2017,
        &[
            (1, 2),
            (1, 16),
            (2, 20),
            (4, 14),
            (5, 29),
            (7, 4),
            (9, 4),
            (11, 23),
            (12, 25),
        ],
    ),
    (2018, &[(1, 1), (1, 15)]),
];

/// A small generator of random numbers (SplitMix64): the same numbers everywhere, for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from 0 to `end`, without `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A number around 0, distributed nearly normally with deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// The days on which the exchange was open, as `2013-02-08`.
fn trading_days() -> Vec<String> {
    let (mut year, mut month, mut day) = FIRST;
    // Monday is 0; the first day was a Friday.
    let mut weekday = 4;
    let mut days = Vec::new();
    loop {
        let closed = CLOSED
            .iter()
            .any(|(y, list)| *y == year && list.contains(&(month, day)));
        if weekday < 5 && !closed {
            days.push(format!("{year}-{month:02}-{day:02}"));
        }
        if (year, month, day) == LAST {
            return days;
        }
        weekday = (weekday + 1) % 7;
        day += 1;
        if day > days_in(year, month) {
            (month, day) = (month + 1, 1);
        }
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Names of one to four letters, sorted.
fn symbols(random: &mut Random) -> Vec<String> {
    let mut names = BTreeSet::new();
    while names.len() < SYMBOLS {
        let letters = [1, 2, 3, 3, 3, 3, 4, 4][random.below(8)];
        names.insert(
            (0..letters)
                .map(|_| (b'A' + random.below(26) as u8) as char)
                .collect(),
        );
    }
    names.into_iter().collect()
}

/// One symbol on its walk.
struct Walk {
    symbol: String,
    /// Number of the day on which it is listed.
    listed: usize,
    close: f64,
    /// How much it follows the market, and how much it moves by itself.
    beta: f64,
    deviation: f64,
    volume: f64,
}

impl Walk {
    fn new(symbol: String, listed: usize, random: &mut Random) -> Walk {
        let u = random.unit();
        Walk {
            symbol,
            listed,
            close: 12.0 + 180.0 * u * u,
            beta: 0.5 + random.unit(),
            deviation: 0.006 + 0.012 * random.unit(),
            volume: 400_000.0 + 9_000_000.0 * random.unit() * random.unit(),
        }
    }

    /// Walks on by a day on which the market moved by `market`: open, high, low, close and volume of it.
    fn step(&mut self, market: f64, random: &mut Random) -> ([f64; 4], i64) {
        let open = cents(self.close * (1.0 + 0.3 * self.deviation * random.normal()));
        let change = self.beta * market + self.deviation * random.normal();
        let close = cents(self.close * (1.0 + change.clamp(-0.3, 0.3))).max(1.0);
        let reach = self.deviation * open * 0.5;
        let high = cents(open.max(close) + reach * random.unit());
        let low = cents((open.min(close) - reach * random.unit()).max(0.01));
        self.close = close;
        let busy = 1.0 + (change / self.deviation).abs();
        let volume = self.volume * (0.4 + 0.5 * random.unit()) * busy;
        ([open, high, low, close], volume as i64)
    }
}

/// Rounded to cents.
fn cents(price: f64) -> f64 {
    (price * 100.0).round() / 100.0
}

/// All rows, sorted by date and symbol.
pub fn prices() -> Vec<StringRecord> {
    let mut random = Random(20_130_208);
    let days = trading_days();
    let names = symbols(&mut random);
    let mut listed = vec![0; names.len()];
    let mut late = 0;
    while late < LATE {
        let at = &mut listed[random.below(names.len())];
        if *at == 0 {
            late += 1;
            *at = if late < LATE {
                late * LATE_STEP
            } else {
                LATE_REST
            };
        }
    }
    let mut walks: Vec<Walk> = names
        .into_iter()
        .zip(listed)
        .map(|(name, listed)| Walk::new(name, listed, &mut random))
        .collect();
    let mut records = Vec::new();
    for (number, day) in days.iter().enumerate() {
        let market = 0.0004 + 0.007 * random.normal();
        for walk in walks.iter_mut().filter(|w| w.listed <= number) {
            let (prices, volume) = walk.step(market, &mut random);
            let mut record = StringRecord::new();
            record.push_field(day);
            record.push_field(&walk.symbol);
            for price in prices {
                record.push_field(&price.to_string());
            }
            record.push_field(&volume.to_string());
            records.push(record);
        }
    }
    let mut gaps = BTreeSet::new();
    while gaps.len() < GAPS {
        gaps.insert(random.below(records.len()));
    }
    for row in gaps {
        let missing = 2 + random.below(3);
        let fields = records[row].iter().enumerate();
        records[row] = fields
            .map(|(i, field)| if i == missing { "" } else { field })
            .collect();
    }
    records
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_was_open_on_1259_days() {
        let days = trading_days();
        assert_eq!(days.len(), 1259);
        assert_eq!(days.first().unwrap(), "2013-02-08");
        assert_eq!(days.last().unwrap(), "2018-02-07");
        assert!(days.contains(&"2016-02-29".to_string()));
    }

    #[test]
    fn rows_are_as_many_as_in_the_real_file_sorted_and_unique() {
        let records = prices();
        assert_eq!(records.len(), 619_040);
        let keys: Vec<(&str, &str)> = records
            .iter()
            .map(|r| (r.get(0).unwrap(), r.get(1).unwrap()))
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        let names: BTreeSet<&str> = keys.iter().map(|k| k.1).collect();
        assert_eq!(names.len(), SYMBOLS);
        let gaps = records
            .iter()
            .filter(|r| r.iter().any(str::is_empty))
            .count();
        assert_eq!(gaps, GAPS);
    }

    #[test]
    fn every_price_lies_between_low_and_high() {
        for record in &prices() {
            let price = |i: usize| record.get(i).unwrap().parse::<f64>().ok();
            if let (Some(open), Some(high), Some(low), Some(close)) =
                (price(2), price(3), price(4), price(5))
            {
                assert!(
                    low > 0.0 && low <= open.min(close) && high >= open.max(close),
                    "{record:?}"
                );
            }
            assert!(record.get(6).unwrap().parse::<i64>().unwrap() > 0);
        }
    }

    #[test]
    fn rows_are_the_same_on_every_machine() {
        let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in prices().iter().flat_map(|r| r.as_slice().bytes()) {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        assert_eq!(sum, 16_861_670_415_128_499_157);
    }
}
