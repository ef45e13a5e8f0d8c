//! `varve.row_checksum`.

use super::canonical;
use super::error::unknown_algorithm;
use super::plan::{Plans, Unsendable};
use crate::pg::function::Args;
use crate::pg::tuple::{new_bytea, with_payload};
use pgrx::{PgMemoryContexts, pg_sys};
use varve_core::change::hash::{self, CellHash, Sha256Row};

/// What rows are hashed with.
#[derive(Clone, Copy)]
enum Algorithm {
    Xxh3,
    Sha256,
}

impl Algorithm {
    /// # Safety
    /// A text.
    unsafe fn of(name: pg_sys::Datum) -> Self {
        // SAFETY: by contract.
        unsafe {
            with_payload(name, |name| match name {
                b"xxh3" => Algorithm::Xxh3,
                b"sha256" => Algorithm::Sha256,
                other => unknown_algorithm(&String::from_utf8_lossy(other)),
            })
        }
    }
}

/// What is kept from call to call.
pub struct State {
    plans: Plans,
    cell: CellHash,
}

impl State {
    /// Nothing yet.
    ///
    /// # Safety
    /// A live memory context, which lasts as long as the state is used.
    pub unsafe fn new(context: pg_sys::MemoryContext, unsendable: Unsendable) -> Self {
        State {
            // SAFETY: by contract.
            plans: unsafe { Plans::new(context, unsendable) },
            cell: CellHash::default(),
        }
    }

    /// A row's checksum by XXH3, as a number.
    ///
    /// # Safety
    /// A row.
    pub unsafe fn xxh3(&mut self, row: pg_sys::Datum) -> u128 {
        let State { plans, cell } = self;
        plans.refresh();
        // SAFETY: by contract; values are of the columns' types.
        let sum = unsafe {
            plans.with_row(row, |row, plans| {
                row.cells().fold(0u128, |sum, (column, value)| {
                    cell.begin_xxh3(column.seed);
                    canonical::put(&column.form, value, plans, cell);
                    sum.wrapping_add(cell.end_xxh3())
                })
            })
        };
        hash::finish(sum)
    }

    /// A row's checksum by SHA-256.
    ///
    /// # Safety
    /// A row.
    unsafe fn sha256(&mut self, row: pg_sys::Datum) -> [u8; 32] {
        let State { plans, cell } = self;
        plans.refresh();
        let mut hash = Sha256Row::begin(cell);
        // SAFETY: by contract; values are of the columns' types.
        unsafe {
            plans.with_row(row, |row, plans| {
                for (column, value) in row.cells() {
                    canonical::put(&column.form, value, plans, hash.cell(&column.name));
                }
            });
        }
        hash.end()
    }
}

/// The state of the expression that the call is in.
fn state(args: &Args) -> *mut State {
    // SAFETY: an expression's function has its information, in which our state lies from the first call on. It goes with the
    // memory context.
    unsafe {
        let info = (*args.0).flinfo;
        if info.is_null() {
            pgrx::error!("varve.row_checksum is called by expressions");
        }
        if (*info).fn_extra.is_null() {
            let context = (*info).fn_mcxt;
            let state = State::new(context, Unsendable::Refuse);
            let state = PgMemoryContexts::For(context).leak_and_drop_on_delete(state);
            (*info).fn_extra = state.cast();
        }
        (*info).fn_extra.cast()
    }
}

fn row_checksum(args: &Args) -> pg_sys::Datum {
    let (Some(row), Some(algorithm)) = (args.datum(0), args.datum(1)) else {
        return args.null();
    };
    // SAFETY: arguments are declared as a row and a text; calls of one expression come one after the other.
    unsafe {
        match Algorithm::of(algorithm) {
            Algorithm::Xxh3 => new_bytea(&hash::to_bytes((*state(args)).xxh3(row))),
            Algorithm::Sha256 => new_bytea(&(*state(args)).sha256(row)),
        }
    }
}

crate::sql_function!(
    varve_row_checksum,
    pg_finfo_varve_row_checksum,
    row_checksum
);
