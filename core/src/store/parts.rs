//! How large the parts are in which an object is written.

/// Size of the first parts, where nothing else is known. S3 wants 5 MiB at least.
const PART_BYTES: usize = 8 << 20;

/// The largest part that S3 takes.
const MAX_PART_BYTES: u64 = 5 << 30;

/// Most parts of an object, in S3.
pub(super) const MAX_PARTS: u64 = 10_000;

/// After so many parts their size doubles, where it is not known how many there will be.
const PARTS_OF_A_SIZE: u64 = 1_500;

/// So many parts have room for what is expected; those behind them are for what nobody expected.
const EXPECTED_PARTS: u64 = 9_000;

/// Sizes of an object's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartSizes {
    /// All of this many bytes, however many they are.
    Fixed(usize),
    /// All of this many bytes, as some servers want it, but for the last thousand of ten thousand, which are eight times as
    /// large: an object that grows so far beyond what was expected is better in unequal parts than not at all.
    Equal(usize),
    /// They grow from 8 MiB to 512 MiB, so that ten thousand of them hold 1.3 TB.
    Growing,
}

impl PartSizes {
    /// For an object of which it is known or estimated how large it will be, up to 5 TB and more.
    pub(super) fn expecting(bytes: u64) -> Self {
        let part = bytes
            .div_ceil(EXPECTED_PARTS)
            .next_multiple_of(1 << 20)
            .clamp(PART_BYTES as u64, MAX_PART_BYTES);
        Self::Equal(usize::try_from(part).unwrap_or(PART_BYTES))
    }

    /// Bytes of the n-th part, from 0 on.
    pub(super) fn size(self, number: u64) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Equal(size) if number < EXPECTED_PARTS => size,
            Self::Equal(size) => {
                let large = (size as u64).saturating_mul(8).min(MAX_PART_BYTES);
                usize::try_from(large).unwrap_or(size)
            }
            Self::Growing => PART_BYTES << (number / PARTS_OF_A_SIZE).min(6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sizes: PartSizes) -> u64 {
        (0..MAX_PARTS).map(|n| sizes.size(n) as u64).sum()
    }

    #[test]
    fn parts_that_grow_hold_a_terabyte() {
        assert_eq!(PartSizes::Growing.size(0), 8 << 20);
        assert!(all(PartSizes::Growing) > 1_200_000_000_000);
        assert_eq!(PartSizes::Growing.size(MAX_PARTS), 512 << 20);
    }

    #[test]
    fn parts_are_of_one_size_and_few_enough() {
        for expected in [
            0,
            1,
            8 << 20,
            75 << 30,
            1_000_000_000_000,
            5_000_000_000_000,
            5 << 40,
        ] {
            let sizes = PartSizes::expecting(expected);
            let size = sizes.size(0) as u64;
            assert!((8 << 20..=5 << 30).contains(&size), "{expected}: {size}");
            let parts = expected.div_ceil(size);
            assert!(parts <= EXPECTED_PARTS, "{expected}: {parts}");
            assert!((0..parts).all(|n| sizes.size(n) as u64 == size));
            // Should it become half as large again, there is room for it.
            assert!(all(sizes) > expected + expected / 2, "{expected}");
        }
        assert_eq!(PartSizes::expecting(70 << 30).size(0), 8 << 20);
        assert_eq!(PartSizes::expecting(u64::MAX).size(9_999), 5 << 30);
    }
}
