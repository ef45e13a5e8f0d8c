//! Reading chunks for an aggregating node: frozen rows by pages and zones, rows of heaps and deltas in blocks.
//!
//! Reading can stop where groups take too much memory, and go on from there. With [`Shared`] memory, processes take
//! segments, and blocks of heaps, of the same chunks in turns.

use super::block::{Block, Rows};
use super::child::{AggregateFilters, Child};
use super::engine::{Engine, columns_of};
use super::private::Top;
use super::shared::Shared;
use super::spec::{Aggregate, Column, Function};
use crate::am::directory::SegmentRef;
use crate::am::zone::{Comparison, Probe};
use crate::pg::{ffi, relation, tuple};
use crate::scan::columns::Columns;
use crate::scan::counters::Counters;
use crate::scan::delta::Delta;
use crate::scan::eval::{self, Bits, NO_ROWS};
use crate::scan::filter::Filter;
use crate::scan::pages::{Pages, Selection};
use pgrx::pg_sys;
use std::rc::Rc;

/// Rows of a heap that make a block.
const BLOCK: usize = 1024;

/// Where reading goes on.
enum Stage {
    /// At the beginning of a chunk.
    Start,
    /// Among its frozen rows.
    Frozen(Box<Frozen>),
    /// Among the rows of its heap.
    Heap(Delta),
}

/// Reading of frozen rows.
struct Frozen {
    pages: Pages,
    filters: AggregateFilters,
    block: Block,
    /// The segment of the page read last.
    segment: Option<i32>,
}

/// Reads chunks, one after the other.
pub struct Reader {
    /// What is read.
    pub children: Vec<Rc<Child>>,
    snapshot: pg_sys::Snapshot,
    /// Columns that keys read, and each aggregate.
    key_columns: Vec<Column>,
    aggregate_columns: Vec<Vec<Column>>,
    /// Whether an aggregate asks which of equal rows comes first.
    ordered: bool,
    child: usize,
    stage: Stage,
    /// Set in processes that read the same chunks.
    pub shared: Option<Shared>,
    /// What was read.
    pub counters: Counters,
    /// Rows of heaps.
    pub heap_rows: u64,
}

/// Where a page comes in a table, or a block of a heap, which comes after the pages of its chunk.
fn place(child: &Child, heap: bool, at: u64) -> u64 {
    (child.number as u64) << 40 | u64::from(heap) << 39 | at
}

impl Reader {
    /// At the beginning.
    pub fn new(
        children: Vec<Rc<Child>>,
        snapshot: pg_sys::Snapshot,
        keys: Vec<Column>,
        aggregates: &[Aggregate],
    ) -> Self {
        Reader {
            children,
            snapshot,
            key_columns: keys,
            aggregate_columns: aggregates.iter().map(columns_of).collect(),
            ordered: aggregates
                .iter()
                .any(|a| matches!(a.function, Function::Bookend { .. })),
            child: 0,
            stage: Stage::Start,
            shared: None,
            counters: Counters::default(),
            heap_rows: 0,
        }
    }

    /// The relations that are read.
    pub fn relations(&self) -> Vec<pg_sys::Relation> {
        self.children.iter().map(|child| child.rel).collect()
    }

    /// What is seen.
    pub fn snapshot(&self) -> pg_sys::Snapshot {
        self.snapshot
    }

    /// Forgets the shared memory, which goes away, and with it the scan of a heap that has its state there.
    pub fn unshare(&mut self) {
        if self.shared.take().is_some() {
            self.restart();
            self.child = self.children.len();
        }
    }

    /// Goes back to the beginning.
    pub fn restart(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Start) {
            Stage::Start => {}
            Stage::Frozen(mut frozen) => frozen.pages.close(),
            Stage::Heap(delta) => delta.end(),
        }
        self.child = 0;
    }

    /// Reads on; `false` where it stopped because the groups take all the memory that they may.
    pub fn read(&mut self, engine: &mut Engine, context: *mut pg_sys::ExprContext) -> bool {
        while let Some(child) = self.children.get(self.child).cloned() {
            let done = match std::mem::replace(&mut self.stage, Stage::Start) {
                Stage::Start => {
                    self.stage = self.first_stage(&child, context);
                    continue;
                }
                Stage::Frozen(mut frozen) => {
                    let done = self.read_frozen(engine, &child, &mut frozen);
                    let counted = std::mem::take(&mut frozen.pages.counters);
                    self.counters.add(&counted);
                    if !done {
                        self.stage = Stage::Frozen(frozen);
                        return false;
                    }
                    frozen.pages.close();
                    if let Some(delta) = self.heap(&child) {
                        self.stage = Stage::Heap(delta);
                        continue;
                    }
                    true
                }
                Stage::Heap(mut delta) => {
                    let done = self.read_heap(engine, &child, &mut delta, context);
                    if done {
                        delta.end();
                    } else {
                        self.stage = Stage::Heap(delta);
                    }
                    done
                }
            };
            if !done {
                return false;
            }
            self.child += 1;
            engine.tidy();
            if !fits(engine) {
                return false;
            }
        }
        true
    }

    fn first_stage(&mut self, child: &Child, context: *mut pg_sys::ExprContext) -> Stage {
        // SAFETY: the relation and the snapshot are the executor's.
        unsafe { ffi::PredicateLockRelation(child.rel, self.snapshot) };
        if let Some(pages) = child.pages(self.snapshot, context) {
            return Stage::Frozen(Box::new(Frozen {
                pages,
                filters: child.aggregate_filters(context),
                block: Block::default(),
                segment: None,
            }));
        }
        match self.heap(child) {
            Some(delta) => Stage::Heap(delta),
            None => {
                self.child += 1;
                Stage::Start
            }
        }
    }

    /// Begins to read the heap of a chunk; `None` where it is empty.
    fn heap(&self, child: &Child) -> Option<Delta> {
        let shared = self.shared.as_ref();
        let shared = shared.map_or(std::ptr::null_mut(), |s| s.heap(child.number));
        (relation::blocks(child.rel) > 0).then(|| Delta::begin(child.rel, self.snapshot, shared))
    }

    fn read_frozen(&mut self, engine: &mut Engine, child: &Child, frozen: &mut Frozen) -> bool {
        while let Some(selection) = self.next_page(engine, child, &mut frozen.pages) {
            if frozen.segment != Some(selection.segment.number) {
                frozen.segment = Some(selection.segment.number);
                frozen.block.new_segment();
            }
            let (pages, block) = (&mut frozen.pages, &mut frozen.block);
            self.add_page(engine, child, pages, &selection, block, &frozen.filters);
            engine.tidy();
            if !fits(engine) {
                return false;
            }
        }
        true
    }

    /// The next page to read; segments whose headers do are taken on the way.
    fn next_page(
        &mut self,
        engine: &mut Engine,
        child: &Child,
        pages: &mut Pages,
    ) -> Option<Selection> {
        let Some(shared) = &self.shared else {
            while let Some(whole) = pages.whole_segment() {
                if !add_whole(engine, child, &whole) {
                    break;
                }
                pages.skip();
            }
            return pages.next(true, None);
        };
        let mut claimed = None;
        while claimed.is_none() && pages.between_segments() {
            let index = shared.claim(child.number);
            if index < pages.segments() {
                if pages.keeps_out(index) {
                    continue;
                }
                if let Some(whole) = pages.whole(index)
                    && add_whole(engine, child, &whole)
                {
                    pages.counters.segments_read += 1;
                    continue;
                }
            }
            claimed = Some(index);
        }
        let mut hand_out = || {
            let claimed = claimed.take();
            claimed.unwrap_or_else(|| shared.claim(child.number))
        };
        pages.next(true, Some(&mut hand_out))
    }

    fn add_page(
        &mut self,
        engine: &mut Engine,
        child: &Child,
        pages: &mut Pages,
        selection: &Selection,
        block: &mut Block,
        filters: &[(usize, Filter, Vec<eval::Resolved>)],
    ) {
        let number = selection.segment.number;
        let rows = Rows::of_bits(&selection.rows);
        engine.place = place(child, false, (number as u64) << 8 | selection.page as u64);
        pages.with_columns(number, |columns| {
            let mut group = None;
            let all: Vec<usize> = (0..engine.aggregates.len()).collect();
            let mut left = all.clone();
            if rows.len() == columns.rows() {
                let mut zone = |column: Column| columns.zone(child.attnum(column)).ok().flatten();
                if let Some(found) = engine.group_of_zones(&mut zone) {
                    let Some(found) = found else {
                        return Ok(());
                    };
                    group = Some(found);
                    left = engine.add_zones(found, rows.len(), zone);
                }
            }
            let (filtered, plain): (Vec<usize>, Vec<usize>) = left
                .into_iter()
                .partition(|at| filters.iter().any(|(with, ..)| with == at));
            if group.is_none() || !plain.is_empty() {
                block.start(rows.len());
                self.fill(
                    engine,
                    child,
                    columns,
                    block,
                    &rows,
                    &plain,
                    group.is_none(),
                )?;
                engine.add(block, &plain, group);
            }
            for at in filtered {
                let Some((_, filter, values)) = filters.iter().find(|(with, ..)| *with == at)
                else {
                    continue;
                };
                let mut bits: Bits = selection.rows;
                eval::and(&mut bits, &eval::rows(filter, values, columns)?);
                let rows = Rows::of_bits(&bits);
                block.start(rows.len());
                self.fill(engine, child, columns, block, &rows, &[at], group.is_none())?;
                engine.add(block, &[at], group);
            }
            Ok(())
        });
    }

    /// Fills the lanes that some aggregates need, and with `keys` those of the keys.
    #[allow(clippy::too_many_arguments)]
    fn fill(
        &self,
        engine: &mut Engine,
        child: &Child,
        columns: &mut Columns,
        block: &mut Block,
        rows: &Rows,
        aggregates: &[usize],
        keys: bool,
    ) -> Result<(), String> {
        let needed = aggregates
            .iter()
            .filter_map(|at| self.aggregate_columns.get(*at))
            .flatten()
            .chain(self.key_columns.iter().filter(|_| keys));
        for column in needed {
            let attnum = child.attnum(*column);
            block.fill(*column, attnum, columns, rows, &mut engine.strings)?;
        }
        Ok(())
    }

    /// Reads a heap, or the delta of a relation with frozen rows.
    fn read_heap(
        &mut self,
        engine: &mut Engine,
        child: &Child,
        delta: &mut Delta,
        context: *mut pg_sys::ExprContext,
    ) -> bool {
        let mut columns: Vec<Column> = self.key_columns.clone();
        columns.extend(self.aggregate_columns.iter().flatten());
        columns.sort_by_key(|c| c.attnum);
        columns.dedup_by_key(|c| c.attnum);
        let highest = columns.iter().map(|c| child.attnum(*c)).max().unwrap_or(0);
        let mut block = Block::default();
        let mut masks: Vec<Vec<bool>> = vec![Vec::new(); child.filters.len()];
        let mut last_page = 0;
        block.start(0);
        while delta.next(child.slot, true) {
            // SAFETY: the slot holds a row of the child, whose attributes the conditions and the columns are.
            unsafe {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                (*context).ecxt_scantuple = child.slot;
                if !child
                    .conditions
                    .iter()
                    .all(|c| pg_sys::ExecQual(c.state, context))
                {
                    self.counters.rows_removed += 1;
                    continue;
                }
                let (page, _) = tuple::tid_parts(&(*child.slot).tts_tid);
                let gap = page > last_page + 1 && self.ordered && self.shared.is_some();
                if gap && block.rows() > 0 {
                    // Others read the pages between.
                    add_block(engine, child, &mut block, &mut masks);
                    block.start(0);
                }
                if block.rows() == 0 {
                    engine.place = place(child, true, u64::from(page));
                }
                last_page = page;
                for ((_, condition), mask) in child.filters.iter().zip(&mut masks) {
                    mask.push(pg_sys::ExecQual(condition.state, context));
                }
                if highest > (*child.slot).tts_nvalid {
                    pg_sys::slot_getsomeattrs_int(child.slot, i32::from(highest));
                }
                let slot = &*child.slot;
                let datums = columns.iter().map(|column| {
                    let index = child.attnum(*column) as usize - 1;
                    (!*slot.tts_isnull.add(index)).then(|| *slot.tts_values.add(index))
                });
                block.push(&columns, datums, &mut engine.strings);
            }
            self.heap_rows += 1;
            if block.rows() >= BLOCK {
                add_block(engine, child, &mut block, &mut masks);
                block.start(0);
                engine.tidy();
                pgrx::check_for_interrupts!();
                if !fits(engine) {
                    return false;
                }
            }
        }
        // Whether the last rows fit is asked by the caller: a scan that has ended can't be gone on with.
        if block.rows() > 0 {
            add_block(engine, child, &mut block, &mut masks);
        }
        true
    }

    /// Reads pages in the order of their zones, until no other can hold one of the groups that are wanted.
    pub fn read_top(&mut self, engine: &mut Engine, top: &Top, context: *mut pg_sys::ExprContext) {
        let Some(column) = self.key_columns.first().copied() else {
            return;
        };
        let mut frozen = Vec::new();
        let mut candidates = Vec::new();
        for child in self.children.clone() {
            // SAFETY: the relation and the snapshot are the executor's.
            unsafe { ffi::PredicateLockRelation(child.rel, self.snapshot) };
            if let Some(mut delta) = self.heap(&child) {
                while !self.read_heap(engine, &child, &mut delta, context) {
                    engine.keep_first(top.count as usize, top.descending);
                }
                delta.end();
            }
            if let Some(mut pages) = child.pages(self.snapshot, context) {
                let bounds = pages.bounds(child.attnum(column), top.descending);
                let number = frozen.len();
                candidates.extend(
                    bounds
                        .into_iter()
                        .map(|(bound, s, p)| (bound, number, s, p)),
                );
                let filters = child.aggregate_filters(context);
                frozen.push((child, pages, filters));
            }
        }
        candidates.sort_unstable_by_key(|(bound, ..)| *bound);
        if top.descending {
            candidates.reverse();
        }
        let mut block = Block::default();
        let mut groups = 0;
        let mut threshold = None;
        for (bound, number, segment, page) in candidates {
            if engine.len() != groups {
                groups = engine.len();
                threshold = engine.nth_key(top.count as usize, top.descending);
            }
            if let Some(threshold) = threshold
                && engine.is_beyond(bound, threshold, top.descending)
            {
                break;
            }
            let Some((child, pages, filters)) = frozen.get_mut(number) else {
                continue;
            };
            if let Some(mut selection) = pages.page(segment, page) {
                if let Some(threshold) = threshold {
                    let last = engine.last_value(threshold, top.descending);
                    let filter = Filter::Compare {
                        attnum: child.attnum(column),
                        comparison: match top.descending {
                            true => Comparison::GreaterEqual,
                            false => Comparison::LessEqual,
                        },
                        value: 0,
                    };
                    let values = [eval::Resolved::One(Probe::Int(last))];
                    let wanted = pages.with_columns(selection.segment.number, |columns| {
                        eval::rows(&filter, &values, columns)
                    });
                    eval::and(&mut selection.rows, &wanted);
                    if selection.rows == NO_ROWS {
                        continue;
                    }
                }
                block.new_segment();
                self.add_page(engine, child, pages, &selection, &mut block, filters);
                engine.tidy();
                if !fits(engine) {
                    engine.keep_first(top.count as usize, top.descending);
                }
            }
        }
        for (_, pages, _) in &mut frozen {
            self.counters.add(&pages.counters);
            pages.close();
        }
    }
}

/// Takes in a segment of which no page need be looked at, if its header does.
fn add_whole(engine: &mut Engine, child: &Child, whole: &SegmentRef) -> bool {
    let zone = |column: Column| {
        let attnum = child.attnum(column);
        whole
            .column(i32::from(attnum))
            .map(|(entry, _)| entry.summary.clone())
    };
    if !engine.zones_do(zone) {
        return false;
    }
    let Some(group) = engine.group_of_zones(zone) else {
        return false;
    };
    if let Some(group) = group {
        engine.add_zones(group, whole.header.rows as usize, zone);
    }
    true
}

fn add_block(engine: &mut Engine, child: &Child, block: &mut Block, masks: &mut [Vec<bool>]) {
    let is_filtered = |at: &usize| child.filters.iter().any(|(with, _)| with == at);
    let plain: Vec<usize> = (0..engine.aggregates.len())
        .filter(|at| !is_filtered(at))
        .collect();
    engine.add(block, &plain, None);
    for ((at, _), mask) in child.filters.iter().zip(masks) {
        let mut some = block.subset(mask);
        engine.add(&mut some, &[*at], None);
        mask.clear();
    }
}

/// Whether the groups take no more memory than they may.
pub fn fits(engine: &Engine) -> bool {
    // SAFETY: reads settings.
    let limit = unsafe { pg_sys::get_hash_memory_limit() };
    // A single group can't be divided.
    engine.len() < 64 || engine.memory() < limit
}
