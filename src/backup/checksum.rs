//! `varve.rows_checksum`: a checksum of rows that does not ask for their order, nor how they are stored.
//!
//! Of each row the XXH3-128 of its columns by name, each in the form in which the server sends it; of all rows the sum of these,
//! modulo 2^128. So a table has the same checksum frozen or not, TOASTed or not, and after a restore. It is for comparing a table
//! with itself: keep it internal.

use crate::pg::ffi;
use crate::pg::function::Args;
use crate::pg::relation;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};
use std::ffi::CStr;
use xxhash_rust::xxh3::Xxh3;

/// How NULL is told from an empty value.
const NULL: u32 = u32::MAX;

/// How a column's values become bytes.
struct Column {
    place: usize,
    /// Its name, with its length before it.
    name: Vec<u8>,
    function: pg_sys::FmgrInfo,
    /// Whether that sends bytes, and not text.
    sends: bool,
}

/// The sum so far, and what rows look like.
struct State {
    sum: u128,
    desc: pg_sys::TupleDesc,
    of: (pg_sys::Oid, i32),
    columns: Vec<Column>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl State {
    /// # Safety
    /// A row type; everything lives in the memory context.
    unsafe fn new(of: (pg_sys::Oid, i32), context: pg_sys::MemoryContext) -> Self {
        // SAFETY: by contract; look-ups of types.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(context);
            let desc = pg_sys::lookup_rowtype_tupdesc_copy(of.0, of.1);
            let natts = relation::natts(desc);
            let mut columns = Vec::new();
            for place in 0..natts {
                let attr = relation::attribute(desc, place);
                if attr.attisdropped {
                    continue;
                }
                let (function, sends) = output_of(attr.atttypid);
                let mut info = pg_sys::FmgrInfo::default();
                pg_sys::fmgr_info_cxt(function, &mut info, context);
                let name = relation::attribute_name(attr);
                let mut bytes = (name.len() as u32).to_le_bytes().to_vec();
                bytes.extend_from_slice(name.as_bytes());
                columns.push(Column {
                    place,
                    name: bytes,
                    function: info,
                    sends,
                });
            }
            columns.sort_by(|a, b| a.name.cmp(&b.name));
            pg_sys::MemoryContextSwitchTo(before);
            State {
                sum: 0,
                desc,
                of,
                columns,
                values: vec![pg_sys::Datum::from(0usize); natts],
                nulls: vec![true; natts],
            }
        }
    }

    /// # Safety
    /// A row of the state's type, in the memory context of a call.
    unsafe fn add(&mut self, row: *mut pg_sys::HeapTupleHeaderData) {
        // SAFETY: by contract; the arrays have an entry for each column.
        unsafe {
            let mut tuple = pg_sys::HeapTupleData {
                t_len: (*row).t_choice.t_datum.datum_len_ as u32 >> 2,
                t_data: row,
                ..Default::default()
            };
            ffi::raw::heap_deform_tuple(
                &mut tuple,
                self.desc,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
        let mut hash = Xxh3::new();
        for column in &mut self.columns {
            hash.update(&column.name);
            let null = self.nulls.get(column.place).copied().unwrap_or(true);
            let value = self.values.get(column.place).filter(|_| !null);
            let Some(value) = value else {
                hash.update(&NULL.to_le_bytes());
                continue;
            };
            // SAFETY: a value of the type that the function was looked up for; its result is in the memory of this call.
            let bytes = unsafe {
                match column.sends {
                    true => {
                        let sent = pg_sys::SendFunctionCall(&mut column.function, *value);
                        pgrx::varlena_to_byte_slice(sent.cast())
                    }
                    false => {
                        let text = pg_sys::OutputFunctionCall(&mut column.function, *value);
                        CStr::from_ptr(text).to_bytes()
                    }
                }
            };
            hash.update(&(bytes.len() as u32).to_le_bytes());
            hash.update(bytes);
        }
        self.sum = self.sum.wrapping_add(hash.digest128());
    }
}

/// The function that sends values of a type, and whether it does; that which writes them, where there is none.
fn output_of(typ: pg_sys::Oid) -> (pg_sys::Oid, bool) {
    // SAFETY: look-ups of a type that exists.
    unsafe {
        let mut function = pg_sys::InvalidOid;
        let mut varlena = false;
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(typ));
        let sends = !tuple.is_null() && {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
            let sends = (*form).typsend != pg_sys::InvalidOid;
            pg_sys::ReleaseSysCache(tuple);
            sends
        };
        match sends {
            true => pg_sys::getTypeBinaryOutputInfo(typ, &mut function, &mut varlena),
            false => pg_sys::getTypeOutputInfo(typ, &mut function, &mut varlena),
        }
        (function, sends)
    }
}

fn add(args: &Args) -> pg_sys::Datum {
    let mut context: pg_sys::MemoryContext = std::ptr::null_mut();
    // SAFETY: the call's own information.
    if unsafe { pg_sys::AggCheckCallContext(args.0, &mut context) } == 0 {
        pgrx::error!("varve.rows_checksum is an aggregate");
    }
    let before = args.datum(0);
    let Some(row) = args.datum(1) else {
        return before.unwrap_or_else(|| args.null());
    };
    // SAFETY: a row, fetched whole; the state is ours, made by an earlier call, and lives as long as the group does.
    unsafe {
        let row =
            pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let fields = (*row).t_choice.t_datum;
        let of = (fields.datum_typeid, fields.datum_typmod);
        let state = match before {
            Some(state) => state.cast_mut_ptr::<State>(),
            None => {
                let state = State::new(of, context);
                PgMemoryContexts::For(context).leak_and_drop_on_delete(state)
            }
        };
        if (*state).of != of {
            pgrx::error!("varve.rows_checksum is for rows of one type");
        }
        (*state).add(row);
        pg_sys::Datum::from(state)
    }
}

fn finish(args: &Args) -> pg_sys::Datum {
    // SAFETY: the state of the aggregate, or none where there was no row.
    let sum = args
        .datum(0)
        .map_or(0, |state| unsafe { (*state.cast_mut_ptr::<State>()).sum });
    format!("{sum:032x}")
        .into_datum()
        .unwrap_or_else(|| args.null())
}

crate::sql_function!(
    varve_rows_checksum_add,
    pg_finfo_varve_rows_checksum_add,
    add
);
crate::sql_function!(
    varve_rows_checksum_finish,
    pg_finfo_varve_rows_checksum_finish,
    finish
);
