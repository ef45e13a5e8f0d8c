//! The keys of frozen rows, as far as looking one up needs them.
//!
//! Where zones leave a few pages of a segment (rows lie in the order of the key, as a rule), the key columns of those
//! pages are decoded and compared. Where they don't, Bloom filters may (rows lie in another order): they are asked until as
//! many pages were decoded on their word as the segment has. Then, or without them, the keys of the whole segment are
//! hashed once.

use super::bloom;
use super::body::BodyReader;
use super::builder::ColumnBuilder;
use super::cache::{self, Bounded, SegmentKey};
use super::datum::DatumColumn;
use super::directory::{Decoded, SegmentRef};
use super::error::corrupt;
use super::evaluator::{KeyEvaluator, RowSlot};
use super::unique::{UniqueIndex, key_attribute};
use super::zone::{Comparison, Probe, Verdict, judge};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;

/// Pages of a segment that are looked through for one key rather than hashing the segment.
const FEW_PAGES: usize = 4;

/// Bytes of keys, decoded or hashed, that a backend keeps.
const KEY_BYTES: usize = 64 << 20;

/// Segments of which a backend keeps how many pages Bloom filters led to.
const MOST_LED: usize = 10_000;

/// Where in a segment a key may be.
pub enum Candidates {
    /// Nowhere.
    None,
    /// On these pages.
    Pages(Vec<usize>),
    /// Anywhere.
    Segment,
}

/// The keys of one page.
pub struct PageKeys {
    page: Decoded,
    attnums: Vec<i16>,
    /// The columns of the key by which the rows ascend.
    ascending: Vec<usize>,
}

/// The keys of one segment.
pub struct SegmentKeys {
    /// (hash, row), sorted.
    entries: Vec<(u64, u32)>,
    /// The key columns, by spans of rows: first row, columns.
    spans: Vec<(u32, Vec<DatumColumn>)>,
}

type PageSlot = (u32, SegmentKey, usize);
type SegmentSlot = (u32, SegmentKey);

thread_local! {
    static PAGES: RefCell<Bounded<PageSlot, Rc<PageKeys>>> = RefCell::new(Bounded::new());
    static SEGMENTS: RefCell<Bounded<SegmentSlot, Rc<SegmentKeys>>> = RefCell::new(Bounded::new());
    /// Pages that Bloom filters led to.
    static LED: RefCell<Bounded<SegmentSlot, usize>> = RefCell::new(Bounded::new());
}

/// Forgets all keys.
pub fn clear_cache() {
    PAGES.with_borrow_mut(Bounded::clear);
    SEGMENTS.with_borrow_mut(Bounded::clear);
    LED.with_borrow_mut(Bounded::clear);
}

/// Where in a segment rows may be that hold a key with these values.
pub fn candidates(
    rel: pg_sys::Relation,
    index: &UniqueIndex,
    segment: &SegmentRef,
    probes: &[Option<Probe>],
) -> Candidates {
    let Some(attnums) = &index.plain else {
        return Candidates::Segment;
    };
    let mut pages: Option<Vec<usize>> = None;
    for (attnum, probe) in attnums.iter().zip(probes) {
        let (Some(probe), Some((entry, _))) = (probe, segment.column(i32::from(*attnum))) else {
            continue;
        };
        if judge(&entry.summary, Comparison::Equal, probe) == Verdict::Never {
            return Candidates::None;
        }
    }
    for (attnum, probe) in attnums.iter().zip(probes) {
        let (Some(probe), true) = (probe, segment.column(i32::from(*attnum)).is_some()) else {
            continue;
        };
        let column = cache::column_of(rel, segment, i32::from(*attnum));
        let may_hold = |page: &usize| {
            column
                .index
                .zone(*page)
                .is_none_or(|z| judge(&z, Comparison::Equal, probe) != Verdict::Never)
        };
        pages = Some(match pages {
            Some(some) => some.into_iter().filter(may_hold).collect(),
            None => (0..segment.pages()).filter(may_hold).collect(),
        });
    }
    if let Some(some) = &mut pages
        && some.len() > FEW_PAGES
    {
        by_filters(rel, index, segment, attnums, probes, some);
    }
    match pages {
        Some(none) if none.is_empty() => Candidates::None,
        Some(few) if few.len() <= FEW_PAGES => Candidates::Pages(few),
        _ => Candidates::Segment,
    }
}

/// Leaves those of the pages that may hold the key as far as Bloom filters tell, unless hashing pays by now.
fn by_filters(
    rel: pg_sys::Relation,
    index: &UniqueIndex,
    segment: &SegmentRef,
    attnums: &[i16],
    probes: &[Option<Probe>],
    pages: &mut Vec<usize>,
) {
    let slot = (index.oid.to_u32(), cache::key_of(segment));
    let led = LED.with_borrow_mut(|l| l.get(&slot)).unwrap_or(0);
    if led >= segment.pages() || SEGMENTS.with_borrow_mut(|s| s.get(&slot)).is_some() {
        return;
    }
    let mut mask = u64::MAX;
    let mut reader = None;
    for (attnum, probe) in attnums.iter().zip(probes) {
        let (Some(probe), true) = (probe, segment.column(i32::from(*attnum)).is_some()) else {
            continue;
        };
        let column = cache::column_of(rel, segment, i32::from(*attnum));
        if let Some(hash) = bloom::hash(&column.index, probe) {
            let reader = reader.get_or_insert_with(|| BodyReader::new(&segment.companion));
            mask &= bloom::pages(reader, segment, &column, hash, &mut Vec::new()).unwrap_or_else(
                |detail| corrupt(rel, segment.number, &format!("column {attnum}: {detail}")),
            );
        }
    }
    pages.retain(|page| *page >= 64 || mask >> page & 1 == 1);
    if !pages.is_empty() && pages.len() <= FEW_PAGES {
        let now = led + pages.len();
        LED.with_borrow_mut(|l| l.put(slot, now, 1, MOST_LED));
    }
}

/// The keys of a page in an index without expressions and predicate.
pub fn page(
    rel: pg_sys::Relation,
    index: &UniqueIndex,
    segment: &Rc<SegmentRef>,
    page: usize,
) -> Rc<PageKeys> {
    let slot = (index.oid.to_u32(), cache::key_of(segment), page);
    if let Some(found) = PAGES.with_borrow_mut(|p| p.get(&slot)) {
        return found;
    }
    let attnums = index.plain.clone().unwrap_or_default();
    let decoded = Decoded::new(rel, segment, page, |i| attnums.contains(&(i as i16 + 1)));
    let size = decoded.memory();
    let fresh = Rc::new(PageKeys {
        page: decoded,
        attnums,
        ascending: index.ascending(&segment.header.order),
    });
    PAGES.with_borrow_mut(|p| p.put(slot, fresh.clone(), size, KEY_BYTES));
    fresh
}

impl PageKeys {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.page.rows.len()
    }

    /// The first row's number in its segment.
    pub fn first(&self) -> u32 {
        self.page.rows.start
    }

    /// The value of a row, counted on the page, in a column of the key.
    pub fn value(&self, column: usize, row: usize) -> Option<pg_sys::Datum> {
        let attnum = *self.attnums.get(column)? as usize;
        self.page.columns.get(attnum - 1)?.as_ref()?.get(row)
    }

    /// Calls `f` with each row that holds the key, dead ones left out.
    pub fn matching(
        &self,
        index: &UniqueIndex,
        key: &[Option<pg_sys::Datum>],
        f: &mut impl FnMut(u32),
    ) {
        let columns: Vec<Option<&DatumColumn>> = self
            .attnums
            .iter()
            .map(|a| self.page.columns.get(*a as usize - 1)?.as_ref())
            .collect();
        let dead = &self.page.segment.header.dead;
        let value = |at: usize, row: usize| columns.get(at).copied().flatten()?.get(row);
        let whole = key.iter().all(Option::is_some);
        let by: &[usize] = if whole { &self.ascending } else { &[] };
        // Rows with the key's values in the columns by which they ascend lie together.
        let order = |row: usize| index.compare(by, |at| value(at, row), key);
        let (mut low, mut high) = (0, self.page.rows.len());
        while low < high {
            let middle = low.midpoint(high);
            if order(middle).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        for at in (low..self.page.rows.len()).take_while(|at| order(*at).is_eq()) {
            let row = self.page.rows.start + at as u32;
            let stored: Vec<_> = (0..columns.len()).map(|column| value(column, at)).collect();
            if index.equal(key, &stored) && !dead.get(row as usize) {
                f(row);
            }
        }
    }
}

/// The hashed keys of a segment.
pub fn segment(
    rel: pg_sys::Relation,
    index: &UniqueIndex,
    segment: &Rc<SegmentRef>,
) -> Rc<SegmentKeys> {
    let mut key = cache::key_of(segment);
    if index.plain.is_none() {
        // What an expression comes to may be another thing after REINDEX.
        key.0 = segment.companion.generation;
    }
    let slot = (index.oid.to_u32(), key);
    if let Some(found) = SEGMENTS.with_borrow_mut(|s| s.get(&slot)) {
        return found;
    }
    let mut keys = SegmentKeys {
        entries: Vec::new(),
        spans: Vec::new(),
    };
    for page in 0..segment.pages() {
        pgrx::check_for_interrupts!();
        match &index.plain {
            Some(attnums) => keys.add_plain(rel, index, segment, page, attnums),
            None => keys.add_evaluated(rel, index, segment, page),
        }
    }
    keys.entries.sort_unstable();
    let memory: usize = keys
        .spans
        .iter()
        .flat_map(|(_, c)| c)
        .map(DatumColumn::memory)
        .sum();
    let size = memory + keys.entries.len() * size_of::<(u64, u32)>();
    let fresh = Rc::new(keys);
    SEGMENTS.with_borrow_mut(|s| s.put(slot, fresh.clone(), size, KEY_BYTES));
    fresh
}

impl SegmentKeys {
    fn add(
        &mut self,
        index: &UniqueIndex,
        segment: &SegmentRef,
        row: u32,
        key: &[Option<pg_sys::Datum>],
    ) {
        if !segment.header.dead.get(row as usize)
            && let Some(hash) = index.hash(key)
        {
            self.entries.push((hash, row));
        }
    }

    fn add_plain(
        &mut self,
        rel: pg_sys::Relation,
        index: &UniqueIndex,
        segment: &Rc<SegmentRef>,
        page: usize,
        attnums: &[i16],
    ) {
        let columns: Vec<DatumColumn> = attnums
            .iter()
            .map(|attnum| {
                let at = *attnum as usize - 1;
                // One by one: an index may name a column twice.
                Decoded::new(rel, segment, page, |i| i == at)
                    .columns
                    .into_iter()
                    .nth(at)
                    .flatten()
                    .unwrap_or_else(|| corrupt(rel, segment.number, "a key column is missing"))
            })
            .collect();
        let rows = segment.page_rows(page);
        let mut key = vec![None; columns.len()];
        for row in rows.clone() {
            let at = (row - rows.start) as usize;
            for (value, column) in key.iter_mut().zip(&columns) {
                *value = column.get(at);
            }
            self.add(index, segment, row, &key);
        }
        self.spans.push((rows.start, columns));
    }

    fn add_evaluated(
        &mut self,
        rel: pg_sys::Relation,
        index: &UniqueIndex,
        segment: &Rc<SegmentRef>,
        page: usize,
    ) {
        let decoded = Decoded::new(rel, segment, page, |_| true);
        let slot = RowSlot::new(rel);
        let mut evaluator = KeyEvaluator::new(index.oid);
        let keys = evaluator.keys();
        let attributes: Vec<_> = (0..keys)
            .map(|i| key_attribute(evaluator.tupdesc(), i))
            .collect();
        let fail = |e: String| -> ! { corrupt(rel, segment.number, &e) };
        let mut builders: Vec<ColumnBuilder> = attributes
            .iter()
            .map(|a| ColumnBuilder::new(a, decoded.rows.len()).unwrap_or_else(|e| fail(e)))
            .collect();
        let mut key = vec![None; keys];
        for row in decoded.rows.clone() {
            slot.fill(rel, &decoded, row);
            let Some((values, nulls)) = evaluator.evaluate(slot.0) else {
                builders.iter_mut().for_each(ColumnBuilder::push_null);
                continue;
            };
            for (((k, value), null), b) in key.iter_mut().zip(values).zip(nulls).zip(&mut builders)
            {
                *k = (!null).then_some(*value);
                match k {
                    // SAFETY: a value of the index column's type.
                    Some(datum) => unsafe { b.push(*datum) },
                    None => b.push_null(),
                }
            }
            self.add(index, segment, row, &key);
        }
        let columns = builders
            .into_iter()
            .zip(&attributes)
            .map(|(b, a)| DatumColumn::from_column(a, b.finish()).unwrap_or_else(|e| fail(e)))
            .collect();
        self.spans.push((decoded.rows.start, columns));
    }

    /// Calls `f` with each row that holds the key.
    pub fn matching(
        &self,
        index: &UniqueIndex,
        hash: u64,
        key: &[Option<pg_sys::Datum>],
        f: &mut impl FnMut(u32),
    ) {
        let start = self.entries.partition_point(|(h, _)| *h < hash);
        let same = self
            .entries
            .iter()
            .skip(start)
            .take_while(|(h, _)| *h == hash);
        for (_, row) in same {
            let after = self.spans.partition_point(|(first, _)| first <= row);
            let Some((first, columns)) = after.checked_sub(1).and_then(|at| self.spans.get(at))
            else {
                continue;
            };
            let at = (row - first) as usize;
            let stored: Vec<_> = columns.iter().map(|c| c.get(at)).collect();
            if index.equal(key, &stored) {
                f(*row);
            }
        }
    }
}
