//! What a backup's record says of the tables: how many rows each had, as one snapshot saw them, and where WAL was then.
//!
//! Writes go on while rows are counted and after, so a count alone could not be compared with a restored server's. The record
//! has the snapshot itself: which transactions were running. A server that is restored to that position in WAL, and no
//! further, counts under the same snapshot ([`recount`]) and must come to the same figures, whatever was written meanwhile.

use super::take::archiving;
use crate::am::companion;
use crate::am::error::raise;
use crate::pg::owner::as_owner;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi;
use crate::pg::{background, ffi, guard, snapshot};
use crate::tier::catalog;
use crate::tier::level::Tier;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use varve_core::backup::{Backup, Lsn, Timestamp, WalName};

/// The version of what is written.
const VERSION: u32 = 1;

/// How long a snapshot is waited for that knows all subtransactions.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(30);

/// How long a table is waited for that somebody has locked.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why a table that somebody has rewritten since the snapshot is not counted: rewriting is not transactional to older snapshots.
const REWRITTEN: &str = "it was rewritten or dropped meanwhile";

/// What a record says of the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checks {
    /// Version of the format.
    pub version: u32,
    /// The database that the tables are in.
    pub database: String,
    /// When the snapshot was taken.
    pub at: Timestamp,
    /// Where WAL was right after that: all that the snapshot sees is before it.
    pub lsn: Lsn,
    /// Transactions before it had ended.
    pub xmin: u32,
    /// Transactions from it on had not begun.
    pub xmax: u32,
    /// Transactions and subtransactions between these that were running.
    pub running: Vec<u32>,
    /// The tables.
    pub tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its oid, which a restored cluster has too.
    pub oid: u32,
    /// Its storage, as the snapshot saw it.
    pub storage: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The table that it is a chunk or partition of.
    pub hypertable: Option<String>,
    /// Its tier: `hot`, `warm` or `cold`.
    pub tier: String,
    /// How many rows the snapshot saw; none where they could not be counted.
    pub rows: Option<i64>,
    /// Their checksum (`varve.rows_checksum`), if it was wanted.
    pub checksum: Option<String>,
}

impl Table {
    /// As SQL names it.
    pub fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            relation::quote(&self.schema),
            relation::quote(&self.name)
        )
    }
}

/// Reads what a record says; none where it says nothing.
///
/// # Errors
/// In words, where it is of another version or not understood.
pub fn parse(value: &serde_json::Value) -> Result<Option<Checks>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(VERSION.into()) {
        return Err(format!(
            "what the record says of tables is of version {version:?}, known is {VERSION}"
        ));
    }
    serde_json::from_value(value.clone())
        .map(Some)
        .map_err(|e| format!("what the record says of tables is not understood: {e}"))
}

/// Counts the rows of all tables of this database for the record of a backup; `progress` is told how many tables are done, and how many there
/// are. Returns when the WAL up to the snapshot's position is archived. Null where rows shall not be counted, or WAL is not
/// archived: nothing could be restored to that position.
pub fn take(backup: &Backup, progress: &mut dyn FnMut(u64, u64)) -> serde_json::Value {
    if !crate::settings::backup_count_rows() || !archiving() {
        return serde_json::Value::Null;
    }
    let (checks, end) = as_owner(|| {
        let Some(seen) = Seen::now() else {
            warning!(
                "rows are not counted for backup {}: some transaction has too many subtransactions",
                backup.id
            );
            return (None, None);
        };
        let lsn = log_position();
        let end = end_segment(&backup.id, backup.wal_segment_bytes);
        let at = Timestamp::now();
        let tables = seen.tables();
        let total = tables.len() as u64;
        let with_checksums = crate::settings::backup_checksums();
        let mut counted = Vec::new();
        for (done, table) in tables.into_iter().enumerate() {
            progress(done as u64, total);
            counted.push(count_one(table, seen.0.get(), with_checksums));
        }
        (Some(seen.checks(at, lsn, counted)), Some(end))
    });
    if let Some(end) = end {
        wait_until_archived(&end);
    }
    checks.map_or(serde_json::Value::Null, |checks| {
        serde_json::to_value(checks).unwrap_or_else(|e| pgrx::error!("counts of rows: {e}"))
    })
}

/// What one moment showed.
struct Seen(snapshot::Registered);

impl Seen {
    /// A snapshot that knows all running transactions and their subtransactions; none where there are too many for too long.
    fn now() -> Option<Self> {
        let begun = Instant::now();
        loop {
            let latest = snapshot::Registered::latest();
            // SAFETY: a registered snapshot is a copy that nobody else uses. What our own transaction has written must not be seen:
            // of that nothing is committed when the record is written.
            let whole = unsafe {
                (*latest.get()).curcid = pg_sys::FirstCommandId;
                !(*latest.get()).suboverflowed
            };
            if whole {
                return Some(Seen(latest));
            }
            if begun.elapsed() > SNAPSHOT_WAIT {
                return None;
            }
            drop(latest);
            background::wait(10, background::wait_event(c"VarveBackupSnapshot"));
            pgrx::check_for_interrupts!();
        }
    }

    fn checks(&self, at: Timestamp, lsn: Lsn, tables: Vec<Table>) -> Checks {
        // SAFETY: a valid snapshot.
        let (xmin, xmax, running) = unsafe {
            let snapshot = &*self.0.get();
            (snapshot.xmin, snapshot.xmax, running(snapshot))
        };
        Checks {
            version: VERSION,
            database: database_name(),
            at,
            lsn,
            xmin: xmin.into_inner(),
            xmax: xmax.into_inner(),
            running,
            tables,
        }
    }

    /// All ordinary tables as the snapshot sees them, but for the system's, and those of varve and TimescaleDB themselves.
    fn tables(&self) -> Vec<Table> {
        let rows = read_under(self.0.get(), TABLES, |field| {
            Some(Table {
                oid: field(1)?.parse().ok()?,
                storage: field(2)?.parse().ok()?,
                schema: field(3)?,
                name: field(4)?,
                hypertable: field(5),
                tier: "hot".into(),
                rows: None,
                checksum: None,
            })
        });
        rows.into_iter().flatten().collect()
    }
}

const TABLES: &str = "SELECT c.oid::pg_catalog.text, c.relfilenode::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, \
     (SELECT pg_catalog.format('%I.%I', pn.nspname, p.relname) FROM pg_catalog.pg_inherits i \
        JOIN pg_catalog.pg_class p ON p.oid OPERATOR(pg_catalog.=) i.inhparent \
        JOIN pg_catalog.pg_namespace pn ON pn.oid OPERATOR(pg_catalog.=) p.relnamespace \
        WHERE i.inhrelid OPERATOR(pg_catalog.=) c.oid ORDER BY i.inhseqno LIMIT 1) \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.=) 'p' AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid \
           WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) c.oid \
             AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid \
             AND d.deptype OPERATOR(pg_catalog.=) 'e' AND e.extname OPERATOR(pg_catalog.=) ANY (ARRAY['varve', 'timescaledb']::pg_catalog.name[])) \
     ORDER BY n.nspname, c.relname";

/// The transactions and subtransactions that a snapshot holds for running.
///
/// # Safety
/// A valid snapshot, whose lists are as long as it says.
unsafe fn running(snapshot: &pg_sys::SnapshotData) -> Vec<u32> {
    let list = |at: *mut pg_sys::TransactionId, count: usize| {
        // SAFETY: by contract.
        (0..count).map(move |i| unsafe { (*at.add(i)).into_inner() })
    };
    list(snapshot.xip, snapshot.xcnt as usize)
        .chain(list(snapshot.subxip, snapshot.subxcnt.max(0) as usize))
        .collect()
}

/// The name of the database that we are in.
pub fn database_name() -> String {
    // SAFETY: the name of our own database, copied at once.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        match name.is_null() {
            true => String::new(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

/// Where WAL is now. What runs is logged before it, so that a standby that comes so far takes connections.
fn log_position() -> Lsn {
    // SAFETY: outside recovery, where WAL is archived, and so of level replica at least.
    unsafe {
        pg_sys::LogStandbySnapshot();
        Lsn(pg_sys::GetXLogInsertRecPtr())
    }
}

/// Makes a record behind the position, at which recovery can stop, ends the segment, and tells its name.
fn end_segment(id: &str, segment_bytes: u64) -> String {
    let name = CString::new(format!("varve-{id}")).unwrap_or_default();
    // SAFETY: outside recovery; a name that is shorter than the 64 bytes it may have.
    let (end, timeline) = unsafe {
        let end = pg_sys::XLogRestorePoint(name.as_ptr());
        pg_sys::RequestXLogSwitch(false);
        (end, pg_sys::GetWALInsertionTimeLine())
    };
    WalName::of_position(timeline, Lsn(end.saturating_sub(1)), segment_bytes).to_string()
}

/// Waits, as the server does at the end of a base backup, until a segment is archived.
fn wait_until_archived(segment: &str) {
    let name = CString::new(segment).unwrap_or_default();
    let begun = Instant::now();
    let mut told = false;
    // SAFETY: a NUL-terminated name.
    while unsafe { ffi::XLogArchiveIsBusy(name.as_ptr()) } {
        background::wait(100, background::wait_event(c"VarveBackupArchive"));
        pgrx::check_for_interrupts!();
        if !told && begun.elapsed() > Duration::from_secs(60) {
            told = true;
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("the backup still waits for {segment} to be archived"),
                "Its counts of rows hold for a position in that segment. SELECT * FROM pg_stat_archiver tells why it is not."
            );
        }
    }
}

/// Runs `f` under a snapshot.
fn under<T>(snapshot: pg_sys::Snapshot, f: impl FnOnce() -> T) -> T {
    struct Active;
    impl Drop for Active {
        fn drop(&mut self) {
            // After an error the abort of the (sub)transaction pops it.
            if !std::thread::panicking() {
                // SAFETY: pushed below.
                unsafe { pg_sys::PopActiveSnapshot() }
            }
        }
    }
    // SAFETY: a valid snapshot, which is copied unless it is registered.
    unsafe { pg_sys::PushActiveSnapshot(snapshot) };
    let _active = Active;
    f()
}

/// Runs a query that only reads under a snapshot; `row` is given a function that tells a field (from 1) as text.
fn read_under<T>(
    snapshot: pg_sys::Snapshot,
    query: &str,
    row: impl Fn(&dyn Fn(i32) -> Option<String>) -> T,
) -> Vec<T> {
    under(snapshot, || {
        spi::read_active(query, |tuple, desc| {
            row(&|n| {
                // SAFETY: a field of the row, as a text in the memory of the connection.
                unsafe {
                    let value = pg_sys::SPI_getvalue(tuple, desc, n);
                    (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
                }
            })
        })
    })
}

/// Rows and, if wanted, their checksum.
type Count = (i64, Option<String>);

/// Counts the rows of one table that a snapshot sees, for the record. What is wrong with a table is a warning: its bytes are in the
/// backup all the same.
fn count_one(mut table: Table, snapshot: pg_sys::Snapshot, with_checksum: bool) -> Table {
    match count(&table, snapshot, with_checksum) {
        Ok((tier, (rows, checksum))) => {
            (table.tier, table.rows, table.checksum) = (tier, Some(rows), checksum);
        }
        Err(why) if why == REWRITTEN => {}
        Err(why) => ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("rows of {} are not counted: {why}", table.sql_name()),
            "The backup has the table as it is; a drill will not compare it."
        ),
    }
    table
}

/// Counts the rows of a table that a snapshot sees; its tier too. In words why it cannot be done.
fn count(
    table: &Table,
    snapshot: pg_sys::Snapshot,
    with_checksum: bool,
) -> Result<(String, Count), String> {
    let ends_us = |code: PgSqlErrorCode| {
        matches!(
            code,
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
        )
    };
    let body = AssertUnwindSafe(|| locked(table, snapshot, with_checksum));
    // A backup of thousands of chunks must not keep the locks of each.
    guard::look(body, move |code| !ends_us(code)).and_then(|counted| counted)
}

fn locked(
    table: &Table,
    snapshot: pg_sys::Snapshot,
    with_checksum: bool,
) -> Result<(String, Count), String> {
    let oid = pg_sys::Oid::from_u32(table.oid);
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let begun = Instant::now();
    // SAFETY: locks a relation, which may be gone.
    while !unsafe { pg_sys::ConditionalLockRelationOid(oid, mode) } {
        if begun.elapsed() > LOCK_WAIT {
            return Err("somebody has it locked".into());
        }
        background::wait(50, background::wait_event(c"VarveBackupLock"));
        pgrx::check_for_interrupts!();
    }
    match OpenRel::try_open(oid, pg_sys::AccessShareLock) {
        Some(open) => counted(&open, table, snapshot, with_checksum),
        None => Err(REWRITTEN.into()),
    }
}

fn counted(
    open: &OpenRel,
    table: &Table,
    snapshot: pg_sys::Snapshot,
    with_checksum: bool,
) -> Result<(String, Count), String> {
    let rel = open.as_ptr();
    // SAFETY: an open relation.
    let by_us = unsafe {
        [
            (*rel).rd_createSubid,
            (*rel).rd_newRelfilelocatorSubid,
            (*rel).rd_firstRelfilelocatorSubid,
        ]
    };
    let storage = relation::form(rel).relfilenode.to_u32();
    if storage != table.storage || by_us.iter().any(|id| *id != 0) {
        return Err(REWRITTEN.into());
    }
    let frozen =
        Some(relation::form(rel).relam) == relation::varve_am() && companion::of(rel).is_some();
    let tier = match frozen {
        true => catalog::last_tier(relation::oid(rel)).map_or("warm", Tier::name),
        false => "hot",
    };
    let sum = match with_checksum {
        true => "varve.rows_checksum(x.*)",
        false => "NULL::pg_catalog.text",
    };
    let name = relation::qualified_name(relation::oid(rel));
    let query = format!("SELECT pg_catalog.count(*), {sum} FROM ONLY {name} x");
    // Between the look-up of the name and the query somebody may put a view of his in the table's place.
    let plain = c"restrict_nonsystem_relation_kind";
    let found = spi::with_setting(plain, c"view, foreign-table", || {
        read_under(snapshot, &query, |field| {
            Some((field(1)?.parse::<i64>().ok()?, field(2)))
        })
    });
    match found.into_iter().next().flatten() {
        Some(count) => Ok((tier.to_string(), count)),
        None => Err("its rows were not counted".into()),
    }
}

/// Counts, on a server in recovery, the rows of the tables of a record as its snapshot saw them.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn recount(
    checks: &str,
) -> TableIterator<
    'static,
    (
        name!(relation, pg_sys::Oid),
        name!(rows, Option<i64>),
        name!(checksum, Option<String>),
        name!(detail, Option<String>),
    ),
> {
    crate::require_preload();
    // SAFETY: asks the server's state.
    if !unsafe { pg_sys::RecoveryInProgress() } || !unsafe { pg_sys::superuser() } {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "rows are counted again by superusers on a server that is being restored".into(),
            None,
            Some("varve.recovery_drill() does all of it.".into()),
        );
    }
    let checks: Checks = serde_json::from_str(checks).unwrap_or_else(|e| {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("what the record says of tables is not understood: {e}"),
            None,
            None,
        )
    });
    let rows = as_owner(|| {
        // Workers could not take over a snapshot that is older than anything that runs here.
        spi::with_setting(c"max_parallel_workers_per_gather", c"0", || {
            let mut running = checks.running.clone();
            let mut seen = rebuilt(&checks, &mut running);
            let snapshot = &raw mut seen;
            let counted = checks
                .tables
                .iter()
                .filter(|t| t.rows.is_some())
                .map(|table| {
                    let oid = pg_sys::Oid::from_u32(table.oid);
                    match count(table, snapshot, table.checksum.is_some()) {
                        Ok((_, (rows, checksum))) => (oid, Some(rows), checksum, None),
                        Err(why) => (oid, None, None, Some(why)),
                    }
                });
            counted.collect::<Vec<_>>()
        })
    });
    TableIterator::new(rows)
}

/// The snapshot of a record, in the form of those that are taken during recovery: all that ran stands in one list.
///
/// What runs at this position by this server's own knowledge is added. It was not committed to the snapshot either, and rows of it
/// must not get the hint that they never were.
fn rebuilt(checks: &Checks, list: &mut Vec<u32>) -> pg_sys::SnapshotData {
    let latest = snapshot::Registered::latest();
    // SAFETY: a valid snapshot.
    list.extend(unsafe { running(&*latest.get()) });
    let xid = pg_sys::TransactionId::from;
    // A transaction that began after the snapshot is not in it anyway.
    list.retain(|x| crate::pg::tuple::xid_precedes(xid(*x), xid(checks.xmax)));
    list.sort_unstable();
    list.dedup();
    pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_MVCC,
        xmin: xid(checks.xmin),
        xmax: xid(checks.xmax),
        // A transaction id is four bytes in a row of them.
        subxip: list.as_mut_ptr().cast(),
        subxcnt: list.len() as i32,
        takenDuringRecovery: true,
        curcid: pg_sys::FirstCommandId,
        ..Default::default()
    }
}
