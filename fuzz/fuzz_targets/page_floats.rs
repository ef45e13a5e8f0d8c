//! Pages of floats, with decimals and without.
#![no_main]

use varve_fuzz::damage::{Around, column};
use varve_fuzz::source::Source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut source = Source(data);
    let kind = (4 + source.byte() % 2, 0);
    let rows = 1 + source.short() as u64 % 1024;
    let nulls = u64::from(source.byte()) % rows;
    let scale = match source.byte() % 16 {
        15 => 255,
        scale => scale,
    };
    let units: [&[u8]; 3] = [&[2, 0], &[200, 1, 14], &[128, 128, 128, 128, 64, 2]];
    let mapping = [&[scale], units[usize::from(source.byte() % 3)]].concat();
    let around = Around {
        flags: 0,
        kind,
        rows: (rows, nulls),
        mapping: &mapping,
        zone: &[0; 24],
    };
    let (bytes, index_len) = column(&around, source.0);
    varve_fuzz::check_column(&bytes, index_len);
});
