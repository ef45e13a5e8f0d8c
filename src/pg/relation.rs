//! Opening, closing and naming relations.

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// An open relation that is closed when dropped; its lock is kept until the transaction ends.
pub struct OpenRel {
    rel: pg_sys::Relation,
}

impl OpenRel {
    /// Opens a table by OID (`table_open`); errors when it does not exist.
    pub fn table(oid: pg_sys::Oid, lockmode: u32) -> Self {
        // SAFETY: table_open checks the OID and reports an error itself.
        let rel = unsafe { pg_sys::table_open(oid, lockmode as pg_sys::LOCKMODE) };
        OpenRel { rel }
    }

    /// Opens an index by OID.
    pub fn index(oid: pg_sys::Oid, lockmode: u32) -> Self {
        // SAFETY: index_open checks the OID and reports an error itself.
        let rel = unsafe { pg_sys::index_open(oid, lockmode as pg_sys::LOCKMODE) };
        OpenRel { rel }
    }

    /// Opens any relation, `None` when it does not exist (any more).
    pub fn try_open(oid: pg_sys::Oid, lockmode: u32) -> Option<Self> {
        // SAFETY: try_relation_open returns NULL when the relation is gone.
        let rel = unsafe { pg_sys::try_relation_open(oid, lockmode as pg_sys::LOCKMODE) };
        if rel.is_null() {
            None
        } else {
            Some(OpenRel { rel })
        }
    }

    /// The relation descriptor.
    pub fn as_ptr(&self) -> pg_sys::Relation {
        self.rel
    }
}

impl Drop for OpenRel {
    fn drop(&mut self) {
        // After an error the resource owner releases the reference.
        if !std::thread::panicking() {
            // SAFETY: opened by us and not closed before.
            unsafe { pg_sys::relation_close(self.rel, pg_sys::NoLock as pg_sys::LOCKMODE) }
        }
    }
}

/// Whether a relation is of a kind that rows are selected from: a table, a view, a foreign table.
pub fn has_rows(form: &pg_sys::FormData_pg_class) -> bool {
    let kinds = [
        pg_sys::RELKIND_RELATION,
        pg_sys::RELKIND_PARTITIONED_TABLE,
        pg_sys::RELKIND_VIEW,
        pg_sys::RELKIND_MATVIEW,
        pg_sys::RELKIND_FOREIGN_TABLE,
    ];
    kinds.contains(&(form.relkind as u8))
}

/// OID of an open relation.
pub fn oid(rel: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: `rel` is open.
    unsafe { (*rel).rd_id }
}

/// How the lock manager names an open relation.
pub fn lock_id(rel: pg_sys::Relation) -> pg_sys::LockRelId {
    // SAFETY: `rel` is open.
    unsafe { (*rel).rd_lockInfo.lockRelId }
}

/// `pg_class` row of an open relation.
pub fn form<'a>(rel: pg_sys::Relation) -> &'a pg_sys::FormData_pg_class {
    // SAFETY: an open relation has its pg_class row.
    unsafe { &*(*rel).rd_rel }
}

/// Row shape of an open relation.
pub fn tupdesc(rel: pg_sys::Relation) -> pg_sys::TupleDesc {
    // SAFETY: `rel` is open.
    unsafe { (*rel).rd_att }
}

/// Attribute `index` (from 0) of a row shape.
pub fn attribute<'a>(desc: pg_sys::TupleDesc, index: usize) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: callers stay below natts; attrs is an array of that many entries.
    unsafe { &*(*desc).attrs.as_ptr().add(index) }
}

/// The type below domains: the type itself where it is none.
pub fn base_type(typ: pg_sys::Oid) -> pg_sys::Oid {
    // Types whose OIDs were given by hand are no domains.
    if typ.to_u32() < pg_sys::FirstGenbkiObjectId {
        return typ;
    }
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::getBaseType(typ) }
}

/// The default ordering operator of a type: `<`, or `>` for a descending order; invalid where it has none.
pub fn ordering_operator(typ: pg_sys::Oid, descending: bool) -> pg_sys::Oid {
    // SAFETY: a type cache look-up; entries live for ever.
    unsafe {
        let flags = pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_GT_OPR;
        let entry = &*pg_sys::lookup_type_cache(typ, flags as i32);
        if descending {
            entry.gt_opr
        } else {
            entry.lt_opr
        }
    }
}

/// Number of attributes, dropped ones included.
pub fn natts(desc: pg_sys::TupleDesc) -> usize {
    // SAFETY: `desc` is a live tuple descriptor.
    unsafe { (*desc).natts as usize }
}

/// A row shape of columns with these attributes, and room for `more` behind them, in the current memory context.
pub fn row_shape(attributes: &[pg_sys::FormData_pg_attribute], more: usize) -> pg_sys::TupleDesc {
    // SAFETY: a row shape of our own; names are NUL-terminated.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc((attributes.len() + more) as i32);
        for (i, attr) in attributes.iter().enumerate() {
            let attnum = i as i16 + 1;
            let name = attr.attname.data.as_ptr();
            let (typ, typmod) = (attr.atttypid, attr.atttypmod);
            pg_sys::TupleDescInitEntry(desc, attnum, name, typ, typmod, attr.attndims.into());
            pg_sys::TupleDescInitEntryCollation(desc, attnum, attr.attcollation);
        }
        desc
    }
}

/// An attribute's name.
pub fn attribute_name(attr: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: attname is a NUL-terminated NameData.
    unsafe { CStr::from_ptr(attr.attname.data.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// An identifier, quoted where it must be.
pub fn quote(identifier: &str) -> String {
    let name = CString::new(identifier).unwrap_or_default();
    // SAFETY: returns the string itself or a palloc'd copy.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }
        .to_string_lossy()
        .into_owned()
}

/// A relation's name.
pub fn name(rel: pg_sys::Relation) -> String {
    // SAFETY: relname is a NUL-terminated NameData.
    unsafe { CStr::from_ptr((*(*rel).rd_rel).relname.data.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// Schema-qualified, quoted name of a relation, or its OID in words when it is gone.
pub fn qualified_name(relid: pg_sys::Oid) -> String {
    // SAFETY: both look-ups return NULL when there is no such relation.
    unsafe {
        let rel = pg_sys::get_rel_name(relid);
        if rel.is_null() {
            return format!("relation with OID {}", relid.to_u32());
        }
        let ns = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relid));
        let ns = if ns.is_null() {
            c"pg_temp".as_ptr()
        } else {
            ns.cast_const()
        };
        CStr::from_ptr(pg_sys::quote_qualified_identifier(ns, rel))
            .to_string_lossy()
            .into_owned()
    }
}

/// Number of blocks of the main fork.
pub fn blocks(rel: pg_sys::Relation) -> u32 {
    // SAFETY: `rel` is open.
    unsafe { pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM) }
}

/// OID of a relation by name in a namespace, `None` when there is none.
pub fn lookup(relname: &str, namespace: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let relname = CString::new(relname).ok()?;
    // SAFETY: syscache look-up of a NUL-terminated name.
    let oid = unsafe { pg_sys::get_relname_relid(relname.as_ptr(), namespace) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The attributes that are key columns of an index; those of expressions are left out.
pub fn key_attributes(index: pg_sys::Oid) -> Vec<u16> {
    let index = OpenRel::index(index, pg_sys::AccessShareLock);
    // SAFETY: an open index has its pg_index row, with an entry in `indkey` for each column.
    unsafe {
        let form = &*(*index.as_ptr()).rd_index;
        (0..form.indnkeyatts as usize)
            .filter_map(|i| u16::try_from(*form.indkey.values.as_ptr().add(i)).ok())
            .filter(|attnum| *attnum > 0)
            .collect()
    }
}

/// Direct children of a table: chunks of a hypertable, partitions, heirs.
pub fn children(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: the list of OIDs is in the current memory context.
    unsafe {
        let list = super::ffi::find_inheritance_children(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        if list.is_null() {
            return Vec::new();
        }
        (0..(*list).length as usize)
            .map(|i| (*(*list).elements.add(i)).oid_value)
            .collect()
    }
}

/// OID of the access method `varve` in this database, `None` where the extension is not created.
pub fn varve_am() -> Option<pg_sys::Oid> {
    // SAFETY: syscache look-up.
    let oid = unsafe { pg_sys::get_table_am_oid(c"varve".as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// OID of the heap access method (pg_am.dat).
pub const HEAP_AM: pg_sys::Oid = pg_sys::Oid::from_u32(2);
