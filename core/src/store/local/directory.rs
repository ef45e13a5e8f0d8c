//! Directories, opened one from the other.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};

/// An open directory.
pub(super) struct Directory(OwnedFd);

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

impl Directory {
    /// Opens the root of a store; symbolic links on the way to it are the administrator's, and are followed.
    pub(super) fn root(path: &Path) -> nix::Result<Self> {
        open(path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens a directory in it.
    pub(super) fn enter<P: NixPath + ?Sized>(&self, name: &P) -> nix::Result<Self> {
        openat(&self.0, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()).map(Self)
    }

    /// Opens a directory in it, and makes it if it is not there.
    pub(super) fn enter_or_make<P: NixPath + ?Sized>(&self, name: &P) -> nix::Result<Self> {
        match self.enter(name) {
            Err(Errno::ENOENT) => {}
            entered => return entered,
        }
        match mkdirat(&self.0, name, Mode::S_IRWXU) {
            // Somebody else was faster.
            Ok(()) | Err(Errno::EEXIST) => self.enter(name),
            Err(errno) => Err(errno),
        }
    }

    /// Opens the directories of a path below it, itself first.
    pub(super) fn path(self, names: &[&str], make: bool) -> nix::Result<Vec<Self>> {
        let mut opened = vec![self];
        for name in names {
            if let Some(last) = opened.last() {
                let next = match make {
                    true => last.enter_or_make(*name)?,
                    false => last.enter(*name)?,
                };
                opened.push(next);
            }
        }
        Ok(opened)
    }

    /// Makes a file that was not there.
    pub(super) fn create(&self, name: &str) -> nix::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
    }

    /// Opens a file to read it. It does not wait for the other end of a pipe that somebody has put there.
    pub(super) fn open(&self, name: &str) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::empty()).map(File::from)
    }

    /// What is known of an entry; a symbolic link is not followed.
    pub(super) fn stat<P: NixPath + ?Sized>(&self, name: &P) -> nix::Result<FileStat> {
        fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Gives a file its name, in place of one that has it.
    pub(super) fn rename_to(&self, name: &str, to: &Self, to_name: &str) -> nix::Result<()> {
        renameat(&self.0, name, &to.0, to_name)
    }

    /// Gives a file its name if no other has it; the old name goes.
    pub(super) fn rename_new(&self, name: &str, to: &Self, to_name: &str) -> nix::Result<()> {
        match linkat(&self.0, name, &to.0, to_name, AtFlags::empty()) {
            Ok(()) => self.remove(name),
            // A server of files may do it, lose the answer, and be asked again: then it was done by us.
            Err(Errno::EEXIST) if self.stat(name).is_ok_and(|stat| stat.st_nlink == 2) => {
                self.remove(name)
            }
            // File systems without links.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.rename_if_free(name, to, to_name)
            }
            Err(errno) => Err(errno),
        }
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn rename_if_free(&self, name: &str, to: &Self, to_name: &str) -> nix::Result<()> {
        use nix::fcntl::{RenameFlags, renameat2};
        renameat2(&self.0, name, &to.0, to_name, RenameFlags::RENAME_NOREPLACE)
    }

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    fn rename_if_free(&self, _: &str, _: &Self, _: &str) -> nix::Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> nix::Result<()> {
        unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Removes a directory that is empty.
    pub(super) fn remove_directory(&self, name: &str) -> nix::Result<()> {
        unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)
    }

    /// Waits until its entries are on the disk.
    pub(super) fn sync(&self) -> nix::Result<()> {
        #[cfg(test)]
        note(&self.0);
        match fsync(&self.0) {
            // File systems that sync no directories write them at once.
            Err(Errno::EINVAL) => Ok(()),
            synced => synced,
        }
    }

    /// The names of its entries that are valid UTF-8; others are no keys.
    pub(super) fn names(&self) -> nix::Result<Vec<String>> {
        let mut dir = Dir::from_fd(openat(&self.0, ".", DIRECTORY, Mode::empty())?)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until a file is on the disk.
pub(super) fn sync_file(file: &File) -> std::io::Result<()> {
    #[cfg(test)]
    note(file);
    file.sync_all()
}

/// The inodes of what was synced, for tests.
#[cfg(test)]
pub(super) static SYNCED: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());

#[cfg(test)]
fn note(file: impl AsFd) {
    let inode = nix::sys::stat::fstat(file).map_or(0, |stat| stat.st_ino);
    let mut synced = SYNCED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    synced.push(inode);
}

/// Whether it is a plain file.
pub(super) fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
}

/// Whether it is a directory.
pub(super) fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR
}

/// Makes a directory and those above it, each of them on the disk when it returns.
pub(super) fn make_all(path: &Path) -> nix::Result<()> {
    let mut at = Directory::root(Path::new("/"))?;
    for component in path.components().skip(1) {
        let name = component.as_os_str();
        // Symbolic links above the root of a store are followed.
        let next = match openat(&at, name, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) => {
                let made = at.enter_or_make(name)?;
                at.sync()?;
                made
            }
            opened => Directory(opened?),
        };
        at = next;
    }
    Ok(())
}
