//! Groups on their way from the processes that read to the one that puts them together.
//!
//! They go through Gather as rows of one `bytea`: a head with what was counted since the message before, then groups (see
//! [`state`](super::state)). A process whose groups take too much memory sends them and goes on with none, so a group may
//! arrive any number of times.

use super::engine::Engine;
use super::read::Reader;
use super::state::Messages;
use crate::pg::{list, tuple};
use crate::scan::counters::{COUNTED, Counters};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Numbers in a message's head: counters, and rows of heaps.
const HEAD: usize = COUNTED + 1;

/// The groups of a process that leave as bytes.
#[derive(Default)]
pub struct Groups {
    messages: Messages,
    /// The next group to be written.
    next: usize,
    /// Whether what was read last is being written.
    writing: bool,
    /// Whether everything was read.
    read: bool,
    /// Whether everything was sent.
    sent: bool,
}

impl Groups {
    /// Starts over.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next message; `None` after the last one, which may have no groups.
    pub fn next(
        &mut self,
        engine: &mut Engine,
        reader: &mut Reader,
        context: *mut pg_sys::ExprContext,
    ) -> Option<Vec<u8>> {
        while !self.sent {
            if !self.writing {
                self.read = reader.read(engine, context);
                self.writing = true;
                self.next = 0;
            }
            if let Some(groups) = self.messages.pop() {
                return Some(message(reader, &groups));
            }
            if self.next < engine.len() {
                engine.write_group(self.next, &mut self.messages);
                self.next += 1;
                continue;
            }
            // What is left goes with the groups that come, or with the end.
            engine.clear();
            self.writing = false;
            self.sent = self.read;
            if self.sent {
                let groups = self.messages.rest();
                return Some(message(reader, &groups));
            }
        }
        None
    }

    /// Puts a message into a virtual slot of one `bytea`.
    ///
    /// # Safety
    /// The node's scan slot and its expression context.
    pub unsafe fn emit(
        message: &[u8],
        slot: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) {
        // SAFETY: by contract.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            *(*slot).tts_values = tuple::new_bytea(message);
            *(*slot).tts_isnull = false;
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }
}

/// A message of some groups; what the reader has counted goes with it.
fn message(reader: &mut Reader, groups: &[u8]) -> Vec<u8> {
    let counters = std::mem::take(&mut reader.counters);
    let head = counters.numbers().into_iter();
    let head = head.chain([std::mem::take(&mut reader.heap_rows)]);
    let mut message = Vec::with_capacity(HEAD * 8 + groups.len());
    message.extend(head.flat_map(u64::to_le_bytes));
    message.extend_from_slice(groups);
    message
}

/// The plan whose rows are messages.
pub struct Inflow {
    child: *mut pg_sys::PlanState,
    /// What all processes have counted.
    pub counters: Counters,
    /// Rows of heaps that they read.
    pub heap_rows: u64,
}

impl Inflow {
    /// Begins the one plan of a list.
    ///
    /// # Safety
    /// Called while the node above begins, with its plan's subplans.
    pub unsafe fn begin(
        plans: *mut pg_sys::List,
        estate: *mut pg_sys::EState,
        eflags: i32,
    ) -> Self {
        // SAFETY: by contract.
        let child = unsafe {
            let plan = list::nodes::<pg_sys::Plan>(plans).next();
            pg_sys::ExecInitNode(plan.unwrap_or(std::ptr::null_mut()), estate, eflags)
        };
        Inflow {
            child,
            counters: Counters::default(),
            heap_rows: 0,
        }
    }

    /// The plan's state, as a list for EXPLAIN and the like.
    pub fn children(&self) -> *mut pg_sys::List {
        list::of_nodes([self.child])
    }

    /// Ends the plan.
    pub fn end(&mut self) {
        // SAFETY: begun by `begin`; the executor ends a node once.
        unsafe { pg_sys::ExecEndNode(self.child) };
    }

    /// Starts over, with the parameters that have changed.
    pub fn rescan(&mut self, changed: *mut pg_sys::Bitmapset) {
        // SAFETY: a begun node. One whose parameters have changed is rescanned when its first row is asked for.
        unsafe {
            if !changed.is_null() {
                pg_sys::UpdateChangedParamSet(self.child, changed);
            }
            if (*self.child).chgParam.is_null() {
                pg_sys::ExecReScan(self.child);
            }
        }
    }

    /// The next row of the plan, as ExecProcNode gives it; `None` at the end.
    fn next(&mut self) -> Option<*mut pg_sys::TupleTableSlot> {
        // SAFETY: a begun node; its function is called behind pgrx's guard, as those of the server are.
        unsafe {
            if !(*self.child).chgParam.is_null() {
                pg_sys::ExecReScan(self.child);
            }
            let (child, function) = (self.child, (*self.child).ExecProcNode?);
            let slot = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| function(child));
            let empty = slot.is_null() || (*slot).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0;
            (!empty).then_some(slot)
        }
    }

    /// Takes in the groups of all processes; `false` where `fits` says that they take too much memory.
    pub fn read(&mut self, engine: &mut Engine, fits: impl Fn(&Engine) -> bool) -> bool {
        while let Some(slot) = self.next() {
            // SAFETY: the plan's rows are one bytea.
            let understood = unsafe {
                if (*slot).tts_nvalid < 1 {
                    pg_sys::slot_getsomeattrs_int(slot, 1);
                }
                tuple::with_payload(*(*slot).tts_values, |bytes| self.take(engine, bytes))
            };
            if understood.is_none() {
                crate::am::error::raise(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    "groups of a parallel worker can't be read".into(),
                    None,
                    None,
                )
            }
            engine.tidy();
            if !fits(engine) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, engine: &mut Engine, message: &[u8]) -> Option<()> {
        let (head, groups) = message.split_at_checked(HEAD * 8)?;
        let mut numbers = [0; HEAD];
        for (number, bytes) in numbers.iter_mut().zip(head.as_chunks::<8>().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        let [counted @ .., heap_rows] = numbers;
        self.counters.add(&Counters::from(counted));
        self.heap_rows += heap_rows;
        engine.merge(groups)
    }
}
