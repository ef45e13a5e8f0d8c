//! A command run as a client's would be: one statement or several, at the top level, so that VACUUM, CREATE INDEX
//! CONCURRENTLY and procedures that commit work. Several statements are one transaction, as in a simple query of the
//! protocol (PostgreSQL's documentation, "Multiple Statements in a Simple Query").

use crate::pg::{ffi, memory};
use pgrx::pg_sys;
use pgrx::prelude::*;
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
        pg_sys::debug_query_string = std::ptr::null();
        pg_sys::MemoryContextDelete(context);
        rows
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

/// Has the statement cancelled at the deadline, or when `statement_timeout` has passed.
fn arm(deadline: Option<pg_sys::TimestampTz>) {
    let left = deadline.map(|at| ((at - crate::pg::clock::now()) / 1000 + 1).max(1));
    // SAFETY: a setting of the session.
    let statement = unsafe { pg_sys::StatementTimeout };
    let limit = match (left, i64::from(statement)) {
        (Some(left), 0) => left,
        (Some(left), statement) => left.min(statement),
        (None, statement) => statement,
    };
    if limit > 0 {
        // SAFETY: the server has registered this time-out's handler in every process that has a database.
        unsafe {
            ffi::enable_timeout_after(STATEMENT_TIMEOUT, limit.min(i64::from(i32::MAX)) as i32);
        }
    }
}
