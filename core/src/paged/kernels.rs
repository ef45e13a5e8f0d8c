//! The innermost loops over whole pages. Those for decoding run through [`super::simd`].
//!
//! A full page of 1,024 numbers packed at `W` bits is `16 * W` words of 64 bits, in the layout of
//! the `fastlanes` crate for `u64`: sixteen lanes, each with 64 of the numbers.
#![allow(
    clippy::indexing_slicing,
    clippy::inline_always,
    reason = "constant positions in arrays of constant length; to be compiled for what the caller is"
)]

use fastlanes::FastLanes;
use seq_macro::seq;

use super::PAGE_ROWS;
use super::floats::{Real, to_float};
use super::layout::Validity;
use super::unit::Unit;

/// Numbers of a page.
pub(crate) type Block = [i64; PAGE_ROWS];
/// Packed words of a page; of a width below 64 the first `16 * width` count.
pub(crate) type Words = [u64; PAGE_ROWS];

/// Packs the low `width` bits (below 64) of each number's distance from `reference`.
pub(crate) fn pack(width: usize, values: &Block, reference: u64, words: &mut Words) {
    fn of_width<const W: usize>(values: &Block, reference: u64, words: &mut Words) {
        for lane in 0..u64::LANES {
            fastlanes::pack!(u64, W, words, lane, |$idx| {
                values[$idx].cast_unsigned().wrapping_sub(reference)
            });
        }
    }
    seq!(W in 0..64 {
        match width {
            #(W => of_width::<W>(values, reference, words),)*
            _ => {}
        }
    });
}

/// Puts the bytes of a packed page into words; what is left of the words keeps its content.
#[inline(always)]
pub(crate) fn load(bytes: &[u8], words: &mut Words) {
    let (whole, rest) = bytes.as_chunks::<8>();
    for (bytes, word) in whole.iter().zip(words.iter_mut()) {
        *word = u64::from_le_bytes(*bytes);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.get_mut(whole.len())) {
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        *word = u64::from_le_bytes(last);
    }
}

/// Adds `reference` to each of the numbers packed at `W` bits (below 64).
#[inline(always)]
pub(crate) fn unpack<const W: usize>(words: &Words, reference: u64, out: &mut Block) {
    for lane in 0..u64::LANES {
        fastlanes::unpack!(u64, W, words, lane, |$idx, $elem| {
            out[$idx] = $elem.wrapping_add(reference).cast_signed()
        });
    }
}

/// Steps to sums. (Four sums side by side are slower: their addresses are alike in the low bits.)
#[inline(always)]
pub(crate) fn sum_up(values: &mut Block) {
    let mut sum = 0i64;
    for value in values {
        sum = sum.wrapping_add(*value);
        *value = sum;
    }
}

/// Counts to values.
#[inline(always)]
pub(crate) fn restore_unit(unit: Unit, values: &mut Block) {
    for value in values {
        *value = unit.value(*value);
    }
}

/// Divides whole numbers below `2^51` by a power of ten.
#[inline(always)]
pub(crate) fn decimals<T: Real>(whole: &Block, power: f64, out: &mut [T; PAGE_ROWS]) {
    for (value, whole) in out.iter_mut().zip(whole) {
        *value = T::nearest(to_float(*whole) / power);
    }
}

/// The same by multiplication with the reciprocal and one step of correction, for processors that
/// multiply and add with one rounding.
///
/// The first quotient is off by less than two units in its last place, and its remainder is exact.
/// The corrected one is rounded as the quotient itself is unless that lies within `2^-50` units of
/// the middle between two doubles; but a quotient by `10^s` with `s` up to 14, of a whole number
/// below `2^51`, is at least `2^-48` units away from any middle.
#[inline(always)]
pub(crate) fn decimals_fused<T: Real>(whole: &Block, power: f64, out: &mut [T; PAGE_ROWS]) {
    let reciprocal = 1.0 / power;
    for (value, whole) in out.iter_mut().zip(whole) {
        let whole = to_float(*whole);
        let quotient = whole * reciprocal;
        let remainder = (-quotient).mul_add(power, whole);
        *value = T::nearest(remainder.mul_add(reciprocal, quotient));
    }
}

/// Floats of ordered integers.
#[inline(always)]
pub(crate) fn bits<T: Real>(ordered: &Block, out: &mut [T; PAGE_ROWS]) {
    for (value, ordered) in out.iter_mut().zip(ordered) {
        *value = T::from_ordered(*ordered);
    }
}

/// Codes of numbers, and bits that are set where a number is no code; the largest code besides.
#[inline(always)]
pub(crate) fn codes(numbers: &Block, out: &mut [u32; PAGE_ROWS]) -> (u64, u32) {
    let mut high = 0;
    let mut largest = 0;
    for (code, number) in out.iter_mut().zip(numbers) {
        high |= number.cast_unsigned() >> 32;
        *code = *number as u32;
        largest = largest.max(*code);
    }
    (high, largest)
}

/// Whether all are signed numbers of so many bits (below 64).
#[inline(always)]
pub(crate) fn fit(bits: u32, values: &Block) -> bool {
    let half = 1u64 << (bits - 1);
    let high = values.iter().fold(0, |all, value| {
        all | value.cast_unsigned().wrapping_add(half) >> bits
    });
    high == 0
}

/// Moves the values at the beginning to where the bits are, and puts blanks elsewhere.
#[inline(always)]
pub(crate) fn spread<T: Blank>(values: &mut [T; PAGE_ROWS], validity: &Validity) {
    let mut from: usize = validity.iter().map(|word| word.count_ones() as usize).sum();
    // From the end, so that no value is overwritten before it is moved.
    for (at, word) in validity.iter().enumerate().rev() {
        let start = 64 * at;
        if *word == u64::MAX {
            from -= 64;
            values.copy_within(from..from + 64, start);
            continue;
        }
        for bit in (0..64).rev() {
            let present = word >> bit & 1;
            from -= present as usize;
            values[start + bit] = values[from % PAGE_ROWS].or_blank(present);
        }
    }
}

/// A value that has a blank.
pub(crate) trait Blank: Copy {
    /// Itself for 1, the blank for 0; without a branch.
    fn or_blank(self, keep: u64) -> Self;
}

impl Blank for i64 {
    #[inline(always)]
    fn or_blank(self, keep: u64) -> Self {
        self & keep.wrapping_neg().cast_signed()
    }
}

impl Blank for u32 {
    #[inline(always)]
    fn or_blank(self, keep: u64) -> Self {
        self & keep.wrapping_neg() as Self
    }
}

impl Blank for f64 {
    #[inline(always)]
    fn or_blank(self, keep: u64) -> Self {
        Self::from_bits(self.to_bits() & keep.wrapping_neg())
    }
}

impl Blank for f32 {
    #[inline(always)]
    fn or_blank(self, keep: u64) -> Self {
        Self::from_bits(self.to_bits() & keep.wrapping_neg() as u32)
    }
}

/// The values for which a test holds, one bit each.
#[inline(always)]
fn which<T: Copy>(values: &[T], test: impl Fn(T) -> bool) -> [u64; PAGE_ROWS / 64] {
    let mut bits = [0; PAGE_ROWS / 64];
    let (chunks, rest) = values.as_chunks::<64>();
    let mut words = bits.iter_mut();
    for (chunk, word) in chunks.iter().zip(words.by_ref()) {
        let mut found = 0;
        for (i, value) in chunk.iter().enumerate() {
            found |= u64::from(test(*value)) << i;
        }
        *word = found;
    }
    if let Some(word) = words.next() {
        for (i, value) in rest.iter().enumerate() {
            *word |= u64::from(test(*value)) << i;
        }
    }
    bits
}

/// The values below another.
#[inline(always)]
pub(crate) fn below<T: Copy + PartialOrd>(values: &[T], with: T) -> [u64; PAGE_ROWS / 64] {
    which(values, |value| value < with)
}

/// The values below another, or equal to it.
#[inline(always)]
pub(crate) fn up_to<T: Copy + PartialOrd>(values: &[T], with: T) -> [u64; PAGE_ROWS / 64] {
    which(values, |value| value <= with)
}

/// Room for the longest stream, and for reading on behind it.
pub(crate) type Stream = [u8; 8 * PAGE_ROWS + 16];

/// Reads numbers of `width` bits (below 64) one after the other and adds `reference` to each; at
/// most [`PAGE_ROWS`].
#[inline(always)]
pub(crate) fn unpack_stream(stream: &Stream, reference: u64, width: usize, out: &mut [i64]) {
    let mask = (1u64 << width) - 1;
    let load = |at: usize| {
        let bytes = stream[at % (8 * PAGE_ROWS)..].first_chunk().copied();
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let mut position = 0;
    for value in out {
        let (at, shift) = (position / 8, position % 8);
        let mut bits = load(at) >> shift;
        if width > 57 {
            bits |= (load(at + 8) << 1) << (63 - shift);
        }
        *value = (bits & mask).wrapping_add(reference).cast_signed();
        position += width;
    }
}
