//! The groups of a query: their keys, found by hashing.

/// A value of a key: its bits, and whether it is NULL.
pub type Token = (i64, bool);

/// Groups by number, each with as many tokens as there are keys.
pub struct Groups {
    width: usize,
    /// Tokens of all groups one after the other.
    tokens: Vec<Token>,
    /// Hash of each group.
    hashes: Vec<u64>,
    /// Numbers of groups by their hashes; [`EMPTY`] where there is none. A power of two of them.
    table: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

fn mix(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(25) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Hash of a key.
pub fn hash(tokens: &[Token]) -> u64 {
    let hash = tokens
        .iter()
        .fold(0x243F_6A88_85A3_08D3, |h, (bits, null)| {
            mix(h, (*bits as u64) ^ u64::from(*null) << 63)
        });
    hash ^ hash >> 29
}

impl Groups {
    /// No groups yet, of `width` keys each.
    pub fn new(width: usize) -> Self {
        Groups {
            width,
            tokens: Vec::new(),
            hashes: Vec::new(),
            table: vec![EMPTY; 64],
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Groups::new(self.width);
    }

    /// Bytes that they take.
    pub fn memory(&self) -> usize {
        self.tokens.len() * size_of::<Token>() + self.hashes.len() * 8 + self.table.len() * 4
    }

    /// The tokens of a group.
    pub fn tokens(&self, group: usize) -> &[Token] {
        let start = group * self.width;
        self.tokens
            .get(start..start + self.width)
            .unwrap_or_default()
    }

    /// The number of the group of a key, a new one if need be.
    pub fn find(&mut self, tokens: &[Token], hash: u64) -> usize {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.table.get(at).copied() {
                None | Some(EMPTY) => break,
                Some(group) => {
                    let group = group as usize;
                    if self.hashes.get(group) == Some(&hash) && self.tokens(group) == tokens {
                        return group;
                    }
                }
            }
            at = (at + 1) & mask;
        }
        let group = self.hashes.len();
        self.hashes.push(hash);
        self.tokens.extend_from_slice(tokens);
        if let Some(slot) = self.table.get_mut(at) {
            *slot = group as u32;
        }
        if self.hashes.len() * 2 > self.table.len() {
            self.grow();
        }
        group
    }

    fn grow(&mut self) {
        let size = self.table.len() * 2;
        let mask = size - 1;
        let mut table = vec![EMPTY; size];
        for (group, hash) in self.hashes.iter().enumerate() {
            let mut at = *hash as usize & mask;
            while table.get(at).is_some_and(|slot| *slot != EMPTY) {
                at = (at + 1) & mask;
            }
            if let Some(slot) = table.get_mut(at) {
                *slot = group as u32;
            }
        }
        self.table = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_group() {
        let mut groups = Groups::new(2);
        for round in 0..3 {
            for i in 0..10_000i64 {
                let key = [(i % 100, false), (i / 100, i % 7 == 0)];
                let group = groups.find(&key, hash(&key));
                assert_eq!(group as i64, i, "round {round}");
                assert_eq!(groups.tokens(group), key);
            }
        }
        assert_eq!(groups.len(), 10_000);
    }
}
