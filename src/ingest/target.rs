//! The table that a batch goes into: what it is, its columns, and the key by which its rows are known.

use crate::am::error::raise;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi;
use crate::tier::set_tier;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// A column of the target.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its attribute number in the target; chunks may have others.
    pub attnum: i16,
    /// Its type.
    pub typ: pg_sys::Oid,
    /// Its type modifier, -1 for none.
    pub typmod: i32,
    /// Whether the table computes it.
    pub generated: bool,
    /// Whether it is an identity column that only the table may change.
    pub identity_always: bool,
}

/// A column of the key.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    /// Position among the target's columns.
    pub column: usize,
    /// The equality operator of the unique index, qualified: `OPERATOR(pg_catalog.=)`.
    pub equal: String,
    /// The index's collation as a clause: ` COLLATE pg_catalog."C"`; empty for types that have none.
    pub collate: String,
}

/// The table that a batch goes into.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
    /// Its columns, dropped ones left out.
    pub columns: Vec<Column>,
    /// The columns of its key, in the order of the index.
    pub key: Vec<KeyColumn>,
    /// That index.
    pub key_index: pg_sys::Oid,
    /// The position of its time column, for hypertables.
    pub time: Option<usize>,
}

impl Target {
    /// Looks a table up and finds its key: the columns named, else those of the primary key, else those of the only
    /// unique index. Whether the caller may write is checked by the statement that writes.
    pub fn resolve(oid: pg_sys::Oid, key: Option<Vec<String>>) -> Target {
        let mut target = Self::without_key(oid);
        let (name, columns) = (&target.name, &target.columns);
        let numbers: Vec<i16> = columns.iter().map(|c| c.attnum).collect();
        let table = OpenRel::table(oid, pg_sys::AccessShareLock);
        let keys = unique_keys(table.as_ptr(), &numbers);
        let key = match key {
            Some(names) => named_key(name, columns, keys, &names),
            None => default_key(keys).unwrap_or_else(|n| no_key(name, n)),
        };
        target.key = key.columns;
        target.key_index = key.index;
        target
    }

    /// Looks a table up whose key is not asked for.
    pub fn without_key(oid: pg_sys::Oid) -> Target {
        set_tier::check_kind(
            oid,
            "Batches go into hypertables, partitioned tables and ordinary tables.",
        );
        let name = relation::qualified_name(oid);
        set_tier::check_columnstore(oid, &name);
        let table = OpenRel::table(oid, pg_sys::AccessShareLock);
        let rel = table.as_ptr();
        let desc = relation::tupdesc(rel);
        let mut columns = Vec::new();
        for i in 0..relation::natts(desc) {
            let attr = relation::attribute(desc, i);
            if attr.attisdropped {
                continue;
            }
            columns.push(Column {
                name: relation::attribute_name(attr),
                attnum: attr.attnum,
                typ: attr.atttypid,
                typmod: attr.atttypmod,
                generated: attr.attgenerated != 0,
                identity_always: attr.attidentity as u8 == pg_sys::ATTRIBUTE_IDENTITY_ALWAYS,
            });
        }
        let time = time_column(oid).and_then(|t| columns.iter().position(|c| c.name == t));
        Target {
            oid,
            name,
            columns,
            key: Vec::new(),
            key_index: pg_sys::InvalidOid,
            time,
        }
    }

    /// The column of a name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// The key's columns.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|k| self.columns.get(k.column))
    }

    /// Names of the key's columns, for messages.
    pub fn key_names(&self) -> String {
        self.key_columns()
            .map(|c| relation::quote(&c.name))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A key by which rows are known.
pub struct UniqueKey {
    index: pg_sys::Oid,
    primary: bool,
    /// Its columns, in the order of the index.
    pub columns: Vec<KeyColumn>,
}

impl UniqueKey {
    /// Its index.
    pub fn index(&self) -> pg_sys::Oid {
        self.index
    }
}

/// The key where none is named: the primary key, else the only one.
///
/// # Errors
/// How many there are, none of which is primary.
pub fn default_key(mut keys: Vec<UniqueKey>) -> Result<UniqueKey, usize> {
    if keys.iter().any(|k| k.primary) {
        keys.retain(|k| k.primary);
    }
    match (keys.len(), keys.pop()) {
        (1, Some(key)) => Ok(key),
        (n, _) => Err(n),
    }
}

/// Whether an index can serve ON CONFLICT: it is unique, valid, immediate, without predicate or expressions.
pub fn is_key(index: pg_sys::Relation) -> bool {
    // SAFETY: an open index has its pg_index row.
    unsafe {
        let form = &*(*index).rd_index;
        form.indisunique
            && form.indisvalid
            && form.indimmediate
            && pg_sys::RelationGetIndexPredicate(index).is_null()
            && pg_sys::RelationGetIndexExpressions(index).is_null()
    }
}

/// The unique keys that can serve ON CONFLICT; columns are counted in `numbers`, their attribute numbers.
pub fn unique_keys(rel: pg_sys::Relation, numbers: &[i16]) -> Vec<UniqueKey> {
    let mut found: Vec<UniqueKey> = Vec::new();
    for oid in crate::am::unique::index_oids(rel) {
        let index = OpenRel::index(oid, pg_sys::AccessShareLock);
        let ptr = index.as_ptr();
        if !is_key(ptr) {
            continue;
        }
        // SAFETY: an open index has its pg_index row and arrays of indnkeyatts entries.
        unsafe {
            let form = &*(*ptr).rd_index;
            let columns: Option<Vec<KeyColumn>> = (0..form.indnkeyatts as usize)
                .map(|i| {
                    let attnum = *form.indkey.values.as_ptr().add(i);
                    let family = *(*ptr).rd_opfamily.add(i);
                    let input = *(*ptr).rd_opcintype.add(i);
                    let equal = pg_sys::get_opfamily_member(
                        family,
                        input,
                        input,
                        pg_sys::BTEqualStrategyNumber as i16,
                    );
                    Some(KeyColumn {
                        column: numbers.iter().position(|n| *n == attnum)?,
                        equal: operator(equal)?,
                        collate: collate(*(*ptr).rd_indcollation.add(i)),
                    })
                })
                .collect();
            if let Some(columns) = columns {
                found.push(UniqueKey {
                    index: oid,
                    primary: form.indisprimary,
                    columns,
                });
            }
        }
    }
    found
}

/// An operator as SQL text, qualified.
fn operator(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: syscache look-ups; the names are palloc'd copies.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::OPEROID as i32,
            pg_sys::Datum::from(oid),
        );
        if row.is_null() {
            return None;
        }
        let form = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_operator>();
        pg_sys::ReleaseSysCache(row);
        let schema = pg_sys::get_namespace_name(form.oprnamespace);
        if schema.is_null() {
            return None;
        }
        let schema = CStr::from_ptr(schema).to_string_lossy();
        let name = CStr::from_ptr(form.oprname.data.as_ptr()).to_string_lossy();
        Some(format!("OPERATOR({}.{name})", relation::quote(&schema)))
    }
}

/// A collation as a clause.
fn collate(oid: pg_sys::Oid) -> String {
    // SAFETY: a syscache look-up that is released; names are NUL-terminated.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::COLLOID as i32,
            pg_sys::Datum::from(oid),
        );
        if row.is_null() {
            return String::new();
        }
        let form = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_collation>();
        pg_sys::ReleaseSysCache(row);
        let schema = pg_sys::get_namespace_name(form.collnamespace);
        if schema.is_null() {
            return String::new();
        }
        let schema = CStr::from_ptr(schema).to_string_lossy();
        let name = CStr::from_ptr(form.collname.data.as_ptr()).to_string_lossy();
        format!(
            " COLLATE {}.{}",
            relation::quote(&schema),
            relation::quote(&name)
        )
    }
}

fn named_key(table: &str, columns: &[Column], keys: Vec<UniqueKey>, names: &[String]) -> UniqueKey {
    let mut wanted: Vec<usize> = names
        .iter()
        .map(|name| {
            columns
                .iter()
                .position(|c| c.name == *name)
                .unwrap_or_else(|| no_column(table, name, "It is named in the key."))
        })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let fits = |k: &UniqueKey| {
        let mut has: Vec<usize> = k.columns.iter().map(|c| c.column).collect();
        has.sort_unstable();
        has == wanted
    };
    match keys.into_iter().find(fits) {
        Some(key) => key,
        None => raise(
            PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
            format!("{table} has no unique index on ({})", names.join(", ")),
            Some("Rows of a batch are told apart by a primary key or a unique index that is neither partial nor deferrable nor on expressions.".into()),
            Some("Name the columns of such an index, or create one.".into()),
        ),
    }
}

fn no_key(table: &str, candidates: usize) -> ! {
    if candidates == 0 {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
            format!("{table} has no primary key and no unique index"),
            Some("Without a key no row can be told to be there already.".into()),
            Some("Add a primary key, or use INSERT.".into()),
        )
    }
    raise(
        PgSqlErrorCode::ERRCODE_AMBIGUOUS_COLUMN,
        format!("{table} has no primary key and {candidates} unique indexes"),
        None,
        Some("Say which: key => '{column, ...}'.".into()),
    )
}

/// Raises `undefined_column`.
pub fn no_column(table: &str, column: &str, detail: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column \"{column}\" of {table} does not exist"),
        Some(detail.into()),
        Some("Columns are matched by name; leave out or rename what the table lacks.".into()),
    )
}

/// The time column of a hypertable.
pub fn time_column(oid: pg_sys::Oid) -> Option<String> {
    spi::read_one::<String>(
        "SELECT varve.time_column($1::pg_catalog.oid::pg_catalog.regclass)::pg_catalog.text",
        &[oid.into()],
    )
}
