//! Headers of segments.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    varve_fuzz::check_header(data);
});
