//! ANALYZE: a sample of the delta's blocks and of the frozen rows, in proportion.
//!
//! PostgreSQL computes the table's rows as `liverows / blocks sampled * blocks`, where blocks are those of the delta,
//! and draws its sample from all rows that it is given. So each row is passed on with one probability, whether frozen
//! or not, and the frozen rows are added to `liverows` scaled so that the result counts each of them once.

use super::scan::{FrozenScan, ours};
use crate::heap_call;
use crate::pg::guard;
use crate::pg::relation;
use pgrx::pg_sys;

/// Progress of an ANALYZE scan.
#[derive(Default)]
pub struct AnalyzeState {
    blocks_seen: u32,
    probability: Option<f64>,
    phase: Phase,
    segment: usize,
    row: u32,
    random: u64,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Phase {
    #[default]
    Delta,
    Frozen,
    Done,
}

impl AnalyzeState {
    /// SplitMix64 (Steele, Lea, Flood 2014): a number in [0, 1).
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Rows a block of the delta holds, for the sampling rate alone.
const ROWS_PER_BLOCK: f64 = 80.0;

fn probability(f: &FrozenScan, rel: pg_sys::Relation) -> f64 {
    let frozen: u64 = f.directory().iter().map(|s| s.live_at_birth()).sum();
    let rows = frozen as f64 + f64::from(relation::blocks(rel)) * ROWS_PER_BLOCK;
    // SAFETY: reads a setting.
    let target = 300.0 * f64::from(unsafe { pg_sys::default_statistics_target }.max(100));
    (2.0 * target / rows.max(1.0)).min(1.0)
}

pub unsafe extern "C-unwind" fn scan_analyze_next_block(
    scan: pg_sys::TableScanDesc,
    stream: *mut pg_sys::ReadStream,
) -> bool {
    guard::entry(|| {
        // SAFETY: ANALYZE hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        let Some(f) = frozen else {
            return heap_call!(scan_analyze_next_block(heap, stream));
        };
        match f.analyze.phase {
            Phase::Delta => {
                if heap_call!(scan_analyze_next_block(heap, stream)) {
                    f.analyze.blocks_seen += 1;
                    return true;
                }
                f.analyze.phase = Phase::Frozen;
                true
            }
            Phase::Frozen | Phase::Done => false,
        }
    })
}

pub unsafe extern "C-unwind" fn scan_analyze_next_tuple(
    scan: pg_sys::TableScanDesc,
    oldest_xmin: pg_sys::TransactionId,
    liverows: *mut f64,
    deadrows: *mut f64,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    guard::entry(|| {
        // SAFETY: ANALYZE hands our descriptor back.
        let (scan, frozen) = unsafe { ours(scan) };
        let heap = scan.heap;
        let Some(f) = frozen else {
            return heap_call!(scan_analyze_next_tuple(
                heap,
                oldest_xmin,
                liverows,
                deadrows,
                slot
            ));
        };
        // SAFETY: heap's scan is open.
        let rel = unsafe { (*heap).rs_rd };
        let p = match f.analyze.probability {
            Some(p) => p,
            None => {
                f.analyze.random = u64::from(relation::oid(rel).to_u32());
                let p = probability(f, rel);
                f.analyze.probability = Some(p);
                p
            }
        };
        match f.analyze.phase {
            Phase::Delta => loop {
                if !heap_call!(scan_analyze_next_tuple(
                    heap,
                    oldest_xmin,
                    liverows,
                    deadrows,
                    slot
                )) {
                    return false;
                }
                if f.analyze.draw() < p {
                    return true;
                }
            },
            Phase::Frozen => {
                let (rows, more) = next_frozen(f, p, slot);
                let total = f64::from(relation::blocks(rel));
                let seen = f64::from(f.analyze.blocks_seen);
                let scale = if total > 0.0 && seen > 0.0 {
                    seen / total
                } else {
                    1.0
                };
                // SAFETY: ANALYZE passes valid counters.
                unsafe { *liverows += rows as f64 * scale };
                if !more {
                    f.analyze.phase = Phase::Done;
                }
                more
            }
            Phase::Done => false,
        }
    })
}

/// Stores the next frozen row that the sample takes; also returns how many visible rows were passed on the way.
fn next_frozen(f: &mut FrozenScan, p: f64, slot: *mut pg_sys::TupleTableSlot) -> (u64, bool) {
    let mut passed = 0;
    loop {
        pgrx::check_for_interrupts!();
        if !f.enter(f.analyze.segment) {
            return (passed, false);
        }
        while f.analyze.row < f.rows() {
            let row = f.analyze.row;
            f.analyze.row += 1;
            if f.visible(row) {
                passed += 1;
                if f.analyze.draw() < p {
                    f.store(row, slot);
                    return (passed, true);
                }
            }
        }
        f.analyze.segment += 1;
        f.analyze.row = 0;
    }
}
