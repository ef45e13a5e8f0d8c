//! Which backups a restore needs.

use super::error::BackupError;
use super::lsn::Lsn;
use super::record::{Backup, Kind};
use super::timeline::Timelines;
use super::timestamp::Timestamp;

/// Longest chain: a full backup, and increments every quarter of an hour for three months.
const MAX_CHAIN: usize = 10_000;

/// Where a recovery shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As late as can be.
    Latest,
    /// At a moment.
    Time(Timestamp),
    /// At a position in WAL.
    Lsn(Lsn),
}

/// The newest of the backups from which a target can be reached, whatever the timelines are; see [`choose_along`].
pub fn choose<'b>(
    backups: impl IntoIterator<Item = &'b Backup>,
    target: Target,
) -> Option<&'b Backup> {
    newest(backups.into_iter(), target)
}

/// The newest of the backups from which a target can be reached on a timeline. A backup that ended on an older timeline after
/// the next one had left that does not lead there: a server that recovers from it would refuse to follow.
///
/// Without a timeline it is the newest, which a server follows that is told nothing else, and where no backup leads to that,
/// as of old servers whose histories are all that is left, the newest backup of any.
pub fn choose_along<'b>(
    backups: impl IntoIterator<Item = &'b Backup>,
    target: Target,
    timelines: &Timelines,
    timeline: Option<u32>,
) -> Option<&'b Backup> {
    let backups: Vec<&Backup> = backups.into_iter().collect();
    let newest_of = backups.iter().map(|backup| backup.timeline).max();
    let to = timeline.or(newest_of.max(timelines.newest()))?;
    let leads = |backup: &&Backup| timelines.lead(backup.timeline, backup.stop_lsn, to);
    let along: Vec<&Backup> = backups.iter().copied().filter(leads).collect();
    let from = match timeline.is_none() && along.is_empty() {
        true => backups,
        false => along,
    };
    newest(from.into_iter(), target)
}

fn newest<'b>(backups: impl Iterator<Item = &'b Backup>, target: Target) -> Option<&'b Backup> {
    backups
        .filter(|backup| match target {
            Target::Latest => true,
            Target::Time(time) => backup.stopped_at <= time,
            Target::Lsn(lsn) => backup.stop_lsn <= lsn,
        })
        .max_by_key(|backup| (backup.stopped_at, &backup.id))
}

/// The chain that ends with a backup, from its full backup on. `load` reads a record.
///
/// # Errors
/// [`BackupError::Corrupt`] for a chain that does not hold together, or what `load` answers.
pub fn chain_of(
    backup: Backup,
    load: &mut dyn FnMut(&str) -> Result<Backup, BackupError>,
) -> Result<Vec<Backup>, BackupError> {
    let broken = |id: &str, detail: &str| BackupError::corrupt(format!("backup {id}"), detail);
    let mut chain = vec![backup];
    while let Some(child) = chain.last()
        && let Some(parent) = &child.parent
    {
        if chain.len() >= MAX_CHAIN {
            return Err(broken(parent, "the chain that leads to it has no end"));
        }
        let parent = load(parent)?;
        if let Some(fault) = link_fault(child, &parent) {
            return Err(broken(&child.id, fault));
        }
        chain.push(parent);
    }
    chain.reverse();
    Ok(chain)
}

/// Why a backup cannot be the parent of another, whose record says that it is; none if it can.
pub(super) fn link_fault(child: &Backup, parent: &Backup) -> Option<&'static str> {
    if parent.started_at >= child.started_at || parent.start_lsn > child.start_lsn {
        return Some("its parent is not older than it is");
    }
    if parent.system_identifier != child.system_identifier {
        return Some("its parent is of another cluster");
    }
    if child.kind == Kind::Differential && parent.kind != Kind::Full {
        return Some("its parent is no full backup");
    }
    None
}
