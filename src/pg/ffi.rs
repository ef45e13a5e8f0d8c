//! Functions of PostgreSQL 17 that `pg_sys` does not bind, declared as in its headers.

// Names and numbers of arguments are the server's.
#![allow(non_snake_case, clippy::too_many_arguments)]

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Opaque state of `access/rewriteheap.h`.
#[repr(C)]
pub struct RewriteStateData {
    _private: [u8; 0],
}
/// Pointer to the opaque rewrite state.
pub type RewriteState = *mut RewriteStateData;

/// `access/tupdesc_details.h`: the value of a column in rows from before it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AttrMissing {
    /// Whether there is one.
    pub am_present: bool,
    /// The value.
    pub am_value: pg_sys::Datum,
}

#[pg_guard]
unsafe extern "C-unwind" {
    /// `commands/cluster.h`: a transient table with the shape of `old_heap`.
    pub fn make_new_heap(
        old_heap: pg_sys::Oid,
        tablespace: pg_sys::Oid,
        access_method: pg_sys::Oid,
        persistence: ::core::ffi::c_char,
        lockmode: pg_sys::LOCKMODE,
    ) -> pg_sys::Oid;
    /// `commands/cluster.h`: swaps the storage of two tables, rebuilds the indexes, drops the transient one.
    pub fn finish_heap_swap(
        old_heap: pg_sys::Oid,
        new_heap: pg_sys::Oid,
        is_system_catalog: bool,
        swap_toast_by_content: bool,
        check_constraints: bool,
        is_internal: bool,
        frozen_xid: pg_sys::TransactionId,
        cutoff_multi: pg_sys::MultiXactId,
        new_persistence: ::core::ffi::c_char,
    );
    /// `access/rewriteheap.h`
    pub fn begin_heap_rewrite(
        old_heap: pg_sys::Relation,
        new_heap: pg_sys::Relation,
        oldest_xmin: pg_sys::TransactionId,
        freeze_xid: pg_sys::TransactionId,
        cutoff_multi: pg_sys::MultiXactId,
    ) -> RewriteState;
    /// `access/rewriteheap.h`
    pub fn end_heap_rewrite(state: RewriteState);
    /// `access/rewriteheap.h`
    pub fn rewrite_heap_tuple(
        state: RewriteState,
        old_tuple: pg_sys::HeapTuple,
        new_tuple: pg_sys::HeapTuple,
    );
    /// `access/rewriteheap.h`
    pub fn rewrite_heap_dead_tuple(state: RewriteState, old_tuple: pg_sys::HeapTuple) -> bool;
    /// `access/toast_internals.h`: the valid index of a TOAST table.
    pub fn toast_get_valid_index(toast: pg_sys::Oid, lockmode: pg_sys::LOCKMODE) -> pg_sys::Oid;
    /// `executor/tstoreReceiver.h`
    pub fn SetTuplestoreDestReceiverParams(
        receiver: *mut pg_sys::DestReceiver,
        store: *mut pg_sys::Tuplestorestate,
        context: pg_sys::MemoryContext,
        detoast: bool,
        target: pg_sys::TupleDesc,
        map_failure: *const ::core::ffi::c_char,
    );
    /// `access/twophase.h`: a prepared transaction of a virtual id, and whether there are more.
    pub fn TwoPhaseGetXidByVirtualXID(
        holder: pg_sys::VirtualTransactionId,
        more: *mut bool,
    ) -> pg_sys::TransactionId;
    /// `utils/pg_locale.h`
    pub fn lc_collate_is_c(collation: pg_sys::Oid) -> bool;
    /// `replication/logicalworker.h`
    pub fn IsLogicalWorker() -> bool;
    /// `storage/predicate.h`
    pub fn PredicateLockRelation(relation: pg_sys::Relation, snapshot: pg_sys::Snapshot);
    /// `storage/predicate.h`: predicate locks on rows and pages become one on the relation.
    pub fn TransferPredicateLocksToHeapRelation(relation: pg_sys::Relation);
    /// `utils/datum.h`
    pub fn datumCopy(value: pg_sys::Datum, byval: bool, len: ::core::ffi::c_int) -> pg_sys::Datum;
    /// `executor/nodeModifyTable.h`: computes stored generated columns of the row in `slot`.
    pub fn ExecComputeStoredGenerated(
        info: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
        command: pg_sys::CmdType::Type,
    );
    /// `utils/timeout.h`
    pub fn enable_timeout_after(id: ::core::ffi::c_uint, milliseconds: ::core::ffi::c_int);
    /// `utils/timeout.h`
    pub fn disable_timeout(id: ::core::ffi::c_uint, keep_indicator: bool);
    /// `utils/timeout.h`
    pub fn disable_all_timeouts(keep_indicators: bool);
    /// `access/xlogarchive.h`: whether a file of WAL is not archived yet.
    pub fn XLogArchiveIsBusy(name: *const ::core::ffi::c_char) -> bool;
    /// `catalog/pg_inherits.h`
    pub fn find_inheritance_children(
        parent: pg_sys::Oid,
        lockmode: pg_sys::LOCKMODE,
    ) -> *mut pg_sys::List;
}

unsafe extern "C" {
    /// `archive/archive_module.h`: why an archive module is not ready.
    pub static mut arch_module_check_errdetail_string: *mut ::core::ffi::c_char;
}

/// Functions called without pgrx's guard: an error jumps over the calling frame, which must hold nothing to drop.
pub mod raw {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        /// `utils/elog.h`: raises an error from a copy; context lines of the callers are added to it.
        pub fn ThrowErrorData(error: *mut pg_sys::ErrorData);
        /// `utils/elog.h`: adds a line to the context of the error that is being raised.
        pub fn errcontext_msg(format: *const ::core::ffi::c_char, ...) -> ::core::ffi::c_int;
        /// `commands/copy.h`: tells the line that COPY FROM has come to.
        pub fn CopyFromErrorCallback(state: *mut ::core::ffi::c_void);
        /// `access/htup_details.h`: raises no error.
        pub fn heap_deform_tuple(
            tuple: *mut pg_sys::HeapTupleData,
            desc: pg_sys::TupleDesc,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
        );
        /// `executor/tuptable.h`
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: ::core::ffi::c_int);
        /// `access/itup.h`: raises no error.
        pub fn index_deform_tuple(
            tuple: pg_sys::IndexTuple,
            desc: pg_sys::TupleDesc,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
        );
        /// `executor/executor.h`
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, eflags: ::core::ffi::c_int);
        /// `executor/executor.h`
        pub fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
        /// `utils/fmgrprotos.h`: the input function of intervals.
        pub fn interval_in(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
        /// `utils/fmgrprotos.h`: SQL's `date_add` with a time zone.
        pub fn timestamptz_pl_interval_at_zone(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
        /// `tcop/tcopprot.h`: handler of SIGTERM.
        pub fn die(signal: ::core::ffi::c_int);
        /// `postmaster/interrupt.h`: handler of SIGHUP.
        pub fn SignalHandlerForConfigReload(signal: ::core::ffi::c_int);
        /// `postmaster/interrupt.h`: handler of SIGTERM in a process that looks for it.
        pub fn SignalHandlerForShutdownRequest(signal: ::core::ffi::c_int);
        /// `tcop/utility.h`
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            query: *const ::core::ffi::c_char,
            read_only_tree: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            params: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            receiver: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}
