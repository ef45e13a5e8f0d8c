//! Waiting for a condition, with a limit.

use postgres::Client;
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

/// Ends a segment of WAL, behind a restore point named `archived`, and waits until the server counts it as archived.
#[allow(clippy::expect_used)] // A test ends here as it would at its own unwrap.
pub fn archived(client: &mut Client) {
    // A segment in which nothing is written yet cannot be ended.
    let end = "SELECT pg_create_restore_point('archived')";
    client.execute(end, &[]).expect(end);
    let switch = "SELECT pg_walfile_name(pg_switch_wal())";
    let row = client.query_one(switch, &[]).expect(switch);
    let name: String = row.get(0);
    let is_there = "SELECT coalesce(last_archived_wal >= $1, false) FROM pg_stat_archiver";
    until("WAL to be archived", || {
        client.query_one(is_there, &[&name]).expect(is_there).get(0)
    });
}
