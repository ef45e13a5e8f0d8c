//! Whether the server vouches that there is one row of each key: by unique indexes of columns that are NOT NULL.
//!
//! What the catalogue says is true of the rows that are there now. Those that are read are the snapshot's, which may be older than the locks:
//! among them are rows that were deleted before an index could be made. So the snapshot has to have the index, NOT NULL, and what a table is
//! part of, too.

use crate::am::unique::index_oids;
use crate::ingest::target::{is_key, time_column};
use crate::pg::catalog::{self, First};
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::{Registered, is_mvcc};
use crate::pg::tuple::{raw_xmin, xmin_frozen};
use pgrx::pg_sys;
use std::collections::HashMap;

/// `c.h`
const INVALID_SUB_TRANSACTION_ID: pg_sys::SubTransactionId = 0;

/// `catalog/pg_inherits.h`
const PG_INHERITS: pg_sys::Oid = pg_sys::Oid::from_u32(2611);
/// Its index by the parent, which is the second column.
const PG_INHERITS_BY_PARENT: pg_sys::Oid = pg_sys::Oid::from_u32(2187);

/// The beginning of a row of `pg_inherits`.
#[repr(C)]
struct Inherits {
    child: pg_sys::Oid,
    parent: pg_sys::Oid,
}

/// Whether no two rows of a relation that the active snapshot has can agree in these columns. What has [joined it since](joined_since) has
/// to be left out, or there must be none.
pub fn one_row_each(rel: &OpenRel, key: &[String]) -> bool {
    let seen = Catalogue::active();
    seen.vouches(rel, key)
}

/// As [`one_row_each`], of all that belongs to the relation now.
pub fn is_unique(rel: &OpenRel, key: &[String]) -> bool {
    one_row_each(rel, key) && joined_since(relation::oid(rel.as_ptr())).is_empty()
}

/// Tables that were there when the active snapshot was taken, and are part of a relation only since.
pub fn joined_since(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    Catalogue::active().add_joined(oid, false, &mut found);
    found
}

/// Of these relations, the ones that were there when the active snapshot was taken: others have no rows for it.
pub fn there_before(oids: impl IntoIterator<Item = pg_sys::Oid>) -> Vec<pg_sys::Oid> {
    let seen = Catalogue::active();
    oids.into_iter().filter(|oid| seen.has(*oid)).collect()
}

/// Whether a relation has rows of its own.
pub fn has_rows(oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up.
    let kind = unsafe { pg_sys::get_rel_relkind(oid) } as u8;
    [
        pg_sys::RELKIND_RELATION,
        pg_sys::RELKIND_MATVIEW,
        pg_sys::RELKIND_FOREIGN_TABLE,
    ]
    .contains(&kind)
}

/// The catalogue as a snapshot has it.
struct Catalogue {
    snapshot: Registered,
    classes: OpenRel,
    attributes: OpenRel,
    indexes: OpenRel,
    inherits: OpenRel,
}

impl Catalogue {
    fn active() -> Self {
        let open = |oid| OpenRel::table(oid, pg_sys::AccessShareLock);
        Catalogue {
            // SAFETY: a statement that calls a function has a snapshot.
            snapshot: Registered::copy_of(unsafe { pg_sys::GetActiveSnapshot() }),
            classes: open(pg_sys::RelationRelationId),
            attributes: open(pg_sys::AttributeRelationId),
            indexes: open(pg_sys::IndexRelationId),
            inherits: open(PG_INHERITS),
        }
    }

    /// The rows of a catalogue with an OID in one of its columns, and whether the transaction wrote them itself.
    fn rows(
        &self,
        of: &OpenRel,
        (index, attnum): (pg_sys::Oid, i16),
        oid: pg_sys::Oid,
        mut f: impl FnMut(pg_sys::HeapTuple, bool),
    ) {
        catalog::each_seen(
            of,
            index,
            &[(attnum, First::Oid(oid))],
            &self.snapshot,
            |row| {
                // SAFETY: a row of the scan.
                let own = unsafe {
                    let by = raw_xmin(&*(*row).t_data);
                    pg_sys::TransactionIdIsCurrentTransactionId(by)
                };
                f(row, own);
            },
        );
    }

    /// Whether a row of a catalogue that is the latest is the snapshot's too, and of somebody else. That can be told without looking.
    ///
    /// # Safety
    /// A row that a cache of the server's has, or NULL.
    unsafe fn is_old(&self, row: pg_sys::HeapTuple) -> bool {
        // SAFETY: by contract.
        unsafe {
            if row.is_null() || !is_mvcc(self.snapshot.get()) {
                return false;
            }
            let head = &*(*row).t_data;
            let by = raw_xmin(head);
            xmin_frozen(head)
                || !pg_sys::TransactionIdIsCurrentTransactionId(by)
                    && !pg_sys::XidInMVCCSnapshot(by, self.snapshot.get())
        }
    }

    /// Whether there was such a relation.
    fn has(&self, oid: pg_sys::Oid) -> bool {
        let mut found = false;
        let index = pg_sys::Oid::from_u32(pg_sys::ClassOidIndexId);
        self.rows(&self.classes, (index, 1), oid, |_, _| found = true);
        found
    }

    /// Whether what a transaction did to a table itself was checked with rows that the snapshot has. One that it has made has no others.
    fn own_counts(&self, rel: &OpenRel) -> bool {
        // SAFETY: an open relation.
        let made_in = unsafe { (*rel.as_ptr()).rd_createSubid };
        made_in != INVALID_SUB_TRANSACTION_ID
    }

    /// What was part of a relation, and whether the transaction made it so itself.
    fn parts(&self, parent: pg_sys::Oid) -> HashMap<pg_sys::Oid, bool> {
        let mut found = HashMap::new();
        let by_parent = (PG_INHERITS_BY_PARENT, 2);
        self.rows(&self.inherits, by_parent, parent, |row, own| {
            // SAFETY: a row of pg_inherits begins so.
            let row = unsafe { &*pg_sys::GETSTRUCT(row).cast::<Inherits>() };
            if row.parent == parent {
                found.insert(row.child, own);
            }
        });
        found
    }

    fn add_joined(&self, oid: pg_sys::Oid, with: bool, to: &mut Vec<pg_sys::Oid>) {
        let children = relation::children(oid);
        if children.is_empty() {
            return;
        }
        // SAFETY: raises an error where partitions lie too deep within each other.
        unsafe { pg_sys::check_stack_depth() };
        let parts = self.parts(oid);
        for child in children {
            pgrx::check_for_interrupts!();
            let joined = with || !parts.contains_key(&child);
            if joined && self.has(child) {
                to.push(child);
            }
            self.add_joined(child, joined, to);
        }
    }

    fn vouches(&self, rel: &OpenRel, key: &[String]) -> bool {
        pgrx::check_for_interrupts!();
        // SAFETY: raises an error where partitions lie too deep within each other.
        unsafe { pg_sys::check_stack_depth() };
        if !self.has_index(rel, key) {
            return false;
        }
        let oid = relation::oid(rel.as_ptr());
        let children = relation::children(oid);
        if children.is_empty() {
            return true;
        }
        // Rows of one key lie in one partition, or one chunk. An heir's may be the parent's too.
        let kind = relation::form(rel.as_ptr()).relkind as u8;
        if kind != pg_sys::RELKIND_PARTITIONED_TABLE && time_column(oid).is_none() {
            return false;
        }
        let parts = self.parts(oid);
        children.into_iter().all(|child| {
            // What has come since is left out, or has no rows for the snapshot; what is gone has none either.
            let Some(own) = parts.get(&child) else {
                return true;
            };
            match OpenRel::try_open(child, pg_sys::AccessShareLock) {
                Some(child) if *own && !self.own_counts(&child) => false,
                Some(child) => self.vouches(&child, key),
                None => true,
            }
        })
    }

    /// Whether a relation has, and had, a unique index of some of these columns, without NULLs.
    fn has_index(&self, rel: &OpenRel, key: &[String]) -> bool {
        let own_counts = self.own_counts(rel);
        let desc = relation::tupdesc(rel.as_ptr());
        let attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
        let strict: Vec<i16> = attributes
            .filter(|attr| !attr.attisdropped && attr.attnotnull)
            .filter(|attr| key.contains(&relation::attribute_name(attr)))
            .map(|attr| attr.attnum)
            .filter(|attnum| self.was_not_null(rel, *attnum, own_counts))
            .collect();
        let covered = |index: &pg_sys::Oid| {
            let index = OpenRel::index(*index, pg_sys::AccessShareLock);
            is_key(index.as_ptr())
                && tells_cells_apart(index.as_ptr(), desc, &strict)
                && self.had(&index, own_counts)
        };
        !strict.is_empty() && index_oids(rel.as_ptr()).iter().any(covered)
    }

    /// Whether a column that is NOT NULL was so.
    fn was_not_null(&self, rel: &OpenRel, attnum: i16, own_counts: bool) -> bool {
        let oid = relation::oid(rel.as_ptr());
        // SAFETY: a look-up in a cache, whose row is released.
        let is_old = unsafe {
            let row = pg_sys::SearchSysCache2(
                pg_sys::SysCacheIdentifier::ATTNUM as i32,
                pg_sys::Datum::from(oid),
                pg_sys::Datum::from(attnum),
            );
            let is_old = self.is_old(row);
            if !row.is_null() {
                pg_sys::ReleaseSysCache(row);
            }
            is_old
        };
        let mut found = is_old;
        if !is_old {
            let index = pg_sys::Oid::from_u32(pg_sys::AttributeRelidNumIndexId);
            self.rows(&self.attributes, (index, 1), oid, |row, own| {
                // SAFETY: a row of pg_attribute.
                let was =
                    unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_attribute>() };
                found |= was.attnum == attnum && was.attnotnull && (own_counts || !own);
            });
        }
        found
    }

    /// Whether an index that vouches for something did so.
    fn had(&self, index: &OpenRel, own_counts: bool) -> bool {
        // SAFETY: an open index has its row of pg_index.
        let mut found = unsafe { self.is_old((*index.as_ptr()).rd_indextuple) };
        if !found {
            let by_index = pg_sys::Oid::from_u32(pg_sys::IndexRelidIndexId);
            let oid = relation::oid(index.as_ptr());
            self.rows(&self.indexes, (by_index, 1), oid, |row, own| {
                // SAFETY: a row of pg_index.
                let was = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>() };
                let vouched = was.indisunique && was.indisvalid && was.indimmediate;
                found |= vouched && (own_counts || !own);
            });
        }
        found
    }
}

/// Whether the columns of an index are among these of its table, and rows with the same cells in them are the same to it. By the equality
/// that belongs to their type they are; an operator class may have another one.
fn tells_cells_apart(index: pg_sys::Relation, table: pg_sys::TupleDesc, columns: &[i16]) -> bool {
    // SAFETY: an open index has its pg_index row and arrays of indnkeyatts entries; entries of the type cache live for ever.
    unsafe {
        let form = &*(*index).rd_index;
        (0..form.indnkeyatts as usize).all(|i| {
            let attnum = *form.indkey.values.as_ptr().add(i);
            let (family, input) = (*(*index).rd_opfamily.add(i), *(*index).rd_opcintype.add(i));
            let strategy = pg_sys::BTEqualStrategyNumber as i16;
            let equal = pg_sys::get_opfamily_member(family, input, input, strategy);
            columns.contains(&attnum) && equal != pg_sys::InvalidOid && {
                let typ = relation::attribute(table, attnum as usize - 1).atttypid;
                let of_type = pg_sys::lookup_type_cache(typ, pg_sys::TYPECACHE_EQ_OPR as i32);
                equal == (*of_type).eq_opr
            }
        })
    }
}
