//! What is computed of a group.

use super::filter;
use crate::shadow::rng::Rng;
use crate::shadow::shape::{Column, Shape};
use crate::shadow::value::Kind;

/// Digits of float8 that agree whatever the order of additions.
const DOUBLE: u32 = 9;
/// The same of float4, thousands of which are added in float4.
const SINGLE: u32 = 3;

/// Aggregates.
#[derive(Default)]
pub struct Sums {
    /// The calls.
    pub calls: Vec<String>,
    /// Set where some are floats that depend on the order: how many digits agree in every order.
    pub digits: Option<u32>,
}

impl Sums {
    fn push(&mut self, call: String) {
        self.calls.push(call);
    }

    fn about(&mut self, digits: u32) {
        self.digits = Some(self.digits.map_or(digits, |d| d.min(digits)));
    }
}

/// One to five random aggregates of alias `t`, of rows grouped by `keys`.
pub fn several(shape: &Shape, keys: &[String], rng: &mut Rng) -> Sums {
    let mut sums = Sums::default();
    for _ in 0..1 + rng.below(5) {
        one(shape, keys, &mut sums, rng);
        filtered(&mut sums, filter::simple(shape, rng), rng);
    }
    sums
}

/// The same, such as can be computed by columns.
pub fn by_columns(shape: &Shape, keys: &[String], rng: &mut Rng) -> Sums {
    let mut sums = Sums::default();
    for _ in 0..1 + rng.below(5) {
        let column = rng.pick(&shape.columns);
        let n = format!("t.{}", column.name);
        let name = *rng.pick(&["sum", "avg", "min", "max"]);
        match (rng.below(10), column.kind) {
            (0, _) => sums.push("count(*)".into()),
            (1, _) => sums.push(format!("count({n})")),
            (2, _) => sums.push(format!("count(DISTINCT {n})")),
            (3, _) => bookend(shape, keys, &mut sums, rng),
            (4, _) => spread(shape, &mut sums, rng),
            (5, _) => floats(shape, &mut sums, rng),
            (_, Kind::Bool) => {
                let name = *rng.pick(&["bool_and", "bool_or", "every"]);
                sums.push(format!("{name}({n})"));
            }
            (_, Kind::Text | Kind::Word) => {
                let name = *rng.pick(&["min", "max"]);
                sums.push(format!("{name}({n} COLLATE \"C\")"));
            }
            (_, Kind::Int(..) | Kind::Small | Kind::Big | Kind::Double) => {
                sums.push(format!("{name}({n})"));
            }
            (_, Kind::Real) => {
                sums.about(SINGLE);
                sums.push(format!("{name}({n})"));
            }
            (_, Kind::Wild) => {
                sums.about(DOUBLE);
                sums.push(format!("{name}({n})"));
            }
            _ => extreme(column, &mut sums, rng),
        }
        filtered(&mut sums, filter::by_columns(shape, rng), rng);
    }
    sums
}

/// Gives the last call a FILTER, now and then.
fn filtered(sums: &mut Sums, condition: String, rng: &mut Rng) {
    if rng.chance(18)
        && let Some(call) = sums.calls.last_mut()
        && !call.contains(" FILTER ")
    {
        call.push_str(&format!(" FILTER (WHERE {condition})"));
    }
}

fn one(shape: &Shape, keys: &[String], sums: &mut Sums, rng: &mut Rng) {
    let column = rng.pick(&shape.columns);
    let n = format!("t.{}", column.name);
    match rng.weighted(&[10, 8, 6, 24, 18, 10, 10, 8, 6]) {
        0 => sums.push("count(*)".into()),
        1 => sums.push(format!("count({n})")),
        2 if column.kind.canonical() => sums.push(format!("count(DISTINCT {n})")),
        3 => added(column, sums, rng),
        4 => extreme(column, sums, rng),
        5 => bookend(shape, keys, sums, rng),
        6 => spread(shape, sums, rng),
        7 => truth(shape, sums, rng),
        8 => floats(shape, sums, rng),
        _ => sums.push(format!(
            "md5(string_agg({n}::text, ',' ORDER BY {n}::text COLLATE \"C\"))"
        )),
    }
}

/// A sum or a mean.
fn added(column: &Column, sums: &mut Sums, rng: &mut Rng) {
    let n = format!("t.{}", column.name);
    let name = *rng.pick(&["sum", "avg"]);
    match column.kind {
        Kind::Int(..) | Kind::Positive => {
            let of = rng.pick(&[
                "$",
                "$",
                "$",
                "$::bigint",
                "$ + 1",
                "$ * 2",
                "$::float8",
                "-$",
            ]);
            sums.push(format!("{name}({})", of.replace('$', &n)));
        }
        Kind::Small | Kind::Big | Kind::Decimal | Kind::Numeric | Kind::Interval => {
            sums.push(format!("{name}({n})"));
        }
        Kind::Double => {
            let of = rng.pick(&["$", "$", "$", "$ * 2", "$ + 1", "-$", "$ / 4", "$::numeric"]);
            sums.push(format!("{name}({})", of.replace('$', &n)));
        }
        Kind::Real => {
            sums.about(SINGLE);
            sums.push(format!("{name}({n})"));
        }
        Kind::Wild => {
            sums.about(DOUBLE);
            sums.push(format!("{name}({n})"));
        }
        Kind::Bool => sums.push(format!("{name}({n}::int)")),
        Kind::Text | Kind::Word | Kind::Varchar => sums.push(format!("{name}(length({n}))")),
        _ => sums.push(format!("count({n})")),
    }
}

/// Least or greatest.
fn extreme(column: &Column, sums: &mut Sums, rng: &mut Rng) {
    let n = format!("t.{}", column.name);
    let name = *rng.pick(&["min", "max"]);
    let of = match column.kind {
        Kind::Text | Kind::Word if rng.chance(60) => format!("{n} COLLATE \"C\""),
        Kind::Bool
        | Kind::Uuid
        | Kind::Json
        | Kind::Jsonb
        | Kind::Range
        | Kind::Pair
        | Kind::Bytea
        | Kind::Bits => format!("{n}::text"),
        Kind::Numeric | Kind::Interval => format!("({n} IS NULL)::int"),
        Kind::Int(..) if rng.chance(30) => format!("{n} * 3"),
        Kind::Double if rng.chance(30) => format!("{n} - 0.5"),
        _ => n,
    };
    let distinct = if rng.chance(5) { "DISTINCT " } else { "" };
    sums.push(format!("{name}({distinct}{of})"));
}

/// A column by which no two rows of a group are alike.
fn unique<'a>(shape: &'a Shape, keys: &[String]) -> Option<&'a Column> {
    if !shape.keyed() || shape.null_keys {
        return None;
    }
    let mut rest = shape
        .keys()
        .into_iter()
        .filter(|c| !keys.contains(&format!("t.{}", c.name)));
    let one = rest.next()?;
    rest.next().is_none().then_some(one)
}

/// `first` or `last`.
fn bookend(shape: &Shape, keys: &[String], sums: &mut Sums, rng: &mut Rng) {
    let name = *rng.pick(&["first", "last"]);
    let value = rng.pick(&shape.columns);
    match unique(shape, keys) {
        Some(by) => sums.push(format!("{name}(t.{}, t.{})", value.name, by.name)),
        None if value.kind.canonical() && value.kind.comparable() => {
            sums.push(format!("{name}(t.{n}, t.{n})", n = value.name));
        }
        None => sums.push("count(*)".into()),
    }
}

/// A standard deviation or a variance. Not of wild floats: whether their squares overflow depends on the order.
fn spread(shape: &Shape, sums: &mut Sums, rng: &mut Rng) {
    let numbers: Vec<&Column> = shape
        .columns
        .iter()
        .filter(|c| {
            matches!(
                c.kind,
                Kind::Int(..) | Kind::Small | Kind::Big | Kind::Real | Kind::Double | Kind::Decimal
            )
        })
        .collect();
    if numbers.is_empty() {
        return sums.push("count(*)".into());
    }
    let column = numbers[rng.below(numbers.len() as u64) as usize];
    if matches!(column.kind, Kind::Real | Kind::Double) {
        sums.about(DOUBLE);
    }
    let name = *rng.pick(&[
        "stddev",
        "variance",
        "stddev_pop",
        "stddev_samp",
        "var_pop",
        "var_samp",
    ]);
    sums.push(format!("{name}(t.{})", column.name));
}

/// `bool_and`, `bool_or`, `every`.
fn truth(shape: &Shape, sums: &mut Sums, rng: &mut Rng) {
    let name = *rng.pick(&["bool_and", "bool_or", "every"]);
    let flag = shape.columns.iter().find(|c| c.kind == Kind::Bool);
    match flag {
        Some(flag) if rng.chance(70) => sums.push(format!("{name}(t.{})", flag.name)),
        _ => sums.push(format!("{name}({})", filter::simple(shape, rng))),
    }
}

/// Arithmetic that gives floats.
fn floats(shape: &Shape, sums: &mut Sums, rng: &mut Rng) {
    let numbers: Vec<String> = shape
        .columns
        .iter()
        .filter_map(|c| match c.kind {
            Kind::Double => Some(format!("t.{}", c.name)),
            Kind::Int(..) | Kind::Real => Some(format!("t.{}::float8", c.name)),
            _ => None,
        })
        .collect();
    if numbers.is_empty() {
        return sums.push("count(*)".into());
    }
    let (a, b) = (rng.pick(&numbers), rng.pick(&numbers));
    let name = *rng.pick(&["sum", "avg", "min", "max", "count", "stddev"]);
    // Zeros of products have either sign, and division is inexact.
    sums.about(DOUBLE);
    sums.push(match rng.below(7) {
        0 => format!("{name}({a} + {b})"),
        1 => format!("{name}({a} - {b})"),
        2 => format!("{name}({a} * {b})"),
        3 => format!("{name}(({a} + {b} * 2) / 8)"),
        4 => format!("{name}(-{a} * 3)"),
        // A zero fails, unless the row is not asked for.
        5 => format!("{name}({a} / {b}) FILTER (WHERE {b} <> 0)"),
        _ => format!("{name}(abs({a}))"),
    });
}
