//! A chain of backups becomes one: what `pg_combinebackup` makes of it, in one pass.
//!
//! The newest backup is unpacked first, to where it belongs: whole files, and of the others the blocks that it has. Then come
//! the older ones, each of which gives the blocks that no newer one has, down to the backup that has the whole file. So each
//! block is written once and nothing lies twice. The checksums for the manifest are computed while the last of a file is read.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::error::BackupError;
use super::super::manifest::ManifestFile;
use super::hash::Hashing;
use super::incremental::{BLOCK, Header, IncrementalReader, Part};
use super::write::{OutFile, Writers};
use crate::wait::Tick;

/// How much of a file is read at once, in bytes.
const STEP: usize = 1 << 20;

/// A file of a relation of which blocks may be missing.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
    /// Blocks of the whole file.
    len: u32,
    /// From here on, what no newer backup has is zeros.
    limit: u32,
    /// Which blocks are there, by their bits.
    there: Vec<u64>,
}

impl Unfinished {
    fn new(path: PathBuf, header: &Header) -> Self {
        let len = header.len();
        let mut this = Self {
            path,
            len,
            limit: header.truncated,
            there: vec![0; len.div_ceil(64) as usize],
        };
        this.mark(&header.blocks);
        this
    }

    fn is_there(&self, block: u32) -> bool {
        let word = self.there.get(block as usize / 64);
        word.is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    fn mark(&mut self, blocks: &[u32]) {
        for block in blocks {
            if let Some(word) = self.there.get_mut(*block as usize / 64) {
                *word |= 1 << (block % 64);
            }
        }
    }

    /// Whether an older backup is to give a block.
    fn wants(&self, block: u32) -> bool {
        block < self.limit.min(self.len) && !self.is_there(block)
    }

    fn bytes(&self) -> u64 {
        u64::from(self.len) * BLOCK
    }

    /// Whether nothing of it is missing.
    fn is_whole(&self) -> bool {
        !(0..self.limit.min(self.len)).any(|block| self.wants(block))
    }

    fn open(&self) -> Result<Arc<OutFile>, BackupError> {
        OutFile::open(self.path.clone(), self.bytes())
    }

    /// Cuts bytes from a place in the file into such as are wanted and such as are not.
    fn cut(
        &self,
        at: u64,
        mut bytes: Bytes,
        each: &mut dyn FnMut(Cut) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let wants = |at: u64| u32::try_from(at / BLOCK).is_ok_and(|block| self.wants(block));
        let mut at = at;
        while !bytes.is_empty() {
            let wanted = wants(at);
            let mut end = at;
            let last = at + bytes.len() as u64;
            while end < last && wants(end) == wanted {
                end = ((end / BLOCK + 1) * BLOCK).min(last);
            }
            let bytes = bytes.split_to((end - at) as usize);
            each(Cut { at, bytes, wanted })?;
            at = end;
        }
        Ok(())
    }
}

/// A piece of a file that an older backup has.
struct Cut {
    at: u64,
    bytes: Bytes,
    wanted: bool,
}

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
        found: Vec<u32>,
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
    Blocks { found: Vec<u32>, limit: u32 },
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
            found: Vec::new(),
            limit: unfinished.limit,
        })
    }

    /// An older backup's whole file of a size.
    pub(super) fn whole(unfinished: &Unfinished, size: u64) -> Result<Self, BackupError> {
        let none = unfinished.there.iter().all(|word| *word == 0);
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
                        let wanted = header.blocks.iter().copied();
                        found.extend(wanted.filter(|block| unfinished.wants(*block)));
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
                                hash.add(cut.bytes.clone())?;
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
fn hash_of(
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
        hash.add(Bytes::from(buffer))?;
    }
    Ok(())
}

/// The files of relations, by their paths in the manifest, that a chain is made of.
#[derive(Debug, Default)]
pub(super) struct Combined {
    files: HashMap<Vec<u8>, Unfinished>,
    /// Those that are whole.
    whole: HashMap<Vec<u8>, ManifestFile>,
}

impl Combined {
    /// A file of which an older backup is asked.
    pub(super) fn unfinished(&self, path: &[u8]) -> Option<&Unfinished> {
        self.files.get(path)
    }

    /// Whether there are files of which older backups are to be asked.
    pub(super) fn is_finished(&self) -> bool {
        self.files.is_empty()
    }

    /// Takes what an archive gave.
    pub(super) fn settle(&mut self, filled: Vec<(Vec<u8>, Filled)>) {
        for (path, filled) in filled {
            match filled {
                Filled::New(unfinished) => {
                    self.files.insert(path, unfinished);
                }
                Filled::Blocks { found, limit } => {
                    if let Some(unfinished) = self.files.get_mut(&path) {
                        unfinished.mark(&found);
                        unfinished.limit = limit;
                    }
                }
                Filled::Whole(file) => {
                    self.files.remove(&path);
                    self.whole.insert(path, file);
                }
            }
        }
    }

    /// Files of which nothing is missing need no older backup. All that was written must have been flushed.
    pub(super) fn finish_whole(
        &mut self,
        writers: &Writers,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        let is_whole = |(path, unfinished): (&Vec<u8>, &Unfinished)| {
            unfinished.is_whole().then(|| path.clone())
        };
        let whole: Vec<Vec<u8>> = self.files.iter().filter_map(is_whole).collect();
        for path in whole {
            let Some(unfinished) = self.files.remove(&path) else {
                continue;
            };
            let file = unfinished.open()?;
            let size = unfinished.bytes();
            let mut hash = Hashing::start(size)?;
            hash_of(&file, 0..size, &mut hash, tick)?;
            writers.end(file);
            let sha256 = hash.finish(tick)?;
            self.whole.insert(path, ManifestFile { size, sha256 });
        }
        Ok(())
    }

    /// The files that are whole.
    pub(super) fn into_files(self) -> HashMap<Vec<u8>, ManifestFile> {
        self.whole
    }

    /// A file of which blocks are missing, if there is one.
    pub(super) fn missing(&self) -> Option<String> {
        let first = self.files.keys().min()?;
        Some(String::from_utf8_lossy(first).into_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::incremental::tests::file;
    use super::*;
    use crate::wait::never;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    /// What a backup has of one file: blocks, each filled with a byte, and how long the file is at least; or all of it.
    #[derive(Debug, Clone)]
    enum Has {
        Blocks {
            truncated: u32,
            blocks: Vec<(u32, u8)>,
        },
        Whole {
            blocks: Vec<u8>,
            more: usize,
        },
    }

    impl Has {
        fn bytes(&self) -> Vec<u8> {
            match self {
                Has::Blocks { truncated, blocks } => file(*truncated, blocks),
                Has::Whole { blocks, more } => {
                    let blocks = blocks.iter().flat_map(|fill| [*fill; BLOCK as usize]);
                    blocks.chain(std::iter::repeat_n(255, *more)).collect()
                }
            }
        }

        /// The file after this backup, from what it was after the one before.
        fn after(&self, before: &[u8]) -> Vec<u8> {
            match self {
                Has::Whole { blocks, .. } => blocks.clone(),
                Has::Blocks { truncated, blocks } => {
                    let mut after = before.to_vec();
                    after.resize(*truncated as usize, 0);
                    for (block, fill) in blocks {
                        let len = after.len().max(*block as usize + 1);
                        after.resize(len, 0);
                        after[*block as usize] = *fill;
                    }
                    after
                }
            }
        }
    }

    fn some() -> impl Strategy<Value = Has> {
        let blocks = prop::collection::btree_map(0..40u32, 1..255u8, 0..20);
        (0..40u32, blocks).prop_map(|(truncated, blocks)| Has::Blocks {
            truncated,
            blocks: blocks.into_iter().collect(),
        })
    }

    fn all() -> impl Strategy<Value = Has> {
        (prop::collection::vec(1..255u8, 0..40), 0..2usize).prop_map(|(blocks, more)| {
            let more = more * 1000;
            Has::Whole { blocks, more }
        })
    }

    /// Reads what a backup has, in pieces of a length, as often as a store gives something damaged before it is right.
    fn fill(combined: &mut Combined, has: &Has, path: &Path, writers: &mut Writers, piece: usize) {
        let key = b"base/5/1".to_vec();
        let bytes = has.bytes();
        for damaged in [true, false] {
            let unfinished = combined.unfinished(&key);
            let size = bytes.len() as u64;
            let mut filling = match (unfinished, has) {
                (None, _) => Filling::new(path.to_owned(), 0o600, size),
                (Some(unfinished), Has::Blocks { .. }) => {
                    Filling::blocks(unfinished, size).unwrap()
                }
                (Some(unfinished), Has::Whole { .. }) => Filling::whole(unfinished, size).unwrap(),
            };
            if unfinished.is_none() {
                let _ = std::fs::remove_file(path);
            }
            let header = 12 + 4 * matches!(has, Has::Blocks { .. }) as usize * 40;
            let mut at = 0;
            for piece in bytes.chunks(piece) {
                let mut piece = piece.to_vec();
                if damaged {
                    for (n, byte) in piece.iter_mut().enumerate() {
                        *byte ^= u8::from(at + n > header) * 0x55;
                    }
                }
                at += piece.len();
                let took = filling.take(unfinished, Bytes::from(piece), writers, &never);
                took.unwrap();
            }
            let sha256 = Sha256::digest(&bytes).into();
            let filled = filling.end(ManifestFile { size, sha256 }, writers, &never);
            writers.flush(&never).unwrap();
            if !damaged {
                combined.settle(vec![(key.clone(), filled.unwrap())]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Whatever the chain, the file is what one gets from the oldest backup on.
        #[test]
        fn chains(oldest in all(), newer in prop::collection::vec(some(), 1..5), piece in 5_000..90_000usize) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("1");
            let mut writers = Writers::start(2).unwrap();
            let expected = newer.iter().fold(oldest.after(&[]), |file, has| has.after(&file));
            let mut combined = Combined::default();
            for has in newer.iter().rev().chain([&oldest]) {
                fill(&mut combined, has, &path, &mut writers, piece);
                combined.finish_whole(&writers, &never).unwrap();
                if combined.is_finished() {
                    break;
                }
            }
            prop_assert_eq!(combined.missing(), None);
            let found = std::fs::read(&path).unwrap();
            let expected = Has::Whole { blocks: expected, more: 0 }.bytes();
            prop_assert!(found == expected);
            let listed = combined.into_files().remove(b"base/5/1".as_slice()).unwrap();
            prop_assert_eq!(listed.size, found.len() as u64);
            let sum: [u8; 32] = Sha256::digest(&found).into();
            prop_assert_eq!(listed.sha256, sum);
        }
    }

    #[test]
    fn a_chain_without_the_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1");
        let mut writers = Writers::start(1).unwrap();
        let mut combined = Combined::default();
        let blocks = vec![(1, 7)];
        let has = Has::Blocks {
            truncated: 3,
            blocks,
        };
        for _ in 0..2 {
            fill(&mut combined, &has, &path, &mut writers, 10_000);
            combined.finish_whole(&writers, &never).unwrap();
            assert_eq!(combined.missing().as_deref(), Some("base/5/1"));
        }
    }
}
