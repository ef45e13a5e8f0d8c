//! `varve.rows_checksum`: the sum of rows' checksums modulo 2^128. It does not ask for their order.
//!
//! Backups note it, of each table whatever its types are: so the text of values counts where a type has no send function.

use super::plan::Unsendable;
use super::row_checksum::State;
use crate::pg::function::Args;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

/// The sum so far.
struct Sum {
    rows: State,
    sum: u128,
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
    // SAFETY: a row; the state is ours, made by an earlier call, and lives as long as the group does.
    unsafe {
        let state = match before {
            Some(state) => state.cast_mut_ptr::<Sum>(),
            None => PgMemoryContexts::For(context).leak_and_drop_on_delete(Sum {
                rows: State::new(context, Unsendable::Write),
                sum: 0,
            }),
        };
        let checksum = (*state).rows.xxh3(row);
        (*state).sum = (*state).sum.wrapping_add(checksum);
        pg_sys::Datum::from(state)
    }
}

fn finish(args: &Args) -> pg_sys::Datum {
    // SAFETY: the state of the aggregate, or none where there was no row.
    let sum = args
        .datum(0)
        .map_or(0, |state| unsafe { (*state.cast_mut_ptr::<Sum>()).sum });
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
