//! A small client of PostgreSQL's replication protocol, for base backups, and of its simple queries.
//!
//! It speaks over Unix sockets, and over TCP on loopback: there is no TLS. Calls block and ask the caller's
//! [`Tick`](crate::wait::Tick) while they wait; a thread of its own, which handles no signals, reads what the server sends.
//! Source: the PostgreSQL documentation, chapters "Frontend/Backend Protocol" and "Streaming Replication Protocol".

mod base_backup;
mod conninfo;
mod error;
mod login;
mod session;
mod wire;

pub use base_backup::{ArchiveEvent, BaseBackup, BaseBackupOptions, Tablespace};
pub use conninfo::{Address, ConnInfo};
pub use error::{ReplicationError, ServerError};
pub use session::{Identity, Row, Session};
