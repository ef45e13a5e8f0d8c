//! Unique keys across delta and segments: finding the frozen rows that hold a key about to be inserted, and thawing them.

use super::cache::{self, Lru};
use super::companion::Companion;
use super::directory::SegmentRef;
use super::evaluator::KeyEvaluator;
use super::keyset::{self, Candidates};
use super::thaw;
use super::tid::Place;
use super::zone::{Comparable, Probe, ProbeKind, comparable};
use crate::pg::memory::for_this_call;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{ffi, heap, tuple, walk};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;
use varve_core::header::SortKey;

/// How to compare one key column.
pub struct KeyColumn {
    equal: pg_sys::FmgrInfo,
    /// The operator class's comparison, and its `<`; `None` for another method than btree.
    compare: Option<(pg_sys::FmgrInfo, pg_sys::Oid)>,
    hash: Option<pg_sys::FmgrInfo>,
    collation: pg_sys::Oid,
    /// How values are looked for in zones; `None` where the index's equality is another one than theirs.
    probe: Option<ProbeKind>,
}

/// A unique index, as far as looking keys up needs it.
pub struct UniqueIndex {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Attribute numbers of the key columns; `None` for an index with expressions or a predicate.
    pub plain: Option<Vec<i16>>,
    columns: Vec<KeyColumn>,
    nulls_equal: bool,
}

type IndexKey = (u64, u32);

thread_local! {
    static INDEXES: RefCell<Lru<IndexKey, Rc<Vec<UniqueIndex>>>> = const { RefCell::new(Lru::new(16)) };
}

/// Forgets all keys.
pub fn clear_cache() {
    keyset::clear_cache();
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
pub fn key_attribute(desc: pg_sys::TupleDesc, position: usize) -> pg_sys::FormData_pg_attribute {
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
        let collation = *(*index).rd_indcollation.add(position);
        let compare = (relation::form(index).relam == pg_sys::BTREE_AM_OID).then(|| {
            let less = pg_sys::get_opfamily_member(
                family,
                input,
                input,
                pg_sys::BTLessStrategyNumber as i16,
            );
            let mut info = pg_sys::FmgrInfo::default();
            let function = pg_sys::get_opfamily_proc(family, input, input, walk::BTORDER_PROC);
            pg_sys::fmgr_info_cxt(function, &mut info, pg_sys::CacheMemoryContext);
            (info, less)
        });
        let probe = match comparable(attr.atttypid, collation) {
            (Comparable::Equality | Comparable::Order, kind) if (*typ).eq_opr == operator => kind,
            _ => None,
        };
        KeyColumn {
            equal,
            compare,
            hash,
            collation,
            probe,
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

/// The unique indexes of a relation with frozen rows.
pub fn unique_indexes(rel: pg_sys::Relation, companion: &Companion) -> Rc<Vec<UniqueIndex>> {
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

    /// How two values are ordered by the index.
    fn compare(&self, a: pg_sys::Datum, b: pg_sys::Datum) -> Ordering {
        let Some((mut info, _)) = self.compare else {
            return Ordering::Equal;
        };
        // SAFETY: the operator class's own comparison on two values of its input type. What it keeps goes with this call.
        unsafe {
            info.fn_mcxt = pg_sys::CurrentMemoryContext;
            let order = pg_sys::FunctionCall2Coll(&mut info, self.collation, a, b);
            (order.value() as i32).cmp(&0)
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
    /// What to look for in the zones of each key column; `None` where they don't tell.
    fn probes(&self, key: &[Option<pg_sys::Datum>]) -> Vec<Option<Probe>> {
        self.columns
            .iter()
            .zip(key)
            // SAFETY: a key's values are of the types of the index's columns.
            .map(|(c, v)| Some(unsafe { c.probe?.probe((*v)?) }))
            .collect()
    }

    /// Hash of a key; `None` where a NULL in it makes it equal to nothing.
    pub fn hash(&self, key: &[Option<pg_sys::Datum>]) -> Option<u64> {
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

    /// The columns (by their position in the key) that rows sorted by `order` ascend by first, as the index would have them.
    pub fn ascending(&self, order: &[SortKey]) -> Vec<usize> {
        let Some(attnums) = &self.plain else {
            return Vec::new();
        };
        order
            .iter()
            .map_while(|sort| {
                let at = attnums.iter().position(|a| *a as u16 == sort.attnum)?;
                let column = self.columns.get(at)?;
                let (_, less) = column.compare?;
                let same =
                    less.to_u32() == sort.operator && column.collation.to_u32() == sort.collation;
                same.then_some(at)
            })
            .collect()
    }

    /// Whether rows sorted by `order` lie as the index would have them.
    pub fn sorts_as(&self, order: &[SortKey]) -> bool {
        let ascending = self.ascending(order);
        ascending.len() >= self.columns.len()
            && ascending
                .iter()
                .copied()
                .take(self.columns.len())
                .eq(0..self.columns.len())
    }

    /// How a stored key lies to another one in some columns; NULLs come last.
    pub fn compare(
        &self,
        by: &[usize],
        stored: impl Fn(usize) -> Option<pg_sys::Datum>,
        key: &[Option<pg_sys::Datum>],
    ) -> Ordering {
        for at in by {
            let (Some(column), Some(Some(wanted))) = (self.columns.get(*at), key.get(*at)) else {
                continue;
            };
            let order = match stored(*at) {
                Some(value) => column.compare(value, *wanted),
                None => Ordering::Greater,
            };
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Whether two keys are the same to the index.
    pub fn equal(&self, a: &[Option<pg_sys::Datum>], b: &[Option<pg_sys::Datum>]) -> bool {
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
    let mut found = Vec::new();
    for segment in cache::directory(rel, companion).iter() {
        in_segment(rel, index, segment, key, &mut |row| {
            let place = Place {
                segment: segment.number,
                row,
            };
            found.push((place, segment.clone()));
        });
    }
    found
}

/// Rows of a segment that hold a key in an index, thawed ones among them.
pub fn in_segment(
    rel: pg_sys::Relation,
    index: &UniqueIndex,
    segment: &Rc<SegmentRef>,
    key: &[Option<pg_sys::Datum>],
    f: &mut impl FnMut(u32),
) {
    let Some(hash) = index.hash(key) else {
        return;
    };
    match keyset::candidates(rel, index, segment, &index.probes(key)) {
        Candidates::None => {}
        Candidates::Pages(pages) => {
            for page in pages {
                keyset::page(rel, index, segment, page).matching(index, key, f);
            }
        }
        Candidates::Segment => {
            keyset::segment(rel, index, segment).matching(index, hash, key, f);
        }
    }
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

/// Whether a row of the delta has the keys already that a new version of it is to have, so that no other row can hold them.
pub fn keeps_keys(
    rel: pg_sys::Relation,
    companion: &Companion,
    tid: &pg_sys::ItemPointerData,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    let indexes = unique_indexes(rel, companion);
    let Some(attnums) = indexes
        .iter()
        .map(|index| index.plain.as_deref())
        .collect::<Option<Vec<&[i16]>>>()
    else {
        return false;
    };
    let desc = relation::tupdesc(rel);
    let natts = relation::natts(desc);
    let mut values = vec![pg_sys::Datum::from(0usize); natts];
    let mut nulls = vec![true; natts];
    // SAFETY: the page stays pinned while the row is compared; the slot is of the relation's shape.
    let same = heap::with_any_version(rel, tid, |row, _| unsafe {
        ffi::raw::heap_deform_tuple(row, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        let (new_values, new_nulls) = tuple::slot_values(slot, natts);
        attnums.into_iter().flatten().all(|attnum| {
            let at = *attnum as usize - 1;
            let attr = relation::attribute(desc, at);
            let (new, new_null) = (new_values.get(at), new_nulls.get(at));
            match (values.get(at), nulls.get(at), new, new_null) {
                (Some(old), Some(false), Some(new), Some(false)) => {
                    tuple::same_image(*old, *new, attr.attbyval, attr.attlen)
                }
                // NULLs are equal to nothing, or kept.
                (_, Some(true), _, Some(true)) => true,
                _ => false,
            }
        })
    });
    same == Some(true)
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
            thaw::thaw(rel, companion, place, cid, None, thaw::BLOCK, purpose);
        }
    }
}
