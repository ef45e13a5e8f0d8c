//! The distinct values of a column, which its pages name by their places.
//!
//! Stored form: count (varint), bytes of all values together (varint); then for each value how many
//! bytes it shares with the one before, and for each how many follow (varints); then those that
//! follow, one after the other.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::general::Compressor;
use super::varint::{read_usize, write_usize};
use crate::MAX_ROWS;
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

/// The most bytes of values that a dictionary holds: it stays in memory with the index.
pub(crate) const MAX_BYTES: usize = 1 << 22;

/// Distinct values in the order of `memcmp`; the code of a value is its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dictionary {
    /// One more than there are values.
    offsets: Box<[u32]>,
    data: Box<[u8]>,
}

impl Dictionary {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a code; empty for one that is out of range.
    pub fn get(&self, code: u32) -> &[u8] {
        let at = code as usize;
        match (self.offsets.get(at), self.offsets.get(at + 1)) {
            (Some(start), Some(end)) => self
                .data
                .get(*start as usize..*end as usize)
                .unwrap_or_default(),
            _ => &[],
        }
    }

    /// The code of a value.
    pub fn find(&self, value: &[u8]) -> Option<u32> {
        let code = self.lower_bound(value);
        ((code as usize) < self.len() && self.get(code) == value).then_some(code)
    }

    /// The code of the first value that is not less; the number of values where all are.
    pub fn lower_bound(&self, value: &[u8]) -> u32 {
        let (mut low, mut high) = (0, self.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) < value {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len() as u32).map(|code| self.get(code))
    }

    /// Bytes that it occupies.
    pub(crate) fn memory(&self) -> usize {
        self.data.len() + 4 * self.offsets.len()
    }

    fn from_sorted(values: &[&[u8]]) -> Result<Self, CoreError> {
        let mut offsets = Vec::with_capacity(values.len() + 1);
        let mut data = Vec::with_capacity(values.iter().map(|value| value.len()).sum());
        offsets.push(0);
        for value in values {
            data.extend_from_slice(value);
            offsets.push(len_u32(data.len())?);
        }
        Ok(Self {
            offsets: offsets.into(),
            data: data.into(),
        })
    }

    /// About how much longer an index gets by the stored form, which zstd may shorten.
    pub(crate) fn stored_len(&self) -> Result<usize, CoreError> {
        let mut out = Vec::with_capacity(self.memory());
        self.write(&mut out);
        let packed = Compressor::new(3)?.compress(&out)?;
        Ok(out.len().min(packed.len()))
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut shared = Vec::with_capacity(self.len());
        let mut follow = Vec::with_capacity(self.len());
        let mut bytes = Vec::with_capacity(self.data.len());
        let mut before: &[u8] = &[];
        for value in self.iter() {
            let same = value.iter().zip(before).take_while(|(a, b)| a == b).count();
            let rest = value.get(same..).unwrap_or_default();
            write_usize(&mut shared, same);
            write_usize(&mut follow, rest.len());
            bytes.extend_from_slice(rest);
            before = value;
        }
        write_usize(out, self.len());
        write_usize(out, self.data.len());
        out.extend(shared);
        out.extend(follow);
        out.extend(bytes);
    }

    /// Reads the stored form; all values must be of `width` bytes if one is given.
    pub(crate) fn read(reader: &mut Reader<'_>, width: Option<usize>) -> Result<Self, CoreError> {
        let count = read_usize(reader, MAX_ROWS as usize)?;
        let total = read_usize(reader, MAX_BYTES)?;
        let mut lengths = || -> Result<Vec<usize>, CoreError> {
            (0..count).map(|_| read_usize(reader, total)).collect()
        };
        let shared = lengths()?;
        let follow = lengths()?;
        let mut offsets = Vec::with_capacity(count + 1);
        offsets.push(0);
        let mut data: Vec<u8> = Vec::new();
        let mut before = 0..0;
        for (shared, follow) in shared.into_iter().zip(follow) {
            let start = data.len();
            let fits = shared <= before.len() && start + shared + follow <= total;
            if !fits || width.is_some_and(|width| width != shared + follow) {
                return Err(CoreError::corrupt("a dictionary's lengths are wrong"));
            }
            data.extend_from_within(before.start..before.start + shared);
            data.extend_from_slice(reader.take(follow)?);
            let value = data.get(start..).unwrap_or_default();
            let previous = data.get(before).unwrap_or_default();
            if offsets.len() > 1 && previous >= value {
                return Err(CoreError::corrupt("a dictionary is not in order"));
            }
            before = start..data.len();
            offsets.push(len_u32(data.len())?);
        }
        if data.len() != total {
            return Err(CoreError::corrupt("a dictionary is shorter than it says"));
        }
        Ok(Self {
            offsets: offsets.into(),
            data: data.into(),
        })
    }
}

/// The dictionary of some values and the code of each, unless there are too many distinct ones.
pub(crate) fn build<'a>(
    values: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<Option<(Dictionary, Vec<i64>)>, CoreError> {
    let count = values.len();
    let mut places: HashMap<&[u8], u32, BuildHasherDefault<ShortHasher>> = HashMap::default();
    let mut distinct: Vec<&[u8]> = Vec::new();
    let mut codes: Vec<i64> = Vec::with_capacity(count);
    let mut last: Option<(&[u8], u32)> = None;
    let mut bytes = 0;
    for (i, value) in values.enumerate() {
        let place = match last {
            Some((before, place)) if before == value => place,
            _ => *places.entry(value).or_insert_with(|| {
                distinct.push(value);
                bytes += value.len();
                (distinct.len() - 1) as u32
            }),
        };
        last = Some((value, place));
        codes.push(i64::from(place));
        let many = distinct.len() > count / 2 + 1 || (i == 4_095 && distinct.len() > 3_500);
        if many || bytes > MAX_BYTES {
            return Ok(None);
        }
    }
    let mut order: Vec<u32> = (0..distinct.len() as u32).collect();
    let value_at = |place: u32| distinct.get(place as usize).copied().unwrap_or_default();
    order.sort_unstable_by_key(|place| value_at(*place));
    let mut ranks = vec![0; order.len()];
    for (rank, place) in order.iter().enumerate() {
        if let Some(slot) = ranks.get_mut(*place as usize) {
            *slot = rank as i64;
        }
    }
    for code in &mut codes {
        *code = ranks.get(*code as usize).copied().unwrap_or_default();
    }
    let sorted: Vec<_> = order.into_iter().map(value_at).collect();
    Ok(Some((Dictionary::from_sorted(&sorted)?, codes)))
}

/// xxh3 of the bytes of a slice. Whoever chooses them can make this slow, but the rows of a
/// segment are too few for that to hurt.
#[derive(Default)]
struct ShortHasher(u64);

impl Hasher for ShortHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    fn write_usize(&mut self, value: usize) {
        self.0 ^= value as u64;
    }
}
