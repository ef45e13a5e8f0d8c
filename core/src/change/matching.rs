//! Rows of two tables, as many as there are, matched in memory that does not grow.
//!
//! They go into a table in which the same rows cancel out ([`Pairs`]). Where that is full, it is emptied into files, each of which takes a
//! part of the keys' hashes; in the end the files are read one after the other, each into a table of its own, and divided further where that is
//! full again. A file is written and read once, in the order in which it was written: a sort would also compare and merge, and rows with
//! different keys need no order.

use super::lockstep::Lockstep;
use super::pairs::{Pairs, Put, Seen, Side};

/// A file for rows that wait.
pub trait Scratch {
    /// Adds bytes.
    fn write(&mut self, bytes: &[u8]);
    /// Goes to the beginning, after the last byte was added.
    fn rewind(&mut self);
    /// The next bytes, as many as there is room for; fewer at the end.
    fn read(&mut self, to: &mut [u8]) -> usize;
}

/// Bits of the keys' hashes.
const BITS: u32 = 62;

/// Bytes that are written and read at a time.
const BLOCK: usize = 8192;

/// Of memory, what each file may have for its buffers and the server's, several times over.
const MEMORY_FOR_FILE: usize = 64 << 10;

/// Rows that are being matched.
pub struct Matching<'a, F> {
    lockstep: Lockstep,
    pairs: Pairs,
    memory: usize,
    keep: bool,
    /// Bits by which rows are divided at a time.
    bits: u32,
    /// Bits by which all rows here are the same.
    same: u32,
    make: &'a dyn Fn() -> F,
    files: Vec<File<F>>,
    spilled: u64,
}

impl<'a, F: Scratch> Matching<'a, F> {
    /// None yet. They take `memory` bytes, and about as many again while they go to files that `make` makes. With `keep`, keys may have
    /// several rows, which is noticed.
    pub fn new(memory: usize, keep: bool, make: &'a dyn Fn() -> F) -> Self {
        let files = (memory / MEMORY_FOR_FILE).max(1);
        Self::below(memory, keep, files.ilog2().clamp(3, 6), 0, make)
    }

    fn below(memory: usize, keep: bool, bits: u32, same: u32, make: &'a dyn Fn() -> F) -> Self {
        // Where nothing is left to divide rows by, there is room for the few of each hash that say something.
        let last = same + bits > BITS;
        Matching {
            lockstep: Lockstep::default(),
            pairs: Pairs::new(memory, keep || last),
            memory,
            keep,
            bits,
            same,
            make,
            files: Vec::new(),
            spilled: 0,
        }
    }

    /// Rows of a table that wait for a pair in memory.
    pub fn waiting(&self, side: Side) -> u64 {
        self.pairs.waiting(side) + self.lockstep.waiting(side)
    }

    /// How often a row came whose key was in memory for the other table, with another row.
    pub fn differing(&self) -> u64 {
        self.pairs.differing()
    }

    /// As many rows as may be without a pair, or more.
    pub fn rows(&self) -> u64 {
        self.spilled + self.waiting(Side::Old) + self.waiting(Side::New)
    }

    /// Adds a row.
    #[inline]
    pub fn put(&mut self, side: Side, row: Seen) {
        // What was emptied has room.
        while self.pairs.put(side, row) == Put::Full {
            self.spill();
        }
    }

    /// Adds rows of a table that come one after the other.
    pub fn put_all(&mut self, side: Side, rows: &[Seen]) {
        if self.keep {
            rows.iter().for_each(|row| self.put(side, *row));
            return;
        }
        let mut lockstep = std::mem::take(&mut self.lockstep);
        lockstep.put(side, rows, &mut |side, row| self.put(side, row));
        self.lockstep = lockstep;
    }

    #[cold]
    fn spill(&mut self) {
        let Matching {
            pairs,
            bits,
            same,
            make,
            files,
            spilled,
            ..
        } = self;
        if files.is_empty() {
            files.resize_with(1 << *bits, File::default);
        }
        pairs.drain(|row| {
            *spilled += 1;
            let at = (row.key() << *same) >> (u64::BITS - *bits);
            if let Some(file) = files.get_mut(at as usize) {
                file.put(row, *make);
            }
        });
    }

    /// Hands on the rows that have no pair, of each key with several rows of a table one at least. Says whether all of them were handed on.
    pub fn without_pair(mut self, f: &mut dyn FnMut(&Seen)) -> bool {
        let mut lockstep = std::mem::take(&mut self.lockstep);
        lockstep.flush(&mut |side, row| self.put(side, row));
        let last = self.same + self.bits > BITS;
        if self.files.is_empty() {
            self.pairs.without_pair().for_each(f);
            return !self.keep && !last;
        }
        self.spill();
        self.pairs = Pairs::new(0, self.keep);
        let mut all = !self.keep;
        for file in std::mem::take(&mut self.files) {
            let same = self.same + self.bits;
            let mut below = Self::below(self.memory, self.keep, self.bits, same, self.make);
            file.read(|row| {
                for (side, row) in row.rows() {
                    below.put(side, row);
                }
            });
            all &= below.without_pair(f);
        }
        all
    }
}

/// A file, and what is about to be written to it.
struct File<F> {
    file: Option<F>,
    buffer: Vec<u8>,
}

impl<F> Default for File<F> {
    fn default() -> Self {
        File {
            file: None,
            buffer: Vec::new(),
        }
    }
}

impl<F: Scratch> File<F> {
    fn put(&mut self, row: Seen, make: &dyn Fn() -> F) {
        if self.buffer.len() + Seen::BYTES > BLOCK {
            self.file.get_or_insert_with(make).write(&self.buffer);
            self.buffer.clear();
        }
        self.buffer.extend_from_slice(&row.to_bytes());
    }

    fn read(self, mut f: impl FnMut(Seen)) {
        let mut each = |bytes: &[u8]| {
            let (rows, _) = bytes.as_chunks();
            rows.iter().for_each(|row| f(Seen::from_bytes(row)));
        };
        let File { file, mut buffer } = self;
        each(&buffer);
        let Some(mut file) = file else { return };
        file.rewind();
        buffer.resize(BLOCK, 0);
        loop {
            let read = file.read(&mut buffer);
            each(buffer.get(..read).unwrap_or_default());
            if read < BLOCK {
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::change::hash::finish;
    use std::cell::Cell;
    use std::collections::HashMap;

    #[derive(Default)]
    struct InMemory {
        bytes: Vec<u8>,
        at: usize,
    }

    impl Scratch for InMemory {
        fn write(&mut self, bytes: &[u8]) {
            self.bytes.extend_from_slice(bytes);
        }

        fn rewind(&mut self) {
            self.at = 0;
        }

        fn read(&mut self, to: &mut [u8]) -> usize {
            let rest = &self.bytes[self.at..];
            let read = rest.len().min(to.len());
            to[..read].copy_from_slice(&rest[..read]);
            self.at += read;
            read
        }
    }

    /// Random rows, cancelled in memory and in files: what remains is what a map of all rows says.
    #[test]
    fn what_remains() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(99);
            (random >> 33) % below
        };
        let files = Cell::new(0);
        let make = || {
            files.set(files.get() + 1);
            InMemory::default()
        };
        let small = (0..80).map(|round| {
            let memory = [0, 0, 100_000, 10_000_000][round / 2 % 4];
            let keys = 1 + next(20_000);
            (memory, round % 2 == 0, keys, next(40_000))
        });
        let small: Vec<_> = small.collect();
        // More than fits, into as many files as there are at most.
        let large = [false, true].map(|keep| (4 << 20, keep, 150_000, 300_000));
        for (round, (memory, keep, keys, rows)) in small.into_iter().chain(large).enumerate() {
            let before = files.get();
            let mut matching = Matching::new(memory, keep, &make);
            let mut all: HashMap<u64, [Vec<(u64, u64)>; 2]> = HashMap::new();
            for place in 0..rows {
                let key = next(keys);
                let (side, at) = match next(2) {
                    0 => (Side::Old, 0),
                    _ => (Side::New, 1),
                };
                let value = u64::from(next(10) == 0);
                let of_key = all.entry(key).or_default();
                // Without `keep`, keys are unique.
                if !keep && !of_key[at].is_empty() {
                    continue;
                }
                of_key[at].push((value, place));
                let key = finish(key.into());
                let row = key ^ finish(u128::from(value) << 64);
                matching.put(side, Seen::new(side, key, row, place));
            }
            let most = matching.rows();
            let mut found = Vec::new();
            let whole = matching.without_pair(&mut |row| found.push((row.key(), row.place())));
            assert_eq!(whole, !keep);
            assert!(found.len() as u64 <= most);
            let values = |rows: &Vec<(u64, u64)>| rows.iter().map(|row| row.0).collect::<Vec<_>>();
            let settled =
                |[old, new]: &[Vec<(u64, u64)>; 2]| old.len() == 1 && values(old) == values(new);
            let open = all.iter().filter(|(_, rows)| !settled(rows));
            let mut expected: Vec<(u64, u64)> = open
                .flat_map(|(key, rows)| {
                    let key = Seen::key_part(finish((*key).into()));
                    rows.iter().flatten().map(move |(_, place)| (key, *place))
                })
                .collect();
            if keep {
                for rows in [&mut found, &mut expected] {
                    rows.iter_mut().for_each(|row| row.1 = 0);
                }
            }
            for rows in [&mut found, &mut expected] {
                rows.sort_unstable();
                rows.dedup();
            }
            assert_eq!(found, expected, "round {round}");
            assert!(memory != 4 << 20 || files.get() == before + 64);
        }
        assert!(files.get() > 1000, "{} files", files.get());
    }

    /// Rows of one key, and rows whose hashes differ in nothing that divides them: files do not help.
    #[test]
    fn what_cannot_be_divided() {
        for keep in [false, true] {
            let make = InMemory::default;
            let mut matching = Matching::new(0, keep, &make);
            for i in 0..20_000u64 {
                let key = u128::from((i % 4) << 2);
                matching.put(Side::Old, Seen::new(Side::Old, key, i.into(), i));
                matching.put(Side::New, Seen::new(Side::New, key, i.into(), i));
            }
            let mut found = Vec::new();
            let whole = matching.without_pair(&mut |row| found.push(row.key()));
            found.sort_unstable();
            found.dedup();
            assert!(!keep || found.len() == 4);
            // Pairs that cancel out at once need no room.
            assert!(keep || whole);
            let mut matching = Matching::new(0, keep, &make);
            for i in 0..20_000u64 {
                let key = u128::from((i % 4) << 2);
                matching.put(Side::Old, Seen::new(Side::Old, key, i.into(), i));
            }
            let mut found = Vec::new();
            assert!(!matching.without_pair(&mut |row| found.push(row.key())));
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, [0, 4, 8, 12]);
        }
    }
}
