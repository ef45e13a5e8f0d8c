//! Following a row that was frozen in place (`varve.debug_freeze`) from its old place in the delta to its segment.
//!
//! Such rows leave a deleted version in the delta, marked as moved. Where heap would report a row that is gone, the
//! segment's origins say where it is now.

use super::cache;
use super::companion::{self, Companion};
use super::tid::Place;
use crate::pg::lock::{self, Tag};
use crate::pg::page::LP_NORMAL;
use crate::pg::relation;
use crate::pg::tuple;
use pgrx::pg_sys;

/// Where a walk along a row's versions ended.
pub enum End {
    /// In the delta: heap knows what to do with this item pointer.
    Delta,
    /// In a segment.
    Frozen(Place),
}

/// Whether a row of the relation may have been frozen in place. Where sessions freeze at commit, the last one may have
/// committed without having told of its segments yet; [`follow`] waits for that.
pub fn may_be_in_place(rel: pg_sys::Relation) -> bool {
    crate::settings::debug_freeze_on_commit()
        || companion::of(rel).is_some_and(|c| any_in_place(rel, &c))
}

/// Whether the companion holds rows that were frozen in place.
pub fn any_in_place(rel: pg_sys::Relation, companion: &Companion) -> bool {
    cache::directory(rel, companion)
        .iter()
        .any(|s| s.header.origins.is_some())
}

struct Version {
    /// The command that made it, of a version of our own transaction.
    cmin: Option<pg_sys::CommandId>,
    xmax: pg_sys::TransactionId,
    ctid: pg_sys::ItemPointerData,
    moved: bool,
    last: bool,
    hot: bool,
}

const LP_REDIRECT: u32 = 2;

fn read_version(rel: pg_sys::Relation, tid: &pg_sys::ItemPointerData) -> Option<Version> {
    let (block, offset) = tuple::tid_parts(tid);
    if block >= relation::blocks(rel) {
        return None;
    }
    // SAFETY: the page is pinned and share-locked while it is read; offsets are checked against the page.
    unsafe {
        let buffer = pg_sys::ReadBuffer(rel, block);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        let mut at = offset;
        let mut found = None;
        if at >= 1 && at <= pg_sys::PageGetMaxOffsetNumber(page) {
            let mut item = *pg_sys::PageGetItemId(page, at);
            if item.lp_flags() == LP_REDIRECT {
                at = item.lp_off() as u16;
                item = *pg_sys::PageGetItemId(page, at);
            }
            if item.lp_flags() == LP_NORMAL {
                let head = page
                    .cast::<u8>()
                    .add(item.lp_off() as usize)
                    .cast::<pg_sys::HeapTupleHeaderData>();
                let mask = u32::from((*head).t_infomask);
                let locked_only = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
                let xmax = if mask & pg_sys::HEAP_XMAX_INVALID != 0 || locked_only {
                    pg_sys::InvalidTransactionId
                } else if mask & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
                    pg_sys::HeapTupleGetUpdateXid(head)
                } else {
                    (*head).t_choice.t_heap.t_xmax
                };
                let ctid = (*head).t_ctid;
                let (to_block, to_offset) = tuple::tid_parts(&ctid);
                let xmin = pg_sys::HeapTupleHeaderGetXmin(head);
                let own = pg_sys::TransactionIdIsCurrentTransactionId(xmin);
                found = Some(Version {
                    cmin: own.then(|| pg_sys::HeapTupleHeaderGetCmin(head)),
                    xmax,
                    ctid,
                    moved: to_block == pg_sys::InvalidBlockNumber && to_offset == 0xfffd,
                    last: to_block == block && to_offset == at,
                    hot: u32::from((*head).t_infomask2) & pg_sys::HEAP_HOT_UPDATED != 0,
                });
            }
        }
        pg_sys::UnlockReleaseBuffer(buffer);
        found
    }
}

/// How far to follow a row's versions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// To the newest one; waits for a running writer if told so.
    All {
        /// Whether to wait.
        wait: bool,
    },
    /// To the last one that shares the index entry of the first.
    IndexEntry,
}

/// Walks from `tid` along committed versions.
pub fn follow(rel: pg_sys::Relation, tid: &pg_sys::ItemPointerData, along: Along) -> End {
    let mut at = *tid;
    loop {
        let Some(version) = read_version(rel, &at) else {
            return End::Delta;
        };
        if version.xmax == pg_sys::InvalidTransactionId {
            return End::Delta;
        }
        // SAFETY: transaction status look-ups.
        unsafe {
            if pg_sys::TransactionIdIsCurrentTransactionId(version.xmax) {
                return End::Delta;
            }
            if pg_sys::TransactionIdIsInProgress(version.xmax) {
                if along != (Along::All { wait: true }) {
                    return End::Delta;
                }
                pg_sys::XactLockTableWait(
                    version.xmax,
                    rel,
                    &mut at,
                    pg_sys::XLTW_Oper::XLTW_Update,
                );
                continue;
            }
            if !pg_sys::TransactionIdDidCommit(version.xmax) {
                return End::Delta;
            }
        }
        if version.moved {
            told(version.xmax);
            let Some(companion) = companion::of(rel) else {
                return End::Delta;
            };
            return match origin(rel, &companion, &at, version.xmax) {
                Some(place) => End::Frozen(place),
                None => End::Delta,
            };
        }
        if version.last || (along == Along::IndexEntry && !version.hot) {
            return End::Delta;
        }
        at = version.ctid;
    }
}

/// Waits until a transaction that has committed has told others of the segments that it added: it does so after it counts
/// as committed, and before it gives up the lock on its id.
fn told(by: pg_sys::TransactionId) {
    let transaction = Tag::of_transaction(by);
    transaction.acquire(pg_sys::ShareLock);
    transaction.release(pg_sys::ShareLock);
    lock::accept_messages();
}

/// What our own transaction made of a row in the end.
pub enum OwnEnd {
    /// It is deleted.
    Deleted,
    /// Its newest version was made by this command.
    Made(pg_sys::CommandId),
    /// Not ours.
    Other,
}

/// Walks from `tid` along the versions that our own transaction has replaced.
pub fn own_end(rel: pg_sys::Relation, tid: &pg_sys::ItemPointerData) -> OwnEnd {
    let mut at = *tid;
    loop {
        let Some(version) = read_version(rel, &at) else {
            return OwnEnd::Other;
        };
        // SAFETY: a transaction status look-up.
        let replaced = version.xmax != pg_sys::InvalidTransactionId
            && unsafe { pg_sys::TransactionIdIsCurrentTransactionId(version.xmax) };
        if !replaced {
            return version.cmin.map_or(OwnEnd::Other, OwnEnd::Made);
        }
        if version.last {
            return OwnEnd::Deleted;
        }
        at = version.ctid;
    }
}

/// The frozen row that was at `tid` when transaction `by` froze it in place.
fn origin(
    rel: pg_sys::Relation,
    companion: &Companion,
    tid: &pg_sys::ItemPointerData,
    by: pg_sys::TransactionId,
) -> Option<Place> {
    let key = tuple::tid_key(tid);
    cache::directory(rel, companion).iter().find_map(|segment| {
        if segment.xmin != by {
            return None;
        }
        let row = segment
            .header
            .origins
            .as_ref()?
            .iter()
            .position(|t| *t == key)?;
        Some(Place {
            segment: segment.number,
            row: row as u32,
        })
    })
}
