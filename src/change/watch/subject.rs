//! The relation that is watched.

use super::checkpoint::Key;
use super::error;
use super::part;
use crate::am::error::gone;
use crate::change::checksums;
use crate::change::diff::{error as diff_error, key};
use crate::change::plan::{Plans, Unsendable};
use crate::pg::memory;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Statement;
use crate::pg::spi::Connection;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A relation, open and locked against changes of its columns.
pub struct Subject {
    /// The relation.
    pub rel: OpenRel,
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
}

impl Subject {
    /// Opens and locks a relation.
    pub fn locked(oid: pg_sys::Oid) -> Self {
        let name = relation::qualified_name(oid);
        let Some(rel) = OpenRel::try_open(oid, pg_sys::AccessShareLock) else {
            gone(&name)
        };
        Subject { rel, oid, name }
    }

    /// As [`Subject::locked`], one that can be watched and whose rows the current user may read, all of them.
    pub fn open(oid: pg_sys::Oid) -> Self {
        let subject = Self::locked(oid);
        let form = relation::form(subject.rel.as_ptr());
        if !relation::has_rows(form) {
            error::no_rows(&subject.name);
        }
        if form.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP {
            error::temporary(&subject.name);
        }
        if !checksums::may_read_all(oid) {
            // SAFETY: a catalogue look-up.
            let secured = unsafe { pg_sys::check_enable_rls(oid, pg_sys::InvalidOid, true) };
            match secured == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
                true => error::row_security(&subject.name),
                false => error::may_not_read(&subject.name),
            }
        }
        subject.check_columns();
        subject
    }

    /// Its rows' shape.
    pub fn desc(&self) -> pg_sys::TupleDesc {
        relation::tupdesc(self.rel.as_ptr())
    }

    /// The key that is named, or its own.
    pub fn key(&self, named: Option<Vec<String>>) -> Key {
        let columns = match named {
            None => key::own(&self.rel, &self.name),
            Some(named) => self.named_key(named),
        };
        let unique = self.vouches_for(&columns);
        Key { columns, unique }
    }

    fn named_key(&self, named: Vec<String>) -> Vec<String> {
        let mut columns: Vec<String> = Vec::new();
        for name in named {
            let desc = self.desc();
            let mut attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
            if !attributes.any(|a| !a.attisdropped && relation::attribute_name(a) == name) {
                error::no_column(&self.name, &name);
            }
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
        if columns.is_empty() {
            error::empty_key();
        }
        columns
    }

    /// Refuses columns whose values cannot be hashed.
    fn check_columns(&self) {
        memory::for_this_call(|| {
            // SAFETY: the current context outlives the plans.
            let plans = unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Refuse) };
            let desc = self.desc();
            let attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
            for attr in attributes.filter(|attr| !attr.attisdropped) {
                if let Err(typ) = plans.form_of(attr) {
                    // SAFETY: the name of a type, in the current memory context.
                    let typ = unsafe { CStr::from_ptr(pg_sys::format_type_be(typ)) };
                    let column = relation::attribute_name(attr);
                    diff_error::unsendable(&self.name, &column, &typ.to_string_lossy());
                }
            }
        });
    }

    /// Whether the server vouches for one row of each key.
    pub fn vouches_for(&self, columns: &[String]) -> bool {
        key::is_unique(&self.rel, columns)
    }

    /// Whether it belongs to the current user.
    pub fn is_own(&self) -> bool {
        // SAFETY: a catalogue look-up.
        unsafe {
            let user = pg_sys::GetUserId();
            pg_sys::object_ownercheck(pg_sys::RelationRelationId, self.oid, user)
        }
    }

    /// Locks all that it is read from, and has the statement see what is committed by then: not every command that others may
    /// be at leaves rows to older snapshots (TRUNCATE, ALTER TABLE). Gives the tables; `None` where it is read by a query.
    pub fn settle(&self, statement: &mut Statement) -> Option<Vec<OpenRel>> {
        let oids = |tables: &Option<Vec<OpenRel>>| {
            let tables = tables.iter().flatten();
            let oids = tables.map(|table| relation::oid(table.as_ptr()));
            oids.collect::<Vec<_>>()
        };
        let mut tables = self.tables();
        loop {
            pgrx::check_for_interrupts!();
            if tables.is_none() {
                // To plan the query locks what it reads.
                let connection = Connection::open();
                drop(part::open_query(&connection, self));
            }
            statement.renew();
            let again = self.tables();
            if again.is_none() == tables.is_none() && oids(&again) == oids(&tables) {
                return again;
            }
            tables = again;
        }
    }

    /// The tables that it is read from, open and locked; `None` where it is read by a query.
    fn tables(&self) -> Option<Vec<OpenRel>> {
        let rel = self.rel.as_ptr();
        checksums::open_plain(rel, &checksums::target(rel))
    }

    /// The query that reads it.
    pub fn query(&self) -> String {
        let desc = self.desc();
        let attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
        let columns: Vec<String> = attributes
            .filter(|attr| !attr.attisdropped)
            .map(|attr| relation::quote(&relation::attribute_name(attr)))
            .collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.name)
    }
}
