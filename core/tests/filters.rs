//! Filters of pages: no value that a page holds is denied, few that it does not hold are not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::pages::*;
use common::*;
use proptest::prelude::*;
use varve_core::paged::*;
use varve_core::{Column, Values};

fn filtered(column: &Column, effort: Effort) -> (EncodedColumn, ColumnIndex) {
    let options = Options {
        effort,
        filters: true,
    };
    let encoded = encode(column, options).unwrap();
    let index = ColumnIndex::parse(&encoded.bytes[..encoded.index_len as usize]).unwrap();
    (encoded, index)
}

fn mask(encoded: &EncodedColumn, index: &ColumnIndex, hash: ValueHash) -> u64 {
    let range = index.filter_range(hash).unwrap();
    index.filter_mask(hash, &encoded.bytes[range]).unwrap()
}

/// Whether the column has filters, which deny none of its values.
fn check(column: &Column, effort: Effort) -> bool {
    let (encoded, index) = filtered(column, effort);
    let plain = encode(column, effort).unwrap();
    if !index.has_filters() {
        assert_eq!(encoded, plain);
        return false;
    }
    assert_ne!(encoded.bytes, plain.bytes);
    let decoded = decode_all(&encoded.bytes, encoded.index_len as usize).unwrap();
    assert_eq!(rows_of(&decoded), rows_of(column));
    for row in 0..column.rows() {
        if let Some(hash) = hash_of(column, row) {
            let page = row / PAGE_ROWS;
            assert_eq!(mask(&encoded, &index, hash) >> page & 1, 1, "row {row}");
        }
    }
    true
}

#[test]
fn every_texture_is_found() {
    let mut with = 0;
    for rows in [0, 1, 300, 2_500] {
        for (name, values) in textures(rows).into_iter().chain(more_textures(rows)) {
            println!("{name}, {rows} rows");
            for validity in [None, validity(rows, |i| i % 5 == 1 || i / 1_024 == 1)] {
                for effort in EFFORTS {
                    let values = values.clone();
                    let validity = validity.clone();
                    with += usize::from(check(&Column { validity, values }, effort));
                }
            }
        }
    }
    assert!(with > 50, "{with}");
}

#[test]
fn few_values_of_other_pages_are_not_denied() {
    // Every value is on one page only.
    let noise = noise(65_536);
    let ints = Values::I64(noise.iter().map(|n| n.cast_signed()).collect());
    let texts = bytes_of(noise.iter().map(|n| format!("{n:x}")));
    for values in [ints, texts] {
        let column = column(values);
        let (encoded, index) = filtered(&column, Effort::Fast);
        let plain = encode(&column, Effort::Fast).unwrap();
        let bytes = (encoded.bytes.len() - plain.bytes.len()) as f64 / 65_536.0;
        let mut found = 0;
        for row in (0..65_536).step_by(17) {
            let mask = mask(&encoded, &index, hash_of(&column, row).unwrap());
            assert_eq!(mask >> (row / PAGE_ROWS) & 1, 1);
            found += mask.count_ones() - 1;
        }
        let asked = 65_536usize.div_ceil(17) * 63;
        let rate = f64::from(found) / asked as f64;
        println!(
            "{:.2} % of wrong answers, {bytes:.3} bytes a row",
            100.0 * rate
        );
        assert!(rate < 0.04 && bytes < 1.01, "{rate}, {bytes}");
    }
}

#[test]
fn filters_are_as_long_as_the_page_with_most_values_needs() {
    let blocks = |distinct: [i64; 3]| {
        let values = (0..3 * 1_024).map(|i| i % distinct[i as usize / 1_024]);
        let column = column(Values::I64(values.collect()));
        let (encoded, index) = filtered(&column, Effort::Fast);
        let end = index.page_range(2).unwrap().end;
        (encoded.bytes.len() - end) / (3 * 32 + 4)
    };
    assert_eq!(blocks([1, 1, 1]), 0);
    assert_eq!(blocks([2, 1, 2]), 1);
    assert_eq!(blocks([1, 32, 5]), 1);
    assert_eq!(blocks([33, 32, 5]), 2);
    assert_eq!(blocks([33, 32, 1_024]), 32);
}

/// Where zones tell pages apart, or a value is all of a page, there are no filters.
#[test]
fn filters_are_made_where_they_help() {
    let has = |values| filtered(&column(values), Effort::Fast).1.has_filters();
    let ints = |f: fn(i64) -> i64| has(Values::I64((0..5_000).map(f).collect()));
    assert!(ints(|i| i * 7_919 % 10_007));
    assert!(!ints(|i| i));
    assert!(!ints(|i| -i / 3));
    assert!(!ints(|i| i / 1_024 % 2));
    assert!(ints(|i| if i == 4_999 { 1_030 } else { i }));
    let floats = |f: fn(i64) -> f64| has(Values::F64((0..5_000).map(f).collect()));
    assert!(!floats(|i| i as f64));
    assert!(floats(|i| (i % 999) as f64));
    let texts = |f: fn(i64) -> String| has(bytes_of((0..5_000).map(f)));
    assert!(!texts(|i| format!("{i:08}")));
    assert!(texts(|i| format!("{:08}", i * 7_919 % 10_007)));
    // Of these the bounds have only what all begin with.
    assert!(texts(|i| format!("{:040}{i:08}", 0)));
    assert!(!texts(|_| "one".into()));
    // One page is told from nothing.
    assert!(has(Values::I64((0..900).collect())));
    assert!(!has(Values::I64(Vec::new())));
}

#[test]
fn floats_that_are_equal_have_one_hash() {
    assert_eq!(ValueHash::of_float(-0.0), ValueHash::of_float(0.0));
    let nans = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001)];
    for nan in nans {
        assert_eq!(ValueHash::of_float(nan), ValueHash::of_float(f64::NAN));
    }
    assert_ne!(ValueHash::of_float(f64::NAN), ValueHash::of_float(0.0));
    for values in [Values::F64(odd_doubles()), Values::F32(odd_singles())] {
        for effort in EFFORTS {
            assert!(check(&column(values.clone()), effort));
        }
    }
}

/// The hash is part of the format.
#[test]
fn bits_are_where_the_format_puts_them() {
    let values: Vec<i64> = (0..40).collect();
    let (encoded, index) = filtered(&column(Values::I64(values.clone())), Effort::Fast);
    let salts: [u32; 8] = [
        0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947,
        0x5c6bfb31,
    ];
    let mut expected = [[0u32; 8]; 2];
    for value in values {
        let hash = xxhash_rust::xxh3::xxh3_64(&value.to_le_bytes());
        let block = ((hash >> 32) * 2) >> 32;
        for (word, salt) in expected[block as usize].iter_mut().zip(salts) {
            *word |= 1 << ((hash as u32).wrapping_mul(salt) >> 27);
        }
    }
    let stored = &encoded.bytes[index.page_range(0).unwrap().end..];
    let mut all = Vec::new();
    for block in expected {
        let bytes: Vec<u8> = block.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes) as u32;
        all.extend(bytes);
        all.extend(sum.to_le_bytes());
    }
    assert_eq!(stored, all);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_value_of_any_column_is_denied(column in any_column(3_000), small in any::<bool>()) {
        check(&column, EFFORTS[usize::from(small)]);
    }

    #[test]
    fn filters_are_deterministic(column in any_column(300)) {
        prop_assert_eq!(filtered(&column, Effort::Fast).0.bytes, filtered(&column, Effort::Fast).0.bytes);
    }
}
