//! Accumulators: what is known of each group so far, for one aggregate.

use super::spec::{Aggregate, Class, Function, Input};
use super::strings::Strings;
use crate::am::zone::float_order;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;
use varve_core::paged::{Bounds, Sum, Zone, is_negative_zero};

/// Values of an aggregate's argument in the rows of a block.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The values.
    pub data: Data<'a>,
    /// Which are NULL; `None` where none is.
    pub nulls: Option<&'a [bool]>,
}

/// Values by class. Texts are numbers of strings.
#[derive(Clone, Copy)]
pub enum Data<'a> {
    /// [`Class::Int`] and [`Class::Text`]
    Ints(&'a [i64]),
    /// [`Class::Float`]
    Floats(&'a [f64]),
}

/// A value and whether it is NULL, as its bits.
pub type Cell = (i64, bool);

impl Values<'_> {
    fn is_null(&self, row: usize) -> bool {
        self.nulls
            .is_some_and(|n| n.get(row).copied().unwrap_or(true))
    }

    /// Number of rows of a range that are not NULL.
    fn present(&self, rows: &Range<usize>) -> usize {
        match self.nulls.and_then(|n| n.get(rows.clone())) {
            Some(nulls) => nulls.iter().filter(|null| !**null).count(),
            None => rows.len(),
        }
    }

    fn cell(&self, row: usize) -> Cell {
        let bits = match self.data {
            Data::Ints(v) => v.get(row).copied().unwrap_or(0),
            Data::Floats(v) => v.get(row).map_or(0, |f| f.to_bits() as i64),
        };
        (bits, self.is_null(row))
    }

    fn float(&self, row: usize) -> f64 {
        match self.data {
            Data::Ints(v) => v.get(row).copied().unwrap_or(0) as f64,
            Data::Floats(v) => v.get(row).copied().unwrap_or(0.0),
        }
    }
}

/// Accumulators of all groups for one aggregate.
pub enum Accumulator {
    /// `count`
    Count(Vec<i64>),
    /// `count(DISTINCT …)`
    Distinct(Vec<HashSet<i64>>),
    /// `sum` and `avg` of integers: count and sum.
    Integers(Vec<(i64, i128)>),
    /// `sum` and `avg` of floats: count, sum, whether a value is infinite.
    Floats(Vec<(i64, f64, bool)>),
    /// Spread of integers: count, sum, sum of squares.
    IntegerSquares(Vec<(i64, i128, i128)>),
    /// Spread of floats: count, sum, sum of squared differences from the mean.
    FloatSquares(Vec<(i64, f64, f64)>),
    /// `min` and `max` of integers and texts: the value, once there is one.
    IntExtreme(Vec<Option<i64>>, bool),
    /// The same of texts by number, compared as strings.
    TextExtreme(Vec<Option<i64>>, bool),
    /// The same of floats.
    FloatExtreme(Vec<Option<f64>>, bool),
    /// `bool_and` and (true) `bool_or`.
    Bool(Vec<Option<bool>>, bool),
    /// `first` and (true) `last`.
    Bookend(Vec<Option<Bookend>>, bool),
}

/// The row that `first` or `last` has chosen so far.
#[derive(Clone, Copy, Debug)]
pub struct Bookend {
    /// What decides, as a float or an integer.
    pub by: By,
    /// The value.
    pub value: Cell,
    /// Where the row's block comes in the table: of equals the row that comes first is taken, whichever process read it.
    pub place: u64,
}

/// What decides between two rows for `first` and `last`.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// An integer, time among them.
    Int(i64),
    /// A float.
    Float(f64),
}

impl By {
    fn order(self, other: By) -> Ordering {
        match (self, other) {
            (By::Int(a), By::Int(b)) => a.cmp(&b),
            (By::Float(a), By::Float(b)) => float_order(a, b),
            _ => Ordering::Equal,
        }
    }
}

fn class(input: &Input) -> Class {
    match input {
        Input::Column(c) => c.class,
        Input::Arithmetic(_) => Class::Float,
    }
}

fn better(candidate: Ordering, greatest: bool) -> bool {
    if greatest {
        candidate.is_gt()
    } else {
        candidate.is_lt()
    }
}

impl Accumulator {
    /// For an aggregate, without any group.
    pub fn new(aggregate: &Aggregate) -> Self {
        match &aggregate.function {
            Function::CountRows | Function::Count(_) => Accumulator::Count(Vec::new()),
            Function::CountDistinct(_) => Accumulator::Distinct(Vec::new()),
            Function::Sum(input) | Function::Average(input) => match class(input) {
                Class::Float => Accumulator::Floats(Vec::new()),
                _ => Accumulator::Integers(Vec::new()),
            },
            Function::Spread { input, .. } => match class(input) {
                Class::Float => Accumulator::FloatSquares(Vec::new()),
                _ => Accumulator::IntegerSquares(Vec::new()),
            },
            Function::Extreme { input, greatest } => match class(input) {
                Class::Float => Accumulator::FloatExtreme(Vec::new(), *greatest),
                Class::Int => Accumulator::IntExtreme(Vec::new(), *greatest),
                Class::Text => Accumulator::TextExtreme(Vec::new(), *greatest),
            },
            Function::Bool { any, .. } => Accumulator::Bool(Vec::new(), *any),
            Function::Bookend { last, .. } => Accumulator::Bookend(Vec::new(), *last),
        }
    }

    /// Takes in rows of a group of which only the zone of the argument is known; `false` where that does not do.
    pub fn add_zone(&mut self, group: usize, zone: &Zone) -> bool {
        let present = i64::from(zone.rows - zone.nulls.min(zone.rows));
        match self {
            Accumulator::Count(v) => {
                if let Some(count) = v.get_mut(group) {
                    *count += present;
                }
                true
            }
            Accumulator::Integers(v) => match (zone.sum, v.get_mut(group)) {
                (_, _) if present == 0 => true,
                (Sum::Int(sum), Some(acc)) => {
                    acc.0 += present;
                    acc.1 += sum;
                    true
                }
                _ => false,
            },
            Accumulator::Floats(v) => match (zone.sum, v.get_mut(group)) {
                (_, _) if present == 0 => true,
                (Sum::Float(sum), Some(acc)) => {
                    acc.0 += present;
                    acc.1 += sum;
                    acc.2 |= matches!(zone.bounds, Bounds::Float { min, max } if min.is_infinite() || max.is_infinite() || max.is_nan());
                    true
                }
                _ => false,
            },
            Accumulator::IntExtreme(v, greatest) => match (&zone.bounds, v.get_mut(group)) {
                (_, _) if present == 0 => true,
                (Bounds::Int { min, max }, Some(acc)) => {
                    keep_int(acc, if *greatest { *max } else { *min }, *greatest);
                    true
                }
                _ => false,
            },
            Accumulator::FloatExtreme(v, greatest) => match (&zone.bounds, v.get_mut(group)) {
                (_, _) if present == 0 => true,
                (Bounds::Float { min, max }, Some(acc)) => {
                    let value = if *greatest { *max } else { *min };
                    if is_negative_zero(value) {
                        return false;
                    }
                    keep_float(acc, value, *greatest);
                    true
                }
                _ => false,
            },
            Accumulator::Bool(v, any) => match (&zone.bounds, v.get_mut(group)) {
                (_, _) if present == 0 => true,
                (Bounds::Int { min, max }, Some(acc)) => {
                    let value = if *any { *max != 0 } else { *min != 0 };
                    keep_bool(acc, value, *any);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Takes in a number of rows, whatever is in them: `count(*)`.
    pub fn add_rows(&mut self, group: usize, rows: usize) {
        if let Accumulator::Count(v) = self
            && let Some(count) = v.get_mut(group)
        {
            *count += rows as i64;
        }
    }

    /// Takes in rows of a group: the argument's values, and for `first` and `last` what decides and where the block comes
    /// in the table.
    pub fn add(
        &mut self,
        group: usize,
        values: Values,
        by: Option<Values>,
        rows: Range<usize>,
        place: u64,
        strings: &Strings,
    ) {
        match self {
            Accumulator::Count(v) => {
                if let Some(count) = v.get_mut(group) {
                    *count += values.present(&rows) as i64;
                }
            }
            Accumulator::Distinct(v) => {
                if let Some(set) = v.get_mut(group) {
                    let mut before = None;
                    for row in rows {
                        let cell = distinct_cell(values, row);
                        if !cell.1 && before != Some(cell.0) {
                            set.insert(cell.0);
                            before = Some(cell.0);
                        }
                    }
                }
            }
            Accumulator::Integers(v) => {
                if let (Some(acc), Data::Ints(data)) = (v.get_mut(group), values.data) {
                    acc.0 += values.present(&rows) as i64;
                    acc.1 += sum_ints(data, values.nulls, &rows);
                }
            }
            Accumulator::Floats(v) => {
                if let (Some(acc), Data::Floats(data)) = (v.get_mut(group), values.data) {
                    let sum = sum_floats(data, values.nulls, &rows);
                    acc.0 += values.present(&rows) as i64;
                    acc.1 += sum;
                    if !sum.is_finite() {
                        let data = data.get(rows).unwrap_or_default();
                        acc.2 |= data.iter().any(|v| !v.is_finite());
                    }
                }
            }
            Accumulator::IntegerSquares(v) => {
                if let (Some(acc), Data::Ints(data)) = (v.get_mut(group), values.data) {
                    acc.0 += values.present(&rows) as i64;
                    acc.1 += sum_ints(data, values.nulls, &rows);
                    let squares = rows
                        .filter(|row| !values.is_null(*row))
                        .filter_map(|row| data.get(row))
                        .map(|x| i128::from(*x) * i128::from(*x));
                    acc.2 += squares.sum::<i128>();
                }
            }
            Accumulator::FloatSquares(v) => {
                if let Some(acc) = v.get_mut(group) {
                    add_squares(acc, values, rows);
                }
            }
            Accumulator::IntExtreme(v, greatest) => {
                if let (Some(acc), Data::Ints(data)) = (v.get_mut(group), values.data) {
                    for row in rows {
                        if let (false, Some(value)) = (values.is_null(row), data.get(row)) {
                            keep_int(acc, *value, *greatest);
                        }
                    }
                }
            }
            Accumulator::TextExtreme(v, greatest) => {
                if let (Some(acc), Data::Ints(data)) = (v.get_mut(group), values.data) {
                    let mut before = None;
                    for row in rows {
                        let Some(value) = data.get(row).filter(|_| !values.is_null(row)) else {
                            continue;
                        };
                        if before == Some(*value) {
                            continue;
                        }
                        before = Some(*value);
                        keep_text(acc, *value, *greatest, strings);
                    }
                }
            }
            Accumulator::FloatExtreme(v, greatest) => {
                if let (Some(acc), Data::Floats(data)) = (v.get_mut(group), values.data) {
                    extreme_floats(acc, data, values.nulls, rows, *greatest);
                }
            }
            Accumulator::Bool(v, any) => {
                if let (Some(acc), Data::Ints(data)) = (v.get_mut(group), values.data) {
                    for row in rows {
                        if let (false, Some(value)) = (values.is_null(row), data.get(row)) {
                            keep_bool(acc, *value != 0, *any);
                        }
                    }
                }
            }
            Accumulator::Bookend(v, last) => {
                if let (Some(acc), Some(by)) = (v.get_mut(group), by) {
                    add_bookend(acc, values, by, rows, place, *last);
                }
            }
        }
    }
}

/// A value as `count(DISTINCT)` tells it from others: equal floats have the same bits.
fn distinct_cell(values: Values, row: usize) -> Cell {
    match values.data {
        Data::Ints(_) => values.cell(row),
        Data::Floats(_) => (canonical(values.float(row)), values.is_null(row)),
    }
}

/// Bits that equal floats have in common.
pub fn canonical(value: f64) -> i64 {
    let value = if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    };
    value.to_bits() as i64
}

/// Keeps the better of two values.
pub fn keep_int(acc: &mut Option<i64>, value: i64, greatest: bool) {
    if acc.is_none_or(|known| better(value.cmp(&known), greatest)) {
        *acc = Some(value);
    }
}

/// Keeps the better of two strings.
pub fn keep_text(acc: &mut Option<i64>, value: i64, greatest: bool, strings: &Strings) {
    if acc.is_none_or(|known| better(strings.get(value).cmp(strings.get(known)), greatest)) {
        *acc = Some(value);
    }
}

/// Keeps the better of two values.
pub fn keep_float(acc: &mut Option<f64>, value: f64, greatest: bool) {
    if acc.is_none_or(|known| better(float_order(value, known), greatest)) {
        *acc = Some(value);
    }
}

/// Keeps the better of two values.
pub fn keep_bool(acc: &mut Option<bool>, value: bool, any: bool) {
    *acc = Some(match *acc {
        None => value,
        Some(known) if any => known | value,
        Some(known) => known & value,
    });
}

fn sum_ints(data: &[i64], nulls: Option<&[bool]>, rows: &Range<usize>) -> i128 {
    let Some(data) = data.get(rows.clone()) else {
        return 0;
    };
    match nulls.and_then(|n| n.get(rows.clone())) {
        None => {
            // Blocks have few rows: values of 48 bits and less can't overflow.
            let small = data
                .iter()
                .fold(0u64, |bits, v| bits | (v ^ (v >> 63)) as u64)
                < 1 << 48;
            if small {
                i128::from(data.iter().sum::<i64>())
            } else {
                data.iter().map(|v| i128::from(*v)).sum()
            }
        }
        Some(nulls) => data
            .iter()
            .zip(nulls)
            .filter(|(_, null)| !**null)
            .map(|(v, _)| i128::from(*v))
            .sum(),
    }
}

fn sum_floats(data: &[f64], nulls: Option<&[bool]>, rows: &Range<usize>) -> f64 {
    let Some(data) = data.get(rows.clone()) else {
        return -0.0;
    };
    match nulls.and_then(|n| n.get(rows.clone())) {
        None => {
            // Eight sums side by side: additions need not wait for each other.
            let (chunks, rest) = data.as_chunks::<8>();
            let mut sums = [-0.0f64; 8];
            for chunk in chunks {
                for (sum, v) in sums.iter_mut().zip(chunk) {
                    *sum += v;
                }
            }
            sums.iter().sum::<f64>() + rest.iter().sum::<f64>()
        }
        Some(nulls) => data
            .iter()
            .zip(nulls)
            .filter(|(_, null)| !**null)
            .map(|(v, _)| v)
            .sum(),
    }
}

fn extreme_floats(
    acc: &mut Option<f64>,
    data: &[f64],
    nulls: Option<&[bool]>,
    rows: Range<usize>,
    greatest: bool,
) {
    let Some(data) = data.get(rows.clone()).filter(|d| !d.is_empty()) else {
        return;
    };
    if nulls.is_some() || data.iter().any(|v| v.is_nan()) {
        for (at, value) in data.iter().enumerate() {
            let null = nulls.is_some_and(|n| n.get(rows.start + at).copied().unwrap_or(true));
            if !null {
                keep_float(acc, *value, greatest);
            }
        }
        return;
    }
    let (chunks, rest) = data.as_chunks::<8>();
    let start = if greatest {
        f64::NEG_INFINITY
    } else {
        f64::INFINITY
    };
    let mut best = [start; 8];
    for chunk in chunks {
        for (best, v) in best.iter_mut().zip(chunk) {
            let wins = if greatest { *v > *best } else { *v < *best };
            *best = if wins { *v } else { *best };
        }
    }
    for value in best
        .iter()
        .take(if chunks.is_empty() { 0 } else { 8 })
        .chain(rest)
    {
        keep_float(acc, *value, greatest);
    }
}

/// Youngs and Cramer's way, as PostgreSQL's `float8_accum`, for a run of rows at once: their own sums, then combined
/// as `float8_combine` does.
fn add_squares(acc: &mut (i64, f64, f64), values: Values, rows: Range<usize>) {
    let (mut n, mut sum) = (0i64, 0.0);
    for row in rows.clone() {
        if !values.is_null(row) {
            n += 1;
            sum += values.float(row);
        }
    }
    if n == 0 {
        return;
    }
    let mean = sum / n as f64;
    let mut squares = 0.0;
    for row in rows {
        if !values.is_null(row) {
            let d = values.float(row) - mean;
            squares += d * d;
        }
    }
    combine_squares(acc, (n, sum, squares));
}

/// The spread of two sets of floats together.
pub fn combine_squares(acc: &mut (i64, f64, f64), other: (i64, f64, f64)) {
    if acc.0 == 0 {
        *acc = other;
    } else if other.0 > 0 {
        let (n1, n2) = (acc.0 as f64, other.0 as f64);
        let d = acc.1 / n1 - other.1 / n2;
        acc.2 += other.2 + n1 * n2 * d * d / (n1 + n2);
        acc.1 += other.1;
        acc.0 += other.0;
    }
}

fn add_bookend(
    acc: &mut Option<Bookend>,
    values: Values,
    by: Values,
    rows: Range<usize>,
    place: u64,
    last: bool,
) {
    for row in rows {
        if by.is_null(row) {
            continue;
        }
        let at = match by.data {
            Data::Ints(v) => By::Int(v.get(row).copied().unwrap_or(0)),
            Data::Floats(v) => By::Float(v.get(row).copied().unwrap_or(0.0)),
        };
        if wins(acc, at, place, last) {
            *acc = Some(Bookend {
                by: at,
                value: values.cell(row),
                place,
            });
        }
    }
}

fn wins(acc: &Option<Bookend>, by: By, place: u64, last: bool) -> bool {
    acc.is_none_or(|known| match by.order(known.by) {
        Ordering::Equal => place < known.place,
        order => better(order, last),
    })
}

/// Keeps the better of two rows for `first` or `last`.
pub fn keep_bookend(acc: &mut Option<Bookend>, other: Bookend, last: bool) {
    if wins(acc, other.by, other.place, last) {
        *acc = Some(other);
    }
}
