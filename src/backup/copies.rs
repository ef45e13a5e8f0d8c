//! `varve.copy_backups`: other stores are brought into step with the primary one.

use super::turn::{self, Turn};
use super::{error, keys, status, take};
use crate::pg::clock;
use crate::progress::{Operation, Phase, Work};
use crate::stores;
use pgrx::datum::Interval;
use pgrx::pg_sys;
use pgrx::prelude::*;
use varve_core::backup::{self, BackupError, Copied, CopyEvent, CopyOptions};
use varve_core::store::Store;

/// Copies to one store, and shows how far that is.
fn copy(from: &Store, to: &Store, options: &CopyOptions) -> Result<Copied, BackupError> {
    let mut work = Work::begin(Operation::Copy, pg_sys::InvalidOid);
    let lag = backup::compare(from, to, &stores::interrupts)?;
    work.phase(Phase::Files, lag.bytes);
    let mut each = |event: CopyEvent| {
        if let CopyEvent::Moved { bytes } = event {
            work.add(bytes);
        }
    };
    backup::copy(from, to, options, &mut each, &stores::interrupts)
}

/// What is told of what a copy has done.
fn told(copied: &Copied) -> Option<String> {
    let failed = copied
        .failed
        .iter()
        .map(|f| format!("{}: {}", f.key, f.reason));
    let text = failed.collect::<Vec<_>>().join("; ");
    Some(text).filter(|t| !t.is_empty())
}

type Row = (String, bool, i64, i64, Option<Interval>, Option<String>);

/// One row for each store that was copied to.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn copy_backups(
    source: Option<&core::ffi::CStr>,
    target: Option<&core::ffi::CStr>,
) -> TableIterator<
    'static,
    (
        name!(store, String),
        name!(ok, bool),
        name!(objects, i64),
        name!(bytes, i64),
        name!(elapsed, Option<Interval>),
        name!(detail, Option<String>),
    ),
> {
    crate::require_preload();
    crate::tier::check_writable(c"varve.copy_backups()");
    let name = |name: Option<&core::ffi::CStr>| name.map(|n| n.to_string_lossy().into_owned());
    let source = take::store_name(name(source));
    let from = stores::open(&source);
    let targets = match name(target) {
        Some(name) => {
            let store = stores::open(&name);
            if name == source {
                crate::am::error::raise(
                    PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                    format!("store \"{name}\" cannot be copied to itself"),
                    None,
                    Some("Name another target, or none for all others.".into()),
                );
            }
            vec![(name, Ok(store))]
        }
        None => stores::all_usable()
            .into_iter()
            .filter(|(name, _)| *name != source)
            .collect(),
    };
    let identities = keys::identities().unwrap_or_else(|e| error::raise(&e));
    turn::wait_for(Turn::Stores);
    let mut rows: Vec<Row> = Vec::new();
    for (name, store) in targets {
        let begin = clock::now();
        let options = CopyOptions {
            identities: identities.clone(),
            replace: status::damaged(&name).into_keys().collect(),
        };
        let copied = match store {
            Ok(store) => match copy(&from, &store, &options) {
                Err(e) if e.is_cancelled() => error::raise(&e),
                copied => copied.map_err(|e| e.to_string()),
            },
            Err(why) => Err(why),
        };
        let elapsed = Interval::new(0, 0, clock::now() - begin).ok();
        rows.push(match copied {
            Ok(copied) => {
                let (objects, bytes) = (copied.objects as i64, copied.bytes as i64);
                crate::jobs::note_done(objects, bytes);
                let ok = copied.failed.is_empty();
                status::forget_damaged(&name, &copied.replaced, ok);
                (name, ok, objects, bytes, elapsed, told(&copied))
            }
            Err(why) => (name, false, 0, 0, elapsed, Some(why)),
        });
    }
    TableIterator::new(rows)
}
