//! `bars`: one-minute bars of stocks, 390 minutes on every weekday. Prices have two decimals, volumes come in hundreds.

use super::{DAY, FIRST_DAY, SEED, Sink, Source};
use crate::random::Random;

/// Minutes of a trading day.
const MINUTES: u32 = 390;

/// The rows of `bars`.
pub struct Bars {
    random: Random,
    symbols: Vec<String>,
    price: Vec<f64>,
    volume: Vec<f64>,
    days: u32,
    /// Trading days done.
    day: u32,
    /// Minutes of the running day done.
    minute: u32,
    /// One minute's draws: a row for each of close, high, low and volume.
    draws: [Vec<f64>; 4],
}

/// Rounded to two decimals, half to even.
fn cents(x: f64) -> f64 {
    (x * 100.0).round_ties_even() / 100.0
}

impl Bars {
    /// `symbols` traded on `days` weekdays.
    pub fn new(symbols: u32, days: u32) -> Bars {
        let mut random = Random::new(SEED);
        let price = (0..symbols)
            .map(|_| cents(random.uniform(500.0, 9000.0)))
            .collect();
        let volume = (0..symbols).map(|_| random.lognormal(7.0, 1.5)).collect();
        Bars {
            random,
            symbols: (0..symbols).map(|i| format!("S{i:04}")).collect(),
            price,
            volume,
            days,
            day: 0,
            minute: 0,
            draws: std::array::from_fn(|_| vec![0.0; symbols as usize]),
        }
    }
}

impl Source for Bars {
    fn rows(&self) -> u64 {
        u64::from(self.days) * u64::from(MINUTES) * self.symbols.len() as u64
    }

    fn next(&mut self, sink: &mut impl Sink) -> u64 {
        if self.day == self.days {
            return 0;
        }
        // The first day is a Monday.
        let calendar = i64::from(self.day / 5 * 7 + self.day % 5);
        let time = FIRST_DAY + calendar * DAY + i64::from(self.minute) * 60;
        let [close, high, low, volume] = &mut self.draws;
        close.fill_with(|| self.random.normal(1.0));
        high.fill_with(|| self.random.normal(0.4));
        low.fill_with(|| self.random.normal(0.4));
        volume.fill_with(|| self.random.lognormal(0.0, 1.0));
        for (i, symbol) in self.symbols.iter().enumerate() {
            let open = self.price[i];
            let spread = open * 0.0006;
            let close = cents((open + close[i] * spread).max(1.0));
            sink.row(7);
            sink.text(symbol);
            sink.time(time);
            sink.float(open);
            sink.float(cents(open.max(close) + high[i].abs() * spread));
            sink.float(cents((open.min(close) - low[i].abs() * spread).max(0.5)));
            sink.float(close);
            sink.int((volume[i] * self.volume[i]).max(0.0) as i64 / 100 * 100);
            self.price[i] = close;
        }
        self.minute += 1;
        if self.minute == MINUTES {
            self.minute = 0;
            self.day += 1;
        }
        self.symbols.len() as u64
    }
}
