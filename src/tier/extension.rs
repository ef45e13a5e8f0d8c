//! DROP EXTENSION, which would take frozen rows along.

use crate::am::{companion, error};
use crate::pg::relation;
use crate::pg::spi;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;

thread_local! {
    /// Whether the running utility statement has dropped a table with frozen rows.
    static LOST: Cell<bool> = const { Cell::new(false) };
}

/// Called when a table with frozen rows is dropped.
pub fn note_loss() {
    LOST.set(true);
}

/// Called when an extension is dropped, after what depends on it: the last line of defence, where CASCADE came by a way
/// that [`before_utility`] does not know.
pub fn on_drop(extension: pg_sys::Oid) {
    // SAFETY: a catalogue look-up.
    let ours = unsafe { pg_sys::get_extension_oid(c"varve".as_ptr(), true) };
    if extension != ours {
        return;
    }
    let left = companion::all()
        .into_iter()
        .any(|(_, segments, _)| companion::has_segments(segments));
    if LOST.take() || left {
        refuse(None);
    }
}

fn refuse(table: Option<pg_sys::Oid>) -> ! {
    error::raise(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        "cannot drop extension varve while tables have frozen rows".into(),
        table.map(|t| format!("{} has frozen rows.", relation::qualified_name(t))),
        Some(
            "Bring them back first, with varve.disable('table') or varve.set_tier(chunk, 'hot')."
                .into(),
        ),
    )
}

/// Refuses what would drop varve while there are frozen rows: DROP EXTENSION, and DROP SCHEMA and DROP OWNED that
/// cascade to it (or to timescaledb, and so to varve).
///
/// # Safety
/// `statement` is a valid utility statement or NULL.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    LOST.set(false);
    // SAFETY: by contract.
    let hit = unsafe {
        if statement.is_null() {
            return;
        }
        match (*statement).type_ {
            pg_sys::NodeTag::T_DropStmt => drops(&*statement.cast::<pg_sys::DropStmt>()),
            pg_sys::NodeTag::T_DropOwnedStmt => {
                drops_owned(&*statement.cast::<pg_sys::DropOwnedStmt>())
            }
            _ => false,
        }
    };
    if hit && relation::varve_am().is_some() {
        refuse_or_clear();
    }
}

/// The extensions whose end would be varve's.
const EXTENSIONS: [&CStr; 2] = [c"varve", c"timescaledb"];

/// # Safety
/// `list` is a list of nodes or NULL.
unsafe fn nodes(list: *mut pg_sys::List) -> impl Iterator<Item = *mut std::ffi::c_void> {
    let length = if list.is_null() {
        0
    } else {
        // SAFETY: by contract.
        unsafe { (*list).length as usize }
    };
    // SAFETY: positions below the length.
    (0..length).map(move |i| unsafe { (*(*list).elements.add(i)).ptr_value })
}

/// # Safety
/// A statement as the parser makes it: extensions and schemas are named by strings.
unsafe fn drops(drop: &pg_sys::DropStmt) -> bool {
    let cascade = drop.behavior == pg_sys::DropBehavior::DROP_CASCADE;
    // SAFETY: by contract.
    unsafe {
        nodes(drop.objects).any(|object| match drop.removeType {
            pg_sys::ObjectType::OBJECT_EXTENSION => {
                let name = CStr::from_ptr((*object.cast::<pg_sys::String>()).sval);
                name == c"varve" || (cascade && name == c"timescaledb")
            }
            pg_sys::ObjectType::OBJECT_SCHEMA => {
                let name = CStr::from_ptr((*object.cast::<pg_sys::String>()).sval);
                let schema = pg_sys::get_namespace_oid(name.as_ptr(), true);
                cascade && schema != pg_sys::InvalidOid && holds_extension(schema)
            }
            _ => false,
        })
    }
}

/// Whether one of the extensions lives in a schema.
fn holds_extension(schema: pg_sys::Oid) -> bool {
    EXTENSIONS.iter().any(|name| {
        // SAFETY: catalogue look-ups; a missing extension has no OID and no schema.
        unsafe {
            let extension = pg_sys::get_extension_oid(name.as_ptr(), true);
            extension != pg_sys::InvalidOid && pg_sys::get_extension_schema(extension) == schema
        }
    })
}

/// # Safety
/// A statement as the parser makes it.
unsafe fn drops_owned(drop: &pg_sys::DropOwnedStmt) -> bool {
    if drop.behavior != pg_sys::DropBehavior::DROP_CASCADE {
        return false;
    }
    // SAFETY: by contract; roles that do not exist are left to the statement itself.
    let roles: Vec<pg_sys::Oid> = unsafe {
        nodes(drop.roles)
            .map(|role| pg_sys::get_rolespec_oid(role.cast(), true))
            .collect()
    };
    let owner = |name: &CStr| {
        spi::read_one::<pg_sys::Oid>(
            "SELECT pg_catalog.max(extowner::pg_catalog.int8)::pg_catalog.oid FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
            &[name.to_string_lossy().into_owned().into()],
        )
    };
    EXTENSIONS
        .iter()
        .filter_map(|name| owner(name))
        .any(|owner| roles.contains(&owner))
}

/// Raises an error where there are frozen rows; empty companions go now, so that nothing stands in the way.
fn refuse_or_clear() {
    for (table, segments, form) in companion::all() {
        if companion::has_segments(segments) {
            refuse(Some(table));
        }
        companion::drop_for(&form);
    }
}
