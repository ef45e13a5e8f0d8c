//! Snapshots of single tables: Parquet files in a store, and back. What lies where is in `varve_core::backup::snapshot`.
//!
//! - [`take`] is `varve.snapshot`; [`restore`] is `restore_snapshot`; [`chunk`] is `restore_chunk`; [`look`] lists and verifies.
//! - [`kept`]: how types are kept; [`outgo`], [`income`]: values out of rows and back.
//! - [`ddl`]: a table's definition; [`describe`] reads it off the catalogues, [`build`] makes the table, [`hypertable`] its chunks.
//! - [`incoming`]: rows as they come, [`source`] of a snapshot, [`copied`] of another server; [`load`]: rows into tables.
//! - [`session`]: settings that texts are written and read under; [`seal`]: to whom snapshots are encrypted.
//! - [`error`]: errors, turned into those of PostgreSQL.

mod build;
mod chunk;
mod copied;
mod ddl;
mod describe;
mod error;
mod hypertable;
mod income;
mod incoming;
mod kept;
mod load;
mod look;
mod outgo;
mod restore;
mod seal;
mod session;
mod source;
mod take;
