//! Finding stored rows by ascending keys: one pass over a btree index beside a sorted batch, instead of a descent a key.
//!
//! The walk steps from entry to entry while keys are near each other, and descends again where the next key is further
//! away. It reads keys out of the index and goes to the table only for a key that it has found.

use super::compare::{self, Compare, collation, operator};
use super::ffi::raw;
use super::memory;
use super::relation::{self, OpenRel};
use super::sort::SortColumn;
use super::writer::Stored;
use pgrx::pg_sys;
use std::cmp::Ordering;

/// Entries that are stepped over at most before the index is descended again.
const STEPS: usize = 16;

/// Number of a btree operator class's comparison (`access/nbtree.h`).
pub const BTORDER_PROC: i16 = 1;

/// The columns of an index as rows have to be sorted to walk along it: key columns in its order, as attribute numbers of
/// the table. `None` where it cannot be walked: it is no btree, or a column of it descends, is an expression, or is
/// stored as another type.
pub fn order_of(index: pg_sys::Relation) -> Option<Vec<SortColumn>> {
    // SAFETY: an open index has its pg_index row and an entry for each key column.
    unsafe {
        let form = &*(*index).rd_index;
        if relation::form(index).relam != pg_sys::BTREE_AM_OID {
            return None;
        }
        (0..form.indnkeyatts as usize)
            .map(|i| {
                let attnum = *form.indkey.values.as_ptr().add(i);
                let stored = relation::attribute(relation::tupdesc(index), i).atttypid;
                let plain = attnum > 0
                    && *(*index).rd_indoption.add(i) == 0
                    && stored != pg_sys::CSTRINGOID;
                plain.then(|| SortColumn {
                    attnum,
                    operator: operator(index, i, pg_sys::BTLessStrategyNumber),
                    collation: collation(index, i),
                    nulls_first: false,
                })
            })
            .collect()
    }
}

enum State {
    /// Nothing is known of what comes next.
    Unknown,
    /// On an entry, whose key is in `values`.
    Entry,
    /// Behind the last entry.
    End,
}

/// A walk along the index of a table; see [`order_of`] for those that can be walked.
pub struct KeyWalk {
    index: OpenRel,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    compare: Vec<Compare>,
    /// The scan's key: one column, or a row comparison whose members are `members`.
    start: pg_sys::ScanKeyData,
    members: Box<[pg_sys::ScanKeyData]>,
    state: State,
    /// Entries to step over before descending: few where that was in vain the last time.
    patience: usize,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// Where the scan keeps what it allocates on the way.
    home: pg_sys::MemoryContext,
    /// The key that was descended to.
    keys: memory::Context,
}

impl KeyWalk {
    /// A walk that sees what a snapshot does. It lives no longer than the current memory context.
    pub fn new(rel: pg_sys::Relation, index: pg_sys::Oid, snapshot: pg_sys::Snapshot) -> Self {
        let open = OpenRel::index(index, pg_sys::RowExclusiveLock);
        let index = open.as_ptr();
        // SAFETY: an ordinary index scan of an open table; keys are those of the index's own operator classes.
        unsafe {
            let keys = (*(*index).rd_index).indnkeyatts as usize;
            let members: Box<[pg_sys::ScanKeyData]> =
                (0..keys).map(|i| member(index, i, keys)).collect();
            let scan = pg_sys::index_beginscan(rel, index, snapshot, 1, 0);
            (*scan).xs_want_itup = true;
            let columns = relation::natts(relation::tupdesc(index));
            KeyWalk {
                compare: compare::of_keys(index),
                index: open,
                scan,
                slot: pg_sys::table_slot_create(rel, std::ptr::null_mut()),
                start: pg_sys::ScanKeyData::default(),
                members,
                state: State::Unknown,
                patience: STEPS,
                values: vec![pg_sys::Datum::from(0usize); columns],
                nulls: vec![true; columns],
                home: pg_sys::CurrentMemoryContext,
                keys: memory::Context::new(),
            }
        }
    }

    /// Finds the row with a key, which must be greater than all that were asked for before. [`row`](Self::row)
    /// has its values until the next call.
    pub fn find(&mut self, key: &[pg_sys::Datum]) -> Option<Stored> {
        let mut steps = 0;
        loop {
            match self.state {
                State::End => return None,
                State::Unknown => self.descend(key),
                State::Entry => match self.compare_entry(key) {
                    Ordering::Greater => return None,
                    Ordering::Equal => {
                        if steps > 0 {
                            self.patience = (self.patience * 2).min(STEPS);
                        }
                        // SAFETY: the scan stands on the entry.
                        unsafe {
                            let (scan, slot) = (self.scan, self.slot);
                            let seen =
                                memory::within(self.home, || pg_sys::index_fetch_heap(scan, slot));
                            if seen {
                                return Some(stored(slot));
                            }
                        }
                        self.step();
                    }
                    Ordering::Less if steps == self.patience => {
                        self.patience = 1;
                        self.descend(key);
                        steps = 0;
                    }
                    Ordering::Less => {
                        self.step();
                        steps += 1;
                    }
                },
            }
        }
    }

    /// The scan of the index.
    pub fn scan(&self) -> pg_sys::IndexScanDesc {
        self.scan
    }

    /// Copies values and NULL flags of the row that [`find`](Self::find) has found; they live until the next one is found.
    pub fn row(&self, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        let natts = values.len();
        // SAFETY: the slot holds a row of the table's shape, with an entry for each attribute.
        unsafe {
            let (stored, stored_nulls) = super::tuple::slot_values(self.slot, natts);
            values.copy_from_slice(stored);
            nulls.copy_from_slice(stored_nulls);
        }
    }

    fn compare_entry(&mut self, key: &[pg_sys::Datum]) -> Ordering {
        let entry = self.values.iter().zip(&self.nulls);
        for (compare, ((value, null), wanted)) in self.compare.iter_mut().zip(entry.zip(key)) {
            // NULLs come last.
            if *null {
                return Ordering::Greater;
            }
            let order = compare.compare(*value, *wanted);
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Goes to the first entry that is not less than a key.
    fn descend(&mut self, key: &[pg_sys::Datum]) {
        // The scan compares with its key until the next descent, which may be longer than the caller keeps it.
        self.keys.reset();
        let desc = relation::tupdesc(self.index.as_ptr());
        self.keys.within(|| {
            for (i, (member, value)) in self.members.iter_mut().zip(key).enumerate() {
                member.sk_argument = memory::copy_datum(*value, relation::attribute(desc, i));
            }
        });
        // SAFETY: the members live, at the same place, as long as the scan; it copies the header.
        unsafe {
            match &*self.members {
                [only] => self.start = *only,
                members => {
                    self.start.sk_flags = pg_sys::SK_ROW_HEADER as i32;
                    self.start.sk_attno = 1;
                    self.start.sk_strategy = pg_sys::BTGreaterEqualStrategyNumber as u16;
                    self.start.sk_argument = pg_sys::Datum::from(members.as_ptr());
                }
            }
            let (scan, start) = (self.scan, &mut self.start);
            memory::within(self.home, || {
                pg_sys::index_rescan(scan, start, 1, std::ptr::null_mut(), 0);
            });
        }
        self.step();
    }

    fn step(&mut self) {
        // SAFETY: a scan that was started; the entry is copied out before the scan goes on.
        unsafe {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let scan = self.scan;
            let next = memory::within(self.home, || pg_sys::index_getnext_tid(scan, forward));
            if next.is_null() {
                self.state = State::End;
                return;
            }
            // References point into the scan's copy of the page, which it keeps until it goes on.
            raw::index_deform_tuple(
                (*self.scan).xs_itup,
                (*self.scan).xs_itupdesc,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
        self.state = State::Entry;
    }
}

impl Drop for KeyWalk {
    fn drop(&mut self) {
        // After an error the resource owner and the memory context give everything back.
        if !std::thread::panicking() {
            // SAFETY: made by `new`, whose memory context still lives.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_endscan(self.scan);
            }
        }
    }
}

/// What a slot tells of the row in it.
///
/// # Safety
/// A slot that a table's row was put into.
unsafe fn stored(slot: *mut pg_sys::TupleTableSlot) -> Stored {
    // SAFETY: by contract; a slot of heap's kind refers to the tuple on its page.
    unsafe {
        let mut changed_before = false;
        if std::ptr::eq((*slot).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple) {
            let tuple = (*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple;
            if !tuple.is_null() && !(*tuple).t_data.is_null() {
                let mask = u32::from((*(*tuple).t_data).t_infomask);
                changed_before = mask & pg_sys::HEAP_UPDATED != 0;
            }
        }
        Stored {
            tid: (*slot).tts_tid,
            changed_before,
        }
    }
}

/// The scan key of a column: `>=`, alone or as a member of a row comparison.
///
/// # Safety
/// An open index with so many key columns.
unsafe fn member(index: pg_sys::Relation, position: usize, keys: usize) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: by contract; syscache look-ups of the index's operator class.
    unsafe {
        let family = *(*index).rd_opfamily.add(position);
        let input = *(*index).rd_opcintype.add(position);
        let strategy = pg_sys::BTGreaterEqualStrategyNumber;
        let (flags, procedure) = if keys == 1 {
            (0, pg_sys::get_opcode(operator(index, position, strategy)))
        } else {
            // Members of a row comparison carry the class's comparison, not an operator.
            let end = if position + 1 == keys {
                pg_sys::SK_ROW_END
            } else {
                0
            };
            (
                pg_sys::SK_ROW_MEMBER | end,
                pg_sys::get_opfamily_proc(family, input, input, BTORDER_PROC),
            )
        };
        pg_sys::ScanKeyEntryInitialize(
            &mut key,
            flags as i32,
            position as i16 + 1,
            strategy as u16,
            input,
            collation(index, position),
            procedure,
            pg_sys::Datum::from(0usize),
        );
    }
    key
}
