//! A store that the current user may use.

use super::{error, validator};
use crate::am::error::raise;
use crate::pg::guard;
use crate::pg::owner::as_owner;
use crate::pg::spi::read_all;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;
use varve_core::store::{Role, Scheme, Store, StoreConfig};
use varve_core::wait::Stopped;

/// Looks for interrupts while a store is waited for; they unwind.
pub fn interrupts() -> Result<(), Stopped> {
    pgrx::check_for_interrupts!();
    Ok(())
}

struct Server {
    oid: pg_sys::Oid,
    owner: pg_sys::Oid,
    options: Vec<String>,
}

fn server(name: &str) -> Option<Server> {
    as_owner(|| {
        read_all(
            "SELECT s.oid, s.srvowner, s.srvoptions FROM pg_catalog.pg_foreign_server s \
             JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw \
             WHERE w.fdwname OPERATOR(pg_catalog.=) 'varve_store' AND s.srvname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
            &[name.into()],
            |tuple| {
                Ok(Some(Server {
                    oid: tuple.get(1)?.unwrap_or(pg_sys::InvalidOid),
                    owner: tuple.get(2)?.unwrap_or(pg_sys::InvalidOid),
                    options: tuple.get(3)?.unwrap_or_default(),
                }))
            },
        )
    })
    .pop()
}

/// Options of a user's mapping, else of that for everybody.
fn mapping(server: pg_sys::Oid, user: pg_sys::Oid) -> Vec<String> {
    as_owner(|| {
        read_all(
            "SELECT m.umoptions FROM pg_catalog.pg_user_mapping m WHERE m.umserver OPERATOR(pg_catalog.=) $1 \
             AND m.umuser OPERATOR(pg_catalog.=) ANY (ARRAY[$2, 0::pg_catalog.oid]) ORDER BY m.umuser DESC LIMIT 1",
            &[server.into(), user.into()],
            |tuple| Ok(Some(tuple.get::<Vec<String>>(1)?.unwrap_or_default())),
        )
    })
    .pop()
    .unwrap_or_default()
}

/// Whether a user mapping has all that a store of the kind asks for, so that nothing of the environment's is used.
fn has_credentials(scheme: Scheme, mapping: &[String]) -> bool {
    let options = validator::pairs(mapping);
    let has = |name: &str| options.iter().any(|(n, _)| *n == name);
    match scheme {
        Scheme::File => true,
        Scheme::S3 => has("access_key_id") && has("secret_access_key"),
        Scheme::Gcs => has("service_account_key"),
        Scheme::Azure => has("account_name") && (has("access_key") || has("sas_token")),
    }
}

/// Opens a store of that name for the current user, who needs USAGE on the server. Nothing is asked of it yet.
pub fn open(name: &str) -> Store {
    let Some(server) = server(name) else {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("store \"{name}\" does not exist"),
            None,
            Some("SELECT name FROM varve.stores lists the stores; CREATE SERVER ... FOREIGN DATA WRAPPER varve_store makes one.".into()),
        )
    };
    // SAFETY: catalogue look-ups.
    let (user, may) = unsafe {
        let user = pg_sys::GetUserId();
        let class = pg_sys::ForeignServerRelationId;
        let mode = u64::from(pg_sys::ACL_USAGE);
        let result = pg_sys::object_aclcheck(class, server.oid, user, mode);
        (user, result == pg_sys::AclResult::ACLCHECK_OK)
    };
    if !may {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for store \"{name}\""),
            None,
            Some(format!(
                "GRANT USAGE ON FOREIGN SERVER \"{name}\" TO ... lets a role use it."
            )),
        );
    }
    let credentials = mapping(server.oid, user);
    let options = validator::pairs(&server.options)
        .into_iter()
        .chain(validator::pairs(&credentials));
    let config = match StoreConfig::from_options(options) {
        Ok(config) => config,
        Err(e) => error::raise(&e),
    };
    // Credentials of the server's environment are those of its administrators.
    // SAFETY: a catalogue look-up.
    let trusted = unsafe { pg_sys::superuser_arg(server.owner) };
    if !trusted && !has_credentials(config.url().scheme(), &credentials) {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("store \"{name}\" has no credentials"),
            Some("Those of the server's environment serve stores of superusers only.".into()),
            Some(format!(
                "CREATE USER MAPPING FOR CURRENT_USER SERVER \"{name}\" OPTIONS (...) gives some."
            )),
        );
    }
    match Store::open(&config) {
        Ok(store) => store,
        Err(e) => error::raise(&e),
    }
}

/// Whether a store is a superuser's, or the current user is one: then nobody gains rights by what lies in it.
pub fn is_trusted(name: &str) -> bool {
    // SAFETY: catalogue look-ups.
    unsafe { pg_sys::superuser() || server(name).is_some_and(|s| pg_sys::superuser_arg(s.owner)) }
}

/// Names of the stores that the current user may use, those of a role or all: his own and those of superusers. Others may
/// have made theirs to get at what he keeps in them; he can name them.
fn usable(role: Option<Role>) -> Vec<String> {
    // SAFETY: reads a variable of the session.
    let user = unsafe { pg_sys::GetUserId() };
    let found = as_owner(|| {
        read_all(
            "SELECT s.srvname::pg_catalog.text, s.srvoptions FROM pg_catalog.pg_foreign_server s \
             JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw \
             WHERE w.fdwname OPERATOR(pg_catalog.=) 'varve_store' AND pg_catalog.has_server_privilege($1, s.oid, 'USAGE') \
               AND (s.srvowner OPERATOR(pg_catalog.=) $1 OR (SELECT a.rolsuper FROM pg_catalog.pg_authid a WHERE a.oid OPERATOR(pg_catalog.=) s.srvowner)) \
             ORDER BY s.srvname",
            &[user.into()],
            |tuple| {
                let name: String = tuple.get(1)?.unwrap_or_default();
                let options: Vec<String> = tuple.get(2)?.unwrap_or_default();
                Ok(Some((name, options)))
            },
        )
    });
    let is_of_role = |options: &[String]| {
        let config = StoreConfig::from_options(validator::pairs(options));
        config.is_ok_and(|c| role.is_none_or(|role| c.role() == role))
    };
    let of_role = found.into_iter().filter(|(_, options)| is_of_role(options));
    of_role.map(|(name, _)| name).collect()
}

/// Names of the stores of a role that the current user may use.
pub fn of_role(role: Role) -> Vec<String> {
    usable(Some(role))
}

/// All stores that the current user may use, and why one cannot be opened.
pub fn all_usable() -> Vec<(String, Result<Store, String>)> {
    usable(None)
        .into_iter()
        .map(|name| {
            let opened = guard::attempt(AssertUnwindSafe(|| open(&name)), |_| true);
            (name, opened)
        })
        .collect()
}
