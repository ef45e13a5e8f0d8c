//! Encoded columns of all textures, with a few bytes changed, put in or taken out.
#![no_main]

use varve_core::paged::{Effort, Options, encode};
use varve_fuzz::check_column;
use varve_fuzz::source::{Source, column};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((edits, data)) = varve_fuzz::split(data) else {
        return;
    };
    let mut edits = Source(edits);
    let how = edits.byte();
    let effort = match how % 2 {
        0 => Effort::Fast,
        _ => Effort::Small,
    };
    let options = Options {
        effort,
        filters: how & 2 != 0,
    };
    let Ok(encoded) = encode(&column(&mut Source(data)), options) else {
        return;
    };
    let mut bytes = encoded.bytes;
    let mut index_len = encoded.index_len as usize;
    for _ in 0..16 {
        if edits.0.is_empty() || bytes.is_empty() {
            break;
        }
        let (how, value) = (edits.byte(), edits.byte());
        // Half of them where the index ends and the first page begins.
        let at = match how & 0x40 {
            0 => edits.short() % bytes.len(),
            _ => (index_len + usize::from(edits.byte())).saturating_sub(64) % bytes.len(),
        };
        match how % 6 {
            0 => bytes[at] ^= value,
            1 => bytes[at] = bytes[at].wrapping_add(value),
            2 => {
                bytes.insert(at, value);
                index_len += usize::from(at < index_len);
            }
            3 => {
                bytes.remove(at);
                index_len -= usize::from(at < index_len);
            }
            4 => bytes.truncate(at),
            _ => {
                let end = (at + usize::from(value)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.extend(part);
            }
        }
        index_len = index_len.min(bytes.len());
    }
    check_column(&bytes, index_len);
});
