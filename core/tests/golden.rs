//! Columns written by version 2 of the column format decode for ever, to the same rows.
//!
//! `golden/column-v2.txt` holds a line each: name, SHA-256 of the rows, length of the index, encoded
//! bytes in hexadecimal. It was written once by `write_golden` and is not to be written again for
//! the same version.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;

use common::pages::*;
use common::*;
use sha2::{Digest, Sha256};
use varve_core::paged::{self, ColumnIndex, decode_all, encode};
use varve_core::{Column, Values};

const GOLDEN: &str = include_str!("golden/column-v2.txt");

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

#[test]
fn version_2_decodes() {
    let mut codecs = BTreeSet::new();
    let mut kinds = HashSet::new();
    let mut full_pages = 0;
    for line in GOLDEN.lines() {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap();
        let (name, expected) = (field(), field());
        let index_len = field().parse().unwrap();
        let bytes = unhex(field());
        assert_eq!(digest(&bytes, index_len), expected, "{name}");
        let index = ColumnIndex::parse(&bytes[..index_len]).unwrap();
        codecs.insert(paged::codec_name(index.codec()));
        kinds.insert(index.kind());
        full_pages += usize::from(index.pages() > 1);
    }
    assert_eq!(codecs.len(), 9, "{codecs:?}");
    assert!(kinds.len() >= 8, "{kinds:?}");
    assert!(full_pages > 20);
}

#[test]
#[ignore = "writes the golden file; run once for a new format version"]
fn write_golden() {
    let mut lines = String::new();
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
                for effort in EFFORTS {
                    let suffix = if validity.is_some() {
                        " with NULLs"
                    } else {
                        ""
                    };
                    let column = Column {
                        validity: validity.clone(),
                        values: values.clone(),
                    };
                    let encoded = encode(&column, effort).unwrap();
                    let index_len = encoded.index_len as usize;
                    writeln!(
                        lines,
                        "{rows} {name}{suffix} {effort:?}\t{}\t{index_len}\t{}",
                        digest(&encoded.bytes, index_len),
                        hex(&encoded.bytes)
                    )
                    .unwrap();
                }
            }
        }
    }
    // Full pages of some widths.
    for width in 0..64 {
        if !matches!(width, 0..8 | 31..34 | 62..) {
            continue;
        }
        let values = noise(1_024)
            .iter()
            .map(|n| (n & ((1 << width) - 1)) as i64)
            .collect();
        let encoded = encode(&column(Values::I64(values)), EFFORTS[0]).unwrap();
        let index_len = encoded.index_len as usize;
        writeln!(
            lines,
            "width {width}\t{}\t{index_len}\t{}",
            digest(&encoded.bytes, index_len),
            hex(&encoded.bytes)
        )
        .unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/column-v2.txt");
    std::fs::write(path, lines).unwrap();
}
