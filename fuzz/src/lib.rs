//! What the fuzz targets share.
//!
//! Targets are built with `--cfg fuzzing`, which makes varve-core take every checksum for right: what a fuzzer changes
//! gets as far as the decoders.

#![allow(clippy::unwrap_used, reason = "a panic is what a fuzzer looks for")]

pub mod checkpoint;
pub mod damage;
pub mod parquet;
pub mod sealed;
#[path = "../../core/tests/common/sound.rs"]
mod sound;
pub mod source;

use sound::{check_filters, check_page};
use varve_core::paged::{ColumnIndex, Page, decode_all};
use varve_core::{Bitmap, Column, ColumnEntry, Kind, SegmentHeader, Values};

/// Columns of more bytes than that are not decoded as a whole: they may, but it takes long.
const MOST: usize = 1 << 24;

/// Decoding must end in an error, or in rows that hang together. Tells which.
pub fn check_column(bytes: &[u8], index_len: usize) -> bool {
    let Some(Ok(index)) = bytes.get(..index_len).map(ColumnIndex::parse) else {
        assert!(decode_all(bytes, index_len).is_err());
        return false;
    };
    assert!(index.memory() < 1 << 27);
    assert_eq!(index.summary().rows as usize, index.rows());
    let mut page = Page::new();
    let mut sound = true;
    for i in 0..index.pages() {
        let range = index.page_range(i).unwrap();
        sound &= check_page(&index, i, bytes.get(range).unwrap_or_default(), &mut page);
    }
    check_filters(&index, bytes);
    if expected_bytes(&index) > MOST {
        return sound;
    }
    let whole = decode_all(bytes, index_len);
    if let Ok(column) = &whole {
        assert!(sound);
        assert_eq!(column.rows(), index.rows());
        assert_eq!(column.kind(), index.kind());
        assert_eq!(column.null_count(), index.summary().nulls as usize);
    }
    whole.is_ok()
}

/// Bytes that the column's values may take.
fn expected_bytes(index: &ColumnIndex) -> usize {
    let width = match (index.dictionary(), index.kind()) {
        (Some(dictionary), _) => dictionary.iter().map(<[u8]>::len).max().unwrap_or(0),
        (None, Kind::Fixed { len }) => len,
        _ => 8,
    };
    width * index.rows()
}

/// A header must be refused, or be valid and come back.
pub fn check_header(bytes: &[u8]) -> Option<SegmentHeader> {
    let header = SegmentHeader::from_bytes(bytes).ok()?;
    assert_eq!(header.validate(), Ok(()));
    let again = SegmentHeader::from_bytes(&header.to_bytes().unwrap()).unwrap();
    // NaN in a zone is not equal to itself, but prints alike.
    assert_eq!(format!("{again:?}"), format!("{header:?}"));
    Some(header)
}

/// Reads a segment as varve does: by its header, column after column.
pub fn check_segment(header: &[u8], body: &[u8]) {
    let Some(header) = check_header(header) else {
        return;
    };
    let mut begin = 0;
    for entry in &header.columns {
        let end = begin + entry.bytes as usize;
        if let Some(bytes) = body.get(begin..end) {
            check_entry(&header, entry, bytes);
        }
        begin = end;
    }
    assert_eq!(begin, header.body_len());
}

fn check_entry(header: &SegmentHeader, entry: &ColumnEntry, bytes: &[u8]) {
    let sound = check_column(bytes, entry.index_len as usize);
    let Ok(index) = ColumnIndex::parse(&bytes[..entry.index_len as usize]) else {
        return;
    };
    if sound && index.rows() == header.rows as usize {
        assert_eq!(header.dead.len(), index.rows());
    }
}

/// A bitmap must be refused, or be of that length and come back.
pub fn check_bitmap(bytes: &[u8], len: usize) {
    if let Ok(bitmap) = Bitmap::from_bytes(bytes, len) {
        assert_eq!(bitmap.len(), len);
        let ones = (0..len).filter(|i| bitmap.get(*i)).count();
        assert_eq!(ones, bitmap.count_ones());
        assert_eq!(Bitmap::from_bytes(&bitmap.to_bytes(), len), Ok(bitmap));
    }
}

/// Splits off a part whose length is in the first two bytes.
pub fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk::<2>()?;
    Some(rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len())))
}

/// The reverse of [`split`].
pub fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    let len = first.len() as u16;
    [&len.to_le_bytes(), first, second].concat()
}

/// Panics unless both columns have the same rows, bit for bit.
pub fn same(left: &Column, right: &Column) {
    assert_eq!(left.kind(), right.kind());
    assert_eq!(left.rows(), right.rows());
    for i in 0..left.rows() {
        assert_eq!(left.is_null(i), right.is_null(i), "row {i}");
        if left.is_null(i) {
            continue;
        }
        let equal = match (&left.values, &right.values) {
            (Values::I8(a), Values::I8(b)) => a[i] == b[i],
            (Values::I16(a), Values::I16(b)) => a[i] == b[i],
            (Values::I32(a), Values::I32(b)) => a[i] == b[i],
            (Values::I64(a), Values::I64(b)) => a[i] == b[i],
            (Values::F32(a), Values::F32(b)) => a[i].to_bits() == b[i].to_bits(),
            (Values::F64(a), Values::F64(b)) => a[i].to_bits() == b[i].to_bits(),
            _ => left.bytes_at(i) == right.bytes_at(i),
        };
        assert!(equal, "row {i}");
    }
}
