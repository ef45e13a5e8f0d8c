//! Rows of catalogues, the server's and ours, read past SQL as the server reads its own.

use super::relation::OpenRel;
use super::snapshot;
use pgrx::pg_sys;

/// A value of a column that is the first one of an index.
#[derive(Clone, Copy)]
pub enum First {
    /// An `oid`, or a `regclass`.
    Oid(pg_sys::Oid),
    /// A `bigint`.
    Number(i64),
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
    each_where(table, index, 1, first, f);
}

/// As [`each_with`], for a column of any number.
pub fn each_where(
    table: &OpenRel,
    index: pg_sys::Oid,
    attnum: i16,
    first: First,
    f: impl FnMut(pg_sys::HeapTuple),
) {
    let latest = snapshot::Registered::latest();
    each_seen(table, index, attnum, first, &latest, f);
}

/// As [`each_where`], for the rows that a snapshot has.
pub fn each_seen(
    table: &OpenRel,
    index: pg_sys::Oid,
    attnum: i16,
    first: First,
    snapshot: &snapshot::Registered,
    f: impl FnMut(pg_sys::HeapTuple),
) {
    let (equal, value) = match first {
        First::Oid(oid) => (pg_sys::F_OIDEQ, pg_sys::Datum::from(oid)),
        First::Number(number) => (pg_sys::F_INT8EQ, pg_sys::Datum::from(number)),
    };
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: a scan of an open table by its index; key and snapshot last as long.
    unsafe {
        pg_sys::ScanKeyInit(
            &mut key,
            attnum,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from_u32(equal),
            value,
        );
        let scan =
            pg_sys::systable_beginscan(table.as_ptr(), index, true, snapshot.get(), 1, &mut key);
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
