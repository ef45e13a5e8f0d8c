//! Snapshots that are released on every way out.

use pgrx::pg_sys;

/// A registered snapshot, unregistered when dropped.
pub struct Registered(pg_sys::Snapshot);

impl Registered {
    /// A fresh snapshot of what is committed now (`GetLatestSnapshot`).
    pub fn latest() -> Self {
        // SAFETY: we are inside a transaction.
        Registered(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }

    /// Registers a snapshot that somebody else took.
    pub fn copy_of(snapshot: pg_sys::Snapshot) -> Self {
        // SAFETY: `snapshot` is a valid MVCC snapshot.
        Registered(unsafe { pg_sys::RegisterSnapshot(snapshot) })
    }

    /// The snapshot.
    pub fn get(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // After an error the resource owner releases it.
        if !std::thread::panicking() {
            // SAFETY: registered by us and not unregistered before.
            unsafe { pg_sys::UnregisterSnapshot(self.0) }
        }
    }
}

/// Whether a snapshot decides by MVCC rules (and not `SnapshotAny`, dirty and the like).
pub fn is_mvcc(snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: a non-null snapshot is valid.
    !snapshot.is_null()
        && unsafe { (*snapshot).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC }
}

/// A dirty snapshot, which sees what running transactions wrote and reports their ids.
pub fn dirty() -> pg_sys::SnapshotData {
    pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
        ..Default::default()
    }
}
