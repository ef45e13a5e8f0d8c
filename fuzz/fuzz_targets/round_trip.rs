//! What is encoded comes back, whatever the effort, and the zones tell the truth.
#![no_main]

use varve_core::paged::{Effort, Options, decode_all, encode};
use varve_fuzz::source::{Source, column};
use varve_fuzz::{check_column, same};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let column = column(&mut Source(data));
    let ways = [Effort::Fast, Effort::Small]
        .into_iter()
        .flat_map(|effort| [false, true].map(|filters| Options { effort, filters }));
    for options in ways {
        let encoded = encode(&column, options).expect("a column that can be encoded");
        let index_len = encoded.index_len as usize;
        let decoded = decode_all(&encoded.bytes, index_len).expect("an encoded column");
        same(&column, &decoded);
        assert!(check_column(&encoded.bytes, index_len));
    }
});
