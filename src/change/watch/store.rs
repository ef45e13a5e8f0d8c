//! The tables of checkpoints, past SQL where much is written or where a relation is being dropped.
//!
//! `varve.checkpoint` has a row for each checkpoint, `varve.checkpoint_chunk` one for each of its chunks, `varve.checkpoint_rows` blocks
//! of entries for rows that lay in no segment.

use super::error::damaged;
use crate::am::retained;
use crate::pg::catalog::{self, First};
use crate::pg::memory;
use crate::pg::relation::{self, OpenRel};
use crate::pg::tuple::{new_bytea, slot_values, with_payload};
use pgrx::pg_sys;
use varve_core::change::checkpoint::Generation;
use varve_core::change::entries::{Block, BlockWriter, Entry};

/// A table of ours and its indexes; `None` where the extension is not there (any more).
fn table(name: &str, lockmode: u32) -> Option<OpenRel> {
    OpenRel::try_open(ours(name)?, lockmode)
}

fn ours(name: &str) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up.
    let schema = unsafe { pg_sys::get_namespace_oid(c"varve".as_ptr(), true) };
    relation::lookup(name, schema)
}

/// Such a table, which must be there.
fn need(name: &str, lockmode: u32) -> OpenRel {
    table(name, lockmode).unwrap_or_else(|| pgrx::error!("varve.{name} does not exist"))
}

/// Hands on the rows of a table with a value in a column, by an index that begins with it, as they are now.
fn each(
    table: &OpenRel,
    index: &str,
    (attnum, value): (i16, First),
    f: impl FnMut(pg_sys::HeapTuple),
) {
    if let Some(index) = ours(index) {
        catalog::each_where(table, index, &[(attnum, value)], f);
    }
}

/// The value of a column; zero for NULL.
///
/// # Safety
/// A row of the table, which has such a column.
unsafe fn column(table: &OpenRel, row: pg_sys::HeapTuple, attnum: i32) -> pg_sys::Datum {
    let mut null = false;
    // SAFETY: by contract.
    unsafe { pg_sys::heap_getattr(row, attnum, relation::tupdesc(table.as_ptr()), &mut null) }
}

/// Deletes a row.
///
/// # Safety
/// A row of the table, which nobody else changes.
unsafe fn delete(table: &OpenRel, row: pg_sys::HeapTuple) {
    // SAFETY: by contract.
    unsafe { pg_sys::simple_heap_delete(table.as_ptr(), &mut (*row).t_self) };
}

/// Makes what was written seen by what follows.
fn step() {
    // SAFETY: inside a transaction that writes.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Whether a checkpoint refers to a table of segments.
pub fn refers_to(segments: pg_sys::Oid) -> bool {
    let Some(table) = table("checkpoint_chunk", pg_sys::AccessShareLock) else {
        return false;
    };
    let mut found = false;
    each(
        &table,
        "checkpoint_chunk_segments",
        (4, First::Oid(segments)),
        |_| {
            found = true;
        },
    );
    found
}

/// Removes the checkpoints of a relation that is being dropped.
pub fn forget_relation(oid: pg_sys::Oid) {
    let Some(table) = table("checkpoint", pg_sys::AccessShareLock) else {
        return;
    };
    let mut ids = Vec::new();
    each(&table, "checkpoint_relation", (2, First::Oid(oid)), |row| {
        // SAFETY: a row of the table, whose first column is its number.
        ids.push(unsafe { column(&table, row, 1) }.value() as i64);
    });
    ids.into_iter().for_each(remove);
}

/// Removes a checkpoint and all that it remembers. The caller keeps others from it.
pub fn remove(id: i64) {
    // With the extension, its tables go one after the other.
    let write = pg_sys::RowExclusiveLock;
    if let Some(checkpoints) = table("checkpoint", write) {
        each(
            &checkpoints,
            "checkpoint_pkey",
            (1, First::Number(id)),
            |row| {
                // SAFETY: a row of the table.
                unsafe { delete(&checkpoints, row) };
            },
        );
    }
    let mut gone: Vec<(i64, pg_sys::Oid)> = Vec::new();
    if let Some(chunks) = table("checkpoint_chunk", write) {
        each(
            &chunks,
            "checkpoint_chunk_of",
            (2, First::Number(id)),
            |row| {
                // SAFETY: a row of the table, with number and segments.
                unsafe {
                    let number = column(&chunks, row, 1).value() as i64;
                    let segments = column(&chunks, row, 4).value() as u32;
                    gone.push((number, pg_sys::Oid::from_u32(segments)));
                    delete(&chunks, row);
                }
            },
        );
    }
    for (chunk, _) in &gone {
        remove_entries(*chunk);
    }
    step();
    retained::release(gone.into_iter().map(|(_, segments)| segments));
}

/// Removes a chunk of a checkpoint, without a look at the segments that it referred to.
pub fn remove_chunk(number: i64) {
    if let Some(chunks) = table("checkpoint_chunk", pg_sys::RowExclusiveLock) {
        let of = (1, First::Number(number));
        each(&chunks, "checkpoint_chunk_pkey", of, |row| {
            // SAFETY: a row of the table.
            unsafe { delete(&chunks, row) };
        });
    }
    remove_entries(number);
    step();
}

fn remove_entries(chunk: i64) {
    remove_blocks(&[(1, First::Number(chunk))]);
}

/// Removes the entries of one generation of a chunk.
pub fn remove_generation(chunk: i64, generation: u32) {
    let generation = First::Small(generation as i32);
    remove_blocks(&[(1, First::Number(chunk)), (2, generation)]);
}

fn remove_blocks(of: &[(i16, First)]) {
    let rows = table("checkpoint_rows", pg_sys::RowExclusiveLock);
    let (Some(rows), Some(index)) = (rows, ours("checkpoint_rows_pkey")) else {
        return;
    };
    catalog::each_where(&rows, index, of, |row| {
        pgrx::check_for_interrupts!();
        // SAFETY: a row of the table; what lies elsewhere of it goes with it.
        unsafe { delete(&rows, row) };
    });
}

/// Writes the entries of one generation, in the order of their places.
pub struct EntryWriter {
    table: OpenRel,
    chunk: i64,
    generation: u32,
    blocks: u32,
    block: BlockWriter,
    /// Entries that were written.
    pub count: u64,
}

impl EntryWriter {
    /// Begins a generation of a chunk.
    pub fn begin(chunk: i64, generation: u32) -> Self {
        EntryWriter {
            table: need("checkpoint_rows", pg_sys::RowExclusiveLock),
            chunk,
            generation,
            blocks: 0,
            block: BlockWriter::default(),
            count: 0,
        }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: Entry) {
        if let Err(e) = self.block.push(entry) {
            pgrx::error!("a checkpoint cannot keep a row: {e}");
        }
        self.count += 1;
        if self.block.is_full() {
            self.store();
        }
    }

    fn store(&mut self) {
        pgrx::check_for_interrupts!();
        let data = self.block.take();
        let rel = self.table.as_ptr();
        memory::for_this_call(|| {
            let values = [
                pg_sys::Datum::from(self.chunk),
                pg_sys::Datum::from(self.generation as i32),
                pg_sys::Datum::from(self.blocks as i32),
                new_bytea(&data),
            ];
            let (desc, nulls) = (relation::tupdesc(rel), [false; 4]);
            // SAFETY: the four columns of the table.
            unsafe {
                let row = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
                pg_sys::CatalogTupleInsert(rel, row);
            }
        });
        self.blocks += 1;
    }

    /// Ends the generation.
    pub fn end(mut self) {
        if !self.block.is_empty() {
            self.store();
        }
    }
}

/// The entries of one generation, as a snapshot sees them.
pub struct EntryReader {
    table: OpenRel,
    _index: OpenRel,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    block: Block,
    /// Where the last entry lay.
    last: Option<u64>,
    /// Entries that must be there from here on.
    missing: u64,
    /// A scan that has ended would begin again.
    ended: bool,
}

impl EntryReader {
    /// Begins to read a generation.
    pub fn open(chunk: i64, generation: Generation, snapshot: pg_sys::Snapshot) -> Self {
        let table = need("checkpoint_rows", pg_sys::AccessShareLock);
        let Some(index) = ours("checkpoint_rows_pkey") else {
            pgrx::error!("varve.checkpoint_rows has no primary key")
        };
        let index = OpenRel::index(index, pg_sys::AccessShareLock);
        // SAFETY: an ordinary index scan by the first two columns of the index; the scan copies its keys.
        unsafe {
            let mut keys = [pg_sys::ScanKeyData::default(); 2];
            for (key, (attnum, equal, value)) in keys.iter_mut().zip([
                (1, pg_sys::F_INT8EQ, pg_sys::Datum::from(chunk)),
                (
                    2,
                    pg_sys::F_INT4EQ,
                    pg_sys::Datum::from(generation.number as i32),
                ),
            ]) {
                let strategy = pg_sys::BTEqualStrategyNumber as u16;
                let equal = pg_sys::Oid::from_u32(equal);
                pg_sys::ScanKeyInit(key, attnum, strategy, equal, value);
            }
            let slot = pg_sys::table_slot_create(table.as_ptr(), std::ptr::null_mut());
            let scan = pg_sys::index_beginscan(table.as_ptr(), index.as_ptr(), snapshot, 2, 0);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), 2, std::ptr::null_mut(), 0);
            EntryReader {
                table,
                _index: index,
                scan,
                slot,
                block: Block::default(),
                last: None,
                missing: generation.entries,
                ended: false,
            }
        }
    }

    /// The next entry, if there is one.
    pub fn peek(&mut self) -> Option<Entry<'_>> {
        while self.block.peek().is_none() {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            // SAFETY: the scan goes on; the data of a row are never NULL.
            let bytes = unsafe {
                self.ended =
                    self.ended || !pg_sys::index_getnext_slot(self.scan, forward, self.slot);
                if self.ended && self.missing > 0 {
                    damaged(&format!("{} entries are missing", self.missing));
                }
                if self.ended {
                    return None;
                }
                let natts = relation::natts(relation::tupdesc(self.table.as_ptr()));
                let (values, _) = slot_values(self.slot, natts);
                values
                    .last()
                    .map_or_else(Vec::new, |data| with_payload(*data, <[u8]>::to_vec))
            };
            self.block = Block::new(bytes).unwrap_or_else(|e| damaged(&e));
            if self.block.peek().map(|entry| entry.place) <= self.last {
                damaged(&"blocks of entries do not ascend");
            }
        }
        self.block.peek()
    }

    /// The place of the next entry.
    pub fn place(&mut self) -> Option<u64> {
        self.peek().map(|entry| entry.place)
    }

    /// Goes on behind the next entry.
    pub fn advance(&mut self) {
        self.last = self.block.peek().map(|entry| entry.place);
        self.missing = match self.missing.checked_sub(1) {
            Some(rest) => rest,
            None => damaged(&"a generation has more entries than were written"),
        };
        self.block.advance().unwrap_or_else(|e| damaged(&e));
    }
}

impl Drop for EntryReader {
    fn drop(&mut self) {
        // After an error the resource owner lets go of what the scan holds.
        if !std::thread::panicking() {
            // SAFETY: begun by `open`.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            }
        }
    }
}
