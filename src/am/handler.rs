//! The access method's routine: a copy of heap's with our callbacks in it.

use super::{analyze, fetch, index_build, lookup, modify, sample, scan, storage};
use crate::pg::guard;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicPtr, Ordering};

static ROUTINE: AtomicPtr<pg_sys::TableAmRoutine> = AtomicPtr::new(std::ptr::null_mut());

fn routine() -> *mut pg_sys::TableAmRoutine {
    let known = ROUTINE.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let mut r = *crate::pg::heap::routine();
    r.scan_begin = Some(scan::scan_begin);
    r.scan_end = Some(scan::scan_end);
    r.scan_rescan = Some(scan::scan_rescan);
    r.scan_getnextslot = Some(scan::scan_getnextslot);
    r.scan_set_tidrange = Some(scan::scan_set_tidrange);
    r.scan_getnextslot_tidrange = Some(scan::scan_getnextslot_tidrange);
    r.parallelscan_estimate = Some(scan::parallelscan_estimate);
    r.parallelscan_initialize = Some(scan::parallelscan_initialize);
    r.parallelscan_reinitialize = Some(scan::parallelscan_reinitialize);
    r.scan_bitmap_next_block = Some(scan::scan_bitmap_next_block);
    r.scan_bitmap_next_tuple = Some(scan::scan_bitmap_next_tuple);
    r.scan_sample_next_block = Some(sample::scan_sample_next_block);
    r.scan_sample_next_tuple = Some(sample::scan_sample_next_tuple);
    r.scan_analyze_next_block = Some(analyze::scan_analyze_next_block);
    r.scan_analyze_next_tuple = Some(analyze::scan_analyze_next_tuple);
    r.index_fetch_begin = Some(lookup::index_fetch_begin);
    r.index_fetch_tuple = Some(fetch::index_fetch_tuple);
    r.tuple_fetch_row_version = Some(modify::tuple_fetch_row_version);
    r.tuple_tid_valid = Some(fetch::tuple_tid_valid);
    r.tuple_get_latest_tid = Some(fetch::tuple_get_latest_tid);
    r.tuple_satisfies_snapshot = Some(modify::tuple_satisfies_snapshot);
    r.tuple_insert = Some(modify::tuple_insert);
    r.tuple_insert_speculative = Some(modify::tuple_insert_speculative);
    r.multi_insert = Some(modify::multi_insert);
    r.tuple_delete = Some(modify::tuple_delete);
    r.tuple_update = Some(modify::tuple_update);
    r.tuple_lock = Some(modify::tuple_lock);
    r.relation_set_new_filelocator = Some(storage::relation_set_new_filelocator);
    r.relation_nontransactional_truncate = Some(storage::relation_nontransactional_truncate);
    r.relation_copy_data = Some(storage::relation_copy_data);
    r.relation_copy_for_cluster = Some(storage::relation_copy_for_cluster);
    r.relation_vacuum = Some(storage::relation_vacuum);
    r.relation_estimate_size = Some(storage::relation_estimate_size);
    r.relation_toast_am = Some(storage::relation_toast_am);
    r.index_build_range_scan = Some(index_build::index_build_range_scan);
    r.index_validate_scan = Some(index_build::index_validate_scan);
    // The routine lives as long as the process, as the server expects of a handler's result.
    let fresh = Box::into_raw(Box::new(r));
    ROUTINE.store(fresh, Ordering::Relaxed);
    fresh
}

/// Handler of the access method (`CREATE ACCESS METHOD varve TYPE TABLE HANDLER varve.am_handler`).
#[unsafe(no_mangle)]
pub extern "C-unwind" fn varve_am_handler_wrapper(
    _info: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    guard::entry(|| {
        crate::require_preload();
        pg_sys::Datum::from(routine())
    })
}

/// Calling convention of the handler.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_varve_am_handler_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}
