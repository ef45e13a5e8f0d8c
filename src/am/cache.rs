//! What a backend remembers of segments between single-row operations.
//!
//! Everything is keyed by the companion's generation, which changes whenever the relation's cache entry is rebuilt, and
//! by the place of the segment's header: segments are immutable, so an entry found by its key is right.

use super::companion::Companion;
use super::directory::{self, Decoded, Directory, SegmentRef};
use crate::pg::{snapshot, tuple};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Directories that a backend keeps.
const DIRECTORIES: usize = 16;
/// Whole decoded segments that a backend keeps.
const SEGMENTS: usize = 3;

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

type SegmentKey = (u64, i32, u64);

thread_local! {
    static DIRECTORY: RefCell<Lru<u64, Rc<Directory>>> = const { RefCell::new(Lru::new(DIRECTORIES)) };
    static DECODED: RefCell<Lru<SegmentKey, Rc<Decoded>>> = const { RefCell::new(Lru::new(SEGMENTS)) };
}

/// Identity of a segment among everything that is cached.
pub fn key_of(companion: &Companion, segment: &SegmentRef) -> SegmentKey {
    (
        companion.generation,
        segment.number,
        tuple::tid_key(&segment.header_tid),
    )
}

/// The directory of a companion as committed now (and by our own transaction).
pub fn directory(rel: pg_sys::Relation, companion: &Companion) -> Rc<Directory> {
    if let Some(found) = DIRECTORY.with_borrow_mut(|d| d.get(&companion.generation)) {
        return found;
    }
    let latest = snapshot::Registered::latest();
    let loaded = Rc::new(directory::load(rel, companion, latest.get()));
    DIRECTORY.with_borrow_mut(|d| d.put(companion.generation, loaded.clone()));
    loaded
}

/// All columns of a segment, decoded.
pub fn decoded(
    rel: pg_sys::Relation,
    companion: &Companion,
    segment: &Rc<SegmentRef>,
) -> Rc<Decoded> {
    let key = key_of(companion, segment);
    if let Some(found) = DECODED.with_borrow_mut(|d| d.get(&key)) {
        return found;
    }
    let fresh = Rc::new(Decoded::new(rel, segment, |_| true));
    DECODED.with_borrow_mut(|d| d.put(key, fresh.clone()));
    fresh
}

/// Forgets everything; called when a transaction aborts, whose segments may have been cached.
pub fn clear() {
    DIRECTORY.with_borrow_mut(Lru::clear);
    DECODED.with_borrow_mut(Lru::clear);
    super::unique::clear_cache();
}
