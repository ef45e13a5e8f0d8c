//! Chunks of hypertables, and where they lie.

use super::ddl::Dimension;
use crate::am::companion;
use crate::am::directory;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot;
use crate::pg::spi::{Connection, read_all, read_one};
use crate::tier::level::Tier;
use pgrx::pg_sys;
use varve_core::backup::snapshot::Slice;

/// The place of a chunk in the dimensions of its hypertable.
pub fn slices(chunk: pg_sys::Oid) -> Vec<Slice> {
    read_all(
        "SELECT d.column_name::pg_catalog.text, s.range_start, s.range_end FROM _timescaledb_catalog.chunk c \
         JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) c.schema_name \
         JOIN pg_catalog.pg_class k ON k.relnamespace OPERATOR(pg_catalog.=) n.oid AND k.relname OPERATOR(pg_catalog.=) c.table_name \
         JOIN _timescaledb_catalog.chunk_constraint cc ON cc.chunk_id OPERATOR(pg_catalog.=) c.id \
         JOIN _timescaledb_catalog.dimension_slice s ON s.id OPERATOR(pg_catalog.=) cc.dimension_slice_id \
         JOIN _timescaledb_catalog.dimension d ON d.id OPERATOR(pg_catalog.=) s.dimension_id \
         WHERE k.oid OPERATOR(pg_catalog.=) $1 ORDER BY d.num_slices IS NOT NULL, d.id",
        &[chunk.into()],
        |row| {
            Ok(Some(Slice {
                column: row.get(1)?.unwrap_or_default(),
                start: row.get(2)?.unwrap_or(0),
                end: row.get(3)?.unwrap_or(0),
            }))
        },
    )
}

/// The schema of TimescaleDB's functions.
pub fn functions() -> Option<String> {
    read_one(
        "SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
         WHERE e.extname OPERATOR(pg_catalog.=) 'timescaledb'",
        &[],
    )
}

/// Lets new chunks have this length, where `slice` has another than the dimension.
pub fn set_length(
    connection: &Connection,
    functions: &str,
    table: &str,
    dimension: &Dimension,
    length: i64,
) {
    connection.run(&format!(
        "SELECT {}.set_chunk_time_interval({}::pg_catalog.regclass, {length}::pg_catalog.int8, {})",
        relation::quote(functions),
        super::build::literal(table),
        super::build::literal(&dimension.column)
    ));
}

/// The tier that a chunk is in; `hot` too where that is not known.
pub fn tier(chunk: pg_sys::Oid) -> &'static str {
    let Some(table) = OpenRel::try_open(chunk, pg_sys::AccessShareLock) else {
        return Tier::Hot.name();
    };
    let rel = table.as_ptr();
    if Some(relation::form(rel).relam) != relation::varve_am() {
        return Tier::Hot.name();
    }
    let latest = snapshot::Registered::latest();
    match companion::of(rel) {
        Some(c) => match directory::try_load(&c, latest.get()) {
            Ok(segments) => Tier::of_frozen(chunk, &segments).name(),
            Err(_) => Tier::Hot.name(),
        },
        None => Tier::Hot.name(),
    }
}
