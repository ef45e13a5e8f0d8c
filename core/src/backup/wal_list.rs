//! Which WAL a store has, and how far a backup can be rolled forward with it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::BackupError;
use super::keys::{self, WAL_PREFIX, WalPart};
use super::lsn::Lsn;
use super::record::Backup;
use super::timeline::TimelineHistory;
use super::wal::read_small;
use super::wal_name::WalName;
use crate::seal::Identities;
use crate::store::Store;
use crate::wait::Tick;

/// Longest history file, in bytes.
const MAX_HISTORY_BYTES: u64 = 1 << 20;

/// A file of WAL in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFile {
    /// Its name.
    pub name: WalName,
    /// Its object.
    pub key: String,
    /// Size of the object, in bytes.
    pub stored_bytes: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// Segments that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalGap {
    /// The first of them.
    pub first: WalName,
    /// The last of them.
    pub last: WalName,
    /// How many they are.
    pub segments: u64,
}

/// How far a backup can be rolled forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReach {
    /// The timelines that lead there, the backup's first.
    pub timelines: Vec<u32>,
    /// Where the backup's own timeline is left for the next of them; none if it is the last.
    pub left_at: Option<Lsn>,
    /// The segment with the backup's start.
    pub first: WalName,
    /// The last segment before the first gap; none if the first one is missing.
    pub last: Option<WalName>,
    /// Where that ends.
    pub end: Option<Lsn>,
    /// Size of their objects, in bytes.
    pub stored_bytes: u64,
    /// What is missing between the backup's start and the newest segment.
    pub gaps: Vec<WalGap>,
    /// Whether all is there that the backup itself needs.
    pub covers_backup: bool,
}

/// The files of WAL in a store, in order of their names. What has no such name is passed over.
///
/// # Errors
/// What the store answers.
pub fn wal_list(store: &Store, tick: Tick<'_>) -> Result<Vec<WalFile>, BackupError> {
    let mut files = Vec::new();
    for object in store.list(WAL_PREFIX, tick)? {
        let object = object?;
        files.extend(wal_file(object.key, object.size));
    }
    Ok(files)
}

/// The file of WAL that an object of so many bytes holds, if it holds one.
pub(super) fn wal_file(key: String, stored_bytes: u64) -> Option<WalFile> {
    let (name, part) = keys::wal_object(&key)?;
    (part != WalPart::Sum).then_some(WalFile {
        name,
        stored_bytes,
        encrypted: part == WalPart::Encrypted,
        key,
    })
}

/// How far a backup can be rolled forward with the WAL of a store, along the newest timeline that leads on from it.
///
/// # Errors
/// What the store answers; a damaged history file.
pub fn wal_reach(
    store: &Store,
    backup: &Backup,
    files: &[WalFile],
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<WalReach, BackupError> {
    let segment = backup.wal_segment_bytes;
    let mut there: BTreeMap<u32, BTreeMap<u64, u64>> = BTreeMap::new();
    let mut histories = BTreeSet::new();
    for file in files {
        if let Some(number) = file.name.number(segment) {
            let timeline = there.entry(file.name.timeline()).or_default();
            timeline.insert(number, file.stored_bytes);
        } else if let WalName::History { timeline } = file.name
            && timeline > backup.timeline
        {
            histories.insert(timeline);
        }
    }
    let mut path = vec![(backup.timeline, None)];
    for timeline in histories.into_iter().rev() {
        let history = history(store, timeline, identities, tick)?;
        if history
            .left_at(backup.timeline)
            .is_some_and(|at| at >= backup.stop_lsn)
        {
            let on_the_way = history
                .left
                .into_iter()
                .filter(|(t, _)| *t >= backup.timeline);
            path = on_the_way.map(|(t, at)| (t, Some(at))).collect();
            path.push((timeline, None));
            break;
        }
    }
    Ok(along(&path, backup, &there))
}

/// Follows the timelines from the backup's start on.
fn along(
    path: &[(u32, Option<Lsn>)],
    backup: &Backup,
    there: &BTreeMap<u32, BTreeMap<u64, u64>>,
) -> WalReach {
    let segment = backup.wal_segment_bytes;
    let first = backup.start_lsn.0 / segment;
    let needed = backup.stop_lsn.0.saturating_sub(1) / segment;
    let mut reach = WalReach {
        timelines: path.iter().map(|(timeline, _)| *timeline).collect(),
        left_at: path.first().and_then(|(_, left_at)| *left_at),
        first: WalName::of_number(backup.timeline, first, segment),
        last: None,
        end: None,
        stored_bytes: 0,
        gaps: Vec::new(),
        covers_backup: true,
    };
    let nothing = BTreeMap::new();
    let mut next = first;
    for (timeline, left_at) in path {
        let have = there.get(timeline).unwrap_or(&nothing);
        // The segment in which a timeline is left is had from the next one.
        let end = match left_at {
            Some(at) => at.0 / segment,
            None => {
                let newest = have.keys().next_back().map_or(0, |newest| newest + 1);
                // The backup's own timeline must go as far as the backup needs.
                match *timeline == backup.timeline {
                    true => newest.max(needed + 1),
                    false => newest,
                }
            }
        };
        let begin = next;
        for (number, stored) in have.range(begin..end.max(begin)) {
            reach.gap(*timeline, next, *number, segment);
            if reach.gaps.is_empty() {
                reach.stored_bytes += stored;
                reach.last = Some(WalName::of_number(*timeline, *number, segment));
                reach.end = Some(Lsn((number + 1).saturating_mul(segment)));
            }
            next = number + 1;
        }
        reach.gap(*timeline, next, end, segment);
        next = next.max(end);
    }
    let missing = |gap: &WalGap| gap.first.number(segment).is_some_and(|n| n <= needed);
    reach.covers_backup = !reach.gaps.iter().any(missing);
    reach
}

impl WalReach {
    fn gap(&mut self, timeline: u32, from: u64, to: u64, segment: u64) {
        if from < to {
            self.gaps.push(WalGap {
                first: WalName::of_number(timeline, from, segment),
                last: WalName::of_number(timeline, to - 1, segment),
                segments: to - from,
            });
        }
    }
}

/// Reads the history of a timeline.
pub(super) fn history(
    store: &Store,
    timeline: u32,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<TimelineHistory, BackupError> {
    let name = WalName::History { timeline };
    let bytes = read_small(store, &name, MAX_HISTORY_BYTES, identities, tick)?;
    TimelineHistory::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|detail| BackupError::corrupt(name.to_string(), detail))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::record::Kind;
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    /// A backup in the segments 4 and 5 of timeline 1.
    fn backup() -> Backup {
        let moment = "2026-11-29T08:00:00Z".parse().unwrap();
        Backup {
            version: 1,
            id: "x".to_owned(),
            kind: Kind::Full,
            parent: None,
            label: String::new(),
            started_at: moment,
            stopped_at: moment,
            start_lsn: Lsn(4 * SEGMENT + 40),
            stop_lsn: Lsn(5 * SEGMENT + 40),
            timeline: 1,
            server_version: "17.12".to_owned(),
            wal_segment_bytes: SEGMENT,
            system_identifier: "1".to_owned(),
            includes_wal: false,
            tablespaces: Vec::new(),
            compression: "zstd".to_owned(),
            encryption: None,
            objects: Vec::new(),
            checks: serde_json::Value::Null,
        }
    }

    fn reach(path: &[(u32, Option<Lsn>)], have: &[(u32, &[u64])]) -> WalReach {
        let there = have.iter().map(|(timeline, numbers)| {
            (
                *timeline,
                numbers.iter().map(|number| (*number, 1)).collect(),
            )
        });
        along(path, &backup(), &there.collect())
    }

    fn gaps(reach: &WalReach) -> Vec<(u32, u64, u64)> {
        let gap = |gap: &WalGap| {
            let first = gap.first.number(SEGMENT).unwrap();
            assert_eq!(gap.last.number(SEGMENT).unwrap(), first + gap.segments - 1);
            (gap.first.timeline(), first, gap.segments)
        };
        reach.gaps.iter().map(gap).collect()
    }

    #[test]
    fn one_timeline() {
        let alone = [(1, None)];
        let whole = reach(&alone, &[(1, &[2, 3, 4, 5, 6, 7])]);
        assert_eq!((gaps(&whole), whole.covers_backup), (vec![], true));
        assert_eq!(whole.left_at, None);
        assert_eq!((whole.end, whole.stored_bytes), (Some(Lsn(8 * SEGMENT)), 4));
        let late = reach(&alone, &[(1, &[4, 5, 7, 10])]);
        assert_eq!(
            (gaps(&late), late.covers_backup),
            (vec![(1, 6, 1), (1, 8, 2)], true)
        );
        assert_eq!(late.end, Some(Lsn(6 * SEGMENT)));
        let short = reach(&alone, &[(1, &[4])]);
        assert_eq!(
            (gaps(&short), short.covers_backup),
            (vec![(1, 5, 1)], false)
        );
        let none = reach(&alone, &[]);
        assert_eq!((gaps(&none), none.covers_backup), (vec![(1, 4, 2)], false));
        assert_eq!((none.last, none.end), (None, None));
        let far = reach(&alone, &[(1, &[4, 5, u64::from(u32::MAX)])]);
        assert_eq!(far.gaps.len(), 1);
    }

    #[test]
    fn the_segment_in_which_a_timeline_is_left_is_of_the_next() {
        let path = [(1, Some(Lsn(7 * SEGMENT + 1))), (3, None)];
        let whole = reach(&path, &[(1, &[4, 5, 6]), (3, &[7, 8])]);
        assert_eq!((gaps(&whole), whole.end), (vec![], Some(Lsn(9 * SEGMENT))));
        assert_eq!(whole.timelines, [1, 3]);
        assert_eq!(whole.left_at, Some(Lsn(7 * SEGMENT + 1)));
        let lost = reach(&path, &[(1, &[4, 5, 6, 7, 8, 9]), (3, &[8])]);
        assert_eq!(gaps(&lost), [(3, 7, 1)]);
        let before = reach(&path, &[(1, &[4, 5]), (3, &[7])]);
        assert_eq!(gaps(&before), [(1, 6, 1)]);
    }
}
