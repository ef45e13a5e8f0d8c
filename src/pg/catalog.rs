//! Rows of catalogues, the server's and ours, read past SQL as the server reads its own.

use super::relation::OpenRel;
use super::snapshot;
use pgrx::pg_sys;

/// A value of a column by which an index is read.
#[derive(Clone, Copy)]
pub enum First {
    /// An `oid`, or a `regclass`.
    Oid(pg_sys::Oid),
    /// A `bigint`.
    Number(i64),
    /// An `integer`.
    Small(i32),
}

/// Hands on every row of a catalogue of the server's, as they are now. A row lasts until the next one.
pub fn each(table: &OpenRel, f: impl FnMut(pg_sys::HeapTuple)) {
    // SAFETY: a scan of an open catalogue, with a snapshot of its own.
    unsafe {
        let scan = pg_sys::systable_beginscan(
            table.as_ptr(),
            pg_sys::InvalidOid,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        drain(scan, f);
    }
}

/// Hands on the rows with a value in their first column, by an index that begins with it, as they are now. A row lasts until the
/// next one.
pub fn each_with(
    table: &OpenRel,
    index: pg_sys::Oid,
    first: First,
    f: impl FnMut(pg_sys::HeapTuple),
) {
    each_where(table, index, &[(1, first)], f);
}

/// As [`each_with`], for the first columns of an index, of any numbers in the table.
pub fn each_where(
    table: &OpenRel,
    index: pg_sys::Oid,
    columns: &[(i16, First)],
    f: impl FnMut(pg_sys::HeapTuple),
) {
    let latest = snapshot::Registered::latest();
    each_seen(table, index, columns, &latest, f);
}

/// As [`each_where`], for the rows that a snapshot has.
pub fn each_seen(
    table: &OpenRel,
    index: pg_sys::Oid,
    columns: &[(i16, First)],
    snapshot: &snapshot::Registered,
    f: impl FnMut(pg_sys::HeapTuple),
) {
    let mut keys = vec![pg_sys::ScanKeyData::default(); columns.len()];
    for (key, (attnum, first)) in keys.iter_mut().zip(columns) {
        let (equal, value) = match *first {
            First::Oid(oid) => (pg_sys::F_OIDEQ, pg_sys::Datum::from(oid)),
            First::Number(number) => (pg_sys::F_INT8EQ, pg_sys::Datum::from(number)),
            First::Small(number) => (pg_sys::F_INT4EQ, pg_sys::Datum::from(number)),
        };
        // SAFETY: fills in a key of our own.
        unsafe {
            let strategy = pg_sys::BTEqualStrategyNumber as u16;
            let equal = pg_sys::Oid::from_u32(equal);
            pg_sys::ScanKeyInit(key, *attnum, strategy, equal, value);
        }
    }
    let count = keys.len() as i32;
    // SAFETY: a scan of an open table by its index; keys and snapshot last as long.
    unsafe {
        let keys = keys.as_mut_ptr();
        let scan =
            pg_sys::systable_beginscan(table.as_ptr(), index, true, snapshot.get(), count, keys);
        drain(scan, f);
    }
}

/// # Safety
/// A scan that has just begun.
unsafe fn drain(scan: pg_sys::SysScanDesc, mut f: impl FnMut(pg_sys::HeapTuple)) {
    // SAFETY: by contract; the scan ends here.
    unsafe {
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            f(row);
        }
        pg_sys::systable_endscan(scan);
    }
}
