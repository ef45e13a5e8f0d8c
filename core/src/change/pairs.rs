//! Rows of two tables, of which those that both have cancel out, in memory that does not grow beyond a limit.
//!
//! A row is known by the hash of its key and the hash of the whole. What is full is emptied, its rows handed to a sort: the rows of one key
//! come out of that next to each other, and a [`Group`] says of them what the table would have said.

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

    /// Where it lies, if it was not made of its parts.
    pub fn place(&self) -> u64 {
        self.place
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

    /// As three numbers, without its place, of which the first one sorts rows of one key next to each other.
    pub fn to_parts(self) -> [u64; 3] {
        let [low, high] = self.row;
        [self.tag, low, high]
    }

    /// The reverse of [`Seen::to_parts`].
    pub fn from_parts([tag, low, high]: [u64; 3]) -> Self {
        Seen {
            tag,
            row: [low, high],
            place: 0,
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
    /// Most slots that there may be.
    limit: usize,
    keep: bool,
}

impl Pairs {
    /// An empty one, which takes `bytes` of memory at most (33 kB at least). With `keep`, pairs are kept, so that a second row of the
    /// same key is noticed.
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
            limit,
            keep,
        }
    }

    /// Rows of a table that have no pair yet.
    pub fn waiting(&self, side: Side) -> u64 {
        match side {
            Side::Old => self.old,
            Side::New => self.new,
        }
    }

    /// Adds a row. The same rows of both tables cancel out.
    #[inline]
    pub fn put(&mut self, side: Side, row: Seen) -> Put {
        if self.used * 4 >= self.slots.len() * 3 && !self.grow() {
            return Put::Full;
        }
        let mut pair = None;
        let mut twice = false;
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
                    twice = true;
                } else if there.row == row.row && pair.is_none() {
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
            Some(pair) if !(self.keep && twice) => {
                *self.waits(other(side)) -= 1;
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
                if let Some(free) = self.slots.get_mut(at) {
                    *free = row;
                }
            }
        }
        Put::Taken
    }

    fn waits(&mut self, side: Side) -> &mut u64 {
        match side {
            Side::Old => &mut self.old,
            Side::New => &mut self.new,
        }
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
        if size > self.limit || larger.try_reserve_exact(size).is_err() {
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

fn other(side: Side) -> Side {
    match side {
        Side::Old => Side::New,
        Side::New => Side::Old,
    }
}

/// The rows of one key (of one part of a hash), one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    first: Seen,
    old: u64,
    new: u64,
    same: bool,
}

impl Group {
    /// A group that begins with a row.
    pub fn begin(row: Seen) -> Self {
        let mut group = Group {
            first: row,
            old: 0,
            new: 0,
            same: true,
        };
        group.count(row);
        group
    }

    /// Adds a row; false where it is of another key, and not added.
    pub fn add(&mut self, row: Seen) -> bool {
        let same_key = row.key() == self.first.key();
        if same_key {
            self.same &= row.row == self.first.row;
            self.count(row);
        }
        same_key
    }

    fn count(&mut self, row: Seen) {
        self.old += row.sides() & 1;
        self.new += row.sides() >> 1;
    }

    /// Whether there is one row in each table, and these are the same.
    pub fn is_settled(&self) -> bool {
        self.same && self.old == 1 && self.new == 1
    }

    /// The part of its key's hash.
    pub fn key(&self) -> u64 {
        self.first.key()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::change::hash::finish;
    use std::collections::HashMap;

    fn seen(side: Side, key: u64, value: u64) -> Seen {
        let key = finish(key.into());
        Seen::new(side, key, key ^ finish(u128::from(value) << 64), 0)
    }

    #[test]
    fn parts_and_back() {
        for side in [Side::Old, Side::New] {
            let row = seen(side, 7, 8);
            assert_eq!(Seen::from_parts(row.to_parts()), row);
            assert_eq!(row.key(), Seen::key_part(finish(7)));
            assert_eq!(row.side(), Some(side));
            assert_eq!(Seen::new(side, 1, 2, 3).place(), 3);
        }
    }

    /// Random rows, put, cancelled and drained as memory has it: what remains is what a map of all rows says.
    #[test]
    fn what_remains() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(99);
            (random >> 33) % below
        };
        for round in 0..60 {
            let keep = round % 2 == 0;
            let limit = [0, 100_000, 10_000_000][round % 3];
            let mut pairs = Pairs::new(limit, keep);
            let mut spilled = Vec::new();
            let mut all: HashMap<u64, [Vec<u64>; 2]> = HashMap::new();
            let keys = 1 + next(6000);
            for _ in 0..next(12_000) {
                let key = next(keys);
                let (side, place) = match next(2) {
                    0 => (Side::Old, 0),
                    _ => (Side::New, 1),
                };
                let value = u64::from(next(10) == 0);
                let of_key = all.entry(key).or_default();
                // Without `keep`, keys are unique.
                if !keep && !of_key[place].is_empty() {
                    continue;
                }
                of_key[place].push(value);
                let row = seen(side, key, value);
                if pairs.put(side, row) == Put::Full {
                    pairs.drain(|row| spilled.push(row));
                    assert_eq!(pairs.put(side, row), Put::Taken);
                }
                assert!(pairs.slots.len() * size_of::<Seen>() <= limit.max(33_000));
            }
            let mut found: Vec<u64> = if spilled.is_empty() {
                let mut waiting = 0;
                let found = pairs.without_pair().inspect(|_| waiting += 1);
                let found = found.map(Seen::key).collect();
                assert_eq!(waiting, pairs.waiting(Side::Old) + pairs.waiting(Side::New));
                found
            } else {
                pairs.drain(|row| spilled.push(row));
                assert_eq!(pairs.without_pair().count(), 0);
                spilled.sort_by_key(|row| row.to_parts());
                let mut groups: Vec<Group> = Vec::new();
                for row in spilled {
                    if !groups.last_mut().is_some_and(|group| group.add(row)) {
                        groups.push(Group::begin(row));
                    }
                }
                let open = groups.iter().filter(|group| !group.is_settled());
                open.map(Group::key).collect()
            };
            found.sort_unstable();
            found.dedup();
            let settled = |rows: &[Vec<u64>; 2]| rows[0].len() == 1 && rows[0] == rows[1];
            let open = all.iter().filter(|(_, rows)| !settled(rows));
            let mut expected: Vec<u64> = open
                .map(|(key, _)| Seen::key_part(finish((*key).into())))
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "round {round}");
        }
    }
}
