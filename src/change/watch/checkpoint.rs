//! Checkpoints: what they are known by, whose they are, and what columns they have.

use super::error;
use super::shape;
use super::subject::Subject;
use crate::change::plan::{Plans, Unsendable};
use crate::pg::lock::Tag;
use crate::pg::owner::as_owner;
use crate::pg::snapshot::{self, Registered};
use crate::pg::{memory, spi};
use pgrx::pg_sys;
use std::ffi::CStr;
use varve_core::change::checkpoint::{Attribute, Chunk, attributes_from_bytes};
use xxhash_rust::xxh3::xxh3_64;

/// The key by which rows are known.
#[derive(Clone)]
pub struct Key {
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether the server vouched for one row of each when the checkpoint was taken.
    pub unique: bool,
}

/// A checkpoint.
pub struct Checkpoint {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: pg_sys::Oid,
    /// Its key.
    pub key: Key,
    /// The relation's columns.
    pub columns: Vec<Attribute>,
    /// Transactions before it had ended when the checkpoint was taken.
    pub horizon: u64,
    /// How often it has moved.
    version: i64,
}

/// A chunk of a checkpoint.
pub struct Remembered {
    /// The number of what is remembered.
    pub number: i64,
    /// The chunk.
    pub chunk: pg_sys::Oid,
    /// The table of its segments, if it had any.
    pub segments: pg_sys::Oid,
    /// What is remembered.
    pub state: Chunk,
}

/// Refuses to go on where nothing can be written.
pub fn writes(what: &CStr) {
    // SAFETY: raises an error with the name of the command.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(what.as_ptr());
        pg_sys::PreventCommandDuringRecovery(what.as_ptr());
    }
}

/// Keeps others from a checkpoint to the end of the transaction: from all of it, or from moving it. It need not be there.
pub fn lock(relation: pg_sys::Oid, name: &str, alone: bool) {
    let what = 0x8000 | xxh3_64(name.as_bytes()) as u16;
    let mode = match alone {
        true => pg_sys::ExclusiveLock,
        false => pg_sys::RowShareLock,
    };
    Tag::of_table(relation, what).acquire(mode);
}

impl Checkpoint {
    /// The checkpoint of a name, as the active snapshot sees it. The caller holds its [`lock`].
    pub fn find(relation: pg_sys::Oid, name: &str) -> Option<Self> {
        let found = Self::read(relation, name);
        // SAFETY: of the running transaction.
        let fixed = unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 };
        if fixed {
            let latest = Registered::latest();
            let now = snapshot::with_active(&latest, || Self::read(relation, name));
            let version = |found: &Option<Self>| found.as_ref().map(|c| (c.id, c.version));
            if version(&found) != version(&now) {
                error::moved(name, &crate::pg::relation::qualified_name(relation));
            }
        }
        found
    }

    fn read(relation: pg_sys::Oid, name: &str) -> Option<Self> {
        let found = as_owner(|| {
            spi::read_all(
                "SELECT id, owner, key::pg_catalog.text[], is_unique, columns, horizon, version FROM varve.checkpoint \
                 WHERE relation OPERATOR(pg_catalog.=) $1 AND checkpoint OPERATOR(pg_catalog.=) $2::pg_catalog.name",
                &[relation.into(), name.into()],
                |row| {
                    let columns = row.get::<Vec<u8>>(5)?.unwrap_or_default();
                    Ok(Some(Checkpoint {
                        id: row.get(1)?.unwrap_or_default(),
                        name: name.to_string(),
                        owner: row.get(2)?.unwrap_or(pg_sys::InvalidOid),
                        key: Key {
                            columns: row.get(3)?.unwrap_or_default(),
                            unique: row.get(4)?.unwrap_or_default(),
                        },
                        columns: attributes_from_bytes(&columns)
                            .unwrap_or_else(|e| error::damaged(&e)),
                        horizon: row.get::<i64>(6)?.unwrap_or_default() as u64,
                        version: row.get(7)?.unwrap_or_default(),
                    }))
                },
            )
        });
        found.into_iter().next()
    }

    /// Raises an error for whom it does not belong to.
    pub fn check_owner(&self, relation: &str) {
        // SAFETY: catalogue look-ups; the name is NULL for a role that is gone.
        unsafe {
            if !pg_sys::has_privs_of_role(pg_sys::GetUserId(), self.owner) {
                let owner = pg_sys::GetUserNameFromId(self.owner, true);
                let owner = match owner.is_null() {
                    true => "a role that was dropped".to_string(),
                    false => format!("role {}", CStr::from_ptr(owner).to_string_lossy()),
                };
                error::not_yours(&self.name, relation, &owner);
            }
        }
    }

    /// Raises an error where a column that the checkpoint has is not any more what it was.
    pub fn check_columns(&self, subject: &Subject) {
        memory::for_this_call(|| {
            // SAFETY: the current context outlives the plans.
            let plans = unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Refuse) };
            if let Some((column, what)) = shape::lacking(&self.columns, subject.desc(), &plans) {
                error::altered(&self.name, &subject.name, &column, what);
            }
        });
    }

    /// What it remembers of its chunks, as the active snapshot sees it.
    pub fn chunks(&self) -> Vec<Remembered> {
        as_owner(|| {
            spi::read_all(
                "SELECT id, chunk, segments, state FROM varve.checkpoint_chunk WHERE checkpoint OPERATOR(pg_catalog.=) $1 ORDER BY id",
                &[self.id.into()],
                |row| {
                    let state = row.get::<Vec<u8>>(4)?.unwrap_or_default();
                    Ok(Some(Remembered {
                        number: row.get(1)?.unwrap_or_default(),
                        chunk: row.get(2)?.unwrap_or(pg_sys::InvalidOid),
                        segments: row.get(3)?.unwrap_or(pg_sys::InvalidOid),
                        state: Chunk::from_bytes(&state).unwrap_or_else(|e| error::damaged(&e)),
                    }))
                },
            )
        })
    }
}
