//! The table of segments: `(segment, item, data)`, one row a heap page.
//!
//! A segment's *body*, its encoded columns one after the other, is cut into pieces that fill a page each: items 1, 2, ….
//! Its header is item 0, with items -1, -2, … where it takes more than a page. Rows are never toasted, so that reading a
//! part of a body costs one buffer a page and no look-up: the header knows the block of the first piece, and the pieces
//! follow each other. That block is a hint (VACUUM FULL of the table moves them): each row says which piece it is, and
//! an index on (item, segment) finds it where the hint is wrong or somebody has changed the row.

use super::companion::{self, Companion};
use crate::pg::memory::for_this_call;
use crate::pg::page;
use crate::pg::relation::{self, OpenRel};
use crate::pg::tuple;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ops::Range;

/// Bytes of a body in one row: what a heap page holds beside its own header, the row's, and the two numbers.
pub const PIECE: usize = 8_120;

/// The hint of a body whose pieces do not follow each other.
pub const NO_BLOCK: u32 = u32::MAX;

/// Bytes before a header's own: its length.
const LENGTH: usize = 4;

const FORWARD: pg_sys::ScanDirection::Type = pg_sys::ScanDirection::ForwardScanDirection;

/// Item of the `n`th piece of a header.
fn header_item(piece: usize) -> i32 {
    -(piece as i32)
}

/// Item of the `n`th piece of a body.
fn body_item(piece: usize) -> i32 {
    piece as i32 + 1
}

/// Where the body of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Segment number.
    pub segment: i32,
    /// Block of its first piece, or [`NO_BLOCK`].
    pub first_block: u32,
    /// Raw xmin of the header's row: the same transaction wrote the pieces. A segment that was rolled back may have had
    /// the number before.
    pub writer: pg_sys::TransactionId,
}

/// Writes rows of a table of segments.
pub struct BodyWriter {
    table: OpenRel,
    index: OpenRel,
    info: *mut pg_sys::IndexInfo,
    options: i32,
    cid: pg_sys::CommandId,
    bulk: pg_sys::BulkInsertState,
    /// Blocks up to the last one that got a row.
    used: Cell<u32>,
}

impl BodyWriter {
    /// A writer. `frozen` writes rows that every snapshot sees, which is right only in a table that this transaction
    /// made.
    pub fn new(segments: pg_sys::Oid, frozen: bool) -> Self {
        let mut options = pg_sys::HEAP_INSERT_NO_LOGICAL;
        if frozen {
            options |= pg_sys::HEAP_INSERT_FROZEN | pg_sys::HEAP_INSERT_SKIP_FSM;
        }
        let table = OpenRel::table(segments, pg_sys::RowExclusiveLock);
        let oid = companion::index_of(table.as_ptr());
        let index = OpenRel::index(oid, pg_sys::RowExclusiveLock);
        // SAFETY: inside a transaction that writes; the index is open.
        let (cid, info, bulk) = unsafe {
            (
                pg_sys::GetCurrentCommandId(true),
                pg_sys::BuildIndexInfo(index.as_ptr()),
                pg_sys::GetBulkInsertState(),
            )
        };
        BodyWriter {
            table,
            index,
            info,
            options: options as i32,
            cid,
            bulk,
            used: Cell::new(0),
        }
    }

    fn insert(&self, segment: i32, item: i32, bytes: &[u8]) -> u32 {
        let data = tuple::new_bytea(bytes);
        let mut values = [
            pg_sys::Datum::from(segment as isize as usize),
            pg_sys::Datum::from(item as isize as usize),
            data,
        ];
        let mut nulls = [false; 3];
        // SAFETY: the three columns of the table of segments; the index has the first two, in the other order.
        unsafe {
            let row = pg_sys::heap_form_tuple(
                relation::tupdesc(self.table.as_ptr()),
                values.as_ptr(),
                nulls.as_ptr(),
            );
            pg_sys::heap_insert(self.table.as_ptr(), row, self.cid, self.options, self.bulk);
            values.swap(0, 1);
            pg_sys::index_insert(
                self.index.as_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &mut (*row).t_self,
                self.table.as_ptr(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                self.info,
            );
            let (block, _) = tuple::tid_parts(&(*row).t_self);
            self.used.set(self.used.get().max(block.saturating_add(1)));
            pg_sys::heap_freetuple(row);
            pg_sys::pfree(data.cast_mut_ptr());
            block
        }
    }

    /// Writes a body and returns the block of its first piece, or [`NO_BLOCK`].
    pub fn write_body(&self, segment: i32, parts: &[&[u8]]) -> u32 {
        let mut first_block = NO_BLOCK;
        let mut in_line = true;
        let mut count = 0;
        let mut put = |bytes: &[u8]| {
            let block = self.insert(segment, body_item(count), bytes);
            if count == 0 {
                first_block = block;
            }
            in_line &= u64::from(block) == u64::from(first_block) + count as u64;
            count += 1;
            pgrx::check_for_interrupts!();
        };
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE);
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(PIECE - piece.len()));
                piece.extend_from_slice(now);
                rest = later;
                if piece.len() == PIECE {
                    put(&piece);
                    piece.clear();
                }
            }
        }
        if !piece.is_empty() {
            put(&piece);
        }
        if in_line { first_block } else { NO_BLOCK }
    }

    /// Writes a header; the segment counts from then on.
    pub fn write_header(&self, segment: i32, header: &[u8]) {
        let mut bytes = (header.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        let pieces: Vec<&[u8]> = bytes.chunks(PIECE).collect();
        for (n, piece) in pieces.iter().enumerate().rev() {
            self.insert(segment, header_item(n), piece);
        }
    }

    /// Ends the writing of a table that this transaction made, and gives back the blocks at its end that got no row: it
    /// grows by up to 64 at once.
    pub fn finish_new(self) {
        let rel = self.table.as_ptr();
        if relation::blocks(rel) > self.used.get() {
            // SAFETY: an open table that nobody else knows; the block that the writer holds pinned is not among those.
            unsafe { pg_sys::RelationTruncate(rel, self.used.get()) }
        }
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`. After an error the resource owner gives its buffer back.
            unsafe { pg_sys::FreeBulkInsertState(self.bulk) }
        }
    }
}

/// Reads bodies out of a table of segments.
pub struct BodyReader {
    table: OpenRel,
    blocks: u32,
}

/// The piece that a range of a body lies in, and where; `None` where it lies in more than one.
pub fn piece_of(range: &Range<usize>) -> Option<(usize, Range<usize>)> {
    let piece = range.start / PIECE;
    let start = piece * PIECE;
    (range.end <= start + PIECE).then(|| {
        (
            piece,
            range.start - start..range.end.max(range.start) - start,
        )
    })
}

impl BodyReader {
    /// Opens the table of segments of a companion.
    pub fn new(companion: &Companion) -> Self {
        let table = OpenRel::table(companion.segments, pg_sys::AccessShareLock);
        let blocks = relation::blocks(table.as_ptr());
        BodyReader { table, blocks }
    }

    /// Appends a range of a body to `out`; says what is wrong where a piece is missing or has another length.
    pub fn read(
        &self,
        location: Location,
        range: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut at = range.start;
        while at < range.end {
            let piece = at / PIECE;
            let from = at % PIECE;
            let to = (range.end - piece * PIECE).min(PIECE);
            let taken = self.with_piece(location, piece, |bytes| match bytes.get(from..to) {
                Some(part) => {
                    out.extend_from_slice(part);
                    true
                }
                None => false,
            });
            match taken {
                Some(true) => at = piece * PIECE + to,
                Some(false) => return Err(format!("piece {piece} of its body is too short")),
                None => return Err(format!("piece {piece} of its body is missing")),
            }
        }
        Ok(())
    }

    /// Calls `f` with a range of a body, which lies in a buffer locked meanwhile or was put together in `scratch`; says
    /// what is wrong as [`BodyReader::read`] does.
    pub fn with_range<T>(
        &self,
        location: Location,
        range: Range<usize>,
        scratch: &mut Vec<u8>,
        mut f: impl FnMut(&[u8]) -> T,
    ) -> Result<T, String> {
        if let Some((piece, within)) = piece_of(&range) {
            let done = self.with_piece(location, piece, |bytes| {
                bytes.get(within.clone()).map(&mut f)
            });
            if let Some(Some(result)) = done {
                return Ok(result);
            }
        }
        scratch.clear();
        self.read(location, range, scratch)?;
        Ok(f(scratch))
    }

    /// Copies a piece of a body; says whether it was there.
    pub fn copy_piece(&self, location: Location, piece: usize, to: &mut Vec<u8>) -> bool {
        let found = self.with_piece(location, piece, |bytes| {
            to.clear();
            to.extend_from_slice(bytes);
        });
        found.is_some()
    }

    fn with_piece<T>(
        &self,
        location: Location,
        piece: usize,
        mut f: impl FnMut(&[u8]) -> T,
    ) -> Option<T> {
        let item = body_item(piece);
        let block = u64::from(location.first_block) + piece as u64;
        if location.first_block != NO_BLOCK && block < u64::from(self.blocks) {
            let found = self.at_block(block as u32, location, item, &mut f);
            if found.is_some() {
                return found;
            }
        }
        find(self.table.as_ptr(), location.segment, item, &mut f)
    }

    /// The row of an item on a page, if it is there.
    fn at_block<T>(
        &self,
        block: u32,
        location: Location,
        item: i32,
        f: &mut impl FnMut(&[u8]) -> T,
    ) -> Option<T> {
        // SAFETY: the page is pinned and share-locked while it is read; offsets and lengths are checked against it.
        unsafe {
            let buffer = pg_sys::ReadBuffer(self.table.as_ptr(), block);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let start = pg_sys::BufferGetPage(buffer).cast::<u8>();
            let whole = std::slice::from_raw_parts(start, pg_sys::BLCKSZ as usize);
            let result = page::rows(whole)
                .find_map(|row| data_of(row, location, item))
                .map(f);
            pg_sys::UnlockReleaseBuffer(buffer);
            result
        }
    }
}

/// The data of a row as it lies in a page, if it is this item of this segment and nobody has changed or deleted it.
fn data_of(row: &[u8], location: Location, item: i32) -> Option<&[u8]> {
    let xmin = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_choice)
        + std::mem::offset_of!(pg_sys::HeapTupleFields, t_xmin);
    let xmin = u32::from_ne_bytes(*row.get(xmin..)?.first_chunk()?);
    if xmin != location.writer.into_inner() {
        return None;
    }
    let mask = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_infomask);
    let mask = u16::from_ne_bytes(*row.get(mask..)?.first_chunk()?);
    if mask & pg_sys::HEAP_XMAX_INVALID as u16 == 0 {
        return None;
    }
    let hoff = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_hoff);
    let values = row.get(usize::from(*row.get(hoff)?)..)?;
    let (number, values) = values.split_first_chunk::<4>()?;
    let (found, values) = values.split_first_chunk::<4>()?;
    let (head, values) = values.split_first_chunk::<4>()?;
    if i32::from_ne_bytes(*number) != location.segment || i32::from_ne_bytes(*found) != item {
        return None;
    }
    // An uncompressed varlena with four bytes of header, which the column's storage (PLAIN) makes sure of.
    let head = u32::from_le_bytes(*head);
    (head & 3 == 0).then_some(())?;
    values.get(..((head >> 2) as usize).checked_sub(4)?)
}

fn key(attno: i16, value: i32) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: fills the key for int4eq.
    unsafe {
        pg_sys::ScanKeyInit(
            &mut key,
            attno,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from_u32(pg_sys::F_INT4EQ),
            pg_sys::Datum::from(value as isize as usize),
        );
    }
    key
}

/// Calls `f` with (row, values) for each row of an item (and segment) that the snapshot sees, until it says stop.
fn scan(
    table: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    direction: pg_sys::ScanDirection::Type,
    item: i32,
    segment: Option<i32>,
    mut f: impl FnMut(&pg_sys::HeapTupleData, &[pg_sys::Datum]) -> bool,
) {
    let index = OpenRel::index(companion::index_of(table), pg_sys::AccessShareLock);
    let mut keys = vec![key(1, item)];
    keys.extend(segment.map(|s| key(2, s)));
    // SAFETY: an ordinary index scan; the slot is dropped after the scan has ended.
    unsafe {
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let count = keys.len() as i32;
        let scan = pg_sys::index_beginscan(table, index.as_ptr(), snapshot, count, 0);
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        while pg_sys::index_getnext_slot(scan, direction, slot) {
            pg_sys::slot_getsomeattrs_int(slot, 3);
            let mut should_free = false;
            let row = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut should_free);
            if !f(&*row, std::slice::from_raw_parts((*slot).tts_values, 3)) {
                break;
            }
        }
        pg_sys::index_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

/// One item by the index, also where the command under way wrote it. Pieces of a body that is there never change.
fn find<T>(
    table: pg_sys::Relation,
    segment: i32,
    item: i32,
    f: &mut impl FnMut(&[u8]) -> T,
) -> Option<T> {
    for_this_call(|| {
        let mut found = None;
        let written = &raw mut pg_sys::SnapshotSelfData;
        scan(table, written, FORWARD, item, Some(segment), |_, values| {
            if let [_, _, data] = values {
                // SAFETY: a bytea that is never NULL.
                found = Some(unsafe { tuple::with_payload(*data, &mut *f) });
            }
            false
        });
        found
    })
}

/// Calls `f` with (row, segment number, header) for each header that the snapshot sees; the header is an error where it
/// is not whole.
pub fn for_each_header(
    table: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    mut f: impl FnMut(&pg_sys::HeapTupleData, i32, Result<&[u8], String>),
) {
    scan(
        table,
        snapshot,
        FORWARD,
        header_item(0),
        None,
        |row, values| {
            let [segment, _, data] = values else {
                return true;
            };
            let segment = segment.value() as i32;
            // SAFETY: a bytea that is never NULL.
            let mut bytes = unsafe { tuple::with_payload(*data, <[u8]>::to_vec) };
            let header = whole_header(table, segment, &mut bytes);
            f(row, segment, header);
            true
        },
    );
}

/// The highest number that a segment of the table has, one that is not committed included; `None` without any. One that was
/// rolled back is gone when its header is, be its pieces still there or not.
pub fn highest_number(table: pg_sys::Relation) -> Option<i32> {
    let mut highest = None;
    let any = &raw mut pg_sys::SnapshotAnyData;
    let backward = pg_sys::ScanDirection::BackwardScanDirection;
    for_this_call(|| {
        scan(table, any, backward, header_item(0), None, |_, values| {
            highest = values.first().map(|number| number.value() as i32);
            false
        });
    });
    highest
}

/// Completes a header whose first piece is in `bytes`, and returns it without its length.
fn whole_header(
    table: pg_sys::Relation,
    segment: i32,
    bytes: &mut Vec<u8>,
) -> Result<&[u8], String> {
    let Some(length) = bytes.first_chunk::<LENGTH>() else {
        return Err("its header is cut short".into());
    };
    let length = u32::from_le_bytes(*length) as usize;
    for piece in 1..(length + LENGTH).div_ceil(PIECE) {
        let mut more = |part: &[u8]| bytes.extend_from_slice(part);
        if find(table, segment, header_item(piece), &mut more).is_none() {
            return Err("a piece of its header is missing".into());
        }
    }
    match bytes.get(LENGTH..) {
        Some(header) if header.len() == length => Ok(header),
        _ => Err("its header has another length than it says".into()),
    }
}

/// Items of a segment that are not pieces of a header of `header` bytes or a body of `body` bytes, missing ones and
/// wrong lengths: in words, `None` where all is well. `stored` has (item, length of data).
pub fn check_items(header: usize, body: usize, stored: &[(i32, usize)]) -> Option<String> {
    let mut expected: std::collections::BTreeMap<i32, usize> = Default::default();
    let sizes =
        |total: usize| (0..total.div_ceil(PIECE)).map(move |n| (n, (total - n * PIECE).min(PIECE)));
    expected.extend(sizes(header + LENGTH).map(|(n, size)| (header_item(n), size)));
    expected.extend(sizes(body).map(|(n, size)| (body_item(n), size)));
    for (item, length) in stored {
        match expected.remove(item) {
            Some(size) if size == *length => {}
            Some(size) => return Some(format!("item {item} has {length} bytes, not {size}")),
            None => {
                return Some(format!(
                    "item {item} is there twice or does not belong to it"
                ));
            }
        }
    }
    let (item, _) = expected.first_key_value()?;
    Some(format!("item {item} is missing"))
}
