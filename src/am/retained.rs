//! Segments that outlive the storage that they were of, because a checkpoint (`varve.watch`) refers to them.
//!
//! Their table stays when its companion would be dropped, under a name that no companion has: file numbers are used again. It has no
//! tombstones; checkpoints remember which rows were dead. It goes when no checkpoint refers to it any more.

use super::companion::{self, Companion};
use super::directory::{self, SegmentRef};
use crate::change::watch;
use crate::pg::lock::{self, Tag};
use crate::pg::relation::OpenRel;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

const PREFIX: &str = "kept_segments_";

/// What the lock is on that who lets go of segments holds.
const LETTING_GO: u16 = 2;

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

/// Drops those of these tables of segments that were kept and that no checkpoint refers to any more. References to all of them have
/// just been removed.
pub fn release(segments: impl IntoIterator<Item = pg_sys::Oid>) {
    let segments = segments.into_iter();
    let mut segments: Vec<pg_sys::Oid> =
        segments.filter(|oid| *oid != pg_sys::InvalidOid).collect();
    // In one order, so that nobody waits in a circle.
    segments.sort_unstable_by_key(|oid| oid.to_u32());
    segments.dedup();
    for oid in segments {
        // Of two who let go of the same segments the second one sees that the first did, and so it is with who would keep them.
        Tag::of_table(oid, LETTING_GO).acquire(pg_sys::ExclusiveLock);
        lock::accept_messages();
        if is_retained(oid) && !watch::refers_to(oid) {
            companion::drop_table(oid);
        }
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
