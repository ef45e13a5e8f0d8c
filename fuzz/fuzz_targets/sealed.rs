//! Compressed and encrypted streams.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    varve_fuzz::sealed::check(data);
});
