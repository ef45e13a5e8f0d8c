//! The segments of a companion as a snapshot sees them, and their rows decoded.

use super::companion::Companion;
use super::datum::DatumColumn;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use crate::pg::tuple;
use pgrx::pg_sys;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::segment::SegmentHeader;

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
    /// (attribute number, varlena as it lies in the table: a TOAST pointer or the bytes).
    items: Vec<(i32, Box<[u8]>)>,
}

impl SegmentRef {
    /// Rows that were not dead from birth.
    pub fn live_at_birth(&self) -> u64 {
        u64::from(self.header.rows).saturating_sub(self.header.dead.count_ones() as u64)
    }

    /// Attribute numbers that have bytes here.
    pub fn attributes(&self) -> impl Iterator<Item = i32> + '_ {
        self.items.iter().map(|(attnum, _)| *attnum)
    }

    /// Hands the encoded bytes of one attribute to `f`; `None` when the segment has none (a column added later).
    pub fn with_bytes<T>(&self, attnum: i32, f: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let (_, raw) = self.items.iter().find(|(a, _)| *a == attnum)?;
        // The copy is aligned: varlena headers of four bytes are read as integers.
        let words = raw.len().div_ceil(8);
        let mut aligned = vec![0u64; words];
        // SAFETY: `aligned` holds at least raw.len() bytes; the copy is a valid varlena.
        unsafe {
            std::ptr::copy_nonoverlapping(raw.as_ptr(), aligned.as_mut_ptr().cast(), raw.len());
            Some(tuple::with_payload(
                pg_sys::Datum::from(aligned.as_ptr()),
                f,
            ))
        }
    }
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
    match try_load(companion, snapshot) {
        Ok(directory) => directory,
        Err(damage) => super::error::corrupt(rel, damage.segment, &damage.detail),
    }
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
    struct Draft {
        header: Option<(
            SegmentHeader,
            pg_sys::ItemPointerData,
            bool,
            pg_sys::TransactionId,
        )>,
        items: Vec<(i32, Box<[u8]>)>,
    }
    let mut drafts: std::collections::BTreeMap<i32, Draft> = Default::default();
    let mut failed: Option<(i32, String)> = None;
    let table = OpenRel::table(companion.segments, pg_sys::AccessShareLock);
    for_each_row(table.as_ptr(), snapshot, |row, values, _| {
        let number = values[0].value() as i32;
        let item = values[1].value() as i32;
        let draft = drafts.entry(number).or_insert_with(|| Draft {
            header: None,
            items: Vec::new(),
        });
        if !(0..=super::tid::MAX_SEGMENT).contains(&number) {
            failed = failed
                .take()
                .or(Some((number, "there is no such segment number".into())));
        }
        if item == 0 && draft.header.is_some() {
            failed = failed
                .take()
                .or(Some((number, "it has two headers".into())));
        } else if item == 0 {
            // SAFETY: the third column is a bytea that is never NULL; t_data is valid for this call.
            let (parsed, head) = unsafe {
                (
                    tuple::with_payload(values[2], SegmentHeader::from_bytes),
                    &*row.t_data,
                )
            };
            match parsed {
                Ok(h) => {
                    draft.header = Some((
                        h,
                        row.t_self,
                        tuple::xmin_frozen(head),
                        tuple::raw_xmin(head),
                    ));
                }
                Err(e) => failed = failed.take().or(Some((number, e.to_string()))),
            }
        } else {
            // SAFETY: as above.
            let raw = unsafe { tuple::varlena_bytes(values[2]) };
            draft.items.push((item, raw.into()));
        }
    });
    if let Some((segment, detail)) = failed {
        return Err(Damage { segment, detail });
    }
    drafts
        .into_iter()
        .map(|(number, draft)| {
            let Some((header, header_tid, frozen, xmin)) = draft.header else {
                return Err(Damage {
                    segment: number,
                    detail: "its header is missing".into(),
                });
            };
            let stored = draft.items.iter().map(|(attnum, _)| *attnum);
            match check_items(&header, stored) {
                Some(detail) => Err(Damage {
                    segment: number,
                    detail,
                }),
                None => Ok(Rc::new(SegmentRef {
                    number,
                    header,
                    header_tid,
                    frozen,
                    xmin,
                    items: draft.items,
                })),
            }
        })
        .collect()
}

/// Whether the columns that are stored are those that the header lists, each once; what is wrong if not.
pub fn check_items(header: &SegmentHeader, stored: impl Iterator<Item = i32>) -> Option<String> {
    let mut missing: std::collections::BTreeSet<i32> =
        header.columns.iter().map(|c| i32::from(c.attnum)).collect();
    let listed = missing.clone();
    for attnum in stored {
        if !missing.remove(&attnum) {
            return Some(if listed.contains(&attnum) {
                format!("column {attnum} is stored twice")
            } else {
                format!("column {attnum} is not in the header")
            });
        }
    }
    missing
        .first()
        .map(|attnum| format!("column {attnum} is missing"))
}

/// Rows of a segment that a snapshot does not see: dead from birth, or with a tombstone.
pub fn tombstones(
    companion: &Companion,
    snapshot: pg_sys::Snapshot,
) -> std::collections::HashMap<i32, Vec<u32>> {
    let mut found: std::collections::HashMap<i32, Vec<u32>> = Default::default();
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

/// A segment with (some of) its columns decoded into datums.
pub struct Decoded {
    /// The segment.
    pub segment: Rc<SegmentRef>,
    /// One entry for each attribute of the row shape; `None` where it was not asked for or is dropped.
    pub columns: Vec<Option<DatumColumn>>,
}

impl Decoded {
    /// Decodes the attributes for which `wanted(index)` holds (index from 0).
    pub fn new(
        rel: pg_sys::Relation,
        segment: &Rc<SegmentRef>,
        wanted: impl Fn(usize) -> bool,
    ) -> Self {
        Self::shaped(rel, relation::tupdesc(rel), segment, wanted)
    }

    /// As [`Decoded::new`], for the row shape that the segment was written with where it is not the relation's any more
    /// (ALTER TABLE … TYPE reads the old rows when the catalogue has the new type already).
    pub fn shaped(
        rel: pg_sys::Relation,
        desc: pg_sys::TupleDesc,
        segment: &Rc<SegmentRef>,
        wanted: impl Fn(usize) -> bool,
    ) -> Self {
        let columns = (0..relation::natts(desc))
            .map(|i| {
                let attr = relation::attribute(desc, i);
                (!attr.attisdropped && wanted(i)).then(|| {
                    let rows = segment.header.rows as usize;
                    match segment
                        .with_bytes(i as i32 + 1, |bytes| DatumColumn::decode(attr, rows, bytes))
                    {
                        Some(Ok(column)) => column,
                        Some(Err(detail)) => super::error::corrupt(
                            rel,
                            segment.number,
                            &format!("column {}: {detail}", i + 1),
                        ),
                        None => DatumColumn::missing(desc, i),
                    }
                })
            })
            .collect();
        Decoded {
            segment: segment.clone(),
            columns,
        }
    }

    /// Fills values and nulls of one row; attributes that were not decoded come out NULL.
    pub fn row(&self, row: u32, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        for ((column, value), null) in self.columns.iter().zip(values).zip(nulls) {
            match column.as_ref().and_then(|c| c.get(row as usize)) {
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

/// Bitmap of the rows of a segment that nobody may see any more.
pub fn hidden_rows(segment: &SegmentRef, tombstones: Option<&Vec<u32>>) -> Bitmap {
    let mut hidden = segment.header.dead.clone();
    for row in tombstones.into_iter().flatten() {
        hidden.set(*row as usize, true);
    }
    hidden
}
