//! Ranks of values, by which rows that are held by columns are sorted.

use super::zone::{self, Comparable};
use crate::pg::relation;
use crate::pg::sort::SortColumn;
use pgrx::pg_sys;
use std::collections::HashMap;
use varve_core::column::{Column, Values};

/// Numbers of the rows in their order.
pub fn sorted(order: &[SortColumn], columns: &[(u16, Column)], rows: usize) -> Vec<u32> {
    in_groups(None, order, columns, rows).0
}

/// Numbers of the rows in the order of their groups, and in each by some columns. Rows that are equal in all of it keep the
/// order in which they came; of each it is told whether it equals the one before.
pub fn in_groups(
    groups: Option<&[u32]>,
    order: &[SortColumn],
    columns: &[(u16, Column)],
    rows: usize,
) -> (Vec<u32>, Vec<bool>) {
    let mut keys: Vec<Ranks> = groups.map(Ranks::of_groups).into_iter().collect();
    for sort in order {
        let column = columns
            .iter()
            .find(|(a, _)| i32::from(*a) == i32::from(sort.attnum));
        if let Some((_, column)) = column {
            keys.push(Ranks::of(column, sort));
        }
    }
    let bits: u32 = keys.iter().map(|k| k.bits).sum();
    if bits <= 96 {
        // Key and row number in one integer.
        let mut packed: Vec<u128> = vec![0; rows];
        for key in &keys {
            for (row, packed) in packed.iter_mut().enumerate() {
                *packed = *packed << key.bits | u128::from(key.rank(row));
            }
        }
        for (row, packed) in packed.iter_mut().enumerate() {
            *packed = *packed << 32 | row as u128;
        }
        if !packed.is_sorted() {
            packed.sort_unstable();
        }
        let same = same_as_before(&packed, |a, b| a >> 32 == b >> 32);
        return (packed.into_iter().map(|p| p as u32).collect(), same);
    }
    let compare = |a: &u32, b: &u32| {
        keys.iter()
            .map(|key| key.rank(*a as usize).cmp(&key.rank(*b as usize)))
            .find(|o| o.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
    };
    let mut numbers: Vec<u32> = (0..rows as u32).collect();
    numbers.sort_by(compare);
    let same = same_as_before(&numbers, |a, b| compare(a, b).is_eq());
    (numbers, same)
}

fn same_as_before<T>(sorted: &[T], equal: impl Fn(&T, &T) -> bool) -> Vec<bool> {
    let mut before = None;
    sorted
        .iter()
        .map(|now| before.replace(now).is_some_and(|b| equal(b, now)))
        .collect()
}

/// Whether values of a column can be sorted by their ranks, in this order.
pub fn sortable(desc: pg_sys::TupleDesc, values: &Values, sort: &SortColumn) -> bool {
    match values {
        Values::Fixed { .. } => false,
        Values::I8(_) | Values::I16(_) | Values::I32(_) | Values::I64(_) => {
            let attr = relation::attribute(desc, sort.attnum as usize - 1);
            zone::of_attribute(attr).0 == Comparable::Order
        }
        Values::F32(_) | Values::F64(_) | Values::Bytes { .. } => true,
    }
}

/// Numbers that lie as the values of a column do, NULL last.
struct Ranks {
    ranks: Vec<u64>,
    /// As many bits have all of them.
    bits: u32,
}

impl Ranks {
    fn of_groups(groups: &[u32]) -> Self {
        let highest = groups.iter().max().copied().unwrap_or(0);
        Ranks {
            ranks: groups.iter().map(|g| u64::from(*g)).collect(),
            bits: 32 - highest.leading_zeros(),
        }
    }

    fn rank(&self, row: usize) -> u64 {
        self.ranks.get(row).copied().unwrap_or(0)
    }

    fn of(column: &Column, sort: &SortColumn) -> Self {
        let int = |v: i64| (v as u64) ^ (1 << 63);
        let mut ranks: Vec<u64> = match &column.values {
            Values::I8(v) => v.iter().map(|v| int((*v).into())).collect(),
            Values::I16(v) => v.iter().map(|v| int((*v).into())).collect(),
            Values::I32(v) => v.iter().map(|v| int((*v).into())).collect(),
            Values::I64(v) => v.iter().map(|v| int(*v)).collect(),
            Values::F32(v) => v.iter().map(|v| float((*v).into())).collect(),
            Values::F64(v) => v.iter().map(|v| float(*v)).collect(),
            Values::Fixed { .. } => Vec::new(),
            Values::Bytes { .. } => strings(column, sort),
        };
        let valid = |row: usize| column.validity.as_ref().is_none_or(|v| v.get(row));
        let present = || {
            ranks
                .iter()
                .enumerate()
                .filter(|(row, _)| valid(*row))
                .map(|(_, rank)| *rank)
        };
        let low = present().min().unwrap_or(0);
        let high = present().max().unwrap_or(0);
        // NULL comes behind the greatest value. Where values span all numbers there are, their places are counted instead.
        let Some(null) = (high - low).checked_add(1) else {
            let mut distinct: Vec<u64> = present().collect();
            distinct.sort_unstable();
            distinct.dedup();
            let place = |rank| distinct.partition_point(|value| *value < rank) as u64;
            let null = distinct.len() as u64;
            return Ranks {
                ranks: (0..ranks.len())
                    .zip(&ranks)
                    .map(|(row, rank)| if valid(row) { place(*rank) } else { null })
                    .collect(),
                bits: 64 - null.leading_zeros(),
            };
        };
        for (row, rank) in ranks.iter_mut().enumerate() {
            *rank = if valid(row) { *rank - low } else { null };
        }
        Ranks {
            ranks,
            bits: 64 - null.leading_zeros(),
        }
    }
}

/// Floats in PostgreSQL's order.
fn float(value: f64) -> u64 {
    let value = if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN.abs()
    } else {
        value
    };
    let bits = value.to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    }
}

/// Ranks of strings: those that differ in their bytes are sorted by the type's own comparison, under the column's
/// collation.
fn strings(column: &Column, sort: &SortColumn) -> Vec<u64> {
    let mut numbers: HashMap<&[u8], u32> = HashMap::new();
    let mut distinct: Vec<&[u8]> = Vec::new();
    let mut last: Option<(&[u8], u32)> = None;
    let of_rows: Vec<u32> = (0..column.rows())
        .map(|row| {
            let value = column.bytes_at(row).unwrap_or_default();
            if let Some((same, number)) = last
                && same == value
            {
                return number;
            }
            let number = *numbers.entry(value).or_insert_with(|| {
                distinct.push(value);
                distinct.len() as u32 - 1
            });
            last = Some((value, number));
            number
        })
        .collect();
    let ranks = sort.ranks(&distinct);
    of_rows
        .into_iter()
        .map(|number| ranks.get(number as usize).copied().unwrap_or(0))
        .collect()
}
