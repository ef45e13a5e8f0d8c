//! Random numbers, bit for bit those of numpy's `default_rng(seed)`.
//!
//! The data of the benchmark is defined by a program that draws from numpy. To make the same rows without Python, this
//! module follows the published algorithms behind it: the seed sequence of M. E. O'Neill ([`seed`]), her generator
//! PCG XSL-RR 128/64 ([`pcg`]), and the ziggurat of Marsaglia and Tsang for normal variates ([`normal`]).

mod normal;
mod pcg;
mod seed;

use pcg::Pcg64;

/// A generator with the distributions that the data needs.
pub struct Random {
    bits: Pcg64,
}

impl Random {
    /// The generator that numpy's `default_rng(seed)` returns.
    pub fn new(seed: u32) -> Random {
        let words = seed::state(seed);
        let state = u128::from(words[0]) << 64 | u128::from(words[1]);
        let stream = u128::from(words[2]) << 64 | u128::from(words[3]);
        Random {
            bits: Pcg64::new(state, stream),
        }
    }

    /// Evenly in [0, 1): the upper 53 bits of a draw.
    fn unit(&mut self) -> f64 {
        (self.bits.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Evenly in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Normal with mean 0 and the given deviation.
    pub fn normal(&mut self, deviation: f64) -> f64 {
        deviation * self.standard_normal()
    }

    /// A number whose logarithm is normal.
    pub fn lognormal(&mut self, mean: f64, deviation: f64) -> f64 {
        (mean + deviation * self.standard_normal()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws of `numpy.random.default_rng(20250106)`, as numpy 2.4 prints them.
    #[test]
    fn draws_are_those_of_numpy() {
        let mut random = Random::new(20_250_106);
        let raw: Vec<u64> = (0..3).map(|_| random.bits.next()).collect();
        assert_eq!(
            raw,
            [
                5_295_705_366_801_155_089,
                8_720_137_712_372_205_997,
                4_006_492_297_998_727_666
            ]
        );
        let units: Vec<f64> = (0..2).map(|_| random.unit()).collect();
        assert_eq!(units, [0.5659376293687313, 0.8967791622363105]);
        let normals: Vec<f64> = (0..4).map(|_| random.standard_normal()).collect();
        assert_eq!(
            normals,
            [
                0.077709704823312,
                -0.8755345986386245,
                3.144178539395124,
                0.8349542521781163
            ]
        );
        assert_eq!(random.uniform(500.0, 9000.0), 1515.0306536270282);
        assert_eq!(random.lognormal(7.0, 1.5), 376.60862438306907);
    }

    /// Bits of two million normals in one number: tail and edges of all layers come up, and must be numpy's too.
    #[test]
    fn many_normals_are_those_of_numpy() {
        let mut random = Random::new(1);
        let sum = (0..2_000_000).fold(0u64, |sum, _| {
            sum.wrapping_mul(31)
                .wrapping_add(random.standard_normal().to_bits())
        });
        assert_eq!(sum, 15_676_838_422_473_568_858);
    }
}
