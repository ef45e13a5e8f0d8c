//! How an item pointer names a frozen row.
//!
//! The top bit of the block number is set; below it 27 bits of segment number and 4 bits of the row number, the other
//! 12 bits of which are the offset less one. Offsets stay far below the special ones of heap (0xfffd, 0xfffe), and the
//! highest segment number is left out, so that no frozen row has `InvalidBlockNumber`.

use crate::pg::tuple::{make_tid, tid_parts};
use pgrx::pg_sys;

/// Highest segment number that an item pointer can name.
pub const MAX_SEGMENT: i32 = (1 << 27) - 2;

/// First block number that belongs to frozen rows.
pub const FIRST_BLOCK: u32 = 0x8000_0000;

/// Place of a frozen row: segment and row within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Segment number.
    pub segment: i32,
    /// Row within the segment, from 0, below 65,536.
    pub row: u32,
}

/// The item pointer of a frozen row.
pub fn encode(place: Place) -> pg_sys::ItemPointerData {
    let block = FIRST_BLOCK | ((place.segment as u32) << 4) | (place.row >> 12);
    make_tid(block, (place.row & 0xFFF) as u16 + 1)
}

/// The frozen row that an item pointer names; `None` when it points into the delta.
pub fn decode(tid: &pg_sys::ItemPointerData) -> Option<Place> {
    let (block, offset) = tid_parts(tid);
    if block < FIRST_BLOCK || block == pg_sys::InvalidBlockNumber || offset == 0 || offset > 0x1000
    {
        return None;
    }
    let low = block & !FIRST_BLOCK;
    Some(Place {
        segment: (low >> 4) as i32,
        row: ((low & 0xF) << 12) | u32::from(offset - 1),
    })
}
