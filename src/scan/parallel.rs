//! Scans that several processes share: segments, and blocks of the delta, are handed out to whoever asks next.

use super::counters::{COUNTED, Counters};
use super::delta;
use super::node::run_of;
use crate::pg::guard;
use pgrx::pg_sys;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What processes that share a scan have in common; heap's own state follows.
#[repr(C)]
#[derive(Default)]
struct Head {
    /// The next segment to hand out.
    next: AtomicU32,
    /// What workers that have come to the end did, rows of the delta that conditions kept out last.
    counted: [AtomicU64; COUNTED + 1],
}

const HEAD: usize = size_of::<Head>().next_multiple_of(8);

/// The shared memory of a scan.
#[derive(Clone, Copy)]
pub struct Shared(*mut Head);

impl Shared {
    fn head(&self) -> &Head {
        // SAFETY: laid out by `initialize_dsm`; forgotten when the shared memory goes away.
        unsafe { &*self.0 }
    }

    /// The next segment that no process has taken, by its number in the directory; there may be none of that number.
    pub fn claim(self) -> usize {
        self.head().next.fetch_add(1, Ordering::Relaxed) as usize
    }

    /// Heap's state of the scan of the delta.
    pub fn heap(self) -> pg_sys::ParallelTableScanDesc {
        // SAFETY: as above; it follows the head.
        unsafe { self.0.cast::<u8>().add(HEAD).cast() }
    }
}

/// EstimateDSMCustomScan
pub unsafe extern "C-unwind" fn estimate_dsm(
    node: *mut pg_sys::CustomScanState,
    _context: *mut pg_sys::ParallelContext,
) -> pg_sys::Size {
    // SAFETY: a begun node.
    guard::entry(|| HEAD + delta::shared_size(unsafe { run_of(node) }.rel))
}

/// InitializeDSMCustomScan
pub unsafe extern "C-unwind" fn initialize_dsm(
    node: *mut pg_sys::CustomScanState,
    _context: *mut pg_sys::ParallelContext,
    coordinate: *mut c_void,
) {
    guard::entry(|| {
        // SAFETY: a begun node; the shared memory is as large as was estimated.
        unsafe {
            let run = run_of(node);
            run.end_delta();
            coordinate.cast::<Head>().write(Head::default());
            let shared = Shared(coordinate.cast());
            delta::initialize_shared(run.rel, run.snapshot, shared.heap());
            run.shared = Some(shared);
        }
    })
}

/// ReInitializeDSMCustomScan
pub unsafe extern "C-unwind" fn reinitialize_dsm(
    node: *mut pg_sys::CustomScanState,
    _context: *mut pg_sys::ParallelContext,
    coordinate: *mut c_void,
) {
    guard::entry(|| {
        // SAFETY: as above.
        unsafe {
            let shared = Shared(coordinate.cast());
            shared.head().next.store(0, Ordering::Relaxed);
            delta::reinitialize_shared(run_of(node).rel, shared.heap());
        }
    })
}

/// InitializeWorkerCustomScan
pub unsafe extern "C-unwind" fn initialize_worker(
    node: *mut pg_sys::CustomScanState,
    _toc: *mut pg_sys::shm_toc,
    coordinate: *mut c_void,
) {
    // SAFETY: as above.
    guard::entry(|| unsafe { run_of(node).shared = Some(Shared(coordinate.cast())) })
}

/// ShutdownCustomScan. The shared memory goes away: workers leave what they counted there, and the leader takes it.
pub unsafe extern "C-unwind" fn shutdown(node: *mut pg_sys::CustomScanState) {
    guard::entry(|| {
        // SAFETY: a begun node; the shared memory is still there.
        let run = unsafe { run_of(node) };
        let Some(shared) = run.shared.take() else {
            return;
        };
        run.finish();
        let counted = &shared.head().counted;
        // SAFETY: reads a variable of the process.
        if unsafe { pg_sys::ParallelWorkerNumber } < 0 {
            let taken = counted.each_ref().map(|n| n.load(Ordering::Relaxed));
            let [counters @ .., removed] = taken;
            run.others.0.add(&Counters::from(counters));
            run.others.1 += removed;
            return;
        }
        let own = run.pages.as_ref().map(|p| p.counters).unwrap_or_default();
        let numbers = own.numbers().into_iter().chain([run.delta_removed]);
        for (shared, number) in counted.iter().zip(numbers) {
            shared.fetch_add(number, Ordering::Relaxed);
        }
    })
}
