//! What the engine leaves to the ordinary path: one INSERT … ON CONFLICT, which honours everything that a table can have.

use crate::pg::relation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// Why a batch, or its rows for one chunk, take the ordinary path.
pub type Reason = &'static str;

/// Says at DEBUG1 that rows take the ordinary path.
pub fn note(table: &str, reason: Reason) {
    ereport!(
        PgLogLevel::DEBUG1,
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("rows for {table} are written by INSERT ... ON CONFLICT: {reason}")
    );
}

/// Whether the engine honours everything that the table named in the call has.
pub fn check_root(rel: pg_sys::Relation) -> Result<(), Reason> {
    let form = relation::form(rel);
    // SAFETY: an open relation; look-ups in its cache entry and the system caches.
    unsafe {
        if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
            return Err("it is partitioned");
        }
        if !(*rel).rd_rules.is_null() {
            return Err("it has rules");
        }
        let secured = pg_sys::check_enable_rls(relation::oid(rel), pg_sys::InvalidOid, true);
        if secured == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
            return Err("it has row-level security");
        }
    }
    check_triggers(rel)
}

/// Whether the engine can write into a chunk, or a table that is none of a hypertable's.
pub fn check_leaf(rel: pg_sys::Relation) -> Result<(), Reason> {
    let form = relation::form(rel);
    if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
        return Err("the chunk is no table");
    }
    if form.relam != relation::HEAP_AM && Some(form.relam) != relation::varve_am() {
        return Err("it has another access method");
    }
    check_triggers(rel)
}

/// Triggers of foreign keys are fired by the engine; others see rows, or statements, as they are no more.
fn check_triggers(rel: pg_sys::Relation) -> Result<(), Reason> {
    // SAFETY: an open relation's triggers.
    let triggers = unsafe {
        let desc = (*rel).trigdesc;
        if desc.is_null() {
            return Ok(());
        }
        std::slice::from_raw_parts((*desc).triggers, (*desc).numtriggers as usize)
    };
    for trigger in triggers {
        let fires = pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE;
        if trigger.tgtype as u32 & fires == 0 {
            continue;
        }
        // SAFETY: trigger names are NUL-terminated; a look-up by OID.
        let honoured = unsafe {
            CStr::from_ptr(trigger.tgname) == c"ts_insert_blocker"
                || pg_sys::RI_FKey_trigger_type(trigger.tgfoid) != pg_sys::RI_TRIGGER_NONE as i32
        };
        if !honoured {
            return Err("it has triggers");
        }
    }
    Ok(())
}
