//! The segments of a companion as a snapshot sees them, and their rows decoded page by page.

use super::body::{self, BodyReader, Location};
use super::cache;
use super::companion::Companion;
use super::datum::{self, DatumColumn};
use super::writer::sort_key;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use crate::pg::sort::SortColumn;
use crate::pg::tuple;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::header::{ColumnEntry, SegmentHeader, SortKey};
use varve_core::paged::{Effort, PAGE_ROWS, Page};

/// One segment: its header and where its columns are.
#[derive(Debug)]
pub struct SegmentRef {
    /// Segment number, unique within the companion.
    pub number: i32,
    /// Decoded header.
    pub header: SegmentHeader,
    /// Place of the header's row in the table of segments.
    pub header_tid: pg_sys::ItemPointerData,
    /// Whether every snapshot sees the segment (written frozen by the exchange of storage).
    pub frozen: bool,
    /// Raw xmin of the header's row, shown as the xmin of its rows.
    pub xmin: pg_sys::TransactionId,
    /// The companion that the segment is in.
    pub companion: Companion,
    /// Where each column of the header begins in the body.
    starts: Vec<usize>,
    /// Rows that were not dead from birth.
    live: u64,
}

impl SegmentRef {
    fn new(
        number: i32,
        header: SegmentHeader,
        row: &pg_sys::HeapTupleData,
        companion: &Companion,
    ) -> Self {
        // SAFETY: a row of a scan has its header.
        let head = unsafe { &*row.t_data };
        let starts = header
            .columns
            .iter()
            .scan(0, |at, c| {
                let start = *at;
                *at += c.bytes as usize;
                Some(start)
            })
            .collect();
        let dead = header.dead.count_ones() as u64;
        SegmentRef {
            number,
            live: u64::from(header.rows).saturating_sub(dead),
            header,
            header_tid: row.t_self,
            frozen: tuple::xmin_frozen(head),
            xmin: tuple::raw_xmin(head),
            companion: *companion,
            starts,
        }
    }

    /// Whether a segment that is committed was so before an MVCC snapshot was taken, as can be told without a look at
    /// its row: it was written as frozen, or by a transaction older than all that were running then.
    pub fn precedes(&self, snapshot: pg_sys::Snapshot) -> bool {
        // SAFETY: a valid snapshot.
        self.frozen || tuple::xid_precedes(self.xmin, unsafe { (*snapshot).xmin })
    }

    /// Rows that were not dead from birth.
    pub fn live_at_birth(&self) -> u64 {
        self.live
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        let columns = self.header.columns.len() * (size_of::<ColumnEntry>() + size_of::<usize>());
        let origins = self.header.origins.as_ref().map_or(0, |o| o.len() * 8);
        size_of::<Self>() + columns + self.header.dead.memory() + origins
    }

    /// Where the body is.
    pub fn location(&self) -> Location {
        Location {
            segment: self.number,
            first_block: self.header.location,
            writer: self.xmin,
        }
    }

    /// The entry of an attribute and where its bytes begin; `None` when the segment has none (a column added later).
    pub fn column(&self, attnum: i32) -> Option<(&ColumnEntry, usize)> {
        self.header
            .columns
            .iter()
            .zip(&self.starts)
            .find(|(c, _)| i32::from(c.attnum) == attnum)
            .map(|(c, start)| (c, *start))
    }

    /// The encoded bytes of one attribute; `None` when the segment has none.
    pub fn bytes(&self, reader: &BodyReader, attnum: i32) -> Result<Option<Vec<u8>>, String> {
        let Some((entry, start)) = self.column(attnum) else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(entry.bytes as usize);
        reader.read(
            self.location(),
            start..start + entry.bytes as usize,
            &mut bytes,
        )?;
        Ok(Some(bytes))
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        (self.header.rows as usize).div_ceil(PAGE_ROWS)
    }

    /// The rows of a page.
    pub fn page_rows(&self, page: usize) -> Range<u32> {
        let start = (page * PAGE_ROWS) as u32;
        start.min(self.header.rows)..(start + PAGE_ROWS as u32).min(self.header.rows)
    }
}

/// The page that a row is in.
pub fn page_of(row: u32) -> usize {
    row as usize / PAGE_ROWS
}

/// Segments of a companion in order of their numbers.
pub type Directory = Vec<Rc<SegmentRef>>;

/// The snapshot to read companions with when the relation is read with `wanted`: MVCC snapshots serve as they are;
/// whoever reads with another kind gets what is committed now.
pub fn reading_snapshot(wanted: pg_sys::Snapshot) -> snapshot::Registered {
    if snapshot::is_mvcc(wanted) {
        snapshot::Registered::copy_of(wanted)
    } else {
        snapshot::Registered::latest()
    }
}

/// Calls `f` with (tuple, values, nulls) for each row of a heap table that the snapshot sees.
pub fn for_each_row(
    table: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    mut f: impl FnMut(&pg_sys::HeapTupleData, &[pg_sys::Datum], &[bool]),
) {
    let desc = relation::tupdesc(table);
    let natts = relation::natts(desc);
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    // SAFETY: an ordinary heap scan of an open table; the tuple is valid until the next call.
    unsafe {
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
            | pg_sys::ScanOptions::SO_ALLOW_STRAT
            | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let scan = pg_sys::heap_beginscan(
            table,
            snapshot,
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            flags,
        );
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            f(&*tuple, &values, &nulls);
        }
        pg_sys::heap_endscan(scan);
    }
}

/// Reads the directory of a companion under an MVCC snapshot; damage is an error (`data_corrupted`).
pub fn load(rel: pg_sys::Relation, companion: &Companion, snapshot: pg_sys::Snapshot) -> Directory {
    let mut directory = match try_load(companion, snapshot) {
        Ok(directory) => directory,
        Err(damage) => super::error::corrupt(rel, damage.segment, &damage.detail),
    };
    for segment in directory.iter_mut().filter_map(Rc::get_mut) {
        if let Err(detail) = fit_order(&mut segment.header.order, relation::tupdesc(rel)) {
            super::error::corrupt(rel, segment.number, &detail);
        }
    }
    directory
}

/// Cuts the order of a segment off where a column was dropped since, or where its type or its collation makes another order
/// of its values by now: what comes behind is sorted within it only. Says what is wrong with an order that no table of the row
/// shape can have.
fn fit_order(order: &mut Vec<SortKey>, desc: pg_sys::TupleDesc) -> Result<(), String> {
    let natts = relation::natts(desc);
    for SortKey { attnum, .. } in order.iter() {
        if !(1..=natts).contains(&usize::from(*attnum)) {
            return Err(format!(
                "it is sorted by column {attnum}, which there is not"
            ));
        }
    }
    let differs = |key: &SortKey| {
        let attr = relation::attribute(desc, usize::from(key.attnum) - 1);
        attr.attisdropped
            || SortColumn::of(attr, false).is_none_or(|column| sort_key(&column) != *key)
    };
    if let Some(end) = order.iter().position(differs) {
        order.truncate(end);
    }
    Ok(())
}

/// What is wrong with a segment.
#[derive(Debug)]
pub struct Damage {
    /// The segment's number.
    pub segment: i32,
    /// What was found.
    pub detail: String,
}

/// As [`load`], with damage as a value.
pub fn try_load(companion: &Companion, snapshot: pg_sys::Snapshot) -> Result<Directory, Damage> {
    let mut found: BTreeMap<i32, Rc<SegmentRef>> = BTreeMap::new();
    let mut failed: Option<Damage> = None;
    let table = OpenRel::table(companion.segments, pg_sys::AccessShareLock);
    body::for_each_header(table.as_ptr(), snapshot, |row, segment, bytes| {
        let header = bytes.and_then(|b| SegmentHeader::from_bytes(b).map_err(|e| e.to_string()));
        let checked = header.and_then(|header| {
            if !(0..=super::tid::MAX_SEGMENT).contains(&segment) {
                Err("there is no such segment number".to_string())
            } else if found.contains_key(&segment) {
                Err("it has two headers".to_string())
            } else {
                Ok(header)
            }
        });
        match checked {
            Ok(header) => {
                let segment_ref = SegmentRef::new(segment, header, row, companion);
                found.insert(segment, Rc::new(segment_ref));
            }
            Err(detail) => failed = failed.take().or(Some(Damage { segment, detail })),
        }
    });
    match failed.or_else(|| missing_sibling(&found)) {
        Some(damage) => Err(damage),
        None => Ok(found.into_values().collect()),
    }
}

/// What the segments of a directory were encoded for: to be small where all of them are; `None` without any.
pub fn effort(segments: &Directory) -> Option<Effort> {
    let small = |s: &Rc<SegmentRef>| s.header.effort == Effort::Small;
    match segments.as_slice() {
        [] => None,
        all if all.iter().all(small) => Some(Effort::Small),
        _ => Some(Effort::Fast),
    }
}

/// A segment that others say was written with them, and that is not there.
fn missing_sibling(found: &BTreeMap<i32, Rc<SegmentRef>>) -> Option<Damage> {
    let siblings = found.values().map(|s| s.header.siblings).max()?;
    let segment = (0..siblings as i32).find(|number| !found.contains_key(number))?;
    Some(Damage {
        segment,
        detail: "its header is missing".into(),
    })
}

/// Rows of a segment that a snapshot does not see: dead from birth, or with a tombstone.
pub fn tombstones(companion: &Companion, snapshot: pg_sys::Snapshot) -> HashMap<i32, Vec<u32>> {
    let mut found: HashMap<i32, Vec<u32>> = HashMap::new();
    let table = OpenRel::table(companion.tombstones, pg_sys::AccessShareLock);
    if relation::blocks(table.as_ptr()) == 0 {
        return found;
    }
    for_each_row(table.as_ptr(), snapshot, |_, values, _| {
        found
            .entry(values[0].value() as i32)
            .or_default()
            .push(values[1].value() as u32);
    });
    found
}

thread_local! {
    /// Buffers to read and decode a page into.
    static SCRATCH: RefCell<(Vec<u8>, Page)> = RefCell::new((Vec::new(), Page::new()));
}

/// A page of a segment with (some of) its columns decoded into datums.
pub struct Decoded {
    /// The segment.
    pub segment: Rc<SegmentRef>,
    /// The page's rows.
    pub rows: Range<u32>,
    /// One entry for each attribute of the row shape; `None` where it was not asked for or is dropped.
    pub columns: Vec<Option<DatumColumn>>,
}

impl Decoded {
    /// Decodes the attributes of a page for which `wanted(index)` holds (index from 0).
    pub fn new(
        rel: pg_sys::Relation,
        segment: &Rc<SegmentRef>,
        page: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> Self {
        Self::shaped(rel, relation::tupdesc(rel), segment, page, wanted)
    }

    /// As [`Decoded::new`], for the row shape that the segment was written with where it is not the relation's any more
    /// (ALTER TABLE … TYPE reads the old rows when the catalogue has the new type already).
    pub fn shaped(
        rel: pg_sys::Relation,
        desc: pg_sys::TupleDesc,
        segment: &Rc<SegmentRef>,
        page: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> Self {
        let rows = segment.page_rows(page);
        let reader = BodyReader::new(&segment.companion);
        let columns = (0..relation::natts(desc))
            .map(|i| {
                let attr = relation::attribute(desc, i);
                (!attr.attisdropped && wanted(i)).then(|| {
                    if segment.column(i as i32 + 1).is_none() {
                        return DatumColumn::missing(desc, i, rows.len());
                    }
                    decode(&reader, segment, page, attr, i as i32 + 1).unwrap_or_else(|detail| {
                        let detail = format!("column {}: {detail}", i + 1);
                        super::error::corrupt(rel, segment.number, &detail)
                    })
                })
            })
            .collect();
        Decoded {
            segment: segment.clone(),
            rows,
            columns,
        }
    }

    /// Bytes that the decoded columns take.
    pub fn memory(&self) -> usize {
        self.columns.iter().flatten().map(DatumColumn::memory).sum()
    }

    /// Fills values and nulls of one row of the segment, which is on this page; attributes that were not decoded come out
    /// NULL.
    pub fn row(&self, row: u32, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        let at = row.wrapping_sub(self.rows.start) as usize;
        for ((column, value), null) in self.columns.iter().zip(values).zip(nulls) {
            match column.as_ref().and_then(|c| c.get(at)) {
                Some(datum) => {
                    *value = datum;
                    *null = false;
                }
                None => {
                    *value = pg_sys::Datum::from(0usize);
                    *null = true;
                }
            }
        }
    }
}

/// Decodes one column of a page that the segment has.
fn decode(
    reader: &BodyReader,
    segment: &SegmentRef,
    page: usize,
    attr: &pg_sys::FormData_pg_attribute,
    attnum: i32,
) -> Result<DatumColumn, String> {
    let column = cache::column(reader, segment, attnum)?;
    datum::check_kind(attr, column.index.kind())?;
    SCRATCH.with_borrow_mut(|(bytes, scratch)| {
        let range = column
            .index
            .page_range(page)
            .ok_or("it has fewer pages than the segment")?;
        let range = column.start + range.start..column.start + range.end;
        reader
            .with_range(segment.location(), range, bytes, |bytes| {
                column.index.decode(page, bytes, scratch)
            })?
            .map_err(|e| e.to_string())?;
        DatumColumn::from_page(attr, scratch, None, || column.dictionary(attr))
    })
}

/// Calls `f` with every page of a segment, decoded whole.
pub fn for_each_page(rel: pg_sys::Relation, segment: &Rc<SegmentRef>, mut f: impl FnMut(&Decoded)) {
    for page in 0..segment.pages() {
        pgrx::check_for_interrupts!();
        f(&Decoded::new(rel, segment, page, |_| true));
    }
}

/// Bitmap of the rows of a segment that nobody may see any more.
pub fn hidden_rows(segment: &SegmentRef, tombstones: Option<&Vec<u32>>) -> Bitmap {
    let mut hidden = segment.header.dead.clone();
    for row in tombstones.into_iter().flatten() {
        hidden.set(*row as usize, true);
    }
    hidden
}

/// As [`hidden_rows`]; `None` where there is none.
pub fn hidden_if_any(segment: &SegmentRef, tombstones: Option<&Vec<u32>>) -> Option<Bitmap> {
    let all_live = segment.live_at_birth() == u64::from(segment.header.rows);
    (!all_live || tombstones.is_some()).then(|| hidden_rows(segment, tombstones))
}
