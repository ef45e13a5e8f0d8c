//! Which backups stay.

use std::collections::{BTreeMap, BTreeSet};

use super::super::chain::link_fault;
use super::super::lsn::Lsn;
use super::super::record::{Backup, Kind};
use super::super::timeline::Timelines;
use super::super::timestamp::Timestamp;
use super::Retention;

/// A backup whose record can be read.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) parent: Option<String>,
    pub(super) timeline: u32,
    pub(super) start_lsn: Lsn,
    pub(super) segment_bytes: u64,
    /// Why it cannot be restored from the store, as far as that is known: then it takes nobody's place.
    pub(super) fault: Option<String>,
    /// Without its objects: their frames are many.
    pub(super) backup: Backup,
}

impl Known {
    pub(super) fn of(mut backup: Backup) -> Self {
        backup.objects = Vec::new();
        backup.checks = serde_json::Value::Null;
        Self {
            id: backup.id.clone(),
            parent: backup.parent.clone(),
            timeline: backup.timeline,
            start_lsn: backup.start_lsn,
            segment_bytes: backup.wal_segment_bytes,
            fault: None,
            backup,
        }
    }
}

/// A backup whose record cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Unknown {
    pub(super) id: String,
    pub(super) why: String,
}

/// A backup that is under way.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) id: String,
    pub(super) parent: Option<String>,
}

/// All that is known of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Situation {
    pub(super) known: Vec<Known>,
    pub(super) unknown: Vec<Unknown>,
    pub(super) running: Vec<Running>,
    /// The timelines of which there is something, and a position in the segment in which each begins that is no later than
    /// that, if it is known.
    pub(super) begins: BTreeMap<u32, Option<Lsn>>,
    /// The histories that can be read.
    pub(super) timelines: Timelines,
}

/// What is to be done.
#[derive(Debug, Clone, Default)]
pub(super) struct Decision {
    /// Ids and reasons, in the order of removal.
    pub(super) remove: Vec<(String, String)>,
    pub(super) notes: Vec<String>,
    /// Size of a segment, and the number of the first that is needed; none if all WAL stays.
    pub(super) wal_before: Option<(u64, u64)>,
}

pub(super) fn decide(situation: &Situation, retention: &Retention, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if *retention == Retention::default() {
        return decision;
    }
    let roots = roots(&situation.known);
    let mut kept = Kept {
        situation,
        roots: &roots,
        fulls: BTreeSet::new(),
        faulty_before: None,
        notes: Vec::new(),
    };
    if kept.wanted(retention, now) {
        kept.needed();
    }
    let Kept { fulls, notes, .. } = kept;
    decision.notes = notes;
    let stays = |known: &&Known| match roots.get(known.id.as_str()) {
        Some(Ok(root)) => fulls.contains(root),
        _ => true,
    };
    let mut going: Vec<&Known> = situation.known.iter().filter(|k| !stays(k)).collect();
    going.sort_by_key(|known| std::cmp::Reverse((known.backup.started_at, &known.id)));
    for known in going {
        let reason = match roots.get(known.id.as_str()) {
            Some(Ok(root)) if *root != known.id => format!("it needs {root}, which is removed"),
            _ => reason(retention),
        };
        decision.remove.push((known.id.clone(), reason));
    }
    let staying: Vec<&Known> = situation.known.iter().filter(stays).collect();
    match wal_before(situation, &staying) {
        Ok(before) => decision.wal_before = Some(before),
        Err(note) => decision.notes.push(note),
    }
    decision
}

fn reason(retention: &Retention) -> String {
    let newest = retention.keep_full.map(|n| match n {
        0 | 1 => "it is not the newest full backup".to_owned(),
        n => format!("it is not among the newest {n} full backups"),
    });
    let window = retention
        .keep_for
        .map(|time| format!("nothing of the last {} needs it", days(time)));
    [newest, window]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", and ")
}

fn days(time: std::time::Duration) -> String {
    match time.as_secs() {
        86_400 => "day".to_owned(),
        seconds if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds => format!("{seconds} seconds"),
    }
}

/// The full backup that each one leads back to, or why that cannot be followed.
fn roots(known: &[Known]) -> BTreeMap<&str, Result<&str, String>> {
    let by_id: BTreeMap<&str, &Known> = known.iter().map(|k| (k.id.as_str(), k)).collect();
    let mut order: Vec<&Known> = known.iter().collect();
    // A parent begins before its children.
    order.sort_by_key(|known| (known.backup.started_at, &known.id));
    let mut roots: BTreeMap<&str, Result<&str, String>> = BTreeMap::new();
    for child in order {
        let root = match child.parent.as_deref() {
            None => Ok(child.id.as_str()),
            Some(parent) => match (by_id.get(parent), roots.get(parent)) {
                (Some(parent), Some(root)) => match link_fault(&child.backup, &parent.backup) {
                    None => root.clone(),
                    Some(fault) => Err(fault.to_owned()),
                },
                (Some(_), None) => Err("its parent is not older than it is".to_owned()),
                (None, _) => Err(format!("its parent {parent} is missing or cannot be read")),
            },
        };
        roots.insert(&child.id, root);
    }
    roots
}

/// The full backups that stay.
struct Kept<'k> {
    situation: &'k Situation,
    roots: &'k BTreeMap<&'k str, Result<&'k str, String>>,
    fulls: BTreeSet<&'k str>,
    /// Full backups that cannot be restored and ended before go; without it all of them stay.
    faulty_before: Option<Timestamp>,
    notes: Vec<String>,
}

impl<'k> Kept<'k> {
    /// Full backups that can be restored, the newest first.
    fn newest_first(&self) -> Vec<&'k Known> {
        let known = self.situation.known.iter();
        let sound = known.filter(|k| k.backup.kind == Kind::Full && k.fault.is_none());
        let mut fulls: Vec<&Known> = sound.collect();
        fulls.sort_by_key(|full| std::cmp::Reverse((full.backup.stopped_at, &full.id)));
        fulls
    }

    /// Keeps what the retention wants; whether there is anything that may go.
    fn wanted(&mut self, retention: &Retention, now: Timestamp) -> bool {
        let fulls = self.newest_first();
        let newest = retention.keep_full.unwrap_or(0).max(1) as usize;
        self.fulls
            .extend(fulls.iter().take(newest).map(|full| full.id.as_str()));
        let begin = retention.keep_for.map(|time| now.before(time));
        // Those that cannot be restored go where as many as shall be kept are newer.
        self.faulty_before = fulls.get(newest - 1).map(|full| full.backup.stopped_at);
        if let Some(begin) = begin {
            let (within, before): (Vec<&Known>, Vec<&Known>) = fulls
                .iter()
                .partition(|full| full.backup.stopped_at >= begin);
            self.fulls
                .extend(within.iter().map(|full| full.id.as_str()));
            let last = before.first().map(|last| last.backup.stopped_at);
            self.faulty_before = self.faulty_before.zip(last).map(|(a, b)| a.min(b));
            if let Some(last) = before.first()
                && self.fulls.insert(&last.id)
            {
                self.notes.push(format!(
                    "backup {} is kept: moments before the next full backup need it",
                    last.id
                ));
            }
        }
        self.timelines(&fulls, begin)
    }

    /// Keeps what is needed to reach the newest timeline, and those that were in use in the time that counts. A backup may
    /// be the newest and have ended after the next timeline had left its own: it does not lead there.
    fn timelines(&mut self, fulls: &[&'k Known], begin: Option<Timestamp>) -> bool {
        let Some(newest) = self.situation.begins.keys().next_back().copied() else {
            return true;
        };
        let mut wanted = vec![(newest, None)];
        if let Some(begin) = begin {
            wanted.push((newest, Some(begin)));
            let in_use = self.situation.known.iter();
            let in_use = in_use.filter(|known| known.backup.stopped_at >= begin);
            wanted.extend(in_use.map(|known| (known.timeline, Some(begin))));
        }
        for (timeline, before) in wanted {
            let old = |full: &&&Known| before.is_none_or(|at| full.backup.stopped_at < at);
            let candidates: Vec<&Known> = fulls.iter().filter(old).copied().collect();
            let history = self.situation.timelines.knows(timeline);
            let leads = |full: &&&Known| {
                let (from, stop) = (full.timeline, full.backup.stop_lsn);
                self.situation.timelines.lead(from, stop, timeline)
            };
            if let Some(full) = candidates.iter().find(leads) {
                self.fulls.insert(&full.id);
                continue;
            }
            // One that cannot be restored may be mended, and nothing else leads there.
            self.faulty_before = None;
            if history || timeline == 1 {
                continue;
            }
            match self.may_lead(&candidates, timeline) {
                Some(may) => self.fulls.extend(may.iter().map(|full| full.id.as_str())),
                None => {
                    let all = self.situation.known.iter();
                    self.fulls.extend(all.map(|known| known.id.as_str()));
                    self.notes.push(format!(
                        "no backup is removed: where timeline {timeline} comes from is not known"
                    ));
                    return false;
                }
            }
        }
        true
    }

    /// Of some full backups, the newest first, enough to have one that leads to a timeline whose history cannot be read, if
    /// any does; none if that cannot be told. From which of the older timelines it came is not known, nor where exactly each
    /// of them was left: more backups stay than are needed.
    fn may_lead(&self, fulls: &[&'k Known], timeline: u32) -> Option<Vec<&'k Known>> {
        let mut may = Vec::new();
        let others: BTreeSet<u32> = fulls.iter().map(|full| full.timeline).collect();
        for other in others.into_iter().filter(|other| *other < timeline) {
            // On the way there it was left for one of these.
            let next = self.situation.begins.range(other + 1..=timeline);
            let next: Vec<Lsn> = next.filter_map(|(_, begin)| *begin).collect();
            if next.len() as u64 != u64::from(timeline - other) {
                return None;
            }
            for begin in next {
                let before = |full: &&&Known| full.backup.stop_lsn <= begin;
                let within = |full: &&&Known| {
                    let (stop, segment) = (full.backup.stop_lsn, full.segment_bytes);
                    stop > begin && stop.0 / segment == begin.0 / segment
                };
                let on = || fulls.iter().filter(|full| full.timeline == other);
                may.extend(on().find(before));
                may.extend(on().filter(within));
            }
        }
        Some(may)
    }

    /// Keeps what others need.
    fn needed(&mut self) {
        let situation = self.situation;
        for known in &situation.known {
            let goes = |before| known.backup.stopped_at < before;
            if let (Kind::Full, Some(fault)) = (known.backup.kind, &known.fault)
                && !self.faulty_before.is_some_and(goes)
            {
                self.fulls.insert(&known.id);
                self.notes.push(format!(
                    "backup {} is kept, and does not count as one that is: {fault}; remove it if it is not wanted",
                    known.id
                ));
            }
        }
        for unknown in &situation.unknown {
            // A full backup needs none.
            let rest = match unknown.id.ends_with("-full") {
                true => String::new(),
                false => {
                    let dated = is_dated(&unknown.id);
                    self.keep_older(&|known| !dated || known.id < unknown.id);
                    ", and so is all that is older, since nobody knows what it needs".to_owned()
                }
            };
            self.notes.push(format!(
                "backup {} is kept{rest}: {}; remove it if it is not wanted",
                unknown.id, unknown.why
            ));
        }
        for known in &situation.known {
            let Some(Err(why)) = self.roots.get(known.id.as_str()) else {
                continue;
            };
            let rest = match known.backup.kind {
                Kind::Incremental => {
                    let begun = known.backup.started_at;
                    self.keep_older(&|other| other.backup.started_at <= begun);
                    ", and so is all that is older, since nobody knows what it needs"
                }
                _ => "",
            };
            self.notes.push(format!(
                "backup {} is kept{rest}: {why}; remove it if it is not wanted",
                known.id
            ));
        }
        for running in &situation.running {
            if let Some(parent) = &running.parent
                && let Some(Ok(root)) = self.roots.get(parent.as_str())
                && self.fulls.insert(root)
            {
                self.notes.push(format!(
                    "backup {root} is kept: {} is being taken against it",
                    running.id
                ));
            }
        }
    }

    fn keep_older(&mut self, older: &dyn Fn(&Known) -> bool) {
        for known in self.situation.known.iter().filter(|known| older(known)) {
            if let Some(Ok(root)) = self.roots.get(known.id.as_str()) {
                self.fulls.insert(root);
            }
        }
    }
}

/// Whether an id begins as those of backups do, with the time: they are in order then.
fn is_dated(id: &str) -> bool {
    let date = id.split('T').next().unwrap_or_default();
    date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit())
}

/// Size of a segment, and the number of the first that one of these backups needs, or why all WAL stays.
fn wal_before(situation: &Situation, staying: &[&Known]) -> Result<(u64, u64), String> {
    if let Some(unknown) = situation.unknown.first() {
        return Err(format!(
            "WAL is kept: nobody knows what backup {} needs",
            unknown.id
        ));
    }
    if let Some(running) = situation.running.first() {
        return Err(format!(
            "WAL is kept: backup {} is being written",
            running.id
        ));
    }
    let segment = match staying.first() {
        Some(known) => known.segment_bytes,
        None => return Err("WAL is kept: there is no backup".to_owned()),
    };
    if staying.iter().any(|known| known.segment_bytes != segment) {
        return Err("WAL is kept: the backups have segments of different sizes".to_owned());
    }
    let starts = staying.iter().map(|known| known.start_lsn.0 / segment);
    Ok((segment, starts.min().unwrap_or_default()))
}
