//! Memory of single calls.

use pgrx::pg_sys;

/// Runs `f` in a memory context of its own, which goes with everything that was allocated in it, for callbacks that are
/// called by the row while the executor's memory lives as long as the statement. Nothing that `f` returns may lie in it.
pub fn for_this_call<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: a child of the current context, which goes with its parent if `f` unwinds.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"varve call".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let before = pg_sys::MemoryContextSwitchTo(context);
        let result = f();
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextDelete(context);
        result
    }
}

/// A fresh context below another one.
///
/// # Safety
/// A live context, which the new one goes with.
pub unsafe fn child(
    parent: pg_sys::MemoryContext,
    name: &'static std::ffi::CStr,
) -> pg_sys::MemoryContext {
    // SAFETY: by contract; the name lives for ever.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            parent,
            name.as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

/// A memory context of our own, deleted when dropped; the end of the (sub)transaction that it was made in deletes it too.
pub struct Context(pg_sys::MemoryContext);

impl Context {
    /// A fresh one.
    pub fn new() -> Self {
        // SAFETY: a child of the running (sub)transaction's context.
        Context(unsafe { child(pg_sys::CurTransactionContext, c"varve batch") })
    }

    /// Runs `f` with it as the current context.
    pub fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        // SAFETY: it lives as long as `self`.
        unsafe { within(self.0, f) }
    }

    /// Bytes that it has from the system.
    pub fn bytes(&self) -> usize {
        // SAFETY: a live context; those below it are not asked.
        unsafe { pg_sys::MemoryContextMemAllocated(self.0, false) }
    }

    /// Gives back everything in it.
    pub fn reset(&self) {
        // SAFETY: the owner knows that nothing in it is used any more.
        unsafe { pg_sys::MemoryContextReset(self.0) };
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`, and not deleted yet: the end of its transaction comes after our callbacks.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}

/// Runs `f` with another context as the current one, for callbacks that may be called where nothing can be freed: a sort
/// copies rows of a slot into memory that only grows.
///
/// # Safety
/// A live context that outlives what `f` returns.
pub unsafe fn within<T>(context: pg_sys::MemoryContext, f: impl FnOnce() -> T) -> T {
    // SAFETY: by contract. Where `f` unwinds, who catches the error sets the context.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(context);
        let result = f();
        pg_sys::MemoryContextSwitchTo(before);
        result
    }
}

/// A copy of a value in the current memory context; values that are passed as such are their own copy.
pub fn copy_datum(value: pg_sys::Datum, attr: &pg_sys::FormData_pg_attribute) -> pg_sys::Datum {
    if attr.attbyval {
        return value;
    }
    // SAFETY: a value of the attribute's type.
    unsafe { super::ffi::datumCopy(value, false, i32::from(attr.attlen)) }
}
