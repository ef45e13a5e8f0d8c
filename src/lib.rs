//! varve: time-series tables that come in fast, lie small, and are never wrong.
//!
//! - [`pg`]: the fence around PostgreSQL.
//! - [`am`]: the table access method.
//! - [`scan`]: reading frozen chunks by columns.
//! - [`ingest`] is upsert.
//! - [`jobs`]: SQL that runs by itself.
//! - [`stores`]: object stores, as SQL knows them.
//! - [`tier`]: freezing, thawing, verifying; the functions about tiers.
//! - [`progress`]: long work, as it goes.
//! - [`backup`]: backups, as SQL knows them.
//! - [`snapshot`]: snapshots of single tables.
//! - [`change`]: checksums of rows, and what has changed between two relations.
//! - [`settings`], [`hooks`]: the settings `varve.*` and where we sit in the server.
#![allow(unsafe_code)]

use pgrx::prelude::*;

// `#[pg_guard]` on our own declarations of server functions expands to calls of `crate::ffi`.
use pgrx::pg_sys::submodules::ffi;

mod am;
mod backup;
mod change;
mod hooks;
mod ingest;
mod jobs;
mod pg;
mod progress;
mod scan;
#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::unwrap_used)]
mod server_tests;
mod settings;
mod snapshot;
mod stores;
mod tier;

::pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/catalog.sql", name = "catalog", bootstrap);
pgrx::extension_sql_file!(
    "../sql/functions.sql",
    name = "functions",
    requires = ["catalog"]
);
pgrx::extension_sql_file!(
    "../sql/ingest.sql",
    name = "ingest",
    requires = ["functions"]
);
pgrx::extension_sql_file!("../sql/jobs.sql", name = "jobs", requires = ["ingest"]);
pgrx::extension_sql_file!("../sql/policy.sql", name = "policy", requires = ["jobs"]);
pgrx::extension_sql_file!("../sql/stores.sql", name = "stores", requires = ["policy"]);
pgrx::extension_sql_file!(
    "../sql/snapshot.sql",
    name = "snapshot",
    requires = ["stores"]
);
pgrx::extension_sql_file!(
    "../sql/backup.sql",
    name = "backup",
    requires = ["snapshot"]
);
pgrx::extension_sql_file!("../sql/drill.sql", name = "drill", requires = ["backup"]);
pgrx::extension_sql_file!("../sql/change.sql", name = "change", requires = ["drill"]);
pgrx::extension_sql_file!("../sql/backup_policy.sql", name = "backup_policy", finalize);

/// Called when the library is loaded, by `shared_preload_libraries` or by the first function that is called.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: a flag of the postmaster.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        // An error's report would carry a backtrace in its detail where the environment asks for one.
        // SAFETY: the postmaster has one thread.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
        settings::register();
        hooks::install();
        jobs::init();
        progress::init();
        backup::destination::init();
        scan::plan::install();
        scan::agg::plan::install();
        PRELOADED.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

static PRELOADED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Raises an error unless the library was preloaded: without its hooks, frozen rows would go unseen.
pub fn require_preload() {
    if !PRELOADED.load(std::sync::atomic::Ordering::Relaxed) {
        am::error::raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "varve must be loaded via shared_preload_libraries".into(),
            None,
            Some("Add it in postgresql.conf (shared_preload_libraries = 'timescaledb, varve') and restart the server.".into()),
        );
    }
}

/// `varve.require_preload()`: fails unless the library was preloaded.
fn check_preload(_args: &pg::function::Args) -> pg_sys::Datum {
    require_preload();
    pg_sys::Datum::null()
}

sql_function!(
    varve_require_preload,
    pg_finfo_varve_require_preload,
    check_preload
);

/// Set-up of the server that `cargo pgrx test` runs.
#[cfg(test)]
pub mod pg_test {
    /// Called once before the first test.
    pub fn setup(_options: Vec<&str>) {}

    /// Settings of the test server.
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![
            "shared_preload_libraries = 'timescaledb,varve'",
            "timescaledb.telemetry_level = off",
        ]
    }
}
