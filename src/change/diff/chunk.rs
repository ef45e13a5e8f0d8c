//! A frozen chunk that is read past the executor: page by page of its segments, and its delta.

use crate::am::datum::DatumColumn;
use crate::am::directory::{self, Directory, SegmentRef};
use crate::am::error::corrupt;
use crate::am::{cache, companion};
use crate::change::kept;
use crate::pg::memory::Context;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Registered;
use crate::scan::columns::Columns;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::change::cell_hash;

/// Takes rows: the values of a relation's columns, in their order.
pub type Take<'a> = &'a mut dyn FnMut(&[pg_sys::Datum], &[bool]);

/// Which rows are wanted: by values of the columns at these places, the others NULL.
pub type Test<'a> = (
    &'a [usize],
    &'a mut dyn FnMut(&[pg_sys::Datum], &[bool]) -> bool,
);

/// A segment's counterpart in the other relation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The place of its chunk among the other relation's.
    pub at: usize,
    /// Its number there.
    pub number: i32,
    /// Rows that both show, or a few more.
    pub rows: u32,
    /// Whether both hold the same rows; otherwise the same keys, one behind the other.
    pub equal: bool,
}

/// A chunk.
pub struct Chunk {
    /// The table.
    pub table: OpenRel,
    /// The attributes of the relation's columns in it.
    pub attnums: Vec<i16>,
    /// By the segment's number; the others are read whole.
    pub pairs: HashMap<i32, Pair>,
    /// Its frozen rows, and about as many as its delta has room for.
    rows: u64,
}

/// Rows of a block of the delta, as they often are.
const ROWS_IN_BLOCK: u64 = 100;

impl Chunk {
    /// A table that is open and has frozen rows.
    pub fn new(table: OpenRel, attnums: Vec<i16>, snapshot: &Registered) -> Self {
        let directory = cache::directory_for(table.as_ptr(), snapshot.get()).unwrap_or_default();
        let frozen = directory.iter().map(|s| u64::from(s.header.rows));
        let delta = u64::from(relation::blocks(table.as_ptr())) * ROWS_IN_BLOCK;
        Chunk {
            rows: frozen.sum::<u64>() + delta,
            table,
            attnums,
            pairs: HashMap::new(),
        }
    }

    /// Its OID.
    pub fn oid(&self) -> pg_sys::Oid {
        relation::oid(self.table.as_ptr())
    }

    /// Segments that the snapshot sees all rows of, with the sum of these, as far as headers say it.
    pub fn each_sum(&self, snapshot: &Registered, mut f: impl FnMut(&SegmentRef, u128)) {
        let mut columns = kept::Columns::of(relation::tupdesc(self.table.as_ptr()));
        let open = OpenChunk::new(self, snapshot);
        for segment in open.directory.iter() {
            pgrx::check_for_interrupts!();
            if let (None, Some(sum)) = (open.hidden(segment), columns.kept(&segment.header)) {
                f(segment, sum);
            }
        }
    }

    /// Segments that have no counterpart yet, with the number of rows that the snapshot sees.
    pub fn each_single(&self, snapshot: &Registered, mut f: impl FnMut(&Rc<SegmentRef>, u32)) {
        let open = OpenChunk::new(self, snapshot);
        let directory = open.directory.iter();
        for segment in directory.filter(|s| !self.pairs.contains_key(&s.number)) {
            pgrx::check_for_interrupts!();
            f(segment, open.shown(segment));
        }
    }

    /// Whether less than three quarters of its rows have a counterpart.
    pub fn is_poor(&self) -> bool {
        let paired: u64 = self.pairs.values().map(|pair| u64::from(pair.rows)).sum();
        paired * 4 < self.rows * 3
    }

    /// What segments agree in that may have the same keys in the same places, and whose other columns are stored alike; `None` where a
    /// value comes from elsewhere. `places` are those of all columns, the first `key` of them the key's.
    pub fn look(&self, segment: &SegmentRef, places: &[usize], key: usize) -> Option<u128> {
        let desc = relation::tupdesc(self.table.as_ptr());
        let mut look = segment.header.rows.to_le_bytes().to_vec();
        for (at, place) in places.iter().enumerate() {
            let attnum = *self.attnums.get(*place)?;
            match segment.column(attnum.into()) {
                None if relation::attribute(desc, attnum as usize - 1).atthasmissing => {
                    return None;
                }
                None => look.push(0),
                Some((entry, _)) => {
                    look.extend([1, entry.form]);
                    look.extend(format!("{:?}", entry.kind).into_bytes());
                    if at < key {
                        look.push(entry.codec);
                        look.extend(entry.bytes.to_le_bytes());
                        look.extend(entry.summary.to_bytes());
                    }
                }
            }
        }
        Some(cell_hash(0, &look))
    }
}

/// A chunk that is being read.
pub struct OpenChunk<'a> {
    /// The chunk.
    pub chunk: &'a Chunk,
    /// Its segments.
    pub directory: Rc<Directory>,
    /// Rows that were taken out of their segments.
    gone: HashMap<i32, Vec<u32>>,
    /// At a page.
    pub columns: Columns,
    memory: Context,
}

impl<'a> OpenChunk<'a> {
    /// As a snapshot sees it.
    pub fn new(chunk: &'a Chunk, snapshot: &Registered) -> Self {
        let rel = chunk.table.as_ptr();
        let directory = cache::directory_for(rel, snapshot.get()).unwrap_or_default();
        let gone = companion::of(rel).map(|c| directory::tombstones(&c, snapshot.get()));
        OpenChunk {
            chunk,
            directory,
            gone: gone.unwrap_or_default(),
            columns: Columns::new(relation::tupdesc(rel)),
            memory: Context::new(),
        }
    }

    /// A segment by its number.
    pub fn segment(&self, number: i32) -> Rc<SegmentRef> {
        // A directory is in the order of the segments' numbers.
        let at = self.directory.binary_search_by_key(&number, |s| s.number);
        match at.ok().and_then(|at| self.directory.get(at)) {
            Some(segment) => segment.clone(),
            None => self.corrupt(number, "it is gone"),
        }
    }

    /// The rows of a segment that the snapshot does not see; `None` where it sees all.
    pub fn hidden(&self, segment: &SegmentRef) -> Option<Bitmap> {
        directory::hidden_if_any(segment, self.gone.get(&segment.number))
    }

    /// How many rows of a segment the snapshot sees.
    pub fn shown(&self, segment: &SegmentRef) -> u32 {
        let hidden = self.hidden(segment).map_or(0, |rows| rows.count_ones());
        segment.header.rows.saturating_sub(hidden as u32)
    }

    /// Raises the error of a damaged segment.
    pub fn corrupt(&self, segment: i32, detail: &str) -> ! {
        corrupt(self.chunk.table.as_ptr(), segment, detail)
    }

    /// Hands on rows of the page that the columns are at, those that are wanted.
    pub fn hand_on(
        &mut self,
        segment: &SegmentRef,
        rows: &[u16],
        wanted: Option<&mut Test>,
        take: Take,
    ) {
        let mut chosen = Vec::new();
        let mut rows = rows;
        if let Some((places, test)) = wanted {
            let mut at = 0;
            self.each(segment, rows, Some(places), &mut |values, nulls| {
                if test(values, nulls) {
                    chosen.extend(rows.get(at));
                }
                at += 1;
            });
            rows = &chosen;
        }
        if !rows.is_empty() {
            self.each(segment, rows, None, take);
        }
    }

    /// Hands on all of these rows; values of columns that are not at one of the places are NULL.
    fn each(&mut self, segment: &SegmentRef, rows: &[u16], places: Option<&[usize]>, take: Take) {
        let columns = self.datums(rows, places);
        let columns = columns.unwrap_or_else(|detail| self.corrupt(segment.number, &detail));
        let mut values = vec![pg_sys::Datum::from(0usize); columns.len()];
        let mut nulls = vec![true; columns.len()];
        for row in 0..rows.len() {
            let to = values.iter_mut().zip(&mut nulls);
            for (column, (value, null)) in columns.iter().zip(to) {
                let datum = column.as_ref().and_then(|column| column.get(row));
                *null = datum.is_none();
                *value = datum.unwrap_or(pg_sys::Datum::from(0usize));
            }
            self.memory.within(|| take(&values, &nulls));
            self.memory.reset();
        }
    }

    fn datums(
        &mut self,
        rows: &[u16],
        places: Option<&[usize]>,
    ) -> Result<Vec<Option<DatumColumn>>, String> {
        let attnums = self.chunk.attnums.iter().enumerate();
        let columns = attnums.map(|(place, attnum)| {
            let asked = places.is_none_or(|places| places.contains(&place));
            let datums = asked.then(|| self.columns.datums(*attnum, rows));
            datums.transpose()
        });
        columns.collect()
    }

    /// Hands on a row of the chunk's own shape, if it is wanted.
    pub fn arrange(
        &self,
        row: (&[pg_sys::Datum], &[bool]),
        to: &mut (Vec<pg_sys::Datum>, Vec<bool>),
        wanted: Option<&mut Test>,
        take: Take,
    ) {
        let (values, nulls) = to;
        values.clear();
        nulls.clear();
        for attnum in &self.chunk.attnums {
            let at = *attnum as usize - 1;
            let value = row.0.get(at).copied();
            values.push(value.unwrap_or(pg_sys::Datum::from(0usize)));
            nulls.push(row.1.get(at).copied().unwrap_or(true));
        }
        self.memory.within(|| {
            if wanted.is_none_or(|(_, test)| test(values, nulls)) {
                take(values, nulls);
            }
        });
        self.memory.reset();
    }
}

impl Drop for OpenChunk<'_> {
    fn drop(&mut self) {
        // After an error the resource owner has closed it.
        if !std::thread::panicking() {
            self.columns.close();
        }
    }
}
