//! Grouping and aggregating: blocks and zones go in, groups come out.

use super::accumulate::{Accumulator, Data, Values};
use super::block::Block;
use super::groups::{Groups, Token, hash};
use super::part::Part;
use super::runs::{NULL, Runs};
use super::spec::{Aggregate, Class, Column, Function, Input, Key};
use super::strings::Strings;
use crate::pg::relation;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ops::Range;
use varve_core::paged::{Bounds, Sum, Zone, is_negative_zero};

/// An expression of GROUP BY, ready to be evaluated, with what it gave so far.
struct Evaluated {
    state: *mut pg_sys::ExprState,
    results: HashMap<i64, Token>,
    null: Option<Token>,
}

/// Values whose results are known: of more, few come again soon.
const MOST_RESULTS: usize = 1 << 16;

/// Groups and their accumulators.
pub struct Engine {
    /// What rows are grouped by.
    pub keys: Vec<Key>,
    /// What is computed.
    pub aggregates: Vec<Aggregate>,
    /// Strings by number.
    pub strings: Strings,
    pub(super) groups: Groups,
    pub(super) accumulators: Vec<Accumulator>,
    evaluated: Vec<Option<Evaluated>>,
    /// A slot of the table's row shape, for expressions to read.
    slot: *mut pg_sys::TupleTableSlot,
    context: *mut pg_sys::ExprContext,
    /// Tokens of each key in the rows at hand.
    runs: Vec<Runs>,
    /// Which part of the groups is at hand.
    pub part: Part,
    /// Where the rows at hand come in the table, for `first` and `last` to know which of equals comes first.
    pub place: u64,
}

/// The rows of a group that follow each other.
struct Slice {
    rows: Range<usize>,
    group: usize,
}

impl Engine {
    /// Without any group. `states` has the state of each key that is an expression.
    pub fn new(
        keys: Vec<Key>,
        aggregates: Vec<Aggregate>,
        states: Vec<Option<*mut pg_sys::ExprState>>,
        slot: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) -> Self {
        let mut engine = Engine {
            groups: Groups::new(keys.iter().map(|k| k.class() == Class::Float).collect()),
            accumulators: aggregates.iter().map(Accumulator::new).collect(),
            evaluated: states
                .into_iter()
                .map(|state| {
                    state.map(|state| Evaluated {
                        state,
                        results: HashMap::new(),
                        null: None,
                    })
                })
                .collect(),
            runs: keys.iter().map(|_| Runs::default()).collect(),
            part: Part::ALL,
            place: 0,
            keys,
            aggregates,
            strings: Strings::default(),
            slot,
            context,
        };
        engine.clear();
        engine
    }

    /// Forgets all groups.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.accumulators = self.aggregates.iter().map(Accumulator::new).collect();
        self.renumber();
        if self.keys.is_empty() {
            // Without GROUP BY there is one group, even of no rows.
            self.groups.find(&[], &[], hash([]));
            self.accumulators.iter_mut().for_each(|a| a.resize(1));
        }
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Bytes that groups, accumulators and strings take.
    pub fn memory(&self) -> usize {
        let accumulators: usize = self.accumulators.iter().map(Accumulator::memory).sum();
        self.groups.memory() + accumulators + self.strings.memory()
    }

    /// Forgets strings that no group has, where there may be many. Not between reading rows and taking them in.
    pub fn tidy(&mut self) {
        if self.strings.grown() {
            self.renumber();
        }
    }

    fn renumber(&mut self) {
        let texts = self.keys.iter().enumerate();
        let texts = texts.filter(|(_, key)| key.class() == Class::Text);
        let (groups, accumulators) = (&mut self.groups, &mut self.accumulators);
        let aggregates = &self.aggregates;
        self.strings.renumber(|renumber| {
            texts.for_each(|(at, _)| groups.renumber(at, renumber));
            for (aggregate, accumulator) in aggregates.iter().zip(accumulators) {
                accumulator.renumber(aggregate, renumber);
            }
        });
        // What expressions gave is known by numbers of before.
        for evaluated in self.evaluated.iter_mut().flatten() {
            evaluated.results.clear();
            evaluated.null = None;
        }
    }

    /// The tokens of a group's key, as they were first seen.
    pub fn key(&self, group: usize) -> &[Token] {
        self.groups.key(group)
    }

    /// An aggregate of a group.
    pub fn result(&self, aggregate: usize, group: usize) -> Option<pg_sys::Datum> {
        super::finish::result(
            self.aggregates.get(aggregate)?,
            self.accumulators.get(aggregate)?,
            group,
            &self.strings,
        )
    }

    /// Groups in the order of the one key, the first `count` of them.
    pub fn first_groups(&self, count: usize, descending: bool) -> Vec<usize> {
        let mut groups: Vec<usize> = (0..self.len()).collect();
        groups.sort_by_key(|group| self.first_key(*group));
        if descending {
            groups.reverse();
        }
        groups.truncate(count);
        groups
    }

    /// Forgets all but the first `count` groups. Of those that are forgotten none will be among the first, even if rows of
    /// it come later.
    pub fn keep_first(&mut self, count: usize, descending: bool) {
        let first = self.first_groups(count, descending);
        self.groups.keep(&first);
        self.accumulators.iter_mut().for_each(|a| a.keep(&first));
    }

    fn first_key(&self, group: usize) -> i64 {
        self.key(group).first().map_or(0, |(bits, _)| *bits)
    }

    /// The last of the first `count` keys; `None` where there are not as many.
    pub fn nth_key(&self, count: usize, descending: bool) -> Option<i64> {
        let mut keys: Vec<i64> = (0..self.len()).map(|g| self.first_key(g)).collect();
        let nth = count.checked_sub(1).filter(|n| *n < keys.len())?;
        let at = if descending {
            keys.len() - 1 - nth
        } else {
            nth
        };
        Some(*keys.select_nth_unstable(at).1)
    }

    /// Whether no value from `bound` on, going on in that direction, has a key among the first ones, the last of which is
    /// `threshold`.
    pub fn is_beyond(&self, bound: i64, threshold: i64, descending: bool) -> bool {
        let key = match self.keys.first() {
            Some(Key::Bucket { width, origin, .. }) => floor(bound, *width, *origin),
            _ => bound,
        };
        if descending {
            key < threshold
        } else {
            key > threshold
        }
    }

    /// The value of the key's column up to which rows may be of a group among the first ones, the last of which has the key
    /// `threshold`.
    pub fn last_value(&self, threshold: i64, descending: bool) -> i64 {
        match self.keys.first() {
            Some(Key::Bucket { width, .. }) if !descending => {
                threshold.saturating_add(width.saturating_sub(1))
            }
            _ => threshold,
        }
    }

    /// The group of a key; `None` where another pass takes it.
    pub(super) fn group_of(&mut self, key: &[Token]) -> Option<usize> {
        let same = self.groups.canonical(key);
        // Of text the string counts, since numbers change from pass to pass.
        let tokens = same.iter().zip(&self.keys).map(|((bits, null), key)| {
            if *null || key.class() != Class::Text {
                (*bits, *null)
            } else {
                (self.strings.hash(*bits).cast_signed(), false)
            }
        });
        let hash = hash(tokens);
        if !self.part.has(hash) {
            return None;
        }
        let before = self.groups.len();
        let group = self.groups.find(&same, key, hash);
        if group == before {
            self.accumulators
                .iter_mut()
                .for_each(|a| a.resize(group + 1));
        }
        Some(group)
    }

    /// The group of all rows of some zones (or none, where another pass takes it), if the zones tell that they are all of
    /// one.
    pub fn group_of_zones(
        &mut self,
        mut zone: impl FnMut(Column) -> Option<Zone>,
    ) -> Option<Option<usize>> {
        let mut key = Vec::with_capacity(self.keys.len());
        for at in 0..self.keys.len() {
            let one = *self.keys.get(at)?;
            let zone = zone(one.column())?;
            key.push(self.token_of_zone(at, one, &zone)?);
        }
        Some(self.group_of(&key))
    }

    fn token_of_zone(&mut self, at: usize, key: Key, zone: &Zone) -> Option<Token> {
        if zone.rows > 0 && zone.nulls == zone.rows {
            return match key {
                Key::Expression { .. } => None,
                _ => Some((0, true)),
            };
        }
        if zone.nulls > 0 {
            return None;
        }
        match (key, &zone.bounds) {
            (Key::Bucket { width, origin, .. }, Bounds::Int { min, max }) => {
                let bucket = floor(*min, width, origin);
                (bucket == floor(*max, width, origin)).then_some((bucket, false))
            }
            (Key::Column(_), Bounds::Int { min, max }) => (min == max).then_some((*min, false)),
            (Key::Column(_), Bounds::Float { min, max }) => {
                let same = min.to_bits() == max.to_bits() && !is_negative_zero(*min);
                same.then(|| (min.to_bits() as i64, false))
            }
            (
                Key::Column(_),
                Bounds::Bytes {
                    min,
                    max,
                    min_exact: true,
                    max_exact: true,
                },
            ) => (min == max).then(|| (self.strings.number(min), false)),
            (Key::Expression { .. }, Bounds::Int { min, max }) if min == max => {
                Some(self.evaluate(at, key, *min, false))
            }
            _ => None,
        }
    }

    /// Whether zones alone do for every aggregate.
    pub fn zones_do(&self, mut zone: impl FnMut(Column) -> Option<Zone>) -> bool {
        self.aggregates.iter().all(|aggregate| {
            if !aggregate.filter.is_null() {
                return false;
            }
            match &aggregate.function {
                Function::CountRows => true,
                Function::Count(Input::Column(column)) => zone(*column).is_some(),
                Function::Sum(Input::Column(column)) | Function::Average(Input::Column(column)) => {
                    zone(*column).is_some_and(|z| z.sum != Sum::None || z.nulls == z.rows)
                }
                Function::Extreme {
                    input: Input::Column(column),
                    ..
                }
                | Function::Bool { column, .. } => zone(*column).is_some_and(|z| {
                    let known = match z.bounds {
                        Bounds::Int { .. } => true,
                        Bounds::Float { min, max } => {
                            !is_negative_zero(min) && !is_negative_zero(max)
                        }
                        _ => false,
                    };
                    known || z.nulls == z.rows
                }),
                _ => false,
            }
        })
    }

    /// Takes in all rows of some zones for one group, as far as zones do; the numbers of aggregates that need values are
    /// returned.
    pub fn add_zones(
        &mut self,
        group: usize,
        rows: usize,
        mut zone: impl FnMut(Column) -> Option<Zone>,
    ) -> Vec<usize> {
        let mut left = Vec::new();
        let with = self.aggregates.iter().zip(&mut self.accumulators);
        for (at, (aggregate, accumulator)) in with.enumerate() {
            let done = match &aggregate.function {
                _ if !aggregate.filter.is_null() => false,
                Function::CountRows => {
                    accumulator.add_rows(group, rows);
                    true
                }
                Function::Count(Input::Column(column))
                | Function::Sum(Input::Column(column))
                | Function::Average(Input::Column(column))
                | Function::Extreme {
                    input: Input::Column(column),
                    ..
                }
                | Function::Bool { column, .. } => {
                    zone(*column).is_some_and(|z| accumulator.add_zone(group, &z))
                }
                _ => false,
            };
            if !done {
                left.push(at);
            }
        }
        left
    }

    /// Takes in the rows of a block for some of the aggregates; all of one group where that is known.
    pub fn add(&mut self, block: &mut Block, aggregates: &[usize], group: Option<usize>) {
        let slices = match group {
            Some(group) => vec![Slice {
                rows: 0..block.rows(),
                group,
            }],
            None => self.slices(block),
        };
        let place = self.place;
        for at in aggregates {
            let (Some(aggregate), Some(accumulator)) =
                (self.aggregates.get(*at), self.accumulators.get_mut(*at))
            else {
                continue;
            };
            let mut add = |values: Values, by: Option<Values>| {
                for slice in &slices {
                    let rows = slice.rows.clone();
                    accumulator.add(slice.group, values, by, rows, place, &self.strings);
                }
            };
            match &aggregate.function {
                Function::CountRows => {
                    for slice in &slices {
                        accumulator.add_rows(slice.group, slice.rows.len());
                    }
                }
                Function::Count(input)
                | Function::Sum(input)
                | Function::Average(input)
                | Function::Extreme { input, .. }
                | Function::Spread { input, .. } => match input {
                    Input::Column(column) => {
                        if let Some(values) = block.values(*column) {
                            add(values, None);
                        }
                    }
                    Input::Arithmetic(expr) => add(block.compute(expr), None),
                },
                Function::CountDistinct(column) | Function::Bool { column, .. } => {
                    if let Some(values) = block.values(*column) {
                        add(values, None);
                    }
                }
                Function::Bookend { value, by, .. } => {
                    if let (Some(values), by) = (block.values(*value), block.values(*by)) {
                        add(values, by);
                    }
                }
            }
        }
    }

    /// Cuts a block into runs of rows of one group.
    fn slices(&mut self, block: &Block) -> Vec<Slice> {
        let rows = block.rows();
        for at in 0..self.keys.len() {
            self.tokenise(at, block);
        }
        let runs = std::mem::take(&mut self.runs);
        let mut cursors: Vec<_> = runs.iter().map(Runs::cursor).collect();
        let mut slices = Vec::new();
        let mut key = Vec::with_capacity(self.keys.len());
        let mut start = 0;
        while start < rows {
            let mut end = rows;
            key.clear();
            for cursor in &mut cursors {
                let (token, run) = cursor.at(start);
                key.push(token);
                end = end.min(run);
            }
            if let Some(group) = self.group_of(&key) {
                slices.push(Slice {
                    rows: start..end,
                    group,
                });
            }
            start = end;
        }
        self.runs = runs;
        slices
    }

    /// Computes the tokens of a key for the rows of a block.
    fn tokenise(&mut self, at: usize, block: &Block) {
        let Some(key) = self.keys.get(at).copied() else {
            return;
        };
        let mut runs = self
            .runs
            .get_mut(at)
            .map(std::mem::take)
            .unwrap_or_default();
        runs.clear();
        if let Some(values) = block.values(key.column()) {
            let nulls = values.nulls;
            match (key, values.data) {
                (Key::Bucket { width, origin, .. }, Data::Ints(v)) => {
                    runs.fill_buckets(v, nulls, width, origin);
                }
                (Key::Expression { .. }, Data::Ints(v)) => {
                    let null = nulls.is_some_and(|n| n.contains(&true));
                    let of_null = null.then(|| self.evaluate(at, key, 0, true));
                    runs.fill(v, nulls, of_null.unwrap_or(NULL), |value| {
                        let token = self.evaluate(at, key, value, false);
                        (token, move |other| other == value)
                    });
                }
                (_, Data::Ints(v)) => {
                    runs.fill(v, nulls, NULL, |v| ((v, false), move |other| other == v));
                }
                (_, Data::Floats(v)) => runs.fill(v, nulls, NULL, |v| {
                    let bits = v.to_bits();
                    let same = move |other: f64| other.to_bits() == bits;
                    ((bits.cast_signed(), false), same)
                }),
            }
        }
        if let Some(place) = self.runs.get_mut(at) {
            *place = runs;
        }
    }

    /// What an expression of one column gives for a value of it.
    fn evaluate(&mut self, at: usize, key: Key, value: i64, null: bool) -> Token {
        let Key::Expression {
            column,
            expr,
            class,
        } = key
        else {
            return (0, true);
        };
        let known = match self.evaluated.get(at) {
            Some(Some(e)) if null => e.null,
            Some(Some(e)) => e.results.get(&value).copied(),
            _ => None,
        };
        if let Some(token) = known {
            return token;
        }
        let Some(Some(state)) = self.evaluated.get(at).map(|e| e.as_ref().map(|e| e.state)) else {
            return (0, true);
        };
        // SAFETY: the slot has an entry for each attribute; the expression reads this one alone. The result is copied out
        // of the memory of this row before it is reset.
        let token = unsafe {
            pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory);
            let before = pg_sys::MemoryContextSwitchTo((*self.context).ecxt_per_tuple_memory);
            let datum = super::finish::of_cell(column.typ, (value, null), &self.strings);
            let index = column.attnum as usize - 1;
            let natts = relation::natts((*self.slot).tts_tupleDescriptor);
            pg_sys::ExecStoreAllNullTuple(self.slot);
            if index < natts {
                *(*self.slot).tts_values.add(index) = datum.unwrap_or(pg_sys::Datum::from(0usize));
                *(*self.slot).tts_isnull.add(index) = datum.is_none();
            }
            (*self.context).ecxt_scantuple = self.slot;
            let mut is_null = false;
            let result = pg_sys::ExecEvalExpr(state, self.context, &mut is_null);
            let of = Column {
                attnum: 0,
                typ: pg_sys::exprType(expr.cast()),
                class,
            };
            let token = if is_null {
                (0, true)
            } else {
                super::block::token_of(of, result, &mut self.strings)
            };
            pg_sys::MemoryContextSwitchTo(before);
            token
        };
        if let Some(Some(e)) = self.evaluated.get_mut(at) {
            if null {
                e.null = Some(token);
            } else {
                if e.results.len() >= MOST_RESULTS {
                    e.results.clear();
                }
                e.results.insert(value, token);
            }
        }
        token
    }
}

/// Where the bucket of a value begins; infinite times are buckets of their own.
pub fn floor(value: i64, width: i64, origin: i64) -> i64 {
    if value == i64::MAX || value == i64::MIN {
        return value;
    }
    let into = (i128::from(value) - i128::from(origin)).rem_euclid(i128::from(width));
    i64::try_from(i128::from(value) - into).unwrap_or(i64::MIN)
}

/// The columns that an aggregate reads.
pub fn columns_of(aggregate: &Aggregate) -> Vec<Column> {
    fn of_input(input: &Input, into: &mut Vec<Column>) {
        match input {
            Input::Column(column) => into.push(*column),
            Input::Arithmetic(expr) => of_arithmetic(expr, into),
        }
    }
    fn of_arithmetic(expr: &super::spec::Arithmetic, into: &mut Vec<Column>) {
        use super::spec::Arithmetic;
        match expr {
            Arithmetic::Column(column) => into.push(*column),
            Arithmetic::Constant(_) => {}
            Arithmetic::Negated(inner) => of_arithmetic(inner, into),
            Arithmetic::Binary(_, left, right) => {
                of_arithmetic(left, into);
                of_arithmetic(right, into);
            }
        }
    }
    let mut columns = Vec::new();
    match &aggregate.function {
        Function::CountRows => {}
        Function::Count(input)
        | Function::Sum(input)
        | Function::Average(input)
        | Function::Extreme { input, .. }
        | Function::Spread { input, .. } => of_input(input, &mut columns),
        Function::CountDistinct(column) | Function::Bool { column, .. } => columns.push(*column),
        Function::Bookend { value, by, .. } => columns.extend([*value, *by]),
    }
    columns
}
