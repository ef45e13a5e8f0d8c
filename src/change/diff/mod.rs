//! `varve.diff`: what has changed between two relations.
//!
//! Both are read once and hashed, what is the same in both cancels out ([`first`]); the rows of the keys that remain are read again and
//! compared ([`second`]). So what is kept is 32 bytes of a row that waits for its pair, and whole rows only of those that differ.
//!
//! - [`tables`]: the relations and their columns; [`key`]: by which columns rows are known; [`vouch`]: whether there is one row of each.
//! - [`reading`]: the queries; [`equal_parts`]: what need not be read; [`segments`], [`beside`], [`chunk`], [`rest`]: frozen chunks that
//!   are read past the executor.
//! - [`rows`]: rows into hashes, [`row_bytes`]: by their bytes; [`output`]: what is told of those that differ; [`error`]: what cannot be.

mod beside;
mod chunk;
mod equal_parts;
pub mod error;
mod first;
pub mod key;
mod output;
mod reading;
mod rest;
mod row_bytes;
mod rows;
mod second;
mod segments;
mod tables;
mod vouch;

use super::plan::{Plans, Unsendable};
use crate::am::error::null_argument;
use crate::pg::function::Args;
use crate::pg::spi::{Connection, with_setting};
use pgrx::pg_sys;

fn diff(args: &Args) -> pg_sys::Datum {
    let (Some(old), Some(new)) = (args.get(0), args.get(1)) else {
        null_argument("a relation");
    };
    // SAFETY: a context that lives longer than the plans.
    let mut plans = unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Refuse) };
    let tables = tables::Tables::resolve(old, new, args.names(2), &plans);
    let mut output = output::Output::new(args, &tables);
    let mut rows = rows::Rows::new(&mut plans);
    // A scan that begins where another one is would bring the rows in another order than the other relation's.
    with_setting(c"synchronize_seqscans", c"off", || {
        let connection = Connection::open();
        let mut found = second::Found::new(&output);
        let open = first::open_keys(&connection, &tables, &mut rows);
        if let Some(segments) = tables.by_segments() {
            let same = segments.differing(&mut |side, values, nulls| {
                // SAFETY: a row of that relation.
                unsafe {
                    let key = rows.key(&tables, tables.table(side), values, nulls);
                    found.put(side, key, values, nulls);
                }
            });
            pgrx::debug1!("varve.diff: rows that are the same by their segments: {same}");
        }
        if !open.keys.is_empty() {
            second::collect(&connection, &tables, &open, &mut rows, &mut found);
        }
        second::compare(found, &tables, &mut rows, &mut output);
    });
    args.null()
}

crate::sql_function!(varve_diff, pg_finfo_varve_diff, diff);
