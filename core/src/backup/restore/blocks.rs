//! Numbers of blocks of a file.

/// A set of blocks, as large as its largest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Blocks(Vec<u64>);

impl Blocks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn has(&self, block: u32) -> bool {
        let word = self.0.get(block as usize / 64);
        word.is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    pub(super) fn add(&mut self, block: u32) {
        let at = block as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        if let Some(word) = self.0.get_mut(at) {
            *word |= 1 << (block % 64);
        }
    }

    pub(super) fn add_all(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            *word |= other;
        }
    }

    /// Whether all blocks before one are in it.
    pub(super) fn has_all_before(&self, end: u32) -> bool {
        let (words, rest) = (end as usize / 64, end % 64);
        let last = (1 << rest) - 1;
        let first = self.0.get(..words);
        first.is_some_and(|first| first.iter().all(|word| *word == u64::MAX))
            && (rest == 0 || self.0.get(words).is_some_and(|word| word & last == last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it() {
        let mut blocks = Blocks::default();
        assert!(blocks.is_empty() && blocks.has_all_before(0) && !blocks.has_all_before(1));
        for block in (0..130).rev() {
            assert!(!blocks.has(block) && !blocks.has_all_before(block + 1));
            blocks.add(block);
            assert!(blocks.has(block) && !blocks.is_empty());
        }
        for end in 0..=130 {
            assert!(blocks.has_all_before(end));
        }
        assert!(!blocks.has_all_before(131) && !blocks.has_all_before(1000));
        let mut other = Blocks::default();
        other.add(3);
        let mut both = other.clone();
        both.add_all(&blocks);
        blocks.add_all(&other);
        assert_eq!(both, blocks);
    }
}
