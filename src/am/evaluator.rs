//! Evaluating an index's keys on rows, and slots to hold rows meanwhile.

use super::directory::Decoded;
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;

/// Evaluates an index's keys on rows in a slot, expressions and predicate included.
pub struct KeyEvaluator {
    index: OpenRel,
    info: *mut pg_sys::IndexInfo,
    estate: *mut pg_sys::EState,
    predicate: *mut pg_sys::ExprState,
    values: [pg_sys::Datum; pg_sys::INDEX_MAX_KEYS as usize],
    nulls: [bool; pg_sys::INDEX_MAX_KEYS as usize],
}

impl KeyEvaluator {
    /// Opens an index for evaluation; its expressions are prepared in the current memory context.
    pub fn new(oid: pg_sys::Oid) -> Self {
        let index = OpenRel::index(oid, pg_sys::AccessShareLock);
        // SAFETY: an executor state of our own, freed by drop.
        unsafe {
            let info = pg_sys::BuildIndexInfo(index.as_ptr());
            let estate = pg_sys::CreateExecutorState();
            let predicate = if (*info).ii_Predicate.is_null() {
                std::ptr::null_mut()
            } else {
                pg_sys::ExecPrepareQual((*info).ii_Predicate, estate)
            };
            KeyEvaluator {
                index,
                info,
                estate,
                predicate,
                values: [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize],
                nulls: [true; pg_sys::INDEX_MAX_KEYS as usize],
            }
        }
    }

    /// The index's row shape.
    pub fn tupdesc(&self) -> pg_sys::TupleDesc {
        relation::tupdesc(self.index.as_ptr())
    }

    /// Number of key columns.
    pub fn keys(&self) -> usize {
        // SAFETY: built by BuildIndexInfo.
        unsafe { (*self.info).ii_NumIndexKeyAttrs as usize }
    }

    /// Values and nulls of the index columns for the row in `slot`; `None` where the predicate leaves the row out.
    /// Valid until the next call.
    pub fn evaluate(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> Option<(&[pg_sys::Datum], &[bool])> {
        // SAFETY: as heapam_index_build_range_scan evaluates a row.
        unsafe {
            let context = if (*self.estate).es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(self.estate)
            } else {
                (*self.estate).es_per_tuple_exprcontext
            };
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            (*context).ecxt_scantuple = slot;
            if !self.predicate.is_null() && !pg_sys::ExecQual(self.predicate, context) {
                return None;
            }
            pg_sys::FormIndexDatum(
                self.info,
                slot,
                self.estate,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
        Some((&self.values, &self.nulls))
    }
}

impl Drop for KeyEvaluator {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::FreeExecutorState(self.estate) }
        }
    }
}

/// A slot that can hold any row of `rel`, dropped at the end.
pub struct RowSlot(pub *mut pg_sys::TupleTableSlot);

impl RowSlot {
    /// A virtual slot.
    pub fn new(rel: pg_sys::Relation) -> Self {
        // SAFETY: the row shape is reference-counted by the slot.
        RowSlot(unsafe {
            pg_sys::MakeSingleTupleTableSlot(
                relation::tupdesc(rel),
                &raw const pg_sys::TTSOpsVirtual,
            )
        })
    }

    /// Puts a decoded row into the slot. The values point into `decoded`.
    pub fn fill(&self, rel: pg_sys::Relation, decoded: &Decoded, row: u32) {
        let natts = relation::natts(relation::tupdesc(rel));
        // SAFETY: the slot has arrays of natts entries.
        unsafe {
            pg_sys::ExecClearTuple(self.0);
            let values = std::slice::from_raw_parts_mut((*self.0).tts_values, natts);
            let nulls = std::slice::from_raw_parts_mut((*self.0).tts_isnull, natts);
            decoded.row(row, values, nulls);
            pg_sys::ExecStoreVirtualTuple(self.0);
        }
    }
}

impl Drop for RowSlot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) }
        }
    }
}
