//! Groups as bytes, from the processes that read to the one that puts their groups together.
//!
//! A message is a list of records. A record is either a group with all its accumulators but those of `count(DISTINCT)`,
//! or some of the values that one of these has seen. Strings are written out: their numbers mean something to one
//! process only. The same group may come in any number of records, from any number of processes. Both ends are the same
//! library, so the bytes carry no version.

use super::accumulate::{
    Accumulator, Bookend, By, Cell, combine_squares, keep_bookend, keep_bool, keep_float, keep_int,
    keep_text,
};
use super::engine::Engine;
use super::groups::Token;
use super::spec::{Aggregate, Class, Function, Input};
use super::strings::Strings;
use std::collections::VecDeque;

/// Bytes from which on a message is sent.
const MESSAGE: usize = 32 * 1024;

const GROUP: u8 = 0;
const VALUES: u8 = 1;

/// Messages to be sent.
#[derive(Default)]
pub struct Messages {
    done: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Messages {
    /// The next message that is complete.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.done.pop_front()
    }

    /// What is left, which may be nothing.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.current)
    }

    fn end_record(&mut self) {
        if self.current.len() >= MESSAGE {
            self.done.push_back(std::mem::take(&mut self.current));
        }
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

fn put_float(out: &mut Vec<u8>, value: f64) {
    put(out, value.to_bits().to_le_bytes());
}

fn put_value(out: &mut Vec<u8>, bits: i64, class: Class, strings: &Strings) {
    if class == Class::Text {
        let string = strings.get(bits);
        put(out, (string.len() as u32).to_le_bytes());
        out.extend_from_slice(string);
    } else {
        put(out, bits.to_le_bytes());
    }
}

fn put_cell(out: &mut Vec<u8>, cell: Cell, class: Class, strings: &Strings) {
    put(out, [u8::from(!cell.1)]);
    if !cell.1 {
        put_value(out, cell.0, class, strings);
    }
}

/// Bytes of a message that are still to be read. `None` is a message that ends too early.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn int(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn wide(&mut self) -> Option<i128> {
        self.take().map(i128::from_le_bytes)
    }

    fn float(&mut self) -> Option<f64> {
        self.take().map(|b| f64::from_bits(u64::from_le_bytes(b)))
    }

    fn flag(&mut self) -> Option<bool> {
        self.take::<1>().map(|b| b != [0])
    }

    fn length(&mut self) -> Option<usize> {
        self.take().map(|b| u32::from_le_bytes(b) as usize)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn value(&mut self, class: Class, strings: &mut Strings) -> Option<i64> {
        if class == Class::Text {
            Some(strings.number(self.string()?))
        } else {
            self.int()
        }
    }

    fn cell(&mut self, class: Class, strings: &mut Strings) -> Option<Cell> {
        if !self.flag()? {
            return Some((0, true));
        }
        Some((self.value(class, strings)?, false))
    }
}

/// How the values that an aggregate keeps are held, for those that keep values.
fn class_of(aggregate: &Aggregate) -> Class {
    match &aggregate.function {
        Function::CountDistinct(column) | Function::Bool { column, .. } => column.class,
        Function::Bookend { value, .. } => value.class,
        Function::CountRows => Class::Int,
        Function::Count(input)
        | Function::Sum(input)
        | Function::Average(input)
        | Function::Extreme { input, .. }
        | Function::Spread { input, .. } => match input {
            Input::Column(column) => column.class,
            Input::Arithmetic(_) => Class::Float,
        },
    }
}

impl Accumulator {
    /// Writes what is known of a group; the values of `count(DISTINCT)` are not in it.
    fn write(&self, group: usize, class: Class, strings: &Strings, out: &mut Vec<u8>) {
        match self {
            Accumulator::Count(v) => {
                put(out, v.get(group).copied().unwrap_or(0).to_le_bytes());
            }
            Accumulator::Distinct(_) => {}
            Accumulator::Integers(v) => {
                let (count, sum) = v.get(group).copied().unwrap_or_default();
                put(out, count.to_le_bytes());
                put(out, sum.to_le_bytes());
            }
            Accumulator::Floats(v) => {
                let (count, sum, infinite) = v.get(group).copied().unwrap_or_default();
                put(out, count.to_le_bytes());
                put_float(out, sum);
                put(out, [u8::from(infinite)]);
            }
            Accumulator::IntegerSquares(v) => {
                let (count, sum, squares) = v.get(group).copied().unwrap_or_default();
                put(out, count.to_le_bytes());
                put(out, sum.to_le_bytes());
                put(out, squares.to_le_bytes());
            }
            Accumulator::FloatSquares(v) => {
                let (count, sum, squares) = v.get(group).copied().unwrap_or_default();
                put(out, count.to_le_bytes());
                put_float(out, sum);
                put_float(out, squares);
            }
            Accumulator::IntExtreme(v, _) | Accumulator::TextExtreme(v, _) => {
                let value = v.get(group).copied().flatten();
                put_cell(out, (value.unwrap_or(0), value.is_none()), class, strings);
            }
            Accumulator::FloatExtreme(v, _) => {
                let value = v.get(group).copied().flatten();
                let bits = value.unwrap_or(0.0).to_bits() as i64;
                put_cell(out, (bits, value.is_none()), class, strings);
            }
            Accumulator::Bool(v, _) => {
                put(
                    out,
                    [match v.get(group).copied().flatten() {
                        None => 2,
                        Some(value) => u8::from(value),
                    }],
                );
            }
            Accumulator::Bookend(v, _) => {
                let chosen = v.get(group).copied().flatten();
                put(out, [u8::from(chosen.is_some())]);
                if let Some(Bookend { by, value, place }) = chosen {
                    match by {
                        By::Int(by) => {
                            put(out, [0]);
                            put(out, by.to_le_bytes());
                        }
                        By::Float(by) => {
                            put(out, [1]);
                            put_float(out, by);
                        }
                    }
                    put_cell(out, value, class, strings);
                    put(out, place.to_le_bytes());
                }
            }
        }
    }

    /// Takes in what another process knows of a group; with no group, it is read over.
    fn merge(
        &mut self,
        group: Option<usize>,
        class: Class,
        bytes: &mut Bytes,
        strings: &mut Strings,
    ) -> Option<()> {
        fn of<T>(all: &mut [T], group: Option<usize>) -> Option<&mut T> {
            group.and_then(|g| all.get_mut(g))
        }
        match self {
            Accumulator::Count(v) => {
                let count = bytes.int()?;
                if let Some(acc) = of(v, group) {
                    *acc += count;
                }
            }
            Accumulator::Distinct(_) => {}
            Accumulator::Integers(v) => {
                let (count, sum) = (bytes.int()?, bytes.wide()?);
                if let Some(acc) = of(v, group) {
                    acc.0 += count;
                    acc.1 += sum;
                }
            }
            Accumulator::Floats(v) => {
                let (count, sum, infinite) = (bytes.int()?, bytes.float()?, bytes.flag()?);
                if let Some(acc) = of(v, group) {
                    acc.0 += count;
                    acc.1 += sum;
                    acc.2 |= infinite;
                }
            }
            Accumulator::IntegerSquares(v) => {
                let (count, sum, squares) = (bytes.int()?, bytes.wide()?, bytes.wide()?);
                if let Some(acc) = of(v, group) {
                    acc.0 += count;
                    acc.1 += sum;
                    acc.2 += squares;
                }
            }
            Accumulator::FloatSquares(v) => {
                let other = (bytes.int()?, bytes.float()?, bytes.float()?);
                if let Some(acc) = of(v, group) {
                    combine_squares(acc, other);
                }
            }
            Accumulator::IntExtreme(v, greatest) => {
                let (value, null) = bytes.cell(class, strings)?;
                if let (Some(acc), false) = (of(v, group), null) {
                    keep_int(acc, value, *greatest);
                }
            }
            Accumulator::TextExtreme(v, greatest) => {
                let (value, null) = bytes.cell(class, strings)?;
                if let (Some(acc), false) = (of(v, group), null) {
                    keep_text(acc, value, *greatest, strings);
                }
            }
            Accumulator::FloatExtreme(v, greatest) => {
                let (bits, null) = bytes.cell(class, strings)?;
                if let (Some(acc), false) = (of(v, group), null) {
                    keep_float(acc, f64::from_bits(bits as u64), *greatest);
                }
            }
            Accumulator::Bool(v, any) => {
                let [value] = bytes.take()?;
                if let (Some(acc), 0 | 1) = (of(v, group), value) {
                    keep_bool(acc, value == 1, *any);
                }
            }
            Accumulator::Bookend(v, last) => {
                if bytes.flag()? {
                    let by = if bytes.flag()? {
                        By::Float(bytes.float()?)
                    } else {
                        By::Int(bytes.int()?)
                    };
                    let value = bytes.cell(class, strings)?;
                    let place = bytes.take().map(u64::from_le_bytes)?;
                    if let Some(acc) = of(v, group) {
                        keep_bookend(acc, Bookend { by, value, place }, *last);
                    }
                }
            }
        }
        Some(())
    }
}

impl Engine {
    fn write_key(&self, group: usize, out: &mut Vec<u8>) {
        for (key, token) in self.keys.iter().zip(self.key(group)) {
            put_cell(out, *token, key.class(), &self.strings);
        }
    }

    /// Writes a group.
    pub fn write_group(&self, group: usize, to: &mut Messages) {
        put(&mut to.current, [GROUP]);
        self.write_key(group, &mut to.current);
        let with = || self.aggregates.iter().zip(&self.accumulators);
        for (aggregate, accumulator) in with() {
            accumulator.write(group, class_of(aggregate), &self.strings, &mut to.current);
        }
        to.end_record();
        for (at, (aggregate, accumulator)) in with().enumerate() {
            let Accumulator::Distinct(sets) = accumulator else {
                continue;
            };
            let class = class_of(aggregate);
            let mut values = sets.get(group).into_iter().flatten().peekable();
            while values.peek().is_some() {
                put(&mut to.current, [VALUES]);
                self.write_key(group, &mut to.current);
                put(&mut to.current, (at as u32).to_le_bytes());
                let count_at = to.current.len();
                put(&mut to.current, 0u32.to_le_bytes());
                let mut count = 0u32;
                // At least one of them, however long the key is.
                for value in values.by_ref() {
                    put_value(&mut to.current, *value, class, &self.strings);
                    count += 1;
                    if to.current.len() >= MESSAGE {
                        break;
                    }
                }
                if let Some(place) = to.current.get_mut(count_at..count_at + 4) {
                    place.copy_from_slice(&count.to_le_bytes());
                }
                to.end_record();
            }
        }
    }

    /// Takes in the groups of a message; `None` where it is none of ours.
    pub fn merge(&mut self, message: &[u8]) -> Option<()> {
        let mut bytes = Bytes(message);
        let mut key: Vec<Token> = Vec::with_capacity(self.keys.len());
        while !bytes.0.is_empty() {
            let [record] = bytes.take()?;
            key.clear();
            for at in &self.keys {
                key.push(bytes.cell(at.class(), &mut self.strings)?);
            }
            let group = self.group_of(&key);
            match record {
                GROUP => {
                    let with = self.aggregates.iter().zip(&mut self.accumulators);
                    for (aggregate, accumulator) in with {
                        let class = class_of(aggregate);
                        accumulator.merge(group, class, &mut bytes, &mut self.strings)?;
                    }
                }
                VALUES => {
                    let at = bytes.length()?;
                    let count = bytes.length()?;
                    let class = class_of(self.aggregates.get(at)?);
                    let Accumulator::Distinct(sets) = self.accumulators.get_mut(at)? else {
                        return None;
                    };
                    let mut set = group.and_then(|g| sets.get_mut(g));
                    for _ in 0..count {
                        let value = bytes.value(class, &mut self.strings)?;
                        if let Some(set) = &mut set {
                            set.insert(value);
                        }
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }
}
