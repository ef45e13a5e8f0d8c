//! What EXPLAIN shows of our nodes.

use super::counters::Counters;
use crate::pg::list;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Shows conditions as SQL.
///
/// # Safety
/// `clauses` are expressions of `plan`, and `state` is EXPLAIN's.
pub unsafe fn conditions(
    label: &CStr,
    clauses: *mut pg_sys::List,
    plan: *mut pg_sys::Plan,
    ancestors: *mut pg_sys::List,
    state: *mut pg_sys::ExplainState,
) {
    // SAFETY: by contract; as show_qual deparses.
    unsafe {
        if list::cells(clauses).is_empty() {
            return;
        }
        let clause = pg_sys::make_ands_explicit(clauses);
        let context = pg_sys::set_deparse_context_plan((*state).deparse_cxt, plan, ancestors);
        let text = pg_sys::deparse_expression(clause.cast(), context, (*state).verbose, false);
        pg_sys::ExplainPropertyText(label.as_ptr(), text, state);
    }
}

/// Shows what a scan did.
///
/// # Safety
/// `state` is EXPLAIN's.
pub unsafe fn counters(counters: &Counters, delta_removed: u64, state: *mut pg_sys::ExplainState) {
    // SAFETY: by contract.
    let number = |label: &CStr, value: u64| unsafe { number(label, value, state) };
    // SAFETY: by contract.
    let text = unsafe { (*state).format } == pg_sys::ExplainFormat::EXPLAIN_FORMAT_TEXT;
    let removed = counters.rows_removed + delta_removed;
    if text {
        let filtered = match counters.pages_filtered {
            0 => String::new(),
            pages => format!(" ({pages} by Bloom filter)"),
        };
        let line = format!(
            "{} read, {} skipped; Pages: {} read, {} skipped{filtered}; Columns Decoded: {}",
            counters.segments_read,
            counters.segments_skipped,
            counters.pages_read,
            counters.pages_skipped,
            counters.columns_decoded,
        );
        let line = CString::new(line).unwrap_or_default();
        // SAFETY: by contract.
        unsafe {
            pg_sys::ExplainPropertyText(c"Segments".as_ptr(), line.as_ptr(), state);
        }
        if removed > 0 {
            number(c"Rows Removed by Columnar Filter", removed);
        }
        return;
    }
    number(c"Segments Read", counters.segments_read);
    number(c"Segments Skipped", counters.segments_skipped);
    number(c"Pages Read", counters.pages_read);
    number(c"Pages Skipped", counters.pages_skipped);
    number(c"Pages Skipped by Bloom Filter", counters.pages_filtered);
    number(c"Columns Decoded", counters.columns_decoded);
    number(c"Rows Removed by Columnar Filter", removed);
}

/// Shows a number.
///
/// # Safety
/// `state` is EXPLAIN's.
pub unsafe fn number(label: &CStr, value: u64, state: *mut pg_sys::ExplainState) {
    // SAFETY: by contract.
    unsafe {
        pg_sys::ExplainPropertyInteger(label.as_ptr(), std::ptr::null(), value as i64, state);
    }
}
