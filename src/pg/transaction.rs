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

/// Limits of time that the session has set, put aside.
struct Limits(i32, i32);

impl Limits {
    fn put_aside() -> Self {
        // SAFETY: variables of settings, which nothing changes meanwhile.
        unsafe {
            let limits = Limits(pg_sys::LockTimeout, pg_sys::TransactionTimeout);
            (pg_sys::LockTimeout, pg_sys::TransactionTimeout) = (0, 0);
            limits
        }
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { (pg_sys::LockTimeout, pg_sys::TransactionTimeout) = (self.0, self.1) }
    }
}

/// Commits the transaction that a procedure was called in, and begins another, without a snapshot: as COMMIT in one of
/// PL/pgSQL does. An error where the procedure is called in a transaction block, or by a function.
pub fn begin_anew(args: &super::function::Args) {
    // SAFETY: a call of a procedure, whose context says whether it may end transactions; the connection to SPI is ended before
    // anything else is done with it.
    unsafe {
        let context = (*args.0).context;
        let may = !context.is_null()
            && (*context).type_ == pg_sys::NodeTag::T_CallContext
            && !(*context.cast::<pg_sys::CallContext>()).atomic;
        if !may {
            crate::am::error::raise(
                pgrx::PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION,
                "the procedure cannot run in a transaction block or function".into(),
                None,
                Some("CALL it by itself.".into()),
            );
        }
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        pg_sys::SPI_commit();
        pg_sys::SPI_finish();
    }
}

/// Lets go of what look-ups in catalogues have left, so that the transaction has no snapshot.
pub fn release_snapshot() {
    // SAFETY: the snapshot is taken anew when it is needed again.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}

/// Runs `f` with a snapshot, in a transaction that has none; it has none again afterwards.
pub fn with_snapshot<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped here; an error ends the transaction, and the stack with it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = f();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `f` while nobody can cancel it; to terminate the process still works.
pub fn without_cancels<T>(f: impl FnOnce() -> T) -> T {
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            // SAFETY: counted up below.
            unsafe { pg_sys::QueryCancelHoldoffCount -= 1 }
        }
    }
    // SAFETY: a counter of the process.
    unsafe { pg_sys::QueryCancelHoldoffCount += 1 };
    let _held = Held;
    f()
}

/// Runs `f` in a transaction of its own. Nothing of what the role has set for its transactions applies: it may write, and
/// sees what is committed, and no limit of time is set.
pub fn run<T>(f: impl FnOnce() -> T) -> T {
    run_within(0, f)
}

/// As [`run`], waiting for no lock longer than so many milliseconds; 0 for ever.
pub fn run_within<T>(lock_timeout: i32, f: impl FnOnce() -> T) -> T {
    let _limits = Limits::put_aside();
    // SAFETY: outside any transaction; an error on the way ends it with what it did.
    unsafe {
        pg_sys::LockTimeout = lock_timeout;
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
            pg_sys::debug_query_string = std::ptr::null();
            pg_sys::AbortOutOfAnyTransaction();
            pg_sys::PortalErrorCleanup();
            pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::InterruptHoldoffCount -= 1;
        }
    })
}
