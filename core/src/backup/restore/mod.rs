//! Restoring a backup, or a chain of them, into a new data directory.
//!
//! All is done in the directory `varve_restore` within the data directory, and moved up at the end: what is half restored
//! cannot be started. A restore that was interrupted leaves that directory; the next one with the same arguments cleans it up
//! and begins again, or, where only the moving up was left, ends it.

mod blocks;
mod buffers;
mod combine;
mod fetch;
mod filling;
mod hash;
mod incremental;
mod label;
mod place;
mod programs;
mod recovery;
mod run;
mod sync;
mod unpack;
mod write;

use std::path::PathBuf;

use crate::seal::Identities;

pub(crate) use incremental::{BLOCK, MAX_SEGMENT};
pub use programs::server_program;
pub use recovery::Recovery;
pub use run::restore;

/// Where a tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMove {
    /// Where it lay, or its oid.
    pub from: String,
    /// Where it shall lie: a whole path.
    pub to: PathBuf,
}

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The new data directory: empty, or not there yet.
    pub pgdata: PathBuf,
    /// Tablespaces that shall lie elsewhere than they did.
    pub tablespaces: Vec<TablespaceMove>,
    /// Threads that fetch and decompress.
    pub threads: usize,
    /// How the server recovers when it is started.
    pub recovery: Recovery,
    /// Who can decrypt.
    pub identities: Option<Identities>,
}

/// What a restore is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePhase {
    /// Files are fetched and unpacked.
    Files,
    /// What was written is made to reach the disk.
    Syncing,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreProgress {
    /// What it is at.
    pub phase: RestorePhase,
    /// Bytes of archives that were unpacked.
    pub bytes: u64,
    /// Bytes of all archives.
    pub total: u64,
}

/// An object that was damaged or missing in a store, and was had from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The store's URL.
    pub store: String,
    /// The object.
    pub key: String,
    /// What was wrong with it.
    pub detail: String,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The ids of the backups, the full one first.
    pub chain: Vec<String>,
    /// Bytes of archives that were unpacked; none where an interrupted restore had only to be finished.
    pub bytes: u64,
    /// What came from another store than the first.
    pub repaired: Vec<Repaired>,
    /// Whether an interrupted restore was gone on with.
    pub resumed: bool,
}
