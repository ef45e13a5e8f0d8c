//! Heap's table access method, called behind the guard that turns PostgreSQL's errors into unwinding.

use pgrx::pg_sys;
use std::cell::RefCell;

thread_local! {
    /// Relations that [`as_heap`] has at hand.
    static AS_HEAP: RefCell<Vec<pg_sys::Relation>> = const { RefCell::new(Vec::new()) };
}

/// Relation cache callback, called after entries were rebuilt.
///
/// # Safety
/// Called by the server.
pub unsafe extern "C-unwind" fn on_relcache(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    AS_HEAP.with(|open| {
        let Ok(open) = open.try_borrow() else { return };
        for rel in open.iter() {
            // SAFETY: open relations keep their place when they are rebuilt; their users hold them open.
            unsafe {
                if relid == pg_sys::InvalidOid || (**rel).rd_id == relid {
                    (**rel).rd_tableam = pg_sys::GetHeapamTableAmRoutine();
                }
            }
        }
    });
}

/// Heap's routine (static data of the server).
pub fn routine() -> &'static pg_sys::TableAmRoutine {
    // SAFETY: GetHeapamTableAmRoutine returns a pointer to a constant of the server.
    unsafe { &*pg_sys::GetHeapamTableAmRoutine() }
}

/// Hands the version at a place to `f`, with the buffer that it lies in, which stays pinned meanwhile; `None` where there is none
/// that the snapshot sees.
pub fn with_version<T>(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
    f: impl FnOnce(&mut pg_sys::HeapTupleData, pg_sys::Buffer) -> T,
) -> Option<T> {
    let mut row = pg_sys::HeapTupleData {
        t_self: *tid,
        ..Default::default()
    };
    let mut buffer: pg_sys::Buffer = 0;
    // SAFETY: heap_fetch of a known place in an open relation; it pins the buffer only where it finds something. After an
    // error in `f` the resource owner lets go of it.
    unsafe {
        if !pg_sys::heap_fetch(rel, snapshot, &mut row, &mut buffer, false) {
            return None;
        }
        let result = f(&mut row, buffer);
        pg_sys::ReleaseBuffer(buffer);
        Some(result)
    }
}

/// As [`with_version`], whoever sees the version.
pub fn with_any_version<T>(
    rel: pg_sys::Relation,
    tid: &pg_sys::ItemPointerData,
    f: impl FnOnce(&mut pg_sys::HeapTupleData, pg_sys::Buffer) -> T,
) -> Option<T> {
    with_version(rel, tid, &raw mut pg_sys::SnapshotAnyData, f)
}

/// Calls a callback of heap's routine; an `ereport(ERROR)` inside unwinds through Rust frames.
#[macro_export]
macro_rules! heap_call {
    ($field:ident ( $($arg:expr),* $(,)? )) => {{
        let callback = $crate::pg::heap::routine().$field;
        match callback {
            Some(f) => {
                // The macro also stands in unsafe blocks.
                #[allow(unused_unsafe)]
                // SAFETY: the arguments are those of the callback of the same name that we stand in for.
                let result = unsafe {
                    pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| f($($arg),*))
                };
                result
            }
            None => pgrx::error!(concat!("heap has no callback ", stringify!($field))),
        }
    }};
}

/// Runs `f` with heap's routine in `rel->rd_tableam`, for heap code that insists on it; puts the old one back on
/// every way out.
///
/// The relation's cache entry may be rebuilt meanwhile, which puts varve's routine back; [`on_relcache`] then puts heap's
/// in again.
pub fn as_heap<T>(rel: pg_sys::Relation, f: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::Relation, *const pg_sys::TableAmRoutine);
    impl Drop for Restore {
        fn drop(&mut self) {
            AS_HEAP.with_borrow_mut(Vec::pop);
            // SAFETY: the caller of `as_heap` keeps the relation open for the whole call.
            unsafe { (*self.0).rd_tableam = self.1 }
        }
    }
    // SAFETY: `rel` is an open relation.
    let _restore = unsafe {
        let restore = Restore(rel, (*rel).rd_tableam);
        AS_HEAP.with_borrow_mut(|open| open.push(rel));
        (*rel).rd_tableam = pg_sys::GetHeapamTableAmRoutine();
        restore
    };
    f()
}
