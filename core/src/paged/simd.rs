//! Runs the loops of [`super::kernels`] with wider registers where the processor has them.
//!
//! The loops are plain safe Rust; here they are compiled a second time for AVX2 and fused
//! multiplication. This is the only file of the crate with `unsafe`: calling a function that is
//! compiled for a feature needs it.
#![allow(unsafe_code, reason = "calls of functions that are compiled for AVX2")]

use seq_macro::seq;

use super::PAGE_ROWS;
use super::kernels::{self, Block, Stream, Words};
use super::layout::Validity;
use super::select::RowBits;
use super::unit::Unit;

/// Whether the processor has what the wide functions are compiled for.
#[cfg(target_arch = "x86_64")]
fn wide() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma")
}

/// A function that calls the first of two others, or the second where it may be compiled for AVX2.
macro_rules! dispatch {
    ($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?, $plain:expr, $wide:expr) => {
        pub(crate) fn $name($($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            if wide() {
                #[target_feature(enable = "avx2,bmi1,bmi2,fma")]
                fn wide($($arg: $type),*) $(-> $result)? {
                    $wide($($arg),*)
                }
                // SAFETY: the processor has AVX2, BMI and FMA; nothing else is asked of the caller.
                return unsafe { wide($($arg),*) };
            }
            $plain($($arg),*)
        }
    };
}

dispatch!(load(bytes: &[u8], words: &mut Words), kernels::load, kernels::load);
dispatch!(sum_up(values: &mut Block), kernels::sum_up, kernels::sum_up);
dispatch!(
    restore_unit(unit: Unit, values: &mut Block),
    kernels::restore_unit,
    kernels::restore_unit
);
dispatch!(
    decimals_to_f64(whole: &Block, power: f64, out: &mut [f64; PAGE_ROWS]),
    kernels::decimals,
    kernels::decimals_fused
);
dispatch!(
    decimals_to_f32(whole: &Block, power: f64, out: &mut [f32; PAGE_ROWS]),
    kernels::decimals,
    kernels::decimals_fused
);
dispatch!(
    bits_to_f64(ordered: &Block, out: &mut [f64; PAGE_ROWS]),
    kernels::bits,
    kernels::bits
);
dispatch!(
    bits_to_f32(ordered: &Block, out: &mut [f32; PAGE_ROWS]),
    kernels::bits,
    kernels::bits
);

dispatch!(
    codes(numbers: &Block, out: &mut [u32; PAGE_ROWS]) -> (u64, u32),
    kernels::codes,
    kernels::codes
);
dispatch!(
    spread_i64(values: &mut Block, validity: &Validity),
    kernels::spread,
    kernels::spread
);
dispatch!(
    spread_u32(values: &mut [u32; PAGE_ROWS], validity: &Validity),
    kernels::spread,
    kernels::spread
);
dispatch!(
    spread_f64(values: &mut [f64; PAGE_ROWS], validity: &Validity),
    kernels::spread,
    kernels::spread
);
dispatch!(
    spread_f32(values: &mut [f32; PAGE_ROWS], validity: &Validity),
    kernels::spread,
    kernels::spread
);
dispatch!(
    unpack_stream(stream: &Stream, reference: u64, width: usize, out: &mut [i64]),
    kernels::unpack_stream,
    kernels::unpack_stream
);
dispatch!(
    ints_below(values: &[i64], with: i64) -> RowBits,
    kernels::below,
    kernels::below
);
dispatch!(
    codes_below(values: &[u32], with: u32) -> RowBits,
    kernels::below,
    kernels::below
);
dispatch!(
    floats_below(values: &[f64], with: f64) -> RowBits,
    kernels::below,
    kernels::below
);
dispatch!(
    floats_up_to(values: &[f64], with: f64) -> RowBits,
    kernels::up_to,
    kernels::up_to
);
dispatch!(fit(bits: u32, values: &Block) -> bool, kernels::fit, kernels::fit);

/// [`kernels::unpack`] of a width that is known at run time.
pub(crate) fn unpack(width: usize, words: &Words, reference: u64, out: &mut Block) {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        #[target_feature(enable = "avx2,bmi1,bmi2,fma")]
        fn of_width<const W: usize>(words: &Words, reference: u64, out: &mut Block) {
            kernels::unpack::<W>(words, reference, out);
        }
        #[target_feature(enable = "avx2,bmi1,bmi2,fma")]
        fn wide(width: usize, words: &Words, reference: u64, out: &mut Block) {
            seq!(W in 0..64 {
                match width {
                    #(W => of_width::<W>(words, reference, out),)*
                    _ => {}
                }
            });
        }
        // SAFETY: the processor has AVX2, BMI and FMA; nothing else is asked of the caller.
        return unsafe { wide(width, words, reference, out) };
    }
    fn of_width<const W: usize>(words: &Words, reference: u64, out: &mut Block) {
        kernels::unpack::<W>(words, reference, out);
    }
    seq!(W in 0..64 {
        match width {
            #(W => of_width::<W>(words, reference, out),)*
            _ => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::floats;
    use super::*;

    /// Both ways of division give the same bits.
    #[test]
    fn division_is_exact() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..4_000u32 {
            let whole: Block = std::array::from_fn(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.cast_signed() >> (13 + round % 45)
            });
            let power = floats::power((round % 15) as u8);
            let (mut fast, mut plain) = ([0.0f64; PAGE_ROWS], [0.0f64; PAGE_ROWS]);
            decimals_to_f64(&whole, power, &mut fast);
            kernels::decimals(&whole, power, &mut plain);
            assert_eq!(fast.map(f64::to_bits), plain.map(f64::to_bits));
        }
    }
}
