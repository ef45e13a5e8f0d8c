//! Writing sorted rows into one chunk: a pass along the key's index tells which are new, changed or equal; then they are
//! written in key order, so that two batches wait for each other and never in a circle.

use super::direct::{self, Direct};
use super::eligible::{self, Reason};
use super::rows::{Run, Shape};
use crate::am::command::Stepped;
use crate::am::directory::Decoded;
use crate::am::error::raise;
use crate::am::lookup::DeltaOnly;
use crate::am::merge::{self, FrozenWalk};
use crate::am::modify;
use crate::am::tid::{self, Place};
use crate::ingest::batch::{OnConflict, Summary};
use crate::pg::context::RowAt;
use crate::pg::executor::Executor;
use crate::pg::expression;
use crate::pg::memory;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Statement;
use crate::pg::tuple;
use crate::pg::walk::{self, KeyWalk};
use crate::pg::writer::{Stored, TableWriter, Updated};
use crate::tier::catalog;
use crate::tier::level::Tier;
use crate::tier::order::RowOrder;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::OnceCell;
use std::collections::HashSet;
use std::rc::Rc;

/// What all chunks of a batch need to know of it.
pub struct Plan {
    /// What to do with keys that are stored already; `Ignore` where a batch has nothing but keys.
    pub on_conflict: OnConflict,
    /// Whether rows equal to the stored ones are left alone.
    pub skip_unchanged: bool,
    /// Names of the batch's columns in their order.
    pub names: Vec<String>,
    /// Positions of the key's columns, in the order of the index.
    pub key: Vec<usize>,
    /// Positions of the columns that an update sets.
    pub values: Vec<usize>,
    /// Whether the batch lacks columns that are not computed by the table.
    pub partial: bool,
    /// Those that have defaults.
    pub defaults: Vec<(String, *mut pg_sys::ExprState)>,
    /// Evaluates defaults and constraints, queues triggers.
    pub executor: Rc<Executor>,
    /// Which row is at hand.
    pub at: Rc<RowAt>,
    /// Whether the transaction has written nothing before the batch, and is over with it.
    pub alone: bool,
    /// Whether the statement may go on with another batch.
    pub goes_on: bool,
    /// The tier that a large batch makes of a chunk of which nothing is frozen.
    pub tier: Option<Tier>,
    /// The table named in the call.
    pub root: pg_sys::Oid,
    /// By what the rows of its chunks are sorted when they are frozen, once it was asked.
    pub order: OnceCell<RowOrder>,
}

impl Plan {
    /// By what the rows of the table's chunks are sorted when they are frozen.
    pub fn row_order(&self) -> &RowOrder {
        self.order
            .get_or_init(|| catalog::row_order(catalog::root_of(self.root)))
    }

    /// Whether a default calls functions that may write, or see what the statement has written so far.
    pub fn defaults_see_the_statement(&self) -> bool {
        self.defaults.iter().any(|(_, state)| {
            // SAFETY: prepared by the executor out of this expression.
            unsafe { expression::sees_the_statement((**state).expr.cast()) }
        })
    }
}

/// Rows that were inserted to have their chunk made, by chunk and place; they count as new whatever comes after.
pub type Seeds = HashSet<(u32, u64)>;

/// A chunk that is open for a batch.
pub struct Chunk<'a> {
    plan: &'a Plan,
    writer: TableWriter,
    index: pg_sys::Oid,
    walk: Option<Walk>,
    /// The stored row that was found last, and the page that a frozen one is on.
    stored: Prepared,
    page: Option<Rc<Decoded>>,
    /// Set where rows may have to be thawed.
    frozen: Option<Stepped>,
    /// Attribute (from 0) of each of the batch's columns.
    places: Vec<usize>,
    /// For each attribute, the batch's column that an update sets it to.
    set: Vec<Option<usize>>,
    /// Attribute and expression of each default.
    defaults: Vec<(usize, *mut pg_sys::ExprState)>,
    natts: usize,
    /// Where things live that last as long as the chunk is open.
    home: pg_sys::MemoryContext,
    /// Takes rows past the delta.
    direct: Option<Direct>,
    /// Whether each row is written before the next one is looked at, as in an INSERT: a function of a constraint or a default
    /// may look for it.
    in_turn: OnceCell<bool>,
}

/// The passes over what a chunk holds, beside a sorted batch.
struct Walk {
    /// Frozen rows are not looked for by the index then.
    #[expect(dead_code, reason = "works by being dropped, before the scan is")]
    only: DeltaOnly,
    walk: KeyWalk,
    pass: Option<FrozenWalk>,
}

/// What is to be done with a row.
#[derive(Clone, Copy)]
enum Verdict {
    /// Its key is not stored.
    New,
    /// Nothing: it equals the stored row, or that is to be left alone.
    Leave,
    /// This stored row is changed to the one with this number among those prepared.
    Change(Stored, usize),
    /// As `Change`, or nothing where the row is what it is to be; it counts as new.
    Seed(Option<(Stored, usize)>),
}

/// Rows as they will be stored, one after the other.
#[derive(Default)]
struct Prepared {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Prepared {
    /// One of them.
    fn row(&self, number: usize, natts: usize) -> (&[pg_sys::Datum], &[bool]) {
        let span = number * natts..(number + 1) * natts;
        (
            self.values.get(span.clone()).unwrap_or_default(),
            self.nulls.get(span).unwrap_or_default(),
        )
    }
}

impl<'a> Chunk<'a> {
    /// Opens a chunk for a batch; it stays locked as for INSERT. With `direct`, it is one that [`direct::claim`] gave.
    /// Says why where the engine cannot write into it.
    pub fn open(
        oid: pg_sys::Oid,
        direct: bool,
        plan: &'a Plan,
        statement: &mut Statement,
    ) -> Result<Self, Reason> {
        let rel = OpenRel::try_open(oid, pg_sys::RowExclusiveLock)
            .ok_or("the chunk was dropped meanwhile")?;
        eligible::check_leaf(rel.as_ptr())?;
        let desc = relation::tupdesc(rel.as_ptr());
        let place = |name: &String| {
            (0..relation::natts(desc)).find(|i| {
                let attr = relation::attribute(desc, *i);
                !attr.attisdropped && relation::attribute_name(attr) == *name
            })
        };
        let lacks = "the chunk lacks a column";
        let places: Vec<usize> = plan
            .names
            .iter()
            .map(place)
            .collect::<Option<_>>()
            .ok_or(lacks)?;
        let defaults = plan
            .defaults
            .iter()
            .map(|(name, expression)| Some((place(name)?, *expression)))
            .collect::<Option<_>>()
            .ok_or(lacks)?;
        let mut set = vec![None; relation::natts(desc)];
        for column in &plan.values {
            if let Some(attribute) = places.get(*column).and_then(|p| set.get_mut(*p)) {
                *attribute = Some(*column);
            }
        }
        let key: Option<Vec<usize>> = plan.key.iter().map(|k| places.get(*k).copied()).collect();
        let index = key_index(rel.as_ptr(), &key.ok_or(lacks)?)
            .ok_or("the chunk lacks the index of the key")?;
        let arbiter = (plan.on_conflict != OnConflict::Error).then_some(index);
        let frozen = may_be_frozen(rel.as_ptr());
        let mut writer = TableWriter::new(plan.executor.clone(), plan.at.clone(), rel, arbiter);
        if frozen && !crate::settings::debug_freeze_on_commit() {
            // Nobody adds segments from here on. Another batch may have while this one waited for the lock.
            let unseen = !merge::sees_all(writer.rel(), statement.snapshot());
            if unseen && moves_on() {
                statement.renew();
            }
            if !unseen || moves_on() {
                writer.insert_by(modify::multi_insert_new);
            }
        }
        let direct = direct.then(|| Direct::new(writer.rel(), plan)).flatten();
        Ok(Chunk {
            plan,
            direct,
            natts: relation::natts(desc),
            in_turn: OnceCell::new(),
            writer,
            frozen: frozen.then(Stepped::new),
            index,
            walk: None,
            stored: Prepared {
                values: vec![pg_sys::Datum::from(0usize); relation::natts(desc)],
                nulls: vec![true; relation::natts(desc)],
            },
            page: None,
            places,
            set,
            defaults,
            // SAFETY: reads a variable of the process.
            home: unsafe { pg_sys::CurrentMemoryContext },
        })
    }

    /// Writes rows. What they were compared with is taken anew from `statement` where somebody else got in between.
    pub fn write(
        &mut self,
        run: &Run,
        shape: &Shape,
        statement: &mut Statement,
        seeds: &Seeds,
        summary: &mut Summary,
    ) {
        let mut from = 0;
        while from < run.len() {
            pgrx::check_for_interrupts!();
            let mut prepared = Prepared::default();
            let verdicts: Vec<Verdict> = (from..run.len())
                .map(|row| self.judge(run, row, shape, statement, seeds, &mut prepared))
                .collect();
            let done = self.apply(run, from, &verdicts, &prepared, statement);
            self.writer.finish_updates();
            for verdict in verdicts.iter().take(done - from) {
                match verdict {
                    Verdict::New | Verdict::Seed(_) => summary.inserted += 1,
                    Verdict::Leave => summary.unchanged += 1,
                    Verdict::Change(..) => summary.updated += 1,
                }
            }
            from = done;
            if from < run.len() {
                self.walk = None;
                statement.renew();
                if self.frozen.take().is_some() {
                    self.frozen = Some(Stepped::new());
                }
            }
        }
    }

    /// Ends the writing.
    pub fn end(self) {
        if let Some(direct) = self.direct {
            drop(self.walk);
            direct.end();
        }
    }

    fn judge(
        &mut self,
        run: &Run,
        row: usize,
        shape: &Shape,
        statement: &Statement,
        seeds: &Seeds,
        prepared: &mut Prepared,
    ) -> Verdict {
        if self.plan.on_conflict == OnConflict::Error && seeds.is_empty() {
            return Verdict::New;
        }
        let (values, nulls) = run.row(row);
        let mut key = [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize];
        for (k, column) in key.iter_mut().zip(&self.plan.key) {
            if let Some(value) = values.get(*column) {
                *k = *value;
            }
        }
        self.open_walks(statement);
        let rel = self.writer.rel();
        let key = key.get(..self.plan.key.len()).unwrap_or_default();
        let Some(found) = self.find(key) else {
            return Verdict::New;
        };
        let seed = seeds.contains(&(relation::oid(rel).to_u32(), tuple::tid_key(&found.tid)));
        let mut change = || {
            let (stored, stored_nulls) = (&self.stored.values, &self.stored.nulls);
            let differs = self.plan.values.iter().any(|column| {
                let place = self.places.get(*column).copied().unwrap_or(0);
                match (
                    (values.get(*column), nulls.get(*column)),
                    (stored.get(place), stored_nulls.get(place)),
                ) {
                    ((Some(new), Some(false)), (Some(old), Some(false))) => {
                        let attr = shape.attribute(*column);
                        // SAFETY: two values of the column's type.
                        !unsafe { tuple::same_image(*new, *old, attr.attbyval, attr.attlen) }
                    }
                    ((_, new_null), (_, old_null)) => new_null != old_null,
                }
            });
            (differs || !self.plan.skip_unchanged && !seed).then(|| {
                let desc = relation::tupdesc(rel);
                let number = prepared.nulls.len() / self.natts;
                let olds = stored.iter().zip(stored_nulls).zip(&self.set);
                for (place, ((old, old_null), set)) in olds.enumerate() {
                    let (value, null) = match set {
                        Some(column) => (
                            values.get(*column).copied().unwrap_or(*old),
                            nulls.get(*column).copied().unwrap_or(true),
                        ),
                        None if *old_null => (*old, true),
                        None => (
                            memory::copy_datum(*old, relation::attribute(desc, place)),
                            false,
                        ),
                    };
                    prepared.values.push(value);
                    prepared.nulls.push(null);
                }
                (found, number)
            })
        };
        if seed {
            return Verdict::Seed(change());
        }
        match self.plan.on_conflict {
            // The index raises the error.
            OnConflict::Error => Verdict::New,
            OnConflict::Ignore => Verdict::Leave,
            OnConflict::Update => match change() {
                Some((row, number)) => Verdict::Change(row, number),
                None => Verdict::Leave,
            },
        }
    }

    fn open_walks(&mut self, statement: &Statement) {
        if self.walk.is_some() {
            return;
        }
        let (rel, index) = (self.writer.rel(), self.index);
        // With varve.debug_freeze others may freeze rows of theirs while the chunk is written.
        if self.frozen.is_none() && may_be_frozen(rel) {
            self.frozen = Some(Stepped::new());
        }
        let frozen = self.frozen.is_some();
        // SAFETY: the context that the chunk was opened in.
        let (walk, pass) = unsafe {
            memory::within(self.home, || {
                let walk = KeyWalk::new(rel, index, statement.snapshot());
                let pass = frozen.then(|| FrozenWalk::new(rel, index, statement.snapshot()));
                (walk, pass.flatten())
            })
        };
        let only = DeltaOnly::new(walk.scan());
        self.walk = Some(Walk { only, walk, pass });
    }

    /// Finds the stored row with a key, and puts it into `stored`.
    fn find(&mut self, key: &[pg_sys::Datum]) -> Option<Stored> {
        let Walk { walk, pass, .. } = self.walk.as_mut()?;
        if let Some(found) = walk.find(key) {
            walk.row(&mut self.stored.values, &mut self.stored.nulls);
            return Some(found);
        }
        let (place, page) = pass.as_mut()?.find(key)?;
        page.row(place.row, &mut self.stored.values, &mut self.stored.nulls);
        self.page = Some(page);
        Some(Stored {
            tid: tid::encode(place),
            changed_before: false,
        })
    }

    /// Carries verdicts out, in key order, and tells how far it came: to the first row that has to be judged again, since
    /// somebody else wrote its key meanwhile.
    fn apply(
        &mut self,
        run: &Run,
        from: usize,
        verdicts: &[Verdict],
        prepared: &Prepared,
        statement: &Statement,
    ) -> usize {
        // New rows that are not inserted yet.
        let mut waiting: Vec<usize> = Vec::new();
        for (row, verdict) in (from..).zip(verdicts) {
            match verdict {
                Verdict::New if self.direct.is_some() => {
                    self.put(0, run, row);
                    self.past_delta(None);
                }
                Verdict::New => {
                    self.put(waiting.len(), run, row);
                    waiting.push(row);
                    if self.is_in_turn(run)
                        && let Err(taken) = self.insert(&mut waiting)
                    {
                        return taken;
                    }
                }
                Verdict::Leave | Verdict::Seed(None) => {}
                Verdict::Change(stored, number) | Verdict::Seed(Some((stored, number))) => {
                    if let Err(taken) = self.insert(&mut waiting) {
                        return taken;
                    }
                    if self.plan.partial {
                        // INSERT checks the row that it would insert, with defaults, before it meets the stored one.
                        self.put(0, run, row);
                    }
                    if let (Some(place), true) = (tid::decode(&stored.tid), self.direct.is_some()) {
                        self.put_changed(run.number(row), *number, prepared);
                        self.past_delta(Some(place));
                        continue;
                    }
                    if self.change(*stored, run.number(row), *number, prepared, statement)
                        == Updated::Elsewhere
                    {
                        refuse_to_go_on();
                        return row;
                    }
                    if self.is_in_turn(run) {
                        self.writer.finish_updates();
                    }
                }
            }
        }
        match self.insert(&mut waiting) {
            Ok(()) => from + verdicts.len(),
            Err(taken) => taken,
        }
    }

    /// Whether each row of a run is written before the next one is looked at. Expressions are looked at once there are two.
    fn is_in_turn(&self, run: &Run) -> bool {
        run.len() > 1
            && *self.in_turn.get_or_init(|| {
                direct::checks_see_the_statement(self.writer.rel())
                    || self.plan.defaults_see_the_statement()
            })
    }

    /// Prepares a row to be the `n`-th of those inserted next.
    fn put(&mut self, n: usize, run: &Run, row: usize) {
        let (values, nulls) = run.row(row);
        let (places, defaults, executor) = (&self.places, &self.defaults, &self.plan.executor);
        let desc = relation::tupdesc(self.writer.rel());
        self.writer.put(n, run.number(row), |to, to_nulls| {
            to_nulls.fill(true);
            for ((place, value), null) in places.iter().zip(values).zip(nulls) {
                if let (Some(t), Some(n)) = (to.get_mut(*place), to_nulls.get_mut(*place)) {
                    (*t, *n) = (*value, *null);
                }
            }
            for (place, expression) in defaults {
                // SAFETY: prepared by this executor.
                let value = unsafe { executor.evaluate(*expression) };
                if let (Some(t), Some(n), Some(value)) =
                    (to.get_mut(*place), to_nulls.get_mut(*place), value)
                {
                    *t = memory::copy_datum(value, relation::attribute(desc, *place));
                    *n = false;
                }
            }
        });
        self.plan.executor.reset_rows();
    }

    /// Prepares a stored row's new version to be the next one written.
    fn put_changed(&mut self, row: u64, number: usize, prepared: &Prepared) {
        let (values, nulls) = prepared.row(number, self.natts);
        self.writer.check_update();
        self.writer.put(0, row, |to, to_nulls| {
            to.copy_from_slice(values);
            to_nulls.copy_from_slice(nulls);
        });
    }

    /// Writes the row that was prepared past the delta.
    fn past_delta(&mut self, replaces: Option<Place>) {
        if let Some(direct) = &mut self.direct {
            // SAFETY: a row of the chunk's shape.
            self.writer
                .with_row(|values, nulls| unsafe { direct.push(values, nulls, replaces) });
        }
        self.plan.executor.reset_rows();
    }

    /// Inserts the rows that wait; `Err` with the first whose key was taken meanwhile.
    fn insert(&mut self, waiting: &mut Vec<usize>) -> Result<(), usize> {
        if waiting.is_empty() {
            return Ok(());
        }
        let done = self.writer.insert(waiting.len());
        self.plan.executor.reset_rows();
        let taken = done.err();
        let row = taken.and_then(|taken| waiting.get(taken.row).copied());
        waiting.clear();
        if taken.is_some_and(|taken| taken.stays) {
            refuse_to_go_on();
        }
        row.map_or(Ok(()), Err)
    }

    fn change(
        &mut self,
        stored: Stored,
        row: u64,
        number: usize,
        prepared: &Prepared,
        statement: &Statement,
    ) -> Updated {
        let (values, nulls) = prepared.row(number, self.natts);
        let fill = |to: &mut [pg_sys::Datum], to_nulls: &mut [bool]| {
            to.copy_from_slice(values);
            to_nulls.copy_from_slice(nulls);
        };
        let frozen = &mut self.frozen;
        let keep_up = || frozen.iter_mut().for_each(Stepped::keep_up);
        let snapshot = statement.snapshot();
        let updated = self.writer.update(stored, row, snapshot, fill, keep_up);
        self.plan.executor.reset_rows();
        updated
    }
}

/// Whether each statement of the transaction has a snapshot of its own.
pub fn moves_on() -> bool {
    // SAFETY: reads the transaction's isolation level.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// A transaction that keeps one snapshot cannot look again at what others did after it.
fn refuse_to_go_on() {
    if !moves_on() {
        raise(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update".into(),
            None,
            None,
        );
    }
}

/// Whether a table has frozen rows, or may come to have some while it is written.
fn may_be_frozen(rel: pg_sys::Relation) -> bool {
    relation::form(rel).relam != relation::HEAP_AM && modify::frozen_part(rel).is_some()
}

/// The unique index of a chunk on these attributes (counted from 0), in their order, that rows can be merged with.
fn key_index(rel: pg_sys::Relation, key: &[usize]) -> Option<pg_sys::Oid> {
    crate::am::unique::index_oids(rel).into_iter().find(|oid| {
        let index = OpenRel::index(*oid, pg_sys::AccessShareLock);
        crate::ingest::target::is_key(index.as_ptr())
            && walk::order_of(index.as_ptr()).is_some_and(|order| {
                order
                    .iter()
                    .map(|column| column.attnum as usize - 1)
                    .eq(key.iter().copied())
            })
    })
}
