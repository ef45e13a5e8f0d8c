//! Rows of a chunk gathered by columns, sorted, and cut into segments: the fast way of freezing, for chunks that fit into
//! `varve.freeze_memory`. Larger ones are sorted row by row and on disk (`pg::sort`).

use crate::am::builder::{self, ColumnBuilder};
use crate::am::datum::DatumColumn;
use crate::am::ranks;
use crate::am::writer::{Encoded, Layout, MAX_RAW_BYTES};
use crate::pg::relation;
use crate::pg::sort::SortColumn;
use pgrx::pg_sys;
use varve_core::bitmap::Bitmap;
use varve_core::column::{Column, Values};
use varve_core::header::MAX_ROWS;

/// Rows by columns, in the order in which they came.
pub struct Gather {
    desc: pg_sys::TupleDesc,
    columns: Vec<Option<ColumnBuilder>>,
    origins: Vec<u64>,
    order: Vec<SortColumn>,
}

impl Gather {
    /// Nothing yet; `None` where the order is one of types that are not sorted by columns.
    pub fn new(rel: pg_sys::Relation, order: &[SortColumn]) -> Option<Self> {
        let desc = relation::tupdesc(rel);
        let columns = builder::builders(desc, 0).ok()?;
        let sortable = order.iter().all(|sort| {
            columns
                .get(sort.attnum as usize - 1)
                .and_then(Option::as_ref)
                .is_some_and(|c| ranks::sortable(desc, c.values(), sort))
        });
        sortable.then_some(Gather {
            desc,
            columns,
            origins: Vec::new(),
            order: order.to_vec(),
        })
    }

    /// Adds a row, `origin` is where it lay.
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
        self.origins.push(origin);
    }

    /// Rows gathered.
    pub fn rows(&self) -> usize {
        self.origins.len()
    }

    /// Bytes that they take, and their sort will.
    pub fn memory(&self) -> usize {
        let columns: usize = self
            .columns
            .iter()
            .flatten()
            .map(ColumnBuilder::memory)
            .sum();
        columns + self.rows() * (8 + 16)
    }

    /// Hands all rows to `f` (values, nulls, origin), in the order in which they came.
    pub fn drain(self, mut f: impl FnMut(&[pg_sys::Datum], &[bool], u64)) {
        let natts = relation::natts(self.desc);
        let columns: Vec<Option<DatumColumn>> = self
            .columns
            .into_iter()
            .enumerate()
            .map(|(i, builder)| {
                let attr = relation::attribute(self.desc, i);
                DatumColumn::from_column(attr, builder?.finish()).ok()
            })
            .collect();
        let mut values = vec![pg_sys::Datum::from(0usize); natts];
        let mut nulls = vec![true; natts];
        for (row, origin) in self.origins.iter().enumerate() {
            for ((column, value), null) in columns.iter().zip(&mut values).zip(&mut nulls) {
                let datum = column.as_ref().and_then(|c| c.get(row));
                *value = datum.unwrap_or(pg_sys::Datum::from(0usize));
                *null = datum.is_none();
            }
            f(&values, &nulls, *origin);
        }
    }

    /// Sorts the rows and encodes them, segment by segment, handing each to `f` with the origins of its rows.
    pub fn encode(self, layout: &Layout, mut f: impl FnMut(Encoded, Vec<u64>)) {
        let columns: Vec<(u16, Column)> = self
            .columns
            .into_iter()
            .enumerate()
            .filter_map(|(i, builder)| Some((i as u16 + 1, builder?.finish())))
            .collect();
        let rows = ranks::sorted(&self.order, &columns, self.origins.len());
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let most = rest.len().min(MAX_ROWS as usize);
            let count = rows_within(&columns, rest, most);
            let (now, later) = rest.split_at(count);
            rest = later;
            let picked: Vec<(u16, Column)> = columns
                .iter()
                .map(|(attnum, column)| (*attnum, pick(column, now)))
                .collect();
            let raw_bytes = picked.iter().map(|(_, c)| size(c) as u64).sum();
            let encoded = Encoded::new(layout, now.len() as u32, raw_bytes, picked.into_iter());
            let origins = now
                .iter()
                .filter_map(|row| self.origins.get(*row as usize))
                .copied()
                .collect();
            f(encoded, origins);
        }
    }
}

/// Bytes of a column's values.
fn size(column: &Column) -> usize {
    match &column.values {
        Values::I8(v) => v.len(),
        Values::I16(v) => v.len() * 2,
        Values::I32(v) => v.len() * 4,
        Values::F32(v) => v.len() * 4,
        Values::I64(v) => v.len() * 8,
        Values::F64(v) => v.len() * 8,
        Values::Fixed { data, .. } => data.len(),
        Values::Bytes { data, .. } => data.len(),
    }
}

/// How many rows go into a segment whose columns must not take too many bytes.
fn rows_within(columns: &[(u16, Column)], rows: &[u32], most: usize) -> usize {
    let total: usize = columns.iter().map(|(_, c)| size(c)).sum();
    if total < MAX_RAW_BYTES {
        return most;
    }
    let mut bytes = 0;
    for (n, row) in rows.iter().take(most).enumerate() {
        bytes += columns
            .iter()
            .map(|(_, c)| c.bytes_at(*row as usize).map_or(8, <[u8]>::len))
            .sum::<usize>();
        if bytes >= MAX_RAW_BYTES {
            return n + 1;
        }
    }
    most
}

fn take<T: Copy + Default>(values: &[T], rows: &[u32]) -> Vec<T> {
    rows.iter()
        .map(|row| values.get(*row as usize).copied().unwrap_or_default())
        .collect()
}

/// Some rows of a column.
fn pick(column: &Column, rows: &[u32]) -> Column {
    let validity = column.validity.as_ref().and_then(|valid| {
        let mut bits = Bitmap::full(rows.len());
        let mut any = false;
        for (at, row) in rows.iter().enumerate() {
            if !valid.get(*row as usize) {
                bits.set(at, false);
                any = true;
            }
        }
        any.then_some(bits)
    });
    let values = match &column.values {
        Values::I8(v) => Values::I8(take(v, rows)),
        Values::I16(v) => Values::I16(take(v, rows)),
        Values::I32(v) => Values::I32(take(v, rows)),
        Values::I64(v) => Values::I64(take(v, rows)),
        Values::F32(v) => Values::F32(take(v, rows)),
        Values::F64(v) => Values::F64(take(v, rows)),
        Values::Fixed { len, data } => {
            let mut picked = Vec::with_capacity(rows.len() * len);
            for row in rows {
                let start = *row as usize * len;
                picked.extend_from_slice(data.get(start..start + len).unwrap_or_default());
            }
            Values::Fixed {
                len: *len,
                data: picked,
            }
        }
        Values::Bytes { offsets, data } => {
            let mut picked_offsets = Vec::with_capacity(rows.len() + 1);
            let mut picked = Vec::new();
            picked_offsets.push(0);
            for row in rows {
                let from = offsets.get(*row as usize).copied().unwrap_or(0) as usize;
                let to = offsets.get(*row as usize + 1).copied().unwrap_or(0) as usize;
                picked.extend_from_slice(data.get(from..to).unwrap_or_default());
                picked_offsets.push(picked.len() as u32);
            }
            Values::Bytes {
                offsets: picked_offsets,
                data: picked,
            }
        }
    };
    Column { validity, values }
}
