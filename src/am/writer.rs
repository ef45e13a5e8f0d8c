//! Making segments: rows gathered into columns, encoded, and stored.

use super::body::{BodyWriter, NO_BLOCK};
use super::builder::{self, ColumnBuilder};
use super::zone::{self, Comparable};
use crate::change::kept::{Keeping, Summing};
use crate::pg::relation;
use crate::pg::sort::SortColumn;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::rc::Rc;
use varve_core::bitmap::Bitmap;
use varve_core::column::Column;
use varve_core::header::{ColumnEntry, MAX_ROWS, SegmentHeader, SortKey, segment_sha256};
use varve_core::paged::{self, Effort, EncodedColumn, Options};

/// Bytes of raw column data after which a segment is closed early.
pub const MAX_RAW_BYTES: usize = 96 << 20;

/// What segments are to be like.
#[derive(Clone)]
pub struct Layout {
    /// What they are encoded for.
    pub effort: Effort,
    /// By what their rows ascend.
    pub order: Vec<SortKey>,
    /// The attributes of which they have filters.
    pub filtered: Vec<u16>,
    /// How the checksums of their rows are made, where they keep them.
    pub checksum: Option<Rc<Keeping>>,
}

impl Layout {
    /// Of segments of a relation: filters are made of the columns that queries look values up in, as its indexes tell,
    /// but for those that the rows are sorted by.
    /// `order` is what they are sorted by.
    pub fn of(rel: pg_sys::Relation, order: &[SortColumn], effort: Effort) -> Self {
        let desc = relation::tupdesc(rel);
        let mut filtered: Vec<u16> = super::unique::index_oids(rel)
            .into_iter()
            .flat_map(relation::key_attributes)
            .filter(|attnum| order.iter().all(|column| column.attnum as u16 != *attnum))
            .filter(|attnum| {
                let attr = relation::attribute(desc, usize::from(*attnum) - 1);
                zone::of_attribute(attr).0 != Comparable::No
            })
            .collect();
        filtered.sort_unstable();
        filtered.dedup();
        Layout {
            effort,
            order: order.iter().map(sort_key).collect(),
            filtered,
            checksum: Keeping::of(desc).map(Rc::new),
        }
    }
}

/// What a header says of a column that rows ascend by.
pub fn sort_key(column: &SortColumn) -> SortKey {
    SortKey {
        attnum: column.attnum as u16,
        operator: column.operator.to_u32(),
        collation: column.collation.to_u32(),
    }
}

/// A segment ready to be stored.
pub struct Encoded {
    /// Header; `dead` may still be changed before it is stored.
    pub header: SegmentHeader,
    /// The encoded columns, in the order of the header's.
    pub columns: Vec<Vec<u8>>,
}

impl Encoded {
    /// Encodes columns (attribute number, values) of a segment of a layout.
    pub fn new(
        layout: &Layout,
        rows: u32,
        raw_bytes: u64,
        columns: impl Iterator<Item = (u16, Column)>,
    ) -> Self {
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        let mut checksum = layout
            .checksum
            .as_deref()
            .map(|keeping| keeping.begin(rows));
        for (attnum, column) in columns {
            pgrx::check_for_interrupts!();
            if let Some(checksum) = &mut checksum {
                checksum.add(attnum, &column);
            }
            let options = Options {
                effort: layout.effort,
                filters: layout.filtered.contains(&attnum),
            };
            let encoded = encode(&column, options);
            entries.push(entry(attnum, &column, &encoded));
            bytes.push(encoded.bytes);
        }
        let parts = entries.iter().zip(&bytes);
        let sha256 = segment_sha256(parts.map(|(e, b)| (e.attnum, b.as_slice())));
        Encoded {
            header: SegmentHeader {
                rows,
                columns: entries,
                order: layout.order.clone(),
                location: NO_BLOCK,
                siblings: 0,
                dead: Bitmap::new(rows as usize),
                origins: None,
                sha256,
                raw_bytes,
                effort: layout.effort,
                checksum: checksum.and_then(Summing::end),
            },
            columns: bytes,
        }
    }

    /// Stores the body, and notes in the header where.
    pub fn store_body(&mut self, writer: &BodyWriter, number: i32) {
        let parts: Vec<&[u8]> = self.columns.iter().map(Vec::as_slice).collect();
        self.header.location = writer.write_body(number, &parts);
        self.columns = Vec::new();
    }

    /// Stores the header; the segment counts from then on.
    pub fn store_header(&self, writer: &BodyWriter, number: i32) {
        store_header(&self.header, writer, number);
    }
}

/// Stores a header.
pub fn store_header(header: &SegmentHeader, writer: &BodyWriter, number: i32) {
    let bytes = header.to_bytes().unwrap_or_else(|e| fail(&e.to_string()));
    writer.write_header(number, &bytes);
}

/// What a header says of an encoded column.
pub fn entry(attnum: u16, column: &Column, encoded: &EncodedColumn) -> ColumnEntry {
    ColumnEntry {
        attnum,
        kind: column.kind(),
        codec: encoded.codec,
        form: 0,
        bytes: encoded.bytes.len() as u32,
        index_len: encoded.index_len,
        summary: encoded.summary.clone(),
    }
}

/// Encodes a column; can be cancelled.
pub fn encode(column: &Column, options: impl Into<Options>) -> EncodedColumn {
    let mut pause = || {
        pgrx::check_for_interrupts!();
    };
    paged::encode_pausing(column, options, &mut pause).unwrap_or_else(|e| fail(&e.to_string()))
}

/// Gathers rows and encodes them.
pub struct SegmentBuilder {
    desc: pg_sys::TupleDesc,
    columns: Vec<Option<ColumnBuilder>>,
    rows: u32,
    origins: Vec<u64>,
    keep_origins: bool,
    layout: Layout,
}

fn fail(message: &str) -> ! {
    super::error::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot freeze rows: {message}"),
        None,
        None,
    )
}

impl SegmentBuilder {
    /// An empty segment of a row shape. `keep_origins` stores where each row came from.
    pub fn new(desc: pg_sys::TupleDesc, layout: Layout, keep_origins: bool) -> Self {
        let columns = builder::builders(desc, MAX_ROWS as usize).unwrap_or_else(|e| fail(&e));
        SegmentBuilder {
            desc,
            columns,
            rows: 0,
            origins: Vec::new(),
            keep_origins,
            layout,
        }
    }

    /// Rows gathered.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Whether the segment has to be closed before another row.
    pub fn full(&self) -> bool {
        self.rows >= MAX_ROWS
            || self
                .columns
                .iter()
                .flatten()
                .map(ColumnBuilder::bytes)
                .sum::<usize>()
                >= MAX_RAW_BYTES
    }

    /// Adds a row. `origin` is where it lay.
    ///
    /// # Safety
    /// Values and nulls have one entry for each attribute, with datums of the attributes' types.
    pub unsafe fn push(&mut self, values: &[pg_sys::Datum], nulls: &[bool], origin: u64) {
        for ((column, value), null) in self.columns.iter_mut().zip(values).zip(nulls) {
            match column {
                Some(c) if *null => c.push_null(),
                // SAFETY: by contract.
                Some(c) => unsafe { c.push(*value) },
                None => {}
            }
        }
        if self.keep_origins {
            self.origins.push(origin);
        }
        self.rows += 1;
    }

    /// Encodes what was gathered and starts over.
    pub fn finish(&mut self) -> Encoded {
        let fresh = SegmentBuilder::new(self.desc, self.layout.clone(), self.keep_origins);
        let done = std::mem::replace(self, fresh);
        let rows = done.rows;
        let raw_bytes = done
            .columns
            .iter()
            .flatten()
            .map(|b| b.bytes() as u64)
            .sum();
        let columns = done
            .columns
            .into_iter()
            .enumerate()
            .filter_map(|(i, builder)| Some((i as u16 + 1, builder?.finish())));
        let mut encoded = Encoded::new(&done.layout, rows, raw_bytes, columns);
        encoded.header.origins = done.keep_origins.then_some(done.origins);
        encoded
    }
}
