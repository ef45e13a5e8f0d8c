//! Tiers: freezing chunks and bringing them back, verifying them, and the functions that users call for it.
//!
//! - [`freeze`], [`rewrite`], [`carry`]: exchanging a chunk's storage; [`lock`], [`conflict`]: its lock and its word to standbys.
//! - [`gather`], [`order`], [`missing`]: the order of rows, and columns that a segment lacks; [`statistics`]: the planner's.
//! - [`enable`], [`set_tier`], [`inspect`], [`verify`]: SQL functions; [`level`]: the tiers; [`catalog`]: the tables behind
//!   them.
//! - [`policy`] is `add_tiering_policy`.
//! - [`extension`]: DROP EXTENSION.

pub mod carry;
pub mod catalog;
pub mod conflict;
pub mod enable;
pub mod extension;
pub mod freeze;
pub mod gather;
pub mod inspect;
pub mod level;
pub mod lock;
pub mod missing;
pub mod order;
pub mod policy;
pub mod rewrite;
pub mod set_tier;
pub mod statistics;
pub mod verify;

use pgrx::pg_sys;

/// Fails when the table is open in a query of this session or has pending trigger events. `verb` is what was to be done.
pub fn check_not_in_use(rel: pg_sys::Relation, verb: &std::ffi::CStr) {
    // SAFETY: an open relation and a NUL-terminated word.
    unsafe { pg_sys::CheckTableNotInUse(rel, verb.as_ptr()) }
}

/// Fails in a read-only transaction, in parallel mode and on a standby, as the SQL function `name` writes; and
/// without varve's hooks.
pub fn check_writable(name: &std::ffi::CStr) {
    crate::require_preload();
    // SAFETY: a NUL-terminated name.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(name.as_ptr());
        pg_sys::PreventCommandIfParallelMode(name.as_ptr());
        pg_sys::PreventCommandDuringRecovery(name.as_ptr());
    }
}
