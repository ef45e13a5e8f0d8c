//! Heap's table access method, called behind the guard that turns PostgreSQL's errors into unwinding.

use pgrx::pg_sys;

/// Heap's routine (static data of the server).
pub fn routine() -> &'static pg_sys::TableAmRoutine {
    // SAFETY: GetHeapamTableAmRoutine returns a pointer to a constant of the server.
    unsafe { &*pg_sys::GetHeapamTableAmRoutine() }
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
pub fn as_heap<T>(rel: pg_sys::Relation, f: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::Relation, *const pg_sys::TableAmRoutine);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the caller of `as_heap` keeps the relation open for the whole call.
            unsafe { (*self.0).rd_tableam = self.1 }
        }
    }
    // SAFETY: `rel` is an open relation.
    let _restore = unsafe {
        let restore = Restore(rel, (*rel).rd_tableam);
        (*rel).rd_tableam = pg_sys::GetHeapamTableAmRoutine();
        restore
    };
    f()
}
