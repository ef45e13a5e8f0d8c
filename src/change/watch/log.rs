//! Rows that lay in no segment, one by one, as generations of entries: the first has all rows that there were, later ones what has become
//! of places since.
//!
//! Later generations are merged as they come to be many, as a log-structured merge tree does it, and all become one again where they
//! have come to be much of all. So an entry is written anew but few times, however often little changes.

use super::error::damaged;
use super::store::{EntryReader, EntryWriter};
use pgrx::pg_sys;
use varve_core::change::checkpoint::{Chunk, Generation};
use varve_core::change::entries::{Entry, Kept};

/// A row that a checkpoint remembers.
#[derive(Default)]
pub struct Old {
    /// Where it lay.
    pub place: u64,
    /// Its checksum.
    pub row: u128,
    /// Its key.
    pub key: Vec<u8>,
}

impl Old {
    /// As an entry keeps it.
    pub fn kept(&self) -> Kept<'_> {
        Kept {
            row: self.row,
            key: &self.key,
        }
    }
}

/// What generations say of places, in their order: of each what the last one says that knows it.
struct Layers {
    readers: Vec<EntryReader>,
    /// The next place of each.
    places: Vec<Option<u64>>,
}

impl Layers {
    fn open(chunk: i64, generations: &[Generation], snapshot: pg_sys::Snapshot) -> Self {
        let open = |generation: &Generation| EntryReader::open(chunk, *generation, snapshot);
        let mut readers: Vec<EntryReader> = generations.iter().map(open).collect();
        let places = readers.iter_mut().map(EntryReader::place).collect();
        Layers { readers, places }
    }

    /// Goes on to the next place; tells whether a row is there, which is put into `room`.
    fn next(&mut self, room: &mut Old) -> Option<bool> {
        let place = self.places.iter().flatten().min().copied()?;
        room.place = place;
        let mut here = false;
        for (reader, next) in self.readers.iter_mut().zip(&mut self.places) {
            if *next != Some(place) {
                continue;
            }
            if let Some(Entry { kept, .. }) = reader.peek() {
                here = kept.is_some();
                if let Some(kept) = kept {
                    room.row = kept.row;
                    room.key.clear();
                    room.key.extend_from_slice(kept.key);
                }
            }
            reader.advance();
            *next = reader.place();
        }
        Some(here)
    }
}

/// The rows that a checkpoint remembers of a chunk, in the order of their places.
pub struct Entries {
    layers: Layers,
    next: Option<Old>,
    /// How many there must be from here on.
    missing: u64,
}

impl Entries {
    /// Begins, as a snapshot sees them.
    pub fn open(number: i64, state: &Chunk, snapshot: pg_sys::Snapshot) -> Self {
        let mut entries = Entries {
            layers: Layers::open(number, &state.generations, snapshot),
            next: Some(Old::default()),
            missing: state.loose,
        };
        entries.advance();
        entries
    }

    /// The next row.
    pub fn peek(&self) -> Option<&Old> {
        self.next.as_ref()
    }

    /// Goes on behind the next row.
    pub fn advance(&mut self) {
        let Some(mut room) = self.next.take() else {
            return;
        };
        loop {
            match self.layers.next(&mut room) {
                Some(false) => continue,
                Some(true) => break,
                None if self.missing == 0 => return,
                None => damaged(&format!("{} entries are missing", self.missing)),
            }
        }
        self.missing = match self.missing.checked_sub(1) {
            Some(rest) => rest,
            None => damaged(&"there are more entries than there were rows"),
        };
        self.next = Some(room);
    }
}

/// Writes a generation: what has become of places, of each place once, and what the generations said that it stands for.
pub struct Log {
    writer: EntryWriter,
    /// A place whose row is gone, unless another one has come there.
    gone: Option<u64>,
    /// What it stands for, and the next place of that with what is there.
    before: Layers,
    next: Option<(Old, bool)>,
}

impl Log {
    /// Begins a generation of a chunk that stands for these ones too.
    pub fn begin(
        chunk: i64,
        number: u32,
        before: &[Generation],
        snapshot: pg_sys::Snapshot,
    ) -> Self {
        let mut log = Log {
            writer: EntryWriter::begin(chunk, number),
            gone: None,
            before: Layers::open(chunk, before, snapshot),
            next: Some((Old::default(), false)),
        };
        log.go_on();
        log
    }

    fn go_on(&mut self) {
        self.next = self.next.take().and_then(|(mut room, _)| {
            let here = self.before.next(&mut room)?;
            Some((room, here))
        });
    }

    /// Writes what was said of places before one; what was said of itself counts no more.
    fn copy_until(&mut self, place: u64) {
        while let Some((old, here)) = self.next.as_ref().filter(|(old, _)| old.place <= place) {
            if old.place < place {
                let kept = here.then(|| old.kept());
                let place = old.place;
                self.writer.push(Entry { place, kept });
            }
            self.go_on();
        }
    }

    fn flush(&mut self, but: Option<u64>) {
        if let Some(place) = self.gone.take().filter(|place| Some(*place) != but) {
            self.writer.push(Entry { place, kept: None });
        }
    }

    /// No row is at a place any more.
    pub fn gone(&mut self, place: u64) {
        self.flush(None);
        self.copy_until(place);
        self.gone = Some(place);
    }

    /// A row is at a place.
    pub fn put(&mut self, place: u64, kept: Kept) {
        self.flush(Some(place));
        self.copy_until(place);
        let kept = Some(kept);
        self.writer.push(Entry { place, kept });
    }

    /// Ends the generation; tells how many entries it has.
    pub fn end(mut self) -> u64 {
        self.flush(None);
        self.copy_until(u64::MAX);
        let count = self.writer.count;
        self.writer.end();
        count
    }
}
