//! What processes that aggregate the same chunks have in common: which segments and blocks are taken.
//!
//! The memory begins with a counter for each chunk, the number of its next segment; after them comes heap's own state of a
//! shared scan for each chunk. Every process reads under the same snapshot, and so finds the same segments in the same order.

use crate::scan::delta;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicU64, Ordering};

const COUNTER: usize = size_of::<AtomicU64>();

/// The shared memory of some chunks.
pub struct Shared {
    base: *mut u8,
    /// Where heap's state is for each chunk.
    heaps: Vec<usize>,
}

fn heaps(chunks: &[pg_sys::Relation]) -> (Vec<usize>, usize) {
    let mut at = chunks.len() * COUNTER;
    let heaps = chunks
        .iter()
        .map(|rel| {
            let start = at;
            at += delta::shared_size(*rel);
            start
        })
        .collect();
    (heaps, at)
}

/// Bytes that some chunks need.
pub fn size(chunks: &[pg_sys::Relation]) -> usize {
    heaps(chunks).1
}

impl Shared {
    /// The shared memory of some chunks, which must be the same in every process.
    ///
    /// # Safety
    /// `base` is aligned to eight bytes and has [`size`] bytes, for as long as the result is used.
    pub unsafe fn at(base: *mut u8, chunks: &[pg_sys::Relation]) -> Self {
        Shared {
            base,
            heaps: heaps(chunks).0,
        }
    }

    /// Lays out the memory, before any other process sees it.
    pub fn initialise(&self, chunks: &[pg_sys::Relation], snapshot: pg_sys::Snapshot) {
        self.reset_counters();
        for (at, rel) in chunks.iter().enumerate() {
            // SAFETY: room for heap's state, by the contract of `at`.
            unsafe { delta::initialize_shared(*rel, snapshot, self.heap(at)) };
        }
    }

    /// Everything is to be read again; no other process is at work.
    pub fn reinitialise(&self, chunks: &[pg_sys::Relation]) {
        self.reset_counters();
        for (at, rel) in chunks.iter().enumerate() {
            delta::reinitialize_shared(*rel, self.heap(at));
        }
    }

    fn counter(&self, chunk: usize) -> Option<&AtomicU64> {
        // SAFETY: a counter for each chunk lies at the beginning, by the contract of `at`.
        (chunk < self.heaps.len())
            .then(|| unsafe { AtomicU64::from_ptr(self.base.add(chunk * COUNTER).cast()) })
    }

    fn reset_counters(&self) {
        for counter in (0..self.heaps.len()).filter_map(|chunk| self.counter(chunk)) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The next segment of a chunk that no process has taken, by its number in the directory; there may be none of that
    /// number.
    pub fn claim(&self, chunk: usize) -> usize {
        self.counter(chunk).map_or(usize::MAX, |counter| {
            counter.fetch_add(1, Ordering::Relaxed) as usize
        })
    }

    /// Heap's state of a chunk.
    pub fn heap(&self, chunk: usize) -> pg_sys::ParallelTableScanDesc {
        self.heaps.get(chunk).map_or(std::ptr::null_mut(), |at| {
            // SAFETY: within the memory, by the contract of `at`.
            unsafe { self.base.add(*at).cast() }
        })
    }
}
