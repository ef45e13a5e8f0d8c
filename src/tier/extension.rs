//! DROP EXTENSION, which would take frozen rows along.

use crate::am::{companion, error};
use crate::pg::relation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// Refuses to drop varve (or timescaledb with CASCADE) while there are frozen rows.
///
/// # Safety
/// `statement` is a valid utility statement or NULL.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    // SAFETY: by contract; the list of DROP EXTENSION holds names.
    unsafe {
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_DropStmt {
            return;
        }
        let drop = &*statement.cast::<pg_sys::DropStmt>();
        if drop.removeType != pg_sys::ObjectType::OBJECT_EXTENSION || drop.objects.is_null() {
            return;
        }
        let cascade = drop.behavior == pg_sys::DropBehavior::DROP_CASCADE;
        let hit = (0..(*drop.objects).length as usize).any(|i| {
            let value = (*(*drop.objects).elements.add(i))
                .ptr_value
                .cast::<pg_sys::String>();
            let name = CStr::from_ptr((*value).sval).to_bytes();
            name == b"varve" || (cascade && name == b"timescaledb")
        });
        if !hit || relation::varve_am().is_none() {
            return;
        }
    }
    for (table, segments, form) in companion::all() {
        if companion::has_segments(segments) {
            error::raise(
                PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                "cannot drop extension varve while tables have frozen rows".into(),
                Some(format!("{} has frozen rows.", relation::qualified_name(table))),
                Some("Bring them back first, with varve.disable('table') or varve.set_tier(chunk, 'hot').".into()),
            );
        }
        companion::drop_for(&form);
    }
}
