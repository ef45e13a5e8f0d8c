//! What goes in comes out, bit for bit.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use proptest::prelude::*;
use varve_core::*;

#[test]
fn every_texture_at_every_size() {
    for rows in [0, 1, 2, 3, 100, 1_000, 65_536] {
        for (name, values) in textures(rows) {
            println!("{name}, {rows} rows");
            round_trip(&column(values));
        }
    }
}

#[test]
fn every_texture_with_nulls() {
    for rows in [1, 2, 1_000, 65_536] {
        for (name, values) in textures(rows) {
            println!("{name}, {rows} rows");
            for validity in [
                validity(rows, |_| true),
                validity(rows, |i| i % 3 == 0),
                validity(rows, |i| i == rows - 1),
                validity(rows, |i| i > 0),
            ] {
                round_trip(&Column {
                    validity,
                    values: values.clone(),
                });
            }
        }
    }
}

#[test]
fn full_validity_decodes_as_none() {
    let full = Column {
        validity: Some(Bitmap::full(3)),
        values: Values::I32(vec![1, 2, 3]),
    };
    let decoded = decode_column(&encode_column(&full).unwrap()).unwrap();
    assert_eq!(decoded.validity, None);
}

#[test]
fn odd_floats_bit_for_bit() {
    for repeat in [1, 2, 40, 2_500] {
        round_trip(&column(Values::F64(odd_doubles().repeat(repeat))));
        round_trip(&column(Values::F32(odd_singles().repeat(repeat))));
    }
    for odd in odd_doubles() {
        let mut prices: Vec<f64> = (0..5_000).map(|i| f64::from(i * 7 % 900) / 100.0).collect();
        prices[77] = odd;
        prices[4_999] = odd;
        round_trip(&column(Values::F64(prices)));
        round_trip(&column(Values::F64(vec![odd; 10])));
    }
    for odd in odd_singles() {
        let mut prices: Vec<f32> = (0..5_000).map(|i| (i * 7 % 900) as f32 / 100.0).collect();
        prices[0] = odd;
        round_trip(&column(Values::F32(prices)));
        round_trip(&column(Values::F32(vec![odd; 10])));
    }
}

#[test]
fn mixed_nan_payloads_and_zero_signs() {
    let nans = (0..65_536u64).map(|i| f64::from_bits(0x7ff8_0000_0000_0000 | (i * 977)));
    round_trip(&column(Values::F64(nans.collect())));
    let zeros = (0..65_536).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 });
    round_trip(&column(Values::F64(zeros.collect())));
    let signalling = (0..65_536u32).map(|i| f32::from_bits(0x7f80_0001 + (i % 5_000)));
    round_trip(&column(Values::F32(signalling.collect())));
}

#[test]
fn extreme_integers() {
    for repeat in [1, 1_000] {
        round_trip(&column(Values::I8(
            [i8::MIN, -1, 0, 1, i8::MAX].repeat(repeat),
        )));
        round_trip(&column(Values::I16(
            [i16::MIN, -1, 0, 1, i16::MAX].repeat(repeat),
        )));
        round_trip(&column(Values::I32(
            [i32::MIN, -1, 0, 1, i32::MAX].repeat(repeat),
        )));
        round_trip(&column(Values::I64(
            [i64::MIN, -1, 0, 1, i64::MAX].repeat(repeat),
        )));
    }
}

#[test]
fn empty_string_is_not_null() {
    let values = bytes_of(["", "", "x", ""]);
    let column = Column {
        validity: validity(4, |i| i == 1),
        values,
    };
    let decoded = decode_column(&round_trip(&column)).unwrap();
    assert_eq!(decoded.bytes_at(0), Some(&b""[..]));
    assert_eq!(decoded.bytes_at(1), None);
    assert_eq!(decoded.bytes_at(2), Some(&b"x"[..]));
    assert_eq!(decoded.bytes_at(4), None);
}

#[test]
fn what_stands_at_nulls_is_dropped() {
    let secret = Column {
        validity: validity(2, |i| i == 0),
        values: bytes_of(["secret", "public"]),
    };
    let bytes = round_trip(&secret);
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
}

#[test]
fn offsets_may_start_late_and_data_may_go_on() {
    let odd = column(Values::Bytes {
        offsets: vec![2, 3, 5],
        data: b"..abc..".to_vec(),
    });
    let decoded = decode_column(&encode_column(&odd).unwrap()).unwrap();
    assert_eq!(decoded.values, bytes_of(["a", "bc"]));
}

#[test]
fn huge_strings() {
    let noise: Vec<u8> = (0..3_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let long = vec![b'z'; 64 << 20];
    let bytes = round_trip(&column(bytes_of([&noise[..], &long, b"", b"end"])));
    assert!(bytes.len() < 4_000_000);
    round_trip(&column(bytes_of([&long])));
    round_trip(&column(bytes_of([
        &noise[..],
        &noise,
        &noise,
        &noise,
        b"other",
    ])));
}

#[test]
fn constants() {
    for (_, values) in textures(1) {
        let one = column(values);
        let null = Column {
            validity: Some(Bitmap::new(1)),
            ..one.clone()
        };
        for rows in [0, 1, 5, MAX_ROWS] {
            let bytes = encode_constant(rows, &one);
            let decoded = decode_column(&bytes).unwrap();
            assert_eq!(decoded.kind(), one.kind());
            assert_eq!(
                rows_of(&decoded),
                vec![rows_of(&one)[0].clone(); rows as usize]
            );
            assert_eq!(encode_column(&decoded).unwrap(), bytes);
            assert!(bytes.len() < 60);

            let bytes = encode_constant(rows, &null);
            let decoded = decode_column(&bytes).unwrap();
            assert_eq!(decoded.kind(), one.kind());
            assert_eq!(decoded.rows(), rows as usize);
            assert_eq!(decoded.null_count(), rows as usize);
            assert_eq!(encode_column(&decoded).unwrap(), bytes);
            assert_eq!(describe(&bytes).unwrap().nulls, rows);
        }
    }
}

#[test]
fn unfit_constants() {
    let one = column(Values::I64(vec![1]));
    let two = column(Values::I64(vec![1, 2]));
    let long = column(bytes_of([vec![0u8; 1 << 20]]));
    for (rows, value) in [(MAX_ROWS + 1, &one), (2, &two), (2_000, &long)] {
        assert!(matches!(
            try_encode_constant(rows, value),
            Err(CoreError::Invalid { .. })
        ));
        assert!(decode_column(&encode_constant(rows, value)).is_err());
    }
}

#[test]
fn unfit_columns() {
    let unfit = [
        column(Values::I8(vec![0; MAX_ROWS as usize + 1])),
        column(Values::Fixed {
            len: 0,
            data: vec![],
        }),
        column(Values::Fixed {
            len: 0,
            data: vec![1],
        }),
        column(Values::Fixed {
            len: 3,
            data: vec![1; 7],
        }),
        column(Values::Fixed {
            len: 32_768,
            data: vec![1; 32_768],
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
            matches!(encode_column(&column), Err(CoreError::Invalid { .. })),
            "{column:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_small_column(column in any_column(60)) {
        round_trip(&column);
    }

    #[test]
    fn encoding_is_deterministic(column in any_column(30)) {
        prop_assert_eq!(encode_column(&column).unwrap(), encode_column(&column).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_larger_column(column in any_column(3_000)) {
        round_trip(&column);
    }
}
