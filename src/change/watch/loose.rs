//! Rows that lie in no segment: those that are there now, beside those that a checkpoint remembers.

use super::log::{Entries, Old};
use super::part::Then;
use super::rows::Shape;
use crate::change::delta_scan::{DeltaRow, DeltaScan};
use crate::pg::relation::OpenRel;
use crate::pg::tuple;
use pgrx::pg_sys;
use varve_core::change::checkpoint::latest_of_number;

/// Transactions before a checkpoint's horizon had ended when it was taken.
#[derive(Clone, Copy)]
pub struct Horizon {
    checkpoint: u64,
    next: u64,
}

impl Horizon {
    /// That of a checkpoint.
    pub fn of(checkpoint: u64) -> Self {
        // SAFETY: reads the server's state.
        let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        Horizon { checkpoint, next }
    }

    /// What a checkpoint remembers as such that is taken with a snapshot.
    pub fn number(snapshot: pg_sys::Snapshot) -> u64 {
        // SAFETY: reads the server's state; a valid snapshot.
        let (next, xmin) = unsafe {
            (
                pg_sys::ReadNextFullTransactionId().value,
                (*snapshot).xmin.into_inner(),
            )
        };
        latest_of_number(xmin, next)
    }

    /// Whether a row that is visible now was visible to the checkpoint: who has inserted it had ended then. In doubt it is not:
    /// numbers of transactions come again after four billions, and are taken for the latest of that number.
    fn is_before(self, row: &pg_sys::HeapTupleHeaderData) -> bool {
        let xmin = tuple::raw_xmin(row).into_inner();
        xmin >= pg_sys::FirstNormalTransactionId.into_inner()
            && latest_of_number(xmin, self.next) < self.checkpoint
    }
}

/// Whether rows may have come since a checkpoint, or gone of those that it remembers.
pub fn may_differ(
    rel: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    horizon: Horizon,
    remembered: u64,
) -> bool {
    let mut scan = DeltaScan::new(rel, snapshot);
    let mut rows = 0u64;
    while let Some(row) = scan.next() {
        if !horizon.is_before(row.header) {
            return true;
        }
        rows += 1;
        if rows.is_multiple_of(4096) {
            pgrx::check_for_interrupts!();
        }
    }
    rows != remembered
}

/// What has become of a row, in the storage that it was in when the checkpoint was taken.
pub enum Met<'a> {
    /// It is as it was.
    Stays(&'a Old),
    /// It is gone.
    Went(&'a Old),
    /// It has come.
    Came(&'a DeltaRow<'a>),
}

/// Goes along the rows that a checkpoint remembers of a storage and those that are there now, whose shape is `shape`.
pub fn merge(
    (then, now): (&Then, &OpenRel),
    shape: &mut Shape,
    horizon: Horizon,
    snapshot: pg_sys::Snapshot,
    mut f: impl FnMut(&mut Shape, Met),
) {
    let mut scan = DeltaScan::new(now.as_ptr(), snapshot);
    let mut entries = Entries::open(then.number, &then.state, snapshot);
    let mut count = 0u64;
    while let Some(row) = scan.next() {
        count += 1;
        if count.is_multiple_of(4096) {
            pgrx::check_for_interrupts!();
        }
        while let Some(old) = entries.peek().filter(|old| old.place < row.place) {
            f(shape, Met::Went(old));
            entries.advance();
        }
        match entries.peek().filter(|old| old.place == row.place) {
            None => f(shape, Met::Came(&row)),
            Some(old) => {
                // What somebody has written since may say what was there before.
                let says_the_same = |shape: &mut Shape| {
                    let (values, nulls) = row.values();
                    // SAFETY: a row of the table.
                    unsafe { shape.hashes(values, nulls) }.row == old.row
                };
                if horizon.is_before(row.header) || says_the_same(shape) {
                    f(shape, Met::Stays(old));
                } else {
                    f(shape, Met::Went(old));
                    f(shape, Met::Came(&row));
                }
                entries.advance();
            }
        }
    }
    while let Some(old) = entries.peek() {
        pgrx::check_for_interrupts!();
        f(shape, Met::Went(old));
        entries.advance();
    }
}
