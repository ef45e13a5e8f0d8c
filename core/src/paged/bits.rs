//! Bit packing of fewer numbers than a full page has: one after the other, lowest bits first, in a
//! stream of bytes whose last one is padded with zeros.

use super::kernels::Words;

/// Bytes that `count` numbers of `width` bits take.
pub(crate) fn packed_len(count: usize, width: usize) -> usize {
    (count * width).div_ceil(8)
}

/// Appends the low `width` bits (below 64) of each number's distance from `reference`.
pub(crate) fn pack(values: &[i64], reference: u64, width: usize, out: &mut Vec<u8>) {
    let mask = (1u64 << width) - 1;
    let mut pending = 0u128;
    let mut bits = 0;
    for value in values {
        let value = value.cast_unsigned().wrapping_sub(reference) & mask;
        pending |= u128::from(value) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            bits -= 64;
        }
    }
    out.extend(pending.to_le_bytes().iter().take(bits.div_ceil(8)));
}

/// Reads numbers of `width` bits (below 64) and adds `reference` to each; of `out`, no more than a
/// page's rows are filled.
pub(crate) fn unpack(words: &Words, reference: u64, width: usize, out: &mut [i64]) {
    let mask = (1u64 << width) - 1;
    let word = |i: usize| words.get(i).copied().unwrap_or_default();
    let mut position = 0;
    for value in out {
        let (at, shift) = (position / 64, position % 64);
        let low = word(at) >> shift;
        let high = (word(at + 1) << 1) << (63 - shift);
        *value = ((low | high) & mask).wrapping_add(reference).cast_signed();
        position += width;
    }
}

/// Puts the bytes of a packed page into words; what is left of the words keeps its content.
pub(crate) fn load(bytes: &[u8], words: &mut Words) {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut at = words.iter_mut();
    for (bytes, word) in whole.iter().zip(&mut at) {
        *word = u64::from_le_bytes(*bytes);
    }
    if let (false, Some(word)) = (rest.is_empty(), at.next()) {
        *word = rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{PAGE_ROWS, kernels};
    use super::*;

    fn noise(width: usize) -> Vec<i64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..PAGE_ROWS)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state & ((1 << width) - 1)).wrapping_add(77).cast_signed()
            })
            .collect()
    }

    #[test]
    fn streams_of_every_width_and_length() {
        for width in 0..64 {
            let values = noise(width);
            for count in [0, 1, 2, 7, 63, 64, 65, 500, 1023] {
                let mut bytes = Vec::new();
                pack(&values[..count], 77, width, &mut bytes);
                assert_eq!(bytes.len(), packed_len(count, width));
                let mut words = [u64::MAX; PAGE_ROWS];
                load(&bytes, &mut words);
                let mut back = vec![0; count];
                unpack(&words, 77, width, &mut back);
                assert_eq!(back, values[..count]);
            }
        }
    }

    #[test]
    fn full_pages_of_every_width() {
        for width in 0..64 {
            let values = noise(width);
            let block = values.first_chunk().unwrap();
            let mut words = [0; PAGE_ROWS];
            kernels::pack(width, block, 77, &mut words);
            assert!(words[16 * width..].iter().all(|word| *word == 0));
            let mut back = [0; PAGE_ROWS];
            kernels::unpack(width, &words, 77, &mut back);
            assert_eq!(back, *block);
        }
    }
}
