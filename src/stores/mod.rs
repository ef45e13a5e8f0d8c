//! Object stores as SQL knows them: servers of the foreign data wrapper `varve_store`, with credentials in user mappings.
//!
//! What a store is, and how it is spoken to, is in `varve_core::store`.
//!
//! - [`validator`]: the options of servers and user mappings.
//! - [`open`]: a store that the current user may use.
//! - [`check`] is `varve.check_store`.
//! - [`error`]: errors of stores as those of PostgreSQL.

mod check;
mod error;
mod open;
mod validator;

pub use error::raise;
pub use open::{all_usable, interrupts, is_trusted, of_role, open};
pub use validator::pairs;
