//! `varve.set_tier`: one chunk from tier to tier.

use super::level::Tier;
use super::{catalog, freeze, lock, rewrite, statistics};
use crate::am::error::{gone, null_argument, raise};
use crate::am::{companion, directory, unique};
use crate::pg::function::Args;
use crate::pg::relation::{self, OpenRel};
use crate::pg::{snapshot, spi};
use pgrx::pg_sys;
use pgrx::prelude::*;
use varve_core::paged::Effort;

/// What a table must be to have tiers.
pub fn check_table(oid: pg_sys::Oid) {
    check_kind(
        oid,
        "varve manages hypertables, partitioned tables and ordinary tables.",
    );
    // SAFETY: reads the session's state.
    check_owner(oid, unsafe { pg_sys::GetUserId() });
    check_columnstore(oid, &relation::qualified_name(oid));
}

/// Refuses a table that a role does not own.
pub fn check_owner(oid: pg_sys::Oid, role: pg_sys::Oid) {
    // SAFETY: a syscache look-up.
    if !unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, oid, role) } {
        let name = relation::qualified_name(oid);
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {name}"),
            None,
            Some("Ask its owner, or a member of the owning role.".into()),
        );
    }
}

/// Refuses what is not a table, or is a system catalog.
pub fn check_kind(oid: pg_sys::Oid, hint: &str) {
    let name = relation::qualified_name(oid);
    // SAFETY: syscache look-ups.
    unsafe {
        let kind = pg_sys::get_rel_relkind(oid) as u8;
        if kind == 0 {
            gone(&name);
        }
        if kind != pg_sys::RELKIND_RELATION && kind != pg_sys::RELKIND_PARTITIONED_TABLE {
            raise(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("{name} is not a table"),
                None,
                Some(hint.into()),
            );
        }
        let extension = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, oid);
        let of_ours = extension != pg_sys::InvalidOid
            && [c"varve", c"timescaledb"]
                .iter()
                .any(|name| pg_sys::get_extension_oid(name.as_ptr(), true) == extension);
        if pg_sys::IsCatalogRelationOid(oid) || of_ours {
            raise(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("{name} is a system catalog"),
                None,
                Some("varve is for users' tables.".into()),
            );
        }
    }
}

/// Whether TimescaleDB's own columnstore has compressed one of these tables.
pub fn in_columnstore(oids: Vec<pg_sys::Oid>) -> bool {
    crate::pg::owner::as_owner(|| {
        spi::read_one::<bool>(
            "SELECT EXISTS (SELECT FROM _timescaledb_catalog.hypertable h \
               JOIN pg_catalog.pg_class c ON c.relname OPERATOR(pg_catalog.=) h.table_name \
               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) h.schema_name \
               WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1) AND (h.compression_state OPERATOR(pg_catalog.=) 2)) \
             OR EXISTS (SELECT FROM _timescaledb_catalog.chunk h \
               JOIN pg_catalog.pg_class c ON c.relname OPERATOR(pg_catalog.=) h.table_name \
               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) h.schema_name \
               WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1) AND h.compressed_chunk_id IS NOT NULL)",
            &[oids.into()],
        )
    }).unwrap_or(false)
}

/// Refuses what TimescaleDB's own columnstore has compressed.
pub fn check_columnstore(oid: pg_sys::Oid, name: &str) {
    if in_columnstore(vec![oid]) {
        raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{name} is compressed by TimescaleDB's own columnstore"),
            None,
            Some("Decompress it there first (decompress_chunk).".into()),
        );
    }
}

/// Refuses what a frozen chunk can't keep.
fn check_freezable(oid: pg_sys::Oid) {
    let name = relation::qualified_name(oid);
    // The strongest lock first: whoever waits for it holds nothing that its holder may wait for.
    let table =
        OpenRel::try_open(oid, pg_sys::ShareUpdateExclusiveLock).unwrap_or_else(|| gone(&name));
    let rel = table.as_ptr();
    let form = relation::form(rel);
    if form.relam != relation::HEAP_AM && Some(form.relam) != relation::varve_am() {
        raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{name} uses another table access method"),
            None,
            Some("Only tables of heap or varve have tiers.".into()),
        );
    }
    // SAFETY: pg_class and pg_index rows of open relations.
    let temporary_of_other = form.relpersistence == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char
        && unsafe { !(*rel).rd_islocaltemp };
    if temporary_of_other {
        raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{name} is a temporary table of another session"),
            None,
            Some("Only the session that made it can freeze it.".into()),
        );
    }
    for index in unique::index_oids(rel) {
        let index = OpenRel::index(index, pg_sys::AccessShareLock);
        // SAFETY: as above.
        if unsafe { (*(*index.as_ptr()).rd_index).indisexclusion } {
            raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("cannot freeze {name}, which has an exclusion constraint"),
                Some(format!(
                    "Constraint \"{}\" is checked through its index, which holds no frozen rows.",
                    relation::name(index.as_ptr())
                )),
                Some("Drop the constraint, or leave the chunk hot.".into()),
            );
        }
    }
}

fn is_leaf(oid: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up.
    let kind = unsafe { pg_sys::get_rel_relkind(oid) } as u8;
    kind == pg_sys::RELKIND_RELATION && relation::children(oid).is_empty()
}

fn is_hypertable(oid: pg_sys::Oid) -> bool {
    spi::read_one::<bool>(
        "SELECT EXISTS (SELECT FROM _timescaledb_catalog.hypertable h \
           JOIN pg_catalog.pg_class c ON c.relname OPERATOR(pg_catalog.=) h.table_name \
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) h.schema_name \
           WHERE c.oid OPERATOR(pg_catalog.=) $1)",
        &[oid.into()],
    ).unwrap_or(false)
}

/// Codecs that may be asked for one day; the tiers that there are choose each column's themselves.
const CODECS: [&str; 7] = ["auto", "none", "lz4", "zstd", "gzip", "zlib", "lzma"];

fn check_codec(codec: &str) {
    if codec == "auto" {
        return;
    }
    if CODECS.contains(&codec) {
        raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("codec \"{codec}\" is not supported for this tier"),
            None,
            Some("The warm and the cold tier choose each column's codec themselves: codec => 'auto'.".into()),
        );
    }
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("unknown codec \"{codec}\""),
        None,
        Some(format!("Codecs are {}.", CODECS.join(", "))),
    )
}

/// The tiers that there are, for hints.
const TIERS: &str = "Tiers are hot, warm and cold.";

fn check_tier(tier: &str) -> Tier {
    match tier {
        "archived" => raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("tier \"{tier}\" is not supported by this version of varve"),
            None,
            Some(TIERS.into()),
        ),
        _ => Tier::from_name(tier).unwrap_or_else(|| {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("unknown tier \"{tier}\""),
                None,
                Some(TIERS.into()),
            )
        }),
    }
}

/// `varve.check_tiers(target, tier)`: fails where `varve.set_tiers` could not begin.
fn check_tiers(args: &Args) -> pg_sys::Datum {
    super::check_writable(c"varve.set_tiers()");
    check_table(
        args.get::<pg_sys::Oid>(0)
            .unwrap_or_else(|| null_argument("the table")),
    );
    check_tier(
        args.get::<&str>(1)
            .unwrap_or_else(|| null_argument("the tier")),
    );
    pg_sys::Datum::null()
}

/// Brings a chunk into a tier; returns the tier. Moving to the tier it has is a no-op, but that new rows of a frozen
/// chunk are frozen too.
fn set_tier(args: &Args) -> pg_sys::Datum {
    super::check_writable(c"varve.set_tier()");
    let oid = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the chunk"));
    let tier = args
        .get::<&str>(1)
        .unwrap_or_else(|| null_argument("the tier"));
    check_table(oid);
    if !is_leaf(oid) || is_hypertable(oid) {
        raise(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is not a chunk", relation::qualified_name(oid)),
            Some("Tiers are set chunk by chunk.".into()),
            Some("Use CALL varve.set_tiers(table, tier), or SELECT varve.set_tier(c, tier) FROM show_chunks(table) c.".into()),
        );
    }
    if let Some(codec) = args.get::<&str>(2) {
        check_codec(codec);
    }
    let tier = check_tier(tier);
    match tier.effort() {
        Some(effort) => to_frozen(oid, tier, effort),
        None => to_hot(oid),
    }
    tier.name().into_datum().unwrap_or_else(|| args.null())
}

crate::sql_function!(varve_set_tier, pg_finfo_varve_set_tier, set_tier);
crate::sql_function!(varve_check_tiers, pg_finfo_varve_check_tiers, check_tiers);

/// Freezes what is not frozen yet; everything, where what is frozen is of another tier.
fn to_frozen(oid: pg_sys::Oid, tier: Tier, effort: Effort) {
    let name = relation::qualified_name(oid);
    check_freezable(oid);
    let root = catalog::root_of(oid);
    let order = catalog::row_order(root);
    {
        // Held to the end: VACUUM, DDL and a second freeze keep out; readers and writers do not notice.
        let table =
            OpenRel::try_open(oid, pg_sys::ShareUpdateExclusiveLock).unwrap_or_else(|| gone(&name));
        match companion::of(table.as_ptr()) {
            None => catalog::remember_size(oid, catalog::total_bytes(oid), tier),
            Some(c) => {
                let latest = snapshot::Registered::latest();
                let segments = directory::load(table.as_ptr(), &c, latest.get());
                let same = directory::effort(&segments).is_none_or(|now| now == effort);
                catalog::remember_tier(oid, tier);
                if same && super::inspect::all_frozen(table.as_ptr()) {
                    return;
                }
            }
        }
    }
    statistics::refresh(oid);
    let report = freeze::freeze(oid, &order, effort);
    if report.delta > 0 {
        pgrx::ereport!(
            PgLogLevel::NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!(
                "{} rows of {} stay in the delta",
                report.delta,
                relation::qualified_name(oid)
            ),
            format!(
                "They were written by this transaction or during the freeze, or a snapshot older than them is in use; set_tier(..., '{}') later freezes them.",
                tier.name()
            )
        );
    }
}

fn to_hot(oid: pg_sys::Oid) {
    let name = relation::qualified_name(oid);
    let frozen = {
        let table =
            OpenRel::try_open(oid, pg_sys::ShareUpdateExclusiveLock).unwrap_or_else(|| gone(&name));
        companion::of(table.as_ptr()).is_some()
    };
    if frozen {
        lock::exclusively(oid);
        rewrite::thaw_all(oid);
    }
    // TRUNCATE and rewriting ALTER TABLE make a chunk hot without a word of its history.
    catalog::forget_size(oid);
}
