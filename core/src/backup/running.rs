//! The sign of life of a backup that is being taken, or copied into a store: an object that is rewritten every few minutes.
//!
//! A large archive is one object, which may take longer than a day, and is seen only when it is whole; a server may wait
//! longer than that for its WAL to be archived. Meanwhile what is there of the backup must not be taken for what a failed one
//! has left behind.

use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use super::clean_up;
use super::error::BackupError;
use super::keys::{self, RUNNING_NAME};
use crate::store::{ErrorKind, ObjectMeta, Store};
use crate::wait::{Stopped, Tick, without_signals};

/// How often it is rewritten.
const EVERY: Duration = if cfg!(test) {
    Duration::from_millis(20)
} else {
    Duration::from_secs(300)
};

/// How long a backup may be silent and still be taken for one that is under way, whatever the clocks of store and reader say.
pub(super) const SILENT: Duration = Duration::from_secs(24 * 3600);

/// Longest sign of life, in bytes.
const MAX_BYTES: u64 = 1024;

/// A text that nobody else has: two processes of one machine differ by their ids, and all by a number that is different each
/// time.
pub(super) fn token() -> String {
    let number = RandomState::new().hash_one(SystemTime::now());
    format!("{}-{number:016x}", std::process::id())
}

/// The sign of life of one backup: the id of the backup that it needs, so that nobody removes that, and in the next line who
/// wrote it. Dropped, it is removed, if it is still the one that was written here.
pub(super) struct Sign<'s> {
    store: &'s Store,
    key: String,
    text: Vec<u8>,
}

impl<'s> Sign<'s> {
    /// Puts one up for a backup, whoever has done so before.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn put(
        store: &'s Store,
        id: &str,
        parent: Option<&str>,
        tick: Tick<'_>,
    ) -> Result<Self, BackupError> {
        let sign = Self::new(store, id, parent);
        sign.write(tick)?;
        Ok(sign)
    }

    /// Puts one up for a backup of which there is none; nothing if there is: then the id is somebody else's.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn put_new(
        store: &'s Store,
        id: &str,
        parent: Option<&str>,
        tick: Tick<'_>,
    ) -> Result<Option<Self>, BackupError> {
        let sign = Self::new(store, id, parent);
        match store.put_new(&sign.key, sign.text.clone(), tick) {
            // The first answer may have been lost, and it was asked twice.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Ok(sign.is_there(tick)?.then_some(sign))
            }
            answer => {
                answer?;
                Ok(Some(sign))
            }
        }
    }

    fn new(store: &'s Store, id: &str, parent: Option<&str>) -> Self {
        let parent = parent.unwrap_or_default();
        Self {
            store,
            key: keys::in_backup(id, RUNNING_NAME),
            text: format!("{parent}\n{}\n", token()).into_bytes(),
        }
    }

    /// Whether the sign that is there is this one.
    fn is_there(&self, tick: Tick<'_>) -> Result<bool, BackupError> {
        match self.store.get(&self.key, MAX_BYTES, tick) {
            Ok(text) => Ok(text == self.text),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::TooLarge) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does something while the sign is rewritten again and again.
    ///
    /// # Errors
    /// What `work` answers, or that there is no thread.
    pub(super) fn during<T>(
        &self,
        work: impl FnOnce() -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        std::thread::scope(|scope| {
            let (stop, stopped) = channel::<()>();
            let spawned = without_signals(|| {
                std::thread::Builder::new()
                    .name("varve-running".to_owned())
                    .spawn_scoped(scope, move || self.renew(&stopped))
            });
            spawned
                .and_then(|spawned| spawned.map(drop))
                .map_err(BackupError::thread)?;
            let result = work();
            drop(stop);
            result
        })
    }

    fn write(&self, tick: Tick<'_>) -> Result<(), BackupError> {
        Ok(self.store.put(&self.key, self.text.clone(), tick)?)
    }

    fn renew(&self, stopped: &Receiver<()>) {
        let tick = || match stopped.try_recv() {
            Err(std::sync::mpsc::TryRecvError::Empty) => Ok(()),
            _ => Err(Stopped::new("the backup has ended")),
        };
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
            // One that is missed is written the next time; the backup itself notices a store that stays away.
            let _ = self.write(&tick);
        }
    }
}

impl Drop for Sign<'_> {
    fn drop(&mut self) {
        let tick = clean_up::tick();
        // One that stays is swept when it is old.
        if self.is_there(&tick).unwrap_or(false) {
            let _ = self.store.delete(&self.key, &tick);
        }
    }
}

/// The backup that is needed by the one that a sign of life is of; none if it has ended meanwhile.
///
/// # Errors
/// What the store answers.
pub(super) fn parent_of(
    store: &Store,
    sign: &str,
    tick: Tick<'_>,
) -> Result<Option<Option<String>>, BackupError> {
    match store.get(sign, MAX_BYTES, tick) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            let parent = text.lines().next().filter(|id| keys::is_id(id));
            Ok(Some(parent.map(str::to_owned)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether an object is the sign of life of a backup, and young enough to be believed.
pub(super) fn is_alive(object: &ObjectMeta, silent: Duration) -> bool {
    let is_sign = keys::split(&object.key).is_some_and(|(_, name)| name == RUNNING_NAME);
    let age = SystemTime::now().duration_since(object.modified);
    is_sign && age.unwrap_or_default() < silent
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::super::list::sweep;
    use super::*;
    use crate::store::StoreConfig;
    use crate::wait::never;

    const DAY: Duration = Duration::from_secs(86_400);

    /// Makes a file look two days old.
    fn age(path: &Path) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - DAY * 2).unwrap();
    }

    /// A backup may have whole objects that are older than a day, and write the next for longer than that.
    #[test]
    fn what_a_slow_backup_has_written_is_not_swept() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().display());
        let store = Store::open(&StoreConfig::from_url(&url).unwrap()).unwrap();
        let directory = root.path().join("backups/20261129T080000000-full");
        let there = |name: &str| directory.join(name).exists();
        let work = || {
            store.put(
                "backups/20261129T080000000-full/16400.tar.zst",
                vec![1],
                &never,
            )?;
            age(&directory.join("16400.tar.zst"));
            // It is written again and again.
            age(&directory.join("running"));
            let end = Instant::now() + Duration::from_secs(30);
            let alive = || {
                let meta = store
                    .head("backups/20261129T080000000-full/running", &never)
                    .unwrap();
                is_alive(&meta, DAY)
            };
            while !alive() {
                assert!(Instant::now() < end, "nobody says that the backup is alive");
                std::thread::yield_now();
            }
            let parent = parent_of(&store, "backups/20261129T080000000-full/running", &never)?;
            assert_eq!(parent, Some(Some("parent".to_owned())));
            assert_eq!(sweep(&store, DAY, &never)?, 0);
            assert!(there("16400.tar.zst"));
            Ok(())
        };
        let sign = Sign::put(&store, "20261129T080000000-full", Some("parent"), &never).unwrap();
        sign.during(work).unwrap();
        drop(sign);
        assert!(!there("running"));
        assert_eq!(sweep(&store, DAY, &never).unwrap(), 1);
        // One that was killed leaves its sign, which goes when it is old, of a whole backup too.
        for name in [
            "20261129T090000000-full/running",
            "20261129T090000000-full/backup.json",
        ] {
            store
                .put(&format!("backups/{name}"), vec![], &never)
                .unwrap();
        }
        assert_eq!(sweep(&store, DAY, &never).unwrap(), 0);
        age(&root.path().join("backups/20261129T090000000-full/running"));
        assert_eq!(sweep(&store, DAY, &never).unwrap(), 1);
        assert!(
            root.path()
                .join("backups/20261129T090000000-full/backup.json")
                .exists()
        );
    }

    #[test]
    fn a_sign_is_of_one_backup() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().display());
        let store = Store::open(&StoreConfig::from_url(&url).unwrap()).unwrap();
        let new = || Sign::put_new(&store, "20261129T080000000-full", None, &never).unwrap();
        let first = new().unwrap();
        assert!(new().is_none());
        assert!(first.is_there(&never).unwrap());
        // Who comes upon it by another way takes it over, and it is no longer the first one's to remove.
        let second = Sign::put(&store, "20261129T080000000-full", None, &never).unwrap();
        drop(first);
        assert!(second.is_there(&never).unwrap());
        drop(second);
        assert!(new().is_some());
    }
}
