//! TABLESAMPLE: frozen rows stand behind the delta's blocks as blocks of their own.

use super::scan::{FrozenScan, ours};
use crate::heap_call;
use crate::pg::guard;
use pgrx::pg_sys;
use std::cell::Cell;

/// Rows of one block of frozen rows, about what a heap page holds.
const ROWS_PER_BLOCK: u32 = 128;

/// Progress of a sample scan.
#[derive(Default)]
pub struct SampleState {
    /// Block of frozen rows at hand (number among the frozen blocks).
    current: Option<u32>,
    /// Next block for methods that read every block.
    sequential: u32,
}

type NextBlock = unsafe extern "C-unwind" fn(
    *mut pg_sys::SampleScanState,
    pg_sys::BlockNumber,
) -> pg_sys::BlockNumber;

thread_local! {
    /// (the method's own function, all blocks, blocks of the delta) while heap asks for its next block.
    static METHOD: Cell<Option<(NextBlock, u32, u32)>> = const { Cell::new(None) };
    /// Block of frozen rows that the method chose instead.
    static CHOSEN: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Stands in for the method's `NextSampleBlock`: lets it choose among all blocks, and hands heap only its own.
unsafe extern "C-unwind" fn choose(
    node: *mut pg_sys::SampleScanState,
    _nblocks: pg_sys::BlockNumber,
) -> pg_sys::BlockNumber {
    guard::entry(|| {
        let Some((method, all, own)) = METHOD.get() else {
            return pg_sys::InvalidBlockNumber;
        };
        // SAFETY: the method's own callback with its own node.
        let block = unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| method(node, all)) };
        if block == pg_sys::InvalidBlockNumber || block < own {
            return block;
        }
        CHOSEN.set(Some(block - own));
        pg_sys::InvalidBlockNumber
    })
}

fn frozen_blocks(f: &FrozenScan) -> u32 {
    f.directory()
        .iter()
        .map(|s| s.header.rows.div_ceil(ROWS_PER_BLOCK))
        .sum()
}

/// Segment index and first row of a block of frozen rows.
fn locate(f: &FrozenScan, mut block: u32) -> Option<(usize, u32)> {
    for (index, segment) in f.directory().iter().enumerate() {
        let blocks = segment.header.rows.div_ceil(ROWS_PER_BLOCK);
        if block < blocks {
            return Some((index, block * ROWS_PER_BLOCK));
        }
        block -= blocks;
    }
    None
}

pub unsafe extern "C-unwind" fn scan_sample_next_block(
    scan: pg_sys::TableScanDesc,
    scanstate: *mut pg_sys::SampleScanState,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        let Some(f) = frozen else {
            return heap_call!(scan_sample_next_block(heap, scanstate));
        };
        // SAFETY: heap's descriptor and the node are valid; the method's routine is put back before we return or unwind.
        unsafe {
            let own = (*heap.cast::<pg_sys::HeapScanDescData>()).rs_nblocks;
            let all = own + frozen_blocks(f);
            let tsm = (*scanstate).tsmroutine;
            match (*tsm).NextSampleBlock {
                Some(method) => {
                    CHOSEN.set(None);
                    METHOD.set(Some((method, all, own)));
                    f.sample.current = None;
                    if own == 0 {
                        choose(scanstate, 0);
                    } else {
                        struct Restore(*mut pg_sys::SampleScanState, *mut pg_sys::TsmRoutine);
                        impl Drop for Restore {
                            fn drop(&mut self) {
                                // SAFETY: the node outlives this call.
                                unsafe { (*self.0).tsmroutine = self.1.cast() }
                            }
                        }
                        let mut stand_in = *tsm;
                        stand_in.NextSampleBlock = Some(choose);
                        let _restore = Restore(scanstate, tsm.cast());
                        (*scanstate).tsmroutine = (&raw mut stand_in).cast();
                        if heap_call!(scan_sample_next_block(heap, scanstate)) {
                            return true;
                        }
                    }
                    f.sample.current = CHOSEN.take();
                    f.sample.current.is_some()
                }
                None => {
                    if f.sample.current.is_none()
                        && f.sample.sequential == 0
                        && heap_call!(scan_sample_next_block(heap, scanstate))
                    {
                        return true;
                    }
                    let next = f.sample.sequential;
                    f.sample.sequential += 1;
                    f.sample.current = (own + next < all).then_some(next);
                    f.sample.current.is_some()
                }
            }
        }
    })
}

pub unsafe extern "C-unwind" fn scan_sample_next_tuple(
    scan: pg_sys::TableScanDesc,
    scanstate: *mut pg_sys::SampleScanState,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    guard::entry(|| {
        // SAFETY: the executor hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        let Some(f) = frozen else {
            return heap_call!(scan_sample_next_tuple(heap, scanstate, slot));
        };
        let Some(block) = f.sample.current else {
            return heap_call!(scan_sample_next_tuple(heap, scanstate, slot));
        };
        let Some((index, first)) = locate(f, block) else {
            return false;
        };
        if !f.enter(index) {
            return false;
        }
        let most = (f.rows() - first).min(ROWS_PER_BLOCK) as u16;
        // SAFETY: the sampling method's own callback; the block number is the one it knows this block by.
        unsafe {
            let own = (*heap.cast::<pg_sys::HeapScanDescData>()).rs_nblocks;
            let Some(method) = (*(*scanstate).tsmroutine).NextSampleTuple else {
                return false;
            };
            loop {
                pgrx::check_for_interrupts!();
                let offset = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                    method(scanstate, own + block, most)
                });
                if offset == 0 {
                    return false;
                }
                let row = first + u32::from(offset) - 1;
                if f.visible(row) {
                    f.store(row, slot);
                    return true;
                }
            }
        }
    })
}
