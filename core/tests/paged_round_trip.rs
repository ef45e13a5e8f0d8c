//! What goes into pages comes out, bit for bit.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use proptest::prelude::*;
use varve_core::paged::*;
use varve_core::{Column, Values};

const EFFORTS: [Effort; 2] = [Effort::Fast, Effort::Small];

/// Encodes and decodes; verifies what the index says against the rows; returns the encoded column.
fn round_trip(column: &Column, effort: Effort) -> EncodedColumn {
    let encoded = encode(column, effort).unwrap();
    let index_len = encoded.index_len as usize;
    let decoded = decode_all(&encoded.bytes, index_len).unwrap();
    assert_eq!(decoded.kind(), column.kind());
    let (found, expected) = (rows_of(&decoded), rows_of(column));
    assert_eq!(found.len(), expected.len());
    let differs = (0..found.len()).find(|i| found[*i] != expected[*i]);
    if let Some(i) = differs {
        panic!(
            "{effort:?}, codec {}, row {i}: {:?} instead of {:?}",
            codec_name(encoded.codec),
            found[i],
            expected[i]
        );
    }
    assert_blank_nulls(&decoded);
    assert_eq!(decoded.validity.is_some(), column.null_count() > 0);
    let index = ColumnIndex::parse(&encoded.bytes[..index_len]).unwrap();
    assert_eq!(index.kind(), column.kind());
    assert_eq!(index.rows(), column.rows());
    assert_eq!(index.pages(), column.rows().div_ceil(PAGE_ROWS));
    assert_eq!(index.codec(), encoded.codec);
    assert_ne!(codec_name(index.codec()), "unknown");
    assert_eq!(encoded.nulls as usize, column.null_count());
    assert!(same_zone(index.summary(), &encoded.summary));
    assert_eq!(
        Zone::from_bytes(&encoded.summary.to_bytes())
            .unwrap()
            .to_bytes(),
        encoded.summary.to_bytes()
    );
    check_zones(&index, &encoded.bytes, column);
    encoded
}

fn same_zone(a: &Zone, b: &Zone) -> bool {
    a.to_bytes() == b.to_bytes()
}

/// Each page's zone, against the rows of the page.
fn check_zones(index: &ColumnIndex, bytes: &[u8], column: &Column) {
    let mut page = Page::new();
    for i in 0..index.pages() {
        let zone = index.zone(i).unwrap();
        let rows = i * PAGE_ROWS..column.rows().min((i + 1) * PAGE_ROWS);
        assert_eq!(zone.rows as usize, rows.len());
        let nulls = rows.clone().filter(|row| column.is_null(*row)).count();
        assert_eq!(zone.nulls as usize, nulls);
        let present = || rows.clone().filter(|row| !column.is_null(*row));
        index
            .decode(i, &bytes[index.page_range(i).unwrap()], &mut page)
            .unwrap();
        assert_eq!(page.rows(), rows.len());
        assert_eq!(page.null_count(), nulls);
        assert_eq!(page.validity().is_some(), nulls > 0);
        for (j, row) in rows.clone().enumerate() {
            assert_eq!(page.is_null(j), column.is_null(row));
            if let Some(validity) = page.validity() {
                assert_eq!(validity[j / 64] >> (j % 64) & 1 == 0, column.is_null(row));
            }
        }
        if nulls == rows.len() {
            assert_eq!((zone.bounds, zone.sum), (Bounds::None, Sum::None));
            continue;
        }
        let ints: Option<Vec<i64>> = match &column.values {
            Values::I8(v) => Some(present().map(|row| v[row].into()).collect()),
            Values::I16(v) => Some(present().map(|row| v[row].into()).collect()),
            Values::I32(v) => Some(present().map(|row| v[row].into()).collect()),
            Values::I64(v) => Some(present().map(|row| v[row]).collect()),
            _ => None,
        };
        let floats: Option<Vec<f64>> = match &column.values {
            Values::F32(v) => Some(present().map(|row| v[row].into()).collect()),
            Values::F64(v) => Some(present().map(|row| v[row]).collect()),
            _ => None,
        };
        if let Some(ints) = ints {
            let (min, max) = (*ints.iter().min().unwrap(), *ints.iter().max().unwrap());
            assert_eq!(zone.bounds, Bounds::Int { min, max });
            assert_eq!(
                zone.sum,
                Sum::Int(ints.iter().map(|v| i128::from(*v)).sum())
            );
        } else if let Some(floats) = floats {
            check_floats(&zone, &floats);
        } else {
            let mut texts: Vec<&[u8]> =
                present().map(|row| column.bytes_at(row).unwrap()).collect();
            texts.sort_unstable();
            check_bytes(&zone, texts[0], texts[texts.len() - 1]);
            if let (PageValues::Codes(codes), Some(dictionary)) =
                (page.values(), index.dictionary())
            {
                for (j, row) in rows.clone().enumerate() {
                    match column.bytes_at(row) {
                        None => assert_eq!(codes[j], 0),
                        Some(value) => {
                            assert_eq!(dictionary.get(codes[j]), value);
                            assert_eq!(dictionary.find(value), Some(codes[j]));
                        }
                    }
                }
            }
        }
    }
}

fn check_floats(zone: &Zone, floats: &[f64]) {
    let Bounds::Float { min, max } = zone.bounds else {
        panic!("{:?}", zone.bounds);
    };
    let numbers = || floats.iter().copied().filter(|v| !v.is_nan());
    let least = numbers().reduce(f64::min).unwrap_or(f64::NAN) + 0.0;
    assert_eq!(
        min.to_bits(),
        if least.is_nan() { f64::NAN } else { least }.to_bits()
    );
    if numbers().count() < floats.len() {
        assert!(max.is_nan());
    } else {
        assert_eq!(max, floats.iter().copied().reduce(f64::max).unwrap());
    }
    let Sum::Float(sum) = zone.sum else {
        panic!("{:?}", zone.sum);
    };
    let expected: f64 = floats.iter().sum();
    let scale: f64 = floats.iter().map(|v| v.abs()).sum();
    if scale.is_finite() {
        assert!((sum - expected).abs() <= scale * 1e-12, "{sum} {expected}");
    } else if scale.is_nan() || numbers().any(f64::is_infinite) {
        assert!(!sum.is_finite());
    }
}

fn check_bytes(zone: &Zone, least: &[u8], most: &[u8]) {
    let Bounds::Bytes {
        min,
        max,
        min_exact,
        max_exact,
    } = &zone.bounds
    else {
        panic!("{:?}", zone.bounds);
    };
    assert_eq!(**min, least[..least.len().min(BOUND_BYTES)]);
    assert_eq!(**max, most[..most.len().min(BOUND_BYTES)]);
    assert_eq!(*min_exact, least.len() <= BOUND_BYTES);
    assert_eq!(*max_exact, most.len() <= BOUND_BYTES);
}

#[test]
fn every_texture_at_every_size() {
    for rows in [0, 1, 2, 3, 100, 1_000, 1_023, 1_024, 1_025, 5_000] {
        for (name, values) in textures(rows) {
            for effort in EFFORTS {
                println!("{name}, {rows} rows, {effort:?}");
                round_trip(&column(values.clone()), effort);
            }
        }
    }
}

#[test]
fn full_segments() {
    for (name, values) in textures(65_536) {
        for effort in EFFORTS {
            let encoded = round_trip(&column(values.clone()), effort);
            println!(
                "{name:22} {effort:?} {:10} {:8.4} bytes a row, index {}",
                codec_name(encoded.codec),
                encoded.bytes.len() as f64 / 65_536.0,
                encoded.index_len,
            );
        }
    }
}

#[test]
fn every_texture_with_nulls() {
    for rows in [1, 2, 1_000, 1_024, 3_000] {
        for (name, values) in textures(rows) {
            println!("{name}, {rows} rows");
            for validity in [
                validity(rows, |_| true),
                validity(rows, |i| i % 3 == 0),
                validity(rows, |i| i == rows - 1),
                validity(rows, |i| i > 0),
                validity(rows, |i| i < 1_024),
                validity(rows, |_| false),
            ] {
                for effort in EFFORTS {
                    let values = values.clone();
                    let validity = validity.clone();
                    round_trip(&Column { validity, values }, effort);
                }
            }
        }
    }
}

#[test]
fn odd_floats() {
    for effort in EFFORTS {
        round_trip(&column(Values::F64(odd_doubles())), effort);
        round_trip(&column(Values::F32(odd_singles())), effort);
        for value in odd_doubles() {
            round_trip(&column(Values::F64(vec![value; 1_500])), effort);
        }
        for value in odd_singles() {
            round_trip(&column(Values::F32(vec![value; 1_500])), effort);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_small_column(column in any_column(60), small in any::<bool>()) {
        round_trip(&column, EFFORTS[usize::from(small)]);
    }

    #[test]
    fn encoding_is_deterministic(column in any_column(30), small in any::<bool>()) {
        let effort = EFFORTS[usize::from(small)];
        prop_assert_eq!(encode(&column, effort).unwrap().bytes, encode(&column, effort).unwrap().bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_larger_column(column in any_column(3_000), small in any::<bool>()) {
        round_trip(&column, EFFORTS[usize::from(small)]);
    }
}
