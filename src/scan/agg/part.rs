//! Dividing groups that are too many for the memory that they may take.

/// A part of all groups: those whose hashes leave a remainder when they are divided by a power of two. Memory is bounded, so
/// many groups take several passes over the rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    remainder: u64,
    of: u64,
}

impl Part {
    /// All groups.
    pub const ALL: Part = Part {
        remainder: 0,
        of: 1,
    };

    /// The two halves of a part.
    pub fn halves(self) -> [Part; 2] {
        let of = self.of.saturating_mul(2);
        [self.remainder, self.remainder + self.of].map(|remainder| Part { remainder, of })
    }

    /// Whether a key of a hash is of the part.
    pub fn has(self, hash: u64) -> bool {
        // The lower bits choose the place in the table.
        (hash >> 32) & (self.of - 1) == self.remainder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_what_the_part_had() {
        let mut parts = vec![Part::ALL];
        for round in 0..5 {
            parts = parts.into_iter().flat_map(Part::halves).collect();
            for n in 0..1000u64 {
                let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let count = parts.iter().filter(|part| part.has(hash)).count();
                assert_eq!(count, 1, "hash {hash:x} after round {round}");
            }
        }
    }
}
