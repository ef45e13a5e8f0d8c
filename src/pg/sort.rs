//! Sorting rows with `tuplesort`, which goes to disk beyond its memory.

use super::relation;
use pgrx::pg_sys;

/// A column that rows are sorted by.
#[derive(Clone, Copy)]
pub struct SortColumn {
    /// Attribute number.
    pub attnum: i16,
    /// An ordering operator of the column's type.
    pub operator: pg_sys::Oid,
    /// The collation to sort by.
    pub collation: pg_sys::Oid,
    /// Whether NULLs come before all values.
    pub nulls_first: bool,
}

impl SortColumn {
    /// An attribute, in the order of its type's default operators: ascending with NULLs last, or the other way round. `None`
    /// where the type has no order.
    pub fn of(attr: &pg_sys::FormData_pg_attribute, descending: bool) -> Option<Self> {
        let operator = relation::ordering_operator(attr.atttypid, descending);
        (operator != pg_sys::InvalidOid).then_some(SortColumn {
            attnum: attr.attnum,
            operator,
            collation: attr.attcollation,
            nulls_first: descending,
        })
    }

    /// What compares two values of the column; lives in the current memory context.
    pub fn support(&self) -> pg_sys::SortSupportData {
        // SAFETY: an ordering operator of the column's type.
        unsafe {
            let mut sort = pg_sys::SortSupportData {
                ssup_cxt: pg_sys::CurrentMemoryContext,
                ssup_collation: self.collation,
                ssup_nulls_first: self.nulls_first,
                ssup_attno: self.attnum,
                ..Default::default()
            };
            pg_sys::PrepareSortSupportFromOrderingOp(self.operator, &mut sort);
            sort
        }
    }
}

enum Store {
    Sorted(*mut pg_sys::Tuplesortstate),
    Physical(*mut pg_sys::Tuplestorestate),
}

/// Takes rows in any order, each with a number, and gives them back sorted; as they came, without a column to sort by.
pub struct RowSort {
    natts: usize,
    /// The row shape with the number as one more column.
    wide: pg_sys::TupleDesc,
    store: Store,
    input: *mut pg_sys::TupleTableSlot,
    output: *mut pg_sys::TupleTableSlot,
}

impl RowSort {
    /// A sort of rows of a shape, in `kilobytes` of memory. It lives no longer than the current memory context.
    pub fn new(desc: pg_sys::TupleDesc, columns: &[SortColumn], kilobytes: i32) -> Self {
        let natts = relation::natts(desc);
        // SAFETY: a row shape of our own; sort and slots go by `end` or with the memory context.
        unsafe {
            let wide = pg_sys::CreateTemplateTupleDesc(natts as i32 + 1);
            for attnum in 1..=natts as i16 {
                pg_sys::TupleDescCopyEntry(wide, attnum, desc, attnum);
            }
            pg_sys::TupleDescInitEntry(
                wide,
                natts as i16 + 1,
                c"number".as_ptr(),
                pg_sys::INT8OID,
                -1,
                0,
            );
            let store = if columns.is_empty() {
                Store::Physical(pg_sys::tuplestore_begin_heap(false, false, kilobytes))
            } else {
                let mut attnums: Vec<i16> = columns.iter().map(|c| c.attnum).collect();
                let mut operators: Vec<pg_sys::Oid> = columns.iter().map(|c| c.operator).collect();
                let mut collations: Vec<pg_sys::Oid> =
                    columns.iter().map(|c| c.collation).collect();
                let mut nulls_first: Vec<bool> = columns.iter().map(|c| c.nulls_first).collect();
                Store::Sorted(pg_sys::tuplesort_begin_heap(
                    wide,
                    columns.len() as i32,
                    attnums.as_mut_ptr(),
                    operators.as_mut_ptr(),
                    collations.as_mut_ptr(),
                    nulls_first.as_mut_ptr(),
                    kilobytes,
                    std::ptr::null_mut(),
                    0,
                ))
            };
            let minimal = &raw const pg_sys::TTSOpsMinimalTuple;
            RowSort {
                natts,
                wide,
                store,
                input: pg_sys::MakeSingleTupleTableSlot(wide, &raw const pg_sys::TTSOpsVirtual),
                output: pg_sys::MakeSingleTupleTableSlot(wide, minimal),
            }
        }
    }

    /// Adds a row; values are copied (TOAST pointers as pointers).
    pub fn put(&mut self, values: &[pg_sys::Datum], nulls: &[bool], number: u64) {
        // SAFETY: the slot has natts + 1 columns.
        unsafe {
            pg_sys::ExecClearTuple(self.input);
            let to = std::slice::from_raw_parts_mut((*self.input).tts_values, self.natts + 1);
            let to_null = std::slice::from_raw_parts_mut((*self.input).tts_isnull, self.natts + 1);
            for ((t, n), (v, null)) in to
                .iter_mut()
                .zip(to_null.iter_mut())
                .zip(values.iter().zip(nulls))
            {
                *t = *v;
                *n = *null;
            }
            if let (Some(t), Some(n)) = (to.last_mut(), to_null.last_mut()) {
                *t = pg_sys::Datum::from(number as usize);
                *n = false;
            }
            pg_sys::ExecStoreVirtualTuple(self.input);
            match self.store {
                Store::Sorted(s) => pg_sys::tuplesort_puttupleslot(s, self.input),
                Store::Physical(s) => pg_sys::tuplestore_puttupleslot(s, self.input),
            }
        }
    }

    /// After the last row was added, before the first one is asked for.
    pub fn perform(&mut self) {
        if let Store::Sorted(sort) = self.store {
            // SAFETY: called once.
            unsafe { pg_sys::tuplesort_performsort(sort) };
        }
    }

    /// Puts the next row into [`slot`](Self::slot), with all its values, and says its number. They live until the one after
    /// it is asked for.
    pub fn next(&mut self) -> Option<u64> {
        // SAFETY: a performed sort; the slot's arrays have natts + 1 entries.
        unsafe {
            let none = std::ptr::null_mut();
            let more = match self.store {
                Store::Sorted(s) => {
                    pg_sys::tuplesort_gettupleslot(s, true, false, self.output, none)
                }
                Store::Physical(s) => pg_sys::tuplestore_gettupleslot(s, true, false, self.output),
            };
            if !more {
                return None;
            }
            pg_sys::slot_getsomeattrs_int(self.output, self.natts as i32 + 1);
            let number = *(*self.output).tts_values.add(self.natts);
            Some(number.value() as u64)
        }
    }

    /// Where [`next`](Self::next) puts rows; it has one column more than they.
    pub fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        self.output
    }

    /// Gives all rows to `f` (values, nulls, number) in order.
    pub fn drain(mut self, mut f: impl FnMut(&[pg_sys::Datum], &[bool], u64)) {
        self.perform();
        while let Some(number) = self.next() {
            pgrx::check_for_interrupts!();
            // SAFETY: the slot holds a row.
            unsafe {
                let values = std::slice::from_raw_parts((*self.output).tts_values, self.natts);
                let nulls = std::slice::from_raw_parts((*self.output).tts_isnull, self.natts);
                f(values, nulls, number);
            }
        }
        self.end();
    }

    /// Gives back memory and files. A sort that is not ended leaves them to its memory context and the transaction.
    pub fn end(self) {
        // SAFETY: made by `new`, whose memory context still lives.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.input);
            pg_sys::ExecDropSingleTupleTableSlot(self.output);
            match self.store {
                Store::Sorted(s) => pg_sys::tuplesort_end(s),
                Store::Physical(s) => pg_sys::tuplestore_end(s),
            }
            pg_sys::FreeTupleDesc(self.wide);
        }
    }
}
