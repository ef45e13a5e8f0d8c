//! A plain bitmap of fixed length.
//!
//! Stored form: one tag byte, then by tag
//! - `0` all bits zero: nothing;
//! - `1` raw: `ceil(len / 8)` bytes, bit `i` in byte `i / 8` at position `i % 8`, padding zero;
//! - `2` run lengths: LEB128 numbers, alternately of zeros and ones, beginning with zeros (the
//!   first may be 0, no other), adding up to the length.

use crate::error::CoreError;
use crate::wire::Reader;

const TAG_EMPTY: u8 = 0;
const TAG_RAW: u8 = 1;
const TAG_RUNS: u8 = 2;

/// A fixed number of bits.
#[derive(Debug, Clone, Default)]
pub struct Bitmap {
    len: usize,
    /// None where no bit was ever set: most bitmaps say that nothing is special. Bits past `len` in the last word are
    /// always zero.
    words: Vec<u64>,
}

impl PartialEq for Bitmap {
    fn eq(&self, other: &Self) -> bool {
        let words = self.words.len().max(other.words.len());
        self.len == other.len && (0..words).all(|i| self.word(i) == other.word(i))
    }
}

impl Eq for Bitmap {}

impl Bitmap {
    /// `len` bits, all zero.
    pub fn new(len: usize) -> Self {
        Self {
            len,
            words: Vec::new(),
        }
    }

    fn allocate(&mut self) {
        if self.words.is_empty() {
            self.words = vec![0; self.len.div_ceil(64)];
        }
    }

    /// Bytes on the heap.
    pub fn memory(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// `len` bits, all one.
    pub fn full(len: usize) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(64)];
        if let (Some(last), tail @ 1..) = (words.last_mut(), len % 64) {
            *last = (1 << tail) - 1;
        }
        Self { len, words }
    }

    /// How many bits there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bit `i`; false when out of range.
    pub fn get(&self, i: usize) -> bool {
        i < self.len
            && self
                .words
                .get(i / 64)
                .is_some_and(|word| word >> (i % 64) & 1 == 1)
    }

    /// Sets bit `i` to `value`; does nothing when out of range.
    pub fn set(&mut self, i: usize, value: bool) {
        if i >= self.len || (!value && self.words.is_empty()) {
            return;
        }
        self.allocate();
        if let Some(word) = self.words.get_mut(i / 64) {
            let mask = 1 << (i % 64);
            if value {
                *word |= mask;
            } else {
                *word &= !mask;
            }
        }
    }

    /// Bits `64 * i` to `64 * i + 63`, lowest first; zero past the end.
    pub(crate) fn word(&self, i: usize) -> u64 {
        self.words.get(i).copied().unwrap_or_default()
    }

    /// How many bits are one.
    pub fn count_ones(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The words of 64 bits from bit `from` on, which must be a multiple of 64; those behind the last one set may lack.
    pub fn words(&self, from: usize) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().skip(from / 64).copied()
    }

    /// The positions of the one bits, ascending.
    pub fn iter_ones(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(w, &word)| {
            std::iter::successors(Some(word), |bits| Some(bits & bits.wrapping_sub(1)))
                .take_while(|bits| *bits != 0)
                .map(move |bits| w * 64 + bits.trailing_zeros() as usize)
        })
    }

    /// The smallest of the three stored forms.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ones = self.count_ones();
        if ones == 0 {
            return vec![TAG_EMPTY];
        }
        let raw_len = self.len.div_ceil(8);
        let mut runs = vec![TAG_RUNS];
        let mut start = 0;
        let mut value = false;
        while start < self.len && runs.len() <= raw_len {
            let end = self.run_end(start, value);
            write_varint(&mut runs, end - start);
            start = end;
            value = !value;
        }
        if start == self.len && runs.len() <= raw_len {
            return runs;
        }
        let mut raw = Vec::with_capacity(raw_len + 1);
        raw.push(TAG_RAW);
        raw.extend(
            self.words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .take(raw_len),
        );
        raw
    }

    /// Reads a stored form of exactly `expected_len` bits.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are not a stored form of that length.
    pub fn from_bytes(bytes: &[u8], expected_len: usize) -> Result<Self, CoreError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            TAG_EMPTY => {
                reader.finish()?;
                Ok(Self::new(expected_len))
            }
            TAG_RAW => Self::from_raw(reader.rest(), expected_len),
            TAG_RUNS => Self::from_runs(reader, expected_len),
            tag => Err(CoreError::corrupt(format!("unknown bitmap form {tag}"))),
        }
    }

    fn from_raw(raw: &[u8], len: usize) -> Result<Self, CoreError> {
        if raw.len() != len.div_ceil(8) {
            return Err(CoreError::corrupt(format!(
                "bitmap of {len} bits in {} bytes",
                raw.len()
            )));
        }
        if let (Some(last), tail @ 1..) = (raw.last(), len % 8)
            && last >> tail != 0
        {
            return Err(CoreError::corrupt("bitmap padding is not zero"));
        }
        if raw.iter().all(|byte| *byte == 0) {
            return Ok(Self::new(len));
        }
        let words = raw
            .chunks(8)
            .map(|chunk| {
                chunk
                    .iter()
                    .rev()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
            })
            .collect();
        Ok(Self { len, words })
    }

    fn from_runs(mut reader: Reader<'_>, len: usize) -> Result<Self, CoreError> {
        let mut bitmap = Self::new(len);
        let mut start = 0;
        let mut value = false;
        while reader.remaining() > 0 {
            let run = read_varint(&mut reader)?;
            if run > len - start || (run == 0 && (value || start > 0)) {
                return Err(CoreError::corrupt(format!(
                    "bitmap run of {run} at bit {start} of {len}"
                )));
            }
            if value {
                bitmap.fill(start, start + run);
            }
            start += run;
            value = !value;
        }
        if start != len {
            return Err(CoreError::corrupt(format!(
                "bitmap runs cover {start} of {len} bits"
            )));
        }
        Ok(bitmap)
    }

    /// The first position from `start` on whose bit is not `value`, or the length.
    fn run_end(&self, start: usize, value: bool) -> usize {
        let flip = if value { u64::MAX } else { 0 };
        let mut mask = u64::MAX << (start % 64);
        for (w, word) in self.words.iter().enumerate().skip(start / 64) {
            let differing = (word ^ flip) & mask;
            if differing != 0 {
                return (w * 64 + differing.trailing_zeros() as usize).min(self.len);
            }
            mask = u64::MAX;
        }
        self.len
    }

    /// Sets the bits from `start` up to, not including, `end`.
    fn fill(&mut self, start: usize, end: usize) {
        self.allocate();
        let mut at = start;
        while at < end.min(self.len) {
            let bit = at % 64;
            let count = (64 - bit).min(end - at);
            let ones = if count == 64 {
                u64::MAX
            } else {
                (1 << count) - 1
            };
            if let Some(word) = self.words.get_mut(at / 64) {
                *word |= ones << bit;
            }
            at += count;
        }
    }
}

fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A LEB128 number of at most 32 bits in its shortest form.
fn read_varint(reader: &mut Reader<'_>) -> Result<usize, CoreError> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                break;
            }
            return u32::try_from(value)
                .map(|value| value as usize)
                .map_err(|_| CoreError::corrupt("bitmap run too long"));
        }
    }
    Err(CoreError::corrupt("bitmap run is not in shortest form"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_bools(bits: &[bool]) -> Bitmap {
        let mut bitmap = Bitmap::new(bits.len());
        for (i, bit) in bits.iter().enumerate() {
            bitmap.set(i, *bit);
        }
        bitmap
    }

    #[test]
    fn out_of_range_is_false_and_ignored() {
        let mut bitmap = Bitmap::new(65);
        bitmap.set(65, true);
        bitmap.set(usize::MAX, true);
        assert_eq!(bitmap.count_ones(), 0);
        bitmap.set(64, true);
        assert!(bitmap.get(64) && !bitmap.get(65) && !bitmap.get(usize::MAX));
        bitmap.set(64, false);
        assert_eq!(bitmap, Bitmap::new(65));
    }

    #[test]
    fn full_and_empty_are_small() {
        for len in [0, 1, 7, 8, 63, 64, 65, 1000, 65_536] {
            let full = Bitmap::full(len);
            assert_eq!(full.count_ones(), len);
            assert!(full.to_bytes().len() <= 5);
            assert_eq!(Bitmap::from_bytes(&full.to_bytes(), len), Ok(full));
            assert_eq!(Bitmap::new(len).to_bytes(), [TAG_EMPTY]);
            assert_eq!(Bitmap::from_bytes(&[TAG_EMPTY], len), Ok(Bitmap::new(len)));
        }
    }

    #[test]
    fn forged_forms_are_refused() {
        for (bytes, len) in [
            (&[][..], 8),
            (&[3], 8),
            (&[TAG_EMPTY, 0], 8),
            (&[TAG_RAW], 8),
            (&[TAG_RAW, 0xff, 0], 8),
            (&[TAG_RAW, 0x80], 7),
            (&[TAG_RUNS, 9], 8),
            (&[TAG_RUNS, 7], 8),
            (&[TAG_RUNS, 4, 0, 4], 8),
            (&[TAG_RUNS, 0, 8, 0], 8),
            (&[TAG_RUNS, 0, 0, 8], 8),
            (&[TAG_RUNS, 0x88, 0x00], 8),
            (&[TAG_RUNS, 0x88], 8),
            (&[TAG_RUNS, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], 8),
        ] {
            assert!(Bitmap::from_bytes(bytes, len).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(bits in prop::collection::vec(any::<bool>(), 0..300)) {
            let bitmap = from_bools(&bits);
            prop_assert_eq!(bitmap.len(), bits.len());
            let ones: Vec<_> = bitmap.iter_ones().collect();
            let expected: Vec<_> = (0..bits.len()).filter(|i| bits[*i]).collect();
            prop_assert_eq!(bitmap.count_ones(), ones.len());
            prop_assert_eq!(ones, expected);
            let bytes = bitmap.to_bytes();
            prop_assert!(bytes.len() <= bits.len().div_ceil(8) + 1);
            prop_assert_eq!(Bitmap::from_bytes(&bytes, bits.len()), Ok(bitmap));
        }

        #[test]
        fn runs_round_trip(runs in prop::collection::vec(1usize..200, 0..40)) {
            let bits: Vec<bool> = runs
                .iter()
                .enumerate()
                .flat_map(|(i, run)| std::iter::repeat_n(i % 2 == 1, *run))
                .collect();
            let bitmap = from_bools(&bits);
            prop_assert_eq!(Bitmap::from_bytes(&bitmap.to_bytes(), bits.len()), Ok(bitmap));
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..40), len in 0usize..200) {
            if let Ok(bitmap) = Bitmap::from_bytes(&bytes, len) {
                prop_assert_eq!(bitmap.len(), len);
                prop_assert!(bitmap.iter_ones().all(|i| i < len));
            }
        }
    }

    #[test]
    fn no_bits_have_one_form() {
        let none = format!("{:?}", Bitmap::new(20));
        for bytes in [&[TAG_RAW, 0, 0, 0][..], &[TAG_RUNS, 20]] {
            let read = Bitmap::from_bytes(bytes, 20).map(|bitmap| format!("{bitmap:?}"));
            assert_eq!(read.ok().as_ref(), Some(&none));
        }
    }
}
