//! The columns of a batch: which of the target's each is, and the expression that gives it the target's type.

use super::target::{Column, Target, no_column};
use crate::am::error::raise;
use crate::pg::cast::Type;
use crate::pg::relation::{self, quote};
use crate::pg::spi::Rows;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// Name under which statements read a batch.
pub const BATCH: &str = "varve_batch";

/// A batch column: which of the target's it is, and the expression that gives it the target's type.
#[derive(Clone, Debug)]
pub struct Used {
    /// The column of the target.
    pub column: Column,
    /// Its name, quoted.
    pub quoted: String,
    /// Its value, of the target's type, from a row `b` of the batch.
    pub expression: String,
}

/// Finds the target's column for each of the batch's and checks that INSERT would take its type.
pub fn match_columns(target: &Target, columns: &[(String, pg_sys::Oid, i32)]) -> Vec<Used> {
    let mut used: Vec<Used> = Vec::new();
    for (name, typ, typmod) in columns {
        let Some(column) = target.position(name).and_then(|i| target.columns.get(i)) else {
            no_column(&target.name, name, "The batch has such a column.")
        };
        if column.generated {
            continue;
        }
        if used.iter().any(|u| u.column.name == *name) {
            raise(
                PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
                format!("column \"{name}\" stands twice in the batch"),
                None,
                Some("Give each column of the batch a name of its own.".into()),
            );
        }
        // SAFETY: one type each way.
        let fits = unsafe {
            pg_sys::can_coerce_type(
                1,
                typ,
                &column.typ,
                pg_sys::CoercionContext::COERCION_ASSIGNMENT,
            )
        };
        if !fits {
            raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "column \"{name}\" is of type {} but the batch has {}",
                    type_name(column.typ, -1),
                    type_name(*typ, -1)
                ),
                None,
                Some("Cast it in the query that makes the batch (varve.upsert_query).".into()),
            );
        }
        let quoted = quote(name);
        used.push(Used {
            expression: cast(&format!("b.{quoted}"), (*typ, *typmod), column),
            column: column.clone(),
            quoted,
        });
    }
    used
}

/// A type as SQL text. Without a modifier, types whose bare name implies one (`bit`, `char`) come out unlimited.
fn type_name(typ: pg_sys::Oid, typmod: i32) -> String {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: returns a palloc'd string.
    unsafe { CStr::from_ptr(pg_sys::format_type_extended(typ, typmod, flags as u16)) }
        .to_string_lossy()
        .into_owned()
}

/// The value as the target will store it, so that it can be compared with what is stored. An explicit cast would cut
/// character and bit strings to their length without a word; those keep theirs, and INSERT complains.
fn cast(value: &str, from: (pg_sys::Oid, i32), to: &Column) -> String {
    let mut typmod = to.typmod;
    // SAFETY: syscache look-up; a domain counts as its base type.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(to.typ, &mut typmod) };
    if from == (to.typ, to.typmod) {
        return value.to_string();
    }
    match base {
        pg_sys::BPCHAROID | pg_sys::VARCHAROID if typmod > 4 => {
            let whole = format!("{value}::{}", type_name(base, -1));
            format!(
                "CASE WHEN pg_catalog.length({whole}) OPERATOR(pg_catalog.<=) {} THEN {value}::{} ELSE {whole} END",
                typmod - 4,
                type_name(base, typmod)
            )
        }
        pg_sys::BITOID | pg_sys::VARBITOID => format!("{value}::{}", type_name(base, -1)),
        _ if cut_by_cast(base) => format!("{value}::{}", type_name(base, -1)),
        _ => format!("{value}::{}", type_name(to.typ, to.typmod)),
    }
}

/// Whether an explicit cast to the type's length would cut elements of an array.
fn cut_by_cast(array: pg_sys::Oid) -> bool {
    // SAFETY: syscache look-ups; what is no array has the invalid type as its element.
    let element = unsafe {
        let element = pg_sys::get_element_type(array);
        if element == pg_sys::InvalidOid {
            return false;
        }
        relation::base_type(element)
    };
    matches!(
        element,
        pg_sys::BPCHAROID | pg_sys::VARCHAROID | pg_sys::BITOID | pg_sys::VARBITOID
    )
}

/// A key column within the batch: its position among the used ones, and its equality operator.
#[derive(Clone, Debug)]
pub struct Key {
    /// Position among the used columns.
    pub used: usize,
    /// The equality operator of the unique index, qualified.
    pub equal: String,
    /// The index's collation as a clause, or nothing.
    pub collate: String,
}

/// Finds the columns of the target's key among the batch's; one that is not there is an error.
pub fn key_columns(target: &Target, used: &[Used]) -> Vec<Key> {
    target
        .key
        .iter()
        .map(|key| {
            let name = target
                .columns
                .get(key.column)
                .map_or("", |c| c.name.as_str());
            match used.iter().position(|u| u.column.name == name) {
                Some(used) => Key {
                    used,
                    equal: key.equal.clone(),
                    collate: key.collate.clone(),
                },
                None => raise(
                    PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
                    format!("the batch lacks the key column \"{name}\""),
                    Some(format!(
                        "The key of {} is ({}).",
                        target.name,
                        target.key_names()
                    )),
                    Some("Add the column to the batch, or name another key.".into()),
                ),
            }
        })
        .collect()
}

/// Positions of the columns among those of some rows, and the types that they have there.
pub fn positions(used: &[Used], rows: &Rows) -> Vec<(usize, Type)> {
    let columns = rows.columns();
    used.iter()
        .filter_map(|u| {
            let at = columns
                .iter()
                .position(|(name, ..)| *name == u.column.name)?;
            let (_, oid, modifier) = columns.get(at)?;
            Some((
                at,
                Type {
                    oid: *oid,
                    modifier: *modifier,
                },
            ))
        })
        .collect()
}

/// Complains of a NULL in the key, of a row of a batch (by its number) or in a COPY, which tells the line itself.
pub fn null_key(target: &Target, column: &str, row: Option<u64>) -> ! {
    let of_row = row.map(|n| format!(" of row {n} of the batch"));
    raise(
        PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
        format!(
            "null value in key column \"{column}\"{}",
            of_row.unwrap_or_default()
        ),
        Some(format!(
            "The key of {} is ({}).",
            target.name,
            target.key_names()
        )),
        Some("Rows without a key cannot be upserted; leave them out or fill the column.".into()),
    )
}
