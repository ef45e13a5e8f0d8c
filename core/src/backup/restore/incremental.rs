//! The files `INCREMENTAL.*` of an incremental backup: those blocks of a relation's file that have changed.
//!
//! A file begins with three numbers of 32 bits: a magic one, how many blocks it has, and the *truncation length*, how many
//! blocks the relation's file has at least. Below that, blocks that the file has not are those of the backup before; from
//! there on they are zeros. Then come the numbers of the blocks, then, if there are any, zeros up to a multiple of a block's
//! size, then the blocks, which ascend. Numbers are as the machine has them. Source: `src/include/backup/basebackup_incremental.h` and
//! `src/backend/backup/basebackup_incremental.c` of PostgreSQL 17.

use std::io;

use bytes::Bytes;

/// What the files begin with.
const MAGIC: u32 = 0xD3AE_1F0D;

/// Size of a block, in bytes. Of servers that were built with another no incremental backups are taken.
pub(crate) const BLOCK: u64 = 8192;

/// Most blocks of a file of a relation: those of [`MAX_SEGMENT`].
const MAX_BLOCKS: u32 = (MAX_SEGMENT / BLOCK) as u32;

/// Largest file of a relation, in bytes, of which incremental backups are taken.
pub(crate) const MAX_SEGMENT: u64 = 1 << 30;

/// What the name of an incremental file has before that of the file.
const PREFIX: &[u8] = b"INCREMENTAL.";

/// The path of the file that an incremental one belongs to, if a path in a backup is that of an incremental one. They are only
/// where the files of relations are.
pub(super) fn belongs_to(path: &[u8]) -> Option<Vec<u8>> {
    let (directory, name) = split(path);
    let of_relations = [b"base/".as_slice(), b"global/", b"pg_tblspc/"];
    let is_there = of_relations.iter().any(|of| directory.starts_with(of));
    let name = name.strip_prefix(PREFIX).filter(|_| is_there)?;
    Some([directory, name].concat())
}

/// The path of the file that an incremental one belongs to, wherever it is.
pub(super) fn whole(path: &[u8]) -> Vec<u8> {
    let (directory, name) = split(path);
    [directory, name.strip_prefix(PREFIX).unwrap_or(name)].concat()
}

/// The path that the incremental file of a relation's file has.
pub(super) fn incremental(path: &[u8]) -> Vec<u8> {
    let (directory, name) = split(path);
    [directory, PREFIX, name].concat()
}

/// The directory of a path, with the slash behind it, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let at = slash.map_or(0, |slash| slash + 1);
    path.split_at_checked(at).unwrap_or((b"", path))
}

/// How an incremental file begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The truncation length, in blocks.
    pub(super) truncated: u32,
    /// The numbers of the blocks that it has; they ascend.
    pub(super) blocks: Vec<u32>,
}

impl Header {
    /// How many blocks the whole file has.
    pub(super) fn len(&self) -> u32 {
        let beyond = self.blocks.last().map(|block| block + 1);
        self.truncated.max(beyond.unwrap_or_default())
    }
}

/// Some of what an incremental file has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'h> {
    /// The whole header; it comes once, and first.
    Header(&'h Header),
    /// Bytes that belong to a place in the whole file.
    Bytes { at: u64, bytes: Bytes },
}

/// Reads an incremental file that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct IncrementalReader {
    /// Bytes of the file.
    size: u64,
    /// Those of the header, as long as it is not whole.
    head: Vec<u8>,
    header: Option<Header>,
    /// Bytes of padding that come before the blocks.
    padding: u64,
    /// Bytes of blocks that came.
    at: u64,
}

fn wrong(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

/// A number at a place in the header.
fn number(head: &[u8], at: usize) -> Option<u32> {
    let bytes = head.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

impl IncrementalReader {
    /// Of a file of a size.
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    /// Takes the next piece, and gives on what is in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for a file that is none; what `each` answers.
    pub(super) fn take(
        &mut self,
        mut piece: Bytes,
        each: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.header.is_none() {
            let wanted = self.wanted() - self.head.len();
            let now = piece.split_to(wanted.min(piece.len()));
            self.head.extend_from_slice(&now);
            if self.head.len() < self.wanted() {
                // The first numbers say how many there are.
                return match piece.is_empty() {
                    true => Ok(()),
                    false => self.take(piece, each),
                };
            }
            let header = self.parse()?;
            each(Part::Header(&header))?;
            self.header = Some(header);
            self.head = Vec::new();
        }
        let skipped = self.padding.min(piece.len() as u64);
        self.padding -= skipped;
        let _ = piece.split_to(skipped as usize);
        while !piece.is_empty() {
            let (at, len) = self
                .run(piece.len())
                .ok_or_else(|| wrong("it is too long"))?;
            let bytes = piece.split_to((piece.len() as u64).min(len) as usize);
            self.at += bytes.len() as u64;
            each(Part::Bytes { at, bytes })?;
        }
        Ok(())
    }

    /// Sees that all has come.
    pub(super) fn end(&self) -> io::Result<()> {
        let whole = self
            .header
            .as_ref()
            .is_some_and(|header| self.at == header.blocks.len() as u64 * BLOCK);
        match whole {
            true => Ok(()),
            false => Err(wrong("it is too short")),
        }
    }

    /// Bytes of the header, as far as is known.
    fn wanted(&self) -> usize {
        let blocks = number(&self.head, 4).filter(|_| self.head.len() >= 12);
        12 + 4 * blocks.unwrap_or_default().min(MAX_BLOCKS) as usize
    }

    fn parse(&mut self) -> io::Result<Header> {
        let field = |at| number(&self.head, at).ok_or_else(|| wrong("it is too short"));
        let (magic, count, truncated) = (field(0)?, field(4)?, field(8)?);
        if magic != MAGIC {
            return Err(wrong(format!(
                "it begins with {magic:#x}, and incremental files do with {MAGIC:#x}"
            )));
        }
        if count > MAX_BLOCKS || truncated > MAX_BLOCKS {
            return Err(wrong(format!(
                "it has {count} blocks of {truncated}, and a file has {MAX_BLOCKS} at most"
            )));
        }
        let head = self.head.len() as u64;
        let data = u64::from(count) * BLOCK;
        self.padding = match count {
            0 => 0,
            _ => head.next_multiple_of(BLOCK) - head,
        };
        if head + self.padding + data != self.size {
            return Err(wrong(format!(
                "it has {} bytes and should have {} for {count} blocks",
                self.size,
                head + self.padding + data
            )));
        }
        let blocks = (0..count as usize).map(|n| field(12 + 4 * n));
        let blocks = blocks.collect::<io::Result<Vec<u32>>>()?;
        if !blocks.is_sorted_by(|a, b| a < b) {
            return Err(wrong("its blocks do not ascend"));
        }
        if let Some(block) = blocks.last().filter(|block| **block >= MAX_BLOCKS) {
            return Err(wrong(format!("a file has no block {block}")));
        }
        Ok(Header { truncated, blocks })
    }

    /// Where the next byte belongs, and how many follow that belong behind it; more than some are not looked for.
    fn run(&self, most: usize) -> Option<(u64, u64)> {
        let blocks = &self.header.as_ref()?.blocks;
        let (first, within) = ((self.at / BLOCK) as usize, self.at % BLOCK);
        let rest = blocks.get(first..)?;
        let start = *rest.first()?;
        let follows = |(n, block): &(usize, &u32)| **block as usize == start as usize + n;
        let some = rest.iter().take(most / BLOCK as usize + 2);
        let count = some.enumerate().take_while(follows).count() as u64;
        Some((u64::from(start) * BLOCK + within, count * BLOCK - within))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(super) mod tests {
    use super::*;

    /// An incremental file; each block is filled with a byte.
    pub(in super::super) fn file(truncated: u32, blocks: &[(u32, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let numbers = blocks.iter().map(|(block, _)| *block);
        for number in [MAGIC, blocks.len() as u32, truncated]
            .into_iter()
            .chain(numbers)
        {
            bytes.extend(number.to_ne_bytes());
        }
        if !blocks.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        }
        for (_, fill) in blocks {
            bytes.resize(bytes.len() + BLOCK as usize, *fill);
        }
        bytes
    }

    /// The header, and the file that has come, of pieces of a length.
    fn read(bytes: &[u8], len: usize) -> io::Result<(Header, Vec<u8>)> {
        let mut reader = IncrementalReader::new(bytes.len() as u64);
        let (mut header, mut found) = (None, Vec::new());
        for piece in bytes.chunks(len) {
            reader.take(Bytes::copy_from_slice(piece), &mut |part| {
                match part {
                    Part::Header(read) => assert!(header.replace(read.clone()).is_none()),
                    Part::Bytes { at, bytes } => {
                        let (at, end) = (at as usize, at as usize + bytes.len());
                        if found.len() < end {
                            found.resize(end, 0);
                        }
                        found[at..end].copy_from_slice(&bytes);
                    }
                }
                Ok(())
            })?;
        }
        reader.end()?;
        Ok((header.unwrap(), found))
    }

    #[test]
    fn blocks_come_to_their_places_whatever_the_pieces_are() {
        let blocks: Vec<(u32, u8)> = (0..2100)
            .map(|n| (n * 2 - n % 3 / 2, n as u8 % 251 + 1))
            .collect();
        for blocks in [&blocks[..], &blocks[..1], &[(2, 1), (4, 2), (5, 3)], &[]] {
            let bytes = file(4, blocks);
            for len in [1 << 20, 8192, 12, 11, 13, 4097] {
                let (header, found) = read(&bytes, len).unwrap();
                let last = blocks.iter().map(|(block, _)| block + 1).max();
                assert_eq!(header.len(), last.unwrap_or(0).max(4));
                assert_eq!(found.len() as u64, u64::from(last.unwrap_or(0)) * BLOCK);
                for (block, fill) in blocks {
                    let at = *block as usize * BLOCK as usize;
                    let found = &found[at..at + BLOCK as usize];
                    assert!(found.iter().all(|byte| byte == fill), "{block} {len}");
                }
            }
        }
    }

    #[test]
    fn wicked_files_are_refused() {
        let whole = file(4, &[(1, 1), (2, 2)]);
        for len in 0..whole.len() {
            if len < 64 || len % 997 == 0 || len == whole.len() - 1 {
                assert!(read(&whole[..len], 5000).is_err(), "{len}");
            }
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read(&longer, 5000).is_err());
        for (at, number) in [
            (0, 1),
            (4, 1),
            (4, 3),
            (4, u32::MAX),
            (8, MAX_BLOCKS + 1),
            (12, MAX_BLOCKS),
            (16, u32::MAX),
            (16, 1),
            (16, 0),
        ] {
            let mut damaged = whole.clone();
            damaged[at..at + 4].copy_from_slice(&number.to_ne_bytes());
            assert!(read(&damaged, 5000).is_err(), "{at}: {number}");
        }
    }

    #[test]
    fn names_of_incremental_files() {
        for (path, expected) in [
            ("base/5/INCREMENTAL.16384.1", Some("base/5/16384.1")),
            ("global/INCREMENTAL.1262", Some("global/1262")),
            (
                "pg_tblspc/16400/PG_17_202406281/5/INCREMENTAL.16500_vm",
                Some("pg_tblspc/16400/PG_17_202406281/5/16500_vm"),
            ),
            ("base/5/16384", None),
            ("INCREMENTAL.x", None),
            ("pg_wal/INCREMENTAL.x", None),
            ("base/INCREMENTAL.5/x", None),
        ] {
            let found = belongs_to(path.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{path}");
            if let Some(found) = found {
                assert_eq!(incremental(&found), path.as_bytes());
                assert_eq!(whole(path.as_bytes()), found);
            }
        }
    }
}
