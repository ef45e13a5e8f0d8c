//! Cleaning up behind what has failed or was cancelled: for a moment only. What is left then is no backup either, and is swept
//! later.

use std::time::{Duration, Instant};

use crate::store::Store;
use crate::wait::Stopped;

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(3);

/// A tick that ends what takes longer.
pub(super) fn tick() -> impl Fn() -> Result<(), Stopped> {
    let end = Instant::now() + LIMIT;
    move || match Instant::now() < end {
        true => Ok(()),
        false => Err(Stopped::new("cleaning up takes too long")),
    }
}

/// Deletes objects, up to the first that cannot be.
pub(super) fn delete(store: &Store, keys: &[String]) {
    let tick = tick();
    for key in keys {
        if store.delete(key, &tick).is_err() {
            return;
        }
    }
}
