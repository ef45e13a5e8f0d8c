//! What expressions call.

use pgrx::pg_sys;
use std::ffi::c_void;

/// OIDs from here on are of objects that somebody has made; those below came with the server.
const FIRST_MADE: u32 = pg_sys::FirstNormalObjectId;

/// Whether an expression calls volatile functions that did not come with the server. They may write, and they see what the
/// running statement has written so far; those of the server (`random`, `clock_timestamp`, `gen_random_uuid`, `nextval`)
/// look at no table.
///
/// # Safety
/// A valid expression, or null.
pub unsafe fn sees_the_statement(node: *mut pg_sys::Node) -> bool {
    // SAFETY: by contract.
    unsafe { walk(node, std::ptr::null_mut()) }
}

unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the walker passes on valid nodes.
    unsafe {
        pg_sys::check_functions_in_node(node, Some(is_seeing), context)
            || pg_sys::expression_tree_walker_impl(node, Some(walk), context)
    }
}

unsafe extern "C-unwind" fn is_seeing(function: pg_sys::Oid, _context: *mut c_void) -> bool {
    function.to_u32() >= FIRST_MADE
        // SAFETY: a catalogue look-up.
        && unsafe { pg_sys::func_volatile(function) } as u8 == pg_sys::PROVOLATILE_VOLATILE
}
