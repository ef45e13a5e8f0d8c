//! The values of filters for one run of a scan.

use super::eval::{Resolved, probe_order};
use super::filter::Value;
use pgrx::pg_sys;

/// Evaluates the expressions that filters compare with.
pub fn resolve(
    values: &[Value],
    states: &[*mut pg_sys::ExprState],
    context: *mut pg_sys::ExprContext,
) -> Vec<Resolved> {
    values
        .iter()
        .zip(states)
        .map(|(value, state)| {
            let mut null = false;
            // SAFETY: an expression of the node, which reads no column of the scanned table.
            let datum =
                unsafe { pg_sys::ExecEvalExprSwitchContext(*state, context, &raw mut null) };
            // SAFETY: the expression's result is of its type.
            unsafe { of_datum(value, datum, null) }
        })
        .collect()
}

/// The value of a constant, at planning time; `None` for what is only known later.
///
/// # Safety
/// `value` holds a valid expression.
pub unsafe fn constant(value: &Value) -> Option<Resolved> {
    // SAFETY: by contract; a node's tag says what it is.
    unsafe {
        if crate::pg::list::tag(value.expr) != pg_sys::NodeTag::T_Const {
            return None;
        }
        let constant = &*value.expr.cast::<pg_sys::Const>();
        Some(of_datum(value, constant.constvalue, constant.constisnull))
    }
}

/// # Safety
/// `datum` is of the type of the value's expression.
unsafe fn of_datum(value: &Value, datum: pg_sys::Datum, null: bool) -> Resolved {
    if null {
        return Resolved::Null;
    }
    let Some(element) = value.element else {
        // SAFETY: by contract.
        return Resolved::One(unsafe { value.kind.probe(datum) });
    };
    // SAFETY: an array of that element type, by contract; the elements are copied into probes.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut len, mut by_value, mut align) = (0i16, false, 0 as std::ffi::c_char);
        pg_sys::get_typlenbyvalalign(element, &mut len, &mut by_value, &mut align);
        let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            i32::from(len),
            by_value,
            align,
            &mut elements,
            &mut nulls,
            &mut count,
        );
        let mut probes: Vec<_> = (0..count as usize)
            .filter(|i| !*nulls.add(*i))
            .map(|i| value.kind.probe(*elements.add(i)))
            .collect();
        probes.sort_by(probe_order);
        probes.dedup();
        Resolved::Many(probes)
    }
}
