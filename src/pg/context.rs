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

/// The state of a running COPY FROM as far as we need it (`commands/copyfrom_internal.h` of PostgreSQL 17).
#[repr(C)]
struct CopyState {
    copy_src: u32,
    copy_file: *mut c_void,
    fe_msgbuf: *mut c_void,
    eol_type: u32,
    file_encoding: i32,
    need_transcoding: bool,
    conversion_proc: pg_sys::Oid,
    rel: pg_sys::Relation,
    attnumlist: *mut pg_sys::List,
    filename: *mut std::ffi::c_char,
    is_program: bool,
    data_source_cb: pg_sys::copy_data_source_cb,
    opts: pg_sys::CopyFormatOptions,
    convert_select_flags: *mut bool,
    where_clause: *mut pg_sys::Node,
    cur_relname: *const std::ffi::c_char,
    cur_lineno: u64,
}

/// The entry below which a running COPY tells its line, if there is one: `(entry above, entry of COPY)`.
unsafe fn copy_entry() -> Option<(
    *mut pg_sys::ErrorContextCallback,
    *mut pg_sys::ErrorContextCallback,
)> {
    // SAFETY: entries of the stack belong to frames that stand.
    unsafe {
        let mut above: *mut pg_sys::ErrorContextCallback = std::ptr::null_mut();
        let mut entry = pg_sys::error_context_stack;
        while !entry.is_null() {
            let is_copy = (*entry)
                .callback
                .is_some_and(|f| f as usize == raw::CopyFromErrorCallback as *const () as usize);
            if is_copy {
                return Some((above, entry));
            }
            above = entry;
            entry = (*entry).previous;
        }
        None
    }
}

/// The line that a COPY into `rel` has come to; `None` where none is running.
pub fn copied_line(rel: pg_sys::Relation) -> Option<u64> {
    // SAFETY: the argument of COPY's entry is its state; a pointer that is ours vouches for the layout.
    unsafe {
        let (_, entry) = copy_entry()?;
        let state = &*(*entry).arg.cast::<CopyState>();
        (state.rel == rel).then_some(state.cur_lineno)
    }
}

/// Runs `f` so that errors in it do not tell the line that a running COPY has come to, which is not that of the row at hand.
pub fn without_copy<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(
        *mut pg_sys::ErrorContextCallback,
        *mut pg_sys::ErrorContextCallback,
    );
    impl Drop for Restore {
        fn drop(&mut self) {
            // After an error nobody comes back to the entry above.
            if !std::thread::panicking() {
                // SAFETY: both belong to frames that stand.
                unsafe { (*self.0).previous = self.1 };
            }
        }
    }
    // SAFETY: takes COPY's entry out of the chain for the length of the call; there is one above it, that of our function.
    unsafe {
        let _restore = match copy_entry() {
            Some((above, entry)) if !above.is_null() => {
                (*above).previous = (*entry).previous;
                Some(Restore(above, entry))
            }
            _ => None,
        };
        f()
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
