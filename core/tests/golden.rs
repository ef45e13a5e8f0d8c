//! Bytes written by format version 1 decode for ever, to the same rows.
//!
//! `golden/v1.txt` holds a line each: name, SHA-256 of the rows, encoded bytes, in hexadecimal. It
//! was written once by `write_golden` and is not to be written again for the same version.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write;

use common::*;
use sha2::{Digest, Sha256};
use varve_core::*;

const GOLDEN: &str = include_str!("golden/v1.txt");

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

/// Kind and rows of a column, or the fields of a header, as one digest.
fn digest(bytes: &[u8]) -> String {
    let plain = if let Ok(header) = SegmentHeader::from_bytes(bytes) {
        format!("{header:?}")
    } else {
        let column = decode_column(bytes).unwrap();
        format!("{:?} {:?}", column.kind(), rows_of(&column))
    };
    hex(&Sha256::digest(plain))
}

#[test]
fn version_1_decodes() {
    let mut codecs = std::collections::BTreeSet::new();
    let mut kinds = std::collections::HashSet::new();
    let mut headers = 0;
    for line in GOLDEN.lines() {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap();
        let (name, expected, bytes) = (field(), field(), unhex(field()));
        assert_eq!(digest(&bytes), expected, "{name}");
        match describe(&bytes) {
            Ok(info) => {
                codecs.insert(info.codec);
                kinds.insert(info.kind);
            }
            Err(_) => headers += 1,
        }
    }
    assert_eq!(codecs.len(), 7, "{codecs:?}");
    assert!(kinds.len() >= 8, "{kinds:?}");
    assert_eq!(headers, 1);
}

#[test]
#[ignore = "writes the golden file; run once for a new format version"]
fn write_golden() {
    let mut lines = String::new();
    let mut add = |name: &str, bytes: &[u8]| {
        writeln!(lines, "{name}\t{}\t{}", digest(bytes), hex(bytes)).unwrap();
    };
    for rows in [20, 400] {
        for (name, values) in textures(rows) {
            if rows > 20 && (name.ends_with("noise") || name.ends_with("texts")) {
                continue;
            }
            let validity = validity(rows, |i| i % 5 == 3);
            for (suffix, validity) in [("", None), (" with NULLs", validity)] {
                let column = Column {
                    validity,
                    values: values.clone(),
                };
                add(
                    &format!("{rows} {name}{suffix}"),
                    &encode_column(&column).unwrap(),
                );
            }
        }
    }
    let mut dead = Bitmap::new(100);
    dead.set(64, true);
    let header = SegmentHeader {
        rows: 100,
        columns: vec![ColumnEntry {
            attnum: 3,
            bytes: 1_000,
            nulls: 7,
            codec: 3,
        }],
        dead,
        origins: Some((0..100).map(|i| ((i / 9) << 16) | (i % 9)).collect()),
        sha256: segment_sha256([(3, &b"bytes"[..])].into_iter()),
        raw_bytes: 4_321,
    };
    add("header", &header.to_bytes());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.txt");
    std::fs::write(path, lines).unwrap();
}
