//! `varve.checksums`: of each chunk of a table how many rows it has, and the sum of their checksums; and the aggregate
//! `varve.checksum_sum`, which makes such sums of checksums.
//!
//! Tables that whoever asks may read as a whole are read past the executor ([`table`](super::table)). Everything else goes through an
//! ordinary query, so that privileges, row security, views and foreign tables are PostgreSQL's, and TimescaleDB's columnstore its own.

use super::table::{self, Total};
use crate::am::error::{gone, null_argument, raise};
use crate::pg::function::Args;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Registered;
use crate::pg::spi;
use crate::pg::tuple::{new_bytea, with_payload};
use crate::tier::set_tier;
use pgrx::{PgSqlErrorCode, pg_sys};
use varve_core::change::hash::to_bytes;

/// What there is a row of, in the result.
pub enum Target {
    /// The relation.
    Whole,
    /// Its chunks.
    Chunks(Vec<pg_sys::Oid>),
}

/// The chunks of a relation, in their order, if it has such.
pub fn target(rel: pg_sys::Relation) -> Target {
    let oid = relation::oid(rel);
    match relation::form(rel).relkind as u8 {
        pg_sys::RELKIND_PARTITIONED_TABLE => {
            let mut leaves = Vec::new();
            add_leaves(rel, &mut leaves);
            Target::Chunks(leaves)
        }
        pg_sys::RELKIND_RELATION => match chunks_of(oid) {
            chunks if chunks.contains(&oid) => Target::Whole,
            mut chunks => {
                // Those that are so new that the snapshot does not see them in the catalogue.
                for child in relation::children(oid) {
                    if !chunks.contains(&child) {
                        chunks.push(child);
                    }
                }
                Target::Chunks(chunks)
            }
        },
        _ => Target::Whole,
    }
}

/// The chunks of a hypertable; the table itself if it is none.
fn chunks_of(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    spi::read_one::<Vec<pg_sys::Oid>>(
        "SELECT pg_catalog.array_agg(chunk::pg_catalog.oid ORDER BY range_start, range_start_integer, chunk::pg_catalog.oid) \
         FROM varve.chunk_ranges($1::pg_catalog.oid::pg_catalog.regclass)",
        &[oid.into()],
    )
    .unwrap_or_default()
}

/// Adds the partitions of a table that are no partitioned tables themselves, in the order of their bounds.
fn add_leaves(rel: pg_sys::Relation, to: &mut Vec<pg_sys::Oid>) {
    // SAFETY: raises an error where partitions lie too deep within each other. The arrays belong to the relation, which is open;
    // they have an entry for each partition.
    let partitions: Vec<(pg_sys::Oid, bool)> = unsafe {
        pg_sys::check_stack_depth();
        let desc = pg_sys::RelationGetPartitionDesc(rel, true);
        (0..(*desc).nparts as usize)
            .map(|i| (*(*desc).oids.add(i), *(*desc).is_leaf.add(i)))
            .collect()
    };
    for (oid, is_leaf) in partitions {
        if is_leaf {
            to.push(oid);
        } else if let Some(table) = OpenRel::try_open(oid, pg_sys::AccessShareLock) {
            add_leaves(table.as_ptr(), to);
        }
    }
}

/// Whether the current user may read every row and column of a relation.
pub fn may_read_all(oid: pg_sys::Oid) -> bool {
    // SAFETY: catalogue look-ups.
    unsafe {
        let secured = pg_sys::check_enable_rls(oid, pg_sys::InvalidOid, true);
        if secured == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
            return false;
        }
        let (user, mode) = (pg_sys::GetUserId(), pg_sys::ACL_SELECT.into());
        let every = pg_sys::AclMaskHow::ACLMASK_ALL;
        [
            pg_sys::pg_class_aclcheck(oid, user, mode),
            pg_sys::pg_attribute_aclcheck_all(oid, user, mode, every),
        ]
        .contains(&pg_sys::AclResult::ACLCHECK_OK)
    }
}

/// Whether a table's rows all lie in it, as heap or varve has them, and may be read from there.
pub fn is_plain(rel: pg_sys::Relation) -> bool {
    let form = relation::form(rel);
    let ours = form.relam == relation::HEAP_AM || Some(form.relam) == relation::varve_am();
    let here = match form.relpersistence as u8 {
        pg_sys::RELPERSISTENCE_PERMANENT => true,
        // SAFETY: reads the server's state.
        pg_sys::RELPERSISTENCE_UNLOGGED => unsafe { !pg_sys::RecoveryInProgress() },
        // Those of other sessions lie in these sessions' memory.
        _ => false,
    };
    form.relkind as u8 == pg_sys::RELKIND_RELATION && ours && here && !form.relhassubclass
}

/// Opens what is read past the executor; `None` where something among it cannot be.
pub fn open_plain(rel: pg_sys::Relation, target: &Target) -> Option<Vec<OpenRel>> {
    let oid = relation::oid(rel);
    if !may_read_all(oid) {
        return None;
    }
    let oids = match target {
        Target::Whole => vec![oid],
        Target::Chunks(chunks) => chunks.clone(),
    };
    if set_tier::in_columnstore(oids.clone()) {
        return None;
    }
    let mut opened = Vec::new();
    for oid in oids {
        // What was dropped meanwhile is no chunk any more.
        if let Some(table) = OpenRel::try_open(oid, pg_sys::AccessShareLock) {
            if !is_plain(table.as_ptr()) {
                return None;
            }
            opened.push(table);
        }
    }
    Some(opened)
}

/// What an ordinary query says of a relation, or of its chunks.
fn query(rel: pg_sys::Relation, target: Target) -> Vec<(pg_sys::Oid, Total)> {
    let oid = relation::oid(rel);
    let name = relation::qualified_name(oid);
    let sums = "pg_catalog.count(*), varve.checksum_sum(varve.row_checksum(x.*))";
    let chunks = match target {
        Target::Whole => {
            let of = |(_, total)| (oid, total);
            let query = format!("SELECT 0::pg_catalog.oid, {sums} FROM {name} x");
            return run(&query).into_iter().map(of).collect();
        }
        Target::Chunks(chunks) => chunks,
    };
    let query = format!("SELECT x.tableoid, {sums} FROM {name} x GROUP BY x.tableoid");
    let mut found = run(&query);
    let mut all = Vec::new();
    for chunk in chunks {
        let at = found.iter().position(|(oid, _)| *oid == chunk);
        let total = at.map_or_else(Total::default, |at| found.swap_remove(at).1);
        all.push((chunk, total));
    }
    all.extend(found);
    all
}

/// The rows of a query of (OID, rows, sum), under the snapshot of the statement that we are in.
fn run(query: &str) -> Vec<(pg_sys::Oid, Total)> {
    let found = spi::read_active(query, |tuple, desc| {
        let field = |n: i32| {
            let mut null = false;
            // SAFETY: a field of the row.
            let value = unsafe { pg_sys::SPI_getbinval(tuple, desc, n, &mut null) };
            (!null).then_some(value)
        };
        let oid = pg_sys::Oid::from_u32(field(1)?.value() as u32);
        let total = Total {
            rows: field(2)?.value() as u64,
            // SAFETY: the sum, as the query gives it.
            sum: unsafe { number(field(3)?) },
        };
        Some((oid, total))
    });
    found.into_iter().flatten().collect()
}

fn checksums(args: &Args) -> pg_sys::Datum {
    let Some(oid) = args.get::<pg_sys::Oid>(0) else {
        null_argument("the relation")
    };
    let Some(open) = OpenRel::try_open(oid, pg_sys::AccessShareLock) else {
        gone(&relation::qualified_name(oid))
    };
    let rel = open.as_ptr();
    let target = target(rel);
    let found = match open_plain(rel, &target) {
        None => query(rel, target),
        Some(tables) => {
            // SAFETY: a statement that calls a function has a snapshot.
            let snapshot = Registered::copy_of(unsafe { pg_sys::GetActiveSnapshot() });
            let read = |open: OpenRel| {
                let rel = open.as_ptr();
                (relation::oid(rel), table::read(rel, snapshot.get()))
            };
            tables.into_iter().map(read).collect()
        }
    };
    args.set(found.into_iter().map(|(oid, total)| {
        [
            pg_sys::Datum::from(oid),
            pg_sys::Datum::from(total.rows as i64),
            new_bytea(&to_bytes(total.sum)),
        ]
    }))
}

/// A checksum as a number.
///
/// # Safety
/// A `bytea`.
unsafe fn number(checksum: pg_sys::Datum) -> u128 {
    // SAFETY: by contract.
    unsafe {
        with_payload(checksum, |bytes| match bytes.try_into() {
            Ok(bytes) => u128::from_be_bytes(bytes),
            Err(_) => raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("a checksum of {} bytes cannot be added", bytes.len()),
                None,
                Some(
                    "varve.checksum_sum adds checksums by the algorithm xxh3, which have 16 bytes."
                        .into(),
                ),
            ),
        })
    }
}

fn add(args: &Args) -> pg_sys::Datum {
    let (Some(a), Some(b)) = (args.datum(0), args.datum(1)) else {
        return args.null();
    };
    // SAFETY: arguments are declared as bytea.
    let sum = unsafe { number(a).wrapping_add(number(b)) };
    new_bytea(&to_bytes(sum))
}

crate::sql_function!(varve_checksums, pg_finfo_varve_checksums, checksums);
crate::sql_function!(varve_checksum_add, pg_finfo_varve_checksum_add, add);
