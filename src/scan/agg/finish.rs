//! Results of aggregates, out of their accumulators, as PostgreSQL's own final functions give them.

use super::accumulate::{Accumulator, Cell};
use super::spec::{Aggregate, Class, Function, class_of};
use super::strings::Strings;
use crate::pg::{relation, tuple};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CString;

/// The result of an aggregate for a group, in the current memory context; `None` is NULL.
pub fn result(
    aggregate: &Aggregate,
    accumulator: &Accumulator,
    group: usize,
    strings: &Strings,
) -> Option<pg_sys::Datum> {
    match accumulator {
        Accumulator::Count(v) => Some(pg_sys::Datum::from(*v.get(group)? as usize)),
        Accumulator::Distinct(v) => Some(pg_sys::Datum::from(v.get(group)?.len())),
        Accumulator::Integers(v) => {
            let (count, sum) = *v.get(group)?;
            (count > 0).then(|| integers(aggregate, count, sum))
        }
        Accumulator::Floats(v) => {
            let (count, sum, infinite) = *v.get(group)?;
            if sum.is_infinite() && !infinite {
                out_of_range("value out of range: overflow");
            }
            (count > 0).then(|| floats(aggregate, count, sum))
        }
        Accumulator::IntegerSquares(v) => {
            let (count, sum, squares) = *v.get(group)?;
            integer_spread(aggregate, count, sum, squares)
        }
        Accumulator::FloatSquares(v) => {
            let (count, _, squares) = *v.get(group)?;
            float_spread(aggregate, count, squares)
        }
        Accumulator::IntExtreme(v, _) => Some(of_cell(
            aggregate.result,
            ((*v.get(group)?)?, false),
            strings,
        )?),
        Accumulator::TextExtreme(v, _) => {
            of_cell(aggregate.result, ((*v.get(group)?)?, false), strings)
        }
        Accumulator::FloatExtreme(v, _) => {
            let value = (*v.get(group)?)?;
            of_cell(aggregate.result, (value.to_bits() as i64, false), strings)
        }
        Accumulator::Bool(v, _) => Some(pg_sys::Datum::from((*v.get(group)?)?)),
        Accumulator::Bookend(v, _) => {
            let chosen = (*v.get(group)?)?;
            of_cell(aggregate.result, chosen.value, strings)
        }
    }
}

/// The datum of a value that was held by its bits; `None` is NULL.
pub fn of_cell(typ: pg_sys::Oid, cell: Cell, strings: &Strings) -> Option<pg_sys::Datum> {
    let (bits, null) = cell;
    if null {
        return None;
    }
    let base = relation::base_type(typ);
    match class_of(typ)? {
        Class::Int => Some(pg_sys::Datum::from(bits as usize)),
        Class::Float => {
            let value = f64::from_bits(bits as u64);
            Some(if base == pg_sys::FLOAT4OID {
                float4(value)
            } else {
                float8(value)
            })
        }
        Class::Text if base == pg_sys::UUIDOID => {
            let bytes = strings.get(bits);
            // SAFETY: sixteen bytes of palloc'd memory for the sixteen of a uuid.
            unsafe {
                let uuid = pg_sys::palloc0(16).cast::<u8>();
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), uuid, bytes.len().min(16));
                Some(pg_sys::Datum::from(uuid))
            }
        }
        // A text is laid out as a bytea.
        Class::Text => Some(tuple::new_bytea(strings.get(bits))),
    }
}

fn float8(value: f64) -> pg_sys::Datum {
    pg_sys::Datum::from(value.to_bits() as usize)
}

fn float4(value: f64) -> pg_sys::Datum {
    pg_sys::Datum::from((value as f32).to_bits() as i32 as isize as usize)
}

fn out_of_range(what: &str) -> ! {
    crate::am::error::raise(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        what.into(),
        None,
        None,
    )
}

/// A numeric.
fn numeric(value: i128) -> pg_sys::Datum {
    let text = CString::new(value.to_string()).unwrap_or_default();
    // SAFETY: numeric_in reads the digits; no typmod.
    unsafe {
        pg_sys::OidInputFunctionCall(
            pg_sys::Oid::from_u32(pg_sys::F_NUMERIC_IN),
            text.as_ptr().cast_mut(),
            pg_sys::NUMERICOID,
            -1,
        )
    }
}

fn divide(left: pg_sys::Datum, right: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: two numerics.
    unsafe {
        pg_sys::OidFunctionCall2Coll(
            pg_sys::Oid::from_u32(pg_sys::F_NUMERIC_DIV),
            pg_sys::InvalidOid,
            left,
            right,
        )
    }
}

fn integers(aggregate: &Aggregate, count: i64, sum: i128) -> pg_sys::Datum {
    if matches!(aggregate.function, Function::Average(_)) {
        return divide(numeric(sum), numeric(count.into()));
    }
    if aggregate.result == pg_sys::INT8OID {
        return match i64::try_from(sum) {
            Ok(sum) => pg_sys::Datum::from(sum as usize),
            Err(_) => out_of_range("bigint out of range"),
        };
    }
    numeric(sum)
}

fn floats(aggregate: &Aggregate, count: i64, sum: f64) -> pg_sys::Datum {
    if matches!(aggregate.function, Function::Average(_)) {
        // PostgreSQL's begins with 0.
        return float8((sum + 0.0) / count as f64);
    }
    if aggregate.result == pg_sys::FLOAT4OID {
        return float4(sum);
    }
    float8(sum)
}

fn float_spread(aggregate: &Aggregate, count: i64, squares: f64) -> Option<pg_sys::Datum> {
    let Function::Spread {
        population, root, ..
    } = aggregate.function
    else {
        return None;
    };
    let of = if population { count } else { count - 1 };
    if of <= 0 {
        return None;
    }
    let variance = squares / of as f64;
    Some(float8(if root { variance.sqrt() } else { variance }))
}

/// The state of PostgreSQL's own aggregates of integers, made by their deserialisation, and what their final functions
/// make of it.
fn integer_spread(
    aggregate: &Aggregate,
    count: i64,
    sum: i128,
    squares: i128,
) -> Option<pg_sys::Datum> {
    let Function::Spread {
        population, root, ..
    } = aggregate.function
    else {
        return None;
    };
    let last = match (population, root) {
        (false, false) => pg_sys::F_NUMERIC_POLY_VAR_SAMP,
        (false, true) => pg_sys::F_NUMERIC_POLY_STDDEV_SAMP,
        (true, false) => pg_sys::F_NUMERIC_POLY_VAR_POP,
        (true, true) => pg_sys::F_NUMERIC_POLY_STDDEV_POP,
    };
    let mut serialised = count.to_be_bytes().to_vec();
    serialise(&mut serialised, sum);
    serialise(&mut serialised, squares);
    // SAFETY: functions of the server with the arguments that they take; the context says that an aggregate calls.
    unsafe {
        let mut context = pg_sys::WindowAggState::default();
        context.ss.ps.type_ = pg_sys::NodeTag::T_WindowAggState;
        context.curaggcontext = pg_sys::CurrentMemoryContext;
        let context = (&raw mut context).cast::<pg_sys::Node>();
        let state = call(
            pg_sys::F_NUMERIC_POLY_DESERIALIZE,
            &[
                Some(tuple::new_bytea(&serialised)),
                Some(pg_sys::Datum::from(0usize)),
            ],
            context,
        )?;
        call(last, &[Some(state)], context)
    }
}

/// # Safety
/// A function of the server that takes such arguments.
unsafe fn call(
    function: u32,
    arguments: &[Option<pg_sys::Datum>],
    context: *mut pg_sys::Node,
) -> Option<pg_sys::Datum> {
    // SAFETY: by contract; the call's memory holds as many arguments as there are.
    unsafe {
        let mut info = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(pg_sys::Oid::from_u32(function), &mut info);
        let size = size_of::<pg_sys::FunctionCallInfoBaseData>()
            + arguments.len() * size_of::<pg_sys::NullableDatum>();
        let frame: pg_sys::FunctionCallInfo = pg_sys::palloc0(size).cast();
        (*frame).flinfo = &raw mut info;
        (*frame).context = context;
        (*frame).nargs = arguments.len() as i16;
        for (at, argument) in arguments.iter().enumerate() {
            let place = (*frame).args.as_mut_ptr().add(at);
            (*place).isnull = argument.is_none();
            (*place).value = argument.unwrap_or(pg_sys::Datum::from(0usize));
        }
        let function = info.fn_addr?;
        let result = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| function(frame));
        (!(*frame).isnull).then_some(result)
    }
}

/// An integer as PostgreSQL 17 serialises a numeric in the state of an aggregate: numbers of digits to base 10,000,
/// weight, sign, scale, digits.
fn serialise(out: &mut Vec<u8>, value: i128) {
    const BASE: u128 = 10_000;
    const NEGATIVE: i32 = 0x4000;
    let mut digits = Vec::new();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        digits.push((rest % BASE) as u16);
        rest /= BASE;
    }
    let weight = digits.len() as i32 - 1;
    digits.reverse();
    out.extend_from_slice(&(digits.len() as i32).to_be_bytes());
    out.extend_from_slice(&weight.max(0).to_be_bytes());
    out.extend_from_slice(&(if value < 0 { NEGATIVE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    for digit in digits {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}
