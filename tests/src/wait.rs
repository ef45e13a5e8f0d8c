//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

/// How long [`until`] waits before it gives up; generous, since machines that run tests are shared.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `condition` holds. Panics with `what` when it does not in two minutes.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "still waiting for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
