//! Damaged and forged pages and indexes: found by their checksums, and harmless where those are
//! forged too.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::OnceLock;

use common::pages::*;
use common::sound::{check_filters, check_page};
use common::*;
use proptest::prelude::*;
use varve_core::CoreError;
use varve_core::paged::*;

fn all_samples() -> &'static [(Vec<u8>, usize)] {
    static SAMPLES: OnceLock<Vec<(Vec<u8>, usize)>> = OnceLock::new();
    SAMPLES.get_or_init(samples)
}

/// Decoding must end in an error, or in rows that hang together.
fn decode_safely(bytes: &[u8], index_len: usize) -> bool {
    let Ok(index) = ColumnIndex::parse(&bytes[..index_len]) else {
        assert!(decode_all(bytes, index_len).is_err());
        return false;
    };
    let mut page = Page::new();
    for i in 0..index.pages() {
        let stored = bytes.get(index.page_range(i).unwrap()).unwrap_or_default();
        check_page(&index, i, stored, &mut page);
    }
    check_filters(&index, bytes);
    match decode_all(bytes, index_len) {
        Ok(column) => {
            assert_eq!(column.rows(), index.rows());
            assert_eq!(rows_of(&column).len(), index.rows());
            true
        }
        Err(CoreError::Corrupt { .. } | CoreError::Unsupported { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn codecs_of(samples: &[(Vec<u8>, usize)]) -> Vec<&'static str> {
    let mut seen: Vec<_> = samples
        .iter()
        .map(|(bytes, len)| codec_name(ColumnIndex::parse(&bytes[..*len]).unwrap().codec()))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn all_codecs_are_among_the_samples() {
    assert_eq!(
        codecs_of(all_samples()),
        [
            "constant",
            "decimal",
            "delta",
            "dictionary",
            "frame",
            "pco",
            "raw",
            "runs",
            "zstd"
        ]
    );
    let cold = samples_of(&[Effort::Small]);
    let codecs = codecs_of(&cold);
    for codec in ["constant", "dictionary", "pco", "raw", "zstd"] {
        assert!(codecs.contains(&codec), "{codec} is not among {codecs:?}");
    }
    assert!(cold.iter().all(|sample| all_samples().contains(sample)));
}

#[test]
fn every_flipped_byte_is_found() {
    for (sample, len) in all_samples() {
        for i in 0..sample.len() {
            let mut bytes = sample.clone();
            for flip in [0x01, 0x80, 0xff] {
                bytes[i] ^= flip;
                assert!(decode_all(&bytes, *len).is_err());
                bytes[i] ^= flip;
            }
        }
    }
}

#[test]
fn every_wrong_length_is_found() {
    for (sample, len) in all_samples() {
        for end in 0..sample.len() {
            assert!(decode_all(&sample[..end], *len).is_err());
        }
        for extra in [&[0][..], &[1], &[0; 8], &sample[..]] {
            assert!(decode_all(&[&sample[..], extra].concat(), *len).is_err());
        }
        for wrong in (0..sample.len() + 3).filter(|wrong| wrong != len) {
            assert!(decode_all(sample, wrong).is_err());
        }
    }
}

#[test]
fn pages_do_not_pass_for_others() {
    let column = column(varve_core::Values::I64((0..5_000).map(|i| i * i).collect()));
    let encoded = encode(&column, Effort::Fast).unwrap();
    let index = ColumnIndex::parse(&encoded.bytes[..encoded.index_len as usize]).unwrap();
    let stored = |i| &encoded.bytes[index.page_range(i).unwrap()];
    let mut page = Page::new();
    for i in 0..index.pages() {
        for j in 0..index.pages() {
            assert_eq!(index.decode(i, stored(j), &mut page).is_ok(), i == j);
        }
    }
    assert!(index.decode(index.pages(), stored(0), &mut page).is_err());
    assert!(index.decode(usize::MAX, &[], &mut page).is_err());
    assert_eq!(index.page_range(index.pages()), None);
    assert_eq!(index.page_range(usize::MAX), None);
    assert_eq!(index.zone(index.pages()), None);
}

#[test]
fn every_flipped_byte_of_an_index_with_a_right_checksum_is_harmless() {
    for (sample, len) in all_samples() {
        let mut bytes = sample.clone();
        for i in 0..len - 8 {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                bytes[i] ^= flip;
                seal_index(&mut bytes[..*len]);
                decode_safely(&bytes, *len);
                bytes[i] ^= flip;
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_a_page_with_a_right_checksum_is_harmless() {
    let mut forged = 0;
    let mut accepted = 0;
    for (sample, len) in all_samples() {
        let pages = pages_of(&ColumnIndex::parse(&sample[..*len]).unwrap(), *len);
        for i in pages.clone() {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut bytes = sample.clone();
                let page = pages.clone();
                if forge_page(&mut bytes, *len, page, |page| page[i - len] ^= flip) {
                    forged += 1;
                    accepted += usize::from(decode_safely(&bytes, *len));
                }
            }
        }
    }
    println!("{forged} forged, {accepted} of them decoded");
    assert!(forged > 100_000 && accepted > 0 && accepted < forged);
}

#[test]
fn damage_to_filters_is_found() {
    for (sample, len) in filtered_samples() {
        let index = ColumnIndex::parse(&sample[..len]).unwrap();
        assert!(index.has_filters());
        let filters = pages_of(&index, len).end..sample.len();
        assert!(filters.len() > 64);
        let (asked, told) = check_filters(&index, &sample);
        assert!(asked > 0 && asked == told);
        let mut bytes = sample.clone();
        for i in filters.clone() {
            for flip in [0x01, 0x80, 0xff] {
                bytes[i] ^= flip;
                assert!(decode_all(&bytes, len).is_err());
                bytes[i] ^= flip;
            }
        }
        for end in filters.clone() {
            assert!(decode_all(&sample[..end], len).is_err());
        }
        assert!(decode_all(&[&sample[..], &[0]].concat(), len).is_err());
        // Whoever asks one piece finds its damage too.
        bytes[filters.start + 1] ^= 1;
        let (asked, told) = check_filters(&index, &bytes);
        assert!(told < asked);
    }
}

#[test]
fn every_flipped_byte_of_filters_with_a_right_checksum_is_harmless() {
    for (mut bytes, len) in filtered_samples() {
        let index = ColumnIndex::parse(&bytes[..len]).unwrap();
        let start = pages_of(&index, len).end;
        let piece = 32 * index.pages() + 4;
        for i in start..bytes.len() {
            let first = start + (i - start) / piece * piece;
            if i >= first + piece - 4 {
                continue;
            }
            let before = bytes.clone();
            bytes[i] ^= 0x55;
            let sum = xxhash_rust::xxh3::xxh3_64(&bytes[first..first + piece - 4]) as u32;
            bytes[first + piece - 4..first + piece].copy_from_slice(&sum.to_le_bytes());
            let (asked, told) = check_filters(&index, &bytes);
            assert_eq!(asked, told);
            if i % 97 == 0 {
                assert!(decode_safely(&bytes, len));
            }
            bytes = before;
        }
    }
}

#[test]
fn other_versions_are_unsupported() {
    let (mut bytes, len) = all_samples()[3].clone();
    bytes[2] = 3;
    seal_index(&mut bytes[..len]);
    assert!(matches!(
        ColumnIndex::parse(&bytes[..len]),
        Err(CoreError::Unsupported { .. })
    ));
    bytes[2] = 2;
    bytes[3] |= 0x80;
    seal_index(&mut bytes[..len]);
    assert!(matches!(
        ColumnIndex::parse(&bytes[..len]),
        Err(CoreError::Unsupported { .. })
    ));
}

const ZSTD: u8 = 1;
const NULLS: u8 = 2;
const PCO: u8 = 4;
const DICTIONARY: u8 = 8;
const DECIMAL_ZONES: u8 = 16;
const FILTERS: u8 = 32;

/// An index around a body of one's own making.
fn index(flags: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![b'v', b'C', 2, flags];
    bytes.extend(body.concat());
    bytes.extend([0; 8]);
    seal_index(&mut bytes);
    bytes
}

/// A column of one page.
fn one_page(flags: u8, head: &[&[u8]], page: &[u8], zones: &[u8]) -> (Vec<u8>, usize) {
    let sum = (xxhash_rust::xxh3::xxh3_64(page) as u32).to_le_bytes();
    let mut body = head.concat();
    let mut len = page.len();
    while len >= 0x80 {
        body.push(len as u8 | 0x80);
        len >>= 7;
    }
    body.push(len as u8);
    if !page.is_empty() {
        body.extend(sum);
    }
    body.extend(zones);
    let index = index(flags, &[&body]);
    ([&index[..], page].concat(), index.len())
}

const I64: u8 = 3;
const F64: u8 = 5;
const FIXED: u8 = 6;
const BYTES: u8 = 7;
/// Kind, width, codec, rows; for integers, unit and base.
const TEN_INTS: &[u8] = &[I64, 0, 0, 10, 2, 0];
const TEN_FLOATS: &[u8] = &[F64, 0, 0, 10, 2, 2, 0];
const TEN_TEXTS: &[u8] = &[BYTES, 0, 0, 10];
const ZONE: &[u8] = &[0, 9, 45];

#[test]
fn forgeries_by_hand_decode_where_they_are_right() {
    // A frame of width 0: all equal the reference.
    let (bytes, len) = one_page(0, &[TEN_INTS], &[0, 0, 14], ZONE);
    let column = decode_all(&bytes, len).unwrap();
    assert_eq!(column.values, varve_core::Values::I64(vec![7; 10]));
    // Nothing at all: all equal the zone's min.
    let (bytes, len) = one_page(0, &[TEN_INTS], &[], ZONE);
    let column = decode_all(&bytes, len).unwrap();
    assert_eq!(column.values, varve_core::Values::I64(vec![0; 10]));
    let (bytes, len) = one_page(0, &[TEN_FLOATS], &[1, 0, 0, 14], &[0; 24]);
    let column = decode_all(&bytes, len).unwrap();
    assert_eq!(column.values, varve_core::Values::F64(vec![0.07; 10]));
    let (bytes, len) = one_page(
        0,
        &[TEN_TEXTS],
        &[
            0, 0, 2, 0, b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x',
        ],
        &[3, 1, b'x', 1, b'x'],
    );
    assert_eq!(
        rows_of(&decode_all(&bytes, len).unwrap()),
        vec![Some(b"x".to_vec()); 10]
    );
}

#[test]
fn forgeries_by_hand_are_refused() {
    let zstd_of_zeros = zstd::bulk::compress(&vec![0; 32 << 20], 3).unwrap();
    let varint = |mut n: u64| {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    };
    let ints = |page: &[u8]| one_page(0, &[TEN_INTS], page, ZONE);
    let floats = |page: &[u8]| one_page(0, &[TEN_FLOATS], page, &[0; 24]);
    let texts = |page: &[u8]| one_page(0, &[TEN_TEXTS], page, &[3, 0, 0]);
    let nothing = |index: Vec<u8>| (index.clone(), index.len());
    let claims = [
        // Pages of integers: unknown tags, widths and forms.
        ints(&[4, 0, 14]),
        ints(&[0x20, 0, 14]),
        ints(&[0x12, 1, 0, 0, 14]),
        ints(&[0x13; 81]),
        ints(&[0, 64, 14]),
        ints(&[1, 255, 14, 0]),
        ints(&[3; 80]),
        ints(&[3; 82]),
        ints(&[0, 0, 14, 0]),
        ints(&[0, 1, 14, 0]),
        ints(&[0, 0]),
        // Patches: too many, of no bytes, of nine, of a number that there is not, cut off.
        ints(&[0x10, 0, 14, 11, 1]),
        ints(&[0x10, 0, 14, 1, 0, 0, 0]),
        ints(&[0x10, 0, 14, 1, 9, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ints(&[0x10, 0, 14, 1, 1, 10, 0, 1]),
        ints(&[0x10, 0, 14, 1, 2, 1, 0, 1]),
        // Runs: too many, too long, too short, none.
        ints(&[2, 11, 0, 0, 14]),
        ints(&[2, 1, 0, 4, 14, 10]),
        ints(&[2, 1, 0, 4, 14, 8]),
        ints(&[2, 0, 0, 0, 14]),
        ints(&[2, 1, 0, 63, 14, 255, 255, 255, 255, 255, 255, 255, 127]),
        // A number out of the range of its type.
        one_page(0, &[&[0, 0, 0, 10, 2, 0]], &[0, 0, 128, 2], ZONE),
        one_page(0, &[&[1, 0, 0, 10, 2, 0]], &[0, 0, 128, 128, 4], ZONE),
        one_page(0, &[&[0, 0, 0, 10, 2, 0]], &[], &[128, 2, 0, 0]),
        // Floats: unknown forms, decimals without a scale, exceptions past the end or too many.
        floats(&[3, 0, 0, 14]),
        one_page(0, &[&[F64, 0, 0, 10, 255, 2, 0]], &[1, 0, 0, 14], &[0; 24]),
        one_page(0, &[&[F64, 0, 0, 10, 15, 2, 0]], &[1, 0, 0, 14], &[0; 24]),
        floats(&[2, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 14]),
        floats(&[2, 11, 0, 0, 14]),
        // Texts: lengths that are negative, huge, or not those of the data; unknown method.
        texts(&[0, 0, 1, 0]),
        texts(&[&[0, 0][..], &varint(2 << 40), &[0]].concat()),
        texts(&[&[0, 0][..], &varint(2 << 28), &[1], &zstd_of_zeros[..20]].concat()),
        texts(&[&[0, 0][..], &varint(2 << 20), &[1], &zstd_of_zeros].concat()),
        texts(&[&[0, 0][..], &varint(2 << 24), &[1], &zstd_of_zeros].concat()),
        texts(&[0, 0, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        texts(&[0, 0, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        texts(&[0, 0, 2, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        texts(&[]),
        one_page(0, &[&[FIXED, 2, 0, 10]], &[0; 20], &[3, 0, 0]),
        one_page(0, &[&[FIXED, 2, 0, 10]], &[], &[3, 0, 0]),
        // NULLs: more than rows, validity that counts otherwise, values where there are none.
        one_page(NULLS, &[TEN_INTS, &[11]], &[0, 0, 14], ZONE),
        one_page(NULLS, &[TEN_INTS, &[3]], &[3, 1, 0xff, 3, 0, 0, 14], ZONE),
        one_page(NULLS, &[TEN_INTS, &[10]], &[0, 0, 14], &[]),
        one_page(NULLS, &[TEN_INTS, &[3]], &[], ZONE),
        // Units of nothing, bases of a unit or more.
        one_page(0, &[&[I64, 0, 0, 10, 0, 0]], &[0, 0, 14], ZONE),
        one_page(0, &[&[I64, 0, 0, 10, 1, 0]], &[0, 0, 14], ZONE),
        one_page(0, &[&[I64, 0, 0, 10, 2, 2]], &[0, 0, 14], ZONE),
        one_page(0, &[&[I64, 0, 0, 10, 2, 1]], &[0, 0, 14], ZONE),
        // Kinds and widths.
        one_page(0, &[&[8, 0, 0, 10]], &[], &[]),
        one_page(0, &[&[I64, 8, 0, 10, 2, 0]], &[0, 0, 14], ZONE),
        one_page(0, &[&[FIXED, 0, 0, 10]], &[0], &[3, 0, 0]),
        // Too many rows; too many bytes.
        nothing(index(
            0,
            &[&[I64, 0, 0], &varint(65_537), &[2, 0], &[0; 999]],
        )),
        nothing(index(
            DICTIONARY,
            &[&[FIXED], &varint(32_767), &[0], &varint(65_536), &[0; 400]],
        )),
        // Flags that do not fit the kind.
        one_page(DICTIONARY, &[TEN_INTS], &[0, 0, 14], ZONE),
        one_page(DECIMAL_ZONES, &[TEN_INTS], &[0, 0, 14], ZONE),
        one_page(DECIMAL_ZONES, &[TEN_TEXTS], &[0, 0, 0, 0], ZONE),
        one_page(PCO, &[TEN_TEXTS, &[0]], &[0, 0, 0, 0], &[3, 0, 0]),
        one_page(PCO, &[TEN_INTS, &[3, 1, 2, 3]], &[0, 0, 14], ZONE),
        // Filters of no block, of too many, of no page; none where there should be some.
        one_page(FILTERS, &[TEN_INTS], &[0, 0, 14], &[0, 9, 45, 0]),
        one_page(FILTERS, &[TEN_INTS], &[0, 0, 14], &[0, 9, 45, 0x81, 8]),
        one_page(FILTERS, &[TEN_INTS], &[0, 0, 14], ZONE),
        one_page(FILTERS, &[TEN_INTS], &[0, 0, 14], &[0, 9, 45, 1]),
        nothing(index(FILTERS, &[&[I64, 0, 0, 0, 2, 0, 1]])),
        // A page that ends beyond 4 GiB.
        nothing(index(0, &[TEN_INTS, &varint(1 << 33), &[0; 4], ZONE])),
        // A compressed index that is too long, or not as long as it says.
        nothing(index(ZSTD, &[&varint(1 << 30), &zstd_of_zeros])),
        nothing(index(ZSTD, &[&varint(32 << 20), &zstd_of_zeros])),
        nothing(index(ZSTD, &[&varint(100), &zstd_of_zeros])),
        nothing(index(ZSTD, &[&varint(9), &[1, 2, 3]])),
        // Dictionaries: out of order, twice the same, of other widths, too long, codes past the end,
        // empty with codes.
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 0, 1, 1], b"ba"],
            &[],
            &[0, 0],
        ),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 1, 1, 0], b"a"],
            &[],
            &[0, 0],
        ),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 2, 1, 0], b"a"],
            &[],
            &[0, 0],
        ),
        one_page(DICTIONARY, &[TEN_TEXTS, &[1, 2, 0, 1], b"a"], &[], &[0, 0]),
        one_page(
            DICTIONARY,
            &[&[FIXED, 2, 0, 10], &[1, 1, 0, 1], b"a"],
            &[],
            &[0, 0],
        ),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 0, 1, 1], b"ab"],
            &[0, 0, 4],
            &[0, 0],
        ),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 0, 1, 1], b"ab"],
            &[0, 0, 1],
            &[0, 0],
        ),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 0, 1, 1], b"ab"],
            &[],
            &[2, 0],
        ),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[2, 2, 0, 0, 1, 1], b"ab"],
            &[],
            &[1, 1],
        ),
        one_page(DICTIONARY, &[TEN_TEXTS, &[0, 0]], &[], &[0, 0]),
        one_page(
            DICTIONARY,
            &[TEN_TEXTS, &[1], &varint(1 << 23), &[0, 1], b"a"],
            &[],
            &[0, 0],
        ),
        // Bounds that are too long or malformed.
        one_page(0, &[TEN_TEXTS], &[0, 0, 0, 0], &[4, 0, 0]),
        one_page(
            0,
            &[TEN_TEXTS],
            &[0, 0, 0, 0],
            &[&[3, 33][..], &[0; 34]].concat(),
        ),
    ];
    for (i, (bytes, len)) in claims.iter().enumerate() {
        assert!(!decode_safely(bytes, *len), "claim {i}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn scrambled_indexes_are_harmless(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut bytes, len) = which.get(all_samples()).clone();
        for (at, byte) in edits {
            bytes[at.index(len - 8)] = byte;
        }
        seal_index(&mut bytes[..len]);
        decode_safely(&bytes, len);
    }

    #[test]
    fn scrambled_pages_are_harmless(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut bytes, len) = which.get(all_samples()).clone();
        let page = len..bytes.len();
        if !page.is_empty() {
            forge_page(&mut bytes, len, page, |page| {
                for (at, byte) in edits {
                    page[at.index(page.len())] = byte;
                }
            });
            decode_safely(&bytes, len);
        }
    }

    #[test]
    fn pages_of_noise_are_harmless(
        kind in 0u8..8,
        flags in 0u8..32,
        rows in 0u8..100,
        shared in prop::collection::vec(any::<u8>(), 0..20),
        tag in 0u8..20,
        page in prop::collection::vec(any::<u8>(), 0..80),
        zones in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let width = if kind == 6 { 4 } else { 0 };
        let page = [&[tag][..], &page].concat();
        let (bytes, len) = one_page(flags & !ZSTD, &[&[kind, width, 0, rows], &shared], &page, &zones);
        decode_safely(&bytes, len);
    }

    #[test]
    fn pages_of_numbers_of_noise_are_harmless(
        tag in prop_oneof![0u8..4, 16u8..18],
        page in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let (bytes, len) = one_page(0, &[TEN_INTS], &[&[tag][..], &page].concat(), ZONE);
        decode_safely(&bytes, len);
    }

    #[test]
    fn noise_is_harmless(noise in prop::collection::vec(any::<u8>(), 0..200), flags in 0u8..32) {
        prop_assert!(ColumnIndex::parse(&noise).is_err());
        prop_assert!(decode_all(&noise, noise.len() / 2).is_err());
        let index = index(flags, &[&noise]);
        decode_safely(&index, index.len());
        let _ = Zone::from_bytes(&noise);
    }
}
