//! Writing segments: rows gathered into columns, encoded, and inserted into the table of segments.

use super::datum::{self, ColumnBuilder};
use crate::pg::relation::{self, OpenRel};
use crate::pg::tuple;
use pgrx::pg_sys;
use pgrx::prelude::*;
use varve_core::bitmap::Bitmap;
use varve_core::column::Column;
use varve_core::{ColumnEntry, MAX_ROWS, SegmentHeader, codec, segment_sha256};

/// Bytes of raw column data after which a segment is closed early.
const MAX_RAW_BYTES: usize = 96 << 20;

/// A segment ready to be stored.
pub struct Encoded {
    /// Header; `dead` may still be changed before it is stored.
    pub header: SegmentHeader,
    /// (attribute number, bytes).
    pub columns: Vec<(u16, Vec<u8>)>,
}

/// Gathers rows and encodes them.
pub struct SegmentBuilder {
    desc: pg_sys::TupleDesc,
    columns: Vec<Option<ColumnBuilder>>,
    rows: u32,
    origins: Vec<u64>,
    keep_origins: bool,
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
    pub fn new(desc: pg_sys::TupleDesc, keep_origins: bool) -> Self {
        let columns = datum::builders(desc, MAX_ROWS as usize).unwrap_or_else(|e| fail(&e));
        SegmentBuilder {
            desc,
            columns,
            rows: 0,
            origins: Vec::new(),
            keep_origins,
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
        let fresh = SegmentBuilder::new(self.desc, self.keep_origins);
        let done = std::mem::replace(self, fresh);
        let mut raw_bytes = 0u64;
        let mut columns = Vec::new();
        let mut entries = Vec::new();
        for (i, builder) in done.columns.into_iter().enumerate() {
            let Some(builder) = builder else { continue };
            pgrx::check_for_interrupts!();
            raw_bytes += builder.bytes() as u64;
            let column: Column = builder.finish();
            let bytes = codec::encode_column(&column).unwrap_or_else(|e| fail(&e.to_string()));
            let info = codec::describe(&bytes).unwrap_or_else(|e| fail(&e.to_string()));
            entries.push(ColumnEntry {
                attnum: i as u16 + 1,
                bytes: bytes.len() as u32,
                nulls: info.nulls,
                codec: codec_id(&bytes),
            });
            columns.push((i as u16 + 1, bytes));
        }
        let sha256 = segment_sha256(columns.iter().map(|(a, b)| (*a, b.as_slice())));
        Encoded {
            header: SegmentHeader {
                rows: done.rows,
                columns: entries,
                dead: Bitmap::new(done.rows as usize),
                origins: done.keep_origins.then_some(done.origins),
                sha256,
                raw_bytes,
            },
            columns,
        }
    }
}

/// The codec byte of an encoded column (see `varve_core::segment`).
fn codec_id(bytes: &[u8]) -> u8 {
    bytes.get(4).copied().unwrap_or(0)
}

/// Inserts rows into a table of segments.
pub struct SegmentWriter {
    table: OpenRel,
    options: i32,
    cid: pg_sys::CommandId,
}

impl SegmentWriter {
    /// A writer for a table of segments. `frozen` writes rows that every snapshot sees, which is right only in a table
    /// that this transaction made.
    pub fn new(segments: pg_sys::Oid, frozen: bool) -> Self {
        let mut options = pg_sys::HEAP_INSERT_NO_LOGICAL;
        if frozen {
            options |= pg_sys::HEAP_INSERT_FROZEN;
        }
        SegmentWriter {
            table: OpenRel::table(segments, pg_sys::RowExclusiveLock),
            options: options as i32,
            // SAFETY: inside a transaction that writes.
            cid: unsafe { pg_sys::GetCurrentCommandId(true) },
        }
    }

    fn insert(&self, number: i32, item: i32, bytes: &[u8]) {
        let data = tuple::new_bytea(bytes);
        self.insert_datum(number, item, data);
        // SAFETY: palloc'd by new_bytea.
        unsafe { pg_sys::pfree(data.cast_mut_ptr()) };
    }

    fn insert_datum(&self, number: i32, item: i32, data: pg_sys::Datum) {
        let values = [
            pg_sys::Datum::from(number as isize as usize),
            pg_sys::Datum::from(item as isize as usize),
            data,
        ];
        let nulls = [false; 3];
        // SAFETY: the three columns of the table of segments.
        unsafe {
            let row = pg_sys::heap_form_tuple(
                relation::tupdesc(self.table.as_ptr()),
                values.as_ptr(),
                nulls.as_ptr(),
            );
            pg_sys::heap_insert(
                self.table.as_ptr(),
                row,
                self.cid,
                self.options,
                std::ptr::null_mut(),
            );
            pg_sys::heap_freetuple(row);
        }
    }

    /// Stores the columns of a segment.
    pub fn write_columns(&self, number: i32, columns: &[(u16, Vec<u8>)]) {
        for (attnum, bytes) in columns {
            self.insert(number, i32::from(*attnum), bytes);
        }
    }

    /// Stores one column's bytes.
    pub fn write_column(&self, number: i32, attnum: i32, bytes: &[u8]) {
        self.insert(number, attnum, bytes);
    }

    /// Stores the header; the segment counts from then on.
    pub fn write_header(&self, number: i32, header: &SegmentHeader) {
        match header.try_to_bytes() {
            Ok(bytes) => self.insert(number, 0, &bytes),
            Err(e) => fail(&e.to_string()),
        }
    }
}
