//! Columns that a segment lacks (added after it was written) or has too many (dropped since).

use crate::am::datum::ColumnBuilder;
use crate::am::directory::SegmentRef;
use crate::pg::relation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::borrow::Cow;
use varve_core::{ColumnEntry, SegmentHeader, codec, segment_sha256};

fn fail(detail: &str) -> ! {
    crate::am::error::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot freeze rows: {detail}"),
        None,
        None,
    )
}

/// The encoded column of an attribute that rows from before `ADD COLUMN` lack: its missing value, or NULL.
pub fn column(desc: pg_sys::TupleDesc, attnum: i32, rows: u32) -> Vec<u8> {
    let attr = relation::attribute(desc, attnum as usize - 1);
    let mut builder = ColumnBuilder::new(attr, 1).unwrap_or_else(|e| fail(&e));
    let mut null = true;
    // SAFETY: `attnum` is within the row shape; the value is of its type.
    unsafe {
        let datum = pg_sys::getmissingattr(desc, attnum, &mut null);
        if null {
            builder.push_null();
        } else {
            builder.push(datum);
        }
    }
    codec::try_encode_constant(rows, &builder.finish()).unwrap_or_else(|e| fail(&e.to_string()))
}

/// Writes a header's list of columns and its SHA-256 anew after columns were added or left out.
pub fn relist(
    rel: pg_sys::Relation,
    header: &mut SegmentHeader,
    segment: &SegmentRef,
    desc: pg_sys::TupleDesc,
) {
    let mut columns: Vec<(u16, Cow<'static, [u8]>)> = Vec::new();
    for attnum in 1..=relation::natts(desc) as i32 {
        if relation::attribute(desc, attnum as usize - 1).attisdropped {
            continue;
        }
        let bytes = segment
            .with_bytes(attnum, <[u8]>::to_vec)
            .unwrap_or_else(|| column(desc, attnum, header.rows));
        columns.push((attnum as u16, Cow::Owned(bytes)));
    }
    header.columns = columns
        .iter()
        .map(|(attnum, bytes)| match codec::describe(bytes) {
            Ok(info) => ColumnEntry {
                attnum: *attnum,
                bytes: bytes.len() as u32,
                nulls: info.nulls,
                codec: bytes.get(4).copied().unwrap_or(0),
            },
            Err(e) => crate::am::error::corrupt(rel, segment.number, &e.to_string()),
        })
        .collect();
    header.sha256 = segment_sha256(columns.iter().map(|(a, b)| (*a, b.as_ref())));
}
