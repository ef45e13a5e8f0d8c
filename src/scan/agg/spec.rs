//! What a grouping query asks for, out of the planner's expressions.
//!
//! The same functions run at planning time (to know whether the query can be answered by columns) and at execution time.

use super::timescale;
use crate::am::zone::{Comparable, comparable};
use crate::pg::{list, relation};
use crate::scan::filter::{Compiled, Scope};
use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;
use std::ffi::CStr;

/// How values of a type are held while they are grouped and aggregated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// As `i64`, in their order.
    Int,
    /// As `f64`.
    Float,
    /// Strings of bytes (text, uuid): as numbers of known strings.
    Text,
}

/// The class of a type, `None` where values of it can't be held.
pub fn class_of(typ: pg_sys::Oid) -> Option<Class> {
    Some(match relation::base_type(typ) {
        pg_sys::INT2OID
        | pg_sys::INT4OID
        | pg_sys::INT8OID
        | pg_sys::DATEOID
        | pg_sys::TIMEOID
        | pg_sys::TIMESTAMPOID
        | pg_sys::TIMESTAMPTZOID
        | pg_sys::BOOLOID
        | pg_sys::MONEYOID
        | pg_sys::OIDOID
        | pg_sys::CHAROID => Class::Int,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => Class::Float,
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::UUIDOID => Class::Text,
        _ => return None,
    })
}

/// A column of the table (attribute numbers are the parent's).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Attribute number.
    pub attnum: i16,
    /// Type.
    pub typ: pg_sys::Oid,
    /// How its values are held.
    pub class: Class,
}

/// What rows are grouped by.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// A column.
    Column(Column),
    /// `time_bucket` of a width that is a number of microseconds (or of the column's own units).
    Bucket {
        /// The column.
        column: Column,
        /// Width of a bucket.
        width: i64,
        /// Where one begins.
        origin: i64,
    },
    /// Another expression of one column, evaluated once for each of its values.
    Expression {
        /// The column.
        column: Column,
        /// The expression.
        expr: *mut pg_sys::Expr,
        /// How its values are held.
        class: Class,
    },
}

impl Key {
    /// The column that it reads.
    pub fn column(&self) -> Column {
        match self {
            Key::Column(column) | Key::Bucket { column, .. } | Key::Expression { column, .. } => {
                *column
            }
        }
    }

    /// How its values are held.
    pub fn class(&self) -> Class {
        match self {
            Key::Column(column) => column.class,
            Key::Bucket { .. } => Class::Int,
            Key::Expression { class, .. } => *class,
        }
    }
}

/// Floating-point arithmetic on columns.
#[derive(Clone, Debug)]
pub enum Arithmetic {
    /// A column, as float8.
    Column(Column),
    /// A constant.
    Constant(f64),
    /// Two operands.
    Binary(Operator, Box<Arithmetic>, Box<Arithmetic>),
    /// `-x`
    Negated(Box<Arithmetic>),
}

/// What two floats are combined by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
}

/// What an aggregate takes.
#[derive(Clone, Debug)]
pub enum Input {
    /// A column.
    Column(Column),
    /// Arithmetic that gives float8.
    Arithmetic(Arithmetic),
}

/// What is computed of a group.
#[derive(Clone, Debug)]
pub enum Function {
    /// `count(*)`
    CountRows,
    /// `count(x)`
    Count(Input),
    /// `count(DISTINCT x)`
    CountDistinct(Column),
    /// `sum`
    Sum(Input),
    /// `avg`
    Average(Input),
    /// `min` or `max`
    Extreme {
        /// Of what.
        input: Input,
        /// `max`
        greatest: bool,
    },
    /// `bool_and` (`every`) or `bool_or`
    Bool {
        /// Of which column.
        column: Column,
        /// `bool_or`
        any: bool,
    },
    /// `stddev` and `variance`
    Spread {
        /// Of what.
        input: Input,
        /// Of the population.
        population: bool,
        /// The square root of the variance.
        root: bool,
    },
    /// `first` or `last` by another column.
    Bookend {
        /// The value.
        value: Column,
        /// What decides.
        by: Column,
        /// `last`
        last: bool,
    },
}

/// An aggregate.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Type of the result.
    pub result: pg_sys::Oid,
    /// The condition of FILTER.
    pub filter: *mut pg_sys::Expr,
}

impl Aggregate {
    /// Whether counts, bounds and sums of whole segments are all that it takes.
    pub fn headers_do(&self) -> bool {
        let number = |column: &Column| column.class != Class::Text;
        self.filter.is_null()
            && match &self.function {
                Function::CountRows => true,
                Function::Count(Input::Column(_)) | Function::Bool { .. } => true,
                Function::Sum(Input::Column(c)) | Function::Average(Input::Column(c)) => number(c),
                Function::Extreme {
                    input: Input::Column(c),
                    ..
                } => number(c),
                _ => false,
            }
    }
}

/// # Safety
/// `expr` is a valid expression.
unsafe fn column(expr: *mut pg_sys::Expr, varno: i32) -> Option<Column> {
    // SAFETY: by contract; a node's tag says what it is.
    unsafe {
        let mut bare = expr;
        while list::tag(bare) == NodeTag::T_RelabelType {
            bare = (*bare.cast::<pg_sys::RelabelType>()).arg;
        }
        if list::tag(bare) != NodeTag::T_Var {
            return None;
        }
        let var = &*bare.cast::<pg_sys::Var>();
        (var.varno == varno && var.varattno > 0 && var.varlevelsup == 0).then_some(Column {
            attnum: var.varattno,
            typ: var.vartype,
            class: class_of(var.vartype)?,
        })
    }
}

/// The name of a function, and whether it is PostgreSQL's own.
fn function_name(function: pg_sys::Oid) -> Option<(&'static CStr, bool)> {
    // SAFETY: syscache look-ups; the name is a copy in the current memory context, which outlives the call.
    unsafe {
        let name = pg_sys::get_func_name(function);
        let own = pg_sys::get_func_namespace(function)
            == pg_sys::Oid::from_u32(pg_sys::PG_CATALOG_NAMESPACE);
        (!name.is_null()).then(|| (CStr::from_ptr(name), own))
    }
}

/// Monday, 3 January 2000, in microseconds since 1 January 2000: where buckets begin unless told otherwise.
const MONDAY: i64 = 2 * 86_400_000_000;

/// What an expression of GROUP BY groups by, if that can be done by columns.
///
/// # Safety
/// `expr` is a valid expression.
pub unsafe fn key(expr: *mut pg_sys::Expr, varno: i32) -> Option<Key> {
    // SAFETY: by contract.
    unsafe {
        let typ = pg_sys::exprType(expr.cast());
        let collation = pg_sys::exprCollation(expr.cast());
        let (equality, _) = comparable(typ, collation);
        if equality == Comparable::No {
            return None;
        }
        if let Some(column) = column(expr, varno) {
            return Some(Key::Column(column));
        }
        if let Some(bucket) = bucket(expr, varno) {
            return Some(bucket);
        }
        let node = expr.cast::<pg_sys::Node>();
        if pg_sys::contain_volatile_functions(node)
            || pg_sys::contain_subplans(node)
            || pg_sys::contain_agg_clause(node)
            || pg_sys::contain_window_function(node)
        {
            return None;
        }
        let mut of: Option<Column> = None;
        for var in list::nodes::<pg_sys::Expr>(pg_sys::pull_var_clause(node, 0)) {
            let one = column(var, varno)?;
            if of.is_some_and(|c| c.attnum != one.attnum) {
                return None;
            }
            of = Some(one);
        }
        // What floats are equal to is not what expressions of them are.
        let column = of.filter(|c| c.class != Class::Float)?;
        Some(Key::Expression {
            column,
            expr,
            class: class_of(typ)?,
        })
    }
}

/// # Safety
/// `expr` is a valid expression.
unsafe fn bucket(expr: *mut pg_sys::Expr, varno: i32) -> Option<Key> {
    // SAFETY: by contract; a node's tag says what it is.
    unsafe {
        if list::tag(expr) != NodeTag::T_FuncExpr {
            return None;
        }
        let call = &*expr.cast::<pg_sys::FuncExpr>();
        let arguments: Vec<*mut pg_sys::Expr> = list::nodes(call.args).collect();
        let [width, time] = arguments[..] else {
            return None;
        };
        if list::tag(width) != NodeTag::T_Const || !timescale::is_member(call.funcid) {
            return None;
        }
        if function_name(call.funcid)?.0 != c"time_bucket" {
            return None;
        }
        let width = &*width.cast::<pg_sys::Const>();
        let column = column(time, varno)?;
        if width.constisnull {
            return None;
        }
        let (width, origin) = match (width.consttype, column.typ) {
            (pg_sys::INTERVALOID, pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID) => {
                let interval = &*width.constvalue.cast_mut_ptr::<pg_sys::Interval>();
                if interval.month != 0 {
                    return None;
                }
                let width = i64::from(interval.day)
                    .checked_mul(86_400_000_000)?
                    .checked_add(interval.time)?;
                (width, MONDAY)
            }
            (pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID, typ)
                if typ == width.consttype =>
            {
                (width.constvalue.value() as i64, 0)
            }
            _ => return None,
        };
        (width > 0).then_some(Key::Bucket {
            column,
            width,
            origin,
        })
    }
}

/// # Safety
/// `expr` is a valid expression.
unsafe fn arithmetic(expr: *mut pg_sys::Expr, varno: i32) -> Option<Arithmetic> {
    // SAFETY: by contract; a node's tag says what it is.
    unsafe {
        match list::tag(expr) {
            NodeTag::T_Const => {
                let constant = &*expr.cast::<pg_sys::Const>();
                (constant.consttype == pg_sys::FLOAT8OID && !constant.constisnull).then(|| {
                    Arithmetic::Constant(f64::from_bits(constant.constvalue.value() as u64))
                })
            }
            NodeTag::T_Var | NodeTag::T_RelabelType => column(expr, varno)
                .filter(|c| c.typ == pg_sys::FLOAT8OID)
                .map(Arithmetic::Column),
            NodeTag::T_FuncExpr => {
                let call = &*expr.cast::<pg_sys::FuncExpr>();
                let mut arguments = list::nodes::<pg_sys::Expr>(call.args);
                let argument = arguments.next()?;
                let cast = [
                    pg_sys::F_FLOAT8_INT2,
                    pg_sys::F_FLOAT8_INT4,
                    pg_sys::F_FLOAT8_INT8,
                    pg_sys::F_FLOAT8_FLOAT4,
                ]
                .contains(&call.funcid.to_u32());
                column(argument, varno)
                    .filter(|_| cast)
                    .map(Arithmetic::Column)
            }
            NodeTag::T_OpExpr => {
                let call = &*expr.cast::<pg_sys::OpExpr>();
                let arguments: Vec<*mut pg_sys::Expr> = list::nodes(call.args).collect();
                let function = pg_sys::get_opcode(call.opno).to_u32();
                if let [one] = arguments[..] {
                    let inner = arithmetic(one, varno)?;
                    return (function == pg_sys::F_FLOAT8UM)
                        .then(|| Arithmetic::Negated(Box::new(inner)));
                }
                let operator = match function {
                    pg_sys::F_FLOAT8PL | pg_sys::F_FLOAT48PL | pg_sys::F_FLOAT84PL => Operator::Add,
                    pg_sys::F_FLOAT8MI | pg_sys::F_FLOAT48MI | pg_sys::F_FLOAT84MI => {
                        Operator::Subtract
                    }
                    pg_sys::F_FLOAT8MUL | pg_sys::F_FLOAT48MUL | pg_sys::F_FLOAT84MUL => {
                        Operator::Multiply
                    }
                    pg_sys::F_FLOAT8DIV | pg_sys::F_FLOAT48DIV | pg_sys::F_FLOAT84DIV => {
                        Operator::Divide
                    }
                    _ => return None,
                };
                let [left, right] = arguments[..] else {
                    return None;
                };
                Some(Arithmetic::Binary(
                    operator,
                    Box::new(operand(left, varno)?),
                    Box::new(operand(right, varno)?),
                ))
            }
            _ => None,
        }
    }
}

/// An operand of an operator that gives float8; a float4 is made one by the operator itself.
///
/// # Safety
/// `expr` is a valid expression.
unsafe fn operand(expr: *mut pg_sys::Expr, varno: i32) -> Option<Arithmetic> {
    // SAFETY: by contract.
    unsafe {
        match column(expr, varno) {
            Some(c) if c.typ == pg_sys::FLOAT4OID => Some(Arithmetic::Column(c)),
            _ => arithmetic(expr, varno),
        }
    }
}

/// # Safety
/// `expr` is a valid expression.
unsafe fn input(expr: *mut pg_sys::Expr, varno: i32) -> Option<Input> {
    // SAFETY: by contract.
    unsafe {
        column(expr, varno)
            .map(Input::Column)
            .or_else(|| arithmetic(expr, varno).map(Input::Arithmetic))
    }
}

/// What an aggregate computes, if that can be done by columns.
///
/// # Safety
/// `call` is a valid aggregate call.
pub unsafe fn aggregate(call: &pg_sys::Aggref, varno: i32) -> Option<Aggregate> {
    // SAFETY: by contract.
    unsafe {
        if call.agglevelsup != 0
            || !call.aggorder.is_null()
            || !call.aggdirectargs.is_null()
            || call.aggvariadic
            || call.aggkind != b'n' as std::ffi::c_char
            || call.aggsplit != pg_sys::AggSplit::AGGSPLIT_SIMPLE
        {
            return None;
        }
        let scope = Scope {
            varno,
            outer: false,
        };
        if !call.aggfilter.is_null() && Compiled::new(call.aggfilter, &scope).is_none() {
            return None;
        }
        let arguments: Vec<*mut pg_sys::Expr> = list::nodes::<pg_sys::TargetEntry>(call.args)
            .map(|t| (*t).expr)
            .collect();
        let (name, own) = function_name(call.aggfnoid)?;
        let function = if own {
            builtin(name, call, &arguments, varno)?
        } else if timescale::is_member(call.aggfnoid) {
            bookend(name, &arguments, varno)?
        } else {
            return None;
        };
        Some(Aggregate {
            function,
            result: call.aggtype,
            filter: call.aggfilter,
        })
    }
}

/// # Safety
/// The arguments are valid expressions.
unsafe fn bookend(name: &CStr, arguments: &[*mut pg_sys::Expr], varno: i32) -> Option<Function> {
    let last = match name.to_bytes() {
        b"first" => false,
        b"last" => true,
        _ => return None,
    };
    let [value, by] = arguments[..] else {
        return None;
    };
    // SAFETY: by contract.
    unsafe {
        Some(Function::Bookend {
            value: column(value, varno)?,
            by: column(by, varno).filter(|c| c.class != Class::Text)?,
            last,
        })
    }
}

/// # Safety
/// The arguments are valid expressions.
unsafe fn builtin(
    name: &CStr,
    call: &pg_sys::Aggref,
    arguments: &[*mut pg_sys::Expr],
    varno: i32,
) -> Option<Function> {
    let name = name.to_bytes();
    let distinct = !call.aggdistinct.is_null();
    let Some(first) = arguments.first() else {
        return (name == b"count" && call.aggstar).then_some(Function::CountRows);
    };
    if arguments.len() != 1 {
        return None;
    }
    // SAFETY: by contract.
    let input = unsafe { input(*first, varno)? };
    if distinct && !matches!(name, b"min" | b"max") {
        // SAFETY: by contract.
        let equality = unsafe { comparable(pg_sys::exprType((*first).cast()), call.inputcollid).0 };
        return match input {
            Input::Column(column) if name == b"count" && equality != Comparable::No => {
                Some(Function::CountDistinct(column))
            }
            _ => None,
        };
    }
    let numeric = match &input {
        Input::Arithmetic(_) => true,
        Input::Column(c) => matches!(
            c.typ,
            pg_sys::INT2OID
                | pg_sys::INT4OID
                | pg_sys::INT8OID
                | pg_sys::FLOAT4OID
                | pg_sys::FLOAT8OID
        ),
    };
    Some(match name {
        b"count" => Function::Count(input),
        b"sum" if numeric => Function::Sum(input),
        b"avg" if numeric => Function::Average(input),
        b"min" | b"max" => {
            if let Input::Column(column) = &input {
                // Unsigned types are held signed, and other orders than that of bytes are not known here.
                match comparable(column.typ, call.inputcollid).0 {
                    Comparable::Order => {}
                    _ => return None,
                }
            }
            Function::Extreme {
                input,
                greatest: name == b"max",
            }
        }
        b"bool_and" | b"every" | b"bool_or" => match input {
            Input::Column(column) => Function::Bool {
                column,
                any: name == b"bool_or",
            },
            Input::Arithmetic(_) => return None,
        },
        b"stddev" | b"stddev_samp" | b"stddev_pop" | b"variance" | b"var_samp" | b"var_pop"
            if numeric =>
        {
            if matches!(&input, Input::Column(c) if c.typ == pg_sys::INT8OID) {
                return None;
            }
            Function::Spread {
                input,
                population: name.ends_with(b"_pop"),
                root: name.starts_with(b"std"),
            }
        }
        _ => return None,
    })
}
