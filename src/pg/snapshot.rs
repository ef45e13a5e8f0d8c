//! Snapshots that are released on every way out.

use pgrx::pg_sys;
use std::cell::UnsafeCell;

thread_local! {
    /// Filled by the server, which allocates its lists once.
    static OWN: UnsafeCell<pg_sys::SnapshotData> = UnsafeCell::default();
}

/// A registered snapshot, unregistered when dropped.
pub struct Registered(pg_sys::Snapshot);

impl Registered {
    /// A fresh snapshot of what is committed now.
    pub fn latest() -> Self {
        // SAFETY: we are inside a transaction. GetLatestSnapshot refuses in parallel mode, where writes are impossible
        // and reading is safe; the snapshot of our own is filled in place and copied by its registration.
        unsafe {
            if !pg_sys::IsInParallelMode() {
                return Registered(pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()));
            }
            OWN.with(|own| {
                let taken = pg_sys::GetSnapshotData(own.get());
                Registered(pg_sys::RegisterSnapshot(taken))
            })
        }
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

/// Runs `f` with a snapshot as the active one.
pub fn with_active<T>(snapshot: &Registered, f: impl FnOnce() -> T) -> T {
    // SAFETY: a registered snapshot; popped here, or by the abort of the (sub)transaction after an error.
    unsafe {
        pg_sys::PushActiveSnapshot(snapshot.get());
        let result = f();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// The snapshot of a statement of ours, active until it is dropped.
pub struct Statement(());

impl Statement {
    /// Begins a statement: it sees what the transaction did before, and in READ COMMITTED what others have committed.
    pub fn begin() -> Self {
        // SAFETY: as SPI begins a command; popped by drop.
        unsafe {
            pg_sys::CommandCounterIncrement();
            push();
        }
        Statement(())
    }

    /// The snapshot.
    pub fn snapshot(&self) -> pg_sys::Snapshot {
        // SAFETY: pushed by us.
        unsafe { pg_sys::GetActiveSnapshot() }
    }

    /// Takes the snapshot anew.
    pub fn renew(&mut self) {
        // SAFETY: pops what we pushed.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommandCounterIncrement();
            push();
        }
    }
}

unsafe fn push() {
    // SAFETY: inside a transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::UpdateActiveSnapshotCommandId();
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // After an error the abort of the (sub)transaction pops it.
        if !std::thread::panicking() {
            // SAFETY: pushed by us.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
    }
}

/// Whether a snapshot decides by MVCC rules (and not `SnapshotAny`, dirty and the like).
pub fn is_mvcc(snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: a non-null snapshot is valid.
    !snapshot.is_null()
        && unsafe { (*snapshot).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC }
}

/// Whether a snapshot was taken while a standby replays WAL.
pub fn of_standby(snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: a valid snapshot.
    unsafe { (*snapshot).takenDuringRecovery }
}

/// A dirty snapshot, which sees what running transactions wrote and reports their ids.
pub fn dirty() -> pg_sys::SnapshotData {
    pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
        ..Default::default()
    }
}

/// Tells the user of a dirty snapshot that nobody is at work on the row that he gets, as heap's visibility check does.
pub fn settle_dirty(snapshot: pg_sys::Snapshot) {
    // SAFETY: a valid snapshot; a dirty one is its user's to be written.
    unsafe {
        if !snapshot.is_null() && (*snapshot).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_DIRTY
        {
            (*snapshot).xmin = pg_sys::InvalidTransactionId;
            (*snapshot).xmax = pg_sys::InvalidTransactionId;
            (*snapshot).speculativeToken = 0;
        }
    }
}
