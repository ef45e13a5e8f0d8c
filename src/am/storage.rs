//! Callbacks about the relation as a whole: storage, size, VACUUM, CLUSTER.

use super::cache;
use super::companion;
use super::directory;
use super::retained;
use super::tombstone;
use crate::heap_call;
use crate::pg::guard;
use crate::pg::heap::as_heap;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use crate::tier::rewrite;
use pgrx::pg_sys;

pub unsafe extern "C-unwind" fn relation_set_new_filelocator(
    rel: pg_sys::Relation,
    locator: *const pg_sys::RelFileLocator,
    persistence: std::ffi::c_char,
    freeze_xid: *mut pg_sys::TransactionId,
    minmulti: *mut pg_sys::MultiXactId,
) {
    guard::entry(|| {
        heap_call!(relation_set_new_filelocator(
            rel,
            locator,
            persistence,
            freeze_xid,
            minmulti
        ));
        // SAFETY: both locators are valid. TRUNCATE comes here with the old storage still in pg_class: its frozen rows go.
        let fresh = unsafe { (*locator).relNumber != (*rel).rd_locator.relNumber };
        if fresh {
            companion::drop_for(relation::form(rel));
        }
    })
}

pub unsafe extern "C-unwind" fn relation_nontransactional_truncate(rel: pg_sys::Relation) {
    guard::entry(|| {
        heap_call!(relation_nontransactional_truncate(rel));
        if let Some(c) = companion::of(rel) {
            if retained::retain(c.segments) {
                companion::drop_table(c.tombstones);
                companion::forget_shape(rel);
                companion::invalidate(rel);
                return;
            }
            for oid in [c.segments, c.tombstones] {
                let table = OpenRel::table(oid, pg_sys::AccessExclusiveLock);
                // SAFETY: the caller truncates without a way back, and so do we.
                unsafe { pg_sys::heap_truncate_one_rel(table.as_ptr()) };
            }
            companion::forget_shape(rel);
            companion::invalidate(rel);
        }
    })
}

pub unsafe extern "C-unwind" fn relation_copy_data(
    rel: pg_sys::Relation,
    locator: *const pg_sys::RelFileLocator,
) {
    guard::entry(|| {
        heap_call!(relation_copy_data(rel, locator));
        // SAFETY: the new storage is described by its locator; the delta's item pointers stay as they are.
        unsafe { companion::rename_for(rel, &*locator) };
    })
}

pub unsafe extern "C-unwind" fn relation_copy_for_cluster(
    old: pg_sys::Relation,
    new: pg_sys::Relation,
    index: pg_sys::Relation,
    use_sort: bool,
    oldest_xmin: pg_sys::TransactionId,
    xid_cutoff: *mut pg_sys::TransactionId,
    multi_cutoff: *mut pg_sys::MultiXactId,
    num_tuples: *mut f64,
    tups_vacuumed: *mut f64,
    tups_recently_dead: *mut f64,
) {
    guard::entry(|| {
        match companion::of(old) {
            None => as_heap(old, || {
                heap_call!(relation_copy_for_cluster(
                    old,
                    new,
                    index,
                    use_sort,
                    oldest_xmin,
                    xid_cutoff,
                    multi_cutoff,
                    num_tuples,
                    tups_vacuumed,
                    tups_recently_dead
                ))
            }),
            Some(c) => {
                // SAFETY: CLUSTER passes valid cutoffs and counters.
                unsafe {
                    let cutoffs = crate::tier::carry::Cutoffs {
                        oldest_xmin,
                        freeze_limit: *xid_cutoff,
                        multi_cutoff: *multi_cutoff,
                    };
                    let counts = rewrite::carry_over(old, new, &c, &cutoffs);
                    *num_tuples = counts.live as f64;
                    *tups_vacuumed = counts.dead as f64;
                    *tups_recently_dead = counts.recently_dead as f64;
                }
            }
        }
    })
}

/// Frozen rows that a fresh snapshot sees, and the pages they take.
pub fn frozen_size(rel: pg_sys::Relation) -> Option<(u64, u32)> {
    let c = companion::of(rel)?;
    let latest = snapshot::Registered::latest();
    let rows: u64 = directory::load(rel, &c, latest.get())
        .iter()
        .map(|s| s.live_at_birth())
        .sum();
    let thawed: usize = directory::tombstones(&c, latest.get())
        .values()
        .map(Vec::len)
        .sum();
    let table = OpenRel::table(c.segments, pg_sys::AccessShareLock);
    let pages = relation::blocks(table.as_ptr());
    Some((rows.saturating_sub(thawed as u64), pages))
}

/// As [`frozen_size`], about, for the planner: what is known of segments is asked, and many tombstones are not counted.
fn planned_size(rel: pg_sys::Relation) -> Option<(u64, u32)> {
    let c = companion::of(rel)?;
    let latest = snapshot::Registered::latest();
    let directory = cache::directory_for(rel, latest.get())?;
    let rows: u64 = directory.iter().map(|s| s.live_at_birth()).sum();
    let thawed = match tombstone::about(&c) {
        tombstone::PER_PAGE => directory::tombstones(&c, latest.get())
            .values()
            .map(|rows| rows.len() as u64)
            .sum(),
        many => many,
    };
    let table = OpenRel::table(c.segments, pg_sys::AccessShareLock);
    Some((
        rows.saturating_sub(thawed),
        relation::blocks(table.as_ptr()),
    ))
}

pub unsafe extern "C-unwind" fn relation_vacuum(
    rel: pg_sys::Relation,
    params: *mut pg_sys::VacuumParams,
    strategy: pg_sys::BufferAccessStrategy,
) {
    guard::entry(|| {
        if companion::of(rel).is_none() {
            heap_call!(relation_vacuum(rel, params, strategy));
            return;
        }
        // SAFETY: a copy of the caller's parameters. The last page stays: ANALYZE needs one (see `carry::ensure_a_page`).
        unsafe {
            let mut own = *params;
            own.truncate = pg_sys::VacOptValue::VACOPTVALUE_DISABLED;
            let own = &raw mut own;
            heap_call!(relation_vacuum(rel, own, strategy));
            // VACUUM has counted the delta alone.
            if let Some((rows, _)) = frozen_size(rel) {
                let form = relation::form(rel);
                let delta = f64::from(form.reltuples.max(0.0));
                pg_sys::vac_update_relstats(
                    rel,
                    form.relpages as u32,
                    delta + rows as f64,
                    form.relallvisible as u32,
                    form.relhasindex,
                    pg_sys::InvalidTransactionId,
                    pg_sys::InvalidTransactionId.into_inner().into(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    false,
                );
            }
        }
    })
}

/// Bytes of a tuple header and its line pointer, for estimates.
const ROW_OVERHEAD: i32 = 28;

pub unsafe extern "C-unwind" fn relation_estimate_size(
    rel: pg_sys::Relation,
    attr_widths: *mut i32,
    pages: *mut pg_sys::BlockNumber,
    tuples: *mut f64,
    allvisfrac: *mut f64,
) {
    guard::entry(|| {
        heap_call!(relation_estimate_size(
            rel,
            attr_widths,
            pages,
            tuples,
            allvisfrac
        ));
        if let Some((rows, frozen_pages)) = planned_size(rel) {
            // SAFETY: the planner passes valid places.
            unsafe {
                let form = relation::form(rel);
                let width = pg_sys::get_rel_data_width(rel, attr_widths) + ROW_OVERHEAD;
                let per_page = f64::from(pg_sys::BLCKSZ as i32 / width.max(1));
                let delta_pages = relation::blocks(rel);
                *pages = delta_pages + frozen_pages;
                *tuples = if form.reltuples >= 0.0 {
                    // As counted last, frozen rows and all, and what the delta has grown by since.
                    let grown = delta_pages.saturating_sub(form.relpages as u32);
                    f64::from(form.reltuples).max(rows as f64) + f64::from(grown) * per_page
                } else {
                    // An empty delta has one page.
                    let delta = if delta_pages <= 1 { 0 } else { delta_pages };
                    rows as f64 + f64::from(delta) * per_page
                };
                *allvisfrac = 0.0;
            }
        }
    })
}

pub unsafe extern "C-unwind" fn relation_toast_am(_rel: pg_sys::Relation) -> pg_sys::Oid {
    guard::entry(|| {
        // Heap answers with the relation's own method, which would make TOAST tables varve tables.
        relation::HEAP_AM
    })
}
