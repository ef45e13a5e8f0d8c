//! Adding segments to a companion within an ordinary transaction, as MVCC rows: who sees the transaction sees them.

use super::body::{self, BodyWriter};
use super::companion::{self, Companion};
use super::tid;
use super::writer::Encoded;
use crate::pg::lock::{self, Tag};
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;

/// The lock on the segments of a relation.
fn segments(rel: pg_sys::Relation) -> Tag {
    Tag::of_table(relation::oid(rel), 1)
}

/// Whether no other session is about to commit segments of its own; all that did are known afterwards.
pub fn nobody_adds_segments(rel: pg_sys::Relation) -> bool {
    let lock = segments(rel);
    let free = lock.try_acquire(pg_sys::RowShareLock);
    if free {
        lock::accept_messages();
        lock.release(pg_sys::RowShareLock);
    }
    free
}

/// Adds segments to a relation. Others see them when the transaction has committed, the transaction itself after
/// [`end`](Self::end).
pub struct Appender {
    rel: pg_sys::Relation,
    writer: BodyWriter,
    next: i32,
    /// The companion that the segments go to.
    pub companion: Companion,
}

impl Appender {
    /// Begins; makes the companion where there is none. Only one session at a time gets past this until its transaction
    /// has ended and told everybody.
    pub fn begin(rel: pg_sys::Relation) -> Self {
        segments(rel).acquire(pg_sys::ExclusiveLock);
        lock::accept_messages();
        let companion = match companion::of(rel) {
            Some(c) => c,
            None => companion::create(rel, relation::oid(rel)),
        };
        let highest = {
            let table = OpenRel::table(companion.segments, pg_sys::AccessShareLock);
            body::highest_number(table.as_ptr())
        };
        Appender {
            rel,
            writer: BodyWriter::new(companion.segments, false),
            next: highest.map_or(0, |n| n + 1),
            companion,
        }
    }

    /// Adds a segment, and tells its number.
    pub fn add(&mut self, mut encoded: Encoded) -> i32 {
        let number = self.next;
        if number > tid::MAX_SEGMENT {
            pgrx::error!("the table has too many segments");
        }
        encoded.store_body(&self.writer, number);
        encoded.store_header(&self.writer, number);
        self.next += 1;
        number
    }

    /// Ends: what was added is seen by the commands that follow.
    pub fn end(self) {
        companion::invalidate(self.rel);
        // SAFETY: as between two statements.
        unsafe { pg_sys::CommandCounterIncrement() };
    }
}
