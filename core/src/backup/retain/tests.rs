//! Tests of what stays.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::super::lsn::Lsn;
use super::super::record::{Backup, Kind};
use super::super::timeline::{TimelineHistory, Timelines};
use super::super::timestamp::Timestamp;
use super::Retention;
use super::keep::{Decision, Known, Running, Situation, Unknown, decide};

const SEGMENT: u64 = 1 << 24;
const HOUR: Duration = Duration::from_secs(3600);

/// So many hours after some beginning.
fn moment(hour: u64) -> Timestamp {
    let end: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
    end.before(HOUR * (5000 - hour) as u32)
}

fn id(hour: u64, kind: Kind) -> String {
    format!("{}-{kind}", moment(hour).for_id())
}

/// A backup that was taken within an hour, and begins in the segment of that number.
fn backup(hour: u64, kind: Kind, parent: Option<&str>) -> Known {
    Known::of(Backup {
        version: 1,
        id: id(hour, kind),
        kind,
        parent: parent.map(str::to_owned),
        label: String::new(),
        started_at: moment(hour),
        stopped_at: moment(hour).max(moment(hour + 1).before(Duration::from_secs(1))),
        start_lsn: Lsn(hour * SEGMENT + 40),
        stop_lsn: Lsn(hour * SEGMENT + 400),
        timeline: 1,
        server_version: "17.12".to_owned(),
        wal_segment_bytes: SEGMENT,
        system_identifier: "7".to_owned(),
        includes_wal: false,
        tablespaces: Vec::new(),
        compression: "zstd".to_owned(),
        encryption: None,
        objects: Vec::new(),
        checks: serde_json::Value::Null,
    })
}

fn full(hour: u64) -> Known {
    backup(hour, Kind::Full, None)
}

fn on(timeline: u32, known: Known) -> Known {
    let mut backup = known.backup;
    backup.timeline = timeline;
    Known::of(backup)
}

fn of(known: &[Known]) -> Situation {
    Situation {
        known: known.to_vec(),
        begins: known
            .iter()
            .map(|k| (k.timeline, Some(k.start_lsn)))
            .rev()
            .collect(),
        ..Situation::default()
    }
}

fn keep_full(number: u32) -> Retention {
    Retention {
        keep_full: Some(number),
        keep_for: None,
    }
}

fn keep_for(hours: u32) -> Retention {
    Retention {
        keep_full: None,
        keep_for: Some(HOUR * hours),
    }
}

/// The hours of what goes, in the order of removal.
fn gone(situation: &Situation, retention: &Retention, now: u64) -> Vec<u64> {
    let removed = decide(situation, retention, moment(now)).remove;
    let hour = |id: &str| (0..5000).find(|hour| id.starts_with(&moment(*hour).for_id()));
    removed.iter().map(|(id, _)| hour(id).unwrap()).collect()
}

/// Full backups at 10, 30 and 50, each with a differential one and two increments behind that.
fn three_chains() -> Vec<Known> {
    let mut all = Vec::new();
    for hour in [10, 30, 50] {
        let first = full(hour);
        let second = backup(hour + 3, Kind::Differential, Some(&first.id));
        let third = backup(hour + 6, Kind::Incremental, Some(&second.id));
        let fourth = backup(hour + 9, Kind::Incremental, Some(&third.id));
        all.extend([first, second, third, fourth]);
    }
    all
}

#[test]
fn so_many_full_ones() {
    let all = of(&three_chains());
    for (number, expected) in [
        (0, vec![39, 36, 33, 30, 19, 16, 13, 10]),
        (1, vec![39, 36, 33, 30, 19, 16, 13, 10]),
        (2, vec![19, 16, 13, 10]),
        (3, vec![]),
        (9, vec![]),
    ] {
        assert_eq!(gone(&all, &keep_full(number), 70), expected, "{number}");
    }
    let two = decide(&all, &keep_full(2), moment(70));
    assert_eq!(two.wal_before, Some((SEGMENT, 30)));
    assert!(two.remove[0].1.contains("which is removed"), "{two:?}");
    assert!(two.remove[3].1.contains("newest 2"), "{two:?}");
    let nothing = decide(&all, &Retention::default(), moment(70));
    assert!(nothing.remove.is_empty() && nothing.wal_before.is_none());
}

#[test]
fn every_moment_of_a_time_can_be_reached() {
    let all = of(&three_chains());
    // The one at 30 ended before the window begins, and that at 50 within it.
    assert_eq!(gone(&all, &keep_for(20), 70), [19, 16, 13, 10]);
    let decision = decide(&all, &keep_for(20), moment(70));
    assert!(
        decision.notes[0].contains(&id(30, Kind::Full)),
        "{decision:?}"
    );
    // The window begins within the hour in which the one at 30 was taken.
    assert_eq!(gone(&all, &keep_for(40), 70), Vec::<u64>::new());
    assert_eq!(gone(&all, &keep_for(39), 70), [19, 16, 13, 10]);
    assert_eq!(gone(&all, &keep_for(1), 4000).len(), 8);
    // Either of the two keeps.
    let both = Retention {
        keep_full: Some(1),
        ..keep_for(39)
    };
    assert_eq!(gone(&all, &both, 70), [19, 16, 13, 10]);
    let both = Retention {
        keep_full: Some(3),
        ..keep_for(1)
    };
    assert_eq!(gone(&all, &both, 70), Vec::<u64>::new());
}

#[test]
fn what_cannot_be_followed_stays_with_what_is_older() {
    let mut chains = three_chains();
    // Of the second chain the differential one.
    let lost = chains.remove(5);
    let decision = decide(&of(&chains), &keep_full(1), moment(70));
    assert!(decision.remove.is_empty(), "{decision:?}");
    assert!(
        decision.notes.iter().any(|n| n.contains(&lost.id)),
        "{decision:?}"
    );
    assert_eq!(decision.wal_before, Some((SEGMENT, 10)));
    // It is there, but damaged.
    let mut situation = of(&chains);
    situation.unknown.push(Unknown {
        id: lost.id.clone(),
        why: "damaged".to_owned(),
    });
    let decision = decide(&situation, &keep_full(1), moment(70));
    assert!(decision.remove.is_empty() && decision.wal_before.is_none());
    // A full backup that is damaged needs none, but nobody knows what leads on from it.
    let mut chains = three_chains();
    let lost = chains.remove(4);
    chains.retain(|k| k.backup.kind != Kind::Incremental || k.backup.started_at < moment(30));
    let mut situation = of(&chains);
    situation.unknown.push(Unknown {
        id: lost.id.clone(),
        why: "damaged".to_owned(),
    });
    assert_eq!(gone(&situation, &keep_full(1), 70), [19, 16, 13, 10]);
    assert!(
        decide(&situation, &keep_full(1), moment(70))
            .wal_before
            .is_none()
    );
    // A name that does not begin with a time says nothing of what is older.
    let mut situation = of(&three_chains());
    situation.unknown.push(Unknown {
        id: "0-incremental".to_owned(),
        why: "damaged".to_owned(),
    });
    assert!(gone(&situation, &keep_full(1), 70).is_empty());
}

#[test]
fn what_is_under_way_keeps_its_parent_and_wal() {
    let mut situation = of(&three_chains());
    situation.running.push(Running {
        id: "x".to_owned(),
        parent: Some(id(33, Kind::Differential)),
    });
    assert_eq!(gone(&situation, &keep_full(1), 70), [19, 16, 13, 10]);
    situation.running[0].parent = None;
    assert_eq!(gone(&situation, &keep_full(1), 70).len(), 8);
    let decision = decide(&situation, &keep_full(1), moment(70));
    assert!(decision.wal_before.is_none() && decision.notes[0].contains("being written"));
}

#[test]
fn segments_of_different_sizes() {
    let mut chains = three_chains();
    let mut other = chains.pop().unwrap().backup;
    other.wal_segment_bytes = 2 * SEGMENT;
    chains.push(Known::of(other));
    let decision = decide(&of(&chains), &keep_full(2), moment(70));
    assert_eq!((decision.remove.len(), decision.wal_before), (4, None));
}

/// The newest backup is of a timeline that was left before it ended: the new one needs an older backup.
#[test]
fn a_backup_of_a_timeline_that_was_left_is_no_way_to_the_next() {
    let mut situation = of(&[full(10), full(20), full(30)]);
    situation.begins.insert(2, Some(Lsn(25 * SEGMENT)));
    assert_eq!(gone(&situation, &keep_full(1), 40), [10]);
    assert_eq!(gone(&situation, &keep_for(5), 40), [10]);
    // Now it has one of its own.
    situation.known.push(on(2, full(35)));
    assert_eq!(gone(&situation, &keep_full(1), 40), [30, 20, 10]);
    // In the time that counts it was begun, and its own backup does not go back that far.
    assert_eq!(gone(&situation, &keep_for(8), 40), [10]);
    assert_eq!(gone(&situation, &keep_for(3), 40), [30, 20, 10]);
    // Where the next one begins is not known yet.
    situation.begins.insert(3, None);
    let decision = decide(&situation, &keep_full(1), moment(40));
    assert!(decision.remove.is_empty() && decision.notes[0].contains("timeline 3"));
}

/// What cannot be restored takes nobody's place.
#[test]
fn full_backups_with_faults() {
    let faulty = |known: Known| Known {
        fault: Some("lost".to_owned()),
        ..known
    };
    let all = of(&[
        full(10),
        full(20),
        faulty(full(30)),
        full(40),
        faulty(full(50)),
    ]);
    assert_eq!(gone(&all, &keep_full(1), 70), [30, 20, 10]);
    let decision = decide(&all, &keep_full(1), moment(70));
    assert!(decision.notes.len() == 1 && decision.notes[0].contains(&id(50, Kind::Full)));
    assert_eq!(gone(&all, &keep_full(2), 70), [10]);
    assert_eq!(gone(&all, &keep_full(4), 70), Vec::<u64>::new());
    assert_eq!(gone(&all, &keep_for(15), 70), [30, 20, 10]);
    // The one before the time that counts must be sound.
    assert_eq!(gone(&all, &keep_for(31), 70), [10]);
    let all = of(&[faulty(full(10)), full(30)]);
    assert_eq!(gone(&all, &keep_full(1), 70), [10]);
    assert_eq!(gone(&all, &keep_full(2), 70), Vec::<u64>::new());
    assert_eq!(gone(&all, &keep_for(50), 70), Vec::<u64>::new());
    // It is the only one that leads to the next timeline.
    let mut all = of(&[faulty(full(10)), full(30)]);
    all.begins.insert(2, Some(Lsn(20 * SEGMENT)));
    all.timelines
        .insert(2, history(&format!("1 {}", Lsn(20 * SEGMENT))));
    assert_eq!(gone(&all, &keep_full(1), 70), Vec::<u64>::new());
}

fn history(lines: &str) -> TimelineHistory {
    TimelineHistory::parse(lines).unwrap()
}

/// A timeline begins in the middle of the segment in which the backup ended that it was restored from.
#[test]
fn a_timeline_that_begins_right_behind_a_backup() {
    let mut situation = of(&[full(3), full(5), full(8)]);
    situation.begins.insert(2, Some(Lsn(5 * SEGMENT)));
    assert_eq!(gone(&situation, &keep_full(1), 20), Vec::<u64>::new());
    // Where it was left is known: after the backup, or before.
    let stop = Lsn(5 * SEGMENT + 400);
    let left = |at: Lsn| history(&format!("1 {at} promoted"));
    situation.timelines.insert(2, left(stop));
    assert_eq!(gone(&situation, &keep_full(1), 20), [3]);
    assert_eq!(gone(&situation, &keep_for(2), 20), [3]);
    situation.timelines.insert(2, left(Lsn(stop.0 - 1)));
    assert_eq!(gone(&situation, &keep_full(1), 20), [5]);
}

/// Of the newest timeline there is no backup, nor of the one that it came from.
#[test]
fn timelines_without_backups_of_their_own() {
    let mut situation = of(&[full(2), full(5), full(8)]);
    situation.begins.insert(2, Some(Lsn(6 * SEGMENT)));
    situation.begins.insert(3, Some(Lsn(20 * SEGMENT)));
    assert_eq!(gone(&situation, &keep_full(1), 30), [2]);
    let line = |timeline: u32, segment: u64| format!("{timeline} {}\n", Lsn(segment * SEGMENT));
    let by_way_of_two = history(&(line(1, 6) + &line(2, 20)));
    situation.timelines.insert(3, by_way_of_two);
    assert_eq!(gone(&situation, &keep_full(1), 30), [2]);
    // It came from the first one, which was left before the newest backup ended, or after.
    situation.timelines.insert(3, history(&line(1, 7)));
    assert_eq!(gone(&situation, &keep_full(1), 30), [2]);
    situation.timelines.insert(3, history(&line(1, 20)));
    assert_eq!(gone(&situation, &keep_full(1), 30), [5, 2]);
    // Nothing is known of one that lies between.
    situation.timelines = Timelines::default();
    situation.begins.remove(&2);
    let decision = decide(&situation, &keep_full(1), moment(30));
    assert!(decision.remove.is_empty() && decision.notes[0].contains("timeline 3"));
}

/// What a store may have: each entry is the hour, the kind, and which of those before it is its parent.
fn situations() -> impl Strategy<Value = (Vec<Known>, Vec<bool>)> {
    let entry = (
        1_u64..4,
        0_u8..5,
        any::<prop::sample::Index>(),
        prop::bool::weighted(0.05),
    );
    prop::collection::vec(entry, 1..30).prop_map(|entries| {
        let (mut all, mut damaged): (Vec<Known>, Vec<bool>) = (Vec::new(), Vec::new());
        let mut hour = 0;
        for (later, kind, parent, bad) in entries {
            hour += later;
            let fulls: Vec<&Known> = all.iter().filter(|k| k.backup.kind == Kind::Full).collect();
            let next = match kind {
                1 if !fulls.is_empty() => {
                    let parent = &fulls[parent.index(fulls.len())].id;
                    backup(hour, Kind::Differential, Some(parent))
                }
                2.. if !all.is_empty() => {
                    let parent = &all[parent.index(all.len())].id;
                    backup(hour, Kind::Incremental, Some(parent))
                }
                _ => full(hour),
            };
            all.push(next);
            damaged.push(bad);
        }
        (all, damaged)
    })
}

fn retentions() -> impl Strategy<Value = Retention> {
    (prop::option::of(0_u32..5), prop::option::of(0_u32..80)).prop_map(|(full, hours)| Retention {
        keep_full: full,
        keep_for: hours.map(|hours| HOUR * hours),
    })
}

/// What is left after a removal.
fn after(situation: &Situation, decision: &Decision) -> Situation {
    let gone: BTreeSet<&str> = decision.remove.iter().map(|(id, _)| id.as_str()).collect();
    let known = situation.known.iter();
    Situation {
        known: known
            .filter(|k| !gone.contains(k.id.as_str()))
            .cloned()
            .collect(),
        ..situation.clone()
    }
}

proptest! {
    #[test]
    fn nothing_goes_that_is_needed(
        (all, damaged) in situations(),
        retention in retentions(),
        now in 100_u64..200,
    ) {
        let (sound, lost): (Vec<_>, Vec<_>) = all.iter().zip(&damaged).partition(|(_, bad)| !**bad);
        let sound: Vec<Known> = sound.into_iter().map(|(known, _)| known.clone()).collect();
        let mut situation = of(&sound);
        situation.unknown = lost
            .iter()
            .map(|(known, _)| Unknown { id: known.id.clone(), why: "damaged".to_owned() })
            .collect();
        let decision = decide(&situation, &retention, moment(now));
        let by_id: BTreeMap<&str, &Known> = all.iter().map(|k| (k.id.as_str(), k)).collect();
        let gone: BTreeSet<&str> = decision.remove.iter().map(|(id, _)| id.as_str()).collect();
        if retention == Retention::default() {
            prop_assert!(gone.is_empty() && decision.wal_before.is_none());
            return Ok(());
        }
        // What stays, damaged ones too, has all that it truly needs.
        for known in all.iter().filter(|k| !gone.contains(k.id.as_str())) {
            if let Some(parent) = &known.parent {
                prop_assert!(!gone.contains(parent.as_str()), "{} needs {parent}", known.id);
            }
            if let Some((segment, first)) = decision.wal_before {
                prop_assert!(known.start_lsn.0 / segment >= first);
            }
        }
        prop_assert!(lost.is_empty() || decision.wal_before.is_none());
        // In the order of removal nothing goes before what needs it.
        let order: Vec<&str> = decision.remove.iter().map(|(id, _)| id.as_str()).collect();
        for (at, id) in order.iter().enumerate() {
            if let Some(parent) = &by_id[id].parent {
                let parent = order.iter().position(|other| other == parent);
                prop_assert!(parent.is_some_and(|parent| parent > at));
            }
        }
        // The newest full ones, those of the time that counts, and the one before.
        let mut fulls: Vec<&Known> = sound.iter().filter(|k| k.backup.kind == Kind::Full).collect();
        fulls.sort_by_key(|full| std::cmp::Reverse(full.backup.stopped_at));
        let begin = retention.keep_for.map(|time| moment(now).before(time));
        let before = begin.and_then(|b| fulls.iter().find(|full| full.backup.stopped_at < b));
        for (number, full) in fulls.iter().enumerate() {
            let wanted = number == 0
                || retention.keep_full.is_some_and(|n| number < n as usize)
                || begin.is_some_and(|begin| full.backup.stopped_at >= begin)
                || before.is_some_and(|before| before.id == full.id);
            prop_assert!(!wanted || !gone.contains(full.id.as_str()));
            // Nothing is kept without a reason, where all can be read.
            let all_read = lost.is_empty();
            prop_assert!(!all_read || wanted || gone.contains(full.id.as_str()));
        }
        // Once is enough.
        let again = decide(&after(&situation, &decision), &retention, moment(now));
        prop_assert!(again.remove.is_empty());
        prop_assert_eq!(again.wal_before, decision.wal_before);
    }
}
