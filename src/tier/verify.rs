//! `varve.verify`: reads every segment, recomputes its sums, decodes every column.

use super::{catalog, set_tier};
use crate::am::companion;
use crate::am::datum::DatumColumn;
use crate::am::directory;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{snapshot, tuple};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::BTreeMap;
use varve_core::{SegmentHeader, segment_sha256};

/// Header and columns of a segment as they are stored.
#[derive(Default)]
struct Stored {
    headers: Vec<Vec<u8>>,
    columns: Vec<(i32, Vec<u8>)>,
}

fn read(rel: pg_sys::Relation) -> BTreeMap<i32, Stored> {
    let mut found: BTreeMap<i32, Stored> = BTreeMap::new();
    let Some(c) = companion::of(rel) else {
        return found;
    };
    let latest = snapshot::Registered::latest();
    let table = OpenRel::table(c.segments, pg_sys::AccessShareLock);
    directory::for_each_row(table.as_ptr(), latest.get(), |_, values, _| {
        let [number, item, data] = values else { return };
        let entry = found.entry(number.value() as i32).or_default();
        // SAFETY: a bytea that is never NULL.
        let bytes = unsafe { tuple::with_payload(*data, <[u8]>::to_vec) };
        match item.value() as i32 {
            0 => entry.headers.push(bytes),
            n => entry.columns.push((n, bytes)),
        }
    });
    found
}

fn check(rel: pg_sys::Relation, number: i32, stored: &Stored) -> Result<SegmentHeader, String> {
    if !(0..=crate::am::tid::MAX_SEGMENT).contains(&number) {
        return Err("there is no such segment number".into());
    }
    let bytes = match stored.headers.as_slice() {
        [one] => one,
        [] => return Err("its header is missing".into()),
        _ => return Err("it has two headers".into()),
    };
    let header = SegmentHeader::from_bytes(bytes).map_err(|e| format!("header: {e}"))?;
    let attnums = stored.columns.iter().map(|(attnum, _)| *attnum);
    if let Some(detail) = directory::check_items(&header, attnums) {
        return Err(detail);
    }
    let mut parts = Vec::new();
    for entry in &header.columns {
        let bytes = stored
            .columns
            .iter()
            .find(|(attnum, _)| *attnum == i32::from(entry.attnum))
            .map(|(_, bytes)| bytes)
            .ok_or_else(|| format!("column {} is missing", entry.attnum))?;
        parts.push((entry.attnum, bytes.as_slice()));
    }
    if segment_sha256(parts.iter().copied()) != header.sha256 {
        // The column that is damaged is named where its own sum tells.
        for (attnum, bytes) in &parts {
            varve_core::decode_column(bytes).map_err(|e| format!("column {attnum}: {e}"))?;
        }
        return Err("the SHA-256 of the columns is not that of the header".into());
    }
    let desc = relation::tupdesc(rel);
    for (attnum, bytes) in &parts {
        let index = usize::from(*attnum).wrapping_sub(1);
        if index >= relation::natts(desc) {
            return Err(format!("the table has no column {attnum}"));
        }
        let attr = relation::attribute(desc, index);
        if attr.attisdropped {
            varve_core::decode_column(bytes).map_err(|e| format!("column {attnum}: {e}"))?;
        } else {
            DatumColumn::decode(attr, header.rows as usize, bytes)
                .map_err(|e| format!("column {attnum}: {e}"))?;
        }
    }
    Ok(header)
}

/// One row a segment: whether its stored bytes are what was written and decode.
#[pg_extern(sql = false)]
fn verify(
    target: Option<pg_sys::Oid>,
) -> TableIterator<
    'static,
    (
        name!(chunk, pg_sys::Oid),
        name!(segment, i32),
        name!(ok, bool),
        name!(detail, Option<String>),
    ),
> {
    let Some(oid) = target else {
        crate::am::error::null_argument("the table")
    };
    set_tier::check_table(oid);
    let mut rows = Vec::new();
    for chunk in catalog::chunks_of(oid) {
        let Some(table) = OpenRel::try_open(chunk, pg_sys::AccessShareLock) else {
            continue;
        };
        let rel = table.as_ptr();
        if Some(relation::form(rel).relam) != relation::varve_am() {
            continue;
        }
        let mut whole = true;
        let mut any = false;
        for (number, stored) in read(rel) {
            pgrx::check_for_interrupts!();
            any = true;
            let result = check(rel, number, &stored);
            whole &= result.is_ok();
            rows.push((chunk, number, result.is_ok(), result.err()));
        }
        // SAFETY: a standby and a read-only transaction can verify, but not write it down.
        let writable = unsafe { !pg_sys::RecoveryInProgress() && !pg_sys::XactReadOnly };
        if any && whole && writable {
            catalog::remember_verified(chunk);
        }
    }
    TableIterator::new(rows)
}
