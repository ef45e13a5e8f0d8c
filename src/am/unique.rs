//! Unique keys across delta and segments: finding the frozen rows that hold a key about to be inserted, and thawing them.

use super::cache::{self, Lru};
use super::companion::Companion;
use super::datum::{ColumnBuilder, DatumColumn};
use super::directory::{Decoded, SegmentRef};
use super::thaw;
use super::tid::Place;
use crate::pg::memory::for_this_call;
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;

/// Key sets of segments that a backend keeps.
const KEY_SETS: usize = 64;

/// How to compare one key column.
struct KeyColumn {
    equal: pg_sys::FmgrInfo,
    hash: Option<pg_sys::FmgrInfo>,
    collation: pg_sys::Oid,
}

/// A unique index, as far as looking keys up needs it.
struct UniqueIndex {
    oid: pg_sys::Oid,
    /// Attribute numbers of the key columns; `None` for an index with expressions or a predicate.
    plain: Option<Vec<i16>>,
    columns: Vec<KeyColumn>,
    nulls_equal: bool,
}

/// The keys of one segment in one index.
struct SegmentKeys {
    /// (hash, row), sorted.
    entries: Vec<(u64, u32)>,
    columns: Vec<DatumColumn>,
}

type IndexKey = (u64, u32);
type KeySetKey = (u32, (u64, i32, u64));

thread_local! {
    static INDEXES: RefCell<Lru<IndexKey, Rc<Vec<UniqueIndex>>>> = const { RefCell::new(Lru::new(16)) };
    static KEYS: RefCell<Lru<KeySetKey, Rc<SegmentKeys>>> = const { RefCell::new(Lru::new(KEY_SETS)) };
}

/// Forgets all keys.
pub fn clear_cache() {
    KEYS.with_borrow_mut(Lru::clear);
    INDEXES.with_borrow_mut(Lru::clear);
}

/// The OIDs of a relation's indexes.
pub fn index_oids(rel: pg_sys::Relation) -> Vec<pg_sys::Oid> {
    // SAFETY: the list is a copy that we free.
    unsafe {
        let list = pg_sys::RelationGetIndexList(rel);
        let n = if list.is_null() {
            0
        } else {
            (*list).length as usize
        };
        let oids = (0..n)
            .map(|i| (*(*list).elements.add(i)).oid_value)
            .collect();
        pg_sys::list_free(list);
        oids
    }
}

/// The shape of the values of an index column: its own, but that btree stores `name` as `cstring`.
fn key_attribute(desc: pg_sys::TupleDesc, position: usize) -> pg_sys::FormData_pg_attribute {
    let mut attr = *relation::attribute(desc, position);
    if attr.atttypid == pg_sys::CSTRINGOID {
        attr.atttypid = pg_sys::NAMEOID;
        attr.attlen = pg_sys::NAMEDATALEN as i16;
        attr.attbyval = false;
    }
    attr
}

fn key_column(index: pg_sys::Relation, position: usize) -> KeyColumn {
    // SAFETY: `position` is below the index's number of key columns; function look-ups copy into CacheMemoryContext.
    unsafe {
        let family = *(*index).rd_opfamily.add(position);
        let input = *(*index).rd_opcintype.add(position);
        let attr = key_attribute((*index).rd_att, position);
        let operator =
            pg_sys::get_opfamily_member(family, input, input, pg_sys::BTEqualStrategyNumber as i16);
        let mut equal = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info_cxt(
            pg_sys::get_opcode(operator),
            &mut equal,
            pg_sys::CacheMemoryContext,
        );
        // The type's hash function serves where its equality is the index's.
        let typ = pg_sys::lookup_type_cache(
            attr.atttypid,
            (pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_HASH_EXTENDED_PROC) as i32,
        );
        let hash = ((*typ).eq_opr == operator && (*typ).hash_extended_proc != pg_sys::InvalidOid)
            .then(|| {
                let mut info = pg_sys::FmgrInfo::default();
                pg_sys::fmgr_info_cxt(
                    (*typ).hash_extended_proc,
                    &mut info,
                    pg_sys::CacheMemoryContext,
                );
                info
            });
        KeyColumn {
            equal,
            hash,
            collation: *(*index).rd_indcollation.add(position),
        }
    }
}

fn describe(oid: pg_sys::Oid) -> Option<UniqueIndex> {
    let index = OpenRel::index(oid, pg_sys::AccessShareLock);
    let ptr = index.as_ptr();
    // SAFETY: an open index has its pg_index row.
    unsafe {
        let form = &*(*ptr).rd_index;
        if !form.indisunique || !form.indisready {
            return None;
        }
        let keys = form.indnkeyatts as usize;
        let attnums: Vec<i16> = (0..keys)
            .map(|i| *form.indkey.values.as_ptr().add(i))
            .collect();
        let plain =
            attnums.iter().all(|a| *a > 0) && pg_sys::RelationGetIndexPredicate(ptr).is_null();
        Some(UniqueIndex {
            oid,
            plain: plain.then_some(attnums),
            columns: (0..keys).map(|i| key_column(ptr, i)).collect(),
            nulls_equal: form.indnullsnotdistinct,
        })
    }
}

fn unique_indexes(rel: pg_sys::Relation, companion: &Companion) -> Rc<Vec<UniqueIndex>> {
    let key = (companion.generation, relation::oid(rel).to_u32());
    if let Some(found) = INDEXES.with_borrow_mut(|c| c.get(&key)) {
        return found;
    }
    let fresh: Rc<Vec<UniqueIndex>> =
        Rc::new(index_oids(rel).into_iter().filter_map(describe).collect());
    INDEXES.with_borrow_mut(|c| c.put(key, fresh.clone()));
    fresh
}

impl KeyColumn {
    fn hash(&self, datum: pg_sys::Datum) -> u64 {
        match self.hash {
            // SAFETY: the type's own hash function on a value of the type.
            Some(mut info) => unsafe {
                // What the function keeps between calls goes with this one.
                info.fn_mcxt = pg_sys::CurrentMemoryContext;
                pg_sys::FunctionCall2Coll(
                    &mut info,
                    self.collation,
                    datum,
                    pg_sys::Datum::from(0usize),
                )
                .value() as u64
            },
            None => 0,
        }
    }

    fn equal(&self, a: pg_sys::Datum, b: pg_sys::Datum) -> bool {
        let mut info = self.equal;
        // SAFETY: the index's own equality on two values of its input type. What it keeps goes with this call.
        unsafe {
            info.fn_mcxt = pg_sys::CurrentMemoryContext;
            pg_sys::FunctionCall2Coll(&mut info, self.collation, a, b).value() != 0
        }
    }
}

impl UniqueIndex {
    /// Hash of a key; `None` where a NULL in it makes it equal to nothing.
    fn hash(&self, key: &[Option<pg_sys::Datum>]) -> Option<u64> {
        let mut hash = 0u64;
        for (column, value) in self.columns.iter().zip(key) {
            let part = match value {
                Some(datum) => column.hash(*datum),
                None if self.nulls_equal => 0x6e75_6c6c,
                None => return None,
            };
            hash = hash.rotate_left(21).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ part;
        }
        Some(hash)
    }

    fn equal(&self, a: &[Option<pg_sys::Datum>], b: &[Option<pg_sys::Datum>]) -> bool {
        self.columns
            .iter()
            .zip(a)
            .zip(b)
            .all(|((column, a), b)| match (a, b) {
                (Some(a), Some(b)) => column.equal(*a, *b),
                (None, None) => self.nulls_equal,
                _ => false,
            })
    }
}

/// Evaluates an index's keys on rows in a slot, expressions and predicate included.
pub struct KeyEvaluator {
    index: OpenRel,
    info: *mut pg_sys::IndexInfo,
    estate: *mut pg_sys::EState,
    predicate: *mut pg_sys::ExprState,
    values: [pg_sys::Datum; pg_sys::INDEX_MAX_KEYS as usize],
    nulls: [bool; pg_sys::INDEX_MAX_KEYS as usize],
}

impl KeyEvaluator {
    /// Opens an index for evaluation; its expressions are prepared in the current memory context.
    pub fn new(oid: pg_sys::Oid) -> Self {
        let index = OpenRel::index(oid, pg_sys::AccessShareLock);
        // SAFETY: an executor state of our own, freed by drop.
        unsafe {
            let info = pg_sys::BuildIndexInfo(index.as_ptr());
            let estate = pg_sys::CreateExecutorState();
            let predicate = if (*info).ii_Predicate.is_null() {
                std::ptr::null_mut()
            } else {
                pg_sys::ExecPrepareQual((*info).ii_Predicate, estate)
            };
            KeyEvaluator {
                index,
                info,
                estate,
                predicate,
                values: [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize],
                nulls: [true; pg_sys::INDEX_MAX_KEYS as usize],
            }
        }
    }

    /// The index's row shape.
    pub fn tupdesc(&self) -> pg_sys::TupleDesc {
        relation::tupdesc(self.index.as_ptr())
    }

    /// Number of key columns.
    pub fn keys(&self) -> usize {
        // SAFETY: built by BuildIndexInfo.
        unsafe { (*self.info).ii_NumIndexKeyAttrs as usize }
    }

    /// Values and nulls of the index columns for the row in `slot`; `None` where the predicate leaves the row out.
    /// Valid until the next call.
    pub fn evaluate(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> Option<(&[pg_sys::Datum], &[bool])> {
        // SAFETY: as heapam_index_build_range_scan evaluates a row.
        unsafe {
            let context = if (*self.estate).es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(self.estate)
            } else {
                (*self.estate).es_per_tuple_exprcontext
            };
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            (*context).ecxt_scantuple = slot;
            if !self.predicate.is_null() && !pg_sys::ExecQual(self.predicate, context) {
                return None;
            }
            pg_sys::FormIndexDatum(
                self.info,
                slot,
                self.estate,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
        Some((&self.values, &self.nulls))
    }
}

impl Drop for KeyEvaluator {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::FreeExecutorState(self.estate) }
        }
    }
}

/// A slot that can hold any row of `rel`, dropped at the end.
pub struct RowSlot(pub *mut pg_sys::TupleTableSlot);

impl RowSlot {
    /// A virtual slot.
    pub fn new(rel: pg_sys::Relation) -> Self {
        // SAFETY: the row shape is reference-counted by the slot.
        RowSlot(unsafe {
            pg_sys::MakeSingleTupleTableSlot(
                relation::tupdesc(rel),
                &raw const pg_sys::TTSOpsVirtual,
            )
        })
    }

    /// Puts a decoded row into the slot. The values point into `decoded`.
    pub fn fill(&self, rel: pg_sys::Relation, decoded: &Decoded, row: u32) {
        let natts = relation::natts(relation::tupdesc(rel));
        // SAFETY: the slot has arrays of natts entries.
        unsafe {
            pg_sys::ExecClearTuple(self.0);
            let values = std::slice::from_raw_parts_mut((*self.0).tts_values, natts);
            let nulls = std::slice::from_raw_parts_mut((*self.0).tts_isnull, natts);
            decoded.row(row, values, nulls);
            pg_sys::ExecStoreVirtualTuple(self.0);
        }
    }
}

impl Drop for RowSlot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) }
        }
    }
}

fn build_keys(rel: pg_sys::Relation, index: &UniqueIndex, segment: &Rc<SegmentRef>) -> SegmentKeys {
    let rows = segment.header.rows;
    let mut entries = Vec::with_capacity(rows as usize);
    let mut add = |row: u32, key: &[Option<pg_sys::Datum>]| {
        if !segment.header.dead.get(row as usize)
            && let Some(hash) = index.hash(key)
        {
            entries.push((hash, row));
        }
    };
    let columns: Vec<DatumColumn> = match &index.plain {
        Some(attnums) => {
            let decoded = Decoded::new(rel, segment, |i| attnums.contains(&(i as i16 + 1)));
            let mut all = decoded.columns;
            let mut columns = Vec::new();
            for (n, attnum) in attnums.iter().enumerate() {
                let at = *attnum as usize - 1;
                // An index may name a column twice.
                match all.get_mut(at).and_then(Option::take) {
                    Some(column) => columns.push(column),
                    None if attnums.iter().take(n).any(|a| a == attnum) => {
                        let again = Decoded::new(rel, segment, |i| i == at);
                        columns.extend(again.columns.into_iter().nth(at).flatten());
                    }
                    None => super::error::corrupt(rel, segment.number, "a key column is missing"),
                }
            }
            let mut key = vec![None; columns.len()];
            for row in 0..rows {
                for (value, column) in key.iter_mut().zip(&columns) {
                    *value = column.get(row as usize);
                }
                add(row, &key);
            }
            columns
        }
        None => {
            let decoded = Decoded::new(rel, segment, |_| true);
            let slot = RowSlot::new(rel);
            let mut evaluator = KeyEvaluator::new(index.oid);
            let keys = evaluator.keys();
            let mut builders: Vec<ColumnBuilder> = (0..keys)
                .map(|i| {
                    ColumnBuilder::new(&key_attribute(evaluator.tupdesc(), i), rows as usize)
                        .unwrap_or_else(|e| super::error::corrupt(rel, segment.number, &e))
                })
                .collect();
            let mut key = vec![None; keys];
            for row in 0..rows {
                slot.fill(rel, &decoded, row);
                match evaluator.evaluate(slot.0) {
                    Some((values, nulls)) => {
                        for (((k, value), null), b) in
                            key.iter_mut().zip(values).zip(nulls).zip(&mut builders)
                        {
                            *k = (!null).then_some(*value);
                            match k {
                                // SAFETY: a value of the index column's type.
                                Some(datum) => unsafe { b.push(*datum) },
                                None => b.push_null(),
                            }
                        }
                        add(row, &key);
                    }
                    None => builders.iter_mut().for_each(ColumnBuilder::push_null),
                }
            }
            builders
                .into_iter()
                .enumerate()
                .map(|(i, b)| {
                    let attr = key_attribute(evaluator.tupdesc(), i);
                    DatumColumn::from_column(&attr, rows as usize, b.finish())
                        .unwrap_or_else(|e| super::error::corrupt(rel, segment.number, &e))
                })
                .collect()
        }
    };
    entries.sort_unstable();
    SegmentKeys { entries, columns }
}

fn keys_of(
    rel: pg_sys::Relation,
    companion: &Companion,
    index: &UniqueIndex,
    segment: &Rc<SegmentRef>,
) -> Rc<SegmentKeys> {
    let key = (index.oid.to_u32(), cache::key_of(companion, segment));
    if let Some(found) = KEYS.with_borrow_mut(|c| c.get(&key)) {
        return found;
    }
    let fresh = Rc::new(build_keys(rel, index, segment));
    KEYS.with_borrow_mut(|c| c.put(key, fresh.clone()));
    fresh
}

/// Frozen rows that hold the key which the row in `slot` has in `index`.
fn holders(
    rel: pg_sys::Relation,
    companion: &Companion,
    index: &UniqueIndex,
    slot: *mut pg_sys::TupleTableSlot,
) -> Vec<(Place, Rc<SegmentRef>)> {
    let mut evaluator = None;
    let key: Vec<Option<pg_sys::Datum>> = match &index.plain {
        Some(attnums) => attnums
            .iter()
            .map(|attnum| {
                let mut null = false;
                // SAFETY: a user attribute of the relation's own slot.
                let datum = unsafe {
                    if (*slot).tts_nvalid < *attnum {
                        pg_sys::slot_getsomeattrs_int(slot, i32::from(*attnum));
                    }
                    null |= *(*slot).tts_isnull.add(*attnum as usize - 1);
                    *(*slot).tts_values.add(*attnum as usize - 1)
                };
                (!null).then_some(datum)
            })
            .collect(),
        None => {
            let evaluator = evaluator.insert(KeyEvaluator::new(index.oid));
            let keys = evaluator.keys();
            match evaluator.evaluate(slot) {
                Some((values, nulls)) => values
                    .iter()
                    .zip(nulls)
                    .take(keys)
                    .map(|(v, null)| (!null).then_some(*v))
                    .collect(),
                None => return Vec::new(),
            }
        }
    };
    with_key(rel, companion, index, &key)
}

/// Frozen rows that hold a key in an index, thawed ones among them.
fn with_key(
    rel: pg_sys::Relation,
    companion: &Companion,
    index: &UniqueIndex,
    key: &[Option<pg_sys::Datum>],
) -> Vec<(Place, Rc<SegmentRef>)> {
    let Some(hash) = index.hash(key) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let directory = cache::directory(rel, companion);
    for segment in directory.iter() {
        let keys = keys_of(rel, companion, index, segment);
        let start = keys.entries.partition_point(|(h, _)| *h < hash);
        for (_, row) in keys
            .entries
            .iter()
            .skip(start)
            .take_while(|(h, _)| *h == hash)
        {
            let stored: Vec<_> = keys.columns.iter().map(|c| c.get(*row as usize)).collect();
            if index.equal(key, &stored) {
                let place = Place {
                    segment: segment.number,
                    row: *row,
                };
                found.push((place, segment.clone()));
            }
        }
    }
    found
}

/// Frozen rows that hold a whole key in a unique index; `None` when the index is not unique or the key not whole.
pub fn places_of(
    rel: pg_sys::Relation,
    companion: &Companion,
    index: pg_sys::Oid,
    key: &[Option<pg_sys::Datum>],
) -> Option<Vec<Place>> {
    let indexes = unique_indexes(rel, companion);
    let index = indexes.iter().find(|i| i.oid == index)?;
    (index.columns.len() == key.len()).then(|| {
        with_key(rel, companion, index, key)
            .into_iter()
            .map(|(place, _)| place)
            .collect()
    })
}

/// Thaws every frozen row that shares a unique key with the row in `slot`, so that the ordinary machinery finds it.
/// With `speculative` (INSERT … ON CONFLICT), a row that a REPEATABLE READ snapshot can't see fails to serialise.
pub fn thaw_holders(
    rel: pg_sys::Relation,
    companion: &Companion,
    slot: *mut pg_sys::TupleTableSlot,
    cid: pg_sys::CommandId,
    speculative: bool,
) {
    for index in unique_indexes(rel, companion).iter() {
        for (place, segment) in for_this_call(|| holders(rel, companion, index, slot)) {
            // SAFETY: reads the isolation level; a transaction snapshot exists at that level.
            let unseen = unsafe {
                speculative
                    && pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32
                    && !thaw::segment_visible(companion, &segment, pg_sys::GetTransactionSnapshot())
            };
            if unseen {
                super::error::raise(
                    pgrx::PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                    "could not serialize access due to concurrent update".into(),
                    None,
                    None,
                );
            }
            let purpose = pg_sys::XLTW_Oper::XLTW_InsertIndex;
            thaw::thaw(rel, companion, place, cid, thaw::BLOCK, purpose);
        }
    }
}
