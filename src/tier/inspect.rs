//! What chunks look like: the function behind the view `varve.chunks`.

use super::catalog;
use super::level::Tier;
use crate::am::companion;
use crate::am::directory::{self, SegmentRef};
use crate::heap_call;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::rc::Rc;

/// Whether everything in a table is frozen, and by one freeze: nothing in the delta, nothing thawed, no segments beside
/// those that were written together.
pub fn all_frozen(rel: pg_sys::Relation) -> bool {
    let latest = snapshot::Registered::latest();
    companion::of(rel).is_some_and(|c| {
        let segments = directory::load(rel, &c, latest.get());
        let together = |s: &Rc<SegmentRef>| s.header.siblings as usize == segments.len();
        segments.iter().all(together)
            && directory::tombstones(&c, latest.get()).is_empty()
            && delta_rows(rel, latest.get(), 1) == 0
    })
}

/// Rows of a table's delta that a snapshot sees, counted up to `most`.
fn delta_rows(rel: pg_sys::Relation, snap: pg_sys::Snapshot, most: i64) -> i64 {
    let mut rows = 0;
    // SAFETY: heap's own scan of the delta; the slot is dropped after it.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot(
            relation::tupdesc(rel),
            &raw const pg_sys::TTSOpsBufferHeapTuple,
        );
        let none = std::ptr::null_mut();
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
            | pg_sys::ScanOptions::SO_ALLOW_STRAT
            | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let scan = heap_call!(scan_begin(rel, snap, 0, none, none.cast(), flags));
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        while rows < most && heap_call!(scan_getnextslot(scan, forward, slot)) {
            rows += 1;
        }
        heap_call!(scan_end(scan));
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
    rows
}

/// Tier, rows, rows in the delta, segments, bytes now, SHA-256 over the segments' sums, bytes before encoding.
type Stats = (
    name!(tier, String),
    name!(rows, Option<i64>),
    name!(delta_rows, Option<i64>),
    name!(segments, Option<i32>),
    name!(bytes_now, i64),
    name!(sha256, Option<String>),
);

/// State of one chunk; no row when it is gone. A chunk with a damaged header has the tier `damaged`.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn chunk_stats(
    chunk: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(tier, String),
        name!(rows, Option<i64>),
        name!(delta_rows, Option<i64>),
        name!(segments, Option<i32>),
        name!(bytes_now, i64),
        name!(sha256, Option<String>),
    ),
> {
    let row: Option<Stats> = stats(chunk);
    TableIterator::new(row)
}

fn companion_bytes(c: &companion::Companion) -> i64 {
    catalog::total_bytes(c.segments) + catalog::total_bytes(c.tombstones)
}

fn stats(chunk: pg_sys::Oid) -> Option<Stats> {
    let table = OpenRel::try_open(chunk, pg_sys::AccessShareLock)?;
    let rel = table.as_ptr();
    let form = relation::form(rel);
    let varve = Some(form.relam) == relation::varve_am();
    if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char
        || !(varve || form.relam == relation::HEAP_AM)
    {
        return None;
    }
    let frozen_part = companion::of(rel).filter(|_| varve);
    // What a table holds is for those to know who may read it.
    // SAFETY: a catalogue look-up.
    let readable = unsafe {
        pg_sys::pg_class_aclcheck(chunk, pg_sys::GetUserId(), pg_sys::ACL_SELECT.into())
            == pg_sys::AclResult::ACLCHECK_OK
    };
    let latest = snapshot::Registered::latest();
    let tier = |segments: Option<&directory::Directory>| match segments {
        Some(segments) => Tier::of_frozen(chunk, segments).name(),
        None => "damaged",
    };
    if !readable {
        let tier = match &frozen_part {
            Some(c) => tier(directory::try_load(c, latest.get()).ok().as_ref()),
            None => Tier::Hot.name(),
        };
        let bytes = catalog::total_bytes(chunk) + frozen_part.as_ref().map_or(0, companion_bytes);
        return Some((tier.into(), None, None, None, bytes, None));
    }
    let delta = delta_rows(rel, latest.get(), i64::MAX);
    let mut bytes = catalog::total_bytes(chunk);
    let Some(c) = frozen_part else {
        let hot = Tier::Hot.name().into();
        return Some((hot, Some(delta), Some(delta), Some(0), bytes, None));
    };
    bytes += companion_bytes(&c);
    let Ok(segments) = directory::try_load(&c, latest.get()) else {
        // What a damaged segment holds nobody knows; varve.verify says what is wrong.
        return Some((tier(None).into(), None, Some(delta), None, bytes, None));
    };
    let thawed = directory::tombstones(&c, latest.get());
    let frozen: i64 = segments
        .iter()
        .map(|s| {
            let hidden = directory::hidden_rows(s, thawed.get(&s.number));
            i64::from(s.header.rows) - hidden.count_ones() as i64
        })
        .sum();
    let sum = varve_core::combine_sha256(segments.iter().map(|s| s.header.sha256));
    let sum = sum.iter().map(|b| format!("{b:02x}")).collect();
    Some((
        tier(Some(&segments)).into(),
        Some(frozen + delta),
        Some(delta),
        Some(segments.len() as i32),
        bytes,
        (!segments.is_empty()).then_some(sum),
    ))
}

/// The table that holds a chunk's segments; NULL when nothing of it is frozen.
#[pg_extern(sql = false)]
fn segment_table(chunk: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let table = OpenRel::try_open(chunk, pg_sys::AccessShareLock)?;
    if Some(relation::form(table.as_ptr()).relam) != relation::varve_am() {
        return None;
    }
    companion::of(table.as_ptr()).map(|c| c.segments)
}
