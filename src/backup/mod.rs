//! Backups, as SQL knows them. How they are taken and what lies where in a store is in `varve_core::backup`.
//!
//! - [`take`] is `varve.backup`; [`look`] are `list_backups` and `verify_backup`.
//! - [`checks`]: what a record says of tables, and counting them again; [`checksum`]: the aggregate for that.
//! - [`drill`] is `varve.recovery_drill`, [`plan`] `varve.recovery_plan`; [`choice`]: which backup they begin with.
//! - [`scratch`]: a restored server beside the running one.
//! - [`archive`]: the archive module; [`destination`]: where it archives to.
//! - [`error`]: errors of backups as those of PostgreSQL.

mod archive;
mod checks;
mod checksum;
mod choice;
pub mod destination;
mod drill;
mod error;
mod look;
mod plan;
pub mod scratch;
mod take;
