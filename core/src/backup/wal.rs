//! Files of WAL on their way into a store and back.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::keys;
use super::seal::{Layer, SealOptions, at, hex};
use super::wal_list::WalFile;
use super::wal_name::WalName;
use crate::seal::{
    Compressor, DecompressOptions, Decompressor, Decryptor, Hashed, Identities, SealError,
};
use crate::store::{ErrorKind, Store, StoreError};
use crate::wait::Tick;

/// What the object of a file begins with: a frame of zstd that readers skip, of 52 bytes.
const FRAME: [u8; 8] = [0x5E, 0x2A, 0x4D, 0x18, 52, 0, 0, 0];

/// What that frame begins with.
const MAGIC: [u8; 8] = *b"VARVEWAL";

/// The version of what follows.
const VERSION: u32 = 1;

/// Size of that frame, in bytes.
const HEADER_BYTES: usize = 60;

/// Largest file: a segment of WAL has at most 1 GiB.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Files up to this size are made ready in memory, and written if there is none of that name in one step.
const IN_MEMORY_BYTES: u64 = 64 << 20;

/// What became of a file that was to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    /// It was written.
    Written,
    /// It was there before, the same.
    Same,
    /// It was there before and damaged, and was written again.
    Repaired,
}

/// Size and SHA-256 of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSum {
    /// In bytes.
    pub size: u64,
    /// Of all bytes.
    pub sha256: [u8; 32],
}

impl WalSum {
    fn of(from: &mut dyn Read, name: &str, tick: Tick<'_>) -> Result<Self, BackupError> {
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 256 << 10];
        loop {
            tick()?;
            let got = from
                .read(&mut buffer)
                .map_err(|error| BackupError::of_stream(name, error))?;
            if got == 0 {
                break;
            }
            size += got as u64;
            hash.update(buffer.get(..got).unwrap_or_default());
        }
        Ok(Self {
            size,
            sha256: hash.finalize().into(),
        })
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&FRAME);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&self.size.to_le_bytes());
        header.extend_from_slice(&self.sha256);
        header
    }

    fn from_header(bytes: &[u8]) -> Result<Self, &'static str> {
        let rest = bytes
            .strip_prefix(&FRAME)
            .and_then(|rest| rest.strip_prefix(&MAGIC))
            .ok_or("it does not begin as a file of WAL does")?;
        let (version, rest) = rest.split_first_chunk().ok_or("its head is cut short")?;
        let (size, rest) = rest.split_first_chunk().ok_or("its head is cut short")?;
        let sum = Self {
            size: u64::from_le_bytes(*size),
            sha256: rest.try_into().map_err(|_| "its head is cut short")?,
        };
        if u32::from_le_bytes(*version) != VERSION {
            return Err("it is of an unknown version");
        }
        match sum.size <= MAX_FILE_BYTES {
            true => Ok(sum),
            false => Err("it says that it is larger than any file of WAL"),
        }
    }

    /// As `sha256sum` writes it.
    fn line(&self, name: &WalName) -> Vec<u8> {
        format!("{}  {name}\n", hex(&self.sha256)).into_bytes()
    }
}

/// The system identifier of the cluster that wrote a segment of WAL; none if it does not begin as a segment does.
///
/// It stands in the long header of the first page: after magic, flags, timeline, address, remaining length and padding.
///
/// # Errors
/// What the system says.
pub fn system_identifier_of(path: &Path) -> Result<Option<u64>, BackupError> {
    const LONG_HEADER: u16 = 2;
    let mut header = [0; 32];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(|error| BackupError::io(path, error))?,
    }
    let [magic0, magic1, flags0, flags1, rest @ ..] = header;
    // The server writes in the byte order of its machine, which is ours.
    let magic = u16::from_ne_bytes([magic0, magic1]);
    let flags = u16::from_ne_bytes([flags0, flags1]);
    let identifier = rest.last_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
    Ok(identifier.filter(|_| magic >> 8 == 0xD1 && flags & LONG_HEADER != 0))
}

/// Archives a file of WAL. When the call returns, it is safe in the store.
///
/// # Errors
/// [`BackupError::Refused`] if there is a different file under that name; what the store or the system says.
pub fn archive(
    store: &Store,
    path: &Path,
    name: &WalName,
    seal: &SealOptions,
    tick: Tick<'_>,
) -> Result<Archived, BackupError> {
    let failed = |error| BackupError::io(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(io::Error::other("no file of WAL is that large")));
    }
    let shown = path.display().to_string();
    let sum = WalSum::of(&mut file, &shown, tick)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let encrypted = seal.recipients.is_some();
    let key = keys::wal(name, encrypted);
    // Whoever wrote it may have been killed before it was on the disk: the server deletes its own file now.
    let settled = || store.settle(&key, tick).map(|()| Archived::Same);
    if encrypted && claimed(store, name, &sum, tick)? && exists(store, &key, tick)? {
        return Ok(settled()?);
    }
    // It is asked first: a server that refuses what is there already may do so before it has read all, and break the connection.
    if !encrypted && exists(store, &key, tick)? && same(store, name, &sum, tick)? {
        return Ok(settled()?);
    }
    if sum.size <= IN_MEMORY_BYTES {
        let bytes = pack(Vec::new(), file, &sum, &shown, seal, tick)?;
        // Of an encrypted one its sum was claimed above; what is there now is an earlier try.
        let answer = match encrypted {
            false => store.put_new(&key, bytes.clone(), tick),
            true => store.put(&key, bytes.clone(), tick),
        };
        return match answer {
            Ok(()) => Ok(Archived::Written),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                match same(store, name, &sum, tick)? {
                    true => Ok(Archived::Same),
                    false => {
                        store.put(&key, bytes, tick)?;
                        Ok(Archived::Repaired)
                    }
                }
            }
            Err(error) => Err(error.into()),
        };
    }
    let there = !encrypted && exists(store, &key, tick)?;
    if there && same(store, name, &sum, tick)? {
        return Ok(settled()?);
    }
    let writer = store.writer(&key, tick)?;
    pack(writer, file, &sum, &shown, seal, tick)?.finish()?;
    Ok(match there {
        true => Archived::Repaired,
        false => Archived::Written,
    })
}

fn exists(store: &Store, key: &str, tick: Tick<'_>) -> Result<bool, BackupError> {
    match store.head(key, tick) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn different(store: &Store, name: &WalName) -> BackupError {
    BackupError::refused(
        format!(
            "{} already has a different file under the name {name}",
            store.url()
        ),
        "Two servers archive into one store, or WAL was reset: give this one a store of its own, and take a full backup.",
    )
}

/// Writes down the sum of a file that will be encrypted; whether that was done before.
fn claimed(
    store: &Store,
    name: &WalName,
    sum: &WalSum,
    tick: Tick<'_>,
) -> Result<bool, BackupError> {
    let key = keys::wal_sum(name);
    let line = sum.line(name);
    match store.put_new(&key, line.clone(), tick) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            match store.get(&key, 1024, tick)? == line {
                true => Ok(true),
                false => Err(different(store, name)),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the object that is there is the same file, undamaged; false if it is damaged.
fn same(store: &Store, name: &WalName, sum: &WalSum, tick: Tick<'_>) -> Result<bool, BackupError> {
    let file = WalFile {
        name: name.clone(),
        key: keys::wal(name, false),
        stored_bytes: 0,
        encrypted: false,
    };
    match check_object(store, &file, None, tick) {
        Ok(found) if found == *sum => Ok(true),
        Ok(_) => Err(different(store, name)),
        Err(BackupError::Corrupt { .. } | BackupError::Seal { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the object of a file.
fn pack<W: Write>(
    to: W,
    file: File,
    sum: &WalSum,
    shown: &str,
    seal: &SealOptions,
    tick: Tick<'_>,
) -> Result<W, BackupError> {
    let of_stream = |error| BackupError::of_stream(shown, error);
    let of_seal = |error: SealError| BackupError::of_seal(shown, error);
    let mut layer = Layer::new(to, seal.recipients.as_ref(), tick).map_err(of_seal)?;
    layer.write_all(&sum.header()).map_err(of_stream)?;
    let mut compressor = Compressor::new(layer, seal.compress(), tick);
    let mut from = Hashed::new(file);
    io::copy(&mut from, &mut compressor).map_err(of_stream)?;
    if from.sha256() != sum.sha256 {
        return Err(BackupError::corrupt(
            shown,
            "it was changed while it was archived",
        ));
    }
    let compressed = compressor.finish().map_err(of_seal)?;
    compressed.inner.finish().map_err(of_seal)
}

/// Fetches a file of WAL to a place in the file system, where it appears whole and checked.
///
/// # Errors
/// [`BackupError::NotFound`] if the store does not have it, [`BackupError::Corrupt`] if it is damaged, what the store or the
/// system says.
pub fn fetch(
    store: &Store,
    name: &WalName,
    to: &Path,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    for encrypted in [false, true] {
        let file = WalFile {
            name: name.clone(),
            key: keys::wal(name, encrypted),
            stored_bytes: 0,
            encrypted,
        };
        let temporary = Temporary::beside(to);
        let mut out = File::create(&temporary.0).map_err(|e| BackupError::io(&temporary.0, e))?;
        match unpack(store, &file, &mut out, identities, tick) {
            Ok(_) => {
                return fs::rename(&temporary.0, to).map_err(|e| BackupError::io(to, e));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Err(BackupError::NotFound {
        what: format!("{name} in {}", store.url()),
    })
}

/// Fetches a file of WAL from the first store that has it undamaged; which that is, and what was wrong with those before it.
///
/// # Errors
/// [`BackupError::NotFound`] only if all stores answer that they do not have it. Otherwise the first other error: a store that
/// is away may have the file, and recovery must not end early.
pub fn fetch_from_any(
    stores: &[&Store],
    name: &WalName,
    to: &Path,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<(usize, Vec<BackupError>), BackupError> {
    let mut troubles = Vec::new();
    for (number, store) in stores.iter().enumerate() {
        match fetch(store, name, to, identities, tick) {
            Ok(()) => return Ok((number, troubles)),
            Err(error) if error.is_not_found() => {}
            Err(error) if !error.is_the_stores() => return Err(error),
            Err(error) => troubles.push(error),
        }
    }
    Err(troubles
        .into_iter()
        .next()
        .unwrap_or(BackupError::NotFound {
            what: name.to_string(),
        }))
}

/// Reads a small file.
pub(super) fn read_small(
    store: &Store,
    name: &WalName,
    limit: u64,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<Vec<u8>, BackupError> {
    for encrypted in [false, true] {
        let file = WalFile {
            name: name.clone(),
            key: keys::wal(name, encrypted),
            stored_bytes: 0,
            encrypted,
        };
        let mut bytes = Vec::new();
        let mut limited = Limited {
            to: &mut bytes,
            left: limit,
        };
        match unpack(store, &file, &mut limited, identities, tick) {
            Ok(_) => return Ok(bytes),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Err(BackupError::NotFound {
        what: format!("{name} in {}", store.url()),
    })
}

/// A writer that takes so many bytes and no more.
struct Limited<'l> {
    to: &'l mut Vec<u8>,
    left: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("it is larger than such a file can be"))?;
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the object of a file to its end; what it holds.
pub(super) fn check_object(
    store: &Store,
    file: &WalFile,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<WalSum, BackupError> {
    unpack(store, file, &mut io::sink(), identities, tick)
}

fn unpack(
    store: &Store,
    file: &WalFile,
    to: &mut dyn Write,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<WalSum, BackupError> {
    let stored = store.get_stream(&file.key, tick)?;
    unpack_from(
        stored,
        &at(store, &file.key),
        file.encrypted,
        to,
        identities,
        tick,
    )
}

/// Writes out what the object of a file holds, and checks it; `name` is the object's in messages.
pub(super) fn unpack_from(
    stored: impl Read,
    name: &str,
    encrypted: bool,
    to: &mut dyn Write,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<WalSum, BackupError> {
    let of_stream = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::corrupt(name, "it is cut short"),
        _ => BackupError::of_stream(name, error),
    };
    let mut plain: Box<dyn Read + '_> = match (encrypted, identities) {
        (false, _) => Box::new(stored),
        (true, Some(identities)) => Box::new(
            Decryptor::new(stored, identities, tick)
                .map_err(|error| BackupError::of_seal(name, error))?,
        ),
        (true, None) => {
            return Err(BackupError::refused(
                format!("{name} is encrypted"),
                "Give the secret key that it is encrypted to, in a file or in VARVE_AGE_IDENTITY.",
            ));
        }
    };
    let mut header = [0; HEADER_BYTES];
    plain.read_exact(&mut header).map_err(of_stream)?;
    let sum = WalSum::from_header(&header).map_err(|detail| BackupError::corrupt(name, detail))?;
    let options = DecompressOptions {
        expected: Some(sum.size),
        ..DecompressOptions::default()
    };
    let mut from = Hashed::new(Decompressor::new(plain, options, tick));
    copy(&mut from, to, of_stream)?;
    match from.sha256() == sum.sha256 {
        true => Ok(sum),
        false => Err(BackupError::corrupt(
            name,
            format!(
                "the SHA-256 of what it holds should be {} and is {}",
                hex(&sum.sha256),
                hex(&from.sha256())
            ),
        )),
    }
}

fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    of_stream: impl Fn(io::Error) -> BackupError,
) -> Result<(), BackupError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let got = from.read(&mut buffer).map_err(&of_stream)?;
        if got == 0 {
            return Ok(());
        }
        let piece = buffer.get(..got).unwrap_or_default();
        to.write_all(piece).map_err(&of_stream)?;
    }
}

/// A file that is removed when it is dropped, unless it has got another name.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".varve-{}", std::process::id()));
        Self(name.into())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is not there when it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

impl BackupError {
    /// Whether it is a store that is away, and not a file that is missing or damaged.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Store(error) if is_away(error))
    }
}

fn is_away(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unreachable | ErrorKind::Permission | ErrorKind::Config | ErrorKind::Other
    )
}
