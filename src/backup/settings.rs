//! Settings of backups.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::{CStr, CString};

static RECIPIENTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static IDENTITY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static BACKUP_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(25 * 3600);
static WAL_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(15 * 60);
static DRILL_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(35 * 24 * 3600);

const RECIPIENTS_SHORT: &CStr =
    c"Public keys of age (age1...), separated by commas, that backups and archived WAL are encrypted to.";
const RECIPIENTS_LONG: &CStr =
    c"Empty: they are not encrypted. Who has the secret of one of the keys can decrypt; the server need not.";
const IDENTITY_FILE_SHORT: &CStr =
    c"A file with the secret key of age that backups are encrypted to.";
const IDENTITY_FILE_LONG: &CStr =
    c"For what reads encrypted backups: differential and incremental backups, verification of WAL, drills. Empty: the variable VARVE_AGE_IDENTITY of the server's environment, if it is set.";
const BACKUP_MAX_AGE_SHORT: &CStr =
    c"Age of the newest good backup from which on the log warns, and varve.recovery_status does.";
const WAL_MAX_AGE_SHORT: &CStr =
    c"Age of WAL that is not archived from which on the log warns, and varve.recovery_status does.";
const DRILL_MAX_AGE_SHORT: &CStr =
    c"Age of the last recovery drill from which on the log warns, and varve.recovery_status does.";
const MAX_AGE_LONG: &CStr = c"0: never.";

/// Registers them.
pub fn register() {
    GucRegistry::define_string_guc(
        c"varve.backup_recipients",
        RECIPIENTS_SHORT,
        RECIPIENTS_LONG,
        &RECIPIENTS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"varve.backup_identity_file",
        IDENTITY_FILE_SHORT,
        IDENTITY_FILE_LONG,
        &IDENTITY_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    let ages = [
        (
            c"varve.backup_max_age",
            BACKUP_MAX_AGE_SHORT,
            &BACKUP_MAX_AGE,
        ),
        (c"varve.wal_max_age", WAL_MAX_AGE_SHORT, &WAL_MAX_AGE),
        (c"varve.drill_max_age", DRILL_MAX_AGE_SHORT, &DRILL_MAX_AGE),
    ];
    for (name, short, setting) in ages {
        GucRegistry::define_int_guc(
            name,
            short,
            MAX_AGE_LONG,
            setting,
            0,
            i32::MAX,
            GucContext::Sighup,
            GucFlags::UNIT_S,
        );
    }
}

fn text(setting: &'static GucSetting<Option<CString>>) -> String {
    let given = setting.get();
    given.map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// `varve.backup_recipients`
pub fn recipients() -> String {
    text(&RECIPIENTS)
}

/// `varve.backup_identity_file`
pub fn identity_file() -> String {
    text(&IDENTITY_FILE)
}
