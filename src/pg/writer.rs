//! Writing rows into one table as the executor does: generated columns, constraints, table, indexes, triggers of foreign
//! keys; many rows at a time where they are new.

use super::context::RowAt;
use super::executor::Executor;
use super::relation::{self, OpenRel};
use super::{ffi, heap, memory, tuple};
use pgrx::{PgSqlErrorCode, pg_sys};
use std::rc::Rc;

/// A row that was changed in the table, and not yet in the indexes.
struct Changed {
    number: u64,
    from: pg_sys::ItemPointerData,
    /// Whether the row had been changed before.
    again: bool,
    slot: *mut pg_sys::TupleTableSlot,
    indexes: pg_sys::TU_UpdateIndexes::Type,
}

/// A row that is stored.
#[derive(Clone, Copy)]
pub struct Stored {
    /// Where.
    pub tid: pg_sys::ItemPointerData,
    /// Whether it is a later version of a row.
    pub changed_before: bool,
}

/// A key that somebody else has taken.
#[derive(Clone, Copy)]
pub struct Taken {
    /// The first of the rows that were to be inserted whose key it is.
    pub row: usize,
    /// Whether it was taken still when his transaction had ended.
    pub stays: bool,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The row was changed.
    Done,
    /// Somebody else changed or deleted it since the snapshot.
    Elsewhere,
}

/// A callback `multi_insert` of a table access method.
pub type InsertMany = unsafe extern "C-unwind" fn(
    pg_sys::Relation,
    *mut *mut pg_sys::TupleTableSlot,
    i32,
    pg_sys::CommandId,
    i32,
    *mut pg_sys::BulkInsertStateData,
);

/// A table that is open for writing.
pub struct TableWriter {
    executor: Rc<Executor>,
    info: *mut pg_sys::ResultRelInfo,
    /// The unique index whose conflicts are told rather than raised.
    arbiters: *mut pg_sys::List,
    /// The indexes by their position, that of the arbiter first, and whether they are it.
    order: Vec<(usize, bool)>,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    /// The numbers of the rows in them.
    numbers: Vec<u64>,
    /// Told of each row that is at hand.
    at: Rc<RowAt>,
    /// Rows changed since [`finish_updates`](Self::finish_updates).
    changed: Vec<Changed>,
    /// Slots for such rows.
    spare: Vec<*mut pg_sys::TupleTableSlot>,
    /// Whether rows are finished one by one: which row meets another unique index first is to be as in an INSERT.
    one_by_one: bool,
    generated: bool,
    constrained: bool,
    update_checked: bool,
    /// Inserts many rows, in another way than the table's access method would.
    insert: Option<InsertMany>,
    /// `TABLE_INSERT_…`
    options: u32,
    /// Where slots live, whichever memory they are first asked for in.
    home: pg_sys::MemoryContext,
    rel: OpenRel,
}

impl TableWriter {
    /// Opens a table's indexes for writing. The writer lives no longer than the current memory context.
    pub fn new(
        executor: Rc<Executor>,
        at: Rc<RowAt>,
        rel: OpenRel,
        arbiter: Option<pg_sys::Oid>,
    ) -> Self {
        let ptr = rel.as_ptr();
        // SAFETY: as CopyFrom prepares its target.
        unsafe {
            let info: *mut pg_sys::ResultRelInfo =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
            (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(info, ptr, 0, std::ptr::null_mut(), 0);
            pg_sys::CheckValidResultRel(info, pg_sys::CmdType::CMD_INSERT, std::ptr::null_mut());
            pg_sys::ExecOpenIndices(info, arbiter.is_some());
            let constr = (*relation::tupdesc(ptr)).constr;
            let mut arbiters: *mut pg_sys::List = std::ptr::null_mut();
            if let Some(index) = arbiter {
                arbiters = pg_sys::lappend_oid(arbiters, index);
            }
            let index = |i: usize| &*(**(*info).ri_IndexRelationDescs.add(i)).rd_index;
            let mut order: Vec<(usize, bool)> = (0..(*info).ri_NumIndices as usize)
                .map(|i| (i, Some(index(i).indexrelid) == arbiter))
                .collect();
            order.sort_by_key(|(_, is_arbiter)| !is_arbiter);
            let one_by_one = order.iter().any(|(i, is_arbiter)| {
                !is_arbiter && (index(*i).indisunique || index(*i).indisexclusion)
            });
            TableWriter {
                executor,
                info,
                arbiters,
                order,
                slots: Vec::new(),
                numbers: Vec::new(),
                at,
                changed: Vec::new(),
                spare: Vec::new(),
                one_by_one,
                generated: !constr.is_null() && (*constr).has_generated_stored,
                constrained: !constr.is_null()
                    && ((*constr).has_not_null || (*constr).num_check > 0),
                update_checked: false,
                insert: None,
                options: 0,
                home: pg_sys::CurrentMemoryContext,
                rel,
            }
        }
    }

    /// Lets rows be inserted in another way than the access method would, where rows are not finished one by one.
    pub fn insert_by(&mut self, insert: InsertMany) {
        if !self.one_by_one {
            self.insert = Some(insert);
        }
    }

    /// Lets everybody see the rows that are inserted, as COPY does with FREEZE: for a table whose storage this transaction has
    /// made, so that nobody else gets at it before the transaction commits.
    pub fn freeze_rows(&mut self) {
        self.options = pg_sys::TABLE_INSERT_FROZEN | pg_sys::TABLE_INSERT_SKIP_FSM;
    }

    /// The table.
    pub fn rel(&self) -> pg_sys::Relation {
        self.rel.as_ptr()
    }

    /// Prepares the `n`-th of the rows to be inserted next: `fill` sets all values and NULL flags. Its number is told in
    /// errors.
    pub fn put(
        &mut self,
        n: usize,
        number: u64,
        fill: impl FnOnce(&mut [pg_sys::Datum], &mut [bool]),
    ) {
        self.numbers.truncate(n);
        self.numbers.push(number);
        self.at.set(number);
        let slot = self.slot(n);
        // SAFETY: a slot of the table's shape.
        unsafe { self.store(slot, fill) };
    }

    fn slot(&mut self, n: usize) -> *mut pg_sys::TupleTableSlot {
        while self.slots.len() <= n {
            self.slots.push(self.new_slot());
        }
        self.slots.get(n).copied().unwrap_or(std::ptr::null_mut())
    }

    fn new_slot(&self) -> *mut pg_sys::TupleTableSlot {
        let rel = self.rel();
        // SAFETY: a slot of the table's own kind and shape, in memory that lives as long as the writer.
        unsafe {
            memory::within(self.home, || {
                pg_sys::table_slot_create(rel, std::ptr::null_mut())
            })
        }
    }

    /// Fills a slot and checks the row in it.
    ///
    /// # Safety
    /// A slot of the table's shape.
    unsafe fn store(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        fill: impl FnOnce(&mut [pg_sys::Datum], &mut [bool]),
    ) {
        let natts = relation::natts(relation::tupdesc(self.rel()));
        // SAFETY: the slot's arrays have an entry for each attribute.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            fill(
                std::slice::from_raw_parts_mut((*slot).tts_values, natts),
                std::slice::from_raw_parts_mut((*slot).tts_isnull, natts),
            );
            pg_sys::ExecStoreVirtualTuple(slot);
            (*slot).tts_tableOid = relation::oid(self.rel());
            if self.generated {
                // As for INSERT in any case: an update computes those that depend on columns it is known to set.
                let insert = pg_sys::CmdType::CMD_INSERT;
                ffi::ExecComputeStoredGenerated(self.info, self.executor.as_ptr(), slot, insert);
            }
            if self.constrained {
                pg_sys::ExecConstraints(self.info, slot, self.executor.as_ptr());
            }
        }
    }

    /// Checks that rows of the table can be updated at all.
    pub fn check_update(&mut self) {
        if !self.update_checked {
            let update = pg_sys::CmdType::CMD_UPDATE;
            // SAFETY: made for the open table.
            unsafe { pg_sys::CheckValidResultRel(self.info, update, std::ptr::null_mut()) };
            self.update_checked = true;
        }
    }

    /// Shows the first of the rows that were prepared.
    pub fn with_row<T>(&self, f: impl FnOnce(&[pg_sys::Datum], &[bool]) -> T) -> Option<T> {
        let slot = *self.slots.first()?;
        let natts = relation::natts(relation::tupdesc(self.rel()));
        // SAFETY: a filled slot of the table's shape.
        let (values, nulls) = unsafe { tuple::slot_values(slot, natts) };
        Some(f(values, nulls))
    }

    /// Inserts the first `n` rows that were prepared, in their order. Where the key of one is taken, by a row that nobody
    /// saw when the batch was compared with what is stored, it and all after it are taken back, and `Err` tells which it
    /// is. Without an arbiter that is an error.
    pub fn insert(&mut self, n: usize) -> Result<(), Taken> {
        // SAFETY: n slots were filled; as CopyFrom inserts them.
        unsafe {
            self.at.set(0);
            let cid = pg_sys::GetCurrentCommandId(true);
            let slots = self.slots.as_mut_ptr();
            let own = (*(*self.rel()).rd_tableam).multi_insert;
            let Some(insert) = self.insert.or(own) else {
                pgrx::error!("the table's access method cannot insert many rows");
            };
            let (rel, options) = (self.rel(), self.options as i32);
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                insert(rel, slots, n as i32, cid, options, std::ptr::null_mut())
            });
            let taken = self.insert_index_entries(n);
            let done = taken.unwrap_or(n);
            if !(*self.info).ri_TrigDesc.is_null() {
                for slot in self.slots.iter().take(done) {
                    let none = std::ptr::null_mut();
                    let state = self.executor.as_ptr();
                    pg_sys::ExecARInsertTriggers(state, self.info, *slot, none, none.cast());
                }
            }
            if let Some(first) = taken {
                let stays = self.take_back(first, n);
                return Err(Taken { row: first, stays });
            }
        }
        Ok(())
    }

    /// Makes the index entries of the first `n` slots. Tells the first row whose key is taken; rows before it have all their
    /// entries then.
    fn insert_index_entries(&self, n: usize) -> Option<usize> {
        if self.one_by_one {
            (0..n).find_map(|i| self.insert_entries_of(i..i + 1))
        } else {
            self.insert_entries_of(0..n)
        }
    }

    fn insert_entries_of(&self, rows: std::ops::Range<usize>) -> Option<usize> {
        let mut taken = None;
        self.each_index(|is_arbiter| {
            for i in rows.start..taken.unwrap_or(rows.end) {
                let (Some(slot), Some(number)) = (self.slots.get(i), self.numbers.get(i)) else {
                    return;
                };
                let mut conflict = false;
                self.at.set(*number);
                // SAFETY: the rows were inserted.
                unsafe {
                    pg_sys::ExecInsertIndexTuples(
                        self.info,
                        *slot,
                        self.executor.as_ptr(),
                        false,
                        is_arbiter,
                        &mut conflict,
                        self.arbiters,
                        false,
                    );
                }
                if conflict {
                    taken = Some(i);
                    return;
                }
            }
        });
        taken
    }

    /// Shows the executor one index of the table after the other, that of the arbiter first: rows come in its order, and
    /// what was read of an index for one row is at hand for the next. `f` is told which it is.
    fn each_index(&self, mut f: impl FnMut(bool)) {
        // SAFETY: the arrays have an entry for each index. All of them are shown again at the end; after an error nobody
        // uses them any more.
        unsafe {
            let count = (*self.info).ri_NumIndices;
            let relations = (*self.info).ri_IndexRelationDescs;
            let infos = (*self.info).ri_IndexRelationInfo;
            (*self.info).ri_NumIndices = 1;
            for (i, is_arbiter) in &self.order {
                (*self.info).ri_IndexRelationDescs = relations.add(*i);
                (*self.info).ri_IndexRelationInfo = infos.add(*i);
                f(*is_arbiter);
            }
            (*self.info).ri_NumIndices = count;
            (*self.info).ri_IndexRelationDescs = relations;
            (*self.info).ri_IndexRelationInfo = infos;
        }
    }

    /// Kills rows that were inserted a moment ago and not finished, and waits for the transaction that has the key of the
    /// first. Rows that have no index entries yet are seen by nobody.
    /// Tells whether it is taken still.
    fn take_back(&self, from: usize, to: usize) -> bool {
        for slot in self.slots.iter().take(to).skip(from) {
            kill(self.rel(), *slot);
        }
        // SAFETY: the executor's own wait.
        unsafe {
            self.slots.get(from).is_some_and(|slot| {
                let mut holder = pg_sys::ItemPointerData::default();
                !pg_sys::ExecCheckIndexConstraints(
                    self.info,
                    *slot,
                    self.executor.as_ptr(),
                    &mut holder,
                    self.arbiters,
                )
            })
        }
    }

    /// Changes a stored row to one whose values and NULL flags `fill` sets. A row that somebody else has at hand is waited
    /// for. `checked` is called when constraints, whose functions may run commands, are done. Index entries follow with [`finish_updates`](Self::finish_updates): until then others find the row by its old ones.
    pub fn update(
        &mut self,
        row: Stored,
        number: u64,
        snapshot: pg_sys::Snapshot,
        fill: impl FnOnce(&mut [pg_sys::Datum], &mut [bool]),
        checked: impl FnOnce(),
    ) -> Updated {
        self.at.set(number);
        // SAFETY: as ExecUpdate changes a row of an open table.
        unsafe {
            self.check_update();
            let slot = self.spare.pop().unwrap_or_else(|| self.new_slot());
            self.store(slot, fill);
            checked();
            let Some(update) = (*(*self.rel()).rd_tableam).tuple_update else {
                pgrx::error!("the table's access method cannot update rows");
            };
            let rel = self.rel();
            let mut at = row.tid;
            let mut failure = pg_sys::TM_FailureData::default();
            let mut mode: pg_sys::LockTupleMode::Type = 0;
            let mut indexes: pg_sys::TU_UpdateIndexes::Type = pg_sys::TU_UpdateIndexes::TU_None;
            let cid = pg_sys::GetCurrentCommandId(true);
            let none = std::ptr::null_mut();
            let result = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                update(
                    rel,
                    &mut at,
                    slot,
                    cid,
                    snapshot,
                    none,
                    true,
                    &mut failure,
                    &mut mode,
                    &mut indexes,
                )
            });
            match result {
                pg_sys::TM_Result::TM_Ok => {
                    self.changed.push(Changed {
                        number,
                        from: row.tid,
                        again: row.changed_before,
                        slot,
                        indexes,
                    });
                    if self.one_by_one {
                        self.finish_updates();
                    }
                    Updated::Done
                }
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => {
                    self.spare.push(slot);
                    Updated::Elsewhere
                }
                pg_sys::TM_Result::TM_SelfModified => crate::am::error::raise(
                    PgSqlErrorCode::ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
                    "row to be upserted was already modified by an operation that the upsert itself started".into(),
                    None,
                    Some("A default or constraint of the table writes to the table.".into()),
                ),
                other => pgrx::error!("unexpected result {other} of an update"),
            }
        }
    }

    /// Makes the entry of a changed row in the index of its key, which it has kept: the version before holds it, and is
    /// ours, so nobody else can have taken it. The index is not told to look for older versions: those that the walk
    /// along it found dead are marked, and go when their page is full.
    ///
    /// # Safety
    /// The arbiter is the index shown; it has neither expressions nor a predicate.
    unsafe fn insert_same_key(&self, index: *mut pg_sys::IndexInfo, row: &Changed) {
        let mut values = [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: by contract; as ExecInsertIndexTuples does it.
        unsafe {
            let state = self.executor.as_ptr();
            pg_sys::FormIndexDatum(
                index,
                row.slot,
                state,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            pg_sys::index_insert(
                *(*self.info).ri_IndexRelationDescs,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &mut (*row.slot).tts_tid,
                self.rel(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                index,
            );
        }
    }

    /// Makes the index entries of rows that were changed, and queues their triggers.
    pub fn finish_updates(&mut self) {
        use pg_sys::TU_UpdateIndexes::{TU_None, TU_Summarizing};
        if self.changed.iter().any(|row| row.indexes != TU_None) {
            self.each_index(|is_arbiter| {
                let changed = self.changed.iter();
                for row in changed.filter(|row| row.indexes != TU_None) {
                    self.at.set(row.number);
                    // SAFETY: the slots hold rows as they are in the table; one index is shown.
                    unsafe {
                        // Tells the index that entries of older versions may be in its way. Only where there are any is it
                        // worth looking for them.
                        let index = *(*self.info).ri_IndexRelationInfo;
                        (*index).ii_CheckedUnchanged = true;
                        (*index).ii_IndexUnchanged = row.again;
                        if is_arbiter && row.indexes != TU_Summarizing {
                            self.insert_same_key(index, row);
                        } else {
                            pg_sys::ExecInsertIndexTuples(
                                self.info,
                                row.slot,
                                self.executor.as_ptr(),
                                true,
                                false,
                                std::ptr::null_mut(),
                                std::ptr::null_mut(),
                                row.indexes == TU_Summarizing,
                            );
                        }
                    }
                }
            });
        }
        for mut row in self.changed.drain(..) {
            let none: *mut std::ffi::c_void = std::ptr::null_mut();
            // SAFETY: as ExecUpdate ends.
            unsafe {
                if !(*self.info).ri_TrigDesc.is_null() {
                    pg_sys::ExecARUpdateTriggers(
                        self.executor.as_ptr(),
                        self.info,
                        none.cast(),
                        none.cast(),
                        &mut row.from,
                        none.cast(),
                        row.slot,
                        none.cast(),
                        none.cast(),
                        false,
                    );
                }
                pg_sys::ExecClearTuple(row.slot);
            }
            self.spare.push(row.slot);
        }
    }
}

/// Kills a row that this command inserted, as a speculative insertion that met a conflict is killed: it is dead to everybody at
/// once. A row that was only deleted would look to others like one whose key is being inserted, and two batches that lost
/// the same key to a third would wait for each other once that one is rolled back.
///
/// Many rows cannot be inserted speculatively, so the row gets its token now. Others who see it meanwhile wait for the token's
/// lock, for a moment. The token is not in the WAL: what kills the row is, and takes the token off again.
fn kill(rel: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: a row of our own on a page that is pinned, and locked while its header is changed.
    unsafe {
        let Some(complete) = (*(*rel).rd_tableam).tuple_complete_speculative else {
            pgrx::error!("the table's access method cannot take rows back");
        };
        let xid = pg_sys::GetCurrentTransactionId();
        let token = pg_sys::SpeculativeInsertionLockAcquire(xid);
        let marked = heap::with_any_version(rel, &(*slot).tts_tid, |row, buffer| {
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
            (*row.t_data).t_ctid = tuple::make_tid(token, pg_sys::SpecTokenOffsetNumber as u16);
            pg_sys::MarkBufferDirty(buffer);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
        });
        if marked.is_none() {
            pgrx::error!("could not take back a row that was inserted a moment ago");
        }
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| complete(rel, slot, token, false));
        pg_sys::SpeculativeInsertionLockRelease(xid);
    }
}

/// Deletes a row that an earlier command of this transaction inserted and that nobody else knows of. Index entries stay, as
/// those of deleted rows do.
pub fn delete_own(rel: pg_sys::Relation, tid: pg_sys::ItemPointerData) {
    // SAFETY: an open table's own callback.
    unsafe {
        let Some(delete) = (*(*rel).rd_tableam).tuple_delete else {
            pgrx::error!("the table's access method cannot delete rows");
        };
        let cid = pg_sys::GetCurrentCommandId(true);
        let mut failure = pg_sys::TM_FailureData::default();
        let mut at = tid;
        let none = std::ptr::null_mut();
        let result = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            delete(rel, &mut at, cid, none, none, true, &mut failure, false)
        });
        if result != pg_sys::TM_Result::TM_Ok {
            pgrx::error!("could not take back a row that was inserted a moment ago");
        }
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        // After an error the resource owner and the memory context give everything back.
        if !std::thread::panicking() {
            // SAFETY: opened by `new`.
            unsafe {
                for slot in self.slots.iter().chain(&self.spare) {
                    pg_sys::ExecDropSingleTupleTableSlot(*slot);
                }
                pg_sys::ExecCloseIndices(self.info);
            }
        }
    }
}
