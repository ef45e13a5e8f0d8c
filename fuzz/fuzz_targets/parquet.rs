//! Files of snapshots.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    varve_fuzz::parquet::check(data);
});
