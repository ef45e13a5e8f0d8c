//! Objects of a backup: compressed, encrypted if wanted, hashed.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::keys;
use super::record::{Archive, StoredObject};
use crate::seal::{
    CompressOptions, Compressor, DecompressOptions, Decompressor, Decryptor, Encryptor, Identities,
    Recipients,
};
use crate::store::{ObjectWriter, Store};
use crate::wait::Tick;

/// How what goes into a store is compressed and encrypted.
#[derive(Debug, Clone)]
pub struct SealOptions {
    /// Level of zstd.
    pub level: i32,
    /// Threads that compress or decompress.
    pub threads: usize,
    /// To whom it is encrypted; to nobody if there is none.
    pub recipients: Option<Recipients>,
}

impl Default for SealOptions {
    /// Level 1, two threads, no encryption.
    fn default() -> Self {
        Self {
            level: 1,
            threads: 2,
            recipients: None,
        }
    }
}

impl SealOptions {
    pub(super) fn compress(&self) -> CompressOptions {
        CompressOptions {
            level: self.level,
            threads: self.threads,
            ..CompressOptions::default()
        }
    }
}

/// What lies beneath the compression.
pub(super) enum Layer<W: Write> {
    Plain(W),
    Age(Box<Encryptor<W>>),
}

impl<W: Write> Layer<W> {
    pub(super) fn new(
        inner: W,
        recipients: Option<&Recipients>,
        tick: Tick<'_>,
    ) -> Result<Self, crate::seal::SealError> {
        match recipients {
            None => Ok(Self::Plain(inner)),
            Some(to) => Ok(Self::Age(Box::new(Encryptor::new(inner, to, tick)?))),
        }
    }

    pub(super) fn finish(self) -> Result<W, crate::seal::SealError> {
        match self {
            Self::Plain(inner) => Ok(inner),
            Self::Age(encryptor) => encryptor.finish(),
        }
    }
}

impl<W: Write> Write for Layer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.write(bytes),
            Self::Age(encryptor) => encryptor.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Largest manifest, in bytes: that of a cluster with some millions of files.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// An object of a backup that is being written.
pub(super) struct SealedWriter<'t> {
    key: String,
    archive: Archive,
    frame_bytes: usize,
    compressor: Compressor<'t, Layer<ObjectWriter<'t>>>,
}

impl<'t> SealedWriter<'t> {
    pub(super) fn new(
        store: &Store,
        key: &str,
        archive: Archive,
        options: &SealOptions,
        expected: Option<u64>,
        tick: Tick<'t>,
    ) -> Result<Self, BackupError> {
        let inner = match expected {
            Some(bytes) => store.writer_expecting(key, bytes, tick)?,
            None => store.writer(key, tick)?,
        };
        let layer = Layer::new(inner, options.recipients.as_ref(), tick)
            .map_err(|error| BackupError::of_seal(key, error))?;
        let compress = options.compress();
        Ok(Self {
            key: key.to_owned(),
            archive,
            frame_bytes: compress.frame_bytes,
            compressor: Compressor::new(layer, compress, tick),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.compressor
            .write_all(bytes)
            .map_err(|error| BackupError::of_stream(&self.key, error))
    }

    pub(super) fn finish(self) -> Result<StoredObject, BackupError> {
        let failed = |error| BackupError::of_seal(&self.key, error);
        let compressed = self.compressor.finish().map_err(failed)?;
        let written = compressed.inner.finish().map_err(failed)?.finish()?;
        let frames = compressed.frames.frames().iter();
        Ok(StoredObject {
            archive: self.archive,
            stored_bytes: written.size,
            raw_bytes: compressed.frames.plain_bytes(),
            sha256: hex(&written.sha256),
            frame_bytes: self.frame_bytes as u64,
            frames: frames
                .map(|frame| (frame.stored.end - frame.stored.start) as u32)
                .collect(),
            key: self.key,
        })
    }
}

/// Reads a manifest, whole and checked.
pub(super) fn read_manifest(
    store: &Store,
    object: &StoredObject,
    encrypted: bool,
    identities: Option<&Identities>,
    tick: Tick<'_>,
) -> Result<Vec<u8>, BackupError> {
    let name = at(store, &object.key);
    // What the record says of sizes is believed no further than memory lasts.
    if object.raw_bytes.max(object.stored_bytes) > MAX_MANIFEST_BYTES {
        let detail = format!(
            "it should have {} bytes, and no manifest has more than {MAX_MANIFEST_BYTES}",
            object.raw_bytes.max(object.stored_bytes)
        );
        return Err(BackupError::corrupt(name, detail));
    }
    let stored = store.get(&object.key, object.stored_bytes, tick)?;
    let sum = hex(&Sha256::digest(&stored));
    if sum != object.sha256 {
        return Err(BackupError::corrupt(
            name,
            format!("its SHA-256 should be {} and is {sum}", object.sha256),
        ));
    }
    let mut plain = Vec::new();
    open(
        stored.as_slice(),
        &name,
        encrypted,
        identities,
        Some(object.raw_bytes),
        tick,
    )?
    .read_to_end(&mut plain)
    .map_err(|error| BackupError::of_stream(&name, error))?;
    Ok(plain)
}

/// Decrypts, where that is needed, and decompresses what there is to read.
pub(super) fn open<'r, R: Read + 'r>(
    inner: R,
    name: &str,
    encrypted: bool,
    identities: Option<&Identities>,
    expected: Option<u64>,
    tick: Tick<'r>,
) -> Result<Box<dyn Read + 'r>, BackupError> {
    let options = DecompressOptions {
        expected,
        ..DecompressOptions::default()
    };
    if !encrypted {
        return Ok(Box::new(Decompressor::new(inner, options, tick)));
    }
    let identities = identities.ok_or_else(|| {
        BackupError::refused(
            format!("{name} is encrypted"),
            "Give the secret key that it is encrypted to, in a file or in VARVE_AGE_IDENTITY.",
        )
    })?;
    let plain = Decryptor::new(inner, identities, tick)
        .map_err(|error| BackupError::of_seal(name, error))?;
    Ok(Box::new(Decompressor::new(plain, options, tick)))
}

/// The name of an object in messages.
pub(super) fn at(store: &Store, key: &str) -> String {
    format!("{}/{key}", store.url().trim_end_matches('/'))
}

/// Name of an archive's object in a backup.
pub(super) fn object_name(archive: Archive, encrypted: bool) -> String {
    let name = match archive {
        Archive::Base => "base.tar".to_owned(),
        Archive::Tablespace(oid) => format!("{oid}.tar"),
        Archive::Manifest => "backup_manifest".to_owned(),
    };
    name + keys::extension(encrypted)
}

/// In hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// From hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    digits?
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high << 4 | low).ok(),
            _ => None,
        })
        .collect()
}
