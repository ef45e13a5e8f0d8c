//! Values brought to a column's type as INSERT does it: by assignment casts, with the column's length and its domain.

use super::executor::Executor;
use pgrx::pg_sys;
use std::rc::Rc;

/// The type of a value or a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Its modifier, -1 for none.
    pub modifier: i32,
}

/// Casts from the types of some values to those of columns.
pub struct Casts {
    executor: Rc<Executor>,
    /// `None` where nothing is to be done.
    expressions: Vec<Option<*mut pg_sys::ExprState>>,
}

impl Casts {
    /// Prepares casts; the pairs are known to be castable.
    pub fn new(executor: Rc<Executor>, pairs: impl Iterator<Item = (Type, Type)>) -> Self {
        let expressions = pairs
            .map(|(from, to)| (from != to).then(|| prepare(&executor, from, to)).flatten())
            .collect();
        Casts {
            executor,
            expressions,
        }
    }

    /// Replaces values by what the columns take. The results live until the executor's rows are reset.
    pub fn apply(&self, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        for ((expression, value), null) in self.expressions.iter().zip(values).zip(nulls) {
            let Some(expression) = expression else {
                continue;
            };
            // SAFETY: prepared by the same executor, for a value of this type.
            let cast = unsafe {
                self.executor
                    .evaluate_case(*expression, (!*null).then_some(*value))
            };
            *value = cast.unwrap_or(pg_sys::Datum::from(0usize));
            *null = cast.is_none();
        }
    }
}

fn prepare(executor: &Executor, from: Type, to: Type) -> Option<*mut pg_sys::ExprState> {
    // SAFETY: nodes made here; the placeholder stands for the value, as in PL/pgSQL's casts.
    unsafe {
        let placeholder: *mut pg_sys::CaseTestExpr =
            pg_sys::palloc0(size_of::<pg_sys::CaseTestExpr>()).cast();
        (*placeholder).xpr.type_ = pg_sys::NodeTag::T_CaseTestExpr;
        (*placeholder).typeId = from.oid;
        (*placeholder).typeMod = from.modifier;
        (*placeholder).collation = pg_sys::get_typcollation(from.oid);
        let cast = pg_sys::coerce_to_target_type(
            std::ptr::null_mut(),
            placeholder.cast(),
            from.oid,
            to.oid,
            to.modifier,
            pg_sys::CoercionContext::COERCION_ASSIGNMENT,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        );
        if cast.is_null() || cast == placeholder.cast() {
            return None;
        }
        Some(executor.prepare(cast.cast()))
    }
}
