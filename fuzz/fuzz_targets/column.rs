//! Encoded columns: an index, and its pages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((len, bytes)) = data.split_first_chunk::<2>() {
        varve_fuzz::check_column(bytes, usize::from(u16::from_le_bytes(*len)));
    }
});
