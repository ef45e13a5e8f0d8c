//! What goes into pages comes out, bit for bit, and their zones are right.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::pages::*;
use common::*;
use proptest::prelude::*;
use varve_core::paged::{self, *};
use varve_core::{Bitmap, Column, CoreError, Values};

#[test]
fn every_texture_at_every_size() {
    for rows in [0, 1, 2, 3, 100, 1_000, 1_023, 1_024, 1_025, 5_000] {
        for (name, values) in textures(rows).into_iter().chain(more_textures(rows)) {
            for effort in EFFORTS {
                println!("{name}, {rows} rows, {effort:?}");
                paged_round_trip(&column(values.clone()), effort);
            }
        }
    }
}

#[test]
fn full_segments() {
    for (name, values) in textures(65_536).into_iter().chain(more_textures(65_536)) {
        for effort in EFFORTS {
            let encoded = paged_round_trip(&column(values.clone()), effort);
            println!(
                "{name:22} {effort:?} {:10} {:8.4} bytes a row, index {}",
                paged::codec_name(encoded.codec),
                encoded.bytes.len() as f64 / 65_536.0,
                encoded.index_len,
            );
        }
    }
}

#[test]
fn every_texture_with_nulls() {
    for rows in [1, 2, 1_000, 1_024, 3_000] {
        for (name, values) in textures(rows).into_iter().chain(more_textures(rows)) {
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
                    paged_round_trip(&Column { validity, values }, effort);
                }
            }
        }
    }
}

#[test]
fn odd_floats() {
    for effort in EFFORTS {
        paged_round_trip(&column(Values::F64(odd_doubles())), effort);
        paged_round_trip(&column(Values::F32(odd_singles())), effort);
        for value in odd_doubles() {
            paged_round_trip(&column(Values::F64(vec![value; 1_500])), effort);
        }
        for value in odd_singles() {
            paged_round_trip(&column(Values::F32(vec![value; 1_500])), effort);
        }
    }
}

#[test]
fn full_validity_decodes_as_none() {
    let full = Column {
        validity: Some(Bitmap::full(3)),
        values: Values::I32(vec![1, 2, 3]),
    };
    let encoded = encode(&full, Effort::Fast).unwrap();
    let decoded = decode_all(&encoded.bytes, encoded.index_len as usize).unwrap();
    assert_eq!(decoded.validity, None);
}

#[test]
fn columns_that_do_not_fit_together_are_refused() {
    let unfit = [
        column(Values::I8(vec![0; 65_537])),
        column(Values::Fixed {
            len: 0,
            data: vec![],
        }),
        column(Values::Fixed {
            len: 3,
            data: vec![0; 4],
        }),
        column(Values::Fixed {
            len: 32_768,
            data: vec![0; 32_768],
        }),
        column(Values::Bytes {
            offsets: vec![],
            data: vec![],
        }),
        column(Values::Bytes {
            offsets: vec![0, 2, 1],
            data: vec![1; 2],
        }),
        column(Values::Bytes {
            offsets: vec![0, 3],
            data: vec![1; 2],
        }),
        Column {
            validity: Some(Bitmap::full(2)),
            values: Values::I8(vec![0; 3]),
        },
    ];
    for column in unfit {
        assert!(
            matches!(
                encode(&column, Effort::Fast),
                Err(CoreError::Invalid { .. })
            ),
            "{column:?}"
        );
    }
}

/// A page that is used again holds nothing of the one before.
#[test]
fn pages_are_reused() {
    let mut page = Page::new();
    for rows in [1_500, 3, 1_024, 0, 700] {
        for (name, values) in textures(rows).into_iter().chain(more_textures(rows)) {
            let column = Column {
                validity: validity(rows, |i| i % 7 == 2),
                values,
            };
            for effort in EFFORTS {
                let encoded = encode(&column, effort).unwrap();
                let index =
                    ColumnIndex::parse(&encoded.bytes[..encoded.index_len as usize]).unwrap();
                for i in 0..index.pages() {
                    let bytes = &encoded.bytes[index.page_range(i).unwrap()];
                    index.decode(i, bytes, &mut page).unwrap();
                    let mut fresh = Page::new();
                    index.decode(i, bytes, &mut fresh).unwrap();
                    assert_eq!(
                        format!("{:?}", page.values()),
                        format!("{:?}", fresh.values()),
                        "{name}"
                    );
                    assert_eq!(page.validity(), fresh.validity());
                }
            }
        }
    }
    assert!(page.rows() > 0);
    assert_eq!(Page::new().rows(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_small_column(column in any_column(60), small in any::<bool>()) {
        paged_round_trip(&column, EFFORTS[usize::from(small)]);
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
        paged_round_trip(&column, EFFORTS[usize::from(small)]);
    }
}

/// Bits behind the last number are padding, whatever a damaged page has there.
#[test]
fn rows_beyond_a_page_are_not_picked() {
    let encoded = encode(&column(Values::I8(vec![1, 3, 2])), Effort::Fast).unwrap();
    let index_len = encoded.index_len as usize;
    let index = ColumnIndex::parse(&encoded.bytes[..index_len]).unwrap();
    let stored = &encoded.bytes[index.page_range(0).unwrap()];
    let mut page = Page::new();
    index
        .decode_rows(0, stored, &[1, 3, 900, u16::MAX], &mut page)
        .unwrap();
    assert_eq!(page.rows(), 3);
    assert!(matches!(page.values(), PageValues::Ints(values) if values[1] == 3));
}
