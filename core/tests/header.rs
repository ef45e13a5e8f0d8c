//! Headers of segments: what is written comes back, and nothing else is taken for one.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use varve_core::header::RowsChecksum;
use varve_core::paged::{Bounds, Effort, Sum, Zone};
use varve_core::{Bitmap, ColumnEntry, CoreError, Kind, SegmentHeader, SortKey, segment_sha256};

fn column(attnum: u16, rows: u32) -> ColumnEntry {
    let (kind, bounds, sum) = match attnum % 3 {
        0 => (
            Kind::I64,
            Bounds::Int {
                min: -5,
                max: 1 << 40,
            },
            Sum::Int(1 << 90),
        ),
        1 => (
            Kind::F64,
            Bounds::Float {
                min: -0.5,
                max: f64::INFINITY,
            },
            Sum::Float(7.25),
        ),
        _ => (
            Kind::Fixed { len: 16 },
            Bounds::Bytes {
                min: b"a".as_slice().into(),
                max: [b'z'; 32].as_slice().into(),
                min_exact: true,
                max_exact: false,
            },
            Sum::None,
        ),
    };
    ColumnEntry {
        attnum,
        kind,
        codec: 7,
        form: 0,
        bytes: 1000 + u32::from(attnum),
        index_len: 100,
        summary: Zone {
            rows,
            nulls: rows / 3,
            bounds,
            sum,
        },
    }
}

fn header(rows: u32, columns: u16, origins: bool) -> SegmentHeader {
    let mut dead = Bitmap::new(rows as usize);
    (0..rows as usize)
        .step_by(7)
        .for_each(|row| dead.set(row, true));
    SegmentHeader {
        rows,
        columns: (1..=columns).map(|attnum| column(attnum, rows)).collect(),
        order: [(2, 97, 0), (1, 664, 950)]
            .map(|(attnum, operator, collation)| SortKey {
                attnum,
                operator,
                collation,
            })
            .to_vec(),
        dead,
        origins: origins.then(|| (0..u64::from(rows)).map(|n| n << 20).collect()),
        sha256: segment_sha256([(1, b"one".as_slice()), (2, b"two")].into_iter()),
        raw_bytes: 123_456,
        location: 42,
        siblings: 9,
        effort: Effort::Fast,
        checksum: None,
    }
}

fn with_checksum(header: SegmentHeader) -> SegmentHeader {
    SegmentHeader {
        checksum: Some(RowsChecksum {
            attributes: 5,
            fingerprint: 0x0123_4567_89ab_cdef,
            total: 0x00ff_1122_3344_5566_7788_99aa_bbcc_ddee,
        }),
        ..header
    }
}

#[test]
fn headers_come_back() {
    for (rows, columns, origins) in [
        (0, 0, false),
        (1, 1, true),
        (100, 5, false),
        (65_536, 40, true),
    ] {
        for effort in [Effort::Fast, Effort::Small] {
            let header = SegmentHeader {
                effort,
                ..header(rows, columns, origins)
            };
            let bytes = header.to_bytes().unwrap();
            assert_eq!(SegmentHeader::from_bytes(&bytes).as_ref(), Ok(&header));
            let header = with_checksum(header);
            let longer = header.to_bytes().unwrap();
            assert_eq!(longer.len(), bytes.len() + 26);
            assert_eq!(SegmentHeader::from_bytes(&longer), Ok(header));
        }
    }
}

#[test]
fn a_header_that_breaks_a_rule_is_refused() {
    let good = header(100, 3, false);
    let changes: [fn(&mut SegmentHeader); 7] = [
        |h| h.rows = 65_537,
        |h| h.dead = Bitmap::new(99),
        |h| h.origins = Some(vec![0; 99]),
        |h| h.columns[1].attnum = h.columns[0].attnum,
        |h| h.columns[0].summary.rows = 99,
        |h| h.columns[0].summary.nulls = 101,
        |h| h.columns[0].index_len = h.columns[0].bytes + 1,
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(bad.to_bytes().is_err(), "change {n}");
    }
}

#[test]
fn every_changed_byte_and_every_length_is_noticed() {
    let bytes = with_checksum(header(50, 4, true)).to_bytes().unwrap();
    for at in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            assert!(SegmentHeader::from_bytes(&changed).is_err(), "byte {at}");
        }
        assert!(
            SegmentHeader::from_bytes(&bytes[..at]).is_err(),
            "cut at {at}"
        );
    }
    assert!(SegmentHeader::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
}

/// Bytes of version 2, which must be read for ever: of a warm segment and of a cold one.
const GOLDEN: [(Effort, &str); 2] = [
    (Effort::Fast, include_str!("golden/header-v2-sorted.txt")),
    (
        Effort::Small,
        include_str!("golden/header-v2-cold-sorted.txt"),
    ),
];

/// Those of before headers told by which operators rows ascend: they are read as if rows lay as they came.
const GOLDEN_UNSORTED: [(Effort, &str); 2] = [
    (Effort::Fast, include_str!("golden/header-v2.txt")),
    (Effort::Small, include_str!("golden/header-v2-cold.txt")),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.trim()
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Those with the checksum of the rows.
const GOLDEN_CHECKSUM: &str = include_str!("golden/header-v2-checksum.txt");

#[test]
fn golden_bytes_are_read_and_written() {
    let summed = with_checksum(header(10, 3, true));
    assert_eq!(hex(&summed.to_bytes().unwrap()), GOLDEN_CHECKSUM.trim());
    assert_eq!(
        SegmentHeader::from_bytes(&unhex(GOLDEN_CHECKSUM)).as_ref(),
        Ok(&summed)
    );
    for (effort, golden) in GOLDEN {
        let header = SegmentHeader {
            effort,
            ..header(10, 3, true)
        };
        assert_eq!(hex(&header.to_bytes().unwrap()), golden.trim());
        assert_eq!(
            SegmentHeader::from_bytes(&unhex(golden)).as_ref(),
            Ok(&header)
        );
    }
    for (effort, golden) in GOLDEN_UNSORTED {
        let header = SegmentHeader {
            effort,
            order: Vec::new(),
            ..header(10, 3, true)
        };
        assert_eq!(
            SegmentHeader::from_bytes(&unhex(golden)).as_ref(),
            Ok(&header)
        );
    }
}

#[test]
fn flags_of_later_versions_are_refused() {
    let unsorted = SegmentHeader {
        order: Vec::new(),
        ..header(10, 3, false)
    };
    let bytes = unsorted.to_bytes().unwrap();
    for bit in 0..8 {
        let mut body = bytes[..bytes.len() - 8].to_vec();
        body[3] = 1 << bit;
        let sum = xxhash_rust::xxh3::xxh3_64(&body);
        body.extend_from_slice(&sum.to_le_bytes());
        let read = SegmentHeader::from_bytes(&body);
        match bit {
            // Origins, which are missing.
            0 => assert!(matches!(read, Err(CoreError::Corrupt { .. }))),
            1 => assert_eq!(read.unwrap().effort, Effort::Small),
            // The order, of which there is none.
            2 => assert_eq!(read.unwrap().order, []),
            // The checksum of the rows, which is missing.
            3 => assert!(matches!(read, Err(CoreError::Corrupt { .. }))),
            _ => assert!(matches!(read, Err(CoreError::Unsupported { .. }))),
        }
    }
}

proptest! {
    #[test]
    fn forged_bytes_are_safe(at in 0usize..400, byte: u8, cut in 0usize..400) {
        // With the checksum made anew, damage gets as far as the fields.
        let bytes = with_checksum(header(20, 4, false)).to_bytes().unwrap();
        let mut body = bytes[..bytes.len() - 8].to_vec();
        if let Some(place) = body.get_mut(at) {
            *place = byte;
        }
        body.truncate(body.len().saturating_sub(cut % 3));
        let sum = xxhash_rust::xxh3::xxh3_64(&body);
        body.extend_from_slice(&sum.to_le_bytes());
        if let Ok(header) = SegmentHeader::from_bytes(&body) {
            prop_assert!(header.validate().is_ok());
        }
    }
}
