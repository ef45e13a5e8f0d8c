//! Rows of two tables that come in about the same order: they find each other at the heads of two queues, before they go into a
//! [table](super::pairs).
//!
//! Where the heads have different keys, one of them is looked for behind the other: rows were added or are gone between. Where that is looked for
//! too often, or in vain, the order is another one, and it takes a while until it is tried again. For tables with one row of each key.

use super::pairs::{Seen, Side};
use std::collections::VecDeque;

/// Rows that wait in a queue at most.
const LONGEST: usize = 4096;

/// Rows of which so many are there, before a head is taken for one without a pair.
const FAR: usize = 1024;

/// Rows that may be looked at while heads are looked for, and more for each pair: looking costs no more than the table does.
const CREDIT: usize = 16 << 10;
const CREDIT_FOR_PAIR: usize = 16;

/// Calls until it is tried again.
const PAUSE: u32 = 16;

/// Two queues.
#[derive(Debug, Default)]
pub struct Lockstep {
    old: VecDeque<Seen>,
    new: VecDeque<Seen>,
    credit: usize,
    pause: u32,
}

impl Lockstep {
    /// Rows of a table that wait here.
    pub fn waiting(&self, side: Side) -> u64 {
        side.pick(&self.old, &self.new).len() as u64
    }

    /// Adds rows; hands those on that have no pair here, in their order.
    pub fn put(&mut self, side: Side, rows: &[Seen], on: &mut dyn FnMut(Side, Seen)) {
        if self.pause > 0 {
            self.pause -= 1;
            rows.iter().for_each(|row| on(side, *row));
            return;
        }
        side.pick(&mut self.old, &mut self.new).extend(rows);
        if !self.meet(on) {
            self.flush(on);
            (self.pause, self.credit) = (PAUSE, 0);
        } else if self.old.len().max(self.new.len()) > LONGEST {
            self.flush(on);
        }
    }

    /// Hands everything on that waits.
    pub fn flush(&mut self, on: &mut dyn FnMut(Side, Seen)) {
        self.old.drain(..).for_each(|row| on(Side::Old, row));
        self.new.drain(..).for_each(|row| on(Side::New, row));
    }

    /// Takes pairs from the heads until one of the queues is empty; `false` where the orders are different.
    fn meet(&mut self, on: &mut dyn FnMut(Side, Seen)) -> bool {
        self.credit = self.credit.max(CREDIT);
        while let (Some(old), Some(new)) = (self.old.front(), self.new.front()) {
            if old.key() == new.key() {
                self.credit = (self.credit + CREDIT_FOR_PAIR).min(2 * CREDIT);
                if old.values() != new.values() {
                    on(Side::Old, *old);
                    on(Side::New, *new);
                }
                self.old.pop_front();
                self.new.pop_front();
                continue;
            }
            let (of_old, of_new, looked_at) = match self.distance() {
                Some((of_old, of_new)) => (of_old, of_new, of_old.max(of_new)),
                // What is looked for may yet come.
                None if self.old.len().min(self.new.len()) < FAR => return true,
                None => (1, 1, self.old.len().max(self.new.len())),
            };
            let Some(left) = self.credit.checked_sub(looked_at) else {
                return false;
            };
            self.credit = left;
            self.old.drain(..of_old).for_each(|row| on(Side::Old, row));
            self.new.drain(..of_new).for_each(|row| on(Side::New, row));
        }
        true
    }

    /// How many rows of each queue lie before the nearest place where a row of one is that of the other's head, or where both have the same
    /// key as far behind.
    fn distance(&self) -> Option<(usize, usize)> {
        let (old, new) = (self.old.front()?.key(), self.new.front()?.key());
        (1..self.old.len().max(self.new.len())).find_map(|at| {
            let of_old = self.old.get(at).map(Seen::key);
            let of_new = self.new.get(at).map(Seen::key);
            if of_old == Some(new) {
                Some((at, 0))
            } else if of_new == Some(old) {
                Some((0, at))
            } else {
                (of_old.is_some() && of_old == of_new).then_some((at, at))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::hash::finish;

    fn seen(side: Side, key: u64, value: u64) -> Seen {
        let hash = finish(key.into());
        Seen::new(side, hash, hash ^ finish(u128::from(value) << 64), key)
    }

    /// Two tables, in batches; what is handed on, by table, key and value.
    fn through(old: &[(u64, u64)], new: &[(u64, u64)], batch: usize) -> Vec<(Side, Seen)> {
        let rows = |side, of: &[(u64, u64)]| {
            let rows = of.iter().map(|(key, value)| seen(side, *key, *value));
            rows.collect::<Vec<_>>()
        };
        let (old, new) = (rows(Side::Old, old), rows(Side::New, new));
        let (mut old, mut new) = (old.chunks(batch), new.chunks(batch));
        let mut found = Vec::new();
        let mut lockstep = Lockstep::default();
        loop {
            let (of_old, of_new) = (old.next(), new.next());
            if of_old.is_none() && of_new.is_none() {
                break;
            }
            let mut on = |side, row| found.push((side, row));
            lockstep.put(Side::Old, of_old.unwrap_or_default(), &mut on);
            lockstep.put(Side::New, of_new.unwrap_or_default(), &mut on);
            assert!(lockstep.old.len().max(lockstep.new.len()) <= LONGEST);
        }
        lockstep.flush(&mut |side, row| found.push((side, row)));
        assert_eq!(lockstep.waiting(Side::Old) + lockstep.waiting(Side::New), 0);
        found
    }

    fn places(found: &[(Side, Seen)]) -> Vec<(u8, u64)> {
        let side = |side: &Side| u8::from(*side == Side::New);
        let mut places: Vec<_> = found
            .iter()
            .map(|(s, row)| (side(s), row.place()))
            .collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn in_the_same_order() {
        let old: Vec<(u64, u64)> = (0..10_000).map(|key| (key, 0)).collect();
        for batch in [1, 7, 1024] {
            assert!(through(&old, &old, batch).is_empty());
            let mut new = old.clone();
            new[500].1 = 1;
            new.remove(9_999);
            new.drain(3_000..3_100);
            new.splice(7_000..7_000, (20_000..20_003).map(|key| (key, 0)));
            let found = places(&through(&old, &new, batch));
            let mut expected = vec![(0, 500), (1, 500), (0, 9_999)];
            expected.extend((3_000..3_100).map(|key| (0, key)));
            expected.extend((20_000..20_003).map(|key| (1, key)));
            expected.sort_unstable();
            assert!(found == expected, "{batch}: {} rows", found.len());
        }
    }

    /// Whatever is handed on, only pairs are kept.
    #[test]
    fn whatever_the_order() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(99);
            (random >> 33) % below
        };
        for round in 0..100 {
            let mut table = |keys: u64, swaps: u64| {
                let mut rows: Vec<(u64, u64)> = (0..keys)
                    .filter(|_| next(20) > 0)
                    .map(|key| (key, u64::from(key % 50 == round % 50)))
                    .collect();
                for _ in 0..swaps {
                    let (a, b) = (next(rows.len() as u64), next(rows.len() as u64));
                    rows.swap(a as usize, b as usize);
                }
                rows.iter_mut()
                    .for_each(|row| row.1 += u64::from(next(30) == 0));
                rows
            };
            let swaps = [0, 3, 5_000][round as usize % 3];
            let (old, new) = (table(6_000, swaps), table(6_000, swaps));
            let found = through(&old, &new, 512);
            let handed = |side, row: &(u64, u64)| {
                let row = seen(side, row.0, row.1);
                found
                    .iter()
                    .filter(|(of, there)| *of == side && *there == row)
                    .count()
            };
            let mut kept = [Vec::new(), Vec::new()];
            for ((side, rows), kept) in [(Side::Old, &old), (Side::New, &new)]
                .into_iter()
                .zip(&mut kept)
            {
                for row in rows {
                    match handed(side, row) {
                        0 => kept.push(*row),
                        count => assert_eq!(count, 1),
                    }
                }
                kept.sort_unstable();
            }
            let [of_old, of_new] = kept;
            assert_eq!(of_old, of_new);
            // Some five thousand, of which a last thousand may wait for what comes no more.
            assert!(swaps > 0 || of_old.len() > 3_900, "{}", of_old.len());
        }
    }
}
