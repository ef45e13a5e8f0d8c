//! Pieces of SQL that several kinds of statements need. The target table always has the alias `t`.

use super::rng::Rng;
use super::shape::{Column, Role, Shape};
use super::value::{Kind, literal};

/// Values of one row, in the order of the columns.
pub type Row = Vec<Option<String>>;

/// A condition that picks rows of one key.
pub fn key_equals(columns: &[&Column], row: &[Option<String>]) -> String {
    let terms: Vec<String> = columns
        .iter()
        .zip(row)
        .map(|(c, value)| match value {
            None => format!("t.{} IS NULL", c.name),
            Some(v) => format!("t.{} = {}", c.name, literal(c.kind, Some(v))),
        })
        .collect();
    terms.join(" AND ")
}

/// A condition that picks the rows of a random key.
pub fn point(shape: &Shape, rng: &mut Rng) -> String {
    let keys = shape.keys();
    let row: Row = keys.iter().map(|c| c.value(rng)).collect();
    key_equals(&keys, &row)
}

/// A condition that picks a range of keys.
pub fn range(shape: &Shape, rng: &mut Rng) -> String {
    let keys = shape.keys();
    let column = *rng.pick(&keys);
    match column.kind.range(rng) {
        Some((low, high)) => format!(
            "t.{} BETWEEN {} AND {}",
            column.name,
            literal(column.kind, Some(&low)),
            literal(column.kind, Some(&high))
        ),
        None => format!("t.{} = {}", column.name, column.literal(rng)),
    }
}

/// A condition on any column.
pub fn on_column(shape: &Shape, rng: &mut Rng) -> String {
    let column = rng.pick(&shape.columns);
    let name = &column.name;
    if !column.kind.comparable() || rng.chance(15) {
        let not = if rng.chance(50) { "NOT " } else { "" };
        return format!("t.{name} IS {not}NULL");
    }
    let value = column.kind.value(rng);
    let one = literal(column.kind, Some(&value));
    match rng.below(5) {
        0 => format!("t.{name} <> {one}"),
        1 => format!("t.{name} < {one}"),
        2 => format!("t.{name} >= {one}"),
        3 => format!("t.{name} IS NOT DISTINCT FROM {}", column.literal(rng)),
        _ => format!("t.{name} = {one}"),
    }
}

/// A condition of any kind.
pub fn condition(shape: &Shape, rng: &mut Rng) -> String {
    match rng.below(12) {
        0..=2 => point(shape, rng),
        3..=5 => range(shape, rng),
        6 => on_column(shape, rng),
        7 => format!("({} OR {})", point(shape, rng), point(shape, rng)),
        8 => format!("({} OR {})", range(shape, rng), on_column(shape, rng)),
        _ => format!("{} AND {}", range(shape, rng), on_column(shape, rng)),
    }
}

/// The columns that an INSERT fills: all that can be, now and then without some.
pub fn filled(shape: &Shape, rng: &mut Rng) -> Vec<Column> {
    let drop_key = shape.identity && rng.chance(60);
    let drop_some = rng.chance(20);
    shape
        .writable()
        .into_iter()
        .filter(|c| match c.role {
            Role::Key => !drop_key,
            _ => !drop_some || rng.chance(60),
        })
        .cloned()
        .collect()
}

/// Random rows of these columns, with different keys unless `repeat`.
pub fn rows(columns: &[Column], n: u64, repeat: bool, rng: &mut Rng) -> Vec<Row> {
    let mut seen = std::collections::HashSet::new();
    let mut rows = Vec::new();
    for _ in 0..n {
        let row: Row = columns.iter().map(|c| c.value(rng)).collect();
        let key: Vec<Option<String>> = columns
            .iter()
            .zip(&row)
            .filter(|(c, _)| c.role == Role::Key)
            .map(|(_, v)| v.clone())
            .collect();
        if repeat || key.is_empty() || seen.insert(key) {
            rows.push(row);
        }
    }
    rows
}

/// Names of columns with commas between.
pub fn names(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    names.join(", ")
}

/// `VALUES (…), (…)`.
pub fn values(columns: &[Column], rows: &[Row]) -> String {
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let fields: Vec<String> = columns
                .iter()
                .zip(row)
                .map(|(c, v)| literal(c.kind, v.as_deref()))
                .collect();
            format!("({})", fields.join(", "))
        })
        .collect();
    format!("VALUES {}", lines.join(", "))
}

/// A new value for a column, from its old one or not.
pub fn changed(column: &Column, rng: &mut Rng) -> String {
    let name = &column.name;
    if rng.chance(50) {
        return column.literal(rng);
    }
    match column.kind {
        Kind::Int(..) | Kind::Decimal => format!("t.{name} + {}", rng.between(1, 9)),
        Kind::Double | Kind::Real => format!("t.{name} + 0.25"),
        Kind::Text | Kind::Word => format!("left(t.{name} || 'x', 12)"),
        Kind::Bool => format!("NOT t.{name}"),
        _ => format!("t.{name}"),
    }
}

/// The assignments of an UPDATE to columns that may be set in many rows.
pub fn assignments(shape: &Shape, rng: &mut Rng) -> String {
    let plain = shape.plain();
    let n = 1 + rng.below(3.min(plain.len() as u64));
    let mut list: Vec<String> = Vec::new();
    let start = rng.below(plain.len() as u64) as usize;
    for column in plain.iter().cycle().skip(start).take(n as usize) {
        list.push(format!("{} = {}", column.name, changed(column, rng)));
    }
    list.join(", ")
}

/// Another table, for joins: not a large one.
pub fn other<'a>(shapes: &'a [Shape], rng: &mut Rng) -> &'a Shape {
    loop {
        let shape = rng.pick(shapes);
        if !shape.large {
            return shape;
        }
    }
}

/// A column of whole numbers in a small range, which every table has.
pub fn int_column<'a>(shape: &'a Shape, rng: &mut Rng) -> &'a Column {
    let ints: Vec<&Column> = shape
        .columns
        .iter()
        .filter(|c| matches!(c.kind, Kind::Int(..)))
        .collect();
    ints[rng.below(ints.len() as u64) as usize]
}
