//! Writes what the targets begin with, out of the golden files of varve-core: `seeds DIRECTORY` makes a folder a target.

#![allow(
    clippy::unwrap_used,
    reason = "a developer's tool that reads files of the repository"
)]

use std::path::Path;
use varve_core::header::RowsChecksum;
use varve_core::paged::{ColumnIndex, Effort, codec_name};
use varve_core::{Bitmap, ColumnEntry, Kind, SegmentHeader, SortKey, segment_sha256};
use varve_fuzz::joined;

const COLUMNS: &str = include_str!("../../../core/tests/golden/column-v2.txt");
const FILTERS: &str = include_str!("../../../core/tests/golden/column-v2-filters.txt");
const HEADER: &str = include_str!("../../../core/tests/golden/header-v2.txt");

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

struct Writer<'a>(&'a Path);

impl Writer<'_> {
    fn write(&self, target: &str, name: impl std::fmt::Display, bytes: &[u8]) {
        let folder = self.0.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("golden-{name}")), bytes).unwrap();
    }
}

fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| {
        eprintln!("usage: seeds DIRECTORY");
        std::process::exit(2)
    });
    let writer = Writer(Path::new(&directory));
    writer.write("header", 0, &unhex(HEADER.trim()));
    for (n, seed) in varve_fuzz::checkpoint::seeds().iter().enumerate() {
        writer.write("checkpoint", n, seed);
    }
    for (n, line) in COLUMNS.lines().chain(FILTERS.lines()).enumerate() {
        let mut fields = line.split('\t').skip(2);
        let index_len: usize = fields.next().unwrap().parse().unwrap();
        let bytes = unhex(fields.next().unwrap());
        let index = ColumnIndex::parse(&bytes[..index_len]).unwrap();
        let (index_bytes, _) = bytes.split_at(index_len);
        let mut seed = (index_len as u16).to_le_bytes().to_vec();
        seed.extend_from_slice(&bytes);
        writer.write("column", n, &seed);
        segment(&writer, n, &index, index_len, &bytes);
        page(&writer, n, &index, index_bytes, &bytes);
        // Any bytes make a column for these two.
        writer.write("round_trip", n, &bytes);
        writer.write(
            "damage",
            n,
            &joined(&index_bytes[4..index_len.min(24)], &bytes),
        );
        writer.write("parts", n, &index.summary().to_bytes());
    }
    for (n, seed) in varve_fuzz::parquet::seeds().iter().enumerate() {
        writer.write("parquet", n, seed);
    }
    for (n, seed) in varve_fuzz::sealed::seeds().iter().enumerate() {
        writer.write("sealed", n, seed);
    }
    for len in [0, 1, 64, 300] {
        let mut bits = Bitmap::new(len);
        (0..len).step_by(3).for_each(|i| bits.set(i, true));
        for (n, bitmap) in [bits, Bitmap::new(len), Bitmap::full(len)]
            .iter()
            .enumerate()
        {
            let seed = [&(len as u16).to_le_bytes(), &bitmap.to_bytes()[..]].concat();
            writer.write("parts", format!("bits-{len}-{n}"), &seed);
        }
    }
}

/// A segment of that column alone.
fn segment(writer: &Writer<'_>, n: usize, index: &ColumnIndex, index_len: usize, bytes: &[u8]) {
    let rows = index.rows() as u32;
    let header = SegmentHeader {
        rows,
        columns: vec![ColumnEntry {
            attnum: 1,
            kind: index.kind(),
            codec: index.codec(),
            form: 0,
            bytes: bytes.len() as u32,
            index_len: index_len as u32,
            summary: index.summary().clone(),
        }],
        order: vec![SortKey {
            attnum: 1,
            operator: 97,
            collation: 0,
        }],
        dead: Bitmap::new(index.rows()),
        origins: None,
        sha256: segment_sha256([(1, bytes)].into_iter()),
        raw_bytes: 8 * u64::from(rows),
        location: 1,
        siblings: 1,
        effort: Effort::Fast,
        // With and without.
        checksum: (n % 2 == 0).then_some(RowsChecksum {
            attributes: 1,
            fingerprint: 2,
            total: 3,
        }),
    };
    let header = header.to_bytes().unwrap();
    writer.write("header", n, &header);
    writer.write("segment", n, &joined(&header, bytes));
}

/// Its first page, for the target of its kind.
fn page(writer: &Writer<'_>, n: usize, index: &ColumnIndex, index_bytes: &[u8], bytes: &[u8]) {
    let Some(range) = index.page_range(0).filter(|range| !range.is_empty()) else {
        return;
    };
    let zone = index.zone(0).unwrap();
    let page = &bytes[range];
    let rows = (zone.rows as u16).wrapping_sub(1).to_le_bytes();
    let nulls = zone.nulls as u8;
    let packed_by_pco = index_bytes[3] & varve_fuzz::damage::PCO != 0;
    let (target, head): (_, Vec<u8>) = match index.kind() {
        _ if packed_by_pco => {
            if let Some(meta) = pco_meta(index, index_bytes) {
                writer.write("page_pco", n, &joined(&meta, &[&rows, page].concat()));
            }
            return;
        }
        Kind::F32 => ("page_floats", vec![0, rows[0], rows[1], nulls, 2, 0]),
        Kind::F64 => ("page_floats", vec![1, rows[0], rows[1], nulls, 2, 0]),
        Kind::Bytes if index.dictionary().is_some() => {
            ("page_texts", vec![2, rows[0], rows[1], nulls])
        }
        Kind::Bytes => ("page_texts", vec![0, rows[0], rows[1], nulls]),
        Kind::Fixed { .. } if index.dictionary().is_some() => {
            ("page_texts", vec![3, rows[0], rows[1], nulls])
        }
        Kind::Fixed { len } => (
            "page_texts",
            vec![1, rows[0], rows[1], nulls, len as u8 - 1],
        ),
        _ => ("page_ints", vec![3, rows[0], rows[1], nulls, 0]),
    };
    writer.write(
        target,
        format!("{n}-{}", codec_name(index.codec())),
        &[&head, page].concat(),
    );
}

/// The metadata of pco in an index that is not compressed, of integers.
fn pco_meta(index: &ColumnIndex, bytes: &[u8]) -> Option<Vec<u8>> {
    let integers = matches!(index.kind(), Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64);
    if bytes[3] & 1 != 0 || !integers {
        return None;
    }
    // Magic, version, flags; kind, width, codec; rows, unit, base, length.
    let mut rest = &bytes[7..];
    let mut number = || {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, tail) = rest.split_first()?;
            rest = tail;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    (number()?, number()?, number()?);
    let len = number()? as usize;
    rest.get(..len).map(<[u8]>::to_vec)
}
