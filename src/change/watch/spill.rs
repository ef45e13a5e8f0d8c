//! Rows that did not find a pair in memory, sorted by their keys' hashes.

use crate::pg::memory;
use crate::pg::sort::{RowSort, SortColumn};
use pgrx::pg_sys;
use varve_core::change::{Group, Seen};

/// Takes rows, and gives them back key by key.
pub struct Spill {
    sort: Option<RowSort>,
    context: pg_sys::MemoryContext,
    /// How many there are.
    pub count: usize,
}

impl Spill {
    /// An empty one, which lives no longer than the current memory context.
    pub fn new() -> Self {
        Spill {
            sort: None,
            // SAFETY: a variable of the process.
            context: unsafe { pg_sys::CurrentMemoryContext },
            count: 0,
        }
    }

    /// Adds a row.
    pub fn put(&mut self, row: Seen) {
        if self.count.is_multiple_of(1 << 16) {
            pgrx::check_for_interrupts!();
        }
        self.count += 1;
        // SAFETY: the context of the call, which outlives the sort.
        let sort = self
            .sort
            .get_or_insert_with(|| unsafe { memory::within(self.context, hashes) });
        let [tag, low, high] = row.to_parts();
        let values = [tag, low].map(|part| pg_sys::Datum::from(part as usize));
        sort.put(&values, &[false; 2], high);
    }

    /// Hands on the rows of each key.
    pub fn groups(self, mut f: impl FnMut(Group)) {
        let Some(sort) = self.sort else {
            return;
        };
        let mut group: Option<Group> = None;
        sort.drain(|values, _, high| {
            let [tag, low] = values else { return };
            let row = Seen::from_parts([tag.value() as u64, low.value() as u64, high]);
            if group.as_mut().is_some_and(|group| group.add(row)) {
                return;
            }
            if let Some(whole) = group.replace(Group::begin(row)) {
                f(whole);
            }
        });
        if let Some(last) = group {
            f(last);
        }
    }
}

/// A sort of pairs of numbers by the first one.
fn hashes() -> RowSort {
    // SAFETY: a row shape of our own.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(2);
        for (attnum, name) in [(1, c"key"), (2, c"row")] {
            pg_sys::TupleDescInitEntry(desc, attnum, name.as_ptr(), pg_sys::INT8OID, -1, 0);
        }
        let by = SortColumn::of(crate::pg::relation::attribute(desc, 0), false);
        RowSort::new(desc, by.as_slice(), pg_sys::work_mem)
    }
}
