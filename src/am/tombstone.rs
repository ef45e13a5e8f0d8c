//! Tombstones: where a frozen row went when it was thawed, or which frozen row has replaced it.
//!
//! The table is insert-only and written without logical decoding. One tombstone a row is the rule; a second one is
//! added when a REPEATABLE READ transaction changes a row that another transaction had thawed after its snapshot, so
//! that its later statements do not see the frozen row beside their own version.

use super::companion::{self, Companion};
use super::tid::{self, Place};
use crate::pg::memory::for_this_call;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{snapshot, tuple};
use pgrx::pg_sys;

/// What is known of a frozen row's tombstone.
#[derive(Clone, Copy)]
pub struct Tombstone {
    /// Where the row went in the delta, or the frozen row that is its new version.
    pub to: pg_sys::ItemPointerData,
    /// Who thawed it.
    pub xmin: pg_sys::TransactionId,
    /// The command that thawed it; meaningful to its own transaction.
    pub cid: pg_sys::CommandId,
    /// Set while the transaction that thawed it (not ours) is running.
    pub running: Option<pg_sys::TransactionId>,
}

/// Rows that a page of the table holds.
pub const PER_PAGE: u64 = 185;

/// How many tombstones a companion has, about: as many as fill its pages.
pub fn about(companion: &Companion) -> u64 {
    let table = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
    u64::from(relation::blocks(table.as_ptr())) * PER_PAGE
}

impl Tombstone {
    /// Whether the row was not thawed, but replaced by a new version that is frozen itself.
    pub fn is_replaced(&self) -> bool {
        tid::decode(&self.to).is_some()
    }
}

fn scan_key(attno: i16, value: i32) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: fills the key for int4eq.
    unsafe {
        pg_sys::ScanKeyInit(
            &mut key,
            attno,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from_u32(pg_sys::F_INT4EQ),
            pg_sys::Datum::from(value as isize as usize),
        );
    }
    key
}

/// Looks the tombstones of a row up under a snapshot, calling `f` with each.
fn lookup(
    companion: &Companion,
    place: Place,
    snap: pg_sys::Snapshot,
    mut f: impl FnMut(pg_sys::ItemPointerData, &pg_sys::HeapTupleHeaderData),
) {
    let table = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
    if relation::blocks(table.as_ptr()) == 0 {
        return;
    }
    let wanted = (place.segment, Some(place.row));
    for_this_call(|| scan(&table, wanted, snap, &mut |_, to, head| f(to, head)));
}

/// Calls `f` with (row, place, header) for the tombstones of a segment's row, or of all of its rows.
fn scan(
    table: &OpenRel,
    (segment, row): (i32, Option<u32>),
    snap: pg_sys::Snapshot,
    f: &mut impl FnMut(u32, pg_sys::ItemPointerData, &pg_sys::HeapTupleHeaderData),
) {
    let index = OpenRel::index(companion::index_of(table.as_ptr()), pg_sys::AccessShareLock);
    let mut keys = vec![scan_key(1, segment)];
    keys.extend(row.map(|row| scan_key(2, row as i32)));
    let count = keys.len() as i32;
    // SAFETY: an ordinary index scan; the slot is dropped after the scan has ended.
    unsafe {
        let slot = pg_sys::table_slot_create(table.as_ptr(), std::ptr::null_mut());
        let scan = pg_sys::index_beginscan(table.as_ptr(), index.as_ptr(), snap, count, 0);
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            pg_sys::slot_getsomeattrs_int(slot, 3);
            if *(*slot).tts_isnull.add(2) {
                continue;
            }
            let number = (*(*slot).tts_values.add(1)).value() as u32;
            let to = *(*(*slot).tts_values.add(2)).cast_mut_ptr::<pg_sys::ItemPointerData>();
            let mut should_free = false;
            let row = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut should_free);
            f(number, to, &*(*row).t_data);
        }
        pg_sys::index_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

/// The row's tombstone, committed, our own, or of a running transaction.
pub fn find(companion: &Companion, place: Place) -> Option<Tombstone> {
    let mut dirty = snapshot::dirty();
    let snap = &raw mut dirty;
    let mut found: Option<Tombstone> = None;
    lookup(companion, place, snap, |to, head| {
        // SAFETY: the dirty snapshot tells who is at work on the tuple just returned.
        let writer = unsafe { (*snap).xmin };
        let running = (writer != pg_sys::InvalidTransactionId).then_some(writer);
        if found.is_none_or(|f| f.running.is_some()) {
            found = Some(Tombstone {
                to,
                xmin: tuple::raw_xmin(head),
                // SAFETY: heap fields; a tombstone is never updated or deleted, so this is its cmin.
                cid: unsafe { head.t_choice.t_heap.t_field3.t_cid },
                running,
            });
        }
    });
    found
}

/// Where a row went as an MVCC snapshot sees it; `None` while the snapshot still sees the frozen row.
pub fn find_visible(
    companion: &Companion,
    place: Place,
    snap: pg_sys::Snapshot,
) -> Option<pg_sys::ItemPointerData> {
    let mut found = None;
    lookup(companion, place, snap, |to, _| found = Some(to));
    found
}

/// Calls `f` with the rows of a segment that have a tombstone which the snapshot sees, and who wrote it.
pub fn of_segment(
    companion: &Companion,
    segment: i32,
    snap: pg_sys::Snapshot,
    mut f: impl FnMut(u32, pg_sys::TransactionId),
) {
    let table = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
    for_this_call(|| {
        scan(&table, (segment, None), snap, &mut |row, _, head| {
            f(row, tuple::raw_xmin(head));
        })
    });
}

/// The frozen row that transaction `by` thawed to `to`, where there is one; `by` may be running. Reads all tombstones.
pub fn origin(
    companion: &Companion,
    to: &pg_sys::ItemPointerData,
    by: pg_sys::TransactionId,
) -> Option<Place> {
    let table = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
    let any = &raw mut pg_sys::SnapshotAnyData;
    let mut found = None;
    super::directory::for_each_row(table.as_ptr(), any, |row, values, _| {
        let [segment, at, place] = values else { return };
        // SAFETY: a live tuple of the scan; a tid datum points to an item pointer.
        let (head, place) = unsafe {
            (
                &*row.t_data,
                *place.cast_mut_ptr::<pg_sys::ItemPointerData>(),
            )
        };
        if tuple::tid_key(&place) == tuple::tid_key(to) && tuple::raw_xmin(head) == by {
            found = Some(Place {
                segment: segment.value() as i32,
                row: at.value() as u32,
            });
        }
    });
    found
}

/// Where this transaction's thawed rows went (keys of item pointers).
pub fn own_targets(companion: &Companion) -> std::collections::HashSet<u64> {
    let table = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
    let latest = snapshot::Registered::latest();
    let mut found = std::collections::HashSet::new();
    super::directory::for_each_row(table.as_ptr(), latest.get(), |row, values, _| {
        let [_, _, place] = values else { return };
        // SAFETY: a live tuple of the scan; a tid datum points to an item pointer.
        unsafe {
            if pg_sys::TransactionIdIsCurrentTransactionId(tuple::raw_xmin(&*row.t_data)) {
                found.insert(tuple::tid_key(
                    &*place.cast_mut_ptr::<pg_sys::ItemPointerData>(),
                ));
            }
        }
    });
    found
}

/// Records that a row went to `to`, with the command id that hides it from the running command.
pub fn insert(
    companion: &Companion,
    place: Place,
    to: pg_sys::ItemPointerData,
    cid: pg_sys::CommandId,
) {
    let target = Target::open(companion);
    let mut to = to;
    // SAFETY: the tuple has the table's three columns.
    unsafe {
        let row = pg_sys::heap_form_tuple(
            relation::tupdesc(target.rel()),
            columns(place, &mut to).as_ptr(),
            [false; 3].as_ptr(),
        );
        pg_sys::heap_insert(
            target.rel(),
            row,
            cid,
            pg_sys::HEAP_INSERT_NO_LOGICAL as i32,
            std::ptr::null_mut(),
        );
        target.index(place, &mut to, &mut (*row).t_self);
        pg_sys::heap_freetuple(row);
    }
}

/// Rows that are inserted at a time.
const BATCH: usize = 256;

/// As [`insert`], for many rows. In order of their places, entries go to the index one behind the other. Logical decoding would
/// see them: PostgreSQL does not leave many rows out of it.
pub fn insert_many(
    companion: &Companion,
    rows: &[(Place, pg_sys::ItemPointerData)],
    cid: pg_sys::CommandId,
) {
    let target = Target::open(companion);
    let rel = target.rel();
    // SAFETY: as CopyFrom fills a table: slots of its shape, three columns each.
    unsafe {
        let mut slots: Vec<*mut pg_sys::TupleTableSlot> = (0..rows.len().min(BATCH))
            .map(|_| {
                pg_sys::MakeSingleTupleTableSlot(
                    relation::tupdesc(rel),
                    &raw const pg_sys::TTSOpsHeapTuple,
                )
            })
            .collect();
        for batch in rows.chunks(BATCH) {
            pgrx::check_for_interrupts!();
            for ((place, to), slot) in batch.iter().zip(&slots) {
                let mut to = *to;
                let values = columns(*place, &mut to);
                let row = pg_sys::heap_form_tuple(
                    relation::tupdesc(rel),
                    values.as_ptr(),
                    [false; 3].as_ptr(),
                );
                pg_sys::ExecStoreHeapTuple(row, *slot, true);
            }
            pg_sys::heap_multi_insert(
                rel,
                slots.as_mut_ptr(),
                batch.len() as i32,
                cid,
                0,
                std::ptr::null_mut(),
            );
            for ((place, to), slot) in batch.iter().zip(&slots) {
                let mut to = *to;
                target.index(*place, &mut to, &mut (**slot).tts_tid);
            }
        }
        for slot in slots {
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }
}

/// The table of tombstones and its index, open for writing.
struct Target {
    table: OpenRel,
    index: OpenRel,
    info: *mut pg_sys::IndexInfo,
}

impl Target {
    fn open(companion: &Companion) -> Self {
        let table = OpenRel::table(companion.tombstones, pg_sys::RowExclusiveLock);
        let oid = companion::index_of(table.as_ptr());
        let index = OpenRel::index(oid, pg_sys::RowExclusiveLock);
        // SAFETY: an open index.
        let info = unsafe { pg_sys::BuildIndexInfo(index.as_ptr()) };
        Target { table, index, info }
    }

    fn rel(&self) -> pg_sys::Relation {
        self.table.as_ptr()
    }

    /// Makes the index entry of a tombstone that lies at `at`.
    ///
    /// # Safety
    /// It was inserted there.
    unsafe fn index(
        &self,
        place: Place,
        to: &mut pg_sys::ItemPointerData,
        at: &mut pg_sys::ItemPointerData,
    ) {
        // SAFETY: the index has the table's first two columns.
        unsafe {
            pg_sys::index_insert(
                self.index.as_ptr(),
                columns(place, to).as_mut_ptr(),
                [false; 3].as_mut_ptr(),
                at,
                self.rel(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                self.info,
            );
        }
    }
}

/// The columns of a tombstone; the last one points to `to`.
fn columns(place: Place, to: &mut pg_sys::ItemPointerData) -> [pg_sys::Datum; 3] {
    [
        pg_sys::Datum::from(place.segment as isize as usize),
        pg_sys::Datum::from(place.row as usize),
        pg_sys::Datum::from(std::ptr::from_mut(to)),
    ]
}
