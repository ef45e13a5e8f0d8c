//! The options of servers and user mappings.

use super::error;
use crate::am::error::raise;
use crate::pg::function::Args;
use pgrx::pg_sys;
use pgrx::prelude::*;
use varve_core::store::{Place, Scheme, StoreConfig};

/// Options as catalogues keep them: `name=value`.
pub fn pairs(options: &[String]) -> Vec<(&str, &str)> {
    options
        .iter()
        .filter_map(|option| option.split_once('='))
        .collect()
}

fn store_validator(args: &Args) -> pg_sys::Datum {
    let options = args.get::<Vec<String>>(0).unwrap_or_default();
    let catalog = args.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid);
    let pairs = pairs(&options);
    let place = match catalog {
        pg_sys::ForeignServerRelationId => Place::Server,
        pg_sys::UserMappingRelationId => Place::UserMapping,
        _ if pairs.is_empty() => return pg_sys::Datum::null(),
        _ => raise(
            PgSqlErrorCode::ERRCODE_FDW_INVALID_OPTION_NAME,
            "options of stores belong to servers and user mappings".into(),
            None,
            Some("CREATE SERVER ... FOREIGN DATA WRAPPER varve_store OPTIONS (url '...')".into()),
        ),
    };
    if let Err(e) = StoreConfig::check_options(place, pairs.iter().copied()) {
        error::raise(&e);
    }
    if pairs
        .iter()
        .any(|(name, _)| *name == "service_account_path")
    {
        check_files("name a file of the server");
    }
    if place == Place::Server {
        match StoreConfig::from_options(pairs.iter().copied()) {
            Ok(config) if config.url().scheme() == Scheme::File => {
                check_files("keep a store in a directory of the server");
            }
            Ok(_) => {}
            Err(e) => error::raise(&e),
        }
    }
    pg_sys::Datum::null()
}

/// Files of the server's machine are for those who may read and write its files anyway.
fn check_files(what: &str) {
    let may = |role: u32| {
        // SAFETY: a catalogue look-up.
        unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from_u32(role)) }
    };
    if !may(pg_sys::ROLE_PG_READ_SERVER_FILES) || !may(pg_sys::ROLE_PG_WRITE_SERVER_FILES) {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied to {what}"),
            None,
            Some("Only roles with the privileges of pg_read_server_files and pg_write_server_files may.".into()),
        );
    }
}

crate::sql_function!(
    varve_store_validator,
    pg_finfo_varve_store_validator,
    store_validator
);
