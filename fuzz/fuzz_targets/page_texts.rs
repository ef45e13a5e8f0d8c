//! Pages of texts and of values of fixed length, raw and of zstd, and pages of codes of a dictionary.
#![no_main]

use varve_fuzz::damage::{Around, DICTIONARY, column};
use varve_fuzz::source::Source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut source = Source(data);
    let form = source.byte() % 4;
    let rows = 1 + source.short() as u64 % 1024;
    let nulls = u64::from(source.byte()) % rows;
    // "a", "ab", "b", and three of two bytes.
    let short: &[u8] = &[3, 4, 0, 1, 0, 1, 1, 1, b'a', b'b', b'b'];
    let fixed: &[u8] = &[3, 6, 0, 1, 0, 2, 1, 2, b'a', b'a', b'b', b'c', b'c'];
    let bytes: &[u8] = &[3, 0, 0];
    let (flags, kind, mapping, zone): (u8, (u8, u64), &[u8], &[u8]) = match form {
        0 => (0, (7, 0), &[], bytes),
        1 => (0, (6, 1 + u64::from(source.byte())), &[], bytes),
        2 => (DICTIONARY, (7, 0), short, &[0, 2]),
        _ => (DICTIONARY, (6, 2), fixed, &[1, 1]),
    };
    let around = Around {
        flags,
        kind,
        rows: (rows, nulls),
        mapping,
        zone,
    };
    let (bytes, index_len) = column(&around, source.0);
    varve_fuzz::check_column(&bytes, index_len);
});
