//! The columns of the page that a scan is at, decoded as they are asked for.

use super::eval::Resolved;
use super::narrow::Narrow;
use crate::am::bloom;
use crate::am::body::{self, BodyReader, Location};
use crate::am::cache;
use crate::am::datum::{self, CachedColumn, DatumColumn, PageZone};
use crate::am::directory::SegmentRef;
use crate::am::zone::{Probe, ProbeKind, of_attribute, of_missing};
use crate::pg::relation;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use varve_core::paged::{Dictionary, Page, ValueHash, Zone};

/// One column of the table.
struct Slot {
    /// Read from the segment at hand when first asked for.
    cached: Option<Rc<CachedColumn>>,
    /// The page at hand, as far as `decoded` says.
    page: Option<Page>,
    decoded: Decoded,
    /// The bytes around the page that was read last.
    near: Near,
    /// Of values that were looked for in the segment at hand the pages that may hold them.
    masks: HashMap<ValueHash, u64>,
}

/// The piece of a body that was read last, kept from the second read on: small pages share one, and are asked for one after
/// the other.
#[derive(Default)]
struct Near {
    piece: Option<usize>,
    /// Nothing before the second read.
    bytes: Vec<u8>,
}

impl Near {
    /// The bytes of a range, if the piece that it lies in is the one that was read last.
    fn bytes(
        &mut self,
        reader: &BodyReader,
        location: Location,
        range: &Range<usize>,
    ) -> Option<&[u8]> {
        let (piece, within) = body::piece_of(range)?;
        if self.piece != Some(piece) {
            self.piece = Some(piece);
            self.bytes.clear();
            return None;
        }
        if self.bytes.is_empty() && !reader.copy_piece(location, piece, &mut self.bytes) {
            return None;
        }
        self.bytes.get(within)
    }
}

/// How much of a page is decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decoded {
    Nothing,
    /// Rows that somebody asked for once.
    Rows,
    All,
}

/// Values of a column whose pages are remembered.
const MOST_MASKS: usize = 4096;

/// A column of the page at hand.
pub enum Stored<'a> {
    /// Decoded, and the column's dictionary.
    Page(&'a Page, Option<&'a Dictionary>),
    /// The segment is older than the column: every row has its missing value, or (true) NULL.
    Missing(bool),
}

/// Reads and decodes columns of one page after the other.
pub struct Columns {
    desc: pg_sys::TupleDesc,
    segment: Option<Rc<SegmentRef>>,
    page: usize,
    rows: Range<u32>,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    /// Opened with the first column that is read.
    reader: Option<BodyReader>,
    /// Pages of columns that were decoded, for EXPLAIN.
    pub decoded: u64,
    /// Conditions that filters said no page row satisfies, for EXPLAIN.
    pub filtered: u64,
}

impl Columns {
    /// For tables of a row shape.
    pub fn new(desc: pg_sys::TupleDesc) -> Self {
        let slots = (0..relation::natts(desc))
            .map(|_| Slot {
                cached: None,
                page: None,
                decoded: Decoded::Nothing,
                near: Near::default(),
                masks: HashMap::new(),
            })
            .collect();
        Columns {
            desc,
            segment: None,
            page: 0,
            rows: 0..0,
            slots,
            bytes: Vec::new(),
            reader: None,
            decoded: 0,
            filtered: 0,
        }
    }

    /// Goes to a page of a segment.
    pub fn enter(&mut self, segment: &Rc<SegmentRef>, page: usize) {
        if !self
            .segment
            .as_ref()
            .is_some_and(|s| Rc::ptr_eq(s, segment))
        {
            self.slots.iter_mut().for_each(|s| {
                s.cached = None;
                s.near.piece = None;
                s.masks.clear();
            });
            self.segment = Some(segment.clone());
        }
        self.page = page;
        self.rows = segment.page_rows(page);
        self.slots
            .iter_mut()
            .for_each(|s| s.decoded = Decoded::Nothing);
    }

    /// As [`Columns::enter`], keeping what is decoded where the page is the one at hand.
    pub fn revisit(&mut self, segment: &Rc<SegmentRef>, page: usize) {
        let same = self.page == page
            && self
                .segment
                .as_ref()
                .is_some_and(|s| Rc::ptr_eq(s, segment));
        if !same {
            self.enter(segment, page);
        }
    }

    /// Closes what reading has opened. Called when the node ends, as the executor closes what a node opened.
    pub fn close(&mut self) {
        self.reader = None;
    }

    /// Rows of the page at hand.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// An attribute of the table.
    pub fn attribute(&self, attnum: i16) -> &'static pg_sys::FormData_pg_attribute {
        relation::attribute(self.desc, attnum as usize - 1)
    }

    /// The index of a column of the segment at hand; `None` where it is older than the column.
    fn cached(&mut self, attnum: i16) -> Result<Option<Rc<CachedColumn>>, String> {
        let index = attnum as usize - 1;
        if let Some(found) = self.slots.get(index).and_then(|s| s.cached.clone()) {
            return Ok(Some(found));
        }
        let segment = self.segment.as_ref().ok_or("no segment is at hand")?;
        if segment.column(i32::from(attnum)).is_none() {
            return Ok(None);
        }
        let reader = self
            .reader
            .get_or_insert_with(|| BodyReader::new(&segment.companion));
        let in_words = |e| format!("column {attnum}: {e}");
        let column = cache::column(reader, segment, i32::from(attnum)).map_err(in_words)?;
        datum::check_kind(self.attribute(attnum), column.index.kind()).map_err(in_words)?;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.cached = Some(column.clone());
        }
        Ok(Some(column))
    }

    /// What is known of a column of the page at hand without decoding it.
    pub fn zone(&mut self, attnum: i16) -> Result<Option<Zone>, String> {
        match self.cached(attnum)? {
            Some(column) => Ok(column.index.zone(self.page)),
            None => Ok(Some(of_missing(
                self.desc,
                attnum as usize - 1,
                self.rows.len() as u32,
            ))),
        }
    }

    /// Whether the page at hand may hold a value, as far as the filters of the column tell.
    pub fn may_hold(&mut self, attnum: i16, probe: &Probe) -> Result<bool, String> {
        let Some(column) = self.cached(attnum)? else {
            return Ok(true);
        };
        let Some(hash) = bloom::hash(&column.index, probe) else {
            return Ok(true);
        };
        let (segment, slot) = match (&self.segment, self.slots.get_mut(attnum as usize - 1)) {
            (Some(segment), Some(slot)) => (segment, slot),
            _ => return Err("no segment is at hand".into()),
        };
        let mask = match slot.masks.get(&hash) {
            Some(mask) => *mask,
            None => {
                let reader = self
                    .reader
                    .get_or_insert_with(|| BodyReader::new(&segment.companion));
                let mask = bloom::pages(reader, segment, &column, hash, &mut self.bytes)
                    .map_err(|e| format!("column {attnum}: {e}"))?;
                if slot.masks.len() >= MOST_MASKS {
                    slot.masks.clear();
                }
                slot.masks.insert(hash, mask);
                mask
            }
        };
        Ok(self.page >= 64 || mask >> self.page & 1 == 1)
    }

    /// As [`Columns::zone`], for who only looks at it.
    pub fn page_zone(&mut self, attnum: i16) -> Result<Option<PageZone>, String> {
        match self.cached(attnum)? {
            Some(column) if self.page < column.zones().len() => {
                Ok(Some(PageZone::Kept(column, self.page)))
            }
            Some(_) => Ok(None),
            None => Ok(self.zone(attnum)?.map(PageZone::Missing)),
        }
    }

    /// What is known of a column of any page; `None` where its segment has no such column or page, or it can't be read.
    pub fn zone_of(
        &mut self,
        segment: &Rc<SegmentRef>,
        page: usize,
        attnum: i16,
    ) -> Result<Option<PageZone>, String> {
        let column = self.column_of(segment, attnum)?;
        Ok(column
            .filter(|column| page < column.zones().len())
            .map(|column| PageZone::Kept(column, page)))
    }

    /// Whether a segment is known to have no value of a column between two that it has.
    pub fn adjacent(
        &mut self,
        segment: &Rc<SegmentRef>,
        attnum: i16,
        low: &[u8],
        high: &[u8],
    ) -> Result<bool, String> {
        let column = self.column_of(segment, attnum)?;
        let dictionary = column.as_ref().and_then(|c| c.index.dictionary());
        Ok(dictionary.is_some_and(|dictionary| {
            let codes = dictionary.find(low).zip(dictionary.find(high));
            codes.is_some_and(|(low, high)| low.checked_add(1) == Some(high))
        }))
    }

    /// The index of a column of any segment; `None` where it has no such column, or another segment's can't be read: damage is
    /// for those to report who need what is damaged.
    fn column_of(
        &mut self,
        segment: &Rc<SegmentRef>,
        attnum: i16,
    ) -> Result<Option<Rc<CachedColumn>>, String> {
        let at_hand = self.segment.as_ref();
        if at_hand.is_some_and(|s| Rc::ptr_eq(s, segment)) {
            return self.cached(attnum);
        }
        if segment.column(i32::from(attnum)).is_none() {
            return Ok(None);
        }
        let reader = self
            .reader
            .get_or_insert_with(|| BodyReader::new(&segment.companion));
        Ok(cache::column(reader, segment, i32::from(attnum)).ok())
    }

    /// Where zones of pages of the segment at hand may have rows that satisfy conditions on the column that it is sorted
    /// by; all pages where that is not known.
    pub fn narrowed(
        &mut self,
        narrow: &Narrow,
        values: &[Resolved],
        pages: usize,
    ) -> Result<Range<usize>, String> {
        Ok(match self.cached(narrow.attnum)? {
            Some(column) if column.ascending() && column.zones().len() == pages => {
                narrow.range(pages, |page| column.zones().get(page), values)
            }
            _ => 0..pages,
        })
    }

    /// A column of the page at hand, decoded.
    pub fn stored(&mut self, attnum: i16) -> Result<Stored<'_>, String> {
        self.read(attnum, None)
    }

    /// A column of the page at hand of which only some rows are looked at; they alone are decoded where they are few.
    pub fn stored_rows(&mut self, attnum: i16, rows: &[u16]) -> Result<Stored<'_>, String> {
        self.read(attnum, Some(rows))
    }

    fn read(&mut self, attnum: i16, rows: Option<&[u16]>) -> Result<Stored<'_>, String> {
        let Some(column) = self.cached(attnum)? else {
            let missing = of_missing(self.desc, attnum as usize - 1, 1);
            return Ok(Stored::Missing(missing.nulls > 0));
        };
        let index = attnum as usize - 1;
        let in_words = |e: String| format!("column {attnum}: {e}");
        let (segment, slot) = match (&self.segment, self.slots.get_mut(index)) {
            (Some(segment), Some(slot)) => (segment, slot),
            _ => return Err("no segment is at hand".into()),
        };
        let page = slot.page.get_or_insert_with(take_page);
        // Who comes back for other rows of a page will come again: all are decoded then.
        let rows = rows.filter(|_| slot.decoded == Decoded::Nothing);
        let done = slot.decoded == Decoded::All;
        if !done {
            let range = column
                .index
                .page_range(self.page)
                .ok_or_else(|| in_words("it has fewer pages than the segment".into()))?;
            let reader = self
                .reader
                .get_or_insert_with(|| BodyReader::new(&segment.companion));
            let range = column.start + range.start..column.start + range.end;
            let mut decode = |bytes: &[u8]| match rows {
                Some(rows) => column.index.decode_rows(self.page, bytes, rows, page),
                None => column.index.decode(self.page, bytes, page).map(|()| true),
            };
            let location = segment.location();
            let all = match slot.near.bytes(reader, location, &range) {
                Some(bytes) => decode(bytes),
                None => reader
                    .with_range(location, range, &mut self.bytes, decode)
                    .map_err(in_words)?,
            };
            let all = all.map_err(|e| in_words(e.to_string()))?;
            if page.rows() != self.rows.len() {
                return Err(in_words("a page has another number of rows".into()));
            }
            slot.decoded = if all { Decoded::All } else { Decoded::Rows };
            self.decoded += 1;
        }
        let dictionary = slot.cached.as_ref().and_then(|c| c.index.dictionary());
        Ok(Stored::Page(page, dictionary))
    }

    /// The missing value of a column; `None` for NULL.
    pub fn missing_datum(&self, attnum: i16) -> Option<pg_sys::Datum> {
        let mut null = true;
        // SAFETY: the attribute is one of the row shape.
        let datum = unsafe { pg_sys::getmissingattr(self.desc, i32::from(attnum), &mut null) };
        (!null).then_some(datum)
    }

    /// The missing value of a column, as a probe of the same kind as another.
    pub fn missing_probe(&self, attnum: i16, like: &Probe) -> Option<Probe> {
        let kind: ProbeKind = of_attribute(self.attribute(attnum)).1?;
        // SAFETY: the value is of the attribute's type.
        let probe = unsafe { kind.probe(self.missing_datum(attnum)?) };
        (std::mem::discriminant(&probe) == std::mem::discriminant(like)).then_some(probe)
    }

    /// The datums of a column in some rows of the page at hand.
    pub fn datums(&mut self, attnum: i16, rows: &[u16]) -> Result<DatumColumn, String> {
        let desc = self.desc;
        let attr = self.attribute(attnum);
        let cached = self.cached(attnum)?;
        match self.stored_rows(attnum, rows)? {
            Stored::Missing(_) => Ok(DatumColumn::missing(desc, attnum as usize - 1, rows.len())),
            Stored::Page(page, _) => DatumColumn::from_page(attr, page, Some(rows), || {
                cached.and_then(|c| c.dictionary(attr))
            }),
        }
    }
}

thread_local! {
    /// Buffers of pages of scans that have ended: to make and to zero them takes longer than a point query reads.
    static SPARE: RefCell<Vec<Page>> = const { RefCell::new(Vec::new()) };
}

/// So many buffers are kept for the next scan...
const KEPT: usize = 32;

/// ... if they have not grown beyond so many bytes.
const SMALL: usize = 1 << 16;

/// Buffers of a page.
fn take_page() -> Page {
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_default()
}

/// Keeps buffers for the next scan.
fn keep_page(page: Page) {
    // Where the process ends, nobody needs them.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT && page.spare_memory() <= SMALL {
            spare.push(page);
        }
    });
}

impl Drop for Columns {
    fn drop(&mut self) {
        for page in self.slots.drain(..).filter_map(|slot| slot.page) {
            keep_page(page);
        }
        // Nobody has closed it after an error; the resource owner has, before memory goes.
        std::mem::forget(self.reader.take());
    }
}
