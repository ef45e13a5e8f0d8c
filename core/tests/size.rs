//! Upper bounds of what typical columns take, in bytes per row.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use varve_core::*;

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

    /// Roughly bell-shaped around zero.
    fn bell(&mut self, width: i64) -> i64 {
        (0..4)
            .map(|_| self.below(width as u64) as i64 - width / 2)
            .sum::<i64>()
            / 2
    }
}

/// A walk of prices in cents, 500 rows a symbol.
fn cents() -> Vec<i64> {
    let mut noise = Noise(1);
    let mut price = 0;
    (0..ROWS)
        .map(|i| {
            if i % 500 == 0 {
                price = 2_000 + noise.below(30_000) as i64;
            }
            price = (price + noise.bell(60)).max(1);
            price
        })
        .collect()
}

fn bytes_a_row(name: &str, values: Values) -> f64 {
    let bytes = round_trip(&column(values));
    let info = describe(&bytes).unwrap();
    let each = bytes.len() as f64 / ROWS as f64;
    println!("{name:24} {:10} {each:7.4} bytes a row", info.codec);
    each
}

#[test]
fn typical_columns_are_small() {
    let mut noise = Noise(2);
    let prices = || cents().into_iter().map(|c| c as f64 / 100.0);
    let minute = |i: usize| 1_700_000_000_000_000 + i as i64 * 60_000_000;
    let mut tick = 1_700_000_000_000_000;
    let ticks: Vec<i64> = (0..ROWS)
        .map(|_| {
            tick += noise.below(2_000_000) as i64;
            tick
        })
        .collect();
    let cases = [
        ("prices f64", 0.9, Values::F64(prices().collect())),
        (
            "prices f32",
            0.9,
            Values::F32(prices().map(|p| p as f32).collect()),
        ),
        (
            "prices f64, some NaN",
            0.95,
            Values::F64(
                prices()
                    .enumerate()
                    .map(|(i, p)| if i % 200 == 0 { f64::NAN } else { p })
                    .collect(),
            ),
        ),
        (
            "prices f64, some finer",
            0.85,
            Values::F64(
                cents()
                    .into_iter()
                    .enumerate()
                    .map(|(i, c)| (c * 100 + if i % 40 == 0 { 25 } else { 0 }) as f64 / 10_000.0)
                    .collect(),
            ),
        ),
        ("prices in cents", 0.9, Values::I64(cents())),
        (
            "price held for 20 rows",
            0.07,
            Values::F64(
                prices()
                    .step_by(20)
                    .flat_map(|p| [p; 20])
                    .chain(prices())
                    .take(ROWS / 20 * 20)
                    .collect(),
            ),
        ),
        (
            "every minute",
            0.002,
            Values::I64((0..ROWS).map(minute).collect()),
        ),
        (
            "every minute, 500 a key",
            0.006,
            Values::I64((0..ROWS).map(|i| minute(i % 500)).collect()),
        ),
        (
            "minutes with gaps",
            0.006,
            Values::I64((0..ROWS).map(|i| minute(i + i / 390 * 1_050)).collect()),
        ),
        ("ticks in microseconds", 2.7, Values::I64(ticks)),
        (
            "dates, 250 a key",
            0.008,
            Values::I32((0..ROWS).map(|i| 17_000 + (i % 250) as i32).collect()),
        ),
        (
            "volumes",
            2.55,
            Values::I64((0..ROWS).map(|_| noise.below(1 << 20) as i64).collect()),
        ),
        (
            "booleans",
            0.135,
            Values::I8((0..ROWS).map(|_| i8::from(noise.below(2) == 0)).collect()),
        ),
        (
            "symbols, sorted",
            0.006,
            bytes_of((0..ROWS).map(|i| format!("SYM{}", i / 500))),
        ),
        (
            "symbols, mixed",
            0.9,
            bytes_of((0..ROWS).map(|_| format!("SYM{}", noise.below(128)))),
        ),
        ("same text", 0.001, bytes_of((0..ROWS).map(|_| "USD"))),
        (
            "uuid-like",
            16.001,
            Values::Fixed {
                len: 16,
                data: (0..ROWS * 2)
                    .flat_map(|_| noise.next().to_le_bytes())
                    .collect(),
            },
        ),
        (
            "noise i64",
            8.001,
            Values::I64((0..ROWS).map(|_| noise.next() as i64).collect()),
        ),
        (
            "noise bytes",
            8.001,
            bytes_of((0..ROWS).map(|_| noise.next().to_le_bytes())),
        ),
    ];
    let mut over = Vec::new();
    for (name, bound, values) in cases {
        let each = bytes_a_row(name, values);
        if each > bound {
            over.push(format!("{name}: {each:.4} > {bound}"));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

#[test]
fn nulls_cost_next_to_nothing() {
    let values = Values::F64(cents().into_iter().map(|c| c as f64 / 100.0).collect());
    let whole = round_trip(&column(values.clone())).len();
    let late = Column {
        validity: validity(ROWS, |i| i < ROWS / 2),
        values: values.clone(),
    };
    assert!(round_trip(&late).len() < whole * 6 / 10);
    let none = Column {
        validity: validity(ROWS, |_| true),
        values,
    };
    assert!(round_trip(&none).len() < 40);
}

#[test]
fn one_row_is_small() {
    for (name, values) in textures(1) {
        let len = round_trip(&column(values)).len();
        assert!(len <= 32 + 30, "{name}: {len}");
    }
}
