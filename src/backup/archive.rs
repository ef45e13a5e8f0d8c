//! The archive module: `archive_library = 'varve'` (PostgreSQL's documentation, "Archive Modules").
//!
//! A file counts as archived when the primary store has it, compressed, with its SHA-256. While the store is away WAL waits in `pg_wal`,
//! and the server tries again by itself.

use super::destination;
use crate::pg::{ffi, guard};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use varve_core::backup::{self, BackupError, WalName};
use varve_core::store::{Store, StoreConfig};
use varve_core::wait::Stopped;

/// A server that has just started finds its store within this time.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// `ArchiveModuleCallbacks` of `archive/archive_module.h`.
#[repr(C)]
pub struct Callbacks {
    startup: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    check_configured: Option<unsafe extern "C-unwind" fn(*mut c_void) -> bool>,
    archive_file:
        Option<unsafe extern "C-unwind" fn(*mut c_void, *const c_char, *const c_char) -> bool>,
    shutdown: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
}

static CALLBACKS: Callbacks = Callbacks {
    startup: Some(startup),
    check_configured: Some(check_configured),
    archive_file: Some(archive_file),
    shutdown: None,
};

/// The archiver asks for the callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn _PG_archive_module_init() -> &'static Callbacks {
    &CALLBACKS
}

/// The server shuts down: what is waited for may be left for the next start.
static STOPPING: AtomicBool = AtomicBool::new(false);
static mut PREVIOUS: pg_sys::pqsigfunc = None;

unsafe extern "C-unwind" fn on_stop(signal: c_int) {
    STOPPING.store(true, Ordering::Relaxed);
    // SAFETY: set before this handler was.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(signal);
        }
    }
}

unsafe extern "C-unwind" fn startup(_state: *mut c_void) {
    guard::entry(|| {
        // SAFETY: in the archiver, once; its own handler is called by ours.
        unsafe { PREVIOUS = pg_sys::pqsignal(libc::SIGUSR2, Some(on_stop)) };
    });
}

/// Ends a wait when the server shuts down: the file is archived after the next start.
fn tick() -> Result<(), Stopped> {
    pgrx::check_for_interrupts!();
    if STOPPING.load(Ordering::Relaxed) {
        return Err(Stopped::new("the server shuts down"));
    }
    Ok(())
}

struct Open {
    version: u64,
    store: Store,
    claimed: bool,
}

thread_local! {
    static OPEN: RefCell<Option<Open>> = const { RefCell::new(None) };
}

unsafe extern "C-unwind" fn check_configured(_state: *mut c_void) -> bool {
    guard::entry(|| {
        let begin = Instant::now();
        loop {
            if destination::current().options.is_some() {
                return true;
            }
            if begin.elapsed() > FIRST_LOOK || STOPPING.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // SAFETY: a text that the archiver frees with the memory context that is current now.
        unsafe {
            ffi::arch_module_check_errdetail_string = pg_sys::pstrdup(
                c"No database has a store whose role is primary and whose owner is a superuser, or varve.max_workers is 0."
                    .as_ptr(),
            );
        }
        false
    })
}

unsafe extern "C-unwind" fn archive_file(
    _state: *mut c_void,
    file: *const c_char,
    path: *const c_char,
) -> bool {
    guard::entry(|| {
        // SAFETY: names that the archiver passes.
        let (file, path) = unsafe {
            (
                CStr::from_ptr(file).to_string_lossy(),
                CStr::from_ptr(path).to_string_lossy(),
            )
        };
        match put(&file, Path::new(path.as_ref())) {
            Ok(()) => true,
            Err(e) => {
                let hint = e.hint().unwrap_or("It is tried again.").to_string();
                ereport!(
                    PgLogLevel::WARNING,
                    PgSqlErrorCode::ERRCODE_IO_ERROR,
                    format!("could not archive {file}: {e}"),
                    hint
                );
                false
            }
        }
    })
}

fn put(file: &str, path: &Path) -> Result<(), BackupError> {
    let name: WalName = file.parse().map_err(|_| BackupError::NotFound {
        what: format!("a file of WAL with the name {file}"),
    })?;
    OPEN.with_borrow_mut(|open| {
        let now = destination::current();
        if open.as_ref().is_none_or(|o| o.version != now.version) {
            *open = None;
        }
        let Some(options) = now.options else {
            return Err(BackupError::NotFound {
                what: "a primary store".into(),
            });
        };
        let open = match open {
            Some(open) => open,
            None => {
                let config = StoreConfig::from_options(crate::stores::pairs(&options))?;
                open.insert(Open {
                    version: now.version,
                    store: Store::open(&config)?,
                    claimed: false,
                })
            }
        };
        if !open.claimed {
            // SAFETY: read from the control file at start.
            backup::claim(&open.store, unsafe { pg_sys::GetSystemIdentifier() }, &tick)?;
            open.claimed = true;
        }
        backup::archive(&open.store, path, &name, &super::keys::seal()?, &tick)?;
        Ok(())
    })
}
