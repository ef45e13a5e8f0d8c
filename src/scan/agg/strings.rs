//! Strings by number, so that keys and extremes of text are compared as numbers where they are equal.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Known strings.
#[derive(Default)]
pub struct Strings {
    numbers: HashMap<Rc<[u8]>, u32>,
    strings: Vec<(Rc<[u8]>, u64)>,
    bytes: usize,
    epoch: u64,
    /// Bytes that those took that were kept last.
    kept: usize,
}

/// Bytes that a string takes beside its own: counters, two places in a table, a hash.
const EACH: usize = 72;

/// Fewer bytes than this are not worth looking for strings that nobody needs any longer.
const SMALL: usize = 1 << 16;

impl Strings {
    /// The number of a string, which becomes known.
    pub fn number(&mut self, string: &[u8]) -> i64 {
        if let Some(number) = self.numbers.get(string) {
            return i64::from(*number);
        }
        let number = self.strings.len() as u32;
        let mut hasher = DefaultHasher::new();
        string.hash(&mut hasher);
        let string: Rc<[u8]> = string.into();
        self.bytes += string.len() + EACH;
        self.strings.push((string.clone(), hasher.finish()));
        self.numbers.insert(string, number);
        i64::from(number)
    }

    /// The string of a number.
    pub fn get(&self, number: i64) -> &[u8] {
        self.entry(number).map_or(&[], |(string, _)| string)
    }

    /// A hash of the string of a number, which tells nothing of the number.
    pub fn hash(&self, number: i64) -> u64 {
        self.entry(number).map_or(0, |(_, hash)| *hash)
    }

    fn entry(&self, number: i64) -> Option<&(Rc<[u8]>, u64)> {
        self.strings.get(usize::try_from(number).ok()?)
    }

    /// Bytes that they take.
    pub fn memory(&self) -> usize {
        self.bytes
    }

    /// Which numbering holds: numbers of another one mean nothing.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether there may be so many that nobody needs that it is worth to look for them.
    pub fn grown(&self) -> bool {
        self.bytes > self.kept + self.kept / 4 + SMALL
    }

    /// Begins another numbering, to which `keep` moves the numbers of strings that are needed still.
    pub fn renumber(&mut self, keep: impl FnOnce(&mut dyn FnMut(i64) -> i64)) {
        let old = std::mem::take(self);
        self.epoch = old.epoch + 1;
        keep(&mut |number| self.number(old.get(number)));
        self.kept = self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_are_needed_keep_their_bytes_and_hashes() {
        let mut strings = Strings::default();
        let numbers: Vec<i64> = (0..5000)
            .map(|i| strings.number(format!("string {i}").as_bytes()))
            .collect();
        assert!(strings.grown());
        let hash = strings.hash(numbers[4000]);
        let before = strings.memory();
        let mut kept = numbers[4000];
        strings.renumber(|renumber| kept = renumber(kept));
        assert_eq!(strings.get(kept), b"string 4000");
        assert_eq!(strings.hash(kept), hash);
        assert_eq!(strings.epoch(), 1);
        assert!(strings.memory() * 1000 < before);
        assert!(!strings.grown());
        assert_eq!(strings.number(b"string 4000"), kept);
    }
}
