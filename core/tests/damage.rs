//! Damaged and forged bytes: found by the checksum, and harmless where the checksum is forged too.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use proptest::prelude::*;
use varve_core::*;
use xxhash_rust::xxh3::xxh3_64;

/// Small encoded columns of every kind and codec, with and without NULLs.
fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for rows in [0, 1, 9, 400] {
        for (_, values) in textures(rows) {
            samples.push(encode_column(&column(values.clone())).unwrap());
            let nulls = validity(rows, |i| i % 4 == 1);
            samples.push(
                encode_column(&Column {
                    validity: nulls,
                    values,
                })
                .unwrap(),
            );
        }
    }
    samples
}

fn headers() -> Vec<Vec<u8>> {
    let entry = |attnum| ColumnEntry {
        attnum,
        bytes: 100,
        nulls: 2,
        codec: 3,
    };
    let mut dead = Bitmap::new(50);
    dead.set(7, true);
    dead.set(49, true);
    let header = SegmentHeader {
        rows: 50,
        columns: vec![entry(1), entry(2), entry(9)],
        dead,
        origins: Some((0..50).map(|i| i * 17 + (7 << 32)).collect()),
        sha256: [0xab; 32],
        raw_bytes: 12_345,
    };
    let bare = SegmentHeader {
        columns: vec![],
        origins: None,
        ..header.clone()
    };
    vec![header.to_bytes(), bare.to_bytes()]
}

/// Replaces the closing checksum by the right one.
fn forge(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(8));
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Decoding must end in an error or in a sound column.
fn decode_safely(bytes: &[u8]) {
    let described = describe(bytes);
    if let Ok(column) = decode_column(bytes) {
        let info = described.unwrap();
        assert_eq!(info.kind, column.kind());
        assert_eq!(info.rows as usize, column.rows());
        assert_eq!(info.nulls as usize, column.null_count());
        assert_eq!(rows_of(&column).len(), column.rows());
    }
}

#[test]
fn all_codecs_are_among_the_samples() {
    let mut seen: Vec<_> = samples()
        .iter()
        .map(|bytes| describe(bytes).unwrap().codec)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(
        seen,
        [
            "constant",
            "decimal",
            "dictionary",
            "pco",
            "raw",
            "runs",
            "zstd"
        ]
    );
}

#[test]
fn every_flipped_byte_is_found() {
    for sample in samples() {
        for i in 0..sample.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = sample.clone();
                bytes[i] ^= flip;
                assert!(decode_column(&bytes).is_err());
                assert!(describe(&bytes).is_err());
            }
        }
    }
    for sample in headers() {
        for i in 0..sample.len() {
            for bit in 0..8 {
                let mut bytes = sample.clone();
                bytes[i] ^= 1 << bit;
                assert!(SegmentHeader::from_bytes(&bytes).is_err());
            }
        }
    }
}

#[test]
fn every_wrong_length_is_found() {
    for sample in samples() {
        for len in 0..sample.len() {
            assert!(decode_column(&sample[..len]).is_err());
        }
        for extra in [&[0][..], &[1], &[0; 8], &sample[..]] {
            assert!(decode_column(&[&sample[..], extra].concat()).is_err());
        }
    }
    for sample in headers() {
        for len in 0..sample.len() {
            assert!(SegmentHeader::from_bytes(&sample[..len]).is_err());
        }
        assert!(SegmentHeader::from_bytes(&[&sample[..], &[0]].concat()).is_err());
    }
}

#[test]
fn wrong_lengths_with_a_right_checksum_are_found() {
    for sample in samples() {
        let body = sample.len() - 8;
        for cut in [1, 2, 5, body] {
            if cut <= body {
                let short = [&sample[..body - cut], &[0; 8]].concat();
                assert!(decode_column(&forge(short)).is_err());
            }
        }
        let long = [&sample[..body], &[0; 9]].concat();
        assert!(decode_column(&forge(long)).is_err());
    }
    for sample in headers() {
        let body = sample.len() - 8;
        for end in 0..body {
            let short = [&sample[..end], &[0; 8]].concat();
            assert!(SegmentHeader::from_bytes(&forge(short)).is_err());
        }
        let long = [&sample[..body], &[0; 9]].concat();
        assert!(SegmentHeader::from_bytes(&forge(long)).is_err());
    }
}

#[test]
fn every_flipped_byte_with_a_right_checksum_is_harmless() {
    for sample in samples() {
        for i in 0..sample.len() - 8 {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut bytes = sample.clone();
                bytes[i] ^= flip;
                decode_safely(&forge(bytes));
            }
        }
    }
    for sample in headers() {
        for i in 0..sample.len() - 8 {
            for bit in 0..8 {
                let mut bytes = sample.clone();
                bytes[i] ^= 1 << bit;
                if let Ok(header) = SegmentHeader::from_bytes(&forge(bytes)) {
                    header.validate().unwrap();
                }
            }
        }
    }
}

#[test]
fn other_versions_are_unsupported() {
    let mut column = samples().remove(3);
    column[2] = 2;
    assert!(matches!(
        decode_column(&forge(column)),
        Err(CoreError::Unsupported { .. })
    ));
    let mut header = headers().remove(0);
    header[2] = 2;
    assert!(matches!(
        SegmentHeader::from_bytes(&forge(header)),
        Err(CoreError::Unsupported { .. })
    ));
}

/// A column frame around a payload of one's own making.
fn framed(kind: u8, codec: u8, rows: u32, width: u32, validity: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'v', b'C', 1, kind, codec];
    bytes.extend(rows.to_le_bytes());
    bytes.extend(width.to_le_bytes());
    bytes.extend((validity.len() as u32).to_le_bytes());
    bytes.extend(validity);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend([0; 8]);
    forge(bytes)
}

#[test]
fn bombs_are_refused_before_they_are_decoded() {
    let block = |codec: u8, payload: &[u8]| {
        let mut block = vec![codec];
        block.extend((payload.len() as u32).to_le_bytes());
        block.extend(payload);
        block
    };
    let zstd_of_zeros = zstd::bulk::compress(&vec![0; 32 << 20], 3).unwrap();
    let claims = [
        // 65,536 values of 1 GiB each, by constant and by length.
        framed(7, 1, 65_536, 0, &[], &[7; 100_000]),
        framed(
            7,
            4,
            65_536,
            0,
            &[],
            &[block(1, &[0xff; 4]), vec![0; 20]].concat(),
        ),
        framed(
            7,
            0,
            65_536,
            0,
            &[],
            &[block(1, &[0, 0, 0, 1]), vec![0; 20]].concat(),
        ),
        // Between 1 and 4 GiB.
        framed(7, 1, 65_536, 0, &[], &[7; 20_000]),
        // 512 MiB out of a few bytes.
        framed(
            7,
            4,
            1,
            0,
            &[],
            &[block(1, &(512u32 << 20).to_le_bytes()), vec![0; 20]].concat(),
        ),
        // A zstd frame longer, and shorter, than declared.
        framed(
            7,
            4,
            1,
            0,
            &[],
            &[block(1, &100u32.to_le_bytes()), zstd_of_zeros.clone()].concat(),
        ),
        framed(3, 4, 100, 0, &[], &zstd_of_zeros),
        framed(6, 4, 65_536, 1_000, &[], &zstd_of_zeros),
        // A dictionary that multiplies: 65,536 times 1 MiB.
        framed(
            7,
            5,
            65_536,
            0,
            &[],
            &[
                1u32.to_le_bytes().to_vec(),
                block(
                    4,
                    &[
                        block(1, &(1u32 << 20).to_le_bytes()),
                        zstd::bulk::compress(&vec![1; 1 << 20], 3).unwrap(),
                    ]
                    .concat(),
                ),
                block(1, &0u32.to_le_bytes()),
            ]
            .concat(),
        ),
        // Codes past the dictionary's end.
        framed(
            7,
            5,
            2,
            0,
            &[],
            &[
                1u32.to_le_bytes().to_vec(),
                block(0, &[block(1, &1u32.to_le_bytes()), vec![b'x']].concat()),
                block(1, &1u32.to_le_bytes()),
            ]
            .concat(),
        ),
        // Too many rows, too wide, rows times width too much.
        framed(3, 1, 65_537, 0, &[], &[0; 8]),
        framed(6, 1, 1, 32_768, &[], &[0; 32_768]),
        framed(6, 1, 65_536, 20_000, &[], &[0; 20_000]),
        // A width where there is none, none where there must be one.
        framed(3, 1, 1, 8, &[], &[0; 8]),
        framed(6, 1, 1, 0, &[], &[]),
        // Unknown kind and codec; codecs that do not fit the kind.
        framed(8, 1, 1, 0, &[], &[0; 8]),
        framed(3, 7, 1, 0, &[], &[0; 8]),
        framed(3, 5, 1, 0, &[], &[0; 8]),
        framed(3, 6, 1, 0, &[], &[0; 8]),
        framed(6, 3, 1, 8, &[], &[0; 8]),
        framed(7, 3, 1, 0, &[], &[0; 8]),
        // Runs within runs within runs; runs that cover too much.
        framed(
            3,
            2,
            2,
            0,
            &[],
            &[1u32.to_le_bytes().to_vec(), block(2, &[0; 40])].concat(),
        ),
        framed(
            3,
            2,
            2,
            0,
            &[],
            &[
                1u32.to_le_bytes().to_vec(),
                block(1, &3u32.to_le_bytes()),
                block(1, &[0; 8]),
            ]
            .concat(),
        ),
        // An empty run.
        framed(
            3,
            2,
            2,
            0,
            &[],
            &[
                2u32.to_le_bytes().to_vec(),
                block(0, &[2, 0, 0, 0, 0, 0, 0, 0]),
                block(1, &[0; 8]),
            ]
            .concat(),
        ),
        // Decimals: a scale that there is not; more exceptions than values; an exception past the
        // end; exceptions out of order.
        framed(
            5,
            6,
            1,
            0,
            &[],
            &[vec![16, 0, 0, 0, 0], block(1, &[0; 8])].concat(),
        ),
        framed(
            5,
            6,
            1,
            0,
            &[],
            &[vec![2, 2, 0, 0, 0], vec![0; 24], block(1, &[0; 8])].concat(),
        ),
        framed(
            5,
            6,
            1,
            0,
            &[],
            &[vec![2, 1, 0, 0, 0, 1], vec![0; 11], block(1, &[0; 8])].concat(),
        ),
        framed(
            5,
            6,
            2,
            0,
            &[],
            &[
                vec![2, 2, 0, 0, 0],
                vec![1, 0, 0, 0],
                vec![0; 20],
                block(1, &[0; 8]),
            ]
            .concat(),
        ),
        // Something where nothing belongs.
        framed(3, 1, 0, 0, &[], &[0; 8]),
        framed(3, 1, 1, 0, &[0], &[0; 8]),
        // Validity of the wrong length, with padding, or needless.
        framed(3, 1, 9, 0, &[1, 0xff], &[0; 8]),
        framed(3, 1, 7, 0, &[1, 0x81], &[0; 8]),
        framed(3, 1, 8, 0, &[1, 0xff], &[0; 8]),
    ];
    for (i, bytes) in claims.iter().enumerate() {
        assert!(decode_column(bytes).is_err(), "claim {i}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn scrambled_columns_are_harmless(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = SAMPLES.get_or_init(samples);
        let mut bytes = which.get(samples).clone();
        let body = bytes.len() - 8;
        for (at, byte) in edits {
            bytes[at.index(body)] = byte;
        }
        decode_safely(&forge(bytes));
    }

    #[test]
    fn noise_in_a_frame_is_harmless(
        kind in 0u8..8,
        codec in 0u8..7,
        rows in 0u32..300,
        payload in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let width = if kind == 6 { 4 } else { 0 };
        decode_safely(&framed(kind, codec, rows, width, &[], &payload));
    }

    #[test]
    fn noise_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_column(&bytes).is_err());
        prop_assert!(SegmentHeader::from_bytes(&bytes).is_err());
        decode_safely(&forge([&bytes[..], &[0; 8]].concat()));
    }
}

static SAMPLES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
