//! The hooks that varve sits on, each calling the one before it.

use crate::am::{cache, command, companion, inplace, lookup, modify, share};
use crate::ingest::engine::direct;
use crate::ingest::sink::{given, open};
use crate::pg::{ffi::raw, guard, relation};
use pgrx::pg_sys;

static mut PREVIOUS_RELATION_INFO: pg_sys::get_relation_info_hook_type = None;
static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_END: pg_sys::ExecutorEnd_hook_type = None;
static mut PREVIOUS_ACCESS: pg_sys::object_access_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

/// Installs all hooks and callbacks; called once from `_PG_init`.
pub fn install() {
    // SAFETY: `_PG_init` runs once, before any backend is at work.
    unsafe {
        PREVIOUS_RELATION_INFO = pg_sys::get_relation_info_hook;
        pg_sys::get_relation_info_hook = Some(relation_info);
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_END = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(executor_end);
        PREVIOUS_ACCESS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
        pg_sys::CacheRegisterRelcacheCallback(
            Some(crate::pg::heap::on_relcache),
            pg_sys::Datum::from(0usize),
        );
        pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction), std::ptr::null_mut());
    }
}

/// Indexes hold delta rows only: a relation with frozen rows must not be read through them. They stay known to the
/// planner, which proves uniqueness by them.
unsafe extern "C-unwind" fn relation_info(
    root: *mut pg_sys::PlannerInfo,
    relid: pg_sys::Oid,
    inhparent: bool,
    rel: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: the planner passes valid nodes and holds a lock on the relation. The hook before ours is called outside
    // the guard: an error in it passes over a frame that holds nothing.
    unsafe {
        if let Some(previous) = PREVIOUS_RELATION_INFO {
            previous(root, relid, inhparent, rel);
        }
        guard::entry(|| hide_indexes(relid, &*rel));
    }
}

fn hide_indexes(relid: pg_sys::Oid, rel: &pg_sys::RelOptInfo) {
    let indexes = rel.indexlist;
    if indexes.is_null() || !is_frozen(relid) {
        return;
    }
    // SAFETY: a list of IndexOptInfo nodes that the planner has just made.
    unsafe {
        for i in 0..(*indexes).length as usize {
            let index = (*(*indexes).elements.add(i))
                .ptr_value
                .cast::<pg_sys::IndexOptInfo>();
            (*index).amhasgettuple = false;
            (*index).amhasgetbitmap = false;
            (*index).amcanparallel = false;
            // Keeps estimates from probing the index for the ends of a histogram.
            (*index).hypothetical = true;
        }
    }
}

fn is_frozen(relid: pg_sys::Oid) -> bool {
    let Some(varve_am) = relation::varve_am() else {
        return false;
    };
    let rel = relation::OpenRel::table(relid, pg_sys::NoLock);
    relation::form(rel.as_ptr()).relam == varve_am
        && crate::am::modify::frozen_part(rel.as_ptr()).is_some()
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, eflags: i32) {
    // SAFETY: the executor passes a valid query; what follows is called outside the guard, as above.
    unsafe {
        guard::entry(|| {
            command::before_executor_start(&*query, eflags);
            given::before_query(&*query);
        });
        match PREVIOUS_START {
            Some(previous) => previous(query, eflags),
            None => raw::standard_ExecutorStart(query, eflags),
        }
    }
}

unsafe extern "C-unwind" fn executor_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as above.
    unsafe {
        guard::entry(|| {
            command::before_executor_end(&*query);
            given::after_query(&*query);
        });
        match PREVIOUS_END {
            Some(previous) => previous(query),
            None => raw::standard_ExecutorEnd(query),
        }
    }
}

/// Frozen rows go with the storage of the table that is dropped.
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: i32,
    arg: *mut std::ffi::c_void,
) {
    // SAFETY: the hook before ours, with its own arguments, outside the guard.
    unsafe {
        if let Some(previous) = PREVIOUS_ACCESS {
            previous(access, class, object, sub, arg);
        }
    }
    if access != pg_sys::ObjectAccessType::OAT_DROP || sub != 0 {
        return;
    }
    if class == pg_sys::RelationRelationId {
        guard::entry(|| companion::on_drop(object));
    } else if class == pg_sys::ExtensionRelationId {
        guard::entry(|| crate::tier::extension::on_drop(object));
    }
}

unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server passes a valid statement; what follows is called outside the guard, as above.
    unsafe {
        let copy = guard::entry(|| {
            crate::tier::extension::before_utility((*statement).utilityStmt);
            crate::jobs::before_utility((*statement).utilityStmt);
            given::before_copy((*statement).utilityStmt)
        });
        let next = PREVIOUS_UTILITY.unwrap_or(raw::standard_ProcessUtility);
        next(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            receiver,
            completion,
        );
        if let Some(copy) = copy {
            guard::entry(|| given::after_copy(copy));
        }
    }
}

unsafe extern "C-unwind" fn on_transaction(
    event: pg_sys::XactEvent::Type,
    _arg: *mut std::ffi::c_void,
) {
    guard::entry(|| match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE
            if crate::settings::debug_freeze_on_commit() =>
        {
            inplace::freeze_written();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE
        | pg_sys::XactEvent::XACT_EVENT_PARALLEL_COMMIT => {
            inplace::forget();
            command::forget();
            share::forget();
            modify::forget();
            lookup::forget();
            direct::forget();
            open::forget_from(0);
            given::forget_from(0);
            crate::jobs::at_end_of_transaction(true);
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PARALLEL_ABORT => {
            inplace::forget();
            command::forget();
            share::forget();
            modify::forget();
            lookup::forget();
            direct::forget();
            open::forget_from(0);
            given::forget_from(0);
            crate::jobs::at_end_of_transaction(false);
            cache::clear();
        }
        _ => {}
    })
}

unsafe extern "C-unwind" fn on_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _me: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    guard::entry(|| {
        if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
            cache::clear();
            // SAFETY: reads the level of the subtransaction that ends.
            let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
            open::forget_from(level);
            given::forget_from(level);
        }
    })
}
