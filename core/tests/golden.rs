//! Columns written by version 2 of the column format decode for ever, to the same rows.
//!
//! `golden/column-v2.txt` holds a line each: name, SHA-256 of the rows, length of the index, encoded
//! bytes in hexadecimal. It was written once by `write_golden` and is not to be written again for
//! the same version. `golden/column-v2-cold.txt` holds what the cold tier writes since its codecs try
//! harder, where that differs (`write_golden_cold`), `golden/column-v2-filters.txt` columns with
//! filters (`write_golden_filters`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;

use common::pages::*;
use common::*;
use sha2::{Digest, Sha256};
use varve_core::paged::{self, ColumnIndex, Effort, Options, decode_all, encode};
use varve_core::{Column, Values};

const GOLDEN: &str = include_str!("golden/column-v2.txt");
const GOLDEN_COLD: &str = include_str!("golden/column-v2-cold.txt");
const GOLDEN_FILTERS: &str = include_str!("golden/column-v2-filters.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// Kind and rows of a column, and its zones, as one digest.
fn digest(bytes: &[u8], index_len: usize) -> String {
    let column = decode_all(bytes, index_len).unwrap();
    let index = ColumnIndex::parse(&bytes[..index_len]).unwrap();
    let zones: Vec<_> = (0..index.pages())
        .map(|page| hex(&index.zone(page).unwrap().to_bytes()))
        .collect();
    let plain = format!("{:?} {:?} {zones:?}", column.kind(), rows_of(&column));
    hex(&Sha256::digest(plain))
}

/// Decodes a line and compares it with its digest; its name and index.
fn check(line: &str) -> (&str, ColumnIndex) {
    let mut fields = line.split('\t');
    let mut field = || fields.next().unwrap();
    let (name, expected) = (field(), field());
    let index_len = field().parse().unwrap();
    let bytes = unhex(field());
    assert_eq!(digest(&bytes, index_len), expected, "{name}");
    (name, ColumnIndex::parse(&bytes[..index_len]).unwrap())
}

#[test]
fn version_2_decodes() {
    let mut codecs = BTreeSet::new();
    let mut kinds = HashSet::new();
    let mut full_pages = 0;
    for line in GOLDEN.lines() {
        let (_, index) = check(line);
        codecs.insert(paged::codec_name(index.codec()));
        kinds.insert(index.kind());
        full_pages += usize::from(index.pages() > 1);
    }
    assert_eq!(codecs.len(), 9, "{codecs:?}");
    assert!(kinds.len() >= 8, "{kinds:?}");
    assert!(full_pages > 20);
}

#[test]
fn version_2_of_the_cold_tier_decodes() {
    let mut codecs = BTreeSet::new();
    let mut kinds = HashSet::new();
    let mut full_pages = 0;
    let cold = |line: &&str| {
        let name = line.split('\t').next().unwrap_or_default();
        name.ends_with(&format!("{:?}", Effort::Small))
    };
    for line in GOLDEN.lines().filter(cold).chain(GOLDEN_COLD.lines()) {
        let (name, index) = check(line);
        assert!(cold(&name), "{name}");
        codecs.insert(paged::codec_name(index.codec()));
        kinds.insert(index.kind());
        full_pages += usize::from(index.pages() > 1);
    }
    for codec in ["constant", "dictionary", "pco", "raw", "zstd"] {
        assert!(codecs.contains(codec), "{codec} is not among {codecs:?}");
    }
    assert!(kinds.len() >= 8, "{kinds:?}");
    assert!(full_pages > 10);
    let packed = |line: &str| paged::codec_name(check(line).1.codec());
    let new: BTreeSet<_> = GOLDEN_COLD.lines().map(packed).collect();
    assert!(new.contains("pco") && new.contains("zstd"), "{new:?}");
}

/// Of each value of a column the page that it is on, and the pages that may hold it.
fn masks(bytes: &[u8], index_len: usize) -> Vec<(usize, u64)> {
    let column = decode_all(bytes, index_len).unwrap();
    let index = ColumnIndex::parse(&bytes[..index_len]).unwrap();
    let hashes = (0..column.rows()).filter_map(|row| Some((row, hash_of(&column, row)?)));
    hashes
        .map(|(row, hash)| {
            let piece = &bytes[index.filter_range(hash).unwrap()];
            (row / 1_024, index.filter_mask(hash, piece).unwrap())
        })
        .collect()
}

#[test]
fn version_2_with_filters_decodes() {
    let mut kinds = HashSet::new();
    let mut denied = 0;
    for line in GOLDEN_FILTERS.lines() {
        let (name, index) = check(line);
        let bytes = unhex(line.split('\t').nth(3).unwrap());
        let index_len = line.split('\t').nth(2).unwrap().parse().unwrap();
        for (page, mask) in masks(&bytes, index_len) {
            assert_eq!(mask >> page & 1, 1, "{name}");
            denied += index.pages() - mask.count_ones() as usize;
        }
        kinds.insert(index.kind());
    }
    assert!(kinds.len() >= 8, "{kinds:?}");
    assert!(denied > 1_000, "{denied}");
}

fn line(name: &str, column: &Column, options: impl Into<Options>) -> String {
    let encoded = encode(column, options).unwrap();
    let index_len = encoded.index_len as usize;
    format!(
        "{name}\t{}\t{index_len}\t{}\n",
        digest(&encoded.bytes, index_len),
        hex(&encoded.bytes)
    )
}

/// Lines of all kinds of columns.
fn lines(efforts: &[Effort]) -> Vec<String> {
    let mut lines = Vec::new();
    for rows in [20, 300, 1_100] {
        for (name, values) in textures(rows).into_iter().chain(more_textures(rows)) {
            if rows > 20 && (name.ends_with("noise") || name.ends_with("texts")) {
                continue;
            }
            let validities = match rows {
                1_100 => vec![None],
                _ => vec![None, validity(rows, |i| i % 5 == 3)],
            };
            for validity in validities {
                for effort in efforts {
                    let suffix = if validity.is_some() {
                        " with NULLs"
                    } else {
                        ""
                    };
                    let column = Column {
                        validity: validity.clone(),
                        values: values.clone(),
                    };
                    let name = format!("{rows} {name}{suffix} {effort:?}");
                    lines.push(line(&name, &column, *effort));
                }
            }
        }
    }
    lines
}

fn write(name: &str, lines: &[String]) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path, lines.concat()).unwrap();
}

#[test]
#[ignore = "writes the golden file; run once for a new format version"]
fn write_golden() {
    let mut lines = lines(&EFFORTS);
    // Full pages of some widths.
    for width in 0..64 {
        if !matches!(width, 0..8 | 31..34 | 62..) {
            continue;
        }
        let values = noise(1_024)
            .iter()
            .map(|n| (n & ((1 << width) - 1)) as i64)
            .collect();
        let name = format!("width {width}");
        lines.push(line(&name, &column(Values::I64(values)), Effort::Fast));
    }
    write("column-v2.txt", &lines);
}

#[test]
#[ignore = "writes the golden file of the cold tier; run once for a new format version"]
fn write_golden_cold() {
    let known: HashSet<&str> = GOLDEN.lines().collect();
    let mut lines = lines(&[Effort::Small]);
    let long = (0..1_100).map(|i| format!("order {} filled at the market", i * 7_919 % 10_007));
    lines.push(line(
        "1100 orders Small",
        &column(bytes_of(long)),
        Effort::Small,
    ));
    lines.retain(|line| !known.contains(line.trim_end()));
    write("column-v2-cold.txt", &lines);
}

#[test]
#[ignore = "writes the golden file of filters; run once for a new format version"]
fn write_golden_filters() {
    let mut lines = Vec::new();
    let orders = (0..1_100).map(|i| format!("order {}", i * 7_919 % 10_007));
    let mut columns = vec![
        ("1100 orders", column(bytes_of(orders))),
        ("odd doubles", column(Values::F64(odd_doubles()))),
        ("odd singles", column(Values::F32(odd_singles()))),
    ];
    for (name, values) in textures(60) {
        let validity = validity(60, |i| i % 5 == 3);
        columns.push((name, Column { validity, values }));
    }
    for (name, column) in columns {
        for effort in EFFORTS {
            let options = Options {
                effort,
                filters: true,
            };
            let encoded = encode(&column, options).unwrap();
            let index = ColumnIndex::parse(&encoded.bytes[..encoded.index_len as usize]);
            if index.unwrap().has_filters() {
                lines.push(line(&format!("{name} {effort:?}"), &column, options));
            }
        }
    }
    write("column-v2-filters.txt", &lines);
}
