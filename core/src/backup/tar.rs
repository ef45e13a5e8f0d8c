//! The tar archives that PostgreSQL makes: plain `ustar` headers, with long sizes in base 256.
//! Source: POSIX.1-1988, and the PostgreSQL documentation of BASE_BACKUP.

use std::io;

use bytes::Bytes;

/// Size of a block.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// A relative path of plain components, without a slash at either end.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Bytes of content.
    pub(super) size: u64,
    /// Permissions.
    pub(super) mode: u32,
}

/// Where an archive comes from: its bytes in pieces of any size, each of which can be handed on without being copied.
pub(super) trait Pieces {
    /// The next piece; none at the end.
    fn piece(&mut self) -> io::Result<Option<Bytes>>;
}

/// Reads an archive entry by entry.
pub(super) struct TarReader<'a> {
    from: &'a mut dyn Pieces,
    /// What is left of the current piece.
    ready: Bytes,
    /// Bytes of the current entry that were not read, and the padding behind them.
    left: u64,
    padding: u64,
}

fn wrong(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

impl<'a> TarReader<'a> {
    pub(super) fn new(from: &'a mut dyn Pieces) -> Self {
        Self {
            from,
            ready: Bytes::new(),
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; none at the end. What was not read of the one before is skipped. The end is a block of zeros; the
    /// stream must go on with zeros only.
    pub(super) fn entry(&mut self) -> io::Result<Option<Entry>> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        self.take(rest, &mut |_| Ok(()))?;
        let mut header = [0; BLOCK];
        let mut at = 0;
        self.take(BLOCK as u64, &mut |piece| {
            let end = at + piece.len();
            if let Some(to) = header.get_mut(at..end) {
                to.copy_from_slice(&piece);
            }
            at = end;
            Ok(())
        })?;
        if header == [0; BLOCK] {
            return self.only_zeros().map(|()| None);
        }
        let entry = parse(&header)?;
        self.left = entry.size;
        self.padding = entry.size.next_multiple_of(BLOCK as u64) - entry.size;
        Ok(Some(entry))
    }

    /// Gives the content of the current entry to `take`, piece by piece; no piece is empty.
    pub(super) fn content(
        &mut self,
        take: &mut dyn FnMut(Bytes) -> io::Result<()>,
    ) -> io::Result<()> {
        let left = std::mem::take(&mut self.left);
        self.take(left, take)
    }

    fn take(
        &mut self,
        mut len: u64,
        take: &mut dyn FnMut(Bytes) -> io::Result<()>,
    ) -> io::Result<()> {
        while len > 0 {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = (self.ready.len() as u64).min(len);
            take(self.ready.split_to(now as usize))?;
            len -= now;
        }
        Ok(())
    }

    /// Sees to it that something is ready; whether there is anything.
    fn fill(&mut self) -> io::Result<bool> {
        while self.ready.is_empty() {
            match self.from.piece()? {
                Some(piece) => self.ready = piece,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn only_zeros(&mut self) -> io::Result<()> {
        while self.fill()? {
            if self.ready.iter().any(|byte| *byte != 0) {
                return Err(wrong("there is something behind the end of the archive"));
            }
            self.ready.clear();
        }
        Ok(())
    }
}

fn parse(header: &[u8; BLOCK]) -> io::Result<Entry> {
    let field = |from: usize, len: usize| header.get(from..from + len).unwrap_or_default();
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => u64::from(b' '),
            _ => u64::from(*byte),
        })
        .sum();
    if number(field(148, 8))? != sum {
        return Err(wrong("the checksum of a header is wrong"));
    }
    let mut path = text(field(0, 100));
    let prefix = text(field(345, 155));
    if !prefix.is_empty() {
        path = [prefix.as_slice(), b"/", path.as_slice()].concat();
    }
    let kind = match header.get(156) {
        Some(b'0' | 0) => EntryKind::File,
        Some(b'5') => EntryKind::Directory,
        Some(b'2') => EntryKind::Link(text(field(157, 100))),
        other => return Err(wrong(format!("an entry is of the unknown kind {other:?}"))),
    };
    let size = match kind {
        EntryKind::File => number(field(124, 12))?,
        _ => 0,
    };
    if i64::try_from(size).is_err() {
        return Err(wrong("no file is that large"));
    }
    Ok(Entry {
        path: plain(&path)?,
        kind,
        size,
        mode: (number(field(100, 8))? & 0o7777) as u32,
    })
}

fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0);
    field
        .get(..end.unwrap_or(field.len()))
        .unwrap_or_default()
        .to_vec()
}

/// A number: octal digits, or, with the top bit set, in base 256.
fn number(field: &[u8]) -> io::Result<u64> {
    let overflow = || wrong("a number in a header is too large");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        return rest
            .iter()
            .try_fold(u64::from(first & 0x7F), |number, byte| {
                number
                    .checked_mul(256)
                    .map(|n| n | u64::from(*byte))
                    .ok_or_else(overflow)
            });
    }
    let mut value: u64 = 0;
    for byte in field.iter().skip_while(|byte| **byte == b' ') {
        match byte {
            b'0'..=b'7' => {
                value = value.checked_mul(8).ok_or_else(overflow)? | u64::from(byte - b'0')
            }
            0 | b' ' => break,
            _ => return Err(wrong("a number in a header is none")),
        }
    }
    Ok(value)
}

/// The path without `./` before and `/` behind it, if it leads nowhere else.
fn plain(path: &[u8]) -> io::Result<Vec<u8>> {
    let bare = path.strip_prefix(b"./").unwrap_or(path);
    let bare = bare.strip_suffix(b"/").unwrap_or(bare);
    let shown = String::from_utf8_lossy(path);
    if bare.is_empty() || bare == b"." {
        return Ok(Vec::new());
    }
    for component in bare.split(|byte| *byte == b'/') {
        if matches!(component, b"" | b"." | b"..") {
            return Err(wrong(format!("the path \"{shown}\" leads elsewhere")));
        }
    }
    Ok(bare.to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn header(path: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[100..108].copy_from_slice(b"0000600\0");
        if size < 1 << 33 {
            block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[148..156].copy_from_slice(b"        ");
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let found = all_in(Cut(bytes, usize::MAX));
        // Whatever the pieces are, they say the same.
        for len in [1, 7, 511, 512, 513] {
            let again = all_in(Cut(bytes, len));
            assert_eq!(found.as_ref().ok(), again.as_ref().ok(), "{len}");
        }
        found
    }

    /// Bytes in pieces of a length.
    struct Cut<'b>(&'b [u8], usize);

    impl Pieces for Cut<'_> {
        fn piece(&mut self) -> io::Result<Option<Bytes>> {
            let (now, rest) = self.0.split_at(self.1.min(self.0.len()));
            self.0 = rest;
            Ok((!now.is_empty()).then(|| Bytes::copy_from_slice(now)))
        }
    }

    fn all_in(mut pieces: Cut<'_>) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let mut reader = TarReader::new(&mut pieces);
        let mut entries = Vec::new();
        while let Some(entry) = reader.entry()? {
            let mut content = Vec::new();
            if entry.path != b"skipped" {
                reader.content(&mut |piece| {
                    content.extend_from_slice(&piece);
                    Ok(())
                })?;
            }
            entries.push((entry, content));
        }
        Ok(entries)
    }

    fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = parts.concat();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    #[test]
    fn entries_are_read_and_cut_archives_are_not() {
        let mut content = b"hello".to_vec();
        content.resize(BLOCK, 0);
        let whole = archive(&[
            header("./", b'5', 0, ""),
            header("a/b", b'0', 5, ""),
            content.clone(),
            header("skipped", b'0', 5, ""),
            content,
            header("pg_tblspc/1", b'2', 0, "/x"),
        ]);
        let entries = all(&whole).unwrap();
        let paths: Vec<_> = entries.iter().map(|(e, _)| e.path.as_slice()).collect();
        assert_eq!(paths, [b"".as_slice(), b"a/b", b"skipped", b"pg_tblspc/1"]);
        assert_eq!(entries[1].1, b"hello");
        assert_eq!(entries[1].0.mode, 0o600);
        assert_eq!(entries[3].0.kind, EntryKind::Link(b"/x".to_vec()));
        for len in 0..whole.len() - BLOCK {
            assert!(all(&whole[..len]).is_err(), "{len}");
        }
        let mut more = whole.clone();
        more.push(1);
        assert!(all(&more).is_err());
    }

    #[test]
    fn wicked_headers_are_refused() {
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../x",
            "a//b",
            "a/./b",
            "..",
            "x/..",
        ] {
            assert!(
                all(&archive(&[header(path, b'0', 0, "")])).is_err(),
                "{path}"
            );
        }
        for kind in [b'1', b'3', b'g', b'x', b'L'] {
            assert!(all(&archive(&[header("x", kind, 0, "")])).is_err());
        }
        assert!(all(&archive(&[header("x", b'0', u64::MAX, "")])).is_err());
        let mut damaged = archive(&[header("x", b'0', 0, "")]);
        damaged[0] ^= 1;
        assert!(all(&damaged).is_err());
        let large = header("x", b'0', 1 << 40, "");
        let mut pieces = Cut(&large, usize::MAX);
        let mut large = TarReader::new(&mut pieces);
        assert_eq!(large.entry().unwrap().unwrap().size, 1 << 40);
    }
}
