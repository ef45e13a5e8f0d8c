//! Exchanging a table's storage: a transient table is filled and swapped in (`finish_heap_swap`).

use super::carry::{self, Carry, Cutoffs, Graves};
use crate::am::body::{BodyReader, BodyWriter};
use crate::am::companion::{self, Companion};
use crate::am::directory;
use crate::am::index_build;
use crate::am::writer;
use crate::change::kept;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{ffi, snapshot, tuple};
use crate::progress::{Operation, Phase, Work};
use pgrx::pg_sys;
use varve_core::header::segment_sha256;

/// What a rewrite did.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Rows in the delta.
    pub live: u64,
    /// Versions left behind.
    pub dead: u64,
    /// Versions kept for older snapshots.
    pub recently_dead: u64,
    /// Rows in segments.
    pub frozen: u64,
}

/// OID of the access method varve, which must exist.
pub fn varve_am() -> pg_sys::Oid {
    relation::varve_am().unwrap_or_else(|| pgrx::error!("access method \"varve\" does not exist"))
}

/// Makes a transient table with the shape of `rel` and an access method, and returns its OID.
pub fn new_storage(rel: pg_sys::Relation, am: pg_sys::Oid, lockmode: u32) -> pg_sys::Oid {
    let form = relation::form(rel);
    // SAFETY: as cluster_rel makes its transient table; the caller holds `lockmode` on `rel`.
    unsafe {
        ffi::make_new_heap(
            relation::oid(rel),
            form.reltablespace,
            am,
            form.relpersistence,
            lockmode as pg_sys::LOCKMODE,
        )
    }
}

/// Swaps the storage of two tables, rebuilds the indexes and drops the transient table. Both must be closed.
pub fn swap(old: pg_sys::Oid, new: pg_sys::Oid, cutoffs: &Cutoffs, persistence: std::ffi::c_char) {
    index_build::trusted(|| {
        // SAFETY: as cluster_rel ends; the caller holds an exclusive lock on the old table.
        unsafe {
            ffi::finish_heap_swap(
                old,
                new,
                false,
                false,
                false,
                true,
                cutoffs.freeze_limit,
                cutoffs.multi_cutoff,
                persistence,
            );
        }
    });
}

/// Writes pages and rows into pg_class for a new storage, before the swap.
pub fn set_stats(rel: pg_sys::Relation, rows: u64) {
    // SAFETY: an open table that this transaction made.
    unsafe {
        pg_sys::vac_update_relstats(
            rel,
            relation::blocks(rel),
            rows as f64,
            0,
            true,
            pg_sys::InvalidTransactionId,
            pg_sys::InvalidTransactionId.into_inner().into(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            true,
        );
    }
}

/// Carries delta and segments of `old` into `new` as they are (VACUUM FULL, CLUSTER): segments are copied byte for
/// byte, tombstones become dead rows, or old versions in the delta where a snapshot may still want them.
pub fn carry_over(
    old: pg_sys::Relation,
    new: pg_sys::Relation,
    from: &Companion,
    cutoffs: &Cutoffs,
) -> Counts {
    let latest = snapshot::Registered::latest();
    let segments = directory::load(old, from, latest.get());
    let graves = Graves::read(from, latest.get(), cutoffs.oldest_xmin);
    let hidden = graves.hidden();
    let to = companion::create(new, relation::oid(old));
    let reader = BodyReader::new(from);
    let writer = BodyWriter::new(to.segments, true);
    let desc = relation::tupdesc(old);
    let mut kept = kept::Columns::of(desc);
    let mut counts = Counts::default();
    let (settled, fresh): (Vec<_>, Vec<_>) = segments
        .iter()
        .cloned()
        .partition(|s| carry::is_settled(s, cutoffs.oldest_xmin));
    for segment in &settled {
        let mut header = segment.header.clone();
        header.origins = None;
        header.checksum = kept.carried(&segment.header);
        header.dead = directory::hidden_rows(segment, hidden.get(&segment.number));
        let columns = super::missing::columns(old, &reader, segment, desc);
        header.columns = columns.iter().map(|(entry, _)| entry.clone()).collect();
        let parts: Vec<&[u8]> = columns.iter().map(|(_, b)| b.as_slice()).collect();
        header.sha256 = segment_sha256(columns.iter().map(|(e, b)| (e.attnum, b.as_slice())));
        header.location = writer.write_body(segment.number, &parts);
        counts.frozen += u64::from(header.rows) - header.dead.count_ones() as u64;
        writer::store_header(&header, &writer, segment.number);
        pgrx::check_for_interrupts!();
    }
    writer.finish_new();
    let mut carry = Carry::begin(old, new, cutoffs, &graves.recent);
    for block in 0..relation::blocks(old) {
        pgrx::check_for_interrupts!();
        let none = std::ptr::null_mut();
        for version in carry::read_page(old, block, cutoffs.oldest_xmin, none, |_, _, _| true) {
            carry.version(version);
        }
    }
    carry::carry_segments(&mut carry, old, &fresh, &hidden);
    carry::carry_graves(&mut carry, old, &segments, &graves.recent);
    counts.live = carry.live + counts.frozen;
    counts.dead = carry.dead;
    counts.recently_dead = carry.recently_dead;
    carry.end();
    carry::ensure_a_page(new);
    counts
}

/// Brings every frozen row of a table back into an ordinary heap: `set_tier(…, 'hot')`.
pub fn thaw_all(oid: pg_sys::Oid) -> Counts {
    unfreeze(oid, varve_am(), c"thaw")
}

/// Makes a table an ordinary heap table with all its rows.
pub fn to_heap(oid: pg_sys::Oid) -> Counts {
    unfreeze(oid, relation::HEAP_AM, c"thaw")
}

fn unfreeze(oid: pg_sys::Oid, am: pg_sys::Oid, verb: &std::ffi::CStr) -> Counts {
    let table = OpenRel::table(oid, pg_sys::AccessExclusiveLock);
    let old = table.as_ptr();
    super::check_not_in_use(old, verb);
    // SAFETY: an open relation; see `freeze`.
    unsafe { ffi::TransferPredicateLocksToHeapRelation(old) };
    let persistence = relation::form(old).relpersistence;
    let cutoffs = Cutoffs::of(old);
    let latest = snapshot::Registered::latest();
    let (segments, graves) = match companion::of(old) {
        Some(from) => (
            directory::load(old, &from, latest.get()),
            Graves::read(&from, latest.get(), cutoffs.oldest_xmin),
        ),
        None => (Vec::new(), Graves::none()),
    };
    let hidden = graves.hidden();
    let new_oid = new_storage(old, am, pg_sys::AccessExclusiveLock);
    let transient = OpenRel::table(new_oid, pg_sys::AccessExclusiveLock);
    let new = transient.as_ptr();
    let mut carry = Carry::begin(old, new, &cutoffs, &graves.recent);
    let frozen = carry::carry_segments(&mut carry, old, &segments, &hidden);
    let mut counts = Counts {
        frozen,
        ..Counts::default()
    };
    let mut work = Work::begin(Operation::Thaw, oid);
    work.phase(Phase::Reading, relation::blocks(old).into());
    for block in 0..relation::blocks(old) {
        pgrx::check_for_interrupts!();
        work.add(1);
        let none = std::ptr::null_mut();
        for version in carry::read_page(old, block, cutoffs.oldest_xmin, none, |_, _, _| true) {
            carry.version(version);
        }
    }
    carry::carry_graves(&mut carry, old, &segments, &graves.recent);
    counts.live = carry.live;
    counts.dead = carry.dead;
    counts.recently_dead = carry.recently_dead;
    carry.end();
    set_stats(new, counts.live);
    drop(latest);
    drop(transient);
    drop(table);
    swap(oid, new_oid, &cutoffs, persistence);
    counts
}

/// Whether a row visible to all can be told from its header.
pub fn visible_to_all(
    head: &pg_sys::HeapTupleHeaderData,
    oldest_xmin: pg_sys::TransactionId,
) -> bool {
    tuple::xmin_frozen(head) || tuple::xid_precedes(tuple::raw_xmin(head), oldest_xmin)
}
