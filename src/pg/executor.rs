//! An executor's state of our own: evaluating expressions, queueing and firing triggers.

use pgrx::pg_sys;

/// An executor's state, in which expressions are evaluated and triggers are queued.
pub struct Executor {
    state: *mut pg_sys::EState,
}

impl Executor {
    /// A fresh one; its memory is a child of the current context's.
    pub fn new() -> Self {
        // SAFETY: freed by drop.
        unsafe {
            Executor {
                state: pg_sys::CreateExecutorState(),
            }
        }
    }

    /// The state itself.
    pub fn as_ptr(&self) -> *mut pg_sys::EState {
        self.state
    }

    /// Prepares an expression for evaluation.
    ///
    /// # Safety
    /// A valid expression without variables.
    pub unsafe fn prepare(&self, expression: *mut pg_sys::Expr) -> *mut pg_sys::ExprState {
        // SAFETY: by contract; planned and compiled in the executor's own memory.
        unsafe { pg_sys::ExecPrepareExpr(expression, self.state) }
    }

    /// The value of an expression, in the memory of the row at hand.
    ///
    /// # Safety
    /// Prepared by [`prepare`](Self::prepare).
    pub unsafe fn evaluate(&self, expression: *mut pg_sys::ExprState) -> Option<pg_sys::Datum> {
        // SAFETY: by contract.
        unsafe { self.evaluate_case(expression, None) }
    }

    /// The value of an expression in which a `CaseTestExpr` stands for `value`.
    ///
    /// # Safety
    /// Prepared by [`prepare`](Self::prepare), for values of this type.
    pub unsafe fn evaluate_case(
        &self,
        expression: *mut pg_sys::ExprState,
        value: Option<pg_sys::Datum>,
    ) -> Option<pg_sys::Datum> {
        // SAFETY: by contract.
        unsafe {
            let context = self.row_context();
            (*context).caseValue_datum = value.unwrap_or(pg_sys::Datum::from(0usize));
            (*context).caseValue_isNull = value.is_none();
            let mut null = false;
            let evaluate = (*expression).evalfunc?;
            let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let value = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                evaluate(expression, context, &mut null)
            });
            pg_sys::MemoryContextSwitchTo(before);
            (!null).then_some(value)
        }
    }

    fn row_context(&self) -> *mut pg_sys::ExprContext {
        // SAFETY: a live executor state.
        unsafe {
            if (*self.state).es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(self.state)
            } else {
                (*self.state).es_per_tuple_exprcontext
            }
        }
    }

    /// Gives the memory of rows back.
    pub fn reset_rows(&self) {
        // SAFETY: nothing refers to it between rows.
        unsafe { pg_sys::MemoryContextReset((*self.row_context()).ecxt_per_tuple_memory) };
    }

    /// Opens a level of queued triggers.
    pub fn begin_triggers(&self) {
        // SAFETY: closed by `end_triggers`, or by the abort of the transaction.
        unsafe { pg_sys::AfterTriggerBeginQuery() };
    }

    /// Fires the triggers that were queued, deferred ones aside, as at the end of a statement.
    pub fn end_triggers(&self) {
        // SAFETY: opened by `begin_triggers`.
        unsafe {
            pg_sys::AfterTriggerEndQuery(self.state);
            pg_sys::ExecCloseResultRelations(self.state);
        }
    }
}

impl Default for Executor {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::FreeExecutorState(self.state) };
        }
    }
}
