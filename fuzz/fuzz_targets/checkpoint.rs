//! What a checkpoint remembers of a chunk, and blocks of entries.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    varve_fuzz::checkpoint::check(data);
});
