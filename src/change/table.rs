//! The rows of one table and the sum of their checksums, as a snapshot sees them: of frozen rows by the sums that segments keep,
//! as far as these count.

use super::delta_scan::DeltaScan;
use super::kept;
use super::row_hash::RowHash;
use crate::am::directory::{self, Decoded, SegmentRef};
use crate::am::{cache, companion};
use crate::pg::relation;
use pgrx::pg_sys;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;

/// How many rows there are, and the sum of their checksums modulo 2^128.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Total {
    /// Rows.
    pub rows: u64,
    /// The sum.
    pub sum: u128,
}

/// Reads a table of access method heap or varve that is open and locked. Descendants are not read.
pub fn read(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Total {
    let desc = relation::tupdesc(rel);
    let mut checksums = RowHash::of(desc, &[]);
    let mut total = Total::default();
    read_frozen(rel, snapshot, &mut checksums, &mut total, true);
    read_delta(rel, snapshot, &mut checksums, &mut total);
    total
}

/// The frozen rows of such a table and the sum of their checksums; only their number where the sum is not to be had from what segments
/// keep.
pub fn frozen(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> (u64, Option<u128>) {
    let mut checksums = RowHash::of(relation::tupdesc(rel), &[]);
    let mut total = Total::default();
    let whole = read_frozen(rel, snapshot, &mut checksums, &mut total, false);
    (total.rows, whole.then_some(total.sum))
}

/// The rows that lie in no segment and the sum of their checksums.
pub fn delta(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Total {
    let mut checksums = RowHash::of(relation::tupdesc(rel), &[]);
    let mut total = Total::default();
    read_delta(rel, snapshot, &mut checksums, &mut total);
    total
}

/// Adds the frozen rows. Segments whose sum does not count are read whole, or the sum is left wrong: tells whether it is right.
fn read_frozen(
    rel: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    checksums: &mut RowHash,
    total: &mut Total,
    decode: bool,
) -> bool {
    if Some(relation::form(rel).relam) != relation::varve_am() {
        return true;
    }
    let mut right = true;
    let (Some(directory), Some(companion)) =
        (cache::directory_for(rel, snapshot), companion::of(rel))
    else {
        return right;
    };
    let reading = directory::reading_snapshot(snapshot);
    let gone = directory::tombstones(&companion, reading.get());
    drop(reading);
    let mut columns = kept::Columns::of(relation::tupdesc(rel));
    for segment in directory.iter() {
        pgrx::check_for_interrupts!();
        let hidden = directory::hidden_rows(segment, gone.get(&segment.number));
        let rows = u64::from(segment.header.rows).saturating_sub(hidden.count_ones() as u64);
        if rows == 0 {
            continue;
        }
        total.rows += rows;
        let sum = match columns.kept(&segment.header) {
            // What is not there is as a rule the lesser part.
            Some(all) => all.wrapping_sub(sum_of(rel, segment, &hidden, true, checksums)),
            None if !decode => {
                right = false;
                continue;
            }
            None => sum_of(rel, segment, &hidden, false, checksums),
        };
        total.sum = total.sum.wrapping_add(sum);
    }
    right
}

/// The sum of the checksums of a segment's rows that are in a bitmap, or that are not. Pages without such a row are not read.
fn sum_of(
    rel: pg_sys::Relation,
    segment: &Rc<SegmentRef>,
    rows: &Bitmap,
    wanted: bool,
    checksums: &mut RowHash,
) -> u128 {
    let natts = relation::natts(relation::tupdesc(rel));
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    let mut sum = 0u128;
    if wanted && rows.count_ones() == 0 {
        return sum;
    }
    for page in 0..segment.pages() {
        let mut chosen = segment
            .page_rows(page)
            .filter(|row| rows.get(*row as usize) == wanted)
            .peekable();
        if chosen.peek().is_none() {
            continue;
        }
        pgrx::check_for_interrupts!();
        let decoded = Decoded::new(rel, segment, page, |_| true);
        for row in chosen {
            decoded.row(row, &mut values, &mut nulls);
            // SAFETY: values of the relation's row shape.
            sum = sum.wrapping_add(unsafe { checksums.checksum(&values, &nulls) });
        }
    }
    sum
}

fn read_delta(
    rel: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    checksums: &mut RowHash,
    total: &mut Total,
) {
    let mut rows = DeltaScan::new(rel, snapshot);
    while let Some(row) = rows.next() {
        pgrx::check_for_interrupts!();
        let (values, nulls) = row.values();
        // SAFETY: values of the relation's row shape.
        let sum = unsafe { checksums.checksum(values, nulls) };
        total.sum = total.sum.wrapping_add(sum);
        total.rows += 1;
    }
}
