//! Whole segments: a header, and a body with the columns that it lists.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((header, body)) = varve_fuzz::split(data) {
        varve_fuzz::check_segment(header, body);
    }
});
