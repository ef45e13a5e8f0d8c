//! Telling standbys that rows are about to look visible to everybody.

use crate::pg::relation;
use pgrx::pg_sys;

/// `xl_btree_reuse_page` of `access/nbtxlog.h`: the one WAL record whose replay does nothing but resolve conflicts with
/// snapshots older than a horizon.
#[repr(C)]
struct ReusePage {
    locator: pg_sys::RelFileLocator,
    block: pg_sys::BlockNumber,
    snapshot_conflict_horizon: u64,
    is_catalog_rel: bool,
}

const XLOG_BTREE_REUSE_PAGE: u8 = 0xD0;

/// The normal transaction id before another (`TransactionIdRetreat`).
fn before(xid: pg_sys::TransactionId) -> u32 {
    let mut at = xid.into_inner();
    loop {
        at = at.wrapping_sub(1);
        if at >= pg_sys::FirstNormalTransactionId.into_inner() {
            return at;
        }
    }
}

/// Logs that queries on standbys whose snapshots are older than `horizon` must not read `rel` any more.
pub fn log(rel: pg_sys::Relation, horizon: pg_sys::TransactionId) {
    if relation::form(rel).relpersistence != pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char {
        return;
    }
    // SAFETY: the record is laid out as nbtxlog.c reads it: locator, block, horizon, flag, without trailing padding.
    unsafe {
        // The conflict is with snapshots that do not yet see the newest id below the horizon.
        let newest = before(horizon);
        let full = pg_sys::ReadNextFullTransactionId();
        let next = full.value as u32;
        let epoch = (full.value >> 32) as u32;
        let epoch = if newest > next {
            epoch.wrapping_sub(1)
        } else {
            epoch
        };
        let record = ReusePage {
            locator: (*rel).rd_locator,
            block: 0,
            snapshot_conflict_horizon: (u64::from(epoch) << 32) | u64::from(newest),
            is_catalog_rel: false,
        };
        pg_sys::XLogBeginInsert();
        let size = std::mem::offset_of!(ReusePage, is_catalog_rel) + 1;
        pg_sys::XLogRegisterData((&raw const record).cast_mut().cast(), size as u32);
        pg_sys::XLogInsert(pg_sys::RmgrIds::RM_BTREE_ID as u8, XLOG_BTREE_REUSE_PAGE);
    }
}
