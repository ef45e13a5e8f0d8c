//! Columns that a segment lacks (added after it was written) or has too many (dropped since).

use crate::am::body::BodyReader;
use crate::am::builder::ColumnBuilder;
use crate::am::directory::SegmentRef;
use crate::am::writer;
use crate::pg::relation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use varve_core::header::{ColumnEntry, SegmentSum};
use varve_core::paged::Effort;

fn fail(detail: &str) -> ! {
    crate::am::error::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot freeze rows: {detail}"),
        None,
        None,
    )
}

/// The encoded column of an attribute that rows from before `ADD COLUMN` lack: its missing value, or NULL.
fn missing(
    desc: pg_sys::TupleDesc,
    attnum: i32,
    rows: u32,
    effort: Effort,
) -> (ColumnEntry, Vec<u8>) {
    let attr = relation::attribute(desc, attnum as usize - 1);
    let mut builder = ColumnBuilder::new(attr, rows as usize).unwrap_or_else(|e| fail(&e));
    let mut null = true;
    // SAFETY: `attnum` is within the row shape; the value is of its type.
    unsafe {
        let datum = pg_sys::getmissingattr(desc, attnum, &mut null);
        for _ in 0..rows {
            if null {
                builder.push_null();
            } else {
                builder.push(datum);
            }
        }
    }
    let column = builder.finish();
    let encoded = writer::encode(&column, effort);
    (
        writer::entry(attnum as u16, &column, &encoded),
        encoded.bytes,
    )
}

/// The encoded columns of a segment for a row shape: those that it has as they are stored, those that it lacks filled in.
/// Bytes are not decoded, but they must be those that the header knows.
pub fn columns(
    rel: pg_sys::Relation,
    reader: &BodyReader,
    segment: &SegmentRef,
    desc: pg_sys::TupleDesc,
) -> Vec<(ColumnEntry, Vec<u8>)> {
    let corrupt = |detail: &str| -> ! { crate::am::error::corrupt(rel, segment.number, detail) };
    let mut stored: Vec<(ColumnEntry, Vec<u8>)> = Vec::new();
    let mut sum = SegmentSum::new();
    for entry in &segment.header.columns {
        match segment.bytes(reader, i32::from(entry.attnum)) {
            Ok(Some(bytes)) => {
                sum.add(entry.attnum, &bytes);
                stored.push((entry.clone(), bytes));
            }
            Ok(None) => {}
            Err(detail) => corrupt(&detail),
        }
    }
    if sum.finish() != segment.header.sha256 {
        corrupt("the SHA-256 of the columns is not that of the header");
    }
    (1..=relation::natts(desc) as i32)
        .filter(|attnum| !relation::attribute(desc, *attnum as usize - 1).attisdropped)
        .map(|attnum| {
            let found = stored
                .iter()
                .position(|(e, _)| i32::from(e.attnum) == attnum);
            match found {
                Some(at) => stored.swap_remove(at),
                None => missing(desc, attnum, segment.header.rows, segment.header.effort),
            }
        })
        .collect()
}
