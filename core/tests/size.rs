//! Upper bounds of what typical columns take in pages, in bytes per row.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::pages::*;
use common::*;
use varve_core::Values;
use varve_core::paged::{self, Effort};

const ROWS: usize = 65_536;

/// A deterministic source of noise (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Between 0 and 1, with a full mantissa.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal, with a deviation of 1.
    fn bell(&mut self) -> f64 {
        (-2.0 * self.unit().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn cents(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Bytes a row, which must not exceed the bound.
fn measure(name: &str, effort: Effort, values: Values, bound: f64) -> f64 {
    let rows = column(values.clone()).rows();
    let encoded = paged_round_trip(&column(values), effort);
    let each = encoded.bytes.len() as f64 / rows as f64;
    let codec = paged::codec_name(encoded.codec);
    println!("{name:24} {effort:?} {codec:10} {each:7.4} bytes a row (at most {bound})");
    assert!(each <= bound, "{name} {effort:?}: {each} bytes a row");
    each
}

/// Minute bars of a few symbols, as `gen.py bars` makes them.
#[test]
fn minute_bars() {
    const DAY: usize = 390;
    let mut noise = Noise(1);
    let mut columns: [Vec<f64>; 4] = Default::default();
    let mut symbols = Vec::new();
    let mut times = Vec::new();
    let mut volumes = Vec::new();
    for symbol in 0..ROWS.div_ceil(60 * DAY) {
        let mut price = cents(500.0 + 8_500.0 * noise.unit());
        let scale = (7.0 + 1.5 * noise.bell()).exp();
        for minute in 0..60 * DAY {
            let sigma = price * 0.0006;
            let close = cents((price + noise.bell() * sigma).max(1.0));
            let high = cents(price.max(close) + noise.bell().abs() * 0.4 * sigma);
            let low = cents(price.min(close) - noise.bell().abs() * 0.4 * sigma);
            for (column, value) in columns.iter_mut().zip([price, high, low, close]) {
                column.push(value);
            }
            let day = minute / DAY;
            let at = (day + day / 5 * 2) * 1_440 + minute % DAY;
            times.push(at as i64 * 60_000_000 + 789_436_800_000_000);
            volumes.push((noise.bell().exp() * scale) as i64 / 100 * 100);
            symbols.push(format!("S{symbol:04}"));
            price = close;
        }
    }
    for (effort, bound) in [(Effort::Fast, 8.0), (Effort::Small, 6.25)] {
        let head = |values: &[i64]| Values::I64(values[..ROWS].to_vec());
        let mut total = measure("bars: symbol", effort, bytes_of(&symbols[..ROWS]), 0.01);
        total += measure("bars: time", effort, head(&times), 0.05);
        total += measure("bars: volume", effort, head(&volumes), 1.4);
        for (name, values) in ["open", "high", "low", "close"].iter().zip(&columns) {
            let values = Values::F64(values[..ROWS].to_vec());
            total += measure(&format!("bars: {name}"), effort, values, 1.5);
        }
        println!("bars: {total} bytes a row");
        assert!(total <= bound);
    }
}

/// A random walk of doubles, as `gen.py cpu` makes it.
#[test]
fn random_mantissas() {
    let mut noise = Noise(2);
    let mut value = 50.0;
    let walk: Vec<f64> = (0..ROWS)
        .map(|_| {
            value = f64::clamp(value + noise.bell(), 0.0, 100.0);
            value
        })
        .collect();
    measure("cpu", Effort::Fast, Values::F64(walk.clone()), 6.8);
    measure("cpu", Effort::Small, Values::F64(walk), 6.25);
}

/// Many keys of twenty rows each.
#[test]
fn short_keys() {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut noise = Noise(3);
    let mut keys: Vec<String> = (0..ROWS.div_ceil(20))
        .map(|_| {
            (0..10 + noise.below(3))
                .map(|_| char::from(LETTERS[noise.below(62) as usize]))
                .collect()
        })
        .collect();
    keys.sort();
    let mut times = Vec::new();
    for _ in &keys {
        let mut of_key: Vec<i64> = (0..20)
            .map(|_| 789_436_800_000_000 + noise.below(7 * 86_400_000_000) as i64)
            .collect();
        of_key.sort_unstable();
        times.extend(of_key);
    }
    for (effort, bound) in [(Effort::Fast, 15.0), (Effort::Small, 14.25)] {
        let of_keys = (0..ROWS).map(|i| &keys[i / 20]);
        let mut total = measure("keys: key", effort, bytes_of(of_keys), 0.6);
        let times = Values::I64(times[..ROWS].to_vec());
        total += measure("keys: time", effort, times, 5.1);
        for range in [10_000, 1_000_000, 100_000, 5_000_000] {
            let values = (0..ROWS).map(|_| noise.below(range) as f64 / 100.0);
            total += measure("keys: value", effort, Values::F64(values.collect()), 3.0);
        }
        println!("keys: {total} bytes a row");
        assert!(total <= bound);
    }
}

#[test]
fn typical_columns() {
    let mut noise = Noise(4);
    let mut each = |n: u64| (0..ROWS).map(|_| noise.below(n)).collect::<Vec<_>>();
    let fast = Effort::Fast;
    let bits: Vec<_> = each(2).iter().map(|n| *n as i8).collect();
    measure("booleans", fast, Values::I8(bits), 0.14);
    measure("the same", fast, Values::I64(vec![-7; ROWS]), 0.005);
    let seconds = (0..ROWS as i64).map(|i| i * 10_000_000);
    measure("seconds", fast, Values::I64(seconds.collect()), 0.02);
    let days = (0..ROWS as i32).map(|i| i / 700);
    measure("days", fast, Values::I32(days.collect()), 0.02);
    let percent = each(10_001).iter().map(|n| *n as f32 / 100.0).collect();
    measure("percent", fast, Values::F32(percent), 1.8);
    let singles = each(1 << 24).into_iter().map(|n| f64::from(n as f32 / 7.0));
    measure(
        "singles as doubles",
        fast,
        Values::F64(singles.collect()),
        4.1,
    );
    let words = ["filled", "open", "cancelled", "rejected", "expired"];
    let choices = each(5).into_iter().map(|n| words[n as usize]);
    measure("choices", fast, bytes_of(choices), 0.4);
    let uuids = each(u64::MAX)
        .into_iter()
        .flat_map(|n| [n.to_le_bytes(), n.to_be_bytes()].concat())
        .collect();
    measure(
        "uuids",
        fast,
        Values::Fixed {
            len: 16,
            data: uuids,
        },
        16.3,
    );
    let texts = each(100_000)
        .into_iter()
        .map(|n| format!("order {n} filled"))
        .collect::<Vec<_>>();
    measure("texts", fast, bytes_of(&texts), 4.0);
    measure("texts", Effort::Small, bytes_of(&texts), 3.1);
}

/// What is encoded to be small is no larger than what is encoded to be read fast, whatever the rows.
#[test]
fn small_is_not_larger() {
    let (mut fast, mut small) = (0, 0);
    for rows in [20, 1_000, 10_000] {
        for (name, values) in textures(rows).into_iter().chain(more_textures(rows)) {
            let [of_fast, of_small] = EFFORTS.map(|effort| {
                paged_round_trip(&column(values.clone()), effort)
                    .bytes
                    .len()
            });
            println!("{rows} {name}: {of_fast} bytes, small {of_small}");
            // A dictionary is kept where it costs little more than what it saves in reading.
            assert!(of_small <= of_fast + of_fast / 8, "{rows} {name}");
            fast += of_fast;
            small += of_small;
        }
    }
    println!("all: {fast} bytes, small {small}");
    assert!(small < fast / 100 * 97);
}

/// A column of a few rows is hardly longer than its rows.
#[test]
fn short_columns() {
    for (name, values) in textures(20).into_iter().chain(more_textures(20)) {
        let raw: usize = rows_of(&column(values.clone()))
            .iter()
            .map(|row| row.as_ref().unwrap().len())
            .sum();
        for effort in EFFORTS {
            let encoded = paged_round_trip(&column(values.clone()), effort);
            let bound = raw + 80;
            println!("{name}: {} bytes of {raw}", encoded.bytes.len());
            assert!(encoded.bytes.len() <= bound, "{name}");
        }
    }
}
