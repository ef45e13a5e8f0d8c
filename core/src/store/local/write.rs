//! Writing and deleting objects.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::PIECE_BYTES;
use super::directory::{Directory, is_file, sync_file};
use super::job::Job;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::key::TEMPORARY;
use crate::store::writer::{Order, Progress};

/// How often a file that nothing is written to is marked as one that is at work.
const TOUCH_EVERY: Duration = if cfg!(test) {
    Duration::from_millis(20)
} else {
    Duration::from_secs(300)
};

/// How often a directory may be removed by somebody else while an object is moved into it.
const TRIES: usize = 100;

/// A file without a name of its own yet; it is removed unless it gets one.
struct Temporary<'j> {
    job: &'j Job,
    directory: Directory,
    name: String,
    file: File,
    done: bool,
}

impl<'j> Temporary<'j> {
    fn create(job: &'j Job) -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let failed = |errno| job.failed("no file can be made", errno);
        let directory = job.root()?.enter_or_make(TEMPORARY).map_err(failed)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            // Several machines may write into one directory; where names meet, the file is not created and the next is tried.
            let name = format!("{}-{}-{number}", std::process::id(), now.as_nanos());
            match directory.create(&name) {
                Ok(file) => {
                    return Ok(Self {
                        job,
                        directory,
                        name,
                        file,
                        done: false,
                    });
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.job.check()?;
            self.file
                .write_all(piece)
                .map_err(|error| self.job.io_failed("the file cannot be written", &error))?;
        }
        Ok(())
    }

    fn touch(&self) -> nix::Result<()> {
        futimens(&self.file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)
    }

    /// Gives the file the object's name, and returns when all of it is on the disk.
    fn publish(mut self, new: bool) -> Result<(), StoreError> {
        let job = self.job;
        sync_file(&self.file)
            .map_err(|error| job.io_failed("the file cannot be synced", &error))?;
        job.check()?;
        let (directories, name) = job.components();
        let path = match self.place(&directories, name, new) {
            // Whoever wrote that may have been killed before it had reached the disk, and now it is taken for safe.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                settle(job)?;
                return Err(error);
            }
            placed => placed?,
        };
        self.done = true;
        // All of them: those that were there may have been made a moment ago by somebody who has not synced them yet.
        for directory in path.iter().rev() {
            directory
                .sync()
                .map_err(|errno| job.failed("a directory cannot be synced", errno))?;
        }
        Ok(())
    }

    fn place(
        &self,
        directories: &[&str],
        name: &str,
        new: bool,
    ) -> Result<Vec<Directory>, StoreError> {
        let mut tries = 0;
        loop {
            let placed = self.job.root()?.path(directories, true).and_then(|path| {
                let last = path.last().ok_or(Errno::ENOENT)?;
                match new {
                    true => self.directory.rename_new(&self.name, last, name)?,
                    false => self.directory.rename_to(&self.name, last, name)?,
                }
                Ok(path)
            });
            tries += 1;
            match placed {
                Ok(path) => return Ok(path),
                // Somebody deleted the last object of a directory, and the directory with it, before ours was there.
                Err(Errno::ENOENT) if tries < TRIES => {}
                Err(Errno::ENOTDIR | Errno::EISDIR) => {
                    let detail = "the key is a directory of other objects, or another object stands in its way";
                    return Err(self.job.at.error(ErrorKind::Other, detail));
                }
                Err(errno) => {
                    return Err(self.job.failed("the file cannot be given its name", errno));
                }
            }
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed now is swept later.
            let _ = self.directory.remove(&self.name);
        }
    }
}

pub(super) fn put(job: &Job, bytes: &[u8], new: bool) -> Result<(), StoreError> {
    let mut file = Temporary::create(job)?;
    file.write(bytes)?;
    file.publish(new)
}

/// Writes what comes, until the end or until the sender is gone.
pub(super) fn stream(
    job: &Job,
    orders: &Receiver<Order>,
    progress: &Sender<Result<Progress, StoreError>>,
) -> Result<(), StoreError> {
    let mut file = Temporary::create(job)?;
    let mut written = 0;
    loop {
        let order = match orders.recv_timeout(TOUCH_EVERY) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => {
                // The writer waits for what it writes: nobody shall sweep the file meanwhile. If that cannot be told, they may.
                let _ = file.touch();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let news = match order {
            Order::Part(bytes) => {
                file.write(&bytes)?;
                written += bytes.len() as u64;
                Progress::Gone(bytes.len())
            }
            Order::Finish(size) if size != written => {
                let detail = format!("{written} bytes were written of {size}");
                return Err(job.at.error(ErrorKind::Other, detail));
            }
            Order::Finish(_) => {
                file.publish(false)?;
                // The writer waits for it, or is gone.
                let _ = progress.send(Ok(Progress::Done));
                return Ok(());
            }
        };
        if progress.send(Ok(news)).is_err() {
            return Ok(());
        }
    }
}

/// Waits until an object that is there has reached the disk, with all directories on the way to it.
pub(super) fn settle(job: &Job) -> Result<(), StoreError> {
    let (directories, name) = job.components();
    let opened = job.root()?.path(&directories, false).and_then(|path| {
        let file = path.last().ok_or(Errno::ENOENT)?.open(name)?;
        Ok((path, file))
    });
    let (path, file) = opened.map_err(|errno| job.failed("the file cannot be opened", errno))?;
    sync_file(&file).map_err(|error| job.io_failed("the file cannot be synced", &error))?;
    for directory in path.iter().rev() {
        directory
            .sync()
            .map_err(|errno| job.failed("a directory cannot be synced", errno))?;
    }
    Ok(())
}

/// Removes an object, and directories that are empty then.
pub(super) fn delete(job: &Job) -> Result<(), StoreError> {
    let (directories, name) = job.components();
    let path = match job.root()?.path(&directories, false) {
        Ok(path) => path,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        Err(errno) => return Err(job.failed("a directory cannot be opened", errno)),
    };
    let Some(last) = path.last() else {
        return Ok(());
    };
    match last.remove(name) {
        Ok(()) => {}
        Err(Errno::ENOENT | Errno::EISDIR) => return Ok(()),
        Err(errno) => return Err(job.failed("the file cannot be removed", errno)),
    }
    let mut changed = last;
    for (parent, name) in path.iter().zip(&directories).rev() {
        if parent.remove_directory(name).is_err() {
            // There is something in it, or it may not be removed.
            break;
        }
        changed = parent;
    }
    changed
        .sync()
        .map_err(|errno| job.failed("a directory cannot be synced", errno))
}

/// Removes temporary files that were last written before that time.
pub(super) fn sweep(job: &Job, older_than: Duration) -> Result<u64, StoreError> {
    let failed = |errno| job.failed("the directory of temporary files cannot be swept", errno);
    let directory = match job.root()?.enter(TEMPORARY) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Ok(0),
        Err(errno) => return Err(failed(errno)),
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let limit = now.saturating_sub(older_than).as_secs();
    let mut removed = 0;
    for name in directory.names().map_err(failed)? {
        job.check()?;
        match directory.stat(name.as_str()) {
            Ok(stat) if is_file(&stat) && u64::try_from(stat.st_mtime).unwrap_or(0) <= limit => {}
            Ok(_) | Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        match directory.remove(&name) {
            Ok(()) => removed += 1,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(removed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::time::{Duration, Instant, SystemTime};

    use super::super::directory::SYNCED;
    use crate::store::{ErrorKind, Store, StoreConfig};
    use crate::wait::never;

    fn store(root: &Path) -> Store {
        let url = format!("file://{}", root.display());
        Store::open(&StoreConfig::from_url(&url).unwrap()).unwrap()
    }

    /// Whether a file or directory was synced since then.
    fn synced_since(before: usize, path: &Path) -> bool {
        let inode = std::fs::metadata(path).unwrap().ino();
        SYNCED.lock().unwrap()[before..].contains(&inode)
    }

    /// An earlier writer may have been killed before all of it had reached the disk.
    #[test]
    fn what_is_there_has_reached_the_disk_when_it_is_said_to_exist() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        store.put("a/b/c", vec![1], &never).unwrap();
        let ask = |store: &Store| match store.put_new("a/b/c", vec![1], &never) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
            Ok(()) => panic!("it was written twice"),
        };
        let settle = |store: &Store| store.settle("a/b/c", &never).unwrap();
        for call in [&ask as &dyn Fn(&Store), &settle] {
            let before = SYNCED.lock().unwrap().len();
            call(&store);
            for name in ["", "a", "a/b", "a/b/c"] {
                assert!(synced_since(before, &root.path().join(name)), "{name}");
            }
        }
        assert_eq!(
            store.settle("a/x", &never).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn a_writer_that_waits_is_not_swept() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let mut writer = store.writer("x", &never).unwrap();
        writer.write_all(&[7; 3 << 20]).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // A thread makes the file, when it comes to it.
        let path = loop {
            let mut temporary = std::fs::read_dir(root.path().join(".varve-tmp"));
            let first = temporary.as_mut().ok().and_then(Iterator::next);
            if let Some(entry) = first {
                break entry.unwrap().path();
            }
            assert!(Instant::now() < end, "nobody makes the file");
            std::thread::yield_now();
        };
        let old = SystemTime::now() - Duration::from_secs(90_000);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        loop {
            // What was under way is written by then, and nothing else changes its time.
            file.set_modified(old).unwrap();
            let mut seen = old;
            while seen == old && Instant::now() < end {
                seen = path.metadata().unwrap().modified().unwrap();
                std::thread::yield_now();
            }
            assert!(seen > old, "nobody says that the file is at work");
            if file.metadata().unwrap().len() == 3 << 20 {
                break;
            }
        }
        assert_eq!(store.sweep(Duration::from_secs(80_000), &never).unwrap(), 0);
        writer.finish().unwrap();
        assert_eq!(store.head("x", &never).unwrap().size, 3 << 20);
    }
}
