//! How the blocking calls of [`crate::store`] and [`crate::seal`] wait: work runs on threads that no signal reaches, and the
//! caller's thread asks its *tick* meanwhile whether to go on.

mod threads;
mod tick;

pub(crate) use threads::spawn;
#[cfg(feature = "store")]
pub(crate) use threads::without_signals;
pub(crate) use tick::{Outcome, receive};
pub use tick::{Stopped, TICK, Tick, never};
