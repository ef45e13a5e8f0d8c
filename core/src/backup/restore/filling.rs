//! What one backup of a chain has of a relation's file goes to where it belongs; see [`super::combine`].

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::error::BackupError;
use super::super::manifest::ManifestFile;
use super::blocks::Blocks;
use super::combine::Unfinished;
use super::hash::Hashing;
use super::incremental::{BLOCK, Header, IncrementalReader, Part};
use super::write::{OutFile, Writers};
use crate::wait::Tick;

/// How much of a file is read or wiped at once, in bytes.
pub(super) const STEP: usize = 1 << 20;

/// What is being read for a file.
#[derive(Debug)]
pub(super) enum Filling {
    /// The newest backup's blocks of a file; the file, once its header has come.
    New {
        path: PathBuf,
        mode: u32,
        reader: IncrementalReader,
        made: Option<(Unfinished, Arc<OutFile>)>,
    },
    /// An older backup's blocks of it.
    Blocks {
        reader: IncrementalReader,
        file: Arc<OutFile>,
        /// What was written.
        found: Blocks,
        limit: u32,
    },
    /// All of it.
    Whole {
        file: Arc<OutFile>,
        at: u64,
        /// Up to where its blocks are whole.
        usable: u64,
        /// Whether nothing comes from elsewhere: then its checksum is that of what is read.
        alone: bool,
        /// That of the file that is made.
        size: u64,
        hash: Hashing,
    },
}

/// What came of reading something for a file. It counts only once the archive that it came from was read to its end: another
/// store's is read from the beginning where that turns out to be damaged.
#[derive(Debug)]
pub(super) enum Filled {
    /// The newest backup has these blocks of it.
    New(Unfinished),
    /// An older one gave some, and what it has not got beyond a length is zeros.
    Blocks { found: Blocks, limit: u32 },
    /// It is whole.
    Whole(ManifestFile),
}

impl Filling {
    /// The newest backup's file of a size.
    pub(super) fn new(path: PathBuf, mode: u32, size: u64) -> Self {
        Self::New {
            path,
            mode,
            reader: IncrementalReader::new(size),
            made: None,
        }
    }

    /// An older backup's incremental file of a size.
    pub(super) fn blocks(unfinished: &Unfinished, size: u64) -> Result<Self, BackupError> {
        Ok(Self::Blocks {
            reader: IncrementalReader::new(size),
            file: unfinished.open()?,
            found: Blocks::default(),
            limit: unfinished.limit,
        })
    }

    /// An older backup's whole file of a size.
    pub(super) fn whole(unfinished: &Unfinished, size: u64) -> Result<Self, BackupError> {
        let none = unfinished.there.is_empty();
        let same = size == unfinished.bytes() && unfinished.limit >= unfinished.len;
        let alone = none && same;
        Ok(Self::Whole {
            file: unfinished.open()?,
            at: 0,
            usable: size / BLOCK * BLOCK,
            alone,
            size: unfinished.bytes(),
            // What is alone is hashed as it is read.
            hash: Hashing::start(if alone { 0 } else { unfinished.bytes() })?,
        })
    }

    /// Takes the next piece of what the backup has.
    pub(super) fn take(
        &mut self,
        unfinished: Option<&Unfinished>,
        piece: Bytes,
        writers: &mut Writers,
        tick: Tick<'_>,
    ) -> io::Result<()> {
        match self {
            Self::New {
                path,
                mode,
                reader,
                made,
            } => reader.take(piece, &mut |part| {
                let result = match (part, &made) {
                    (Part::Header(header), _) => {
                        make(path, *mode, header).map(|new| *made = Some(new))
                    }
                    (Part::Bytes { at, bytes }, Some((_, file))) => {
                        writers.write(file, at, bytes, tick)
                    }
                    (Part::Bytes { .. }, None) => Ok(()),
                };
                result.map_err(io::Error::other)
            }),
            Self::Blocks {
                reader,
                file,
                found,
                limit,
            } => reader.take(piece, &mut |part| {
                let Some(unfinished) = unfinished else {
                    return Ok(());
                };
                match part {
                    Part::Header(header) => {
                        *limit = header.truncated.min(*limit);
                        let wanted = header
                            .blocks
                            .iter()
                            .filter(|block| unfinished.wants(**block));
                        wanted.for_each(|block| found.add(*block));
                        Ok(())
                    }
                    Part::Bytes { at, bytes } => unfinished
                        .cut(at, bytes, &mut |cut| match cut.wanted {
                            true => writers.write(file, cut.at, cut.bytes, tick),
                            false => Ok(()),
                        })
                        .map_err(io::Error::other),
                }
            }),
            Self::Whole {
                file,
                at,
                usable,
                alone,
                size,
                hash,
            } => {
                let Some(unfinished) = unfinished else {
                    return Ok(());
                };
                let (from, mut piece) = (*at, piece);
                let left = usable.saturating_sub(from).min(piece.len() as u64);
                piece.truncate(left as usize);
                *at += left;
                unfinished
                    .cut(from, piece, &mut |cut| match cut.wanted {
                        true => {
                            if !*alone {
                                hash.add(cut.bytes.clone(), tick)?;
                            }
                            writers.write(file, cut.at, cut.bytes, tick)
                        }
                        false => {
                            let end = (cut.at + cut.bytes.len() as u64).min(*size);
                            hash_of(file, cut.at..end, hash, tick)
                        }
                    })
                    .map_err(io::Error::other)
            }
        }
    }

    /// All has come, and it was `read`, checksum and all.
    pub(super) fn end(
        self,
        read: ManifestFile,
        writers: &Writers,
        tick: Tick<'_>,
    ) -> io::Result<Filled> {
        match self {
            Self::New { reader, made, .. } => {
                reader.end()?;
                let (unfinished, file) = made.ok_or(io::ErrorKind::UnexpectedEof)?;
                writers.end(file);
                Ok(Filled::New(unfinished))
            }
            Self::Blocks {
                reader,
                file,
                found,
                limit,
            } => {
                reader.end()?;
                writers.end(file);
                Ok(Filled::Blocks { found, limit })
            }
            Self::Whole {
                file,
                at,
                alone,
                size,
                mut hash,
                ..
            } => {
                if alone {
                    writers.end(file);
                    return Ok(Filled::Whole(read));
                }
                hash_of(&file, at..size, &mut hash, tick).map_err(io::Error::other)?;
                writers.end(file);
                Ok(Filled::Whole(ManifestFile {
                    size,
                    sha256: hash.finish(tick).map_err(io::Error::other)?,
                }))
            }
        }
    }
}

/// Makes a file of the length that it will have.
fn make(
    path: &Path,
    mode: u32,
    header: &Header,
) -> Result<(Unfinished, Arc<OutFile>), BackupError> {
    let unfinished = Unfinished::new(path.to_owned(), header);
    let file = OutFile::create(path.to_owned(), mode, unfinished.bytes())?;
    file.set_len(unfinished.bytes())?;
    Ok((unfinished, file))
}

/// Adds what is in a part of a file.
pub(super) fn hash_of(
    file: &OutFile,
    part: Range<u64>,
    hash: &mut Hashing,
    tick: Tick<'_>,
) -> Result<(), BackupError> {
    let mut at = part.start;
    while at < part.end {
        tick()?;
        let mut buffer = vec![0; (part.end - at).min(STEP as u64) as usize];
        file.read(at, &mut buffer)?;
        at += buffer.len() as u64;
        hash.add(Bytes::from(buffer), tick)?;
    }
    Ok(())
}
