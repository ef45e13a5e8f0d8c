//! The two companion tables of a relation with frozen rows: segments and tombstones.
//!
//! They are named after the *storage* of the relation (tablespace and relfilenumber), so that TRUNCATE and every
//! rewriting ALTER TABLE leave them behind transactionally, and whoever swaps storage swaps the frozen rows with it.
//! The companions of permanent tables live in schema `varve_data` as members of the extension (pg_dump skips them)
//! and go with their storage through the object access hook; an internal dependency beside the membership would make
//! DROP of the table ask for DROP of the extension. Those of temporary tables live in the session's temporary schema
//! and depend on their table.
//!
//! - segments: `(segment int4, item int4, data bytea)`; item 0 is the header, item *n* the bytes of attribute *n*;
//! - tombstones: `(segment int4, row int4, place tid)`, insert-only, with an index on (segment, row).

use super::retained;
use crate::pg::catalog;
use crate::pg::memory;
use crate::pg::{relation, relation::OpenRel};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};

/// Schema that holds the companions of permanent and unlogged tables.
pub const SCHEMA: &str = "varve_data";

/// Where the frozen rows of one storage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Companion {
    /// OID of the table of segments.
    pub segments: pg_sys::Oid,
    /// OID of the table of tombstones.
    pub tombstones: pg_sys::Oid,
    /// Changes whenever the relation's cache entry was rebuilt: what was cached under another generation may be stale.
    pub generation: u64,
    /// Changes with the storage and with the shape of rows: what was decoded of a segment under another one is stale. Where
    /// segments were only added, it stays.
    pub shape: u64,
}

/// What hangs at `rd_amcache`; one chunk of memory, freed by the relation cache.
#[repr(C)]
#[derive(Clone, Copy)]
struct AmCache {
    segments: pg_sys::Oid,
    tombstones: pg_sys::Oid,
    generation: u64,
    shape: u64,
}

/// The shape of a relation's rows that decoded segments have.
struct Shape {
    segments: pg_sys::Oid,
    /// A copy that is ours.
    desc: pg_sys::TupleDesc,
    id: u64,
}

/// Relations of which a backend remembers the shape.
const MOST_SHAPES: usize = 1_000;

thread_local! {
    static SHAPES: RefCell<HashMap<u32, Shape>> = RefCell::new(HashMap::new());
}

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The companion of an open relation's present storage; `None` when nothing of it is frozen.
pub fn of(rel: pg_sys::Relation) -> Option<Companion> {
    // SAFETY: `rel` is open; rd_amcache of a varve relation is ours, and the relation cache frees it with the entry.
    let cache = unsafe {
        if (*rel).rd_amcache.is_null() {
            let (segments, tombstones) = find(rel).unwrap_or_default();
            let cache: *mut AmCache =
                pg_sys::MemoryContextAlloc(pg_sys::CacheMemoryContext, size_of::<AmCache>()).cast();
            *cache = AmCache {
                segments,
                tombstones,
                generation: GENERATION.fetch_add(1, Ordering::Relaxed),
                shape: shape_of(rel, segments),
            };
            // The look-up may have processed an invalidation and let somebody else fill the cache.
            if (*rel).rd_amcache.is_null() {
                (*rel).rd_amcache = cache.cast();
            } else {
                pg_sys::pfree(cache.cast());
            }
        }
        *(*rel).rd_amcache.cast::<AmCache>()
    };
    (cache.segments != pg_sys::InvalidOid).then_some(Companion {
        segments: cache.segments,
        tombstones: cache.tombstones,
        generation: cache.generation,
        shape: cache.shape,
    })
}

/// The number of a relation's present shape; another one where the storage or the shape differs from what is remembered.
fn shape_of(rel: pg_sys::Relation, segments: pg_sys::Oid) -> u64 {
    if segments == pg_sys::InvalidOid {
        return 0;
    }
    let desc = relation::tupdesc(rel);
    let key = relation::oid(rel).to_u32();
    SHAPES.with_borrow_mut(|shapes| {
        let same = |shape: &&Shape| {
            // SAFETY: an open relation's shape, and a copy of an earlier one.
            let same_columns = || unsafe { pg_sys::equalTupleDescs(shape.desc, desc) };
            shape.segments == segments && same_columns()
        };
        if let Some(shape) = shapes.get(&key).filter(same) {
            return shape.id;
        }
        let id = GENERATION.fetch_add(1, Ordering::Relaxed);
        if shapes.len() >= MOST_SHAPES {
            // SAFETY: copies that nobody else has.
            shapes
                .drain()
                .for_each(|(_, shape)| unsafe { pg_sys::FreeTupleDesc(shape.desc) });
        }
        // SAFETY: the copy lives as long as the process, or until it is freed here.
        let desc = unsafe {
            memory::within(pg_sys::CacheMemoryContext, || {
                pg_sys::CreateTupleDescCopyConstr(desc)
            })
        };
        let fresh = Shape { segments, desc, id };
        if let Some(old) = shapes.insert(key, fresh) {
            // SAFETY: a copy that nobody else has.
            unsafe { pg_sys::FreeTupleDesc(old.desc) }
        }
        id
    })
}

/// Forgets the shape of a relation, whose segments are gone though their table stays.
pub fn forget_shape(rel: pg_sys::Relation) {
    let shape = SHAPES.with_borrow_mut(|shapes| shapes.remove(&relation::oid(rel).to_u32()));
    if let Some(shape) = shape {
        // SAFETY: a copy that nobody else has.
        unsafe { pg_sys::FreeTupleDesc(shape.desc) }
    }
}

/// Forgets what [`of`] cached, in this backend and (at commit) in all others.
pub fn invalidate(rel: pg_sys::Relation) {
    // SAFETY: `rel` is open; the cache chunk is ours.
    unsafe {
        if !(*rel).rd_amcache.is_null() {
            pg_sys::pfree((*rel).rd_amcache);
            (*rel).rd_amcache = std::ptr::null_mut();
        }
        pg_sys::CacheInvalidateRelcache(rel);
    }
}

fn names(tablespace: pg_sys::Oid, relfilenumber: pg_sys::Oid) -> (String, String) {
    let key = format!("{}_{}", tablespace.to_u32(), relfilenumber.to_u32());
    (format!("segments_{key}"), format!("tombstones_{key}"))
}

fn is_temp(form: &pg_sys::FormData_pg_class) -> bool {
    form.relpersistence == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char
}

fn namespace(form: &pg_sys::FormData_pg_class) -> Option<pg_sys::Oid> {
    if is_temp(form) {
        return Some(form.relnamespace);
    }
    // SAFETY: syscache look-up.
    let oid = unsafe { pg_sys::get_namespace_oid(c"varve_data".as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// OIDs of the companion tables of a storage.
pub fn find_for(form: &pg_sys::FormData_pg_class) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    let ns = namespace(form)?;
    let (segments, tombstones) = names(form.reltablespace, form.relfilenode);
    let genuine = |name: &str| relation::lookup(name, ns).filter(|oid| is_ours(*oid));
    Some((genuine(&segments)?, genuine(&tombstones)?))
}

/// Whether a table of a companion's name is one that we made: anybody can make tables in his temporary schema.
pub fn is_ours(oid: pg_sys::Oid) -> bool {
    class_of(oid).is_some_and(|form| {
        form.relowner.to_u32() == pg_sys::BOOTSTRAP_SUPERUSERID
            && form.relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
            && form.relam == relation::HEAP_AM
    })
}

/// Whether a table holds segments.
fn is_segment_table(form: &pg_sys::FormData_pg_class) -> bool {
    // SAFETY: relname is NUL-terminated; a syscache look-up.
    let (name, schema) = unsafe {
        (
            std::ffi::CStr::from_ptr(form.relname.data.as_ptr()),
            pg_sys::get_namespace_oid(c"varve_data".as_ptr(), true),
        )
    };
    let ours = form.relnamespace == schema || is_temp(form);
    ours && name.to_bytes().starts_with(b"segments_") && is_ours(form.oid)
}

/// Whether a table is one of segments.
pub fn holds_segments(oid: pg_sys::Oid) -> bool {
    class_of(oid).is_some_and(|form| is_segment_table(&form))
}

/// A copy of a relation's `pg_class` row.
pub fn class_of(oid: pg_sys::Oid) -> Option<pg_sys::FormData_pg_class> {
    // SAFETY: a syscache look-up that is released; the form is copied out before.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(oid),
        );
        if row.is_null() {
            return None;
        }
        let form = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>();
        pg_sys::ReleaseSysCache(row);
        Some(form)
    }
}

fn find(rel: pg_sys::Relation) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    find_for(relation::form(rel))
}

fn address(class: pg_sys::Oid, object: pg_sys::Oid) -> pg_sys::ObjectAddress {
    pg_sys::ObjectAddress {
        classId: class,
        objectId: object,
        objectSubId: 0,
    }
}

/// One column of a companion: name, type, storage (0 for the type's own).
type ColumnSpec = (&'static str, pg_sys::Oid, u8);

fn create_table(
    rel: pg_sys::Relation,
    owner: pg_sys::Oid,
    table_name: &str,
    columns: &[ColumnSpec],
) -> pg_sys::Oid {
    let form = relation::form(rel);
    let Some(ns) = namespace(form) else {
        pgrx::error!("schema \"{SCHEMA}\" does not exist");
    };
    let cname = CString::new(table_name).unwrap_or_default();
    // SAFETY: catalogue functions of the server with valid arguments, inside a transaction that holds a lock on `rel`.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
        for (i, (col, typ, storage)) in columns.iter().enumerate() {
            let col = CString::new(*col).unwrap_or_default();
            pg_sys::TupleDescInitEntry(desc, i as i16 + 1, col.as_ptr(), *typ, -1, 0);
            let attr = (*desc).attrs.as_mut_ptr().add(i);
            (*attr).attnotnull = true;
            if *storage != 0 {
                (*attr).attstorage = *storage as std::ffi::c_char;
            }
        }
        let oid = pg_sys::heap_create_with_catalog(
            cname.as_ptr(),
            ns,
            form.reltablespace,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID),
            relation::HEAP_AM,
            desc,
            std::ptr::null_mut(),
            pg_sys::RELKIND_RELATION as std::ffi::c_char,
            form.relpersistence,
            false,
            false,
            pg_sys::OnCommitAction::ONCOMMIT_NOOP,
            pg_sys::Datum::from(0usize),
            false,
            true,
            true,
            pg_sys::InvalidOid,
            std::ptr::null_mut(),
        );
        pg_sys::CommandCounterIncrement();
        let me = address(pg_sys::RelationRelationId, oid);
        if is_temp(form) {
            let on = address(pg_sys::RelationRelationId, owner);
            pg_sys::recordDependencyOn(&me, &on, pg_sys::DependencyType::DEPENDENCY_INTERNAL);
        } else {
            let ext = pg_sys::get_extension_oid(c"varve".as_ptr(), false);
            let on = address(pg_sys::ExtensionRelationId, ext);
            pg_sys::recordDependencyOn(&me, &on, pg_sys::DependencyType::DEPENDENCY_EXTENSION);
        }
        oid
    }
}

/// Makes an index of a companion on two of its integer columns.
fn create_index(table: pg_sys::Oid, index_name: &str, columns: [(i16, &std::ffi::CStr); 2]) {
    let table = OpenRel::table(table, pg_sys::ShareLock);
    let cname = CString::new(index_name).unwrap_or_default();
    // SAFETY: index_create as `create_toast_table` calls it, on a table that this transaction has just made.
    unsafe {
        let info = pg_sys::makeIndexInfo(
            2,
            2,
            pg_sys::BTREE_AM_OID,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            false,
            false,
            true,
            false,
            false,
        );
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        for ((attnum, name), place) in columns.iter().zip(&mut (*info).ii_IndexAttrNumbers) {
            *place = *attnum;
            names = pg_sys::lappend(names, pg_sys::pstrdup(name.as_ptr()).cast());
        }
        let collations = [pg_sys::InvalidOid; 2];
        let opclass = pg_sys::GetDefaultOpClass(pg_sys::INT4OID, pg_sys::BTREE_AM_OID);
        let opclasses = [opclass; 2];
        let options = [0i16; 2];
        pg_sys::index_create(
            table.as_ptr(),
            cname.as_ptr(),
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::RelFileNumber::default(),
            info,
            names,
            pg_sys::BTREE_AM_OID,
            relation::form(table.as_ptr()).reltablespace,
            collations.as_ptr(),
            opclasses.as_ptr(),
            std::ptr::null(),
            options.as_ptr(),
            std::ptr::null(),
            pg_sys::Datum::from(0usize),
            0,
            0,
            true,
            true,
            std::ptr::null_mut(),
        );
        pg_sys::CommandCounterIncrement();
    }
}

/// The index of a companion table, which has exactly one.
pub fn index_of(table: pg_sys::Relation) -> pg_sys::Oid {
    super::unique::index_oids(table)
        .first()
        .copied()
        .unwrap_or(pg_sys::InvalidOid)
}

/// Makes the companion of `rel`'s present storage. `owner` is the table that it belongs to in the end (the transient
/// table of a rewrite is not the one). The caller holds a lock that excludes another creator.
pub fn create(rel: pg_sys::Relation, owner: pg_sys::Oid) -> Companion {
    let form = relation::form(rel);
    let (segments_name, tombstones_name) = names(form.reltablespace, form.relfilenode);
    let segments = create_table(
        rel,
        owner,
        &segments_name,
        &[
            ("segment", pg_sys::INT4OID, 0),
            ("item", pg_sys::INT4OID, 0),
            ("data", pg_sys::BYTEAOID, pg_sys::TYPSTORAGE_PLAIN),
        ],
    );
    let columns = [(2, c"item"), (1, c"segment")];
    create_index(segments, &format!("{segments_name}_idx"), columns);
    let tombstones = create_table(
        rel,
        owner,
        &tombstones_name,
        &[
            ("segment", pg_sys::INT4OID, 0),
            ("row", pg_sys::INT4OID, 0),
            ("place", pg_sys::TIDOID, 0),
        ],
    );
    let columns = [(1, c"segment"), (2, c"row")];
    create_index(tombstones, &format!("{tombstones_name}_idx"), columns);
    invalidate(rel);
    // Makes the invalidation one of a past command, so that a rollback sends it round again.
    // SAFETY: inside a transaction, not in parallel mode.
    unsafe { pg_sys::CommandCounterIncrement() };
    of(rel).unwrap_or_else(|| pgrx::error!("the companion tables of varve were not created"))
}

/// Drops the companion of a storage, where there is one, within the running transaction. Segments that a checkpoint refers to stay
/// behind.
pub fn drop_for(form: &pg_sys::FormData_pg_class) {
    let Some((segments, tombstones)) = find_for(form) else {
        return;
    };
    if !retained::retain(segments) {
        drop_table(segments);
    }
    drop_table(tombstones);
}

/// Drops a table of ours within the running transaction.
pub fn drop_table(oid: pg_sys::Oid) {
    // SAFETY: as finish_heap_swap drops a TOAST table: its dependency first, then the table.
    unsafe {
        pg_sys::deleteDependencyRecordsFor(pg_sys::RelationRelationId, oid, false);
        pg_sys::CommandCounterIncrement();
        let me = address(pg_sys::RelationRelationId, oid);
        pg_sys::performDeletion(
            &me,
            pg_sys::DropBehavior::DROP_RESTRICT,
            pg_sys::PERFORM_DELETION_INTERNAL as i32,
        );
    }
}

/// Whether the table of segments holds any header that a fresh snapshot sees.
pub fn has_segments(segments: pg_sys::Oid) -> bool {
    let Some(table) = OpenRel::try_open(segments, pg_sys::AccessShareLock) else {
        return false;
    };
    relation::blocks(table.as_ptr()) > 0
}

/// Renames the companion of `rel`'s present storage for the storage that is about to take its place with the same
/// item pointers (SET TABLESPACE).
pub fn rename_for(rel: pg_sys::Relation, locator: &pg_sys::RelFileLocator) {
    let form = relation::form(rel);
    let Some((segments, tombstones)) = find_for(form) else {
        return;
    };
    // SAFETY: reads the database's default tablespace, which pg_class shows as zero.
    let tablespace = unsafe {
        if locator.spcOid == pg_sys::MyDatabaseTableSpace {
            pg_sys::InvalidOid
        } else {
            locator.spcOid
        }
    };
    let (segments_name, tombstones_name) = names(tablespace, locator.relNumber);
    rename(&[(segments, segments_name), (tombstones, tombstones_name)]);
    invalidate(rel);
}

/// Gives tables of ours other names within the running transaction, and their indexes names after these.
pub fn rename(tables: &[(pg_sys::Oid, String)]) {
    let mut renames = Vec::new();
    for (oid, new_name) in tables {
        let table = OpenRel::table(*oid, pg_sys::AccessExclusiveLock);
        let index = index_of(table.as_ptr());
        renames.push((index, format!("{new_name}_idx"), true));
        renames.push((*oid, new_name.clone(), false));
    }
    for (oid, new_name, is_index) in renames {
        let new_name = CString::new(new_name).unwrap_or_default();
        // SAFETY: renames within the running transaction.
        unsafe { pg_sys::RenameRelationInternal(oid, new_name.as_ptr(), true, is_index) };
    }
}

/// A number that no other generation and no other shape has.
pub fn fresh_number() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// Called when a relation is about to be dropped: its storage's companion goes with it.
pub fn on_drop(object: pg_sys::Oid) {
    let Some(form) = class_of(object) else {
        return;
    };
    if form.relam != pg_sys::InvalidOid && Some(form.relam) == relation::varve_am() {
        drop_for(&form);
    } else if is_segment_table(&form) && has_segments(object) {
        crate::tier::extension::note_loss();
    }
    let kind = form.relkind as u8;
    let table = [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&kind);
    if relation::has_rows(&form) && relation::varve_am().is_some() {
        crate::change::watch::forget_relation(object);
    }
    if table && relation::varve_am().is_some() {
        crate::tier::catalog::forget_relation(object);
    }
}

/// All tables of this database with a companion: OID, table of segments, `pg_class` row.
pub fn all() -> Vec<(pg_sys::Oid, pg_sys::Oid, pg_sys::FormData_pg_class)> {
    let Some(am) = relation::varve_am() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let classes = OpenRel::table(pg_sys::RelationRelationId, pg_sys::AccessShareLock);
    catalog::each(&classes, |row| {
        // SAFETY: a row of pg_class, whose fixed part is copied.
        let form = unsafe { *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>() };
        if form.relam == am {
            found.push(form);
        }
    });
    found
        .into_iter()
        .filter_map(|form| Some((form.oid, find_for(&form)?.0, form)))
        .collect()
}
