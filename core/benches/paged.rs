//! Encoding and decoding of full segments, one group per encoding; throughput in values.
//!
//! `cargo bench -p varve-core` runs all; `-- decode` only the decoding.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use varve_core::paged::{
    ColumnIndex, Effort, Options, Page, ValueHash, codec_name, decode_all, encode,
};
use varve_core::{Bitmap, Column, Values};

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

    fn below(&mut self, n: u64) -> i64 {
        (self.next() % n) as i64
    }

    /// Roughly bell-shaped around zero, with a deviation of 1.
    fn bell(&mut self) -> f64 {
        let sum: i64 = (0..12).map(|_| self.below(1 << 20)).sum();
        sum as f64 / (1 << 20) as f64 - 6.0
    }
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> Values {
    let mut offsets = vec![0];
    let mut data = Vec::new();
    for value in values {
        data.extend_from_slice(value.as_ref().as_bytes());
        offsets.push(data.len() as u32);
    }
    Values::Bytes { offsets, data }
}

fn prices() -> Vec<f64> {
    let mut noise = Noise(1);
    let mut price = 2_000.0;
    (0..ROWS)
        .map(|_| {
            price = (price + noise.bell() * 1.2_f64).max(1.0);
            (price * 100.0).round() / 100.0
        })
        .collect()
}

/// Columns by the encoding that they get.
fn columns() -> Vec<(&'static str, Effort, Values)> {
    let mut noise = Noise(7);
    let mut walk = 50.0;
    let mantissas = (0..ROWS)
        .map(|_| {
            walk = (walk + noise.bell() + noise.next() as f64 * 1e-21).clamp(0.0, 100.0);
            walk
        })
        .collect();
    let minutes = (0..ROWS as i64).map(|i| (i + i / 390 * 1_050) * 60_000_000);
    let words = ["filled", "open", "cancelled", "rejected", "expired"];
    vec![
        (
            "frame of integers",
            Effort::Fast,
            Values::I64((0..ROWS).map(|_| noise.below(5_000)).collect()),
        ),
        (
            "frame of booleans",
            Effort::Fast,
            Values::I8((0..ROWS).map(|_| noise.below(2) as i8).collect()),
        ),
        (
            "frame of decimals",
            Effort::Fast,
            Values::F64(
                (0..ROWS)
                    .map(|_| noise.below(10_000) as f64 / 100.0)
                    .collect(),
            ),
        ),
        (
            "delta of timestamps",
            Effort::Fast,
            Values::I64(minutes.collect()),
        ),
        ("delta of decimals", Effort::Fast, Values::F64(prices())),
        ("delta of mantissas", Effort::Fast, Values::F64(mantissas)),
        (
            "raw integers",
            Effort::Fast,
            Values::I64((0..ROWS).map(|_| noise.next() as i64).collect()),
        ),
        (
            "runs of keys",
            Effort::Fast,
            texts((0..ROWS).map(|i| format!("{:08x}", i as u64 / 20 * 0x9e37_79b9))),
        ),
        (
            "dictionary",
            Effort::Fast,
            texts((0..ROWS).map(|_| words[noise.below(5) as usize])),
        ),
        (
            "zstd of texts",
            Effort::Fast,
            texts((0..ROWS).map(|_| format!("order {} filled", noise.below(100_000)))),
        ),
        ("pco of decimals", Effort::Small, Values::F64(prices())),
    ]
}

fn benches(criterion: &mut Criterion) {
    let mut inputs: Vec<(String, Effort, Column)> = columns()
        .into_iter()
        .map(|(name, effort, values)| {
            let validity = None;
            (name.to_owned(), effort, Column { validity, values })
        })
        .collect();
    let mut noise = Noise(3);
    let mut validity = Bitmap::full(ROWS);
    (0..ROWS)
        .filter(|_| noise.below(10) == 0)
        .for_each(|i| validity.set(i, false));
    inputs.push((
        "decimals with NULLs".to_owned(),
        Effort::Fast,
        Column {
            validity: Some(validity),
            values: Values::F64(prices()),
        },
    ));
    for (name, effort, column) in inputs {
        let encoded = encode(&column, effort).unwrap();
        let index_len = encoded.index_len as usize;
        assert!(decode_all(&encoded.bytes, index_len).is_ok());
        println!(
            "{name}: {}, {:.3} bytes a row",
            codec_name(encoded.codec),
            encoded.bytes.len() as f64 / ROWS as f64
        );
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Elements(ROWS as u64));
        group.bench_function("decode", |bencher| {
            let index = ColumnIndex::parse(&encoded.bytes[..index_len]).unwrap();
            let mut page = Page::new();
            bencher.iter(|| {
                for i in 0..index.pages() {
                    let bytes = &encoded.bytes[index.page_range(i).unwrap()];
                    index.decode(i, black_box(bytes), &mut page).unwrap();
                    black_box(page.values());
                }
            });
        });
        group.bench_function("encode", |bencher| {
            bencher.iter_batched(
                || (),
                |()| encode(black_box(&column), effort).unwrap(),
                BatchSize::LargeInput,
            );
        });
        group.finish();
        criterion.bench_function(&format!("{name}/parse index"), |bencher| {
            bencher.iter(|| ColumnIndex::parse(black_box(&encoded.bytes[..index_len])).unwrap());
        });
    }
}

/// Making the filters of a column, and asking them for one value.
fn filters(criterion: &mut Criterion) {
    let mut noise = Noise(5);
    let ints = (0..ROWS).map(|_| noise.next() as i64).collect();
    let words = (0..ROWS).map(|i| format!("order {}", i as u64 * 0x9e37_79b9));
    for (name, values) in [("integers", Values::I64(ints)), ("texts", texts(words))] {
        let column = Column {
            validity: None,
            values,
        };
        let options = |filters| Options {
            effort: Effort::Fast,
            filters,
        };
        let mut group = criterion.benchmark_group(format!("filters of {name}"));
        for (what, with) in [("encode without", false), ("encode with", true)] {
            group.throughput(Throughput::Elements(ROWS as u64));
            group.bench_function(what, |bencher| {
                bencher.iter(|| encode(black_box(&column), options(with)).unwrap());
            });
        }
        let encoded = encode(&column, options(true)).unwrap();
        let index = ColumnIndex::parse(&encoded.bytes[..encoded.index_len as usize]).unwrap();
        group.throughput(Throughput::Elements(1));
        group.bench_function("look up", |bencher| {
            bencher.iter(|| {
                let hash = ValueHash::of_int(black_box(7));
                let range = index.filter_range(hash).unwrap();
                index.filter_mask(hash, &encoded.bytes[range]).unwrap()
            });
        });
        group.finish();
    }
}

criterion_group!(paged, benches, filters);
criterion_main!(paged);
