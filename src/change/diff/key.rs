//! The key by which rows are known, and whether the server vouches that there is one row of each.

use super::error;
use crate::ingest::target::{UniqueKey, default_key, time_column, unique_keys};
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;

/// The names of a relation's columns by their attribute numbers, and whether they are NOT NULL.
fn columns(rel: &OpenRel) -> Vec<(i16, String, bool)> {
    let desc = relation::tupdesc(rel.as_ptr());
    let attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
    attributes
        .filter(|attr| !attr.attisdropped)
        .map(|attr| (attr.attnum, relation::attribute_name(attr), attr.attnotnull))
        .collect()
}

/// The names of the columns of each key without NULLs.
fn strict_keys(rel: &OpenRel) -> Vec<(UniqueKey, Vec<String>)> {
    let columns = columns(rel);
    let numbers: Vec<i16> = columns.iter().map(|(number, ..)| *number).collect();
    let keys = unique_keys(rel.as_ptr(), &numbers).into_iter();
    keys.filter_map(|key| {
        let names: Option<Vec<String>> = key
            .columns
            .iter()
            .map(|of_key| match columns.get(of_key.column) {
                Some((_, name, true)) => Some(name.clone()),
                _ => None,
            })
            .collect();
        Some((key, names?))
    })
    .collect()
}

/// The columns of a relation's own key: the primary key, else the only unique index of columns that are NOT NULL.
pub fn own(rel: &OpenRel, name: &str) -> Vec<String> {
    let (keys, mut names): (Vec<_>, Vec<_>) = strict_keys(rel).into_iter().unzip();
    let places: Vec<_> = keys.iter().map(UniqueKey::index).collect();
    match default_key(keys) {
        Ok(key) => {
            let place = places.iter().position(|index| *index == key.index());
            place.map_or_else(Vec::new, |place| names.swap_remove(place))
        }
        Err(keys) => error::no_key(name, keys),
    }
}

/// Whether no two rows of a relation can agree in these columns: it has a unique index of some of them, without NULLs.
pub fn is_unique(rel: &OpenRel, key: &[String]) -> bool {
    let oid = relation::oid(rel.as_ptr());
    let kind = relation::form(rel.as_ptr()).relkind as u8;
    // An heir's rows are in its own indexes only; chunks of a hypertable have those of the hypertable.
    let heirs = kind == pg_sys::RELKIND_RELATION && !relation::children(oid).is_empty();
    if heirs && time_column(oid).is_none() {
        return false;
    }
    let covered = |names: &Vec<String>| names.iter().all(|name| key.contains(name));
    strict_keys(rel).iter().any(|(_, names)| covered(names))
}
