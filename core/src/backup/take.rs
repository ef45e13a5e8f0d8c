//! Taking a base backup.

use std::time::{Duration, Instant};

use super::clean_up;
use super::error::BackupError;
use super::keys::{self, CLUSTER_KEY};
use super::list::load;
use super::lsn::Lsn;
use super::parent::{chain_holds, choose_parent};
use super::record::{Archive, Backup, BackupTablespace, Cluster, Kind, StoredObject, VERSION};
use super::restore::{BLOCK, MAX_SEGMENT};
use super::running::Sign;
use super::seal::{SealOptions, SealedWriter, object_name, read_manifest};
use super::timeline::{TimelineHistory, Timelines};
use super::timestamp::Timestamp;
use crate::replication::{ArchiveEvent, BaseBackup, BaseBackupOptions, ConnInfo, Session};
use crate::seal::Identities;
use crate::store::{ErrorKind, Store};
use crate::wait::Tick;

/// Largest `cluster.json`, in bytes.
const MAX_CLUSTER_BYTES: u64 = 64 << 10;

/// How often the caller is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How to take a backup.
#[derive(Debug, Clone)]
pub struct TakeOptions {
    /// Its kind.
    pub kind: Kind,
    /// What it is called.
    pub label: String,
    /// Whether the checkpoint that it begins with is made at once.
    pub fast_checkpoint: bool,
    /// Whether the WAL that it needs is in it.
    pub include_wal: bool,
    /// Whether it ends only when its WAL was archived.
    pub wait_for_archive: bool,
    /// The most that the server sends, in kB/s.
    pub max_rate: Option<u32>,
    /// How it is compressed and encrypted.
    pub seal: SealOptions,
    /// Who can read the parent's manifest, where that is encrypted.
    pub identities: Option<Identities>,
}

impl TakeOptions {
    /// A backup of a kind, with a fast checkpoint, that waits for its WAL to be archived.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            label: "varve".to_owned(),
            fast_checkpoint: true,
            include_wal: false,
            wait_for_archive: true,
            max_rate: None,
            seal: SealOptions::default(),
            identities: None,
        }
    }
}

/// What a backup is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It looks for its parent.
    Preparing,
    /// The server makes a checkpoint.
    Checkpoint,
    /// Files come.
    Files,
    /// The last of it is written; the server may wait until the backup's WAL is archived.
    Finishing,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeProgress {
    /// What it is at.
    pub phase: Phase,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that will come, as the server estimates; an incremental backup has fewer.
    pub estimated: Option<u64>,
}

/// Takes a backup into a store, and gives back its record, which is in the store then.
///
/// `progress` is called on the calling thread, at the beginning of each phase and ten times a second. A backup that fails or is
/// cancelled has no record, and its objects are removed as far as that can be done at once.
///
/// # Errors
/// [`BackupError::Refused`] where the store is another cluster's or there is no parent; what the server or the store says.
pub fn take(
    store: &Store,
    server: &ConnInfo,
    options: &TakeOptions,
    progress: &mut dyn FnMut(&TakeProgress),
    tick: Tick<'_>,
) -> Result<Backup, BackupError> {
    let nothing = &mut |_: &Backup| Ok(serde_json::Value::Null);
    take_with_checks(store, server, options, progress, nothing, tick)
}

/// As [`take`]; `checks` is called on the calling thread when all but the record is written, and gives what the record shall
/// say of the tables. It is told the record as it is until then.
///
/// # Errors
/// As of [`take`], and what `checks` answers: then there is no backup.
pub fn take_with_checks(
    store: &Store,
    server: &ConnInfo,
    options: &TakeOptions,
    progress: &mut dyn FnMut(&TakeProgress),
    checks: &mut dyn FnMut(&Backup) -> Result<serde_json::Value, BackupError>,
    tick: Tick<'_>,
) -> Result<Backup, BackupError> {
    progress(&TakeProgress {
        phase: Phase::Preparing,
        bytes: 0,
        estimated: None,
    });
    let mut session = Session::connect(server, tick)?;
    let identity = session.identify(tick)?;
    let system_identifier = identity.system_identifier.to_string();
    let server_version = session.show("server_version", tick)?;
    let wal_segment_bytes = bytes_of(&session.show("wal_segment_size", tick)?)?;
    if !options.include_wal
        && options.wait_for_archive
        && session.show("archive_mode", tick)? == "off"
    {
        return Err(BackupError::refused(
            "archive_mode is off: nothing would have the WAL that the backup needs",
            "Have the WAL taken into the backup (--include-wal), or set archive_mode = on.",
        ));
    }
    claim(store, identity.system_identifier, tick)?;
    let parent = match options.kind {
        Kind::Full => None,
        kind => {
            let mut timelines = Timelines::default();
            if identity.timeline > 1 {
                let text = session.timeline_history(identity.timeline, tick)?;
                let history = TimelineHistory::parse(&text).map_err(|_| {
                    unexpected("the history of the server's timeline is not understood")
                })?;
                timelines.insert(identity.timeline, history);
            }
            let fits = |backup: &Backup| {
                backup.system_identifier == system_identifier
                    && timelines.lead(backup.timeline, backup.stop_lsn, identity.timeline)
            };
            Some(choose_parent(store, kind, &fits, tick)?)
        }
    };
    if parent.is_some()
        && (session.show("block_size", tick)? != BLOCK.to_string()
            || bytes_of(&session.show("segment_size", tick)?)? > MAX_SEGMENT)
    {
        return Err(BackupError::refused(
            "the server was built for other sizes of blocks or segments than is usual, and files of such cannot be put together again",
            "Take full backups.",
        ));
    }
    if parent.is_some() && session.show("summarize_wal", tick)? != "on" {
        return Err(BackupError::refused(
            format!(
                "a backup that is {} needs WAL summaries, and summarize_wal is off",
                options.kind
            ),
            "Set summarize_wal = on, reload the server, and take a full backup first.",
        ));
    }
    let started_at = Timestamp::now();
    let parent = parent.map(|parent| parent.id);
    // The parent must not be removed from now on, nor what is written be taken for leftovers.
    let (id, sign) = reserve(store, started_at, options.kind, parent.as_deref(), tick)?;
    let begun = Begun {
        store,
        options,
        id: &id,
        started_at,
        parent,
        server_version,
        wal_segment_bytes,
        system_identifier,
    };
    sign.during(|| {
        begun.base_on_parent(&mut session, tick)?;
        begun.write(session, progress, checks, tick)
    })
}

/// A backup that has a name, and nothing else yet.
struct Begun<'b> {
    store: &'b Store,
    options: &'b TakeOptions,
    id: &'b str,
    started_at: Timestamp,
    parent: Option<String>,
    server_version: String,
    wal_segment_bytes: u64,
    system_identifier: String,
}

impl Begun<'_> {
    /// Tells the server what the parent has.
    fn base_on_parent(&self, session: &mut Session, tick: Tick<'_>) -> Result<(), BackupError> {
        let Some(parent) = &self.parent else {
            return Ok(());
        };
        // It may have been removed before the sign that keeps it was there.
        let parent = chain_holds(self.store, self.id, parent, tick)?;
        let object = parent.object(Archive::Manifest).ok_or_else(|| {
            BackupError::corrupt(format!("backup {}", parent.id), "it has no manifest")
        })?;
        let identities = self.options.identities.as_ref();
        let manifest = read_manifest(self.store, object, parent.encrypted(), identities, tick)?;
        session.upload_manifest(&mut manifest.as_slice(), tick)?;
        Ok(())
    }

    /// Lets the server send it, and writes all of it and its record.
    fn write(
        &self,
        mut session: Session,
        progress: &mut dyn FnMut(&TakeProgress),
        checks: &mut dyn FnMut(&Backup) -> Result<serde_json::Value, BackupError>,
        tick: Tick<'_>,
    ) -> Result<Backup, BackupError> {
        let (store, options, id) = (self.store, self.options, self.id);
        let mut objects = Objects {
            store,
            id,
            options,
            written: Vec::new(),
            begun: Vec::new(),
        };
        let base = BaseBackupOptions {
            label: options.label.clone(),
            fast_checkpoint: options.fast_checkpoint,
            include_wal: options.include_wal,
            wait_for_archive: options.wait_for_archive,
            incremental: self.parent.is_some(),
            max_rate: options.max_rate,
        };
        progress(&TakeProgress {
            phase: Phase::Checkpoint,
            bytes: 0,
            estimated: None,
        });
        let base = session.base_backup(&base, tick)?;
        let taken = objects.receive(base, progress, tick)?;
        let mut backup = Backup {
            version: VERSION,
            kind: options.kind,
            parent: self.parent.clone(),
            label: options.label.clone(),
            started_at: self.started_at,
            stopped_at: Timestamp::now(),
            start_lsn: taken.start,
            stop_lsn: taken.stop,
            timeline: taken.timeline,
            server_version: self.server_version.clone(),
            wal_segment_bytes: self.wal_segment_bytes,
            system_identifier: self.system_identifier.clone(),
            includes_wal: options.include_wal,
            tablespaces: taken.tablespaces,
            compression: "zstd".to_owned(),
            encryption: options.seal.recipients.is_some().then(|| "age".to_owned()),
            objects: std::mem::take(&mut objects.written),
            checks: serde_json::Value::Null,
            id: id.to_owned(),
        };
        backup.checks = checks(&backup)?;
        let record = backup.to_json()?;
        Backup::from_json(id, &record)?;
        // Somebody may have removed the parent nevertheless, say one who knows nothing of signs.
        if let Some(parent) = &self.parent {
            chain_holds(store, id, parent, tick)?;
        }
        // Once it is on its way the record may be there, whatever the answer is: what it lists stays. Without a record it is swept.
        objects.begun.clear();
        match store.put_new(&keys::record(id), record, tick) {
            // The first answer was lost, and it was asked twice.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if load(store, id, tick)? != backup {
                    return Err(error.into());
                }
            }
            other => other?,
        }
        Ok(backup)
    }
}

/// Makes a store that of a cluster, if it is nobody's.
///
/// # Errors
/// [`BackupError::Refused`] if it is another's, or what the store answers.
pub fn claim(store: &Store, system_identifier: u64, tick: Tick<'_>) -> Result<(), BackupError> {
    let mine = Cluster {
        version: VERSION,
        system_identifier: system_identifier.to_string(),
    };
    // It is read first: most of the time it is there, and the read costs a remote store less.
    let found = match cluster_of(store, tick)? {
        Some(found) => found,
        None => {
            writes_once(store, tick)?;
            let bytes = serde_json::to_vec(&mine).map_err(|error| {
                BackupError::corrupt(super::seal::at(store, CLUSTER_KEY), error.to_string())
            })?;
            match store.put_new(CLUSTER_KEY, bytes, tick) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    cluster_of(store, tick)?.ok_or(error)?
                }
                answer => return Ok(answer?),
            }
        }
    };
    match found.system_identifier == mine.system_identifier {
        true => Ok(()),
        false => Err(BackupError::refused(
            format!(
                "the store {} belongs to the cluster with system identifier {}, and this is {}",
                store.url(),
                found.system_identifier,
                mine.system_identifier
            ),
            "Give each cluster a store of its own, say another directory or prefix.",
        )),
    }
}

/// Whether a store refuses to write what is there already: two clusters, or two of one, would overwrite each other otherwise.
fn writes_once(store: &Store, tick: Tick<'_>) -> Result<(), BackupError> {
    let key = format!(
        "check/once-{}-{}",
        std::process::id(),
        Timestamp::now().for_id()
    );
    let answers = [0, 1].map(|_| store.put_new(&key, Vec::new(), tick));
    let removed = store.delete(&key, tick);
    let [first, second] = answers;
    match first {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        first => first?,
    }
    removed?;
    match second {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => Err(BackupError::refused(
            format!(
                "{} writes a new object although there is one of that name: it does not know If-None-Match",
                store.url()
            ),
            "Use a server that knows conditional writes; docs/stores.md says which do.",
        )),
    }
}

/// Whose store it is; none if it is nobody's.
///
/// # Errors
/// [`BackupError::Corrupt`], [`BackupError::Unsupported`], or what the store answers.
pub fn cluster_of(store: &Store, tick: Tick<'_>) -> Result<Option<Cluster>, BackupError> {
    let name = || super::seal::at(store, CLUSTER_KEY);
    let bytes = match store.get(CLUSTER_KEY, MAX_CLUSTER_BYTES, tick) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        answer => answer?,
    };
    let found: Cluster = serde_json::from_slice(&bytes)
        .map_err(|error| BackupError::corrupt(name(), error.to_string()))?;
    match found.version == VERSION {
        true => Ok(Some(found)),
        false => Err(BackupError::Unsupported {
            object: name(),
            detail: format!("it is of version {}, known is {VERSION}", found.version),
        }),
    }
}

/// An id that no backup has, nor one that is being taken, and the sign that keeps it.
fn reserve<'s>(
    store: &'s Store,
    at: Timestamp,
    kind: Kind,
    parent: Option<&str>,
    tick: Tick<'_>,
) -> Result<(String, Sign<'s>), BackupError> {
    let base = format!("{}-{kind}", at.for_id());
    let mut id = base.clone();
    let mut number = 1;
    loop {
        if let Some(sign) = Sign::put_new(store, &id, parent, tick)? {
            // One that was begun at the same time may have ended, and its sign with it.
            match load(store, &id, tick) {
                Err(error) if error.is_not_found() => return Ok((id, sign)),
                Ok(_) | Err(BackupError::Corrupt { .. } | BackupError::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        number += 1;
        id = format!("{base}-{number}");
    }
}

/// The objects of a backup that is being taken. Dropped before it is complete, it removes them.
struct Objects<'o> {
    store: &'o Store,
    id: &'o str,
    options: &'o TakeOptions,
    written: Vec<StoredObject>,
    begun: Vec<String>,
}

/// What the server says of the backup.
struct Taken {
    start: Lsn,
    stop: Lsn,
    timeline: u32,
    tablespaces: Vec<BackupTablespace>,
}

impl Objects<'_> {
    fn begin<'t>(
        &mut self,
        archive: Archive,
        expected: Option<u64>,
        tick: Tick<'t>,
    ) -> Result<SealedWriter<'t>, BackupError> {
        let seal = &self.options.seal;
        let name = object_name(archive, seal.recipients.is_some());
        let key = keys::in_backup(self.id, &name);
        self.begun.push(key.clone());
        SealedWriter::new(self.store, &key, archive, seal, expected, tick)
    }

    /// Writes all that comes.
    fn receive(
        &mut self,
        mut base: BaseBackup<'_>,
        progress: &mut dyn FnMut(&TakeProgress),
        tick: Tick<'_>,
    ) -> Result<Taken, BackupError> {
        let mut now = TakeProgress {
            phase: Phase::Files,
            bytes: 0,
            estimated: base.tablespaces.iter().map(|t| t.size).sum(),
        };
        progress(&now);
        // Of the plain archives: what is stored is hardly ever more.
        let estimates: Vec<(Archive, Option<u64>)> = base
            .tablespaces
            .iter()
            .map(|t| (t.oid.map_or(Archive::Base, Archive::Tablespace), t.size))
            .collect();
        let mut told = Instant::now();
        let mut writer: Option<SealedWriter<'_>> = None;
        loop {
            match base.next(tick)? {
                ArchiveEvent::Data(bytes) => {
                    let to = writer
                        .as_mut()
                        .ok_or_else(|| unexpected("data of no archive"))?;
                    to.write(bytes)?;
                    now.bytes += bytes.len() as u64;
                }
                ArchiveEvent::Archive { name, .. } => {
                    let archive = archive_of(name)?;
                    self.end(writer.take())?;
                    let expected = estimates.iter().find(|(oid, _)| *oid == archive);
                    let expected = expected.and_then(|(_, size)| *size);
                    writer = Some(self.begin(archive, expected, tick)?);
                }
                ArchiveEvent::Manifest => {
                    self.end(writer.take())?;
                    writer = Some(self.begin(Archive::Manifest, None, tick)?);
                }
                ArchiveEvent::Progress(_) => {}
                ArchiveEvent::End => break,
            }
            if told.elapsed() >= TELL_EVERY {
                progress(&now);
                told = Instant::now();
            }
        }
        now.phase = Phase::Finishing;
        progress(&now);
        self.end(writer.take())?;
        let (start, timeline) = (base.start, base.timeline);
        let tablespaces = base
            .tablespaces
            .iter()
            .filter_map(|t| {
                Some(BackupTablespace {
                    oid: t.oid?,
                    path: t.path.clone()?,
                })
            })
            .collect();
        let (stop, _) = base.finish(tick)?;
        Ok(Taken {
            start,
            stop,
            timeline,
            tablespaces,
        })
    }

    fn end(&mut self, writer: Option<SealedWriter<'_>>) -> Result<(), BackupError> {
        if let Some(writer) = writer {
            self.written.push(writer.finish()?);
        }
        Ok(())
    }
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        clean_up::delete(self.store, &self.begun);
    }
}

fn unexpected(detail: &str) -> BackupError {
    crate::replication::ReplicationError::Protocol {
        detail: detail.to_owned(),
    }
    .into()
}

/// What the server calls an archive.
fn archive_of(name: &str) -> Result<Archive, BackupError> {
    match name.strip_suffix(".tar") {
        Some("base") => Ok(Archive::Base),
        Some(oid) => oid
            .parse()
            .map(Archive::Tablespace)
            .map_err(|_| unexpected("an archive of no tablespace")),
        None => Err(unexpected("an archive that is no tar file")),
    }
}

/// A size as SHOW gives it: `16MB`.
fn bytes_of(text: &str) -> Result<u64, BackupError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..) {
        Some("B" | "") => 1,
        Some("kB") => 1 << 10,
        Some("MB") => 1 << 20,
        Some("GB") => 1 << 30,
        _ => return Err(unexpected("a size of an unknown unit")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| unexpected("a size that is no number"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::store::StoreConfig;
    use crate::wait::never;

    #[test]
    fn backups_that_begin_at_the_same_moment() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().display());
        let store = Store::open(&StoreConfig::from_url(&url).unwrap()).unwrap();
        let at: Timestamp = "2026-11-29T08:00:00Z".parse().unwrap();
        let new = || reserve(&store, at, Kind::Full, None, &never).unwrap();
        let (first, sign) = new();
        let (second, _) = new();
        assert_eq!(first, "20261129T080000000-full");
        assert_eq!(second, "20261129T080000000-full-2");
        // The first one ends, whatever its record says.
        store.put(&keys::record(&first), vec![1], &never).unwrap();
        drop(sign);
        assert_eq!(new().0, second);
        drop(new());
        assert_eq!(store.list(keys::BACKUP_PREFIX, &never).unwrap().count(), 1);
    }
}
