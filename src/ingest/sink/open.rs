//! The batches of statements under way: from the first row that a statement gives for a sink to its last.

use crate::ingest::batch::{Batch, Spec, Summary};
use crate::pg::context;
use crate::pg::memory::Context;
use crate::pg::relation;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;

/// The rows of a statement on their way.
pub struct Open {
    /// The sink.
    pub view: pg_sys::Oid,
    /// The level of nested transactions that the statement runs at.
    level: i32,
    spec: Rc<Spec>,
    /// For each of the batch's columns, its place (from 0) in the view's rows.
    places: Vec<usize>,
    batch: Option<Batch>,
    /// Rows so far.
    rows: u64,
    /// What became of the batches that were full.
    summary: Summary,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// Where the batch lives; last, so that it goes last.
    memory: Context,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
}

/// Forgets the batches of transactions that are over: those at this level and within.
pub fn forget_from(level: i32) {
    let over: Vec<Open> =
        OPEN.with_borrow_mut(|all| all.extract_if(.., |o| o.level >= level).collect());
    drop(over);
}

/// Takes the innermost batch of a sink, to be put back.
pub fn take(view: pg_sys::Oid) -> Option<Open> {
    OPEN.with_borrow_mut(|all| {
        let at = all.iter().rposition(|open| open.view == view)?;
        Some(all.remove(at))
    })
}

impl Open {
    /// A batch of a statement that begins.
    pub fn new(view: pg_sys::Oid, spec: Rc<Spec>, places: Vec<usize>, memory: Context) -> Self {
        Open {
            view,
            // SAFETY: reads the state of the transaction.
            level: unsafe { pg_sys::GetCurrentTransactionNestLevel() },
            values: vec![pg_sys::Datum::from(0usize); places.len()],
            nulls: vec![true; places.len()],
            spec,
            places,
            batch: None,
            rows: 0,
            summary: Summary::default(),
            memory,
        }
    }

    /// Keeps it for the next trigger.
    pub fn put(self) {
        OPEN.with_borrow_mut(|all| all.push(self));
    }

    /// Takes a row of the open view in. `line` is where it stands in what is copied.
    ///
    /// # Safety
    /// Values and NULL flags of the view's row shape.
    pub unsafe fn push(
        &mut self,
        values: &[pg_sys::Datum],
        nulls: &[bool],
        line: Option<u64>,
        view: pg_sys::Relation,
    ) {
        if self.rows == 0
            && line.is_some()
            && let Some(spec) = Rc::get_mut(&mut self.spec)
        {
            spec.options.copied_into = Some(relation::name(view));
        }
        self.rows += 1;
        for ((place, to), to_null) in self
            .places
            .iter()
            .zip(&mut self.values)
            .zip(&mut self.nulls)
        {
            *to = values
                .get(*place)
                .copied()
                .unwrap_or(pg_sys::Datum::from(0usize));
            *to_null = nulls.get(*place).copied().unwrap_or(true);
        }
        let number = line.unwrap_or(self.rows);
        let spec = &self.spec;
        let (batch, values, nulls) = (&mut self.batch, &self.values, &self.nulls);
        self.memory.within(|| {
            let batch = batch.get_or_insert_with(|| Batch::start(spec.clone()));
            // SAFETY: by contract, the target's columns in the batch's order.
            unsafe { batch.push(values, nulls, number) };
        });
        if self.batch.as_ref().is_some_and(Batch::is_full) {
            context::without_copy(|| self.flush(Batch::finish_part));
        }
    }

    /// Writes what was taken in.
    fn flush(&mut self, finish: fn(Batch) -> Summary) {
        if let Some(batch) = self.batch.take() {
            self.summary += self.memory.within(|| finish(batch));
            self.memory.reset();
        }
    }

    /// Writes the rest; what became of all rows.
    pub fn finish(mut self) -> Summary {
        self.flush(Batch::finish);
        self.summary
    }
}
