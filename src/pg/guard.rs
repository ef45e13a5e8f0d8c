//! The way into Rust: every function that PostgreSQL calls runs its body through [`entry`].
//!
//! pgrx turns an `ereport(ERROR)` below us into a panic, so that destructors run, and reports it again on the way out;
//! but its report keeps only code, message, detail and hint. Users and drivers also need the constraint's name, the
//! position in the statement and the context lines. So the error is copied whole while it is being raised, and the
//! copy is thrown instead.

use super::transaction::Failure;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::any::Any;
use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

thread_local! {
    /// The error raised last below one of our functions.
    static LAST: Cell<*mut pg_sys::ErrorData> = const { Cell::new(ptr::null_mut()) };
    /// Where its copy lies; emptied when the next one is raised.
    static CONTEXT: Cell<pg_sys::MemoryContext> = const { Cell::new(ptr::null_mut()) };
}

/// Runs the body of a function that PostgreSQL called. Errors and panics go on as PostgreSQL errors, complete as they
/// were raised.
pub fn entry<R>(body: impl FnOnce() -> R) -> R {
    watched(AssertUnwindSafe(body)).unwrap_or_else(|payload| rethrow(payload))
}

/// Runs a body; an error that ends it is copied whole while it is raised.
fn watched<R>(body: AssertUnwindSafe<impl FnOnce() -> R>) -> Result<R, Box<dyn Any + Send>> {
    // SAFETY: the entry of the context stack lives as long as this frame, and is taken off before the frame ends.
    unsafe {
        let mut callback = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(remember),
            arg: ptr::null_mut(),
        };
        pg_sys::error_context_stack = &raw mut callback;
        let outcome = catch_unwind(body);
        pg_sys::error_context_stack = callback.previous;
        outcome
    }
}

/// Runs a body; an error in it is returned in its parts, complete as it was raised. The caller ends the transaction.
pub fn caught<R>(body: AssertUnwindSafe<impl FnOnce() -> R>) -> Result<R, Failure> {
    watched(body).map_err(|payload| {
        let copy = LAST.replace(ptr::null_mut());
        if is_copy_of(copy, payload.as_ref()) {
            // SAFETY: a live copy, whose texts are NUL-terminated where they are set.
            unsafe { parts_of(&*copy) }
        } else {
            parts_of_panic(payload.as_ref())
        }
    })
}

/// # Safety
/// Texts are NUL-terminated where they are set.
unsafe fn parts_of(error: &pg_sys::ErrorData) -> Failure {
    let text = |text: *mut std::ffi::c_char| {
        (!text.is_null()).then(|| {
            // SAFETY: by contract.
            let text = unsafe { CStr::from_ptr(text) };
            text.to_string_lossy().into_owned()
        })
    };
    Failure {
        sqlstate: sqlstate(error.sqlerrcode as u32),
        message: text(error.message).unwrap_or_default(),
        detail: text(error.detail),
        hint: text(error.hint),
        context: text(error.context),
    }
}

/// What is known of an error that was not raised by PostgreSQL.
fn parts_of_panic(payload: &(dyn Any + Send)) -> Failure {
    let caught = match payload.downcast_ref::<CaughtError>() {
        Some(
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic {
                ereport: report, ..
            },
        ) => Some(report),
        None => payload.downcast_ref::<ErrorReportWithLevel>(),
    };
    if let Some(report) = caught {
        return Failure {
            sqlstate: sqlstate(report.sql_error_code() as u32),
            message: report.message().to_string(),
            detail: report.detail().map(str::to_string),
            hint: report.hint().map(str::to_string),
            context: None,
        };
    }
    let words = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()));
    Failure {
        sqlstate: sqlstate(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as u32),
        message: words.unwrap_or_else(|| "an internal error of varve".into()),
        ..Failure::default()
    }
}

/// Raises an error from its parts, whatever its SQLSTATE.
pub fn raise(failure: &Failure) -> ! {
    let text = |text: &str| {
        let text = std::ffi::CString::new(text).unwrap_or_default();
        // SAFETY: a copy in the current memory context, which the error's own copy is made from.
        unsafe { pg_sys::pstrdup(text.as_ptr()) }
    };
    let maybe = |part: &Option<String>| part.as_deref().map_or(ptr::null_mut(), text);
    let packed = failure.sqlstate.bytes().take(5).enumerate();
    let packed = packed.fold(0, |all, (i, c)| {
        all | (i32::from(c.wrapping_sub(b'0')) & 0x3f) << (6 * i)
    });
    // SAFETY: a complete error; it passes no frame of ours, since the boundary makes a panic of it.
    unsafe {
        let mut error = pg_sys::ErrorData {
            elevel: pgrx::PgLogLevel::ERROR as i32,
            sqlerrcode: packed,
            message: text(&failure.message),
            detail: maybe(&failure.detail),
            hint: maybe(&failure.hint),
            context: maybe(&failure.context),
            assoc_context: pg_sys::CurrentMemoryContext,
            ..Default::default()
        };
        let error = &raw mut error;
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| super::ffi::raw::ThrowErrorData(error));
    }
    unreachable!("ThrowErrorData does not return for an error")
}

/// The five characters of an SQLSTATE, which lie in six bits each (`MAKE_SQLSTATE` of `utils/elog.h`).
fn sqlstate(packed: u32) -> String {
    (0..5)
        .map(|i| char::from(((packed >> (6 * i)) & 0x3f) as u8 + b'0'))
        .collect()
}

/// Runs a body in a subtransaction. An error in it for which `caught` says so takes back what it did, and is returned in
/// words; others go on.
pub fn attempt<R: UnwindSafe>(
    body: impl FnOnce() -> R + UnwindSafe,
    caught: impl Fn(PgSqlErrorCode) -> bool + RefUnwindSafe,
) -> Result<R, String> {
    within(body, caught, pg_sys::ReleaseCurrentSubTransaction)
}

/// As [`attempt`], for a body that only reads: what it did is taken back in any case, and its locks are given back with it.
pub fn look<R: UnwindSafe>(
    body: impl FnOnce() -> R + UnwindSafe,
    caught: impl Fn(PgSqlErrorCode) -> bool + RefUnwindSafe,
) -> Result<R, String> {
    within(
        body,
        caught,
        pg_sys::RollbackAndReleaseCurrentSubTransaction,
    )
}

fn within<R: UnwindSafe>(
    body: impl FnOnce() -> R + UnwindSafe,
    caught: impl Fn(PgSqlErrorCode) -> bool + RefUnwindSafe,
    end: unsafe fn(),
) -> Result<R, String> {
    // SAFETY: as a procedural language does with a block that has an exception handler; memory context and resource owner
    // are put back whichever way it ends.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = PgTryBuilder::new(|| {
            let result = body();
            end();
            Ok(result)
        })
        .catch_others(|error| {
            // Whoever else catches an error that goes on must not find our subtransaction where he left his own.
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
            match &error {
                CaughtError::PostgresError(report) if caught(report.sql_error_code()) => {
                    Err(report.message().to_string())
                }
                _ => error.rethrow(),
            }
        })
        .execute();
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Called while an error is being raised, after the context lines of everything below our function are in it.
unsafe extern "C-unwind" fn remember(_arg: *mut c_void) {
    // SAFETY: inside errfinish, where CopyErrorData copies the error at hand into the current memory context.
    unsafe {
        if CONTEXT.get().is_null() {
            CONTEXT.set(pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"varve errors".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            ));
        }
        LAST.set(ptr::null_mut());
        pg_sys::MemoryContextReset(CONTEXT.get());
        let before = pg_sys::MemoryContextSwitchTo(CONTEXT.get());
        let copy = pg_sys::CopyErrorData();
        pg_sys::MemoryContextSwitchTo(before);
        if (*copy).elevel >= pgrx::PgLogLevel::ERROR as i32 {
            LAST.set(copy);
        }
    }
}

/// Whether the copy is of the error that the panic carries, and not of one that was caught on the way. pgrx knows no codes
/// but PostgreSQL's own; others count as internal errors to it.
fn is_copy_of(copy: *mut pg_sys::ErrorData, payload: &(dyn Any + Send)) -> bool {
    let Some(CaughtError::PostgresError(report)) = payload.downcast_ref::<CaughtError>() else {
        return false;
    };
    if copy.is_null() {
        return false;
    }
    // SAFETY: a live copy; its message is NUL-terminated where it is set.
    unsafe {
        !(*copy).message.is_null()
            && CStr::from_ptr((*copy).message).to_string_lossy() == report.message()
            && PgSqlErrorCode::from((*copy).sqlerrcode as isize) == report.sql_error_code()
    }
}

fn rethrow(payload: Box<dyn Any + Send>) -> ! {
    let copy = LAST.replace(ptr::null_mut());
    if !is_copy_of(copy, payload.as_ref()) {
        let report = || -> Infallible { resume_unwind(payload) };
        // SAFETY: pgrx reports what it knows of the panic; does not return.
        match unsafe { pg_sys::panic::pgrx_extern_c_guard(report) } {}
    }
    drop(payload);
    // SAFETY: nothing is left to drop in this frame, nor in the callers' up to PostgreSQL's.
    unsafe { super::ffi::raw::ThrowErrorData(copy) };
    unreachable!("ThrowErrorData does not return for an error")
}
