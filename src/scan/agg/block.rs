//! Rows of a page, or of a heap, as vectors that aggregates run over.

use super::accumulate::{Data, Values};
use super::spec::{Arithmetic, Class, Column, Operator};
use super::strings::Strings;
use crate::pg::{relation, tuple};
use crate::scan::batch::positions;
use crate::scan::columns::{Columns, Stored};
use crate::scan::eval::{Bits, count};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use varve_core::paged::{MOST_PICKED, PAGE_ROWS, PageValues};

/// Which rows of a page are in a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// From one to another.
    Range(usize, usize),
    /// Several ranges, and how many rows they have.
    Ranges(Vec<Range<usize>>, usize),
    /// These.
    List(Vec<u16>),
}

/// Rows of which fewer than this follow each other are listed one by one.
const SHORT_RUN: usize = 8;

impl Rows {
    /// The rows whose bits are set.
    pub fn of_bits(bits: &Bits) -> Self {
        let rows = count(bits);
        // A run begins where a bit is set and the one before is not.
        let mut before = 0;
        let mut runs = 0;
        for word in bits {
            runs += (word & !(word << 1 | before)).count_ones() as usize;
            before = word >> 63;
        }
        if runs * SHORT_RUN > rows && runs > 1 {
            return Rows::List(positions(bits));
        }
        let mut ranges = Vec::with_capacity(runs);
        let mut at = 0;
        while let Some(start) = next(bits, at, true) {
            let end = next(bits, start, false).unwrap_or(PAGE_ROWS);
            ranges.push(start..end);
            at = end;
        }
        match ranges.as_slice() {
            [] => Rows::Range(0, 0),
            [only] => Rows::Range(only.start, only.end),
            _ => Rows::Ranges(ranges, rows),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Rows::Range(from, to) => to - from,
            Rows::Ranges(_, rows) => *rows,
            Rows::List(rows) => rows.len(),
        }
    }

    /// Their numbers, where they are so few that they are better decoded one by one.
    fn few(&self) -> Option<Cow<'_, [u16]>> {
        if self.len() > MOST_PICKED {
            return None;
        }
        if let Rows::List(rows) = self {
            return Some(Cow::Borrowed(rows));
        }
        let mut rows = Vec::with_capacity(self.len());
        self.each(|row| rows.push(row as u16));
        Some(Cow::Owned(rows))
    }

    fn pick<T: Copy + Default>(&self, from: &[T], to: &mut Vec<T>) {
        to.clear();
        self.each_part(from, |part| to.extend_from_slice(part));
        to.resize(self.len(), T::default());
    }

    /// Calls `f` with values that follow each other, until they were all there.
    fn each_part<T>(&self, from: &[T], mut f: impl FnMut(&[T])) {
        match self {
            Rows::Range(start, end) => f(from.get(*start..*end).unwrap_or_default()),
            Rows::Ranges(ranges, _) => ranges
                .iter()
                .for_each(|range| f(from.get(range.clone()).unwrap_or_default())),
            Rows::List(rows) => rows
                .iter()
                .filter_map(|row| from.get(usize::from(*row)..=usize::from(*row)))
                .for_each(f),
        }
    }

    fn each(&self, mut f: impl FnMut(usize)) {
        match self {
            Rows::Range(start, end) => (*start..*end).for_each(f),
            Rows::Ranges(ranges, _) => ranges.iter().cloned().flatten().for_each(f),
            Rows::List(rows) => rows.iter().for_each(|row| f(usize::from(*row))),
        }
    }
}

/// The first row from `at` on whose bit is set, or is not.
fn next(bits: &Bits, at: usize, set: bool) -> Option<usize> {
    let flip = if set { 0 } else { u64::MAX };
    let mut mask = u64::MAX << (at % 64);
    for (n, word) in bits.iter().enumerate().skip(at / 64) {
        let found = (word ^ flip) & mask;
        if found != 0 {
            return Some(n * 64 + found.trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

/// Values of one column in the rows of a block.
#[derive(Default)]
pub struct Lane {
    ints: Vec<i64>,
    floats: Vec<f64>,
    nulls: Option<Vec<bool>>,
    float: bool,
    filled: bool,
}

impl Lane {
    /// The values.
    pub fn values(&self) -> Values<'_> {
        Values {
            data: if self.float {
                Data::Floats(&self.floats)
            } else {
                Data::Ints(&self.ints)
            },
            nulls: self.nulls.as_deref(),
        }
    }

    fn clear(&mut self, class: Class) {
        self.ints.clear();
        self.floats.clear();
        self.nulls = None;
        self.float = class == Class::Float;
        self.filled = true;
    }

    /// Adds a row.
    fn push(&mut self, value: Option<(i64, f64)>) {
        let (int, float) = value.unwrap_or((0, 0.0));
        if self.float {
            self.floats.push(float);
        } else {
            self.ints.push(int);
        }
        let rows = self.ints.len().max(self.floats.len());
        match (&mut self.nulls, value.is_none()) {
            (Some(nulls), null) => nulls.push(null),
            (none, true) => {
                let mut nulls = vec![false; rows - 1];
                nulls.push(true);
                *none = Some(nulls);
            }
            (None, false) => {}
        }
    }
}

/// The rows at hand.
#[derive(Default)]
pub struct Block {
    rows: usize,
    lanes: HashMap<i16, Lane>,
    /// Numbers of strings by code, for the columns of the segment at hand.
    codes: HashMap<i16, Vec<i64>>,
    /// The numbering that they are of.
    epoch: u64,
    computed: Lane,
}

const UNKNOWN: i64 = -1;

impl Block {
    /// Rows at hand.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Says that another segment is at hand, whose codes are others.
    pub fn new_segment(&mut self) {
        self.codes.clear();
    }

    /// Empties the block for a number of rows.
    pub fn start(&mut self, rows: usize) {
        self.rows = rows;
        self.lanes.values_mut().for_each(|lane| lane.filled = false);
    }

    /// Fills the lane of a column from the page at hand (`attnum` is the child's).
    pub fn fill(
        &mut self,
        column: Column,
        attnum: i16,
        columns: &mut Columns,
        rows: &Rows,
        strings: &mut Strings,
    ) -> Result<(), String> {
        let lane = self.lanes.entry(column.attnum).or_default();
        if lane.filled {
            return Ok(());
        }
        lane.clear(column.class);
        let stored = match rows.few() {
            Some(few) => columns.stored_rows(attnum, &few)?,
            None => columns.stored(attnum)?,
        };
        let (page, dictionary) = match stored {
            Stored::Missing(_) => {
                let value = columns.missing_datum(attnum);
                // SAFETY: the missing value of an attribute of that class.
                let value = value.map(|datum| unsafe { value_of(column, datum, strings) });
                (0..rows.len()).for_each(|_| lane.push(value));
                return Ok(());
            }
            Stored::Page(page, dictionary) => (page, dictionary),
        };
        if page.validity().is_some() {
            let mut nulls = Vec::with_capacity(rows.len());
            rows.each(|row| nulls.push(page.is_null(row)));
            lane.nulls = nulls.contains(&true).then_some(nulls);
        }
        match (page.values(), column.class) {
            (PageValues::Ints(v), Class::Int) => rows.pick(v, &mut lane.ints),
            (PageValues::F64(v), Class::Float) => rows.pick(v, &mut lane.floats),
            (PageValues::F32(v), Class::Float) => {
                rows.each(|row| lane.floats.push(v.get(row).copied().unwrap_or(0.0).into()));
            }
            (PageValues::Codes(codes), Class::Text) => {
                let dictionary = dictionary.ok_or("codes without a dictionary")?;
                if self.epoch != strings.epoch() {
                    self.epoch = strings.epoch();
                    self.codes.clear();
                }
                let known = self.codes.entry(column.attnum).or_default();
                known.resize(dictionary.len(), UNKNOWN);
                rows.each_part(codes, |part| {
                    for run in part.chunk_by(|a, b| a == b) {
                        let code = run.first().copied().unwrap_or(0);
                        let number = match known.get_mut(code as usize) {
                            Some(number) => {
                                if *number == UNKNOWN {
                                    *number = strings.number(dictionary.get(code));
                                }
                                *number
                            }
                            None => 0,
                        };
                        lane.ints.resize(lane.ints.len() + run.len(), number);
                    }
                });
            }
            (PageValues::Bytes { offsets, data }, Class::Text) => rows.each(|row| {
                let from = offsets.get(row).copied().unwrap_or(0) as usize;
                let to = offsets.get(row + 1).copied().unwrap_or(0) as usize;
                let null = page.is_null(row);
                let string = data.get(from..to).unwrap_or_default();
                lane.ints
                    .push(if null { 0 } else { strings.number(string) });
            }),
            (PageValues::Fixed { len, data }, Class::Text) => rows.each(|row| {
                let null = page.is_null(row);
                let string = data.get(row * len..(row + 1) * len).unwrap_or_default();
                lane.ints
                    .push(if null { 0 } else { strings.number(string) });
            }),
            _ => {
                return Err(format!(
                    "column {attnum}: its values are of another kind than its type's"
                ));
            }
        }
        Ok(())
    }

    /// The rows for which `wanted` is set.
    pub fn subset(&self, wanted: &[bool]) -> Block {
        let rows: Vec<usize> = (0..self.rows)
            .filter(|row| wanted.get(*row) == Some(&true))
            .collect();
        let lanes = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.filled)
            .map(|(attnum, lane)| {
                (
                    *attnum,
                    Lane {
                        ints: rows
                            .iter()
                            .filter_map(|r| lane.ints.get(*r))
                            .copied()
                            .collect(),
                        floats: rows
                            .iter()
                            .filter_map(|r| lane.floats.get(*r))
                            .copied()
                            .collect(),
                        nulls: lane
                            .nulls
                            .as_ref()
                            .map(|n| rows.iter().filter_map(|r| n.get(*r)).copied().collect()),
                        float: lane.float,
                        filled: true,
                    },
                )
            });
        Block {
            rows: rows.len(),
            lanes: lanes.collect(),
            ..Block::default()
        }
    }

    /// Adds a row of a heap, given the datums of the columns.
    ///
    /// # Safety
    /// The datums are of the columns' types.
    pub unsafe fn push(
        &mut self,
        columns: &[Column],
        datums: impl Iterator<Item = Option<pg_sys::Datum>>,
        strings: &mut Strings,
    ) {
        for (column, datum) in columns.iter().zip(datums) {
            let lane = self.lanes.entry(column.attnum).or_default();
            if !lane.filled {
                lane.clear(column.class);
            }
            // SAFETY: by contract.
            lane.push(datum.map(|d| unsafe { value_of(*column, d, strings) }));
        }
        self.rows += 1;
    }

    /// The values of a column.
    pub fn values(&self, column: Column) -> Option<Values<'_>> {
        self.lanes
            .get(&column.attnum)
            .filter(|lane| lane.filled)
            .map(Lane::values)
    }

    /// Computes an arithmetic expression for all rows, whose columns are filled.
    pub fn compute(&mut self, expr: &Arithmetic) -> Values<'_> {
        let mut floats = std::mem::take(&mut self.computed.floats);
        let mut nulls = None;
        floats.clear();
        floats.resize(self.rows, 0.0);
        self.evaluate(expr, &mut floats, &mut nulls);
        self.computed = Lane {
            ints: Vec::new(),
            floats,
            nulls,
            float: true,
            filled: true,
        };
        self.computed.values()
    }

    fn evaluate(&self, expr: &Arithmetic, out: &mut [f64], nulls: &mut Option<Vec<bool>>) {
        match expr {
            Arithmetic::Constant(value) => out.fill(*value),
            Arithmetic::Column(column) => {
                let Some(values) = self.values(*column) else {
                    return;
                };
                match values.data {
                    Data::Floats(v) => out.iter_mut().zip(v).for_each(|(o, v)| *o = *v),
                    Data::Ints(v) => out.iter_mut().zip(v).for_each(|(o, v)| *o = *v as f64),
                }
                if let Some(more) = values.nulls {
                    match nulls {
                        Some(known) => known.iter_mut().zip(more).for_each(|(k, m)| *k |= *m),
                        none => *none = Some(more.to_vec()),
                    }
                }
            }
            Arithmetic::Negated(inner) => {
                self.evaluate(inner, out, nulls);
                out.iter_mut().for_each(|o| *o = -*o);
            }
            Arithmetic::Binary(operator, left, right) => {
                self.evaluate(left, out, nulls);
                let mut other = vec![0.0; out.len()];
                self.evaluate(right, &mut other, nulls);
                if combine(*operator, out, &other) {
                    // Rows that are NULL may look so; the left operands are computed again to tell.
                    let mut before = vec![0.0; out.len()];
                    self.evaluate(left, &mut before, &mut None);
                    check(*operator, &before, &other, nulls.as_deref());
                }
            }
        }
    }
}

/// The value of a datum of a column's type: as an integer or number of a string, and as a float.
///
/// # Safety
/// The datum is of the column's type.
unsafe fn value_of(column: Column, datum: pg_sys::Datum, strings: &mut Strings) -> (i64, f64) {
    match column.class {
        Class::Int => (datum.value() as i64, 0.0),
        Class::Float => (0, float_of(column.typ, datum)),
        // SAFETY: by contract.
        Class::Text if relation::base_type(column.typ) == pg_sys::UUIDOID => unsafe {
            let bytes = std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), 16);
            (strings.number(bytes), 0.0)
        },
        // SAFETY: by contract.
        Class::Text => unsafe { (tuple::with_payload(datum, |b| strings.number(b)), 0.0) },
    }
}

/// The token of a value that is not NULL.
///
/// # Safety
/// The datum is of the column's type.
pub unsafe fn token_of(
    column: Column,
    datum: pg_sys::Datum,
    strings: &mut Strings,
) -> super::groups::Token {
    // SAFETY: by contract.
    let (int, float) = unsafe { value_of(column, datum, strings) };
    let bits = match column.class {
        Class::Float => float.to_bits() as i64,
        Class::Int | Class::Text => int,
    };
    (bits, false)
}

fn float_of(typ: pg_sys::Oid, datum: pg_sys::Datum) -> f64 {
    if relation::base_type(typ) == pg_sys::FLOAT4OID {
        f32::from_bits(datum.value() as u32).into()
    } else {
        f64::from_bits(datum.value() as u64)
    }
}

fn apply(operator: Operator, a: f64, b: f64) -> f64 {
    match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
    }
}

/// Whether PostgreSQL's operator fails: overflow, underflow, division by zero.
fn fails(operator: Operator, a: f64, b: f64, result: f64) -> bool {
    match operator {
        Operator::Add | Operator::Subtract => {
            result.is_infinite() & !a.is_infinite() & !b.is_infinite()
        }
        Operator::Multiply => {
            (result.is_infinite() & !a.is_infinite() & !b.is_infinite())
                | ((result == 0.0) & (a != 0.0) & (b != 0.0))
        }
        Operator::Divide => {
            ((b == 0.0) & !a.is_nan())
                | (result.is_infinite() & !a.is_infinite())
                | ((result == 0.0) & (a != 0.0) & !b.is_infinite())
        }
    }
}

/// Combines floats; whether PostgreSQL's operator would fail somewhere.
fn combine(operator: Operator, left: &mut [f64], right: &[f64]) -> bool {
    let mut failed = false;
    for (l, r) in left.iter_mut().zip(right) {
        let result = apply(operator, *l, *r);
        failed |= fails(operator, *l, *r, result);
        *l = result;
    }
    failed
}

/// Raises the error of the first row that is not NULL and fails.
fn check(operator: Operator, left: &[f64], right: &[f64], nulls: Option<&[bool]>) {
    for (row, (a, b)) in left.iter().zip(right).enumerate() {
        let null = nulls.is_some_and(|n| n.get(row).copied().unwrap_or(true));
        let result = apply(operator, *a, *b);
        if null || !fails(operator, *a, *b, result) {
            continue;
        }
        let (code, message) = if operator == Operator::Divide && *b == 0.0 {
            (PgSqlErrorCode::ERRCODE_DIVISION_BY_ZERO, "division by zero")
        } else if result == 0.0 {
            (
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                "value out of range: underflow",
            )
        } else {
            (
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                "value out of range: overflow",
            )
        };
        crate::am::error::raise(code, message.into(), None, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_bits_that_are_set() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..200 {
            let mut bits: Bits = [0; PAGE_ROWS / 64];
            for (at, word) in bits.iter_mut().enumerate() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *word = match round % 5 {
                    0 => 0,
                    1 => u64::MAX,
                    2 => state,
                    3 => u64::MAX << (state % 64),
                    _ if (state as usize) % 3 == at % 3 => u64::MAX >> (state % 64),
                    _ => 0,
                };
            }
            let rows = Rows::of_bits(&bits);
            let expected = positions(&bits);
            assert_eq!(rows.len(), expected.len());
            let mut each = Vec::new();
            rows.each(|row| each.push(row as u16));
            assert_eq!(each, expected);
            let values: Vec<u16> = (0..PAGE_ROWS as u16).collect();
            let mut picked = Vec::new();
            rows.pick(&values, &mut picked);
            assert_eq!(picked, expected);
        }
    }
}
