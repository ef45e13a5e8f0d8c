//! Transactions of processes that have no client.

use super::guard;
use pgrx::pg_sys;
use std::panic::AssertUnwindSafe;

/// An error, in its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Five characters.
    pub sqlstate: String,
    /// What happened.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What can be done.
    pub hint: Option<String>,
    /// Where it happened.
    pub context: Option<String>,
}

/// Runs `f` in a transaction of its own. Nothing of what the role has set for its transactions applies: it may write, and
/// sees what is committed.
pub fn run<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: outside any transaction; an error on the way ends it with what it did.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::XactReadOnly = false;
        pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = f();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        result
    }
}

/// Runs `f`, which may begin and end transactions. An error takes back what is not committed, and is returned.
pub fn attempt<T>(f: impl FnOnce() -> T) -> Result<T, Failure> {
    guard::caught(AssertUnwindSafe(f)).inspect_err(|_| {
        // SAFETY: as the main loop of a session cleans up after an error.
        unsafe {
            pg_sys::InterruptHoldoffCount += 1;
            super::ffi::disable_all_timeouts(false);
            pg_sys::QueryCancelPending = 0;
            pg_sys::AbortOutOfAnyTransaction();
            pg_sys::PortalErrorCleanup();
            pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::InterruptHoldoffCount -= 1;
        }
    })
}
