//! The TOAST chunks of a thawed row.
//!
//! A thawed row carries a command id below that of the running command (see `command`), so that the command may change
//! it. Heap writes the row's TOAST chunks with the running command's own id and would not find them when the change
//! deletes them; they get the row's id.

use crate::pg::ffi;
use crate::pg::heap;
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;

/// `VARTAG_ONDISK` of `varatt.h`.
const VARTAG_ONDISK: u8 = 18;

/// The TOAST value that a datum as it lies in a tuple points to.
///
/// # Safety
/// `datum` points to a varlena of a stored tuple.
unsafe fn value_id(datum: pg_sys::Datum) -> Option<pg_sys::Oid> {
    let bytes = datum.cast_mut_ptr::<u8>();
    // SAFETY: a varlena has one byte at least; an external one has its tag and pointer behind it, unaligned.
    unsafe {
        if *bytes != 1 || *bytes.add(1) != VARTAG_ONDISK {
            return None;
        }
        let pointer = bytes.add(2).cast::<pg_sys::varatt_external>();
        Some(pointer.read_unaligned().va_valueid)
    }
}

/// The TOAST values of the row at `tid`, which this transaction has just written.
fn values_of(rel: pg_sys::Relation, tid: pg_sys::ItemPointerData) -> Vec<pg_sys::Oid> {
    let desc = relation::tupdesc(rel);
    let natts = relation::natts(desc);
    // SAFETY: the tuple is read while its page is pinned.
    let values = heap::with_any_version(rel, &tid, |row, _| unsafe {
        let mut found = Vec::new();
        if u32::from((*row.t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL != 0 {
            let mut values = vec![pg_sys::Datum::from(0usize); natts];
            let mut nulls = vec![true; natts];
            pg_sys::heap_deform_tuple(row, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            for (i, (value, null)) in values.iter().zip(&nulls).enumerate() {
                if !null && relation::attribute(desc, i).attlen == -1 {
                    found.extend(value_id(*value));
                }
            }
        }
        found
    });
    values.unwrap_or_default()
}

/// Gives the TOAST chunks of the row at `tid`, which this transaction has just written, the command id `cid`.
pub fn date_back(rel: pg_sys::Relation, tid: pg_sys::ItemPointerData, cid: pg_sys::CommandId) {
    let toast = relation::form(rel).reltoastrelid;
    if toast == pg_sys::InvalidOid {
        return;
    }
    let values = values_of(rel, tid);
    if values.is_empty() {
        return;
    }
    let table = OpenRel::table(toast, pg_sys::RowExclusiveLock);
    // SAFETY: an open TOAST table has a valid index.
    let index =
        unsafe { ffi::toast_get_valid_index(toast, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
    let index = OpenRel::index(index, pg_sys::RowExclusiveLock);
    for value in values {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: an index scan on chunk_id that sees every version; each chunk is one that we wrote, on a page that
        // the slot keeps pinned and we lock while its header is changed. Replay needs no command ids, so none is logged.
        unsafe {
            pg_sys::ScanKeyInit(
                &mut key,
                1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from_u32(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(value),
            );
            let any = &raw mut pg_sys::SnapshotAnyData;
            let slot = pg_sys::table_slot_create(table.as_ptr(), std::ptr::null_mut());
            let scan = pg_sys::index_beginscan(table.as_ptr(), index.as_ptr(), any, 1, 0);
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            while pg_sys::index_getnext_slot(
                scan,
                pg_sys::ScanDirection::ForwardScanDirection,
                slot,
            ) {
                let chunk = slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
                let (buffer, head) = ((*chunk).buffer, (*(*chunk).base.tuple).t_data);
                if !pg_sys::TransactionIdIsCurrentTransactionId((*head).t_choice.t_heap.t_xmin) {
                    continue;
                }
                pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
                (*head).t_choice.t_heap.t_field3.t_cid = cid;
                pg_sys::MarkBufferDirty(buffer);
                pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            }
            pg_sys::index_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }
}
