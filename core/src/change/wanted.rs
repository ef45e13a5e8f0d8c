//! A set of hashes that may say yes where it should say no, in memory that does not grow.

/// Hashes that are asked for. What was added is always found; of what was not, about one in a thousand, more where memory is short.
#[derive(Debug)]
pub struct Wanted {
    /// A hash sets bits of one word.
    words: Vec<u64>,
    empty: bool,
}

/// Bits for each hash.
const BITS: usize = 32;

/// Words at least.
const SMALLEST: usize = 64;

impl Wanted {
    /// An empty set for that many hashes, in so many bytes at most (512 at least).
    pub fn new(hashes: usize, bytes: usize) -> Self {
        let wanted = hashes.saturating_mul(BITS / 8).min(bytes) / size_of::<u64>();
        let words = wanted.max(SMALLEST);
        Wanted {
            // A power of two, rounded down.
            words: vec![0; 1 << words.ilog2()],
            empty: true,
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// Adds a hash, whose two lowest bits say nothing.
    pub fn add(&mut self, hash: u64) {
        self.empty = false;
        let (at, bits) = self.place(hash);
        if let Some(word) = self.words.get_mut(at) {
            *word |= bits;
        }
    }

    /// Whether a hash may have been added.
    #[inline]
    pub fn has(&self, hash: u64) -> bool {
        let (at, bits) = self.place(hash);
        self.words.get(at).is_some_and(|word| word & bits == bits)
    }

    fn place(&self, hash: u64) -> (usize, u64) {
        let bit = |shift: u32| 1u64 << ((hash >> shift) & 63);
        let at = (hash >> 26) as usize & (self.words.len() - 1);
        (at, bit(2) | bit(8) | bit(14) | bit(20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::hash::finish;

    fn hash(number: u128) -> u64 {
        finish(number) as u64 & !3
    }

    #[test]
    fn what_was_added_is_there_and_little_else() {
        for (hashes, bytes, most) in [
            (0, 0, 0),
            (10, 1 << 20, 10),
            (20_000, 1 << 20, 400),
            (20_000, 20_000, 60_000),
            (20_000, 0, 100_000),
        ] {
            let mut wanted = Wanted::new(hashes, bytes);
            assert!(wanted.is_empty());
            assert!(wanted.words.len() * 8 <= bytes.max(512));
            (0..hashes as u128).for_each(|n| wanted.add(hash(n)));
            assert_eq!(wanted.is_empty(), hashes == 0);
            assert!((0..hashes as u128).all(|n| wanted.has(hash(n))));
            let wrong = (1_000_000..1_100_000).filter(|n| wanted.has(hash(*n)));
            let wrong = wrong.count();
            assert!(wrong <= most, "{hashes} in {bytes}: {wrong}");
        }
    }
}
