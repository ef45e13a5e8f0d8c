//! Words of state from a small seed: the seed sequence that M. E. O'Neill describes in "Developing a seed_seq
//! Alternative" (pcg-random.org, 2015), with a pool of four words, as numpy's `SeedSequence` uses it.

const POOL: usize = 4;

/// A hash whose multiplier goes on from use to use, so that equal words at different places differ.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn apply(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.constant);
        word ^ word >> 16
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let word = x
        .wrapping_mul(0xca01_f9dd)
        .wrapping_sub(y.wrapping_mul(0x4973_f715));
    word ^ word >> 16
}

/// Four words of 64 bits from a seed of one word of 32.
pub fn state(seed: u32) -> [u64; 4] {
    let mut hash = Hash {
        constant: 0x43b0_d7e5,
        multiplier: 0x931e_8875,
    };
    let mut pool = [seed, 0, 0, 0].map(|word| hash.apply(word));
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = mix(pool[to], hash.apply(pool[from]));
        }
    }
    let mut hash = Hash {
        constant: 0x8b51_f9dd,
        multiplier: 0x58f3_8ded,
    };
    let mut words = pool.iter().cycle();
    let mut half = || u64::from(words.next().map_or(0, |word| hash.apply(*word)));
    std::array::from_fn(|_| half() | half() << 32)
}
