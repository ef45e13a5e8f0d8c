//! Bitmaps and zones.
#![no_main]

use varve_core::paged::Zone;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(zone) = Zone::from_bytes(data) {
        let again = Zone::from_bytes(&zone.to_bytes());
        assert_eq!(format!("{again:?}"), format!("Ok({zone:?})"));
        let mut all = Zone::empty();
        all.merge(&zone);
        all.merge(&zone);
    }
    if let Some((len, bytes)) = data.split_first_chunk::<2>() {
        varve_fuzz::check_bitmap(bytes, usize::from(u16::from_le_bytes(*len)));
    }
});
