//! Typed access to varve's own tables.

use super::level::Tier;
use super::order::RowOrder;
use crate::pg::catalog::{self as pg_catalog, First};
use crate::pg::owner::as_owner;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi;
use pgrx::pg_sys;

/// The root of the inheritance tree above a table: hypertable, partitioned table, or the table itself.
pub fn root_of(oid: pg_sys::Oid) -> pg_sys::Oid {
    let mut at = oid;
    // The depth of a tree is small; the bound only guards against a damaged catalogue.
    for _ in 0..64 {
        let parent = spi::read_one::<pg_sys::Oid>(
            "SELECT pg_catalog.max(inhparent::pg_catalog.oid::pg_catalog.int8)::pg_catalog.oid FROM pg_catalog.pg_inherits WHERE inhrelid OPERATOR(pg_catalog.=) $1",
            &[at.into()],
        );
        match parent {
            Some(parent) => at = parent,
            None => break,
        }
    }
    at
}

/// Records that a table is managed.
pub fn manage(root: pg_sys::Oid, segment_by: &[String], order_by: &[String]) {
    as_owner(|| {
        spi::write(
            "INSERT INTO varve.managed (relation, segment_by, order_by) \
             VALUES ($1::pg_catalog.oid::pg_catalog.regclass, $2::pg_catalog.name[], $3::pg_catalog.name[]) \
             ON CONFLICT (relation) DO UPDATE SET segment_by = excluded.segment_by, order_by = excluded.order_by",
            &[
                root.into(),
                segment_by.to_vec().into(),
                order_by.to_vec().into(),
            ],
        );
    });
}

/// Forgets a managed table.
pub fn unmanage(root: pg_sys::Oid) {
    as_owner(|| {
        spi::write(
            "DELETE FROM varve.managed WHERE relation OPERATOR(pg_catalog.=) $1",
            &[root.into()],
        );
    });
}

/// The order in which a chunk's rows are frozen: that of its root where it is managed.
pub fn row_order(root: pg_sys::Oid) -> RowOrder {
    let columns = as_owner(|| {
        spi::read_one::<Vec<String>>(
            "SELECT pg_catalog.array_cat(segment_by, order_by)::pg_catalog.text[] FROM varve.managed WHERE relation OPERATOR(pg_catalog.=) $1",
            &[root.into()],
        )
    });
    match columns {
        Some(columns) => RowOrder::by(columns),
        None => RowOrder::physical(),
    }
}

/// Whether a table is managed.
pub fn is_managed(root: pg_sys::Oid) -> bool {
    as_owner(|| {
        spi::read_one::<bool>(
            "SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 FROM varve.managed WHERE relation OPERATOR(pg_catalog.=) $1",
            &[root.into()],
        )
    })
    .unwrap_or(false)
}

/// Forgets a table that is being dropped. Runs within the drop, so it goes past SQL, rules and privileges.
pub fn forget_relation(oid: pg_sys::Oid) {
    // SAFETY: a syscache look-up.
    let schema = unsafe { pg_sys::get_namespace_oid(c"varve".as_ptr(), true) };
    for name in ["managed", "chunk_history"] {
        // The extension itself may be going.
        let Some(table) = relation::lookup(name, schema)
            .and_then(|t| OpenRel::try_open(t, pg_sys::RowExclusiveLock))
        else {
            continue;
        };
        let Some(index) = crate::am::unique::index_oids(table.as_ptr())
            .into_iter()
            .next()
        else {
            continue;
        };
        // The primary key is the first column of both tables.
        pg_catalog::each_with(&table, index, First::Oid(oid), |row| {
            // SAFETY: a row of the table; nobody else changes the entry of a table that is locked for its drop.
            unsafe { pg_sys::simple_heap_delete(table.as_ptr(), &mut (*row).t_self) };
        });
    }
}

/// Records what a chunk takes before its first freeze and which tier it goes to, and clears what is known of chunks that
/// are gone.
pub fn remember_size(chunk: pg_sys::Oid, bytes: i64, tier: Tier) {
    as_owner(|| {
        spi::write(
            "DELETE FROM varve.chunk_history h WHERE NOT EXISTS \
             (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) h.chunk)",
            &[],
        );
        spi::write(
            "INSERT INTO varve.chunk_history (chunk, bytes_before, frozen_at, tier) \
             VALUES ($1, $2, pg_catalog.now(), $3) ON CONFLICT (chunk) DO UPDATE \
             SET frozen_at = excluded.frozen_at, tier = excluded.tier",
            &[chunk.into(), bytes.into(), tier.name().into()],
        );
    });
}

/// Records which tier a frozen chunk goes to.
pub fn remember_tier(chunk: pg_sys::Oid, tier: Tier) {
    as_owner(|| {
        spi::write(
            "UPDATE varve.chunk_history SET tier = $2 WHERE chunk OPERATOR(pg_catalog.=) $1 AND tier OPERATOR(pg_catalog.<>) $2",
            &[chunk.into(), tier.name().into()],
        );
    });
}

/// The tier that a frozen chunk was last brought to.
pub fn last_tier(chunk: pg_sys::Oid) -> Option<Tier> {
    as_owner(|| {
        spi::read_one::<String>(
            "SELECT tier FROM varve.chunk_history WHERE chunk OPERATOR(pg_catalog.=) $1",
            &[chunk.into()],
        )
    })
    .and_then(|name| Tier::from_name(&name))
}

/// Forgets a chunk that is hot again.
pub fn forget_size(chunk: pg_sys::Oid) {
    as_owner(|| {
        spi::write(
            "DELETE FROM varve.chunk_history WHERE chunk OPERATOR(pg_catalog.=) $1",
            &[chunk.into()],
        );
    });
}

/// Notes that all segments of a chunk were found whole.
pub fn remember_verified(chunk: pg_sys::Oid) {
    as_owner(|| {
        spi::write(
            "UPDATE varve.chunk_history SET verified_at = pg_catalog.now() WHERE chunk OPERATOR(pg_catalog.=) $1",
            &[chunk.into()],
        );
    });
}

/// Chunks of a table: those of a hypertable, the leaves of a partitioned table, or the table itself.
pub fn chunks_of(root: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    spi::read_one::<Vec<pg_sys::Oid>>(
        "SELECT pg_catalog.array_agg(chunk::pg_catalog.oid ORDER BY range_start, chunk::pg_catalog.oid) FROM varve.chunk_ranges($1::pg_catalog.oid::pg_catalog.regclass)",
        &[root.into()],
    )
    .unwrap_or_default()
}

/// Bytes of a table with its indexes and TOAST.
pub fn total_bytes(oid: pg_sys::Oid) -> i64 {
    spi::read_one::<i64>(
        "SELECT pg_catalog.pg_total_relation_size($1::pg_catalog.oid::pg_catalog.regclass)",
        &[oid.into()],
    )
    .unwrap_or(0)
}
