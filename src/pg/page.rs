//! Rows as they lie in a heap page.
//!
//! See PostgreSQL's documentation, "Database Page Layout": a header, line pointers of four bytes each, rows.

use pgrx::pg_sys;

/// Bytes of the header.
const HEADER: usize = std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);

/// Flags of a line pointer to a row.
pub const LP_NORMAL: u32 = 1;

/// The rows that line pointers of a page point to, dead and invisible ones too; none where the page is not one.
pub fn rows(page: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lower = std::mem::offset_of!(pg_sys::PageHeaderData, pd_lower);
    let lower = page.get(lower..).and_then(|b| b.first_chunk());
    let lower = lower.map_or(0, |b| usize::from(u16::from_ne_bytes(*b)));
    let pointers = page.get(HEADER..lower).unwrap_or_default();
    pointers.as_chunks::<4>().0.iter().filter_map(|bytes| {
        let line = u32::from_ne_bytes(*bytes);
        // The fields of ItemIdData, from the lowest bit: offset (15), flags (2), length (15).
        let (start, flags, length) = (line & 0x7fff, line >> 15 & 3, line >> 17);
        let start = start as usize;
        (flags == LP_NORMAL)
            .then(|| page.get(start..start + length as usize))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_and_nonsense_is_none() {
        let mut page = vec![0u8; 8192];
        assert_eq!(rows(&page).count(), 0);
        let mut line = |n: usize, start: u32, flags: u32, length: u32| {
            let line = start | flags << 15 | length << 17;
            page[HEADER + 4 * n..HEADER + 4 * n + 4].copy_from_slice(&line.to_ne_bytes());
        };
        line(0, 8000, 1, 5);
        line(1, 0, 3, 0);
        line(2, 8190, 1, 5);
        line(3, 7000, 1, 2);
        page[12..14].copy_from_slice(&(HEADER as u16 + 16).to_ne_bytes());
        page[8000..8005].copy_from_slice(b"hello");
        let found: Vec<&[u8]> = rows(&page).collect();
        assert_eq!(found, [b"hello".as_slice(), &[0, 0]]);
        page[12..14].copy_from_slice(&u16::MAX.to_ne_bytes());
        assert_eq!(rows(&page).count(), 0);
        assert_eq!(rows(&page[..10]).count(), 0);
    }
}
