//! The order in which a chunk's rows are frozen: by key where the table is enabled, else as they lie.

use crate::pg::relation;
use crate::pg::sort::{RowSort, SortColumn};
use pgrx::pg_sys;

/// Sort columns of a table, as attribute names (they may have other numbers in each chunk).
#[derive(Clone, Debug, Default)]
pub struct RowOrder {
    columns: Vec<String>,
}

impl SortColumn {
    /// Ranks of payloads of varlenas of the column, those that compare equal with the same one.
    pub fn ranks(&self, strings: &[&[u8]]) -> Vec<u64> {
        crate::pg::memory::for_this_call(|| {
            let mut numbers: Vec<u32> = (0..strings.len() as u32).collect();
            let mut sort = self.support();
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
                // SAFETY: a syscache look-up.
                let attnum = unsafe { pg_sys::get_attnum(relation::oid(rel), name.as_ptr()) };
                let at = usize::try_from(attnum).ok()?.checked_sub(1)?;
                SortColumn::of(relation::attribute(desc, at), false)
            })
            .collect()
    }
}

/// A sorter for the rows of `rel`, which spills to disk beyond `maintenance_work_mem`.
pub fn sorter(rel: pg_sys::Relation, columns: &[SortColumn]) -> RowSort {
    // SAFETY: a setting.
    let memory = unsafe { pg_sys::maintenance_work_mem };
    RowSort::new(relation::tupdesc(rel), columns, memory)
}
