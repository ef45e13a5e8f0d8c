//! The two relations: their columns, matched by name, and the query that reads each.

use super::equal_parts::equal_parts;
use super::first::{BY_BYTES, NO_PLACE};
use super::reading::Reading;
use super::row_bytes::RowBytes;
use super::segments::{Origin, Segments};
use super::{error, key, vouch};
use crate::am::error::gone;
use crate::change::canonical::Form;
use crate::change::checksums::may_read_all;
use crate::change::plan::Plans;
use crate::pg::relation::{self, OpenRel};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::CStr;
use varve_core::change::{Seen, Side};

/// A column where one of the relations has it.
pub struct Place {
    /// Its place in the query's rows.
    pub at: usize,
    /// How its values become cells.
    pub form: Form,
}

/// One of the relations.
pub struct Table {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
    /// The query that reads it.
    pub query: String,
    /// Its place for each of the [names](Tables::names), those of the key first; `None` where it has no such column.
    pub places: Vec<Option<Place>>,
    /// The query's rows.
    pub desc: pg_sys::TupleDesc,
    /// Columns of the query's rows.
    pub width: usize,
    /// How many of them, from the first one on, hold the key.
    pub key_width: usize,
}

impl Table {
    /// Where the columns of the key, so many, are in its rows.
    pub fn key_places(&self, key: usize) -> Vec<usize> {
        let of_key = self.places.iter().take(key).flatten();
        of_key.map(|place| place.at).collect()
    }

    /// The query that reads the rows at the item pointers of these.
    pub fn query_at(&self, rows: &[Seen]) -> String {
        let mut query = format!("{} WHERE ctid OPERATOR(pg_catalog.=) ANY ('{{", self.query);
        let placed = rows.iter().filter(|row| row.place() != NO_PLACE);
        for (i, row) in placed.enumerate() {
            let place = row.place() & !(1 << BY_BYTES);
            let (block, offset) = (place >> 16, place & 0xFFFF);
            let comma = if i == 0 { "" } else { "," };
            query.push_str(&format!("{comma}\"({block},{offset})\""));
        }
        query.push_str("}'::pg_catalog.tid[])");
        query
    }
}

/// Both relations.
pub struct Tables {
    old: Table,
    new: Table,
    /// Names of all columns: those of the key, the new relation's in its order, those that only the old one has.
    pub names: Vec<String>,
    /// How many of them are the key's.
    pub key: usize,
    /// Whether the server vouches for one row of each key, in both.
    pub unique: bool,
    /// Relations that the larger one of them is read from.
    pub most_chunks: u64,
    /// The columns of both, where they are the same and lie in the same order: attributes of the query's rows.
    same: Option<Vec<pg_sys::FormData_pg_attribute>>,
    /// What queries do not read.
    pub reading: RefCell<Reading>,
    segments: Option<Segments>,
}

impl Tables {
    /// Looks both relations up and locks them against changes of their columns. `plans` must not be refreshed as long as the
    /// result is used.
    pub fn resolve(
        old: pg_sys::Oid,
        new: pg_sys::Oid,
        key: Option<Vec<String>>,
        plans: &Plans,
    ) -> Self {
        let (old, new) = (Source::open(old), Source::open(new));
        let key = match key {
            Some(mut names) => {
                let mut seen = Vec::new();
                names.retain(|name| {
                    !seen.contains(name) && {
                        seen.push(name.clone());
                        true
                    }
                });
                names
            }
            None => key::own(&new.rel, &new.name),
        };
        if key.is_empty() {
            error::empty_key();
        }
        if !new.columns.iter().any(|c| old.has(&c.name)) {
            error::nothing_in_common(&old.name, &new.name);
        }
        for name in &key {
            for source in [&old, &new] {
                if !source.has(name) {
                    error::no_column(&source.name, name);
                }
            }
        }
        let unique = vouch::one_row_each(&old.rel, &key) && vouch::one_row_each(&new.rel, &key);
        let of_new = new.columns.iter().map(|c| &c.name);
        let of_old = old.columns.iter().map(|c| &c.name);
        let rest = of_new.chain(of_old.filter(|name| !new.has(name)));
        let rest = rest.filter(|name| !key.contains(name));
        let names: Vec<String> = key.iter().chain(rest).cloned().collect();
        let mut tables = Tables {
            old: old.table(&names, key.len(), plans),
            new: new.table(&names, key.len(), plans),
            key: key.len(),
            unique,
            names,
            most_chunks: 0,
            same: same_columns(&old, &new),
            reading: RefCell::default(),
            segments: None,
        };
        tables.check_classes(&old, &new);
        let readable = |source: &Source| may_read_all(relation::oid(source.rel.as_ptr()));
        if unique && readable(&old) && readable(&new) {
            let equal = equal_parts(&old.rel, &new.rel);
            let [of_old, of_new] = &equal;
            let origins = [old.origin(of_old), new.origin(of_new)];
            let places = tables.places_in_both(&old, &new);
            tables.segments = Segments::find(origins, places, tables.key);
            tables.reading = Reading::without(equal, tables.segments.as_ref());
        }
        let left = [&old, &new]
            .map(Source::chunks)
            .into_iter()
            .zip(tables.reading.borrow().left_out());
        let left = left.map(|(chunks, out)| chunks.saturating_sub(out.len() as u64));
        tables.most_chunks = left.max().unwrap_or(0);
        tables
    }

    /// One of them.
    pub fn table(&self, side: Side) -> &Table {
        side.pick(&self.old, &self.new)
    }

    /// Chunks that are read by their segments, which the queries leave out once they were planned.
    pub fn by_segments(&self) -> Option<&Segments> {
        let segments = self.segments.as_ref();
        segments.filter(|_| self.reading.borrow().by_segments())
    }

    /// Knows rows by their bytes, where the same bytes are the same values in both.
    pub fn row_bytes(&self) -> Option<RowBytes> {
        self.same.as_ref().map(|same| RowBytes::new(same.iter()))
    }

    /// Where each column lies in the rows of both; `None` where one of them lacks one, or has it in another type.
    fn places_in_both(&self, old: &Source, new: &Source) -> Option<Vec<(usize, usize)>> {
        let both = self.old.places.iter().zip(&self.new.places);
        both.map(|(of_old, of_new)| {
            let (of_old, of_new) = (of_old.as_ref()?.at, of_new.as_ref()?.at);
            let types = [old.columns.get(of_old)?, new.columns.get(of_new)?];
            let [a, b] = types.map(|column| column.attribute.atttypid);
            (a == b).then_some((of_old, of_new))
        })
        .collect()
    }

    fn check_classes(&self, old: &Source, new: &Source) {
        let places = self.old.places.iter().zip(&self.new.places);
        for (i, (name, places)) in self.names.iter().zip(places).enumerate() {
            let (Some(of_old), Some(of_new)) = places else {
                continue;
            };
            if !of_old.form.same_class(&of_new.form) {
                let (old_type, new_type) = (old.type_at(of_old.at), new.type_at(of_new.at));
                let (old, new) = ((&*old.name, &*old_type), (&*new.name, &*new_type));
                error::other_class(name, i < self.key, old, new);
            }
        }
    }
}

/// A column of a relation.
struct Column {
    name: String,
    attribute: pg_sys::FormData_pg_attribute,
}

/// A relation that was opened.
struct Source {
    rel: OpenRel,
    name: String,
    columns: Vec<Column>,
}

impl Source {
    fn open(oid: pg_sys::Oid) -> Self {
        let name = relation::qualified_name(oid);
        let Some(rel) = OpenRel::try_open(oid, pg_sys::AccessShareLock) else {
            gone(&name)
        };
        if !relation::has_rows(relation::form(rel.as_ptr())) {
            error::no_rows(&name);
        }
        let desc = relation::tupdesc(rel.as_ptr());
        let attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
        let columns = attributes
            .filter(|attr| !attr.attisdropped)
            .map(|attr| Column {
                name: relation::attribute_name(attr),
                attribute: *attr,
            })
            .collect();
        Source { rel, name, columns }
    }

    /// A table and all that is read with it.
    fn chunks(&self) -> u64 {
        fn below(oid: pg_sys::Oid) -> u64 {
            1 + relation::children(oid).into_iter().map(below).sum::<u64>()
        }
        below(relation::oid(self.rel.as_ptr()))
    }

    fn origin<'a>(&'a self, left_out: &'a [pg_sys::Oid]) -> Origin<'a> {
        let columns = self.columns.iter();
        Origin {
            rel: &self.rel,
            columns: columns.map(|c| (&*c.name, c.attribute.atttypid)).collect(),
            left_out: left_out.iter().copied().collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    fn type_at(&self, at: usize) -> String {
        let typ = self.columns.get(at).map(|column| column.attribute.atttypid);
        type_name(typ.unwrap_or(pg_sys::InvalidOid))
    }

    fn table(&self, names: &[String], key: usize, plans: &Plans) -> Table {
        let place = |name: &String| {
            let at = self.columns.iter().position(|c| c.name == *name)?;
            let form = plans.form_of(&self.columns.get(at)?.attribute);
            let form =
                form.unwrap_or_else(|typ| error::unsendable(&self.name, name, &type_name(typ)));
            Some(Place { at, form })
        };
        let places: Vec<Option<Place>> = names.iter().map(place).collect();
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|c| relation::quote(&c.name))
            .collect();
        let of_key = places.iter().take(key).flatten();
        let attributes: Vec<_> = self.columns.iter().map(|c| c.attribute).collect();
        Table {
            desc: relation::row_shape(&attributes, 0),
            oid: relation::oid(self.rel.as_ptr()),
            name: self.name.clone(),
            // In the table's own order the executor has nothing to rearrange.
            query: format!("SELECT {} FROM {}", columns.join(", "), self.name),
            width: columns.len(),
            key_width: of_key.map(|place| place.at + 1).max().unwrap_or(0),
            places,
        }
    }
}

/// The columns of both relations, where each has the same names and types in the same order.
fn same_columns(old: &Source, new: &Source) -> Option<Vec<pg_sys::FormData_pg_attribute>> {
    let mut both = old.columns.iter().zip(&new.columns);
    let same = old.columns.len() == new.columns.len()
        && both.all(|(a, b)| a.name == b.name && a.attribute.atttypid == b.attribute.atttypid);
    same.then(|| old.columns.iter().map(|c| c.attribute).collect())
}

fn type_name(typ: pg_sys::Oid) -> String {
    // SAFETY: returns a palloc'd string, for types that there are not too.
    let name = unsafe { CStr::from_ptr(pg_sys::format_type_be(typ)) };
    name.to_string_lossy().into_owned()
}
