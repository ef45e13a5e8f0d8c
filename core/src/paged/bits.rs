//! Bit packing of fewer numbers than a full page has: one after the other, lowest bits first, in a
//! stream of bytes whose last one is padded with zeros.

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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{PAGE_ROWS, kernels, simd};
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
                let mut stream = [0xff; 8 * PAGE_ROWS + 16];
                stream[..bytes.len()].copy_from_slice(&bytes);
                let mut back = vec![0; count];
                simd::unpack_stream(&stream, 77, width, &mut back);
                assert_eq!(back, values[..count]);
                kernels::unpack_stream(&stream, 77, width, &mut back);
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
            simd::unpack(width, &words, 77, &mut back);
            assert_eq!(back, *block);
        }
    }

    /// The order of bits is the one that the specification gives.
    #[test]
    fn full_pages_are_in_the_specified_order() {
        let order = [0, 4, 2, 6, 1, 5, 3, 7];
        for width in [1, 3, 32, 33, 63] {
            let values = noise(width);
            let mut words = [0; PAGE_ROWS];
            kernels::pack(width, values.first_chunk().unwrap(), 77, &mut words);
            for (i, value) in values.iter().enumerate() {
                let row = 8 * order[i / 16 % 8] + i / 128;
                for bit in 0..width {
                    let at = row * width + bit;
                    let word = words[16 * (at / 64) + i % 16];
                    assert_eq!(word >> (at % 64) & 1, ((value - 77) >> bit & 1) as u64);
                }
            }
        }
    }
}
