//! `varve.verify`: reads every segment, recomputes its sums, decodes every column, and adds up its rows' checksums where these
//! are kept.

use super::{catalog, set_tier};
use crate::am::body::{self, BodyReader, Location};
use crate::am::companion::{self, Companion};
use crate::am::{datum, directory};
use crate::change::kept::Keeping;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{snapshot, tuple};
use crate::progress::{Operation, Phase, Work};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::BTreeMap;
use varve_core::column::Column;
use varve_core::header::{ColumnEntry, SegmentHeader, SegmentSum};
use varve_core::paged;

/// The items that are stored of a segment (number, length), and its header.
#[derive(Default)]
struct Stored {
    items: Vec<(i32, usize)>,
    headers: Vec<Result<Vec<u8>, String>>,
    /// Raw xmin of the header's row.
    writer: pg_sys::TransactionId,
}

impl Stored {
    /// How many segments were written together with this one, as far as its header can be read.
    fn siblings(&self) -> Option<i32> {
        let [Ok(bytes)] = self.headers.as_slice() else {
            return None;
        };
        let header = SegmentHeader::from_bytes(bytes).ok()?;
        i32::try_from(header.siblings).ok()
    }
}

fn read(companion: &Companion) -> BTreeMap<i32, Stored> {
    let mut found: BTreeMap<i32, Stored> = BTreeMap::new();
    let latest = snapshot::Registered::latest();
    let table = OpenRel::table(companion.segments, pg_sys::AccessShareLock);
    directory::for_each_row(table.as_ptr(), latest.get(), |_, values, _| {
        let [number, item, data] = values else { return };
        let entry = found.entry(number.value() as i32).or_default();
        // SAFETY: a bytea that is never NULL.
        let length = unsafe { tuple::with_payload(*data, <[u8]>::len) };
        entry.items.push((item.value() as i32, length));
        pgrx::check_for_interrupts!();
    });
    body::for_each_header(table.as_ptr(), latest.get(), |row, number, header| {
        let entry = found.entry(number).or_default();
        // SAFETY: a row of a scan has its header.
        entry.writer = tuple::raw_xmin(unsafe { &*row.t_data });
        entry.headers.push(header.map(<[u8]>::to_vec));
    });
    found
}

fn check(
    rel: pg_sys::Relation,
    reader: &BodyReader,
    number: i32,
    stored: &Stored,
) -> Result<(), String> {
    if !(0..=crate::am::tid::MAX_SEGMENT).contains(&number) {
        return Err("there is no such segment number".into());
    }
    let bytes = match stored.headers.as_slice() {
        [one] => one.as_ref().map_err(Clone::clone)?,
        [] => return Err("its header is missing".into()),
        _ => return Err("it has two headers".into()),
    };
    let header = SegmentHeader::from_bytes(bytes).map_err(|e| format!("header: {e}"))?;
    if let Some(detail) = body::check_items(bytes.len(), header.body_len(), &stored.items) {
        return Err(detail);
    }
    let location = Location {
        segment: number,
        first_block: header.location,
        writer: stored.writer,
    };
    let desc = relation::tupdesc(rel);
    let read = |entry: &ColumnEntry, start: usize| {
        pgrx::check_for_interrupts!();
        let mut bytes = Vec::with_capacity(entry.bytes as usize);
        reader.read(location, start..start + entry.bytes as usize, &mut bytes)?;
        Ok::<_, String>(bytes)
    };
    let keeping = Keeping::of_segment(desc, &header);
    let mut checksum = keeping.as_ref().map(|keeping| keeping.begin(header.rows));
    let mut sums = SegmentSum::new();
    let mut start = 0;
    let mut later = Vec::new();
    for entry in &header.columns {
        let bytes = read(entry, start)?;
        sums.add(entry.attnum, &bytes);
        let column = check_column(desc, &header, entry, &bytes)
            .map_err(|e| format!("column {}: {e}", entry.attnum))?;
        match &mut checksum {
            Some(checksum) if checksum.takes_any(entry.attnum) => {
                checksum.add(entry.attnum, &column);
            }
            Some(_) => later.push((entry, start)),
            None => {}
        }
        start += entry.bytes as usize;
    }
    if sums.finish() != header.sha256 {
        return Err("the SHA-256 of the columns is not that of the header".into());
    }
    if let Some(mut checksum) = checksum {
        // Values are taken for such only now that they are known to be what was written.
        for (entry, start) in later {
            let column = decode(entry, &read(entry, start)?)?;
            checksum.add(entry.attnum, &column);
        }
        if checksum.end() != header.checksum {
            return Err("the checksum of its rows is not that of the header".into());
        }
    }
    Ok(())
}

fn decode(entry: &ColumnEntry, bytes: &[u8]) -> Result<Column, String> {
    paged::decode_all(bytes, entry.index_len as usize).map_err(|e| e.to_string())
}

/// Decodes a column and compares it with what the header says of it.
fn check_column(
    desc: pg_sys::TupleDesc,
    header: &SegmentHeader,
    entry: &ColumnEntry,
    bytes: &[u8],
) -> Result<Column, String> {
    let column = decode(entry, bytes)?;
    if column.kind() != entry.kind
        || column.rows() != header.rows as usize
        || column.null_count() != entry.summary.nulls as usize
    {
        return Err("it is not the column that the header lists".into());
    }
    let index = usize::from(entry.attnum).wrapping_sub(1);
    if index >= relation::natts(desc) {
        return Err("the table has no such column".into());
    }
    let attr = relation::attribute(desc, index);
    if !attr.attisdropped {
        datum::check_kind(attr, entry.kind)?;
    }
    Ok(column)
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
        let Some(companion) = companion::of(rel) else {
            continue;
        };
        let reader = BodyReader::new(&companion);
        let mut stored = read(&companion);
        // A segment of which nothing is left is missed by those that were written with it.
        let siblings = stored.values().filter_map(Stored::siblings).max();
        for number in 0..siblings.unwrap_or(0) {
            stored.entry(number).or_default();
        }
        let mut work = Work::begin(Operation::Verify, chunk);
        work.phase(Phase::Decoding, stored.len() as u64);
        for (number, stored) in stored {
            work.add(1);
            any = true;
            let result = check(rel, &reader, number, &stored);
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
