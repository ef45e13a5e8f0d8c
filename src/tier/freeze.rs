//! Freezing a chunk: rows that every snapshot sees go into segments of new storage, the rest into its delta.
//!
//! The long part (read, sort, encode) runs under `SHARE UPDATE EXCLUSIVE`, which no reader or writer meets. Then the
//! chunk is locked for a moment: pages written meanwhile (known by their LSN) are read again, versions that are not in
//! the segments are carried into the new delta with their MVCC history, encoded rows that were changed are marked dead,
//! and the storage is swapped. All of it is one transaction.

use super::carry::{self, Carry, Cutoffs, Graves};
use super::gather::Gather;
use super::order::{self, RowOrder};
use super::{lock, rewrite};
use crate::am::body::BodyWriter;
use crate::am::companion::{self, Companion};
use crate::am::directory::{self, Directory};
use crate::am::tid::{self, Place};
use crate::am::writer::{Encoded, Layout, SegmentBuilder};
use crate::pg::ffi::{self, raw};
use crate::pg::relation::{self, OpenRel};
use crate::pg::sort::{RowSort, SortColumn};
use crate::pg::{snapshot, tuple};
use crate::progress::{Operation, Phase, Work};
use pgrx::pg_sys;
use pgrx::pg_sys::HTSV_Result;
use std::collections::HashSet;
use varve_core::paged::Effort;

/// Words of a page's bitmap of encoded line pointers (at most 291 on a page).
const PAGE_WORDS: usize = 5;

/// What a freeze did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Report {
    /// Rows in segments now.
    pub frozen: u64,
    /// Rows left in the delta.
    pub delta: u64,
}

/// One bit for each line pointer of a page.
type PageBits = [u64; PAGE_WORDS];

fn bit(offset: u16) -> (usize, u64) {
    let bit = usize::from(offset.saturating_sub(1));
    (bit / 64, 1 << (bit % 64))
}

fn has(bits: Option<&PageBits>, offset: u16) -> bool {
    let (word, mask) = bit(offset);
    bits.and_then(|b| b.get(word))
        .is_some_and(|w| w & mask != 0)
}

fn set(bits: &mut PageBits, offset: u16) {
    let (word, mask) = bit(offset);
    if let Some(w) = bits.get_mut(word) {
        *w |= mask;
    }
}

/// What is known of the old delta's pages from the first reading.
struct Pages {
    /// Line pointers whose rows were encoded.
    encoded: Vec<PageBits>,
    /// Those of them whose rows are not any more what was encoded.
    gone: Vec<PageBits>,
    /// Pages with versions that were not.
    mixed: Vec<bool>,
    /// WAL position before the first page was read; `None` where pages carry no LSN.
    start: Option<u64>,
}

impl Pages {
    fn is_encoded(&self, block: u32, offset: u16) -> bool {
        has(self.encoded.get(block as usize), offset)
    }

    /// Notes that of a page's encoded rows only those in `intact` are what they were.
    fn keep_only(&mut self, block: u32, intact: &PageBits) {
        let encoded = self.encoded.get(block as usize).copied();
        if let (Some(encoded), Some(gone)) = (encoded, self.gone.get_mut(block as usize)) {
            for ((g, e), i) in gone.iter_mut().zip(encoded).zip(intact) {
                *g = e & !i;
            }
        }
    }

    fn is_gone(&self, tid: &pg_sys::ItemPointerData) -> bool {
        let (block, offset) = tuple::tid_parts(tid);
        has(self.gone.get(block as usize), offset)
    }
}

/// Freezes a table of access method heap or varve; what is frozen already is encoded anew. The caller has checked
/// privileges and that the table may be frozen.
pub fn freeze(oid: pg_sys::Oid, order: &RowOrder, effort: Effort) -> Report {
    let table = OpenRel::table(oid, pg_sys::ShareUpdateExclusiveLock);
    let old = table.as_ptr();
    super::check_not_in_use(old, c"freeze");
    let persistence = relation::form(old).relpersistence;
    let logged = persistence == pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char;
    let reading = snapshot::Registered::latest();
    // SAFETY: the horizon of all snapshots, ours included.
    let horizon = unsafe { pg_sys::GetOldestNonRemovableTransactionId(old) };
    let from = companion::of(old);
    let settled: Directory = from
        .as_ref()
        .map(|c| directory::load(old, c, reading.get()))
        .unwrap_or_default()
        .into_iter()
        .filter(|s| carry::is_settled(s, horizon))
        .collect();

    let mut work = Work::begin(Operation::Freeze, oid);
    let mut source = Source::new(old, order);
    let mut pages = read_delta(old, horizon, logged, &mut work, |values, nulls, key| {
        // SAFETY: values of the relation's row shape.
        unsafe { source.put(values, nulls, key) };
    });
    if let Some(c) = &from {
        let graves = Graves::read(c, reading.get(), horizon);
        let mut gone: std::collections::HashMap<i32, Vec<u32>> = Default::default();
        for place in &graves.gone {
            gone.entry(place.segment).or_default().push(place.row);
        }
        read_segments(old, &settled, &gone, &mut work, |values, nulls, key| {
            // SAFETY: values of the relation's row shape.
            unsafe { source.put(values, nulls, key) };
        });
    }

    let new_oid = rewrite::new_storage(old, rewrite::varve_am(), pg_sys::ShareUpdateExclusiveLock);
    let transient = OpenRel::table(new_oid, pg_sys::AccessExclusiveLock);
    let new = transient.as_ptr();
    let to = companion::create(new, oid);
    let (mut encoded, keys) = encode(old, source, &to, effort, &mut work);
    if logged {
        // The commit's flush, under the exclusive lock, then finds little left to write.
        // SAFETY: writes WAL out up to the end of the last record of ours.
        unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
    }
    // Standbys cancel snapshots that are older than what the segments show to everybody.
    super::conflict::log(old, horizon);

    work.phase(Phase::Exchanging, 0);
    lock::exclusively(oid);
    // Rows get other item pointers: what transactions have read of them counts for the table from now on.
    // SAFETY: an open relation.
    unsafe { ffi::TransferPredicateLocksToHeapRelation(old) };
    let cutoffs = Cutoffs::of(old);
    let latest = snapshot::Registered::latest();
    // Frozen rows that came to be meanwhile (`varve.debug_freeze`) are read now, with the first companion too.
    let from = companion::of(old);
    let (segments, graves) = match &from {
        Some(c) => (
            directory::load(old, c, latest.get()),
            Graves::read(c, latest.get(), cutoffs.oldest_xmin),
        ),
        None => (Directory::new(), Graves::none()),
    };
    let encoded_before: HashSet<i32> = settled.iter().map(|s| s.number).collect();
    let fresh: Directory = segments
        .iter()
        .filter(|s| !encoded_before.contains(&s.number))
        .cloned()
        .collect();
    let thawed: HashSet<Place> = graves
        .gone
        .iter()
        .copied()
        .chain(graves.recent.iter().map(|t| t.place))
        .collect();
    let mut carry = Carry::begin(old, new, &cutoffs, &graves.recent);
    carry_delta(old, &mut pages, horizon, &cutoffs, &mut carry);
    carry::carry_segments(&mut carry, old, &fresh, &graves.hidden());
    carry::carry_graves(&mut carry, old, &segments, &graves.recent);
    let mut report = Report {
        delta: carry.live,
        ..Report::default()
    };
    carry.end();
    carry::ensure_a_page(new);
    bury(&mut encoded, &keys, &pages, &thawed);
    let writer = BodyWriter::new(to.segments, true);
    let siblings = encoded.len() as u32;
    for (number, segment) in encoded.iter_mut().enumerate() {
        segment.header.siblings = siblings;
        report.frozen += u64::from(segment.header.rows) - segment.header.dead.count_ones() as u64;
        segment.store_header(&writer, number as i32);
    }
    drop(writer);
    rewrite::set_stats(new, report.frozen + report.delta);
    drop(latest);
    drop(reading);
    drop(transient);
    drop(table);
    rewrite::swap(oid, new_oid, &cutoffs, persistence);
    report
}

/// Reads the delta and hands every row that all snapshots see to `put` (values, nulls, origin).
fn read_delta(
    rel: pg_sys::Relation,
    horizon: pg_sys::TransactionId,
    logged: bool,
    work: &mut Work,
    mut put: impl FnMut(&mut [pg_sys::Datum], &mut [bool], u64),
) -> Pages {
    let desc = relation::tupdesc(rel);
    let natts = relation::natts(desc);
    // SAFETY: reads the WAL insert position.
    let start = logged.then(|| unsafe { pg_sys::GetXLogInsertRecPtr() });
    let blocks = relation::blocks(rel);
    work.phase(Phase::Reading, blocks.into());
    let mut pages = Pages {
        encoded: vec![[0; PAGE_WORDS]; blocks as usize],
        gone: vec![[0; PAGE_WORDS]; blocks as usize],
        mixed: vec![false; blocks as usize],
        start,
    };
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    // SAFETY: a ring of buffers, so that the reading does not sweep the cache.
    let strategy =
        unsafe { pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD) };
    for (block, (encoded, mixed)) in (0..blocks).zip(pages.encoded.iter_mut().zip(&mut pages.mixed))
    {
        pgrx::check_for_interrupts!();
        work.add(1);
        let wanted = |offset: u16, head: &pg_sys::HeapTupleHeaderData, state| {
            let take =
                state == HTSV_Result::HEAPTUPLE_LIVE && rewrite::visible_to_all(head, horizon);
            if take {
                set(encoded, offset);
            } else if state != HTSV_Result::HEAPTUPLE_DEAD {
                *mixed = true;
            }
            take
        };
        let mut take = |row: &mut pg_sys::HeapTupleData| {
            // SAFETY: a row of this relation; `put` copies what it keeps.
            unsafe {
                raw::heap_deform_tuple(row, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
                put(&mut values, &mut nulls, tuple::tid_key(&row.t_self));
            }
        };
        // Values that lie elsewhere are fetched when the page is let go.
        for version in carry::visit_page(rel, block, horizon, strategy, wanted, &mut take) {
            // SAFETY: our copy of a row of this relation.
            unsafe {
                take(&mut *version.tuple);
                pg_sys::heap_freetuple(version.tuple);
            }
        }
    }
    // SAFETY: made above.
    unsafe { pg_sys::FreeAccessStrategy(strategy) };
    pages
}

fn read_segments(
    rel: pg_sys::Relation,
    segments: &Directory,
    gone: &std::collections::HashMap<i32, Vec<u32>>,
    work: &mut Work,
    mut put: impl FnMut(&mut [pg_sys::Datum], &mut [bool], u64),
) {
    let natts = relation::natts(relation::tupdesc(rel));
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    work.phase(Phase::Decoding, segments.len() as u64);
    for segment in segments {
        work.add(1);
        let hidden = directory::hidden_rows(segment, gone.get(&segment.number));
        directory::for_each_page(rel, segment, |page| {
            for row in page.rows.clone() {
                if hidden.get(row as usize) {
                    continue;
                }
                page.row(row, &mut values, &mut nulls);
                let place = Place {
                    segment: segment.number,
                    row,
                };
                put(&mut values, &mut nulls, tuple::tid_key(&tid::encode(place)));
            }
        });
    }
}

/// Rows to be frozen, by columns in memory as long as they fit, else one by one in a sort that goes to disk.
struct Source {
    rel: pg_sys::Relation,
    order: Vec<SortColumn>,
    gather: Option<Gather>,
    sorter: Option<RowSort>,
    rows: u64,
}

impl Source {
    fn new(rel: pg_sys::Relation, order: &RowOrder) -> Self {
        let order = order.resolve(rel);
        let gather = Gather::new(rel, &order).filter(|_| crate::settings::freeze_memory() > 0);
        let sorter = gather.is_none().then(|| order::sorter(rel, &order));
        Source {
            rel,
            order,
            gather,
            sorter,
            rows: 0,
        }
    }

    /// How many rows there are.
    fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a row.
    ///
    /// # Safety
    /// Values of the relation's row shape.
    unsafe fn put(&mut self, values: &[pg_sys::Datum], nulls: &[bool], origin: u64) {
        self.rows += 1;
        let Some(gather) = &mut self.gather else {
            if let Some(sorter) = &mut self.sorter {
                sorter.put(values, nulls, origin);
            }
            return;
        };
        // SAFETY: by contract.
        unsafe { gather.push(values, nulls, origin) };
        let check = gather.rows() % 1024 == 0;
        if check && gather.memory() > crate::settings::freeze_memory() {
            let mut sorter = order::sorter(self.rel, &self.order);
            if let Some(gather) = self.gather.take() {
                gather.drain(|values, nulls, origin| sorter.put(values, nulls, origin));
            }
            self.sorter = Some(sorter);
        }
    }
}

/// Encodes rows in their order and stores their columns; headers follow under the lock. Also returns where each row came
/// from, segment by segment.
fn encode(
    rel: pg_sys::Relation,
    source: Source,
    to: &Companion,
    effort: Effort,
    work: &mut Work,
) -> (Vec<Encoded>, Vec<Vec<u64>>) {
    work.phase(Phase::Encoding, source.rows());
    let writer = BodyWriter::new(to.segments, true);
    let mut segments: Vec<Encoded> = Vec::new();
    let mut keys: Vec<Vec<u64>> = Vec::new();
    let mut close = |mut done: Encoded, origins: Vec<u64>| {
        let number = segments.len() as i32;
        if number > tid::MAX_SEGMENT {
            pgrx::error!("the chunk has too many rows to be frozen");
        }
        done.store_body(&writer, number);
        work.add(origins.len() as u64);
        segments.push(done);
        keys.push(origins);
    };
    let layout = Layout::of(rel, &source.order, effort);
    if let Some(gather) = source.gather {
        gather.encode(&layout, close);
    } else if let Some(sorter) = source.sorter {
        let mut builder = SegmentBuilder::new(relation::tupdesc(rel), layout, false);
        let mut here = Vec::new();
        sorter.drain(|values, nulls, key| {
            if builder.full() {
                close(builder.finish(), std::mem::take(&mut here));
            }
            // SAFETY: the sorter returns rows of the relation's shape.
            unsafe { builder.push(values, nulls, key) };
            here.push(key);
        });
        if builder.rows() > 0 {
            close(builder.finish(), here);
        }
    }
    writer.finish_new();
    (segments, keys)
}

/// Carries what is not in the segments, and collects encoded rows that are not what they were.
fn carry_delta(
    rel: pg_sys::Relation,
    pages: &mut Pages,
    horizon: pg_sys::TransactionId,
    cutoffs: &Cutoffs,
    carry: &mut Carry,
) {
    for block in 0..relation::blocks(rel) {
        let known = pages.mixed.get(block as usize);
        if known == Some(&false) && !changed_since(rel, block, pages.start) {
            continue;
        }
        let mut intact: PageBits = [0; PAGE_WORDS];
        let none = std::ptr::null_mut();
        let versions = carry::read_page(
            rel,
            block,
            cutoffs.oldest_xmin,
            none,
            |offset, head, state| {
                let same = pages.is_encoded(block, offset)
                    && rewrite::visible_to_all(head, horizon)
                    && state == HTSV_Result::HEAPTUPLE_LIVE;
                if same {
                    set(&mut intact, offset);
                }
                !same
            },
        );
        for version in versions {
            carry.version(version);
        }
        pages.keep_only(block, &intact);
    }
}

/// Whether a page was written after `start`; pages without LSNs always count as written.
fn changed_since(rel: pg_sys::Relation, block: u32, start: Option<u64>) -> bool {
    let Some(start) = start else {
        return true;
    };
    // SAFETY: the page is pinned and share-locked while its LSN is read.
    unsafe {
        let buffer = pg_sys::ReadBufferExtended(
            rel,
            pg_sys::ForkNumber::MAIN_FORKNUM,
            block,
            pg_sys::ReadBufferMode::RBM_NORMAL,
            std::ptr::null_mut(),
        );
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let lsn = pg_sys::PageGetLSN(pg_sys::BufferGetPage(buffer));
        pg_sys::UnlockReleaseBuffer(buffer);
        lsn > start
    }
}

/// Marks rows of the new segments dead that were changed or thawed since they were read.
fn bury(segments: &mut [Encoded], keys: &[Vec<u64>], pages: &Pages, thawed: &HashSet<Place>) {
    for (segment, keys) in segments.iter_mut().zip(keys) {
        for (row, key) in keys.iter().enumerate() {
            let origin = tuple::tid_from_key(*key);
            let dead = match tid::decode(&origin) {
                Some(place) => thawed.contains(&place),
                None => pages.is_gone(&origin),
            };
            if dead {
                segment.header.dead.set(row, true);
            }
        }
    }
}
