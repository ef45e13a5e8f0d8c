//! The columns of the page that a scan is at, decoded as they are asked for.

use super::eval::Resolved;
use super::narrow::Narrow;
use crate::am::body::BodyReader;
use crate::am::cache;
use crate::am::datum::{self, CachedColumn, DatumColumn, PageZone};
use crate::am::directory::SegmentRef;
use crate::am::zone::{Probe, ProbeKind, of_attribute, of_missing};
use crate::pg::relation;
use pgrx::pg_sys;
use std::ops::Range;
use std::rc::Rc;
use varve_core::paged::{Dictionary, Page, Zone};

/// One column of the table.
struct Slot {
    /// Read from the segment at hand when first asked for.
    cached: Option<Rc<CachedColumn>>,
    /// The page at hand, where `decoded` is set.
    page: Option<Box<Page>>,
    decoded: bool,
}

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
    reader: Option<BodyReader>,
    /// Pages of columns that were decoded, for EXPLAIN.
    pub decoded: u64,
}

impl Columns {
    /// For tables of a row shape.
    pub fn new(desc: pg_sys::TupleDesc) -> Self {
        let slots = (0..relation::natts(desc))
            .map(|_| Slot {
                cached: None,
                page: None,
                decoded: false,
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
        }
    }

    /// Goes to a page of a segment. [`Columns::leave`] must be called before the server gets control back.
    pub fn enter(&mut self, segment: &Rc<SegmentRef>, page: usize) {
        if !self
            .segment
            .as_ref()
            .is_some_and(|s| Rc::ptr_eq(s, segment))
        {
            self.slots.iter_mut().for_each(|s| s.cached = None);
            self.segment = Some(segment.clone());
        }
        self.page = page;
        self.rows = segment.page_rows(page);
        self.slots.iter_mut().for_each(|s| s.decoded = false);
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

    /// Closes what was opened to read.
    pub fn leave(&mut self) {
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
        let page = slot.page.get_or_insert_with(|| Box::new(Page::new()));
        if !slot.decoded {
            let range = column
                .index
                .page_range(self.page)
                .ok_or_else(|| in_words("it has fewer pages than the segment".into()))?;
            let reader = self
                .reader
                .get_or_insert_with(|| BodyReader::new(&segment.companion));
            let range = column.start + range.start..column.start + range.end;
            reader
                .with_range(segment.location(), range, &mut self.bytes, |bytes| {
                    column.index.decode(self.page, bytes, page)
                })
                .map_err(in_words)?
                .map_err(|e| in_words(e.to_string()))?;
            if page.rows() != self.rows.len() {
                return Err(in_words("a page has another number of rows".into()));
            }
            slot.decoded = true;
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
        match self.stored(attnum)? {
            Stored::Missing(_) => Ok(DatumColumn::missing(desc, attnum as usize - 1, rows.len())),
            Stored::Page(page, _) => DatumColumn::from_page(attr, page, Some(rows), || {
                cached.and_then(|c| c.dictionary(attr))
            }),
        }
    }
}
