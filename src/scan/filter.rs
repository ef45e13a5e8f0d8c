//! Conditions that are evaluated on whole pages.
//!
//! [`Filter::compile`] recognises them in the planner's clauses: comparisons of a column with something that does not
//! change while the scan runs, IN lists, NULL tests, booleans, and AND, OR, NOT of such. The same function is called at
//! planning time (to know what can be pushed down) and at execution time (on the clauses as the planner has finished
//! them). What it does not recognise stays a filter of the executor.

use crate::am::zone::{Comparable, Comparison, ProbeKind, comparable};
use crate::pg::{list, relation};
use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;

/// A condition on the rows of a table. NULL counts as not satisfied, so a condition is only negated where it is two-valued.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Column, comparison, index of the value in [`Compiled::values`].
    Compare {
        /// Attribute number.
        attnum: i16,
        /// Column on the left.
        comparison: Comparison,
        /// Which value.
        value: usize,
    },
    /// Column equal to one of an array's elements.
    In {
        /// Attribute number.
        attnum: i16,
        /// Which value: an array.
        value: usize,
    },
    /// Column IS NULL, or IS NOT NULL.
    Null {
        /// Attribute number.
        attnum: i16,
        /// IS NULL.
        wanted: bool,
    },
    /// All of them.
    And(Vec<Filter>),
    /// One of them.
    Or(Vec<Filter>),
}

/// A value that a filter compares with: an expression that is constant for one run of the scan.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// The expression.
    pub expr: *mut pg_sys::Expr,
    /// How it is looked for in zones and pages.
    pub kind: ProbeKind,
    /// Set where the expression gives an array of such values.
    pub element: Option<pg_sys::Oid>,
}

/// A filter and its values.
#[derive(Debug)]
pub struct Compiled {
    /// The condition.
    pub filter: Filter,
    /// What it compares with.
    pub values: Vec<Value>,
}

/// What a scan may compare columns with.
pub struct Scope {
    /// The table's number in the range table.
    pub varno: i32,
    /// Values may have columns of other tables in them (a parametrised path); else they have none.
    pub outer: bool,
}

impl Compiled {
    /// The clause as a filter, if it is one.
    ///
    /// # Safety
    /// `clause` is a valid expression.
    pub unsafe fn new(clause: *mut pg_sys::Expr, scope: &Scope) -> Option<Self> {
        let mut values = Vec::new();
        // SAFETY: by contract.
        let filter = unsafe { compile(clause, scope, &mut values)? };
        Some(Compiled { filter, values })
    }
}

/// A column of the scanned table, through casts that change nothing.
struct Column {
    attnum: i16,
    typ: pg_sys::Oid,
}

/// # Safety
/// `expr` is a valid expression.
unsafe fn strip(mut expr: *mut pg_sys::Expr) -> *mut pg_sys::Expr {
    // SAFETY: by contract.
    unsafe {
        while !expr.is_null() && list::tag(expr) == NodeTag::T_RelabelType {
            expr = (*expr.cast::<pg_sys::RelabelType>()).arg;
        }
        expr
    }
}

/// # Safety
/// As [`strip`].
unsafe fn column(expr: *mut pg_sys::Expr, scope: &Scope) -> Option<Column> {
    // SAFETY: by contract; a node's tag says what it is.
    unsafe {
        let bare = strip(expr);
        if bare.is_null() || list::tag(bare) != NodeTag::T_Var {
            return None;
        }
        let var = &*bare.cast::<pg_sys::Var>();
        (var.varno == scope.varno && var.varlevelsup == 0 && var.varattno > 0).then_some(Column {
            attnum: var.varattno,
            typ: var.vartype,
        })
    }
}

/// The attribute number of a column of the scanned table, if the expression is one.
///
/// # Safety
/// `expr` is a valid expression.
pub unsafe fn column_of(expr: *mut pg_sys::Expr, scope: &Scope) -> Option<i16> {
    // SAFETY: by contract.
    unsafe { column(expr, scope) }.map(|c| c.attnum)
}

/// Whether an expression keeps its value while the scan runs.
///
/// # Safety
/// As [`strip`].
unsafe fn steady(expr: *mut pg_sys::Expr, scope: &Scope) -> bool {
    // SAFETY: by contract.
    unsafe {
        let node = expr.cast::<pg_sys::Node>();
        if pg_sys::contain_volatile_functions(node) || pg_sys::contain_subplans(node) {
            return false;
        }
        if scope.outer {
            let relids = pg_sys::pull_varnos(std::ptr::null_mut(), node);
            !pg_sys::bms_is_member(scope.varno, relids)
        } else {
            !pg_sys::contain_var_clause(node)
        }
    }
}

/// Types whose values can be compared with each other by their bits, each class by itself.
fn class(typ: pg_sys::Oid) -> pg_sys::Oid {
    match relation::base_type(typ) {
        pg_sys::INT2OID | pg_sys::INT4OID => pg_sys::INT8OID,
        pg_sys::FLOAT4OID => pg_sys::FLOAT8OID,
        pg_sys::VARCHAROID => pg_sys::TEXTOID,
        other => other,
    }
}

/// The comparison that an operator makes in the default order of a type; `<>` is the negator of `=`.
fn comparison(operator: pg_sys::Oid, typ: pg_sys::Oid) -> Option<Comparison> {
    // SAFETY: type cache and syscache look-ups; the list is in the current memory context.
    unsafe {
        let family =
            (*pg_sys::lookup_type_cache(typ, pg_sys::TYPECACHE_BTREE_OPFAMILY as i32)).btree_opf;
        let found = pg_sys::get_op_btree_interpretation(operator);
        for interpretation in list::nodes::<pg_sys::OpBtreeInterpretation>(found) {
            if (*interpretation).opfamily_id != family {
                continue;
            }
            return match (*interpretation).strategy {
                1 => Some(Comparison::Less),
                2 => Some(Comparison::LessEqual),
                3 => Some(Comparison::Equal),
                4 => Some(Comparison::GreaterEqual),
                5 => Some(Comparison::Greater),
                6 => Some(Comparison::NotEqual),
                _ => None,
            };
        }
        None
    }
}

/// How a comparison under a collation can be made on zones and pages, if it can.
fn kind(column: &Column, collation: pg_sys::Oid, comparison: Comparison) -> Option<ProbeKind> {
    match comparable(column.typ, collation) {
        (Comparable::Order, kind) => kind,
        (Comparable::Equality, kind)
            if matches!(comparison, Comparison::Equal | Comparison::NotEqual) =>
        {
            kind
        }
        _ => None,
    }
}

/// The probe kind for values of a type that are compared with a column of another of its class.
fn kind_of_value(column: ProbeKind, typ: pg_sys::Oid) -> ProbeKind {
    match (column, relation::base_type(typ)) {
        (ProbeKind::Float4 | ProbeKind::Float8, pg_sys::FLOAT4OID) => ProbeKind::Float4,
        (ProbeKind::Float4 | ProbeKind::Float8, _) => ProbeKind::Float8,
        (other, _) => other,
    }
}

/// # Safety
/// `clause` is a valid expression.
unsafe fn compile(
    clause: *mut pg_sys::Expr,
    scope: &Scope,
    values: &mut Vec<Value>,
) -> Option<Filter> {
    // SAFETY: by contract; a node's tag says what it is.
    unsafe {
        match list::tag(clause) {
            NodeTag::T_OpExpr => operator(&*clause.cast::<pg_sys::OpExpr>(), scope, values),
            NodeTag::T_ScalarArrayOpExpr => {
                in_list(&*clause.cast::<pg_sys::ScalarArrayOpExpr>(), scope, values)
            }
            NodeTag::T_NullTest => {
                let test = &*clause.cast::<pg_sys::NullTest>();
                let column = column(test.arg, scope)?;
                (!test.argisrow).then_some(Filter::Null {
                    attnum: column.attnum,
                    wanted: test.nulltesttype == pg_sys::NullTestType::IS_NULL,
                })
            }
            NodeTag::T_BoolExpr => {
                let expr = &*clause.cast::<pg_sys::BoolExpr>();
                let before = values.len();
                let parts: Option<Vec<Filter>> = list::nodes::<pg_sys::Expr>(expr.args)
                    .map(|part| compile(part, scope, values))
                    .collect();
                match (expr.boolop, parts) {
                    (pg_sys::BoolExprType::AND_EXPR, Some(parts)) => Some(Filter::And(parts)),
                    (pg_sys::BoolExprType::OR_EXPR, Some(parts)) => Some(Filter::Or(parts)),
                    _ => {
                        values.truncate(before);
                        None
                    }
                }
            }
            _ => None,
        }
    }
}

/// # Safety
/// The expression is valid.
unsafe fn operator(
    expr: &pg_sys::OpExpr,
    scope: &Scope,
    values: &mut Vec<Value>,
) -> Option<Filter> {
    // SAFETY: by contract.
    unsafe {
        let mut arguments = list::nodes::<pg_sys::Expr>(expr.args);
        let (left, right) = (arguments.next()?, arguments.next()?);
        let (column, other, flipped) = match (column(left, scope), column(right, scope)) {
            (Some(c), _) if steady(right, scope) => (c, right, false),
            (_, Some(c)) if steady(left, scope) => (c, left, true),
            _ => return None,
        };
        let found = comparison(expr.opno, column.typ)?;
        let comparison = if flipped { found.commuted() } else { found };
        let typ = pg_sys::exprType(other.cast());
        if class(typ) != class(column.typ) {
            return None;
        }
        let of_column = kind(&column, expr.inputcollid, comparison)?;
        values.push(Value {
            expr: other,
            kind: kind_of_value(of_column, typ),
            element: None,
        });
        Some(Filter::Compare {
            attnum: column.attnum,
            comparison,
            value: values.len() - 1,
        })
    }
}

/// # Safety
/// The expression is valid.
unsafe fn in_list(
    expr: &pg_sys::ScalarArrayOpExpr,
    scope: &Scope,
    values: &mut Vec<Value>,
) -> Option<Filter> {
    // SAFETY: by contract.
    unsafe {
        let mut arguments = list::nodes::<pg_sys::Expr>(expr.args);
        let (left, right) = (arguments.next()?, arguments.next()?);
        let column = column(left, scope)?;
        if !expr.useOr
            || !steady(right, scope)
            || comparison(expr.opno, column.typ)? != Comparison::Equal
        {
            return None;
        }
        let element = pg_sys::get_element_type(relation::base_type(pg_sys::exprType(right.cast())));
        if element == pg_sys::InvalidOid || class(element) != class(column.typ) {
            return None;
        }
        let of_column = kind(&column, expr.inputcollid, Comparison::Equal)?;
        values.push(Value {
            expr: right,
            kind: kind_of_value(of_column, element),
            element: Some(element),
        });
        Some(Filter::In {
            attnum: column.attnum,
            value: values.len() - 1,
        })
    }
}

impl Filter {
    /// Whether it looks at a column.
    pub fn reads(&self, column: i16) -> bool {
        match self {
            Filter::Compare { attnum, .. }
            | Filter::In { attnum, .. }
            | Filter::Null { attnum, .. } => *attnum == column,
            Filter::And(parts) | Filter::Or(parts) => parts.iter().any(|p| p.reads(column)),
        }
    }

    /// The filter with its values moved by `by` places, for the values of several filters in one list.
    pub fn shifted(self, by: usize) -> Self {
        match self {
            Filter::Compare {
                attnum,
                comparison,
                value,
            } => Filter::Compare {
                attnum,
                comparison,
                value: value + by,
            },
            Filter::In { attnum, value } => Filter::In {
                attnum,
                value: value + by,
            },
            Filter::Null { .. } => self,
            Filter::And(parts) => Filter::And(parts.into_iter().map(|p| p.shifted(by)).collect()),
            Filter::Or(parts) => Filter::Or(parts.into_iter().map(|p| p.shifted(by)).collect()),
        }
    }
}
