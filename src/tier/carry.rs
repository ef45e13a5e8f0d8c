//! Carrying the delta of a table into new storage with its MVCC history, as CLUSTER does, and frozen rows beside it.

use crate::am::cache;
use crate::am::companion::Companion;
use crate::am::directory::{self, Decoded, SegmentRef};
use crate::am::tid::{self, Place};
use crate::pg::page::LP_NORMAL;
use crate::pg::{ffi, relation, tuple};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;

/// What limits a rewrite: which versions are dead to all, and which transaction ids are frozen.
#[derive(Clone, Copy)]
pub struct Cutoffs {
    /// Versions deleted before it are dead to everybody.
    pub oldest_xmin: pg_sys::TransactionId,
    /// Older ids are frozen.
    pub freeze_limit: pg_sys::TransactionId,
    /// Older multixacts are frozen.
    pub multi_cutoff: pg_sys::MultiXactId,
}

impl Cutoffs {
    /// The cutoffs of VACUUM for a table, never older than the table's own.
    pub fn of(rel: pg_sys::Relation) -> Self {
        let params = pg_sys::VacuumParams {
            freeze_min_age: -1,
            freeze_table_age: -1,
            multixact_freeze_min_age: -1,
            multixact_freeze_table_age: -1,
            ..Default::default()
        };
        let mut cutoffs = pg_sys::VacuumCutoffs::default();
        // SAFETY: an open relation; as copy_table_data computes them.
        unsafe { pg_sys::vacuum_get_cutoffs(rel, &params, &mut cutoffs) };
        let form = relation::form(rel);
        let mut freeze_limit = cutoffs.FreezeLimit;
        if form.relfrozenxid != pg_sys::InvalidTransactionId
            && tuple::xid_precedes(freeze_limit, form.relfrozenxid)
        {
            freeze_limit = form.relfrozenxid;
        }
        let mut multi_cutoff = cutoffs.MultiXactCutoff;
        if form.relminmxid != pg_sys::InvalidTransactionId
            // SAFETY: pure arithmetic.
            && unsafe {
                pg_sys::MultiXactIdPrecedes(multi_cutoff, form.relminmxid.into_inner().into())
            }
        {
            multi_cutoff = form.relminmxid.into_inner().into();
        }
        Cutoffs {
            oldest_xmin: cutoffs.OldestXmin,
            freeze_limit,
            multi_cutoff,
        }
    }
}

/// One version of a row, copied out of its page.
pub struct Version {
    /// A copy that is ours to change and free.
    pub tuple: pg_sys::HeapTuple,
    /// What VACUUM would say of it.
    pub state: pg_sys::HTSV_Result::Type,
}

/// Reads the versions on a page of the delta. `wanted` sees offset, header and state, and says whether to copy the
/// version.
pub fn read_page(
    rel: pg_sys::Relation,
    block: u32,
    oldest_xmin: pg_sys::TransactionId,
    strategy: pg_sys::BufferAccessStrategy,
    wanted: impl FnMut(u16, &pg_sys::HeapTupleHeaderData, pg_sys::HTSV_Result::Type) -> bool,
) -> Vec<Version> {
    visit_with(rel, block, oldest_xmin, strategy, wanted, None)
}

/// As [`read_page`], but versions without values that lie elsewhere are handed to `visit` where they lie, and not
/// copied. It must not read other pages of the relation.
pub fn visit_page(
    rel: pg_sys::Relation,
    block: u32,
    oldest_xmin: pg_sys::TransactionId,
    strategy: pg_sys::BufferAccessStrategy,
    wanted: impl FnMut(u16, &pg_sys::HeapTupleHeaderData, pg_sys::HTSV_Result::Type) -> bool,
    visit: &mut dyn FnMut(&mut pg_sys::HeapTupleData),
) -> Vec<Version> {
    visit_with(rel, block, oldest_xmin, strategy, wanted, Some(visit))
}

fn visit_with(
    rel: pg_sys::Relation,
    block: u32,
    oldest_xmin: pg_sys::TransactionId,
    strategy: pg_sys::BufferAccessStrategy,
    mut wanted: impl FnMut(u16, &pg_sys::HeapTupleHeaderData, pg_sys::HTSV_Result::Type) -> bool,
    mut visit: Option<&mut dyn FnMut(&mut pg_sys::HeapTupleData)>,
) -> Vec<Version> {
    let mut versions = Vec::new();
    // SAFETY: the page is pinned and share-locked while it is read, offsets stay within it; the copies are palloc'd.
    unsafe {
        let buffer = pg_sys::ReadBufferExtended(
            rel,
            pg_sys::ForkNumber::MAIN_FORKNUM,
            block,
            pg_sys::ReadBufferMode::RBM_NORMAL,
            strategy,
        );
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        if !pg_sys::PageIsNew(page) {
            for offset in 1..=pg_sys::PageGetMaxOffsetNumber(page) {
                let item = *pg_sys::PageGetItemId(page, offset);
                if item.lp_flags() != LP_NORMAL {
                    continue;
                }
                let mut row = pg_sys::HeapTupleData {
                    t_len: item.lp_len(),
                    t_self: tuple::make_tid(block, offset),
                    t_tableOid: (*rel).rd_id,
                    t_data: page.cast::<u8>().add(item.lp_off() as usize).cast(),
                };
                let mut dead_after = pg_sys::InvalidTransactionId;
                let mut state =
                    pg_sys::HeapTupleSatisfiesVacuumHorizon(&mut row, buffer, &mut dead_after);
                if state == pg_sys::HTSV_Result::HEAPTUPLE_RECENTLY_DEAD
                    && tuple::xid_precedes(dead_after, oldest_xmin)
                {
                    state = pg_sys::HTSV_Result::HEAPTUPLE_DEAD;
                }
                if !wanted(offset, &*row.t_data, state) {
                    continue;
                }
                let elsewhere = u32::from((*row.t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL != 0;
                match &mut visit {
                    Some(visit) if !elsewhere => visit(&mut row),
                    _ => versions.push(Version {
                        tuple: pg_sys::heap_copytuple(&mut row),
                        state,
                    }),
                }
            }
        }
        pg_sys::UnlockReleaseBuffer(buffer);
    }
    versions
}

/// A frozen row that a transaction not yet visible to all has thawed.
#[derive(Clone, Copy)]
pub struct Thawed {
    /// Where the frozen row is.
    pub place: Place,
    /// Where it went in the delta.
    pub to: pg_sys::ItemPointerData,
    /// Who thawed it.
    pub by: pg_sys::TransactionId,
}

/// The tombstones of a companion under an exclusive lock: rows gone for everybody, and rows thawed recently.
pub struct Graves {
    /// Rows that no snapshot sees in their segment.
    pub gone: Vec<Place>,
    /// Rows that older snapshots may still see in their segment.
    pub recent: Vec<Thawed>,
}

impl Graves {
    /// No tombstones.
    pub fn none() -> Self {
        Graves {
            gone: Vec::new(),
            recent: Vec::new(),
        }
    }

    /// Reads the tombstones; `snapshot` sees everything committed and our own.
    pub fn read(
        companion: &Companion,
        snapshot: pg_sys::Snapshot,
        oldest_xmin: pg_sys::TransactionId,
    ) -> Self {
        let mut graves = Graves::none();
        let table = relation::OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
        directory::for_each_row(table.as_ptr(), snapshot, |row, values, _| {
            let [segment, at, to] = values else { return };
            let place = Place {
                segment: segment.value() as i32,
                row: at.value() as u32,
            };
            // SAFETY: a live tuple of the scan; a tid datum points to an item pointer.
            let (head, to) =
                unsafe { (&*row.t_data, *to.cast_mut_ptr::<pg_sys::ItemPointerData>()) };
            let by = tuple::raw_xmin(head);
            if tuple::xmin_frozen(head) || tuple::xid_precedes(by, oldest_xmin) {
                graves.gone.push(place);
            } else {
                graves.recent.push(Thawed { place, to, by });
            }
        });
        // A row claimed a second time (see `thaw::claim`) is gone as soon as its first tombstone is visible to all.
        let gone: std::collections::HashSet<Place> = graves.gone.iter().copied().collect();
        let mut seen = std::collections::HashSet::new();
        graves
            .recent
            .retain(|t| !gone.contains(&t.place) && seen.insert(t.place));
        graves
    }

    /// Rows that no snapshot taken from now on sees, by segment.
    pub fn hidden(&self) -> HashMap<i32, Vec<u32>> {
        let mut map: HashMap<i32, Vec<u32>> = HashMap::new();
        for place in self.gone.iter().chain(self.recent.iter().map(|t| &t.place)) {
            map.entry(place.segment).or_default().push(place.row);
        }
        map
    }
}

/// A rewrite in progress.
pub struct Carry {
    rel: pg_sys::Relation,
    new: pg_sys::Relation,
    oldest_xmin: pg_sys::TransactionId,
    state: ffi::RewriteState,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    heads: HashMap<u64, pg_sys::TransactionId>,
    /// Versions carried that are not dead.
    pub live: u64,
    /// Versions left behind because they are dead to everybody.
    pub dead: u64,
    /// Versions carried for older snapshots.
    pub recently_dead: u64,
}

impl Carry {
    /// Starts to fill `new`, which nobody else sees yet, with versions of `old`.
    pub fn begin(
        old: pg_sys::Relation,
        new: pg_sys::Relation,
        cutoffs: &Cutoffs,
        thawed: &[Thawed],
    ) -> Self {
        let natts = relation::natts(relation::tupdesc(old));
        Carry {
            rel: old,
            new,
            oldest_xmin: cutoffs.oldest_xmin,
            // SAFETY: both are open and locked.
            state: unsafe {
                ffi::begin_heap_rewrite(
                    old,
                    new,
                    cutoffs.oldest_xmin,
                    cutoffs.freeze_limit,
                    cutoffs.multi_cutoff,
                )
            },
            values: vec![pg_sys::Datum::from(0usize); natts],
            nulls: vec![true; natts],
            heads: thawed
                .iter()
                .map(|t| (tuple::tid_key(&t.to), t.by))
                .collect(),
            live: 0,
            dead: 0,
            recently_dead: 0,
        }
    }

    /// Forms a new tuple from the current values; dropped columns become NULL, missing ones are filled in.
    fn reform(&mut self) -> pg_sys::HeapTuple {
        let desc = relation::tupdesc(self.rel);
        for (i, null) in self.nulls.iter_mut().enumerate() {
            if relation::attribute(desc, i).attisdropped {
                *null = true;
            }
        }
        // SAFETY: values and nulls have one entry for each attribute.
        unsafe { pg_sys::heap_form_tuple(desc, self.values.as_ptr(), self.nulls.as_ptr()) }
    }

    /// Carries a version of the delta, and frees it.
    pub fn version(&mut self, version: Version) {
        // SAFETY: the tuple is our copy.
        unsafe {
            let old = version.tuple;
            if version.state == pg_sys::HTSV_Result::HEAPTUPLE_DEAD {
                self.dead += 1;
                if ffi::rewrite_heap_dead_tuple(self.state, old) {
                    // It turned out to be needed by a chain that was kept already.
                    self.dead -= 1;
                }
                pg_sys::heap_freetuple(old);
                return;
            }
            let ended = version.state == pg_sys::HTSV_Result::HEAPTUPLE_RECENTLY_DEAD
                || version.state == pg_sys::HTSV_Result::HEAPTUPLE_DELETE_IN_PROGRESS;
            if ended {
                self.recently_dead += 1;
            } else {
                self.live += 1;
            }
            let head = (*old).t_data;
            if self.heads.get(&tuple::tid_key(&(*old).t_self)) == Some(&tuple::raw_xmin(&*head)) {
                // The successor of a frozen row that follows as an old version (see `grave`).
                (*head).t_infomask |= pg_sys::HEAP_UPDATED as u16;
            }
            pg_sys::heap_deform_tuple(
                old,
                relation::tupdesc(self.rel),
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
            let new = self.reform();
            if ended && u32::from((*head).t_infomask2) & pg_sys::HEAP_KEYS_UPDATED == 0 {
                (*(*new).t_data).t_infomask2 |= KEY_KEPT;
            }
            ffi::rewrite_heap_tuple(self.state, old, new);
            pg_sys::heap_freetuple(new);
            pg_sys::heap_freetuple(old);
        }
    }

    /// Carries a row of a segment as a heap row, with the transaction that wrote the segment where not everybody sees it
    /// yet.
    pub fn frozen_row(&mut self, decoded: &Decoded, row: u32) {
        decoded.row(row, &mut self.values, &mut self.nulls);
        self.put_frozen(decoded, row, None);
        self.live += 1;
    }

    /// Carries a frozen row that was thawed recently as the old version that it is to older snapshots: deleted by who
    /// thawed it, followed by the thawed row.
    pub fn grave(&mut self, decoded: &Decoded, thawed: &Thawed) {
        decoded.row(thawed.place.row, &mut self.values, &mut self.nulls);
        self.put_frozen(decoded, thawed.place.row, Some(thawed));
        self.recently_dead += 1;
    }

    fn put_frozen(&mut self, decoded: &Decoded, row: u32, thawed: Option<&Thawed>) {
        // SAFETY: two tuples of our own, one to say what the old header was.
        unsafe {
            let new = self.reform();
            let old = pg_sys::heap_copytuple(new);
            let at = tid::encode(Place {
                segment: decoded.segment.number,
                row,
            });
            let segment = &decoded.segment;
            // VACUUM may have moved the table's relfrozenxid past the id; who sees every row needs none.
            let settled = is_settled(segment, self.oldest_xmin);
            let xmin = if settled {
                pg_sys::FrozenTransactionId
            } else {
                segment.xmin
            };
            crate::am::scan::dress(self.rel, old, at, xmin, settled);
            if pg_sys::TransactionIdIsCurrentTransactionId(xmin) {
                // Whoever sees the hint asks his snapshot alone, which does not show what is our own.
                (*(*old).t_data).t_infomask &= !(pg_sys::HEAP_XMIN_COMMITTED as u16);
            }
            if !settled && self.heads.get(&tuple::tid_key(&at)) == Some(&segment.xmin) {
                // It has replaced a frozen row, which follows as an old version.
                (*(*old).t_data).t_infomask |= pg_sys::HEAP_UPDATED as u16;
            }
            if let Some(t) = thawed {
                let head = (*old).t_data;
                (*head).t_infomask &= !(pg_sys::HEAP_XMAX_INVALID as u16);
                (*head).t_choice.t_heap.t_xmax = t.by;
                (*head).t_ctid = t.to;
            }
            ffi::rewrite_heap_tuple(self.state, old, new);
            pg_sys::heap_freetuple(new);
            pg_sys::heap_freetuple(old);
        }
    }

    /// Writes what is pending.
    pub fn end(self) {
        // SAFETY: begun by `begin`.
        unsafe { ffi::end_heap_rewrite(self.state) }
        if self.recently_dead > 0 {
            mark_keys_updated(self.new);
        }
    }
}

/// Bit of `t_infomask2` that PostgreSQL 17 has no use for and the rewrite leaves alone: the key of an old version was not
/// changed. No row keeps it for longer than the rewrite takes.
const KEY_KEPT: u16 = 0x0800;

/// Says of old versions in a new storage that their keys were changed, but of those that are marked. The rewrite drops what
/// the header said of that; without it, a transaction with an older snapshot could lock a deleted row FOR KEY SHARE as
/// though only other columns had changed. Of a frozen row that was thawed nobody knows: it is taken as changed.
fn mark_keys_updated(rel: pg_sys::Relation) {
    let logged =
        relation::form(rel).relpersistence == pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char;
    let ended =
        pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_IS_MULTI | pg_sys::HEAP_XMAX_LOCK_ONLY;
    for block in 0..relation::blocks(rel) {
        pgrx::check_for_interrupts!();
        // SAFETY: the page is pinned and locked while it is changed, offsets stay within it; changed and logged in one
        // critical section, as log_newpage_buffer asks.
        unsafe {
            let buffer = pg_sys::ReadBuffer(rel, block);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
            let page = pg_sys::BufferGetPage(buffer);
            pg_sys::CritSectionCount += 1;
            let mut changed = false;
            for offset in 1..=pg_sys::PageGetMaxOffsetNumber(page) {
                let item = *pg_sys::PageGetItemId(page, offset);
                if item.lp_flags() != LP_NORMAL {
                    continue;
                }
                let head = &mut *page
                    .cast::<u8>()
                    .add(item.lp_off() as usize)
                    .cast::<pg_sys::HeapTupleHeaderData>();
                if head.t_infomask2 & KEY_KEPT != 0 {
                    head.t_infomask2 &= !KEY_KEPT;
                    changed = true;
                } else if u32::from(head.t_infomask) & ended == 0 {
                    head.t_infomask2 |= pg_sys::HEAP_KEYS_UPDATED as u16;
                    changed = true;
                }
            }
            if changed {
                pg_sys::MarkBufferDirty(buffer);
                if logged {
                    pg_sys::log_newpage_buffer(buffer, true);
                }
            }
            pg_sys::CritSectionCount -= 1;
            pg_sys::UnlockReleaseBuffer(buffer);
        }
    }
}

/// Whether every snapshot sees a segment: it was written as frozen, or by a transaction from before the horizon.
pub fn is_settled(segment: &SegmentRef, horizon: pg_sys::TransactionId) -> bool {
    segment.frozen || tuple::xid_precedes(segment.xmin, horizon)
}

/// Carries the rows of segments into the delta, but those that are `hidden`. Returns how many.
pub fn carry_segments(
    carry: &mut Carry,
    rel: pg_sys::Relation,
    segments: &[Rc<SegmentRef>],
    hidden: &HashMap<i32, Vec<u32>>,
) -> u64 {
    let mut rows = 0;
    for segment in segments {
        let gone = directory::hidden_rows(segment, hidden.get(&segment.number));
        directory::for_each_page(rel, segment, |page| {
            for row in page.rows.clone() {
                if !gone.get(row as usize) {
                    carry.frozen_row(page, row);
                    rows += 1;
                }
            }
        });
    }
    rows
}

/// Carries recently thawed rows of all segments.
pub fn carry_graves(
    carry: &mut Carry,
    rel: pg_sys::Relation,
    segments: &[Rc<SegmentRef>],
    recent: &[Thawed],
) {
    for segment in segments {
        recent
            .iter()
            .filter(|t| t.place.segment == segment.number && t.place.row < segment.header.rows)
            .for_each(|t| carry.grave(&cache::decoded(rel, segment, t.place.row), t));
    }
}

/// Gives an empty table a page: ANALYZE scales what it counts by the number of pages.
pub fn ensure_a_page(rel: pg_sys::Relation) {
    if relation::blocks(rel) > 0 {
        return;
    }
    // SAFETY: as heap extends a table; the relation is locked against everybody.
    unsafe {
        let buffer = pg_sys::ReadBufferExtended(
            rel,
            pg_sys::ForkNumber::MAIN_FORKNUM,
            pg_sys::InvalidBlockNumber,
            pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK,
            std::ptr::null_mut(),
        );
        let page = pg_sys::BufferGetPage(buffer);
        pg_sys::PageInit(page, pg_sys::BLCKSZ as usize, 0);
        pg_sys::MarkBufferDirty(buffer);
        if relation::form(rel).relpersistence
            == pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char
        {
            pg_sys::log_newpage_buffer(buffer, true);
        }
        pg_sys::UnlockReleaseBuffer(buffer);
    }
}
