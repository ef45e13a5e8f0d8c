//! Pages of integers of every kind.
#![no_main]

use varve_fuzz::damage::{Around, column};
use varve_fuzz::source::Source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut source = Source(data);
    let kind = (source.byte() % 4, 0);
    let rows = 1 + source.short() as u64 % 1024;
    let nulls = u64::from(source.byte()) % rows;
    let units: [&[u8]; 4] = [
        &[2, 0],
        &[200, 1, 14],
        &[128, 128, 128, 128, 64, 2],
        &[20, 18],
    ];
    let mapping = units[usize::from(source.byte() % 4)];
    let around = Around {
        flags: 0,
        kind,
        rows: (rows, nulls),
        mapping,
        zone: &[0, 9, 45],
    };
    let (bytes, index_len) = column(&around, source.0);
    varve_fuzz::check_column(&bytes, index_len);
});
