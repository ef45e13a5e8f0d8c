//! PCG XSL-RR 128/64 of M. E. O'Neill ("PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for
//! Random Number Generation", 2014): a linear congruential generator of 128 bits, whose halves are xored and rotated.

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

pub struct Pcg64 {
    state: u128,
    increment: u128,
}

impl Pcg64 {
    pub fn new(state: u128, stream: u128) -> Pcg64 {
        let mut pcg = Pcg64 {
            state: 0,
            increment: stream << 1 | 1,
        };
        pcg.step();
        pcg.state = pcg.state.wrapping_add(state);
        pcg.step();
        pcg
    }

    fn step(&mut self) {
        self.state = self
            .state
            .wrapping_mul(MULTIPLIER)
            .wrapping_add(self.increment);
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }
}
