//! Rows of a page on their way out of a scan.

use super::eval::{self, Bits};
use super::pages::{Pages, Selection};
use crate::am::datum::DatumColumn;
use crate::am::directory::SegmentRef;
use crate::am::tid::{self, Place};
use crate::pg::relation;
use pgrx::pg_sys;
use std::rc::Rc;

/// Rows of a page, handed out one after the other. Each column is made into datums when it is first asked for.
pub struct Batch {
    segment: Rc<SegmentRef>,
    page: usize,
    first: u32,
    rows: Vec<u16>,
    /// The row handed out last: -1 before the first one.
    row: isize,
    /// Whether the slot was cleared of what batches before left in it.
    fresh: bool,
    /// Attributes that the plan reads, ascending.
    lanes: Vec<Lane>,
}

/// A column of the batch.
struct Lane {
    /// Of the attribute, from 0.
    index: usize,
    column: Option<DatumColumn>,
}

impl Batch {
    /// The rows of a page that were chosen, to be handed out in a direction. `needed` are attribute numbers, ascending.
    pub fn new(selection: &Selection, needed: &[i16], forward: bool) -> Self {
        Self::of_rows(selection, positions(&selection.rows), needed, forward)
    }

    /// Some rows of a page.
    pub fn of_rows(selection: &Selection, rows: Vec<u16>, needed: &[i16], forward: bool) -> Self {
        let lane = |attnum: &i16| Lane {
            index: *attnum as usize - 1,
            column: None,
        };
        Batch {
            first: selection.segment.page_rows(selection.page).start,
            segment: selection.segment.clone(),
            page: selection.page,
            row: if forward { -1 } else { rows.len() as isize },
            rows,
            fresh: true,
            lanes: needed.iter().map(lane).collect(),
        }
    }

    /// Takes the row handed out last back.
    pub fn back(&mut self, forward: bool) {
        self.row += if forward { -1 } else { 1 };
        self.fresh = true;
    }

    /// Puts the next row in a direction into a slot of the scan's, `false` at the end. Attributes that are not needed are
    /// NULL; those from the first one on that was not asked for yet are left to [`Batch::fill`].
    pub fn emit(
        &mut self,
        rel: pg_sys::Relation,
        slot: *mut pg_sys::TupleTableSlot,
        forward: bool,
    ) -> bool {
        let next = if forward { self.row + 1 } else { self.row - 1 };
        let Some(row) = usize::try_from(next).ok().and_then(|at| self.rows.get(at)) else {
            return false;
        };
        self.row = next;
        let at = next as usize;
        // SAFETY: the slot has an entry for each attribute of the relation; values live as long as the batch.
        unsafe {
            if (*slot).tts_flags & pg_sys::TTS_FLAG_SHOULDFREE as u16 != 0 {
                pg_sys::ExecClearTuple(slot);
            }
            let natts = relation::natts((*slot).tts_tupleDescriptor);
            if std::mem::take(&mut self.fresh) {
                std::slice::from_raw_parts_mut((*slot).tts_isnull, natts).fill(true);
            }
            let mut valid = natts;
            for lane in &self.lanes {
                let Some(column) = &lane.column else {
                    valid = lane.index;
                    break;
                };
                put(slot, lane.index, column.get(at));
            }
            (*slot).tts_flags &= !(pg_sys::TTS_FLAG_EMPTY as u16);
            (*slot).tts_nvalid = valid as i16;
            (*slot).tts_tid = tid::encode(Place {
                segment: self.segment.number,
                row: self.first + u32::from(*row),
            });
            (*slot).tts_tableOid = (*rel).rd_id;
        }
        true
    }

    /// Puts attributes of the row handed out last into the slot that has it, as many as are asked for or more.
    ///
    /// # Safety
    /// The slot in which [`Batch::emit`] put the row.
    pub unsafe fn fill(
        &mut self,
        pages: &mut Pages,
        slot: *mut pg_sys::TupleTableSlot,
        natts: usize,
    ) {
        let at = usize::try_from(self.row).unwrap_or_default();
        // SAFETY: by contract.
        unsafe {
            let mut valid = relation::natts((*slot).tts_tupleDescriptor);
            let from = (*slot).tts_nvalid as usize;
            let begin = self.lanes.partition_point(|lane| lane.index < from);
            for n in begin..self.lanes.len() {
                let Some(index) = self.lanes.get(n).map(|lane| lane.index) else {
                    break;
                };
                if index >= natts && self.lanes.get(n).is_some_and(|l| l.column.is_none()) {
                    valid = index;
                    break;
                }
                let value = self.column(pages, n).and_then(|column| column.get(at));
                put(slot, index, value);
            }
            (*slot).tts_nvalid = valid as i16;
        }
    }

    /// The value of an attribute, by its index, in the row handed out last.
    pub fn value(&mut self, pages: &mut Pages, index: usize) -> Option<pg_sys::Datum> {
        let n = self.lanes.iter().position(|lane| lane.index == index)?;
        let at = usize::try_from(self.row).ok()?;
        self.column(pages, n)?.get(at)
    }

    /// The column of a lane.
    fn column(&mut self, pages: &mut Pages, n: usize) -> Option<&DatumColumn> {
        let lane = self.lanes.get_mut(n)?;
        if lane.column.is_none() {
            let rows = &self.rows;
            let attnum = lane.index as i16 + 1;
            pages.revisit(&self.segment, self.page);
            let datums = |columns: &mut super::columns::Columns| columns.datums(attnum, rows);
            lane.column = Some(pages.with_columns(self.segment.number, datums));
        }
        lane.column.as_ref()
    }
}

/// Puts a value into a slot's arrays.
///
/// # Safety
/// The slot has such an attribute.
unsafe fn put(slot: *mut pg_sys::TupleTableSlot, index: usize, value: Option<pg_sys::Datum>) {
    // SAFETY: by contract.
    unsafe {
        *(*slot).tts_values.add(index) = value.unwrap_or(pg_sys::Datum::from(0usize));
        *(*slot).tts_isnull.add(index) = value.is_none();
    }
}

/// The positions of the bits that are set.
pub fn positions(bits: &Bits) -> Vec<u16> {
    let mut rows = Vec::with_capacity(eval::count(bits));
    for (at, word) in bits.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            rows.push((at * 64) as u16 + rest.trailing_zeros() as u16);
            rest &= rest - 1;
        }
    }
    rows
}
