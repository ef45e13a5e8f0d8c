//! Rows of two tables, of which those that both have cancel out, in memory that does not grow beyond a limit.
//!
//! A row is known by the hash of its key and the hash of the whole. What is full is emptied; [`matching`](super::matching) says where to.

/// Which of two tables a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one before.
    Old,
    /// The one after.
    New,
}

impl Side {
    const fn bit(self) -> u64 {
        match self {
            Side::Old => 1,
            Side::New => 2,
        }
    }

    /// The other one.
    pub fn opposite(self) -> Self {
        self.pick(Side::New, Side::Old)
    }

    /// What is of this side, of something that each has.
    #[inline]
    pub fn pick<T>(self, old: T, new: T) -> T {
        match self {
            Side::Old => old,
            Side::New => new,
        }
    }
}

/// The bits of a [`Seen`]'s first number that say which tables have the row.
const SIDES: u64 = 3;

/// A row that was seen, or two that are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// 62 bits of the key's hash; then 1 for the old, 2 for the new table, 3 for both. 0 where there is no row.
    tag: u64,
    row: [u64; 2],
    place: u64,
}

impl Seen {
    /// A row by the hashes of its key and of the whole, and where it lies, as its reader has it.
    pub fn new(side: Side, key: u128, row: u128, place: u64) -> Self {
        Seen {
            tag: Self::key_part(key) | side.bit(),
            row: [row as u64, (row >> 64) as u64],
            place,
        }
    }

    /// Which table it is of; `None` for a pair.
    pub fn side(&self) -> Option<Side> {
        match self.sides() {
            1 => Some(Side::Old),
            2 => Some(Side::New),
            _ => None,
        }
    }

    /// Where it lies; of a pair, where one of its rows does.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// What is known of its values, wherever it lies and whatever table it is of.
    pub fn values(&self) -> (u64, [u64; 2]) {
        (self.key(), self.row)
    }

    /// What is kept of a key's hash: numbers that are equal for equal keys.
    #[inline]
    pub fn key_part(key: u128) -> u64 {
        key as u64 & !SIDES
    }

    /// The part of its key's hash.
    pub fn key(&self) -> u64 {
        self.tag & !SIDES
    }

    /// The rows that it stands for: of a pair, both.
    pub fn rows(self) -> impl Iterator<Item = (Side, Seen)> {
        let of = move |side: Side| {
            let tag = self.key() | side.bit();
            (self.sides() & side.bit() != 0).then_some((side, Seen { tag, ..self }))
        };
        [Side::Old, Side::New].into_iter().filter_map(of)
    }

    /// Its bytes when it is kept elsewhere.
    pub const BYTES: usize = 32;

    /// As bytes.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [low, high] = self.row;
        let mut bytes = [0; Self::BYTES];
        let (parts, _) = bytes.as_chunks_mut();
        for (part, number) in parts.iter_mut().zip([self.tag, low, high, self.place]) {
            *part = number.to_ne_bytes();
        }
        bytes
    }

    /// The reverse of [`Seen::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| {
            let (parts, _) = bytes.as_chunks();
            parts.get(at).map_or(0, |part| u64::from_ne_bytes(*part))
        };
        Seen {
            tag: number(0),
            row: [number(1), number(2)],
            place: number(3),
        }
    }

    fn sides(&self) -> u64 {
        self.tag & SIDES
    }

    fn is_none(&self) -> bool {
        self.tag == 0
    }
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It has a pair, or waits for it.
    Taken,
    /// There is no room: everything has to be [drained](Pairs::drain) first.
    Full,
}

/// Slots at the beginning; a power of two.
const SMALLEST: usize = 1024;

/// A table of rows that have no pair yet, by open addressing.
#[derive(Debug)]
pub struct Pairs {
    slots: Vec<Seen>,
    used: usize,
    old: u64,
    new: u64,
    differing: u64,
    /// Most slots that there may be.
    limit: usize,
    keep: bool,
}

impl Pairs {
    /// An empty one, which takes `bytes` of memory at most (33 kB at least). With `keep`, pairs are kept, so that a second row of the
    /// same key is noticed; it has no pair then. A third one says nothing new, and is forgotten.
    pub fn new(bytes: usize, keep: bool) -> Self {
        // While it grows, there is one of half the size beside it.
        let slots = bytes / size_of::<Seen>() * 2 / 3;
        let limit = match slots.checked_ilog2() {
            Some(bits) => SMALLEST.max(1 << bits),
            None => SMALLEST,
        };
        Pairs {
            slots: Vec::new(),
            used: 0,
            old: 0,
            new: 0,
            differing: 0,
            limit,
            keep,
        }
    }

    /// Rows of a table that have no pair yet.
    pub fn waiting(&self, side: Side) -> u64 {
        side.pick(self.old, self.new)
    }

    /// How often a row came whose key was there in the other table, with another row.
    pub fn differing(&self) -> u64 {
        self.differing
    }

    /// Adds a row. The same rows of both tables cancel out.
    #[inline]
    pub fn put(&mut self, side: Side, row: Seen) -> Put {
        if self.used * 4 >= self.slots.len() * 3 && !self.grow() {
            return Put::Full;
        }
        let mut pair = None;
        let mut same_key = 0;
        let mut other_row = false;
        let mut at = self.home(row.tag);
        loop {
            let Some(there) = self.slots.get(at) else {
                return Put::Full;
            };
            if there.is_none() {
                break;
            }
            if there.key() == row.key() {
                if there.sides() & side.bit() != 0 {
                    same_key += 1;
                    if self.keep && same_key == 2 {
                        return Put::Taken;
                    }
                } else if there.row != row.row {
                    other_row = true;
                } else if pair.is_none() {
                    pair = Some(at);
                    if !self.keep {
                        break;
                    }
                }
            }
            at = self.after(at);
        }
        match pair {
            // A second row of a key must not find a pair: both would be forgotten with theirs.
            Some(pair) if !(self.keep && same_key > 0) => {
                *self.waits(side.opposite()) -= 1;
                if self.keep {
                    if let Some(there) = self.slots.get_mut(pair) {
                        there.tag |= SIDES;
                    }
                } else {
                    self.remove(pair);
                }
            }
            _ => {
                *self.waits(side) += 1;
                self.used += 1;
                self.differing += u64::from(other_row);
                if let Some(free) = self.slots.get_mut(at) {
                    *free = row;
                }
            }
        }
        Put::Taken
    }

    fn waits(&mut self, side: Side) -> &mut u64 {
        side.pick(&mut self.old, &mut self.new)
    }

    /// Hands on everything that is there, and forgets it.
    pub fn drain(&mut self, mut f: impl FnMut(Seen)) {
        for slot in &mut self.slots {
            if !slot.is_none() {
                f(std::mem::take(slot));
            }
        }
        (self.used, self.old, self.new) = (0, 0, 0);
    }

    /// Rows without a pair.
    pub fn without_pair(&self) -> impl Iterator<Item = &Seen> {
        let single = |seen: &&Seen| !seen.is_none() && seen.sides() != SIDES;
        self.slots.iter().filter(single)
    }

    fn home(&self, tag: u64) -> usize {
        // The number of slots is a power of two. The lowest bits are no part of the hash.
        (tag >> 2) as usize & (self.slots.len().wrapping_sub(1))
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len().wrapping_sub(1))
    }

    /// Takes a row out; those behind it that would no more be found move up.
    fn remove(&mut self, at: usize) {
        let mask = self.slots.len().wrapping_sub(1);
        let mut hole = at;
        let mut next = self.after(at);
        while let Some(there) = self.slots.get(next).copied() {
            if there.is_none() {
                break;
            }
            let home = self.home(there.tag);
            // Where it stands it is found from its home on; in the hole too, if that lies between the two.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                if let Some(free) = self.slots.get_mut(hole) {
                    *free = there;
                }
                hole = next;
            }
            next = self.after(next);
        }
        if let Some(free) = self.slots.get_mut(hole) {
            *free = Seen::default();
        }
        self.used -= 1;
    }

    #[cold]
    fn grow(&mut self) -> bool {
        let size = (self.slots.len() * 2).max(SMALLEST);
        let mut larger = Vec::new();
        // A table without room for its first rows would lose them: there, to be without memory ends the process, as elsewhere.
        let first = self.slots.is_empty();
        if !first && (size > self.limit || larger.try_reserve_exact(size).is_err()) {
            return false;
        }
        larger.resize(size, Seen::default());
        let before = std::mem::replace(&mut self.slots, larger);
        for row in before.into_iter().filter(|row| !row.is_none()) {
            let mut at = self.home(row.tag);
            while let Some(there) = self.slots.get_mut(at) {
                if there.is_none() {
                    *there = row;
                    break;
                }
                at = self.after(at);
            }
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::change::hash::finish;

    fn seen(side: Side, key: u64, value: u64) -> Seen {
        let key = finish(key.into());
        Seen::new(side, key, key ^ finish(u128::from(value) << 64), 0)
    }

    #[test]
    fn bytes_and_back() {
        for side in [Side::Old, Side::New] {
            let row = seen(side, 7, 8);
            assert_eq!(Seen::from_bytes(&row.to_bytes()), row);
            assert_eq!(row.key(), Seen::key_part(finish(7)));
            assert_eq!(row.side(), Some(side));
            assert_eq!(Seen::new(side, 1, 2, 3).place(), 3);
            assert_eq!(row.rows().collect::<Vec<_>>(), [(side, row)]);
        }
    }

    #[test]
    fn pairs_are_two_rows() {
        let mut pairs = Pairs::new(0, true);
        let rows = [Side::Old, Side::New].map(|side| (side, seen(side, 7, 8)));
        for (side, row) in rows {
            assert_eq!(pairs.put(side, row), Put::Taken);
        }
        assert_eq!(pairs.without_pair().count(), 0);
        let mut found = Vec::new();
        pairs.drain(|row| found.extend(row.rows()));
        assert_eq!(found, rows);
    }

    #[test]
    fn rows_that_differ_are_counted() {
        for keep in [false, true] {
            let mut pairs = Pairs::new(0, keep);
            for key in 0..100 {
                pairs.put(Side::Old, seen(Side::Old, key, 1));
            }
            for key in 50..150 {
                pairs.put(Side::New, seen(Side::New, key, u64::from(key % 10 == 0)));
            }
            assert_eq!(pairs.differing(), 45);
            pairs.drain(|_| {});
            assert_eq!(pairs.differing(), 45);
        }
    }

    /// Any number of rows of a few keys take the room of a few.
    #[test]
    fn many_rows_of_a_key() {
        let mut pairs = Pairs::new(0, true);
        for i in 0..100_000 {
            for side in [Side::Old, Side::New] {
                assert_eq!(pairs.put(side, seen(side, i % 50, i % 3)), Put::Taken);
            }
        }
        assert!(pairs.used <= 200, "{}", pairs.used);
        let mut keys: Vec<u64> = pairs.without_pair().map(Seen::key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 50);
    }
}
