//! The groups of a query: their keys, found by hashing.

use super::accumulate::canonical;
use std::borrow::Cow;
use std::collections::HashMap;

/// A value of a key: its bits, and whether it is NULL.
pub type Token = (i64, bool);

/// Groups by number, each with as many tokens as there are keys.
pub struct Groups {
    /// Which keys are floats: equal ones may have different bits.
    floats: Vec<bool>,
    /// Tokens of all groups one after the other, those of equal values the same.
    tokens: Vec<Token>,
    /// Of groups whose first row had other bits these.
    first_seen: HashMap<usize, Box<[Token]>>,
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
pub fn hash(tokens: impl IntoIterator<Item = Token>) -> u64 {
    let hash = tokens
        .into_iter()
        .fold(0x243F_6A88_85A3_08D3, |h, (bits, null)| {
            mix(h, (bits as u64) ^ u64::from(null) << 63)
        });
    hash ^ hash >> 29
}

impl Groups {
    /// No groups yet; `floats` says of each key whether it is a float.
    pub fn new(floats: Vec<bool>) -> Self {
        Groups {
            floats,
            tokens: Vec::new(),
            first_seen: HashMap::new(),
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
        *self = Groups::new(std::mem::take(&mut self.floats));
    }

    /// Keeps some groups, in that order, and forgets the others.
    pub fn keep(&mut self, groups: &[usize]) {
        let mut kept = Groups::new(self.floats.clone());
        for group in groups {
            let hash = self.hashes.get(*group).copied().unwrap_or_default();
            kept.find(self.tokens(*group), self.key(*group), hash);
        }
        *self = kept;
    }

    /// Gives the tokens of a key of text other numbers of the same strings.
    pub fn renumber(&mut self, key: usize, renumber: &mut dyn FnMut(i64) -> i64) {
        let width = self.floats.len().max(1);
        let kept = self.tokens.iter_mut().skip(key).step_by(width);
        let first_seen = self.first_seen.values_mut().filter_map(|t| t.get_mut(key));
        for (bits, _) in kept.chain(first_seen).filter(|(_, null)| !null) {
            *bits = renumber(*bits);
        }
    }

    /// Bytes that they take.
    pub fn memory(&self) -> usize {
        let first_seen = self.first_seen.len() * (48 + self.floats.len() * size_of::<Token>());
        self.tokens.len() * size_of::<Token>()
            + self.hashes.len() * 8
            + self.table.len() * 4
            + first_seen
    }

    /// The tokens of a group, as they were first seen.
    pub fn key(&self, group: usize) -> &[Token] {
        match self.first_seen.get(&group) {
            Some(tokens) => tokens,
            None => self.tokens(group),
        }
    }

    fn tokens(&self, group: usize) -> &[Token] {
        let width = self.floats.len();
        let start = group * width;
        self.tokens.get(start..start + width).unwrap_or_default()
    }

    /// A key as all that are equal to it look.
    pub fn canonical<'a>(&self, key: &'a [Token]) -> Cow<'a, [Token]> {
        let mut same = Cow::Borrowed(key);
        for (at, float) in self.floats.iter().enumerate() {
            let Some((bits, null)) = key.get(at).copied().filter(|_| *float) else {
                continue;
            };
            let equal = if null {
                bits
            } else {
                canonical(f64::from_bits(bits as u64))
            };
            if equal != bits
                && let Some(token) = same.to_mut().get_mut(at)
            {
                token.0 = equal;
            }
        }
        same
    }

    /// The number of the group of a key, a new one if need be; `tokens` is the [`canonical`](Self::canonical) form of `key`,
    /// and of that the hash.
    pub fn find(&mut self, tokens: &[Token], key: &[Token], hash: u64) -> usize {
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
        if tokens != key {
            self.first_seen.insert(group, key.into());
        }
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
        let mut groups = Groups::new(vec![false; 2]);
        for round in 0..3 {
            for i in 0..10_000i64 {
                let key = [(i % 100, false), (i / 100, i % 7 == 0)];
                let group = groups.find(&key, &key, hash(key));
                assert_eq!(group as i64, i, "round {round}");
                assert_eq!(groups.key(group), key);
            }
        }
        assert_eq!(groups.len(), 10_000);
    }

    #[test]
    fn equal_floats_are_of_one_group_that_shows_the_first() {
        let float = |value: f64| [(value.to_bits() as i64, false)];
        let mut groups = Groups::new(vec![true]);
        let mut group_of = |key: [Token; 1]| {
            let same = groups.canonical(&key);
            let group = groups.find(&same, &key, hash(same.iter().copied()));
            (group, groups.key(group).to_vec())
        };
        assert_eq!(group_of(float(-0.0)), (0, float(-0.0).to_vec()));
        assert_eq!(group_of(float(0.0)), (0, float(-0.0).to_vec()));
        assert_eq!(group_of([(0, true)]), (1, vec![(0, true)]));
        assert_eq!(group_of(float(f64::NAN)).0, 2);
        assert_eq!(group_of(float(-f64::NAN)).0, 2);
        groups.keep(&[2, 0]);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups.key(1), float(-0.0));
        let zero = float(0.0);
        assert_eq!(groups.find(&zero, &zero, hash(zero)), 1);
    }
}
