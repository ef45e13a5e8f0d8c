//! Columns in pages: round trips that verify the zones too, samples of every encoding, and bytes
//! forged with right checksums.

use varve_core::paged::{self, *};
use varve_core::{Column, Values};
use xxhash_rust::xxh3::xxh3_64;

use super::sound::check_page;
use super::*;

pub const EFFORTS: [Effort; 2] = [Effort::Fast, Effort::Small];

/// Encodes and decodes; verifies what the index says against the rows; returns the encoded column.
pub fn paged_round_trip(column: &Column, effort: Effort) -> EncodedColumn {
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
            paged::codec_name(encoded.codec),
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
    assert_ne!(paged::codec_name(index.codec()), "unknown");
    assert_eq!(encoded.nulls as usize, column.null_count());
    assert!(same_zone(index.summary(), &encoded.summary));
    assert_eq!(
        Zone::from_bytes(&encoded.summary.to_bytes())
            .unwrap()
            .to_bytes(),
        encoded.summary.to_bytes()
    );
    check_zones(&index, &encoded.bytes, column);
    let mut page = Page::new();
    for i in 0..index.pages() {
        let stored = &encoded.bytes[index.page_range(i).unwrap()];
        assert!(check_page(&index, i, stored, &mut page));
    }
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
    let has_negative_zero = floats.iter().any(|v| v.to_bits() == (-0.0f64).to_bits());
    let bound = |value: f64| match value {
        v if v.is_nan() => f64::NAN,
        0.0 if has_negative_zero => -0.0,
        0.0 => 0.0,
        v => v,
    };
    let least = numbers().reduce(f64::min).unwrap_or(f64::NAN);
    assert_eq!(min.to_bits(), bound(least).to_bits());
    if numbers().count() < floats.len() {
        assert!(max.is_nan());
    } else {
        let greatest = floats.iter().copied().reduce(f64::max).unwrap();
        assert_eq!(max.to_bits(), bound(greatest).to_bits());
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

/// Noise, the same every time.
pub fn noise(rows: usize) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..rows)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
        .collect()
}

/// What the textures lack: columns that are patched, in units, or of mixed floats.
pub fn more_textures(rows: usize) -> Vec<(&'static str, Values)> {
    let noise = noise(rows);
    let minute = 60_000_000;
    let walk = |step: i64| {
        let mut now = 0i64;
        noise
            .iter()
            .map(move |n| {
                now += (n % 200) as i64 * step - 99 * step;
                now
            })
            .collect::<Vec<_>>()
    };
    vec![
        (
            "minutes with gaps",
            Values::I64(
                (0..rows as i64)
                    .map(|i| (i + i / 390 * 1_050) * minute)
                    .collect(),
            ),
        ),
        (
            "hundreds with outliers",
            Values::I32(
                noise
                    .iter()
                    .map(|n| (if n % 97 == 0 { n % 9_000_000 } else { n % 500 }) as i32 * 100 + 7)
                    .collect(),
            ),
        ),
        (
            "around zero with outliers",
            Values::I64(
                noise
                    .iter()
                    .map(|n| match n % 101 {
                        0 => i64::MIN,
                        1 => i64::MAX,
                        _ => (n % 64) as i64 - 32,
                    })
                    .collect(),
            ),
        ),
        ("walk", Values::I64(walk(1))),
        (
            "decimals in fives",
            Values::F64(walk(5).iter().map(|n| *n as f64 / 100.0).collect()),
        ),
        (
            "singles as doubles",
            Values::F64(
                noise
                    .iter()
                    .map(|n| f64::from((n % 100_000) as f32 / 7.0))
                    .collect(),
            ),
        ),
        (
            "half decimals",
            Values::F64(
                noise
                    .iter()
                    .enumerate()
                    .map(|(i, n)| match i / 500 % 3 {
                        2 => (*n as f64).sqrt(),
                        _ => (n % 9_000) as f64 / 1_000.0,
                    })
                    .collect(),
            ),
        ),
        (
            "wide walk of floats",
            Values::F64(walk(1).iter().map(|n| (*n as f64).exp2().sqrt()).collect()),
        ),
        (
            "keys",
            bytes_of((0..rows).map(|i| format!("{:x}", (i / 20) as u64 * 0x1234_5678_9abc))),
        ),
        (
            "long texts",
            bytes_of(noise.iter().map(|n| "ab".repeat((n % 60) as usize + 1))),
        ),
    ]
}

/// Small encoded columns of every kind and encoding, with and without NULLs, with and without
/// filters: bytes and length of the index.
pub fn samples() -> Vec<(Vec<u8>, usize)> {
    samples_of(&EFFORTS)
}

/// The same of some efforts only.
pub fn samples_of(efforts: &[Effort]) -> Vec<(Vec<u8>, usize)> {
    let mut samples = Vec::new();
    for rows in [0, 1, 9, 300] {
        for (_, values) in textures(rows).into_iter().chain(more_textures(rows)) {
            for validity in [None, validity(rows, |i| i % 4 == 1)] {
                for effort in efforts {
                    let values = values.clone();
                    let validity = validity.clone();
                    let column = Column { validity, values };
                    for filters in [false, true] {
                        let effort = *effort;
                        let encoded = encode(&column, Options { effort, filters }).unwrap();
                        samples.push((encoded.bytes, encoded.index_len as usize));
                    }
                }
            }
        }
    }
    samples.sort();
    samples.dedup();
    samples
}

/// Columns of several pages, with filters: bytes and length of the index.
pub fn filtered_samples() -> Vec<(Vec<u8>, usize)> {
    let noise = noise(2_100);
    let mut texts: Vec<String> = noise.iter().map(|n| format!("{:x}", n % 999)).collect();
    texts[1_024..2_048].fill("2a".into());
    let columns = [
        Column {
            validity: None,
            values: Values::I64(noise.iter().map(|n| n.cast_signed()).collect()),
        },
        Column {
            validity: validity(2_100, |i| i < 1_024 || i % 7 == 0),
            values: bytes_of(texts),
        },
    ];
    let options = |effort| Options {
        effort,
        filters: true,
    };
    columns
        .iter()
        .flat_map(|column| EFFORTS.map(|effort| encode(column, options(effort)).unwrap()))
        .map(|encoded| (encoded.bytes, encoded.index_len as usize))
        .collect()
}

/// Where the pages of a column are.
pub fn pages_of(index: &ColumnIndex, index_len: usize) -> std::ops::Range<usize> {
    let last = index.page_range(index.pages().wrapping_sub(1));
    index_len..last.map_or(index_len, |range| range.end)
}

/// Puts the right checksum behind an index.
pub fn seal_index(index: &mut [u8]) {
    let body = index.len().saturating_sub(8);
    let sum = xxh3_64(&index[..body]);
    index[body..].copy_from_slice(&sum.to_le_bytes());
}

/// Replaces bytes of a page, and its checksum in the index, which must not be compressed.
pub fn forge_page(
    bytes: &mut [u8],
    index_len: usize,
    page: std::ops::Range<usize>,
    edit: impl FnOnce(&mut [u8]),
) -> bool {
    let old = (xxh3_64(&bytes[page.clone()]) as u32).to_le_bytes();
    edit(&mut bytes[page.clone()]);
    let new = (xxh3_64(&bytes[page]) as u32).to_le_bytes();
    let index = &mut bytes[..index_len];
    let Some(at) = index.windows(4).position(|window| window == old) else {
        return false;
    };
    index[at..at + 4].copy_from_slice(&new);
    seal_index(index);
    true
}

/// The hash of a row's value; `None` of a NULL.
pub fn hash_of(column: &Column, row: usize) -> Option<ValueHash> {
    (!column.is_null(row)).then(|| match &column.values {
        Values::I8(v) => ValueHash::of_int(v[row].into()),
        Values::I16(v) => ValueHash::of_int(v[row].into()),
        Values::I32(v) => ValueHash::of_int(v[row].into()),
        Values::I64(v) => ValueHash::of_int(v[row]),
        Values::F32(v) => ValueHash::of_float(v[row].into()),
        Values::F64(v) => ValueHash::of_float(v[row]),
        _ => ValueHash::of_bytes(column.bytes_at(row).unwrap()),
    })
}
