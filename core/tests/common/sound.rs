//! Whether a page of stored bytes that anybody may have written hangs together. The fuzz targets use it too.

use varve_core::Kind;
use varve_core::paged::{ColumnIndex, Page, PageValues, ValueHash};

/// Filters must be refused, or tell of pages that there are. How many pieces were asked, and how many told.
pub fn check_filters(index: &ColumnIndex, column: &[u8]) -> (usize, usize) {
    let (mut asked, mut told) = (0, 0);
    for value in 0..64 {
        for hash in [
            ValueHash::of_int(value),
            ValueHash::of_bytes(&[value as u8]),
        ] {
            let Some(range) = index.filter_range(hash) else {
                assert!(!index.has_filters());
                assert!(index.filter_mask(hash, column).is_err());
                continue;
            };
            let bytes = column.get(range).unwrap_or_default();
            asked += 1;
            if let Ok(mask) = index.filter_mask(hash, bytes) {
                assert_eq!(mask.checked_shr(index.pages() as u32).unwrap_or(0), 0);
                told += 1;
            }
            let shorter = bytes.split_last().map_or(bytes, |(_, rest)| rest);
            assert!(index.filter_mask(hash, shorter).is_err());
            assert!(index.filter_mask(hash, &[bytes, &[0]].concat()).is_err());
        }
    }
    (asked, told)
}

/// A page must not decode, or hang together.
pub fn check_page(index: &ColumnIndex, i: usize, stored: &[u8], page: &mut Page) -> bool {
    let zone = index.zone(i).unwrap();
    if index.decode(i, stored, page).is_err() {
        assert_eq!(page.rows(), 0);
        let mut picked = Page::new();
        let _ = index.decode_rows(i, stored, &[0, 1, 1_023, u16::MAX], &mut picked);
        return false;
    }
    check_picked(index, i, stored, page);
    assert_eq!(page.rows(), zone.rows as usize);
    assert_eq!(page.null_count(), zone.nulls as usize);
    let nulls = (0..page.rows()).filter(|row| page.is_null(*row)).count();
    assert_eq!(nulls, page.null_count());
    let rows = match page.values() {
        PageValues::Ints(values) => {
            let fits = |bits: u32| values.iter().all(|v| v >> (bits - 1) == v >> 63);
            assert!(match index.kind() {
                Kind::I8 => fits(8),
                Kind::I16 => fits(16),
                Kind::I32 => fits(32),
                kind => kind == Kind::I64,
            });
            values.len()
        }
        PageValues::F32(values) => values.len(),
        PageValues::F64(values) => values.len(),
        PageValues::Codes(codes) => {
            let distinct = index.dictionary().unwrap().len();
            assert!(codes.iter().all(|code| (*code as usize) < distinct.max(1)));
            codes.len()
        }
        PageValues::Bytes { offsets, data } => {
            assert!(offsets.is_sorted());
            assert_eq!(*offsets.last().unwrap() as usize, data.len());
            offsets.len() - 1
        }
        PageValues::Fixed { len, data } => {
            assert_eq!(data.len(), len * page.rows());
            page.rows()
        }
    };
    assert_eq!(rows, page.rows());
    true
}

/// Rows of a page that decodes are the same when they are decoded alone.
fn check_picked(index: &ColumnIndex, i: usize, stored: &[u8], page: &Page) {
    let last = page.rows() as u16 - 1;
    let mut picked = Page::new();
    for rows in [
        vec![0],
        vec![last],
        vec![last / 3],
        vec![0, last / 2, last / 2 + 1, last.saturating_sub(1), last],
        (0..=last).step_by(17).collect(),
        (0..=last).collect(),
    ] {
        index.decode_rows(i, stored, &rows, &mut picked).unwrap();
        assert_eq!(picked.rows(), page.rows());
        assert_eq!(picked.validity(), page.validity());
        for row in rows
            .iter()
            .map(|row| usize::from(*row))
            .filter(|row| *row < page.rows())
        {
            let same = match (picked.values(), page.values()) {
                (PageValues::Ints(a), PageValues::Ints(b)) => a[row] == b[row],
                (PageValues::F32(a), PageValues::F32(b)) => a[row].to_bits() == b[row].to_bits(),
                (PageValues::F64(a), PageValues::F64(b)) => a[row].to_bits() == b[row].to_bits(),
                (PageValues::Codes(a), PageValues::Codes(b)) => a[row] == b[row],
                (a, b) => a == b,
            };
            assert!(same, "row {row} of page {i}");
        }
    }
}
