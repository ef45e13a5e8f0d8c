//! The sign of life of a backup that is being taken, or copied into a store: an object that is rewritten every few minutes.
//!
//! A large archive is one object, which may take longer than a day, and is seen only when it is whole; a server may wait
//! longer than that for its WAL to be archived. Meanwhile what is there of the backup must not be taken for what a failed one
//! has left behind.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use super::error::BackupError;
use super::keys::{self, RUNNING_NAME};
use crate::store::{ObjectMeta, Store};
use crate::wait::{Stopped, Tick, without_signals};

/// How often it is rewritten.
const EVERY: Duration = if cfg!(test) {
    Duration::from_millis(20)
} else {
    Duration::from_secs(300)
};

/// How long a backup may be silent and still be taken for one that is under way, whatever the clocks of store and reader say.
pub(super) const SILENT: Duration = Duration::from_secs(24 * 3600);

/// How long its removal may take at the end.
const CLEAN_UP: Duration = Duration::from_secs(3);

/// Does something while the sign of life is there. It says which backup this one needs, so that nobody removes that.
///
/// # Errors
/// What `work` or the store answers.
pub(super) fn while_running<T>(
    store: &Store,
    id: &str,
    parent: Option<&str>,
    tick: Tick<'_>,
    work: impl FnOnce() -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    let sign = Sign {
        store,
        key: keys::in_backup(id, RUNNING_NAME),
        parent: parent.unwrap_or_default(),
    };
    sign.write(tick)?;
    // The thread ends before the sign is removed, also where `work` unwinds.
    std::thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        let sign = &sign;
        let spawned = without_signals(|| {
            std::thread::Builder::new()
                .name("varve-running".to_owned())
                .spawn_scoped(scope, move || sign.renew(&stopped))
        });
        spawned
            .and_then(|spawned| spawned.map(drop))
            .map_err(|error| BackupError::Io {
                path: "a thread".to_owned(),
                error,
            })?;
        let result = work();
        drop(stop);
        result
    })
}

struct Sign<'s> {
    store: &'s Store,
    key: String,
    parent: &'s str,
}

impl Sign<'_> {
    fn write(&self, tick: Tick<'_>) -> Result<(), BackupError> {
        let text = self.parent.as_bytes().to_vec();
        Ok(self.store.put(&self.key, text, tick)?)
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
        let end = Instant::now() + CLEAN_UP;
        let tick = || match Instant::now() < end {
            true => Ok(()),
            false => Err(Stopped::new("cleaning up takes too long")),
        };
        // One that stays is swept when it is old.
        let _ = self.store.delete(&self.key, &tick);
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
        let directory = root.path().join("backups/x-full");
        let there = |name: &str| directory.join(name).exists();
        let work = || {
            store.put("backups/x-full/16400.tar.zst", vec![1], &never)?;
            age(&directory.join("16400.tar.zst"));
            // It is written again and again.
            age(&directory.join("running"));
            let end = Instant::now() + Duration::from_secs(30);
            let alive = || {
                let meta = store.head("backups/x-full/running", &never).unwrap();
                is_alive(&meta, DAY)
            };
            while !alive() {
                assert!(Instant::now() < end, "nobody says that the backup is alive");
                std::thread::yield_now();
            }
            assert_eq!(store.get("backups/x-full/running", 9, &never)?, b"parent");
            assert_eq!(sweep(&store, DAY, &never)?, 0);
            assert!(there("16400.tar.zst"));
            Ok(())
        };
        while_running(&store, "x-full", Some("parent"), &never, work).unwrap();
        assert!(!there("running"));
        assert_eq!(sweep(&store, DAY, &never).unwrap(), 1);
        // One that was killed leaves its sign, which goes when it is old, of a whole backup too.
        for name in ["y-full/running", "y-full/backup.json"] {
            store
                .put(&format!("backups/{name}"), vec![], &never)
                .unwrap();
        }
        assert_eq!(sweep(&store, DAY, &never).unwrap(), 0);
        age(&root.path().join("backups/y-full/running"));
        assert_eq!(sweep(&store, DAY, &never).unwrap(), 1);
        assert!(root.path().join("backups/y-full/backup.json").exists());
    }
}
