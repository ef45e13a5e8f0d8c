//! Where timelines came from: `00000002.history`.

use std::collections::BTreeMap;

use super::error::BackupError;
use super::keys::{self, WAL_PREFIX};
use super::lsn::Lsn;
use super::wal_list::history;
use super::wal_name::WalName;
use crate::seal::Identities;
use crate::store::Store;
use crate::wait::Tick;

/// The timelines that led to one, oldest first, and where each was left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimelineHistory {
    /// A timeline, and where the next one begins.
    pub left: Vec<(u32, Lsn)>,
}

impl TimelineHistory {
    /// Reads a history file: lines of a timeline, the position where it was left, and why; lines that begin with `#` are
    /// comments.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut left: Vec<(u32, Lsn)> = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace();
            let entry = || {
                let timeline: u32 = fields.next()?.parse().ok()?;
                let at: Lsn = fields.next()?.parse().ok()?;
                let ascends = left.last().is_none_or(|(before, _)| *before < timeline);
                ascends.then_some((timeline, at))
            };
            left.push({ entry }().ok_or_else(|| format!("\"{line}\" is no line of a history"))?);
        }
        Ok(Self { left })
    }

    /// Where a timeline was left on the way.
    pub fn left_at(&self, timeline: u32) -> Option<Lsn> {
        self.left
            .iter()
            .find(|(left, _)| *left == timeline)
            .map(|(_, at)| *at)
    }
}

/// The histories of the timelines that are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timelines {
    histories: BTreeMap<u32, TimelineHistory>,
}

impl Timelines {
    /// Those of some stores. One that cannot be read, since it is damaged or encrypted to somebody else, is not known if no
    /// other store has it.
    ///
    /// # Errors
    /// What ends the call: the caller's tick, or that a store is away.
    pub fn of(
        stores: &[&Store],
        identities: Option<&Identities>,
        tick: Tick<'_>,
    ) -> Result<Self, BackupError> {
        let mut timelines = Self::default();
        for store in stores {
            for object in store.list(WAL_PREFIX, tick)? {
                let object = object?;
                let Some((WalName::History { timeline }, _)) = keys::wal_object(&object.key) else {
                    continue;
                };
                timelines.read(store, timeline, identities, tick)?;
            }
        }
        Ok(timelines)
    }

    /// Reads the history of a timeline, if it can be and is not known yet.
    ///
    /// # Errors
    /// As of [`Timelines::of`].
    pub(super) fn read(
        &mut self,
        store: &Store,
        timeline: u32,
        identities: Option<&Identities>,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        if !self.knows(timeline) {
            match history(store, timeline, identities, tick) {
                Ok(history) => self.insert(timeline, history),
                Err(error) if error.is_cancelled() || error.is_unreachable() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the history of a timeline is known.
    pub fn knows(&self, timeline: u32) -> bool {
        self.histories.contains_key(&timeline)
    }

    /// Where a timeline begins, if its history is known.
    pub(super) fn begin(&self, timeline: u32) -> Option<Lsn> {
        let (_, at) = self.histories.get(&timeline)?.left.last()?;
        Some(*at)
    }

    /// Makes a history known.
    pub fn insert(&mut self, timeline: u32, history: TimelineHistory) {
        self.histories.insert(timeline, history);
    }

    /// Makes those known that others are.
    pub fn extend(&mut self, others: Self) {
        self.histories.extend(others.histories);
    }

    /// The newest timeline that is known.
    pub fn newest(&self) -> Option<u32> {
        self.histories.keys().next_back().copied()
    }

    /// Whether a position on a timeline lies on the way to another, or to one that began there later.
    pub fn lead(&self, timeline: u32, position: Lsn, to: u32) -> bool {
        let left = || self.histories.get(&to)?.left_at(timeline);
        timeline == to || left().is_some_and(|at| position <= at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn histories() {
        let text = "1\t0/A000198\tbefore 2026-11-29\n\n# x\n3\t0/B000000\tno recovery target\n";
        let history = TimelineHistory::parse(text).unwrap();
        assert_eq!(history.left_at(3), Some(Lsn(0xB00_0000)));
        assert_eq!(history.left_at(2), None);
        for wrong in ["1", "x 0/1", "2 0/1 a\n1 0/2 b"] {
            assert!(TimelineHistory::parse(wrong).is_err(), "{wrong}");
        }
    }
}
