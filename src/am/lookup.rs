//! Index look-ups that no planner made.
//!
//! Hiding the indexes of a relation with frozen rows from the planner leaves two callers that choose an index
//! themselves: INSERT … ON CONFLICT, which looks for the key in the arbiter index before it inserts
//! (`ExecCheckIndexConstraints`), and the apply workers of logical replication, which find the row to change
//! (`RelationFindReplTupleByIndex`) and would drop the change in silence. For them the indexes of such a relation get an
//! `amgettuple` that goes on with the frozen rows where the index has no more.

use super::companion::{self, Companion};
use super::tid::{self, Place};
use super::{cache, directory, unique};
use crate::heap_call;
use crate::pg::memory::for_this_call;
use crate::pg::relation::OpenRel;
use crate::pg::{ffi, guard, relation, snapshot};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;

/// An index method's own functions, which ours stand before.
#[derive(Clone, Copy)]
struct Method {
    rescan: pg_sys::amrescan_function,
    next: pg_sys::amgettuple_function,
}

thread_local! {
    /// By OID of the index.
    static METHODS: RefCell<HashMap<u32, Method>> = RefCell::new(HashMap::new());
    /// Frozen rows that a scan (by its address) has still to return, in reverse; absent while the index has more.
    static PENDING: RefCell<HashMap<usize, Vec<Place>>> = RefCell::new(HashMap::new());
}

thread_local! {
    /// Scans (by their address) that want rows of the delta only.
    static DELTA_ONLY: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a scan to the rows of the delta, until it is dropped: its user finds frozen rows by himself.
pub struct DeltaOnly(usize);

impl DeltaOnly {
    /// Of a scan that has not begun.
    pub fn new(scan: pg_sys::IndexScanDesc) -> Self {
        DELTA_ONLY.with_borrow_mut(|scans| scans.push(scan as usize));
        DeltaOnly(scan as usize)
    }
}

impl Drop for DeltaOnly {
    fn drop(&mut self) {
        DELTA_ONLY.with_borrow_mut(|scans| scans.retain(|scan| *scan != self.0));
    }
}

/// Forgets the scans of a transaction that is over.
pub fn forget() {
    PENDING.with_borrow_mut(HashMap::clear);
}

/// Whether this process applies changes of a publisher.
pub fn is_worker() -> bool {
    // SAFETY: reads a variable of the process.
    unsafe { ffi::IsLogicalWorker() }
}

pub unsafe extern "C-unwind" fn index_fetch_begin(
    rel: pg_sys::Relation,
) -> *mut pg_sys::IndexFetchTableData {
    guard::entry(|| {
        if super::modify::frozen_part(rel).is_some() {
            unique::index_oids(rel).into_iter().for_each(stand_before);
        }
        heap_call!(index_fetch_begin(rel))
    })
}

/// Puts our functions before those of an index.
fn stand_before(oid: pg_sys::Oid) {
    let index = OpenRel::index(oid, pg_sys::AccessShareLock);
    // SAFETY: an open index has a routine of its own, which lives as long as its cache entry.
    unsafe {
        let routine = &mut *(*index.as_ptr()).rd_indam;
        let Some(present) = routine.amgettuple else {
            return;
        };
        // A rebuilt cache entry has the method's own functions again.
        let known = METHODS.with_borrow(|m| m.get(&oid.to_u32()).and_then(|m| m.next));
        if known.is_some_and(|own| !std::ptr::fn_addr_eq(own, present)) {
            return;
        }
        let method = Method {
            rescan: routine.amrescan,
            next: routine.amgettuple,
        };
        METHODS.with_borrow_mut(|m| m.insert(oid.to_u32(), method));
        routine.amrescan = Some(rescan);
        routine.amgettuple = Some(next);
    }
}

/// # Safety
/// `scan` is an index scan of an index that [`stand_before`] was called for.
unsafe fn method_of(scan: pg_sys::IndexScanDesc) -> Option<Method> {
    // SAFETY: by contract.
    let oid = unsafe { relation::oid((*scan).indexRelation) };
    METHODS.with_borrow(|m| m.get(&oid.to_u32()).copied())
}

unsafe extern "C-unwind" fn rescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    nkeys: i32,
    orderbys: pg_sys::ScanKey,
    norderbys: i32,
) {
    guard::entry(|| {
        PENDING.with_borrow_mut(|p| p.remove(&(scan as usize)));
        // SAFETY: the method's own function with its own arguments.
        unsafe {
            if let Some(own) = method_of(scan).and_then(|m| m.rescan) {
                pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                    own(scan, keys, nkeys, orderbys, norderbys)
                });
            }
        }
    })
}

unsafe extern "C-unwind" fn next(
    scan: pg_sys::IndexScanDesc,
    direction: pg_sys::ScanDirection::Type,
) -> bool {
    guard::entry(|| {
        // SAFETY: the method's own function with its own arguments; then the scan's result, as the method would set it.
        unsafe {
            let known = PENDING.with_borrow(|p| p.contains_key(&(scan as usize)));
            if !known {
                let own = method_of(scan).and_then(|m| m.next);
                if let Some(own) = own
                    && pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| own(scan, direction))
                {
                    return true;
                }
                if DELTA_ONLY.with_borrow(|scans| scans.contains(&(scan as usize))) {
                    return false;
                }
                let candidates = for_this_call(|| candidates(&*scan));
                PENDING.with_borrow_mut(|p| p.insert(scan as usize, candidates));
            }
            let place = PENDING.with_borrow_mut(|p| p.get_mut(&(scan as usize))?.pop());
            let Some(place) = place else {
                return false;
            };
            (*scan).xs_heaptid = tid::encode(place);
            (*scan).xs_recheck = false;
            (*scan).kill_prior_tuple = false;
            true
        }
    })
}

/// Frozen rows that may have the scan's key: exactly those for a whole unique key, else all, since apply workers compare
/// the rows that such an index gives them.
fn candidates(scan: &pg_sys::IndexScanDescData) -> Vec<Place> {
    let rel = scan.heapRelation;
    if rel.is_null() {
        return Vec::new();
    }
    let Some(companion) = companion::of(rel) else {
        return Vec::new();
    };
    // SAFETY: the scan's keys, as many as it says.
    let keys = unsafe {
        if scan.keyData.is_null() {
            &[]
        } else {
            std::slice::from_raw_parts(scan.keyData, scan.numberOfKeys as usize)
        }
    };
    let mut values: Vec<(i16, Option<pg_sys::Datum>)> = keys
        .iter()
        .map(|k| {
            let null = k.sk_flags & pg_sys::SK_ISNULL as i32 != 0;
            (k.sk_attno, (!null).then_some(k.sk_argument))
        })
        .collect();
    values.sort_by_key(|(attno, _)| *attno);
    let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
    match unique::places_of(rel, &companion, relation::oid(scan.indexRelation), &values) {
        Some(places) => places,
        None => all_places(rel, &companion),
    }
}

fn all_places(rel: pg_sys::Relation, companion: &Companion) -> Vec<Place> {
    let latest = snapshot::Registered::latest();
    let thawed = directory::tombstones(companion, latest.get());
    let mut places = Vec::new();
    for segment in cache::directory(rel, companion).iter() {
        let hidden = directory::hidden_rows(segment, thawed.get(&segment.number));
        places.extend(
            (0..segment.header.rows)
                .filter(|row| !hidden.get(*row as usize))
                .map(|row| Place {
                    segment: segment.number,
                    row,
                }),
        );
    }
    places
}
