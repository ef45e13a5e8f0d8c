//! Conditions on rows of alias `t`.

use crate::shadow::rng::Rng;
use crate::shadow::shape::{Column, Shape};
use crate::shadow::text::{condition, int_column, on_column, range};
use crate::shadow::value::{Kind, literal};

/// ` WHERE …`, or nothing.
pub fn maybe(shape: &Shape, rng: &mut Rng) -> String {
    if rng.chance(30) {
        return String::new();
    }
    format!(" WHERE {}", any(shape, rng))
}

/// A condition.
pub fn any(shape: &Shape, rng: &mut Rng) -> String {
    match rng.below(10) {
        0..=2 => condition(shape, rng),
        3 => format!("NOT ({})", simple(shape, rng)),
        4 => format!("({} OR {})", simple(shape, rng), simple(shape, rng)),
        5 | 6 => format!("{} AND {}", simple(shape, rng), simple(shape, rng)),
        7 => initial(shape, rng),
        _ => simple(shape, rng),
    }
}

/// A condition without subqueries.
pub fn simple(shape: &Shape, rng: &mut Rng) -> String {
    let column = rng.pick(&shape.columns);
    match rng.below(12) {
        0..=2 => on_column(shape, rng),
        3 | 4 => range(shape, rng),
        5 | 6 => list(column, rng),
        7 => typed(column, rng),
        8 => recent(shape, rng),
        9 => between(column, rng),
        10 => match column.kind {
            Kind::Bool => format!("t.{}", column.name),
            _ => format!("t.{} IS NOT NULL", column.name),
        },
        _ => {
            let (a, b) = (int_column(shape, rng), int_column(shape, rng));
            format!("t.{} <= t.{} + {}", a.name, b.name, rng.between(-9, 9))
        }
    }
}

/// A condition that can be evaluated on whole pages.
pub fn by_columns(shape: &Shape, rng: &mut Rng) -> String {
    let column = rng.pick(&shape.columns);
    match rng.below(8) {
        0 | 1 => range(shape, rng),
        2 => on_column(shape, rng),
        3 => list(column, rng),
        4 => between(column, rng),
        5 => recent(shape, rng),
        6 => format!("({} OR {})", range(shape, rng), on_column(shape, rng)),
        _ => format!("{} AND {}", range(shape, rng), on_column(shape, rng)),
    }
}

/// `IN`, `= ANY` and their negations.
fn list(column: &Column, rng: &mut Rng) -> String {
    let name = &column.name;
    if !column.kind.comparable() {
        return format!("t.{name} IS NULL");
    }
    let n = 1 + rng.below(5);
    let mut values: Vec<String> = (0..n)
        .map(|_| {
            let value = column.kind.value(rng);
            literal(column.kind, Some(&value))
        })
        .collect();
    if rng.chance(10) {
        values.push(format!("NULL::{}", column.kind.sql()));
    }
    let values = values.join(", ");
    match rng.below(5) {
        0 => format!("t.{name} NOT IN ({values})"),
        1 => format!("t.{name} = ANY (ARRAY[{values}])"),
        2 => format!("t.{name} <> ALL (ARRAY[{values}])"),
        _ => format!("t.{name} IN ({values})"),
    }
}

fn between(column: &Column, rng: &mut Rng) -> String {
    let name = &column.name;
    if !column.kind.comparable() {
        return format!("t.{name} IS NOT NULL");
    }
    let ends = [column.kind.value(rng), column.kind.value(rng)];
    let [a, b] = ends.map(|v| literal(column.kind, Some(&v)));
    let not = if rng.chance(15) { "NOT " } else { "" };
    let symmetric = if rng.chance(70) { "SYMMETRIC " } else { "" };
    format!("t.{name} {not}BETWEEN {symmetric}{a} AND {b}")
}

/// A comparison with a value of another type, or of an expression.
fn typed(column: &Column, rng: &mut Rng) -> String {
    let name = &column.name;
    let operator = *rng.pick(&["=", "<>", "<", "<=", ">", ">="]);
    match column.kind {
        Kind::Int(low, high) => {
            let n = rng.between(low, high);
            let value = match rng.below(6) {
                0 => format!("{n}::bigint"),
                1 => format!("{}::smallint", n % 30000),
                2 => format!("{n}.5"),
                3 => format!("{n}::float8"),
                4 => "4294967296".to_string(),
                _ => format!("abs({n})"),
            };
            format!("t.{name} {operator} {value}")
        }
        Kind::Small | Kind::Big => format!("t.{name} {operator} {}", rng.between(-120, 120)),
        Kind::Real | Kind::Double | Kind::Wild => {
            let n = rng.between(-400, 4000);
            let cast = *rng.pick(&["real", "float8", "numeric", "int"]);
            let value = match rng.below(8) {
                0 => "'NaN'::float8".to_string(),
                1 => "'Infinity'::real".to_string(),
                2 => "0.1::real".to_string(),
                _ => format!("{n}::{cast}"),
            };
            format!("t.{name} {operator} {value}")
        }
        Kind::Text | Kind::Word | Kind::Varchar => {
            let word = Kind::Word.value(rng);
            match rng.below(5) {
                0 => format!("t.{name} LIKE 'e%'"),
                1 => format!("t.{name} {operator} '{word}'::varchar"),
                2 => format!("t.{name} {operator} '{word}' COLLATE \"C\""),
                3 => format!("lower(t.{name}) {operator} '{word}'"),
                _ => format!("t.{name} {operator} '{word}'"),
            }
        }
        Kind::Bar | Kind::Instant | Kind::Timestamp | Kind::Date => {
            let value = Kind::Bar.value(rng);
            let cast = *rng.pick(&["timestamptz", "timestamp", "date"]);
            format!("t.{name} {operator} '{value}'::{cast}")
        }
        Kind::Bool => {
            (*rng.pick(&["t.$", "NOT t.$", "t.$ IS TRUE", "t.$ IS NOT TRUE"])).replace('$', name)
        }
        _ => format!("t.{name} IS NOT NULL"),
    }
}

/// A condition on time that is relative to now. Both sides ask within moments, so the difference comes to the same.
fn recent(shape: &Shape, rng: &mut Rng) -> String {
    let Some(column) = shape.columns.iter().find(|c| c.kind == Kind::Bar) else {
        return on_column(shape, rng);
    };
    let value = Kind::Bar.value(rng);
    let operator = *rng.pick(&["<", ">="]);
    format!(
        "t.{} {operator} now() - (now() - '{value}'::timestamptz)",
        column.name
    )
}

/// A comparison with the result of a subquery that runs once.
fn initial(shape: &Shape, rng: &mut Rng) -> String {
    let column = int_column(shape, rng);
    let name = &column.name;
    let of = *rng.pick(&["min", "max", "avg"]);
    format!(
        "t.{name} >= (SELECT {of}(u.{name}) FROM {} u WHERE {})",
        shape.name,
        simple(shape, rng).replace("t.", "u.")
    )
}
