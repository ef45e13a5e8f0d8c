//! The innermost loops over whole pages: FastLanes bit packing.
//!
//! A full page of 1,024 numbers packed at `W` bits is `16 * W` words of 64 bits, in the layout of
//! the `fastlanes` crate for `u64`: sixteen lanes, each with 64 of the numbers.
#![allow(
    clippy::indexing_slicing,
    reason = "constant positions in arrays of constant length, checked by the compiler"
)]

use fastlanes::FastLanes;
use seq_macro::seq;

use super::PAGE_ROWS;

/// Numbers of a page.
pub(crate) type Block = [i64; PAGE_ROWS];
/// Packed words of a page; of a width below 64 the first `16 * width` count.
pub(crate) type Words = [u64; PAGE_ROWS];

/// Adds `reference` to each of the numbers packed at `width` bits (below 64).
pub(crate) fn unpack(width: usize, words: &Words, reference: u64, out: &mut Block) {
    seq!(W in 0..64 {
        match width {
            #(W => unpack_width::<W>(words, reference, out),)*
            _ => {}
        }
    });
}

/// Packs the low `width` bits (below 64) of each number's distance from `reference`.
pub(crate) fn pack(width: usize, values: &Block, reference: u64, words: &mut Words) {
    seq!(W in 0..64 {
        match width {
            #(W => pack_width::<W>(values, reference, words),)*
            _ => {}
        }
    });
}

fn unpack_width<const W: usize>(words: &Words, reference: u64, out: &mut Block) {
    for lane in 0..u64::LANES {
        fastlanes::unpack!(u64, W, words, lane, |$idx, $elem| {
            out[$idx] = $elem.wrapping_add(reference).cast_signed()
        });
    }
}

fn pack_width<const W: usize>(values: &Block, reference: u64, words: &mut Words) {
    for lane in 0..u64::LANES {
        fastlanes::pack!(u64, W, words, lane, |$idx| {
            values[$idx].cast_unsigned().wrapping_sub(reference)
        });
    }
}
