//! Backups, as SQL knows them. How they are taken and what lies where in a store is in `varve_core::backup`.
//!
//! - [`take`] is `varve.backup`; [`look`] are `list_backups` and `verify_backup`.
//! - [`checks`]: what a record says of tables, and counting them again.
//! - [`drill`] is `varve.recovery_drill`, [`drill_log`] writes down what came of them; [`plan`] `varve.recovery_plan`; [`choice`]: which backup they begin with.
//! - [`scratch`]: a restored server beside the running one.
//! - [`archive`]: the archive module; [`destination`]: where it archives to.
//! - [`copies`]: other stores are brought into step; [`expire`]: what is not kept is removed; [`scrub`]: all is read again.
//! - [`policy`] has all that done by jobs; [`status`]: what the stores have; [`turn`]: one after the other.
//! - [`keys`]: encryption; [`settings`].
//! - [`error`]: errors of backups as those of PostgreSQL.

mod archive;
mod checks;
pub mod choice;
mod copies;
pub mod destination;
mod drill;
pub mod drill_log;
mod error;
mod expire;
pub mod keys;
mod look;
mod plan;
mod policy;
pub mod scratch;
mod scrub;
pub mod settings;
mod status;
mod take;
mod turn;

pub use error::raise;
pub use take::store;
