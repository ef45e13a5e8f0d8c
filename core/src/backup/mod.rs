//! Base backups and WAL in object stores: taking, listing, verifying and restoring them. No running server is needed but for
//! taking; `docs/backup-format.md` says what lies where.
//!
//! A backup exists when its `backup.json` does, which is written last. Calls block and ask the caller's
//! [`Tick`](crate::wait::Tick) while they wait; their threads handle no signals. [`snapshot`]s of single tables lie beside them.

mod chain;
mod error;
mod keys;
mod list;
mod lsn;
mod manifest;
mod record;
mod restore;
mod seal;
pub mod snapshot;
mod take;
mod tar;
mod timeline;
mod timestamp;
mod verify;
mod wal;
mod wal_list;
mod wal_name;

pub use chain::{Target, chain_of, choose};
pub use error::BackupError;
pub use keys::{BACKUP_PREFIX, CLUSTER_KEY, WAL_PREFIX};
pub use list::{Listed, list, load, load_from_any, remove, sweep};
pub use lsn::Lsn;
pub use record::{Archive, Backup, BackupTablespace, Cluster, Kind, StoredObject};
pub use restore::{
    Recovery, Repaired, RestoreOptions, RestorePhase, RestoreProgress, Restored, TablespaceMove,
    combine_program, restore,
};
pub use seal::SealOptions;
pub use take::{Phase, TakeOptions, TakeProgress, claim, take, take_with_checks};
pub use timeline::TimelineHistory;
pub use timestamp::Timestamp;
pub use verify::{ObjectCheck, verify, verify_wal};
pub use wal::{Archived, WalSum, archive, fetch, fetch_from_any, system_identifier_of};
pub use wal_list::{WalFile, WalGap, WalReach, wal_list, wal_reach};
pub use wal_name::WalName;
