//! Writing a large batch's rows of a frozen chunk as segments: new rows and new versions of frozen ones go there without
//! passing through the delta and its indexes. Frozen rows that have a new version get a tombstone that leads to it.
//!
//! Nobody else writes to the chunk meanwhile, so nothing has to tell others of a key before the segments are there: the
//! batch holds the locks of all its chunks to the end of the transaction. Where they are not to be had, rows go to the
//! delta; and so they do where the transaction may go on with other tables and other chunks, whose locks others may have who
//! wait for this one.

use super::chunk::{Plan, moves_on};
use crate::am::append::Appender;
use crate::am::cache;
use crate::am::companion::{self, Companion};
use crate::am::directory;
use crate::am::tid::{self, Place};
use crate::am::tombstone;
use crate::am::unique;
use crate::am::writer::Layout;
use crate::ingest::batch::OnConflict;
use crate::pg::expression;
use crate::pg::lock::{self, Tag};
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
const PATIENCE_MS: u32 = 200;

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
        && !checks_see_the_statement(rel)
        && !plan.defaults_see_the_statement()
}

/// Whether so many rows of a chunk were replaced or thawed since it was frozen that it holds more old versions than rows.
/// Every batch would come past them; rows that change over and over are in better hands in the delta.
fn is_worn(rel: pg_sys::Relation, companion: &Companion) -> bool {
    let segments = cache::directory(rel, companion);
    let all: u64 = segments.iter().map(|s| s.live_at_birth()).sum();
    tombstone::about(companion) * 2 > all.max(2 * tombstone::PER_PAGE)
}

/// Whether a CHECK constraint calls functions that may write, or see what the statement has written so far.
pub fn checks_see_the_statement(rel: pg_sys::Relation) -> bool {
    // SAFETY: the constraints of an open relation's row shape; each is a node as text.
    unsafe {
        let constr = (*relation::tupdesc(rel)).constr;
        if constr.is_null() {
            return false;
        }
        (0..usize::from((*constr).num_check)).any(|i| {
            let text = (*(*constr).check.add(i)).ccbin;
            let node = pg_sys::stringToNode(text);
            expression::sees_the_statement(node.cast())
        })
    }
}

thread_local! {
    /// Whether the transaction holds locks of large batches.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the transaction holds locks of large batches.
pub fn holds_chunks() -> bool {
    HOLDS.get()
}

/// The lock for which large batches queue that have rows for a chunk.
fn queue_of(chunk: pg_sys::Oid) -> Tag {
    Tag::of_table(chunk, 2)
}

/// The lock of statements that write a table in several parts: two of them, each with chunks that it holds, would wait for each
/// other.
fn parts_of(table: pg_sys::Oid) -> Tag {
    Tag::of_table(table, 3)
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
    // Another sink of the same statement may have chunks.
    let is_alone = plan.alone && (plan.goes_on || !holds_chunks());
    let is_open = is_alone && plan.on_conflict != OnConflict::Error && moves_on();
    let all_known = chunks.iter().all(|(oid, _)| *oid != pg_sys::InvalidOid);
    if least == 0 || !is_open || !all_known || !permission::may_lock(plan.root) {
        return claimed;
    }
    let large = || chunks.iter().filter(|(_, rows)| *rows >= least);
    let any = large().any(|(oid, _)| Kind::of(*oid, plan).is_some());
    let is_first = is_free();
    if !any || plan.goes_on && !may_go_on(chunks, plan) || !queue(chunks, is_first) {
        return claimed;
    }
    // Others may have been at it while this one waited.
    lock::accept_messages();
    let mut fresh = Vec::new();
    for (oid, _) in large() {
        match Kind::of(*oid, plan) {
            Some(Kind::Frozen) => {}
            Some(Kind::Fresh(effort)) => fresh.push((*oid, effort)),
            Some(Kind::Worn) | None => continue,
        }
        claimed.insert(*oid);
    }
    if claimed.is_empty() || !lock_in_time(chunks, is_first) {
        return HashSet::new();
    }
    for (oid, effort) in fresh {
        // The row that a chunk was made with stays the first one, by which the batch knows it.
        freeze::freeze(oid, plan.row_order(), effort);
    }
    claimed
}

/// Whether a statement that writes in parts may take chunks: one at a time of a table's. A later part may have to make a chunk,
/// under the hypertable's lock, and must not wait for that while it has others: so it takes that lock now, or none.
fn may_go_on(chunks: &[(pg_sys::Oid, u64)], plan: &Plan) -> bool {
    let has_chunks = chunks.iter().all(|(oid, _)| *oid != plan.root);
    let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
    parts_of(plan.root).try_acquire(pg_sys::ExclusiveLock)
        // SAFETY: a lock manager call; the table is open.
        && (!has_chunks || unsafe { pg_sys::ConditionalLockRelationOid(plan.root, mode) })
}

/// What a chunk is to a large batch.
enum Kind {
    /// It has segments, to which others can be added.
    Frozen,
    /// It has segments, and rows are in better hands in the delta.
    Worn,
    /// The transaction has made it, and it is to be frozen.
    Fresh(Effort),
}

impl Kind {
    fn of(chunk: pg_sys::Oid, plan: &Plan) -> Option<Self> {
        let table = OpenRel::try_open(chunk, pg_sys::AccessShareLock)?;
        let rel = table.as_ptr();
        // Another access method's tables keep something else where ours have their companion's name.
        if let Some(companion) = is_varve(rel).then(|| companion::of(rel)).flatten() {
            let serves = suits(rel, plan) && !is_worn(rel, &companion);
            return Some(if serves { Kind::Frozen } else { Kind::Worn });
        }
        // SAFETY: an open relation; 0 is no subtransaction.
        let made_by_us = unsafe { (*rel).rd_createSubid } != 0;
        let is_heap = relation::form(rel).relam == relation::HEAP_AM;
        let effort = plan.tier.and_then(Tier::effort)?;
        (made_by_us && is_heap && suits(rel, plan)).then_some(Kind::Fresh(effort))
    }
}

/// Whether the transaction holds nothing yet that others may wait for.
fn is_free() -> bool {
    // SAFETY: reads the state of the transaction.
    let written = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    !written && !holds_chunks()
}

/// Has large batches for frozen chunks come one after the other, to the end of their transactions: row by row, eight of them
/// come further behind than that. A batch that has written something already (it made a chunk, or is one part of a COPY)
/// does not wait; `false` where it would have to.
fn queue(chunks: &[(pg_sys::Oid, u64)], waits: bool) -> bool {
    let mode = pg_sys::ExclusiveLock;
    for (i, (oid, _)) in chunks.iter().enumerate() {
        if waits {
            HOLDS.set(true);
            queue_of(*oid).acquire(mode);
        } else if !queue_of(*oid).try_acquire(mode) {
            for (oid, _) in chunks.iter().take(i) {
                queue_of(*oid).release(mode);
            }
            return false;
        }
    }
    HOLDS.set(true);
    true
}

/// Locks chunks against all writers, to the end of the transaction; tells whether that was to be had. Nobody queues
/// behind the tries.
fn lock_in_time(chunks: &[(pg_sys::Oid, u64)], waits: bool) -> bool {
    let mut patience = if waits { PATIENCE_MS } else { 0 };
    while !lock_all(chunks) {
        if patience == 0 {
            return false;
        }
        patience -= 1;
        nap();
    }
    true
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
