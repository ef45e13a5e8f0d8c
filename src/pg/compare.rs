//! Comparing keys as a btree index does.

use super::relation;
use super::sort::SortColumn;
use super::tuple;
use pgrx::pg_sys;
use std::cmp::Ordering;

/// How values of a key column are compared.
pub enum Compare {
    /// As signed integers of so many bytes.
    Signed(i16),
    /// By the operator class; the flag tells that values are varlenas.
    Support(Box<pg_sys::SortSupportData>, bool),
}

impl Compare {
    fn of(index: pg_sys::Relation, position: usize) -> Self {
        let attr = relation::attribute(relation::tupdesc(index), position);
        let less = operator(index, position, pg_sys::BTLessStrategyNumber);
        let signed = matches!(
            relation::base_type(attr.atttypid),
            pg_sys::INT2OID
                | pg_sys::INT4OID
                | pg_sys::INT8OID
                | pg_sys::DATEOID
                | pg_sys::TIMESTAMPOID
                | pg_sys::TIMESTAMPTZOID
        );
        if signed && less == relation::ordering_operator(attr.atttypid, false) {
            return Compare::Signed(attr.attlen);
        }
        let column = SortColumn {
            attnum: attr.attnum,
            operator: less,
            collation: collation(index, position),
            nulls_first: false,
        };
        Compare::Support(Box::new(column.support()), attr.attlen == -1)
    }

    /// How one value lies to another.
    pub fn compare(&mut self, a: pg_sys::Datum, b: pg_sys::Datum) -> Ordering {
        let (a_int, b_int) = (a.value(), b.value());
        match self {
            Compare::Signed(2) => (a_int as i16).cmp(&(b_int as i16)),
            Compare::Signed(4) => (a_int as i32).cmp(&(b_int as i32)),
            Compare::Signed(_) => (a_int as i64).cmp(&(b_int as i64)),
            Compare::Support(support, varlena) => {
                // SAFETY: both are values of the column's type; its comparator was prepared for them.
                unsafe {
                    if *varlena && tuple::same_inline(a, b) {
                        return Ordering::Equal;
                    }
                    let support: pg_sys::SortSupport = &mut **support;
                    let Some(comparator) = (*support).comparator else {
                        return Ordering::Equal;
                    };
                    pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| comparator(a, b, support))
                        .cmp(&0)
                }
            }
        }
    }
}

/// How the keys of an index are compared, column by column. Lives in the current memory context.
pub fn of_keys(index: pg_sys::Relation) -> Vec<Compare> {
    // SAFETY: an open index has its pg_index row.
    let keys = unsafe { (*(*index).rd_index).indnkeyatts } as usize;
    (0..keys).map(|i| Compare::of(index, i)).collect()
}

/// Operator of a key column's operator class.
pub fn operator(index: pg_sys::Relation, position: usize, strategy: u32) -> pg_sys::Oid {
    // SAFETY: an open index has an entry for each key column; a syscache look-up.
    unsafe {
        let family = *(*index).rd_opfamily.add(position);
        let input = *(*index).rd_opcintype.add(position);
        pg_sys::get_opfamily_member(family, input, input, strategy as i16)
    }
}

/// Collation of a key column.
pub fn collation(index: pg_sys::Relation, position: usize) -> pg_sys::Oid {
    // SAFETY: an open index has an entry for each key column.
    unsafe { *(*index).rd_indcollation.add(position) }
}
