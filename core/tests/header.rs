//! The segment header and the digest of a segment.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use varve_core::*;

fn any_header() -> impl Strategy<Value = SegmentHeader> {
    (0u32..300).prop_flat_map(|rows| {
        let entry = (any::<u32>(), 0..=rows, any::<u8>());
        let columns = prop::collection::btree_map(any::<u16>(), entry, 0..20);
        let dead = prop::collection::vec(any::<bool>(), rows as usize);
        let origins = prop::option::of(prop::collection::vec(any::<u64>(), rows as usize));
        (columns, dead, origins, any::<[u8; 32]>(), any::<u64>()).prop_map(
            move |(columns, bits, origins, sha256, raw_bytes)| {
                let mut dead = Bitmap::new(rows as usize);
                for (i, bit) in bits.into_iter().enumerate() {
                    dead.set(i, bit);
                }
                SegmentHeader {
                    rows,
                    columns: columns
                        .into_iter()
                        .map(|(attnum, (bytes, nulls, codec))| ColumnEntry {
                            attnum,
                            bytes,
                            nulls,
                            codec,
                        })
                        .collect(),
                    dead,
                    origins,
                    sha256,
                    raw_bytes,
                }
            },
        )
    })
}

proptest! {
    #[test]
    fn round_trip(header in any_header()) {
        header.validate().unwrap();
        prop_assert_eq!(SegmentHeader::from_bytes(&header.to_bytes()), Ok(header));
    }
}

fn plain(rows: u32) -> SegmentHeader {
    SegmentHeader {
        rows,
        columns: vec![],
        dead: Bitmap::new(rows as usize),
        origins: None,
        sha256: [0; 32],
        raw_bytes: 0,
    }
}

#[test]
fn largest_header() {
    let entry = |attnum| ColumnEntry {
        attnum,
        bytes: u32::MAX,
        nulls: MAX_ROWS,
        codec: 0,
    };
    let header = SegmentHeader {
        columns: (1..=1_600).map(entry).collect(),
        dead: Bitmap::full(MAX_ROWS as usize),
        origins: Some((0..u64::from(MAX_ROWS)).rev().collect()),
        raw_bytes: u64::MAX,
        ..plain(MAX_ROWS)
    };
    let bytes = header.to_bytes();
    assert!(bytes.len() < 19_000, "{}", bytes.len());
    assert_eq!(SegmentHeader::from_bytes(&bytes), Ok(header));
}

#[test]
fn unfit_headers_are_refused() {
    let entry = |attnum, nulls| ColumnEntry {
        attnum,
        bytes: 1,
        nulls,
        codec: 0,
    };
    let unfit = [
        plain(MAX_ROWS + 1),
        SegmentHeader {
            dead: Bitmap::new(4),
            ..plain(5)
        },
        SegmentHeader {
            origins: Some(vec![1; 6]),
            ..plain(5)
        },
        SegmentHeader {
            columns: vec![entry(1, 0), entry(1, 0)],
            ..plain(5)
        },
        SegmentHeader {
            columns: vec![entry(1, 6)],
            ..plain(5)
        },
    ];
    for header in unfit {
        assert!(matches!(header.validate(), Err(CoreError::Invalid { .. })));
        assert!(header.try_to_bytes().is_err());
        assert!(SegmentHeader::from_bytes(&header.to_bytes()).is_err());
    }
}

#[test]
fn digest_covers_number_length_and_bytes() {
    let of = |columns: &[(u16, &[u8])]| segment_sha256(columns.iter().copied());
    let whole = of(&[(1, b"ab"), (2, b"c")]);
    for other in [
        &[(1, &b"ab"[..]), (2, b"d")][..],
        &[(1, b"ab"), (3, b"c")],
        &[(1, b"a"), (2, b"bc")],
        &[(2, b"c"), (1, b"ab")],
        &[(1, b"ab")],
        &[],
    ] {
        assert_ne!(of(other), whole);
    }
    // SHA-256 of nothing.
    assert_eq!(of(&[])[..4], [0xe3, 0xb0, 0xc4, 0x42]);
}
