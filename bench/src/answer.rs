//! Whether two answers to a query are the same.

use crate::Result;
use postgres::Row;
use postgres::types::{FromSql, Type};
use std::cmp::Ordering;
use std::fmt::Display;

/// Floats may differ by this much, relatively: sums depend on their order.
const TOLERANCE: f64 = 1e-9;

/// One value of an answer.
#[derive(Clone, Debug)]
enum Cell {
    Null,
    /// Any type but floats, as the server sends it.
    Bytes(Vec<u8>),
    Float(f64),
}

impl Cell {
    fn order(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Float(a), Cell::Float(b)) => a.total_cmp(b),
            (Cell::Bytes(a), Cell::Bytes(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Cell::Null => 0,
            Cell::Bytes(_) => 1,
            Cell::Float(_) => 2,
        }
    }

    fn same(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Bytes(a), Cell::Bytes(b)) => a == b,
            (Cell::Float(a), Cell::Float(b)) => {
                a == b
                    || (a.is_nan() && b.is_nan())
                    || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
            }
            _ => false,
        }
    }
}

impl Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cell::Null => write!(f, "null"),
            Cell::Float(x) => write!(f, "{x:?}"),
            Cell::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.chars().any(char::is_control) => write!(f, "{text}"),
                _ => {
                    write!(f, "0x")?;
                    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
                }
            },
        }
    }
}

/// A value as it came, of whatever type.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(
        _: &Type,
        bytes: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(bytes))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// All rows of an answer.
pub struct Answer(Vec<Vec<Cell>>);

impl Answer {
    /// Reads rows; those of a query that fixes no order are brought into one.
    pub fn new(rows: &[Row], ordered: bool) -> Result<Answer> {
        let mut cells = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
        if !ordered {
            cells.sort_by(|a, b| order(a, b));
        }
        Ok(Answer(cells))
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.0.len()
    }

    /// Where the other answer, varve's, differs from this one, heap's.
    pub fn difference(&self, other: &Answer) -> Option<String> {
        if self.rows() != other.rows() {
            return Some(format!(
                "heap gives {} rows, varve {}",
                self.rows(),
                other.rows()
            ));
        }
        let same = |(a, b): (&Vec<Cell>, &Vec<Cell>)| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
        };
        let at = self.0.iter().zip(&other.0).position(|pair| !same(pair))?;
        Some(format!(
            "row {}: heap gives ({}), varve ({})",
            at + 1,
            text(&self.0[at]),
            text(&other.0[at])
        ))
    }
}

fn read(row: &Row) -> Result<Vec<Cell>> {
    let cell = |i: usize| -> Result<Cell> {
        Ok(match *row.columns()[i].type_() {
            Type::FLOAT8 => row
                .try_get::<_, Option<f64>>(i)?
                .map_or(Cell::Null, Cell::Float),
            Type::FLOAT4 => row
                .try_get::<_, Option<f32>>(i)?
                .map_or(Cell::Null, |x| Cell::Float(x.into())),
            _ => row
                .try_get::<_, Option<Raw>>(i)?
                .map_or(Cell::Null, |raw| Cell::Bytes(raw.0.to_vec())),
        })
    };
    (0..row.len()).map(cell).collect()
}

/// By what must be equal first, so that floats that nearly agree do not tear equal rows apart.
fn order(a: &[Cell], b: &[Cell]) -> Ordering {
    let pairs = |floats: bool| {
        let is_float = move |cell: &Cell| matches!(cell, Cell::Float(_)) == floats;
        let of_kind = move |(a, b): &(&Cell, &Cell)| is_float(a) && is_float(b);
        a.iter().zip(b).filter(of_kind)
    };
    pairs(false)
        .chain(pairs(true))
        .map(|(a, b)| a.order(b))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn text(row: &[Cell]) -> String {
    let cells: Vec<String> = row.iter().map(Cell::to_string).collect();
    cells.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[(&str, f64)]) -> Answer {
        let mut cells: Vec<Vec<Cell>> = rows
            .iter()
            .map(|(key, x)| vec![Cell::Float(*x), Cell::Bytes((*key).into()), Cell::Null])
            .collect();
        cells.sort_by(|a, b| order(a, b));
        Answer(cells)
    }

    #[test]
    fn order_and_last_bits_do_not_matter() {
        let heap = answer(&[("a", 1.0), ("b", 1.0 + 1e-12)]);
        let varve = answer(&[("b", 1.0), ("a", 1.0 + 1e-12)]);
        assert_eq!(heap.difference(&varve), None);
    }

    #[test]
    fn differences_are_shown() {
        let heap = answer(&[("a", 1.0), ("b", 2.0)]);
        let other_value = answer(&[("a", 1.0), ("b", 2.000001)]);
        assert_eq!(
            heap.difference(&other_value).unwrap(),
            "row 2: heap gives (2.0, b, null), varve (2.000001, b, null)"
        );
        let other_key = answer(&[("a", 1.0), ("c", 2.0)]);
        assert!(heap.difference(&other_key).is_some());
        assert_eq!(
            heap.difference(&answer(&[("a", 1.0)])).unwrap(),
            "heap gives 2 rows, varve 1"
        );
    }

    #[test]
    fn null_and_nan_equal_themselves_only() {
        let nan = Cell::Float(f64::NAN);
        assert!(nan.same(&nan) && Cell::Null.same(&Cell::Null));
        assert!(!nan.same(&Cell::Float(0.0)) && !Cell::Null.same(&Cell::Bytes(vec![])));
        assert!(!Cell::Float(0.0).same(&Cell::Float(1e-300)));
    }
}
