//! Settings `varve.*`.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};

/// Values of `varve.debug_freeze`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum DebugFreeze {
    /// Rows are frozen only when asked for.
    #[name = c"off"]
    Off,
    /// Every row written to a varve table is frozen when its transaction commits.
    #[name = c"commit"]
    Commit,
}

static DEBUG_FREEZE: GucSetting<DebugFreeze> = GucSetting::<DebugFreeze>::new(DebugFreeze::Off);
static COLUMNAR_SCAN: GucSetting<bool> = GucSetting::<bool>::new(true);
static COLUMNAR_AGGREGATE: GucSetting<bool> = GucSetting::<bool>::new(true);
static FREEZE_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);
static UPSERT_WORK_MEM: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);
static UPSERT_MERGE_ROWS: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static BACKUP_CONNINFO: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static BACKUP_COUNT_ROWS: GucSetting<bool> = GucSetting::<bool>::new(true);
static BACKUP_CHECKSUMS: GucSetting<bool> = GucSetting::<bool>::new(false);
static SCRATCH_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(4);
static JOB_HISTORY_DAYS: GucSetting<i32> = GucSetting::<i32>::new(30);
static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);

const DEBUG_FREEZE_SHORT: &CStr =
    c"Freezes rows of varve tables as part of the commit that wrote them.";
const DEBUG_FREEZE_LONG: &CStr =
    c"For tests: lets any test suite that runs on varve tables exercise frozen rows. Not with logical replication, to which these freezes look like deletions.";
const LOCK_TIMEOUT_SHORT: &CStr =
    c"Longest time that freezing a chunk tries to lock it for the exchange of its storage.";
const LOCK_TIMEOUT_LONG: &CStr =
    c"Each try waits 40 ms at most, so that statements of others never queue for long. 0 tries for ever.";

const COLUMNAR_SCAN_SHORT: &CStr = c"Lets the planner read frozen rows by columns.";
const COLUMNAR_SCAN_LONG: &CStr =
    c"Off, frozen rows are read row by row by a sequential scan, to compare.";

const COLUMNAR_AGGREGATE_SHORT: &CStr =
    c"Lets the planner group and aggregate frozen rows by columns.";
const COLUMNAR_AGGREGATE_LONG: &CStr =
    c"Off, PostgreSQL's own aggregates work on what scans deliver, to compare.";
const FREEZE_MEMORY_SHORT: &CStr =
    c"Memory that freezing a chunk takes to sort its rows by columns.";
const FREEZE_MEMORY_LONG: &CStr =
    c"Larger chunks are sorted row by row within maintenance_work_mem, and on disk.";
const UPSERT_WORK_MEM_SHORT: &CStr =
    c"Memory that the rows of a batch take before they are sorted on disk.";
const UPSERT_WORK_MEM_LONG: &CStr =
    c"For varve.upsert and its kin, and for sinks, which write a batch when it is full.";

const UPSERT_MERGE_ROWS_SHORT: &CStr =
    c"Rows of a batch for one frozen chunk from which on they are written as segments.";
const UPSERT_MERGE_ROWS_LONG: &CStr =
    c"The chunk is then locked against other writers to the end of the transaction. Fewer rows, and those for chunks that others write to, go to the delta. 0 writes all rows to the delta.";

const BACKUP_CONNINFO_SHORT: &CStr =
    c"How this server is reached from itself to take a backup, as a libpq connection string.";
const BACKUP_CONNINFO_LONG: &CStr =
    c"Empty: through its first Unix socket, as the role that is named like the user who runs the server.";
const BACKUP_COUNT_ROWS_SHORT: &CStr =
    c"Whether a backup's record says how many rows each table of the database has.";
const BACKUP_COUNT_ROWS_LONG: &CStr =
    c"varve.recovery_drill() counts them again. Rows are counted where WAL is archived only.";
const BACKUP_CHECKSUMS_SHORT: &CStr =
    c"Whether a backup's record has a checksum of all rows of each table of the database.";
const BACKUP_CHECKSUMS_LONG: &CStr = c"Every backup then reads and hashes every row.";
const SCRATCH_DIRECTORY_SHORT: &CStr =
    c"Directory in which recovery drills restore servers and remove them again.";
const SCRATCH_DIRECTORY_LONG: &CStr =
    c"It must not be in the data directory. Empty: the system's directory for temporary files.";
const MAX_WORKERS_SHORT: &CStr = c"Jobs that run at the same time, in all databases together.";
const MAX_WORKERS_LONG: &CStr =
    c"Each takes one of max_worker_processes, and so do the launcher and a process that looks what is due. 0 switches jobs off.";
const JOB_HISTORY_DAYS_SHORT: &CStr = c"Days for which varve.job_runs keeps runs.";
const JOB_HISTORY_DAYS_LONG: &CStr = c"Runs that go on are kept, however old.";

/// Registers all settings; called once from `_PG_init`.
pub fn register() {
    GucRegistry::define_enum_guc(
        c"varve.debug_freeze",
        DEBUG_FREEZE_SHORT,
        DEBUG_FREEZE_LONG,
        &DEBUG_FREEZE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"varve.lock_timeout",
        LOCK_TIMEOUT_SHORT,
        LOCK_TIMEOUT_LONG,
        &LOCK_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"varve.enable_columnar_scan",
        COLUMNAR_SCAN_SHORT,
        COLUMNAR_SCAN_LONG,
        &COLUMNAR_SCAN,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_bool_guc(
        c"varve.enable_columnar_aggregate",
        COLUMNAR_AGGREGATE_SHORT,
        COLUMNAR_AGGREGATE_LONG,
        &COLUMNAR_AGGREGATE,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"varve.freeze_memory",
        FREEZE_MEMORY_SHORT,
        FREEZE_MEMORY_LONG,
        &FREEZE_MEMORY,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"varve.upsert_work_mem",
        UPSERT_WORK_MEM_SHORT,
        UPSERT_WORK_MEM_LONG,
        &UPSERT_WORK_MEM,
        64,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"varve.upsert_merge_rows",
        UPSERT_MERGE_ROWS_SHORT,
        UPSERT_MERGE_ROWS_LONG,
        &UPSERT_MERGE_ROWS,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"varve.backup_conninfo",
        BACKUP_CONNINFO_SHORT,
        BACKUP_CONNINFO_LONG,
        &BACKUP_CONNINFO,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_bool_guc(
        c"varve.backup_count_rows",
        BACKUP_COUNT_ROWS_SHORT,
        BACKUP_COUNT_ROWS_LONG,
        &BACKUP_COUNT_ROWS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"varve.backup_checksums",
        BACKUP_CHECKSUMS_SHORT,
        BACKUP_CHECKSUMS_LONG,
        &BACKUP_CHECKSUMS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"varve.scratch_directory",
        SCRATCH_DIRECTORY_SHORT,
        SCRATCH_DIRECTORY_LONG,
        &SCRATCH_DIRECTORY,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"varve.max_workers",
        MAX_WORKERS_SHORT,
        MAX_WORKERS_LONG,
        &MAX_WORKERS,
        0,
        crate::jobs::MOST_WORKERS as i32,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"varve.job_history_days",
        JOB_HISTORY_DAYS_SHORT,
        JOB_HISTORY_DAYS_LONG,
        &JOB_HISTORY_DAYS,
        0,
        36_500,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // SAFETY: reserves the prefix once the settings are defined.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(c"varve".as_ptr()) };
}

/// Whether `varve.debug_freeze = commit`.
pub fn debug_freeze_on_commit() -> bool {
    DEBUG_FREEZE.get() == DebugFreeze::Commit
}

/// `varve.freeze_memory` in bytes.
pub fn freeze_memory() -> usize {
    FREEZE_MEMORY.get() as usize * 1024
}

/// `varve.upsert_work_mem` in bytes.
pub fn upsert_memory() -> usize {
    UPSERT_WORK_MEM.get() as usize * 1024
}

/// `varve.upsert_merge_rows`
pub fn upsert_merge_rows() -> u64 {
    UPSERT_MERGE_ROWS.get() as u64
}

/// `varve.enable_columnar_aggregate`
pub fn columnar_aggregate() -> bool {
    COLUMNAR_AGGREGATE.get()
}

/// `varve.enable_columnar_scan`
pub fn columnar_scan() -> bool {
    COLUMNAR_SCAN.get()
}

/// `varve.backup_conninfo`
pub fn backup_conninfo() -> String {
    let given = BACKUP_CONNINFO.get();
    given.map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// `varve.backup_count_rows`
pub fn backup_count_rows() -> bool {
    BACKUP_COUNT_ROWS.get()
}

/// `varve.backup_checksums`
pub fn backup_checksums() -> bool {
    BACKUP_CHECKSUMS.get()
}

/// `varve.scratch_directory`; empty where it is not set.
pub fn scratch_directory() -> String {
    let given = SCRATCH_DIRECTORY.get();
    given.map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// `varve.max_workers`
pub fn max_workers() -> usize {
    MAX_WORKERS.get() as usize
}

/// `varve.job_history_days`
pub fn job_history_days() -> i32 {
    JOB_HISTORY_DAYS.get()
}

/// `varve.lock_timeout` in milliseconds.
pub fn lock_timeout_ms() -> i32 {
    LOCK_TIMEOUT.get()
}
