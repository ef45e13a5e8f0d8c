//! Writing rows into one table as the executor does: generated columns, constraints, table, indexes, triggers of foreign
//! keys; many rows at a time where they are new.

use super::relation::{self, OpenRel};
use super::{ffi, memory};
use pgrx::{PgSqlErrorCode, pg_sys};
use std::rc::Rc;

/// An executor's state, in which expressions are evaluated and triggers are queued.
pub struct Executor {
    state: *mut pg_sys::EState,
}

impl Executor {
    /// A fresh one; its memory is a child of the current context's.
    pub fn new() -> Self {
        // SAFETY: freed by drop.
        unsafe {
            Executor {
                state: pg_sys::CreateExecutorState(),
            }
        }
    }

    /// Prepares an expression for evaluation.
    ///
    /// # Safety
    /// A valid expression without variables.
    pub unsafe fn prepare(&self, expression: *mut pg_sys::Expr) -> *mut pg_sys::ExprState {
        // SAFETY: by contract; planned and compiled in the executor's own memory.
        unsafe { pg_sys::ExecPrepareExpr(expression, self.state) }
    }

    /// The value of an expression, in the memory of the row at hand.
    ///
    /// # Safety
    /// Prepared by [`prepare`](Self::prepare).
    pub unsafe fn evaluate(&self, expression: *mut pg_sys::ExprState) -> Option<pg_sys::Datum> {
        // SAFETY: by contract.
        unsafe {
            let context = self.row_context();
            let mut null = false;
            let evaluate = (*expression).evalfunc?;
            let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let value = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                evaluate(expression, context, &mut null)
            });
            pg_sys::MemoryContextSwitchTo(before);
            (!null).then_some(value)
        }
    }

    fn row_context(&self) -> *mut pg_sys::ExprContext {
        // SAFETY: a live executor state.
        unsafe {
            if (*self.state).es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(self.state)
            } else {
                (*self.state).es_per_tuple_exprcontext
            }
        }
    }

    /// Gives the memory of rows back.
    pub fn reset_rows(&self) {
        // SAFETY: nothing refers to it between rows.
        unsafe { pg_sys::MemoryContextReset((*self.row_context()).ecxt_per_tuple_memory) };
    }

    /// Opens a level of queued triggers.
    pub fn begin_triggers(&self) {
        // SAFETY: closed by `end_triggers`, or by the abort of the transaction.
        unsafe { pg_sys::AfterTriggerBeginQuery() };
    }

    /// Fires the triggers that were queued, deferred ones aside, as at the end of a statement.
    pub fn end_triggers(&self) {
        // SAFETY: opened by `begin_triggers`.
        unsafe {
            pg_sys::AfterTriggerEndQuery(self.state);
            pg_sys::ExecCloseResultRelations(self.state);
        }
    }
}

impl Default for Executor {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::FreeExecutorState(self.state) };
        }
    }
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The row was changed.
    Done,
    /// Somebody else changed or deleted it since the snapshot.
    Elsewhere,
}

/// A table that is open for writing.
pub struct TableWriter {
    executor: Rc<Executor>,
    info: *mut pg_sys::ResultRelInfo,
    /// The unique index whose conflicts are told rather than raised.
    arbiters: *mut pg_sys::List,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    generated: bool,
    constrained: bool,
    update_checked: bool,
    /// Where slots live, whichever memory they are first asked for in.
    home: pg_sys::MemoryContext,
    rel: OpenRel,
}

impl TableWriter {
    /// Opens a table's indexes for writing. The writer lives no longer than the current memory context.
    pub fn new(executor: Rc<Executor>, rel: OpenRel, arbiter: Option<pg_sys::Oid>) -> Self {
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
            TableWriter {
                executor,
                info,
                arbiters,
                slots: Vec::new(),
                generated: !constr.is_null() && (*constr).has_generated_stored,
                constrained: !constr.is_null()
                    && ((*constr).has_not_null || (*constr).num_check > 0),
                update_checked: false,
                home: pg_sys::CurrentMemoryContext,
                rel,
            }
        }
    }

    /// The table.
    pub fn rel(&self) -> pg_sys::Relation {
        self.rel.as_ptr()
    }

    /// Prepares the `n`-th of the rows to be inserted next: `fill` sets all values and NULL flags.
    pub fn put(&mut self, n: usize, fill: impl FnOnce(&mut [pg_sys::Datum], &mut [bool])) {
        let slot = self.slot(n);
        // SAFETY: a slot of the table's shape.
        unsafe { self.store(slot, pg_sys::CmdType::CMD_INSERT, fill) };
    }

    fn slot(&mut self, n: usize) -> *mut pg_sys::TupleTableSlot {
        let rel = self.rel();
        while self.slots.len() <= n {
            // SAFETY: slots of the table's own kind and shape, in memory that lives as long as the writer.
            let slot = unsafe {
                memory::within(self.home, || {
                    pg_sys::table_slot_create(rel, std::ptr::null_mut())
                })
            };
            self.slots.push(slot);
        }
        self.slots.get(n).copied().unwrap_or(std::ptr::null_mut())
    }

    /// Fills a slot and checks the row in it.
    ///
    /// # Safety
    /// A slot of the table's shape.
    unsafe fn store(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        command: pg_sys::CmdType::Type,
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
                ffi::ExecComputeStoredGenerated(self.info, self.executor.state, slot, command);
            }
            if self.constrained {
                pg_sys::ExecConstraints(self.info, slot, self.executor.state);
            }
        }
    }

    /// Inserts the first `n` rows that were prepared, in their order. Where the key of one is taken, by a row that nobody
    /// saw when the batch was compared with what is stored, it and all after it are taken back, and `Err` tells how many
    /// were inserted. Without an arbiter that is an error.
    pub fn insert(&mut self, n: usize) -> Result<(), usize> {
        // SAFETY: n slots were filled; as CopyFrom inserts them.
        unsafe {
            let cid = pg_sys::GetCurrentCommandId(true);
            let slots = self.slots.as_mut_ptr();
            let Some(insert) = (*(*self.rel()).rd_tableam).multi_insert else {
                pgrx::error!("the table's access method cannot insert many rows");
            };
            let rel = self.rel();
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                insert(rel, slots, n as i32, cid, 0, std::ptr::null_mut())
            });
            let taken = self.insert_index_entries(n);
            let done = taken.unwrap_or(n);
            if !(*self.info).ri_TrigDesc.is_null() {
                for slot in self.slots.iter().take(done) {
                    let none = std::ptr::null_mut();
                    let state = self.executor.state;
                    pg_sys::ExecARInsertTriggers(state, self.info, *slot, none, none.cast());
                }
            }
            if let Some(first) = taken {
                self.take_back(first, n);
                return Err(first);
            }
        }
        Ok(())
    }

    /// Makes the index entries of the first `n` slots, index by index, that of the arbiter first: rows come in its order, and
    /// what was read of an index for one row is at hand for the next. Tells the first row whose key is taken; rows before
    /// it have all their entries then.
    ///
    /// # Safety
    /// The rows were inserted.
    unsafe fn insert_index_entries(&self, n: usize) -> Option<usize> {
        // SAFETY: one index of the table after the other is shown to the executor, and all of them again at the end; an
        // error leaves nothing that is used again.
        unsafe {
            let info = &mut *self.info;
            let (count, relations, infos) = (
                info.ri_NumIndices as usize,
                info.ri_IndexRelationDescs,
                info.ri_IndexRelationInfo,
            );
            let arbiter = (0..count).find(|i| {
                pg_sys::list_member_oid(self.arbiters, relation::oid(*relations.add(*i)))
            });
            let mut order: Vec<usize> = arbiter.into_iter().collect();
            order.extend((0..count).filter(|i| Some(*i) != arbiter));
            info.ri_NumIndices = 1;
            let mut taken = None;
            for index in order {
                info.ri_IndexRelationDescs = relations.add(index);
                info.ri_IndexRelationInfo = infos.add(index);
                let speculative = Some(index) == arbiter;
                let slots = self.slots.iter().take(taken.unwrap_or(n));
                taken = taken.or(slots.enumerate().find_map(|(i, slot)| {
                    let mut conflict = false;
                    pg_sys::ExecInsertIndexTuples(
                        self.info,
                        *slot,
                        self.executor.state,
                        false,
                        speculative,
                        &mut conflict,
                        self.arbiters,
                        false,
                    );
                    conflict.then_some(i)
                }));
            }
            info.ri_NumIndices = count as i32;
            info.ri_IndexRelationDescs = relations;
            info.ri_IndexRelationInfo = infos;
            taken
        }
    }

    /// Deletes rows that were inserted a moment ago and not finished, and waits for the transaction that has the key of
    /// the first. Rows that have no index entries yet are seen by nobody.
    fn take_back(&self, from: usize, to: usize) {
        // SAFETY: our own rows, deleted by a command after the one that inserted them; then the executor's own wait.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let cid = pg_sys::GetCurrentCommandId(true);
            for slot in self.slots.iter().take(to).skip(from) {
                let mut failure = pg_sys::TM_FailureData::default();
                let mut at = (**slot).tts_tid;
                let Some(delete) = (*(*self.rel()).rd_tableam).tuple_delete else {
                    pgrx::error!("the table's access method cannot delete rows");
                };
                let rel = self.rel();
                let none = std::ptr::null_mut();
                let result = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                    delete(rel, &mut at, cid, none, none, true, &mut failure, false)
                });
                if result != pg_sys::TM_Result::TM_Ok {
                    pgrx::error!("could not take back a row that lost its key to another one");
                }
            }
            if let Some(slot) = self.slots.get(from) {
                let mut holder = pg_sys::ItemPointerData::default();
                pg_sys::ExecCheckIndexConstraints(
                    self.info,
                    *slot,
                    self.executor.state,
                    &mut holder,
                    self.arbiters,
                );
            }
        }
    }

    /// Changes the row at `tid` to the one in `slot`, which `fill` sets. A row that somebody else has at hand is waited for.
    pub fn update(
        &mut self,
        tid: pg_sys::ItemPointerData,
        snapshot: pg_sys::Snapshot,
        fill: impl FnOnce(&mut [pg_sys::Datum], &mut [bool]),
    ) -> Updated {
        // SAFETY: as ExecUpdate changes a row of an open table.
        unsafe {
            if !self.update_checked {
                pg_sys::CheckValidResultRel(
                    self.info,
                    pg_sys::CmdType::CMD_UPDATE,
                    std::ptr::null_mut(),
                );
                self.update_checked = true;
            }
            let slot = self.slot(0);
            self.store(slot, pg_sys::CmdType::CMD_UPDATE, fill);
            let Some(update) = (*(*self.rel()).rd_tableam).tuple_update else {
                pgrx::error!("the table's access method cannot update rows");
            };
            let rel = self.rel();
            let mut at = tid;
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
                pg_sys::TM_Result::TM_Ok => {}
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => {
                    return Updated::Elsewhere;
                }
                pg_sys::TM_Result::TM_SelfModified => crate::am::error::raise(
                    PgSqlErrorCode::ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
                    "row to be upserted was already modified by an operation that the upsert itself started".into(),
                    None,
                    Some("A default or constraint of the table writes to the table.".into()),
                ),
                other => pgrx::error!("unexpected result {other} of an update"),
            }
            let mut recheck: *mut pg_sys::List = std::ptr::null_mut();
            if (*self.info).ri_NumIndices > 0 && indexes != pg_sys::TU_UpdateIndexes::TU_None {
                recheck = pg_sys::ExecInsertIndexTuples(
                    self.info,
                    slot,
                    self.executor.state,
                    true,
                    false,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing,
                );
            }
            if !(*self.info).ri_TrigDesc.is_null() {
                let mut old = tid;
                pg_sys::ExecARUpdateTriggers(
                    self.executor.state,
                    self.info,
                    none.cast(),
                    none.cast(),
                    &mut old,
                    none.cast(),
                    slot,
                    recheck,
                    none.cast(),
                    false,
                );
            }
        }
        Updated::Done
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        // After an error the resource owner and the memory context give everything back.
        if !std::thread::panicking() {
            // SAFETY: opened by `new`.
            unsafe {
                for slot in &self.slots {
                    pg_sys::ExecDropSingleTupleTableSlot(*slot);
                }
                pg_sys::ExecCloseIndices(self.info);
            }
        }
    }
}
