//! Accumulators as the groups of which they are come, go and take memory.

use super::accumulate::{Accumulator, Bookend};
use super::spec::{Aggregate, Class, Function};
use std::collections::HashSet;

impl Accumulator {
    /// Makes room for a number of groups.
    pub fn resize(&mut self, groups: usize) {
        match self {
            Accumulator::Count(v) => v.resize(groups, 0),
            Accumulator::Distinct(v) => v.resize_with(groups, HashSet::new),
            Accumulator::Integers(v) => v.resize(groups, (0, 0)),
            // What -0 can be added to and stays.
            Accumulator::Floats(v) => v.resize(groups, (0, -0.0, false)),
            Accumulator::IntegerSquares(v) => v.resize(groups, (0, 0, 0)),
            Accumulator::FloatSquares(v) => v.resize(groups, (0, 0.0, 0.0)),
            Accumulator::IntExtreme(v, _) | Accumulator::TextExtreme(v, _) => {
                v.resize(groups, None)
            }
            Accumulator::FloatExtreme(v, _) => v.resize(groups, None),
            Accumulator::Bool(v, _) => v.resize(groups, None),
            Accumulator::Bookend(v, _) => v.resize(groups, None),
        }
    }

    /// Keeps some groups, in that order, and forgets the others.
    pub fn keep(&mut self, groups: &[usize]) {
        fn pick<T: Default>(all: &mut Vec<T>, groups: &[usize]) {
            let mut picked = Vec::with_capacity(groups.len());
            picked.extend(
                groups
                    .iter()
                    .map(|g| all.get_mut(*g).map(std::mem::take).unwrap_or_default()),
            );
            *all = picked;
        }
        match self {
            Accumulator::Count(v) => pick(v, groups),
            Accumulator::Distinct(v) => pick(v, groups),
            Accumulator::Integers(v) => pick(v, groups),
            Accumulator::Floats(v) => pick(v, groups),
            Accumulator::IntegerSquares(v) => pick(v, groups),
            Accumulator::FloatSquares(v) => pick(v, groups),
            Accumulator::IntExtreme(v, _) | Accumulator::TextExtreme(v, _) => pick(v, groups),
            Accumulator::FloatExtreme(v, _) => pick(v, groups),
            Accumulator::Bool(v, _) => pick(v, groups),
            Accumulator::Bookend(v, _) => pick(v, groups),
        }
    }

    /// Gives texts other numbers of the same strings.
    pub fn renumber(&mut self, aggregate: &Aggregate, renumber: &mut dyn FnMut(i64) -> i64) {
        match (self, &aggregate.function) {
            (Accumulator::Distinct(v), Function::CountDistinct(column))
                if column.class == Class::Text =>
            {
                for set in v {
                    *set = set.iter().map(|number| renumber(*number)).collect();
                }
            }
            (Accumulator::TextExtreme(v, _), _) => {
                v.iter_mut().flatten().for_each(|n| *n = renumber(*n));
            }
            (Accumulator::Bookend(v, _), Function::Bookend { value, .. })
                if value.class == Class::Text =>
            {
                let cells = v.iter_mut().flatten().map(|b| &mut b.value);
                cells
                    .filter(|(_, null)| !null)
                    .for_each(|(n, _)| *n = renumber(*n));
            }
            _ => {}
        }
    }

    /// Bytes that a group takes, about.
    pub fn memory(&self) -> usize {
        match self {
            Accumulator::Count(v) => v.len() * 8,
            Accumulator::Distinct(v) => v.iter().map(|s| 48 + s.capacity() * 9).sum(),
            Accumulator::Integers(v) => v.len() * 32,
            Accumulator::Floats(v) => v.len() * 24,
            Accumulator::IntegerSquares(v) => v.len() * 48,
            Accumulator::FloatSquares(v) => v.len() * 24,
            Accumulator::IntExtreme(v, _) | Accumulator::TextExtreme(v, _) => v.len() * 16,
            Accumulator::FloatExtreme(v, _) => v.len() * 16,
            Accumulator::Bool(v, _) => v.len(),
            Accumulator::Bookend(v, _) => v.len() * size_of::<Option<Bookend>>(),
        }
    }
}
