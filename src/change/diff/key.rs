//! The key by which rows are known.

use super::error;
pub use super::vouch::is_unique;
use crate::ingest::target::{UniqueKey, default_key, unique_keys};
use crate::pg::relation::{self, OpenRel};

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
