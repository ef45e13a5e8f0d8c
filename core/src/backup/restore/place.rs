//! The directory that is restored into.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::super::error::BackupError;
use super::super::running::token;

/// The directory in the data directory where all is done.
const WORK: &str = "varve_restore";

/// The file in it that says whose work it is.
const MARKER: &str = "marker.json";

/// Largest marker, in bytes.
const MAX_MARKER_BYTES: u64 = 1 << 20;

/// The file in a tablespace's directory that says by a token whose work it is: the directory may become somebody else's while
/// nobody is at work.
const TOKEN: &str = "varve_restore.token";

/// Largest token, in bytes.
const MAX_TOKEN_BYTES: u64 = 256;

/// What a restore was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The chain, the full backup first.
    pub(super) chain: Vec<String>,
    /// Where each tablespace goes.
    pub(super) tablespaces: Vec<(u32, PathBuf)>,
    /// The settings of recovery, in text.
    pub(super) recovery: String,
    /// Whether all is done but for moving it up.
    pub(super) moving: bool,
    /// What the directories of tablespaces are known by; it is made when the restore begins.
    pub(super) token: String,
}

/// A data directory that is ours to fill.
pub(super) struct Place {
    pgdata: PathBuf,
    marker: Marker,
    /// Whether somebody began before us.
    pub(super) resumed: bool,
    /// Held as long as we are at work.
    _lock: Flock<File>,
}

fn make_directory(path: &Path) -> Result<(), BackupError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(BackupError::io(path, error)),
        _ => Ok(()),
    }
}

fn names(path: &Path) -> Result<Vec<std::ffi::OsString>, BackupError> {
    let failed = |error| BackupError::io(path, error);
    fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.file_name()))
        .collect()
}

impl Place {
    /// Takes a directory: one that is not there, one that is empty, or one where a restore with the same arguments was
    /// interrupted. What is half done there is removed.
    pub(super) fn open(pgdata: &Path, wanted: Marker) -> Result<Self, BackupError> {
        make_directory(pgdata)?;
        let work = pgdata.join(WORK);
        let directory = File::open(pgdata).map_err(|error| BackupError::io(pgdata, error))?;
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|_| {
            BackupError::refused(
                format!("another process restores into {}", pgdata.display()),
                "Wait for it, or end it.",
            )
        })?;
        // Nobody else is at work from now on.
        let found = names(pgdata)?;
        if !found.is_empty() && !work.is_dir() {
            return Err(not_empty(pgdata));
        }
        let mut place = Self {
            pgdata: pgdata.to_owned(),
            marker: wanted,
            resumed: false,
            _lock: lock,
        };
        match place.read_marker()? {
            Some(before) => place.go_on(before)?,
            // Somebody got no further than to make the directory.
            None if found.iter().all(|name| name == WORK) => {
                make_directory(&work)?;
                place.check_tablespaces()?;
                place.marker.token = token();
                place.write_marker()?;
                place.write_tokens()?;
            }
            // Somebody got as far as to remove what he did not need any more, but for the directory.
            None if found.iter().any(|name| name == "PG_VERSION") && names(&work)?.is_empty() => {
                place.marker.moving = true;
                place.resumed = true;
            }
            None => return Err(not_empty(pgdata)),
        }
        Ok(place)
    }

    fn read_marker(&self) -> Result<Option<Marker>, BackupError> {
        use std::io::Read;
        let path = self.work().join(MARKER);
        let failed = |error| BackupError::io(&path, error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_MARKER_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| BackupError::corrupt(path.display().to_string(), error.to_string()))
    }

    fn go_on(&mut self, before: Marker) -> Result<(), BackupError> {
        let moving = before.moving;
        self.marker.moving = moving;
        self.marker.token = before.token.clone();
        if before != self.marker {
            return Err(BackupError::refused(
                format!(
                    "in {} another restore was interrupted, of backup {}",
                    self.pgdata.display(),
                    before.chain.last().map_or("", String::as_str)
                ),
                "Go on with that by the same arguments, or remove what is in the directory and in those of its tablespaces.",
            ));
        }
        self.resumed = true;
        if moving {
            return Ok(());
        }
        for name in names(&self.work())? {
            let path = self.work().join(&name);
            if name != MARKER {
                remove(&path)?;
            }
        }
        // They were empty when that restore began, and what is in them is its, unless they have become somebody else's.
        for (_, directory) in &self.marker.tablespaces {
            if !self.is_ours(directory)? {
                return Err(BackupError::refused(
                    format!(
                        "the tablespace directory {} has something in it that is not of the restore that was interrupted",
                        directory.display()
                    ),
                    "Remove it if nobody needs it, and go on by the same arguments.",
                ));
            }
        }
        for (_, directory) in &self.marker.tablespaces {
            empty(directory)?;
        }
        self.write_tokens()
    }

    /// Whether the directory of a tablespace has nothing in it, or what this restore has put there.
    fn is_ours(&self, directory: &Path) -> Result<bool, BackupError> {
        use std::io::Read;
        if !directory.exists() || names(directory)?.is_empty() {
            return Ok(true);
        }
        let path = directory.join(TOKEN);
        let mut token = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(MAX_TOKEN_BYTES).read_to_end(&mut token),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => Err(error),
        }
        .map_err(|error| BackupError::io(&path, error))?;
        Ok(token == self.marker.token.as_bytes())
    }

    fn write_tokens(&self) -> Result<(), BackupError> {
        for (_, directory) in &self.marker.tablespaces {
            super::unpack::directory(directory, 0o700)?;
            let path = directory.join(TOKEN);
            fs::write(&path, &self.marker.token).map_err(|error| BackupError::io(&path, error))?;
        }
        Ok(())
    }

    /// Whether the directories of the tablespaces are empty or not there.
    fn check_tablespaces(&self) -> Result<(), BackupError> {
        // Each is emptied before something is unpacked into it, with all that lies in it.
        let mut before = vec![(resolved(&self.pgdata)?, "the data directory".to_owned())];
        for (_, directory) in &self.marker.tablespaces {
            if !directory.is_absolute() {
                return Err(BackupError::refused(
                    format!(
                        "the tablespace directory {} is no whole path",
                        directory.display()
                    ),
                    "Say with --tablespace-map where it shall lie.",
                ));
            }
            let path = resolved(directory)?;
            let within = |other: &Path| path.starts_with(other) || other.starts_with(&path);
            if let Some((_, other)) = before.iter().find(|(other, _)| within(other)) {
                return Err(BackupError::refused(
                    format!(
                        "the tablespace directory {} and {other} lie in each other",
                        directory.display()
                    ),
                    "Say with --tablespace-map where it shall lie.",
                ));
            }
            let name = format!("that of another tablespace, {},", directory.display());
            before.push((path, name));
            if directory.exists() && !names(directory)?.is_empty() {
                return Err(not_empty(directory));
            }
        }
        Ok(())
    }

    fn write_marker(&self) -> Result<(), BackupError> {
        let path = self.work().join(MARKER);
        let new = self.work().join("marker.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&self.marker)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(self.work())?.sync_all()
        };
        write().map_err(|error| BackupError::io(&path, error))
    }

    /// Where all is done.
    pub(super) fn work(&self) -> PathBuf {
        self.pgdata.join(WORK)
    }

    /// Where the data directory becomes whole.
    pub(super) fn out(&self) -> PathBuf {
        self.work().join("out")
    }

    /// Whether all is done but for moving it up.
    pub(super) fn moving(&self) -> bool {
        self.marker.moving
    }

    /// Where each tablespace goes.
    pub(super) fn tablespaces(&self) -> &[(u32, PathBuf)] {
        &self.marker.tablespaces
    }

    /// Moves what is in `out` up to where it belongs, the control file's directory last: without it no server starts.
    pub(super) fn move_up(&mut self) -> Result<(), BackupError> {
        self.marker.moving = true;
        self.write_marker()?;
        let out = self.out();
        if out.is_dir() {
            let mut names = names(&out)?;
            names.sort_by_key(|name| name == "global");
            for name in names {
                let to = self.pgdata.join(&name);
                fs::rename(out.join(&name), &to).map_err(|error| BackupError::io(&to, error))?;
            }
        }
        Ok(())
    }

    /// The data directory gets its permissions, and the traces of the work go.
    pub(super) fn finish(self) -> Result<(), BackupError> {
        let failed = |error| BackupError::io(&self.pgdata, error);
        let out = self.out();
        if let Ok(metadata) = fs::metadata(&out) {
            fs::set_permissions(&self.pgdata, metadata.permissions()).map_err(failed)?;
        }
        for (_, directory) in &self.marker.tablespaces {
            remove(&directory.join(TOKEN))?;
        }
        // As long as anything else is there, the marker says what it is.
        let work = self.work();
        if work.is_dir() {
            for name in names(&work)?.into_iter().filter(|name| name != MARKER) {
                remove(&work.join(name))?;
            }
        }
        remove(&work.join(MARKER))?;
        remove(&work)?;
        File::open(&self.pgdata)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)
    }
}

/// A path without symbolic links, as far as it is there.
fn resolved(path: &Path) -> Result<PathBuf, BackupError> {
    let failed = |error| BackupError::io(path, error);
    let whole = std::path::absolute(path).map_err(failed)?;
    let mut rest = Vec::new();
    for ancestor in whole.ancestors() {
        match ancestor.canonicalize() {
            Ok(mut found) => {
                found.extend(rest.iter().rev());
                return Ok(found);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => match ancestor.file_name() {
                Some(name) => rest.push(name),
                // It ends with two dots, and what is before them is not there.
                None => return Err(failed(error)),
            },
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(whole)
}

fn not_empty(path: &Path) -> BackupError {
    BackupError::refused(
        format!("the directory {} is not empty", path.display()),
        "Name a directory that is empty or not there yet.",
    )
}

/// Removes a file or a directory with all that is in it.
pub(super) fn remove(path: &Path) -> Result<(), BackupError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(BackupError::io(path, error)),
        _ => Ok(()),
    }
}

/// Removes what is in a directory, if it is there, but for the token that says whose it is.
pub(super) fn empty(path: &Path) -> Result<(), BackupError> {
    if path.is_dir() {
        for name in names(path)?.into_iter().filter(|name| name != TOKEN) {
            remove(&path.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn opened(pgdata: &Path, tablespaces: &[&Path]) -> Result<Place, BackupError> {
        let numbered = (1..).zip(tablespaces.iter().map(|path| path.to_path_buf()));
        let marker = Marker {
            chain: Vec::new(),
            tablespaces: numbered.collect(),
            recovery: String::new(),
            moving: false,
            token: String::new(),
        };
        Place::open(pgdata, marker)
    }

    #[test]
    fn directories_that_lie_in_each_other() {
        let work = tempfile::tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        fs::create_dir(path("real")).unwrap();
        std::os::unix::fs::symlink(path("real"), path("link")).unwrap();
        for (number, tablespaces) in [
            vec![path("a"), path("a/b")],
            vec![path("a/b/c"), path("x"), path("a")],
            vec![path("real/a"), path("link/a/b")],
            vec![path("x"), path("a/../x/b")],
            vec![path("")],
            vec![path("new/base")],
            vec![path("x"), path("x")],
        ]
        .into_iter()
        .enumerate()
        {
            let tablespaces: Vec<&Path> = tablespaces.iter().map(PathBuf::as_path).collect();
            let error = opened(&path("new"), &tablespaces).err().unwrap();
            let text = error.to_string();
            let expected = matches!(error, BackupError::Refused { .. }) || number == 3;
            assert!(
                expected && !path("new/varve_restore/marker.json").exists(),
                "{text}"
            );
        }
        // Beside each other, in a directory that is not there yet, with names that begin alike.
        let tablespaces = [path("a/b"), path("a/bc"), path("newer")];
        let tablespaces: Vec<&Path> = tablespaces.iter().map(PathBuf::as_path).collect();
        assert!(opened(&path("new"), &tablespaces).is_ok());
    }

    /// Whose directory it is while nobody is at work is asked before anything goes.
    #[test]
    fn tablespaces_that_have_become_somebody_elses() {
        let work = tempfile::tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        let (one, two) = (path("one"), path("two"));
        let open = || opened(&path("new"), &[&one, &two]);
        drop(open().unwrap());
        for directory in [&one, &two] {
            fs::write(directory.join("half"), "").unwrap();
        }
        assert!(open().unwrap().resumed);
        assert!(!one.join("half").exists() && !two.join("half").exists());
        // Emptied, and used by another server, or by another restore.
        fs::write(one.join("half"), "").unwrap();
        fs::remove_file(two.join(TOKEN)).unwrap();
        for token in [None, Some("another")] {
            fs::write(two.join("theirs"), "").unwrap();
            if let Some(token) = token {
                fs::write(two.join(TOKEN), token).unwrap();
            }
            let error = open().err().unwrap();
            assert!(error.to_string().contains("two"), "{error}");
            assert!(two.join("theirs").exists() && one.join("half").exists());
        }
        fs::remove_dir_all(&two).unwrap();
        open().unwrap().finish().unwrap();
        assert_eq!(names(&one).unwrap().len() + names(&two).unwrap().len(), 0);
    }

    #[test]
    fn the_end_may_be_interrupted_too() {
        let work = tempfile::tempdir().unwrap();
        let pgdata = work.path().join("new");
        let mut place = opened(&pgdata, &[]).unwrap();
        fs::create_dir(place.out()).unwrap();
        fs::write(place.out().join("PG_VERSION"), "17").unwrap();
        place.move_up().unwrap();
        drop(place);
        // The marker is the last that goes, before the directory does.
        remove(&pgdata.join("varve_restore/out")).unwrap();
        assert!(opened(&pgdata, &[]).unwrap().moving());
        remove(&pgdata.join("varve_restore/marker.json")).unwrap();
        let place = opened(&pgdata, &[]).unwrap();
        assert!(place.moving() && place.resumed);
        place.finish().unwrap();
        assert_eq!(names(&pgdata).unwrap(), ["PG_VERSION"]);
        assert!(opened(&pgdata, &[]).is_err());
    }
}
