//! Segments that outlive the storage that they were of, because a checkpoint (`varve.watch`) refers to them.
//!
//! Their table stays when its companion would be dropped, under a name that no companion has: file numbers are used again. It has no
//! tombstones; checkpoints remember which rows were dead. It goes when no checkpoint refers to it any more: with the last reference
//! where these are not many at once, and else with a later call, or when somebody looks what is due ([`sweep`]).

use super::companion::{self, Companion};
use super::directory::{self, SegmentRef};
use crate::change::watch;
use crate::pg::lock::{self, Tag};
use crate::pg::owner::as_owner;
use crate::pg::relation::OpenRel;
use crate::pg::spi;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

const PREFIX: &str = "kept_segments_";

/// What the lock is on that who lets go of segments holds.
const LETTING_GO: u16 = 2;

/// Tables that are let go of at once. Three locks on each are held to the end of the transaction, and the server has room for some
/// thousands of all sessions'.
pub const AT_ONCE: usize = 200;

/// Keeps the segments of a companion that is about to be dropped, if a checkpoint refers to them; tells whether it does. The caller
/// has locked their relation against everybody.
pub fn retain(segments: pg_sys::Oid) -> bool {
    // Who has just removed the last reference must have committed, or we would both leave it to the other.
    Tag::of_table(segments, LETTING_GO).acquire(pg_sys::ExclusiveLock);
    let wanted = watch::refers_to(segments);
    if wanted {
        let name = format!("{PREFIX}{}", segments.to_u32());
        companion::rename(&[(segments, name)]);
        // SAFETY: as between two commands.
        unsafe { pg_sys::CommandCounterIncrement() };
    }
    wanted
}

/// Whether a table holds segments that were kept.
fn is_retained(oid: pg_sys::Oid) -> bool {
    companion::class_of(oid).is_some_and(|form| {
        // SAFETY: a name ends with a NUL; a syscache look-up.
        let (name, schema) = unsafe {
            (
                CStr::from_ptr(form.relname.data.as_ptr()),
                pg_sys::get_namespace_oid(c"varve_data".as_ptr(), true),
            )
        };
        form.relnamespace == schema
            && name.to_bytes().starts_with(PREFIX.as_bytes())
            && companion::is_ours(oid)
    })
}

/// Drops those of these tables of segments that were kept and that no checkpoint refers to any more, [`AT_ONCE`] at most. References to
/// all of them have just been removed.
pub fn release(segments: impl IntoIterator<Item = pg_sys::Oid>) {
    let segments = segments.into_iter();
    let mut segments: Vec<pg_sys::Oid> =
        segments.filter(|oid| *oid != pg_sys::InvalidOid).collect();
    // Those first of which it is known that they were kept.
    segments.sort_by_cached_key(|oid| (!is_retained(*oid), oid.to_u32()));
    segments.dedup();
    segments.truncate(AT_ONCE);
    // In one order, so that nobody waits in a circle.
    segments.sort_unstable_by_key(|oid| oid.to_u32());
    for oid in segments {
        // Of two who let go of the same segments the second one sees that the first did, and so it is with who would keep them.
        Tag::of_table(oid, LETTING_GO).acquire(pg_sys::ExclusiveLock);
        drop_unless_wanted(oid);
    }
}

/// Drops tables of segments that were kept and that no checkpoint refers to any more, [`AT_ONCE`] at most; tells whether that was all.
/// What somebody else is letting go of is left to him.
pub fn sweep() -> bool {
    let found = as_owner(|| {
        spi::read_all(
            "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE c.relname OPERATOR(pg_catalog.>=) 'kept_segments_'::pg_catalog.name \
               AND c.relname OPERATOR(pg_catalog.<) 'kept_segments`'::pg_catalog.name \
               AND n.nspname OPERATOR(pg_catalog.=) 'varve_data' AND c.relkind OPERATOR(pg_catalog.=) 'r' \
               AND NOT EXISTS (SELECT FROM varve.checkpoint_chunk k WHERE k.segments OPERATOR(pg_catalog.=) c.oid) \
             ORDER BY c.oid LIMIT $1",
            &[(AT_ONCE as i64).into()],
            |row| row.get::<pg_sys::Oid>(1),
        )
    });
    let all = found.len() < AT_ONCE;
    for oid in found {
        pgrx::check_for_interrupts!();
        if Tag::of_table(oid, LETTING_GO).try_acquire(pg_sys::ExclusiveLock) {
            drop_unless_wanted(oid);
        }
    }
    all
}

/// Drops a table of segments if it was kept and no checkpoint refers to it. The caller has locked out who would change that.
fn drop_unless_wanted(oid: pg_sys::Oid) {
    lock::accept_messages();
    if is_retained(oid) && !watch::refers_to(oid) {
        companion::drop_table(oid);
    }
}

/// The segments in a table by their numbers, whatever has become of the relation that they were of; `None` where the table is gone.
/// Damage is an error (`data_corrupted`).
pub fn segments(
    oid: pg_sys::Oid,
    snapshot: pg_sys::Snapshot,
) -> Option<HashMap<i32, Rc<SegmentRef>>> {
    let table = OpenRel::try_open(oid, pg_sys::AccessShareLock)?;
    if !companion::holds_segments(oid) && !is_retained(oid) {
        return None;
    }
    let companion = Companion {
        segments: oid,
        tombstones: pg_sys::InvalidOid,
        generation: companion::fresh_number(),
        shape: companion::fresh_number(),
    };
    let found = directory::try_load(&companion, snapshot).unwrap_or_else(|damage| {
        super::error::corrupt(table.as_ptr(), damage.segment, &damage.detail)
    });
    Some(found.into_iter().map(|s| (s.number, s)).collect())
}
