//! Column statistics of a chunk that is about to be frozen.
//!
//! The swap of storage leaves a chunk's statistics and PostgreSQL's count of changed rows as they are. Where there are no
//! statistics, or autovacuum would analyse the chunk anyhow, that is done first: a chunk at rest may not change again, and
//! nothing would make up for it. It happens before the exclusive lock is asked for, so nobody waits for it.

use crate::pg::guard;
use crate::pg::relation::{self, OpenRel};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::CStr;

/// Analyses a chunk where that is due. The caller holds SHARE UPDATE EXCLUSIVE and owns the chunk.
pub fn refresh(oid: pg_sys::Oid) {
    let table = OpenRel::table(oid, pg_sys::ShareUpdateExclusiveLock);
    let due = !has_statistics(table.as_ptr()) || changed(oid) > threshold(table.as_ptr());
    drop(table);
    if !due {
        return;
    }
    // Statistics can be had later, and a chunk whose expressions have none (they divide by zero, say) is to be frozen, too.
    let passed_over = |code| {
        !matches!(
            code,
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
        )
    };
    if let Err(reason) = guard::attempt(|| analyze(oid), passed_over) {
        pgrx::ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "{} is frozen without fresh statistics",
                relation::qualified_name(oid)
            ),
            format!("ANALYZE failed: {reason}")
        );
    }
}

/// As the command, within our transaction. Where that fails later, the statistics go with it, and PostgreSQL's count of
/// changes since is taken back nevertheless, as with the command.
fn analyze(oid: pg_sys::Oid) {
    // SAFETY: as ANALYZE does within a transaction; the parameters outlive the call.
    unsafe {
        let mut params = pg_sys::VacuumParams {
            options: pg_sys::VACOPT_ANALYZE,
            log_min_duration: -1,
            ..Default::default()
        };
        let ring = pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_VACUUM);
        let none = std::ptr::null_mut();
        pg_sys::analyze_rel(oid, std::ptr::null_mut(), &mut params, none, true, ring);
        pg_sys::FreeAccessStrategy(ring);
    }
}

/// Whether any column has statistics, or none is to have them.
fn has_statistics(rel: pg_sys::Relation) -> bool {
    let desc = relation::tupdesc(rel);
    let mut columns = (0..relation::natts(desc))
        .map(|i| relation::attribute(desc, i))
        .filter(|attr| !attr.attisdropped)
        .peekable();
    columns.peek().is_none()
        || columns.any(|attr| {
            // SAFETY: a syscache look-up by relation, attribute and whether heirs count.
            unsafe {
                pg_sys::SearchSysCacheExists(
                    pg_sys::SysCacheIdentifier::STATRELATTINH as i32,
                    pg_sys::Datum::from(relation::oid(rel)),
                    pg_sys::Datum::from(attr.attnum),
                    pg_sys::Datum::from(false),
                    pg_sys::Datum::from(0usize),
                )
            }
        })
}

/// Rows that were changed since the chunk was analysed last, those included that this session has not reported yet.
fn changed(oid: pg_sys::Oid) -> f64 {
    // SAFETY: both return NULL, or a copy in the current memory context.
    unsafe {
        let reported = pg_sys::pgstat_fetch_stat_tabentry_ext(false, oid);
        let reported = reported.as_ref().map_or(0, |r| r.mod_since_analyze);
        let own = pg_sys::find_tabstat_entry(oid);
        let own = own.as_ref().map_or(0, |o| {
            let c = &o.counts;
            c.tuples_inserted + c.tuples_updated + c.tuples_deleted
        });
        (reported + own) as f64
    }
}

/// As many changed rows as make autovacuum analyse a table.
fn threshold(rel: pg_sys::Relation) -> f64 {
    // SAFETY: the options of an ordinary table are of that shape.
    let options = unsafe { (*rel).rd_options.cast::<pg_sys::StdRdOptions>().as_ref() };
    let own = options.map(|o| &o.autovacuum);
    let base = own
        .map(|o| f64::from(o.analyze_threshold))
        .filter(|v| *v >= 0.0)
        .unwrap_or_else(|| setting(c"autovacuum_analyze_threshold"));
    let factor = own
        .map(|o| o.analyze_scale_factor)
        .filter(|v| *v >= 0.0)
        .unwrap_or_else(|| setting(c"autovacuum_analyze_scale_factor"));
    base + factor * f64::from(relation::form(rel).reltuples.max(0.0))
}

/// A number among the server's settings.
fn setting(name: &CStr) -> f64 {
    // SAFETY: a setting of the server's; its text lives until the next call.
    unsafe {
        let text = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if text.is_null() {
            return 0.0;
        }
        CStr::from_ptr(text)
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    }
}
