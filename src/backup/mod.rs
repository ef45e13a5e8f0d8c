//! Backups, as SQL knows them. How they are taken and what lies where in a store is in `varve_core::backup`.
//!
//! - [`take`] is `varve.backup`; [`look`] are `list_backups` and `verify_backup`.
//! - [`archive`]: the archive module; [`destination`]: where it archives to.
//! - [`error`]: errors of backups as those of PostgreSQL.

mod archive;
pub mod destination;
mod error;
mod look;
mod take;

pub use error::raise;
pub use take::store;
