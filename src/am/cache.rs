//! What a backend remembers of segments between single-row operations.
//!
//! Directories are keyed by the companion's generation, which changes whenever the relation's cache entry is rebuilt; what
//! was read of a segment by the shape of rows, its number, the place of its header and its writer: segments are immutable, so
//! an entry found by its key is right.

use super::body::{self, BodyReader};
use super::companion::{self, Companion};
use super::datum::CachedColumn;
use super::directory::{self, Decoded, Directory, SegmentRef};
use crate::pg::relation::OpenRel;
use crate::pg::{snapshot, tuple};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use varve_core::paged::ColumnIndex;

/// Bytes of directories that a backend keeps.
const DIRECTORY_BYTES: usize = 32 << 20;
/// Bytes of decoded pages that a backend keeps: a batch beside a chunk comes to each page that has a row of its, and the
/// next batch to the same ones.
const DECODED_BYTES: usize = 32 << 20;
/// Bytes of column indexes that a backend keeps.
const COLUMN_BYTES: usize = 32 << 20;

/// A small list in which the least recently used entry makes room.
pub struct Lru<K, V> {
    entries: VecDeque<(K, V)>,
    capacity: usize,
}

impl<K: PartialEq, V: Clone> Lru<K, V> {
    /// An empty list of at most `capacity` entries.
    pub const fn new(capacity: usize) -> Self {
        Lru {
            entries: VecDeque::new(),
            capacity,
        }
    }

    /// The entry of a key, which becomes the most recently used.
    pub fn get(&mut self, key: &K) -> Option<V> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        let entry = self.entries.remove(at)?;
        let value = entry.1.clone();
        self.entries.push_back(entry);
        Some(value)
    }

    /// Adds an entry.
    pub fn put(&mut self, key: K, value: V) {
        if self.entries.len() >= self.capacity {
            self.entries.pop_front();
        }
        self.entries.push_back((key, value));
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// Entries up to a number of bytes. Where they take more, the half that was not used for longest makes room.
pub struct Bounded<K, V> {
    entries: HashMap<K, (V, usize, u64)>,
    bytes: usize,
    clock: u64,
}

impl<K: std::hash::Hash + Eq + Clone, V: Clone> Bounded<K, V> {
    /// Nothing yet.
    pub fn new() -> Self {
        Bounded {
            entries: HashMap::new(),
            bytes: 0,
            clock: 0,
        }
    }

    /// The entry of a key, which becomes the most recently used.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let (value, _, used) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Adds an entry of a size, for all of them to take at most `limit` bytes.
    pub fn put(&mut self, key: K, value: V, size: usize, limit: usize) {
        self.clock += 1;
        if self.bytes + size > limit && !self.entries.is_empty() {
            let mut ages: Vec<u64> = self.entries.values().map(|(_, _, used)| *used).collect();
            ages.sort_unstable();
            let middle = ages.get(ages.len() / 2).copied().unwrap_or(u64::MAX);
            self.entries.retain(|_, (_, _, used)| *used > middle);
            self.bytes = self.entries.values().map(|(_, size, _)| *size).sum();
        }
        self.bytes += size;
        if let Some((_, old, _)) = self.entries.insert(key, (value, size, self.clock)) {
            self.bytes -= old;
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

/// Identity of a segment among everything that is cached: the shape of rows, its number, where its header lies, and who wrote
/// it.
pub type SegmentKey = (u64, i32, u64, u32);

thread_local! {
    static DIRECTORY: RefCell<Bounded<u64, Rc<Directory>>> = RefCell::new(Bounded::new());
    static DECODED: RefCell<Bounded<(SegmentKey, usize), Rc<Decoded>>> = RefCell::new(Bounded::new());
    static COLUMNS: RefCell<Bounded<(SegmentKey, i32), Rc<CachedColumn>>> = RefCell::new(Bounded::new());
}

/// Identity of a segment among everything that is cached.
pub fn key_of(segment: &SegmentRef) -> SegmentKey {
    (
        segment.companion.shape,
        segment.number,
        tuple::tid_key(&segment.header_tid),
        segment.xmin.into_inner(),
    )
}

/// The directory of a companion as committed now (and by our own transaction).
pub fn directory(rel: pg_sys::Relation, companion: &Companion) -> Rc<Directory> {
    if let Some(found) = DIRECTORY.with_borrow_mut(|d| d.get(&companion.generation)) {
        return found;
    }
    let latest = snapshot::Registered::latest();
    let loaded = Rc::new(directory::load(rel, companion, latest.get()));
    let size = loaded.iter().map(|s| s.memory()).sum();
    DIRECTORY.with_borrow_mut(|d| {
        d.put(companion.generation, loaded.clone(), size, DIRECTORY_BYTES);
    });
    loaded
}

/// The directory of an open relation as a snapshot sees it; `None` where nothing is frozen.
///
/// What is cached serves every snapshot that all of its segments are visible to. Somebody may just be committing one that is
/// not (a large batch, `varve.debug_freeze`), visible before we are told: he holds the lock on segments, so where it
/// is to be had nobody is, and all messages are in. On a standby nobody holds it; there the highest number of a segment
/// tells whether one was added.
pub fn directory_for(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Option<Rc<Directory>> {
    let replayed = snapshot::is_mvcc(snapshot) && snapshot::of_standby(snapshot);
    let quiet =
        snapshot::is_mvcc(snapshot) && (replayed || super::append::nobody_adds_segments(rel));
    let companion = companion::of(rel)?;
    if quiet {
        let cached = directory(rel, &companion);
        let is_whole = || {
            let table = OpenRel::table(companion.segments, pg_sys::AccessShareLock);
            let last = cached.last().map(|s| s.number);
            body::highest_number(table.as_ptr()) == last
        };
        if cached.iter().all(|s| s.precedes(snapshot)) && (!replayed || is_whole()) {
            return Some(cached);
        }
    }
    let reading = directory::reading_snapshot(snapshot);
    Some(Rc::new(directory::load(rel, &companion, reading.get())))
}

/// All columns of the page that a row of a segment is in, decoded.
pub fn decoded(rel: pg_sys::Relation, segment: &Rc<SegmentRef>, row: u32) -> Rc<Decoded> {
    let page = directory::page_of(row);
    let key = (key_of(segment), page);
    if let Some(found) = DECODED.with_borrow_mut(|d| d.get(&key)) {
        return found;
    }
    let fresh = Rc::new(Decoded::new(rel, segment, page, |_| true));
    let size = fresh.memory();
    DECODED.with_borrow_mut(|d| d.put(key, fresh.clone(), size, DECODED_BYTES));
    fresh
}

/// The index of a column that the segment has; in words what is wrong with its bytes.
pub fn column(
    reader: &BodyReader,
    segment: &SegmentRef,
    attnum: i32,
) -> Result<Rc<CachedColumn>, String> {
    let key = (key_of(segment), attnum);
    if let Some(found) = COLUMNS.with_borrow_mut(|c| c.get(&key)) {
        return Ok(found);
    }
    let (entry, start) = segment
        .column(attnum)
        .ok_or("the segment does not have it")?;
    let range = start..start + entry.index_len as usize;
    let index = reader
        .with_range(segment.location(), range, &mut Vec::new(), |bytes| {
            ColumnIndex::parse(bytes)
        })?
        .map_err(|e| e.to_string())?;
    if index.rows() != segment.header.rows as usize || index.kind() != entry.kind {
        return Err("it is not the column that the header lists".into());
    }
    let fresh = Rc::new(CachedColumn::new(start, index));
    let size = fresh.memory();
    COLUMNS.with_borrow_mut(|c| c.put(key, fresh.clone(), size, COLUMN_BYTES));
    Ok(fresh)
}

/// As [`column`]; damage is an error (`data_corrupted`).
pub fn column_of(rel: pg_sys::Relation, segment: &SegmentRef, attnum: i32) -> Rc<CachedColumn> {
    let reader = BodyReader::new(&segment.companion);
    column(&reader, segment, attnum).unwrap_or_else(|detail| {
        super::error::corrupt(rel, segment.number, &format!("column {attnum}: {detail}"))
    })
}

/// Forgets everything; called when a transaction aborts, whose segments may have been cached.
pub fn clear() {
    DIRECTORY.with_borrow_mut(Bounded::clear);
    DECODED.with_borrow_mut(Bounded::clear);
    COLUMNS.with_borrow_mut(Bounded::clear);
    super::unique::clear_cache();
}
