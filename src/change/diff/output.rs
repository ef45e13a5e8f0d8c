//! What is told of the rows that differ.

use super::error;
use super::tables::Tables;
use crate::pg::ffi;
use crate::pg::function::{Args, Unary};
use crate::pg::relation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use varve_core::change::Side;

/// Keys of several rows that an error shows.
const SHOWN: usize = 3;

/// A row, taken apart.
pub struct Row {
    whole: pg_sys::Datum,
    /// Its values.
    pub values: Vec<pg_sys::Datum>,
    /// Which of them are NULL.
    pub nulls: Vec<bool>,
}

/// The shapes of one relation's rows, known to the server by numbers that the rows carry.
struct Shape {
    row: pg_sys::TupleDesc,
    key: pg_sys::TupleDesc,
    /// Where the key's columns are.
    places: Vec<usize>,
}

impl Shape {
    /// In the current memory context.
    fn of(tables: &Tables, side: Side) -> Self {
        let table = tables.table(side);
        let places = table.key_places(tables.key);
        let attributes: Vec<_> = places
            .iter()
            .map(|place| *relation::attribute(table.desc, *place))
            .collect();
        // SAFETY: shapes of our own, which the server gives numbers.
        let (row, key) = unsafe {
            let row = pg_sys::BlessTupleDesc(pg_sys::CreateTupleDescCopy(table.desc));
            let key = pg_sys::BlessTupleDesc(relation::row_shape(&attributes, 0));
            (row, key)
        };
        Shape { row, key, places }
    }
}

/// Takes what differs.
pub struct Output {
    result: *mut pg_sys::ReturnSetInfo,
    to_jsonb: Unary,
    old: Shape,
    new: Shape,
    duplicates: Vec<String>,
}

impl Output {
    /// Makes the call's result a set of rows. It lives no longer than the current memory context.
    pub fn new(args: &Args, tables: &Tables) -> Self {
        // SAFETY: the call's own information; raises an error where no set is expected.
        let result = unsafe {
            pg_sys::InitMaterializedSRF(args.0, 0);
            (*args.0).resultinfo.cast::<pg_sys::ReturnSetInfo>()
        };
        let Some(to_jsonb) = Unary::polymorphic(c"pg_catalog.to_jsonb", pg_sys::RECORDOID) else {
            pgrx::error!("the server has no function to_jsonb")
        };
        Output {
            result,
            to_jsonb,
            old: Shape::of(tables, Side::Old),
            new: Shape::of(tables, Side::New),
            duplicates: Vec::new(),
        }
    }

    fn shape(&self, side: Side) -> &Shape {
        side.pick(&self.old, &self.new)
    }

    /// The shape of a relation's rows.
    pub fn row_shape(&self, side: Side) -> pg_sys::TupleDesc {
        self.shape(side).row
    }

    /// A row that was made with a relation's shape; the values lie in it.
    ///
    /// # Safety
    /// Such a row, plain, in the current memory context.
    pub unsafe fn take_apart(&self, side: Side, whole: pg_sys::Datum) -> Row {
        let desc = self.shape(side).row;
        let mut values = vec![pg_sys::Datum::from(0usize); relation::natts(desc)];
        let mut nulls = vec![true; values.len()];
        // SAFETY: by contract.
        unsafe {
            let header = whole.cast_mut_ptr::<pg_sys::HeapTupleHeaderData>();
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pgrx::varsize_any(header.cast()) as u32,
                t_data: header,
                ..Default::default()
            };
            ffi::raw::heap_deform_tuple(&mut tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        Row {
            whole,
            values,
            nulls,
        }
    }

    /// A row that only the new relation has.
    pub fn inserted(&mut self, new: &Row) {
        self.tell("insert", (Side::New, new), None, None, Some(new));
    }

    /// A row that only the old relation has.
    pub fn deleted(&mut self, old: &Row) {
        self.tell("delete", (Side::Old, old), None, Some(old), None);
    }

    /// A row that has other values in these columns.
    pub fn updated(&mut self, changed: &[&str], old: &Row, new: &Row) {
        let changed = Some(changed);
        self.tell("update", (Side::New, new), changed, Some(old), Some(new));
    }

    /// A key that so many rows of a relation have. The first few of them become an error.
    pub fn duplicate(&mut self, tables: &Tables, side: Side, row: &Row, count: u64) {
        let name = &tables.table(side).name;
        let key = self.key(side, row);
        // SAFETY: writes a value of type jsonb, in the current memory context.
        let key = unsafe {
            let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(pg_sys::JSONBOID, &mut function, &mut varlena);
            CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, key)).to_string_lossy()
        };
        let line = format!("{count} rows of {name} have the key {key}.");
        self.duplicates.push(line);
        if self.duplicates.len() == SHOWN {
            error::duplicates(&self.duplicates);
        }
    }

    /// After the last row; raises the error of keys that several rows have.
    pub fn end(&self) {
        if !self.duplicates.is_empty() {
            error::duplicates(&self.duplicates);
        }
    }

    fn key(&mut self, side: Side, row: &Row) -> pg_sys::Datum {
        let shape = self.shape(side);
        let values: Vec<_> = shape
            .places
            .iter()
            .filter_map(|p| row.values.get(*p))
            .copied()
            .collect();
        let nulls: Vec<_> = shape
            .places
            .iter()
            .filter_map(|p| row.nulls.get(*p))
            .copied()
            .collect();
        // SAFETY: values of the key's columns.
        unsafe {
            let key = pg_sys::heap_form_tuple(shape.key, values.as_ptr(), nulls.as_ptr());
            self.to_jsonb
                .call(pg_sys::HeapTupleHeaderGetDatum((*key).t_data))
        }
    }

    fn tell(
        &mut self,
        op: &str,
        (side, known): (Side, &Row),
        changed: Option<&[&str]>,
        old: Option<&Row>,
        new: Option<&Row>,
    ) {
        if !self.duplicates.is_empty() {
            return;
        }
        let key = self.key(side, known);
        let changed = changed.map(<[&str]>::to_vec);
        let mut json = |row: Option<&Row>| {
            // SAFETY: rows that carry the number of their shape.
            row.map(|row| unsafe { self.to_jsonb.call(row.whole) })
        };
        let row = [
            op.into_datum(),
            Some(key),
            changed.into_datum(),
            json(old),
            json(new),
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
