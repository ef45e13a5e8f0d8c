//! What is told of the rows that have changed.

use super::rows::{Row, Shape};
use crate::change::diff::error;
use crate::pg::function::{Args, Unary};
use crate::pg::memory::Context;
use crate::pg::relation;
use crate::pg::sort::{RowSort, SortColumn};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use varve_core::change::Side;

/// Keys of several rows that an error shows.
const SHOWN: usize = 3;

/// The call's result.
pub struct Output {
    result: *mut pg_sys::ReturnSetInfo,
    to_jsonb: Unary,
}

impl Output {
    /// Makes the call's result a set of rows. It lives no longer than the current memory context.
    pub fn new(args: &Args) -> Self {
        // SAFETY: the call's own information; raises an error where no set is expected.
        let result = unsafe {
            pg_sys::InitMaterializedSRF(args.0, 0);
            (*args.0).resultinfo.cast::<pg_sys::ReturnSetInfo>()
        };
        let Some(to_jsonb) = Unary::polymorphic(c"pg_catalog.to_jsonb", pg_sys::RECORDOID) else {
            pgrx::error!("the server has no function to_jsonb")
        };
        Output { result, to_jsonb }
    }

    fn json(&mut self, row: pg_sys::Datum) -> pg_sys::Datum {
        // SAFETY: a row that carries the number of its shape.
        unsafe { self.to_jsonb.call(row) }
    }

    fn tell(&mut self, op: &str, key: pg_sys::Datum, new: Option<pg_sys::Datum>) {
        let row = [
            op.into_datum(),
            Some(self.json(key)),
            new.map(|new| self.json(new)),
        ];
        let nulls = row.map(|value| value.is_none());
        let values = row.map(|value| value.unwrap_or(pg_sys::Datum::from(0usize)));
        // SAFETY: a row of the function's result type; values are copied.
        unsafe {
            let (store, desc) = ((*self.result).setResult, (*self.result).setDesc);
            pg_sys::tuplestore_putvalues(store, desc, values.as_ptr(), nulls.as_ptr());
        }
    }
}

/// A shape that the server has given numbers, with which rows are made.
struct Blessed {
    /// That of the rows of which it was made.
    of: pg_sys::TupleDesc,
    row: pg_sys::TupleDesc,
    key: pg_sys::TupleDesc,
}

/// Rows that were found, to be sorted by their keys.
pub struct Found<'a> {
    /// What they are rows of.
    name: &'a str,
    sort: RowSort,
    shapes: Vec<Blessed>,
    context: pg_sys::MemoryContext,
    memory: Context,
}

impl<'a> Found<'a> {
    /// None yet. It lives no longer than the current memory context.
    pub fn new(name: &'a str) -> Self {
        Found {
            name,
            sort: by_key(),
            shapes: Vec::new(),
            // SAFETY: a variable of the process.
            context: unsafe { pg_sys::CurrentMemoryContext },
            memory: Context::new(),
        }
    }

    fn blessed(&mut self, shape: &Shape) -> (pg_sys::TupleDesc, pg_sys::TupleDesc) {
        let known = self
            .shapes
            .iter()
            .rev()
            .find(|known| known.of == shape.desc);
        if let Some(known) = known {
            return (known.row, known.key);
        }
        let attributes: Vec<_> = shape
            .key
            .iter()
            .map(|place| *relation::attribute(shape.desc, *place))
            .collect();
        // SAFETY: shapes of our own, in the context that we live in, which the server gives numbers.
        let (row, key) = unsafe {
            crate::pg::memory::within(self.context, || {
                (
                    pg_sys::BlessTupleDesc(pg_sys::CreateTupleDescCopy(shape.desc)),
                    pg_sys::BlessTupleDesc(relation::row_shape(&attributes, 0)),
                )
            })
        };
        self.shapes.push(Blessed {
            of: shape.desc,
            row,
            key,
        });
        (row, key)
    }

    /// Adds a row.
    pub fn put(&mut self, side: Side, row: &Row) {
        let (row_desc, key_desc) = self.blessed(row.shape);
        let places = &row.shape.key;
        let values: Vec<_> = places
            .iter()
            .filter_map(|p| row.values.get(*p))
            .copied()
            .collect();
        let nulls: Vec<_> = places
            .iter()
            .filter_map(|p| row.nulls.get(*p))
            .copied()
            .collect();
        let mut all_nulls = row.nulls.to_vec();
        for (place, null) in all_nulls.iter_mut().enumerate() {
            *null |= relation::attribute(row_desc, place).attisdropped;
        }
        // SAFETY: values of the shapes; rows that are made are copied by the sort, with whatever is stored elsewhere.
        let made = |desc, values: &[pg_sys::Datum], nulls: &[bool]| unsafe {
            let row = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*row).t_data)
        };
        let (key, new) = self.memory.within(|| {
            let key = made(key_desc, &values, &nulls);
            let new = (side == Side::New).then(|| made(row_desc, row.values, &all_nulls));
            (key, new)
        });
        let half = |hash: u128, shift: u32| pg_sys::Datum::from((hash >> shift) as u64 as usize);
        let hashes = row.hashes;
        let values = [
            half(hashes.key, 64),
            half(hashes.key, 0),
            half(hashes.row, 64),
            half(hashes.row, 0),
            key,
            new.unwrap_or(pg_sys::Datum::from(0usize)),
        ];
        let nulls = [false, false, false, false, false, new.is_none()];
        self.sort.put(&values, &nulls, u64::from(side == Side::New));
        self.memory.reset();
    }

    /// Tells of each key what has become of its row.
    pub fn tell(self, output: &mut Output) {
        let mut group = Group::default();
        let mut duplicates = Vec::new();
        let Found {
            sort, memory, name, ..
        } = self;
        sort.drain(|values, nulls, side| {
            let [high, low, row_high, row_low, key, new] = values else {
                return;
            };
            let of = Some((high.value(), low.value()));
            if group.of != of {
                memory.within(|| group.end(name, &mut duplicates, output));
                memory.reset();
                group.of = of;
            }
            let row = (row_high.value(), row_low.value());
            // They are copied since the sort's memory holds one row at a time.
            let copy = |row: &pg_sys::Datum| {
                // SAFETY: a row, which the sort may keep with a short header and not aligned.
                memory.within(|| unsafe {
                    pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(row.cast_mut_ptr()))
                })
            };
            let is_new = side == 1;
            let of_side = if is_new {
                &mut group.new
            } else {
                &mut group.old
            };
            of_side.count += 1;
            if of_side.count == 1 {
                of_side.row = row;
                of_side.key = Some(copy(key));
                of_side.whole = (nulls.last() == Some(&false)).then(|| copy(new));
            }
        });
        memory.within(|| group.end(name, &mut duplicates, output));
        if !duplicates.is_empty() {
            error::duplicates(&duplicates);
        }
    }
}

/// The rows of one key on one side.
#[derive(Default)]
struct OfSide {
    count: u64,
    row: (usize, usize),
    key: Option<pg_sys::Datum>,
    whole: Option<pg_sys::Datum>,
}

/// The rows of one key.
#[derive(Default)]
struct Group {
    of: Option<(usize, usize)>,
    old: OfSide,
    new: OfSide,
}

impl Group {
    /// Tells what there is to tell of it, and forgets it.
    fn end(&mut self, name: &str, duplicates: &mut Vec<String>, output: &mut Output) {
        let Group { old, new, .. } = std::mem::take(self);
        for (side, verb) in [(&old, "had"), (&new, "have")] {
            if let (2.., Some(key)) = (side.count, side.key) {
                let key = text(output.json(key));
                duplicates.push(format!(
                    "{} rows of {name} {verb} the key {key}.",
                    side.count
                ));
                if duplicates.len() == SHOWN {
                    error::duplicates(duplicates);
                }
            }
        }
        if old.count > 1 || new.count > 1 || !duplicates.is_empty() {
            return;
        }
        match (old.key, new.key) {
            (None, Some(key)) => output.tell("insert", key, new.whole),
            (Some(key), None) => output.tell("delete", key, None),
            (Some(_), Some(key)) if old.row != new.row => output.tell("update", key, new.whole),
            _ => {}
        }
    }
}

/// A value of type jsonb as text.
fn text(json: pg_sys::Datum) -> String {
    // SAFETY: writes a value of type jsonb, in the current memory context.
    unsafe {
        let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(pg_sys::JSONBOID, &mut function, &mut varlena);
        let text = CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, json));
        text.to_string_lossy().into_owned()
    }
}

/// A sort of rows by the two halves of their key's hash.
fn by_key() -> RowSort {
    // SAFETY: a row shape of our own.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(6);
        for (attnum, name, typ) in [
            (1, c"high", pg_sys::INT8OID),
            (2, c"low", pg_sys::INT8OID),
            (3, c"row_high", pg_sys::INT8OID),
            (4, c"row_low", pg_sys::INT8OID),
            (5, c"key", pg_sys::RECORDOID),
            (6, c"new", pg_sys::RECORDOID),
        ] {
            pg_sys::TupleDescInitEntry(desc, attnum, name.as_ptr(), typ, -1, 0);
        }
        let by: Vec<SortColumn> = (0..2)
            .filter_map(|i| SortColumn::of(relation::attribute(desc, i), false))
            .collect();
        RowSort::new(desc, &by, pg_sys::work_mem)
    }
}
