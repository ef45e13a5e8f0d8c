//! The order in which a chunk's rows are frozen: by key where the table is enabled, else as they lie.

use crate::pg::relation;
use pgrx::pg_sys;

/// Sort columns of a table, as attribute names (they may have other numbers in each chunk).
#[derive(Clone, Debug, Default)]
pub struct RowOrder {
    columns: Vec<String>,
}

/// A column that rows are sorted by.
pub struct SortColumn {
    /// Attribute number.
    pub attnum: i16,
    operator: pg_sys::Oid,
    collation: pg_sys::Oid,
}

impl SortColumn {
    fn comparison(&self) -> pg_sys::SortSupportData {
        // SAFETY: an ordering operator of the column's type.
        unsafe {
            let mut sort = pg_sys::SortSupportData {
                ssup_cxt: pg_sys::CurrentMemoryContext,
                ssup_collation: self.collation,
                ssup_attno: self.attnum,
                ..Default::default()
            };
            pg_sys::PrepareSortSupportFromOrderingOp(self.operator, &mut sort);
            sort
        }
    }

    /// Ranks of payloads of varlenas of the column, those that compare equal with the same one.
    pub fn ranks(&self, strings: &[&[u8]]) -> Vec<u64> {
        crate::pg::memory::for_this_call(|| {
            let mut numbers: Vec<u32> = (0..strings.len() as u32).collect();
            let mut sort = self.comparison();
            let datums = datums(strings);
            numbers.sort_by(|a, b| compare(&datums, *a, *b, &mut sort));
            let mut ranks = vec![0u64; strings.len()];
            let mut rank = 0;
            let mut before: Option<u32> = None;
            for number in numbers {
                if before.is_some_and(|b| compare(&datums, b, number, &mut sort).is_ne()) {
                    rank += 1;
                }
                before = Some(number);
                if let Some(place) = ranks.get_mut(number as usize) {
                    *place = rank;
                }
            }
            ranks
        })
    }
}

/// Varlenas in the current memory context.
fn datums(strings: &[&[u8]]) -> Vec<pg_sys::Datum> {
    strings
        .iter()
        .map(|s| crate::pg::tuple::new_bytea(s))
        .collect()
}

fn compare(
    datums: &[pg_sys::Datum],
    a: u32,
    b: u32,
    sort: &mut pg_sys::SortSupportData,
) -> std::cmp::Ordering {
    let (Some(a), Some(b)) = (datums.get(a as usize), datums.get(b as usize)) else {
        return std::cmp::Ordering::Equal;
    };
    let Some(comparator) = sort.comparator else {
        return std::cmp::Ordering::Equal;
    };
    // SAFETY: two values of the type that the comparison is for.
    let order =
        unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| comparator(*a, *b, sort)) };
    order.cmp(&0)
}

impl RowOrder {
    /// Rows as they lie.
    pub fn physical() -> Self {
        RowOrder::default()
    }

    /// Ascending by these columns.
    pub fn by(columns: Vec<String>) -> Self {
        RowOrder { columns }
    }

    /// The columns as this relation has them.
    pub fn resolve(&self, rel: pg_sys::Relation) -> Vec<SortColumn> {
        let desc = relation::tupdesc(rel);
        self.columns
            .iter()
            .filter_map(|name| {
                let name = std::ffi::CString::new(name.as_str()).ok()?;
                // SAFETY: syscache and type cache look-ups.
                unsafe {
                    let attnum = pg_sys::get_attnum(relation::oid(rel), name.as_ptr());
                    if attnum <= 0 {
                        return None;
                    }
                    let attr = relation::attribute(desc, attnum as usize - 1);
                    let typ =
                        pg_sys::lookup_type_cache(attr.atttypid, pg_sys::TYPECACHE_LT_OPR as i32);
                    ((*typ).lt_opr != pg_sys::InvalidOid).then_some(SortColumn {
                        attnum,
                        operator: (*typ).lt_opr,
                        collation: attr.attcollation,
                    })
                }
            })
            .collect()
    }

    /// A sorter for the rows of `rel`.
    pub fn sorter(&self, rel: pg_sys::Relation) -> Sorter {
        let desc = relation::tupdesc(rel);
        let natts = relation::natts(desc);
        let columns = self.resolve(rel);
        // SAFETY: a row shape of our own, with the origin of each row as one more column; sort and slots are ended by
        // drop or with the memory context.
        unsafe {
            let wide = pg_sys::CreateTemplateTupleDesc(natts as i32 + 1);
            for i in 0..natts {
                pg_sys::TupleDescCopyEntry(wide, i as i16 + 1, desc, i as i16 + 1);
            }
            pg_sys::TupleDescInitEntry(
                wide,
                natts as i16 + 1,
                c"origin".as_ptr(),
                pg_sys::INT8OID,
                -1,
                0,
            );
            let sort = if columns.is_empty() {
                Store::Physical(pg_sys::tuplestore_begin_heap(
                    false,
                    false,
                    pg_sys::maintenance_work_mem,
                ))
            } else {
                let mut attnums: Vec<i16> = columns.iter().map(|c| c.attnum).collect();
                let mut operators: Vec<pg_sys::Oid> = columns.iter().map(|c| c.operator).collect();
                let mut collations: Vec<pg_sys::Oid> =
                    columns.iter().map(|c| c.collation).collect();
                let mut nulls_first = vec![false; columns.len()];
                Store::Sorted(pg_sys::tuplesort_begin_heap(
                    wide,
                    columns.len() as i32,
                    attnums.as_mut_ptr(),
                    operators.as_mut_ptr(),
                    collations.as_mut_ptr(),
                    nulls_first.as_mut_ptr(),
                    pg_sys::maintenance_work_mem,
                    std::ptr::null_mut(),
                    0,
                ))
            };
            Sorter {
                natts,
                columns: columns.iter().map(|c| c.attnum as u16).collect(),
                store: sort,
                input: pg_sys::MakeSingleTupleTableSlot(wide, &raw const pg_sys::TTSOpsVirtual),
                output: pg_sys::MakeSingleTupleTableSlot(
                    wide,
                    &raw const pg_sys::TTSOpsMinimalTuple,
                ),
            }
        }
    }
}

enum Store {
    Sorted(*mut pg_sys::Tuplesortstate),
    Physical(*mut pg_sys::Tuplestorestate),
}

/// Takes rows in any order and gives them back sorted, spilling to disk beyond `maintenance_work_mem`.
pub struct Sorter {
    natts: usize,
    columns: Vec<u16>,
    store: Store,
    input: *mut pg_sys::TupleTableSlot,
    output: *mut pg_sys::TupleTableSlot,
}

impl Sorter {
    /// Attribute numbers by which the rows will ascend.
    pub fn columns(&self) -> &[u16] {
        &self.columns
    }

    /// Adds a row; values are copied (TOAST pointers as pointers).
    pub fn put(&mut self, values: &[pg_sys::Datum], nulls: &[bool], origin: u64) {
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
                *t = pg_sys::Datum::from(origin as usize);
                *n = false;
            }
            pg_sys::ExecStoreVirtualTuple(self.input);
            match self.store {
                Store::Sorted(s) => pg_sys::tuplesort_puttupleslot(s, self.input),
                Store::Physical(s) => pg_sys::tuplestore_puttupleslot(s, self.input),
            }
        }
    }

    /// Gives all rows to `f` (values, nulls, origin) in order.
    pub fn drain(&mut self, mut f: impl FnMut(&[pg_sys::Datum], &[bool], u64)) {
        // SAFETY: the sort is performed once; the slot's arrays have natts + 1 entries.
        unsafe {
            if let Store::Sorted(s) = self.store {
                pg_sys::tuplesort_performsort(s);
            }
            loop {
                pgrx::check_for_interrupts!();
                let more = match self.store {
                    Store::Sorted(s) => pg_sys::tuplesort_gettupleslot(
                        s,
                        true,
                        false,
                        self.output,
                        std::ptr::null_mut(),
                    ),
                    Store::Physical(s) => {
                        pg_sys::tuplestore_gettupleslot(s, true, false, self.output)
                    }
                };
                if !more {
                    break;
                }
                pg_sys::slot_getsomeattrs_int(self.output, self.natts as i32 + 1);
                let values = std::slice::from_raw_parts((*self.output).tts_values, self.natts + 1);
                let nulls = std::slice::from_raw_parts((*self.output).tts_isnull, self.natts + 1);
                if let (Some((origin, values)), Some((_, nulls))) =
                    (values.split_last(), nulls.split_last())
                {
                    f(values, nulls, origin.value() as u64);
                }
            }
        }
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: begun by `RowOrder::sorter`.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.input);
            pg_sys::ExecDropSingleTupleTableSlot(self.output);
            match self.store {
                Store::Sorted(s) => pg_sys::tuplesort_end(s),
                Store::Physical(s) => pg_sys::tuplestore_end(s),
            }
        }
    }
}
