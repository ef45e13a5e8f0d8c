//! The row that is at hand, told in the context of an error.

use super::ffi::raw;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CString, c_void};

/// Which row of a batch is being written; 0 for none.
#[derive(Debug, Default)]
pub struct RowAt {
    number: Cell<u64>,
    /// The relation that rows are copied into, line by line; `None` for a batch that was given at once.
    copied_into: Option<CString>,
}

impl RowAt {
    /// Of a batch that was given at once, or (`relation`) of a COPY.
    pub fn new(relation: Option<&str>) -> Self {
        RowAt {
            number: Cell::new(0),
            copied_into: relation.and_then(|name| CString::new(name).ok()),
        }
    }

    /// Says which row comes now.
    pub fn set(&self, number: u64) {
        self.number.set(number);
    }

    /// Runs `f`; errors in it tell the row.
    pub fn during<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Restore(*mut pg_sys::ErrorContextCallback);
        impl Drop for Restore {
            fn drop(&mut self) {
                // SAFETY: puts back what was on the stack before, whose frames still stand.
                unsafe { pg_sys::error_context_stack = self.0 }
            }
        }
        self.set(0);
        // SAFETY: the entry lives as long as this frame, and is taken off before the frame ends.
        unsafe {
            let _restore = Restore(pg_sys::error_context_stack);
            let mut callback = pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(tell),
                arg: (&raw const *self).cast_mut().cast(),
            };
            pg_sys::error_context_stack = &raw mut callback;
            f()
        }
    }
}

unsafe extern "C-unwind" fn tell(arg: *mut c_void) {
    // SAFETY: the argument is the `RowAt` of a frame that still stands; called while an error is being raised.
    unsafe {
        let at = &*arg.cast::<RowAt>();
        let number = at.number.get();
        if number == 0 {
            return;
        }
        match &at.copied_into {
            Some(name) => {
                raw::errcontext_msg(c"COPY %s, line %llu".as_ptr(), name.as_ptr(), number);
            }
            None => {
                raw::errcontext_msg(c"row %llu of the batch".as_ptr(), number);
            }
        }
    }
}
