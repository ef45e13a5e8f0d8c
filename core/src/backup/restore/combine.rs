//! A chain of backups becomes one: what `pg_combinebackup` makes of it, in one pass.
//!
//! The newest backup is unpacked first, to where it belongs: whole files, and of the others the blocks that it has. Then come
//! the older ones, each of which gives the blocks that no newer one has, down to the backup that has the whole file. So each
//! block is written once and nothing lies twice. The checksum for the manifest is computed while the whole file is read; only a
//! file of which newer backups have everything is read back.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::super::error::BackupError;
use super::super::manifest::ManifestFile;
use super::blocks::Blocks;
use super::filling::{Filled, STEP, hash_of};
use super::hash::Hashing;
use super::incremental::{BLOCK, Header};
use super::write::{OutFile, Writers};
use crate::wait::Tick;

/// A file of a relation of which blocks may be missing.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
    /// Blocks of the whole file.
    pub(super) len: u32,
    /// From here on, what no newer backup has is zeros.
    pub(super) limit: u32,
    /// Which blocks are there.
    pub(super) there: Blocks,
}

impl Unfinished {
    pub(super) fn new(path: PathBuf, header: &Header) -> Self {
        let mut there = Blocks::default();
        header.blocks.iter().for_each(|block| there.add(*block));
        Self {
            path,
            len: header.len(),
            limit: header.truncated,
            there,
        }
    }

    /// Whether an older backup is to give a block.
    pub(super) fn wants(&self, block: u32) -> bool {
        block < self.end() && !self.there.has(block)
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.len) * BLOCK
    }

    /// Up to where older backups are asked for blocks.
    fn end(&self) -> u32 {
        self.limit.min(self.len)
    }

    /// Whether nothing of it is missing.
    fn is_whole(&self) -> bool {
        self.there.has_all_before(self.end())
    }

    /// What older backups are asked for becomes zeros again.
    fn wipe(&self, writers: &mut Writers, tick: Tick<'_>) -> Result<(), BackupError> {
        let file = self.open()?;
        let zeros = Bytes::from(vec![0; STEP]);
        let end = u64::from(self.end()) * BLOCK;
        for at in (0..end).step_by(STEP) {
            tick()?;
            let zeros = zeros.slice(..(end - at).min(STEP as u64) as usize);
            self.cut(at, zeros, &mut |cut| match cut.wanted {
                true => writers.write(&file, cut.at, cut.bytes, tick),
                false => Ok(()),
            })?;
        }
        writers.end(file);
        Ok(())
    }

    pub(super) fn open(&self) -> Result<Arc<OutFile>, BackupError> {
        OutFile::open(self.path.clone(), self.bytes())
    }

    /// Cuts bytes from a place in the file into such as are wanted and such as are not.
    pub(super) fn cut(
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
pub(super) struct Cut {
    pub(super) at: u64,
    pub(super) bytes: Bytes,
    pub(super) wanted: bool,
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

    /// The paths of files of which an older backup is asked, that begin with something or, for nothing, lie in no tablespace.
    pub(super) fn asked<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = &'c Vec<u8>> {
        let tablespaces = b"pg_tblspc/".as_slice();
        self.files.keys().filter(move |path| match prefix {
            "" => !path.starts_with(tablespaces),
            prefix => path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"/")),
        })
    }

    /// What an archive has given that turned out to be damaged must leave nothing: files are as they were before.
    pub(super) fn wipe(
        &self,
        paths: &[Vec<u8>],
        writers: &mut Writers,
        tick: Tick<'_>,
    ) -> Result<(), BackupError> {
        for path in paths {
            if let Some(unfinished) = self.files.get(path) {
                unfinished.wipe(writers, tick)?;
            }
        }
        Ok(())
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
                        unfinished.there.add_all(&found);
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
            tick()?;
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
    use super::super::filling::Filling;
    use super::super::incremental::tests::file;
    use super::*;
    use crate::wait::never;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};
    use std::path::Path;

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

        /// Something else of that kind.
        fn damaged(&self) -> Self {
            match self {
                Has::Whole { blocks, .. } => {
                    let mut blocks: Vec<u8> = blocks.iter().map(|fill| fill ^ 0x55).collect();
                    blocks.extend([77; 7]);
                    Has::Whole { blocks, more: 99 }
                }
                Has::Blocks { truncated, .. } => Has::Blocks {
                    truncated: *truncated,
                    blocks: (0..40).step_by(3).map(|block| (block, 88)).collect(),
                },
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
            // Another store may have anything, as long as nobody has compared its checksum.
            let bytes = match damaged {
                true => has.damaged().bytes(),
                false => bytes.clone(),
            };
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
            for piece in bytes.chunks(piece) {
                let piece = Bytes::copy_from_slice(piece);
                filling.take(unfinished, piece, writers, &never).unwrap();
            }
            let sha256 = Sha256::digest(&bytes).into();
            let filled = filling.end(ManifestFile { size, sha256 }, writers, &never);
            writers.flush(&never).unwrap();
            match damaged {
                true => combined
                    .wipe(std::slice::from_ref(&key), writers, &never)
                    .unwrap(),
                false => combined.settle(vec![(key.clone(), filled.unwrap())]),
            }
            writers.flush(&never).unwrap();
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
