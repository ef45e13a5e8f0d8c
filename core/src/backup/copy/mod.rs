//! Bringing one store into step with another.
//!
//! What makes a backup exist in the copy is its record, which is written when all that it lists is there and was read back;
//! WAL goes on being copied while large archives are under way. Nothing damaged is copied, and nothing is deleted but what was
//! written here and turned out to be wrong.

mod archives;
mod lag;
mod tables;
mod wal;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::error::BackupError;
use super::keys::CLUSTER_KEY;
use super::take::{claim, cluster_of};
use crate::seal::Identities;
use crate::store::{ErrorKind, Store};
use crate::wait::Tick;

pub use lag::{Contents, Lag, compare};

/// How long WAL waits, at most, while an archive is copied, if none of it is larger.
const WAL_EVERY: Duration = Duration::from_secs(60);

/// How to copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Who can decrypt. Without keys encrypted WAL is copied as it is, since nobody can tell whether it is sound.
    pub identities: Option<Identities>,
    /// Keys of objects in the copy that are known to be damaged: they are copied again.
    pub replace: BTreeSet<String>,
}

/// What a copy tells while it is at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// An object is begun.
    Begun {
        /// Its key.
        key: String,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// More of it has gone.
    Moved {
        /// How many bytes.
        bytes: u64,
    },
    /// It is there, and what was read back is what should be there.
    Copied {
        /// Its key.
        key: String,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// It was not copied, and the rest goes on.
    Failed(CopyFailure),
}

/// What was not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFailure {
    /// The object's key.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// What a copy has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copied {
    /// Objects that were copied, records among them.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were damaged there before.
    pub replaced: Vec<String>,
    /// What was not, and why, in order of the keys.
    pub failed: Vec<CopyFailure>,
    /// What the copy lacks now: what failed, and what has come meanwhile.
    pub behind: Lag,
}

/// Brings a store into step with another: copies each backup, each snapshot of a table and each file of WAL that it has not.
///
/// The newest backups come first, each behind those that it needs, and its record behind all of its objects. A backup that is
/// removed while it is copied gets no record. What is damaged in `from`, or is a different thing in `to`, is told and left
/// as it is. A copy that was interrupted leaves nothing that looks valid, and the next one goes on with what is missing.
/// `each` is called on the calling thread.
///
/// # Errors
/// [`BackupError::Refused`] where `from` is of no cluster, or `to` of another one; what the stores answer, if they are away,
/// full, or refuse.
pub fn copy(
    from: &Store,
    to: &Store,
    options: &CopyOptions,
    each: &mut dyn FnMut(CopyEvent),
    tick: Tick<'_>,
) -> Result<Copied, BackupError> {
    let place = from.place(tick)?;
    if place == to.place(tick)? {
        return Err(BackupError::refused(
            format!("{place} cannot be copied to itself"),
            "Name two stores.",
        ));
    }
    let Some(cluster) = cluster_of(from, tick)? else {
        return Err(BackupError::refused(
            format!(
                "{} has no {CLUSTER_KEY}: nothing of varve's is in it",
                from.url()
            ),
            "If it is not a matter of mounting it, take a backup into it first.",
        ));
    };
    let identifier = cluster
        .system_identifier
        .parse()
        .map_err(|_| BackupError::corrupt(CLUSTER_KEY, "its system identifier is no number"))?;
    claim(to, identifier, tick)?;
    let mut copying = Copying {
        from,
        to,
        options,
        each,
        tick,
        there: Contents::of(to, tick)?,
        failed: BTreeMap::new(),
        objects: 0,
        bytes: 0,
        replaced: Vec::new(),
        needed: None,
        wal_at: Instant::now(),
    };
    for key in &options.replace {
        copying.there.forget(key);
    }
    copying.run()?;
    let behind = Contents::of(from, tick)?.lacking_in(&copying.there);
    let failed = copying.failed.into_iter();
    Ok(Copied {
        objects: copying.objects,
        bytes: copying.bytes,
        replaced: copying.replaced,
        failed: failed
            .map(|(key, reason)| CopyFailure { key, reason })
            .collect(),
        behind,
    })
}

/// A copy that is under way.
struct Copying<'c> {
    from: &'c Store,
    to: &'c Store,
    options: &'c CopyOptions,
    each: &'c mut dyn FnMut(CopyEvent),
    tick: Tick<'c>,
    /// What `to` has.
    there: Contents,
    /// What is not tried again.
    failed: BTreeMap<String, String>,
    objects: u64,
    bytes: u64,
    replaced: Vec<String>,
    /// Size of a segment, and the number of the first that the newest backup needs.
    needed: Option<(u64, u64)>,
    /// When WAL was looked for last.
    wal_at: Instant,
}

impl Copying<'_> {
    fn run(&mut self) -> Result<(), BackupError> {
        let here = Contents::of(self.from, self.tick)?;
        self.needed = self.newest(&here)?;
        let known = here.backups.iter().any(|(id, _)| self.there.has_record(id));
        // Without any backup WAL is of no use, so the first one comes before it.
        if known {
            self.wal(false)?;
        }
        let lacks: BTreeSet<&String> = here
            .backups
            .iter()
            .filter(|(id, objects)| self.there.lacks_backup(id, objects))
            .map(|(id, _)| id)
            .collect();
        for id in lacks.into_iter().rev() {
            for id in self.needed_first(id, &here)? {
                self.backup(&id, &here)?;
            }
        }
        self.snapshots(&here)?;
        self.wal(true)
    }

    fn copied(&mut self, key: &str, bytes: u64) {
        self.there.add(key, bytes);
        self.objects += 1;
        self.bytes += bytes;
        let key = key.to_owned();
        if self.options.replace.contains(&key) {
            self.replaced.push(key.clone());
        }
        (self.each)(CopyEvent::Copied { key, bytes });
    }

    fn fail(&mut self, key: &str, reason: impl Into<String>) {
        let failure = CopyFailure {
            key: key.to_owned(),
            reason: reason.into(),
        };
        self.failed
            .insert(failure.key.clone(), failure.reason.clone());
        (self.each)(CopyEvent::Failed(failure));
    }

    /// Whether an error is about one object alone, or else ends the call. What is not there in `from` any more was removed,
    /// and is no failure.
    fn of_one(&mut self, key: &str, error: BackupError) -> Result<(), BackupError> {
        let away = match &error {
            BackupError::Store(error) => matches!(
                error.kind(),
                ErrorKind::Cancelled
                    | ErrorKind::Config
                    | ErrorKind::Full
                    | ErrorKind::Permission
                    | ErrorKind::Unreachable
            ),
            error => error.is_cancelled() || matches!(error, BackupError::Io { .. }),
        };
        if away {
            return Err(error);
        }
        let gone = matches!(&error, BackupError::Store(error)
            if error.kind() == ErrorKind::NotFound && error.store() == self.from.url());
        if !gone {
            self.fail(key, error.to_string());
        }
        Ok(())
    }
}
