//! Writing a large batch's rows of a frozen chunk as segments: new rows and new versions of frozen ones go there without
//! passing through the delta and its indexes. Frozen rows that have a new version get a tombstone that leads to it.
//!
//! Nobody else writes to the chunk meanwhile, so nothing has to tell others of a key before the segments are there: the
//! batch holds the chunk's lock to the end of the transaction. Where that is not to be had, rows go to the delta; and so
//! they do where the transaction may go on with other tables and other chunks, whose locks others may have who wait for
//! this one.

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
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use crate::pg::sort::SortColumn;
use crate::pg::tuple;
use crate::tier::freeze;
use crate::tier::gather::Gather;
use crate::tier::level::Tier;
use pgrx::pg_sys;
use pgrx::prelude::*;
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
    /// Decides whether that many rows of a batch are written as segments, and locks the chunk then. Called before any
    /// other lock on it was taken that is stronger than that of a reader. A chunk that this transaction has made is brought
    /// into the tier that the batch asks for.
    pub fn begin(oid: pg_sys::Oid, rows: u64, plan: &Plan) -> bool {
        let least = crate::settings::upsert_merge_rows();
        let large = least > 0 && rows >= least;
        if !large || !plan.alone || plan.on_conflict == OnConflict::Error || !moves_on() {
            return false;
        }
        let Some(table) = OpenRel::try_open(oid, pg_sys::AccessShareLock) else {
            return false;
        };
        let rel = table.as_ptr();
        if !suits(rel, plan) {
            return false;
        }
        if is_varve(rel) && companion::of(rel).is_some() {
            return lock(oid);
        }
        // SAFETY: an open relation; 0 is no subtransaction.
        let made_by_us = unsafe { (*rel).rd_createSubid } != 0;
        match plan.tier.and_then(Tier::effort) {
            Some(effort) if made_by_us && relation::form(rel).relam == relation::HEAP_AM => {
                // The row that it was made with stays the first one, by which the batch knows it.
                drop(table);
                freeze::freeze(oid, plan.row_order(), effort);
                lock(oid)
            }
            _ => false,
        }
    }

    /// Begins to write into a chunk that [`begin`](Self::begin) locked; `None` where it has changed since.
    pub fn new(rel: pg_sys::Relation, plan: &Plan) -> Option<Self> {
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
        let rows = self.gather.rows();
        let full = rows % 1024 == 0 && self.gather.memory() > crate::settings::upsert_memory();
        if rows >= MAX_ROWS as usize || full {
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

/// Locks a chunk against all writers, to the end of the transaction; tells whether that was to be had.
///
/// Large batches queue for each other first: row by row, several would come further behind than one after the other. A batch
/// that has written something already (it made a chunk, or is one part of a COPY) does not wait: others may be waiting for that.
fn lock(oid: pg_sys::Oid) -> bool {
    let batches = Tag::of_table(oid, 2);
    let mode = pg_sys::ExclusiveLock;
    // SAFETY: reads the state of the transaction.
    let waits = unsafe { pg_sys::GetTopTransactionIdIfAny() } == pg_sys::InvalidTransactionId;
    if waits {
        batches.acquire(mode);
    } else if !batches.try_acquire(mode) {
        return false;
    }
    for _ in 0..PATIENCE_MS {
        // SAFETY: a lock manager call.
        if unsafe { pg_sys::ConditionalLockRelationOid(oid, mode as pg_sys::LOCKMODE) } {
            return true;
        }
        if !waits {
            break;
        }
        pgrx::check_for_interrupts!();
        // SAFETY: a nap that a signal ends, as VACUUM takes it before it asks for such a lock again.
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
    batches.release(mode);
    false
}
