//! Pages of pco, and its metadata.
#![no_main]

use varve_fuzz::damage::{Around, PCO, column, varint};
use varve_fuzz::source::Source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((meta, page)) = varve_fuzz::split(data) else {
        return;
    };
    let mut source = Source(page);
    let rows = 1 + source.short() as u64 % 1024;
    let mut mapping = vec![2, 0];
    varint(&mut mapping, meta.len() as u64);
    mapping.extend_from_slice(meta);
    let around = Around {
        flags: PCO,
        kind: (3, 0),
        rows: (rows, 0),
        mapping: &mapping,
        zone: &[0, 9, 45],
    };
    let (bytes, index_len) = column(&around, source.0);
    varve_fuzz::check_column(&bytes, index_len);
});
