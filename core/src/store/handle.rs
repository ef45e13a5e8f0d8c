//! A store that can be read and written.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::config::{Role, StoreConfig};
use super::error::{At, ErrorKind, StoreError};
use super::key;
use super::local::LocalStore;
use super::parts::PartSizes;
use super::place::StorePlace;
use super::reader::{Listing, ObjectReader};
use super::remote::RemoteStore;
use super::url::Scheme;
use super::writer::{ObjectWriter, Written};
use crate::wait::Tick;

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The object's key.
    pub key: String,
    /// Size, in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// A store. Its calls block, and ask the tick that they are given on the calling thread while they wait; the work is done on
/// other threads, which handle no signals. It may be shared by threads, and outlives `fork`: the child starts threads and
/// connections of its own.
///
/// Keys are as [`check_key`](super::check_key) has them. Every error names the store and the key.
pub struct Store {
    name: String,
    role: Role,
    backend: Backend,
}

enum Backend {
    Local(LocalStore),
    Remote(Box<RemoteStore>),
}

impl Store {
    /// Opens a store. Nothing is asked of it yet, no file is looked at and no thread is started.
    ///
    /// A `file://` store whose directory does not exist answers every call with [`Unreachable`](ErrorKind::Unreachable),
    /// unless the option `create` is set: what is missing may be a file system that is not mounted.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the options make no client.
    pub fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let name = config.url().to_string();
        let backend = match config.url().scheme() {
            Scheme::File => Backend::Local(LocalStore::new(config)),
            _ => Backend::Remote(Box::new(RemoteStore::open(config)?)),
        };
        Ok(Self {
            name,
            role: config.role(),
            backend,
        })
    }

    /// The store's URL.
    pub fn url(&self) -> &str {
        &self.name
    }

    /// Where the store is, by its options and the environment. Of a directory the symbolic links are followed, so that a disk
    /// may be asked; of a remote store nothing is asked.
    ///
    /// # Errors
    /// What the tick answers.
    pub fn place(&self, tick: Tick<'_>) -> Result<StorePlace, StoreError> {
        match &self.backend {
            Backend::Local(local) => local.place(self.at_any(None), tick),
            Backend::Remote(remote) => Ok(remote.place(&self.name)),
        }
    }

    /// What the store is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Writes an object, in place of one with that key if there is one. When the call returns, it has reached the disk.
    ///
    /// # Errors
    /// What the store answers. Readers see the whole new object or none of it, whatever happens.
    pub fn put(&self, key: &str, bytes: Vec<u8>, tick: Tick<'_>) -> Result<(), StoreError> {
        let at = self.at(key)?;
        match &self.backend {
            Backend::Local(local) => local.put(at, bytes, false, tick),
            Backend::Remote(remote) => remote.put(at, bytes, false, tick),
        }
    }

    /// Writes an object unless there is one with that key; of several that try at the same time one succeeds.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists), or what the store answers. A remote store that answers late may have
    /// been asked twice, and then says `AlreadyExists` of the object that the first request wrote: who must know compares
    /// the object with what he wanted to write.
    pub fn put_new(&self, key: &str, bytes: Vec<u8>, tick: Tick<'_>) -> Result<(), StoreError> {
        let at = self.at(key)?;
        match &self.backend {
            Backend::Local(local) => local.put(at, bytes, true, tick),
            Backend::Remote(remote) => remote.put(at, bytes, true, tick),
        }
    }

    /// Begins an object of any size.
    ///
    /// # Errors
    /// A wrong key; later calls of the writer give what the store answers.
    pub fn writer<'t>(&self, key: &str, tick: Tick<'t>) -> Result<ObjectWriter<'t>, StoreError> {
        self.writer_in_parts(key, PartSizes::Growing, tick)
    }

    /// As [`writer`](Self::writer), for an object of which it is known or estimated how many bytes it will have: remote stores
    /// get it in parts of one size, which some of them want, and of which there are not too many. Up to a tenth more is room
    /// for in such parts.
    ///
    /// # Errors
    /// As of [`writer`](Self::writer).
    pub fn writer_expecting<'t>(
        &self,
        key: &str,
        bytes: u64,
        tick: Tick<'t>,
    ) -> Result<ObjectWriter<'t>, StoreError> {
        self.writer_in_parts(key, PartSizes::expecting(bytes), tick)
    }

    fn writer_in_parts<'t>(
        &self,
        key: &str,
        sizes: PartSizes,
        tick: Tick<'t>,
    ) -> Result<ObjectWriter<'t>, StoreError> {
        let at = self.at(key)?;
        let sink = match &self.backend {
            Backend::Local(local) => local.writer(at)?,
            Backend::Remote(remote) => remote.writer(at, sizes)?,
        };
        Ok(ObjectWriter::new(sink, tick))
    }

    /// Writes an object of any size, all that there is to read, in place of one with that key if there is one.
    ///
    /// # Errors
    /// What the store answers; a reader's own error is [`Other`](ErrorKind::Other). The object is then not there.
    pub fn put_stream(
        &self,
        key: &str,
        from: &mut dyn Read,
        tick: Tick<'_>,
    ) -> Result<Written, StoreError> {
        let mut writer = self.writer(key, tick)?;
        writer.write_from(from)?;
        writer.finish()
    }

    /// Reads an object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`TooLarge`](ErrorKind::TooLarge), or what the store answers.
    pub fn get(&self, key: &str, limit: u64, tick: Tick<'_>) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.get_stream(key, tick)?;
        if reader.size() > limit {
            let detail = format!(
                "the object has {} bytes, at most {limit} are taken",
                reader.size()
            );
            return Err(self.at(key)?.error(ErrorKind::TooLarge, detail));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.chunk()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Reads a range of an object, all of it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Corrupt`](ErrorKind::Corrupt) where the object ends before the range does, or
    /// what the store answers.
    pub fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
        tick: Tick<'_>,
    ) -> Result<Vec<u8>, StoreError> {
        let at = self.at(key)?;
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(Vec::new());
        }
        if i64::try_from(range.end).is_err() {
            return Err(at.error(ErrorKind::Corrupt, "no object is that long"));
        }
        let bytes = match &self.backend {
            Backend::Local(local) => local.get_range(at.clone(), range.clone(), tick)?,
            Backend::Remote(remote) => remote.get_range(at.clone(), range.clone(), tick)?,
        };
        match bytes.len() as u64 == len {
            true => Ok(bytes),
            false => Err(at.error(
                ErrorKind::Corrupt,
                format!("the object ends before byte {}", range.end),
            )),
        }
    }

    /// Reads an object of any size from its beginning.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), or what the store answers.
    pub fn get_stream<'t>(
        &self,
        key: &str,
        tick: Tick<'t>,
    ) -> Result<ObjectReader<'t>, StoreError> {
        let at = self.at(key)?;
        let (flow, size) = match &self.backend {
            Backend::Local(local) => local.reader(at, tick)?,
            Backend::Remote(remote) => remote.reader(at, tick)?,
        };
        Ok(ObjectReader::new(flow, size, tick))
    }

    /// What the store says of an object.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), or what the store answers.
    pub fn head(&self, key: &str, tick: Tick<'_>) -> Result<ObjectMeta, StoreError> {
        let at = self.at(key)?;
        match &self.backend {
            Backend::Local(local) => local.head(at, tick),
            Backend::Remote(remote) => remote.head(at, tick),
        }
    }

    /// The objects below a prefix: `a/b` has those whose keys begin with `a/b/`, the empty prefix has all. In ascending
    /// order of the keys' bytes.
    ///
    /// # Errors
    /// A wrong prefix; the iterator gives what the store answers. A prefix below which nothing is, is an empty listing.
    pub fn list<'t>(&self, prefix: &str, tick: Tick<'t>) -> Result<Listing<'t>, StoreError> {
        let prefix = key::check_prefix(prefix)
            .map_err(|error| self.at_any(None).error(error.kind(), error.detail()))?;
        let at = self.at_any(Some(prefix).filter(|p| !p.is_empty()));
        let flow = match &self.backend {
            Backend::Local(local) => local.list(at, prefix)?,
            Backend::Remote(remote) => remote.list(at, prefix)?,
        };
        Ok(Listing::new(flow, tick))
    }

    /// Deletes an object, if there is one.
    ///
    /// # Errors
    /// What the store answers; an object that is not there is none.
    pub fn delete(&self, key: &str, tick: Tick<'_>) -> Result<(), StoreError> {
        let at = self.at(key)?;
        match &self.backend {
            Backend::Local(local) => local.delete(at, tick),
            Backend::Remote(remote) => remote.delete(at, tick),
        }
    }

    /// Reads an object to its end: its size and SHA-256.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), or what the store answers.
    pub fn sha256(&self, key: &str, tick: Tick<'_>) -> Result<Written, StoreError> {
        let mut reader = self.get_stream(key, tick)?;
        let mut hash = Sha256::new();
        while let Some(chunk) = reader.chunk()? {
            hash.update(&chunk);
        }
        Ok(Written {
            size: reader.size(),
            sha256: hash.finalize().into(),
        })
    }

    /// Copies an object of another store here, unless the same is here already, and reads the copy back.
    ///
    /// What is here under that key is replaced only by bytes with the expected SHA-256, in one step.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if the object there does not have the expected SHA-256: then nothing is written here.
    /// The same if the copy does not have it when it is read back: then the copy is deleted. Or what either store answers.
    pub fn copy_verified(
        &self,
        from: &Self,
        from_key: &str,
        to_key: &str,
        expected: &[u8; 32],
        tick: Tick<'_>,
    ) -> Result<Written, StoreError> {
        match self.sha256(to_key, tick) {
            Ok(found) if found.sha256 == *expected => return Ok(found),
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Err(error);
            }
            _ => {}
        }
        let mut reader = from.get_stream(from_key, tick)?;
        let mut writer = self.writer_expecting(to_key, reader.size(), tick)?;
        writer.write_from(&mut reader)?;
        if writer.sha256() != *expected {
            let detail = "the object does not have the SHA-256 that is expected of it";
            return Err(from.at(from_key)?.error(ErrorKind::Corrupt, detail));
        }
        let written = writer.finish()?;
        if self.sha256(to_key, tick)? != written {
            self.delete(to_key, tick)?;
            let detail =
                "the copy did not have the right SHA-256 when it was read back, and was deleted";
            return Err(self.at(to_key)?.error(ErrorKind::Corrupt, detail));
        }
        Ok(written)
    }

    /// Waits until an object that is there has reached the disk: whoever wrote it may have been killed before it had. Remote
    /// stores show no object before it is safe, and are not asked.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), or what the store answers.
    pub fn settle(&self, key: &str, tick: Tick<'_>) -> Result<(), StoreError> {
        let at = self.at(key)?;
        match &self.backend {
            Backend::Local(local) => local.settle(at, tick),
            Backend::Remote(_) => Ok(()),
        }
    }

    /// Removes what writers that were killed more than `older_than` ago have left behind; how many files those were.
    ///
    /// A writer that is at work touches its file every few minutes, whether it has something to write or not. Remote stores do not tell of uploads
    /// that were never finished; there it does nothing, and a rule of the bucket must remove them.
    ///
    /// # Errors
    /// What the store answers.
    pub fn sweep(&self, older_than: Duration, tick: Tick<'_>) -> Result<u64, StoreError> {
        match &self.backend {
            Backend::Local(local) => local.sweep(self.at_any(None), older_than, tick),
            Backend::Remote(_) => Ok(0),
        }
    }

    fn at(&self, key: &str) -> Result<At, StoreError> {
        let at = self.at_any(Some(key));
        match key::fault(key) {
            None => Ok(at),
            Some(fault) => Err(at.error(ErrorKind::Config, fault)),
        }
    }

    fn at_any(&self, key: Option<&str>) -> At {
        At {
            store: self.name.clone(),
            key: key.map(str::to_owned),
        }
    }
}

impl fmt::Debug for Store {
    /// The URL alone: clients know credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.name)
    }
}
