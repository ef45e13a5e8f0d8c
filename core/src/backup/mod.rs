//! Base backups and WAL in object stores: taking, listing, verifying and restoring them. No running server is needed but for
//! taking; `docs/backup-format.md` says what lies where.
//!
//! A backup exists when its `backup.json` does, which is written last. Calls block and ask the caller's
//! [`Tick`](crate::wait::Tick) while they wait; their threads handle no signals. [`snapshot`]s of single tables lie beside them.

mod chain;
mod clean_up;
mod copy;
mod error;
mod keys;
mod list;
mod lsn;
mod manifest;
mod parent;
mod record;
mod restore;
mod retain;
mod running;
mod seal;
mod signed;
pub mod snapshot;
mod state;
mod take;
mod tar;
mod timeline;
mod timestamp;
mod verify;
mod wal;
mod wal_list;
mod wal_name;

pub use chain::{Target, chain_of, choose, choose_along};
pub use copy::{Contents, Copied, CopyEvent, CopyFailure, CopyOptions, Lag, compare, copy};
pub use error::BackupError;
pub use keys::{BACKUP_PREFIX, CLUSTER_KEY, WAL_PREFIX};
pub use list::{Listed, list, load, load_from_any, remove, sweep};
pub use lsn::Lsn;
pub use record::{Archive, Backup, BackupTablespace, Cluster, Kind, StoredObject};
pub use restore::{
    Recovery, Repaired, RestoreOptions, RestorePhase, RestoreProgress, Restored, TablespaceMove,
    restore, server_program,
};
pub use retain::{ExpiredBackup, ExpiredWal, Expiry, Removed, Retention, expire, plan_expiry};
pub use seal::SealOptions;
pub use state::{StoreState, state};
pub use take::{Phase, TakeOptions, TakeProgress, claim, cluster_of, take, take_with_checks};
pub use timeline::{TimelineHistory, Timelines};
pub use timestamp::Timestamp;
pub use verify::{ObjectCheck, verify, verify_chain, verify_wal};
pub use wal::{Archived, WalSum, archive, fetch, fetch_from_any, system_identifier_of};
pub use wal_list::{WalFile, WalGap, WalReach, wal_list, wal_reach};
pub use wal_name::WalName;
