//! `varve.backup`: a base backup into a store.

use super::turn::{self, Turn};
use super::{checks, error, keys};
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::pg::transaction;
use crate::progress::{Operation, Phase, Work};
use crate::stores;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::CStr;
use std::path::Path;
use varve_core::backup::{self, Backup, Kind, TakeOptions, TakeProgress};
use varve_core::replication::ConnInfo;
use varve_core::store::{Role, Store};

/// The store that is named, or the only one whose role is `primary`.
pub fn store(name: Option<String>) -> Store {
    stores::open(&store_name(name))
}

/// The name that is given, or that of the only store whose role is `primary`.
pub fn store_name(name: Option<String>) -> String {
    if let Some(name) = name {
        return name;
    }
    let primary: Vec<String> = stores::of_role(Role::Primary);
    match primary.as_slice() {
        [name] => name.clone(),
        [] => raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "there is no primary store".into(),
            None,
            Some("CREATE SERVER ... FOREIGN DATA WRAPPER varve_store OPTIONS (url '...', role 'primary') makes one; GRANT USAGE on it lets others use it.".into()),
        ),
        several => raise(
            PgSqlErrorCode::ERRCODE_AMBIGUOUS_PARAMETER,
            "there are several primary stores".into(),
            Some(several.join(", ")),
            Some("Name one: varve.backup(kind, store => '...').".into()),
        ),
    }
}

/// How this server is reached from itself: by `varve.backup_conninfo`, else through its first Unix socket, as the role that
/// is named like the user who runs the server.
fn this_server() -> ConnInfo {
    let given = crate::settings::backup_conninfo();
    if !given.is_empty() {
        return ConnInfo::parse(&given)
            .unwrap_or_else(|e| error::raise(&backup::BackupError::from(e)));
    }
    // SAFETY: a setting of the server, and the name of the user who runs it, copied before another call.
    let (sockets, port, user) = unsafe {
        let sockets = CStr::from_ptr(pg_sys::Unix_socket_directories)
            .to_string_lossy()
            .into_owned();
        let user = libc::getpwuid(libc::geteuid());
        let user = (!user.is_null()).then(|| {
            CStr::from_ptr((*user).pw_name)
                .to_string_lossy()
                .into_owned()
        });
        (sockets, pg_sys::PostPortNumber, user)
    };
    let socket = sockets
        .split(',')
        .map(|s| s.trim().trim_matches('"'))
        .find(|s| !s.is_empty());
    match (socket, user) {
        (Some(socket), Some(user)) => {
            ConnInfo::socket(Path::new(socket), port.clamp(0, 65_535) as u16, &user)
        }
        _ => raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the server has no Unix socket to take a backup through".into(),
            None,
            Some(
                "Set varve.backup_conninfo, say to 'host=127.0.0.1 port=5432 user=postgres'."
                    .into(),
            ),
        ),
    }
}

/// Whether WAL is archived.
pub fn archiving() -> bool {
    // SAFETY: a setting of the server.
    unsafe { pg_sys::XLogArchiveMode != 0 }
}

/// The name of the role that a cluster is made with, a superuser.
pub fn superuser() -> String {
    let role = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);
    // SAFETY: a look-up of a role; the name is copied at once.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        match name.is_null() {
            true => String::new(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

/// Shows how far a backup is.
struct Shown {
    work: Work,
    phase: Option<backup::Phase>,
    bytes: u64,
}

impl Shown {
    fn tell(&mut self, progress: &TakeProgress) {
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            self.bytes = 0;
            let phase = match progress.phase {
                backup::Phase::Preparing => Phase::Preparing,
                backup::Phase::Checkpoint => Phase::Checkpoint,
                backup::Phase::Files => Phase::Files,
                backup::Phase::Finishing => Phase::Finishing,
            };
            self.work.phase(phase, progress.estimated.unwrap_or(0));
        }
        self.work.add(progress.bytes.saturating_sub(self.bytes));
        self.bytes = progress.bytes.max(self.bytes);
    }

    /// So many of so many tables are counted.
    fn count(&mut self, done: u64, all: u64) {
        if done == 0 {
            self.work.phase(Phase::Counting, all);
        }
        self.work.reach(done);
    }
}

/// The store and the options that the arguments kind, label and store ask for.
fn asked(args: &Args) -> (Store, TakeOptions) {
    crate::tier::check_writable(c"varve.backup()");
    let kind = args
        .get::<String>(0)
        .unwrap_or_else(|| null_argument("the kind of backup"));
    let kind: Kind = kind.parse().unwrap_or_else(|why| {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unknown kind of backup: {why}"),
            None,
            Some("varve.backup('full'), ('differential') or ('incremental').".into()),
        )
    });
    let store = store(args.name(2));
    let mut options = TakeOptions::new(kind);
    if let Some(label) = args.get::<String>(1) {
        options.label = label;
    }
    let keys = keys::seal().and_then(|seal| Ok((seal, keys::identities()?)));
    (options.seal, options.identities) = keys.unwrap_or_else(|e| error::raise(&e));
    // Where WAL is not archived, nothing else would have what the backup needs.
    options.include_wal = !archiving();
    (store, options)
}

/// Takes a backup.
fn take(store: &Store, options: &TakeOptions) -> Backup {
    let shown = RefCell::new(Shown {
        work: Work::begin(Operation::Backup, pg_sys::InvalidOid),
        phase: None,
        bytes: 0,
    });
    let taken = backup::take_with_checks(
        store,
        &this_server(),
        options,
        &mut |progress| shown.borrow_mut().tell(progress),
        &mut |backup| {
            Ok(checks::take(backup, &mut |done, all| {
                shown.borrow_mut().count(done, all)
            }))
        },
        &stores::interrupts,
    );
    match taken {
        Ok(backup) => {
            crate::jobs::note_done(0, backup.stored_bytes() as i64);
            backup
        }
        Err(e) => error::raise(&e),
    }
}

fn function(args: &Args) -> pg_sys::Datum {
    let (store, options) = asked(args);
    let backup = take(&store, &options);
    backup.id.into_datum().unwrap_or_else(|| args.null())
}

/// Takes a backup after all others that are taken so, in a transaction without a snapshot: VACUUM is not held up for as long
/// as it takes. So it is a procedure, and ends the transaction that it is called in.
fn procedure(args: &Args) -> pg_sys::Datum {
    let (store, options) = asked(args);
    let waits = args.get::<bool>(3).unwrap_or(true);
    transaction::begin_anew(args);
    if waits {
        turn::wait_for(Turn::Backup);
    } else if !turn::try_for(Turn::Backup) {
        notice!("another backup is being taken: none is taken now");
        return args.null();
    }
    transaction::release_snapshot();
    take(&store, &options);
    args.null()
}

crate::sql_function!(varve_backup, pg_finfo_varve_backup, function);
crate::sql_function!(varve_take_backup, pg_finfo_varve_take_backup, procedure);
