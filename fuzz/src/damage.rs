//! Columns of one page that are put together around a page of the fuzzer's.

/// Flags of an index.
pub const NULLS: u8 = 2;
/// Numbers are packed by pco.
pub const PCO: u8 = 4;
/// Values are places in a dictionary.
pub const DICTIONARY: u8 = 8;

/// Appends a varint.
pub fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// What stands around a page.
pub struct Around<'a> {
    /// Flags but for that of NULLs.
    pub flags: u8,
    /// Kind and width.
    pub kind: (u8, u64),
    /// Rows, and how many of them are NULL.
    pub rows: (u64, u64),
    /// The mapping, and what follows before the NULLs.
    pub mapping: &'a [u8],
    /// The zone.
    pub zone: &'a [u8],
}

/// The column and the length of its index. Checksums are zeros, see [`crate`].
pub fn column(around: &Around<'_>, page: &[u8]) -> (Vec<u8>, usize) {
    let (rows, nulls) = around.rows;
    let mut bytes = vec![b'v', b'C', 2, around.flags];
    bytes.push(around.kind.0);
    varint(&mut bytes, around.kind.1);
    bytes.push(0);
    varint(&mut bytes, rows);
    bytes.extend_from_slice(around.mapping);
    if nulls > 0 {
        bytes[3] |= NULLS;
        varint(&mut bytes, nulls);
    }
    varint(&mut bytes, page.len() as u64);
    if !page.is_empty() {
        bytes.extend([0; 4]);
    }
    if nulls < rows {
        bytes.extend_from_slice(around.zone);
    }
    bytes.extend([0; 8]);
    let index_len = bytes.len();
    bytes.extend_from_slice(page);
    (bytes, index_len)
}
