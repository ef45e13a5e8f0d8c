//! Chunks that need not be read, since the sums of their rows' checksums say that both relations have the same rows in them.
//!
//! A checksum is of a row's values by their columns' names, NULLs left out: just what `varve.diff` compares. So two chunks with as many rows and
//! the same sum hold the same rows, whatever their ranges are. Where a key has one row in each relation, none of these rows' keys is anywhere
//! else, and what is left of the two relations differs as the whole does.

use super::vouch;
use crate::am::{cache, companion, directory};
use crate::change::checksums::is_plain;
use crate::change::kept;
use crate::change::table::{self, Total};
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Registered;
use crate::tier::set_tier;
use pgrx::pg_sys;
use std::collections::HashMap;

/// A chunk's sum is asked for where so many times as many pages are left alone as have to be read for it.
const PAGES_FOR_ONE: usize = 8;

/// Chunks of the old and of the new relation that together hold the same rows. For relations in which there is one row of each key, and of which
/// everything may be read.
pub fn equal_parts(old: &OpenRel, new: &OpenRel) -> [Vec<pg_sys::Oid>; 2] {
    let none = [Vec::new(), Vec::new()];
    // SAFETY: a statement that calls a function has a snapshot.
    let snapshot = Registered::copy_of(unsafe { pg_sys::GetActiveSnapshot() });
    let of_old = with_sums(old, &snapshot);
    let of_new = with_sums(new, &snapshot);
    if of_old.is_empty() || of_new.is_empty() {
        return none;
    }
    let mut waiting: HashMap<(u64, u128), Vec<pg_sys::Oid>> = HashMap::new();
    for chunk in &of_old {
        let Total { rows, sum } = table::read(chunk.as_ptr(), snapshot.get());
        if rows > 0 {
            let oid = relation::oid(chunk.as_ptr());
            waiting.entry((rows, sum)).or_default().push(oid);
        }
    }
    let mut equal = none;
    let [old, new] = &mut equal;
    for chunk in &of_new {
        let Total { rows, sum } = table::read(chunk.as_ptr(), snapshot.get());
        if let Some(pair) = waiting.get_mut(&(rows, sum)).and_then(Vec::pop) {
            old.push(pair);
            new.push(relation::oid(chunk.as_ptr()));
        }
    }
    // Of what TimescaleDB's columnstore has compressed, some rows are not in the chunk.
    if !old.is_empty() && set_tier::in_columnstore(old.iter().chain(&*new).copied().collect()) {
        return [Vec::new(), Vec::new()];
    }
    equal
}

/// The chunks of a relation, itself if it has none, whose sum costs little.
fn with_sums(rel: &OpenRel, snapshot: &Registered) -> Vec<OpenRel> {
    chunks(rel, &mut |chunk| is_cheap(chunk, snapshot))
}

/// The chunks of a table that are wanted, itself if it has none, open; none of other relations.
pub fn chunks(rel: &OpenRel, wanted: &mut dyn FnMut(pg_sys::Relation) -> bool) -> Vec<OpenRel> {
    let kind = relation::form(rel.as_ptr()).relkind as u8;
    let mut found = Vec::new();
    if [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&kind) {
        let oid = relation::oid(rel.as_ptr());
        add_chunks(oid, wanted, &mut found);
        // These are not read in any case.
        let joined = vouch::joined_since(oid);
        found.retain(|chunk| !joined.contains(&relation::oid(chunk.as_ptr())));
    }
    found
}

fn add_chunks(
    oid: pg_sys::Oid,
    wanted: &mut dyn FnMut(pg_sys::Relation) -> bool,
    to: &mut Vec<OpenRel>,
) {
    pgrx::check_for_interrupts!();
    let children = relation::children(oid);
    if !children.is_empty() {
        // SAFETY: raises an error where partitions lie too deep within each other.
        unsafe { pg_sys::check_stack_depth() };
        for child in children {
            add_chunks(child, wanted, to);
        }
        return;
    }
    // What was dropped meanwhile is no chunk any more.
    let chunk = OpenRel::try_open(oid, pg_sys::AccessShareLock);
    to.extend(chunk.filter(|chunk| wanted(chunk.as_ptr())));
}

/// Whether headers say the sum of nearly all rows of a table. Neither these nor the delta are read to find that out.
fn is_cheap(rel: pg_sys::Relation, snapshot: &Registered) -> bool {
    let ours = Some(relation::form(rel).relam) == relation::varve_am();
    if !ours || !is_plain(rel) {
        return false;
    }
    let delta = relation::blocks(rel) as usize;
    let (Some(directory), Some(companion)) = (
        cache::directory_for(rel, snapshot.get()),
        companion::of(rel),
    ) else {
        return false;
    };
    let pages: usize = directory.iter().map(|segment| segment.pages()).sum();
    let few = |read: usize| read * PAGES_FOR_ONE <= pages;
    if !few(delta) {
        return false;
    }
    let gone = directory::tombstones(&companion, snapshot.get());
    let mut columns = kept::Columns::of(relation::tupdesc(rel));
    let mut read = delta;
    for segment in directory.iter() {
        if columns.kept(&segment.header).is_none() {
            return false;
        }
        let hidden = directory::hidden_rows(segment, gone.get(&segment.number));
        if hidden.count_ones() > 0 {
            let touched =
                |page: &usize| segment.page_rows(*page).any(|row| hidden.get(row as usize));
            read += (0..segment.pages()).filter(touched).count();
        }
    }
    few(read)
}
