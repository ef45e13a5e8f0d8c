//! Where WAL is archived to: the options of the primary store, in shared memory.
//!
//! The archiver has no database to read them from, and a file of them would lie in backups with its credentials. So workers that
//! look into a database publish the options of its primary store; a server that has just started waits for that.

use crate::pg::owner::as_owner;
use crate::pg::spi::read_all;
use pgrx::lwlock::PgLwLock;
use pgrx::{PGRXSharedMemory, pg_guard, pg_sys};

/// Most bytes that options may take.
const MOST: usize = 16 * 1024;

#[derive(Clone, Copy)]
struct Shared {
    /// Grows with each change.
    version: u64,
    /// The database that has the store; none while nothing is published.
    database: pg_sys::Oid,
    len: usize,
    /// Options, `name=value`, with a NUL behind each.
    options: [u8; MOST],
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            version: 0,
            database: pg_sys::InvalidOid,
            len: 0,
            options: [0; MOST],
        }
    }
}

// SAFETY: plain data of fixed size.
unsafe impl PGRXSharedMemory for Shared {}

// SAFETY: no other lock has the name.
static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"varve_archive") };

/// Asks for the memory; called once from `_PG_init`.
#[allow(unexpected_cfgs, reason = "the macro asks for features of pgrx's own")]
pub fn init() {
    pgrx::pg_shmem_init!(SHARED);
}

/// What is published.
pub struct Destination {
    /// Another one where anything has changed.
    pub version: u64,
    /// The options of the store; none while there is none.
    pub options: Option<Vec<String>>,
}

/// What is published now.
pub fn current() -> Destination {
    let shared = SHARED.share();
    let options = (shared.database != pg_sys::InvalidOid).then(|| {
        let bytes = shared.options.get(..shared.len).unwrap_or_default();
        let each = bytes.split(|b| *b == 0).filter(|o| !o.is_empty());
        each.map(|o| String::from_utf8_lossy(o).into_owned())
            .collect()
    });
    Destination {
        version: shared.version,
        options,
    }
}

fn set(database: pg_sys::Oid, bytes: &[u8]) {
    let mut shared = SHARED.exclusive();
    if shared.database == database && shared.options.get(..shared.len) == Some(bytes) {
        return;
    }
    if let Some(place) = shared.options.get_mut(..bytes.len()) {
        place.copy_from_slice(bytes);
        (shared.database, shared.len) = (database, bytes.len());
        shared.version += 1;
    }
}

fn clear(database: pg_sys::Oid) {
    let mut shared = SHARED.exclusive();
    if shared.database == database {
        (shared.database, shared.len) = (pg_sys::InvalidOid, 0);
        shared.version += 1;
    }
}

/// Forgets a store whose database is no more.
pub fn keep_only(databases: &[pg_sys::Oid]) {
    let database = SHARED.share().database;
    if database != pg_sys::InvalidOid && !databases.contains(&database) {
        clear(database);
    }
}

/// Forgets the store of this database, which has none any more.
pub fn withdraw() {
    // SAFETY: reads a variable of the process.
    clear(unsafe { pg_sys::MyDatabaseId });
}

/// The name of this database's store that WAL goes into, if one does.
pub fn here() -> Option<String> {
    found().map(|(name, _)| name)
}

/// Publishes the primary store of this database, with its owner's credentials; the first one by its name, where there are several.
/// That of another database stays, where that was first.
pub fn publish() {
    // SAFETY: reads a variable of the process.
    let here = unsafe { pg_sys::MyDatabaseId };
    let published = SHARED.share().database;
    if published != pg_sys::InvalidOid && published != here {
        return;
    }
    match found() {
        Some((_, options)) => {
            let bytes: Vec<u8> = options
                .iter()
                .flat_map(|option| option.bytes().chain([0]))
                .collect();
            set(here, &bytes);
        }
        None => clear(here),
    }
}

/// The store that WAL goes into, by its name, and its options with its owner's credentials.
fn found() -> Option<(String, Vec<String>)> {
    as_owner(|| {
        read_all(
            "SELECT s.srvname::pg_catalog.text, pg_catalog.array_cat(s.srvoptions, m.umoptions) FROM pg_catalog.pg_foreign_server s \
             JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw \
             LEFT JOIN LATERAL (SELECT u.umoptions FROM pg_catalog.pg_user_mapping u WHERE u.umserver OPERATOR(pg_catalog.=) s.oid \
                 AND u.umuser OPERATOR(pg_catalog.=) ANY (ARRAY[s.srvowner, 0::pg_catalog.oid]) ORDER BY u.umuser DESC LIMIT 1) m ON true \
             WHERE w.fdwname OPERATOR(pg_catalog.=) 'varve_store' \
               AND (NOT EXISTS (SELECT FROM pg_catalog.pg_options_to_table(s.srvoptions) o WHERE o.option_name OPERATOR(pg_catalog.=) 'role' \
                       AND o.option_value OPERATOR(pg_catalog.<>) 'primary')) \
               AND (SELECT a.rolsuper FROM pg_catalog.pg_authid a WHERE a.oid OPERATOR(pg_catalog.=) s.srvowner) \
             ORDER BY s.srvname LIMIT 1",
            &[],
            |tuple| {
                let name: String = tuple.get(1)?.unwrap_or_default();
                let options: Vec<String> = tuple.get(2)?.unwrap_or_default();
                Ok(Some((name, options)))
            },
        )
    })
    .into_iter()
    .next()
}
