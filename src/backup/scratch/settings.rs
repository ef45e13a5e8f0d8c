//! What a scratch server is told: as the running one where replay needs it, and otherwise to keep to itself.

use super::wal_feed::Feed;
use super::{PORT, Until, at};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use varve_core::backup::BackupError;

/// The most shared memory that a scratch server takes for buffers, in pages of 8 kB: it is a guest.
const MAX_BUFFERS: u64 = 256 << 7;

/// Settings that hot standby, and what replays WAL, want to be as the running server has them.
const SAME: [&CStr; 5] = [
    c"shared_preload_libraries",
    c"dynamic_library_path",
    c"wal_level",
    c"max_wal_size",
    c"timescaledb.license",
];

/// Settings that must not be lower than those of the server that wrote the WAL, or hot standby refuses or stops.
const NO_LOWER: [&CStr; 5] = [
    c"max_connections",
    c"max_worker_processes",
    c"max_wal_senders",
    c"max_prepared_transactions",
    c"max_locks_per_transaction",
];

/// Settings of every scratch server: nothing runs by itself, and nothing goes out.
const OWN: [(&str, &str); 20] = [
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("archive_mode", "off"),
    ("hot_standby", "on"),
    ("max_standby_archive_delay", "0"),
    ("primary_conninfo", ""),
    ("ssl", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("autovacuum", "off"),
    ("event_triggers", "off"),
    ("max_logical_replication_workers", "0"),
    ("sync_replication_slots", "off"),
    ("summarize_wal", "off"),
    ("synchronous_standby_names", ""),
    ("huge_pages", "off"),
    ("varve.max_workers", "0"),
    ("cron.launch_active_jobs", "off"),
    ("timescaledb.telemetry_level", "off"),
    ("timescaledb.max_background_workers", "0"),
];

/// Writes the files that the server is started with.
///
/// # Errors
/// What the system says.
pub fn write(dir: &Path, until: Until, later_timeline: Option<u32>) -> Result<(), BackupError> {
    let hba = dir.join("pg_hba.conf");
    fs::write(&hba, "local all all trust\n").map_err(at(&hba))?;
    let ident = dir.join("pg_ident.conf");
    fs::write(&ident, "").map_err(at(&ident))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut settings: Vec<(String, String)> = Vec::new();
    for name in SAME {
        if let Some(value) = setting(name) {
            settings.push((name.to_string_lossy().into_owned(), value));
        }
    }
    let then = settings_of_backup(dir)?;
    for name in NO_LOWER {
        let name_text = name.to_string_lossy().into_owned();
        let now = setting(name).and_then(|value| value.parse::<u64>().ok());
        let most = now.max(then.iter().find(|(n, _)| *n == name_text).map(|(_, v)| *v));
        settings.extend(most.map(|most| (name_text, most.to_string())));
    }
    for (name, value) in OWN {
        settings.push((name.to_owned(), value.to_owned()));
    }
    let buffers = setting(c"shared_buffers").and_then(|pages| pages.parse::<u64>().ok());
    let buffers = buffers.unwrap_or(MAX_BUFFERS).min(MAX_BUFFERS);
    let mut add = |name: &str, value: String| settings.push((name.to_owned(), value));
    add("shared_buffers", buffers.to_string());
    add("hba_file", text(&hba));
    add("ident_file", text(&ident));
    add("unix_socket_directories", socket_directory(dir));
    add("port", PORT.to_string());
    add("restore_command", Feed::command(dir));
    // The newest one that there is may lead on from before the backup, and what another server went on from is no help either:
    // all starts of the server follow one path.
    let timeline = later_timeline.map_or("current".to_owned(), |timeline| timeline.to_string());
    add("recovery_target_timeline", timeline);
    match until {
        Until::Consistent => {
            add("recovery_target", "immediate".into());
            add("recovery_target_action", "pause".into());
        }
        Until::PausedAt(lsn) => {
            add("recovery_target_lsn", lsn.to_string());
            add("recovery_target_inclusive", "off".into());
            add("recovery_target_action", "pause".into());
        }
        Until::Time(time) => {
            add("recovery_target_time", time.for_postgresql());
            add("recovery_target_action", "promote".into());
        }
        Until::End => {}
    }
    let mut file = String::new();
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        file.push_str(&format!("{name} = '{value}'\n"));
    }
    let path = dir.join("postgresql.conf");
    fs::write(&path, file).map_err(at(&path))
}

/// What the settings were when the backup was taken, by `pg_controldata`; WAL has the changes since then.
fn settings_of_backup(dir: &Path) -> Result<Vec<(String, u64)>, BackupError> {
    let program = bindir().join("pg_controldata");
    let output = Command::new(&program)
        .arg("-D")
        .arg(dir.join("data"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(at(&program))?;
    if !output.status.success() {
        return Err(BackupError::Program {
            program: program.display().to_string(),
            detail: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        // "max_worker_processes setting"
        let name = name.split_whitespace().next()?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    Ok(lines.collect())
}

/// A setting of the running server, as a file of settings takes it; none where there is no such setting.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: a NUL-terminated name; the value is copied before another call.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// A directory as a list of socket directories has it.
fn socket_directory(dir: &Path) -> String {
    format!("\"{}\"", dir.to_string_lossy().replace('"', "\"\""))
}

/// The running server's data directory.
pub fn data_directory() -> PathBuf {
    // SAFETY: set when the server started.
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

/// Where PostgreSQL's programs lie: beside the running one.
pub fn bindir() -> PathBuf {
    // SAFETY: an array that ends with a NUL, set when the server started.
    let path = unsafe { CStr::from_ptr((&raw const pg_sys::my_exec_path).cast()) };
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()));
    path.parent().map(Path::to_owned).unwrap_or_default()
}
