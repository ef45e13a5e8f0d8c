//! The rows of a batch: gathered by columns within `varve.upsert_work_mem`, beyond it in a sort on disk; then given back
//! chunk by chunk in key order, of several with one key the last.

use crate::am::builder::{self, ColumnBuilder};
use crate::am::datum::DatumColumn;
use crate::am::ranks;
use crate::pg::memory;
use crate::pg::relation;
use crate::pg::sort::{RowSort, SortColumn};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;
use varve_core::column::Column;

/// Rows that are handed on at a time.
pub const RUN: usize = 1000;

/// What rows of a batch look like.
pub struct Shape {
    /// The batch's columns and, behind them, the OID of the row's chunk.
    desc: pg_sys::TupleDesc,
    /// Number of columns, the chunk's OID not counted.
    pub columns: usize,
    /// By what rows are sorted within a chunk: the key.
    key: Vec<SortColumn>,
}

impl Shape {
    /// Of columns with these attributes; `key` names some of them by their position, counted from 1.
    pub fn new(attributes: &[pg_sys::FormData_pg_attribute], key: Vec<SortColumn>) -> Self {
        let columns = attributes.len();
        let desc = relation::row_shape(attributes, 1);
        let last = columns as i16 + 1;
        // SAFETY: a row shape of our own, with room for one column more.
        unsafe {
            pg_sys::TupleDescInitEntry(desc, last, c"chunk".as_ptr(), pg_sys::OIDOID, -1, 0);
        }
        Shape { desc, columns, key }
    }

    /// Attributes of the columns.
    pub fn attributes(&self) -> Vec<pg_sys::FormData_pg_attribute> {
        (0..self.columns).map(|i| *self.attribute(i)).collect()
    }

    /// Attribute of a column.
    pub fn attribute(&self, column: usize) -> &pg_sys::FormData_pg_attribute {
        relation::attribute(self.desc, column)
    }
}

enum Store {
    Columns {
        columns: Vec<ColumnBuilder>,
        chunks: Vec<u32>,
        numbers: Vec<u64>,
    },
    Sort(RowSort, Counts),
}

/// How many rows chunks have.
#[derive(Default)]
struct Counts {
    counts: HashMap<u32, u64>,
    /// The chunk of the last row, and how many rows before it are not in `counts` yet.
    last: (u32, u64),
}

impl Counts {
    fn add(&mut self, chunk: u32) {
        if self.last.0 != chunk {
            self.settle();
            self.last.0 = chunk;
        }
        self.last.1 += 1;
    }

    fn settle(&mut self) {
        *self.counts.entry(self.last.0).or_default() += self.last.1;
        self.last.1 = 0;
    }
}

/// Rows of a batch as they come.
pub struct BatchRows {
    shape: Rc<Shape>,
    store: Store,
    count: u64,
    limit: usize,
    /// Whether rows go to disk when they have taken the memory that they may take.
    spills: bool,
    full: bool,
}

impl BatchRows {
    /// None yet; `limit` is the memory in bytes that they may take, before they go to disk (`spills`) or are to be written.
    pub fn new(shape: Shape, limit: usize, spills: bool) -> Self {
        let builders: Option<Vec<ColumnBuilder>> = builder::builders(shape.desc, 0)
            .ok()
            .and_then(|all| all.into_iter().take(shape.columns).collect());
        let columns = builders.filter(|columns| {
            shape.key.iter().all(|sort| {
                let column = columns.get(sort.attnum as usize - 1);
                column.is_some_and(|c| {
                    default_order(&shape, sort) && ranks::sortable(shape.desc, c.values(), sort)
                })
            })
        });
        let store = match columns {
            Some(columns) => Store::Columns {
                columns,
                chunks: Vec::new(),
                numbers: Vec::new(),
            },
            None => Store::Sort(sorter(&shape, limit), Counts::default()),
        };
        BatchRows {
            shape: Rc::new(shape),
            store,
            count: 0,
            limit,
            spills,
            full: false,
        }
    }

    /// Rows so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a row of a chunk.
    ///
    /// # Safety
    /// One value and NULL flag for each column of the shape.
    pub unsafe fn push(
        &mut self,
        values: &[pg_sys::Datum],
        nulls: &[bool],
        chunk: pg_sys::Oid,
        number: u64,
    ) {
        match &mut self.store {
            Store::Columns {
                columns,
                chunks,
                numbers,
            } => {
                for ((column, value), null) in columns.iter_mut().zip(values).zip(nulls) {
                    if *null {
                        column.push_null();
                    } else {
                        // SAFETY: by contract.
                        unsafe { column.push(*value) };
                    }
                }
                chunks.push(chunk.to_u32());
                numbers.push(number);
                if taken(columns, chunks) > self.limit {
                    if self.spills {
                        self.spill();
                    } else {
                        self.full = true;
                    }
                }
            }
            Store::Sort(sort, counts) => {
                counts.add(chunk.to_u32());
                put(sort, values, nulls, chunk, number);
            }
        }
        self.count += 1;
    }

    /// Whether they are to be written.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Goes on in a sort that goes to disk.
    fn spill(&mut self) {
        let sort = sorter(&self.shape, self.limit);
        let fresh = Store::Sort(sort, Counts::default());
        let before = std::mem::replace(&mut self.store, fresh);
        let Store::Columns {
            columns,
            chunks,
            numbers,
        } = before
        else {
            return;
        };
        let Store::Sort(sort, counts) = &mut self.store else {
            return;
        };
        let columns = datums(&self.shape, columns.into_iter().map(ColumnBuilder::finish));
        let mut values = vec![pg_sys::Datum::from(0usize); self.shape.columns];
        let mut nulls = vec![true; self.shape.columns];
        for (row, (chunk, number)) in chunks.iter().zip(numbers).enumerate() {
            pick(&columns, row, &mut values, &mut nulls);
            counts.add(*chunk);
            put(sort, &values, &nulls, pg_sys::Oid::from_u32(*chunk), number);
        }
    }

    /// Sorts the rows.
    pub fn sorted(self) -> SortedRows {
        let source = match self.store {
            Store::Columns {
                columns,
                chunks,
                numbers,
            } => {
                let finished: Vec<(u16, Column)> = columns
                    .into_iter()
                    .enumerate()
                    .map(|(i, builder)| (i as u16 + 1, builder.finish()))
                    .collect();
                let (order, same) =
                    ranks::in_groups(Some(&chunks), &self.shape.key, &finished, chunks.len());
                Source::Columns {
                    columns: datums(&self.shape, finished.into_iter().map(|(_, c)| c)),
                    chunks,
                    numbers,
                    order,
                    same,
                    at: 0,
                }
            }
            Store::Sort(mut sort, mut counts) => {
                sort.perform();
                counts.settle();
                Source::Sort {
                    counts,
                    keys: self.shape.key.iter().map(|k| (*k, k.support())).collect(),
                    sort,
                    ahead: None,
                }
            }
        };
        SortedRows {
            shape: self.shape,
            source,
        }
    }
}

/// Whether a column is sorted by its type's default operators, as ranks are.
fn default_order(shape: &Shape, sort: &SortColumn) -> bool {
    let attr = shape.attribute(sort.attnum as usize - 1);
    sort.operator == relation::ordering_operator(attr.atttypid, false)
}

fn taken(columns: &[ColumnBuilder], chunks: &[u32]) -> usize {
    let columns: usize = columns.iter().map(ColumnBuilder::memory).sum();
    // The sort's keys and order, and the datums that rows are read as.
    columns * 2 + chunks.len() * (4 + 8 + 16 + 5)
}

fn sorter(shape: &Shape, limit: usize) -> RowSort {
    let place = |attnum: i16, typ| SortColumn {
        attnum,
        operator: relation::ordering_operator(typ, false),
        collation: pg_sys::InvalidOid,
        nulls_first: false,
    };
    let chunk = shape.columns as i16 + 1;
    let mut order = vec![place(chunk, pg_sys::OIDOID)];
    order.extend_from_slice(&shape.key);
    // The number that a row comes in as: of several with one key the last one is to come last.
    order.push(place(chunk + 1, pg_sys::INT8OID));
    RowSort::new(shape.desc, &order, (limit / 1024) as i32)
}

fn put(
    sort: &mut RowSort,
    values: &[pg_sys::Datum],
    nulls: &[bool],
    chunk: pg_sys::Oid,
    number: u64,
) {
    let values: Vec<_> = values.iter().copied().chain([chunk.into()]).collect();
    let nulls: Vec<_> = nulls.iter().copied().chain([false]).collect();
    sort.put(&values, &nulls, number);
}

fn datums(shape: &Shape, columns: impl Iterator<Item = Column>) -> Vec<DatumColumn> {
    columns
        .enumerate()
        .map(|(i, column)| {
            DatumColumn::from_column(shape.attribute(i), column)
                .unwrap_or_else(|e| pgrx::error!("a batch cannot be read: {e}"))
        })
        .collect()
}

fn pick(columns: &[DatumColumn], row: usize, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
    for ((column, value), null) in columns.iter().zip(values).zip(nulls) {
        let datum = column.get(row);
        *value = datum.unwrap_or(pg_sys::Datum::from(0usize));
        *null = datum.is_none();
    }
}

enum Source {
    Columns {
        columns: Vec<DatumColumn>,
        chunks: Vec<u32>,
        numbers: Vec<u64>,
        order: Vec<u32>,
        same: Vec<bool>,
        at: usize,
    },
    Sort {
        sort: RowSort,
        counts: Counts,
        keys: Vec<(SortColumn, pg_sys::SortSupportData)>,
        /// The number of the row in the sort's slot, where it was not handed on yet.
        ahead: Option<u64>,
    },
}

/// Rows of a batch in their order.
pub struct SortedRows {
    shape: Rc<Shape>,
    source: Source,
}

/// Some rows of one chunk, in key order, no two with the same key.
pub struct Run {
    /// Their chunk.
    pub chunk: pg_sys::Oid,
    columns: usize,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    numbers: Vec<u64>,
    /// Rows of the batch that went into them.
    pub read: u64,
}

impl Run {
    fn new(columns: usize) -> Self {
        Run {
            chunk: pg_sys::InvalidOid,
            columns,
            values: Vec::with_capacity(columns * RUN),
            nulls: Vec::with_capacity(columns * RUN),
            numbers: Vec::with_capacity(RUN),
            read: 0,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nulls.is_empty()
    }

    /// Values and NULL flags of a row.
    pub fn row(&self, row: usize) -> (&[pg_sys::Datum], &[bool]) {
        let span = row * self.columns..(row + 1) * self.columns;
        (
            self.values.get(span.clone()).unwrap_or_default(),
            self.nulls.get(span).unwrap_or_default(),
        )
    }

    /// The numbers that rows came with.
    pub fn number(&self, row: usize) -> u64 {
        self.numbers.get(row).copied().unwrap_or(0)
    }

    /// Where a row is to be filled in: the last one's place where it repeats its key, else a new one.
    fn place(&mut self, repeats: bool, number: u64) -> (&mut [pg_sys::Datum], &mut [bool]) {
        if repeats {
            self.numbers.pop();
        } else {
            let len = self.nulls.len() + self.columns;
            self.values.resize(len, pg_sys::Datum::from(0usize));
            self.nulls.resize(len, true);
        }
        self.numbers.push(number);
        self.last()
    }

    fn last(&mut self) -> (&mut [pg_sys::Datum], &mut [bool]) {
        let start = self.nulls.len().saturating_sub(self.columns);
        (
            self.values.get_mut(start..).unwrap_or_default(),
            self.nulls.get_mut(start..).unwrap_or_default(),
        )
    }
}

impl SortedRows {
    /// What rows look like.
    pub fn shape(&self) -> Rc<Shape> {
        self.shape.clone()
    }

    /// Gives back memory and files.
    pub fn end(self) {
        if let Source::Sort { sort, .. } = self.source {
            sort.end();
        }
    }

    /// The chunk of the next rows; `None` after the last.
    pub fn chunk_ahead(&mut self) -> Option<pg_sys::Oid> {
        let chunk = match &mut self.source {
            Source::Columns {
                chunks, order, at, ..
            } => *chunks.get(*order.get(*at)? as usize)?,
            Source::Sort { sort, ahead, .. } => {
                if ahead.is_none() {
                    *ahead = Some(sort.next()?);
                }
                // SAFETY: the slot holds a row with the chunk's OID behind the columns.
                let chunk = unsafe { *(*sort.slot()).tts_values.add(self.shape.columns) };
                chunk.value() as u32
            }
        };
        Some(pg_sys::Oid::from_u32(chunk))
    }

    /// The chunks, by their OIDs, and how many rows each has, those that later ones make void included. Asked before the
    /// first row.
    pub fn chunks(&self) -> Vec<(pg_sys::Oid, u64)> {
        let mut counts = match &self.source {
            Source::Sort { counts, .. } => counts.counts.clone(),
            Source::Columns { chunks, .. } => {
                let mut counts = Counts::default();
                chunks.iter().for_each(|chunk| counts.add(*chunk));
                counts.settle();
                counts.counts
            }
        };
        counts.retain(|_, rows| *rows > 0);
        let mut chunks: Vec<(pg_sys::Oid, u64)> = counts
            .into_iter()
            .map(|(chunk, rows)| (pg_sys::Oid::from_u32(chunk), rows))
            .collect();
        chunks.sort_unstable_by_key(|(chunk, _)| chunk.to_u32());
        chunks
    }

    /// The next rows, at most [`RUN`]; `None` after the last. Their values live as long as the current memory context, and
    /// as the sorted rows.
    pub fn next_run(&mut self) -> Option<Run> {
        let mut run = Run::new(self.shape.columns);
        match &mut self.source {
            Source::Columns {
                columns,
                chunks,
                numbers,
                order,
                same,
                at,
            } => {
                while let Some(row) = order.get(*at).map(|row| *row as usize) {
                    let chunk = chunks.get(row).copied().unwrap_or(0);
                    let repeats = same.get(*at) == Some(&true) && !run.is_empty();
                    if run.is_empty() {
                        run.chunk = pg_sys::Oid::from_u32(chunk);
                    } else if !repeats && (run.len() == RUN || run.chunk.to_u32() != chunk) {
                        break;
                    }
                    let number = numbers.get(row).copied().unwrap_or(0);
                    let (values, nulls) = run.place(repeats, number);
                    pick(columns, row, values, nulls);
                    run.read += 1;
                    *at += 1;
                }
            }
            Source::Sort {
                sort, keys, ahead, ..
            } => {
                loop {
                    let number = match ahead.take() {
                        Some(number) => number,
                        None => match sort.next() {
                            Some(number) => number,
                            None => break,
                        },
                    };
                    *ahead = Some(number);
                    // SAFETY: the slot holds a row with the chunk's OID behind the columns.
                    let (values, nulls, chunk) = unsafe {
                        let slot = &*sort.slot();
                        (
                            std::slice::from_raw_parts(slot.tts_values, self.shape.columns),
                            std::slice::from_raw_parts(slot.tts_isnull, self.shape.columns),
                            pg_sys::Oid::from_u32(
                                (*slot.tts_values.add(self.shape.columns)).value() as u32,
                            ),
                        )
                    };
                    let mut repeats = false;
                    if run.is_empty() {
                        run.chunk = chunk;
                    } else {
                        repeats = run.chunk == chunk && same_key(keys, run.last().0, values);
                        if !repeats && (run.len() == RUN || run.chunk != chunk) {
                            break;
                        }
                    }
                    let (to, to_nulls) = run.place(repeats, number);
                    to_nulls.copy_from_slice(nulls);
                    for (i, ((to, from), null)) in to.iter_mut().zip(values).zip(nulls).enumerate()
                    {
                        *to = match null {
                            true => pg_sys::Datum::from(0usize),
                            false => memory::copy_datum(*from, self.shape.attribute(i)),
                        };
                    }
                    run.read += 1;
                    *ahead = None;
                }
            }
        }
        (!run.is_empty()).then_some(run)
    }
}

/// Whether two rows have the same key.
fn same_key(
    keys: &mut [(SortColumn, pg_sys::SortSupportData)],
    a: &[pg_sys::Datum],
    b: &[pg_sys::Datum],
) -> bool {
    keys.iter_mut().all(|(column, support)| {
        let at = column.attnum as usize - 1;
        let (Some(a), Some(b), Some(compare)) = (a.get(at), b.get(at), support.comparator) else {
            return false;
        };
        // SAFETY: the comparator of the column's type on two of its values; keys are not NULL.
        unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| compare(*a, *b, support)) == 0 }
    })
}
