//! Tiers: freezing chunks and bringing them back, verifying them, and the functions that users call for it.
//!
//! - [`freeze`], [`rewrite`], [`carry`]: exchanging a chunk's storage; [`lock`], [`conflict`]: its lock and its word to standbys.
//! - [`order`], [`missing`]: the order of rows, and columns that a segment lacks.
//! - [`enable`], [`set_tier`], [`inspect`], [`verify`]: SQL functions; [`catalog`]: the tables behind them.
//! - [`extension`]: DROP EXTENSION.

pub mod carry;
pub mod catalog;
pub mod conflict;
pub mod enable;
pub mod extension;
pub mod freeze;
pub mod inspect;
pub mod lock;
pub mod missing;
pub mod order;
pub mod rewrite;
pub mod set_tier;
pub mod verify;

use pgrx::pg_sys;

/// Fails when the table is open in a query of this session or has pending trigger events.
pub fn check_not_in_use(rel: pg_sys::Relation, what: &str) {
    let what = std::ffi::CString::new(what).unwrap_or_default();
    // SAFETY: an open relation and a NUL-terminated name.
    unsafe { pg_sys::CheckTableNotInUse(rel, what.as_ptr()) }
}
