//! Columns as a checkpoint keeps them, and what has become of them since.

use super::error::damaged;
use super::value::{self, Layout};
use crate::change::plan::Plans;
use crate::pg::ffi::AttrMissing;
use crate::pg::relation;
use pgrx::pg_sys;
use std::ffi::CStr;
use varve_core::change::checkpoint::Attribute;

/// The columns of a row shape.
pub fn keep(desc: pg_sys::TupleDesc) -> Vec<Attribute> {
    let keep = |place: usize| {
        let attr = relation::attribute(desc, place);
        // SAFETY: a name ends with a NUL.
        let name = unsafe { CStr::from_ptr(attr.attname.data.as_ptr()) };
        Attribute {
            name: name.to_bytes().to_vec(),
            typ: attr.atttypid.to_u32(),
            typmod: attr.atttypmod,
            collation: attr.attcollation.to_u32(),
            len: attr.attlen,
            by_value: attr.attbyval,
            align: attr.attalign as u8,
            storage: attr.attstorage as u8,
            dropped: attr.attisdropped,
            missing: missing(desc, place),
        }
    };
    (0..relation::natts(desc)).map(keep).collect()
}

/// The value of a column in rows from before it.
fn missing(desc: pg_sys::TupleDesc, place: usize) -> Option<Vec<u8>> {
    let attr = relation::attribute(desc, place);
    if attr.attisdropped || !attr.atthasmissing {
        return None;
    }
    let mut null = true;
    let mut bytes = Vec::new();
    // SAFETY: an attribute of the shape, and its value.
    unsafe {
        let value = pg_sys::getmissingattr(desc, place as i32 + 1, &mut null);
        if null {
            return None;
        }
        value::put(Layout::of(attr), Some(value), &mut bytes);
    }
    Some(bytes)
}

/// A row shape of such columns, in the current memory context.
pub fn desc(attributes: &[Attribute]) -> pg_sys::TupleDesc {
    // SAFETY: a row shape of our own, whose attributes and missing values are all filled in.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc(attributes.len() as i32);
        let mut absent: Vec<AttrMissing> = Vec::new();
        for (i, kept) in attributes.iter().enumerate() {
            let mut attr = pg_sys::FormData_pg_attribute {
                atttypid: pg_sys::Oid::from_u32(kept.typ),
                attlen: kept.len,
                attnum: i as i16 + 1,
                attcacheoff: -1,
                atttypmod: kept.typmod,
                attbyval: kept.by_value,
                attalign: kept.align as std::ffi::c_char,
                attstorage: kept.storage as std::ffi::c_char,
                attisdropped: kept.dropped,
                attislocal: true,
                attcollation: pg_sys::Oid::from_u32(kept.collation),
                ..Default::default()
            };
            // The last byte stays a NUL.
            let last = attr.attname.data.len() - 1;
            for (to, from) in attr.attname.data.iter_mut().take(last).zip(&kept.name) {
                *to = *from as std::ffi::c_char;
            }
            let mut missing = AttrMissing {
                am_present: false,
                am_value: pg_sys::Datum::null(),
            };
            if let Some(bytes) = &kept.missing
                && let Some(value) = value::take(Layout::of(&attr), &mut bytes.as_slice())
            {
                missing.am_present = true;
                missing.am_value = value;
            }
            attr.atthasmissing = missing.am_present;
            check_layout(kept);
            absent.push(missing);
            *(*desc).attrs.as_mut_ptr().add(i) = attr;
        }
        if absent.iter().any(|missing| missing.am_present) {
            let size = absent.len() * size_of::<AttrMissing>();
            let list = pg_sys::palloc0(size).cast::<AttrMissing>();
            std::ptr::copy_nonoverlapping(absent.as_ptr(), list, absent.len());
            let constr = pg_sys::palloc0(size_of::<pg_sys::TupleConstr>());
            (*desc).constr = constr.cast();
            (*(*desc).constr).missing = list.cast();
        }
        desc
    }
}

/// Whether a type is there (still).
fn is_type(typ: u32) -> bool {
    let none = pg_sys::Datum::null();
    let key = pg_sys::Datum::from(pg_sys::Oid::from_u32(typ));
    let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
    // SAFETY: a look-up of a type that may be gone.
    unsafe { pg_sys::SearchSysCacheExists(cache, key, none, none, none) }
}

/// Refuses a column whose values would not lie as those of its type do.
fn check_layout(kept: &Attribute) {
    if kept.dropped || !is_type(kept.typ) {
        return;
    }
    let (mut len, mut by_value) = (0, false);
    // SAFETY: a look-up of a type that there is.
    unsafe {
        pg_sys::get_typlenbyval(pg_sys::Oid::from_u32(kept.typ), &mut len, &mut by_value);
    }
    if (len, by_value) != (kept.len, kept.by_value) {
        damaged(&"a column's values are not those of its type");
    }
}

/// Whether a column has a value of the class that it had.
fn same_class(kept: &Attribute, attr: &pg_sys::FormData_pg_attribute, plans: &Plans) -> bool {
    if kept.typ == attr.atttypid.to_u32() {
        return true;
    }
    let there = is_type(kept.typ);
    let was = there
        .then(|| plans.form(pg_sys::Oid::from_u32(kept.typ)).ok())
        .flatten();
    match (was, plans.form_of(attr)) {
        (Some(was), Ok(now)) => was.same_class(&now),
        _ => false,
    }
}

/// A column that a relation does not have any more as it was, and what has become of it.
pub fn lacking(
    kept: &[Attribute],
    desc: pg_sys::TupleDesc,
    plans: &Plans,
) -> Option<(String, &'static str)> {
    let now: Vec<_> = (0..relation::natts(desc))
        .map(|i| relation::attribute(desc, i))
        .filter(|attr| !attr.attisdropped)
        .collect();
    let there = kept.iter().filter(|attribute| !attribute.dropped);
    for attribute in there {
        let what = match now
            .iter()
            .find(|attr| Plans::raw_name(attr) == attribute.name)
        {
            None => "was dropped or renamed",
            Some(attr) if !same_class(attribute, attr, plans) => {
                "has a type whose values are others now"
            }
            Some(_) => continue,
        };
        let name = String::from_utf8_lossy(&attribute.name).into_owned();
        return Some((name, what));
    }
    None
}

/// Whether values that lie as they did surely say the same: to `character` they may lose blanks without being written anew.
fn same_values(kept: &Attribute, attr: &pg_sys::FormData_pg_attribute) -> bool {
    let texts = [pg_sys::TEXTOID, pg_sys::VARCHAROID];
    let was = pg_sys::Oid::from_u32(kept.typ);
    was == attr.atttypid || texts.contains(&was) && texts.contains(&attr.atttypid)
}

/// Whether rows that were stored under these columns say the same under a row shape: each column is where it was, with the same name
/// and class, and those that came later are NULL in them.
pub fn still_says(kept: &[Attribute], desc: pg_sys::TupleDesc) -> bool {
    let later = kept.len()..relation::natts(desc);
    let same = |place: usize, attribute: &Attribute| {
        let attr = relation::attribute(desc, place);
        match attribute.dropped {
            true => attr.attisdropped,
            false => {
                !attr.attisdropped
                    && Plans::raw_name(attr) == attribute.name
                    && same_values(attribute, attr)
                    && (attr.atthasmissing || attribute.missing.is_none())
            }
        }
    };
    kept.len() <= relation::natts(desc)
        && kept.iter().enumerate().all(|(i, kept)| same(i, kept))
        && later
            .map(|i| relation::attribute(desc, i))
            .all(|attr| attr.attisdropped || !attr.atthasmissing)
}
