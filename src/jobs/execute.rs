//! A command run as a client's would be: one statement or several, at the top level, so that VACUUM, CREATE INDEX
//! CONCURRENTLY and procedures that commit work. Several statements are one transaction, as in a simple query of the
//! protocol (PostgreSQL's documentation, "Multiple Statements in a Simple Query").

use crate::pg::{clock, ffi, memory};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;

/// `STATEMENT_TIMEOUT` of `utils/timeout.h`.
const STATEMENT_TIMEOUT: u32 = 3;

/// Runs a command, and returns how many rows its statements handed out or changed. `last` is told of them in the transaction of the last statement, before it is
/// committed, unless the statement ended it itself. `deadline` is when the command is cancelled.
pub fn run(command: &CStr, deadline: Option<pg_sys::TimestampTz>, last: impl FnOnce(u64)) -> u64 {
    // SAFETY: as the server runs a simple query (`exec_simple_query` of `tcop/postgres.c`), in a process without a
    // transaction; parse trees and plans live in a context that outlives the transactions. What is left after an error is
    // the caller's to clean up.
    unsafe {
        let context = memory::child(pg_sys::TopMemoryContext, c"varve job");
        pg_sys::debug_query_string = command.as_ptr();
        arm(deadline);
        pg_sys::StartTransactionCommand();
        let before = pg_sys::MemoryContextSwitchTo(context);
        let statements = pg_sys::pg_parse_query(command.as_ptr());
        pg_sys::MemoryContextSwitchTo(before);
        let count = if statements.is_null() {
            0
        } else {
            (*statements).length
        };
        let mut rows = 0;
        let mut started = true;
        let mut last = Some(last);
        for i in 0..count {
            let statement = (*(*statements).elements.add(i as usize))
                .ptr_value
                .cast::<pg_sys::RawStmt>();
            let is_last = i + 1 == count;
            let ends_itself = (*(*statement).stmt).type_ == pg_sys::NodeTag::T_TransactionStmt;
            if !started {
                pg_sys::StartTransactionCommand();
                started = true;
            }
            if pg_sys::IsAbortedTransactionBlockState() && !ends_itself {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_IN_FAILED_SQL_TRANSACTION,
                    "current transaction is aborted, commands ignored until end of transaction block"
                );
            }
            if count > 1 {
                pg_sys::BeginImplicitTransactionBlock();
            }
            arm(deadline);
            if is_last
                && commits(statement)
                && let Some(last) = last.take()
            {
                last(rows);
            }
            rows += run_one(statement, command, context);
            if is_last {
                if count > 1 {
                    pg_sys::EndImplicitTransactionBlock();
                }
                if !ends_itself {
                    refuse_open_block();
                    if let Some(last) = last.take() {
                        last(rows);
                    }
                }
                pg_sys::CommitTransactionCommand();
                started = false;
            } else if ends_itself {
                pg_sys::CommitTransactionCommand();
                started = false;
            } else {
                pg_sys::CommandCounterIncrement();
            }
        }
        if started {
            // Nothing but comments.
            if let Some(last) = last.take() {
                last(rows);
            }
            pg_sys::CommitTransactionCommand();
        }
        refuse_open_block();
        ffi::disable_all_timeouts(false);
        // A time-out may have come just after the commit.
        pg_sys::QueryCancelPending = 0;
        pg_sys::debug_query_string = std::ptr::null();
        pg_sys::MemoryContextDelete(context);
        rows
    }
}

/// Whether a statement commits what a transaction block of the command has done.
///
/// # Safety
/// A valid parse tree.
unsafe fn commits(statement: *mut pg_sys::RawStmt) -> bool {
    // SAFETY: by contract; reads the state of the transaction.
    unsafe {
        let node = (*statement).stmt;
        (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && (*node.cast::<pg_sys::TransactionStmt>()).kind
                == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT
            && pg_sys::IsTransactionBlock()
            && !pg_sys::IsAbortedTransactionBlockState()
    }
}

/// Refuses COPY from and to a client: there is none, and the server's own input and output would be taken.
///
/// # Safety
/// A valid parse tree.
unsafe fn refuse_client(statement: *mut pg_sys::RawStmt) {
    // SAFETY: by contract.
    unsafe {
        let node = (*statement).stmt;
        if (*node).type_ == pg_sys::NodeTag::T_CopyStmt
            && (*node.cast::<pg_sys::CopyStmt>()).filename.is_null()
        {
            crate::am::error::raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "a job has no client to copy from or to".into(),
                None,
                Some(
                    "COPY from or to a file or a program, or between tables by INSERT ... SELECT."
                        .into(),
                ),
            );
        }
    }
}

/// Fails where the command has begun a transaction block and not ended it.
fn refuse_open_block() {
    // SAFETY: reads the state of the transaction.
    if unsafe { pg_sys::IsTransactionBlock() } {
        crate::am::error::raise(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "the command left a transaction block open".into(),
            None,
            Some("End it by COMMIT, or leave BEGIN out: a command is a transaction.".into()),
        );
    }
}

/// # Safety
/// Inside a transaction; `context` lives as long as the command.
unsafe fn run_one(
    statement: *mut pg_sys::RawStmt,
    command: &CStr,
    context: pg_sys::MemoryContext,
) -> u64 {
    pgrx::check_for_interrupts!();
    // SAFETY: by contract; in the order in which the server does it.
    unsafe {
        refuse_client(statement);
        let tag = pg_sys::CreateCommandTag((*statement).stmt);
        let needs_snapshot = pg_sys::analyze_requires_snapshot(statement);
        if needs_snapshot {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let before = pg_sys::MemoryContextSwitchTo(context);
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(
            statement,
            command.as_ptr(),
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
        );
        let plans = pg_sys::pg_plan_queries(
            queries,
            command.as_ptr(),
            pg_sys::CURSOR_OPT_PARALLEL_OK as i32,
            std::ptr::null_mut(),
        );
        if needs_snapshot {
            pg_sys::PopActiveSnapshot();
        }
        pgrx::check_for_interrupts!();
        let portal = pg_sys::CreatePortal(c"".as_ptr(), true, true);
        (*portal).visible = false;
        pg_sys::PortalDefineQuery(
            portal,
            std::ptr::null(),
            command.as_ptr(),
            tag,
            plans,
            std::ptr::null_mut(),
        );
        pg_sys::PortalStart(portal, std::ptr::null_mut(), 0, std::ptr::null_mut());
        let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone);
        pg_sys::MemoryContextSwitchTo(before);
        let mut completion = pg_sys::QueryCompletion::default();
        pg_sys::PortalRun(
            portal,
            std::ffi::c_long::MAX,
            true,
            true,
            receiver,
            receiver,
            &mut completion,
        );
        if let Some(destroy) = (*receiver).rDestroy {
            destroy(receiver);
        }
        pg_sys::PortalDrop(portal, false);
        completion.nprocessed
    }
}

thread_local! {
    /// When the statement is cancelled.
    static CANCELLED_AT: Cell<Option<pg_sys::TimestampTz>> = const { Cell::new(None) };
}

/// Whether the time that the last statement had is over.
pub fn timed_out() -> bool {
    CANCELLED_AT.get().is_some_and(|at| clock::now() >= at)
}

/// Has the statement cancelled at the deadline, or when `statement_timeout` has passed.
fn arm(deadline: Option<pg_sys::TimestampTz>) {
    let now = clock::now();
    // SAFETY: a setting of the session.
    let statement = i64::from(unsafe { pg_sys::StatementTimeout });
    let end = (statement > 0).then(|| now + statement * 1000);
    let at = match (deadline, end) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    CANCELLED_AT.set(at);
    // SAFETY: the server has registered this time-out's handler in every process that has a database.
    unsafe {
        match at {
            Some(at) => {
                let milliseconds = ((at - now) / 1000 + 1).clamp(1, i64::from(i32::MAX));
                ffi::enable_timeout_after(STATEMENT_TIMEOUT, milliseconds as i32);
            }
            None => ffi::disable_timeout(STATEMENT_TIMEOUT, false),
        }
    }
}
