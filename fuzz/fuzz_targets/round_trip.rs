//! What is encoded comes back, whatever the effort, and the zones tell the truth.
#![no_main]

use varve_core::paged::{Effort, decode_all, encode};
use varve_fuzz::source::{Source, column};
use varve_fuzz::{check_column, same};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let column = column(&mut Source(data));
    for effort in [Effort::Fast, Effort::Small] {
        let encoded = encode(&column, effort).expect("a column that can be encoded");
        let index_len = encoded.index_len as usize;
        let decoded = decode_all(&encoded.bytes, index_len).expect("an encoded column");
        same(&column, &decoded);
        assert!(check_column(&encoded.bytes, index_len));
    }
});
