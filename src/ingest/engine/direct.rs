//! Writing a large batch's rows of a frozen chunk as segments: new rows and new versions of frozen ones go there without
//! passing through the delta and its indexes. Frozen rows that have a new version get a tombstone that leads to it.
//!
//! Nobody else writes to the chunk meanwhile, so nothing has to tell others of a key before the segments are there: the
//! batch holds the locks of all its chunks to the end of the transaction. Where they are not to be had, rows go to the
//! delta; and so they do where the transaction may go on with other tables and other chunks, whose locks others may have who
//! wait for this one.

use super::chunk::{Plan, moves_on};
use crate::am::append::Appender;
use crate::am::companion;
use crate::am::directory;
use crate::am::tid::{self, Place};
use crate::am::tombstone;
use crate::am::unique;
use crate::am::writer::Layout;
use crate::ingest::batch::OnConflict;
use crate::pg::lock::Tag;
use crate::pg::memory;
use crate::pg::permission;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use crate::pg::sort::SortColumn;
use crate::pg::tuple;
use crate::tier::freeze;
use crate::tier::gather::Gather;
use crate::tier::level::Tier;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::collections::HashSet;
use varve_core::header::MAX_ROWS;
use varve_core::paged::Effort;

/// Milliseconds that a batch tries to have a chunk for itself, at most.
const PATIENCE_MS: u32 = 50;

/// The mark of a row that replaces none.
const NONE: u64 = u64::MAX;

/// Rows on their way into segments.
pub struct Direct {
    rel: pg_sys::Relation,
    gather: Gather,
    order: Vec<SortColumn>,
    effort: Effort,
    appender: Option<Appender>,
    /// Where the appender lives, which is begun while a few of the rows are at hand, in memory that goes with those.
    home: pg_sys::MemoryContext,
}

impl Direct {
    /// Begins to write into a chunk that [`claim`] gave; `None` where it has changed before it was locked.
    pub fn new(rel: pg_sys::Relation, plan: &Plan) -> Option<Self> {
        if !suits(rel, plan) {
            return None;
        }
        let companion = companion::of(rel).filter(|_| is_varve(rel))?;
        let order = plan.row_order().resolve(rel);
        let effort = {
            let latest = snapshot::Registered::latest();
            directory::effort(&directory::load(rel, &companion, latest.get()))
        };
        // A chunk without segments has been made for this batch, as a rule.
        let effort = effort.or_else(|| plan.tier?.effort());
        ereport!(
            PgLogLevel::DEBUG1,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("rows for {} are written as segments", relation::name(rel))
        );
        Some(Direct {
            rel,
            gather: Gather::new(rel, &order)?,
            order,
            effort: effort.unwrap_or(Effort::Fast),
            appender: None,
            // SAFETY: reads a variable of the process.
            home: unsafe { pg_sys::CurrentMemoryContext },
        })
    }

    /// Adds a row that was checked. `replaces` is the frozen row that it is the new version of.
    ///
    /// # Safety
    /// Values of the chunk's row shape.
    pub unsafe fn push(
        &mut self,
        values: &[pg_sys::Datum],
        nulls: &[bool],
        replaces: Option<Place>,
    ) {
        let origin = replaces.map_or(NONE, |place| tuple::tid_key(&tid::encode(place)));
        // SAFETY: by contract.
        unsafe { self.gather.push(values, nulls, origin) };
        // Columns that the batch does not have come from stored rows, of any size.
        let full = self.gather.memory() > crate::settings::upsert_memory();
        if self.gather.rows() >= MAX_ROWS as usize || full {
            memory::for_this_call(|| self.flush());
        }
    }

    /// Writes what was gathered.
    fn flush(&mut self) {
        let Some(fresh) = Gather::new(self.rel, &self.order) else {
            pgrx::error!("the chunk's rows cannot be sorted any more");
        };
        let gathered = std::mem::replace(&mut self.gather, fresh);
        let rows = gathered.rows();
        if rows == 0 {
            return;
        }
        let (rel, home) = (self.rel, self.home);
        let appender = self.appender.get_or_insert_with(|| {
            // SAFETY: the context that the chunk was opened in.
            unsafe { memory::within(home, || Appender::begin(rel)) }
        });
        let layout = Layout::of(rel, &self.order, self.effort);
        let mut replaced: Vec<(Place, pg_sys::ItemPointerData)> = Vec::new();
        gathered.encode(&layout, |encoded, origins| {
            let segment = appender.add(encoded);
            let new = (0..).map(|row| tid::encode(Place { segment, row }));
            let old = origins.iter().zip(new).filter(|(key, _)| **key != NONE);
            replaced.extend(old.filter_map(|(key, new)| {
                let place = tid::decode(&tuple::tid_from_key(*key))?;
                Some((place, new))
            }));
        });
        replaced.sort_unstable_by_key(|(place, _)| *place);
        // SAFETY: inside a transaction that writes; counters of an open table.
        unsafe {
            let cid = pg_sys::GetCurrentCommandId(true);
            tombstone::insert_many(&appender.companion, &replaced, cid);
            pg_sys::pgstat_count_heap_insert(rel, (rows - replaced.len()) as i64);
            for _ in &replaced {
                pg_sys::pgstat_count_heap_update(rel, false, false);
            }
        }
    }

    /// Writes the rest. What was written is seen by the commands that follow.
    pub fn end(mut self) {
        memory::for_this_call(|| self.flush());
        if let Some(appender) = self.appender {
            appender.end();
        }
    }
}

fn is_varve(rel: pg_sys::Relation) -> bool {
    Some(relation::form(rel).relam) == relation::varve_am()
}

/// Whether rows of a table may go past the delta: nothing but the key's index has to know of them, nobody but SQL reads
/// them, and no code of the user's that is called on the way can write to the table.
fn suits(rel: pg_sys::Relation, plan: &Plan) -> bool {
    // SAFETY: an open relation.
    let (triggers, logical) = unsafe {
        (
            !(*rel).trigdesc.is_null(),
            pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32,
        )
    };
    let enforced = unique::index_oids(rel)
        .into_iter()
        .filter(|oid| {
            let index = OpenRel::index(*oid, pg_sys::AccessShareLock);
            // SAFETY: an open index has its pg_index row.
            let form = unsafe { &*(*index.as_ptr()).rd_index };
            form.indisunique || form.indisexclusion
        })
        .count();
    let order = plan.row_order().resolve(rel);
    !triggers
        && !logical
        && enforced == 1
        && Gather::new(rel, &order).is_some()
        && !checks_are_volatile(rel)
        && !plan.defaults_are_volatile()
}

/// Whether a CHECK constraint calls functions that may write.
fn checks_are_volatile(rel: pg_sys::Relation) -> bool {
    // SAFETY: the constraints of an open relation's row shape; each is a node as text.
    unsafe {
        let constr = (*relation::tupdesc(rel)).constr;
        if constr.is_null() {
            return false;
        }
        (0..usize::from((*constr).num_check)).any(|i| {
            let text = (*(*constr).check.add(i)).ccbin;
            let node = pg_sys::stringToNode(text);
            pg_sys::contain_volatile_functions_not_nextval(node.cast())
        })
    }
}

thread_local! {
    /// Whether the transaction holds chunks that it wrote as segments.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the transaction holds chunks that a batch wrote as segments.
pub fn holds_chunks() -> bool {
    HOLDS.get()
}

/// Forgets the chunks of a transaction that is over.
pub fn forget() {
    HOLDS.set(false);
}

/// Decides which of a batch's chunks (with their numbers of rows, by OID) are written as segments. If any is, all of them
/// are locked against other writers to the end of the transaction: the batch then waits for nobody, who could wait for it.
/// Chunks that this transaction has made are brought into the tier that the batch asks for. Called before any other
/// lock was taken that is stronger than a reader's.
pub fn claim(chunks: &[(pg_sys::Oid, u64)], plan: &Plan) -> HashSet<pg_sys::Oid> {
    let mut claimed = HashSet::new();
    let least = crate::settings::upsert_merge_rows();
    let is_open = plan.alone && plan.on_conflict != OnConflict::Error && moves_on();
    let all_known = chunks.iter().all(|(oid, _)| *oid != pg_sys::InvalidOid);
    if least == 0 || !is_open || !all_known || !permission::may_lock(plan.root) {
        return claimed;
    }
    let mut fresh = Vec::new();
    for (oid, _) in chunks.iter().filter(|(_, rows)| *rows >= least) {
        let Some(table) = OpenRel::try_open(*oid, pg_sys::AccessShareLock) else {
            continue;
        };
        let rel = table.as_ptr();
        if !suits(rel, plan) {
            continue;
        }
        // SAFETY: an open relation; 0 is no subtransaction.
        let made_by_us = unsafe { (*rel).rd_createSubid } != 0;
        let effort = plan.tier.and_then(Tier::effort);
        if is_varve(rel) && companion::of(rel).is_some() {
            claimed.insert(*oid);
        } else if let Some(effort) = effort
            && made_by_us
            && relation::form(rel).relam == relation::HEAP_AM
        {
            fresh.push((*oid, effort));
            claimed.insert(*oid);
        }
    }
    if claimed.is_empty() || !lock(chunks, &claimed) {
        return HashSet::new();
    }
    HOLDS.set(true);
    for (oid, effort) in fresh {
        // The row that a chunk was made with stays the first one, by which the batch knows it.
        freeze::freeze(oid, plan.row_order(), effort);
    }
    claimed
}

/// Locks chunks against all writers, to the end of the transaction; tells whether that was to be had.
///
/// Large batches queue for each other first: row by row, several would come further behind than one after the other. A batch
/// that has written something already (it made a chunk, or is one part of a COPY) does not wait: others may be waiting for that.
fn lock(chunks: &[(pg_sys::Oid, u64)], claimed: &HashSet<pg_sys::Oid>) -> bool {
    let mode = pg_sys::ExclusiveLock;
    // SAFETY: reads the state of the transaction.
    let waits = unsafe { pg_sys::GetTopTransactionIdIfAny() } == pg_sys::InvalidTransactionId
        && !holds_chunks();
    let mut queued: Vec<Tag> = Vec::new();
    let mut locked = true;
    for (oid, _) in chunks.iter().filter(|(oid, _)| claimed.contains(oid)) {
        let batches = Tag::of_table(*oid, 2);
        if waits {
            batches.acquire(mode);
        } else if !batches.try_acquire(mode) {
            locked = false;
            break;
        }
        queued.push(batches);
    }
    let tries = if waits { PATIENCE_MS } else { 1 };
    for turn in 0..tries {
        if !locked || lock_all(chunks) {
            break;
        }
        locked = turn + 1 < tries;
        if locked {
            nap();
        }
    }
    if !locked {
        for batches in queued {
            batches.release(mode);
        }
    }
    locked
}

/// Locks chunks where that needs no wait: all of them, or none.
fn lock_all(chunks: &[(pg_sys::Oid, u64)]) -> bool {
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    for (i, (oid, _)) in chunks.iter().enumerate() {
        // SAFETY: lock manager calls; what is given back was taken just before.
        unsafe {
            if !pg_sys::ConditionalLockRelationOid(*oid, mode) {
                for (oid, _) in chunks.iter().take(i) {
                    pg_sys::UnlockRelationOid(*oid, mode);
                }
                return false;
            }
        }
    }
    true
}

/// A millisecond that a signal ends, as VACUUM naps before it asks for such a lock again.
fn nap() {
    pgrx::check_for_interrupts!();
    // SAFETY: waits for the process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            1,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}
